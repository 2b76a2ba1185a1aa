import copy
import gc
import logging
import pickle
import sys
import threading
import weakref
from pathlib import Path

import dyadic
import numpy as np
import onnx
import onnxruntime
import pytest
import stock
from gpu import needs_cuda
from onnx_text import model

from onnx2snn import (
    DataError,
    EarlyExit,
    ModelError,
    Onnx2SnnError,
    ProviderError,
    SpikingSession,
    convert,
    from_arrays,
    write_model,
)
from onnx2snn.ann import Ann
from onnx2snn.graph_passes.model_files.weights import ModelParts, detach, stub
from onnx2snn.runtime import providers, sessions
from onnx2snn.runtime.apart import why_not_apart
from onnx2snn.runtime.result import Later

TEXT = (
    "net (float[N, 3] x) => (float[N, 2] y) "
    "{ a = Mul(x, two) b = Clip(a, zero, one) y = Gemm(b, w, c) }"
)
WEIGHTS = {
    "two": np.float32(2), "zero": np.float32(0), "one": np.float32(1),
    "w": np.array([[1, 2], [3, 4], [5, 6]], np.float32), "c": np.array([0.5, -1], np.float32),
}  # fmt: skip
CLIP = "net (float[N, 3] x) => (float[N, 3] y) { y = Clip(x, zero, one) }"
X = np.array([[0.125, 0.25, 0.5], [0.0, -1.0, 0.375]], np.float32)


def snn():
    return convert(model(TEXT, WEIGHTS)).model


def test_from_path_proto_and_parts(tmp_path):
    write_model(snn(), tmp_path / "snn.onnx")
    wanted = SpikingSession(snn()).run(X, 8).output
    parts = convert(model(TEXT, WEIGHTS)).parts
    for given in (tmp_path / "snn.onnx", str(tmp_path / "snn.onnx"), parts):
        np.testing.assert_array_equal(SpikingSession(given).run(X, 8).output, wanted)


def test_output_is_the_mean():
    result = SpikingSession(snn()).run(X, 8)
    assert result.output.dtype == np.float32
    # Rates: 2 x, clipped to [0, 1]; multiples of 1/8 are reached exactly.
    rates = np.clip(2 * X, 0, 1)
    np.testing.assert_array_equal(result.spike_counts["b"], 8 * rates)
    np.testing.assert_array_equal(result.output, rates @ WEIGHTS["w"] + WEIGHTS["c"])
    assert result.firing_rates == {"b": pytest.approx(rates.mean())}
    assert result.firing_rate == pytest.approx(rates.mean())


@pytest.mark.parametrize("threads", [2, None])
def test_several_threads_count_as_one_does(threads):
    network = dyadic.finish(1)
    snn, x = convert(dyadic.to_onnx(network)).model, dyadic.images(network, 9)
    wanted, found = (SpikingSession(snn, threads=n).run(x, 35) for n in (1, threads))
    np.testing.assert_array_equal(found.output, wanted.output)
    for name, counts in wanted.spike_counts.items():
        np.testing.assert_array_equal(found.spike_counts[name], counts)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:, :2], r"shape \[2, 2\], the network needs \[\*, 3\]"),
        (X[0], "shape"),
        (X[:0], "empty"),
        (X.astype(np.int64), "type int64"),
        (X > 0, "type bool"),
        (X.astype(complex), "type complex128"),
        (np.array([["a", "b", "c"]]), "type <U1"),
        (np.where(X > 0, np.nan, X), "NaN"),
        (np.where(X > 0, np.inf, X), "infinity"),
        (np.stack([X, np.full_like(X, np.nan)]), "NaN"),
        (np.stack([X] * 3), "3 time-steps on its first axis, not 2"),
        (np.zeros((2, 0, 3), np.float32), "empty"),
        (np.zeros((0, 2, 3), np.float32), "shape|empty|time-steps"),
        ([[1.0, 2.0], [3.0]], "x is no array"),
        ({"x": [[1.0, 2.0], [3.0]]}, "x is no array"),
        ({1: X}, "has the inputs x; given were 1"),
        (None, "x is no array, but of the type NoneType"),
        ("images.npz", "x is a path, and no array: np.load reads"),
        ({"x": Path("images.npy")}, "x is a path"),
        (iter(X), "x is no array, but of the type "),
        (np.ma.array(X, mask=X > 0), r"x has masked numbers: fill them in, as by .filled\(0\)"),
    ],
)
def test_inputs_that_do_not_fit(x, message):
    with pytest.raises(DataError, match=message):
        SpikingSession(snn()).run(x, 2)


class Tensor:
    """As one of torch that has a gradient."""

    def __array__(self, *_, **__):
        raise RuntimeError("use tensor.detach().numpy() instead")


def test_each_way_to_run_refuses_what_is_no_array():
    session = SpikingSession(snn())
    for call in (lambda x: session.run(x, 4), session.step, session.chosen):
        for x, message in (
            ([[1.0], [2.0, 3.0]], "x is no array"),
            (Tensor(), r"x is no array: use tensor\.detach"),
            ({1: X}, "given were 1"),
        ):
            with pytest.raises(DataError, match=message):
                call(x)


def test_other_floating_types_are_cast():
    session = SpikingSession(snn())
    wanted = session.run(X, 4).output
    np.testing.assert_array_equal(session.run(X.astype(np.float64), 4).output, wanted)
    np.testing.assert_array_equal(session.run(np.asfortranarray(X), 4).output, wanted)
    np.testing.assert_array_equal(session.run(X.astype(">f4"), 4).output, wanted)


