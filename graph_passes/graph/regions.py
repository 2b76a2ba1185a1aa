"""Where nodes are: before, between or behind the neurons, or the layers of weights."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import Refusal

from .advice import IN_TRAINING, QUANTISED
from .editing import (
    constant_value,
    is_floating,
    is_graph_output,
    is_used,
    operands,
    subgraphs_of,
)
from .linear import ON_MEANS, why_not_affine
from .neurons import gives_mean, is_stateful
from .operators import APPROXIMABLE, CANONICAL_ACTIVATIONS, MAX_POOLS, SHAPE_OPS, WEIGHTED

_LAYERS = {
    *WEIGHTED, "ConvInteger", "DeformConv", "Einsum", "GRU", "LSTM",
    "MatMulInteger", "QLinearConv", "QLinearMatMul", "RNN",
}  # fmt: skip
"""What has weights."""

COUNTED = (*MAX_POOLS, "ThresholdedRelu")
"""What can count spikes."""

WRONGLY_EXPORTED = (QUANTISED, IN_TRAINING)
"""Reasons of nodes that another export would make affine."""


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
    ends = () if shapes else [node for node in graph.nodes if node.op in SHAPE_OPS]
    return reached(graph, {tensor.name for tensor in tensors}, ends)


def downstream_of(graph: gs.Graph, nodes: Iterable[gs.Node]) -> set[str]:
    """Names of what nodes make, and of all that depends on it, as ``downstream`` has it."""
    return downstream(graph, [tensor for node in nodes for tensor in node.outputs])


def made_by(nodes: Iterable[gs.Node]) -> set[str]:
    """The names of all that nodes make."""
    return {tensor.name for node in nodes for tensor in node.outputs if tensor.name}


def reached(graph: gs.Graph, names: set[str], ends: Iterable[gs.Node]) -> set[str]:
    """These names, and those of all that depends on them, but for what the nodes ``ends`` make."""
    found, stops = names - {""}, {id(node) for node in ends}
    for node in graph.nodes:
        if id(node) not in stops and any(tensor.name in found for tensor in operands(node)):
            # An output that is left out has no name, nor has an input.
            found.update(tensor.name for tensor in node.outputs if tensor.name)
    return found


def upstream(graph: gs.Graph, nodes: Iterable[gs.Node]) -> set[str]:
    """Names of all tensors that ``nodes`` need. The graph must be in topological order."""
    return needed(graph, {tensor.name for node in nodes for tensor in operands(node)})


def needed(graph: gs.Graph, names: set[str], ends: Iterable[gs.Node] = ()) -> set[str]:
    """These names, and those of all that they need, but for what the nodes ``ends`` need."""
    found, stops = names - {""}, {id(node) for node in ends}
    for node in reversed(graph.nodes):
        if id(node) not in stops and any(tensor.name in found for tensor in node.outputs):
            found.update(tensor.name for tensor in operands(node) if tensor.name)
    return found


def regions(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool] = is_stateful) -> Regions:
    """Divide a graph, in topological order, by where its neurons are."""
    parts = Regions(prologue(graph, is_neuron), [], [])
    first = {id(node) for node in parts.prologue}
    feeding = upstream(graph, [node for node in graph.nodes if is_neuron(node)])
    for node in graph.nodes:
        if id(node) in first:
            continue
        feeds_neuron = any(tensor.name in feeding for tensor in node.outputs)
        (parts.core if is_neuron(node) or feeds_neuron else parts.epilogue).append(node)
    return parts


def prologue(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool]) -> list[gs.Node]:
    """The nodes that no neuron feeds, without the neurons."""
    neuron_nodes = [node for node in graph.nodes if is_neuron(node)]
    after = downstream_of(graph, neuron_nodes)
    others = (node for node in graph.nodes if not is_neuron(node))
    return [node for node in others if not any(t.name in after for t in operands(node))]


def nonlinear_nodes(
    graph: gs.Graph,
    is_neuron: Callable[[gs.Node], bool] = is_stateful,
    allowed: Collection[str] = (),
    sources: Collection[gs.Tensor] = (),
) -> list[Refusal]:
    """Every node that spikes reach and that is not affine in them, with the reason.

    Behind a ToMean are means, not spikes. ``allowed``: standard operators that pass nevertheless.
    ``sources``: further tensors that count as spikes.
    """
    emitted = [n.outputs[0] for n in graph.nodes if is_neuron(n) and not gives_mean(n)]
    ends = [node for node in graph.nodes if node.op in SHAPE_OPS or gives_mean(node)]
    spikes = reached(graph, {tensor.name for tensor in (*emitted, *sources)}, ends)
    varying = downstream(graph, graph.inputs) | spikes
    refusals = []
    for node in graph.nodes:
        if is_neuron(node) or not any(tensor.name in spikes for tensor in operands(node)):
            continue
        reason = why_not_affine(node, spikes, varying)
        if reason is not None and (node.domain or node.op not in allowed):
            refusals.append(Refusal(node.name, node.op, reason))
    return refusals


def computable_on_means(graph: gs.Graph, refusals: Iterable[Refusal]) -> set[str]:
    """The names of those of the refused nodes that may be computed on means of their operands.

    Those of ``ON_MEANS``, and all of which only ``divisors`` are made.
    """
    names = {refusal.node for refusal in refusals if refusal.reason not in WRONGLY_EXPORTED}
    norms = divisors(graph)
    return {
        node.name
        for node in graph.nodes
        if node.name in names and not node.domain and (node.op in ON_MEANS or node.name in norms)
        if _is_nan_guard(graph, node)
        or all(is_floating(tensor) for tensor in node.outputs if is_used(graph, tensor))
    }


def _is_nan_guard(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether a node only says which numbers a Where leaves out: Where(IsNaN(x), c, x)."""
    readers = node.outputs[0].outputs
    return (
        node.op == "IsNaN"
        and bool(readers)
        and not is_graph_output(graph, node.outputs[0])
        and all(reader.op == "Where" and reader.inputs[2] is node.inputs[0] for reader in readers)
    )


