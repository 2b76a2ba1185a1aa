import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_text import changes_once, graph, model, ops, run

from onnx2snn.graph_passes import dequantize_layers, infer_shapes, to_graph, to_model
from onnx2snn.graph_passes.graph.operators import INTEGER_LAYERS
from onnx2snn.graph_passes.spellings.integer_layers import _DYNAMIC, _FORMS, quantises_anew

RNG = np.random.default_rng(0)
X = RNG.integers(-64, 64, (5, 2, 6, 6)).astype(np.float32) / 16
ROWS = X.reshape(5, -1)[:, :6]
# Scales are powers of two and zero points even, so that ties go the same way everywhere.
NUMBERS = {
    "s": np.float32(1 / 16), "z": np.uint8(64), "t": np.float32(1 / 4), "u": np.uint8(6),
    "k": RNG.integers(-8, 8, (3, 2, 3, 3)).astype(np.int8),
    "ks": np.float32([1 / 8, 1 / 4, 1 / 2]), "kz": np.int8([0, 0, 0]),
    "b": np.array([100, -50, 7], np.int32),
    "w": RNG.integers(0, 16, (6, 3)).astype(np.uint8), "ws": np.float32(1 / 8), "wz": np.uint8(8),
    "wt": RNG.integers(0, 16, (3, 6)).astype(np.uint8),
    "s1": np.float32([1 / 16]), "z1": np.uint8([64]), "t1": np.float32([1 / 4]),
    "u1": np.uint8([6]), "one_s": np.float32([1 / 8]), "one_z": np.int8([0]),
    "vt": RNG.integers(-8, 8, (3, 6)).astype(np.int8),
    "two_s": np.float32([1 / 8, 1 / 4]), "two_z": np.uint8([64, 64]),
    "rows_s": np.full(6, 1 / 8, np.float32), "rows_z": np.full(6, 64, np.uint8),
    "three": np.int64([1, 2, 3]),
    "wzs": np.array([7, 8, 9], np.uint8), "v": RNG.integers(-8, 8, (6, 3)).astype(np.int8),
    "vs": np.float32([1 / 8, 1 / 4, 1 / 2]), "vz": np.int8([0, 0, 0]),
    "row_s": np.float32([[1 / 8, 1 / 4, 1 / 2]]), "row_z": np.int8([[0, 0, 0]]),
    "vv": np.ones((2, 6, 3), np.int8), "each_s": np.ones((2, 1, 3), np.float32),
    "each_z": np.zeros((2, 1, 3), np.int8),
    "c": RNG.integers(0, 255, (2, 1, 1)).astype(np.uint8), "border": np.uint8(72),
    "pads": np.int64([0, 0, 1, 1, 0, 0, 2, 2]), "flat": np.int64([0, -1]),
    "one": np.int64([1]), "minus": np.int64([-1]), "halves": np.int64([1, 1]),
    "scales": np.float32([1, 1, 2, 2]), "third": np.float32([0.5, -0.5, 1.5]),
}  # fmt: skip
LAYERS = {
    "QLinearConv": ("Conv", "r = QLinearConv<pads = [1, 1, 1, 1], strides = [2, 2]>"
                            "(q, s, z, k, ks, kz, t, u, b)"),
    "QLinearConv without a bias": ("Conv", "r = QLinearConv(q, s, z, k, ks, kz, t, u)"),
    "QLinearConv, one scale for all": ("Conv",
                                       "r = QLinearConv(q, s, z, k, one_s, one_z, t, u, b)"),
    "QLinearConv, scales of one axis": ("Conv",
                                        "r = QLinearConv(q, s1, z1, k, ks, kz, t1, u1)"),
    "QLinearConv, one zero point for all scales": ("Conv",
                                                   "r = QLinearConv(q, s, z, k, ks, one_z, t, u)"),
    "QLinearAdd": ("Add", "r = com.microsoft.QLinearAdd(q, s, z, q, s, z, t, u)"),
    "QLinearAdd of a constant": ("Add", "r = com.microsoft.QLinearAdd(q, s, z, c, t, u, t, u)"),
    "QLinearMul": ("Mul", "r = com.microsoft.QLinearMul(q, s, z, c, t, u, t, u)"),
    "QLinearAveragePool": ("AveragePool", "r = com.microsoft.QLinearAveragePool"
        "<kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1>"
        "(q, s, z, t, u)"),
    "QLinearGlobalAveragePool": ("GlobalAveragePool",
        "r = com.microsoft.QLinearGlobalAveragePool<channels_last = 0>(q, s, z, t, u)"),
    "QLinearLeakyRelu": ("LeakyRelu",
                         "r = com.microsoft.QLinearLeakyRelu<alpha = 0.125>(q, s, z, t, u)"),
    "QLinearConcat": ("Concat", "p = com.microsoft.QLinearAdd(q, s, z, c, t, u, t, u) "
        "r = com.microsoft.QLinearConcat<axis = 1>(t, u, q, s, z, p, t, u, c1, t, u)"),
    "QLinearSigmoid": ("Sigmoid", "r = com.microsoft.QLinearSigmoid(q, s, z, t, u)"),
}  # fmt: skip
DENSE = {
    "QLinearMatMul": ("MatMul", "r = QLinearMatMul(q, s, z, w, ws, wz, t, u)"),
    "QLinearMatMul per column": ("MatMul", "r = QLinearMatMul(q, s, z, v, vs, vz, t, u)"),
    "QLinearMatMul per column, in a row": ("MatMul", "r = QLinearMatMul(q, s, z, v, row_s, row_z, "
                                                     "t, u)"),
    "QGemm": ("Gemm", "r = com.microsoft.QGemm<alpha = 0.5>(q, s, z, w, ws, wz, b, t, u)"),
    "QGemm, transposed": ("Gemm", "r = com.microsoft.QGemm<transB = 1>"
                                  "(q, s, z, wt, ws, wz, b, t, u)"),
    "QGemm per column": ("Gemm", "r = com.microsoft.QGemm(q, s, z, v, vs, vz, b, t, u)"),
    "QGemm, transposed, per column": ("Gemm", "r = com.microsoft.QGemm<transB = 1>"
                                              "(q, s, z, vt, vs, vz, b, t, u)"),
    "QLinearSoftmax": ("Softmax",
                       "r = com.microsoft.QLinearSoftmax<axis = -1, opset = 17>(q, s, z, t, u)"),
    "QLinearSoftmax of an old file": ("Softmax", "r = com.microsoft.QLinearSoftmax"
                                                 "<axis = 1, opset = 11>(q, s, z, t, u)"),
}  # fmt: skip


