"""Write soft thresholding, which shrinks x towards 0 by t, as two ReLUs."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.broadcasting import constant_fits
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_value,
    is_floating,
    maker_of,
    replace_node,
    require_opset,
)
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import rewrite_nodes

from .conditions import compared_with, number_beside


def decompose_soft_thresholds(graph: gs.Graph) -> bool:
    """sign(x) ReLU(|x| - t), t >= 0  ->  ReLU(x - t) - ReLU(-x - t).

        Shrink(x) of lambd = bias = t        ->  the same
        Where(|x| > t, x - t sign(x), 0)     ->  the same

    As networks for sparse codes have it (LISTA; Gregor & LeCun 2010). t is constant; in the first
    form each unit may have its own. What is of an unknown type stays. Run it where positive parts
    are ReLUs (``unify_clips``), and before ``decompose_activations``, which writes |x| as a sum.
    """
    require_opset(graph)
    if any(n.outputs[0].dtype is None for n in graph.nodes if n.op in ("Shrink", "Sign")):
        infer_shapes(graph)
    return rewrite_nodes(graph, _rewrite)


def _soft_threshold(node: gs.Node) -> tuple[gs.Tensor, np.ndarray] | None:
    """The x and t of a node that computes it; None for any other."""
    if node.op == "Shrink":
        t = node.attrs.get("lambd", 0.5)
        return (node.inputs[0], np.asarray(t)) if node.attrs.get("bias", 0.0) == t >= 0 else None
    if node.op == "Mul":
        return _sign_times_excess(node)
    return _moved_where_large(*node.inputs) if node.op == "Where" else None


def _sign_times_excess(node: gs.Node) -> tuple[gs.Tensor, np.ndarray] | None:
    """Of sign(x) ReLU(|x| - t)."""
    for signs, excess in (node.inputs, node.inputs[::-1]):
        sign, relu = maker_of(signs, "Sign"), maker_of(excess, "Relu")
        less = maker_of(relu.inputs[0], "Sub") if relu is not None else None
        size = maker_of(less.inputs[0], "Abs") if less is not None else None
        if sign is None or less is None or size is None or size.inputs[0] is not sign.inputs[0]:
            continue
        x, t = size.inputs[0], constant_value(less.inputs[1])
        if t is not None and constant_fits(t, x) and np.all(np.isfinite(t) & (t >= 0)):
            return x, t
    return None


def _moved_where_large(
    condition: gs.Tensor, first: gs.Tensor, second: gs.Tensor
) -> tuple[gs.Tensor, np.ndarray] | None:
    """Of Where(|x| > t, x - t sign(x), 0), with the sides exchanged, too, or 0 x for 0."""
    for moved, zero in ((first, second), (second, first)):
        less = maker_of(moved, "Sub")
        shift = maker_of(less.inputs[1], "Mul") if less is not None else None
        if less is None or shift is None:
            continue
        x, product = less.inputs[0], maker_of(zero, "Mul")
        factors = [zero] if product is None else [t for t in product.inputs if t is not x]
        signs = [n.outputs[0] for n in x.outputs if n.op == "Sign" and not n.domain]
        sizes = [n.outputs[0] for n in x.outputs if n.op == "Abs" and not n.domain]
        said = [c for size in sizes if (c := compared_with(condition, size)) is not None]
        steps = [number_beside(t, x) for t in shift.inputs if all(t is not s for s in signs)]
        if len(said) != 1 or len(steps) != 1 or said[0].above != (moved is first):
            continue
        (t,), zeros = steps, [number_beside(factor, x) for factor in factors]
        if t == said[0].level >= 0 and zeros == [0]:
            return x, np.asarray(t)
    return None


def _rewrite(editor: Editor, node: gs.Node) -> bool:
    found = None if node.domain else _soft_threshold(node)
    if found is None:
        return False
    (x, t), like = found, node.outputs[0]
    if like.dtype is None or not is_floating(like):
        return False
    threshold = editor.constant(f"{node.name}/t", t.astype(like.dtype))
    minus = editor.node("Neg", f"{node.name}/minus", [x], like=like)
    parts = []
    for name, side in (("above", x), ("below", minus)):
        excess = editor.node("Sub", f"{node.name}/{name}/excess", [side, threshold], like=like)
        parts.append(editor.node("Relu", f"{node.name}/{name}", [excess], like=like))
    replace_node(node, "Sub", parts)
    return True