def test_integers_of_another_byte_order():
    text = "net (int64[N, 2] x) => (float[N, 2] y) { c = Cast<to = 1>(x) y = Clip(c, zero, one) }"
    ann = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    session, x = SpikingSession(convert(ann).model), np.array([[0, 1]])
    np.testing.assert_array_equal(session.run(x.astype(">i8"), 4).output, x)
    with pytest.raises(DataError, match="has type int32"):
        session.run(x.astype(np.int32), 4)


@pytest.mark.parametrize("timesteps", [0, -1, 1.5, "8", True, None])
def test_timesteps_are_positive_integers(timesteps):
    with pytest.raises(DataError, match="a time-step must be a whole number from 1 to 2147483647"):
        SpikingSession(snn()).run(X, timesteps)


@pytest.mark.parametrize("readout", [[0], [9], [-1], [1.0]])
def test_readouts_lie_within_the_run(readout):
    with pytest.raises(DataError, match=r"whole number from 1 to|cannot read out"):
        SpikingSession(snn()).run(X, 8, readout)


def test_arguments_that_are_none():
    session = SpikingSession(snn())
    for readout in (4, np.array(4)):
        with pytest.raises(DataError, match=r"readout takes a list of time-steps, as \[8, 16\]"):
            session.run(X, 8, readout)
    for readouts in (0, -5, 1.5, True, "a"):
        with pytest.raises(DataError, match="readouts must be a whole number, 1 or more"):
            session.chosen(X, readouts=readouts)
    for most in (True, 0, np.inf):
        with pytest.raises(DataError, match="a number of bytes"):
            SpikingSession(snn(), max_memory=most)


def test_inputs_of_different_numbers_of_samples():
    two = model(
        "net (float[N, 2] a, float[N, 2] b) => (float[N, 2] y) "
        "{ s = Add(a, b) r = Clip(s, zero, one) y = Neg(r) }",
        {"zero": np.float32(0), "one": np.float32(1)},
    )
    session = SpikingSession(convert(two).model)
    x = np.full((3, 2), 0.25, np.float32)
    with pytest.raises(DataError, match=r"'N' is 2 in the input b of shape \[2, 2\], but 3 in a"):
        session.run({"a": x, "b": x[:2]}, 4)
    output = session.run({"a": x, "b": x[:1]}, 4).output
    np.testing.assert_array_equal(output, session.run({"a": x, "b": x}, 4).output)
    # Other sizes may have one name, or none.
    for size in ("S", ""):
        image = model(CLIP.replace("[N, 3]", "[N, H, W]"), WEIGHTS)
        for dimension in image.graph.input[0].type.tensor_type.shape.dim[1:]:
            dimension.dim_param = size
        SpikingSession(convert(image).model).run(np.ones((2, 3, 4), np.float32), 2)
    varying = np.stack([x[:2]] * 4)
    with pytest.raises(DataError, match="'N' is 2 in the input b"):
        session.run({"a": x, "b": varying}, 4)


@pytest.mark.parametrize("budget", [None, 2**30])
def test_an_input_that_holds_for_all_samples_says_nothing_of_how_many(budget):
    """Also where it is prepared by itself, before the first neurons."""
    text = (
        "net (float[N, 2] x, float[5, 1] few, float[2] factor) => (float[N, 2] y) "
        "{ m = ReduceSum<keepdims = 0>(few) d = Mul(factor, m) a = Mul(x, d) "
        "b = Clip(a, zero, one) y = Mul(b, factor) }"
    )
    ann = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    session = SpikingSession(convert(ann).model, max_memory=budget)
    few, factor = np.full((5, 1), 0.2, np.float32), np.ones(2, np.float32)
    inputs = {"x": X[:1, :2], "few": few, "factor": factor}
    result = session.run(inputs, 8)
    assert result.samples == session.chosen(inputs).samples == len(result.sample_timesteps) == 1
    np.testing.assert_array_equal(result.output, X[:1, :2])
    with pytest.raises(DataError, match=r"a row for each sample, .*: 'few' is \[5, 1\]"):
        session.run(inputs, 8, early_exit=EarlyExit())


def test_numpy_integers_are_integers():
    result = SpikingSession(snn()).run(X, np.int64(4), np.array([2]))
    assert sorted(result.outputs) == [2, 4]


def test_indices_are_no_probabilities():
    """With Poisson coding they stay as they are."""
    text = "net (float[N, 3] x, int64[N, 2] k) => (float[N, 3] y) { e = Gather(t, k) "
    text += "s = ReduceMean<axes = [1], keepdims = 0>(e) a = Add(s, x) y = Clip(a, zero, one) }"
    values = {"t": np.eye(7, 3, dtype=np.float32), "zero": np.float32(0), "one": np.float32(1)}
    session = SpikingSession(convert(model(text, values)).model)
    given = {"x": np.zeros((2, 3), np.float32), "k": np.array([[0, 6], [1, 1]])}
    found = session.run(given, 8, coding="poisson").output
    np.testing.assert_array_equal(found, session.run(given, 8).output)
    text = "net (uint8[N, 3] k) => (float[N, 3] y) { x = Cast<to = 1>(k) y = Clip(x, zero, one) }"
    session = SpikingSession(convert(model(text, values)).model)
    with pytest.raises(DataError, match="needs an input of floats"):
        session.run(np.zeros((2, 3), np.uint8), 8, coding="poisson")


def test_results_are_compared_by_identity():
    """Of arrays there is no one answer."""
    session = SpikingSession(snn())
    first, second = session.run(X, 4), session.run(X, 4)
    assert first == first
    assert first != second
    assert len({first, second, *first.readouts.values(), *first.readouts[4].neurons}) == 4


