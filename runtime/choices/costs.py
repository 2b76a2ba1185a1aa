"""What a session's graphs cost, whatever its inputs, and what it may take."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx2snn.runtime.plans.plan import State
from onnx2snn.runtime.precision import PlanInPrecision

from .memory import Peaks


@dataclass(frozen=True)
class Costs:
    """What a session's graphs cost, whatever its inputs, and what it may take.

    ``peaks``: of the graph of one time-step. ``weights``: bytes, of the whole network;
    ``copied`` are those of them that each graph of time-steps holds anew. ``free``: the names of
    weights that layers may read in another way. ``may_be_lean``: whether graphs may read one
    copy of the weights, as they are. ``in_chunks``: whether chunks are wanted at all.
    ``derived_counts``: whether spike counts follow from membrane potentials. ``kept``: the states
    of which each read-out keeps a copy. ``held``: bytes of weights that the graphs besides those of
    time-steps hold once more, where a budget counts on it. ``cast``: the states in float16, which a
    CPU casts at each operator. ``nodes``: how many the session's graphs besides those of time-steps
    have. ``max_memory``: bytes; None lets a chunk take ``EXTRA_ACTIVATIONS`` more than a time-step,
    where it is not lean, and refuses nothing.
    """

    peaks: Peaks
    weights: int
    copied: int
    free: frozenset[str]
    may_be_lean: bool
    in_chunks: bool
    derived_counts: bool
    kept: frozenset[str]
    held: int
    cast: tuple[str, ...]
    nodes: int
    max_memory: int | None


def costs_of(
    network: PlanInPrecision,
    step: onnx.ModelProto,
    states: Sequence[State],
    *,
    on_cpu: bool,
    in_chunks: bool,
    derived_counts: bool,
    kept: frozenset[str],
    held: int,
    nodes: int,
    max_memory: int | None,
) -> Costs:
    """What graphs of ``step`` cost, which reads and writes these ``states`` anew.

    ``on_cpu``: whether they run on a CPU; the rest are those of ``Costs``.
    """
    plan, layers, half = network.plan, network.layers, network.half
    scratch = {layer.node: layer.scratch for layer in layers.values()}
    spikes = frozenset(neuron.spikes for neuron in plan.neurons)
    sizes = {name: values.nbytes for name, values in plan.weights.items()}
    weights = sum(sizes.values())
    # A CPU computes float16 in float32.
    widened = [n for n, v in plan.weights.items() if on_cpu and v.dtype == np.float16]
    return Costs(
        peaks=Peaks(step, states, spikes, scratch),
        weights=weights,
        # The rounded weights of layers in 8 bits are there for the sums alone.
        copied=weights + sum(sizes[name] for name in widened) - sum(sizes[name] for name in layers),
        free=frozenset(
            name
            for name, values in plan.weights.items()
            if in_chunks and on_cpu and values.dtype == np.float32 and name not in {*layers, *half}
        ),
        # Rounded weights are in the graphs themselves; others would be widened in each run.
        may_be_lean=on_cpu and not layers and not widened,
        in_chunks=in_chunks,
        derived_counts=derived_counts,
        kept=kept,
        held=held,
        cast=tuple(s.read for s in states if on_cpu and s.start.dtype == np.float16),
        nodes=nodes,
        max_memory=max_memory,
    )
