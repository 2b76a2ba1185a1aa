"""Scales and shifts: y = a x + c with constant a and c, in whichever operator they come."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .broadcasting import constant_fits
from .editing import constant_value, is_floating, is_used, variables_of

AFFINE_OPS = ("BatchNormalization", "Mul", "Div", "Add", "Sub", "Neg")


@dataclass(frozen=True)
class Affine:
    """y = scale x + shift: float64 arrays that broadcast against one sample of x."""

    x: gs.Tensor
    scale: np.ndarray
    shift: np.ndarray


def affine_of(graph: gs.Graph, node: gs.Node) -> Affine | None:
    """What a node computes, if that is a scale and shift by constants."""
    if node.domain or node.op not in AFFINE_OPS or not is_floating(node.inputs[0]):
        return None
    if node.op == "BatchNormalization":
        return _of_batch_norm(graph, node)
    x = (variables_of(node) or node.inputs)[0]
    if node.op == "Neg":
        return Affine(x, np.array(-1.0), np.array(0.0))
    constants = [constant_value(tensor) for tensor in node.inputs if tensor is not x]
    constant = constants[0] if len(constants) == 1 else None
    if constant is None or not constant_fits(constant, x) or not is_floating(x):
        return None
    # Where x has no axes, or an unknown shape, constant_fits lets only scalars pass.
    value = per_sample(constant.astype(np.float64), len(x.shape or ()) or 1)
    if value is None:
        return None
    first = node.inputs[0] is x
    one, zero = np.array(1.0), np.array(0.0)
    match node.op:
        case "Mul":
            return Affine(x, value, zero)
        case "Div" if first and np.all(value != 0):
            return Affine(x, 1 / value, zero)
        case "Add":
            return Affine(x, one, value)
        case "Sub":
            return Affine(x, one, -value) if first else Affine(x, -one, value)
    return None


def _of_batch_norm(graph: gs.Graph, node: gs.Node) -> Affine | None:
    values = [constant_value(tensor) for tensor in node.inputs[1:5]]
    parameters = [value.astype(np.float64) for value in values if value is not None]
    shape = node.inputs[0].shape
    if len(parameters) < 4 or is_in_training(graph, node) or shape is None:
        return None
    scale, shift, mean, variance = parameters
    a = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    c = shift - a * mean
    channels = (-1, *(1,) * (len(shape) - 2))
    return Affine(node.inputs[0], a.reshape(channels), c.reshape(channels))


def is_in_training(graph: gs.Graph, norm: gs.Node) -> bool:
    """Whether a BatchNormalization normalises by its batch, or hands on what it measures."""
    measures = any(is_used(graph, tensor) for tensor in norm.outputs[1:])
    return bool(norm.attrs.get("training_mode", 0)) or measures


def per_sample(value: np.ndarray, rank: int) -> np.ndarray | None:
    """What broadcasts to [N, ...], without its batch axis; None if its batch axis is not of size 1.

    ``rank`` counts the batch axis.
    """
    while value.ndim >= rank and value.ndim and value.shape[0] == 1:
        value = value[0]
    return value if value.ndim < rank else None


def per_channel(value: np.ndarray, rank: int, axis: int = 1) -> np.ndarray | None:
    """The values of a per-sample array along one axis alone, or (1,); None if others vary.

    ``rank`` and ``axis`` count the batch axis of the tensor that the array broadcasts to.
    """
    full = np.array(value, ndmin=rank - 1)
    if any(size != 1 for place, size in enumerate(full.shape, start=1) if place != axis):
        return None
    return full.reshape(-1)


def rounded(exact: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Numbers in a type of less precision; None if finite ones are too large for it."""
    with np.errstate(over="ignore", under="ignore"):
        values = np.asarray(exact).astype(dtype)
    return None if np.any(np.isfinite(exact) & ~np.isfinite(values)) else values


def rounded_weights(exact: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """The same of weights; None as well where float16 has too few digits for the largest."""
    values = rounded(exact, dtype)
    if values is None or dtype != np.float16:
        return values
    finite = np.isfinite(exact)
    known = np.asarray(exact, np.float64)[finite]
    lost, largest = (np.abs(x).max(initial=0) for x in (known - values[finite], known))
    return None if lost > np.finfo(dtype).eps * largest else values
