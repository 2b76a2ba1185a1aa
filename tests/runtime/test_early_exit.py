"""Samples that leave a run are read out as they were then; those that stay notice nothing."""

import itertools
import tracemalloc

import dyadic
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from one_neuron import WEIGHTS, X
from onnx_text import model

from onnx2snn import DataError, EarlyExit, SpikingSession, convert, from_arrays
from onnx2snn.runtime import derived_sums, sums
from onnx2snn.runtime.early_exit import last_op, logits

SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def literal(rule, result, times):
    """When each sample leaves: the first look at which it is settled, by the rule's words."""
    samples = len(result.output)
    leaves = np.full(samples, times[-1])
    for n in range(samples):
        chosen = []
        for t in times:
            z = np.float64(result.readouts[t].output[n].ravel())
            chosen.append(int(np.argmax(z)))
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            same = len(chosen) >= rule.stable and len(set(chosen[-rule.stable :])) == 1
            if same and p.max() >= rule.confidence:
                leaves[n] = t
                break
    return leaves


@SETTINGS
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 17),
    timesteps=st.integers(1, 40),
    confidence=st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
    stable=st.integers(1, 4),
    every=st.sampled_from([1, 3, 4, 8]),
    plan=st.sampled_from(["auto", "step"]),
)
def test_an_early_exit_is_a_read_out(seed, samples, timesteps, confidence, stable, every, plan):
    network = dyadic.finish(seed)
    x = dyadic.images(network, samples)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1, plan=plan)
    rule = EarlyExit(confidence, stable, every)
    times = [*rule.looks_at(timesteps)]
    whole = session.run(x, timesteps, times)
    early = session.run(x, timesteps, early_exit=rule)
    leaves = literal(rule, whole, times)
    np.testing.assert_array_equal(early.sample_timesteps, leaves)
    for n, t in enumerate(leaves):
        np.testing.assert_array_equal(early.output[n], whole.readouts[t].output[n])
        for name, counts in early.spike_counts.items():
            np.testing.assert_array_equal(counts[n], whole.readouts[t].spike_counts[name][n])
    for name, counts in early.spike_counts.items():
        neurons = counts[0].size * leaves.sum()
        assert early.firing_rates[name] == pytest.approx(counts.sum() / neurons)
    # Nothing of it remains.
    np.testing.assert_array_equal(session.run(x, timesteps).output, whole.output)


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("rule", [EarlyExit(0.3, 1, 2), EarlyExit(0.0, 3, 2)])
def test_the_state_is_that_of_the_samples_that_left_last(plan, rule):
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1, plan=plan)
    x = dyadic.images(network, 12)
    left = session.run(x, 24, early_exit=rule).sample_timesteps
    found, last = session.state, np.flatnonzero(left == left.max())
    assert 1 < len(last) < 12 or left.max() < 24
    session.run(x, left.max())
    for name, value in session.state.items():
        np.testing.assert_array_equal(found[name], value[last])


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_samples_that_left_take_no_more_memory_than_those_of_a_full_run(plan):
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1, plan=plan)
    x = dyadic.images(network, 256)

    def held(**options):
        session.run(x, 40, **options)
        tracemalloc.start()
        result = session.run(x, 40, **options)
        # Writes over the states, of which a result that is held then has copies.
        session.run(x, 1)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return result, size

    _, whole = held()
    result, early = held(early_exit=EarlyExit(0.3, stable=1, every=1))
    assert len(set(result.sample_timesteps)) > 6
    # What time-steps read is, of a full run, memory of ONNX Runtime's, which is not traced.
    assert early < 3 * whole


def test_a_run_without_early_exit_says_t_for_each_sample():
    text = "net (float[N, 4] x) => (float[3, N] y) {{ a = MatMul(x, w) b = Clip(a, zero, one) {} }}"
    for tail in ("c = MatMul(b, u) y = Transpose(c)", "y = ReduceSum<keepdims = 0>(b)"):
        snn = dense(text.format(tail).replace("[3, N] y", "[3, N] y" if "c =" in tail else " y"), 3)
        result = SpikingSession(snn, threads=1).run(np.ones((5, 4), np.float32), 6)
        assert result.sample_timesteps.tolist() == [6] * 5
        assert result.samples == 5


