"""Bring bounds together that a scale keeps apart."""

from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.affine import affine_of
from onnx2snn.graph_passes.graph.bounds import NO_BOUND_FROM, Bounds, bounded_input, bounds_of
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    only_consumer,
    require_opset,
    type_of,
    until_done,
)
from onnx2snn.graph_passes.graph.tidying import rewrite_nodes


def move_bounds_behind_scales(graph: gs.Graph) -> bool:
    """Clip(s clip(x; a, b); c, d)  ->  Clip(clip(s x; s a, s b); c, d), s > 0.

    Where nothing else reads what lies between, so that ``unify_clips`` makes one activation of
    two: as of a ReLU before a quantiser that divides by its step. A Clip needs one s for all, for
    a Relu each channel may have its own.
    """
    require_opset(graph)
    # A bound that was moved may be before another scale.
    return until_done(partial(rewrite_nodes, step=_move), graph)


def _move(editor: Editor, node: gs.Node) -> bool:
    if node.op not in ("Clip", "Relu") or node.domain or bounds_of(node) is None:
        return False
    scales, scale = _scales_before_a_bound(editor.graph, node)
    bounds = _scaled_bounds(node, scale) if scales else None
    if bounds is not None:
        _rewrite(editor, node, scales, bounds)
    return bounds is not None


def _scales_before_a_bound(graph: gs.Graph, node: gs.Node) -> tuple[list[gs.Node], np.ndarray]:
    """The scales between a node and the next bound, and their product; none where none follows."""
    scales, product = list[gs.Node](), np.ones(())
    result = node.outputs[0]
    while (reader := only_consumer(graph, result)) is not None:
        affine = affine_of(graph, reader)
        if affine is None:
            return (scales if bounds_of(reader) is not None else []), product
        positive = np.all(affine.scale > 0) and np.all(np.isfinite(affine.scale))
        if affine.x is not result or not positive or np.any(affine.shift):
            break
        scales.append(reader)
        product, result = product * affine.scale, reader.outputs[0]
    return [], product


def _scaled_bounds(node: gs.Node, scale: np.ndarray) -> Bounds | None:
    """The bounds of a Clip or Relu, scaled; None where they cannot be.

    A large one may say "none" in its type, or not fit it.
    """
    bounds, dtype = bounds_of(node), type_of(node)
    if node.op == "Relu":
        return bounds
    if scale.size != 1 or bounds is None or dtype is None:
        return None
    if bounds.low == np.inf or bounds.high == -np.inf:
        return None
    factor = scale.reshape(())
    scaled = Bounds(np.asarray(bounds.low * factor), np.asarray(bounds.high * factor))
    most = min(NO_BOUND_FROM.get(dtype, np.inf), float(np.finfo(dtype).max))
    for bound, value in ((bounds.low, scaled.low), (bounds.high, scaled.high)):
        if np.isfinite(bound) and abs(value) >= most:
            return None
    return scaled


def _rewrite(editor: Editor, node: gs.Node, scales: list[gs.Node], bounds: Bounds) -> None:
    x, bounded, last = bounded_input(node), node.outputs[0], scales[-1]
    scales[0].inputs = [x if tensor is bounded else tensor for tensor in scales[0].inputs]
    result = last.outputs[0]
    scaled = gs.Variable(editor.name(f"{result.name}/scaled"), result.dtype, result.shape)
    # What makes a tensor has its name, elsewhere.
    last.name, last.outputs = scaled.name, [scaled]
    constants = list[gs.Tensor]()
    if node.op == "Clip":
        constants = editor.bounds(node.name, bounds.low, bounds.high, type_of(node))
    node.inputs, node.outputs = [scaled, *constants], [result]