def test_poisson_coding():
    session = SpikingSession(snn())
    x = np.abs(X) / 2
    a, b = (
        session.run(x, 400, coding="poisson", seed=1),
        session.run(x, 400, coding="poisson", seed=1),
    )
    np.testing.assert_array_equal(a.output, b.output)
    other = session.run(x, 400, coding="poisson", seed=2)
    assert np.any(a.output != other.output)
    # A spike at the input is 2 after the Mul, and 1 at most leaves the neuron each step.
    assert a.firing_rates["b"] == pytest.approx(np.minimum(2 * x, 1).mean(), abs=0.05)
    with pytest.raises(DataError, match=r"inputs in \[0, 1\], .* those of 'x' lie in \[-1, 0.5\]"):
        session.run(X, 4, coding="poisson")
    with pytest.raises(DataError, match="coding must be"):
        session.run(x, 4, coding="rate")
    for seed in (-1, 1.5, True):
        with pytest.raises(DataError, match="seed must be a whole number, 0 or more"):
            session.run(x, 4, coding="poisson", seed=seed)


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_what_has_no_axes_keeps_none(plan):
    text = (
        "net (float[N, 2] x, float s) => (float[N, 2] y, float z) "
        "{ y = Clip(x, zero, one) z = Neg(s) }"
    )
    ann = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    x = {"x": np.full((3, 2), 0.5, np.float32), "s": np.array(0.25, np.float32)}
    session = SpikingSession(convert(ann).model, threads=1, plan=plan)
    for outputs in (
        Ann(detach(ann)).run(x),
        session.run(x, 21).values,
        session.step(x),
        session.step(x),
    ):
        assert outputs["z"].shape == ()
        assert outputs["z"] == -0.25


@pytest.mark.parametrize("use", [sessions.OFTEN, sessions.ONCE, sessions.Use(lean=True)])
def test_a_weight_without_axes(use):
    held = {"w": np.array(3, np.float32)}
    text = "net (float x) => (float y) { y = Mul(x, w) }"
    parts = ModelParts(model(text, held), held)
    (weight,) = parts.structure.graph.initializer
    weight.CopyFrom(stub("w", weight.data_type, ()))
    session = sessions.create_session(parts, [providers.CPU], 1, use)
    (y,) = sessions.run_session(session, None, {"x": np.array(2, np.float32)})
    assert y.shape == ()
    assert y == 6


def test_inputs_beyond_the_type_of_the_network():
    with pytest.raises(DataError, match=r"x, as the float32 that the network needs, holds NaN or"):
        SpikingSession(snn()).run(np.full(X.shape, 1e300), 4)
    with pytest.raises(DataError, match=r"^x holds NaN or infinity"):
        SpikingSession(snn()).run(np.full(X.shape, np.inf), 4)


def test_what_is_not_finite_is_no_output():
    """Of a time-step neither, which is not counted."""
    session = SpikingSession(
        convert(model(TEXT, WEIGHTS | {"w": np.full((3, 2), 3e38, np.float32)})).model
    )
    for say in (lambda: session.run(X + 1, 1), lambda: session.step(X + 1)):
        with pytest.raises(DataError, match="the network's output 'y' holds NaN or infinity"):
            say()
    np.testing.assert_array_equal(session.state["v/b"], [[0.5]])


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_nan_before_the_neurons(plan):
    """However many time-steps are one run: of a threshold for each channel NaN is no spike."""
    text = (
        "net (float[N, 3] x) => (float[N, 2] y) "
        "{ a = Sqrt(x) r = Relu(a) b = Min(r, each) y = Gemm(b, w, c) }"
    )
    snn = convert(model(text, WEIGHTS | {"each": np.float32([0.5, 1, 2])})).model
    session = SpikingSession(snn, plan=plan)
    over_time = np.stack([np.abs(X), X])
    for say in (
        lambda: session.run(X, 2),
        lambda: session.run(X, 20),
        lambda: session.run(over_time, 2),
        lambda: session.step(X),
    ):
        with pytest.raises(DataError, match=r"'a'.* before any neuron, holds NaN, .* \[1, 1\]"):
            say()


def test_samples_are_apart_in_a_session_that_begins_anew():
    """As it does for inputs so large that it has to count the spikes of a layer."""
    text = (
        "net (float[N, 3] x) => (float[N, 2] y) "
        "{ b = Clip(x, zero, one) a = Gemm(b, v) d = Clip(a, zero, one) y = Gemm(d, w, c) }"
    )
    session = SpikingSession(convert(model(text, WEIGHTS | {"v": np.eye(3, dtype="f")})).model)
    before = session._progress
    assert why_not_apart(session, {"x": X * 2**20}) is None
    assert session._progress is not before


@pytest.mark.parametrize("given", [3, [None], [()], [("CPUExecutionProvider", "fast")]])
def test_what_is_no_provider(given):
    with pytest.raises(ProviderError, match="a provider is a name, or a pair"):
        SpikingSession(snn(), given)


def test_state():
    session = SpikingSession(snn())
    np.testing.assert_array_equal(session.state["v/b"], [[0.5]])
    session.step(X)
    assert session.state["v/b"].shape == (2, 3)
    for unknown in ({"v/none": np.zeros((2, 3))}, {1: X, "a": X}):
        with pytest.raises(DataError, match="no state"):
            session.state = unknown
    texts, beyond = np.array([["a"] * 3] * 2), np.full((2, 3), 1e300)
    for bad in (np.zeros((3, 3)), np.zeros(3), np.full((2, 3), np.nan), beyond, texts):
        with pytest.raises(DataError, match="the state 'v/b'"):
            session.state = {"v/b": bad}
    with pytest.raises(DataError, match=r"call reset\(\)"):
        session.step(X[:1])
    session.reset()
    for bad, message in ((np.zeros((0, 3)), r"is empty: \[0, 3\]"), ([[1], [2, 3]], "is no array")):
        with pytest.raises(DataError, match=f"the state 'v/b' {message}"):
            session.state = {"v/b": bad}
    assert session.step(X[:1]).shape == (1, 2)


