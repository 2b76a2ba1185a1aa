"""Where activations stay what they are: before the network's layers, and in its read-out."""

from collections.abc import Callable, Iterable

import numpy as np
import onnx_graphsurgeon as gs

from .editing import constant_value, operands
from .neurons import is_stateful
from .operators import ACTIVATIONS, APPROXIMABLE, MAX_POOLS, RECURRENT, SHAPE_OPS, WEIGHTED
from .regions import (
    COUNTED,
    WRONGLY_EXPORTED,
    before_weights,
    downstream,
    downstream_of,
    is_layer,
    made_by,
    needed,
    nonlinear_nodes,
    prologue,
    reached,
    regions,
    upstream,
)

_CLIPS = {"Clip", "Max", "Min", "Relu"}
OF_INPUTS = {"Abs", "Log", "Pow", "Sqrt"}
"""What may prepare a network's input, before its layers."""

_ACTIVATIONS = {*ACTIVATIONS, *APPROXIMABLE, *RECURRENT, *MAX_POOLS, *_CLIPS} - OF_INPUTS
"""What a network has between its layers; its input is not prepared by these."""

GUARDED = {"Div": 1, "Log": 0, "Reciprocal": 0, "Sqrt": 0}
"""Which input must not be 0, or less."""


def kept_by_read_out(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool]) -> set[str]:
    """Names of the tensors at which no spikes arrive, so that activations stay what they are.

    All behind a node of ``_nonlinear`` that comes after all layers of weights, and the ``_guards``
    of others.
    """
    nonlinear = _nonlinear(graph, is_neuron)
    if not nonlinear:
        return set()
    last = regions(graph, is_layer).epilogue
    places = {id(node) for node in last}
    ends = [node for node in nonlinear if id(node) in places]
    behind = downstream_of(graph, ends)

    def becomes_neuron(node: gs.Node) -> bool:
        return is_neuron(node) and not any(t.name in behind for t in node.outputs)

    return behind | _guards(graph, becomes_neuron, nonlinear, made_by(last))


def _guards(
    graph: gs.Graph, is_neuron: Callable[[gs.Node], bool], nonlinear: list[gs.Node], last: set[str]
) -> set[str]:
    """Names of the tensors that serve to keep an operand from where a node is not defined.

    As the clip of a norm by which something is divided, or of a probability before its logarithm:
    behind a node that is not affine, one of ``nonlinear``, with no layer between, or behind all
    layers, which makes those in ``last``, and nothing but such operands is made of them. A node of
    ``nonlinear`` does not count before all layers, nor where a neuron follows that is no guard
    itself.
    """
    first = {id(node) for node in before_layers(graph)}
    left = [node for node in nonlinear if id(node) not in first]
    layers = [node for node in graph.nodes if is_layer(node)]
    shapes = [node for node in graph.nodes if node.op in SHAPE_OPS]
    readers, ends = [*nonlinear, *layers], [*nonlinear, *layers, *shapes]
    while True:
        guarded = {
            (id(node), node.inputs[GUARDED[node.op]].name)
            for node in left
            if node.op in GUARDED and not node.domain
        }
        read = {(id(node), tensor.name) for node in readers for tensor in operands(node)} - guarded
        outside = {name for _, name in read} | {tensor.name for tensor in graph.outputs}
        found = needed(graph, {name for _, name in guarded}, ends) - needed(graph, outside, ends)
        made = made_by(left)
        found &= reached(graph, made, [*layers, *shapes]) | (reached(graph, made, shapes) & last)
        others = [
            node
            for node in graph.nodes
            if is_neuron(node) and not any(t.name in found for t in node.outputs)
        ]
        feeding = upstream(graph, others)
        rest = [node for node in left if not any(t.name in feeding for t in node.outputs)]
        if len(rest) == len(left):
            return found
        left = rest


def _nonlinear(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool]) -> list[gs.Node]:
    """The nodes that are not affine in the spikes, in graph order.

    Pools and thresholds that can count spikes are no such nodes, nor are parts of layers that
    another export would make affine.
    """
    refusals = nonlinear_nodes(graph, is_neuron, COUNTED)
    names = {refusal.node for refusal in refusals if refusal.reason not in WRONGLY_EXPORTED}
    return [node for node in graph.nodes if node.name in names]


