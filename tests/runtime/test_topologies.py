"""Graphs of unusual form, each against a plain loop of stock ONNX Runtime."""

import numpy as np
import pytest
import stock
from alike import same
from onnx_text import model

from onnx2snn import (
    DataError,
    SpikingSession,
    UnsupportedModelError,
    convert,
    evaluate,
    from_arrays,
    to_loop,
)

RNG = np.random.default_rng(0)
WEIGHTS = {
    "lo": np.float32(0), "hi": np.float32(1), "two": np.float32(2),
    "w": (RNG.integers(-4, 5, (8, 8)) / 8).astype(np.float32),
    "k": (RNG.integers(-4, 5, (2, 2, 1, 1)) / 8).astype(np.float32),
    "i0": np.array(0), "m1": np.array([-1]), "ax": np.array([0]), "minus": np.array([-1]),
}  # fmt: skip
IMAGE = "g (float[N, 2, 2, 2] x)"
X = (RNG.integers(-8, 9, (3, 2, 2, 2)) / 8).astype(np.float32)
RESHAPE = (
    "s = Shape({0}) n = Gather(s, i0) u = Unsqueeze(n, ax) c = Concat<axis = 0>(u, m1) "
    "r = Reshape({1}, c)"
)

CASES = {
    "neuron on the input": "=> (float[N, 2, 2, 2] y) { z = Clip(x, lo, hi) y = Mul(z, two) }",
    "neuron at the end": "=> (float[N, 2, 2, 2] y) { c = Conv(x, k) y = Clip(c, lo, hi) }",
    "input added later": (
        "=> (float[N, 2, 2, 2] y) { z = Clip(x, lo, hi) a = Add(z, x) q = Clip(a, lo, two) "
        "y = Conv(q, k) }"
    ),
    "input straight to the output": (
        "=> (float[N, 2, 2, 2] y) { c = Conv(x, k) z = Clip(c, lo, hi) y = Add(z, x) }"
    ),
    "input concatenated with spikes": (
        "=> (float[N, 4, 2, 2] y) { z = Clip(x, lo, hi) y = Concat<axis = 1>(x, z) }"
    ),
    "two neurons in a row with a branch": (
        "=> (float[N, 2, 2, 2] y) { a = Clip(x, lo, two) b = Clip(a, lo, hi) y = Add(a, b) }"
    ),
    "size from the spikes' shape": (
        f"=> (float[N, 8] y) {{ z = Clip(x, lo, hi) {RESHAPE.format('z', 'z')} y = MatMul(r, w) }}"
    ),
    "size from the input's shape": (
        f"=> (float[N, 8] y) {{ z = Clip(x, lo, hi) {RESHAPE.format('x', 'z')} y = MatMul(r, w) }}"
    ),
    "sizes from shapes before a further neuron": (
        f"=> (float[N, 8] y) {{ z = Clip(x, lo, hi) {RESHAPE.format('z', 'z')} m = MatMul(r, w) "
        "q = Clip(m, lo, hi) y = Reshape(q, c) }"
    ),
    "shape arithmetic with a Clip of integers": (
        "=> (float[N, 8] y) { z = Clip(x, lo, hi) s = Shape(x) n = Gather(s, i0) "
        "p = Clip(n, i0) u = Unsqueeze(p, ax) c = Concat<axis = 0>(u, m1) y = Reshape(z, c) }"
    ),
    "names that the plan might use": (
        "=> (float[N, 2, 2, 2] y) { z = Clip(x, lo, hi) u = Mul(z, two) s = Add(u, z) "
        "y = Clip(s, lo, two) }"
    ),
}


def plain_loop(proto, x, timesteps):
    steps = list(stock.steps(proto, {"x": x}, timesteps))
    return sum(outputs["y"] for outputs, _ in steps) / np.float32(timesteps), steps[-1][1]


@pytest.mark.parametrize("name", CASES)
def test_equals_a_plain_loop(name):
    snn = convert(model(f"{IMAGE} {CASES[name]}", WEIGHTS)).model
    session = SpikingSession(snn)
    for samples in (3, 1, 2):
        wanted, state = plain_loop(snn, X[:samples], 16)
        np.testing.assert_array_equal(session.run(X[:samples], 16).output, wanted)
        for key, value in session.state.items():
            np.testing.assert_array_equal(value, state[key])
        session.reset()
        steps = [session.step(X[:samples]) for _ in range(16)]
        np.testing.assert_array_equal(sum(steps) / np.float32(16), wanted)


def test_names_of_the_users_tensors_are_no_obstacle():
    text = f"{IMAGE} => (float[N, 2, 2, 2] y) {{ z = Clip(x, lo, hi) q = Mul(z, two) y = Neg(q) }}"
    for taken in ("v/z", "v_next/z", "plan/z/u", "plan/sum/z", "_plan/q"):
        proto = model(text, WEIGHTS)
        for node in proto.graph.node:
            for names in (node.input, node.output):
                names[:] = [taken if name == "q" else name for name in names]
        snn = convert(proto).model
        np.testing.assert_array_equal(
            SpikingSession(snn).run(X, 8).output, plain_loop(snn, X, 8)[0]
        )


