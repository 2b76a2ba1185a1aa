"""Tensors of a graph that the branches of an If read: passes see those nodes, but own them not."""

import numpy as np
import pytest
from onnx_text import graph, ops, run

from onnx2snn.graph_passes import (
    canonicalise,
    fold_batch_normalization,
    fold_constants,
    fold_forward,
    verify,
)

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
