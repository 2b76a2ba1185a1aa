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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.limits import WEIGHTED, WITH_SUBGRAPHS, operands
from onnx2snn.graph_passes.linear import MAX_POOLS, SPIKING_POOLS
from onnx2snn.graph_passes.neurons import COUNTING, DOMAIN

from .graphs import Writer, attributes_of, names_in, renamed, unused_prefix, values_of, with_nodes
from .plan import Neuron, Plan

CONSERVING = ("IF", "BurstIF")
"""Neurons that lose nothing: they reset by subtraction and never start anew. So do those of
``COUNTING``, whose sums need no v."""

MOST_STEPS = 256
"""Time-steps between two passes, at most: rounding errors of v add up, and must stay far below
half a threshold (``steps_to_next``)."""

FASTEST = 4096
"""Times V_th: no current of a layer whose sums are worked out may be larger in a time-step. Those
that large take a pass every 32 time-steps."""

FAR = 256
"""Times V_th: sums of a layer whose currents are further are not worked out (``coarse``).

Thirty neurons, thresholds of channels, ten of them with a largest activation of 1e-2, 1e-3, 1e-4
and 1e-5 where the others have 1: counts of these were wrong in 0, 0, 433 and 2,918 cases of 12,000
at T=64, and in 0, 919, 1,873 and 3,000 at T=256."""


NOT_KNOWN: Mapping[str, float] = MappingProxyType({})
"""How large what a step reads is, before it has read anything."""


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
class Totals:
    """Two graphs that give sums over t time-steps.

    ``totals`` reads what the step reads, summed over time, and what it sums; each state before and
    after, as ``before/<state>`` and ``after/<state>``; f(0) of each current as
    ``silent/<current>``; and ``more``, t - 1. It makes the sums of ``made``, what neurons emit that
    the step need not sum. ``silent`` makes f(0) of the currents in ``silenced``, from inputs of
    zeros. All names but those of what neurons emit and of inputs begin with ``prefix``.
    ``growth``: how many thresholds the potentials that they follow from may grow by in a time-step.
    """

    totals: onnx.ModelProto
    silent: onnx.ModelProto
    prefix: str
    made: tuple[str, ...]
    silenced: tuple[str, ...]
    growth: float


def totals_of(plan: Plan, largest: Mapping[str, float] = NOT_KNOWN) -> Totals | None:
    """The graphs for a plan; None if its sums do not follow from its states.

    ``largest``: as for ``coarse``.
    """
    stateful = [node for node in plan.step.graph.node if node.domain == DOMAIN]
    pools = [node for node in stateful if node.op_type in SPIKING_POOLS]
    allowed = {*CONSERVING, *COUNTING, *SPIKING_POOLS}
    known = {node.op_type for node in stateful} | {neuron.op for neuron in plan.neurons}
    kept = any(node.op_type in MAX_POOLS and not node.domain for node in plan.step.graph.node)
    half = any(neuron.threshold.dtype == np.float16 for neuron in plan.neurons)
    # What is read has a sum over time, too.
    endless = max(largest.values(), default=1.0) * MOST_STEPS > float(np.finfo(np.float32).max)
    if kept or half or endless or not plan.affine or not known <= allowed:
        return None
    reach = currents_in_thresholds(plan, largest)
    summed = {*plan.readout_types, *(neuron.spikes for neuron in coarse(plan, reach))}
    derived = [neuron for neuron in plan.neurons if neuron.spikes not in summed]
    currents = [neuron.current for neuron in derived if neuron.op in CONSERVING]
    silenced = tuple(dict.fromkeys([*currents, *(node.input[0] for node in pools)]))
    made = tuple(neuron.spikes for neuron in derived)
    if not made:
        return None
    prefix = unused_prefix(names_in(plan.step), "total/")
    return Totals(
        _totals_model(plan, pools, prefix, made, silenced),
        _silent_model(plan, pools, prefix, silenced),
        prefix,
        made,
        silenced,
        max((reach[n.name].most for n in derived if n.name in reach), default=0.0),
    )


@dataclass(frozen=True)
class Reach:
    """About how large a layer's currents are, in thresholds.

    ``usual``: where what it reads has either sign, by the norm of a channel's weights, or how far
    apart thresholds are, if that is more; ``most``: where all of it adds up, by their sum.
    """

    usual: float
    most: float


def coarse(plan: Plan, reach: Mapping[str, Reach]) -> list[Neuron]:
    """The layers whose potentials may lose more than a threshold by rounding.

    ``reach``: as of ``currents_in_thresholds``.
    """
    found = [(n, reach[n.name]) for n in plan.neurons if n.name in reach]
    return [n for n, far in found if far.usual > FAR or far.most > FASTEST]


