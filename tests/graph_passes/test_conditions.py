import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import conditions_to_activations, infer_shapes

SIGNATURE = "g (float[N, 3, 4] x) => (float[N, 3, 4] y)"
X = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
WEIGHTS = {
    "zero": np.float32(0), "zeros": np.zeros((3, 1), np.float32), "one": np.float32(1),
    "tenth": np.float32(0.1), "each": np.float32([[0.1], [0.5], [-2]]),
    "minus": np.float32(-1), "far": np.float32(np.inf),
    "large": np.zeros((2, 1, 3, 4), np.float32), "mixed": np.float32([[0], [0], [1]]),
}  # fmt: skip
FOUND = {
    "relu": ("c = Greater(z, zero) y = Where(c, z, zero)", ["Relu"]),
    "or zero": ("c = GreaterOrEqual(z, zeros) y = Where(c, z, zeros)", ["Relu"]),
    "less": ("c = Less(z, zero) y = Where(c, zero, z)", ["Relu"]),
    "from the other side": ("c = LessOrEqual(zero, z) y = Where(c, z, zero)", ["Relu"]),
    "not": ("c = Less(z, zero) d = Not(c) y = Where(d, z, zero)", ["Relu"]),
    "zeros like x": (
        "s = Shape(z) o = ConstantOfShape(s) c = Greater(z, o) y = Where(c, z, o)", ["Relu"],
    ),
    "a zero expanded": (
        "s = Shape(z) o = Expand(zero, s) c = Greater(z, zero) y = Where(c, z, o)", ["Relu"],
    ),
    "a mask": ("c = Greater(z, zero) m = Cast<to = 1>(c) y = Mul(z, m)", ["Relu"]),
    "a mask first": ("c = Less(zero, z) m = Cast<to = 1>(c) y = Mul(m, z)", ["Relu"]),
    "leaky": ("c = Greater(z, zero) l = Mul(z, tenth) y = Where(c, z, l)", ["PRelu"]),
    "leaky in channels": ("c = Less(z, zero) l = Mul(each, z) y = Where(c, l, z)", ["PRelu"]),
    "a threshold": ("c = Greater(z, one) y = Where(c, z, zero)", ["ThresholdedRelu"]),
    "a threshold as torch writes it": (
        "c = LessOrEqual(z, one) y = Where(c, zeros, z)", ["ThresholdedRelu"],
    ),
    "a threshold from the other side": (
        "c = Less(tenth, z) d = Not(c) y = Where(d, zero, z)", ["ThresholdedRelu"],
    ),
    "soft, above": ("d = Sub(z, one) c = Greater(z, one) y = Where(c, d, zero)", ["Sub", "Relu"]),
    "soft, above, added": (
        "d = Add(minus, z) c = Less(z, one) y = Where(c, zero, d)", ["Add", "Relu"],
    ),
    "soft, below": (
        "d = Add(z, one) c = Less(z, minus) y = Where(c, d, zero)", ["Add", "Min"],
    ),
    "below": ("c = Less(z, zero) y = Where(c, z, zero)", ["Min"]),
    "a mask above a threshold": (
        "c = Greater(z, one) m = Cast<to = 1>(c) y = Mul(z, m)", ["ThresholdedRelu"],
    ),
    "a threshold that stays": ("c = LessOrEqual(z, one) y = Where(c, one, z)", ["Max"]),
    "the same from the other side": ("c = Less(minus, z) y = Where(c, z, minus)", ["Max"]),
    "a bound": ("c = Less(one, z) y = Where(c, one, z)", ["Min"]),
    "a bound from the other side": ("c = LessOrEqual(z, one) y = Where(c, z, one)", ["Min"]),
    "both bounds, as ONNX defines Clip": (
        "c = Less(z, minus) m = Where(c, minus, z) d = Less(one, m) y = Where(d, one, m)",
        ["Max", "Min"],
    ),
    "a number like x that stays": (
        "s = Shape(z) o = ConstantOfShape<value = float[1] {0.1}>(s) c = Greater(z, tenth) "
        "y = Where(c, z, o)", ["Max"],
    ),
    "times ones like x": (
        "s = Shape(z) o = Expand(one, s) b = Mul(tenth, o) c = Less(z, b) y = Where(c, b, z)",
        ["Max"],
    ),
    "a mask of numbers": ("c = Greater(z, zero) m = Where(c, one, zero) y = Mul(z, m)", ["Relu"]),
    "a mask of numbers, turned": (
        "c = Less(z, zero) m = Where(c, zeros, one) y = Mul(m, z)", ["Relu"],
    ),
    "leaky by a factor": ("c = Greater(z, zero) m = Where(c, one, tenth) y = Mul(z, m)", ["PRelu"]),
    "absolute": ("c = Greater(z, zero) n = Neg(z) y = Where(c, z, n)", ["Abs"]),
}  # fmt: skip
OTHERS = {
    "a threshold that is above": "c = GreaterOrEqual(z, one) y = Where(c, z, zero)",
    "a threshold that is above, not": "c = Less(z, one) y = Where(c, zero, z)",
    "a threshold below zero": "c = Greater(z, minus) y = Where(c, z, zero)",
    "what is below a threshold": "c = Greater(z, one) y = Where(c, zero, z)",
    "leaky from a threshold on": "c = Greater(z, one) l = Mul(z, tenth) y = Where(c, z, l)",
    "an infinite threshold": "c = Greater(z, far) y = Where(c, z, zero)",
    "a bound in one channel": "c = Greater(z, mixed) y = Where(c, z, zero)",
    "less of another number": "d = Sub(z, one) c = Greater(z, tenth) y = Where(c, d, zero)",
    "more of the same number": "d = Add(z, one) c = Greater(z, one) y = Where(c, d, zero)",
    "less of it from the number": "d = Sub(one, z) c = Greater(z, one) y = Where(c, d, zero)",
    "the negative side of a one": "c = Less(z, zero) y = Where(c, z, one)",
    "a mask of the negative": "c = Less(z, zero) m = Cast<to = 1>(c) y = Mul(z, m)",
    "another tensor": "n = Neg(z) c = Greater(n, zero) y = Where(c, z, zero)",
    "a mask of another": "n = Neg(z) c = Greater(n, zero) m = Cast<to = 1>(c) y = Mul(z, m)",
    "something else below": "c = Greater(z, zero) y = Where(c, z, one)",
    "a product of another": "n = Neg(z) l = Mul(n, tenth) c = Greater(z, zero) y = Where(c, z, l)",
    "a square below": "l = Mul(z, z) c = Greater(z, zero) y = Where(c, z, l)",
    "a factor from a threshold on": "c = Less(z, one) m = Where(c, tenth, one) y = Mul(z, m)",
    "a factor above and none below": "c = Less(z, zero) m = Where(c, zero, tenth) y = Mul(z, m)",
    "an infinite factor": "c = Less(z, zero) m = Where(c, far, one) y = Mul(z, m)",
    "a mask of tensors": "c = Less(z, zero) m = Where(c, mixed, one) y = Mul(z, m)",
    "equal": "c = Equal(z, zero) y = Where(c, z, zero)",
}


