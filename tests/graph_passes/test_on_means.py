"""What is not affine between neurons, on the running means of what it reads."""

import numpy as np
import onnx
import pytest
import stock
from onnx_text import changes_once, graph, model, ops, run, whole

from onnx2snn import SpikingSession, UnsupportedModelError, convert, from_arrays
from onnx2snn.graph_passes import (
    activations_to_neurons,
    average_before_read_out,
    nonlinear_to_means,
    set_initial_potential,
    to_model,
)
from onnx2snn.graph_passes.graph.obstacles import obstacles
from onnx2snn.graph_passes.on_means import nodes_on_means

RNG = np.random.default_rng(0)
TIMESTEPS = 9
X = RNG.integers(-2, 10, (2, 4, 6)) / 8
WEIGHTS = {
    "zero": 0, "one": 1, "half": 0.5, "w": RNG.integers(-4, 5, (6, 6)) / 8,
    "scale": RNG.integers(1, 9, 6) / 8, "of_4": np.ones(4), "tenth": 0.1, "two": 2, "less": -0.5,
    "mask": np.triu(np.full((4, 4), -np.inf), 1),
    "wg": RNG.integers(-4, 5, (1, 18, 6)) / 8, "rg": RNG.integers(-4, 5, (1, 18, 6)) / 8,
    "wl": RNG.integers(-4, 5, (2, 24, 6)) / 8, "rl": RNG.integers(-4, 5, (2, 24, 6)) / 8,
}  # fmt: skip
SIGNATURE = "g (float[N, 4, 6] x) => (float[N, a, b] z)"
# Two layers of neurons, a and b, and one more, which makes a core of what is before it.
FIRST = "a = Clip(x, zero, one) l = MatMul(a, w) b = Clip(l, zero, half)"
LAST = "n = MatMul(f, w) z = Clip(n, zero, one)"


def network(between, signature=SIGNATURE, dtype=np.float32, opset=17):
    """A spiking network, with its graph before the pass, and that of the ANN."""
    values = {name: np.asarray(value, dtype) for name, value in WEIGHTS.items()}
    values["axes"] = np.array([-1])
    return graph(f"{signature} {{ {FIRST} {between} {LAST} }}", values, opset)


def spiking(between, **options):
    g = network(between, **options)
    activations_to_neurons(g, on_means=True)
    set_initial_potential(g)
    return g


def over_time(g, feed, names, timesteps=TIMESTEPS):
    """Tensors of these names at each time-step, [T, ...] each, of a plain loop on ONNX Runtime."""
    proto = to_model(g)
    proto.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(n)
        for n in names
        if n not in {o.name for o in proto.graph.output}
    )
    steps = [outputs | states for outputs, states in stock.steps(proto, feed, timesteps)]
    return [np.stack([step[n.replace("v_next/", "v/")] for step in steps]) for n in names]