def layers(body, x="N, 2, 6, 6", **own):
    text = f"g (float[{x}] x) => (float y) {{ q = QuantizeLinear(x, s, z) {body} "
    made = "" if "y = " in body else "y = DequantizeLinear(r, t, u)"
    extra = {"c1": np.broadcast_to(NUMBERS["c"], (5, 2, 6, 6))}
    g = graph(text + made + " }", NUMBERS | extra | own)
    g.outputs[0].shape = None
    return g


def test_the_layers_of_whole_numbers_are_those_that_are_rewritten():
    assert {*INTEGER_LAYERS} == {*_FORMS, *_DYNAMIC, "QLinearConcat"}


@pytest.mark.parametrize("name", LAYERS | DENSE)
def test_a_layer_of_whole_numbers(name):
    op, body = (LAYERS | DENSE)[name]
    g, x = layers(body, *(["N, 6"] if name in DENSE else [])), ROWS if name in DENSE else X
    before = run(g, x)
    assert np.ptp(before) > 0
    changes_once(dequantize_layers, g)
    assert op in ops(g)
    assert set(ops(g)) <= {op, "Add", "QuantizeLinear", "DequantizeLinear"}
    np.testing.assert_array_equal(run(g, x, optimised=False), before)


def test_a_layer_that_makes_numbers():
    """A QGemm without a scale for its result."""
    g = layers("y = com.microsoft.QGemm(q, s, z, w, ws, wz, b)", "N, 6")
    before = run(g, ROWS)
    changes_once(dequantize_layers, g)
    assert ops(g) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Gemm"]
    np.testing.assert_array_equal(run(g, ROWS, optimised=False), before)


MOVES = (
    "MaxPool<kernel_shape = [2, 2], pads = [1, 0, 0, 0]>(q)", "Pad(q, pads, border)",
    "Pad(q, pads)", 'Pad<mode = "reflect">(q, pads)', "Reshape(q, flat)", "Flatten(q)",
    "Transpose<perm = [0, 2, 3, 1]>(q)", "Slice(q, one, minus, one)", "Gather<axis = 1>(q, one)",
    'Resize<mode = "nearest">(q, , scales)', "ReduceMax<axes = [2, 3]>(q)", "ReduceMin(q)",
)  # fmt: skip


