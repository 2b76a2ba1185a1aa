import pytest
from onnx_text import graph

from onnx2snn.graph_passes import infer_shapes
from onnx2snn.graph_passes.graph.broadcasting import may_fit
from onnx2snn.graph_passes.graph.editing import Editor


def test_sizes_of_one_name_are_one_size():
    """Also where more of them have no name than before: onnx numbers them anew."""
    halve = "MaxPool<kernel_shape = [2, 2], strides = [2, 2]>"
    text = "g (float[N, 1, H, W] x) => (float[N, 1, h, w] y) { a = %s(x) b = Neg(a) y = %s(b) }"
    g = graph(text % (halve, halve))
    editor = Editor(g)
    pool, attrs = g.nodes[0], g.nodes[0].attrs
    pool.inputs[0] = editor.node("MaxPool", "first", [g.inputs[0]], attrs)
    g.nodes.insert(0, g.nodes.pop())
    infer_shapes(g)
    sizes = [node.outputs[0].shape for node in g.nodes]
    assert len({size for shape in sizes[:2] for size in shape[2:]}) == 4
    assert sizes[0][0] == "N"


def test_what_was_declared_keeps_its_names():
    """Also where it is a name as onnx makes them, as tf2onnx writes them."""
    text = (
        "g (float[unk__0, 1, unk__1, 4] x) => (float[unk__0, 1, unk__1, 4] y, float[n, 1, h, 4] z) "
        "{ a = Relu(x) b = MaxPool<kernel_shape = [2, 1], strides = [2, 1]>(a) y = Neg(a) "
        "z = Neg(b) }"
    )
    g = graph(text)
    for node in g.nodes:
        node.outputs[0].shape = None
    infer_shapes(g)
    a, b = (g.tensors()[name].shape for name in "ab")
    assert a == ["unk__0", 1, "unk__1", 4]
    assert (b[0], b[1], b[3]) == ("unk__0", 1, 4)
    assert b[2] not in ("unk__0", "unk__1")


def test_sizes_that_were_known_stay():
    """Of a Reshape whose sizes come from elsewhere; a graph's outputs are inferred, too."""
    text = (
        "g (float[N, 6] x, int64[2] s) => (float[A, B] y, float[C, D] z) "
        "{ r = Reshape(x, s) y = Relu(r) z = Flatten<axis = 0>(r) }"
    )
    g = graph(text)
    r, z = g.tensors()["r"], g.tensors()["z"]
    r.shape, z.shape = ["N", 6], None
    infer_shapes(g)
    assert r.shape == ["N", 6]
    assert z.shape is not None
    assert len(z.shape) == 2


def test_what_is_inferred_anew_replaces_what_was_said():
    g = graph("g (float[N, 6] x) => (float[N, 6] y) { r = Neg(x) y = Relu(r) }")
    r = g.tensors()["r"]
    r.shape, r.dtype = ["N", 7], None
    infer_shapes(g)
    assert (r.shape, r.dtype) == (["N", 6], "float32")


def test_a_size_that_follows_from_an_open_one_is_open():
    """Whatever a file says of it: of one whose batch was opened at the inputs alone."""
    g = graph("g (float[N, 3] x) => (float[N, 3] y) { r = Relu(x) y = Neg(r) }")
    g.tensors()["r"].shape = [1, 3]
    infer_shapes(g)
    assert g.tensors()["r"].shape == ["N", 3]


@pytest.mark.parametrize(
    ("small", "shape", "fits"),
    [((3,), [4], False), ((3,), ["N"], True), ((3,), [2, 3], True), ((1, 1), [3], False)],
)
def test_what_may_fit_beside_known_and_open_sizes(small, shape, fits):
    assert may_fit(small, shape) is fits
