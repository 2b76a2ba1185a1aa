import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import fold_batch_normalization

RNG = np.random.default_rng(0)


def bn(channels):
    return {
        "scale": RNG.uniform(0.5, 2, channels).astype(np.float32),
        "shift": RNG.normal(size=channels).astype(np.float32),
        "mean": RNG.normal(size=channels).astype(np.float32),
        "var": RNG.uniform(0.5, 2, channels).astype(np.float32),
    }


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


BN = "y = BatchNormalization<epsilon = 0.001>(r, scale, shift, mean, var)"
IMAGE, ROW = (
    "g (float[N, 4, 6, 6] x) => (float[N, 6, a, b] y)",
    "g (float[N, 4] x) => (float[N, 6] y)",
)
CASES = {
    "conv": (IMAGE, "r = Conv(x, w)", {"w": normal(6, 4, 3, 3)}, "Conv"),
    "bias": (IMAGE, "r = Conv(x, w, b)", {"w": normal(6, 4, 3, 3), "b": normal(6)}, "Conv"),
    "grouped": (IMAGE, "r = Conv<group = 2>(x, w)", {"w": normal(6, 2, 3, 3)}, "Conv"),
    "transposed": (IMAGE, "r = ConvTranspose(x, w)", {"w": normal(4, 6, 3, 3)}, "ConvTranspose"),
    "gemm": (ROW, "r = Gemm(x, w, b)", {"w": normal(4, 6), "b": normal(6)}, "Gemm"),
    "gemm transposed": (
        ROW, "r = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b)",
        {"w": normal(6, 4), "b": normal(1, 6)}, "Gemm",
    ),
    "matmul": (ROW, "r = MatMul(x, w)", {"w": normal(4, 6)}, "Gemm"),
}  # fmt: skip


