"""Neurons in float32 beside layers in float16, as tools that make float16 of a network leave."""

import numpy as np
import onnxruntime
import pytest
from onnx_text import model, run

from onnx2snn import ModelError, SpikingSession, convert, from_arrays, to_loop

RNG = np.random.default_rng(0)


WITHIN = "r{0} = Relu(k{0}) f{0} = Cast<to = 1>(r{0}) c{0} = Min(f{0}, theta)"
BEFORE = "f{0} = Cast<to = 1>(k{0}) c{0} = Clip(f{0}, zero, theta)"


def network(layers, read_out, theta, clip=BEFORE, gain=1):
    """Layers in float16 whose clips are in float32, and a read-out in float16."""
    text = "net (float[N, 8] x) => (float[N, 8] y) { h0 = Cast<to = 10>(x) "
    for i in range(layers):
        text += (
            f"l{i} = MatMul(h{i}, w{i}) m{i} = Concat<axis = 1>(l{i}, l{i}) "
            f"k{i} = Slice(m{i}, four, twelve, one) {clip.format(i)} "
            f"h{i + 1} = Cast<to = 10>(c{i}) "
        )
    text += f"{read_out.format(f'h{layers}')} y = Cast<to = 1>(o) }}"
    weights = {f"w{i}": gain * RNG.normal(size=(8, 8)).astype(np.float16) for i in range(layers)}
    bounds = {name: np.array([value]) for name, value in (("four", 4), ("twelve", 12), ("one", 1))}
    return model(text, weights | bounds | {"zero": np.float32(0), "theta": np.float32(theta)})


def test_a_clip_with_a_cast_within_is_one_layer():
    """And needs no data: its bound is known."""
    ann = network(2, "o = Neg({})", 1.5, WITHIN)
    snn = convert(ann)
    assert [float(neuron.threshold) for neuron in snn.neurons] == [1.5, 1.5]
    x = RNG.normal(size=(5, 8)).astype(np.float32)
    result = SpikingSession(snn.model).run(x, 400)
    np.testing.assert_allclose(result.output, run(ann, x), atol=0.03)


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_sums_that_float16_cannot_hold(plan):
    """256 times 500 is beyond it, the mean is not."""
    ann = network(1, "n = Concat<axis = 1>({0}, {0}) o = Slice(n, four, twelve, one)", 500)
    snn = convert(ann).model
    x = np.float32(300) * np.abs(RNG.normal(size=(3, 8))).astype(np.float32)
    session = SpikingSession(snn, plan=plan)
    means = np.mean([session.step(x) for _ in range(256)], axis=0, dtype=np.float64)
    np.testing.assert_allclose(session.run(x, 256).output, means, atol=0.5)
    loop = onnxruntime.InferenceSession(to_loop(snn, 256).SerializeToString())
    np.testing.assert_allclose(loop.run(None, {"x": x})[0], means, atol=0.5)


def test_counts_are_those_that_were_emitted():
    """Of sums over time that float16 rounds none follow."""
    snn = convert(network(3, "o = Neg({})", 100.3, gain=20)).model
    x = np.float32(100) * np.abs(RNG.normal(size=(64, 8))).astype(np.float32)
    found = SpikingSession(snn).run(x, 128).spike_counts
    session = SpikingSession(snn, plan="step")
    wanted = session.run(x, 128).spike_counts
    for name, counts in found.items():
        np.testing.assert_array_equal(counts, wanted[name])


@pytest.mark.parametrize("recipe", ["best", "mmse"])
def test_pools_in_float16_that_count(recipe):
    ann = model(
        "net (float[N, 2, 8, 8] x) => (float[N, 3] y) { h = Cast<to = 10>(x) c = Conv(h, w) "
        "f = Cast<to = 1>(c) m = Clip(f, zero, one) g = Cast<to = 10>(m) "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(g) k = Conv(p, u) a = Flatten(k) "
        "y = Cast<to = 1>(a) }",
        {
            "w": RNG.normal(size=(4, 2, 3, 3)).astype(np.float16),
            "u": RNG.normal(size=(3, 4, 3, 3)).astype(np.float16),
            "zero": np.float32(0),
            "one": np.float32(1),
        },
    )
    x = RNG.normal(size=(9, 2, 8, 8)).astype(np.float32)
    snn = convert(ann, calibration=from_arrays(x), recipe=recipe, timesteps=8).model
    found, wanted = (SpikingSession(snn, plan=plan).run(x, 8) for plan in ("auto", "step"))
    np.testing.assert_allclose(found.output, wanted.output, atol=0.02)
    np.testing.assert_allclose(found.firing_rate, wanted.firing_rate, atol=1e-3)


def test_layers_in_float16_are_none_for_8_bits():
    snn = convert(network(2, "o = Neg({})", 1.5)).model
    with pytest.raises(ModelError, match=r"MatMul 'l1' computes in float16, as all layers do"):
        SpikingSession(snn, precision="int8")


def test_nor_are_layers_in_float64():
    ann = model(
        "net (float[N, 8] x) => (float[N, 8] y) { a = Clip(x, zero, one) b = Cast<to = 11>(a) "
        "c = MatMul(b, w) d = Cast<to = 1>(c) y = Clip(d, zero, one) }",
        {"w": RNG.normal(size=(8, 8)), "zero": np.float32(0), "one": np.float32(1)},
    )
    with pytest.raises(ModelError, match=r"MatMul 'c' computes in float64, as all layers do"):
        SpikingSession(convert(ann).model, precision="int8")


def test_one_layer_in_float16_stays_that_beside_others_in_8_bits():
    ann = model(
        "net (float[N, 256] x) => (float[N, 8] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
        "h = Cast<to = 10>(b) c = MatMul(h, half) d = Cast<to = 1>(c) e = Clip(d, zero, one) "
        "f = MatMul(e, w) g = Clip(f, zero, one) y = MatMul(g, v) }",
        {
            "w": RNG.normal(size=(256, 256)).astype(np.float32),
            "half": RNG.normal(size=(256, 256)).astype(np.float16),
            "v": RNG.normal(size=(256, 8)).astype(np.float32),
            "zero": np.float32(0),
            "one": np.float32(1),
        },
    )
    session = SpikingSession(convert(ann).model, precision="int8")
    found = {each.layer: (each.precision, each.reason) for each in session.precisions}
    assert found["c"] == ("float16", "as the file says")
    assert found["f"][0] == "int8"


@pytest.mark.parametrize(
    ("dtype", "neurons", "chunks"),
    [(np.float16, 8192, ()), (np.float32, 8192, (8, 4)), (np.float16, 4096, (4,))],
)
def test_many_neurons_in_float16_run_one_time_step_at_a_time(dtype, neurons, chunks):
    """Short chunks save nothing where a CPU casts around each operator."""
    x = RNG.normal(size=(8, 8)).astype(np.float32)
    number = 10 if dtype == np.float16 else 1
    ann = model(
        f"net (float[N, 8] x) => (float[N, 8] y) {{ h = Cast<to = {number}>(x) "
        "l = MatMul(h, w) c = Clip(l, zero, one) o = MatMul(c, v) y = Cast<to = 1>(o) }",
        {
            "w": RNG.normal(size=(8, neurons)).astype(dtype),
            "v": RNG.normal(size=(neurons, 8)).astype(dtype),
            "zero": dtype(0),
            "one": dtype(1),
        },
    )
    assert SpikingSession(convert(ann).model).chosen(x).chunks == chunks