@pytest.mark.parametrize("move", MOVES)
def test_what_only_moves_whole_numbers(move):
    g = layers(f"p = {move} r = Identity(p) y = DequantizeLinear(r, s, z)")
    before = run(g, X)
    changes_once(dequantize_layers, g)
    assert ops(g).count("QuantizeLinear") == 3
    np.testing.assert_array_equal(run(g, X, optimised=False), before)
    # What is between a quantiser and the next is numbers.
    kinds = {node.op: node.inputs[0].dtype for node in g.nodes}
    assert kinds[move[: min(map(move.find, "<("), key=lambda n: n if n > 0 else 99)]] == np.float32


@pytest.mark.parametrize("op", ["Concat<axis = 1>", "Max", "Min"])
def test_what_moves_whole_numbers_of_one_scale_together(op):
    body = "d = Neg(x) p = QuantizeLinear(d, s, z) r = %s(q, p) y = DequantizeLinear(r, s, z)"
    g = layers(body % op)
    before = run(g, X)
    changes_once(dequantize_layers, g)
    assert ops(g).count("QuantizeLinear") == 3
    np.testing.assert_array_equal(run(g, X, optimised=False), before)
    for scale in ("t, z", "s, u"):
        assert dequantize_layers(layers((body % op).replace("(d, s, z)", f"(d, {scale})"))) is False
    assert dequantize_layers(layers(f"r = {op}(q, c1) y = DequantizeLinear(r, s, z)")) is False


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_zero_points_that_are_left_out(dtype):
    """They are 0, of the type of what is read."""
    zero = {"z": dtype(0), "c": NUMBERS["c"].astype(dtype)}
    g = layers("p = com.microsoft.QLinearAdd(q, s, z, c, t, z, t) "
               "r = MaxPool<kernel_shape = [2, 2]>(p) y = DequantizeLinear(r, t)",
               **zero)  # fmt: skip
    before = run(g, X)
    assert np.ptp(before) > 0
    changes_once(dequantize_layers, g)
    assert "QLinearAdd" not in ops(g)
    np.testing.assert_array_equal(run(g, X, optimised=False), before)


def test_a_zero_point_that_a_quantiser_leaves_out():
    g = layers("p = QuantizeLinear(x, s) r = MaxPool<kernel_shape = [2, 2]>(p) "
               "y = DequantizeLinear(r, s)")  # fmt: skip
    before = run(g, X)
    changes_once(dequantize_layers, g)
    np.testing.assert_array_equal(run(g, X, optimised=False), before)


def test_whole_numbers_split():
    g = layers("p, o = Split<axis = 1>(q, halves) r = com.microsoft.QLinearAdd(p, s, z, o, s, z, "
               "t, u)")  # fmt: skip
    before = run(g, X)
    changes_once(dequantize_layers, g)
    assert ops(g).count("QuantizeLinear") == 4
    np.testing.assert_array_equal(run(g, X, optimised=False), before)


DYNAMIC = (
    "g (float[N, 6] x) => (float[N, 3] y) { q, s, z = DynamicQuantizeLinear(x) f = Mul(s, ws) "
    "i = MatMulInteger(q, w, z, %s) c = Cast<to = 1>(i) m = Mul(c, f) y = Add(m, third) }"
)


@pytest.mark.parametrize("zero", ["wz", "wzs", ""])
def test_a_product_with_what_is_quantised_anew_each_time(zero):
    numbers = {name: NUMBERS[name] for name in ("w", "ws", "wz", "wzs", "third")}
    g = graph((DYNAMIC % zero).replace(", )", ")"), numbers)
    before = run(g, ROWS)
    changes_once(dequantize_layers, g)
    assert ops(g) == ["MatMul", "Mul", "Add"]
    zeros = NUMBERS[zero].astype(np.float32) if zero else 0
    wanted = ROWS @ (NUMBERS["w"] - zeros) * NUMBERS["ws"] + NUMBERS["third"]
    np.testing.assert_array_equal(run(g, ROWS), wanted)
    np.testing.assert_allclose(before, wanted, atol=0.02 * np.ptp(wanted))


