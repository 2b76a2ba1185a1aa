"""Activations in canonical form: which nodes they are, their bounds, and which of them stay."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .bounds import clip_bounds, open_above
from .broadcasting import may_fit
from .editing import (
    is_floating,
    maker_of,
    only_consumer,
    require_graph,
    variables_of,
)
from .kept import before_layers, behind_curves, kept_by_read_out, nonlinear_before_layers
from .neurons import is_stateful
from .operators import BENDS
from .regions import before_weights, divisors, upstream


def bounded_activations(graph: gs.Graph) -> dict[str, np.ndarray]:
    """The bound theta of each canonical activation that has one, by its last node's name.

    It is infinite in channels that have none, if others have. None of ``kept_activations`` is.
    Raises ``DataError`` for what is no graph.
    """
    require_graph(graph)
    return find_activations(graph)[1]


def bounds_by_result(graph: gs.Graph) -> dict[str, np.ndarray]:
    """``bounded_activations`` by the tensor that each makes.

    The neuron in its place makes it, too, but may have another name.
    """
    bounds = bounded_activations(graph)
    return {node.outputs[0].name: bounds[node.name] for node in graph.nodes if node.name in bounds}


def find_activations(
    graph: gs.Graph, others: Iterable[gs.Node] = ()
) -> tuple[list[gs.Node], dict[str, np.ndarray]]:
    """What ``unbounded_activations`` and ``bounded_activations`` return, found at once.

    ``others``: nodes that neurons will stand in for, though they are no activations in canonical
    form.
    """
    kept = {id(node) for node in kept_activations(graph, others).nodes}
    known = kept | {id(relu_of_min(graph, node)) for node in graph.nodes if node.op == "Min"}
    found = {n.name: _upper_bound(graph, n) for n in graph.nodes if id(n) not in kept}
    bounds = {name: bound for name, bound in found.items() if bound is not None}
    unbounded = [
        node
        for node in graph.nodes
        if (_is_relu(node) and id(node) not in known)
        or np.any(np.isposinf(bounds.get(node.name, 0.0)))
    ]
    return unbounded, bounds


def _upper_bound(graph: gs.Graph, node: gs.Node) -> np.ndarray | None:
    """The bound theta of a canonical activation that ends in ``node``; None if it has none.

    ``node`` is Clip(x, 0, theta) with a constant theta, or the Min of Min(Relu(x), theta).
    """
    if node.op == "Clip" and not node.domain and is_floating(node.inputs[0]):
        low, high = clip_bounds(node)
        return high if low == 0 and np.isfinite(high) else None
    if node.op == "Min" and relu_of_min(graph, node) is not None:
        (bound,) = (np.asarray(t.values) for t in node.inputs if isinstance(t, gs.Constant))
        floating = np.issubdtype(bound.dtype, np.floating)
        return open_above(bound, bound.dtype).astype(bound.dtype) if floating else bound
    return None


def relu_of_min(graph: gs.Graph, node: gs.Node) -> gs.Node | None:
    """The Relu of Min(Relu(x), constant), if only that Min reads it."""
    variables = variables_of(node)
    if node.domain or node.op != "Min" or len(variables) != 1 or len(node.inputs) != 2:
        return None
    (x,), (bound,) = variables, (t for t in node.inputs if isinstance(t, gs.Constant))
    if not may_fit(bound.shape, x.shape) or only_consumer(graph, x) is not node:
        return None
    return maker_of(x, "Relu")


def is_non_negative(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether a node is a ReLU, a clip from 0 or above, or a ReLU below a bound of 0 or more."""
    if node.domain:
        return False
    match node.op:
        case "Relu":
            return True
        case "Clip":
            # Where its bounds are the other way round it is the upper one.
            return bool(np.min(clip_bounds(node)) >= 0)
        case "Min":
            bound = _upper_bound(graph, node)
            return bound is not None and bool(np.all(bound >= 0))
        case "ThresholdedRelu":
            return bool(node.attrs.get("alpha", 1.0) >= 0)
    return False


def unbounded_activations(graph: gs.Graph) -> list[gs.Node]:
    """The Relu nodes that no Min bounds, or not in all channels: only data can tell a threshold.

    Of the latter it is the Min. Without those that stay what they are: what prepares the input,
    what is behind the last layer of weights, and what guards a divisor. Raises ``DataError`` for
    what is no graph.
    """
    require_graph(graph)
    return find_activations(graph)[0]