def test_a_run_without_early_exit_says_t():
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    x = dyadic.images(network, 3)
    assert session.run(x, 7).sample_timesteps.tolist() == [7, 7, 7]


@pytest.mark.parametrize(("timesteps", "left"), [(16, 12), (8, 8)])
def test_a_delayed_read_out_is_not_looked_at_before_it_begins(timesteps, left):
    """But at T samples leave even then."""
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network), delay=10).model, threads=1)
    x = dyadic.images(network, 5)
    result = session.run(x, timesteps, early_exit=EarlyExit(0.0, stable=1, every=4))
    assert set(result.sample_timesteps) == {left}
    np.testing.assert_array_equal(result.output, session.run(x, left).output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"confidence": c}, "a number from 0 to 1") for c in (1.1, float("nan"), "high", True)),
        *(({"stable": n}, "stable must be a whole number, 1") for n in (0, -1, 1.5, True)),
        *(({"every": n}, "every must be a whole number, 1") for n in (0, -1, 2.0, True)),
    ],
)
def test_rules_that_make_no_sense(options, message):
    with pytest.raises(DataError, match=message):
        EarlyExit(**options)


def test_runs_that_cannot_leave_early():
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    x = dyadic.images(network, 2)
    for options, message in (
        ({"readout": [2]}, "leave readout away"),
        ({"coding": "poisson"}, "the same at every time-step"),
        ({"coding": "rate"}, "coding must be"),
        ({"early_exit": 0.9}, "takes an EarlyExit"),
    ):
        with pytest.raises(DataError, match=message):
            session.run(np.clip(x, 0, 1), 4, **{"early_exit": EarlyExit(), **options})
    with pytest.raises(DataError, match="the same at every time-step"):
        session.run(np.stack([x] * 4), 4, early_exit=EarlyExit())
    clip = "net (float[N, 1] x) => (float[N, 1] y) { y = Clip(x, zero, one) }"
    scalar = model(clip, {"zero": np.float32(0), "one": np.float32(1)})
    with pytest.raises(DataError, match="two classes or more"):
        SpikingSession(convert(scalar).model).run(
            np.ones((2, 1), np.float32), 4, early_exit=EarlyExit()
        )


@pytest.mark.parametrize(
    "tail",
    [
        "y = Softmax<axis = 1>(z)",
        "p = Softmax<axis = 1>(z) i = Identity(p) y = Reshape(i, shape)",
        "y = Sigmoid(z)",
        "p = Sigmoid(z) y = Reshape(p, shape)",
    ],
)
def test_probabilities_are_not_taken_for_logits(tail):
    rng = np.random.default_rng(3)
    weights = {
        "w": rng.normal(size=(4, 6)).astype(np.float32),
        "v": 4 * rng.normal(size=(6, 5)).astype(np.float32),
        "zero": np.float32(0),
        "one": np.float32(1),
        "shape": np.array([0, 5]),
    }
    text = (
        "net (float[N, 4] x) => (float[N, 5] y) "
        "{ c = MatMul(x, w) s = Clip(c, zero, one) z = MatMul(s, v) TAIL }"
    )
    plain, softmax = (
        SpikingSession(convert(model(text.replace("TAIL", end), weights)).model, threads=1)
        for end in ("y = Identity(z)", tail)
    )
    x = rng.normal(size=(30, 4)).astype(np.float32)
    by_logits = plain.run(x, 40, early_exit=EarlyExit(0.8)).sample_timesteps
    result = softmax.run(x, 40, early_exit=EarlyExit(0.8))
    np.testing.assert_array_equal(result.sample_timesteps, by_logits)
    assert 12 < by_logits.mean() < 40
    assert result.output.min() >= 0
    assert result.output.max() <= 1