def test_a_state_for_another_batch_size_is_refused_at_the_step():
    session = SpikingSession(snn())
    for samples in (5, 1):
        session.state = {"v/b": np.zeros((5, 3), np.float32)}
        with pytest.raises(DataError, match="another shape than the state"):
            session.step(X[:samples] if samples == 1 else X)
    session.reset()
    session.step(X)
    with pytest.raises(DataError, match="another number of samples, call reset"):
        session.state = {"v/b": np.zeros((1, 3), np.float32)}
    session.reset()
    with pytest.raises(DataError, match=r"has shape \[2\] for a sample, its layer \[3\]"):
        session.state = {"v/b": np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("recipe", ["opi", "signed"])
def test_a_state_goes_on_where_an_input_has_other_rows(plan, recipe):
    text = (
        "net (float[N, 3] x, float[M, 3] z) => (float[N, 3] y) { a = Clip(x, zero, one) "
        "b = Clip(z, zero, one) m = ReduceMean<axes = [0], keepdims = 1>(b) y = Add(a, m) }"
    )
    ann = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    rng = np.random.default_rng(3)
    given = {"x": rng.random((6, 3), np.float32), "z": rng.random((4, 3), np.float32)}
    data = from_arrays({name: np.concatenate([v, v])[:6] for name, v in given.items()})
    snn = convert(ann, recipe=recipe, calibration=data if recipe == "signed" else None).model
    first, second = (SpikingSession(snn, threads=1, plan=plan) for _ in range(2))
    for _ in range(3):
        first.step(given)
    second.state = first.state
    np.testing.assert_array_equal(second.step(given), first.step(given))


WINDOWS = (
    "net (float[N, 4, 6] x) => (float[N, 24] y) { a = Clip(x, zero, one) "
    "s = Reshape(a, halves) b = MatMul(s, w) c = Clip(b, zero, one) y = Reshape(c, whole) }"
)
"""Two rows of the second layer are one sample, as in networks that attend within windows."""


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("samples", [2, 3, 5])
def test_a_state_goes_on_in_another_session_where_samples_have_several_rows(plan, samples):
    weights = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(6, dtype=np.float32) / 2,
               "halves": np.array([-1, 2, 6]), "whole": np.array([-1, 24])}  # fmt: skip
    spiking = convert(model(WINDOWS, weights)).model
    x = np.random.default_rng(0).integers(0, 9, (samples, 4, 6)).astype(np.float32) / 8
    first, second = (SpikingSession(spiking, plan=plan) for _ in range(2))
    first.run(x, 5)
    second.state = first.state
    with pytest.raises(DataError, match="another shape than the state"):
        second.step(np.concatenate([x, x]))
    np.testing.assert_array_equal(second.step(x), first.step(x))


@pytest.mark.parametrize("image", ["3, H, W", "3, 4, W"])
def test_a_state_of_other_images_than_those_shown_is_refused(image):
    """Also where no size but that of the channels is fixed."""
    weights = {"zero": np.float32(0), "one": np.float32(1), "two": np.float32(2)}
    text = (
        f"net (float[N, {image}] x) => (float[N, {image}] y) {{ a = Mul(x, two) "
        "b = Clip(a, zero, one) m = Mul(b, two) c = Sub(m, one) d = Clip(c, zero, one) "
        "y = Mul(d, two) }"
    )
    session = SpikingSession(convert(model(text, weights)).model)
    x = np.full((2, 3, 4, 5), 0.375, np.float32)
    session.step(x)
    for names in (["v/b", "v/d"], ["v/d"]):
        state = {name: session.state[name] for name in names}
        for other in (x[:1], np.concatenate([x, x[:1]]), x[..., :1], x[..., :3]):
            session.reset()
            session.state = state
            with pytest.raises(DataError, match="another shape than the state"):
                session.step(other)
        assert session.step(x).shape == x.shape


def test_a_state_of_several_samples_is_not_one_of_one():
    """Which an axis of size 1 would let pass, and make one output of each sample in the state."""
    weights = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(6, dtype=np.float32)}
    text = (
        "net (float[N, 1, 6] x) => (float[N, 1, 6] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
        "y = MatMul(b, w) }"
    )
    session = SpikingSession(convert(model(text, weights)).model)
    session.state = {"v/b": np.zeros((3, 1, 6), np.float32)}
    with pytest.raises(DataError, match="another shape than the state"):
        session.step(np.ones((1, 1, 6), np.float32))
    assert session.step(np.ones((3, 1, 6), np.float32)).shape == (3, 1, 6)


def test_a_state_that_was_set_survives_another_batch_size():
    session = SpikingSession(snn())
    session.run(X, 4)
    session.reset()
    start = np.full((3, 3), 0.875, np.float32)
    session.state = {"v/b": start}
    session.step(np.full((3, 3), 0.125, np.float32))
    # 0.875 + 0.25 > 1: every neuron fires.
    np.testing.assert_array_equal(session.state["v/b"], start + 0.25 - 1)


def test_the_callers_arrays_are_left_alone():
    session = SpikingSession(
        convert(model(CLIP, {"zero": np.float32(0), "one": np.float32(1)})).model
    )
    first, second = np.full((2, 3), 0.5, np.float32), np.full((2, 3), 0.25, np.float32)
    for array in (first, second):
        array.flags.writeable = False
        session.run(array, 4)
        session.step(array)
    varying = np.stack([first, second, first, second])
    before = varying.copy()
    session.run(varying, 4)
    np.testing.assert_array_equal(varying, before)
    np.testing.assert_array_equal(first, np.full((2, 3), 0.5, np.float32))
    state = {name: value.copy() for name, value in session.state.items()}
    kept = state["v/y"].copy()
    session.state = state
    session.step(first)
    session.step(second)
    np.testing.assert_array_equal(state["v/y"], kept)


