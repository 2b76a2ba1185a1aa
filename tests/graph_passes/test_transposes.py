import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import canonicalise, sink_transposes
from onnx2snn.graph_passes.graph.operators import APPROXIMABLE

RNG = np.random.default_rng(0)
LAST = "perm = [0, 2, 3, 1]"
FIRST = "perm = [0, 3, 1, 2]"
SIGNATURE = "g (float[N, 4, 5, 6] x) => (float[N, 5, 6, 4] y)"
FREE = "g (float[N, 4, 5, 6] x) => (float[a, b, c, d] y)"


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


X = normal(2, 4, 5, 6)


def sunk(text, weights=None):
    """The graph after the pass; its numbers are those before, but for the order of sums."""
    g = graph(text, weights)
    before = run(g, X)
    changes_once(sink_transposes, g)
    np.testing.assert_allclose(run(g, X), before, rtol=1e-6, atol=1e-6)
    return g


def test_a_network_with_channels_last_loses_its_inner_transposes():
    body = f"""
        a = Transpose<{FIRST}>(x) b = Conv(a, w) c = Transpose<{LAST}>(b)
        d = Add(c, bias) e = Clip(d, zero, six) f = Mul(e, scale)
        h = Transpose<{FIRST}>(f) i = Conv(h, v) y = Transpose<{LAST}>(i)
    """
    weights = {
        "w": normal(3, 4, 3, 3), "v": normal(2, 3, 2, 2), "bias": normal(3),
        "scale": normal(1, 1, 1, 3), "zero": np.float32(0), "six": np.float32(6),
    }  # fmt: skip
    g = graph(f"g (float[N, 8, 8, 4] x) => (float[N, 5, 5, 2] y) {{ {body} }}", weights)
    x = normal(2, 8, 8, 4)
    before = run(g, x)
    changes_once(sink_transposes, g)
    assert ops(g) == ["Transpose", "Conv", "Add", "Clip", "Mul", "Conv", "Transpose"]
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu(t)", "y = Clip(t, low, high)", "y = Add(t, vector)", "y = Sub(column, t)",
        "y = Mul(t, full)", "y = Add(t, scalar)", "y = PRelu(t, vector)", "y = Min(t, vector, t)",
        "y = Mul(t, t)", "y = HardSwish(t)", "y = Pow(t, two)",
    ],
)  # fmt: skip
def test_elementwise_operators_work_on_the_other_axes(body):
    weights = {
        "vector": normal(4), "column": normal(5, 1, 1), "full": normal(1, 5, 6, 4),
        "scalar": np.float32(2), "low": np.float32(-0.5), "high": np.float32(1), "two": np.int64(2),
    }  # fmt: skip
    g = sunk(f"{SIGNATURE} {{ t = Transpose<{LAST}>(x) {body} }}", weights)
    assert ops(g)[-1] == "Transpose"
    assert ops(g).count("Transpose") == 1


def test_constants_are_permuted_for_this_reader_alone():
    constant = normal(5, 1, 4)
    g = graph(
        "g (float[N, 4, 5, 6] x, float[N, 5, 6, 4] u) => (float[N, 5, 6, 4] y, float[N, 5, 6, 4] z)"
        f" {{ t = Transpose<{LAST}>(x) y = Add(t, c) z = Add(u, c) }}",
        {"c": constant},
    )
    changes_once(sink_transposes, g)
    held = {node.outputs[0].name: node.inputs[1].values for node in g.nodes if node.op == "Add"}
    np.testing.assert_array_equal(held.pop("z"), constant)
    (moved,) = held.values()
    np.testing.assert_array_equal(moved, constant.transpose(2, 0, 1)[None])


def test_bounds_of_a_clip_are_left_alone():
    weights = {"low": np.float32(-0.5), "high": np.float32(1)}
    g = sunk(f"{SIGNATURE} {{ t = Transpose<{LAST}>(x) y = Clip(t, low, high) }}", weights)
    (clip,) = [node for node in g.nodes if node.op == "Clip"]
    assert [tensor.name for tensor in clip.inputs[1:]] == ["low", "high"]


