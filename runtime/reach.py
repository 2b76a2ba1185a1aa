"""How large the numbers of a step may be: its currents in thresholds, what its layers make."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from onnx import numpy_helper

from onnx2snn.graph_passes.model_files.protos import attributes_of

from .inputs import largest_number
from .plans.graphs import has_weights, values_of
from .plans.plan import Plan

NOT_KNOWN: Mapping[str, float] = MappingProxyType({})
"""How large what a step reads is, before it has read anything."""

_FINITE = 2.0**40
"""Times V_th: no larger currents make a potential infinite, of V_th up to 2**60 and however many
time-steps."""

_FEW = 2**16
"""Of sizes of more places than these the largest counts for all."""

_IN_PLACE = ("Cast", "CastLike", "Dropout", "Identity", "Neg")
"""Operators that make nothing larger and leave it where it is."""

_WINDOWS = ("AveragePool", "MaxPool", "SpikingMaxPool")
"""Operators that make nothing larger and leave channels where they are."""

_ELSEWHERE = {
    **dict.fromkeys(
        (
            "CenterCropPad", "Compress", "DepthToSpace", "Expand", "Flatten", "Gather",
            "GatherElements", "GatherND", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax",
            "ReduceMean", "ReduceMin", "Reshape", "Resize", "ReverseSequence", "Slice",
            "SpaceToDepth", "SpikingGlobalMaxPool", "Split", "Squeeze", "Tile", "Transpose",
            "Trilu", "Unsqueeze",
        ),
        slice(1),
    ),
    **dict.fromkeys(("Concat", "Max", "Mean", "Min"), slice(None)),
    "Pad": slice(0, 3, 2),
    "Where": slice(1, None),
}  # fmt: skip
"""Operators that make nothing larger, but put it elsewhere; which of their inputs are what they
put, and not shapes, indices or conditions."""


def currents_in_thresholds(
    plan: Plan, kinds: Collection[str], largest: Mapping[str, float] = NOT_KNOWN
) -> dict[str, float]:
    """How large the currents of each layer of these ``kinds`` of neurons may be, by its name.

    As ``sizes_in`` says. ``largest``: how large what the step reads is, by name; 1 where it is not
    known.
    """
    sizes = sizes_in(plan, dict.fromkeys(plan.step_inputs, 1.0) | dict(largest))
    reach = {}
    for neuron in (neuron for neuron in plan.neurons if neuron.op in kinds):
        inverse = 1 / neuron.threshold.astype(np.float64)
        shares = _combined(np.multiply, [inverse, sizes[neuron.current]])
        reach[neuron.name] = float(shares.max(initial=0))
    return reach


def endless(plan: Plan, kinds: Collection[str]) -> set[str]:
    """The names of the layers of these ``kinds`` of neurons whose potentials may be infinite.

    Where a current follows from what the step reads, which may be, as the logarithm of an input;
    or adds up to it, as float32's least number in a mask does.
    """
    reach = currents_in_thresholds(plan, kinds, dict.fromkeys(plan.step_inputs, np.inf))
    return {name for name, most in reach.items() if most > _FINITE}


def sizes_in(plan: Plan, largest: Mapping[str, float]) -> dict[str, np.ndarray]:
    """How large the tensors of a step may be, by name: float64, what broadcasts to a sample.

    At most what a layer reads, V_th of the neurons before it, times the sum of a channel's weights
    without their signs, and the size of its bias; from layer to layer where no neurons are between
    them. Infinite where an operator may add up more than is known, as what is computed of shapes,
    or of states. ``largest``: how large what the step reads is, by name.
    """
    constants = values_of(plan.step, plan.weights)
    sizes = {info.name: np.array(np.inf) for info in plan.step.graph.input}
    sizes |= {name: _absolute(values) for name, values in constants.items()}
    sizes |= {name: np.array(largest[name]) for name in plan.step_inputs}
    emitted = {n.spikes: float(n.threshold.max()) * n.max_spikes for n in plan.neurons}
    for node in plan.step.graph.node:
        if has_weights(node):
            found = _of_layer(node, sizes, constants)
        else:
            found = _of_others(node, sizes, constants)
        sizes |= {made: np.array(emitted.get(made, found)) for made in node.output if made}
    return sizes


def _of_layer(
    node: onnx.NodeProto, sizes: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray:
    """How large what a layer with weights makes may be, channel by channel if these are second."""
    left, right, *bias = node.input
    turned = right not in constants
    if turned and left not in constants:
        return np.array(np.inf)
    read = float(sizes[right if turned else left].max(initial=0))
    own = sizes[bias[0]] if bias and bias[0] else np.zeros(())
    if not np.isfinite(read) or not np.isfinite(own.max(initial=0)):
        return np.array(np.inf)
    weights, given = constants[left if turned else right], attributes_of(node)
    whole = turned or weights.ndim == 1
    rows = weights.reshape(-1, weights.shape[-1]) if whole else _rows(node, weights)
    with np.errstate(over="ignore"):
        found: np.ndarray = read * abs(given.get("alpha", 1.0)) * _sums(rows)
    # That of a Gemm may be one for each row as well.
    by_channel = own.shape[-1:] == (own.size,) == (len(rows),)
    found = found + abs(given.get("beta", 1.0)) * (own if by_channel else own.max(initial=0))
    if whole:
        return np.array(found.max(initial=0))
    after = weights.ndim - 2 if node.op_type in ("Conv", "ConvTranspose") else 0
    return found.reshape(-1, *[1] * after)


def _of_others(
    node: onnx.NodeProto, sizes: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray:
    """How large what another node makes may be."""
    read = node.input[_ELSEWHERE.get(node.op_type, slice(None))]
    held, given = [sizes[name] for name in read if name], attributes_of(node)
    match node.op_type:
        case "ConstantOfShape":
            filled = numpy_helper.to_array(given["value"]) if "value" in given else np.zeros(1)
            return np.array(largest_number(filled))
        case "Mul":
            return _combined(np.multiply, held)
        case "Div" if node.input[1] in constants:
            with np.errstate(divide="ignore"):
                inverse = 1 / np.abs(constants[node.input[1]]).astype(np.float64)
            return _combined(np.multiply, [held[0], inverse])
        case "Add" | "Sub" | "Sum":
            return _combined(np.add, held)
        case op if op in _IN_PLACE:
            return held[0]
        case op if op in _WINDOWS:
            places = min(len(given["kernel_shape"]), held[0].ndim)
            most: np.ndarray = held[0].max(tuple(range(-places, 0)), keepdims=True, initial=0)
            return most
        case "Resize" if given.get("mode") == b"cubic" or given.get("extrapolation_value"):
            # It overshoots, or has numbers of its own.
            return np.array(np.inf)
        case op if op in _ELSEWHERE:
            return np.array(max(float(size.max(initial=0)) for size in held))
    # It may add up what it reads.
    return np.array(np.inf)


def _absolute(values: np.ndarray) -> np.ndarray:
    """A constant without its signs, or of many numbers the largest."""
    if values.size > _FEW:
        return np.array(largest_number(values))
    absolute: np.ndarray = np.abs(values)
    return absolute.astype(np.float64)


def _combined(combine: np.ufunc, sizes: Sequence[np.ndarray]) -> np.ndarray:
    """Sizes combined place by place, where their shapes say which places these are."""
    result = sizes[0]
    for size in sizes[1:]:
        first, second = result, size
        while second.ndim > first.ndim > 0 and len(second) == 1:
            # The axis of samples.
            second = second[0]
        try:
            shape = np.broadcast_shapes(first.shape, second.shape)
        except ValueError:
            shape = None
        if shape is None or np.prod(shape) > _FEW:
            first, second = np.array(first.max(initial=0)), np.array(second.max(initial=0))
        with np.errstate(over="ignore", invalid="ignore"):
            # No part of what may be infinite is nothing.
            result = np.nan_to_num(combine(first, second), nan=np.inf, posinf=np.inf)
    return np.asarray(result)


def _rows(node: onnx.NodeProto, weights: np.ndarray) -> np.ndarray:
    """A layer's weights, a row for each output channel."""
    given = attributes_of(node)
    if node.op_type == "Conv" or given.get("transB"):
        return weights.reshape(len(weights), -1)
    if node.op_type == "ConvTranspose":
        group = given.get("group", 1)
        apart = weights.reshape(group, len(weights) // group, weights.shape[1], -1)
        return apart.transpose(0, 2, 1, 3).reshape(group * weights.shape[1], -1)
    return np.moveaxis(weights, -1, 0).reshape(weights.shape[-1], -1)


def _sums(rows: np.ndarray) -> np.ndarray:
    """Of each row the sum of its weights without their signs."""
    # In parts, since there may be much of them.
    parts = np.array_split(rows, max(1, min(len(rows), rows.size // 2**18)))
    return np.concatenate([np.abs(part).sum(axis=1, dtype=np.float64) for part in parts])
