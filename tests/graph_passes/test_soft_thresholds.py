"""Soft thresholding as two ReLUs."""

import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import canonicalise, decompose_soft_thresholds, infer_shapes

SIGNATURE = "g (float[N, 4] x) => (float[N, 4] y)"
X = np.concatenate([np.random.default_rng(0).normal(size=(50, 4)),
                    [[0, 0.5, -0.5, 0.25]]]).astype(np.float32)  # fmt: skip
NUMBERS = {
    "half": np.float32(0.5), "zero": np.float32(0), "minus": np.float32(-0.5),
    "each": np.float32([0, 0.25, 0.5, 1]), "some": np.float32([0.5, -0.5, 0.5, 0.5]),
    "more": np.float32(0.75),
}  # fmt: skip
SIZES = "s = Sign(x) a = Abs(x)"
FOUND = {
    "as LISTA has it": f"{SIZES} e = Sub(a, half) r = Relu(e) y = Mul(s, r)",
    "the other way round": f"{SIZES} e = Sub(a, half) r = Relu(e) y = Mul(r, s)",
    "each unit its own": f"{SIZES} e = Sub(a, each) r = Relu(e) y = Mul(s, r)",
    "where": f"{SIZES} c = Greater(a, half) m = Mul(s, half) d = Sub(x, m) y = Where(c, d, zero)",
    "as dynamo writes softshrink": f"{SIZES} c = Greater(a, half) m = Mul(half, s) d = Sub(x, m) "
    "z = Mul(x, zero) y = Where(c, d, z)",
    "where not": f"{SIZES} c = LessOrEqual(a, half) m = Mul(s, half) d = Sub(x, m) "
    "y = Where(c, zero, d)",
    "shrink": "y = Shrink<lambd = 0.5, bias = 0.5>(x)",
}


@pytest.mark.parametrize("name", FOUND)
def test_soft_thresholding_becomes_two_relus(name):
    g = graph(f"{SIGNATURE} {{ {FOUND[name]} }}", NUMBERS)
    before = run(g, X)
    changes_once(decompose_soft_thresholds, g)
    assert sorted(ops(g)) == ["Neg", "Relu", "Relu", "Sub", "Sub", "Sub"]
    t = NUMBERS["each" if "each" in name else "half"]
    np.testing.assert_array_equal(run(g, X), np.sign(X) * np.maximum(np.abs(X) - t, 0))
    np.testing.assert_allclose(run(g, X), before, atol=1e-7)


@pytest.mark.parametrize(
    "body",
    [
        "y = Shrink<lambd = 0.5>(x)",
        "y = Shrink<lambd = -0.5, bias = -0.5>(x)",
        f"{SIZES} e = Sub(a, minus) r = Relu(e) y = Mul(s, r)",
        f"{SIZES} e = Sub(a, some) r = Relu(e) y = Mul(s, r)",
        f"{SIZES} e = Sub(half, a) r = Relu(e) y = Mul(s, r)",
        "n = Neg(x) s = Sign(n) a = Abs(x) e = Sub(a, half) r = Relu(e) y = Mul(s, r)",
        f"{SIZES} e = Sub(a, x) r = Relu(e) y = Mul(s, r)",
        f"{SIZES} c = Greater(a, more) m = Mul(s, half) d = Sub(x, m) y = Where(c, d, zero)",
        f"{SIZES} c = Greater(a, half) m = Mul(s, half) d = Sub(x, m) y = Where(c, zero, d)",
        f"{SIZES} c = Greater(a, half) m = Mul(s, half) d = Sub(x, m) y = Where(c, d, half)",
        f"{SIZES} c = Greater(a, half) m = Mul(s, half) d = Sub(x, m) z = Mul(x, x) "
        "y = Where(c, d, z)",
        f"{SIZES} c = Greater(a, half) m = Mul(s, half) d = Sub(m, x) y = Where(c, d, zero)",
        "s = Sign(x) c = Greater(x, half) m = Mul(s, half) d = Sub(x, m) y = Where(c, d, zero)",
    ],
)
def test_what_is_no_soft_thresholding_stays(body):
    g = graph(f"{SIGNATURE} {{ {body} }}", NUMBERS)
    assert not decompose_soft_thresholds(g)


@pytest.mark.parametrize("op", ["Sign", "Abs", "Relu", "Sub", "Mul"])
def test_operators_of_other_domains_stay(op):
    g = graph(f"{SIGNATURE} {{ {FOUND['as LISTA has it']} }}", NUMBERS)
    next(node for node in g.nodes if node.op == op).domain = "my"
    assert not decompose_soft_thresholds(g)


@pytest.mark.parametrize("positive", ["Relu(e)", "Clip(e, zero)", "Max(e, zero)", "Max(zero, e)"])
def test_the_canonical_form_has_two_relus(positive):
    g = graph(f"{SIGNATURE} {{ {SIZES} e = Sub(a, each) r = {positive} y = Mul(s, r) }}", NUMBERS)
    changes_once(canonicalise, g)
    assert ops(g).count("Relu") == 2
    assert not {"Sign", "Mul", "Max", "Clip"} & set(ops(g))
    wanted = np.sign(X) * np.maximum(np.abs(X) - NUMBERS["each"], 0)
    np.testing.assert_allclose(run(g, X), wanted, atol=1e-7)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_types(kind):
    dtype = {"double": np.float64}.get(kind, np.float16)
    text = f"g ({kind}[N, 4] x) => ({kind}[N, 4] y) {{ {FOUND['as LISTA has it']} }}"
    g = graph(text, {"half": dtype(0.5)})
    infer_shapes(g)
    changes_once(decompose_soft_thresholds, g)
    found = run(g, X.astype(dtype))
    assert found.dtype == dtype
    x = X.astype(dtype)
    np.testing.assert_array_equal(found, np.sign(x) * np.maximum(np.abs(x) - dtype(0.5), 0))
