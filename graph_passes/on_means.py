"""Compute what is not affine between neurons on the means of its operands."""

import numpy as np
import onnx_graphsurgeon as gs

from .graph import neurons
from .graph.editing import constant_value, is_floating, is_used, operands, require_graph
from .graph.masks import MASKING, masks_alone
from .graph.operators import SHAPE_OPS, WEIGHTED
from .graph.regions import computable_on_means, downstream, nonlinear_nodes, reached, regions
from .graph.shapes import require_ranks
from .graph.states import StateEditor, add_counting, clock
from .graph.tidying import tidy

_LOWEST_SUMMED = -1e30
"""Of a mask, beside -infinity: lower numbers would be infinite, summed over time."""


def nonlinear_to_means(graph: gs.Graph) -> bool:
    """f(a, b) -> FromMean(f(ToMean(a), ToMean(b))), for products and normalizations.

        ToMean: S(t) = S(t - 1) + a(t),  m(t) = S(t) / t
        FromMean: x(t) = t f(t) - (t - 1) f(t - 1), nothing while f is not finite

    The outputs add up to t f, f being that of the means of all that the operands were until then,
    so that their mean is what the ANN computes of such means: for products (Mul, MatMul, Gemm,
    Einsum) and quotients of two activations, or of one and of what depends on the input alone, for
    Where with a condition of the input, for what is taken from places that the input says (Gather),
    for Softmax, norms, and maxima over axes that are no pools, for the normalizations by the
    activity of other neurons, for recurrent layers, which go through their sequence anew, and for
    all of which only a divisor is made; and for what is affine between those. Of what feeds
    neurons: the read-out has ``average_before_read_out``. What they hand on are no spikes, but
    numbers of any size, and are computed anew at each time-step. Run it after
    ``activations_to_neurons``. Raises ``UnsupportedModelError`` where the number of axes of an
    operand is unknown.

    Source: the expectation compensation of Huang et al., "Towards High-performance Spiking
    Transformers from ANN to SNN Conversion", ACM Multimedia 2024.
    """
    require_graph(graph)
    core = {node.name for node in regions(graph).core}
    named = computable_on_means(graph, nonlinear_nodes(graph)) & core
    if not named:
        return False
    varying = downstream(graph, graph.inputs)
    named |= _between(graph, named, varying)
    nodes = [node for node in graph.nodes if node.name in named]
    made = {id(tensor) for node in nodes for tensor in node.outputs}
    read = {
        id(t): t
        for node in nodes
        for t in node.inputs
        if t.name in varying and (is_floating(t) or id(t) in made)
    }
    require_ranks(graph, [*nodes, *(t.inputs[0] for t in read.values() if t.inputs)])
    editor = StateEditor(graph)
    _bound_masks(editor)
    t = clock(editor)
    means: dict[int, gs.Variable] = {}

    def mean_like(tensor: gs.Tensor) -> gs.Variable:
        mean = gs.Variable(editor.name(f"{tensor.name}/mean"), tensor.dtype, tensor.shape)
        means[id(tensor)] = mean
        return mean

    # The means of what these nodes make are there without a ToMean.
    results = [tensor for node in nodes for tensor in node.outputs if is_used(graph, tensor)]
    for node in nodes:
        node.outputs = [mean_like(t) if is_used(graph, t) else t for t in node.outputs]
    for tensor in read.values():
        if id(tensor) not in means:
            name = editor.name(f"{tensor.name}/to_mean")
            add_counting(editor, "ToMean", name, [tensor, t], mean_like(tensor))
    for node in nodes:
        node.inputs = [means[id(x)] if id(x) in read else x for x in node.inputs]
    for result in results:
        if is_used(graph, result):
            mean, name = means[id(result)], editor.name(f"{result.name}/from_mean")
            add_counting(editor, "FromMean", name, [mean, t], result)
    tidy(graph)
    return True


def _bound_masks(editor: StateEditor) -> None:
    """Let masks be of numbers that can be summed over time: of the lowest the second is infinite.

    A score is lost in either.
    """
    for node in editor.graph.nodes:
        if node.op not in MASKING or not masks_alone(editor.graph, node):
            continue
        for place, tensor in enumerate(node.inputs):
            value = constant_value(tensor)
            if value is None or value.dtype.kind != "f":
                continue
            low = np.isfinite(value) & (value < _LOWEST_SUMMED)
            if np.any(low):
                bounded = np.where(low, value.dtype.type(_LOWEST_SUMMED), value)
                node.inputs[place] = editor.constant(f"{tensor.name}/bounded", bounded)


def _between(graph: gs.Graph, named: set[str], varying: set[str]) -> set[str]:
    """The names of the affine nodes that read nothing but such means and make nothing else.

    As the scale and the mask between a product of matrices and a Softmax.
    """
    outputs = {tensor.name for tensor in graph.outputs}
    made = {node.name: {t.name for t in node.outputs if t.name} for node in graph.nodes}
    means = set[str]().union(*(made[name] for name in named))
    found = list[gs.Node]()
    for node in graph.nodes:
        read = {tensor.name for tensor in operands(node)} & varying
        if node.name not in named and read and read <= means and _is_plain(node):
            found.append(node)
            means |= made[node.name]
    kept = set(named)
    for node in reversed(found):
        readers = (reader.name in kept for t in node.outputs for reader in t.outputs)
        if outputs.isdisjoint(made[node.name]) and all(readers):
            kept.add(node.name)
    return kept - named


def _is_plain(node: gs.Node) -> bool:
    """Whether it is no layer of weights, keeps nothing and makes one tensor of numbers."""
    weighted = node.op in WEIGHTED or node.op in SHAPE_OPS or node.domain
    return not weighted and len(node.outputs) == 1 and is_floating(node.outputs[0])


def nodes_on_means(graph: gs.Graph) -> list[gs.Node]:
    """The nodes that compute with means between neurons, in graph order."""
    means = {node.outputs[0].name for node in graph.nodes if neurons.gives_mean(node)}
    names = reached(graph, means, neurons.stateful_nodes(graph))
    plain = (node for node in graph.nodes if not neurons.is_stateful(node))
    return [node for node in plain if any(tensor.name in names for tensor in node.inputs)]
