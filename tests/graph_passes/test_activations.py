import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_text import changes_once, graph, model, ops, run

from onnx2snn.graph_passes import decompose_activations, to_graph
from onnx2snn.graph_passes.graph.activations import relu_of_min

DTYPES = {"float16": np.float16, "float": np.float32, "double": np.float64}
# Multiples of 1/8, and slopes and bounds that are too: all sums and products are exact.
X = np.arange(-24, 24).reshape(2, 3, 8) / 8
SLOPES = np.array([[0.25], [0], [-2]])
HEIGHTS = np.array([[0.25], [1], [2]])
WEIGHTS = {
    "zero": 0, "one": 1, "two": 2, "half": 0.5, "minus": -0.5, "under": -2,
    "slopes": SLOPES, "slope": 0.25, "levels": SLOPES, "heights": HEIGHTS, "depths": -HEIGHTS,
    "lowest": [[-2]], "deep": np.array([[-1e4], [-2e4], [1]]),
}  # fmt: skip


def leaky(x, slope):
    return np.where(x < 0, slope * x, x)


LEAKY = ["Relu", "Neg", "Relu", "Mul", "Sub"]
TWO_CLIPS = ["Clip", "Neg", "Clip", "Sub"]
FORMS = {
    "LeakyRelu": ("LeakyRelu<alpha = 0.25>(x)", lambda x: leaky(x, 0.25), LEAKY),
    "LeakyRelu by 1": ("LeakyRelu<alpha = 1.0>(x)", lambda x: x, LEAKY),
    "PRelu": ("PRelu(x, slope)", lambda x: leaky(x, 0.25), LEAKY),
    "PRelu per channel": ("PRelu(x, slopes)", lambda x: leaky(x, SLOPES), LEAKY),
    "Abs": ("Abs(x)", np.abs, ["Relu", "Neg", "Relu", "Add"]),
    "HardSigmoid": (
        "HardSigmoid<alpha = 0.25, beta = 0.5>(x)", lambda x: np.clip(x / 4 + 0.5, 0, 1),
        ["Mul", "Add", "Clip"],
    ),
    "around 0": ("Clip(x, minus, one)", lambda x: np.clip(x, -0.5, 1), TWO_CLIPS),
    "above 0": ("Clip(x, half, two)", lambda x: np.clip(x, 0.5, 2), ["Sub", "Clip", "Add"]),
    "below 0": ("Clip(x, under, minus)", lambda x: np.clip(x, -2, -0.5), ["Sub", "Clip", "Sub"]),
    "up to 0": ("Clip(x, under, zero)", lambda x: np.clip(x, -2, 0), ["Sub", "Clip", "Sub"]),
    "from below 0": (
        "Clip(x, minus)", lambda x: np.maximum(x, -0.5), ["Relu", "Neg", "Clip", "Sub"],
    ),
    "to above 0": ("Clip(x, , one)", lambda x: np.minimum(x, 1), ["Clip", "Neg", "Relu", "Sub"]),
    "from above 0": ("Clip(x, half)", lambda x: np.maximum(x, 0.5), ["Sub", "Relu", "Add"]),
    "to below 0": ("Clip(x, , minus)", lambda x: np.minimum(x, -0.5), ["Sub", "Relu", "Sub"]),
    "Max": ("Max(x, half)", lambda x: np.maximum(x, 0.5), ["Sub", "Relu", "Add"]),
    "Max, the constant first": (
        "Max(half, x)", lambda x: np.maximum(x, 0.5), ["Sub", "Relu", "Add"],
    ),
    "Max per channel": ("Max(x, levels)", lambda x: np.maximum(x, SLOPES), ["Sub", "Relu", "Add"]),
    "Max from below 0": (
        "Max(x, under)", lambda x: np.maximum(x, -2), ["Relu", "Neg", "Clip", "Sub"],
    ),
    "Max from below 0, with axes": (
        "Max(x, lowest)", lambda x: np.maximum(x, -2), ["Relu", "Neg", "Relu", "Min", "Sub"],
    ),
    "Max per channel, all below 0": (
        "Max(depths, x)", lambda x: np.maximum(x, -HEIGHTS), ["Relu", "Neg", "Relu", "Min", "Sub"],
    ),
    "Min per channel, all above 0": (
        "Min(x, heights)", lambda x: np.minimum(x, HEIGHTS), ["Relu", "Min", "Neg", "Relu", "Sub"],
    ),
    "Min": ("Min(x, minus)", lambda x: np.minimum(x, -0.5), ["Sub", "Relu", "Sub"]),
    "Min per channel": ("Min(levels, x)", lambda x: np.minimum(x, SLOPES), ["Sub", "Relu", "Sub"]),
    "ThresholdedRelu": (
        "ThresholdedRelu<alpha = 0.5>(x)", lambda x: np.where(x > 0.5, x, 0),
        ["Relu", "ThresholdedRelu"],
    ),
    "ThresholdedRelu from 0": (
        "ThresholdedRelu<alpha = 0.0>(x)", lambda x: np.maximum(x, 0), ["Relu"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
def test_sums_of_relus_and_clips(name, dtype):
    body, formula, wanted = FORMS[name]
    if dtype == "double" and "Thresholded" in wanted[-1]:
        pytest.skip("ONNX Runtime has no ThresholdedRelu of double")
    kind = DTYPES[dtype]
    weights = {name: np.asarray(value, kind) for name, value in WEIGHTS.items()}
    g = graph(f"g ({dtype}[N, 3, 8] x) => ({dtype}[N, 3, 8] y) {{ y = {body} }}", weights)
    changes_once(decompose_activations, g)
    assert ops(g) == wanted
    assert all(tensor.dtype == kind for node in g.nodes for tensor in node.outputs)
    result = run(g, X.astype(kind))
    assert result.dtype == kind
    np.testing.assert_array_equal(result, formula(X))


@pytest.mark.parametrize("first", ["Sigmoid", "Relu", "Softplus"])
@pytest.mark.parametrize(
    ("bound", "wanted"), [("Clip(q, , half)", ["Clip"]), ("Min(q, heights)", ["Relu", "Min"])]
)
def test_what_is_never_below_0_is_of_one_population(first, bound, wanted):
    weights = {"half": np.float32(0.5), "heights": HEIGHTS.astype(np.float32)}
    body = f"p = {first}(x) q = GlobalMaxPool(p) y = {bound}"
    g = graph(f"g (float[N, 3, 8] x) => (float[N, 3, 1] y) {{ {body} }}", weights)
    before = run(g, X.astype(np.float32))
    changes_once(decompose_activations, g)
    assert ops(g) == [first, "GlobalMaxPool", *wanted]
    np.testing.assert_array_equal(run(g, X.astype(np.float32)), before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("op", "function", "last"), [("Max", np.maximum, "Add"), ("Min", np.minimum, "Sub")]
)
@pytest.mark.parametrize("shape", ["[N, 3, 8]", "[3, 1]", "[2, N, 3, 8]"])
def test_the_larger_and_the_smaller_of_two(op, function, last, shape, dtype):
    sizes = {"[N, 3, 8]": (2, 3, 8), "[3, 1]": (3, 1), "[2, N, 3, 8]": (2, 2, 3, 8)}[shape]
    result = "[2, N, 3, 8]" if shape.startswith("[2") else "[N, 3, 8]"
    z = np.random.default_rng(0).integers(-24, 24, sizes) / 8
    g = graph(
        f"g ({dtype}[N, 3, 8] x, {dtype}{shape} z) => ({dtype}{result} y) {{ y = {op}(x, z) }}",
    )
    changes_once(decompose_activations, g)
    assert ops(g) == ["Sub", "Relu", last]
    kind = DTYPES[dtype]
    np.testing.assert_array_equal(run(g, X.astype(kind), z.astype(kind)), function(X, z))


@pytest.mark.parametrize("name", FORMS)
def test_onnx_runtime_agrees(name):
    weights = {name: np.float32(value) for name, value in WEIGHTS.items()}
    g = graph(f"g (float[N, 3, 8] x) => (float[N, 3, 8] y) {{ y = {FORMS[name][0]} }}", weights)
    x = X.astype(np.float32)
    before = run(g, x)
    decompose_activations(g)
    np.testing.assert_array_equal(run(g, x), before)


def test_attributes_have_defaults():
    body = "a = LeakyRelu(x) b = HardSigmoid(a) y = ThresholdedRelu(b)"
    g = graph(f"g (float[N, 3, 8] x) => (float[N, 3, 8] y) {{ {body} }}")
    x = 4 * X.astype(np.float32)
    before = run(g, x)
    changes_once(decompose_activations, g)
    np.testing.assert_allclose(run(g, x), before, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("theta", [3, [[1], [2], [3]]])
def test_a_smaller_bound_of_a_relu_that_is_read_twice(theta):
    """A ReLU of its own, since another reads the first without the bound."""
    text = "g (float[N, 3, 8] x) => (float[N, 3, 8] y, float[N, 3, 8] z)"
    g = graph(
        f"{text} {{ r = Relu(x) y = Min(r, theta) z = Neg(r) }}", {"theta": np.float32(theta)}
    )
    x = 2 * X.astype(np.float32)
    before = run(g, x)
    changes_once(decompose_activations, g)
    assert all(relu_of_min(g, node) is not None for node in g.nodes if node.op == "Min")
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu(x)", "y = Clip(x, zero, two)", "r = Relu(x) y = Min(r, levels)",
        "r = Relu(x) y = Min(two, r)", "r = Relu(x) y = ThresholdedRelu(r)",
        "y = ThresholdedRelu<alpha = -1.0>(x)", "y = Elu(x)", "y = Clip(x, two, half)",
        "y = Max(x, zero, half)", "m = ReduceMax<axes = [1, 2]>(x) h = Squeeze(m) y = PRelu(x, h)",
        "h = ReduceMax<keepdims = 0>(x) y = Clip(x, zero, h)", "y = Max(x, deep)",
    ],
)  # fmt: skip
def test_canonical_activations_and_what_is_none_stay(body):
    weights = {name: np.float32(value) for name, value in WEIGHTS.items()}
    g = graph(f"g (float[1, 3, 8] x) => (float[1, 3, 8] y) {{ {body} }}", weights)
    wanted = ops(g)
    assert not decompose_activations(g)
    assert ops(g) == wanted


@pytest.mark.parametrize(
    "body", ["y = Abs(i)", "y = Max(i, i)", "y = Clip(i, three)", "y = Min(i, three)"]
)
def test_integers_stay(body):
    g = graph(
        f"g (int32[N, 3] i) => (int32[N, 3] y) {{ {body} }}", {"three": np.array(3, np.int32)}
    )
    assert not decompose_activations(g)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lowest", ["infinite", "the type's lowest", "far"])
@pytest.mark.parametrize("op", ["Max", "Min"])
def test_bounds_of_some_channels_that_are_none(op, lowest, dtype):
    kind = DTYPES[dtype]
    value = {"infinite": -np.inf, "far": -60000}.get(lowest, np.finfo(kind).min)
    levels = np.array([[value], [0.5], [-1]], kind) * kind(1 if op == "Max" else -1)
    body = f"y = {op}(x, levels)"
    g = graph(f"g ({dtype}[N, 3, 8] x) => ({dtype}[N, 3, 8] y) {{ {body} }}", {"levels": levels})
    x = X.astype(kind)
    before = run(g, x)
    decompose_activations(g)
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize(("op", "sign"), [("Max", -1), ("Min", 1)])
def test_beside_far_bounds_of_all_channels_no_digit_is_lost(op, sign):
    levels = np.float32([[1e3], [1e5], [1e9]]) * sign
    g = graph(f"g (float[N, 3, 8] x) => (float[N, 3, 8] y) {{ y = {op}(x, b) }}", {"b": levels})
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    changes_once(decompose_activations, g)
    np.testing.assert_array_equal(run(g, x), x)


# Of numbers of which nothing says the type before shapes are inferred, if ever.
UNTYPED = ["LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Abs"]
HIDDEN = '<ir_version: 8, opset_import: ["": 17, "custom": 1]> g'


@pytest.mark.parametrize("dtype", ["float16", "float"])
@pytest.mark.parametrize("name", UNTYPED)
def test_types_that_are_not_inferred_yet(name, dtype):
    expression, function, wanted = FORMS[name]
    body = f"a = Neg(x) b = {expression.replace('(x)', '(a)')} y = Neg(b)"
    g = to_graph(model(f"g ({dtype}[N, 3, 8] x) => ({dtype}[N, 3, 8] y) {{ {body} }}"))
    changes_once(decompose_activations, g)
    assert ops(g) == ["Neg", *wanted, "Neg"]
    np.testing.assert_array_equal(run(g, X.astype(DTYPES[dtype])), -function(-X))


@pytest.mark.parametrize("name", UNTYPED)
def test_what_is_of_an_unknown_type_stays(name):
    """A custom operator hides it: it may be float16, or of whole numbers."""
    body = f"a = custom.Foo(x) b = {FORMS[name][0].replace('(x)', '(a)')} y = custom.Foo(b)"
    g = to_graph(onnx.parser.parse_model(f"{HIDDEN} (float[N] x) => (float[N] y) {{ {body} }}"))
    assert not decompose_activations(g)


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_tell_a_type_that_is_hidden(dtype):
    slope = onnx.numpy_helper.from_array(np.asarray(0.5, DTYPES[dtype]), "slope")
    body = "a = custom.Foo(x) b = PRelu(a, slope) y = custom.Foo(b)"
    proto = onnx.parser.parse_model(f"{HIDDEN} ({dtype}[N] x) => ({dtype}[N] y) {{ {body} }}")
    proto.graph.initializer.append(slope)
    g = to_graph(proto)
    changes_once(decompose_activations, g)
    assert ops(g) == ["Foo", *LEAKY, "Foo"]
    assert {t.dtype for n in g.nodes for t in n.inputs} == {None, np.dtype(DTYPES[dtype])}


@pytest.mark.parametrize("masked_first", [True, False])
@pytest.mark.parametrize("far", [1e9, np.inf])
@pytest.mark.parametrize(
    ("op", "function", "sign"), [("Max", np.maximum, -1), ("Min", np.minimum, 1)]
)
def test_what_a_mask_fills_is_not_what_the_other_is_added_to(op, function, sign, far, masked_first):
    """Beside 1e9 a float32 loses what is below 64, and beside infinity all."""
    masked = "m = Where(c, z, far) s = Unsqueeze(m, zero) r = Squeeze(s, zero)"
    both = "r, x" if masked_first else "x, r"
    g = graph(
        "g (float[N, 3, 8] x, float[N, 3, 8] z, bool[N, 3, 8] c) => (float[N, 3, 8] y) "
        f"{{ {masked} y = {op}({both}) }}",
        {"far": np.float32(sign * far), "zero": np.array([0])},
    )
    x = X.astype(np.float32)
    z, c = x[:, ::-1].copy(), x > -1
    changes_once(decompose_activations, g)
    assert "Relu" in ops(g)
    np.testing.assert_array_equal(
        run(g, x, z, c), function(x, np.where(c, z, np.float32(sign * far)))
    )


@pytest.mark.parametrize("far", [-1e7, -1e9])
@pytest.mark.parametrize(
    "made",
    [
        "b = Constant<value = float[1] {FAR}>()",
        "b = Constant<value = float[8] {FAR, 0, 0.5, -1, 0, 0, 0, 0}>()",
        "b = Constant<value_float = FAR>()",
        "s = Shape(x) b = ConstantOfShape<value = float[1] {FAR}>(s)",
    ],
)
def test_far_bounds_that_nodes_make(made, far):
    g = graph(
        "g (float[N, 3, 8] x) => (float[N, 3, 8] y) "
        f"{{ {made.replace('FAR', str(far))} y = Max(x, b) }}"
    )
    x = X.astype(np.float32)
    before = run(g, x)
    changes_once(decompose_activations, g)
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize(
    "made",
    ["Constant<value_ints = [8, 3]>()", "Constant<value = int64[2] {8, 3}>()"],
)
def test_constants_of_whole_numbers_are_not_far(made):
    text = f"{{ s = {made} a = Reshape(x, s) b = Neg(a) y = Max(a, b) }}"
    proto = model(f"g (float[3, 8] x) => (float[8, 3] y) {text}")
    g = to_graph(proto)
    changes_once(decompose_activations, g)
    x = X[0].astype(np.float32)
    np.testing.assert_array_equal(run(g, x), run(proto, x))


MASKED = "m = Where(c, x, far) n = Where(c, far, x)"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"{MASKED} k = Max(m, n) y = Max(x, k)", 1),
        (f"{MASKED} k = Max(x, m) l = Min(k, x) y = Max(l, n)", 1),
        (f"{MASKED} k = Max(m, half) y = Max(k, n)", 1),
        (f"{MASKED} o = Sum(m, zero) p = Sum(n, zero) y = Max(o, p)", 1),
        ("b = Cast<to = 1>(c) i = Sub(one, b) p = Mul(i, far) q = Mul(b, far) m = Add(x, p) "
         "n = Add(x, q) y = Max(m, n)", 1),
        # Also behind what no activation is, in a bias, and behind a bound on one side.
        (f"{MASKED} k = Floor(m) l = Round(n) y = Max(k, l)", 1),
        (f"{MASKED} k = Clip(m, half) l = Mean(n, x) y = Max(l, m)", 1),
        ("m = Gemm(row, w, hole) n = Neg(m) k = Add(x, m) l = Add(x, n) y = Max(k, l)", 1),
        (f"{MASKED} k = Clip(m, zero, one) y = Max(k, n)", 0),
        (f"{MASKED} r = Relu(m) y = Max(r, x)", 0),
        (f"{MASKED} y = Max(m, half)", 0),
        # Scales are no masks.
        ("m = Mul(x, large) n = Neg(m) y = Max(m, n)", 0),
        ("m = Div(x, larger) n = Neg(m) y = Max(m, n)", 0),
        ("i = MatMul(x, larger_w) n = Neg(i) y = Max(i, n)", 0),
        # Masks of their own making: a product, in whole numbers, all of one number.
        ("b = Cast<to = 1>(c) i = Sub(one, b) p = Mul(i, lesser) q = Mul(b, lesser) m = Add(x, p) "
         "n = Add(x, q) y = Max(m, n)", 1),
        ("b = Cast<to = 7>(c) i = Sub(b, unit) p = Mul(i, many) f = Cast<to = 1>(p) "
         "q = Mul(b, many) g = Cast<to = 1>(q) m = Add(x, f) n = Sub(x, g) y = Max(m, n)", 1),
        ("s = Shape(x) z = ConstantOfShape<value = float[1] {-1e9}>(s) m = Where(c, x, z) "
         "n = Where(c, z, x) y = Max(m, n)", 1),
        (f"{MASKED} k = Elu(m) l = Elu(n) y = Max(k, l)", 0),
        ("b = Cast<to = 1>(c) i = Sub(one, b) p = Div(i, tiny) q = Div(b, tiny) m = Sub(x, p) "
         "n = Sub(x, q) y = Max(m, n)", 1),
        # Behind a layer nothing is a mask's.
        (f"{MASKED} k = Relu(m) l = Relu(n) p = MatMul(k, eye) q = MatMul(l, eye) "
         "y = Max(p, q)", 0),
        ("k = Abs(x) l = Log(k) p = MatMul(l, eye) q = Neg(p) y = Max(p, q)", 0),
        ("b = BatchNormalization(x, ones, nil, means, ones) n = Neg(b) y = Max(b, n)", 0),
        ("s = Sub(x, mean) d = Div(s, mean) p = MatMul(d, eye) q = Neg(p) y = Max(p, q)", 0),
    ],
)  # fmt: skip
def test_two_that_masks_fill_stay(body, left):
    values = {"far": -1e9, "zero": 0, "one": 1, "half": 0.5, "large": 2**19, "larger": 2**21}
    values |= {"lesser": -1e6, "mean": 2.5e6, "tiny": 1e-9}
    values = {name: np.float32(value) for name, value in values.items()}
    values |= {"w": np.eye(8, dtype=np.float32), "row": np.ones((1, 8), np.float32)}
    values["hole"] = np.float32([0, -1e9] * 4)
    values |= {"eye": values["w"], "larger_w": 2**21 * values["w"]}
    values |= {"unit": np.int64(1), "many": np.int64(10**9)}
    values |= {n: np.full(3, v, np.float32) for n, v in (("ones", 1), ("nil", 0), ("means", 2e6))}
    text = f"g (float[N, 3, 8] x, bool[N, 3, 8] c) => (float[N, 3, 8] y) {{ {body} }}"
    g = graph(text, values)
    x = X.astype(np.float32)
    before = run(g, x, x > 0.5)
    changed = decompose_activations(g)
    assert sum(op in ("Max", "Min") for op in ops(g)) == left
    assert not changed or not decompose_activations(g)
    np.testing.assert_allclose(run(g, x, x > 0.5), before, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("both", ["l, k", "k, l"])
def test_a_logarithm_is_not_what_the_other_is_added_to(both):
    """Of 0 it is minus infinity, and minus infinity from itself is no number."""
    x = np.abs(X.astype(np.float32))
    x[0] = 0
    g = graph(
        "g (float[N, 3, 8] x) => (float[N, 3, 8] y) { n = Log(x) l = Mul(n, half) k = Neg(x) "
        f"m = Max({both}) o = Log(m) y = Max(o, l) }}",
        {"half": np.float32(0.5)},
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        before = run(g, x)
    changes_once(decompose_activations, g)
    assert [op for op in ops(g) if op in ("Max", "Relu")] == ["Relu", "Max"]
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize("kept", ["e = Exp(x) s = Add(e, one)", "s = Clip(x, one)"])
def test_a_logarithm_of_what_is_above_0_is_as_any_other(kept):
    g = graph(
        f"g (float[N, 3, 8] x) => (float[N, 3, 8] y) {{ {kept} l = Log(s) t = Neg(x) "
        "u = Clip(t, one) m = Log(u) y = Max(l, m) }",
        {"one": np.float32(1)},
    )
    x = X.astype(np.float32)
    before = run(g, x)
    decompose_activations(g)
    assert "Max" not in ops(g)
    np.testing.assert_allclose(run(g, x), before, atol=1e-6)


def test_an_infinite_slope_stays():
    values = {"slope": np.float32([np.inf])}
    g = graph("g (float[N, 3, 8] x) => (float[N, 3, 8] y) { y = PRelu(x, slope) }", values)
    assert decompose_activations(g) is False


def test_a_mask_of_others_is_none():
    """What an operator of another domain makes of numbers is not known by its name."""
    text = (
        '<ir_version: 8, opset_import: ["": 17, "acme": 1]> g (float[N, 4] x) => (float[N, 4] y) '
        "{ m = acme.Add(x, far) n = acme.Add(m, far) y = Max(m, n) }"
    )
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(-1e9), "far"))
    for name in "mn":
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, ["N", 4]))
    g = to_graph(proto)
    assert decompose_activations(g)