def dense(text, width):
    """The network of a text, with dyadic weights."""
    rng = np.random.default_rng(5)
    weights = {"w": rng.integers(-8, 9, (4, 4)) / 8, "u": rng.integers(-8, 9, (4, width)) / 4}
    named = {name: value.astype(np.float32) for name, value in weights.items()}
    return convert(model(text, named | {"zero": np.float32(0), "one": np.float32(1)})).model


@pytest.mark.parametrize("samples", [5, 6, 7])
def test_samples_along_another_axis_cannot_leave(samples):
    """Also where there are as many time-steps of the sequence as samples."""
    snn = dense(
        "net (float[N, 6, 4] x) => (float[N, 3] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
        "c = Transpose<perm = [1, 0, 2]>(b) d = MatMul(c, w) e = Clip(d, zero, one) "
        "f = Transpose<perm = [1, 0, 2]>(e) g = MatMul(f, u) y = ReduceMean<axes = [1], "
        "keepdims = 0>(g) }",
        3,
    )
    with pytest.raises(DataError, match="along the first axis of all layers"):
        SpikingSession(snn, threads=1).run(
            np.ones((samples, 6, 4), np.float32), 8, early_exit=EarlyExit()
        )


def open_sizes(channels, between="c = Identity(b)"):
    """An ANN of a layer on images of any size."""
    rng = np.random.default_rng(2)
    shapes = {"w": (channels, 3, 3, 3), "u": (channels, 3)}
    weights = {n: (rng.integers(-4, 5, s) / 4).astype(np.float32) for n, s in shapes.items()}
    constants = {"zero": np.float32(0), "one": np.float32(1), "rows": np.int64(0)}
    text = (
        "net (float[N, 3, H, W] x) => (float[N, 3] y) { a = Conv<pads = [1, 1, 1, 1]>(x, w) "
        f"b = Clip(a, zero, one) {between} d = Clip(c, zero, one) "
        "g = GlobalAveragePool(d) f = Flatten(g) y = MatMul(f, u) }"
    )
    used = {name for name in constants if name in text}
    return model(text, weights | {name: constants[name] for name in used})


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("recipe", ["opi", "best"])
def test_samples_of_open_sizes_leave(recipe, plan, channels):
    """Also with neurons of two states, and of one channel, of which less is known."""
    x = np.random.default_rng(2).random((9, 3, 8, 8), np.float32)
    data = None if recipe == "opi" else from_arrays(x)
    snn = convert(open_sizes(channels), recipe=recipe, calibration=data).model
    session = SpikingSession(snn, threads=1, plan=plan)
    for images in (x, x[:, :, :6, :5]):
        early = session.run(images, 12, early_exit=EarlyExit(0.4, 1, 2))
        whole = session.run(images, 12, sorted({*map(int, early.sample_timesteps)}))
        for n, t in enumerate(early.sample_timesteps.tolist()):
            np.testing.assert_allclose(early.output[n], whole.outputs[t][n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize(
    "between",
    [
        "c = CumSum(b, rows)",
        "m = ReduceMean<axes = [0]>(b) c = Add(b, m)",
        "t = Transpose<perm = [1, 0, 2, 3]>(b) p = AveragePool<kernel_shape = [2, 2]>(t) "
        "e = Clip(p, zero, one) c = Transpose<perm = [1, 0, 2, 3]>(e)",
    ],
)
def test_samples_of_open_sizes_that_depend_on_each_other_cannot_leave(between, plan):
    session = SpikingSession(convert(open_sizes(1, between)).model, threads=1, plan=plan)
    with pytest.raises(DataError, match="along the first axis of all layers"):
        session.run(np.ones((4, 3, 8, 8), np.float32), 8, early_exit=EarlyExit())


@pytest.mark.parametrize("recipe", ["srp", "cos"])
@pytest.mark.parametrize("plan", ["auto", "step"])
def test_one_sample_of_a_network_with_a_clock(recipe, plan):
    network = dyadic.finish(2)
    x = dyadic.images(network, 3)
    snn = convert(dyadic.to_onnx(network), recipe=recipe, timesteps=12).model
    session, rule = SpikingSession(snn, threads=1, plan=plan), EarlyExit(0.3, 1, 3)
    whole = session.run(x, 20, early_exit=rule)
    for n in range(3):
        alone = session.run(x[n : n + 1], 20, early_exit=rule)
        np.testing.assert_array_equal(alone.sample_timesteps, whole.sample_timesteps[n : n + 1])
        np.testing.assert_array_equal(alone.output, whole.output[n : n + 1])


def test_outputs_without_rows_cannot_be_read_out():
    snn = dense(
        "net (float[N, 4] x) => (float[N, 3] y, float[M, 3] z) { a = MatMul(x, w) "
        "b = Clip(a, zero, one) y = MatMul(b, u) z = ReduceMean<axes = [0]>(y) }",
        3,
    )
    with pytest.raises(DataError, match=r"'z' is \[1, 3\] for 4"):
        SpikingSession(snn, threads=1).run(np.ones((4, 4), np.float32), 8, early_exit=EarlyExit())


@pytest.mark.parametrize(
    ("size", "layer"), [("float[M, 4]", "q = Clip(z, zero, one)"), ("float", "q = Identity(z)")]
)
@pytest.mark.parametrize("plan", ["auto", "step"])
def test_an_input_without_rows(size, layer, plan):
    """A layer that it alone feeds has one row for all samples, but counts with each of them."""
    snn = dense(
        f"net (float[N, 4] x, {size} z) => (float[N, 3] y) {{ a = MatMul(x, w) "
        f"b = Clip(a, zero, one) {layer} r = Add(b, q) g = MatMul(r, w) c = Clip(g, zero, one) "
        "y = MatMul(c, u) }",
        3,
    )
    rng = np.random.default_rng(8)
    x = (rng.integers(-8, 9, (30, 4)) / 4).astype(np.float32)
    z = np.full((1, 4) if "M" in size else (), 0.375, np.float32)
    session = SpikingSession(snn, threads=1, plan=plan)
    early = session.run({"x": x, "z": z}, 24, early_exit=EarlyExit(0.5, 1, 2))
    left = early.sample_timesteps.tolist()
    assert len(set(left)) > 1
    whole = session.run({"x": x, "z": z}, 24, sorted(set(left)))
    for n, t in enumerate(left):
        np.testing.assert_array_equal(early.output[n], whole.outputs[t][n])
        for name, counts in whole.readouts[t].spike_counts.items():
            of_it = np.broadcast_to(counts, (30, 4))[n]
            np.testing.assert_array_equal(early.spike_counts[name][n], of_it)


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize(("rows", "leaves"), [(1, True), (3, False), (9, False)])
def test_as_many_rows_of_another_input_as_samples_may_be_left(plan, rows, leaves):
    """What has a row for each sample could no longer be told: that is refused."""
    snn = dense(
        "net (float[N, 4] x, float[M, 4] z) => (float[N, 3] y) { a = MatMul(x, w) "
        "b = Clip(a, zero, one) c = MatMul(z, w) d = Clip(c, zero, one) "
        "m = ReduceMean<axes = [0], keepdims = 1>(d) r = Add(b, m) y = MatMul(r, u) }",
        3,
    )
    rng = np.random.default_rng(8)
    session = SpikingSession(snn, threads=1, plan=plan)
    given = {n: (rng.integers(-8, 9, (k, 4)) / 4).astype(np.float32)
             for n, k in {"x": 6, "z": rows}.items()}  # fmt: skip
    if not leaves:
        with pytest.raises(DataError, match="along the first axis"):
            session.run(given, 8, early_exit=EarlyExit())
        return
    early = session.run(given, 24, early_exit=EarlyExit(0.5, 1, 2))
    whole = session.run(given, 24, sorted({*map(int, early.sample_timesteps)}))
    for n, t in enumerate(early.sample_timesteps.tolist()):
        np.testing.assert_array_equal(early.output[n], whole.outputs[t][n])


@pytest.mark.parametrize(
    "of_all",
    ["s = Shape(a) n = Gather(s, first) f = Cast<to = 1>(n) b = Mul(a, f)",
     "m = ReduceMean<axes = [0], keepdims = 1>(a) b = Sub(a, m)",
     "b = Softmax<axis = 0>(a)", "b = LpNormalization<axis = 0>(a)"],
)  # fmt: skip
def test_samples_that_depend_on_others_cannot_leave(of_all):
    text = (
        "net (float[N, 4] x) => (float[N, 3] y) { g = Gemm(x, v) a = Clip(g, zero, one) "
        f"{of_all} h = Gemm(b, v) c = Clip(h, zero, one) y = Gemm(c, w) }}"
    )
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values |= {"v": np.eye(4, dtype=np.float32), "w": np.eye(4, 3, dtype=np.float32)}
    if "first" in text:
        values["first"] = np.int64(0)
    session = SpikingSession(convert(model(text, values), on_means=True).model, threads=1)
    with pytest.raises(DataError, match="computes each by itself"):
        session.run(np.ones((3, 4), np.float32), 8, early_exit=EarlyExit())


DEPENDING = {
    # Nothing changes before the sample that has the largest leaves, which is not the first.
    "y": ("", "m = ReduceMax<keepdims = 0>(l) d = Div(l, m) y = Mul(d, four)"),
    "c": (", int64[N, 4] c", "y = Identity(l) m = ReduceMean<axes = [0], keepdims = 1>(l) "
          "g = Greater(l, m) c = Cast<to = 7>(g)"),
    # As many rows as there are samples, and none of them a sample.
    "z": (", float[4, 4] z", "y = Identity(l) m = ReduceMean<axes = [0], keepdims = 1>(b) "
          "z = MatMul(ones, m)"),
}  # fmt: skip


@pytest.mark.parametrize("output", DEPENDING)
def test_what_depends_on_others_at_a_later_exit_or_elsewhere_is_refused(output):
    more, tail = DEPENDING[output]
    text = f"net (float[N, 4] x) => (float[N, 4] y{more}) {{ a = MatMul(x, w) "
    text += f"b = Clip(a, zero, one) l = MatMul(b, u) {tail} }}"
    values = {"w": np.eye(4), "u": 8 * np.eye(4), "zero": 0, "one": 1, "four": 4,
              "ones": np.ones((4, 1))}  # fmt: skip
    floats = {name: np.asarray(v, np.float32) for name, v in values.items() if name in text}
    session = SpikingSession(convert(model(text, floats)).model, threads=1)
    x = np.float32([[0.113, 0.747, 0.438, 0.132], [1, 0.425, 0.671, 0.35],
                    [0.485, 0.3, 0.907, 0.143], [0.13, 0.053, 0.041, 0.119]])  # fmt: skip
    rule = EarlyExit(confidence=0.7 if output == "y" else 0.9, stable=1, every=4)
    with pytest.raises(DataError, match=f"'{output}' depends on the other samples"):
        session.run(x, 32, early_exit=rule)


@pytest.mark.parametrize(
    "tail",
    ["m = ReduceMean<axes = [0], keepdims = 1>(l) y = Sub(l, m)", "y = Softmax<axis = 0>(l)",
     "y = Slice(l, last, first, rows, back)"],
)  # fmt: skip
@pytest.mark.parametrize("plan", ["auto", "step"])
def test_a_read_out_that_depends_on_others_is_refused(tail, plan):
    text = (
        "net (float[N, 4] x) => (float[N, 3] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
        f"l = MatMul(b, u) {tail} }}"
    )
    rng = np.random.default_rng(0)
    values = {name: (rng.integers(-4, 5, shape) / 4).astype(np.float32)
              for name, shape in {"w": (4, 6), "u": (6, 3)}.items()}  # fmt: skip
    values |= {"zero": np.float32(0), "one": np.float32(1)}
    for name, number in {"last": -1, "first": -99, "rows": 0, "back": -1}.items():
        values |= {name: np.array([number], np.int64)} if f" {name}" in tail else {}
    session = SpikingSession(convert(model(text, values)).model, threads=1, plan=plan)
    x = rng.random((6, 4), dtype=np.float32)
    with pytest.raises(DataError, match="'y' depends on the other samples"):
        session.run(x, 24, early_exit=EarlyExit(0.55, 1, 2))
    # The session is at v(0) again, and of use.
    assert session.run(x, 4).output.shape == (6, 3)


def test_what_does_not_fit_is_refused_in_the_same_words():
    """It counts on the prologue, too."""
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1, max_memory=1000)
    refused = []
    for options in ({}, {"early_exit": EarlyExit()}):
        with pytest.raises(DataError, match="needs about") as error:
            session.run(dyadic.images(network, 7), 20, **options)
        refused.append(str(error.value))
    assert refused[0] == refused[1]


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_one_sample_of_several_rows(plan):
    """Its layers have more rows than there are samples; of two such a network is refused."""
    text = (
        "net (float[N, 5, 4] x) => (float[N, 3] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
        "c = Reshape(b, rows) d = MatMul(c, u) e = Clip(d, zero, one) f = Reshape(e, all) "
        "y = MatMul(f, v) }"
    )
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 6), "u": (6, 5), "v": (25, 3)}
    weights = {n: (rng.integers(-4, 5, s) / 8).astype(np.float32) for n, s in shapes.items()}
    weights |= {"zero": np.float32(0), "one": np.float32(1)}
    weights |= {"rows": np.array([-1, 6]), "all": np.array([-1, 25])}
    session = SpikingSession(convert(model(text, weights)).model, threads=1, plan=plan)
    x = (rng.integers(0, 9, (1, 5, 4)) / 8).astype(np.float32)
    left = session.run(x, 40, early_exit=EarlyExit(confidence=0.0, stable=1, every=8))
    assert list(left.sample_timesteps) == [8]
    whole = session.run(x, 8)
    np.testing.assert_array_equal(left.output, whole.output)
    assert [counts.shape for counts in whole.spike_counts.values()] == [(1, 5, 6), (5, 5)]
    for name, counts in whole.spike_counts.items():
        np.testing.assert_array_equal(left.spike_counts[name], counts)
    assert left.firing_rates == whole.firing_rates