def test_convolutions_with_what_is_quantised_anew_each_time():
    """Two that read the same, one with a zero point for each channel."""
    text = (
        "g (float[N, 2, 6, 6] x) => (float[N, 3, 3, 3] y) { q, s, z = DynamicQuantizeLinear(x) "
        "f = Mul(ws, s) i = ConvInteger<pads = [1, 1, 1, 1], strides = [2, 2]>(q, k, z, kz) "
        "c = Cast<to = 1>(i) m = Mul(f, c) j = ConvInteger<pads = [1, 1, 1, 1], strides = [2, 2]>"
        "(q, k, z) d = Cast<to = 1>(j) n = Mul(d, f) y = Add(m, n) }"
    )
    zeros = np.int8([1, 2, 3])
    g = graph(text, {"ws": NUMBERS["ws"], "k": NUMBERS["k"], "kz": zeros})
    changes_once(dequantize_layers, g)
    assert ops(g) == ["Conv", "Mul", "Conv", "Mul", "Add"]
    conv = "<pads = [1, 1, 1, 1], strides = [2, 2]>"
    text = f"g (float[N, 2, 6, 6] x) => (float[N, 3, 3, 3] y) {{ y = Conv{conv}(x, k) }}"
    k = NUMBERS["k"].astype(np.float32) / 8
    wanted = run(model(text, {"k": 2 * k - zeros.reshape(-1, 1, 1, 1) / np.float32(8)}), X)
    np.testing.assert_array_equal(run(g, X), wanted)


FUSED = {
    "DynamicQuantizeMatMul": "y = com.microsoft.DynamicQuantizeMatMul(x, w, ws, wz)",
    "with a bias": "y = com.microsoft.DynamicQuantizeMatMul(x, w, ws, wz, third)",
    "MatMulIntegerToFloat": "q, s, z = DynamicQuantizeLinear(x) "
        "y = com.microsoft.MatMulIntegerToFloat(q, w, s, ws, z, wz)",
    "with a bias, per column": "q, s, z = DynamicQuantizeLinear(x) "
        "y = com.microsoft.MatMulIntegerToFloat(q, v, s, vs, z, vz, third)",
}  # fmt: skip


@pytest.mark.parametrize("body", FUSED.values(), ids=FUSED)
def test_what_onnx_runtime_makes_of_products(body):
    names = ("w", "ws", "wz", "v", "vs", "vz", "third")
    text = f"g (float[N, 6] x) => (float[N, 3] y) {{ {body} }}"
    g = graph(text, {name: NUMBERS[name] for name in names})
    before = run(g, ROWS)
    changes_once(dequantize_layers, g)
    assert ops(g) == (["MatMul", "Add"] if "third" in body else ["MatMul"])
    own = "v" if "vs" in body else "w"
    whole, scale, zero = (NUMBERS[f"{own}{name}"] for name in ("", "s", "z"))
    wanted = ROWS @ (whole.astype(np.float32) - zero) * scale + NUMBERS["third"] * ("third" in body)
    np.testing.assert_array_equal(run(g, ROWS), wanted)
    np.testing.assert_allclose(before, wanted, atol=0.02 * np.ptp(wanted))


@pytest.mark.parametrize(("name", "changed"), [
    ("MatMulIntegerToFloat", ("(q, w, s, ws, z, wz)", "(q, w, ws, ws, z, wz)")),
    ("MatMulIntegerToFloat", ("(q, w, s, ws, z, wz)", "(q, w, s, ws, wz, wz)")),
    ("MatMulIntegerToFloat", ("(q, w, s, ws, z, wz)", "(q, w, s, s, z, wz)")),
    ("MatMulIntegerToFloat", ("(q, w, s, ws, z, wz)", "(q, w, s, ws)")),
    ("MatMulIntegerToFloat", ("(q, w, s, ws, z, wz)", "(w, w, s, ws, z, wz)")),
])  # fmt: skip
def test_what_onnx_runtime_makes_of_others_stays(name, changed):
    text = f"g (float[6, 6] x) => (float[6, 3] y) {{ {FUSED[name].replace(*changed)} }}"
    numbers = {name: NUMBERS[name] for name in ("w", "ws", "wz")}
    assert dequantize_layers(graph(text, numbers)) is False


