import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import canonicalise, dequantize_weights, to_graph

X = np.float32([[1, -2, 3]])
WEIGHTS = {"q": np.array([1, 2, -3], np.int8), "scale": np.float32(0.5), "zero": np.int8(1)}


@pytest.mark.parametrize(("scale", "wanted"), [(np.float16, 1), (np.float32, 10)])
def test_another_type_than_that_of_the_scale(scale, wanted):
    """Of opset 23: float16 scales for float weights, and the other way round."""
    text = (
        "g (float[N, 3] x) => (float[N, 3] y) "
        f"{{ w = DequantizeLinear<output_dtype = {wanted}>(q, scale) v = Cast<to = 1>(w) "
        "y = Add(x, v) }"
    )
    g = graph(text, {"q": WEIGHTS["q"], "scale": scale(0.1)}, opset=23)
    before = run(g, X)
    changes_once(dequantize_weights, g)
    np.testing.assert_array_equal(run(g, X), before)


def test_weights_that_are_an_output():
    g = graph(
        "g (float[N, 3] x) => (float[N, 3] y, float[3] w) "
        "{ w = DequantizeLinear(q, scale, zero) y = Add(x, w) }",
        WEIGHTS,
    )
    before = [run(g, X, output=place) for place in (0, 1)]
    changes_once(dequantize_weights, g)
    assert ops(g) == ["Add"]
    canonicalise(g)
    for place in (0, 1):
        np.testing.assert_array_equal(run(g, X, output=place), before[place])
    np.testing.assert_array_equal(before[1], [0, 0.5, -2])


def test_weights_that_several_nodes_read_stay_one():
    """Also where each has a scale of its own with the same numbers; an output keeps its name."""
    q, scale = np.arange(9, dtype=np.int8).reshape(3, 3), np.float32([0.5, 0.25, 1])
    text = (
        "g (float[N, 3] x) => (float[N, 3] y, float[3, 3] e) { "
        "a = DequantizeLinear<axis = 1>(q, s) b = DequantizeLinear<axis = 1>(q, t) "
        "c = DequantizeLinear<axis = 0>(q, s) d = DequantizeLinear<axis = 1>(q, u) "
        "e = DequantizeLinear<axis = 1>(q, s) "
        "i = MatMul(x, a) j = MatMul(i, b) k = MatMul(j, c) l = MatMul(k, d) y = MatMul(l, e) }"
    )
    g = graph(text, {"q": q, "s": scale, "t": scale, "u": 2 * scale})
    before = [run(g, X, output=place) for place in (0, 1)]
    changes_once(dequantize_weights, g)
    assert [node.inputs[1].name for node in g.nodes] == ["a", "a", "c", "d", "e"]
    for place in (0, 1):
        np.testing.assert_array_equal(run(g, X, output=place), before[place])


def test_weights_that_were_rounded_for_each_use_stay_one():
    text = (
        "g (float[N, 3] x) => (float[N, 3] y) { "
        "p = QuantizeLinear(w, scale, zero) a = DequantizeLinear(p, scale, zero) "
        "r = QuantizeLinear(w, scale, zero) b = DequantizeLinear(r, scale, zero) "
        "i = MatMul(x, a) y = MatMul(i, b) }"
    )
    w = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    g = graph(text, WEIGHTS | {"w": w})
    before = run(g, X)
    changes_once(dequantize_weights, g)
    assert [node.inputs[1].name for node in g.nodes] == ["a", "a"]
    np.testing.assert_array_equal(run(g, X), before)


@pytest.mark.parametrize("dtype", [None, np.int8, np.uint8, np.int16])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_weights_that_were_rounded_in_training(dtype, axis):
    """Whole numbers of numbers, and numbers again, as exporters of such training write them."""
    sizes = [] if axis is None else [(4, 3)[axis]]
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3)).astype(np.float32) * 9,
        "scale": rng.uniform(0.05, 0.1, sizes).astype(np.float32),
        "zero": rng.integers(1, 9, sizes).astype(dtype or np.uint8),
    }
    read = "scale, zero" if dtype else "scale"
    given = "" if axis is None else f"<axis = {axis}>"
    text = (
        "g (float[N, 4] x) => (float[N, 3] y) "
        f"{{ q = QuantizeLinear{given}(w, {read}) v = DequantizeLinear{given}(q, {read}) "
        "y = MatMul(x, v) }"
    )
    g = graph(text, weights, opset=21)
    x = np.eye(4, dtype=np.float32)
    before = run(g, x, optimised=False)
    changes_once(dequantize_weights, g)
    assert ops(g) == ["MatMul"]
    np.testing.assert_array_equal(run(g, x), before)


def test_numbers_that_are_rounded_to_types_without_names_stay():
    text = (
        "g (float[N, 4] x) => (float[N, 3] y) { q = QuantizeLinear<output_dtype = 21>(w, scale) "
        "v = DequantizeLinear(q, scale) y = MatMul(x, v) }"
    )
    g = graph(text, {"w": np.ones((4, 3), np.float32), "scale": np.float32(1)}, opset=21)
    assert dequantize_weights(g) is False


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("opset", "precision"), [(21, None), *((o, p) for o in (23, 24) for p in (None, 0, 1, 10))]
)
def test_numbers_are_divided_as_onnx_runtime_does(dtype, kind, opset, precision):
    given = "" if precision is None else f"<precision = {precision}>"
    number = "float16" if kind == np.float16 else "float"
    text = (
        f"g ({number}[1] x) => ({number}[1000] y) {{ q = QuantizeLinear{given}(w, scale, zero) "
        "v = DequantizeLinear(q, scale, zero) y = Mul(x, v) }"
    )
    w = np.random.default_rng(0).normal(size=1000).astype(kind) * 40
    w[0] = 60000
    g = graph(text, {"w": w, "scale": kind(0.0137), "zero": dtype(3)}, opset=opset)
    before = run(g, np.ones(1, kind), optimised=False)
    changes_once(dequantize_weights, g)
    np.testing.assert_array_equal(run(g, np.ones(1, kind)), before)


