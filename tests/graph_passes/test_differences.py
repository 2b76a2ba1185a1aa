import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import canonicalise, differences_to_clips
from onnx2snn.graph_passes.graph.activations import bounded_activations, unbounded_activations

X = np.linspace(-9, 9, 96, dtype=np.float32).reshape(4, 3, 8)
NUMBERS = {
    "a": np.float32([2]), "half": np.float32(0.5), "minus": np.float32(-2), "three": np.float32(3),
    "channels": np.float32([[1], [2], [4]]), "mixed": np.float32([[1], [-2], [4]]),
    "zero": np.float32(0),
}  # fmt: skip
PACT = "p = Abs(x) d = Sub(x, a) e = Abs(d) "
SPELLINGS = {
    PACT + "f = Sub(p, e) h = Add(f, a) y = Mul(h, half)": 2,
    PACT + "f = Add(p, a) h = Sub(f, e) y = Mul(half, h)": 2,
    PACT + "f = Sub(e, a) h = Sub(p, f) y = Mul(half, h)": 2,
    PACT + "f = Sub(e, p) y = Mul(f, half)": 2,
    "d = Add(x, a) p = Abs(d) e = Abs(x) f = Sub(p, e) y = Mul(f, half)": 2,
    "d = Add(x, minus) p = Abs(x) e = Abs(d) y = Sub(p, e)": 2,
    "c = Add(x, three) d = Sub(x, a) p = Abs(c) e = Abs(d) y = Sub(p, e)": 5,
}
LEFT = (
    PACT + "f = Add(p, e) y = Mul(f, half)",
    PACT + "f = Sub(p, e) y = Add(f, p)",
    PACT + "h = Add(p, a) f = Sub(h, e) y = Mul(f, h)",
    "p = Abs(x) d = Mul(x, half) e = Abs(d) y = Sub(p, e)",
    "p = Abs(x) d = Sub(a, x) e = Abs(d) y = Sub(p, e)",
    "p = Abs(x) d = Add(x, zero) e = Abs(d) y = Sub(p, e)",
    "p = Abs(x) d = Sub(x, mixed) e = Abs(d) y = Sub(p, e)",
    "s = Neg(x) p = Abs(x) t = Sub(s, a) e = Abs(t) y = Sub(p, e)",
    "p = Abs(x) y = Sub(p, a)",
)


def network(body):
    return graph(f"g (float[N, 3, 8] x) => (float[N, 3, 8] y) {{ {body} }}", NUMBERS)


@pytest.mark.parametrize("body", SPELLINGS)
def test_a_difference_of_absolute_values_is_a_clip(body):
    g = network(body)
    before = run(g, X)
    changes_once(differences_to_clips, g)
    assert "Abs" not in ops(g)
    np.testing.assert_allclose(run(g, X), before, atol=1e-5)
    canonicalise(g)
    assert not unbounded_activations(g)
    (bound,) = bounded_activations(g).values()
    assert bound == SPELLINGS[body]


@pytest.mark.parametrize("order", ["Sub(p, e)", "Sub(e, p)"])
def test_a_bound_for_each_channel(order):
    g = network(f"p = Abs(x) d = Sub(x, channels) e = Abs(d) y = {order}")
    before = run(g, X)
    changes_once(differences_to_clips, g)
    assert ops(g)[:2] == ["Relu", "Min"]
    np.testing.assert_allclose(run(g, X), before, atol=1e-5)


@pytest.mark.parametrize("body", LEFT)
def test_others_stay(body):
    g = network(body)
    before = ops(g)
    assert differences_to_clips(g) is False
    assert ops(g) == before


def test_halves_whose_double_is_too_large_stay():
    text = "g (float16[N, 3, 8] x) => (float16[N, 3, 8] y) { p = Abs(x) d = Sub(x, a) e = Abs(d) "
    for bound, changes in ((30_000, True), (40_000, False)):
        g = graph(text + "y = Sub(p, e) }", {"a": np.float16(bound)})
        assert differences_to_clips(g) is changes


def test_values_of_types_that_are_not_floating_stay():
    text = "g (int32[N, 3, 8] x) => (int32[N, 3, 8] y) { p = Abs(x) d = Sub(x, a) e = Abs(d) "
    assert differences_to_clips(graph(text + "y = Sub(p, e) }", {"a": np.int32(2)})) is False