def test_a_look_when_the_delay_is_over_is_none():
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network), delay=8).model, threads=1)
    rule = EarlyExit(confidence=0.0, stable=1, every=4)
    result = session.run(dyadic.images(network, 5), 16, early_exit=rule)
    assert set(result.sample_timesteps) == {12}


def test_as_much_confidence_as_wanted_is_enough():
    """Two classes that are alike: each has 0.5."""
    text = "net (float[N, 2] x) => (float[N, 2] y) { y = Clip(x, zero, one) }"
    snn = convert(model(text, {"zero": np.float32(0), "one": np.float32(1)})).model
    rule = EarlyExit(confidence=0.5, stable=1, every=4)
    result = SpikingSession(snn).run(np.ones((3, 2), np.float32), 8, early_exit=rule)
    assert result.sample_timesteps.tolist() == [4, 4, 4]


def test_outputs_of_whole_numbers_are_read_out_where_samples_leave():
    text = (
        "net (float[N, 4] x) => (float[N, 3] y, int64[N] c) { a = MatMul(x, w) "
        "b = Clip(a, zero, one) y = MatMul(b, u) c = ArgMax<axis = 1, keepdims = 0>(y) }"
    )
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 6), "u": (6, 3)}
    values = {n: (rng.integers(-4, 5, s) / 4).astype(np.float32) for n, s in shapes.items()}
    values |= {"zero": np.float32(0), "one": np.float32(1)}
    session = SpikingSession(convert(model(text, values)).model, threads=1)
    x = rng.random((6, 4), dtype=np.float32)
    result = session.run(x, 24, early_exit=EarlyExit(confidence=0.55, stable=1, every=2))
    assert len(set(result.sample_timesteps)) > 1
    found = result.readouts[24].values
    np.testing.assert_array_equal(found["c"], found["y"].argmax(1))


