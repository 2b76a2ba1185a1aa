"""Which tensors may hold numbers far from 0, beside which others are lost in a sum.

Numbers of masks are far, as is the logarithm of what may be 0. They are known by how they are made:

    a far constant, or one far number everywhere      as full_like(x, -1e9)
    a node that reads such besides its factors        as Where(mask, x, -1e9), x + mask
    Log(x), where x may be 0 or less
    Cast, Mul, Div whose numbers are within bounds,
    but may be 1e4 or more                            as (1 - mask) * -1e4
    Mul by a constant of 1e6 or more                  as mask * -1e9
    a factor of 2^29 or more, or that is not finite   as x / 1e-38, Conv with such weights
    a node that reads what may be far

Not far is what has a range that is near 0, as a Softmax, or makes such of far numbers, as Exp and
normalizations. The far bounds of a Clip count as none, and what layers read makes nothing far.
"""

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import is_floating, known_value, one_number
from onnx2snn.graph_passes.graph.ranges import ANY, Range

_NEAR = {
    "Celu", "Elu", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "Selu", "Softplus",
}  # fmt: skip
"""What makes numbers near 0, or infinity, of numbers far below 0, besides what has a range."""

_LAYERS = {
    "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "RNN",
}  # fmt: skip
"""What no network feeds with numbers as masks have them: all that it makes would be far."""

_FACTORS = {
    **dict.fromkeys((*_LAYERS, "Div", "Mul"), (0, 1)),
    "BatchNormalization": (1, 3, 4),
}
"""By operator, the places of what others are multiplied or divided by, or made near to 0 by."""

_LEAST_MASK, _LEAST_MADE, _LEAST_FACTOR = 1e6, 1e4, 2.0**29
"""From where on a number is a mask's, one that is made of 0 and 1, and a factor.

Beside less, as -1e4, float32 still tells numbers apart.
"""


def far_tensors(graph: gs.Graph, ranges: Mapping[str, Range]) -> set[str]:
    """The names of tensors in which there may be numbers far from 0; ``ranges``: all that hold."""
    found = set[str]()
    for node in graph.nodes:
        if not node.outputs:
            continue
        result = node.outputs[0]
        own = ranges[result.name]
        if not is_floating(result) or _makes_near(node, own):
            continue
        passes = node.op not in _LAYERS and any(tensor.name in found for tensor in node.inputs)
        if passes or _makes_far(node, own, ranges):
            found.update(tensor.name for tensor in node.outputs)
    return found


def is_near(values: np.ndarray) -> bool:
    """Whether x survives a sum with any of these numbers."""
    return bool(np.all(np.abs(values) <= min(_most_beside(values.dtype), _LEAST_MADE)))


def _makes_near(node: gs.Node, own: Range) -> bool:
    """Whether all that a node makes is near 0, or infinite. ``own``: the range of it."""
    if node.domain:
        return False
    return node.op in _NEAR or max(map(abs, own)) < _limit(node.outputs[0].dtype)


def _makes_far(node: gs.Node, own: Range, ranges: Mapping[str, Range]) -> bool:
    """Whether a node makes numbers far from 0 of others."""
    if node.domain:
        # What others do with a constant is not known.
        return False
    made = _known_numbers(node.outputs[0])
    if made is not None:
        return _is_far(made)
    match node.op:
        case "Clip":
            # A far bound is none.
            return False
        case "Log":
            return ranges.get(node.inputs[0].name, ANY)[0] <= 0
        case "Cast" | "Div" | "Mul" if _LEAST_MADE <= max(map(abs, own)) < np.inf:
            # Of a mask, whose numbers are known to be 0 or 1.
            return True
    factors = _FACTORS.get(node.op, ())
    for place, tensor in enumerate(node.inputs):
        value = _known_numbers(tensor)
        if value is None:
            continue
        if _is_far_factor(node, value) if place in factors else _is_far(value):
            return True
    return False


def _known_numbers(tensor: gs.Tensor) -> np.ndarray | None:
    """The floating-point numbers of a constant, or the one that a tensor holds everywhere."""
    value = known_value(tensor)
    value = one_number(tensor) if value is None else value
    return value if value is not None and value.dtype.kind == "f" else None


def _is_far(values: np.ndarray) -> bool:
    return _largest(values) >= _limit(values.dtype)


def _is_far_factor(node: gs.Node, scale: np.ndarray) -> bool:
    # A scale leaves large numbers beside large ones, unless it is as large as what masks take.
    if node.op == "Mul" and _largest(scale) >= _LEAST_MASK:
        return True
    least = min(_LEAST_FACTOR, float(np.finfo(scale.dtype).max) / 2)
    return not np.all(np.abs(scale) < least)


def _largest(values: np.ndarray) -> float:
    return float(np.max(np.abs(values), initial=0))


def _limit(dtype: np.dtype | None) -> float:
    """From where on numbers leave too little of others beside them, or of what V_th they make."""
    return min(_most_beside(dtype), _LEAST_MASK)


def _most_beside(dtype: np.dtype | None) -> float:
    """The most that a number may be for x to survive a sum with it."""
    return float(2.0 ** (np.finfo(dtype or np.float32).nmant - 3))