@pytest.mark.parametrize(
    ("node", "spikes", "last"),
    [
        # A neuron's node, and what another emits: a sum, a potential, a threshold, a count.
        ("sum", "q", "u"), ("sum/a", "q", "a/u"), ("sum", "V_th", "q"), ("n", "q", "more"),
        ("before", "v/spent", "q"), ("before/v", "q", "spent"), ("silent", "none", "q"),
        ("n", "q", "q/u"), ("n", "0", "u"), ("n", "q/x", "q"), ("positive", "q", "u"),
    ],
)  # fmt: skip
def test_names_of_nodes_and_tensors_may_be_any(node, spikes, last):
    text = (
        f"{IMAGE} => (float[N, 2, 2, 2] y) {{ a = Conv(x, k) b = Clip(a, lo, hi) c = Conv(b, k) "
        "d = Clip(c, lo, hi) e = Conv(d, k) y = Clip(e, lo, hi) }"
    )
    wanted = SpikingSession(convert(model(text, WEIGHTS)).model).run(X, 13, [4])
    proto = model(text, WEIGHTS)
    given = {"b": spikes, "d": last}
    for each in proto.graph.node:
        for names in (each.input, each.output):
            names[:] = [given.get(name, name) for name in names]
    proto.graph.node[1].name = node
    snn = convert(proto).model
    found = SpikingSession(snn).run(X, 13, [4])
    for t in (4, 13):
        np.testing.assert_array_equal(found.outputs[t], wanted.outputs[t])
        counts, plain = (list(r.readouts[t].spike_counts.values()) for r in (found, wanted))
        np.testing.assert_array_equal(counts, plain)
    (looped,) = stock.run(to_loop(snn, 13), {"x": X}).values()
    np.testing.assert_array_equal(looped, wanted.output)


@pytest.mark.parametrize(
    ("timesteps", "threshold"), [(100, 0.1), (1000, 30), (3000, 1), (5000, 30)]
)
def test_half_precision_counts_every_spike(timesteps, threshold):
    one, bound = np.float16(1), np.float16(threshold)
    proto = model(
        "g (float16[N, 3] x) => (float16[N, 3] y) { z = Clip(x, lo, hi) y = Mul(z, one) }",
        {"lo": np.float16(0), "hi": bound, "one": one},
    )
    x = np.full((1, 3), 9 * bound, np.float16)
    result = SpikingSession(convert(proto).model).run(x, timesteps)
    np.testing.assert_array_equal(result.spike_counts["z"], timesteps)
    np.testing.assert_array_equal(result.output, bound)


def test_largest_number_of_half_precision_is_no_bound():
    proto = model(
        "g (float16[N, 3] x) => (float16[N, 3] y) { y = Clip(x, lo, hi) }",
        {"lo": np.float16(0), "hi": np.float16(65504)},
    )
    with pytest.raises(UnsupportedModelError, match="calibration data"):
        convert(proto)


def test_bounds_of_channels_that_are_integers():
    """No type's largest number is looked for among them."""
    text = (
        "g (int32[N, 3] x) => (float[N, 3] y) "
        "{ r = Relu(x) c = Min(r, t) f = Cast<to = 1>(c) y = Clip(f, lo, hi) }"
    )
    weights = {"t": np.int32([1, 2, 3]), "lo": np.float32(0), "hi": np.float32(1)}
    thresholds = [neuron.threshold.tolist() for neuron in convert(model(text, weights)).neurons]
    assert thresholds == [[1, 2, 3], 1]


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_a_layer_between_neurons_whose_bias_is_left_out_by_name(plan):
    text = (
        "g (float[N, 3] x) => (float[N, 3] y) "
        "{ a = Clip(x, lo, hi) b = Gemm(a, w) y = Clip(b, lo, hi) }"
    )
    weights = {"w": np.eye(3, dtype=np.float32), "lo": np.float32(0), "hi": np.float32(1)}
    proto = model(text, weights)
    proto.graph.node[1].input.append("")
    x = np.float32([[0.25, 0.5, 1]])
    found = SpikingSession(convert(proto).model, threads=1, plan=plan).run(x, 32)
    np.testing.assert_array_equal(found.output, x)


def test_outputs_that_are_constant_are_refused():
    proto = model(
        "g (float[N, 3] x) => (float[N, 2] y, float[3, 2] w, float[2] z) "
        "{ r = Relu(x) y = MatMul(r, w) z = Add(b, b) }",
        {"w": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)},
    )
    with pytest.raises(UnsupportedModelError, match="output 'w', 'z': depends on no input"):
        convert(proto, calibration=from_arrays(np.ones((4, 3), np.float32)))


