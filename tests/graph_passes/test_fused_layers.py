import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import canonicalise, split_fused_layers

RNG = np.random.default_rng(0)
OWN = "com.microsoft"
IMAGES = RNG.normal(size=(3, 2, 6, 6)).astype(np.float32)
ROWS = RNG.normal(size=(3, 4, 6)).astype(np.float32)
NUMBERS = {
    "k": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32),
    "kb": RNG.normal(size=4).astype(np.float32),
    "z": RNG.normal(size=(3, 4, 6, 6)).astype(np.float32),
    "w": RNG.normal(size=(6, 5)).astype(np.float32),
    "wt": RNG.normal(size=(5, 6)).astype(np.float32),
    "wb": RNG.normal(size=5).astype(np.float32),
    "six": RNG.normal(size=6).astype(np.float32),
    "more": RNG.normal(size=6).astype(np.float32),
    "stack": RNG.normal(size=(3, 6, 5)).astype(np.float32),
    "skip": RNG.normal(size=(3, 4, 6)).astype(np.float32),
    "others": RNG.normal(size=(3, 5, 4)).astype(np.float32),
    "six6": RNG.normal(size=(3, 6, 6)).astype(np.float32),
    "deep": RNG.normal(size=(3, 4, 6, 5)).astype(np.float32),
    "four": RNG.normal(size=(4, 6, 5)).astype(np.float32),
    "flat": np.int64([-1, 6]),
}
PADS = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"
CONVOLUTIONS = {
    "no activation": f"FusedConv<{PADS}>(x, k, kb)",
    "no bias": f'FusedConv<{PADS}, activation = "Relu">(x, k)',
    "ReLU": f'FusedConv<{PADS}, activation = "Relu">(x, k, kb)',
    "a sum and a ReLU": f'FusedConv<{PADS}, activation = "Relu">(x, k, kb, z)',
    "Clip": f'FusedConv<{PADS}, activation = "Clip", activation_params = [0.0, 1.5]>(x, k, kb)',
    "LeakyReLU": f'FusedConv<{PADS}, activation = "LeakyRelu", activation_params = [0.25]>(x, k)',
    "HardSigmoid": f'FusedConv<{PADS}, activation = "HardSigmoid", activation_params = [0.5, 0.25]>'
                   "(x, k)",
    "Sigmoid": f'FusedConv<{PADS}, activation = "Sigmoid">(x, k, kb)',
    "strides and dilations": 'FusedConv<kernel_shape = [3, 3], strides = [2, 1], dilations = [1, 2]'
                             ', activation = "Tanh">(x, k, kb)',
}  # fmt: skip
DENSE = {
    "ReLU": 'FusedGemm<activation = "Relu">(r, w, wb)',
    "no bias": 'FusedGemm<activation = "Relu">(r, w)',
    "transposed": 'FusedGemm<activation = "LeakyRelu", activation_alpha = 0.25, transB = 1,'
                  ' alpha = 0.5, beta = 2.0>(r, wt, wb)',
    "HardSigmoid": 'FusedGemm<activation = "HardSigmoid", activation_alpha = 0.5,'
                   ' activation_beta = 0.25>(r, w, wb)',
}  # fmt: skip
OTHERS = {
    "Gelu": "Gelu(x)",
    "BiasGelu": "BiasGelu(x, six)",
    "FastGelu": "FastGelu(x)",
    "FastGelu of a bias": "FastGelu(x, six)",
    "QuickGelu": "QuickGelu(x)",
    "SiLU": "QuickGelu<alpha = 1.0>(x)",
    "product": "FusedMatMul(x, w)",
    "scaled product": "FusedMatMul<alpha = 0.125>(x, stack)",
    "second transposed": "FusedMatMul<transB = 1>(x, wt)",
    "first transposed": "FusedMatMul<transA = 1>(x, skip)",
    "both transposed": "FusedMatMul<transA = 1, transB = 1>(x, others)",
    "first along the batch": "FusedMatMul<transBatchA = 1>(x, four)",
    "both along the batch": "FusedMatMul<transBatchA = 1, transBatchB = 1, transA = 1>(x, skip)",
    "old name": "TransposeMatMul<transB = 1>(x, wt)",
    "LayerNormalization": "SkipLayerNormalization(x, skip, six, more)",
    "without beta": "SkipLayerNormalization<epsilon = 0.01>(x, skip, six)",
    "with a bias": "SkipLayerNormalization<epsilon = 0.5>(x, skip, six, more, six)",
    "root mean square": "SkipSimplifiedLayerNormalization<epsilon = 0.25>(x, skip, six)",
    "root mean square with a bias": "SkipSimplifiedLayerNormalization(x, skip, six, more)",
}  # fmt: skip


