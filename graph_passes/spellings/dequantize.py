"""Turn quantized weights back into numbers."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    Editor,
    become_product,
    constant_value,
    disconnect,
    is_graph_output,
    optional_input,
    replace_uses,
    require_opset,
)
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy

_WHOLE = (np.int8, np.uint8, np.int16, np.uint16)

_PRECISION = 23
"""Opset since which QuantizeLinear says, or its scale's type does, in what type it divides."""


def dequantize_weights(graph: gs.Graph) -> bool:
    """DequantizeLinear(constants) -> (q - zero_point) scale, per tensor, axis or block.

    And QuantizeLinear(constants) -> q = round(x / scale) + zero_point, as weights are written that
    were rounded in training; MatMulNBits(x, constants), ONNX Runtime's product with weights of 2,
    4 or 8 bits -> MatMul(x, W). onnx-graphsurgeon folds none of them, and ONNX Runtime, where they
    stay, may fuse them with a MatMul in a way that rounds activations too. What several nodes but
    MatMulNBits make of one constant alike is one constant again.
    """
    require_opset(graph)
    changed, products = False, _unpack_products(graph)
    made: dict[tuple, gs.Tensor] = {}
    for node in list(graph.nodes):
        if node.op not in ("DequantizeLinear", "QuantizeLinear") or node.domain:
            continue
        given = [tensor for tensor in node.inputs if not tensor.is_empty()]
        values = [value for t in given if (value := constant_value(t)) is not None]
        if len(values) < len(given):
            continue
        result, key = node.outputs[0], _what_is_made(node, given[0], *values[1:])
        if key in made and not is_graph_output(graph, result):
            replace_uses(result, made[key])
        else:
            if node.op == "DequantizeLinear":
                weights = _dequantized(node, *values)
            else:
                weights = _quantized(node, graph.opset, *values)
            if weights is None:
                continue
            # In its place, as it may be an output of the graph.
            made[key] = result.to_constant(weights)
        disconnect(node)
        changed = True
    if changed or products:
        tidy(graph)
    if products:
        # Of the operators of ONNX Runtime's own it is not known what they make.
        infer_shapes(graph)
    return changed or products


def _what_is_made(node: gs.Node, x: gs.Tensor, *values: np.ndarray) -> tuple:
    """Equal for nodes that make the same of the same constant, by scales and zero points."""
    known = [(value.dtype, value.shape, value.tobytes()) for value in values]
    return node.op, x.name, str(sorted(node.attrs.items())), *known


def _dequantized(
    node: gs.Node, q: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None
) -> np.ndarray | None:
    """The numbers, in the scale's type if no other is asked for; None for a form not known here."""
    # Floating-point numbers of 8 bits, of which NumPy knows no kind.
    small = q.dtype.itemsize == 1 and q.dtype.kind in "fV"
    if not (q.dtype.kind in "iu" or small) or scale.dtype.kind != "f":
        return None
    shifted = q.astype(np.float64)
    if zero_point is not None:
        shifted = shifted - _spread(node, zero_point.astype(np.float64), q.shape)
    to = node.attrs.get("output_dtype", 0)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(int(to)) if to else scale.dtype
    return np.asarray((shifted * _spread(node, scale.astype(np.float64), q.shape)).astype(dtype))


def _quantized(
    node: gs.Node,
    opset: int,
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None = None,
) -> np.ndarray | None:
    """Whole numbers of the zero point's type, or that asked for; None for a form not known here."""
    to = node.attrs.get("output_dtype", 0) or onnx.TensorProto.UINT8
    zero = np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(int(to)))
    zero = zero if zero_point is None else zero_point
    if x.dtype.kind != "f" or scale.dtype != x.dtype or zero.dtype not in _WHOLE:
        return None
    kinds = {0: scale.dtype, 1: np.dtype(np.float32), 10: np.dtype(np.float16)}
    kind = kinds.get(node.attrs.get("precision", 0))
    if kind is None:
        # ONNX Runtime divides in no other.
        return None
    if opset < _PRECISION:
        # Halves, too, as ONNX Runtime does.
        kind = np.promote_types(kind, np.float32)
    with np.errstate(over="ignore"):
        levels = x.astype(kind) / _spread(node, scale.astype(kind), x.shape)
    whole, ends = np.rint(levels).astype(np.float64), np.iinfo(zero.dtype)
    shifted = whole + _spread(node, zero.astype(np.float64), x.shape)
    return np.asarray(np.clip(shifted, ends.min, ends.max).astype(zero.dtype))


def _spread(node: gs.Node, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Scales or zero points, one for all, an axis or a block, against a tensor of a shape."""
    axis, block = node.attrs.get("axis", 1), node.attrs.get("block_size", 0)
    if value.size == 1:
        return value.reshape(())
    if block:
        return np.repeat(value, block, axis).take(range(shape[axis]), axis)
    return value.reshape([-1 if place == axis % len(shape) else 1 for place in range(len(shape))])


def _unpack_products(graph: gs.Graph) -> bool:
    """Let each MatMulNBits be a MatMul whose weights are numbers."""
    packed = [n for n in graph.nodes if n.op == "MatMulNBits" and n.domain == "com.microsoft"]
    if not packed:
        return False
    editor = Editor(graph)
    unpacked = [_product(editor, node) for node in packed]
    return any(unpacked)


def _product(editor: Editor, node: gs.Node) -> bool:
    """MatMulNBits: x times weights [N, K] in blocks along K, each with a scale."""
    given = [optional_input(node, place) for place in range(6)]
    x, held, scale, zero, order, bias = given
    known = [None if tensor is None else constant_value(tensor) for tensor in (held, scale, zero)]
    packed, scales, points = known
    if x is None or packed is None or scales is None or order is not None:
        return False
    if zero is not None and points is None:
        return False
    bits, size, block = node.attrs.get("bits", 4), node.attrs["K"], node.attrs["block_size"]
    rows, blocks = node.attrs["N"], -(-size // block)
    whole = _unpacked(packed.reshape(rows, -1), bits).reshape(rows, blocks, -1)
    middle: np.ndarray = np.full((rows, blocks), 2 ** (bits - 1))
    if points is not None:
        each = points.reshape(rows, -1)
        middle = (_unpacked(each, bits) if points.dtype == np.uint8 else each)[:, :blocks]
    shifted = whole.astype(np.float64) - middle[:, :, None]
    weights = (shifted * scales.reshape(rows, blocks, 1)).reshape(rows, -1)[:, :size]
    numbers = np.ascontiguousarray(weights.T.astype(scales.dtype))
    factors = [x, editor.constant(f"{node.name}/weights", numbers)]
    become_product(editor, node, factors, bias)
    return True


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of so many bits in bytes [rows, bytes], the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[:, :, None] >> shifts) & np.uint8(2**bits - 1)
    return np.asarray(parts).reshape(len(packed), -1)
