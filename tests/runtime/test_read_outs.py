"""Read-outs that take shapes, masks and indices, against the file itself, step by step."""

import functools

import numpy as np
import onnx
import proof
import pytest
import stock
from onnx_text import model

from onnx2snn import EarlyExit, ModelError, SpikingSession, convert
from onnx2snn.runtime.loop import loop_model

TIMESTEPS = 4
WEIGHTS = {"zero": np.float32(0), "one": np.float32(1)}
X, MASK, INDEX = "float[N, 6] x", "bool[N, 6] m", "int64[N, 6] k"
SHAPES = {
    "of what follows an average": (X, "p = Softmax(c) s = Shape(p) e = Expand(c, s) y = Mul(e, p)"),
    "for another output": (
        X, "p = Softmax(c) s = Shape(p) w = Expand(c, s) y = Mul(p, p)", "float[N, 6] w",
    ),
    "for an output of nothing else": (
        X, "y = Softmax(c) s = Shape(y) w = Expand(one, s)", "float[N, 6] w",
    ),
    "for the input": (X, "p = Softmax(c) s = Shape(p) e = Expand(x, s) y = Mul(e, p)"),
    "of spikes, for the input": (X, "s = Shape(c) e = Expand(x, s) y = Add(e, c)"),
    "of a sum of spikes, for the input": (
        X, "d = Add(c, c) s = Shape(d) e = Expand(x, s) r = Mul(e, e) y = Add(r, d)",
    ),
    "of spikes, for a neuron": (X, "s = Shape(c) e = Expand(x, s) y = Clip(e, zero, one)"),
    "for a mask": (
        f"{X}, {MASK}", "p = Softmax(c) s = Shape(p) e = Expand(m, s) y = Where(e, p, zero)",
    ),
    "of spikes, for a mask": (f"{X}, {MASK}", "s = Shape(c) e = Expand(m, s) y = Where(e, c, one)"),
    "of spikes, for a comparison": (
        X, "s = Shape(c) e = Expand(x, s) f = Less(e, c) y = Where(f, c, one)",
    ),
}  # fmt: skip
NO_MEANS = {
    "a mask": (f"{X}, {MASK}", "y = Where(m, c, zero)"),
    "a mask of the input": (X, "m = Less(x, zero) d = Add(c, c) y = Where(m, one, d)"),
    "indices": (f"{X}, {INDEX}", "y = GatherElements<axis = 1>(c, k)"),
    "indices of another type": (
        f"{X}, int16[N, 6] k", "l = Cast<to = 7>(k) y = ScatterElements<axis = 1>(c, l, x)",
    ),
    "what is an output too": (
        f"{X}, {INDEX}", "y = GatherElements<axis = 1>(c, k) w = Identity(k)", "int64[N, 6] w",
    ),
    "numbers beside them": (f"{X}, {INDEX}", "y = Neg(c) w = Identity(k)", "int64[N, 6] w"),
    "sums of numbers beside them": (f"{X}, {INDEX}", "y = Neg(c) w = Add(k, k)", "int64[N, 6] w"),
    "a mask beside them": (f"{X}, {MASK}", "y = Neg(c) w = Not(m)", "bool[N, 6] w"),
    "a mask before a Softmax": (f"{X}, {MASK}", "d = Where(m, c, one) y = Softmax(d)"),
    "a mask, and a factor": (f"{X}, {MASK}", "d = Where(m, c, zero) y = Mul(d, x)"),
}  # fmt: skip
NETWORKS = SHAPES | NO_MEANS


@functools.cache
def network(name, delay=None):
    inputs, nodes, *outputs = NETWORKS[name]
    outputs = ", ".join(["float[N, 6] y", *outputs])
    text = f"g ({inputs}) => ({outputs}) {{ c = Clip(x, zero, one) {nodes} }}"
    return convert(model(text, WEIGHTS), delay=delay).model


def inputs_of(session, t):
    """Others at each time-step."""
    rng = np.random.default_rng(t)
    # ScatterElements must write to no place twice.
    k = np.argsort(rng.random((3, 6)), axis=1)
    every = {
        "x": rng.integers(-2, 9, (3, 6)).astype(np.float32) / 8,
        "m": rng.random((3, 6)) < 0.5,
        "k": k.astype(session._plan.inputs[-1].dtype),
    }
    return {name: every[name] for name in session.inputs}