def currents_in_thresholds(
    plan: Plan, largest: Mapping[str, float] = NOT_KNOWN
) -> dict[str, Reach]:
    """How large the currents of each layer of ``CONSERVING`` neurons may be, by its name.

    About what a layer reads, V_th of the neurons before it, times the norm, or the sum, of a
    channel's weights, and the size of its bias; from layer to layer where no neurons are between
    them. ``largest``: how large what the step reads is, by name; 1 where it is not known.
    """
    nodes = plan.step.graph.node
    makers = {name: node for node in nodes for name in node.output if name}
    layers = {n.output[0]: n for n in nodes if n.op_type in WEIGHTED and not n.domain}
    emitted = {neuron.spikes: float(neuron.threshold.max()) for neuron in plan.neurons}
    constants = values_of(plan.step, plan.weights)

    def currents(layer: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
        """About how large the currents of each channel are usually, and at most."""
        read, (weights, *bias) = sizes.get(layer.input[0], 1.0), map(constants.get, layer.input[1:])
        if weights is None:
            product = np.full(1, read * sizes.get(layer.input[1], 1.0))
            return product, product
        factor = read * abs(attributes_of(layer).get("alpha", 1.0))
        rows = _rows(layer, weights)
        found = [factor * each for each in (_norms(rows), _sums(rows))]
        if bias and bias[0] is not None:
            # That of a Gemm may be one for each row as well.
            own = np.abs(bias[0].reshape(-1))
            per = own if own.size == len(rows) else own.max(initial=0)
            found = [each + per for each in found]
        usual, most = found
        return usual, most

    def size(node: onnx.NodeProto) -> float | None:
        """About how large what a node makes is; None where it is made of constants alone."""
        names = operands(node) if node.op_type in WITH_SUBGRAPHS else node.input
        read = [sizes[name] for name in names if name in sizes]
        held = [constants[name] for name in node.input if name in constants]
        own = [float(np.abs(v).max(initial=0)) for v in held if v.dtype.kind == "f"]
        if not read:
            return None
        if node.op_type == "Mul":
            return float(np.prod(read + own))
        if node.op_type == "Div" and held:
            least = float(np.abs(held[0].astype(np.float64)).min(initial=np.inf))
            return read[0] / max(least, 1e-30)
        return sum(read + own) if node.op_type in ("Add", "Sub", "Sum") else max(read)

    sizes = {name: largest.get(name, 1.0) for name in plan.step_inputs}
    by_channel = dict[str, tuple[np.ndarray, np.ndarray]]()
    for made, node in makers.items():
        if made in emitted:
            found: float | None = emitted[made]
        elif made in layers:
            by_channel[made] = currents(node)
            found = float(by_channel[made][0].max(initial=0))
        else:
            found = size(node)
        if found is not None:
            sizes[made] = found

    def reach(neuron: Neuron) -> Reach:
        threshold = neuron.threshold
        before = _made_of(neuron.current, makers, {*emitted, *layers})
        read = max((emitted[x] for x in before if x in emitted), default=0.0)
        apart = max(read, float(threshold.max())) / float(threshold.min())
        # What the step reads is known for all channels together.
        given = neuron.current in plan.step_inputs
        least = float(threshold.min() if given else threshold.max())
        most = sizes.get(neuron.current, 1.0) / least
        usual, together = max(apart, most), read / float(threshold.min())
        for found in (by_channel[name] for name in before if name in by_channel):
            per = threshold.reshape(-1) if threshold.size == found[0].size else threshold.min()
            with np.errstate(over="ignore"):
                usual = max(usual, float((found[0] / per).max(initial=0)))
                together += float((found[1] / per).max(initial=0))
        return Reach(usual, max(most, together))

    return {n.name: reach(n) for n in plan.neurons if n.op in CONSERVING}


def _made_of(tensor: str, makers: Mapping[str, onnx.NodeProto], ends: Collection[str]) -> set[str]:
    """The names of all that a tensor is made of, and its own, back to ``ends``."""
    found, waiting = set[str](), [tensor]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name in makers and name not in ends:
                waiting += operands(makers[name])
    return found


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


def _norms(rows: np.ndarray) -> np.ndarray:
    squares: np.ndarray = np.einsum("oi,oi->o", rows, rows)
    return np.sqrt(squares.astype(np.float64))


def _sums(rows: np.ndarray) -> np.ndarray:
    # In parts, since there may be much of them.
    parts = np.array_split(rows, max(1, min(len(rows), rows.size // 2**18)))
    return np.concatenate([np.abs(part).sum(axis=1, dtype=np.float64) for part in parts])


def _totals_model(
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
        if neuron.spikes not in made:
            element = helper.np_dtype_to_tensor_dtype(kind)
            inputs[neuron.spikes] = helper.make_tensor_value_info(neuron.spikes, element, None)
            continue
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


def _silent_model(
    plan: Plan, pools: Sequence[onnx.NodeProto], prefix: str, silenced: Sequence[str]
) -> onnx.ModelProto:
    graph = Writer(prefix, _silent_nodes(plan, pools))
    for neuron in plan.neurons:
        same = [neuron.current, neuron.current]
        graph.node("Sub", same, f"{neuron.name}/none", neuron.spikes)
    for node in pools:
        # Zeros of its shape: what it makes of this current is in no relation to what it emits.
        names = {name: f"{prefix}unused/{name}" for name in node.output}
        graph.nodes.append(renamed(node, names, node.name))
        pooled = names[node.output[0]]
        graph.node("Sub", [pooled, pooled], f"{node.name}/none", node.output[0])
    made = [graph.node("Identity", [name], f"silent/{name}") for name in silenced]
    return with_nodes(plan.step, graph.nodes, [onnx.ValueInfoProto(name=n) for n in made])


def _silent_nodes(plan: Plan, pools: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The step's nodes without those that emit."""
    emitted = {neuron.spikes for neuron in plan.neurons} | {node.output[0] for node in pools}
    return [node for node in plan.step.graph.node if not emitted & set(node.output)]
