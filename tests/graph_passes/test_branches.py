"""Tensors of a graph that the branches of an If read: passes see those nodes, but own them not."""

import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run, whole

from onnx2snn.graph_passes import (
    canonicalise,
    fold_batch_normalization,
    fold_constants,
    fold_forward,
    verify,
)
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import attach

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4)).astype(np.float32)
WEIGHTS = {
    "w": RNG.normal(size=(4, 4)).astype(np.float32), "b": RNG.normal(size=4).astype(np.float32),
    "zero": np.float32(0), "yes": np.array(True), "two": np.float32(2),
    "scale": RNG.uniform(0.5, 2, 4).astype(np.float32),
}  # fmt: skip


def branching(before, inside):
    """A graph in whose If, on what the data says, one branch does something and one nothing."""
    return graph(
        "g (float[N, 4] x) => (float[N, 4] y) { s = ReduceMean<keepdims = 0>(x) "
        f"c = Greater(s, zero) {before} y = If (c) <then_branch = t () => (float[N, 4] p) "
        f"{{ {inside} }}, else_branch = e () => (float[N, 4] q) {{ q = Neg(x) }}> }}",
        WEIGHTS,
    )


CASES = {
    "a sum": ("m = MatMul(x, w)", "p = Add(m, b)"),
    "a scale and shift": ("r = Relu(x) m = Mul(r, scale)", "p = MatMul(m, w)"),
    "a name that a pass gives": ("m = Gemm<alpha = 2.0>(x, w)", "mv = Add(m, b) p = Relu(mv)"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_branch_reads_is_not_folded_into_it(name):
    g = branching(*CASES[name])
    wanted = [run(g, x) for x in (X - 1, X + 1)]
    for function in (canonicalise, fold_batch_normalization, fold_forward):
        function(g)
        verify(g)
        for x, value in zip((X - 1, X + 1), wanted, strict=True):
            np.testing.assert_allclose(run(g, x), value, rtol=1e-5, atol=1e-6)


def test_names_inside_branches_are_taken():
    g = branching("m = Gemm<alpha = 2.0>(x, w)", "p = Add(m, b)")
    for node in g.nodes:
        if node.op == "If":
            (inner,) = node.attrs["then_branch"].nodes
            inner.inputs[1].name = "m/alpha"
    wanted = run(g, X + 1)
    canonicalise(g)
    np.testing.assert_allclose(run(g, X + 1), wanted, rtol=1e-5)


def test_an_if_that_becomes_its_branch_is_a_change():
    """Also where as many nodes are left; and the nodes are the graph's own then."""
    g = graph(
        "g (float[N, 4] x) => (float[N, 4] y) { y = If (yes) <then_branch = t () => "
        "(float[N, 4] p) { m = MatMul(x, w) p = Add(m, b) }, else_branch = e () => "
        "(float[N, 4] q) { q = Neg(x) }> }",
        WEIGHTS,
    )
    wanted = run(g, X)
    assert fold_constants(g)
    assert not fold_constants(g)
    assert ops(g) == ["MatMul", "Add"]
    canonicalise(g)
    assert ops(g) == ["Gemm"]
    np.testing.assert_allclose(run(g, X), wanted, rtol=1e-5)


def branches(outputs, then, names=("o", "u")):
    """An If of two outputs, that takes its first branch."""
    kinds = [", ".join(f"float[N, 4] {name}" for name in some) for some in (names, ("o2", "u2"))]
    return (
        f"{outputs} = If(yes) <then_branch = t () => ({kinds[0]}) {{ {then} }}, "
        f"else_branch = e () => ({kinds[1]}) {{ o2 = Neg(m) u2 = Abs(m) }}>"
    )


SIGNATURE = "g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z)"
ENDS = "y = Neg(c) z = Abs(d)"
NESTED = branches("o, u", "i = Add(m, two) j = Mul(i, m)", ("i", "j"))
CONSTANTS = "o = Constant<value = float[1, 4] {1, -2, 3, -4}>() u = Add(m, o)"
# All after m = MatMul(x, w) and k = Concat(m, x).
TAKEN = {
    "two outputs": f"{branches('c, d', 'o = Add(m, b) u = Sub(m, b)')} {ENDS}",
    "the graph's outputs": branches("y, z", "o = Add(m, b) u = Sub(m, b)"),
    "one that is read inside": f"{branches('c, d', 'o = Add(m, b) u = Relu(o)')} {ENDS}",
    "one of the graph's that is read inside": branches("y, z", "o = Add(m, b) u = Relu(o)"),
    "one that nothing reads": f"{branches('c, z', 'o = Add(m, b) u = Relu(o)')} y = Abs(m)",
    "of one node": f"{branches('c, d', 'o, u = Split<axis = 1>(k, halves)')} {ENDS}",
    "constants": f"{branches('c, d', CONSTANTS)} {ENDS}",
    "constants that are the graph's outputs": branches("y, z", CONSTANTS),
    "captured tensors": f"{branches('c, d', 'o = Identity(m) u = Identity(x)')} {ENDS}",
    "captured tensors that are the graph's outputs":
        branches("y, z", "o = Identity(x) u = Identity(m)"),
    "the same names inside of two":
        f"{branches('c, h', 'i = Add(m, two) o = Relu(i) u = Neg(o)')} "
        f"{branches('d, j', 'i = Sub(m, two) o = Abs(i) u = Neg(o)')} "
        "y = Add(c, j) z = Add(d, h)",
    "one inside another": f"{branches('c, d', NESTED)} {ENDS}",
    "one inside another, the graph's outputs": branches("y, z", NESTED),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_branch_that_is_always_taken(name):
    weights = WEIGHTS | {"halves": np.array([4, 4])}
    text = f"{SIGNATURE} {{ m = MatMul(x, w) k = Concat<axis = 1>(m, x) {TAKEN[name]} }}"
    g = graph(text, weights)
    wanted = [run(g, X, output=place) for place in (0, 1)]
    changes_once(fold_constants, g)
    assert "If" not in ops(g)
    whole(g)
    for place in (0, 1):
        np.testing.assert_array_equal(run(g, X, output=place), wanted[place])


@pytest.mark.parametrize("nested_first", [True, False])
def test_what_is_made_within_a_branch_hides_nothing(nested_first):
    """One branch makes a tensor t, another has a branch that stays and makes one, too."""
    within = "t = {op}(m) i{n} = Neg(t)"
    inner = (
        f"o = If(c) <then_branch = v () => (float[N, 4] i1) {{ {within.format(op='Relu', n=1)} }}, "
        f"else_branch = w () => (float[N, 4] i2) {{ {within.format(op='Abs', n=2)} }}> u = Neg(o)"
    )
    nested = branches("c1, d1", inner)
    plain = branches("c2, d2", "t = Exp(m) o = Neg(t) u = Abs(t)")
    text = (
        "g (float[N, 4] x, bool c) => (float[N, 4] y, float[N, 4] z) { m = MatMul(x, w) "
        f"{nested if nested_first else plain} {plain if nested_first else nested} "
        "y = Add(c1, c2) z = Add(d1, d2) }"
    )
    g = graph(text, WEIGHTS)
    wanted = [run(g, X, np.array(True), output=place) for place in (0, 1)]
    changes_once(fold_constants, g)
    assert ops(g).count("If") == 1
    whole(g)
    for place in (0, 1):
        np.testing.assert_array_equal(run(g, X, np.array(True), output=place), wanted[place])


def test_the_other_branch_reads_nothing_any_more():
    """Else MatMul and Add would stay apart."""
    g = graph(
        "g (float[N, 4] x) => (float[N, 4] y) { m = MatMul(x, w) c = If (yes) <then_branch = t () "
        "=> (float[N, 4] p) { p = Add(m, b) }, else_branch = e () => (float[N, 4] q) "
        "{ q = Neg(m) }> y = Relu(c) }",
        WEIGHTS,
    )
    wanted = run(g, X)
    canonicalise(g)
    assert ops(g) == ["Gemm", "Relu"]
    np.testing.assert_allclose(run(g, X), wanted, rtol=1e-5)


@pytest.mark.parametrize("inside", ["o = Constant<value = float {2}>()", "o = Neg(two)"])
def test_a_branch_that_is_constant(inside):
    g = graph(
        "g (float[N, 4] x) => (float[N, 4] y) { k = If (yes) <then_branch = t () => (float o) "
        f"{{ {inside} }}, else_branch = e () => (float o2) {{ o2 = Constant<value = float {{3}}>() "
        "}> y = Mul(x, k) }",
        WEIGHTS,
    )
    wanted = run(g, X)
    changes_once(fold_constants, g)
    assert ops(g) == ["Mul"]
    np.testing.assert_array_equal(run(g, X), wanted)


@pytest.mark.parametrize("inside", ["o = Neg(two) u = Abs(two)", "o = Neg(two) u = Neg(m)"])
def test_a_branch_of_which_some_results_are_constant_alone_or_read_by_constants(inside):
    g = graph(
        "g (float[N, 4] x) => (float[N, 4] y) { m = MatMul(x, w) k, l = If (yes) <then_branch = "
        f"t () => (float o, float u) {{ {inside} }}, else_branch = e () => (float o2, float u2) "
        "{ o2 = Abs(two) u2 = Neg(two) }> s = Neg(k) a = Mul(x, s) y = Mul(a, l) }",
        WEIGHTS,
    )
    wanted = run(g, X)
    changes_once(fold_constants, g)
    assert "If" not in ops(g)
    np.testing.assert_array_equal(run(g, X), wanted)


@pytest.mark.parametrize("size", [15, 16])
@pytest.mark.parametrize("outside", [False, True])
def test_what_a_branch_reads_from_outside_is_no_stub(size, outside):
    """As large weights of the graph itself are, which others read, too."""
    text = (
        f"net (float[N, {size}] x, bool c) => (float[N, 16] y) {{ i = If (c) <"
        "then_branch = t () => (float[N, 16] p) { p = MatMul (x, w) }, "
        "else_branch = e () => (float[N, 16] q) { m = MatMul (x, w) q = Neg (m) }> "
    )
    text += "o = MatMul (x, w) y = Add (i, o) }" if outside else "y = Identity (i) }"
    parts = to_parts(graph(text, {"w": np.ones((size, 16), np.float32)}))
    assert list(parts.weights) == (["w"] if outside and size == 16 else [])
    x = np.ones((2, size), np.float32)
    for choice, sign in ((True, 1), (False, -1)):
        found = run(attach(parts), x, np.array(choice))
        np.testing.assert_array_equal(found, (sign + outside) * size)
