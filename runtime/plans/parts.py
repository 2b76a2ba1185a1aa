"""Divide an SNN's graph: what runs once, at every time-step, and on sums or averages over time."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import ModelError, UnsupportedModelError
from onnx2snn.graph_passes.graph.editing import operands
from onnx2snn.graph_passes.graph.neurons import is_mean, is_stateful, mean_nodes, stateful_nodes
from onnx2snn.graph_passes.graph.operators import MAX_POOLS
from onnx2snn.graph_passes.graph.regions import (
    Regions,
    downstream,
    made_by,
    nonlinear_nodes,
    regions,
    upstream,
)


@dataclass(frozen=True)
class Parts:
    """The nodes of a graph by part, each with the arithmetic on shapes that it needs.

    ``means``: the RunningMeans, between ``epilogue`` and ``read_out``; no graph holds them.
    ``shaped``: what of ``core`` reads no spikes, but their shapes, and depends on the input; alone
    of ``core`` it need not be affine in that.
    """

    prologue: list[gs.Node]
    core: list[gs.Node]
    shaped: list[gs.Node]
    epilogue: list[gs.Node]
    means: list[gs.Node]
    read_out: list[gs.Node]


def parts_of(graph: gs.Graph) -> Parts:
    """Divide a graph.

    What depends on shapes alone cannot pass from part to part as a sum over time, so each
    part computes it anew from the shapes of its own tensors. What takes the shape of a tensor
    is therefore computed no sooner than that.

    Raises ``ModelError`` where an average over time needs the shape of what follows averages.
    """
    varying = downstream(graph, graph.inputs)
    makers = {t.name: node for node in graph.nodes for t in node.outputs if t.name}
    order = {node.name: place for place, node in enumerate(graph.nodes)}

    def complete(
        nodes: list[gs.Node], fixed: Sequence[gs.Node] = (), late: Sequence[gs.Node] = ()
    ) -> list[gs.Node]:
        """Nodes, and what they need of those that depend on shapes alone, or are ``late``."""
        anew = made_by(late)
        part: dict[str, gs.Node] = {}
        waiting = [n for n in nodes if any(tensor.name in varying for tensor in n.outputs)]
        waiting += fixed
        while waiting:
            node = waiting.pop()
            if node.name in part:
                continue
            part[node.name] = node
            names = [tensor.name for tensor in operands(node)]
            waiting += [makers[n] for n in names if n in makers and (n not in varying or n in anew)]
        return sorted(part.values(), key=lambda node: order[node.name])

    means = mean_nodes(graph)
    behind = downstream(graph, [node.outputs[0] for node in means], shapes=True)
    read_out = [
        node
        for node in graph.nodes
        if any(tensor.name in behind for tensor in node.outputs) and not is_stateful(node)
    ]
    # A clock that only these averages need has no place in a plan, which counts for itself.
    idle = [
        node
        for node in stateful_nodes(graph)
        if node.op == "Clock" and all(is_mean(reader) for reader in node.outputs[0].outputs)
    ]
    apart = {id(node) for node in (*means, *read_out, *idle)}
    _require_averages_first(graph, means, read_out)
    found = regions(graph, lambda node: is_stateful(node) and id(node) not in apart)
    late, core = _shaped_by_neurons(graph, found, apart)

    def rest(nodes: list[gs.Node], fixed: Sequence[gs.Node] = ()) -> list[gs.Node]:
        return complete([node for node in nodes if id(node) not in apart], fixed)

    # Outputs of shapes alone, which are read where the tensors of these shapes are.
    ends = [makers[t.name] for t in graph.outputs if t.name in makers and t.name not in varying]
    last = [
        n for n in ends if any(t.name in behind for m in complete([], [n]) for t in operands(m))
    ]
    return Parts(
        rest([node for node in found.prologue if id(node) not in core]),
        rest([node for node in graph.nodes if id(node) in core]),
        [node for node in late if any(tensor.name in varying for tensor in node.outputs)],
        rest(
            [node for node in found.epilogue if id(node) not in core],
            [node for node in ends if node not in last],
        ),
        means,
        complete(read_out, last, late),
    )


def _require_averages_first(graph: gs.Graph, means: list[gs.Node], read_out: list[gs.Node]) -> None:
    """Refuse averages of the read-out, as older versions wrote for what takes shapes of it."""
    after_spikes = downstream(graph, [n.outputs[0] for n in graph.nodes if is_stateful(n)])
    after_means = downstream(graph, [node.outputs[0] for node in means])
    made = made_by(read_out)
    for node in (*means, *read_out):
        averages = is_mean(node) and node.inputs[0].name in made
        names = {tensor.name for tensor in node.outputs}
        if averages or (not is_mean(node) and names & after_spikes and not names & after_means):
            raise ModelError(
                f"{node.op} '{node.name}' depends on the shape of what follows an average over "
                "time, but comes before one: convert the network again"
            )


def _shaped_by_neurons(
    graph: gs.Graph, found: Regions, apart: Collection[int]
) -> tuple[list[gs.Node], set[int]]:
    """What reads no spikes, but shapes of tensors that do; and the core that has it, by identity.

    In the core that is computed anew at each time-step, whatever it is.
    """
    neurons = [node for node in found.core if is_stateful(node) and id(node) not in apart]
    shaped = downstream(graph, [node.outputs[0] for node in neurons], shapes=True)
    late = [
        node
        for node in found.prologue
        if id(node) not in apart and any(tensor.name in shaped for tensor in node.outputs)
    ]
    needed = upstream(graph, late)
    before = [node for node in found.epilogue if any(t.name in needed for t in node.outputs)]
    return late, {id(node) for node in (*found.core, *late, *before)}


def require_affine(graph: gs.Graph, parts: Parts) -> None:
    """Refuse what a mean over time does not pass through; max-pools between neurons may be."""
    free = {node.name for node in parts.read_out}
    core = {node.name for node in parts.core}
    refusals = [
        refusal
        for refusal in nonlinear_nodes(graph)
        if refusal.node not in free and not (refusal.op in MAX_POOLS and refusal.node in core)
    ]
    if refusals:
        raise UnsupportedModelError("not a rate-coded spiking network:", refusals)


def finals_of(parts: Parts, outputs: list[gs.Variable]) -> dict[str, gs.Variable]:
    """The tensors whose averages over time are wanted, by the name of what takes them."""
    finals = {node.outputs[0].name: node.inputs[0] for node in parts.means}
    made = made_by(parts.read_out) | set(finals)
    for node in parts.read_out:
        for tensor in operands(node):
            if isinstance(tensor, gs.Variable) and tensor.name and tensor.name not in made:
                finals[tensor.name] = tensor
    return finals | {tensor.name: tensor for tensor in outputs if tensor.name not in made}


@dataclass(frozen=True)
class Passed:
    """What parts read of those before them and of the network's inputs, by name.

    ``to_step`` has what only the epilogue reads, too, if not the core makes it; of it, the prologue
    makes ``from_prologue``. ``late``: what is read as it is at the last time-step, after averages.
    """

    from_prologue: list[gs.Variable]
    to_step: dict[str, gs.Variable]
    to_epilogue: dict[str, gs.Variable]
    late: dict[str, gs.Variable]


def passed_between(
    parts: Parts, inputs: list[gs.Variable], finals: dict[str, gs.Variable]
) -> Passed:
    """What passes between the parts of a network with these inputs and ``finals_of`` it.

    Raises ``ModelError`` for a read-out of what depends on no input.
    """
    given = {tensor.name for tensor in inputs}
    made_before, made_in_core = made_by(parts.prologue), made_by(parts.core)
    made_after = made_by(parts.epilogue)
    to_step = _reads(parts.core, {*given, *made_before})
    to_epilogue = _reads(parts.epilogue, {*given, *made_before, *made_in_core})
    for tensor in finals.values():
        if tensor.name not in made_after:
            # No node of the epilogue makes this tensor: it is read, and averaged, as it is.
            to_epilogue.setdefault(tensor.name, tensor)
    to_step |= {name: tensor for name, tensor in to_epilogue.items() if name not in made_in_core}
    fixed = [name for name in to_step if name not in given and name not in made_before]
    if fixed:
        raise ModelError(
            f"the read-out is computed from '{fixed[0]}', which depends on no input of the network"
        )
    late = _reads(parts.read_out, {*given, *made_before})
    # What is no number with a mean passes straight through.
    late |= {
        name: tensor
        for name, tensor in finals.items()
        if name == tensor.name and name in to_step and np.dtype(tensor.dtype).kind != "f"
    }
    from_prologue = [tensor for name, tensor in to_step.items() if name in made_before]
    return Passed(from_prologue, to_step, to_epilogue, late)


def _reads(nodes: list[gs.Node], available: set[str]) -> dict[str, gs.Variable]:
    """What ``nodes`` read of ``available``, by name, in the order of first use."""
    made = made_by(nodes)
    read = {t.name: t for node in nodes for t in operands(node)}
    return {name: t for name, t in read.items() if name in available and name not in made}
