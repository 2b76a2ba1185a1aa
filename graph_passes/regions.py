"""Where nodes are: before, between or behind the neurons, or the layers of weights."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from .editing import is_floating, is_used, operands
from .errors import Refusal
from .limits import WEIGHTED
from .linear import (
    ACTIVATIONS,
    APPROXIMABLE,
    CANONICAL_ACTIVATIONS,
    IN_TRAINING,
    MAX_POOLS,
    ON_MEANS,
    QUANTISED,
    RECURRENT,
    SHAPE_OPS,
    why_not_affine,
)
from .neurons import gives_mean, is_stateful

_LAYERS = {
    *WEIGHTED, "ConvInteger", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop",
    "MatMulInteger", "QLinearConv", "QLinearMatMul", "RNN", "Scan",
}  # fmt: skip
"""What has weights, or may have some inside."""

_CLIPS = {"Clip", "Max", "Min", "Relu"}
_ACTIVATIONS = {*ACTIVATIONS, *APPROXIMABLE, *RECURRENT, *MAX_POOLS, *_CLIPS} - {
    "Abs",
    "Log",
    "Pow",
    "Sqrt",
}
"""What a network has between its layers; its input is not prepared by these."""

GUARDED = {"Div": 1, "Log": 0, "Reciprocal": 0, "Sqrt": 0}
"""Which input must not be 0, or less."""

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
    ends = () if shapes else [node for node in graph.nodes if node.op in SHAPE_OPS]
    return _reached(graph, {tensor.name for tensor in tensors}, ends)


def _reached(graph: gs.Graph, names: set[str], ends: Iterable[gs.Node]) -> set[str]:
    """These names, and those of all that depends on them, but for what the nodes ``ends`` make."""
    found, stops = names - {""}, {id(node) for node in ends}
    for node in graph.nodes:
        if id(node) not in stops and any(tensor.name in found for tensor in operands(node)):
            # An output that is left out has no name, nor has an input.
            found.update(tensor.name for tensor in node.outputs if tensor.name)
    return found


def upstream(graph: gs.Graph, nodes: Iterable[gs.Node]) -> set[str]:
    """Names of all tensors that ``nodes`` need. The graph must be in topological order."""
    return _needed(graph, {tensor.name for node in nodes for tensor in operands(node)})


def _needed(graph: gs.Graph, names: set[str], ends: Iterable[gs.Node] = ()) -> set[str]:
    """These names, and those of all that they need, but for what the nodes ``ends`` need."""
    found, stops = names - {""}, {id(node) for node in ends}
    for node in reversed(graph.nodes):
        if id(node) not in stops and any(tensor.name in found for tensor in node.outputs):
            found.update(tensor.name for tensor in operands(node) if tensor.name)
    return found


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

    Behind a ToMean are means, not spikes. ``allowed``: standard operators that pass nevertheless.
    ``sources``: further tensors that count as spikes.
    """
    emitted = [n.outputs[0] for n in graph.nodes if is_neuron(n) and not gives_mean(n)]
    ends = [node for node in graph.nodes if node.op in SHAPE_OPS or gives_mean(node)]
    spikes = _reached(graph, {tensor.name for tensor in (*emitted, *sources)}, ends)
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
    names = {refusal.node for refusal in refusals if refusal.reason not in _WRONGLY_EXPORTED}
    norms = divisors(graph)
    return {
        node.name
        for node in graph.nodes
        if node.name in names and not node.domain and (node.op in ON_MEANS or node.name in norms)
        if all(is_floating(tensor) for tensor in node.outputs if is_used(graph, tensor))
    }


def _may_emit(node: gs.Node) -> bool:
    activation = not node.domain and node.op in (*CANONICAL_ACTIVATIONS, *APPROXIMABLE)
    return is_stateful(node) or activation


