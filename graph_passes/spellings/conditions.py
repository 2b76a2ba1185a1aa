"""Write activations that are spelled by conditions as what they are."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.broadcasting import constant_fits, surely_fits
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_value,
    is_floating,
    maker_of,
    one_number,
    producer,
    replace_node,
    require_opset,
)
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import rewrite_nodes

_SAYS_ABOVE = {
    "Greater": (True, True), "GreaterOrEqual": (True, False),
    "Less": (False, False), "LessOrEqual": (False, True),
}  # fmt: skip
"""Of x and a level: whether it says that x is above, or not; and whether x = level is not above."""


def conditions_to_activations(graph: gs.Graph) -> bool:
    """Where and masks by the size of x -> the activation that they are.

        Where(x > 0, x, 0), x [x > 0]  ->  Relu(x)
        Where(x > 0, x, a x)           ->  PRelu(x, a)
        x Where(x > 0, 1, a)           ->  PRelu(x, a), Relu(x)
        Where(x > 0, x, -x)            ->  Abs(x)
        Where(x > b, x, b)             ->  Max(x, b)
        Where(x < b, x, b)             ->  Min(x, b)
        Where(x > b, x, 0), x [x > b]  ->  ThresholdedRelu(x, b)
        Where(x > b, x - b, 0)         ->  Relu(x - b)
        Where(x < b, x - b, 0)         ->  Min(x - b, 0)

    Also with >=, which differs from > at b, and so is no ThresholdedRelu; with the sides exchanged,
    and behind Not (of float64 ONNX Runtime knows a PRelu at few opsets, and none is left by
    ``decompose_activations``); a and b, in ThresholdedRelu b > 0, are constant. Where a constant
    may make the result larger than x, and where the type of x is unknown, all stays.
    """
    require_opset(graph)
    if any(t.dtype is None for node in graph.nodes if node.op == "Where" for t in node.inputs):
        infer_shapes(graph)
    return rewrite_nodes(graph, _rewrite)


def _rewrite(editor: Editor, node: gs.Node) -> bool:
    found = None if node.domain else _activation(editor, node)
    if found is not None:
        replace_node(node, *found)
    return found is not None


_Activation = tuple[str, list[gs.Tensor], dict[str, float]]
"""An operator, its inputs and its attributes."""


def _activation(editor: Editor, node: gs.Node) -> _Activation | None:
    """What a node is."""

    def constant(number: float, x: gs.Tensor) -> gs.Constant:
        return editor.constant(f"{node.name}/number", np.asarray(number, x.dtype))

    if node.op == "Mul":
        for x, mask in (node.inputs, reversed(node.inputs)):
            compared, rest = _mask_of(mask, x)
            if compared is not None and rest == 0:
                return _rectified(x, compared)
            if compared is not None and compared.level == 0 and np.isfinite(rest):
                return "PRelu", [x, constant(rest, x)], {}
    if node.op == "Where":
        for x in node.inputs[1:]:
            compared = compared_with(node.inputs[0], x) or _compared_before(node.inputs[0], x)
            if compared is None:
                continue
            above, below = node.inputs[1:] if compared.above else reversed(node.inputs[1:])
            if above is x:
                number = number_beside(below, x)
                if number == 0:
                    return _rectified(x, compared)
                if number == compared.level:
                    return "Max", [x, constant(number, x)], {}
                return _bent(x, below, compared)
            if compared.level == number_beside(above, x):
                return "Min", [x, constant(compared.level, x)], {}
    return None


@dataclass(frozen=True)
class Compared:
    """What a condition says of x: that it is ``above`` a level, or that it is not.

    ``strictly``: x = level is not above.
    """

    above: bool
    strictly: bool
    level: float


def compared_with(condition: gs.Tensor, x: gs.Tensor) -> Compared | None:
    """What a condition says of x and of one number; None if that is something else."""
    node = producer(condition)
    if node is None or node.domain:
        return None
    if node.op == "Not":
        inner = compared_with(node.inputs[0], x)
        return None if inner is None else replace(inner, above=not inner.above)
    if node.op not in _SAYS_ABOVE:
        return None
    (above, strictly), (read, other) = _SAYS_ABOVE[node.op], node.inputs
    if read is not x:
        # b > x is x < b, and b >= x is x <= b.
        above, strictly, read, other = not above, not strictly, other, read
    level = number_beside(other, x) if read is x else None
    return None if level is None else Compared(above, strictly, level)


def _mask_of(mask: gs.Tensor, x: gs.Tensor) -> tuple[Compared | None, float]:
    """What a factor of x that is 1 where x is above a level compares, and what it is elsewhere."""
    cast, where = maker_of(mask, "Cast"), maker_of(mask, "Where")
    numbers: list[float | None] = [1.0, 0.0]
    if where is not None:
        numbers = [number_beside(tensor, x) for tensor in where.inputs[1:]]
    maker = cast or where
    compared = None if maker is None else compared_with(maker.inputs[0], x)
    if compared is None:
        return None, 0.0
    above, rest = numbers if compared.above else reversed(numbers)
    return (compared, rest) if above == 1 and rest is not None else (None, 0.0)


def _compared_before(condition: gs.Tensor, z: gs.Tensor) -> Compared | None:
    """What a condition says of z = x - b, where it compares x and b; None if that is else."""
    maker = producer(z)
    if maker is None or maker.domain or maker.op not in ("Add", "Sub"):
        return None
    x, other = maker.inputs
    if maker.op == "Add" and isinstance(x, gs.Constant):
        x, other = other, x
    level, compared = number_beside(other, x), compared_with(condition, x)
    if level is None or compared is None:
        return None
    # A sum of two numbers is 0 only where one is the other with its sign changed.
    same = compared.level == (level if maker.op == "Sub" else -level)
    return replace(compared, level=0.0) if same else None


def number_beside(tensor: gs.Tensor, x: gs.Tensor) -> float | None:
    """The number that a tensor is everywhere; None for another, or if x beside it would grow."""
    number, floating = one_number(tensor), x.dtype is not None and is_floating(x)
    if number is None or not floating or not surely_fits(tensor.shape, x.shape):
        return None
    return float(number)


def _rectified(x: gs.Tensor, compared: Compared) -> _Activation | None:
    """X where it is above the level, and 0 else."""
    level = compared.level
    if level == 0:
        return "Relu", [x], {}
    # ONNX Runtime has none in double precision.
    able = x.dtype != np.float64 and np.float32(level) == level
    if 0 < level < np.inf and compared.strictly and able:
        return "ThresholdedRelu", [x], {"alpha": level}
    return None


def _bent(x: gs.Tensor, below: gs.Tensor, compared: Compared) -> _Activation | None:
    """X where it is positive, and a multiple of it else."""
    node = producer(below)
    if compared.level != 0 or node is None or node.domain:
        return None
    if all(tensor is not x for tensor in node.inputs):
        return None
    if node.op == "Neg":
        return "Abs", [x], {}
    if node.op == "Mul":
        (slope,) = [t for t in node.inputs if t is not x] or [x]
        value = constant_value(slope)
        if value is not None and np.all(np.isfinite(value)) and constant_fits(value, x):
            return "PRelu", [x, slope], {}
    return None
