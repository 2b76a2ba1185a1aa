"""Where nodes are: before, between or behind the neurons, or the layers of weights."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from .editing import operands
from .errors import Refusal
from .limits import WEIGHTED
from .linear import IN_TRAINING, MAX_POOLS, QUANTISED, SHAPE_OPS, why_not_affine
from .neurons import is_stateful

_LAYERS = {
    *WEIGHTED, "ConvInteger", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop",
    "MatMulInteger", "QLinearConv", "QLinearMatMul", "RNN", "Scan",
}  # fmt: skip
"""What has weights, or may have some inside."""

_COUNTED = (*MAX_POOLS, "ThresholdedRelu")
_WRONGLY_EXPORTED = (QUANTISED, IN_TRAINING)


@dataclass(frozen=True)
class Regions:
    """A spiking graph in three parts, each a list of nodes in graph order.

    ``prologue``: fed by no neuron, so constant in time under a constant input.
    ``core``: the neurons and what lies between them.
    ``epilogue``: feeds no neuron: the read-out.
    """

    prologue: list[gs.Node]
    core: list[gs.Node]
    epilogue: list[gs.Node]


def downstream(graph: gs.Graph, tensors: Iterable[gs.Tensor], shapes: bool = False) -> set[str]:
    """Names of all tensors whose values depend on the values of ``tensors``.

    Shape and Size cut a dependency; not with ``shapes``, by which shapes count as values. The
    graph must be in topological order.
    """
    names = {tensor.name for tensor in tensors if tensor.name}
    for node in graph.nodes:
        passes = shapes or node.op not in SHAPE_OPS
        if passes and any(tensor.name in names for tensor in operands(node)):
            # An output that is left out has no name, nor has an input.
            names.update(tensor.name for tensor in node.outputs if tensor.name)
    return names


def upstream(graph: gs.Graph, nodes: Iterable[gs.Node]) -> set[str]:
    """Names of all tensors that ``nodes`` need. The graph must be in topological order."""
    names = {tensor.name for node in nodes for tensor in operands(node) if tensor.name}
    for node in reversed(graph.nodes):
        if any(tensor.name in names for tensor in node.outputs):
            names.update(tensor.name for tensor in operands(node) if tensor.name)
    return names


def regions(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool] = is_stateful) -> Regions:
    """Divide a graph, in topological order, by where its neurons are."""
    parts = Regions(_prologue(graph, is_neuron), [], [])
    first = {id(node) for node in parts.prologue}
    needed = upstream(graph, [node for node in graph.nodes if is_neuron(node)])
    for node in graph.nodes:
        if id(node) in first:
            continue
        feeds_neuron = any(tensor.name in needed for tensor in node.outputs)
        (parts.core if is_neuron(node) or feeds_neuron else parts.epilogue).append(node)
    return parts


def _prologue(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool]) -> list[gs.Node]:
    """The nodes that no neuron feeds, without the neurons."""
    neuron_nodes = [node for node in graph.nodes if is_neuron(node)]
    after = downstream(graph, [tensor for node in neuron_nodes for tensor in node.outputs])
    others = (node for node in graph.nodes if not is_neuron(node))
    return [node for node in others if not any(t.name in after for t in operands(node))]


def nonlinear_nodes(
    graph: gs.Graph,
    is_neuron: Callable[[gs.Node], bool] = is_stateful,
    allowed: Collection[str] = (),
    sources: Collection[gs.Tensor] = (),
) -> list[Refusal]:
    """Every node that spikes reach and that is not affine in them, with the reason.

    ``allowed``: standard operators that pass nevertheless. ``sources``: further tensors that
    count as spikes.
    """
    emitted = [n.outputs[0] for n in graph.nodes if is_neuron(n)]
    spikes = downstream(graph, [*emitted, *sources])
    varying = downstream(graph, graph.inputs) | spikes
    refusals = []
    for node in graph.nodes:
        if is_neuron(node) or not any(tensor.name in spikes for tensor in operands(node)):
            continue
        reason = why_not_affine(node, spikes, varying)
        if reason is not None and (node.domain or node.op not in allowed):
            refusals.append(Refusal(node.name, node.op, reason))
    return refusals


def before_weights(graph: gs.Graph) -> set[str]:
    """Names of the tensors on which some layer of weights depends."""
    return upstream(graph, [node for node in graph.nodes if node.op in WEIGHTED])


def nonlinear_behind_weights(
    graph: gs.Graph, is_neuron: Callable[[gs.Node], bool], allowed: Collection[str] = ()
) -> list[Refusal]:
    """Like ``nonlinear_nodes``, with what layers of weights make as further spikes.

    What follows a layer is an activation, even before the first neuron.
    """
    weighted = [node for node in graph.nodes if node.op in WEIGHTED]
    made = [tensor for node in weighted for tensor in node.outputs]
    return nonlinear_nodes(graph, is_neuron, allowed, made)


def behind_nonlinear(
    graph: gs.Graph,
    is_neuron: Callable[[gs.Node], bool] = is_stateful,
    after_layers: bool = False,
) -> set[str]:
    """Names of all tensors that depend on a node that is not affine in the spikes.

    Pools and thresholds that can count spikes are no such nodes. ``after_layers``: only those
    after all layers of weights are, and no parts of layers that another export would make affine;
    and of what lies behind others, what comes before a further one and before layers of weights.
    """
    found = nonlinear_nodes(graph, is_neuron, _COUNTED)
    wrongly_exported = _WRONGLY_EXPORTED if after_layers else ()
    names = {refusal.node for refusal in found if refusal.reason not in wrongly_exported}
    bent = [node for node in graph.nodes if node.name in names]
    if not bent or not after_layers:
        return _made_behind(graph, bent)
    last = {id(node) for node in regions(graph, _is_layer).epilogue}
    behind_all = _made_behind(graph, [node for node in bent if id(node) in last])
    return behind_all | _between(graph, bent)


def _between(graph: gs.Graph, nodes: Iterable[gs.Node]) -> set[str]:
    """Names of the tensors between two of the nodes, without layers of weights between them.

    As the clip that keeps a norm from 0 before something is divided by it. Nodes before all layers
    do not count.
    """
    first = {id(node) for node in before_layers(graph)}
    nodes = [node for node in nodes if id(node) not in first]
    behind = _made_behind(graph, nodes)
    layers = [n for n in graph.nodes if _is_layer(n) and any(t.name in behind for t in operands(n))]
    behind -= _made_behind(graph, layers)
    ends = [node for node in nodes if any(t.name in behind for t in node.outputs)]
    return behind & upstream(graph, ends)


def _made_behind(graph: gs.Graph, nodes: Iterable[gs.Node]) -> set[str]:
    """Names of what nodes make, and of what depends on that."""
    return downstream(graph, [tensor for node in nodes for tensor in node.outputs])


def nonlinear_before_layers(
    graph: gs.Graph, is_neuron: Callable[[gs.Node], bool] = is_stateful
) -> list[gs.Node]:
    """The nodes between neurons that are not affine in the spikes, before all layers of weights.

    Pools and thresholds that can count spikes are no such nodes, nor are parts of layers that
    another export would make affine. Some layer of weights follows each.
    """
    refusals = nonlinear_nodes(graph, is_neuron, _COUNTED)
    found = {refusal.node for refusal in refusals if refusal.reason not in _WRONGLY_EXPORTED}
    found &= {node.name for node in regions(graph, is_neuron).core}
    needed = before_weights(graph)
    first = before_layers(graph)
    return [n for n in first if n.name in found and any(t.name in needed for t in n.outputs)]


def before_layers(graph: gs.Graph) -> list[gs.Node]:
    """The nodes before all layers of weights."""
    return _prologue(graph, _is_layer)


def _is_layer(node: gs.Node) -> bool:
    """Whether a node has weights, as far as is known: of a foreign domain any may."""
    return node.op in _LAYERS if not node.domain else not is_stateful(node)