def test_a_product_is_multiplied_by_one_scale_after_the_other():
    text = DYNAMIC.replace("f = Mul(s, ws) ", "").replace(
        "m = Mul(c, f)", "f = Mul(c, s) m = Mul(f, ws)"
    )
    g = graph(text % "wz", {name: NUMBERS[name] for name in ("w", "ws", "wz", "third")})
    changes_once(dequantize_layers, g)
    assert ops(g) == ["MatMul", "Mul", "Add"]
    wanted = ROWS @ (NUMBERS["w"].astype(np.float32) - 8) * NUMBERS["ws"] + NUMBERS["third"]
    np.testing.assert_array_equal(run(g, ROWS), wanted)


@pytest.mark.parametrize("other", ["x", "w"])
def test_both_factors_quantised_anew_each_time(other):
    """As quantize_dynamic does with weights that it does not know to be constant."""
    text = (
        "g (float[6, 6] x) => (float[6, 6] y) { q, s, z = DynamicQuantizeLinear(x) "
        f"p, t, u = DynamicQuantizeLinear({other}) f = Mul(t, s) i = MatMulInteger(q, p, z, u) "
        "c = Cast<to = 1>(i) y = Mul(c, f) }"
    )
    x = ROWS[:1].T @ ROWS[1:2] / 16
    numbers = {"w": RNG.normal(size=(6, 6)).astype(np.float32)} if other == "w" else {}
    g = graph(text, numbers)
    before = run(g, x)
    changes_once(dequantize_layers, g)
    assert ops(g) == ["MatMul"]
    wanted = x @ numbers.get(other, x)
    np.testing.assert_allclose(run(g, x), wanted, rtol=1e-5)
    np.testing.assert_allclose(before, wanted, atol=0.02 * np.ptp(wanted))


WITH_BIAS = (
    "g (float[N, 2, 6, 6] x) => (float[N, 3, 4, 4] y) { q, s, z = DynamicQuantizeLinear(x) "
    "e = Mul(s, ws) d = Div(third, e) h = Floor(d) o = Cast<to = 6>(h) p = Reshape(o, of) "
    "i = ConvInteger(q, k, z) a = Add(i, p) c = Cast<to = 1>(a) f = Mul(s, ws) y = Mul(c, f) }"
)
BIAS_WEIGHTS = {name: NUMBERS[name] for name in ("ws", "k", "third")}
BIAS_WEIGHTS |= {"of": np.int64([1, 3, 1, 1]), "other": np.float32(0.25)}


def test_a_bias_in_whole_numbers():
    """Of the scale of a product with what is quantised anew each time, rounded down."""
    g = graph(WITH_BIAS, BIAS_WEIGHTS)
    before = run(g, X)
    changes_once(dequantize_layers, g)
    assert sorted(ops(g)) == ["Add", "Conv", "Mul", "Reshape"]
    text = "g (float[N, 2, 6, 6] x) => (float[N, 3, 4, 4] y) { y = Conv(x, k, third) }"
    k = NUMBERS["k"].astype(np.float32) / 8
    wanted = run(model(text, {"k": k, "third": NUMBERS["third"]}), X)
    np.testing.assert_array_equal(run(g, X), wanted)
    np.testing.assert_allclose(before, wanted, atol=0.02 * np.ptp(wanted))


@pytest.mark.parametrize("changed", [
    ("e = Mul(s, ws)", "e = Mul(s, other)"),
    ("e = Mul(s, ws)", "e = Mul(ws, ws)"),
    ("e = Mul(s, ws)", "e = Identity(s)"),
    ("h = Floor(d)", "h = Ceil(d)"),
    ("d = Div(third, e)", "d = Mul(third, e)"),
    ("a = Add(i, p)", "a = Add(i, i)"),
    ("y = Mul(c, f)", "y = Sub(c, f)"),
    ("(float[N, 3, 4, 4] y)", "(float[N, 3, 4, 4] y, int32[N, 3, 4, 4] a)"),
])  # fmt: skip
def test_other_sums_with_whole_numbers_stay(changed):
    g = graph(WITH_BIAS.replace(*changed), BIAS_WEIGHTS)
    before = len(g.nodes)
    assert dequantize_layers(g) is False
    assert len(g.nodes) == before


