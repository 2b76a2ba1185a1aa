"""What numbers tensors can hold, as far as the operators say that make them."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from .activations import is_non_negative
from .affine import affine_of
from .bounds import clip_bounds
from .editing import constant_input, constant_value, is_floating, one_number

Range = tuple[float, float]
"""The least and the largest number."""

ANY: Range = (-math.inf, math.inf)

_POSITIVE: Range = (0.0, math.inf)

_OF_OPS = {
    **dict.fromkeys(("Abs", "Exp", "Softplus", "Sqrt"), _POSITIVE),
    **dict.fromkeys(("HardSigmoid", "Sigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Cos", "Erf", "Sin", "Softsign", "Tanh"), (-1.0, 1.0)),
}

_ODD = {"Erf", "Softsign", "Tanh"}
"""Of these, what has the sign of what they read."""

SHAPING = {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""What gives a tensor another shape."""

OF_FIRST = {
    *SHAPING, "AveragePool", "DepthToSpace", "Expand", "Gather", "GlobalAveragePool",
    "GlobalMaxPool", "MaxPool", "Pad", "ReduceMax", "ReduceMean", "ReduceSum", "Resize", "Slice",
    "SpaceToDepth", "Split", "Tile",
}  # fmt: skip
"""What makes no numbers of another sign than those of its first input, apart from its border."""


def ranges_of(graph: gs.Graph) -> dict[str, Range]:
    """What numbers the first output of each node can hold, by its name."""
    ranges = dict[str, Range]()
    for node in graph.nodes:
        if node.outputs:
            ranges[node.outputs[0].name] = range_of(graph, node, ranges)
    return ranges


def range_of(graph: gs.Graph, node: gs.Node, known: Mapping[str, Range]) -> Range:
    """What numbers a node makes. ``known``: the ranges of tensors by name; others are ``ANY``."""
    if node.domain:
        return ANY
    if node.op == "Clip":
        low, high = map(float, clip_bounds(node))
        return ANY if math.isnan(low + high) else (min(low, high), high)
    if is_non_negative(graph, node):
        return _POSITIVE
    if node.op in _ODD and _range(node.inputs[0], known)[0] >= 0:
        return 0.0, 1.0
    if node.op in _OF_OPS:
        return _OF_OPS[node.op]
    affine = affine_of(graph, node)
    if affine is not None:
        x = known.get(affine.x.name, ANY)
        return _sum([_product(x, _extent(affine.scale)), _extent(affine.shift)])
    read = [_range(tensor, known) for tensor in node.inputs]
    match node.op:
        case "Mul" if node.inputs[0] is node.inputs[1]:
            return _POSITIVE
        case "Mul":
            return _product(*read)
        case "Div" if min(low for low, _ in read) >= 0:
            return _POSITIVE
        case "Add" | "Sum":
            return _sum(read)
        case "Sub":
            return _sum([read[0], _product(read[1], (-1.0, -1.0))])
        case "Cast" if node.inputs[0].dtype == bool:
            return 0.0, 1.0
        case "Cast" if is_floating(node.outputs[0]):
            return read[0]
        case "Max":
            return max(low for low, _ in read), max(high for _, high in read)
        case "Min":
            return min(low for low, _ in read), min(high for _, high in read)
        case "Concat":
            return _hull(read)
        case "Ceil" | "Floor" | "Round":
            return np.floor(read[0][0]), np.ceil(read[0][1])
        case "Where":
            return _hull(read[1:])
    return _of_first(node, read[0]) if node.op in OF_FIRST else ANY


def _of_first(node: gs.Node, x: Range) -> Range:
    """What an operator of ``OF_FIRST`` makes of numbers of a range."""
    match node.op:
        case "ReduceSum":
            return _POSITIVE if x[0] >= 0 else ANY
        case "AveragePool":
            return _hull([x, (0.0, 0.0)])
        case "Pad":
            border = constant_input(node, 2, 0.0)
            return ANY if border is None else _hull([x, _extent(border)])
        case "Resize" if node.attrs.get("mode") == "cubic":
            # It overshoots.
            return ANY
        case "Resize":
            # That is read in one mode alone.
            outside = node.attrs.get("extrapolation_value", 0.0)
            return _hull([x, (outside, outside)])
    return x


def _range(tensor: gs.Tensor, known: Mapping[str, Range]) -> Range:
    number = one_number(tensor)
    values = constant_value(tensor) if number is None else number
    if values is None or not values.size or values.dtype.kind not in "fiu":
        return known.get(tensor.name, ANY)
    return _extent(values)


def _extent(values: np.ndarray) -> Range:
    return (float(np.min(values)), float(np.max(values))) if np.all(np.isfinite(values)) else ANY


def _hull(ranges: Iterable[Range]) -> Range:
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


def _sum(ranges: Iterable[Range]) -> Range:
    lows, highs = zip(*ranges, strict=True)
    return sum(lows), sum(highs)


def _product(a: Range, b: Range) -> Range:
    # 0 times anything that a tensor holds is 0.
    corners = [x * y if x and y else 0.0 for x in a for y in b]
    return min(corners), max(corners)
