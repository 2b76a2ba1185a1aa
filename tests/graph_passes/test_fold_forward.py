import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import fold_forward

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 6, 6)).astype(np.float32)
BN = "n = BatchNormalization<epsilon = 0.001>(r, scale, shift, mean, var)"
IMAGE = "g (float[N, 4, 6, 6] x) => (float[a, e, f, h] y)"
ROWS = "g (float[N, 4, 6, 6] x) => (float[a, e] y)"


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


WEIGHTS = {
    "scale": RNG.uniform(0.5, 2, 4).astype(np.float32), "shift": normal(4), "mean": normal(4),
    "var": RNG.uniform(0.5, 2, 4).astype(np.float32), "w": normal(5, 4, 3, 3), "b": normal(5),
    "grouped": normal(6, 2, 3, 3), "depthwise": normal(8, 1, 3, 3), "one": normal(5, 4, 1, 1),
    "dense": normal(4, 7), "flat": normal(144, 7), "pooled": normal(36, 7),
    "turned": normal(7, 144), "c": normal(7), "pads": np.array([0, 0, 1, 0, 0, 0, 2, 1]),
    "zero": np.float32(0), "rows": np.array([-1, 144]), "per_channel": normal(4, 1, 1),
    "factors": normal(1, 4, 1, 1), "map": normal(4, 6, 6), "line": normal(6, 3),
    "half": np.float32(0.5),
}  # fmt: skip


def signature(behind):
    """An image in, and an image out or a row, as what is behind makes it."""
    return ROWS if "f = " in behind else IMAGE


def same(g, *inputs, outputs=1):
    """The pass changes the graph once, and nothing of what it computes."""
    before = [run(g, *inputs, output=i) for i in range(outputs)]
    changes_once(fold_forward, g)
    for i, wanted in enumerate(before):
        np.testing.assert_allclose(run(g, *inputs, output=i), wanted, rtol=1e-4, atol=1e-4)


CASES = {
    "conv": ("y = Conv(n, w)", ["Conv"]),
    "conv with a bias": ("y = Conv<strides = [2, 2]>(n, w, b)", ["Conv"]),
    "grouped": ("y = Conv<group = 2>(n, grouped)", ["Conv"]),
    "depthwise": ("y = Conv<group = 4>(n, depthwise)", ["Conv"]),
    "one pixel": ("y = Conv(n, one, b)", ["Conv"]),
    "padded": ("y = Conv<pads = [1, 1, 1, 1]>(n, w, b)", ["Conv", "Add"]),
    "padded, grouped": ("y = Conv<group = 2, pads = [0, 1, 1, 0]>(n, grouped)", ["Conv", "Add"]),
    "padded, depthwise": (
        'y = Conv<group = 4, auto_pad = "SAME_UPPER">(n, depthwise)', ["Conv", "Add"],
    ),
    "pad": ("p = Pad(n, pads) y = Conv(p, w)", ["Pad", "Conv", "Add"]),
    "pad by what is left out": ('p = Pad(n, pads, "") y = Conv(p, w)', ["Pad", "Conv", "Add"]),
    "pad by zero in words": ("p = Pad(n, pads, zero) y = Conv(p, w)", ["Pad", "Conv", "Add"]),
    "pool": (
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(n) y = Conv(p, w, b)",
        ["AveragePool", "Conv"],
    ),
    "pool of its padding": (
        "p = AveragePool<kernel_shape = [2, 2], pads = [1, 1, 0, 0], count_include_pad = 1>(n) "
        "y = Conv(p, w)", ["AveragePool", "Conv", "Add"],
    ),
    "pool without its padding": (
        "p = AveragePool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(n) y = Conv(p, w)",
        ["AveragePool", "Conv"],
    ),
    "dense": ("f = Flatten(n) y = Gemm(f, flat, c)", ["Flatten", "Gemm"]),
    "dense, transposed": ("f = Flatten(n) y = Gemm<transB = 1>(f, turned)", ["Flatten", "Gemm"]),
    "dense, scaled": (
        "f = Flatten(n) y = Gemm<alpha = 0.5, beta = 1.0>(f, flat, c)", ["Flatten", "Gemm"],
    ),
    "matmul": ("f = Flatten(n) y = MatMul(f, flat)", ["Flatten", "MatMul", "Add"]),
    "reshape": ("f = Reshape(n, rows) y = Gemm(f, flat)", ["Reshape", "Gemm"]),
    "channels last": (
        "t = Transpose<perm = [0, 2, 3, 1]>(n) f = Flatten(t) y = Gemm(f, flat)",
        ["Transpose", "Flatten", "Gemm"],
    ),
    "pool and dense": (
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(n) f = Flatten(p) "
        "y = Gemm(f, pooled, c)", ["AveragePool", "Flatten", "Gemm"],
    ),
    "global pool and dense": (
        "p = GlobalAveragePool(n) f = Flatten(p) y = MatMul(f, dense)",
        ["GlobalAveragePool", "Flatten", "MatMul", "Add"],
    ),
    "global pool and gemm": (
        "p = GlobalAveragePool(n) f = Flatten(p) y = Gemm(f, dense, c)",
        ["GlobalAveragePool", "Flatten", "Gemm"],
    ),
    "global pool and conv": (
        "p = GlobalAveragePool(n) y = Conv(p, one)", ["GlobalAveragePool", "Conv"],
    ),
    "the last axis": ("y = MatMul(n, line)", ["MatMul", "Add"]),
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in CASES if n != "the last axis"])
def test_batch_norm_joins_the_weights_behind(name):
    behind, wanted = CASES[name]
    g = graph(f"{signature(behind)} {{ r = Relu(x) {BN} {behind} }}", WEIGHTS)
    same(g, X)
    assert ops(g) == ["Relu", *wanted]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", ["n = Mul(r, half)", "n = Sub(half, r)"])