BETWEEN = {
    "Mul": "f = Mul(a, b)",
    "Mul, broadcast": "m = ReduceMean<axes = [1], keepdims = 1>(b) f = Mul(m, a)",
    "MatMul": "t = Transpose<perm = [0, 2, 1]>(b) m = MatMul(a, t) f = MatMul(m, b)",
    "Einsum": 'f = Einsum<equation = "nij,nkj,nkl->nil">(a, b, b)',
    "Softmax": "f = Softmax(b)",
    "LogSoftmax": "f = LogSoftmax(b)",
    "ReduceLogSumExp": "e = ReduceLogSumExp<axes = [2]>(b) f = Sub(b, e)",
    "ReduceProd": "e = ReduceProd<axes = [2]>(b) f = Add(b, e)",
    "LayerNormalization": "f = LayerNormalization(b, scale)",
    "InstanceNormalization": "f = InstanceNormalization(b, of_4, of_4)",
    "LpNormalization": "m = Add(b, one) f = LpNormalization(m)",
    "LRN": "u = Unsqueeze(b, axes) r = LRN<size = 3>(u) f = Squeeze(r, axes)",
    "Div": "m = ReduceSum(b, axes) s = Add(m, tenth) f = Div(b, s)",
    "a norm, by squares": "q = Mul(b, b) m = ReduceSum(q, axes) e = Add(m, tenth) r = Sqrt(e) "
    "f = Div(b, r)",
    "a norm, by its reciprocal": "q = Pow(b, two) m = ReduceMean<axes = [2]>(q) e = Add(m, tenth) "
    "r = Sqrt(e) i = Reciprocal(r) f = Mul(b, i)",
    "a norm, by its root's reciprocal": "q = Mul(b, b) m = ReduceMean<axes = [2]>(q) "
    "e = Add(m, tenth) i = Pow(e, less) f = Mul(b, i)",
    "ReduceL2": "m = ReduceL2<axes = [2]>(b) e = Add(m, tenth) f = Div(b, e)",
    "a norm that is a factor, too": "m = ReduceL2<axes = [2]>(b) e = ReduceMean<axes = [1]>(m) "
    "d = Add(e, tenth) q = Div(m, d) f = Mul(b, q)",
    "a norm that a clip keeps from 0": "m = ReduceL2<axes = [2]>(b) e = Clip(m, tenth) "
    "f = Div(b, e)",
    "a norm as Flax has it": "s = ReduceMean<axes = [2]>(b) q = Mul(b, b) "
    "t = ReduceMean<axes = [2]>(q) p = Mul(s, s) v = Sub(t, p) r = Relu(v) "
    "e = Add(r, tenth) k = Sqrt(e) i = Reciprocal(k) j = Mul(i, scale) c = Sub(b, s) f = Mul(c, j)",
    "by 1 + exp": "q = Neg(b) e = Exp(q) d = Add(e, one) k = Mul(a, b) f = Div(k, d)",
    "scaled and masked": "t = Transpose<perm = [0, 2, 1]>(b) m = MatMul(a, t) s = Mul(m, tenth) "
    "k = Add(s, mask) p = Softmax(k) f = MatMul(p, b)",
    "GRU": "t = Transpose<perm = [1, 0, 2]>(b) y, h = GRU<hidden_size = 6>(t, wg, rg) "
    "i = Constant<value_ints = [1]>() s = Squeeze(y, i) f = Transpose<perm = [1, 0, 2]>(s)",
    "LSTM, its last states": "t = Transpose<perm = [1, 0, 2]>(b) "
    '"", h, c = LSTM<hidden_size = 6, direction = "bidirectional">(t, wl, rl) '
    "p = ReduceMean<axes = [0], keepdims = 0>(h) q = ReduceMean<axes = [0], keepdims = 0>(c) "
    "d = Add(p, q) i = Constant<value_ints = [1]>() u = Unsqueeze(d, i) f = Add(a, u)",
    "the largest": "m = ReduceMax<axes = [2]>(b) f = Mul(a, m)",
    "Conv": "k = ReduceMean<axes = [0]>(b) c = Conv(a, k) f = Add(a, c)",
    "GridSample": "h = Constant<value_ints = [0, 2, 12, 1]>() u = Reshape(b, h) "
    "i = Constant<value_ints = [0, 4, 3, 2]>() p = Reshape(a, i) q = GridSample(u, p) "
    "j = Constant<value_ints = [0, 4, 6]>() f = Reshape(q, j)",
}  # fmt: skip


@pytest.mark.parametrize("what", BETWEEN)
def test_outputs_add_up_to_what_the_means_give(what):
    g = spiking(BETWEEN[what])
    changes_once(nonlinear_to_means, g)
    whole(g)
    x = X.astype(np.float32)
    a, b, f = over_time(g, {"x": x}, ["a", "b", "f"])
    values = {name: np.asarray(value, np.float32) for name, value in WEIGHTS.items()}
    values["axes"] = np.array([-1])
    text = f"g (float[N, 4, 6] a, float[N, 4, 6] b) => (float[N, c, d] f) {{ {BETWEEN[what]} }}"
    function = model(text, values)
    for t in range(1, TIMESTEPS + 1):
        wanted = run(function, a[:t].mean(0), b[:t].mean(0))
        np.testing.assert_allclose(f[:t].sum(0) / t, wanted, atol=2e-6)


def test_a_product_as_its_equations():
    """Bit for bit, in the order in which they stand."""
    g = spiking(BETWEEN["Mul"])
    nonlinear_to_means(g)
    assert sorted(ops(g)) == [
        "Clock", "FromMean", "IF", "IF", "IF", "MatMul", "MatMul", "Mul", "ToMean", "ToMean",
    ]  # fmt: skip
    a, b, f = over_time(g, {"x": X.astype(np.float32)}, ["a", "b", "f"])
    before = np.zeros_like(f[0])
    for t in range(1, TIMESTEPS + 1):
        steps = np.float32(t)
        total = a[:t].sum(0) / steps * (b[:t].sum(0) / steps) * steps
        np.testing.assert_array_equal(f[t - 1], total - before)
        before = total


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_types(dtype):
    kind = {np.float16: "float16", np.float64: "double"}[dtype]
    g = spiking(BETWEEN["Mul"], signature=SIGNATURE.replace("float", kind), dtype=dtype)
    nonlinear_to_means(g)
    whole(g)
    states = [t for t in g.inputs if "mean" in t.name]
    assert {t.dtype for t in states} == {np.dtype(np.promote_types(dtype, np.float32))}
    a, b, f = over_time(g, {"x": X.astype(dtype)}, ["a", "b", "f"])
    assert f.dtype == dtype
    np.testing.assert_allclose(f.mean(0), a.mean(0) * b.mean(0), atol=2e-3)