def fused(text, x="3, 4, 6", opset=17):
    """A graph of one operator of ONNX Runtime's own, with a shape that nothing has to know."""
    g = graph(f"g (float[{x}] x) => (float y) {{ {text} }}", NUMBERS, opset)
    g.outputs[0].shape = None
    return g


def is_same(g, x, **tolerance):
    before = run(g, x, optimised=False)
    changes_once(split_fused_layers, g)
    assert not [node.op for node in g.nodes if node.domain]
    after = run(g, x, optimised=False)
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, **({"atol": 1e-5} | tolerance))


@pytest.mark.parametrize("text", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(text):
    is_same(fused(f"y = {OWN}.{text}", "N, 2, 6, 6"), IMAGES)


@pytest.mark.parametrize("text", DENSE.values(), ids=DENSE)
def test_dense(text):
    is_same(fused(f"r = Reshape(x, flat) y = {OWN}.{text}"), ROWS)


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_others(text):
    is_same(fused(f"y = {OWN}.{text}"), ROWS)


def test_root_mean_square_in_newer_opsets():
    is_same(fused(f"y = {OWN}.{OTHERS['root mean square']}", opset=21), ROWS)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("read", ["a sum", "an output"])
def test_sum_that_is_handed_on(op, read):
    text = f"n, , , s = {OWN}.{op}(x, skip, six) "
    g = fused(text + ("y = Add(n, s)" if read == "a sum" else "y = Identity(n)"))
    if read == "an output":
        g.outputs.append(g.tensors()["s"])
        g.outputs[1].dtype = np.dtype(np.float32)
        whole = run(g, ROWS, output=1)
    is_same(g, ROWS)
    if read == "an output":
        np.testing.assert_array_equal(run(g, ROWS, output=1), whole)


def test_deviation_that_is_handed_on_stays():
    g = fused(f"n, m = {OWN}.SkipLayerNormalization(x, skip, six, more) y = Add(n, m)")
    assert split_fused_layers(g) is False


def test_transposed_products_whose_rank_another_split_tells():
    g = fused(
        f"a = {OWN}.Gelu(x) b = {OWN}.FusedMatMul<transA = 1>(a, skip) "
        f"c = {OWN}.FusedMatMul<transA = 1>(b, six6) y = {OWN}.FusedMatMul<transB = 1>(c, wt)"
    )
    for name in "abc":
        g.tensors()[name].shape = None
    is_same(g, ROWS)


def test_product_along_the_first_of_four_axes():
    x = RNG.normal(size=(2, 3, 4, 6)).astype(np.float32)
    is_same(fused(f"y = {OWN}.FusedMatMul<transBatchA = 1>(x, deep)", "2, 3, 4, 6"), x)


def test_transposed_product_of_unknown_rank_stays():
    g = fused(f"a = com.microsoft.Inverse(x) y = {OWN}.FusedMatMul<transA = 1>(a, six6)", "3, 6, 6")
    g.tensors()["a"].shape = None
    assert split_fused_layers(g) is False


def test_scale_of_a_product_is_before_it():
    """Between activations what is behind would be computed on means, too."""
    g = fused(f"y = {OWN}.FusedMatMul<alpha = 0.125>(x, w)")
    split_fused_layers(g)
    assert ops(g) == ["Mul", "MatMul"]


def test_relu_is_an_activation_in_canonical_form():
    g = fused(f'y = {OWN}.FusedConv<{PADS}, activation = "Relu">(x, k, kb)', "N, 2, 6, 6")
    canonicalise(g)
    assert ops(g) == ["Conv", "Relu"]


def test_doubles_keep_their_type():
    g = graph(f"g (double[3, 4] x) => (double[3, 4] y) {{ y = {OWN}.QuickGelu(x) }}")
    assert split_fused_layers(g) is True
    assert g.nodes[0].op == "Mul"
    assert g.nodes[0].inputs[1].dtype == np.float64


@pytest.mark.parametrize("op", ["QuickGelu", "FastGelu", "Gelu"])
def test_halves_keep_their_type_behind_others(op):
    """What one makes has a type only once that is split."""
    g = graph(
        f"g (float16[3, 4] x) => (float16[3, 4] y) {{ a = {OWN}.{op}(x) b = Relu(a) "
        f"c = {OWN}.{op}(b) y = Relu(c) }}"
    )
    x = RNG.normal(size=(3, 4)).astype(np.float16)
    before = run(g, x, optimised=False)
    changes_once(split_fused_layers, g)
    assert {t.dtype for t in g.tensors().values()} == {np.dtype(np.float16)}
    np.testing.assert_allclose(run(g, x, optimised=False), before, atol=2e-3)


@pytest.mark.parametrize(("opset", "changed"), [(17, False), (19, True)])
def test_quantisers_of_halves(opset, changed):
    """ONNX's own take them since opset 19."""
    g = graph(
        f"g (float16[3, 4] x) => (float16[3, 4] y) {{ q = {OWN}.QuantizeLinear(x, s, z) "
        f"y = {OWN}.DequantizeLinear(q, s, z) }}",
        {"s": np.float16(0.25), "z": np.uint8(8)},
        opset,
    )
    x = RNG.normal(size=(3, 4)).astype(np.float16)
    before = run(g, x)
    assert split_fused_layers(g) is changed
    np.testing.assert_array_equal(run(g, x), before)


def test_operators_of_others_stay():
    g = fused("y = com.microsoft.Inverse(x)", "3, 3")
    assert split_fused_layers(g) is False


BERT = {
    "words": RNG.normal(size=(9, 6)).astype(np.float32),
    "places": RNG.normal(size=(7, 6)).astype(np.float32),
    "kinds": RNG.normal(size=(2, 6)).astype(np.float32),
    "six": NUMBERS["six"],
    "more": NUMBERS["more"],
    "rows": np.int32([[3, 1, 0, 2, 5]]),
}
IDS = RNG.integers(0, 9, (3, 5)).astype(np.int32)
KINDS = RNG.integers(0, 2, (3, 5)).astype(np.int32)
MASK = np.int32([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    "text",
    [
        "y, m = {}(i, j, words, places, kinds, six, more)",
        "y, m = {}<epsilon = 0.5>(i, , words, places, , six, more)",
        "y, m = {}(i, j, words, places, kinds, six, more, , rows)",
        "n, m, s = {}(i, j, words, places, kinds, six, more, k) f = Cast<to = 1>(m) "
        "a = Unsqueeze(f, ends) b = Add(s, n) y = Mul(a, b)",
        "n, m = {}<mask_index_type = 1>(i, j, words, places, kinds, six, more, k) "
        "f = Cast<to = 1>(m) a = Unsqueeze(f, ends) y = Mul(a, n)",
    ],
)
@pytest.mark.parametrize("length", ["5", "L"])
def test_embedding(text, length):
    ints = ", ".join(f"int32[N, {length}] {name}" for name in "ijk")
    text = text.format("com.microsoft.EmbedLayerNormalization")
    g = graph(f"g ({ints}) => (float y) {{ {text} }}", BERT | {"ends": np.int64([1, 2])})
    g.outputs[0].shape = None
    given = [values for t, values in zip("ijk", (IDS, KINDS, MASK), strict=True)
             if t in {tensor.name for tensor in g.inputs}]  # fmt: skip
    before = run(g, *given, optimised=False)
    changes_once(split_fused_layers, g)
    np.testing.assert_allclose(run(g, *given, optimised=False), before, atol=1e-5)