def test_labels_may_come_before_scores():
    """As scikit-learn's converter has them."""
    network = dyadic.finish(2)
    ann = dyadic.to_onnx(network)
    x, rule = dyadic.images(network, 12), EarlyExit(0.3, 1, 2)
    wanted = SpikingSession(convert(ann).model, threads=1).run(x, 22, early_exit=rule)
    assert len(set(wanted.sample_timesteps)) > 1
    scores = ann.graph.output[0].name
    ann.graph.node.append(onnx.helper.make_node("ArgMax", [scores], ["label"], axis=1, keepdims=0))
    label = onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"])
    ann.graph.output.insert(0, label)
    session = SpikingSession(convert(ann).model, threads=1)
    found = session.run(x, 22, early_exit=rule)
    assert session.outputs[0] == "label"
    np.testing.assert_array_equal(found.sample_timesteps, wanted.sample_timesteps)
    np.testing.assert_array_equal(found.values[scores], wanted.output)
    np.testing.assert_array_equal(found.output, wanted.output.argmax(1))


def test_scores_may_be_whole_numbers():
    text = "net (float[N, 4] x) => (int32[N, 3] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
    text += "l = MatMul(b, u) y = Cast<to = 6>(l) }"
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(4, 16)), "u": rng.normal(size=(16, 3))}
    values = {name: np.float32(v) for name, v in (values | {"zero": 0, "one": 1}).items()}
    session = SpikingSession(convert(model(text, values)).model, threads=1)
    x = rng.random((12, 4), dtype=np.float32)
    found = session.run(x, 24, early_exit=EarlyExit(0.6, 1, 2))
    assert len(set(found.sample_timesteps)) > 1


