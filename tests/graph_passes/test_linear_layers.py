import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import unify_linear_layers

RNG = np.random.default_rng(0)
ROW = "g (float[N, 4] x) => (float[N, 3] y)"
IMAGE = "g (float[N, 3, 4, 5] x) => (float[a, b, c, d] y)"


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def same(text, weights, wanted, *inputs, opset=17):
    g = graph(text, weights, opset)
    before = run(g, *inputs)
    changes_once(unify_linear_layers, g)
    assert ops(g) == wanted
    np.testing.assert_allclose(run(g, *inputs), before, rtol=1e-5, atol=1e-6)
    return g


@pytest.mark.parametrize("order", ["p, b", "b, p"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (1, 3)])
def test_matmul_and_bias_become_a_gemm(order, shape):
    body = f"p = MatMul(x, w) y = Add({order})"
    weights = {"w": normal(4, 3), "b": normal(*shape)}
    g = same(f"{ROW} {{ {body} }}", weights, ["Gemm"], normal(5, 4))
    assert g.outputs[0].name == "y"


GEMMS = {
    "alpha": ("Gemm<alpha = 0.5>(x, w)", ["Gemm"]),
    "beta": ("Gemm<beta = 2.0>(x, w, b)", ["Gemm"]),
    "both": ("Gemm<alpha = 0.5, beta = -2.0>(x, w, b)", ["Gemm"]),
    "beta without a bias": ("Gemm<beta = 2.0>(x, w)", ["Gemm"]),
    "transB stays": ("Gemm<alpha = 0.5, transB = 1>(x, v, b)", ["Gemm"]),
    "transA": ("Gemm<transA = 1>(z, w, b)", ["Transpose", "Gemm"]),
    "all": ("Gemm<alpha = 0.5, beta = 2.0, transA = 1, transB = 1>(z, v, b)",
            ["Transpose", "Gemm"]),
}  # fmt: skip


@pytest.mark.parametrize("name", GEMMS)
def test_gemms_become_plain(name):
    gemm, wanted = GEMMS[name]
    weights = {"w": normal(4, 3), "v": normal(3, 4), "b": normal(3)}
    text = f"g (float[N, 4] x, float[4, N] z) => (float[N, 3] y) {{ y = {gemm} }}"
    g = same(text, weights, wanted, normal(5, 4), normal(4, 5))
    assert set(g.nodes[-1].attrs) <= {"transB"}


def test_weights_that_are_shared_stay_as_they_are_for_the_other():
    text = "g (float[N, 4] x) => (float[N, 3] y, float[N, 3] z)"
    weights = {"w": normal(4, 3)}
    g = graph(f"{text} {{ y = Gemm<alpha = 0.5>(x, w) z = MatMul(x, w) }}", weights)
    x = normal(2, 4)
    before = run(g, x, output=1)
    changes_once(unify_linear_layers, g)
    np.testing.assert_array_equal(run(g, x, output=1), before)


def test_a_sum_of_two_is_an_addition():
    text = "g (float[N, 3] x, float[N, 3] z) => (float[N, 3] y) { y = Sum(x, z) }"
    same(text, {}, ["Add"], normal(2, 3), normal(2, 3))


