import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_text import changes_once, graph, model, ops, run

from onnx2snn.graph_passes import (
    canonicalise,
    fix_reshapes,
    fold_constants,
    infer_shapes,
    to_graph,
)

X = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def test_casts_of_data_stay():
    """Onnx-graphsurgeon takes them for those of sizes, and computes between them in integers."""
    g = graph(
        "g (int64[N, 3] i) => (int64[N, 3] y, int64[2] q) "
        "{ f = Cast<to = 1>(i) h = Mul(f, half) y = Cast<to = 7>(h) q = Shape(i) }",
        {"half": np.float32(0.5)},
    )
    i = np.array([[8, 9, -3], [1, 2, 5]])
    before = run(g, i)
    fold_constants(g)
    np.testing.assert_array_equal(run(g, i), before)
    assert before[0, 0] == 4


def test_a_resize_to_computed_sizes():
    """As tf2onnx writes it."""
    g = graph(
        "g (float[N, 3, 8, 8] x) => (float[N, 3, H, W] y) { s = Shape(x) hw = Slice(s, two, four) "
        "f = Cast<to = 1>(hw) l = Mul(f, factor) i = Cast<to = 7>(l) nc = Slice(s, zero, two) "
        "all = Concat<axis = 0>(nc, i) y = Resize(x, , , all) }",
        {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4]),
         "factor": np.float32(1.5)},
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    before = run(g, x)
    changes_once(fold_constants, g)
    assert before.shape == (2, 3, 12, 12)
    np.testing.assert_array_equal(run(g, x), before)
    assert "Cast" not in ops(g)


CONSTANTS = {
    "one": np.array([1]), "two": np.array([2]), "last": np.array([-1]), "far": np.array([2**62]),
    "far_back": np.array([-(2**62)]), "both": np.array([[1, -1]]), "scalar": np.array(2),
    "back": np.array([-1]), "zero": np.array([0]),
    "square": np.array([[0, 1], [1, 2]]),
}  # fmt: skip
# Of a tensor [N, 3, 4, 5].
KNOWN = {
    "of all but the first": ("y = Shape<start = 1>(x)", [3, 4, 5]),
    "from the back": ("y = Shape<start = -2>(x)", [4, 5]),
    "up to the last": ("y = Shape<start = -3, end = -1>(x)", [3, 4]),
    "of no axes": ("y = Shape<start = 3, end = 1>(x)", []),
    "one": ("s = Shape(x) y = Gather(s, one)", [3]),
    "a scalar": ("s = Shape(x) y = Gather(s, scalar)", 4),
    "several": ("s = Shape(x) y = Gather(s, both)", [[3, 5]]),
    "one of some": ("s = Shape<start = 1>(x) y = Gather(s, one)", [4]),
    "a slice": ("s = Shape(x) y = Slice(s, one, far)", [3, 4, 5]),
    "a slice from the back": ("s = Shape(x) y = Slice(s, last, far, zero)", [5]),
    "every second": ("s = Shape(x) y = Slice(s, one, far, last, two)", [3, 5]),
    "backwards": ("s = Shape(x) y = Slice(s, last, zero, zero, back)", [5, 4, 3]),
    "backwards from before the first":
        ("s = Shape<start = 1>(x) y = Slice(s, far_back, far_back, zero, back)", [3]),
    "a slice of some": ("s = Shape<end = 3>(x) y = Slice(s, one, far)", [3, 4]),
    "one of a slice": ("s = Shape(x) p = Slice(s, one, far) y = Gather(p, zero)", [3]),
    "by constants of nodes": ("i = Constant<value_ints = [1, 2]>() s = Shape(x) y = Gather(s, i)",
                              [3, 4]),
    "how many there are": ("s = Shape(x) y = Size(s)", 4),
    "by a number of a node": ("i = Constant<value_int = -1>() s = Shape(x) y = Gather(s, i)", 5),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_sizes_that_are_known_though_others_are_open(name):
    body, wanted = KNOWN[name]
    kind = f"int64{list(np.shape(wanted))}" if np.ndim(wanted) else "int64"
    g = graph(f"g (float[N, 3, 4, 5] x) => ({kind} y) {{ {body} }}", CONSTANTS)
    np.testing.assert_array_equal(run(g, X), wanted)
    changes_once(fold_constants, g)
    assert not g.nodes
    y = g.outputs[0].values
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, np.array(wanted, np.int64), strict=True)


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape(x) p = Gather(s, square) y = Slice(p, one, two, one)",
        "y = Shape(x)", "y = Shape<end = 2>(x)", "s = Shape(x) y = Gather(s, zero)",
        "s = Shape(x) y = Slice(s, far_back, two)",
        "s = Shape(x) y = Slice(s, one, far_back, zero, back)",
    ],
)  # fmt: skip
def test_sizes_that_are_open_stay(body):
    g = graph(f"g (float[N, 3, 4, 5] x) => (int64[K] y) {{ {body} }}", CONSTANTS)
    before = run(g, X)
    fold_constants(g)
    assert ops(g)[0] == "Shape"
    np.testing.assert_array_equal(run(g, X), before)


