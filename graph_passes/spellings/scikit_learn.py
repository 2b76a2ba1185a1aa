"""Write what scikit-learn's exporter says in the domain ai.onnx.ml in standard operators."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import Editor, replace_node
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.model_files.weights import copy_model

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
    for info in (*changed.graph.output, *changed.graph.value_info):
        if info.name in made:
            tensor = onnx.helper.make_tensor_value_info(info.name, onnx.TensorProto.FLOAT, None)
            info.type.CopyFrom(tensor.type)
    return changed


def _is_zip_map(node: onnx.NodeProto) -> bool:
    return node.op_type == "ZipMap" and node.domain == _DOMAIN and len(node.output) == 1


def is_of_scikit_learn(node: onnx.NodeProto) -> bool:
    """Whether a node is of this domain."""
    return node.domain == _DOMAIN


def standardise_scikit_learn(graph: gs.Graph) -> bool:
    """Scaler(x) -> (x - offset) scale; Imputer(x) -> x, or its value where x is missing;
    Normalizer(x) -> x / its norm, or its largest value, of each sample.
    """
    changed, editor = False, Editor(graph)
    if any(n.domain == _DOMAIN and n.inputs[0].dtype is None for n in graph.nodes if n.inputs):
        infer_shapes(graph)
    for node in list(graph.nodes):
        if node.domain != _DOMAIN or node.op not in _REWRITES:
            continue
        if node.op != "Imputer" or "imputed_value_floats" in node.attrs:
            _REWRITES[node.op](editor, node)
            changed = True
    if changed:
        tidy(graph)
    return changed


def _scale(editor: Editor, node: gs.Node) -> None:
    # In double precision large numbers have digits that float32 would lose before the offset.
    x = node.inputs[0] if node.inputs[0].dtype == np.float64 else _as_float(editor, node)
    offset = np.asarray(node.attrs.get("offset", [0.0]), x.dtype)
    scale = np.asarray(node.attrs.get("scale", [1.0]), x.dtype)
    operands = [x, editor.constant(f"{node.name}/offset", offset)]
    shifted = editor.node("Sub", f"{node.name}/shifted", operands, like=x)
    factor = editor.constant(f"{node.name}/scale", scale)
    if x.dtype == np.float32:
        replace_node(node, "Mul", [shifted, factor])
        return
    scaled = editor.node("Mul", f"{node.name}/scaled", [shifted, factor], like=x)
    replace_node(node, "Cast", [scaled], {"to": onnx.TensorProto.FLOAT})


def _as_float(editor: Editor, node: gs.Node) -> gs.Tensor:
    x: gs.Tensor = node.inputs[0]
    if x.dtype == np.float32:
        return x
    like = gs.Variable("", np.float32, x.shape)
    return editor.node("Cast", f"{node.name}/float", [x], {"to": onnx.TensorProto.FLOAT}, like)


def _normalise(editor: Editor, node: gs.Node) -> None:
    x, norm = _as_float(editor, node), node.attrs.get("norm", "MAX")
    if norm in ("L1", "L2"):
        replace_node(node, "LpNormalization", [x], {"axis": -1, "p": int(norm[1])})
        return
    of = gs.Variable("", np.float32)
    largest = editor.reduction("ReduceMax", f"{node.name}/largest", x, of)
    zero, one = (editor.constant(f"{node.name}/{n}", np.float32(n)) for n in (0, 1))
    none = editor.node(
        "Equal", f"{node.name}/none", [largest, zero], like=gs.Variable("", np.bool_)
    )
    divisor = editor.node("Where", f"{node.name}/divisor", [none, one, largest], like=of)
    replace_node(node, "Div", [x, divisor])


def _impute(editor: Editor, node: gs.Node) -> None:
    x, missing = node.inputs[0], np.float32(node.attrs.get("replaced_value_float", 0.0))
    op, operands, attributes = "Equal", [x], {}
    if np.isnan(missing):
        op = "IsNaN"
    elif np.isinf(missing):
        op = "IsInf"
        attributes = {"detect_negative": int(missing < 0), "detect_positive": int(missing > 0)}
    else:
        operands.append(editor.constant(f"{node.name}/missing", missing))
    flag = gs.Variable("", np.bool_, x.shape)
    gone = editor.node(op, f"{node.name}/gone", operands, attributes, like=flag)
    values = np.asarray(node.attrs["imputed_value_floats"], np.float32)
    replace_node(node, "Where", [gone, editor.constant(f"{node.name}/values", values), x])


_REWRITES = {"Scaler": _scale, "Imputer": _impute, "Normalizer": _normalise}