@dataclass(frozen=True)
class KeptActivations:
    """The nodes of canonical activations that stay what they are, by why.

    ``input``: those that prepare the input. A node that is not affine reads what they make, before
    all layers of weights, as where the input is divided by a clip of its norm: no spikes could pass
    it.

    ``read_out``: those behind a node that is not affine in the spikes and comes after all layers of
    weights, or behind any such node, with no neuron behind and no layer between, or none after,
    where they keep an operand from 0, as the clip of a norm by which something is divided. Neurons
    they could not become: no spikes come out of such a node.

    ``divisors``: those of which all that is made is a divisor. As the clip of a norm, where neurons
    follow the division: the mean of its first spikes would be 0. And where none do, what only keeps
    the squares of a norm from 0.
    """

    input: list[gs.Node]
    read_out: list[gs.Node]
    divisors: list[gs.Node]

    @property
    def nodes(self) -> list[gs.Node]:
        """All of them, each once."""
        found = [*self.input, *self.read_out, *self.divisors]
        return list({id(node): node for node in found}.values())


def kept_activations(graph: gs.Graph, others: Iterable[gs.Node] = ()) -> KeptActivations:
    """The activations that stay what they are; ``others``: as for ``find_activations``."""
    found = canonical_activations(graph)
    if not found:
        return KeptActivations([], [], [])
    emitting = {id(node) for node in (*found, *others)}

    def emits(node: gs.Node) -> bool:
        return is_stateful(node) or id(node) in emitting

    read_out, first = _that_make(found, kept_by_read_out(graph, emits)), list[gs.Node]()
    last = {id(node) for node in read_out}

    def spikes(node: gs.Node) -> bool:
        return emits(node) and id(node) not in last

    divide = _that_make_divisors(graph, found, others, emits)
    stay = {id(node) for node in (*read_out, *divide)}
    if all(id(node) in stay for node in graph.nodes if emits(node)):
        # What guards the read-out does not follow a division as a neuron would.
        divide = _that_make_divisors(graph, found, others, spikes)
    before = {id(node) for node in before_layers(graph)}
    if any(emits(node) and id(node) in before for node in graph.nodes):
        hidden = before_weights(graph)

        def follows(node: gs.Node) -> bool:
            """Whether a node is a neuron, or a curve between layers for which clips may stand."""
            curved = node.op in BENDS and not node.domain and node.outputs[0].name in hidden
            return spikes(node) or (curved and id(node) not in before and id(node) not in last)

        nonlinear = nonlinear_before_layers(graph, follows)
        first = _that_make(found, upstream(graph, nonlinear))
        norms = divisors(graph, follows)
        divide += [n for n in found if id(n) in before and n.name in norms]
    return KeptActivations(first, read_out, divide)


def _that_make_divisors(
    graph: gs.Graph,
    found: list[gs.Node],
    others: Iterable[gs.Node],
    emits: Callable[[gs.Node], bool],
) -> list[gs.Node]:
    names = divisors(graph, emits)
    norms = divisors(graph, None) & {node.name for node in found} - names
    curved = behind_curves(graph, others) if norms else set[str]()
    names |= {n.name for n in found if n.name in norms and n.inputs[0].name in curved}
    return [node for node in found if node.name in names]


def _that_make(nodes: list[gs.Node], names: set[str]) -> list[gs.Node]:
    """Those of these nodes one of whose outputs has such a name."""
    return [node for node in nodes if any(t.name in names for t in node.outputs)]


def canonical_activations(graph: gs.Graph) -> list[gs.Node]:
    """The nodes of activations in canonical form, those that stay what they are among them."""
    return [n for n in graph.nodes if _is_relu(n) or _upper_bound(graph, n) is not None]


def _is_relu(node: gs.Node) -> bool:
    return node.op == "Relu" and not node.domain and is_floating(node.inputs[0])


def activation_nodes(graph: gs.Graph, others: Iterable[gs.Node] = ()) -> list[gs.Node]:
    """The nodes that make up the activations in canonical form, bounded or not.

    ``others``: as for ``find_activations``.
    """
    unbounded, bounds = find_activations(graph, others)
    bounded = [node for node in graph.nodes if node.name in bounds]
    relus = [relu for node in bounded if (relu := relu_of_min(graph, node)) is not None]
    return [*unbounded, *bounded, *relus]
