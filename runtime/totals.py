"""Sums over time that follow from the membrane potentials, so that no step has to add them up.

Over t time-steps a layer of neurons with reset by subtraction emits, all in all,

    X = sum of currents + v(before) - v(after)              (Bu et al., equation 6, times t)

Where what lies between neurons is affine, f(x(1)) + ... + f(x(t)) = f(X) + (t - 1) f(0), so the
sum of a layer's currents follows from what the layers before it emitted, and X of every layer
from one pass through the network. X / V_th is a whole number: rounding to it takes away what
rounding errors have put in. A ``SignedIF`` counts what it emits, net, in its state m; a pool
that counts gives the maximum of the sums of its inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.linear import MAX_POOLS, SPIKING_POOLS
from onnx2snn.graph_passes.neurons import DOMAIN

from .graphs import Writer, names_in, renamed, unused_prefix, with_nodes
from .plan import Plan

CONSERVING = ("IF", "BurstIF")
"""Neurons that lose nothing: they reset by subtraction and never start anew."""

COUNTING = ("SignedIF",)
"""Such neurons, too, that remember what they have emitted."""

MOST_STEPS = 256
"""Time-steps between two passes, at most: rounding errors of v add up, and must stay far below
half a threshold. They are n |v| / 2**24 at most after n: up to mean currents of 64 V_th."""


def steps_to_next(largest: float) -> int:
    """How many time-steps may pass until the next pass, where v is so many thresholds.

    v may double on the way; its rounding stays below a quarter of a threshold.
    """
    return int(min(MOST_STEPS, max(1, 2**21 // max(largest, 1))))


@dataclass(frozen=True)
class Totals:
    """Two graphs that give sums over t time-steps.

    ``totals`` reads what the step reads, summed over time; each state before and after, as
    ``before/<state>`` and ``after/<state>``; f(0) of each current as ``silent/<current>``; and
    ``more``, t - 1. It makes the sums of ``made``, what neurons emit that the step need not sum
    for the read-out. ``silent`` makes f(0) of the currents in ``silenced``, from inputs of
    zeros. All names but those of ``made`` and of inputs begin with ``prefix``.
    """

    totals: onnx.ModelProto
    silent: onnx.ModelProto
    prefix: str
    made: tuple[str, ...]
    silenced: tuple[str, ...]


def totals_of(plan: Plan) -> Totals | None:
    """The graphs for a plan; None if its sums do not follow from its states."""
    stateful = [node for node in plan.step.graph.node if node.domain == DOMAIN]
    pools = [node for node in stateful if node.op_type in SPIKING_POOLS]
    allowed = {*CONSERVING, *COUNTING, *SPIKING_POOLS}
    known = {node.op_type for node in stateful} | {neuron.op for neuron in plan.neurons}
    kept = any(node.op_type in MAX_POOLS and not node.domain for node in plan.step.graph.node)
    half = any(neuron.threshold.dtype == np.float16 for neuron in plan.neurons)
    currents = [neuron.current for neuron in plan.neurons if neuron.op in CONSERVING]
    silenced = tuple(dict.fromkeys([*currents, *(node.input[0] for node in pools)]))
    made = tuple(n.spikes for n in plan.neurons if n.spikes not in plan.readout_types)
    if kept or half or not known <= allowed or not made:
        return None
    prefix = unused_prefix(names_in(plan.step), "total/")
    return Totals(
        _totals_model(plan, pools, prefix, made, silenced),
        _silent_model(plan, pools, prefix, silenced),
        prefix,
        made,
        silenced,
    )


def _totals_model(
    plan: Plan,
    pools: Sequence[onnx.NodeProto],
    prefix: str,
    made: Sequence[str],
    silenced: Sequence[str],
) -> onnx.ModelProto:
    graph = Writer(prefix, _silent_nodes(plan, pools))
    types = {info.name: _type_of(info) for info in plan.step.graph.input}
    kinds = {neuron.current: neuron.threshold.dtype for neuron in plan.neurons}
    kinds |= {node.input[0]: types[node.input[1]] for node in pools}
    inputs: dict[str, onnx.ValueInfoProto] = {}

    def given(name: str, dtype: np.dtype) -> str:
        """An input of any shape."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        inputs[name] = helper.make_tensor_value_info(prefix + name, kind, None)
        return prefix + name

    more = given("more", np.dtype(np.float32))

    def whole(tensor: str) -> str:
        """The sum of a current: f(X) + (t - 1) f(0)."""
        silent = given(f"silent/{tensor}", kinds[tensor])
        times = graph.node("CastLike", [more, silent], f"more/{tensor}")
        rest = graph.node("Mul", [times, silent], f"rest/{tensor}")
        return graph.node("Add", [tensor, rest], f"sum/{tensor}")

    sums = {name: whole(name) for name in silenced}
    for neuron in plan.neurons:
        kind, name = neuron.threshold.dtype, neuron.name
        threshold = graph.constant(neuron.threshold, f"{name}/V_th")
        state = f"m/{name}" if neuron.op in COUNTING else f"v/{name}"
        before, after = (given(f"{when}/{state}", kind) for when in ("before", "after"))
        if neuron.op in COUNTING:
            counted = graph.node("Sub", [after, before], f"{name}/counted")
        else:
            spent = graph.node("Sub", [before, after], f"{name}/spent")
            emitted = graph.node("Add", [sums[neuron.current], spent], f"{name}/emitted")
            levels = graph.node("Div", [emitted, threshold], f"{name}/levels")
            rounded = graph.node("Round", [levels], f"{name}/rounded")
            # Under large currents v is off by whole thresholds; clip to what the neuron can emit,
            # 0 or more, and of an IF at most t.
            zero = graph.constant(np.zeros((), kind), f"{name}/zero")
            counted = graph.node("Max", [rounded, zero], f"{name}/positive")
            if neuron.op == "IF":
                one = graph.constant(np.ones((), kind), f"{name}/one")
                others = graph.node("CastLike", [more, one], f"{name}/more")
                most = graph.node("Add", [others, one], f"{name}/most")
                counted = graph.node("Min", [counted, most], f"{name}/counted")
        graph.nodes.append(helper.make_node("Mul", [counted, threshold], [neuron.spikes]))
    for node in pools:
        current, state = node.input
        names = {
            current: sums[current],
            state: given(f"before/{state}", types[state]),
            node.output[1]: f"{prefix}unused/{node.output[1]}",
        }
        graph.nodes.append(renamed(node, names, node.name))
    outputs = [onnx.ValueInfoProto(name=name) for name in made]
    constants = graph.initializers.values()
    return with_nodes(plan.step, graph.nodes, outputs, inputs.values(), constants)