def divisors(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool] = _may_emit) -> set[str]:
    """The names of the nodes of whose results nothing is made but divisors, as of a norm.

    Of divisions that neurons follow. The reciprocal of a divisor is one where it is a factor,
    scaled or not, of something else that is not constant. No layers of weights, nor what comes
    before such in a divisor.
    """
    outputs = {tensor.name for tensor in graph.outputs}
    hidden = upstream(graph, [node for node in graph.nodes if is_neuron(node)])
    found = set[str]()

    def divides(node: gs.Node, tensor: gs.Tensor) -> bool:
        by_it = node.op == "Div" and not node.domain and node.inputs[1] is tensor
        return node.name in found or (
            by_it and node.inputs[0] is not tensor and node.outputs[0].name in hidden
        )

    def is_factor(tensor: gs.Tensor) -> bool:
        return bool(tensor.outputs) and all(
            (_is_product(reader) and reader.outputs[0].name in hidden)
            or (_scales(reader, tensor) and is_factor(reader.outputs[0]))
            for reader in tensor.outputs
        )

    for node in reversed(graph.nodes):
        used = [tensor for tensor in node.outputs if tensor.outputs or tensor.name in outputs]
        if not used or node.op in _LAYERS or node.domain or any(t.name in outputs for t in used):
            continue
        if (_is_reciprocal(node) and is_factor(used[0])) or all(
            divides(reader, t) for t in used for reader in t.outputs
        ):
            found.add(node.name)
    return found


def behind_curves(graph: gs.Graph) -> set[str]:
    """Names of the tensors made of what is not affine, with no layer and no activation between."""
    bent = {refusal.node for refusal in nonlinear_nodes(graph, _is_activation, (), graph.inputs)}
    made = {t.name for node in graph.nodes if node.name in bent for t in node.outputs}
    ends = [node for node in graph.nodes if _is_layer(node) or _is_activation(node)]
    return _reached(graph, made, ends)


def _is_reciprocal(node: gs.Node) -> bool:
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
    names = {refusal.node for refusal in nonlinear_nodes(graph, allowed=_COUNTED)}
    bent = [node for node in graph.nodes if node.name in names]
    return downstream(graph, [tensor for node in bent for tensor in node.outputs])


def kept_by_read_out(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool]) -> set[str]:
    """Names of the tensors at which no spikes arrive, so that activations stay what they are.

    All behind a node of ``_bent`` that comes after all layers of weights, and the ``_guards`` of
    others.
    """
    bent = _bent(graph, is_neuron)
    if not bent:
        return set()
    last = {id(node) for node in regions(graph, _is_layer).epilogue}
    ends = [node for node in bent if id(node) in last]
    behind = downstream(graph, [tensor for node in ends for tensor in node.outputs])

    def becomes_neuron(node: gs.Node) -> bool:
        return is_neuron(node) and not any(t.name in behind for t in node.outputs)

    return behind | _guards(graph, becomes_neuron, bent)


def _bent(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool]) -> list[gs.Node]:
    """The nodes that are not affine in the spikes, in graph order.

    Pools and thresholds that can count spikes are no such nodes, nor are parts of layers that
    another export would make affine.
    """
    refusals = nonlinear_nodes(graph, is_neuron, _COUNTED)
    names = {refusal.node for refusal in refusals if refusal.reason not in _WRONGLY_EXPORTED}
    return [node for node in graph.nodes if node.name in names]


def _guards(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool], bent: list[gs.Node]) -> set[str]:
    """Names of the tensors that serve to keep an operand from where a node is not defined.

    As the clip of a norm by which something is divided, or of a probability before its logarithm:
    behind a node that is not affine, one of ``bent``, with no layer between, and nothing but such
    operands is made of them. A node of ``bent`` does not count before all layers, nor where a
    neuron follows that is no guard itself.
    """
    first = {id(node) for node in before_layers(graph)}
    left = [node for node in bent if id(node) not in first]
    layers = [node for node in graph.nodes if _is_layer(node)]
    shapes = [node for node in graph.nodes if node.op in SHAPE_OPS]
    readers, ends = [*bent, *layers], [*bent, *layers, *shapes]
    while True:
        guarded = {
            (id(node), node.inputs[GUARDED[node.op]].name)
            for node in left
            if node.op in GUARDED and not node.domain
        }
        read = {(id(node), tensor.name) for node in readers for tensor in operands(node)} - guarded
        outside = {name for _, name in read} | {tensor.name for tensor in graph.outputs}
        found = _needed(graph, {name for _, name in guarded}, ends) - _needed(graph, outside, ends)
        made = {tensor.name for node in left for tensor in node.outputs}
        found &= _reached(graph, made, [*layers, *shapes])
        others = [
            node
            for node in graph.nodes
            if is_neuron(node) and not any(t.name in found for t in node.outputs)
        ]
        needed = upstream(graph, others)
        rest = [node for node in left if not any(t.name in needed for t in node.outputs)]
        if len(rest) == len(left):
            return found
        left = rest