def test_a_mean_is_taken_once():
    """Of two products of one activation, and of products of products."""
    between = "p = Mul(a, b) q = Mul(p, b) f = Mul(q, p)"
    g = spiking(between)
    changes_once(nonlinear_to_means, g)
    assert [ops(g).count(op) for op in ("ToMean", "FromMean", "Mul", "Clock")] == [2, 1, 3, 1]
    assert [node.name for node in nodes_on_means(g)] == [n.name for n in g.nodes if n.op == "Mul"]


def test_what_spikes_are_read_by_besides():
    """A product that a layer reads, too, hands its changes to it and its mean to another."""
    g = spiking("p = Mul(a, b) q = Mul(p, b) f = Add(q, p)")
    nonlinear_to_means(g)
    assert ops(g).count("FromMean") == 2
    a, b, f = over_time(g, {"x": X.astype(np.float32)}, ["a", "b", "f"])
    wanted = a.mean(0) * b.mean(0) ** 2 + a.mean(0) * b.mean(0)
    np.testing.assert_allclose(f.mean(0), wanted, atol=1e-6)


def test_products_with_what_depends_on_the_input_alone():
    signature = "g (float[N, 4, 6] x, float[N, 4, 6] c) => (float[N, 4, 6] z)"
    g = spiking("f = Mul(b, c)", signature=signature)
    changes_once(nonlinear_to_means, g)
    x, c = X.astype(np.float32), RNG.normal(size=X.shape).astype(np.float32)
    b, f = over_time(g, {"x": x, "c": c}, ["b", "f"])
    np.testing.assert_allclose(f.mean(0), b.mean(0) * c, atol=1e-6)


def test_what_is_taken_from_places_that_the_input_says():
    """As the last state of a sequence whose length is an input."""
    signature = "g (float[N, 4, 6] x, int64[N, 1, 6] i) => (float[N, 1, 6] z)"
    between = "f = GatherElements<axis = 1>(b, i)"
    with pytest.raises(UnsupportedModelError, match="on-means"):
        activations_to_neurons(network(between, signature=signature))
    g = spiking(between, signature=signature)
    changes_once(nonlinear_to_means, g)
    x, places = X.astype(np.float32), RNG.integers(0, 4, (2, 1, 6))
    b, f = over_time(g, {"x": x, "i": places}, ["b", "f"])
    np.testing.assert_allclose(f.mean(0), np.take_along_axis(b.mean(0), places, 1), atol=1e-6)


def test_what_is_added_to_places_that_the_input_says():
    """As messages along the edges of a graph that is an input."""
    signature = "g (float[N, 4, 6] x, int64[N, 4, 6] i) => (float[N, 4, 6] z)"
    between = 'o = Mul(b, zero) f = ScatterElements<axis = 1, reduction = "add">(o, i, b)'
    g = spiking(between, signature=signature, opset=18)
    changes_once(nonlinear_to_means, g)
    x, places = X.astype(np.float32), RNG.integers(0, 4, X.shape)
    b, f = over_time(g, {"x": x, "i": places}, ["b", "f"])
    wanted, sample, unit = np.zeros_like(x), np.arange(2)[:, None, None], np.arange(6)
    np.add.at(wanted, (sample, places, unit), b.mean(0))
    np.testing.assert_allclose(f.mean(0), wanted, atol=1e-6)


def test_an_output_of_the_network_keeps_its_name():
    signature = "g (float[N, 4, 6] x) => (float[N, 4, 6] z, float[N, 4, 6] f)"
    g = spiking("f = Mul(a, b)", signature=signature)
    nonlinear_to_means(g)
    assert {"z", "f"} <= {t.name for t in g.outputs}