def assert_folds_to(wanted, g, x, atol=1e-5):
    """The pass leaves these operators, and what the graph makes of x."""
    before = run(g, x)
    changes_once(fold_batch_normalization, g)
    assert ops(g) == wanted
    np.testing.assert_allclose(run(g, x), before, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_folds_into_the_linear_operator_before(name):
    signature, linear, weights, op = CASES[name]
    g = graph(f"{signature} {{ {linear} {BN} }}", weights | bn(6))
    assert_folds_to([op], g, normal(5, 4, 6, 6) if signature is IMAGE else normal(5, 4))


def test_is_exact_on_dyadic_numbers():
    weights = {
        "w": np.array([[[[0.5]]], [[[2.0]]]], np.float32), "scale": np.array([2, 0.5], np.float32),
        "shift": np.array([0.25, 1], np.float32), "mean": np.array([1, 3], np.float32),
        "var": np.array([0.25, 4], np.float32),
    }  # fmt: skip
    g = graph(
        "g (float[1, 1, 1, 1] x) => (float[1, 2, 1, 1] y) { r = Conv(x, w) "
        "y = BatchNormalization<epsilon = 0.0>(r, scale, shift, mean, var) }",
        weights,
    )
    x = np.full((1, 1, 1, 1), 3, np.float32)
    before = run(g, x)
    fold_batch_normalization(g)
    np.testing.assert_array_equal(run(g, x), before)


def test_weights_that_are_shared_stay_as_they_are_for_the_other():
    body = f"r = Conv(x, w) {BN} z = Conv(x, w)"
    g = graph(
        f"g (float[N, 4, 6, 6] x) => (float[N, 6, a, b] z, float[N, 6, c, d] y) {{ {body} }}",
        {"w": normal(6, 4, 3, 3)} | bn(6),
    )
    x = normal(2, 4, 6, 6)
    before = run(g, x)
    fold_batch_normalization(g)
    np.testing.assert_array_equal(run(g, x), before)


def test_says_why_it_declines():
    declined = []
    g = graph(
        f"g (float[N, 6, 4, 4] r) => (float[N, 6, 4, 4] y) {{ {BN} }}",
        bn(6),
    )
    assert not fold_batch_normalization(g, declined)
    assert "stays as a scale and shift" in declined[0].reason

    used_twice = f"r = Conv(x, w) {BN} z = Neg(r)"
    g = graph(
        f"g (float[N, 4, 6, 6] x) => (float[N, 6, a, b] y, float[N, 6, c, d] z) {{ {used_twice} }}",
        {"w": normal(6, 4, 3, 3)} | bn(6),
    )
    declined.clear()
    assert not fold_batch_normalization(g, declined)
    assert "used elsewhere" in declined[0].reason

    for kind, training, reason in (
        ("float[N, 6, 4, 4] r", 1, "in training mode"),
        ("float r", 0, "the number of axes of its input"),
        ("bfloat16[N, 6, 4, 4] r", 0, "not known to be floating"),
    ):
        g = graph(f"g ({kind}) => ({kind[:-1]}y) {{ {BN} }}", bn(6))
        (norm,) = g.nodes
        norm.attrs["training_mode"] = training
        if kind == "float r":
            g.inputs[0].shape = None
        declined.clear()
        assert not fold_batch_normalization(g, declined)
        assert reason in declined[0].reason


SPELLINGS = {
    "scale": "y = Mul(r, k)",
    "scale first": "y = Mul(k, r)",
    "quotient": "y = Div(r, k)",
    "shift": "y = Add(k, r)",
    "difference": "y = Sub(r, k)",
    "difference from": "y = Sub(k, r)",
    "minus": "y = Neg(r)",
    "several": "p = Mul(r, k) q = Sub(p, k) y = Neg(q)",
    "among them a batch normalization": f"p = Neg(r) q = Mul(p, k) {BN.replace('(r', '(q')}",
}
SHAPES = {
    "scalar": (), "one": (1,), "per channel": (6, 1, 1), "with a batch axis": (1, 6, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_however_it_is_spelled(name, shape):
    weights = {"w": normal(6, 4, 3, 3), "k": normal(*SHAPES[shape])} | bn(6)
    g = graph(f"{IMAGE} {{ r = Conv(x, w) {SPELLINGS[name]} }}", weights)
    assert_folds_to(["Conv"], g, normal(2, 4, 6, 6), atol=1e-4)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case[0] is ROW])
@pytest.mark.parametrize("shape", [(), (6,), (1, 6)])
@pytest.mark.parametrize("scale", ["y = Mul(r, k)", "y = Sub(k, r)"])
def test_of_features(name, shape, scale):
    _, linear, weights, op = CASES[name]
    g = graph(f"{ROW} {{ {linear} {scale} }}", weights | {"k": normal(*shape)})
    assert_folds_to([op], g, normal(5, 4))


@pytest.mark.parametrize("name", [n for n in SPELLINGS if "batch" not in n])
def test_joins_a_batch_normalization_that_comes_first(name):
    body = f"{BN.replace('y', 'r').replace('(r', '(x')} {SPELLINGS[name]}"
    g = graph(
        f"g (float[N, 6, 4, 4] x) => (float[N, 6, 4, 4] y) {{ {body} }}",
        bn(6) | {"k": normal(6, 1, 1)},
    )
    assert_folds_to(["BatchNormalization"], g, normal(2, 6, 4, 4))


STAYS = {
    "a factor of each pixel": "r = Conv(x, w) y = Mul(r, pixels)",
    "a factor of each column": "r = Conv(x, w) y = Mul(r, column)",
    "a factor of each sample": "r = Conv(x, w) y = Mul(r, samples)",
    "another activation": "r = Conv(x, w) s = Sigmoid(r) y = Mul(r, s)",
    "its square": "r = Conv(x, w) y = Mul(r, r)",
    "a quotient of itself": "r = Conv(x, w) y = Div(one, r)",
    "more axes": "r = Conv(x, w) y = Add(r, more)",
    "no layer before": "y = Mul(x, one)",
    "after an activation": "r = Conv(x, w) s = Relu(r) y = Mul(s, one)",
    "weights that are no constant": "t = Relu(w) r = Conv(x, t) y = Mul(r, one)",
    "a layer of groups": "r = ConvTranspose<group = 2>(x, grouped) y = Mul(r, one)",
}


@pytest.mark.parametrize("name", STAYS)
def test_what_cannot_be_folded_stays(name):
    weights = {
        "w": normal(6, 4, 3, 3), "grouped": normal(4, 3, 3, 3), "one": np.float32(2),
        "pixels": normal(4, 4), "column": normal(4), "samples": normal(2, 1, 1, 1),
        "more": normal(1, 1, 1, 1, 1),
    }  # fmt: skip
    shape = "a, b, c, d, e" if "more" in STAYS[name] else "a, b, c, d"
    g = graph(f"g (float[2, 4, 6, 6] x) => (float[{shape}] y) {{ {STAYS[name]} }}", weights)
    wanted = ops(g)
    assert not fold_batch_normalization(g)
    assert ops(g) == wanted


def test_a_bias_that_differs_by_sample_stays():
    weights = {"w": normal(4, 6), "b": normal(2, 6), "k": normal(6)}
    g = graph("g (float[2, 4] x) => (float[2, 6] y) { r = Gemm(x, w, b) y = Mul(r, k) }", weights)
    assert not fold_batch_normalization(g)


def test_weights_that_are_an_output_too_stay():
    weights = {"w": normal(6, 4, 3, 3)}
    g = graph(f"{IMAGE} {{ r = Conv(x, w) {BN} }}", weights | bn(6))
    (kept,) = (t for node in g.nodes for t in node.inputs if t.name == "w")
    g.outputs.append(kept)
    changes_once(fold_batch_normalization, g)
    np.testing.assert_array_equal(kept.values, weights["w"])


def test_what_reads_a_result_in_vain_is_no_obstacle():
    """Nor does it become none when the pass has removed it, so that a second run would fold."""
    g = graph(
        f"{IMAGE} {{ r = Conv(x, w) d = Abs(r) {BN.replace('y =', 'p =')} y = Mul(p, half) }}",
        {"w": normal(6, 4, 3, 3), "half": np.float32(0.5)} | bn(6),
    )
    assert_folds_to(["Conv"], g, normal(2, 4, 6, 6))


LARGE = {
    "weights": "r = MatMul(x, w) y = Mul(r, factor)",
    "a batch normalization": f"{BN.replace('y =', 'r =').replace('(r', '(x')} y = Mul(r, factor)",
}


@pytest.mark.parametrize("name", LARGE)
def test_stays_where_weights_would_overflow(name):
    weights = {
        "w": np.diag([200, 200, 1]), "scale": [200, 200, 1], "shift": [0, 0, 0],
        "mean": [0, 0, 0], "var": [1, 1, 1], "factor": [1000, 1, 1],
    }  # fmt: skip
    g = graph(
        f"g (float16[N, 3] x) => (float16[N, 3] y) {{ {LARGE[name]} }}",
        {key: np.array(value, np.float16) for key, value in weights.items()},
    )
    wanted = ops(g)
    x = np.float16([[0.01, -0.02, 1], [0, 0.005, -2]])
    before = run(g, x)
    assert not fold_batch_normalization(g)
    assert ops(g) == wanted
    np.testing.assert_array_equal(run(g, x), before)
    assert np.all(np.isfinite(before))


@pytest.mark.parametrize(("scale", "stays"), [(1.0, False), (1e-5, True)])
def test_stays_where_weights_would_lose_their_digits(scale, stays):
    """float16 has few below 6e-5, and none below 6e-8."""
    weights = {
        "w": 0.02 * np.random.default_rng(0).normal(size=(3, 3)), "scale": 3 * [scale],
        "shift": [0, 0, 0], "mean": [0, 0, 0], "var": [1, 1, 1],
    }  # fmt: skip
    g = graph(
        f"g (float16[N, 3] x) => (float16[N, 3] y) {{ r = MatMul(x, w) {BN} }}",
        {name: np.array(value, np.float16) for name, value in weights.items()},
    )
    assert fold_batch_normalization(g) is not stays


def test_a_small_shift_may_lose_its_digits():
    """What counts is what it is added to."""
    weights = {
        "w": np.random.default_rng(0).normal(size=(3, 3)), "scale": 3 * [1],
        "shift": 3 * [1e-5], "mean": 3 * [3e-5], "var": 3 * [1],
    }  # fmt: skip
    g = graph(
        f"g (float16[N, 3] x) => (float16[N, 3] y) {{ r = MatMul(x, w) {BN} }}",
        {name: np.array(value, np.float16) for name, value in weights.items()},
    )
    assert fold_batch_normalization(g)


def test_says_what_would_overflow():
    """ONNX Runtime folds it all the same, and computes infinity."""
    weights = bn(3) | {"w": 200 * np.eye(3), "scale": 3 * np.ones(3), "var": 1e-6 * np.ones(3)}
    body = f"r = MatMul(x, w) {BN.replace('0.001', '0.0')}"
    g = graph(
        f"g (float16[N, 3] x) => (float16[N, 3] y) {{ {body} }}",
        {name: value.astype(np.float16) for name, value in weights.items()},
    )
    declined = []
    assert not fold_batch_normalization(g, declined)
    assert declined[0].reason == "float16 cannot hold the weights of MatMul 'r' with it in them"