def test_what_a_session_computes_with_cannot_be_written_to():
    (neuron,) = SpikingSession(snn()).neurons
    for values in (neuron.threshold, neuron.v_init):
        with pytest.raises(ValueError, match="read-only"):
            values *= 2


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("first", ["Clip(x, zero, one)", "Clip(twice, zero, one)"])
def test_results_stay_what_they_were(plan, first):
    # Of a result nothing is copied until what it was is to be written over.
    text = f"net (float[N, 3] x) => (float[N, 3] y) {{ twice = Mul(x, two) y = {first} }}"
    session = SpikingSession(convert(model(text, WEIGHTS)).model, plan=plan)

    def counts(result):
        return [at["y"].tolist() for at in (r.spike_counts for r in result.readouts.values())]

    between = (
        lambda: session.run(np.zeros_like(X), 21),
        lambda: session.run(X[:1], 5, coding="poisson"),
        lambda: session.step(X),
        lambda: setattr(session, "state", {n: 0 * v for n, v in session.state.items()}),
        lambda: session.reset(),
    )
    wanted = counts(session.run(X, 21, [3, 8]))
    for another in between:
        x = X.copy()
        result = session.run(x, 21, [3, 8])
        x.fill(7)
        another()
        assert counts(result) == wanted


def test_what_is_asked_for_later_is_worked_out_once():
    calls, failing = [], [True]

    def work_out():
        calls.append(None)
        if failing:
            raise DataError("not now")
        return {"y": X}

    later = Later(work_out)
    with pytest.raises(DataError):
        later()
    failing.clear()
    barrier, found = threading.Barrier(8), []

    def ask():
        barrier.wait()
        found.append(later())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2
    assert all(each is found[0] for each in found)


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_a_result_that_was_read_lets_go_of_its_session(plan):
    session = SpikingSession(snn(), plan=plan)
    result = session.run(X, 21, [8])
    rates = [readout.firing_rates for readout in result.readouts.values()]
    sums = weakref.ref(session._progress.sums)
    del session
    gc.collect()
    assert sums() is None
    assert rates == [readout.firing_rates for readout in result.readouts.values()]


def test_no_spiking_network():
    with pytest.raises(ModelError, match="convert it first"):
        SpikingSession(model(TEXT, WEIGHTS))


def broken(change):
    proto = snn()
    change(proto)
    return proto


def misspell(proto):
    next(a for n in proto.graph.node for a in n.attribute if a.name == "v_init").name = "v_int"


def lose_state(proto):
    del proto.graph.output[1]


def unknown(proto):
    next(n for n in proto.graph.node if n.domain).op_type = "LIF"


def rename(proto):
    next(n for n in proto.graph.node if n.domain).name = "other"


def other_default(proto):
    next(i for i in proto.graph.initializer if i.name == "v/b").CopyFrom(
        onnx.numpy_helper.from_array(np.zeros((1, 1), np.float32), "v/b")
    )


def set_threshold(value):
    def change(proto):
        node = next(n for n in proto.graph.node if n.domain)
        attribute = next(a for a in node.attribute if a.name == "v_threshold")
        attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value)))

    return change


def float_attribute(proto):
    node = next(n for n in proto.graph.node if n.domain)
    attribute = next(a for a in node.attribute if a.name == "v_threshold")
    attribute.CopyFrom(onnx.helper.make_attribute("v_threshold", 1.0))


def refer_to_a_call(proto):
    """As in a function, where the call says what an attribute is."""
    node = next(n for n in proto.graph.node if n.domain)
    next(a for a in node.attribute if a.name == "v_init").ref_attr_name = "v_init"


def edit_function(proto):
    proto.functions[0].node[2].op_type = "Sub"


def lose_function(proto):
    del proto.functions[:]


DAMAGE = [misspell, lose_state, unknown, rename, other_default, float_attribute, refer_to_a_call]
DAMAGE += [edit_function, lose_function]
DAMAGE += [set_threshold(np.float32(v)) for v in (0, -1, np.nan, np.inf)]
DAMAGE += [set_threshold(np.ones((7, 1), np.float32)), set_threshold(np.array(1))]


def test_functions_may_be_written_in_another_way():
    """As by onnx_ir, without the domain of ONNX's own operators, and with names for nodes."""

    def rewrite(proto):
        for number, node in enumerate(proto.functions[0].node):
            node.ClearField("domain")
            node.name, node.doc_string = f"node {number}", "a note"

    np.testing.assert_array_equal(
        SpikingSession(broken(rewrite)).run(X, 4).output, SpikingSession(snn()).run(X, 4).output
    )


@pytest.mark.parametrize("change", DAMAGE)
def test_damaged_neurons_are_refused(change):
    with pytest.raises(ModelError):
        SpikingSession(broken(change))


def test_what_onnxruntime_has_in_float32_alone():
    text = "net (double[N, 2, 6, 6] x) => (double[N, 3, 4, 4] y) { y = Conv(x, w) }"
    with pytest.raises(ModelError, match=r"Conv.*export the network in that"):
        sessions.create_session(model(text, {"w": np.ones((3, 2, 3, 3))}), [providers.CPU])


def test_cuda_must_be_there(monkeypatch, caplog):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="CUDAExecutionProvider is not in the installed"):
        SpikingSession(snn(), "cuda")
    with pytest.raises(ProviderError, match=r"gpu is not in .*, or say cpu, cuda or auto"):
        SpikingSession(snn(), "gpu")
    with pytest.raises(ProviderError, match="NoneExecutionProvider"):
        SpikingSession(snn(), ["NoneExecutionProvider"])
    with caplog.at_level(logging.INFO, "onnx2snn"):
        session = SpikingSession(snn(), "auto")
    assert session.providers == ["CPUExecutionProvider"]
    assert "device: CPU" in caplog.text


