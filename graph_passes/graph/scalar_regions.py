"""Scalar functions within a network that are not piecewise linear, however they are spelled."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from . import neurons
from .activations import canonical_activations, kept_activations
from .broadcasting import surely_fits
from .editing import is_floating, one_number
from .kept import (
    GUARDED,
    OF_INPUTS,
    before_layers,
    front_end,
    kept_by_read_out,
    nonlinear_before_layers,
)
from .operators import APPROXIMABLE, MAX_POOLS, SHAPE_OPS
from .regions import before_weights, divisors, downstream, nonlinear_behind_weights, upstream

CONDITIONS = {
    "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor",
}  # fmt: skip
"""Operators that say whether something holds."""

_SCALAR = {
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Floor", "Identity", "HardSigmoid", "Max", "Min",
    "Mul", "Neg", "Relu", "Round", "Sign", "Sub", "Sum", "Where", *APPROXIMABLE, *CONDITIONS,
}  # fmt: skip


@dataclass(frozen=True)
class ScalarRegion:
    """Nodes that together compute f(x) for each element x of ``source``, f no sum of clips."""

    nodes: list[gs.Node]
    source: gs.Tensor

    @property
    def last(self) -> gs.Node:
        """The node that computes the result."""
        return self.nodes[-1]

    @property
    def name(self) -> str:
        """The name of the last node."""
        name: str = self.last.name
        return name

    @property
    def op(self) -> str:
        """The operators, as in Sigmoid, Mul."""
        return ", ".join(dict.fromkeys(node.op for node in self.nodes))


def regions_to_approximate(graph: gs.Graph) -> list[ScalarRegion]:
    """The scalar functions before the last weighted layer that are no sums of clips.

    Of these, those in whose place clips would become neurons. Composites count as one, however an
    exporter spells them: x Sigmoid(x), the parts of GELU, or Where(x > 20, x, Log(Exp(x) + 1)).
    Not those of which only ``divisors`` are made, as of a norm: no spikes could divide anything,
    and ``nonlinear_to_means`` takes them.
    """
    # What prepares the input becomes neurons where clips stand in for the curve behind it.
    activations = {id(node) for node in canonical_activations(graph)}

    def is_neuron(node: gs.Node) -> bool:
        return id(node) in activations or neurons.is_stateful(node)

    def is_activation(node: gs.Node) -> bool:
        return is_neuron(node) or (not node.domain and node.op in APPROXIMABLE)

    refused = {refusal.node for refusal in nonlinear_behind_weights(graph, is_activation)}
    curved = {node.name for node in graph.nodes if node.op in APPROXIMABLE}
    hidden = before_weights(graph)
    front = front_end(graph)
    found = _regions(graph, refused | curved, hidden, activations, front)
    # What is no activation by its operators, before the first neuron, stays where something else
    # that is not affine follows there: as spikes, it could not be multiplied by another branch.
    spiking = downstream(graph, [node.outputs[0] for node in graph.nodes if is_neuron(node)])
    inside = {node.name for region in found for node in region.nodes}
    others = [
        node
        for node in graph.nodes
        if node.name in refused - inside
        and node.op not in MAX_POOLS
        and any(tensor.name in hidden for tensor in node.outputs)
        and not any(tensor.name in spiking for tensor in node.inputs)
    ]
    followed = upstream(graph, others)
    found = [
        region
        for region in found
        if region.source.name in spiking
        or any(node.name in curved for node in region.nodes)
        or region.last.outputs[0].name not in followed
    ]
    norms = divisors(graph) | _norms_of_read_out(graph)
    found = [region for region in found if region.name not in norms]
    found = _but_for_inputs(graph, found)
    return _that_become_neurons(graph, is_neuron, found)


def _norms_of_read_out(graph: gs.Graph) -> set[str]:
    """The names of the nodes that make divisors, also where no neurons follow, by reductions.

    As the squares of which the mean is taken, and its root, before the last layer. Not a gate,
    a / (1 + exp(-b)).
    """
    names = divisors(graph, None)
    means = [n for n in graph.nodes if n.name in names and n.op.startswith(("Reduce", "Global"))]
    makers, made = upstream(graph, means), downstream(graph, [n.outputs[0] for n in means])
    around = makers | made
    return {n.name for n in graph.nodes if n.name in names and n.outputs[0].name in around}


def _but_for_inputs(graph: gs.Graph, found: list[ScalarRegion]) -> list[ScalarRegion]:
    """The regions but for those that prepare the input, as its logarithm, before all layers.

    They stay what they are where no spikes arrive, if others are left.
    """
    first = {id(node) for node in before_layers(graph)}

    def prepares(region: ScalarRegion) -> bool:
        curves = {node.op for node in region.nodes} & set(APPROXIMABLE)
        return curves <= OF_INPUTS and first.issuperset(map(id, region.nodes))

    rest = [region for region in found if not prepares(region)]
    if not rest:
        return found
    ends = [region.last for region in rest]
    prepared = {id(node) for node in kept_activations(graph, ends).input}
    ends += [node for node in canonical_activations(graph) if id(node) not in prepared]
    spiking = downstream(graph, [node.outputs[0] for node in ends])
    return [r for r in found if r.source.name in spiking or not prepares(r)]


def _that_become_neurons(
    graph: gs.Graph, is_neuron: Callable[[gs.Node], bool], found: list[ScalarRegion]
) -> list[ScalarRegion]:
    """The regions but for those that no spikes could pass, so that they stay what they are.

    They prepare the input, as the square root of its variance, where a node that is not affine
    follows before all layers; or they make, or read, what the read-out keeps from 0.
    """
    # The logarithm of a clip is what makes it a guard.
    ends = {id(r.last) for r in found if not any(node.op in GUARDED for node in r.nodes)}

    def emits(node: gs.Node) -> bool:
        return is_neuron(node) or id(node) in ends

    while found:
        prepares = upstream(graph, nonlinear_before_layers(graph, emits))
        stays = kept_by_read_out(graph, emits)
        left = [
            region
            for region in found
            if region.last.outputs[0].name not in prepares | stays
            and region.source.name not in stays
        ]
        if len(left) == len(found) == len(ends):
            break
        found, ends = left, {id(region.last) for region in left}
    return found


def _regions(
    graph: gs.Graph, seeds: set[str], hidden: set[str], activations: set[int], front: set[int]
) -> list[ScalarRegion]:
    """The regions that end in nodes of these names, in graph order; none within ``front``."""
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    barred, free = _roots(graph, activations | front), _roots(graph, front)
    found: list[ScalarRegion] = []
    covered: set[str] = set()
    for node in reversed(graph.nodes):
        result = node.outputs[0]
        if node.name not in seeds or node.name in covered or result.name not in hidden:
            continue
        root = barred.get(result.name) or free.get(result.name)
        # One number for the whole batch is no activation of a sample.
        if not is_floating(result) or root is None or (root.shape is not None and not root.shape):
            continue
        inside = _between(root, node)
        inside.sort(key=lambda node: place[node.name])
        # What makes something that is read from outside as well needs a stand-in of its own.
        replaced = {id(node)}
        for member in reversed(inside):
            if all(id(n) in replaced or n.op in SHAPE_OPS for n in member.outputs[0].outputs):
                replaced.add(id(member))
        covered |= {member.name for member in inside if id(member) in replaced}
        found.append(ScalarRegion(inside, root))
    return found[::-1]


def _roots(graph: gs.Graph, barriers: set[int]) -> dict[str, gs.Tensor]:
    """The tensor of which each tensor is an elementwise function, where there is just one."""
    roots: dict[str, gs.Tensor] = {}
    for node in graph.nodes:
        if node.domain or node.op not in _SCALAR or len(node.outputs) != 1:
            continue
        numbers = [t for t in node.inputs if one_number(t) is not None]
        variables = [t for t in node.inputs if t.name and all(t is not n for n in numbers)]
        # The exponent of a Pow may be an integer.
        typed = variables if node.op == "Pow" else [*variables, *numbers]
        if id(node) in barriers or any(isinstance(t, gs.Constant) for t in variables):
            continue
        if not all(is_floating(t) or t.name in roots for t in typed):
            continue
        # A variable of unknown shape counts as the others, where there are others.
        shapes = [t.shape for t in variables if t.shape is not None] or [None]
        if not all(surely_fits(number.shape, shape) for number in numbers for shape in shapes):
            continue
        sources = {id(root): root for t in variables for root in [roots.get(t.name, t)]}
        if len(sources) == 1:
            (roots[node.outputs[0].name],) = sources.values()
    return roots


def _between(root: gs.Tensor, last: gs.Node) -> list[gs.Node]:
    """The nodes on the ways from a tensor to a node, that node included."""
    nodes: dict[int, gs.Node] = {}
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if id(node) not in nodes:
            nodes[id(node)] = node
            waiting += [
                t.inputs[0]
                for t in node.inputs
                if t is not root and t.inputs and one_number(t) is None
            ]
    return list(nodes.values())