def test_nothing_is_handed_on_before_there_is_a_result():
    """0 / 0 until the first spike: the outputs add up from then on, and no state is NaN."""
    g = spiking("m = ReduceSum(b, axes) f = Div(b, m)")
    nonlinear_to_means(g)
    names = ["b", "f", *(t.name for t in g.outputs if t.name.startswith("v_next"))]
    b, f, *states = over_time(g, {"x": X.astype(np.float32)}, names)
    assert all(np.isfinite(state).all() for state in states)
    total = b.sum(0)
    some = total.sum(-1, keepdims=True) > 0
    assert not (b[0].sum(-1, keepdims=True) > 0)[some].all()
    wanted = np.where(some, total / np.where(some, total.sum(-1, keepdims=True), 1), 0)
    np.testing.assert_allclose(f.mean(0), wanted, atol=1e-6)


def test_what_is_between_means_stays_there():
    """No sums over time between a product and a Softmax."""
    g = spiking(BETWEEN["scaled and masked"])
    changes_once(nonlinear_to_means, g)
    assert [ops(g).count(op) for op in ("ToMean", "FromMean")] == [3, 1]


def test_clips_of_divisors_are_no_neurons():
    g = spiking(BETWEEN["a norm that a clip keeps from 0"])
    nonlinear_to_means(g)
    assert "IF" not in [node.op for node in nodes_on_means(g)]
    assert ops(g).count("IF") == 3


def test_the_read_out_has_means_of_its_own():
    values = {name: np.asarray(value, np.float32) for name, value in WEIGHTS.items()}
    g = graph(f"{SIGNATURE} {{ {FIRST} m = MatMul(b, w) z = Mul(m, a) }}", values)
    activations_to_neurons(g)
    assert nonlinear_to_means(g) is False
    assert average_before_read_out(g) is True


def test_nothing_to_do():
    assert nonlinear_to_means(spiking("f = Add(a, b)")) is False


@pytest.mark.parametrize("name", ["a/to_mean", "v/a/to_mean", "t", "f/mean"])
def test_names_that_are_taken(name):
    g = spiking("k = Neg(b) f = Mul(a, k)")
    g.nodes[ops(g).index("Neg")].name = name
    g.tensors()["k"].name = name
    changes_once(nonlinear_to_means, g)
    whole(g)


REFUSED = {
    "a scalar function": "f = Mul(b, b)",
    "a swish": "s = Sigmoid(l) f = Mul(l, s)",
    "a square that is no norm": "f = Pow(b, two)",
    "no mean of it": "c = Cast<to = 7>(b) d = Cast<to = 1>(c) f = Mul(a, d)",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_stays_refused(what):
    with pytest.raises(UnsupportedModelError):
        spiking(REFUSED[what])


def test_the_advice_is_for_those_that_it_helps():
    found = {r.op: r.reason for r in obstacles(network("m = Mul(a, b) f = Pow(m, two)"))}
    assert "--on-means" in found["Mul"]
    assert "--on-means" not in found["Pow"]
    assert all("--on-means" not in r.reason for r in obstacles(network(REFUSED["a swish"])))


def test_norms_are_no_activations():
    """Clips stand in for the swish, not for the squares of a norm."""
    values = {name: np.asarray(value, np.float32) for name, value in WEIGHTS.items()}
    values["axes"] = np.array([-1])
    between = "s = Sigmoid(l) g = Mul(l, s) q = Mul(g, g) m = ReduceSum(q, axes) "
    between += "e = Add(m, tenth) r = Sqrt(e) f = Div(g, r)"
    ann = model(f"{SIGNATURE} {{ {FIRST} {between} {LAST} }}", values)
    x = X.astype(np.float32)
    made = convert(
        ann, calibration=from_arrays(x), recipe="opi", approximate=16, on_means=True
    )  # fmt: skip
    assert len([note for note in made.notes if "clips over" in note]) == 1
    assert any("1 Mul, 1 ReduceSum, 1 Add, 1 Sqrt, 1 Div" in note for note in made.notes)
    found = SpikingSession(made.model).run(x, 1024).values["z"]
    np.testing.assert_allclose(found, run(ann, x), atol=0.02)


def test_long_ways_of_masks():
    """Each sum reads the one before twice, and there are more than Python may call."""
    twice = " ".join(f"s{n + 1} = Add(s{n}, s{n})" for n in range(40))
    many = " ".join(f"t{n + 1} = Add(t{n}, one)" for n in range(1200))
    scores = "t = Transpose<perm = [0, 2, 1]>(b) m = MatMul(a, t) s0 = Add(m, mask)"
    result = "p = Softmax(t1200) f = MatMul(p, b)"
    g = spiking(f"{scores} {twice} t0 = Identity(s40) {many} {result}")
    assert nonlinear_to_means(g)