def test_what_is_left_out_depends_on_no_input():
    """Of the Dropout the second output, of the Clip the lower bound."""
    proto = model(
        "g (float[N, 2] x) => (float[N, 2] y, float[2] z) "
        "{ d, m = Dropout(x) y = Relu(d) z = Clip(b, b0, one) }",
        {"b": np.ones(2, np.float32), "b0": np.float32(0), "one": np.float32(1)},
    )
    proto.graph.node[0].output[1] = proto.graph.node[2].input[1] = ""
    with pytest.raises(UnsupportedModelError, match="depends on no input"):
        convert(proto, calibration=from_arrays(np.ones((4, 2), np.float32)))


def test_spikes_that_a_branch_captures_are_seen():
    proto = model(
        "g (float[N, 2] x) => (float[N, 2] y) { z = Clip(x, lo, hi) m = ReduceSum<keepdims = 0>(x) "
        "q = Greater(m, lo) y = If(q) <then_branch = a () => (float[N, 2] t) { t = Neg(z) }, "
        "else_branch = b () => (float[N, 2] e) { e = Mul(z, z) }> }",
        {"lo": np.float32(0), "hi": np.float32(1)},
    )
    with pytest.raises(UnsupportedModelError, match="If"):
        convert(proto)


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 2, 1, 1)])
def test_thresholds_per_channel_with_or_without_a_batch_axis(shape):
    theta = np.array([1, 2], np.float32).reshape(shape)
    text = f"{IMAGE} => (float[N, 2, 2, 2] y) {{ r = Relu(x) y = Min(r, theta) }}"
    snn = convert(model(text, {"theta": theta})).model
    session = SpikingSession(snn)
    assert session.neurons[0].threshold.shape == (2, 1, 1)
    np.testing.assert_array_equal(session.run(X, 8).output, plain_loop(snn, X, 8)[0])


def test_a_threshold_per_sample_is_refused():
    text = "g (float[2, 3] x) => (float[2, 3] y) { r = Relu(x) y = Min(r, theta) }"
    theta = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    with pytest.raises(UnsupportedModelError, match="cannot depend on the batch axis"):
        convert(model(text, {"theta": theta}))


def test_the_largest_number_is_no_bound_in_a_min_either():
    text = "g (float[N, 3] x) => (float[N, 3] y) { r = Relu(x) y = Min(r, huge) }"
    with pytest.raises(UnsupportedModelError, match="calibration data"):
        convert(model(text, {"huge": np.finfo(np.float32).max}))


def test_a_fixed_batch_size():
    text = (
        "g (float[2, 1, 4, 4] x) => (float[2, 3] y) "
        "{ d = Clip(x, lo, hi) f = Reshape(d, s) y = MatMul(f, v) }"
    )
    v = (RNG.integers(1, 5, (16, 3)) / 8).astype(np.float32)
    weights = {"lo": np.float32(0), "hi": np.float32(1), "s": np.array([2, 16]), "v": v}
    snn = convert(model(text, weights)).model
    x = RNG.uniform(0, 1, (4, 1, 4, 4)).astype(np.float32)
    report = evaluate(snn, from_arrays(x, np.zeros(4, int)), [8], batch_size=2)
    assert report["macs"] == 48
    assert report["snn"][0]["sops"] == pytest.approx(report["snn"][0]["firing_rate"] * 8 * 48)
    # Nothing mixes the samples, so that any number of them may come.
    assert evaluate(snn, from_arrays(x, np.zeros(4, int)), [8], batch_size=3) == report


def test_a_batch_size_that_is_part_of_the_network_stays():
    text = "g (float[2, 3] x) => (float[2, 3] y) { d = Clip(x, lo, hi) y = MatMul(m, d) }"
    mixing = np.array([[0.5, 0.25], [0.25, 1]], np.float32)
    conversion = convert(model(text, {"lo": np.float32(0), "hi": np.float32(1), "m": mixing}))
    assert "batch size stays fixed" in conversion.notes[0]
    data = from_arrays(np.ones((4, 3), np.float32), np.zeros(4, int))
    assert evaluate(conversion.model, data, [8], batch_size=4)["snn"][0]["accuracy"] == 100
    with pytest.raises(DataError, match="give it 2 samples at a time"):
        evaluate(conversion.model, data, [8], batch_size=3)


def test_a_vector_through_heavy_weights():
    rng = np.random.default_rng(1)
    weights = {"w": (rng.integers(-4, 5, (600, 600)) / 64).astype(np.float32), **{
        name: WEIGHTS[name] for name in ("lo", "hi")
    }}  # fmt: skip
    snn = convert(
        model(
            "g (float[600] x) => (float[600] y) { a = Clip(x, lo, hi) b = MatMul(a, w) "
            "c = Clip(b, lo, hi) y = MatMul(c, w) }",
            weights,
        )
    ).model
    x = (rng.integers(-8, 9, 600) / 8).astype(np.float32)
    found, wanted = (
        SpikingSession(snn, plan=p, threads=1).run(x, 37, [5]) for p in ("auto", "step")
    )
    same(found, wanted)
