import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import canonicalise, move_bounds_behind_scales
from onnx2snn.graph_passes.graph.activations import bounded_activations, unbounded_activations

X = np.linspace(-9, 9, 96, dtype=np.float32).reshape(4, 3, 8)
NUMBERS = {
    "zero": np.float32(0), "one": np.float32(1), "two": np.float32(2), "six": np.float32(6),
    "minus": np.float32(-4), "s": np.float32([0.25]), "channels": np.float32([[1], [2], [0.5]]),
    "most": np.float32(15), "far": np.float32([[1], [2], [3]]), "large": np.float32(2e6),
    "none": np.float32(1e9), "small": np.float32(1e-4), "infinite": np.float32(np.inf),
    "low": np.float32(-np.inf),
    "some": np.float32([[1], [2], [0]]), "half": np.float32(0.5),
}  # fmt: skip
# Spellings, and the bounds of the one clip that each is.
MERGED = {
    "r = Relu(x) d = Div(r, s) y = Clip(d, zero, six)": [6],
    "r = Relu(x) d = Div(r, s) e = Mul(two, d) y = Clip(e, zero, six)": [6],
    "r = Relu(x) d = Mul(r, channels) y = Clip(d, zero, six)": [6],
    "r = Relu(x) d = Div(r, s) y = Min(d, six)": [6],
    "r = Relu(x) d = Mul(r, s) y = Clip(d, minus, one)": [1],
    "r = Clip(x, zero, six) d = Div(r, s) y = Clip(d, zero, most)": [15],
    "r = Clip(x, zero, two) d = Mul(r, s) y = Clip(d, zero, most)": [0.5],
    "r = Clip(x, zero, two) d = Mul(r, s) y = Relu(d)": [0.5],
    "r = Clip(x, one, six) d = Mul(r, s) e = Sub(d, s) y = Relu(e)": None,
    "r = Clip(x, zero) d = Mul(r, s) y = Clip(d, zero, one)": [1],
    "r = Clip(x, , six) d = Mul(r, s) y = Relu(d)": [1.5],
    "a = Clip(x, minus, two) b = Mul(a, half) c = Relu(b) d = Mul(c, half) y = Clip(d, zero, six)":
        [0.5],
    "a = Relu(x) b = Mul(a, half) c = Clip(b, zero, two) d = Mul(c, half) y = Clip(d, zero, one)":
        [1],
}  # fmt: skip
ALONE = (
    "r = Relu(x) d = Mul(r, minus) y = Clip(d, minus, zero)",
    "r = Relu(x) d = Add(r, one) y = Clip(d, zero, six)",
    "r = Relu(x) d = Div(r, s) e = Neg(d) f = Neg(e) y = Clip(f, zero, six)",
    "r = Relu(x) d = Div(r, s) c = Clip(d, zero, six) y = Add(c, r)",
    "r = Relu(x) d = Div(r, s) c = Clip(d, zero, six) y = Add(c, d)",
    "r = Relu(x) d = Mul(r, s) y = Sigmoid(d)",
    "r = Clip(x, infinite) d = Mul(r, s) y = Clip(d, zero, six)",
    "r = Clip(x, , low) d = Mul(r, s) y = Relu(d)",
    "r = Relu(x) y = Mul(r, s)",
    "r = Clip(x, zero, six) d = Mul(r, channels) y = Clip(d, zero, six)",
    "r = Relu(x) y = Clip(r, zero, six)",
    "r = Relu(x) d = Mul(r, x) y = Clip(d, zero, six)",
    "r = Min(x, far) d = Mul(r, s) y = Relu(d)",
    # What would be no bound any more.
    "r = Clip(x, zero, six) d = Mul(r, large) y = Relu(d)",
    "r = Relu(x) d = Mul(r, infinite) y = Clip(d, zero, six)",
    "r = Relu(x) d = Mul(r, some) y = Clip(d, zero, six)",
)


def network(body):
    return graph(f"g (float[N, 3, 8] x) => (float[N, 3, 8] y) {{ {body} }}", NUMBERS)


@pytest.mark.parametrize("body", [body for body, bounds in MERGED.items() if bounds])
def test_bounds_with_a_scale_between_are_one(body):
    g = network(body)
    before = run(g, X)
    changes_once(move_bounds_behind_scales, g)
    np.testing.assert_allclose(run(g, X), before, rtol=1e-6)
    canonicalise(g)
    assert not unbounded_activations(g)
    bounds = [float(bound) for bound in bounded_activations(g).values()]
    assert bounds == MERGED[body]
    np.testing.assert_allclose(run(g, X), before, rtol=1e-6)


@pytest.mark.parametrize("body", [*ALONE, *(body for body, bounds in MERGED.items() if not bounds)])
def test_bounds_that_stay_where_they_are(body):
    g = network(body)
    before = ops(g)
    assert move_bounds_behind_scales(g) is False
    assert ops(g) == before


def test_a_bound_between_that_is_an_output_stays():
    text = "g (float[N, 3, 8] x) => (float[N, 3, 8] y, float[N, 3, 8] r) "
    text += "{ r = Relu(x) d = Mul(r, s) y = Clip(d, zero, six) }"
    g = graph(text, NUMBERS)
    assert move_bounds_behind_scales(g) is False


@pytest.mark.parametrize("op", ["Clip(x, zero, none)", "Clip(x, , none)", "Clip(x, zero)"])
def test_a_bound_that_says_none_stays_none(op):
    g = network(f"r = {op} d = Mul(r, small) y = Relu(d)")
    before = run(g, X)
    changes_once(move_bounds_behind_scales, g)
    canonicalise(g)
    assert ops(g) == ["Mul", "Relu"]
    np.testing.assert_allclose(run(g, X), before, rtol=1e-6)


def test_bounds_that_do_not_fit_halves_stay():
    text = "g (float16[N, 3, 8] x) => (float16[N, 3, 8] y) { r = Clip(x, zero, six) "
    text += "d = Mul(r, s) y = Relu(d) }"
    g = graph(text, {"zero": np.float16(0), "six": np.float16(6), "s": np.float16(30_000)})
    assert move_bounds_behind_scales(g) is False


def test_nodes_have_names_of_their_own():
    """And none has that of a tensor which another makes."""
    g = network("r = Relu(x) d = Mul(r, s) y = Clip(d, minus, one)")
    move_bounds_behind_scales(g)
    makers = {tensor.name: node.name for node in g.nodes for tensor in node.outputs}
    assert all(makers.get(node.name, node.name) == node.name for node in g.nodes)
