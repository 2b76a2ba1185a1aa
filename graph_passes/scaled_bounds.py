"""Bring bounds together that a scale keeps apart."""

import numpy as np
import onnx_graphsurgeon as gs

from .affine import affine_of
from .clips import bounded_input, bounds_of
from .editing import Editor, only_consumer, require_opset, tidy


def move_bounds_behind_scales(graph: gs.Graph) -> bool:
    """Clip(s clip(x; a, b); c, d)  ->  Clip(clip(s x; s a, s b); c, d), s > 0.

    Where nothing else reads what lies between, so that ``unify_clips`` makes one activation of
    two: as of a ReLU before a quantiser that divides by its step. A Clip needs one s for all, for
    a Relu each channel may have its own.
    """
    require_opset(graph)
    editor, changed = Editor(graph), False
    for node in list(graph.nodes):
        if node.op not in ("Clip", "Relu") or node.domain or bounds_of(node) is None:
            continue
        scales, scale = _scales_before_a_bound(graph, node)
        if scales and (node.op == "Relu" or scale.size == 1):
            _move(editor, node, scales, scale)
            changed = True
    if changed:
        tidy(graph)
    return changed


def _scales_before_a_bound(graph: gs.Graph, node: gs.Node) -> tuple[list[gs.Node], np.ndarray]:
    """The scales between a node and the next bound, and their product; none where none follows."""
    scales, product = list[gs.Node](), np.ones(())
    result = node.outputs[0]
    while (reader := only_consumer(graph, result)) is not None:
        affine = affine_of(graph, reader)
        if isinstance(affine, str):
            return (scales if bounds_of(reader) is not None else []), product
        if affine.x is not result or np.any(affine.scale <= 0) or np.any(affine.shift):
            break
        scales.append(reader)
        product, result = product * affine.scale, reader.outputs[0]
    return [], product


def _move(editor: Editor, node: gs.Node, scales: list[gs.Node], scale: np.ndarray) -> None:
    x, bounded, last = bounded_input(node), node.outputs[0], scales[-1]
    scales[0].inputs = [x if tensor is bounded else tensor for tensor in scales[0].inputs]
    result = last.outputs[0]
    scaled = gs.Variable(editor.name(f"{result.name}/scaled"), result.dtype, result.shape)
    last.outputs, bounds = [scaled], list(node.inputs[1:])
    for place, tensor in enumerate(bounds):
        if not tensor.is_empty():
            value = tensor.values.astype(np.float64) * scale.reshape(())
            name = f"{node.name}/{('min', 'max')[place]}"
            bounds[place] = editor.constant(name, value.reshape(()).astype(tensor.dtype))
    node.inputs, node.outputs = [scaled, *bounds], [result]