@pytest.mark.parametrize(("axis", "moved"), [(0, 0), (1, 2), (2, 3), (3, 1), (-1, 1)])
def test_concat_joins_along_the_axis_of_the_same_meaning(axis, moved):
    body = f"a = Transpose<{LAST}>(x) b = Neg(a) y = Concat<axis = {axis}>(a, b)"
    g = sunk(f"g (float[N, 4, 5, 6] x) => (float[a, b, c, d] y) {{ {body} }}")
    assert ops(g) == ["Neg", "Concat", "Transpose"]
    assert g.nodes[1].attrs["axis"] == moved


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax"])
@pytest.mark.parametrize("axes", [[1], [3], [1, 2], [-3, -2], [0, 3], [1, 2, 3]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(op, axes, keepdims):
    attribute = f"axes = {axes}, " if op != "ReduceSum" else ""
    inputs = "t, axes" if op == "ReduceSum" else "t"
    body = f"t = Transpose<{LAST}>(x) y = {op}<{attribute}keepdims = {keepdims}>({inputs})"
    shape = ", ".join("abcd"[: 4 if keepdims else 4 - len(axes)])
    text = f"g (float[N, 4, 5, 6] x) => (float[{shape}] y)"
    g = sunk(f"{text} {{ {body} }}", {"axes": np.array(axes)} if op == "ReduceSum" else {})
    assert ops(g)[0] == op


def test_a_mean_over_the_image_needs_no_transpose_behind_it():
    body = f"t = Transpose<{LAST}>(x) y = ReduceMean<axes = [1, 2], keepdims = 0>(t)"
    g = sunk(f"g (float[N, 4, 5, 6] x) => (float[N, 4] y) {{ {body} }}")
    assert ops(g) == ["ReduceMean"]
    assert g.nodes[0].attrs["axes"] == [2, 3]


@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_over_everything(keepdims):
    body = f"t = Transpose<{LAST}>(x) y = ReduceSum<keepdims = {keepdims}>(t, axes)"
    text = FREE if keepdims else "g (float[N, 4, 5, 6] x) => (float y)"
    g = graph(f"{text} {{ {body} }}", {"axes": np.zeros(0, np.int64)})
    before = run(g, X)
    sink_transposes(g)
    np.testing.assert_allclose(run(g, X), before, rtol=1e-5)


CUTS = {
    "pad": "y = Pad(t, pads)",
    "pad by a value": "y = Pad(t, pads, half)",
    "reflections": 'y = Pad<mode = "reflect">(t, pads)',
    "pad of axes": "y = Pad(t, two, half, axes)",
    "pad of axes by 0": "y = Pad(t, two, , axes)",
    "slice": "y = Slice(t, zeros, ends)",
    "slice of axes": "y = Slice(t, one, end, last)",
    "slice of two axes": "y = Slice(t, from, to, axes)",
    "slice in steps": "y = Slice(t, from, to, axes, steps)",
    "slice of the first axes in steps": "y = Slice(t, from, to, , steps)",
    "slice by other numbers": "y = Slice(t, from32, to32)",
    "slice of axes by other numbers": "y = Slice(t, from32, to32, axes32)",
}


@pytest.mark.parametrize("name", CUTS)
def test_pads_and_slices(name):
    weights = {
        "pads": np.array([0, 1, 2, 0, 0, 0, 1, 3]), "half": np.float32(0.5),
        "two": np.array([1, 2, 0, 3]), "axes": np.array([1, -1]), "zeros": np.zeros(4, np.int64),
        "ends": np.array([1, 2, 3, 4]), "one": np.array([1]), "end": np.array([-1]),
        "last": np.array([3]), "from": np.array([0, 1]), "to": np.array([2, 4]),
        "steps": np.array([1, 2]), "from32": np.int32([0, 1]), "to32": np.int32([2, 4]),
        "axes32": np.int32([1, -1]),
    }  # fmt: skip
    text = f"{FREE} {{ t = Transpose<{LAST}>(x) {CUTS[name]} }}"
    g = graph(text, weights, opset=18)
    before = run(g, X)
    changes_once(sink_transposes, g)
    assert ops(g) == [CUTS[name].split()[2].partition("(")[0].partition("<")[0], "Transpose"]
    np.testing.assert_array_equal(run(g, X), before)


def test_two_transposes_merge_into_one():
    g = sunk(f"{FREE} {{ a = Transpose<{LAST}>(x) y = Transpose<perm = [1, 0, 2, 3]>(a) }}")
    assert ops(g) == ["Transpose"]
    assert g.nodes[0].attrs["perm"] == [2, 0, 3, 1]


def test_a_transpose_without_a_permutation_reverses_the_axes():
    g = sunk(f"{FREE} {{ a = Transpose(x) b = Relu(a) c = Transpose(b) y = Neg(c) }}")
    assert ops(g) == ["Relu", "Neg"]


def test_branches_that_meet_again():
    body = f"""
        t = Transpose<{LAST}>(x) a = Relu(t) b = Neg(t) c = Mul(b, vector) s = Add(a, c)
        y = Transpose<{FIRST}>(s)
    """
    g = sunk(f"{FREE} {{ {body} }}", {"vector": normal(4)})
    assert sorted(ops(g)) == ["Add", "Mul", "Neg", "Relu"]


def test_branches_with_several_consumers():
    """One reader wants the channels last, and gets them; the other loses its Transposes."""
    body = f"""
        t = Transpose<{LAST}>(x) r = Relu(t) z = Softmax<axis = -1>(r)
        y = Transpose<{FIRST}>(r)
    """
    text = "g (float[N, 4, 5, 6] x) => (float[N, 4, 5, 6] y, float[N, 5, 6, 4] z)"
    g = graph(f"{text} {{ {body} }}")
    before = [run(g, X, output=i) for i in range(2)]
    changes_once(sink_transposes, g)
    assert sorted(ops(g)) == ["Relu", "Softmax", "Transpose"]
    for i, wanted in enumerate(before):
        np.testing.assert_array_equal(run(g, X, output=i), wanted)


def test_a_long_chain_takes_one_run():
    chain = "".join(f" a{i + 1} = Relu(a{i})" for i in range(100))
    g = sunk(f"{FREE} {{ a0 = Transpose<{LAST}>(x){chain} y = Transpose<{FIRST}>(a100) }}")
    assert ops(g) == ["Relu"] * 100


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu(x)",
        f"a = Relu(x) y = Transpose<{LAST}>(a)",
        f"t = Transpose<{LAST}>(x) y = Softmax<axis = 3>(t)",
        f"t = Transpose<{LAST}>(x) s = Reshape(x, shape) y = Add(t, s)",
        "t = Transpose<perm = [3, 2, 1, 0]>(x) y = Add(t, six)",
        f"a = Transpose<{LAST}>(x) b = Transpose<{FIRST}>(x) y = Concat<axis = 0>(a, b)",
    ],
)
def test_nothing_to_do(body):
    text = FREE.replace("a, b, c, d", "a, b, c, d, e, f") if "six" in body else FREE
    weights = {"shape": np.array([0, 5, 6, 4]), "six": np.zeros((1, 1, 1, 1, 1, 1), np.float32)}
    g = graph(f"{text} {{ {body} }}", weights)
    wanted = ops(g)
    assert not sink_transposes(g)
    assert ops(g) == wanted