def test_a_provider_that_does_not_start_is_no_silent_fallback(monkeypatch):
    real = onnxruntime.InferenceSession

    def falls_back(content, options, providers, enable_fallback, **others):
        assert not enable_fallback
        return real(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )  # fmt: skip
    with pytest.raises(ProviderError, match="could not start CUDAExecutionProvider"):
        SpikingSession(snn(), "cuda")
    assert SpikingSession(snn(), "auto").providers == ["CPUExecutionProvider"]


def test_onnxruntime_must_be_there(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match=r"onnx2snn\[cpu\]"):
        providers.onnxruntime()


def test_an_onnxruntime_that_cannot_be_loaded_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("import a_library_that_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(ProviderError, match="cannot be loaded: No module named 'a_library_that"):
        providers.onnxruntime()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_what_interrupts_the_loading_of_onnxruntime_goes_on(monkeypatch, tmp_path, interrupt):
    """As pybind11 hands on what is raised while an extension begins."""
    raised = f"raise ImportError('initialization failed') from {interrupt.__name__}(143)"
    (tmp_path / "onnxruntime.py").write_text(raised)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(interrupt, match="143"):
        providers.onnxruntime()


@pytest.mark.gpu
@needs_cuda
def test_cuda_equals_cpu():
    cuda = SpikingSession(snn(), "cuda")
    assert cuda.providers[0] == "CUDAExecutionProvider"
    cpu = SpikingSession(snn())
    for samples, timesteps in ((2, 8), (1, 5), (2, 64)):
        a, b = cuda.run(X[:samples], timesteps, [3]), cpu.run(X[:samples], timesteps, [3])
        np.testing.assert_array_equal(a.output, b.output)
        np.testing.assert_array_equal(a.spike_counts["b"], b.spike_counts["b"])
        np.testing.assert_array_equal(cuda.state["v/b"], cpu.state["v/b"])
    state = cuda.state
    output = cuda.step(X)
    cuda.state = state
    np.testing.assert_array_equal(cuda.step(X), output)


CAPTURING = ("CUDAExecutionProvider", {"enable_cuda_graph": "1"})


@pytest.mark.gpu
@needs_cuda
def test_captured_runs_equal_others():
    captured, cpu = SpikingSession(snn(), [CAPTURING]), SpikingSession(snn())
    for samples, timesteps in ((2, 64), (2, 21), (1, 16), (2, 64)):
        a, b = captured.run(X[:samples], timesteps), cpu.run(X[:samples], timesteps)
        np.testing.assert_array_equal(a.output, b.output)


def test_a_captured_run_keeps_its_buffers(monkeypatch):
    """Each pair of buffers has a number of its own, also after others took their place."""
    numbers = []

    class Options(onnxruntime.RunOptions):
        def add_run_config_entry(self, name, value):
            if name == "gpu_graph_id":
                numbers.append(int(value))

    monkeypatch.setattr(onnxruntime, "RunOptions", Options)
    cpu = ("CPUExecutionProvider", {"enable_cuda_graph": "1"})
    session, plain = SpikingSession(snn(), [cpu]), SpikingSession(snn())

    def run(samples, timesteps=48):
        numbers.clear()
        found = session.run(X[:samples], timesteps).output
        np.testing.assert_array_equal(found, plain.run(X[:samples], timesteps).output)
        return list(numbers)

    first = run(2)
    # The starts, then one set and the other in turn.
    assert len(first) == 6
    assert first == [first[0], *first[1:3], *first[1:3], first[1]]
    assert len(set(first)) == 3
    assert min(first) > 0
    assert run(2) == first
    assert not set(run(1)) & set(first)
    numbers.clear()
    session.step(X[:1])
    assert numbers == [-1]


def test_what_a_captured_run_would_find_changed_is_refused():
    def between_neurons(sizes, node, made, **weights):
        read = ",".join(map(str, sizes))
        text = (
            f"(float[N,{read}] x) => (float[N,{made}] y) {{ a = Relu(x) b = {node} y = Relu(b) }}"
        )
        data = from_arrays(np.ones((3, *sizes), np.float32))
        return convert(model(f"g {text}", weights), calibration=data, recipe="opi").model

    def mixing(node, size):
        return between_neurons((4, 2), node, "4,2", w=np.eye(size, dtype=np.float32))

    def joining(count):
        node = f"Concat<axis=1>({', '.join(['a'] * count)})"
        return between_neurons((2,), node, 2 * count)

    right, left = mixing("MatMul(a, w)", 2), mixing("MatMul(w, a)", 4)
    few, many = joining(32), joining(33)
    for refused, op in ((left, "MatMul"), (many, "Concat")):
        SpikingSession(refused)
        with pytest.raises(ModelError, match=f"{op} .* leave out enable_cuda_graph"):
            SpikingSession(refused, [("CPUExecutionProvider", CAPTURING[1])])
    for captured in (right, few):
        SpikingSession(captured, [("CPUExecutionProvider", CAPTURING[1])])


@pytest.fixture
def cuda_listed(monkeypatch):
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)


def test_cuda_computes_in_float32(cuda_listed):
    """By TF32, 10 bits of a number, as ONNX Runtime does unless told, counts would be others."""
    exact, chosen = ({"use_tf32": "0"}, {"use_tf32": "1", "device_id": 1})
    assert providers.resolve_providers("cuda") == [(providers.CUDA, exact), providers.CPU]
    assert providers.resolve_providers([(providers.CUDA, chosen)]) == [(providers.CUDA, chosen)]
    first = [(providers.CUDA, chosen)], [providers.TENSORRT], [(providers.CUDA, exact)]
    assert [providers.rounds_products(each) for each in first] == [True, True, False]