@pytest.mark.parametrize("per_gate", [False, True])
def test_a_recurrent_layer_with_what_is_quantised_anew_each_time(per_gate):
    text = (
        "g (float[4, N, 3] x) => (float[4, 2, N, 2] y) "
        '{ y, h = com.microsoft.DynamicQuantizeLSTM<hidden_size = 2, direction = "bidirectional">'
        "(x, w, r, b, , , , , ws, wz, rs, rz) }"
    )
    shape = (2, 8) if per_gate else (2,)
    # Of gates of their own scales ONNX Runtime takes weights around 0 alone.
    dtype, zero = (np.int8, 0) if per_gate else (np.uint8, 131)
    numbers = {}
    for name, inputs in (("w", 3), ("r", 2)):
        numbers[name] = (RNG.integers(-120, 120, (2, inputs, 8)) + zero).astype(dtype)
        numbers[f"{name}s"] = RNG.uniform(0.005, 0.01, shape).astype(np.float32)
        numbers[f"{name}z"] = np.full(shape, zero, dtype)
    numbers["b"] = RNG.normal(size=(2, 16)).astype(np.float32)
    g = graph(text, numbers)
    x = RNG.normal(size=(4, 5, 3)).astype(np.float32)
    before = run(g, x)
    changes_once(dequantize_layers, g)
    assert ops(g) == ["LSTM"]
    np.testing.assert_allclose(run(g, x), before, atol=0.01)


LEFT_ALONE = {
    "channels last": "r = com.microsoft.QLinearGlobalAveragePool<channels_last = 1>(q, s, z, t, u)",
    "an old Softmax": "r = com.microsoft.QLinearSoftmax<axis = 1, opset = 12>(q, s, z, t, u)",
    "a scale that is computed": "o = Shape(x) e = Gather(o, one) f = Cast<to = 1>(e) "
        "h = Squeeze(f) r = com.microsoft.QLinearAdd(q, h, z, q, s, z, t, u)",
    "a scale of the result that is computed": "o = Shape(x) e = Gather(o, one) f = Cast<to = 1>(e) "
        "h = Squeeze(f) r = com.microsoft.QLinearConcat<axis = 1>(h, u, q, s, z, q, s, z)",
    "a scale for each row": "r = QLinearMatMul(q, rows_s, rows_z, w, ws, wz, t, u)",
    "a scale for each column of each matrix": "r = QLinearMatMul(q, s, z, vv, each_s, each_z, "
        "t, u)",
    "scales of the result": "r = QLinearConv(q, s, z, k, ks, kz, two_s, two_z)",
    "a bias that is computed": "o = Shape(x) e = Gather(o, three) i = Cast<to = 6>(e) "
        "r = QLinearConv(q, s, z, k, ks, kz, t, u, i)",
    "scales of a part": "r = com.microsoft.QLinearConcat<axis = 1>(t, u, q, two_s, two_z)",
    "a scale of a part that is computed": "o = Shape(x) e = Gather(o, one) f = Cast<to = 1>(e) "
        "h = Squeeze(f) r = com.microsoft.QLinearConcat<axis = 1>(t, u, q, h, z)",
    "moved, of several scales": "p = QuantizeLinear<axis = 1>(x, two_s, two_z) "
        "e = Transpose(p) f = Cast<to = 1>(e) y = Neg(f)",
    "moved by what is no standard operator": "r = com.microsoft.Pad(q, pads)",
    "a border that is computed": "o = Shape(x) e = Gather(o, one) f = Cast<to = 2>(e) "
        "h = Squeeze(f) r = Pad(q, pads, h)",
    "a recurrent layer of a scale that is computed": "o = Shape(x) e = Gather(o, one) "
        "f = Cast<to = 1>(e) y = com.microsoft.DynamicQuantizeLSTM<hidden_size = 1>"
        "(x, w, w, , , , , , f, wz, ws, wz)",
    "where the largest are": "r, i = MaxPool<kernel_shape = [2, 2]>(q) j = Cast<to = 1>(i) "
        "o = DequantizeLinear(r, s, z) y = Add(j, o)",
}  # fmt: skip