def test_a_number_of_elements_that_is_open_stays():
    assert not fold_constants(graph("g (float[N, 3, 4, 5] x) => (int64 y) { y = Size(x) }"))


def test_a_slice_by_steps_of_nothing_stays():
    """It is wrong, and ONNX Runtime is to say so."""
    text = "g (float[N, 3, 4, 5] x) => (int64[K] y) { s = Shape(x) y = Slice(s, one, two, , zero) }"
    g = graph(text, CONSTANTS)
    assert not fold_constants(g)


@pytest.mark.parametrize("name", ["of all but the first", "one of some"])
def test_sizes_of_a_reshape(name):
    body = KNOWN[name][0]
    g = graph(
        f"g (float[N, 3, 4, 5] x) => (float[N, K] r) {{ {body} p = ReduceProd<keepdims = 1>(y) "
        "t = Concat<axis = 0>(back, p) r = Reshape(x, t) }",
        CONSTANTS,
    )
    before = run(g, X)
    fix_reshapes(g)
    assert ops(g) == ["Reshape"]
    np.testing.assert_array_equal(run(g, X), before)


def test_a_size_of_a_batch_that_is_fixed():
    g = graph("g (float[2, 3] x) => (float[2, 3] y) { s = Shape(x) z = Expand(one, s) "
              "y = Add(x, z) }", {"one": np.float32(1)})  # fmt: skip
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    changes_once(fold_constants, g)
    assert ops(g) == ["Add"]
    np.testing.assert_array_equal(run(g, x), x + 1)
    assert not canonicalise(g)


def test_sizes_behind_pools_that_are_smaller_than_shape_inference_says():
    """Of 5 pixels, pads of 1 and windows of 2 in steps of 2, rounded up: 3, where ONNX says 4."""
    text = (
        "g (float[N, 3, 5, 5] x) => (float[N, 3] y) { p = MaxPool<kernel_shape = [2, 2], "
        "strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1>(x) s = Shape<start = 2>(p) "
        "n = ReduceProd<keepdims = 0>(s) f = Cast<to = 1>(n) t = ReduceSum<keepdims = 0>(p, axes) "
        "y = Div(t, f) }"
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)
    g = graph(text, {"axes": np.array([2, 3])})
    before = run(g, x)
    infer_shapes(g)
    changes_once(fold_constants, g)
    assert ops(g) == ["MaxPool", "ReduceSum", "Div"]
    np.testing.assert_allclose(run(g, x), before, rtol=1e-6)


def test_what_nothing_can_compute_keeps_nothing_else():
    """Operators of others, of constants."""
    text = (
        "<ir_version: 8, opset_import: ['': 17, 'acme': 1]> g (float[N, 4] x) => "
        "(float[N, 4] y, float[4] q) { t = Add(k, k) y = Mul(x, t) q = acme.Anchors(k) }"
    ).replace("'", '"')
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "k"))
    g = to_graph(proto)
    changes_once(fold_constants, g)
    assert ops(g) == ["Mul", "Anchors"]