def test_beside_whole_numbers_and_before_types_are_known():
    """An argument of a Reshape is no mask, and need not have a type."""
    g = graph(
        "g (float[N, 3, 8] x) => (float[N, 24] y) { s = Constant<value_ints = [-1, 24]>() "
        "r = Reshape(x, s) n = Neg(r) y = Max(r, n) }"
    )
    x = X.astype(np.float32)
    before = run(g, x)
    assert decompose_activations(g)
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("body", "left"),
    [
        # Bounded numbers, scaled, are no mask; what is made of 0 and 1 is.
        ("a = Clip(x, zero, one) m = Mul(a, scale) n = Neg(m) y = Max(m, n)", 0),
        ("b = Cast<to = 10>(c) i = Sub(one, b) p = Mul(i, far) q = Mul(b, far) m = Add(x, p) "
         "n = Add(x, q) y = Max(m, n)", 1),
    ],
)  # fmt: skip
def test_masks_in_float16(body, left):
    values = {"zero": 0, "one": 1, "scale": 200, "far": -3e4}
    values = {name: np.float16(value) for name, value in values.items()}
    g = graph(f"g (float16[N, 8] x, bool[N, 8] c) => (float16[N, 8] y) {{ {body} }}", values)
    decompose_activations(g)
    assert ops(g).count("Max") == left
