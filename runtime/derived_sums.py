"""Sums over time that follow from the membrane potentials, so that no step has to add them up.

Over t time-steps a layer of neurons with reset by subtraction emits, all in all,

    X = sum of currents + v(before) - v(after)              (Bu et al., equation 6, times t)

Where what lies between neurons is affine, f(x(1)) + ... + f(x(t)) = f(X) + (t - 1) f(0), so the
sum of a layer's currents follows from what the layers before it emitted, and X of every layer
from one pass through the network. X / V_th is a whole number: rounding to it takes away what
rounding errors have put in. A ``SignedIF`` counts what it emits, net, in its state m; a pool
that counts gives the maximum of the sums of its inputs.

Where currents are hundreds of V_th, what v loses by rounding is more than V_th: such layers are
left to the step (``coarse``), and others are looked at before it may be (``steps_to_next``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.graph.neurons import COUNTING, DOMAIN
from onnx2snn.graph_passes.graph.operators import MAX_POOLS, SPIKING_POOLS
from onnx2snn.graph_passes.model_files.protos import names_in, unused_prefix

from .plans.graphs import Writer, has_float16, renamed, with_nodes
from .plans.plan import NeuronLayer, Plan
from .reach import NOT_KNOWN, currents_in_thresholds

CONSERVING = ("IF", "BurstIF")
"""Neurons that lose nothing: they reset by subtraction and never start anew. So do those of
``COUNTING``, whose sums need no v."""

MOST_STEPS = 256
"""Time-steps between two passes, at most: rounding errors of v add up, and must stay far below
half a threshold (``steps_to_next``)."""

FAR = 256
"""Times V_th: sums of a layer whose currents may be larger are not worked out (``coarse``).