def test_captures_are_for_bound_runs(cuda_listed):
    capturing = providers.resolve_providers([CAPTURING, providers.CPU])
    assert providers.captures_runs(capturing)
    assert providers.without_capture(capturing) == providers.resolve_providers("cuda")
    off = [(providers.CUDA, {"enable_cuda_graph": "0"})]
    assert not any(map(providers.captures_runs, (off, [providers.CUDA], [providers.CPU])))
    tensorrt = (providers.TENSORRT, {"trt_cuda_graph_enable": True})
    with pytest.raises(ProviderError, match="leave out trt_cuda_graph_enable"):
        providers.resolve_providers([tensorrt])


def test_the_number_of_a_device():
    """Of a GPU; what others call theirs is theirs."""
    given = (providers.CUDA, {"device_id": "1"})
    assert (providers.device_id_of(given), providers.device_id_of(providers.CUDA)) == (1, 0)
    with pytest.raises(ProviderError, match="device_id must be a number"):
        providers.device_id_of((providers.CUDA, {"device_id": "first"}))
    SpikingSession(snn(), [(providers.CPU, {"device_id": "GPU.0"})]).run(X, 4)


def test_what_looks_for_cuda_says_nothing_on_stdout(cuda_listed, monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("no cudart"), raising=False)
    providers.resolve_providers("cuda")
    assert capsys.readouterr() == ("", "no cudart\n")


@pytest.mark.parametrize(
    ("version", "disabled"),
    [("1.31.1", ["Pad_Fusion"]), ("1.32.0", []), ("1.32rc1", []), ("1.33.0.dev20261101", [])],
)
def test_pads_of_zeros_before_a_max_pool_stay_zeros(version, disabled, monkeypatch):
    """Older versions take them for those of the pool, the lowest number."""
    real, given = onnxruntime.InferenceSession, []

    def told(*arguments, disabled_optimizers, **others):
        given.append(disabled_optimizers)
        return real(*arguments, disabled_optimizers=disabled_optimizers, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", told)
    monkeypatch.setattr(onnxruntime, "__version__", version)
    text = (
        "g (float[N, 1, 2, 2] x) => (float[N, 1, 4, 4] y) "
        "{ p = Pad(x, pads) y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(p) }"
    )
    session = sessions.create_session(
        model(text, {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}), [providers.CPU]
    )
    x = np.full((1, 1, 2, 2), -1, np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0][0, 0], np.zeros((4, 4)))
    assert given == [disabled]


def test_why_a_provider_does_not_start(cuda_listed, monkeypatch):
    def fails(content, options, providers, enable_fallback, **others):
        raise RuntimeError("no CUDA-capable device is detected")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(ProviderError, match=r"could not start CUDA.*no CUDA-capable device"):
        sessions.create_session(model(TEXT, WEIGHTS), ["CUDAExecutionProvider"])


def test_states_that_a_device_has_no_room_for(monkeypatch):
    def fails(*arguments):
        raise RuntimeError("out of memory")

    session = SpikingSession(snn())
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", fails)
    with pytest.raises(DataError, match="out of memory: give it less at once"):
        session.run(X, 8)


