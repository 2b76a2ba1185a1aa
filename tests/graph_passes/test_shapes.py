from onnx_text import graph

from onnx2snn.graph_passes import infer_shapes
from onnx2snn.graph_passes.editing import Editor


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