Counts of much larger ones may be wrong, and to carry sums takes less time than passes that are due
sooner and sooner as potentials go (docs/measurements.md, section Constants)."""


def steps_to_next(largest: float, growth: float) -> int:
    """How many time-steps may pass until the next pass, a power of two, of which chunks are.

    Where v is ``largest`` thresholds and may grow by ``growth`` in each, n of them round it by
    n (largest + n growth / 2) / 2**24 at most: an eighth of a threshold.
    """
    steps = MOST_STEPS
    while steps > 1 and steps * (largest + steps * growth / 2) > 2**21:
        steps //= 2
    return steps


@dataclass(frozen=True)
class DerivedSums:
    """Two graphs that give sums over t time-steps.

    ``sums`` reads what the step reads, summed over time, and what it sums; each state before and
    after, as ``before/<state>`` and ``after/<state>``; f(0) of each current as
    ``silent/<current>``; and ``more``, t - 1. It makes the sums of ``made``, what neurons emit that
    the step need not sum. ``silent`` makes f(0) of the currents in ``silenced``, from inputs of
    zeros. All names but those of what neurons emit and of inputs begin with ``prefix``.
    ``growth``: how many thresholds the potentials that they follow from may grow by in a time-step.
    """

    sums: onnx.ModelProto
    silent: onnx.ModelProto
    prefix: str
    made: tuple[str, ...]
    silenced: tuple[str, ...]
    growth: float


def derived_sums_of(plan: Plan, largest: Mapping[str, float] = NOT_KNOWN) -> DerivedSums | None:
    """The graphs for a plan; None if its sums do not follow from its states.

    ``largest``: as of ``currents_in_thresholds``.
    """
    stateful = [node for node in plan.step.graph.node if node.domain == DOMAIN]
    pools = [node for node in stateful if node.op_type in SPIKING_POOLS]
    allowed = {*CONSERVING, *COUNTING, *SPIKING_POOLS}
    known = {node.op_type for node in stateful} | {neuron.op for neuron in plan.neurons}
    kept = any(node.op_type in MAX_POOLS and not node.domain for node in plan.step.graph.node)
    # What is read has a sum over time, too.
    endless = max(largest.values(), default=1.0) * MOST_STEPS > float(np.finfo(np.float32).max)
    if kept or has_float16(plan.step) or endless or not plan.affine or not known <= allowed:
        return None
    reach = currents_in_thresholds(plan, CONSERVING, largest)
    summed = {*plan.readout_types, *(neuron.spikes for neuron in coarse(plan, reach))}
    derived = [neuron for neuron in plan.neurons if neuron.spikes not in summed]
    currents = [neuron.current for neuron in derived if neuron.op in CONSERVING]
    silenced = tuple(dict.fromkeys([*currents, *(node.input[0] for node in pools)]))
    made = tuple(neuron.spikes for neuron in derived)
    if not made:
        return None
    prefix = unused_prefix(names_in(plan.step), "derived/")
    return DerivedSums(
        _sums_model(plan, pools, prefix, made, silenced),
        _silent_model(plan, pools, prefix, silenced),
        prefix,
        made,
        silenced,
        max((reach[n.name] for n in derived if n.name in reach), default=0.0),
    )


def coarse(plan: Plan, reach: Mapping[str, float]) -> list[NeuronLayer]:
    """The layers whose potentials may lose more than a threshold by rounding.

    ``reach``: as of ``currents_in_thresholds``, of ``CONSERVING`` neurons.
    """
    return [neuron for neuron in plan.neurons if reach.get(neuron.name, 0) > FAR]


def _sums_model(
    plan: Plan,
    pools: Sequence[onnx.NodeProto],
    prefix: str,
    made: Sequence[str],
    silenced: Sequence[str],
) -> onnx.ModelProto:
    graph = Writer(prefix, _silent_nodes(plan, pools))
    types = {
        info.name: helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        for info in plan.step.graph.input
    }
    kinds = {neuron.current: neuron.threshold.dtype for neuron in plan.neurons}
    kinds |= {node.input[0]: types[node.input[1]] for node in pools}
    inputs: dict[str, onnx.ValueInfoProto] = {}

    def given(name: str, dtype: np.dtype) -> str:
        """An input of any shape."""
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        inputs[prefix + name] = helper.make_tensor_value_info(prefix + name, kind, None)
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
        kind, name = neuron.threshold.dtype, f"neuron/{neuron.name}"
        if neuron.spikes not in made:
            element = helper.np_dtype_to_tensor_dtype(kind)
            inputs[neuron.spikes] = helper.make_tensor_value_info(neuron.spikes, element, None)
            continue
        threshold = graph.constant(neuron.threshold, f"{name}/V_th")
        state = f"m/{neuron.name}" if neuron.op in COUNTING else f"v/{neuron.name}"
        before, after = (given(f"{when}/{state}", kind) for when in ("before", "after"))
        if neuron.op in COUNTING:
            counted = graph.node("Sub", [after, before], f"{name}/counted")
        else:
            spent = graph.node("Sub", [before, after], f"{name}/spent")
            emitted = graph.node("Add", [sums[neuron.current], spent], f"{name}/emitted")
            counted = _spikes_in(graph, neuron, emitted, threshold, more)
        graph.node("Mul", [counted, threshold], f"{name}/spikes", neuron.spikes)
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


def _spikes_in(graph: Writer, neuron: NeuronLayer, emitted: str, threshold: str, more: str) -> str:
    """How many spikes are what neurons emitted in t time-steps, ``more`` being t - 1.

    Under large currents v is off by whole thresholds: clipped to what the neuron can emit, 0 or
    more, and as many at most in each time-step as it may.
    """
    kind, name = neuron.threshold.dtype, f"neuron/{neuron.name}"
    levels = graph.node("Div", [emitted, threshold], f"{name}/levels")
    rounded = graph.node("Round", [levels], f"{name}/rounded")
    zero = graph.constant(np.zeros((), kind), f"{name}/zero")
    positive = graph.node("Max", [rounded, zero], f"{name}/positive")
    one = graph.constant(np.ones((), kind), f"{name}/one")
    others = graph.node("CastLike", [more, one], f"{name}/more")
    steps = graph.node("Add", [others, one], f"{name}/steps")
    each = graph.constant(np.asarray(neuron.max_spikes, kind), f"{name}/at_once")
    most = graph.node("Mul", [steps, each], f"{name}/most")
    return graph.node("Min", [positive, most], f"{name}/counted")


def _silent_model(
    plan: Plan, pools: Sequence[onnx.NodeProto], prefix: str, silenced: Sequence[str]
) -> onnx.ModelProto:
    graph = Writer(prefix, _silent_nodes(plan, pools))
    for neuron in plan.neurons:
        same = [neuron.current, neuron.current]
        graph.node("Sub", same, f"none/{neuron.name}", neuron.spikes)
    for node in pools:
        # Zeros of its shape: what it makes of this current is in no relation to what it emits.
        names = {name: f"{prefix}unused/{name}" for name in node.output}
        graph.nodes.append(renamed(node, names, node.name))
        pooled = names[node.output[0]]
        graph.node("Sub", [pooled, pooled], f"none/{node.name}", node.output[0])
    made = [graph.node("Identity", [name], f"silent/{name}") for name in silenced]
    return with_nodes(plan.step, graph.nodes, [onnx.ValueInfoProto(name=n) for n in made])


def _silent_nodes(plan: Plan, pools: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The step's nodes without those that emit."""
    emitted = {neuron.spikes for neuron in plan.neurons} | {node.output[0] for node in pools}
    return [node for node in plan.step.graph.node if not emitted & set(node.output)]