@pytest.mark.parametrize("body", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_layers_that_stay(body):
    g = layers(body)
    before = to_model(g)
    assert dequantize_layers(g) is False
    assert to_model(g) == before


@pytest.mark.parametrize("changed", [
    ("y = Add(m, third)", "n = Add(m, third) y = Add(n, c)"),
    ("f = Mul(s, ws)", "f = Add(s, ws)"),
    ("f = Mul(s, ws)", "f = Mul(ws, ws)"),
    ("m = Mul(c, f)", "m = Sub(c, f)"),
    ("m = Mul(c, f)", "m = Mul(c, c)"),
    ("i = MatMulInteger(q, w, z, wz)", "i = MatMulInteger(wt, w, wz, wz)"),
    ("MatMulInteger(q, w, z, wz)", "MatMulInteger(q, w, wz, wz)"),
    ("c = Cast<to = 1>(i)", "j = Add(i, i) c = Cast<to = 1>(j)"),
    ("c = Cast<to = 1>(i)", "c = DequantizeLinear(i, ws)"),
    ("(float[N, 3] y)", "(float[N, 3] y, int32[N, 3] i)"),
    ("(float[N, 3] y)", "(float[N, 3] y, float[N, 3] c)"),
])  # fmt: skip
def test_products_that_stay(changed):
    numbers = {name: NUMBERS[name] for name in ("w", "ws", "wz", "third", "wt")}
    assert dequantize_layers(graph((DYNAMIC % "wz").replace(*changed), numbers)) is False


def test_a_product_that_is_scaled_in_a_branch_stays():
    scaled = (
        "b = If (t) <then_branch = one () => (float[N, 3] k) { k = Mul(c, f) }, "
        "else_branch = none () => (float[N, 3] l) { l = Mul(f, c) }> y = Add(b, third)"
    )
    text = (DYNAMIC % "wz").replace("float[N, 6] x", "float[N, 6] x, bool t")
    text = text.replace("m = Mul(c, f) y = Add(m, third)", scaled)
    g = graph(text, {name: NUMBERS[name] for name in ("w", "ws", "wz", "third")})
    assert dequantize_layers(g) is False
    assert run(g, ROWS, np.array(True)).shape == (5, 3)


def test_whole_numbers_of_a_type_that_is_not_known_stay():
    """Of a zero point that is left out only their type says what it is."""
    text = "g (float[N, 4] x) => (float[N, 2, 2] y) { q = QuantizeLinear<output_dtype = 3>(x, s) "
    text += "r = Reshape(q, shape) y = DequantizeLinear(r, s) }"
    numbers = {"s": NUMBERS["s"], "shape": np.int64([0, 2, 2])}
    g = to_graph(model(text, numbers, opset=21))
    assert dequantize_layers(g) is False
    before = run(g, ROWS[:, :4])
    infer_shapes(g)
    changes_once(dequantize_layers, g)
    np.testing.assert_array_equal(run(g, ROWS[:, :4]), before)


@pytest.mark.parametrize(("zero", "changes"), [("wz", True), ("wzs", False)])
def test_constants_that_are_multiplied_from_the_left(zero, changes):
    """Not with a zero point for each row."""
    text = (
        "g (float[6, 4] x) => (float[3, 4] y) { q, s, z = DynamicQuantizeLinear(x) f = Mul(s, ws) "
        f"i = MatMulInteger(wt, q, {zero}, z) c = Cast<to = 1>(i) y = Mul(c, f) }}"
    )
    g = graph(text, {name: NUMBERS[name] for name in ("wt", "ws", zero)})
    x = ROWS[:4].T
    wanted = (NUMBERS["wt"].astype(np.float32) - NUMBERS["wz"]) @ x * NUMBERS["ws"]
    assert dequantize_layers(g) == changes
    if changes:
        np.testing.assert_array_equal(run(g, x), wanted)


@pytest.mark.parametrize(
    "layer",
    ["QLinearAdd(q, s, z, q, s, z, s, z)", "MatMulIntegerToFloat(q)", "DynamicQuantizeLSTM(q)",
     "DynamicQuantizeMatMul(q)", "QLinearConcat(s, z, q, s, z)", "MaxPool(q)"],
)  # fmt: skip
def test_operators_of_others_stay(layer):
    """Whatever their names say."""
    head = '<ir_version: 8, opset_import: ["": 18, "acme": 1]> '
    body = f"{{ q = QuantizeLinear(x, s, z) y = acme.{layer} }}"
    proto = onnx.parser.parse_model(f"{head} g (float[N, 4] x) => (uint8[N, 4] y) {body}")
    values = (("s", np.float32(0.1)), ("z", np.uint8(0)))
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values)
    g = to_graph(proto)
    assert not dequantize_layers(g)
    assert not any(quantises_anew(node) for node in g.nodes)