def test_numbers_that_are_divided_in_types_that_onnx_runtime_does_not_know_stay():
    text = (
        "g (float[3] x) => (float[3] y) { q = QuantizeLinear<precision = 11>(w, scale) "
        "v = DequantizeLinear(q, scale) y = Mul(x, v) }"
    )
    g = graph(text, {"w": np.ones(3, np.float32), "scale": np.float32(1)}, opset=23)
    assert dequantize_weights(g) is False


def packed(values, bits):
    """Whole numbers [rows, columns] in bytes, the first in the lowest bits, rows filled up."""
    each = 8 // bits
    full = np.pad(values, ((0, 0), (0, -values.shape[1] % each)))
    shifts = np.arange(each, dtype=np.uint8) * bits
    parts = full.astype(np.uint8).reshape(len(full), -1, each) << shifts
    return np.bitwise_or.reduce(parts, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("bits", "zeros"),
    [
        (b, z)
        for b in (2, 4, 8)
        for z in ("middle", "packed", "numbers")
        if (b, z) != (8, "numbers")
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_products_with_weights_of_few_bits(bits, zeros, biased):
    """40 numbers in blocks of 16 are 3 blocks, the last of which is not full."""
    rng = np.random.default_rng(0)
    rows, size, block = 5, 40, 16
    blocks = 3
    whole = rng.integers(0, 2**bits, (rows, blocks * block))
    weights = {
        "q": packed(whole, bits).reshape(rows, blocks, -1),
        "scale": rng.uniform(0.05, 0.1, (rows, blocks)).astype(np.float32),
        "zero": packed(rng.integers(0, 2**bits, (rows, blocks)), bits),
        "bias": rng.normal(size=rows).astype(np.float32),
        "none": np.float32(0),
    }
    if zeros == "numbers":
        weights["zero"] = rng.uniform(0, 2**bits, (rows, blocks)).astype(np.float32)
    given = "" if zeros == "middle" else "zero"
    text = (
        f"g (float[N, {size}] x) => (float[N, {rows}] y) {{ y = com.microsoft.MatMulNBits"
        f"<K = {size}, N = {rows}, bits = {bits}, block_size = {block}>"
        f"(x, q, scale, {given}, , {'bias' if biased else ''}) }}"
    )
    g = graph(text, weights)
    before = run(g, np.eye(size, dtype=np.float32))
    changes_once(dequantize_weights, g)
    assert ops(g) == ["MatMul", "Add"][: 1 + biased]
    np.testing.assert_allclose(run(g, np.eye(size, dtype=np.float32)), before, atol=1e-5)


def test_product_with_weights_in_another_order_stays():
    weights = {
        "q": np.zeros((2, 1, 8), np.uint8), "scale": np.ones((2, 1), np.float32),
        "order": np.zeros(16, np.int32),
    }  # fmt: skip
    text = (
        "g (float[N, 16] x) => (float[N, 2] y) { y = com.microsoft.MatMulNBits"
        "<K = 16, N = 2, bits = 4, block_size = 16>(x, q, scale, , order) }"
    )
    assert dequantize_weights(graph(text, weights)) is False


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "float8_e5m2fnuz"])
def test_weights_in_floating_point_numbers_of_8_bits(kind):
    values = np.float32([[1.5, -2, 0.25], [3, 0.0625, -0.5], [0, 1, -1]])
    held = onnx.numpy_helper.from_array(values.astype(getattr(ml_dtypes, kind)), "q")
    text = (
        "g (float[N, 3] x) => (float[N, 3] y) { w = DequantizeLinear(q, scale) y = MatMul(x, w) }"
    )
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    scale = onnx.numpy_helper.from_array(np.float32(0.5), "scale")
    proto.graph.initializer.extend([held, scale])
    g = to_graph(proto)
    changes_once(dequantize_weights, g)
    assert ops(g) == ["MatMul"]
    np.testing.assert_array_equal(run(g, X), X @ (values / 2))


def test_zero_points_of_other_types_make_others():
    """Of one weight in the same bytes."""
    w = np.float32([[1, -2, 3], [-1, 2, 0.5], [0, 4, -3]])
    text = (
        "g (float[N, 3] x) => (float[N, 3] y) { "
        "p = QuantizeLinear(w, scale, signed) a = DequantizeLinear(p, scale, signed) "
        "q = QuantizeLinear(w, scale, unsigned) b = DequantizeLinear(q, scale, unsigned) "
        "c = MatMul(x, a) y = MatMul(c, b) }"
    )
    types = {"signed": np.int8(0), "unsigned": np.uint8(0)}
    g = graph(text, {"w": w, "scale": np.float32(0.5), **types})
    before = run(g, X)
    changes_once(dequantize_weights, g)
    np.testing.assert_array_equal(run(g, X), before)