def test_scores_of_several_places_are_no_classes():
    text = "net (float[N, 3, 2] x) => (float[N, 3, 2] y) { y = Clip(x, zero, one) }"
    snn = convert(model(text, {"zero": np.float32(0), "one": np.float32(1)})).model
    with pytest.raises(
        DataError, match=r"scores \[N, classes\], of two classes.*float32\[2, 3, 2\]"
    ):
        SpikingSession(snn).run(np.ones((2, 3, 2), np.float32), 8, early_exit=EarlyExit())


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_samples_that_leave_after_sums_were_brought_in(plan, monkeypatch):
    monkeypatch.setattr(derived_sums, "MOST_STEPS", 8)
    monkeypatch.setattr(sums, "MOST_STEPS_CARRIED", 8)
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1, plan=plan)
    x = dyadic.images(network, 12)
    early = session.run(x, 48, early_exit=EarlyExit(confidence=0.3, stable=3, every=4))
    leaves = early.sample_timesteps
    assert len(set(leaves[leaves > 8])) > 1
    whole = session.run(x, 48, sorted({*leaves.tolist(), 48}))
    for n, t in enumerate(leaves.tolist()):
        np.testing.assert_array_equal(early.output[n], whole.readouts[t].output[n])
        for name, counts in early.spike_counts.items():
            np.testing.assert_array_equal(counts[n], whole.readouts[t].spike_counts[name][n])


