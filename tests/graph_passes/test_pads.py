import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import canonicalise, fold_pads, infer_shapes

RNG = np.random.default_rng(0)
SIGNATURE = "g (float[N, 2, 6, 7] x) => (float[N, b, c, d] y)"
X = RNG.normal(size=(2, 2, 6, 7)).astype(np.float32)
CONV = "y = Conv(p, w, b)"
MEAN = "y = AveragePool<kernel_shape = [3, 3]"
LARGEST = "y = MaxPool<kernel_shape = [3, 3]"


def constants(pads=(0, 0, 1, 1, 0, 0, 1, 1), **others):
    lowest = np.finfo(np.float32).min
    return {
        "pads": np.array(pads), "w": RNG.normal(size=(3, 2, 3, 3)).astype(np.float32),
        "b": RNG.normal(size=3).astype(np.float32), "zero": np.float32(0), "one": np.float32(1),
        "infinite": np.float32(-np.inf), "lowest": lowest, **others,
    }  # fmt: skip


FOLDED = {
    "conv": ("p = Pad(x, pads)", CONV),
    "the value in words": ("p = Pad(x, pads, zero)", CONV),
    "no value": ("p = Pad(x, pads, )", CONV),
    "pads of the conv's own": ("p = Pad(x, pads)", "y = Conv<pads = [0, 1, 2, 0]>(p, w, b)"),
    "stride, dilation": ("p = Pad(x, pads)",
                         "y = Conv<strides = [2, 1], dilations = [1, 2]>(p, w, b)"),
    "valid": ('p = Pad(x, pads)', 'y = Conv<auto_pad = "VALID">(p, w)'),
    "average": ("p = Pad(x, pads)", f"{MEAN}>(p)"),
    "average of its own padding": ("p = Pad(x, pads)",
                                   f"{MEAN}, pads = [1, 0, 0, 1], count_include_pad = 1>(p)"),
    "average that padded nothing": ("p = Pad(x, pads)", f"{MEAN}, strides = [2, 2]>(p)"),
    "a maximum whose own pads count for nothing": (
        "r = Relu(x) p = Pad(r, pads)", f'{LARGEST}, auto_pad = "VALID", pads = [1, 1, 1, 1]>(p)'),
    "maximum of -infinity": ("p = Pad(x, pads, infinite)", f"{LARGEST}, strides = [2, 2]>(p)"),
    "maximum of the lowest": ("p = Pad(x, pads, lowest)", f"{LARGEST}>(p)"),
    "maximum of zeros": ("r = Relu(x) p = Pad(r, pads)", f"{LARGEST}>(p)"),
    "maximum of zeros after a clip": ("r = Clip(x, zero, one) p = Pad(r, pads)", f"{LARGEST}>(p)"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize(
    "pads", [(0, 0, 1, 1, 0, 0, 1, 1), (0, 0, 0, 1, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 1, 1)]
)
def test_joins_what_comes_behind(name, pads):
    pad, behind = FOLDED[name]
    g = graph(f"{SIGNATURE} {{ {pad} {behind} }}", constants(pads))
    before = run(g, X)
    changes_once(fold_pads, g)
    assert "Pad" not in ops(g)
    np.testing.assert_allclose(run(g, X), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("more", ["", ", strides = [2, 3]", ", strides = [4, 1]"])
@pytest.mark.parametrize("size", ["6, 7", "H, W"])
def test_pads_that_follow_from_sizes(how, more, size):
    """Where sizes are open, in steps of 1 alone."""
    w = RNG.normal(size=(3, 2, 2, 3)).astype(np.float32)
    text = SIGNATURE.replace("6, 7", size)
    g = graph(f'{text} {{ y = Conv<auto_pad = "{how}"{more}>(x, w) }}', {"w": w})
    before = run(g, X)
    if size == "H, W" and "strides" in more:
        assert not fold_pads(g)
        return
    changes_once(fold_pads, g)
    assert "auto_pad" not in g.nodes[0].attrs
    np.testing.assert_array_equal(run(g, X), before)


@pytest.mark.parametrize("more", ["dilations = [2, 1]", "strides = [4, 5]"])
def test_pads_that_stay(more):
    """ONNX Runtime takes none that are dilated, and leaves out pixels at the beginning, too."""
    weights = {"w": np.ones((3, 2, 2, 1), np.float32)}
    g = graph(f'{SIGNATURE} {{ y = Conv<auto_pad = "SAME_UPPER", {more}>(x, w) }}', weights)
    assert not fold_pads(g)
    assert g.nodes[0].attrs["auto_pad"] == "SAME_UPPER"


def test_pads_of_a_tensor_of_unknown_shape():
    g = graph(f"{SIGNATURE} {{ r = Relu(x) p = Pad(r, pads) {CONV} }}", constants())
    before = run(g, X)
    g.nodes[0].outputs[0].shape = None
    changes_once(fold_pads, g)
    assert ops(g) == ["Relu", "Conv"]
    np.testing.assert_array_equal(run(g, X), before)


def test_what_a_file_says_of_sizes_need_not_be_so():
    weights = {"w": np.ones((3, 2, 3, 3), np.float32), "none": np.zeros(0, np.float32),
               "scales": np.array([1, 1, 0.5, 0.29], np.float32)}  # fmt: skip
    text = 'r = Resize(x, none, scales) y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(r, w)'
    g = graph(f"{SIGNATURE.replace('6, 7', '6, 100')} {{ {text} }}", weights)
    g.nodes[0].outputs[0].shape = ["N", 2, 3, 28]
    x = RNG.normal(size=(2, 2, 6, 100)).astype(np.float32)
    before = run(g, x)
    changes_once(fold_pads, g)
    np.testing.assert_allclose(run(g, x), before, rtol=1e-5, atol=1e-6)


def test_a_pad_before_a_convolution_that_pads_by_itself():
    text = 'p = Pad(x, pads) y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(p, w)'
    g = graph(f"{SIGNATURE} {{ {text} }}", constants())
    infer_shapes(g)
    before = run(g, X)
    changes_once(fold_pads, g)
    assert ops(g) == ["Conv"]
    np.testing.assert_allclose(run(g, X), before, rtol=1e-5, atol=1e-6)


def test_adds_the_pads_side_by_side():
    weights = constants((0, 0, 1, 2, 0, 0, 3, 4))
    g = graph(f"{SIGNATURE} {{ p = Pad(x, pads) y = Conv<pads = [0, 1, 2, 0]>(p, w) }}", weights)
    changes_once(fold_pads, g)
    assert g.nodes[0].attrs["pads"] == [1, 3, 5, 4]


def test_zeros_that_an_average_counts():
    g = graph(f"{SIGNATURE} {{ p = Pad(x, pads) {MEAN}>(p) }}", constants())
    changes_once(fold_pads, g)
    assert g.nodes[0].attrs["count_include_pad"] == 1


@pytest.mark.parametrize("axes", [[2, 3], [-2, -1], [3, 2]])
def test_axes_as_an_input(axes):
    weights = constants((1, 0, 0, 2), axes=np.array(axes))
    g = graph(f"{SIGNATURE} {{ p = Pad(x, pads, zero, axes) {CONV} }}", weights, opset=18)
    before = run(g, X)
    changes_once(fold_pads, g)
    assert ops(g) == ["Conv"]
    np.testing.assert_allclose(run(g, X), before, rtol=1e-5, atol=1e-6)


def test_signals_of_one_axis():
    text = "g (float[N, 2, 6] x) => (float[N, b, c] y) { p = Pad(x, pads) y = Conv(p, w) }"
    weights = {"pads": np.array([0, 0, 2, 0, 0, 0]), "w": np.ones((3, 2, 3), np.float32)}
    g = graph(text, weights)
    before = run(g, X[..., 0])
    changes_once(fold_pads, g)
    np.testing.assert_array_equal(run(g, X[..., 0]), before)


UNTOUCHED = {
    "negative pads": ((0, 0, -1, 1, 0, 0, 1, 1), "p = Pad(x, pads)", CONV),
    "the batch axis": ((1, 0, 1, 1, 0, 0, 1, 1), "p = Pad(x, pads)", CONV),
    "the channels": ((0, 0, 1, 1, 0, 1, 1, 1), "p = Pad(x, pads)", "y = Conv(p, wide)"),
    "reflections": (None, 'p = Pad<mode = "reflect">(x, pads)', CONV),
    "the edge again": (None, 'p = Pad<mode = "edge">(x, pads)', CONV),
    "ones": (None, "p = Pad(x, pads, one)", CONV),
    "ones that are averaged": (None, "p = Pad(x, pads, one)", f"{MEAN}>(p)"),
    "zeros after a clip whose bounds are the other way round": (
        None, "r = Clip(x, one, lowest) p = Pad(r, pads)", f"{LARGEST}>(p)",
    ),
    "ones before a maximum": (None, "r = Relu(x) p = Pad(r, pads, one)", f"{LARGEST}>(p)"),
    "zeros before a maximum": (None, "p = Pad(x, pads)", f"{LARGEST}>(p)"),
    "zeros among what is negative": (None, "r = Neg(x) p = Pad(r, pads)", f"{LARGEST}>(p)"),
    "an average that leaves out its padding": (
        None, "p = Pad(x, pads)", f"{MEAN}, pads = [1, 1, 1, 1]>(p)",
    ),
    "-infinity that is averaged": (None, "p = Pad(x, pads, infinite)", f"{MEAN}>(p)"),
    "two readers": (None, "p = Pad(x, pads)", "c = Conv(p, w) d = Conv(p, w) y = Add(c, d)"),
    "a window that pads by itself": (
        None, "p = Pad(x, pads)",
        'y = AveragePool<kernel_shape = [3, 3], auto_pad = "SAME_UPPER", strides = [2, 2]>(p)',
    ),
    "as large as the window": (
        (0, 0, 3, 0, 0, 0, 0, 0), "r = Relu(x) p = Pad(r, pads)", f"{LARGEST}>(p)",
    ),
    "as large as the window of an average": (
        (0, 0, 0, 0, 0, 0, 0, 3), "p = Pad(x, pads)", f"{MEAN}>(p)",
    ),
    "windows that stick out": (
        None, "p = Pad(x, pads)", f"{MEAN}, strides = [2, 2], ceil_mode = 1>(p)",
    ),
    "a maximum over windows that stick out": (
        None, "p = Pad(x, pads, infinite)", f"{LARGEST}, strides = [2, 2], ceil_mode = 1>(p)",
    ),
    "what is no window": (None, "p = Pad(x, pads)", "y = Relu(p)"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOUCHED)
def test_stays(name):
    pads, pad, behind = UNTOUCHED[name]
    weights = constants((0, 0, 1, 1, 0, 0, 1, 1) if pads is None else pads)
    weights["wide"] = np.ones((3, 3, 3, 3), np.float32)
    g = graph(f"{SIGNATURE} {{ {pad} {behind} }}", weights)
    before = run(g, X)
    assert not fold_pads(g)
    assert "Pad" in ops(g)
    np.testing.assert_array_equal(run(g, X), before)


def test_a_padded_output_stays():
    text = "g (float[N, 2, 6, 7] x) => (float[N, b, c, d] y, float[N, 2, 8, 9] p)"
    assert not fold_pads(graph(f"{text} {{ p = Pad(x, pads) y = Conv(p, w) }}", constants()))


def test_padded_weights_stay():
    assert not fold_pads(graph(f"{SIGNATURE} {{ p = Pad(w, pads) y = Conv(x, p) }}", constants()))


def test_indices_of_a_maximum_count_the_padding():
    text = "g (float[N, 2, 6, 7] x) => (float[N, b, c, d] y, int64[N, b, c, d] i)"
    body = "p = Pad(x, pads, infinite) y, i = MaxPool<kernel_shape = [3, 3]>(p)"
    assert not fold_pads(graph(f"{text} {{ {body} }}", constants()))


def test_a_window_that_steps_over_the_whole_image():
    """Its pixels, two apart, are the padding on the left and on the right."""
    body = "r = Relu(x) p = Pad(r, pads) y = MaxPool<kernel_shape = [2], dilations = [2]>(p)"
    g = graph(
        f"g (float[N, 1, 1] x) => (float[N, 1, b] y) {{ {body} }}",
        {"pads": np.array([0, 0, 1, 0, 0, 1])},
    )
    x = np.full((1, 1, 1), 3, np.float32)
    before = run(g, x)
    fold_pads(g)
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize("behind", [CONV, f"{MEAN}>(q)"])
def test_several_in_a_row(behind):
    body = f"p = Pad(x, pads) q = Pad(p, more) {behind.replace('(p', '(q')}"
    more = {"more": np.array((0, 0, 1, 0, 0, 0, 0, 1))}
    g = graph(f"{SIGNATURE} {{ {body} }}", constants((0, 0, 0, 1, 0, 0, 1, 0)) | more)
    before = run(g, X)
    changes_once(fold_pads, g)
    assert "Pad" not in ops(g)
    np.testing.assert_allclose(run(g, X), before, rtol=1e-5, atol=1e-6)


def test_a_pad_of_no_axes_stays():
    g = graph("g (float x) => (float y) { y = Pad(x, none) }", {"none": np.zeros(0, np.int64)})
    assert not fold_pads(g)


@pytest.mark.parametrize("pads", [[1], [1, 1], [1] * 6])
def test_pads_of_a_damaged_file_stay(pads):
    text = (
        f"{SIGNATURE} {{ t = Transpose<perm = [0, 2, 3, 1]>(x) p = Pad(t, pads) "
        "u = Transpose<perm = [0, 3, 1, 2]>(p) q = Pad(u, pads) y = Conv(q, w) }"
    )
    g = graph(text, constants(pads))
    canonicalise(g)
    assert ops(g).count("Pad") == 2
