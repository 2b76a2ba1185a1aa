import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run, whole

from onnx2snn.graph_passes import max_to_average_pool

SIGNATURE = "g (float[N, 2, 7, 7] x) => (float[N, 2, a, b] y)"
X = np.random.default_rng(0).normal(size=(2, 2, 7, 7)).astype(np.float32)


def windows(x, kernel, stride, pads, height, width):
    """Means of the pixels within each window, padding not counted."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2] + 9), (pads[1], pads[3] + 9)),
               constant_values=np.nan)  # fmt: skip
    return np.stack(
        [
            np.stack(
                [
                    np.nanmean(
                        x[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel],
                        axis=(2, 3),
                    )
                    for j in range(width)
                ],
                axis=-1,
            )
            for i in range(height)
        ],
        axis=-2,
    )


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ("", (0, 0, 0, 0)),
        (", pads = [1, 1, 1, 1]", (1, 1, 1, 1)),
        (", pads = [1, 0, 0, 1]", (1, 0, 0, 1)),
        (", ceil_mode = 1", (0, 0, 0, 0)),
    ],
)
def test_same_windows_other_reduction(attributes, pads):
    g = graph(
        f"{SIGNATURE} {{ y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]{attributes}>(x) }}"
    )
    shape = run(g, X).shape
    changes_once(max_to_average_pool, g)
    (node,) = g.nodes
    assert node.op == "AveragePool"
    assert node.attrs["count_include_pad"] == 0
    result = run(g, X)
    assert result.shape == shape
    np.testing.assert_allclose(result, windows(X, 2, 2, pads, *shape[2:]), rtol=1e-5, atol=1e-6)


def test_global():
    g = graph(f"{SIGNATURE} {{ y = GlobalMaxPool(x) }}")
    changes_once(max_to_average_pool, g)
    assert ops(g) == ["GlobalAveragePool"]


def test_unused_indices_go_used_ones_stay():
    text = "y, i = MaxPool<kernel_shape = [2, 2]>(x)"
    g = graph(f"{SIGNATURE} {{ {text} }}")
    changes_once(max_to_average_pool, g)
    declined = []
    g = graph(f"{SIGNATURE} {{ {text} f = Cast<to = 1>(i) z = Add(y, f) }}".replace(" y)", " z)"))
    assert not max_to_average_pool(g, declined)
    assert "indices" in declined[0].reason


@pytest.mark.parametrize("opset", [17, 18])
def test_dilations_need_a_newer_opset(opset):
    text = f"{SIGNATURE} {{ y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x) }}"
    declined = []
    assert not max_to_average_pool(graph(text, opset=opset), declined)
    assert "opset 19" in declined[0].reason
    g = graph(text, opset=19)
    shape = run(g, X).shape
    changes_once(max_to_average_pool, g)
    assert run(g, X).shape == shape


def test_pools_of_a_read_out_that_is_not_affine_stay():
    """As where the largest of neighbours is found, in the heat maps of a detector."""
    g = graph(
        "g (float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y) { r = Relu(x) "
        "p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r) c = Conv(p, w) s = Sigmoid(c) "
        "y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(s) }",
        {"w": np.ones((3, 2, 1, 1), np.float32)},
    )
    changes_once(max_to_average_pool, g)
    assert ops(g) == ["Relu", "AveragePool", "Conv", "Sigmoid", "MaxPool"]


def test_pools_of_what_prepares_the_input_stay():
    g = graph(
        "g (float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y) { m = Relu(x) l = GlobalMaxPool(m) "
        "s = Div(x, l) c = Conv(s, w) y = Relu(c) }",
        {"w": np.ones((3, 2, 1, 1), np.float32)},
    )
    assert not max_to_average_pool(g)


def test_pools_of_whole_numbers_stay():
    declined = []
    g = graph(
        "g (uint8[N, 1, 4, 4] x) => (uint8[N, 1, a, b] y) { y = MaxPool<kernel_shape = [2, 2]>(x) }"
    )
    assert not max_to_average_pool(g, declined)
    assert "whole numbers" in declined[0].reason


def test_the_lowest_of_float16_stands_for_minus_infinity():
    text = (
        "g (float16[N, 2, 4, 4] x) => (float16[N, 2, a, b] y) "
        "{ p = Pad(x, pads, lowest) y = MaxPool<kernel_shape = [2, 2]>(p) }"
    )
    lowest = np.finfo(np.float16).min
    g = graph(text, {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "lowest": lowest})
    assert not max_to_average_pool(g)


@pytest.mark.parametrize("made", ["Constant<value = float {-inf}>()", "ReduceMin<keepdims = 0>(x)"])
def test_a_pad_by_what_a_node_makes(made):
    text = (
        f"g (float[N, 2, 4, 4] x) => (float[N, 2, a, b] y) {{ low = {made} "
        "p = Pad(x, pads, low) y = MaxPool<kernel_shape = [2, 2]>(p) }"
    )
    g, declined = graph(text, {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}), []
    assert not max_to_average_pool(g, declined)
    assert ("-infinity" if "inf" in made else "is not known") in declined[0].reason


def test_a_pool_behind_a_bound_for_each_channel():
    """That is a neuron, too."""
    text = (
        "g (float[N, 2, 4, 4] x) => (float[N, 2, 3, 3] y) { c = Conv(x, w) r = Relu(c) "
        "m = Min(r, most) y = MaxPool<kernel_shape = [2, 2]>(m) }"
    )
    most = np.float32([[[1]], [[2]]])
    g = graph(text, {"w": np.ones((2, 2, 1, 1), np.float32), "most": most})
    changes_once(max_to_average_pool, g)
    assert ops(g)[-1] == "AveragePool"


def test_an_average_has_no_second_output():
    text = "g (float[N, 2, 4, 4] x) => (float[N, 2, 3, 3] y) {"
    g = graph(f"{text} y, i = MaxPool<kernel_shape = [2, 2]>(x) }}")
    changes_once(max_to_average_pool, g)
    assert len(g.nodes[-1].outputs) == 1
    whole(g)


def test_maxima_in_double_precision_stay():
    text = "g (double[N, 2, 7, 7] x) => (double y) { y = MaxPool<kernel_shape = [2, 2]>(x) }"
    declined = []
    assert not max_to_average_pool(graph(text), declined)
    assert "double precision" in declined[0].reason


@pytest.mark.parametrize(("dtype", "reason"), [("uint8", "whole numbers"), ("double", "double")])
def test_types_that_a_file_does_not_tell_are_inferred(dtype, reason):
    g = graph(
        f"g ({dtype}[N, 2, 6, 6] x) => ({dtype}[N, 2, 3, 3] y) "
        "{ a = Identity(x) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) }"
    )
    g.tensors()["a"].dtype = None
    declined = []
    assert not max_to_average_pool(g, declined)
    assert reason in declined[0].reason
