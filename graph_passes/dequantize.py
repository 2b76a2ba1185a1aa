"""Turn quantized weights back into numbers."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .editing import constant_value, disconnect, require_opset, tidy


def dequantize_weights(graph: gs.Graph) -> bool:
    """DequantizeLinear(constants) -> (q - zero_point) scale, per tensor, axis or block.

    onnx-graphsurgeon never folds it, and ONNX Runtime, where it stays, may fuse it with a
    MatMul in a way that rounds activations too.
    """
    require_opset(graph)
    changed = False
    for node in list(graph.nodes):
        if node.op != "DequantizeLinear" or node.domain:
            continue
        given = [tensor for tensor in node.inputs if not tensor.is_empty()]
        values = [value for t in given if (value := constant_value(t)) is not None]
        if len(values) < len(given):
            continue
        weights = _dequantized(node, *values)
        if weights is not None:
            # In its place, as it may be an output of the graph.
            node.outputs[0].to_constant(weights)
            disconnect(node)
            changed = True
    if changed:
        tidy(graph)
    return changed


def _dequantized(
    node: gs.Node, q: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None
) -> np.ndarray | None:
    """The numbers, in the scale's type if no other is asked for; None for a form not known here."""
    if q.dtype.kind not in "iu" or scale.dtype.kind != "f":
        return None
    axis, block = node.attrs.get("axis", 1), node.attrs.get("block_size", 0)

    def spread(value: np.ndarray) -> np.ndarray:
        if value.size == 1:
            return value.reshape(())
        if block:
            return np.repeat(value, block, axis).take(range(q.shape[axis]), axis)
        return value.reshape([-1 if place == axis % q.ndim else 1 for place in range(q.ndim)])

    shifted = q.astype(np.float64)
    if zero_point is not None:
        shifted = shifted - spread(zero_point.astype(np.float64))
    to = node.attrs.get("output_dtype", 0)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(int(to)) if to else scale.dtype
    return np.asarray((shifted * spread(scale.astype(np.float64))).astype(dtype))