def _silent_model(
    plan: Plan, pools: Sequence[onnx.NodeProto], prefix: str, silenced: Sequence[str]
) -> onnx.ModelProto:
    graph = Writer(prefix, _silent_nodes(plan, pools))
    for neuron in plan.neurons:
        same = [neuron.current, neuron.current]
        graph.nodes.append(helper.make_node("Sub", same, [neuron.spikes]))
    for node in pools:
        # Zeros of its shape: what it makes of this current is in no relation to what it emits.
        names = {name: f"{prefix}unused/{name}" for name in node.output}
        graph.nodes.append(renamed(node, names, node.name))
        pooled = names[node.output[0]]
        graph.nodes.append(helper.make_node("Sub", [pooled, pooled], [node.output[0]]))
    made = [graph.node("Identity", [name], f"silent/{name}") for name in silenced]
    return with_nodes(plan.step, graph.nodes, [onnx.ValueInfoProto(name=n) for n in made])


def _silent_nodes(plan: Plan, pools: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The step's nodes without those that emit."""
    emitted = {neuron.spikes for neuron in plan.neurons} | {node.output[0] for node in pools}
    return [node for node in plan.step.graph.node if not emitted & set(node.output)]


def _type_of(info: onnx.ValueInfoProto) -> np.dtype:
    return np.dtype(helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