def test_so_does_a_scale_that_is_the_same_everywhere(name, scale):
    behind, wanted = CASES[name]
    g = graph(f"{signature(behind)} {{ r = Relu(x) {scale} {behind} }}", WEIGHTS)
    same(g, X)
    assert ops(g) == ["Relu", *(wanted if "Sub" in scale else [op for op in wanted if op != "Add"])]


SPELLINGS = {
    "scale": "n = Mul(r, per_channel)",
    "shift": "n = Add(per_channel, r)",
    "quotient": "n = Div(r, factors)",
    "minus": "n = Neg(r)",
    "several": "k = Mul(r, factors) l = Sub(k, per_channel) n = Neg(l)",
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("first", ["r = Relu(x)", "r = Clip(x, zero, half)"])
def test_however_it_is_spelled(name, first):
    g = graph(f"{IMAGE} {{ {first} {SPELLINGS[name]} y = Conv(n, w, b) }}", WEIGHTS)
    before = run(g, X)
    while fold_forward(g):
        pass
    assert ops(g)[1:] == ["Conv"]
    np.testing.assert_allclose(run(g, X), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("behind", ["y = Conv(n, w, b)", "f = Flatten(n) y = Gemm(f, flat)"])
def test_a_shift_of_each_pixel(behind):
    g = graph(f"{signature(behind)} {{ r = Relu(x) n = Add(r, map) {behind} }}", WEIGHTS)
    same(g, X)
    assert ops(g).count("Add") == (1 if "Conv" in behind else 0)


def test_is_exact_on_dyadic_numbers():
    weights = {
        "w": np.float32([[[[0.5, 2]], [[1, -1]]]]), "factors": np.float32([[[2]], [[0.25]]]),
        "shift": np.float32([[[1]], [[3]]]),
    }  # fmt: skip
    body = "r = Relu(x) a = Mul(r, factors) n = Add(a, shift) y = Conv<pads = [0, 1, 0, 0]>(n, w)"
    g = graph(f"g (float[N, 2, 2, 3] x) => (float[N, 1, e, f] y) {{ {body} }}", weights)
    x = np.arange(-6, 6, dtype=np.float32).reshape(1, 2, 2, 3) / 4
    before = run(g, x)
    while fold_forward(g):
        pass
    assert ops(g) == ["Relu", "Conv", "Add"]
    np.testing.assert_array_equal(run(g, x), before)


POOL = "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"


@pytest.mark.parametrize(
    ("behind", "y"),
    [
        (f"s = Mul(r, along) p = {POOL}(s) y = MatMul(p, line)", "[N, 4, 6, 3]"),
        (f"s = Mul(r, a) t = Transpose<perm = [0, 2, 3, 1]>(s) p = {POOL}(t) f = Flatten(p) "
         "y = MatMul(f, flat)", "[N, 7]"),
        (f"s = Mul(r, a) t = Reshape(s, halves) p = {POOL}(t) f = Flatten(p) y = MatMul(f, flat)",
         "[N, 7]"),
        ("s = Mul(r, a) p = Pad(s, shifted) y = Conv(p, w)", "[N, 5, 4, 4]"),
        ("s = Mul(r, a) p = Pad(s, shifted) f = Flatten(p) y = MatMul(f, flat)", "[N, 7]"),
    ],
)  # fmt: skip
def test_windows_and_pads_of_what_has_factors_of_its_own_stay(behind, y):
    """A pool over features or channels would mix them."""
    weights = {
        "a": normal(4, 1, 1), "along": normal(6), "halves": np.array([0, 2, 12, 6]),
        "shifted": np.array([0, 1, 0, 0, 0, -1, 0, 0]),
        **{name: WEIGHTS[name] for name in ("line", "flat", "w")},
    }  # fmt: skip
    used = {name: v for name, v in weights.items() if f", {name})" in behind}
    g = graph(f"g (float[N, 4, 6, 6] x) => (float{y} y) {{ r = Relu(x) {behind} }}", used)
    wanted = run(g, X)
    assert fold_forward(g) is False
    np.testing.assert_array_equal(run(g, X), wanted)


def test_a_constant_map_that_a_fold_leaves_folds_too():
    g = graph(
        "g (float[N, 4, 6, 6] x) => (float[N, 5, 6, 6] y) { r = Relu(x) s = Add(r, c) "
        "d = Conv<pads = [1, 1, 1, 1]>(s, w) y = Conv(d, one) }",
        {"c": normal(4, 1, 1), "w": normal(5, 4, 3, 3), "one": normal(5, 5, 1, 1)},
    )
    same(g, X)


@pytest.mark.parametrize(
    ("between", "opset"),
    [("q = Pad(n, few, , axes) p = AveragePool<kernel_shape = [2, 2]>(q)", 18),
     ("p = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(n)", 19)],
)  # fmt: skip
def test_what_newer_opsets_brought(between, opset):
    text = f"{IMAGE} {{ r = Relu(x) {BN} {between} y = Conv(p, w) }}"
    axes = {"few": np.array([2, 2, 2, 2]), "axes": np.array([2, 3])}
    g = graph(text, WEIGHTS | axes, opset)
    same(g, X)
    assert "BatchNormalization" not in ops(g)


def test_two_that_read_it():
    body = f"r = Relu(x) {BN} y = Conv(n, w, b) p = GlobalAveragePool(n) z = Conv(p, one)"
    g = graph(
        f"g (float[N, 4, 6, 6] x) => (float[N, 5, e, f] y, float[N, 5, h, i] z) {{ {body} }}",
        WEIGHTS,
    )
    same(g, X, outputs=2)
    assert "BatchNormalization" not in ops(g)


def test_weights_that_are_shared_stay_as_they_are_for_the_other():
    body = f"r = Relu(x) {BN} y = Conv(n, w) z = Conv(r, w)"
    g = graph(
        f"g (float[N, 4, 6, 6] x) => (float[N, 5, e, f] y, float[N, 5, h, i] z) {{ {body} }}",
        WEIGHTS,
    )
    before = run(g, X, output=1)
    changes_once(fold_forward, g)
    np.testing.assert_array_equal(run(g, X, output=1), before)


OPEN = "g (float[N, 4, H, W] x) => (float[a, e, f, h] y)"


def test_images_of_any_size_without_padding():
    pool = "p = AveragePool<kernel_shape = [2, 2]>(n)"
    g = graph(f"{OPEN} {{ r = Relu(x) {BN} {pool} y = Conv(p, w, b) }}", WEIGHTS)
    same(g, X)
    assert ops(g) == ["Relu", "AveragePool", "Conv"]


def test_images_of_any_size_whose_scale_alone_is_to_be_folded():
    body = "r = Relu(x) n = Mul(r, factors) y = Conv<pads = [1, 1, 1, 1]>(n, w)"
    g = graph(f"{OPEN} {{ {body} }}", WEIGHTS)
    same(g, X)
    assert ops(g) == ["Relu", "Conv"]


DECLINED = {
    "a residual": (IMAGE, "d = Conv(n, dim) y = Add(n, d)"),
    "an output": (
        "g (float[N, 4, 6, 6] x) => (float[N, 5, e, f] y, float[N, 4, 6, 6] n)", "y = Conv(n, w)",
    ),
    "another activation": (IMAGE, "y = Relu(n)"),
    "a maximum": (IMAGE, "p = GlobalMaxPool(n) y = Conv(p, one)"),
    "padding of an open size": (OPEN, "y = Conv<pads = [1, 1, 1, 1]>(n, w)"),
    "padding as large as need be": (OPEN, 'y = Conv<auto_pad = "SAME_LOWER">(n, w)'),
    "a pad of an open size": (OPEN, "p = Pad(n, pads) y = Conv(p, w)"),
    "features of an open size": (
        OPEN, "p = GlobalAveragePool(n) f = Flatten(p) y = Gemm(f, dense)",
    ),
    "weights that are no constant": (
        "g (float[N, 4, 6, 6] x, float[5, 4, 3, 3] k) => (float[N, 5, e, f] y)", "y = Conv(n, k)",
    ),
    "the edge again": (IMAGE, 'p = Pad<mode = "edge">(n, pads) y = Conv(p, w)'),
    "a pad by ones": (IMAGE, "p = Pad(n, pads, half) y = Conv(p, w)"),
    "a pool that is read twice": (
        IMAGE, "p = GlobalAveragePool(n) q = Conv(p, one) d = Neg(p) y = Concat<axis = 1>(q, d)",
    ),
    "other features": (IMAGE, "y = MatMul(n, line)"),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLINED)
def test_declines(name):
    text, behind = DECLINED[name]
    text = text.replace("a, e, f, h", "a, e") if "f = " in behind else text
    weights = WEIGHTS | {"dim": normal(4, 4, 1, 1)}
    g = graph(f"{text} {{ r = Relu(x) {BN} {behind} }}", weights)
    wanted, declined = ops(g), []
    assert not fold_forward(g, declined)
    assert ops(g) == wanted
    (refusal,) = declined
    assert refusal.op == "BatchNormalization"
    assert refusal.reason


@pytest.mark.parametrize("first", ["r = Neg(x)", "r = Sigmoid(x)"])
def test_only_what_comes_after_an_activation(first):
    g = graph(f"{IMAGE} {{ {first} {BN} y = Conv(n, w) }}", WEIGHTS)
    assert not fold_forward(g)


MIXED = {
    "reshape of a shift": "n = Add(r, places) f = Reshape(n, rows) y = MatMul(f, line)",
    "flatten of a shift": "n = Add(r, places) f = Flatten<axis = 2>(n) y = Gemm(f, line)",
    "reshape of a scale": "n = Mul(r, places) f = Reshape(n, rows) y = MatMul(f, line)",
    "reshape of a batch norm": f"{BN} f = Reshape(n, rows) y = MatMul(f, line)",
    "transpose of a shift": (
        "n = Add(r, table) t = Transpose<perm = [1, 0, 2]>(n) y = MatMul(t, line)"
    ),
    "transpose of a single sample": (
        "n = Add(r, table) t = Transpose<perm = [1, 0, 2]>(n) f = Reshape(t, rows) "
        "y = MatMul(f, line)"
    ),
}


@pytest.mark.parametrize("batch", ["N", "1", "2"])
@pytest.mark.parametrize("name", MIXED)
def test_axes_that_join_the_batch(name, batch):
    """As in a dense layer of each place of a sequence, [N, L, F] -> [N L, F]."""
    weights = WEIGHTS | {
        "line": normal(6, 3), "rows": np.array([-1, 6]), "places": normal(4, 1),
        "table": normal(4, 6),
    }  # fmt: skip
    shape = "e, f" if "f = " in MIXED[name] else "e, f, h"
    text = f"g (float[{batch}, 4, 6] x) => (float[{shape}] y) {{ r = Relu(x) {MIXED[name]} }}"
    g = graph(text, weights)
    x = normal(1 if batch == "1" else 2, 4, 6)
    before = run(g, x)
    fold_forward(g)
    np.testing.assert_allclose(run(g, x), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("constant", ["vector", "places", "table"])
@pytest.mark.parametrize("scale", ["Add", "Mul"])
def test_sequences_of_any_length_first(length, constant, scale):
    """[L, N, F], as recurrent and attention layers want it: the first axis is not the batch."""
    weights = {
        "line": normal(6, 3), "vector": normal(6), "places": normal(length, 1),
        "table": np.tile(normal(6), (length, 1)),
    }  # fmt: skip
    body = f"n = {scale}(r, {constant}) t = Transpose<perm = [1, 0, 2]>(n) y = MatMul(t, line)"
    g = graph(
        f"g (float[N, {length}, 6] x) => (float[a, N, e] y) {{ r = Relu(x) {body} }}", weights
    )
    x = normal(3, length, 6)
    before = run(g, x)
    fold_forward(g)
    np.testing.assert_allclose(run(g, x), before, rtol=1e-4, atol=1e-4)


def test_rows_that_are_samples():
    """Gemm with transA reads its samples by column."""
    weights = {"factors": normal(4), "w": normal(4, 3)}
    body = "r = Relu(x) n = Mul(r, factors) y = Gemm<transA = 1>(n, w)"
    g = graph(f"g (float[4, 4] x) => (float[4, 3] y) {{ {body} }}", weights)
    x = normal(4, 4)
    before = run(g, x)
    fold_forward(g)
    np.testing.assert_allclose(run(g, x), before, rtol=1e-4, atol=1e-4)


def test_several_in_a_row():
    """Each in one run: the last first."""
    g = graph(
        f"{IMAGE} {{ r = Relu(x) m = Mul(r, per_channel) n = Add(m, factors) y = Conv(n, w) }}",
        WEIGHTS,
    )
    same(g, X)
    assert ops(g) == ["Relu", "Conv"]


def test_a_result_that_one_layer_reads_twice_stays():
    """As its bias, too: what is folded into the weights would be missing there."""
    g = graph(
        "g (float[2, 2] x) => (float[2, 2] y) { r = Relu(x) n = Mul(r, f) y = Gemm(n, w, n) }",
        {"f": np.float32([2, 3]), "w": normal(2, 2)},
    )
    assert not fold_forward(g)
    assert ops(g) == ["Relu", "Mul", "Gemm"]


@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_stays_where_weights_would_overflow(op):
    weights = {"large": [1000, 1, 1], "w": 200 * np.eye(3)}
    g = graph(
        "g (float16[N, 3] x) => (float16[N, 3] y) "
        f"{{ r = Relu(x) n = {op}(r, large) y = MatMul(n, w) }}",
        {name: np.array(value, np.float16) for name, value in weights.items()},
    )
    assert not fold_forward(g)
    assert ops(g) == ["Relu", op, "MatMul"]


def test_stays_where_a_bias_would_overflow():
    """Of two numbers that the type can hold, each by itself."""
    weights = {"c": [200, 0], "w": [[200], [-200]], "b": [40000]}
    g = graph(
        "g (float16[N, 2] x) => (float16[N, 1] y) { r = Relu(x) n = Add(r, c) y = Gemm(n, w, b) }",
        {name: np.array(value, np.float16) for name, value in weights.items()},
    )
    assert not fold_forward(g)
    assert ops(g) == ["Relu", "Add", "Gemm"]


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_a_bias_with_a_factor_of_its_own(beta):
    body = f"r = Relu(x) n = Add(r, shift) y = Gemm<beta = {beta}>(n, dense, c)"
    g = graph(f"g (float[N, 4] x) => (float[N, 7] y) {{ {body} }}", WEIGHTS)
    same(g, normal(5, 4))


def test_a_shift_of_features_at_places_of_an_open_number():
    body = "r = Relu(x) n = Add(r, shift) y = MatMul(n, dense)"
    g = graph(f"g (float[N, 2, L, 4] x) => (float[N, 2, L, 7] y) {{ {body} }}", WEIGHTS)
    x = normal(3, 2, 5, 4)
    before = run(g, x)
    fold_forward(g)
    np.testing.assert_allclose(run(g, x), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [POOL, "GlobalAveragePool"])
def test_factors_of_places_before_a_pool_stay(pool):
    """Its windows hold pixels of several factors."""
    flat = "flat" if pool is POOL else "dense"
    body = f"r = Relu(x) n = Mul(r, places) p = {pool}(n) f = Flatten(p) y = MatMul(f, {flat})"
    g = graph(f"{ROWS} {{ {body} }}", WEIGHTS | {"places": normal(6, 1)})
    before = run(g, X)
    assert not fold_forward(g)
    np.testing.assert_array_equal(run(g, X), before)


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_rows_that_mix_samples(op):
    body = f"r = Relu(x) n = {op}(r, shift) p = Reshape(n, pairs) "
    body += "t = Transpose<perm = [0, 2, 1]>(p) f = Reshape(t, rows) y = MatMul(f, dense)"
    shapes = {"pairs": np.array([2, -1, 2]), "rows": np.array([-1, 4])}
    g = graph(f"g (float[N, 4] x) => (float[a, 7] y) {{ {body} }}", WEIGHTS | shapes)
    x = normal(5, 4)
    before = run(g, x)
    fold_forward(g)
    np.testing.assert_allclose(run(g, x), before, rtol=1e-4, atol=1e-4)


OF_EACH_SAMPLE = {
    "weights of each": ("y = MatMul(n, weights)", (3, 5, 4)),
    "weights of each, alike": ("y = MatMul(n, alike)", (3, 5, 4)),
    "a bias of each": ("y = Gemm(n, dense, column)", (3, 4)),
    "a bias of each and all": ("f = Flatten(n) y = Gemm(f, flat, table)", (3, 2, 4)),
}


@pytest.mark.parametrize("name", OF_EACH_SAMPLE)
def test_layers_that_differ_along_the_batch(name):
    body, shape = OF_EACH_SAMPLE[name]
    weights = {
        "shift": normal(4), "weights": normal(3, 4, 2), "alike": np.tile(normal(4, 2), (3, 1, 1)),
        "dense": normal(4, 2), "flat": normal(8, 2), "column": np.float32([[0], [1], [0]]),
        "table": np.float32([[0, 0], [1, 2], [0, 0]]),
    }  # fmt: skip
    made = "3, e, f" if body.startswith("y = MatMul") else "3, e"
    sizes = ", ".join(map(str, shape))
    text = f"g (float[{sizes}] x) => (float[{made}] y) {{ r = Relu(x) n = Add(r, shift) {body} }}"
    g = graph(text, weights)
    x = normal(*shape)
    before = run(g, x)
    assert fold_forward(g) is (name != "weights of each")
    np.testing.assert_allclose(run(g, x), before, rtol=1e-4, atol=1e-4)
