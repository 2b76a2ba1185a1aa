"""Write activations that are spelled by conditions as what they are."""

import numpy as np
import onnx_graphsurgeon as gs

from .clips import keeps_shape
from .editing import (
    constant_value,
    is_floating,
    keep_size,
    one_number,
    producer,
    replace_node,
    require_opset,
    tidy,
)
from .io import infer_shapes

_SAYS_POSITIVE = {"Greater": True, "GreaterOrEqual": True, "Less": False, "LessOrEqual": False}


def conditions_to_activations(graph: gs.Graph) -> bool:
    """Where and masks by the sign of x -> the activation that they are.

        Where(x > 0, x, 0), x [x > 0]  ->  Relu(x)
        Where(x > 0, x, a x)           ->  PRelu(x, a)
        Where(x > 0, x, -x)            ->  Abs(x)

    Also with >=, with the sides exchanged, and behind Not; a is constant. Where a zero may make the
    result larger than x, and where the type of x is unknown, all stays.
    """
    require_opset(graph)
    if any(t.dtype is None for node in graph.nodes if node.op == "Where" for t in node.inputs):
        infer_shapes(graph)
    changed = False
    for node in list(graph.nodes):
        found = None if node.domain else _activation(node)
        if found is not None:
            replace_node(node, *found)
            changed = True
    if changed:
        tidy(graph)
    return changed


def _activation(node: gs.Node) -> tuple[str, list[gs.Tensor]] | None:
    """The operator that a node is, and its inputs."""
    if node.op == "Mul":
        for x, mask in (node.inputs, reversed(node.inputs)):
            cast = producer(mask)
            if cast is not None and cast.op == "Cast" and _is_sign(cast.inputs[0], x) is True:
                return "Relu", [x]
    if node.op == "Where":
        for x in node.inputs[1:]:
            positive = _is_sign(node.inputs[0], x)
            if positive is None:
                continue
            above, below = node.inputs[1:] if positive else reversed(node.inputs[1:])
            if above is x:
                return _with_below(x, below)
    return None


def _is_sign(condition: gs.Tensor, x: gs.Tensor) -> bool | None:
    """Whether a condition says that x is positive; False: negative, None: something else."""
    node = producer(condition)
    if node is None or node.domain:
        return None
    if node.op == "Not":
        positive = _is_sign(node.inputs[0], x)
        return None if positive is None else not positive
    if node.op not in _SAYS_POSITIVE:
        return None
    first, second = node.inputs
    if first is x and _is_zero(second, x):
        return _SAYS_POSITIVE[node.op]
    return not _SAYS_POSITIVE[node.op] if second is x and _is_zero(first, x) else None


def _is_zero(tensor: gs.Tensor, x: gs.Tensor) -> bool:
    """Whether a tensor is 0 everywhere, and x beside it keeps its size."""
    number, floating = one_number(tensor), x.dtype is not None and is_floating(x)
    return number is not None and not number and floating and keep_size([tensor], [x])


def _with_below(x: gs.Tensor, below: gs.Tensor) -> tuple[str, list[gs.Tensor]] | None:
    """X where it is positive, and what it is below 0."""
    if _is_zero(below, x):
        return "Relu", [x]
    node = producer(below)
    if node is None or node.domain or all(tensor is not x for tensor in node.inputs):
        return None
    if node.op == "Neg":
        return "Abs", [x]
    if node.op == "Mul":
        (slope,) = [t for t in node.inputs if t is not x] or [x]
        value = constant_value(slope)
        if value is not None and np.all(np.isfinite(value)) and keeps_shape(value, x):
            return "PRelu", [x, slope]
    return None
