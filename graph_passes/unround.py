"""Rounding as a part of activations: which it is, and what is left without it."""

import numpy as np
import onnx_graphsurgeon as gs

from .graph.affine import affine_of
from .graph.editing import Editor, is_floating, is_inner, leave_out, producer, type_of
from .graph.linear import why_not_affine
from .graph.operators import MAX_POOLS, SHAPE_OPS, WEIGHTED
from .graph.ranges import OF_FIRST, SHAPING

STEPS = {"Round": (0.0, np.rint), "Floor": (-0.5, np.floor), "Ceil": (0.5, np.ceil)}
"""What each adds to z, on average over one of its steps, and the function that it is."""

_PIECEWISE_LINEAR = {
    "Abs", "Clip", "HardSigmoid", "LeakyRelu", "Max", "Min", "PRelu", "Relu", "ThresholdedRelu",
    "Where",
}  # fmt: skip
"""The activations to which rounding belongs: they may become neurons, however they are spelled."""


def leave_out_steps(editor: Editor, node: gs.Node, varying: set[str]) -> bool:
    """Round(z) -> z, and so on; False where it is no part of an activation.

    ``varying``: the names of tensors that are not constant.
    """
    graph = editor.graph
    z, stepped, dtype = node.inputs[0], node.outputs[0], type_of(node)
    if dtype is None or not is_floating(z):
        return False
    x, scale, shift = _scaled(graph, z)
    if np.any(scale == 0):
        # Of a channel that is off: there is no x to which what rounding adds could go.
        return False
    activation = _stems_from_activation(graph, x)
    if not _belongs(stepped, activation, _copies(graph, x), varying):
        return False
    mean, step = STEPS[node.op]
    halves = np.rint(2 * shift) / 2
    shift = np.where(np.abs(shift - halves) < 2.0**-20, halves, shift)
    more, silent = shift + mean, step(shift)
    maker = producer(x)
    if activation and maker is not None and np.any(more != silent):
        if maker.op in ("Clip", "Relu"):
            # Behind it a silent neuron would say a part of a level.
            first = _plus(editor, node, maker.inputs[0], "before", (more - silent) / scale, dtype)
            inputs = [first, *maker.inputs[1:]]
            x, more = editor.node(maker.op, f"{node.name}/moved", inputs, maker.attrs, x), silent
        elif node.op != "Round" or maker.op in _PIECEWISE_LINEAR:
            # What others, and sums of them, are where neurons are silent is not known.
            return False
    if not np.all(scale == 1):
        factor = editor.constant(f"{node.name}/scale", scale.astype(dtype))
        x = editor.node("Mul", f"{node.name}/scaled", [x, factor], like=z)
    leave_out(graph, node, _plus(editor, node, x, "behind", more, dtype))
    return True


def straight_through(graph: gs.Graph, node: gs.Node) -> gs.Tensor | None:
    """The y of a straight-through estimator that ends in a node, if y is rounded; None else.

    Such are (y - x) + x, (y + x) - x and x - (x - y).
    """
    a, b = node.inputs
    for taken, x in ((a, b), (b, a)):
        maker = producer(taken)
        if maker is None or maker.domain or maker.op not in ("Add", "Sub"):
            continue
        first, second = maker.inputs
        pairs = {
            ("Add", "Sub"): [(first, second)],
            ("Sub", "Add"): [(first, second), (second, first)] if taken is a else [],
            ("Sub", "Sub"): [(second, first)] if taken is b else [],
        }.get((node.op, maker.op), [])
        for y, other in pairs:
            rounded = producer(_scaled(graph, y)[0])
            same = y.shape is not None and y.shape == node.outputs[0].shape
            if other is x and same and rounded is not None and rounded.op in STEPS:
                return y
    return None


def _scaled(graph: gs.Graph, z: gs.Tensor) -> tuple[gs.Tensor, np.ndarray, np.ndarray]:
    """The x of z = scale x + shift that is no such sum itself."""
    scale, shift = np.ones(()), np.zeros(())
    while (maker := producer(z)) is not None:
        affine = affine_of(graph, maker)
        if affine is None:
            break
        scale, shift = scale * affine.scale, scale * affine.shift + shift
        z = affine.x
    return z, scale, shift


def _copies(graph: gs.Graph, x: gs.Tensor) -> set[str]:
    """The names of x and of all that is x scaled, shifted or in another shape."""
    found, waiting = {x.name}, [x]
    while waiting:
        for reader in waiting.pop().outputs:
            scaled = affine_of(graph, reader) is not None
            if scaled or reader.op in SHAPING:
                found.add(reader.outputs[0].name)
                waiting.append(reader.outputs[0])
    return found


def _stems_from_activation(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is an activation, of whatever shape or pooled, or a sum with one in it."""
    waiting, seen = [tensor], set[int]()
    while waiting:
        maker = producer(waiting.pop())
        if maker is None or maker.domain or id(maker) in seen:
            continue
        seen.add(id(maker))
        if maker.op in _PIECEWISE_LINEAR:
            return True
        if maker.op in OF_FIRST:
            waiting.append(maker.inputs[0])
        elif maker.op in ("Add", "Sub", "Sum") or affine_of(graph, maker) is not None:
            waiting += maker.inputs
    return False


def _belongs(stepped: gs.Tensor, to_one: bool, copies: set[str], varying: set[str]) -> bool:
    """Whether rounding is part of an activation: one is before it (``to_one``), or reads it.

    It is not where anything reads it, up to the next layer or sum, that is neither affine nor a
    max-pool, or that puts it beside what is rounded (``copies``), as x - Floor(x) does.
    """
    waiting, seen = [stepped], set[int]()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        for reader in tensor.outputs:
            others = [x.name for x in reader.inputs if x is not tensor]
            beside = reader.op != "Concat" and not copies.isdisjoint(others)
            if is_inner(reader) or beside:
                return False
            if reader.op in _PIECEWISE_LINEAR and not reader.domain:
                to_one = True
                continue
            pooled = reader.op in MAX_POOLS and not reader.domain
            if not pooled and why_not_affine(reader, {tensor.name}, varying) is not None:
                return False
            if reader.op not in (*WEIGHTED, *SHAPE_OPS) and varying.isdisjoint(others):
                waiting += reader.outputs
    return to_one


def _plus(
    editor: Editor, node: gs.Node, x: gs.Tensor, name: str, more: np.ndarray, dtype: np.dtype
) -> gs.Tensor:
    """X with something added, if that is not 0."""
    if not np.any(more):
        return x
    constant = editor.constant(f"{node.name}/{name}", more.astype(dtype))
    return editor.node("Add", f"{node.name}/added", [x, constant], like=x)