def nonlinear_before_layers(graph: gs.Graph, is_neuron: Callable[[gs.Node], bool]) -> list[gs.Node]:
    """The nodes of ``_nonlinear`` that are between neurons, before all layers of weights.

    Some layer of weights follows each.
    """
    between = {id(node) for node in regions(graph, is_neuron).core}
    first, hidden = {id(node) for node in before_layers(graph)}, before_weights(graph)
    return [
        node
        for node in _nonlinear(graph, is_neuron)
        if id(node) in between & first and any(t.name in hidden for t in node.outputs)
    ]


def before_layers(graph: gs.Graph) -> list[gs.Node]:
    """The nodes before all layers of weights but those of a ``front_end``."""
    front = front_end(graph)
    return prologue(graph, lambda node: is_layer(node) and id(node) not in front)


def front_end(graph: gs.Graph) -> set[int]:
    """The nodes (by id) of a transform of the input of which something is known by roots and logs.

    As of a spectrogram: log(max(mel |stft(x)|^2, e)), though it has layers of weights. Nothing else
    is made of these nodes than operands of Log and Sqrt, no activation is before these but clips of
    such operands ``behind_curves``, as that square, and of the input itself, as |x|, of which a
    filter bank adds up, and layers with activations follow.
    """
    ends = [node for node in graph.nodes if node.op in ("Log", "Sqrt") and not node.domain]
    if not ends:
        return set()
    curved, hidden = behind_curves(graph), before_weights(graph)
    borders = [node for node in graph.nodes if is_layer(node) or _may_activate(node)]
    late = downstream_of(graph, borders)
    while True:
        inside = _that_make_operands(graph, {id(node) for node in ends}, curved, late)
        others = [node for node in borders if id(node) not in inside]
        behind = downstream_of(graph, others)
        first = [node for node in ends if node.inputs[0].name not in behind]
        if len(first) == len(ends):
            break
        ends = first
    made = hidden & downstream(graph, [node.outputs[0] for node in ends])
    followed = any(
        _may_activate(node) and node.op not in MAX_POOLS and node.outputs[0].name in made
        for node in others
    )
    return inside if followed else set()


_MIXED, _ADDED, _ALONE = range(3)
"""What layers are between a node and the operands made of it: any, those that add up, none."""


def _that_make_operands(
    graph: gs.Graph, ends: set[int], curved: set[str], late: set[str]
) -> set[int]:
    """The nodes of which nothing is made but operands of the nodes ``ends``, and these.

    No activations but clips: of the tensors ``curved``, by name, with no layer behind, or of others
    than those ``late``, which layers and activations are before, with none behind but layers that
    add up.
    """
    outputs = {tensor.name for tensor in graph.outputs}
    between = dict.fromkeys(ends, _ALONE)
    for node in reversed(graph.nodes):
        readers = [id(reader) for tensor in node.outputs for reader in tensor.outputs]
        kept = any(tensor.name in outputs for tensor in node.outputs)
        if id(node) in ends or kept or not readers or not between.keys() >= set(readers):
            continue
        found = min(between[reader] for reader in readers)
        if _may_activate(node):
            clips = found == _ALONE and any(t.name in curved for t in node.inputs)
            prepares = found != _MIXED and not any(t.name in late for t in node.inputs)
            if node.op not in _CLIPS or not (clips or prepares):
                continue
        if is_layer(node):
            found = min(found, _ADDED if _adds_up(node) else _MIXED)
        between[id(node)] = found
    return set(between)


def behind_curves(graph: gs.Graph, others: Iterable[gs.Node] = ()) -> set[str]:
    """Names of the tensors made of what is not affine, with no layer and no activation between.

    Layers that add up with no negative weight, as a filter bank does, count as none. ``others``:
    nodes that are activations, too.
    """
    known = {id(node) for node in others}

    def activates(node: gs.Node) -> bool:
        return id(node) in known or _may_activate(node)

    names = {refusal.node for refusal in nonlinear_nodes(graph, activates, (), graph.inputs)}
    made = made_by(node for node in graph.nodes if node.name in names)
    ends = [n for n in graph.nodes if activates(n) or (is_layer(n) and not _adds_up(n))]
    return reached(graph, made, ends)


def _adds_up(node: gs.Node) -> bool:
    """Whether a layer's weights are constants of which none is negative."""
    weights = [constant_value(tensor) for tensor in node.inputs[:2]]
    known = [value for value in weights if value is not None]
    return node.op in WEIGHTED and len(known) == 1 and bool(np.all(known[0] >= 0))


def _may_activate(node: gs.Node) -> bool:
    return node.op in _ACTIVATIONS if not node.domain else is_stateful(node)