SCORES = (
    "net (float[N, 4] x) => (float[N, 3] y{}) {{ a = MatMul(x, w) b = Clip(a, zero, one) "
    "y = MatMul(b, u) {} }}"
)


def test_a_softmax_beside_the_scores_makes_no_probabilities_of_them():
    plain = SpikingSession(dense(SCORES.format("", ""), 3), threads=1)
    beside = SpikingSession(dense(SCORES.format(", float[N, 3] z", "z = Softmax(y)"), 3), threads=1)
    x = np.random.default_rng(8).normal(size=(30, 4)).astype(np.float32)
    rule = EarlyExit(0.5, 1, 2)
    left = [session.run(x, 24, early_exit=rule).sample_timesteps for session in (plain, beside)]
    assert len(set(left[0])) > 1
    np.testing.assert_array_equal(*left)


def test_a_read_out_of_a_mask_takes_that_of_the_samples_that_stay():
    text = SCORES.replace("x)", "x, bool[N, 3] m)").format("", "")
    session = SpikingSession(
        dense(text.replace("y = MatMul(b, u)", "l = MatMul(b, u) y = Where(m, l, zero)"), 3),
        threads=1,
    )
    rng = np.random.default_rng(8)
    inputs = {"x": rng.normal(size=(30, 4)).astype(np.float32), "m": rng.random((30, 3)) < 0.8}
    early = session.run(inputs, 24, early_exit=EarlyExit(0.5, 1, 2))
    leaves = early.sample_timesteps.tolist()
    assert len(set(leaves)) > 1
    whole = session.run(inputs, 24, sorted(set(leaves)))
    for n, t in enumerate(leaves):
        np.testing.assert_array_equal(early.output[n], whole.readouts[t].output[n])


