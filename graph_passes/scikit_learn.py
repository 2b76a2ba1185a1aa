"""Write what scikit-learn's exporter says in the domain ai.onnx.ml in standard operators."""

import numpy as np
import onnx_graphsurgeon as gs

from .editing import Editor, bypass, is_graph_output, replace_node, tidy

_DOMAIN = "ai.onnx.ml"


def standardise_scikit_learn(graph: gs.Graph) -> bool:
    """Scaler(x) -> (x - offset) scale, and ZipMap(p) -> p where it makes an output.

    The output is then a tensor [N, classes] instead of a list of dictionaries.
    """
    changed, editor = False, Editor(graph)
    for node in list(graph.nodes):
        if node.domain != _DOMAIN:
            continue
        if node.op == "ZipMap" and is_graph_output(graph, node.outputs[0]):
            source, result = node.inputs[0], node.outputs[0]
            result.dtype = np.dtype(np.float32) if source.dtype is None else source.dtype
            result.shape, result.type = source.shape, "tensor_type"
            changed |= bypass(graph, node)
        elif node.op == "Scaler":
            _scale(editor, node)
            changed = True
    tidy(graph)
    return changed


def _scale(editor: Editor, node: gs.Node) -> None:
    x = node.inputs[0]
    offset = np.asarray(node.attrs.get("offset", [0.0]), np.float32)
    scale = np.asarray(node.attrs.get("scale", [1.0]), np.float32)
    if x.dtype != np.float32:
        x = editor.node("Cast", f"{node.name}/float", [x], {"to": 1}, gs.Variable("", np.float32))
    shifted = editor.node(
        "Sub", f"{node.name}/shifted", [x, editor.constant(f"{node.name}/offset", offset)], like=x
    )
    replace_node(node, "Mul", [shifted, editor.constant(f"{node.name}/scale", scale)])
