"""Write what scikit-learn's exporter says in the domain ai.onnx.ml in standard operators."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .editing import Editor, replace_node, tidy
from .weights import copy_model

_DOMAIN = "ai.onnx.ml"


def zip_maps_to_tensors(structure: onnx.ModelProto) -> onnx.ModelProto:
    """ZipMap(p) -> p, where it makes an output; the model is left as it was.

    The output is then a tensor [N, classes] instead of a list of dictionaries.
    """
    names = {output.name for output in structure.graph.output}
    found = [n for n in structure.graph.node if _is_zip_map(n) and n.output[0] in names]
    if not found:
        return structure
    changed = copy_model(structure)
    for node in changed.graph.node:
        if _is_zip_map(node) and node.output[0] in names:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    made = {node.output[0] for node in found}
    for output in changed.graph.output:
        if output.name in made:
            tensor = onnx.helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, None)
            output.type.CopyFrom(tensor.type)
    return changed


def _is_zip_map(node: onnx.NodeProto) -> bool:
    return node.op_type == "ZipMap" and node.domain == _DOMAIN and len(node.output) == 1


def standardise_scikit_learn(graph: gs.Graph) -> bool:
    """Scaler(x) -> (x - offset) scale."""
    changed, editor = False, Editor(graph)
    for node in list(graph.nodes):
        if node.op == "Scaler" and node.domain == _DOMAIN:
            _scale(editor, node)
            changed = True
    if changed:
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
