"""Write a Softmax that is spelled by exponentials as what it is."""

import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    Editor,
    maker_of,
    reduction_axes,
    replace_node,
    require_opset,
)
from onnx2snn.graph_passes.graph.tidying import rewrite_nodes


def exponentials_to_softmax(graph: gs.Graph) -> bool:
    """exp(x) / sum(exp(x))  ->  Softmax(x);  x - log(sum(exp(x)))  ->  LogSoftmax(x).

    Also of x - max(x), by which neither changes, as they are written by hand against overflow. Sums
    and maxima are over one axis, the same, which they keep. Run it before ``unify_linear_layers``,
    which makes pools of maxima.
    """
    require_opset(graph)
    return rewrite_nodes(graph, _rewrite)


def _rewrite(editor: Editor, node: gs.Node) -> bool:
    found = None if node.domain else _softmax(node)
    if found is not None:
        op, x, axis = found
        replace_node(node, op, [x], {"axis": axis})
    return found is not None


def _softmax(node: gs.Node) -> tuple[str, gs.Tensor, int] | None:
    """The operator that a node is, what of, and along which axis; None for any other."""
    if node.op == "Div":
        op, total = "Softmax", node.inputs[1]
    elif node.op == "Sub" and (logarithm := maker_of(node.inputs[1], "Log")):
        op, total = "LogSoftmax", logarithm.inputs[0]
    else:
        return None
    added = maker_of(total, "ReduceSum")
    exponential = None if added is None else maker_of(added.inputs[0], "Exp")
    if added is None or exponential is None:
        return None
    axis, x = _one_axis(added), exponential.inputs[0]
    of_the_same = node.inputs[0] is (added.inputs[0] if op == "Softmax" else x)
    return (op, _without_largest(x, axis), axis) if axis is not None and of_the_same else None


def _without_largest(x: gs.Tensor, axis: int) -> gs.Tensor:
    """The y of x = y - max(y) along an axis; x where it is no such difference."""
    less = maker_of(x, "Sub")
    if less is None:
        return x
    y, largest = less.inputs[0], maker_of(less.inputs[1], "ReduceMax")
    same = largest is not None and largest.inputs[0] is y and _one_axis(largest) == axis
    return y if same else x


def _one_axis(reduction: gs.Node) -> int | None:
    """The one axis along which a node reduces, and which it keeps; None if there is no such."""
    axes, shape = reduction_axes(reduction), reduction.inputs[0].shape
    if axes is None or len(axes) != 1 or not reduction.attrs.get("keepdims", 1):
        return None
    return int(axes[0]) % len(shape) if shape else int(axes[0])