@pytest.mark.parametrize(
    ("make", "read", "left"),
    [
        ("SequenceConstruct(k, one)", "SequenceAt(s, i)", ["SequenceConstruct", "SequenceAt"]),
        ("SplitToSequence<axis = 0>(k)", "SequenceAt(s, i)", ["SplitToSequence", "SequenceAt"]),
        ("SplitToSequence<axis = 0>(k) r = SequenceErase(s, zero)", "SequenceAt(r, i)",
         ["SplitToSequence", "SequenceErase", "SequenceAt"]),
        ("SequenceConstruct(k, one) r = SequenceErase(s, zero)", "SequenceAt(r, zero)", []),
        ("SequenceConstruct(k, one)", "ConcatFromSequence<axis = 0>(s)", []),
        ("SequenceConstruct(k, one)", "SequenceAt(s, zero)", []),
    ],
)  # fmt: skip
def test_sequences_of_constants(make, read, left):
    """No constant stands for a sequence."""
    g = graph(
        "g (float[N, 4] x, int64 i) => (float[N, a] y) "
        f"{{ s = {make} k4 = {read} m = ReduceMax(k4) y = Mul(x, m) }}",
        {"k": np.float32([1, 2, 3, 4]), "one": np.ones(1, np.float32), "zero": np.array(0)},
    )
    x = np.ones((2, 4), np.float32)
    before = run(g, x, np.array(1))
    fold_constants(g)
    assert [op for op in ops(g) if op.startswith("Se") or "Sequence" in op] == left
    assert fold_constants(g) is False
    np.testing.assert_array_equal(run(g, x, np.array(1)), before)


def test_a_sequence_of_constants_that_branches_read_stays():
    branches = (
        "then_branch = t () => (float[4] p) { p = SequenceAt(s, zero) }, "
        "else_branch = e () => (float[4] q) { q = Neg(k) }"
    )
    g = graph(
        "g (float[N, 4] x, bool c) => (float[N, 4] y) "
        f"{{ s = SequenceConstruct(k, k) m = If(c)<{branches}> y = Mul(x, m) }}",
        {"k": np.float32([1, 2, 3, 4]), "zero": np.array(0)},
    )
    assert fold_constants(g) is False
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(run(g, x, np.array(True)), x * [1, 2, 3, 4])


def test_constants_within_branches_of_a_constant_condition_are_folded():
    """Their nodes have no domain, not the empty one; "ai.onnx" is that too."""
    body = "t () => (float[N, 4] t) { s = Add(k, k) t = Mul(x, s) }"
    text = (
        "g (float[N, 4] x) => (float[N, 4] y) "
        f"{{ y = If (yes) <then_branch = {body}, else_branch = {body}> }}"
    )
    for domain in ("", "ai.onnx"):
        proto = model(text, {"yes": np.array(True), "k": np.ones(4, np.float32)})
        (branch, _) = (attribute.g for attribute in proto.graph.node[0].attribute)
        for node in branch.node:
            node.domain = domain
        g = to_graph(proto)
        changes_once(fold_constants, g)
        assert ops(g) == ["Mul"]


@pytest.mark.parametrize("within", ["a branch", "a computed size"])
def test_pools_that_folding_reveals(within):
    pool = "MaxPool<kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1>"
    values = {"axes": np.array([2, 3]), "yes": np.array(True), "five": np.array([0, 3, 5, 5])}
    body = f"p = {pool}(x)"
    if within == "a branch":
        branch = f"t () => (float[N, 3, H, W] t) {{ t = {pool}(x) }}"
        body = f"p = If (yes) <then_branch = {branch}, else_branch = {branch}>"
    given = "x" if within == "a branch" else "z"
    size = "5, 5" if within == "a branch" else "25"
    if within == "a computed size":
        body = f"n = Add(five, zero) x = Reshape(z, n) {body}"
        values["zero"] = np.array([0])
    text = (
        f"g (float[N, 3, {size}] {given}) => (float[N, 3] y) {{ {body} s = Shape<start = 2>(p) "
        "n2 = ReduceProd<keepdims = 0>(s) f = Cast<to = 1>(n2) "
        "t = ReduceSum<keepdims = 0>(p, axes) y = Div(t, f) }"
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)
    x = x if within == "a branch" else x.reshape(2, 3, 25)
    g = graph(text, values)
    before = run(g, x)
    infer_shapes(g)
    changes_once(fold_constants, g)
    np.testing.assert_allclose(run(g, x), before, rtol=1e-6)


@pytest.mark.parametrize("apply", [fold_constants, fix_reshapes])
def test_a_pool_alone_is_a_change(apply):
    """Where nothing else is."""
    text = (
        "g (float[N, 3, 5, 5] x) => (float[N, 3, H, W] y) { y = MaxPool<kernel_shape = [2, 2], "
        "strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1>(x) }"
    )
    g = graph(text)
    infer_shapes(g)
    changes_once(apply, g)
    assert not g.nodes[0].attrs["ceil_mode"]
