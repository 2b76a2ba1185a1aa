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


@pytest.mark.parametrize("name", CASES)
def test_folds_into_the_linear_operator_before(name):
    signature, linear, weights, op = CASES[name]
    g = graph(f"{signature} {{ {linear} {BN} }}", weights | bn(6))
    x = normal(5, 4, 6, 6) if signature is IMAGE else normal(5, 4)
    before = run(g, x)
    changes_once(fold_batch_normalization, g)
    assert ops(g) == [op]
    np.testing.assert_allclose(run(g, x), before, rtol=1e-4, atol=1e-5)


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