def _may_emit(node: gs.Node) -> bool:
    activation = not node.domain and node.op in (*CANONICAL_ACTIVATIONS, *APPROXIMABLE)
    return is_stateful(node) or activation


def divisors(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool] | None = _may_emit) -> set[str]:
    """The names of the nodes of whose results nothing is made but divisors, as of a norm.

    Of divisions that neurons follow; without ``is_neuron`` of all. The reciprocal of a divisor is
    one where it is a factor, scaled or not, of something else that is not constant. No layers of
    weights, nor what comes before such in a divisor.
    """
    outputs = {tensor.name for tensor in graph.outputs}
    followed = graph.nodes if is_neuron is None else filter(is_neuron, graph.nodes)
    hidden = upstream(graph, list(followed))
    found = set[str]()

    def divides(node: gs.Node, tensor: gs.Tensor) -> bool:
        by_it = node.op == "Div" and not node.domain and node.inputs[1] is tensor
        return node.name in found or (
            by_it and node.inputs[0] is not tensor and node.outputs[0].name in hidden
        )

    def is_factor(tensor: gs.Tensor) -> bool:
        return (
            bool(tensor.outputs)
            and tensor.name not in outputs
            and all(
                (_is_product(reader) and reader.outputs[0].name in hidden)
                or (_scales(reader, tensor) and is_factor(reader.outputs[0]))
                for reader in tensor.outputs
            )
        )

    for node in reversed(graph.nodes):
        used = [tensor for tensor in node.outputs if tensor.outputs or tensor.name in outputs]
        if not used or any(t.name in outputs for t in used):
            continue
        if is_layer(node) or node.domain or subgraphs_of(node):
            continue
        if (_is_reciprocal(node) and is_factor(used[0])) or all(
            divides(reader, t) for t in used for reader in t.outputs
        ):
            found.add(node.name)
    return found


def _is_reciprocal(node: gs.Node) -> bool:
    if node.op == "Pow":
        exponent = constant_value(node.inputs[1])
        return exponent is not None and bool(np.all(exponent < 0))
    return node.op == "Reciprocal" or (node.op == "Div" and isinstance(node.inputs[0], gs.Constant))


def _is_product(node: gs.Node) -> bool:
    return node.op == "Mul" and not any(isinstance(t, gs.Constant) for t in node.inputs)


def _scales(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a node multiplies a tensor by a constant, or gives it another shape."""
    scaled = node.op == "Mul" and any(isinstance(t, gs.Constant) for t in node.inputs)
    shaped = node.op in ("Expand", "Reshape", "Squeeze", "Unsqueeze") and node.inputs[0] is tensor
    return not node.domain and (scaled or shaped)


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


def behind_nonlinear(graph: gs.Graph) -> set[str]:
    """Names of all tensors that depend on a node that is not affine in the spikes.

    Pools and thresholds that can count spikes are no such nodes.
    """
    names = {refusal.node for refusal in nonlinear_nodes(graph, allowed=COUNTED)}
    return downstream_of(graph, [node for node in graph.nodes if node.name in names])


def is_layer(node: gs.Node) -> bool:
    """Whether a node, or one inside it, has weights; of a foreign domain any may."""
    if node.domain:
        return not is_stateful(node)
    inner = (inner for subgraph in subgraphs_of(node) for inner in subgraph.nodes)
    return node.op in _LAYERS or any(is_layer(node) for node in inner)