@pytest.mark.parametrize(
    "tail",
    ["y = Cast<to = 1>(p)", "y = Flatten(p)", "y = Squeeze(p)", "y = Transpose<perm = [0, 1]>(p)",
     "y = Unsqueeze(p, axes)"],
)  # fmt: skip
def test_a_softmax_in_another_shape_is_one(tail):
    text = f"net (float[2, 3] z) => (float y) {{ p = Softmax<axis = 1>(z) {tail} }}"
    axes, shape = ({"axes": np.array([2])}, "a, b, c") if "axes" in tail else ({}, "a, b")
    read_out = model(text.replace("float y", f"float[{shape}] y"), axes)
    assert last_op(read_out, "y") == "Softmax"


def test_a_fixed_batch_cannot_leave():
    text = (
        "net (float[4, 3] x) => (float[4, 2] y) { m = MatMul(k, x) a = Gemm(m, w) r = Relu(a) "
        "b = Gemm(r, u) q = Relu(b) y = Gemm(q, v) }"
    )
    ann = model(text, WEIGHTS | {"k": np.float32(np.eye(4) + 0.1)})
    snn = convert(ann, calibration=from_arrays(X), recipe="opi").model
    with pytest.raises(DataError, match="batch size is not fixed"):
        SpikingSession(snn).run(X[:4], 8, early_exit=EarlyExit())


def test_outputs_of_more_rows_than_samples_cannot_be_read_out():
    session = SpikingSession(
        dense(SCORES.format(", float[M, 3] z", "z = Concat<axis = 0>(y, y)"), 3)
    )
    with pytest.raises(DataError, match=r"'z' is \[8, 3\] for 4"):
        session.run(np.ones((4, 4), np.float32), 8, early_exit=EarlyExit())


def test_no_look_is_planned_before_it_is_due():
    """At samples that leave at once T makes no difference."""
    looks = EarlyExit(every=4).looks_at(2**31 - 1)
    assert list(itertools.islice(looks, 3)) == [4, 8, 12]
    assert list(EarlyExit(every=4).looks_at(8)) == [4, 8]
    assert list(EarlyExit(every=4).looks_at(3)) == [3]


def test_logits_of_the_least_probabilities():
    least = np.float32([[1e-30, 1e-20, 1]])
    np.testing.assert_allclose(logits(least, "Softmax"), np.log(least.astype(np.float64)))


def test_looks_before_the_last_stable_ones_do_not_count():
    first, second = np.float32([[9, 0]]), np.float32([[0, 9]])
    rule = EarlyExit(0.5, stable=2, every=1)
    assert rule.settled([first, second, second])
    assert not rule.settled([second, first, second])