@pytest.mark.parametrize("name", FOUND)
def test_what_conditions_spell(name):
    body, wanted = FOUND[name]
    g = graph(f"{SIGNATURE} {{ z = Add(x, one) {body} }}", WEIGHTS)
    x = np.concatenate([X, np.full((1, 3, 4), -1, np.float32), 0 * X[:1]])
    before = run(g, x)
    changes_once(conditions_to_activations, g)
    assert ops(g) == ["Add", *wanted]
    np.testing.assert_allclose(run(g, x), before, rtol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_something_else(name):
    g = graph(f"{SIGNATURE} {{ z = Add(x, one) {OTHERS[name]} }}", WEIGHTS)
    assert not conditions_to_activations(g)


def test_zeros_that_make_it_larger_stay():
    for body in (
        "c = Greater(x, zero) y = Where(c, x, large)",
        "o = ConstantOfShape(sizes) c = Greater(x, zero) y = Where(c, x, o)",
    ):
        sizes = {"sizes": np.array([2, 1, 3, 4])}
        g = graph(f"g (float[N, 3, 4] x) => (float[2, N, 3, 4] y) {{ {body} }}", WEIGHTS | sizes)
        assert not conditions_to_activations(g)


def test_numbers_beside_an_open_size_that_may_be_1_stay():
    g = graph("g (float[N, 3, W] x) => (float[N, 3, V] y) { c = Greater(x, zero) "
              "y = Where(c, x, five) }", WEIGHTS | {"five": np.zeros(5, np.float32)})  # fmt: skip
    assert not conditions_to_activations(g)


@pytest.mark.parametrize(("other", "changed"), [("N", True), ("M", False)])
def test_zeros_of_another_open_size_stay(other, changed):
    g = graph(f"g (float[N, 3] x, float[{other}, 3] w) => (float[K, 3] y) {{ s = Shape(w) "
              "o = ConstantOfShape(s) c = Greater(x, o) y = Where(c, x, o) }", WEIGHTS)  # fmt: skip
    infer_shapes(g)
    assert conditions_to_activations(g) is changed


def test_a_threshold_in_double_precision_stays():
    text = "g (double[N, 3] x) => (double[N, 3] y) { c = Greater(x, b) y = Where(c, x, z) }"
    assert not conditions_to_activations(graph(text, {"b": np.float64(1), "z": np.float64(0)}))


def test_whole_numbers_stay():
    text = "g (int64[N, 3] x) => (int64[N, 3] y) { c = Greater(x, nil) y = Where(c, x, nil) }"
    assert not conditions_to_activations(graph(text, {"nil": np.int64(0)}))


def test_a_cast_of_another_domain_makes_no_mask():
    text = f"{SIGNATURE} {{ c = Greater(x, zero) m = Cast<to = 1>(c) y = Mul(x, m) }}"
    g = graph(text, {"zero": np.float32(0)})
    g.nodes[1].domain = "my"
    assert not conditions_to_activations(g)
