"""How large the numbers of a step may be: its currents in thresholds, what its layers make."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx

from onnx2snn.graph_passes.graph.operators import MAX_POOLS, SHAPE_OPS, SPIKING_POOLS, WEIGHTED
from onnx2snn.graph_passes.model_files.limits import WITH_SUBGRAPHS, operand_names
from onnx2snn.graph_passes.model_files.protos import attributes_of

from .inputs import largest_in
from .plans.graphs import values_of
from .plans.plan import Plan

NOT_KNOWN: Mapping[str, float] = MappingProxyType({})
"""How large what a step reads is, before it has read anything."""

_FINITE = 2.0**40
"""Times V_th: no larger currents make a potential infinite, of V_th up to 2**60 and however many
time-steps."""

_FEW = 2**16
"""Of sizes of more places than these the largest counts for all."""

_IN_PLACE = {
    "AveragePool", "Cast", "CastLike", "Dropout", "GlobalAveragePool", "Identity", "Neg",
    *MAX_POOLS, *SPIKING_POOLS,
}  # fmt: skip
"""Operators that make nothing larger and leave channels where they are."""

_ELSEWHERE = {
    "CenterCropPad", "Compress", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Max", "Mean", "Min", "Pad", "ReduceMax", "ReduceMean",
    "ReduceMin", "Reshape", "Resize", "ReverseSequence", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where",
}  # fmt: skip
"""Operators that make nothing larger, but put it elsewhere."""


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
        current = sizes.get(neuron.current, np.ones(()))
        shares = _combined(np.multiply, [1 / neuron.threshold.astype(np.float64), current])
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
    them. Infinite where an operator may add up more than is known. ``largest``: how large what the
    step reads is, by name. What is made of constants alone is left out.
    """
    nodes = plan.step.graph.node
    makers = {name: node for node in nodes for name in node.output if name}
    emitted = {n.spikes: float(n.threshold.max()) * n.max_spikes for n in plan.neurons}
    constants = values_of(plan.step, plan.weights)
    sizes = {name: np.array(largest[name]) for name in plan.step_inputs}
    for made, node in makers.items():
        if made in emitted:
            sizes[made] = np.array(emitted[made])
        elif node.op_type in WEIGHTED and not node.domain:
            sizes[made] = _of_layer(node, sizes, constants)
        elif (found := _of_others(node, sizes, constants)) is not None:
            sizes[made] = found
    return sizes


def _of_layer(
    node: onnx.NodeProto, sizes: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray:
    """How large what a layer with weights makes may be, channel by channel if these are second."""
    left, right, *bias = node.input
    turned = right not in constants
    if turned and left not in constants:
        return np.array(np.inf)
    read = float(sizes.get(right if turned else left, np.ones(())).max(initial=0))
    held = bias[0] if bias else ""
    if not np.isfinite(read) or (held and held not in constants and held not in sizes):
        return np.array(np.inf)
    weights, given = constants[left if turned else right], attributes_of(node)
    whole = turned or weights.ndim == 1
    rows = weights.reshape(-1, weights.shape[-1]) if whole else _rows(node, weights)
    with np.errstate(over="ignore"):
        found: np.ndarray = read * abs(given.get("alpha", 1.0)) * _sums(rows)
    beta = abs(given.get("beta", 1.0))
    if held in constants:
        # That of a Gemm may be one for each row as well.
        own = beta * np.abs(constants[held].reshape(-1))
        found = found + (own if own.size == len(rows) else own.max(initial=0))
    elif held:
        found = found + beta * float(sizes[held].max(initial=0))
    if whole:
        return np.array(found.max(initial=0))
    after = weights.ndim - 2 if node.op_type in ("Conv", "ConvTranspose") else 0
    return found.reshape(-1, *[1] * after)


def _of_others(
    node: onnx.NodeProto, sizes: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """How large what another node makes may be; None where that is made of constants alone."""
    names = operand_names(node) if node.op_type in WITH_SUBGRAPHS else node.input
    read = [sizes[name] for name in names if name in sizes]
    if not read or node.op_type in SHAPE_OPS:
        return None
    held = [constants[name] for name in node.input if name in constants]
    held = [values for values in held if values.dtype.kind == "f" and values.size]
    match node.op_type:
        case "Mul":
            return _combined(np.multiply, [*read, *map(_absolute, held)])
        case "Div" if held:
            inverse = 1 / np.maximum(np.abs(held[0]), 1e-30).astype(np.float64)
            return _combined(np.multiply, [read[0], inverse])
        case "Add" | "Sub" | "Sum":
            return _combined(np.add, [*read, *map(_absolute, held)])
        case op if op in _IN_PLACE:
            return read[0]
        case "Resize" if attributes_of(node).get("mode") == b"cubic":
            # It overshoots.
            return np.array(np.inf)
        case op if op in _ELSEWHERE:
            return np.array(max(float(size.max()) for size in [*read, *map(_absolute, held)]))
    # It may add up what it reads.
    return np.array(np.inf)


def _absolute(values: np.ndarray) -> np.ndarray:
    """A constant without its signs, or of many numbers the largest."""
    if values.size > _FEW:
        return np.array(largest_in(values))
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