POOLS = {
    "mean": ("ReduceMean<axes = [2, 3]>(x)", ["GlobalAveragePool"]),
    "from the end": ("ReduceMean<axes = [-1, -2]>(x)", ["GlobalAveragePool"]),
    "maximum": ("ReduceMax<axes = [3, 2]>(x)", ["GlobalMaxPool"]),
    "minimum": ("ReduceMin<axes = [3, 2]>(x)", ["Neg", "GlobalMaxPool", "Neg"]),
    "minimum, channels last, without the axes": (
        "ReduceMin<axes = [1, 2], keepdims = 0>(x)",
        ["Neg", "Transpose", "GlobalMaxPool", "Squeeze", "Neg"],
    ),
    "mean without the axes": (
        "ReduceMean<axes = [2, 3], keepdims = 0>(x)", ["GlobalAveragePool", "Squeeze"]
    ),
    "channels last": (
        "ReduceMean<axes = [1, 2]>(x)", ["Transpose", "GlobalAveragePool", "Transpose"]
    ),
    "channels between": (
        "ReduceMax<axes = [1, 3]>(x)", ["Transpose", "GlobalMaxPool", "Transpose"]
    ),
    "channels last, without the axes": (
        "ReduceMean<axes = [-3, -2], keepdims = 0>(x)",
        ["Transpose", "GlobalAveragePool", "Squeeze"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLS)
def test_reductions_over_an_image_are_global_pools(name):
    body, wanted = POOLS[name]
    text = IMAGE.replace("a, b, c, d", "a, b") if "keepdims" in body else IMAGE
    same(f"{text} {{ y = {body} }}", {}, wanted, normal(2, 3, 4, 5))


@pytest.mark.parametrize(
    ("op", "pool"),
    [
        ("ReduceMean", ["GlobalAveragePool"]),
        ("ReduceMax", ["GlobalMaxPool"]),
        ("ReduceMin", ["Neg", "GlobalMaxPool", "Neg"]),
    ],
)
def test_axes_may_be_an_input(op, pool):
    weights = {"axes": np.array([-1, 2])}
    same(f"{IMAGE} {{ y = {op}(x, axes) }}", weights, pool, normal(2, 3, 4, 5), opset=18)


WINDOWS = {
    "channels": ("ReduceMax<axes = [1]>(x)", ["Transpose", "MaxPool", "Transpose"]),
    "channels, without the axis": (
        "ReduceMax<axes = [1], keepdims = 0>(x)", ["Transpose", "MaxPool", "Squeeze"]
    ),
    "neighbours": ("ReduceMax<axes = [-1]>(x)", ["MaxPool"]),
    "neighbours, without the axis": (
        "ReduceMax<axes = [3], keepdims = 0>(x)", ["MaxPool", "Squeeze"]
    ),
    "rows": ("ReduceMax<axes = [2]>(x)", ["Transpose", "MaxPool", "Transpose"]),
    "least": ("ReduceMin<axes = [3]>(x)", ["Neg", "MaxPool", "Neg"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWS)
def test_maxima_over_other_axes_are_those_of_a_window(name):
    body, wanted = WINDOWS[name]
    text = IMAGE.replace("a, b, c, d", "a, b, c") if "keepdims" in body else IMAGE
    text += f" {{ r = Relu(x) m = {body.replace('(x)', '(r)')} y = Relu(m) }}"
    same(text, {}, ["Relu", *wanted, "Relu"], normal(2, 3, 4, 5))


def test_a_window_may_span_two_axes_of_four():
    text = "g (float[N, 3, 2, 4, 5] x) => (float[N, 2, 4] y)"
    text += "{ r = Relu(x) m = ReduceMax<axes = [4, 1], keepdims = 0>(r) y = Relu(m) }"
    wanted = ["Relu", "Transpose", "MaxPool", "Squeeze", "Relu"]
    same(text, {}, wanted, normal(2, 3, 2, 4, 5))


def test_signals_of_one_axis_are_images_too():
    text = "g (float[N, 3, L] x) => (float[N, 3, a] y) { y = ReduceMean<axes = [2]>(x) }"
    same(text, {}, ["GlobalAveragePool"], normal(2, 3, 7))


@pytest.mark.parametrize(("added", "taken"), [([-2], [2]), ([3], [-1]), ([2, 3], [-2, 2])])
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_sequences_need_no_further_axes_to_be_pooled(op, added, taken):
    text = "g (float[N, 3, L] x) => (float[N, 3, a] y) "
    text += f"{{ u = Unsqueeze(x, added) p = {op}(u) y = Squeeze(p, taken) }}"
    weights = {"added": np.array(added), "taken": np.array(taken)}
    same(text, weights, [op], normal(2, 3, 7))


def test_an_adaptive_pool_of_a_sequence_is_a_global_pool():
    """As PyTorch's exporter writes AdaptiveAvgPool1d(1)."""
    text = "g (float[N, 3, 7] x) => (float[N, 3, 1] y) "
    text += "{ u = Unsqueeze(x, added) p = ReduceMean(u, both) y = Squeeze(p, added) }"
    weights = {"added": np.array([-2]), "both": np.array([-1, -2])}
    same(text, weights, ["GlobalAveragePool"], normal(2, 3, 7), opset=18)


ADDED_AXES = {
    "others taken away": ("s", "c, d", "u = Unsqueeze(s, two) p = GlobalMaxPool(u)"
                          "y = Squeeze(p, both)"),
    "before the channels": ("s", "b, c, d", "u = Unsqueeze(s, one) p = GlobalMaxPool(u)"
                            "y = Squeeze(p, one)"),
    "no others": ("x", "c, d", "u = Unsqueeze(x, two) p = GlobalMaxPool(u) y = Squeeze(p, two)"),
    "all of size 1": ("s", "c, d", "u = Unsqueeze(s, two) p = GlobalMaxPool(u) y = Squeeze(p)"),
    "a pool that is read twice": ("s", "a, b, c, d", "u = Unsqueeze(s, two) p = GlobalMaxPool(u)"
                                  "q = Squeeze(p, two) v = Unsqueeze(q, two) y = Add(p, v)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADDED_AXES)
def test_added_axes_that_stay(name):
    read, shape, body = ADDED_AXES[name]
    sizes = {"s": "N, 3, L", "x": "N, 3"}[read]
    weights = {"one": np.array([1]), "two": np.array([2]), "both": np.array([2, 3])}
    g = graph(f"g (float[{sizes}] {read}) => (float[{shape}] y) {{ {body} }}", weights)
    wanted = ops(g)
    assert not unify_linear_layers(g)
    assert ops(g) == wanted


UNCHANGED = {
    "a bias that differs by sample": "p = MatMul(x, w) y = Add(p, rows)",
    "weights that are no matrix": "p = MatMul(x, stack) y = Add(p, b)",
    "a product that is read twice": "p = MatMul(x, w) q = Add(p, b) y = Mul(p, q)",
    "a product of two activations": "t = Transpose(x) p = MatMul(x, t) y = Add(p, one)",
    "a bias that is no constant": "p = MatMul(x, w) y = Add(p, x)",
    "a plain gemm": "y = Gemm(x, w, b)",
    "a sum of three": "y = Sum(x, x, x)",
    "a mean over samples": "y = ReduceMean<axes = [0, 2, 3]>(image)",
    "a mean over one axis of two": "y = ReduceMean<axes = [2]>(image)",
    "a maximum over samples": "r = Relu(image) m = ReduceMax<axes = [0, 3]>(r) y = Relu(m)",
    "a maximum over all of a sample": "r = Relu(image) m = ReduceMax(r) y = Relu(m)",
    "a maximum over channels in the read-out": "r = Relu(image) y = ReduceMax<axes = [1]>(r)",
    "a maximum over channels of the input": "m = ReduceMax<axes = [1]>(image) y = Relu(m)",
    "a mean over everything": "y = ReduceMean(image)",
    "no image": "y = ReduceMean<axes = [1]>(x)",
    "integers": "i = Cast<to = 6>(image) y = ReduceMax<axes = [2, 3]>(i)",
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_nothing_to_do(name):
    weights = {
        "w": normal(3, 3), "stack": normal(2, 3, 3), "b": normal(3), "rows": normal(2, 3),
        "one": np.float32(1),
    }  # fmt: skip
    body = UNCHANGED[name]
    kind = "int32" if "Cast" in body else "float"
    shape = "a, b, c, d" if "image" in body else "a, b, c" if "stack" in body else "a, b"
    text = f"g (float[2, 3] x, float[2, 3, 4, 5] image) => ({kind}[{shape}] y)"
    g = graph(f"{text} {{ {body} }}", weights)
    wanted = ops(g)
    assert not unify_linear_layers(g)
    assert ops(g) == wanted


def test_a_product_of_several_axes_has_no_gemm():
    text = "g (float[N, 2, 4] x) => (float[N, 2, 3] y) { p = MatMul(x, w) y = Add(p, b) }"
    assert not unify_linear_layers(graph(text, {"w": normal(4, 3), "b": normal(3)}))


@pytest.mark.parametrize("size", ["L", 0, 2**14 + 1])
def test_the_window_of_a_maximum_has_a_known_size(size):
    text = f"g (float[N, 3, 4, {size}] x) => (float[N, 3, 4, a] y) "
    text += "{ r = Relu(x) m = ReduceMax<axes = [3]>(r) y = Relu(m) }"
    assert not unify_linear_layers(graph(text, {}))


# ONNX Runtime has no Gemm of integers, no pools of double, of nothing, and of more than three axes.
KERNELS = {
    "integers": (
        "g (int32[N, 4] x) => (int32[N, 3] y) { p = MatMul(x, w) y = Add(p, b) }",
        {"w": np.ones((4, 3), np.int32), "b": np.ones(3, np.int32)}, np.ones((2, 4), np.int32),
    ),
    "double": (
        "g (double[N, 3, 5] x) => (double[N, 3] y) { y = ReduceMean<axes = [2], keepdims = 0>(x) }",
        {}, np.ones((2, 3, 5)),
    ),
    "four axes": (
        "g (float[N, 3, 2, 2, 2, 2] x) => (float[N, 3, a, b, c, d] y) "
        "{ y = ReduceMean<axes = [2, 3, 4, 5]>(x) }",
        {}, np.ones((2, 3, 2, 2, 2, 2), np.float32),
    ),
    "nothing": (
        "g (float[N, 0, 5] x) => (float[N, 0] y) { y = ReduceMean<axes = [2], keepdims = 0>(x) }",
        {}, np.ones((2, 0, 5), np.float32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_what_ran_before_still_runs(name):
    text, weights, x = KERNELS[name]
    g = graph(text, weights)
    before = run(g, x)
    unify_linear_layers(g)
    np.testing.assert_array_equal(run(g, x), before)


def test_a_factor_with_which_weights_would_overflow_stays():
    weights = {"w": np.full((4, 3), 200, np.float16)}
    text = "g (float16[N, 4] x) => (float16[N, 3] y) { y = Gemm<alpha = 1000.0>(x, w) }"
    g = graph(text, weights)
    assert not unify_linear_layers(g)
    assert g.nodes[0].attrs["alpha"] == 1000