@pytest.mark.parametrize(
    "said",
    [
        "std::bad_alloc",
        "bad allocation",
        "Failed to allocate memory",
        "Available memory of 1048576 is smaller than requested bytes of 4194304",
        "CUDA failure 2: out of memory",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
@pytest.mark.parametrize(("where", "name"), stock.CALLS)
def test_what_takes_more_memory_than_there_is(monkeypatch, where, name, said):
    def fails(*arguments, **options):
        raise RuntimeError(f"[ONNXRuntimeError] : 6 : while running Sub node: {said}")

    made = SpikingSession(snn())
    monkeypatch.setattr(where, name, fails)
    with pytest.raises(Onnx2SnnError, match="out of memory: give it less at once"):
        made.run(X, 8)


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_session_is_opened_anew_elsewhere(send):
    session = SpikingSession(snn())
    with pytest.raises(TypeError, match=r"open its file anew .* with SpikingSession\(path\)"):
        send(session)
    session.run(X, 8)


def test_bindings_do_not_outlive_sessions():
    """Else they would hold ONNX Runtime's session, with its weights, and be taken for another's."""
    session = SpikingSession(snn())
    session.run(X, 37)
    steps = session._progress.time_steps
    held = [weakref.ref(each) for each in steps.sessions.values()]
    assert len(session._progress.states._bindings) == len(held) > 1
    steps.sessions.clear()
    gc.collect()
    assert not any(each() for each in held)
    assert not session._progress.states._bindings
    np.testing.assert_array_equal(
        session.run(X, 37).output, SpikingSession(snn()).run(X, 37).output
    )


def test_file_is_plain_onnx():
    proto = snn()
    onnx.checker.check_model(proto, full_check=True)
    assert {f.name for f in proto.functions} == {"IF"}


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_integers_that_pass_through_stay_as_they_are(plan):
    """Their sums over time do not fit their type."""
    text = (
        "net (float[N, 3] x, uint8[N, 4] i, int32[N, 2] j) => (float[N, 3] y, uint8[N, 4] k, "
        "int32[N, 2] l) { b = Clip(x, zero, one) y = Neg(b) k = Identity(i) l = Neg(j) }"
    )
    network = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    i = np.array([[1, 20, 100, 254]] * 2, np.uint8)
    j = np.array([[7, 300_000_000]] * 2, np.int32)
    session = SpikingSession(convert(network).model, plan=plan)
    values = session.run({"x": X, "i": i, "j": j}, 33).values
    np.testing.assert_array_equal(values["k"], i)
    np.testing.assert_array_equal(values["l"], -j)


@pytest.mark.parametrize("timesteps", [256, 1000])
@pytest.mark.parametrize("large", [50.03, 1000.3])
def test_spike_counts_under_large_currents(timesteps, large):
    """v of neurons that never fire, or always, moves away from V_th, and rounds ever more."""
    text = "net (float[N, 3] x) => (float[N, 3] y) { b = Clip(x, zero, one) y = Neg(b) }"
    network = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    x = np.array([[-large, 0.3, large], [large, 0.7, -large]], np.float32)
    derived, carried = (
        SpikingSession(convert(network).model, plan=plan).run(x, timesteps).spike_counts["b"]
        for plan in ("auto", "step")
    )
    np.testing.assert_array_equal(derived, carried)
    np.testing.assert_array_equal(derived[:, [0, 2]], [[0, timesteps], [timesteps, 0]])


@pytest.mark.parametrize(
    ("read", "shape"),
    [
        ("Mul(t, c)", (5, 16, 32)),
        ("Add(c, t)", (5, 16, 32)),
        ("PRelu(t, c)", (5, 16, 32)),
        ("MatMul(t, c)", (32, 32)),
        ("MatMul(c, t)", (16, 16)),
    ],
)
def test_constants_that_onnxruntime_transposes(read, shape):
    """It moves a Transpose past what reads them, and writes them anew by their old names."""
    text = (
        "net (float[N, 32, 5, 16] x) => (float[N, 32, 5, 16] y) { "
        f"t = Transpose<perm = [0, 2, 3, 1]>(x) r = {read} y = Transpose<perm = [0, 3, 1, 2]>(r) }}"
    )
    rng = np.random.default_rng(0)
    network = model(text, {"c": rng.standard_normal(shape).astype(np.float32)})
    x = rng.standard_normal((2, 32, 5, 16)).astype(np.float32)
    plain = onnxruntime.InferenceSession(network.SerializeToString())
    shared = sessions.create_session(detach(network), [providers.CPU])
    wanted, found = (session.run(None, {"x": x})[0] for session in (plain, shared))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("listed", [False, True])
def test_weights_that_nothing_reads(listed):
    """Also where the file lists them as inputs, which ONNX Runtime keeps."""
    inputs = "float[N, 4] x, float[32, 32] unused" if listed else "float[N, 4] x"
    text = f"net ({inputs}) => (float[N, 4] y) {{ y = Relu(x) }}"
    parts = detach(model(text, {"unused": np.ones((32, 32), np.float32)}))
    session = sessions.create_session(parts, [providers.CPU])
    np.testing.assert_array_equal(session.run(None, {"x": -np.ones((1, 4), np.float32)})[0], 0)


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_potentials_beyond_float16_are_no_spikes_for_ever(plan):
    weights = {"zero": 0, "high": 1000, "two": 2}
    proto = model(
        "g (float16[N, 2] x) => (float16[N, 2] y) { c = Clip(x, zero, high) y = Mul(c, two) }",
        {name: np.float16(value) for name, value in weights.items()},
    )
    session = SpikingSession(convert(proto).model, plan=plan)
    x = np.zeros((40, 1, 2), np.float16)
    x[:5, :, 0], x[5:, :, 0] = 20_000, -20_000
    with pytest.raises(DataError, match=r"'v/c' is beyond what float16 holds after 40 time-steps"):
        session.run(x, 40)
    # Of an input that stays as it is these are right.
    counts = session.run(x[0], 40).spike_counts["c"]
    np.testing.assert_array_equal(counts, [[40, 0]])
    counts = session.run(np.full((1, 2), 500, np.float16), 40).spike_counts["c"]
    np.testing.assert_array_equal(counts, [[20, 20]])


def test_steps_say_the_same_whatever_ran_before():
    """A run whose inputs vary refuses potentials beyond float16."""
    text = "g (float16[N, 1] x) => (float16[N, 2] y) { c = Clip(x, zero, one) m = MatMul(c, w) "
    values = {"zero": np.float16(0), "one": np.float16(1), "w": np.float16([[1, 2]])}
    session = SpikingSession(convert(model(text + "y = Softmax(m) }", values)).model, threads=1)
    x, large = np.full((1, 1), 0.5, np.float16), np.full((1, 1), 40_000, np.float16)
    said = []
    for before in (x, np.stack([x] * 3)):
        session.run(before, 3)
        said.append([session.step(large) for _ in range(4)])
        session.reset()
    np.testing.assert_array_equal(*said)


def test_a_bias_of_the_read_out_counts_once():
    text = "net (float[N, 2] x) => (float[N, 3] y) { a = Clip(x, zero, one) y = Gemm(a, w, b) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.ones((2, 3), np.float32),
              "b": np.float32([1, -2, 0.5])}  # fmt: skip
    session = SpikingSession(convert(model(text, values)).model)
    for timesteps in (1, 4, 7):
        output = session.run(np.zeros((1, 2), np.float32), timesteps).output
        np.testing.assert_array_equal(output, [values["b"]])


def test_the_firing_rate_over_all_layers_is_that_of_all_neurons():
    text = (
        "net (float[N, 2] x) => (float[N, 1] y) { a = Clip(x, zero, one) b = MatMul(a, w) "
        "y = Clip(b, zero, one) }"
    )
    ann = model(text, WEIGHTS | {"w": np.float32([[1], [0]])})
    result = SpikingSession(convert(ann).model).run(np.float32([[1, 0.25]]), 8)
    spikes = sum(int(counts.sum()) for counts in result.spike_counts.values())
    assert result.firing_rate == pytest.approx(spikes / (3 * 8))
    assert len(set(result.firing_rates.values())) == 2