@pytest.mark.parametrize("body", ["Slice(full, t, end, axis)", "Pad(full, pads, t)"])
def test_a_number_beside_constant_data_is_not_the_data(body):
    kind = "int64" if "Slice" in body else "float"
    g = graph(
        f"g ({kind}[1] x) => (float[a, b] y) {{ t = Transpose<perm = [0]>(x) y = {body} }}",
        {"full": normal(4, 5), "end": [9], "axis": [1], "pads": [0, 1, 0, 1]},
    )
    x = np.array([2], np.int64 if "Slice" in body else np.float32)
    before = run(g, x)
    assert not sink_transposes(g)
    np.testing.assert_array_equal(run(g, x), before)


def test_a_slope_that_is_no_constant_keeps_its_place():
    g = graph(
        "g (float[N, 4, 4, 4] x, float[4] s) => (float[N, 4, 4, 4] y) "
        f"{{ t = Transpose<{LAST}>(x) y = PRelu(t, s) }}"
    )
    x, slope = normal(1, 4, 4, 4), normal(4)
    before = run(g, x, slope)
    sink_transposes(g)
    np.testing.assert_array_equal(run(g, x, slope), before)


def test_activations_keep_samples_along_axis_0():
    """Neurons have their channels where samples would be otherwise."""
    g = graph(
        "g (float[N, 4] x) => (float[N, 3] y) { t = Transpose<perm = [1, 0]>(x) "
        "a = MatMul(w, t) h = Transpose<perm = [1, 0]>(a) r = Relu(h) "
        "u = Transpose<perm = [1, 0]>(r) b = MatMul(v, u) y = Transpose<perm = [1, 0]>(b) }",
        {"w": np.ones((5, 4), np.float32), "v": np.ones((3, 5), np.float32)},
    )
    canonicalise(g)
    (relu,) = (node for node in g.nodes if node.op == "Relu")
    assert relu.outputs[0].shape == ["N", 5]


def test_a_transpose_of_no_axes():
    g = graph("g (float x) => (float y) { t = Transpose(x) y = Relu(t) }")
    changes_once(sink_transposes, g)
    assert ops(g) == ["Relu"]


@pytest.mark.parametrize("activation", sorted(APPROXIMABLE))
def test_every_curve_is_passed(activation):
    operands = "t, two" if activation == "Pow" else "t"
    text = (
        "g (float[N, 2, 3, 4] x) => (float[N, 2, 3, 4] y) { t = Transpose<perm = [0, 2, 3, 1]>(x) "
        f"a = {activation}({operands}) y = Transpose<perm = [0, 3, 1, 2]>(a) }}"
    )
    g = graph(text, {"two": np.float32(2)} if activation == "Pow" else {}, opset=24)
    changes_once(sink_transposes, g)
    assert ops(g) == [activation]