def stepped(snn, feeds):
    """The outputs of the file at each time-step, and the read-outs that docs/neurons.md takes."""
    known = [given.name for given in snn.graph.input if given.name in feeds[0]]
    feed = {name: [each[name] for each in feeds] for name in known}
    now = [outputs for outputs, _ in stock.steps(snn, feed, len(feeds), "off")]
    last = proof.behind_running_means(snn) | {n for n, v in now[0].items() if v.dtype.kind != "f"}
    read = [
        {n: v if n in last else np.mean([f[n] for f in now[:t]], 0) for n, v in now[t - 1].items()}
        for t in range(1, len(now) + 1)
    ]
    return now, read


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, 1e-6, 1e-6)


@pytest.mark.parametrize("options", [{}, {"delay": 2}], ids=["", "delay"])
@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("varying", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_session_says_what_the_file_says(name, varying, plan, options):
    snn = network(name, **options)
    session = SpikingSession(snn, plan=plan)
    feeds = [inputs_of(session, t if varying else 0) for t in range(TIMESTEPS)]
    now, read = stepped(snn, feeds)
    given = {n: np.stack([f[n] for f in feeds]) if varying else feeds[0][n] for n in feeds[0]}
    result = session.run(given, TIMESTEPS, [1, 2, 3])
    for t, wanted in enumerate(read, start=1):
        assert_equal(result.readouts[t].values, wanted)
    session.reset()
    for feed, wanted in zip(feeds, now, strict=True):
        found = session.step(feed)
        found = found if isinstance(found, dict) else {"y": found}
        assert_equal(found, wanted)


@pytest.mark.parametrize("timesteps", [TIMESTEPS, None])
@pytest.mark.parametrize(
    "options",
    [{}, {"inline": True}, {"each_step": True, "rates": True}, {"unroll": True}],
    ids=["loop", "inlined", "each step", "unrolled"],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_loop_file_says_what_the_session_says(name, options, timesteps):
    if options.get("unroll") and timesteps is None:
        pytest.skip("only a fixed number of time-steps can be unrolled")
    snn = network(name)
    session = SpikingSession(snn)
    feed = inputs_of(session, 0)
    wanted = session.run(feed, TIMESTEPS, range(1, TIMESTEPS + 1))
    file = loop_model(snn, timesteps, **options)
    onnx.checker.check_model(file, full_check=True)
    found = stock.run(file, {**feed, "timesteps": TIMESTEPS})
    for output, value in wanted.values.items():
        np.testing.assert_array_equal(found[output], value)
        if "each_step" in options:
            each = [wanted.readouts[t].values[output] for t in range(1, TIMESTEPS + 1)]
            np.testing.assert_array_equal(found[f"steps/{output}"], np.stack(each))


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("timesteps", [1, 3, 300])
def test_large_numbers_pass_as_they_are(plan, timesteps):
    """float64 has no odd ones beyond 2**53; and no sum of uint8 is kept, which would overflow."""
    text = (
        "g (float[N, 6] x, int64[N] k, uint8[N, 6] u) => (float[N, 6] y, int64[N] w, "
        "uint8[N, 6] v) { c = Clip(x, zero, one) d = Clip(c, zero, one) y = Neg(d) "
        "w = Identity(k) v = Identity(u) }"
    )
    snn = convert(model(text, WEIGHTS)).model
    k = np.array([5, 2**53 + 1, 1234567890123456789, -(2**62) - 1])
    feed = {"x": np.ones((4, 6), np.float32), "k": k, "u": np.full((4, 6), 200, np.uint8)}
    result = SpikingSession(snn, plan=plan).run(feed, timesteps)
    found = stock.run(loop_model(snn, timesteps), feed)
    for values in (result.values, found):
        np.testing.assert_array_equal(values["w"], k)
        np.testing.assert_array_equal(values["v"], feed["u"])
    (counts,) = result.spike_counts.values()
    assert counts.sum() == 24 * timesteps


@pytest.mark.parametrize("name", ["a mask", "indices"])
def test_samples_leave_early_with_their_own(name):
    session = SpikingSession(network(name))
    feed = inputs_of(session, 0)
    rule = EarlyExit(confidence=0.2, stable=2, every=3)
    result = session.run(feed, 32, early_exit=rule)
    assert len(set(result.sample_timesteps)) > 1
    for row, t in enumerate(result.sample_timesteps):
        alone = {input_: value[row : row + 1] for input_, value in feed.items()}
        np.testing.assert_array_equal(result.output[row], session.run(alone, t).output[0])


def test_an_average_that_needs_a_shape_of_the_read_out_is_refused():
    """As releases wrote it, when what takes a shape was averaged afterwards."""
    snn = network("of what follows an average")
    (expand,) = [node for node in snn.graph.node if node.op_type == "Expand"]
    assert expand.input[0] == "c/mean"
    expand.input[0] = "c"
    with pytest.raises(ModelError, match=r"Expand 'e' depends on the shape.*convert"):
        SpikingSession(snn)


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_an_input_of_no_axes_in_the_read_out(plan):
    proto = model(
        "g (float[N, 2] x, float s) => (float[N, 2] y) { c = Clip(x, zero, one) y = Mul(c, s) }",
        WEIGHTS,
    )
    session = SpikingSession(convert(proto).model, plan=plan)
    x = np.array([[0.25, 0.5], [1, 2]], np.float32)
    found = session.run({"x": x, "s": np.array(0.5, np.float32)}, 64).output
    np.testing.assert_array_equal(found, x.clip(0, 1) / 2)


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_an_output_of_no_axes_behind_an_average(plan):
    proto = model(
        "g (float[N, 2] x) => (bool y) { c = Clip(x, zero, one) s = ReduceSum<keepdims = 0>(c) "
        "y = Greater(s, one) }",
        WEIGHTS,
    )
    session = SpikingSession(convert(proto).model, plan=plan)
    found = session.run(np.float32([[0.25, 0.5], [1, 0]]), 8, readout=[4])
    assert [found.readouts[t].output.shape for t in (4, 8)] == [(), ()]
    assert found.output


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_one_number_of_all_spikes_is_read_out_at_any_time(plan, monkeypatch):
    """Also after its sums were brought in, and it is an array, without axes."""
    monkeypatch.setattr("onnx2snn.runtime.sums.MOST_STEPS_CARRIED", 8)
    text = (
        "net (float[N, 4] x) => (float[N, 4] y, float z) { a = Clip(x, zero, one) "
        "z = ReduceMean<keepdims = 0>(a) b = Add(a, z) y = Clip(b, zero, one) }"
    )
    snn = convert(model(text, WEIGHTS)).model
    x = np.float32([[0.25, 0.5, 0.75, 0.125]])
    session = SpikingSession(snn, threads=1, plan=plan)
    for timesteps in (300, 16, 8):
        result = session.run(x, timesteps)
        found = result.values["z"]
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, result.spike_counts["a"].mean() / timesteps, rtol=1e-6)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("timesteps", [16, 300])
def test_time_steps_may_read_one_number(given, timesteps):
    """An input without axes, or what is computed of one before the first time-step."""
    text = (
        "net (float[N, 4] x, float s) => (float[N, 2] y) { a = Clip(x, zero, one) b = MatMul(a, w) "
        "c = Add(b, t) d = Clip(c, zero, one) y = MatMul(d, v) }"
    )
    text = (
        text.replace("(b, t)", "(b, s)")
        if given
        else text.replace(", float s", "").replace("{ a", "{ t = ReduceMax<keepdims = 0>(x) a")
    )
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-4, 5, (4, 3)) / 4, "v": rng.integers(-4, 5, (3, 2)) / 4}
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    snn = convert(model(text, WEIGHTS | weights)).model
    x = {"x": np.float32([[0.25, 0.5, 0.75, 0.125], [1, 0.5, 0, 2]])}
    x |= {"s": np.array(0.25, np.float32)} if given else {}
    auto, step = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    found, wanted = auto.run(x, timesteps), step.run(x, timesteps)
    np.testing.assert_array_equal(found.output, wanted.output)
    for result in (found, wanted):
        # v(0) = V_th / 2, and a potential of V_th is no spike yet.
        spikes = np.ceil(x["x"].clip(0, 1) * timesteps - 0.5)
        np.testing.assert_array_equal(result.spike_counts["a"], spikes)
        rates = result.spike_counts["d"] / timesteps
        np.testing.assert_allclose(rates @ weights["v"], result.output, atol=1e-6)