def nonlinear_before_layers(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool]) -> list[gs.Node]:
    """The nodes of ``_bent`` that are between neurons, before all layers of weights.

    Some layer of weights follows each.
    """
    between = {id(node) for node in regions(graph, is_neuron).core}
    first, needed = {id(node) for node in before_layers(graph)}, before_weights(graph)
    return [
        node
        for node in _bent(graph, is_neuron)
        if id(node) in between & first and any(t.name in needed for t in node.outputs)
    ]


def before_layers(graph: gs.Graph) -> list[gs.Node]:
    """The nodes before all layers of weights but those of a ``front_end``."""
    front = front_end(graph)
    return _prologue(graph, lambda node: _is_layer(node) and id(node) not in front)


def front_end(graph: gs.Graph) -> set[int]:
    """The nodes (by id) of a transform of the input of which something is known by roots and logs.

    As of a spectrogram: log(max(mel |stft(x)|^2, e)), though it has layers of weights. Nothing else
    is made of these nodes than operands of Log and Sqrt, no activation is before these but clips of
    such operands behind what is not linear anyway, as that square, and activations follow.
    """
    ends = [node for node in graph.nodes if node.op in ("Log", "Sqrt") and not node.domain]
    if not ends:
        return set()
    bent = {refusal.node for refusal in nonlinear_nodes(graph, _is_activation, (), graph.inputs)}
    curved = downstream(graph, [t for n in graph.nodes if n.name in bent for t in n.outputs])
    while True:
        inside = _that_make_operands(graph, {id(node) for node in ends}, curved)
        others = [node for node in graph.nodes if id(node) not in inside]
        activations = [node for node in others if _is_activation(node)]
        barriers = [*activations, *filter(_is_layer, others)]
        behind = downstream(graph, [tensor for node in barriers for tensor in node.outputs])
        first = [node for node in ends if node.inputs[0].name not in behind]
        if len(first) == len(ends):
            break
        ends = first
    made = downstream(graph, [node.outputs[0] for node in ends])
    followed = any(tensor.name in made for node in activations for tensor in operands(node))
    return inside if followed else set()


def _that_make_operands(graph: gs.Graph, ends: set[int], curved: set[str]) -> set[int]:
    """The nodes of which nothing is made but operands of the nodes ``ends``, and these.

    No activations but clips of the tensors ``curved``, by name, with no layer behind.
    """
    outputs = {tensor.name for tensor in graph.outputs}
    inside, clipped = set(ends), set(ends)
    for node in reversed(graph.nodes):
        readers = [id(reader) for tensor in node.outputs for reader in tensor.outputs]
        kept = any(tensor.name in outputs for tensor in node.outputs)
        if kept or not readers or not inside.issuperset(readers):
            continue
        alone = clipped.issuperset(readers)
        clips = alone and node.op in _CLIPS and any(t.name in curved for t in node.inputs)
        if _is_activation(node) and not clips:
            continue
        inside.add(id(node))
        if alone and not _is_layer(node):
            clipped.add(id(node))
    return inside


def _is_activation(node: gs.Node) -> bool:
    return node.op in _ACTIVATIONS if not node.domain else is_stateful(node)


def _is_layer(node: gs.Node) -> bool:
    """Whether a node has weights, as far as is known: of a foreign domain any may."""
    return node.op in _LAYERS if not node.domain else not is_stateful(node)
