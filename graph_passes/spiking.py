"""Turn bounded activations into integrate-and-fire neurons."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from .errors import (
    MissingThresholdError,
    ModelError,
    Refusal,
    UnsupportedModelError,
    counted,
    require_one_of,
)
from .graph import neurons
from .graph.activations import (
    activation_nodes,
    bounded_activations,
    kept_activations,
    relu_of_min,
    unbounded_activations,
)
from .graph.advice import APPROXIMATE, NO_CURVE
from .graph.affine import per_sample
from .graph.editing import (
    Editor,
    constant_value,
    disconnect,
    is_graph_output,
    is_used,
    replace_node,
)
from .graph.operators import APPROXIMABLE, ATTENTIONS, MAX_POOLS, MaxPool
from .graph.regions import computable_on_means, downstream, nonlinear_nodes, regions, upstream
from .graph.scalar_regions import regions_to_approximate
from .graph.shapes import infer_shapes
from .graph.tidying import tidy

_LOOKED_AT_ONCE = 2**22

MASKING = ("Add", "Expand", "Reshape", "ToMean", "Transpose", "Unsqueeze", "Where")
"""What a mask may pass on its way to what it takes numbers out of."""

DATA_NEEDED = "calibration data (--calibration DATA) is needed for"
NO_BOUND = "no upper bound, so its threshold needs calibration data"
"""What to do about activations without a bound, and why."""

_MASKED = ("ArgMax", "Softmax", *MASKING, *ATTENTIONS)


def activations_to_neurons(
    graph: gs.Graph, maxpool: MaxPool = "average", on_means: bool = False
) -> bool:
    """Clip(x, 0, theta) -> IF(x, v/name) with V_th = theta, and its state in and out.

        Clip(x, 0, theta)       (x_out, v_next/name) = IF(x, v/name)
        Min(Relu(x), theta)  -> the same, with V_th of shape (C, 1, 1)

    All activations of the graph, in canonical form (pass ``canonicalise``), become
    neurons; v(0) is 0 until ``set_initial_potential`` sets it. Raises
    ``MissingThresholdError`` listing every Relu without a bound, ``UnsupportedModelError``
    listing every node between neurons that is not affine, and every bound that is not
    positive, ``ModelError`` for an opset older than 17, and ``DataError`` for an unknown
    ``maxpool``, which other than "average" says that max-pools between neurons are taken care of,
    as ``on_means`` does of what ``nonlinear_to_means`` can compute. The graph is then as it was.
    """
    require_one_of("maxpool", maxpool, MaxPool)
    neurons.require_opset(graph)
    require_convertible(graph, maxpool, on_means=on_means)
    missing = [Refusal(node.name, node.op, NO_BOUND) for node in unbounded_activations(graph)]
    if missing:
        raise MissingThresholdError(
            f"{DATA_NEEDED} {counted(len(missing), 'activation')}:", missing
        )
    bounds = bounded_activations(graph)
    activations = [node for node in graph.nodes if node.name in bounds]
    if not activations:
        return False

    require_ranks(graph, activations)
    thresholds = {n.name: per_sample(bounds[n.name], len(n.outputs[0].shape)) for n in activations}
    refusals = [
        Refusal(n.name, n.op, f"its upper bound of shape {bounds[n.name].shape} differs by sample")
        for n in activations
        if thresholds[n.name] is None
    ]
    if refusals:
        raise UnsupportedModelError("a threshold cannot depend on the batch axis:", refusals)
    editor = StateEditor(graph)
    for node in activations:
        threshold = thresholds[node.name]
        editor.settle(node)
        _to_neuron(graph, node, threshold)
    tidy(graph)
    return True


class StateEditor(Editor):
    """An editor for nodes that keep states: the names of these are free too."""

    def settle(self, node: gs.Node) -> None:
        """Rename a node that is to become stateful where a name of its states is taken."""
        wanted = node.name
        while not self._taken.isdisjoint(_names_of_states(node)):
            node.name = self.name(wanted)
        self._taken |= _names_of_states(node)


def _names_of_states(node: gs.Node) -> set[str]:
    # Of all kinds of neurons, so that one kind can become another.
    kinds = {*neurons.COUNTING, node.op}
    return {n for op in kinds for pair in neurons.state_names(op, node.name) for n in pair}


def add_counting(
    editor: StateEditor,
    op: str,
    name: str,
    inputs: list[gs.Tensor],
    result: gs.Variable,
    attributes: dict | None = None,
) -> None:
    """Add a stateful node that keeps a sum of what it reads or emits, in the shape of ``result``.

    It has this name, which the editor gave, or one like it where a name of its states is taken.
    """
    node = gs.Node(op, name, attributes or {}, inputs, [result], domain=neurons.DOMAIN)
    editor.settle(node)
    editor.graph.nodes.append(node)
    dtype = neurons.sum_type(np.dtype(result.dtype))
    neurons.add_state(editor.graph, node, len(result.shape), dtype)


def require_ranks(graph: gs.Graph, nodes: list[gs.Node]) -> None:
    """Raise ``UnsupportedModelError`` where the number of axes of an output is unknown."""
    require_shapes(
        graph,
        nodes,
        lambda shape: shape is not None,
        "the number of axes of these tensors cannot be inferred:",
        "declare the shape of the model's input; operators before it that ONNX has no shape "
        "inference for, such as custom ones, also hide it",
    )


def require_shapes(
    graph: gs.Graph,
    nodes: list[gs.Node],
    is_known: Callable[[list[int | str] | None], bool],
    heading: str,
    reason: str,
) -> None:
    """Raise ``UnsupportedModelError`` where the shape of an output cannot be inferred either."""

    def all_known(node: gs.Node) -> bool:
        return all(is_known(tensor.shape) for tensor in node.outputs if is_used(graph, tensor))

    if not all(map(all_known, nodes)):
        infer_shapes(graph)
    refusals = [
        Refusal(node.name, node.op, f"{reason}{_hidden_by(graph, node)}")
        for node in nodes
        if not all_known(node)
    ]
    if refusals:
        raise UnsupportedModelError(heading, refusals)


def _hidden_by(graph: gs.Graph, node: gs.Node) -> str:
    """Which node before it makes a tensor of unknown shape of known ones, as a reason goes on."""
    before = upstream(graph, [node])
    for maker in graph.nodes:
        hides = any(made.shape is None and made.name in before for made in maker.outputs)
        if hides and all(read.shape is not None for read in maker.inputs if not read.is_empty()):
            return f" (here {maker.op} '{maker.name}')"
    return ""


def is_fixed(shape: list[int | str] | None) -> bool:
    """Whether the shape of a sample is known, and the same for each."""
    return shape is not None and all(isinstance(size, int) for size in shape[1:])


def obstacles(
    graph: gs.Graph,
    maxpool: MaxPool = "average",
    declined: Iterable[Refusal] = (),
    approximated: bool = False,
    on_means: bool = False,
) -> list[Refusal]:
    """Every node in the way of a spiking network, with the reason.

    Such are nodes between activations that are not affine, and activations whose upper
    bound is not positive. A Relu without a bound is none: data can tell its threshold.
    What comes after the last activation is the read-out and may be anything but a constant.
    ``declined``: the reasons of ``max_to_average_pool`` for pools that it left.
    ``approximated``: as if clips stood in already for all scalar functions that they can stand
    in for. ``on_means``: as if what can be computed on means were. That is no scalar function
    between layers, which would then be no neuron.
    """
    curves = regions_to_approximate(graph)
    ends = [curve.last for curve in curves] if approximated else []
    activations = {id(node) for node in (*activation_nodes(graph, ends), *ends)}

    def is_activation(node: gs.Node) -> bool:
        return neurons.is_stateful(node) or id(node) in activations

    found = nonlinear_nodes(graph, is_activation, () if maxpool == "average" else MAX_POOLS)
    between = {node.name for node in regions(graph, is_activation).core}
    # Above a positive level it can count the spikes of the ReLU before it.
    counting = {
        node.name
        for node in graph.nodes
        if node.op == "ThresholdedRelu" and node.attrs.get("alpha", 1.0) > 0
    }
    left = {other.node: other.reason for other in declined if other.op in MAX_POOLS}
    refusals = [
        replace(refusal, reason=f"no average can take its place: {left[refusal.node]}; a pool that "
                                "counts spikes can (--maxpool exact, pass max_to_spiking_pool)")
        if refusal.node in left
        else refusal
        for refusal in found
        if refusal.node in between - counting
    ]  # fmt: skip
    bounds = bounded_activations(graph)
    for node in graph.nodes:
        bound = bounds.get(node.name)
        if bound is not None and not np.all((bound > 0) & np.isfinite(bound)):
            text = (
                f"its upper bound, {np.min(bound)} to {np.max(bound)}, is not positive and finite"
            )
            refusals.append(Refusal(node.name, node.op, text))
    sources = {node.name: curve.source.name for curve in curves for node in curve.nodes}
    if approximated:
        refusals = [refusal for refusal in refusals if refusal.node not in sources]
    # It is the division that is in the way.
    guards = {node.name for node in kept_activations(graph, ends).divisors}
    refusals = [refusal for refusal in refusals if refusal.node not in guards]
    averaged = computable_on_means(graph, refusals) - {*sources}
    if on_means:
        refusals = [refusal for refusal in refusals if refusal.node not in averaged]
    advised = [_with_advice(refusal, sources, averaged) for refusal in refusals]
    return advised + _constant_outputs(graph)


def _with_advice(refusal: Refusal, sources: Mapping[str, str], averaged: Container[str]) -> Refusal:
    """Say of a node that is part of a scalar function, as a swish's product, that it has a way.

    ``sources``: of what tensor such nodes are functions, by their names. An operator that is such a
    function by itself has the advice as its reason. And of nodes ``averaged``, by name, that they
    can be computed on means.
    """
    if refusal.node in averaged:
        return replace(refusal, reason=f"{refusal.reason}; or compute it on means (--on-means)")
    if refusal.node not in sources:
        return replace(refusal, reason=NO_CURVE) if refusal.reason == APPROXIMATE else refusal
    if refusal.op in APPROXIMABLE:
        return refusal
    advice = (
        f"as a function of '{sources[refusal.node]}' alone clips can approximate it "
        "(convert --approximate N)"
    )
    return replace(refusal, reason=f"{refusal.reason}; {advice}")


def _constant_outputs(graph: gs.Graph) -> list[Refusal]:
    computed = downstream(graph, graph.inputs, shapes=True)
    reason = "depends on no input of the model: leave it out of the outputs"
    constant = [tensor for tensor in graph.outputs if tensor.name not in computed]
    return [Refusal(tensor.name, "output", reason) for tensor in constant]


def require_convertible(
    graph: gs.Graph,
    maxpool: MaxPool = "average",
    declined: Iterable[Refusal] = (),
    on_means: bool = False,
) -> None:
    """Raise ``UnsupportedModelError``, listing all ``obstacles``, if there are any."""
    refusals = obstacles(graph, maxpool, declined, on_means=on_means)
    if refusals:
        raise UnsupportedModelError(
            "these nodes cannot become part of a spiking network:", refusals
        )


def all_finite(values: np.ndarray) -> bool:
    """Whether none is NaN or infinite; a few at a time, so that it takes no memory to speak of."""
    flat = values.reshape(-1)
    pieces = range(0, flat.size, _LOOKED_AT_ONCE)
    return all(bool(np.all(np.isfinite(flat[at : at + _LOOKED_AT_ONCE]))) for at in pieces)


def require_finite_weights(
    graph: gs.Graph, remedy: str = "train or export the model again"
) -> None:
    """Raise ``UnsupportedModelError`` for NaN anywhere, and infinity where it is no bound.

    ``remedy``: what to do but for what masks, which has its own.
    """
    bad = []
    for node in graph.nodes:
        for tensor in node.inputs:
            value = constant_value(tensor)
            if value is None or not np.issubdtype(value.dtype, np.floating):
                continue
            # Bounds, and the padding of a maximum.
            bound = node.op in ("Clip", "Min", "Max", "Pad") and not np.any(np.isnan(value))
            if not bound and not all_finite(value) and not _masks(graph, node, value):
                folded = node.op == "Gemm" and bool(np.all(value < np.inf))
                masks = node.op in ("Add", "Where") or folded
                instead = "let a number such as -1e9 take the place of what is masked"
                reason = f"'{tensor.name}' holds NaN or infinity: {instead if masks else remedy}"
                bad.append(Refusal(node.name, node.op, reason))
    if bad:
        raise UnsupportedModelError("weights must be finite:", bad)


def _masks(graph: gs.Graph, node: gs.Node, value: np.ndarray) -> bool:
    """Whether a node takes numbers out of a Softmax, or an ArgMax, by -infinity, and no more."""
    inside = node.op in ATTENTIONS or (node.op in MASKING and masks_alone(graph, node))
    return inside and bool(np.all(value < np.inf))


def masks_alone(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether nothing is made of a node but a mask of what a Softmax reads, or an ArgMax."""
    waiting, seen = [node], set[int]()
    while waiting:
        masking = waiting.pop()
        if id(masking) in seen:
            continue
        seen.add(id(masking))
        readers = masking.outputs[0].outputs
        if not readers or is_graph_output(graph, masking.outputs[0]):
            return False
        if any(reader.op not in _MASKED for reader in readers):
            return False
        waiting += [reader for reader in readers if reader.op in MASKING]
    return True


def require_finite_results(graph: gs.Graph) -> None:
    """Raise ``UnsupportedModelError`` where what passes made is beyond what its type holds.

    Weights, and V_th and v(0) of neurons.
    """
    bad = [
        Refusal(node.name, node.op, f"its {name} is beyond what {value.values.dtype} holds")
        for node in neurons.neuron_nodes(graph)
        for name, value in node.attrs.items()
        if isinstance(value, gs.Constant) and not np.all(np.isfinite(value.values))
    ]
    remedy = "export the model in float32, or give it smaller inputs"
    if bad:
        raise UnsupportedModelError(
            f"what was found for these neurons must be finite; {remedy}:", bad
        )
    require_finite_weights(graph, f"where those of the file are finite, {remedy}")


def _to_neuron(graph: gs.Graph, node: gs.Node, bound: np.ndarray | None) -> None:
    relu = relu_of_min(graph, node)
    current = (relu or node).inputs[0]
    result = node.outputs[0]
    dtype = result.dtype if current.dtype is None else current.dtype
    if dtype is None:
        raise ModelError(f"{node.op} '{node.name}': the type of its tensor cannot be inferred")
    if relu is not None:
        disconnect(relu)
    threshold = np.asarray(bound, dtype)
    values = {"v_threshold": threshold, "v_init": np.zeros_like(threshold)}
    attributes = {name: neurons.attribute_tensor(value) for name, value in values.items()}
    replace_node(node, "IF", [current], attributes, neurons.DOMAIN)
    neurons.add_state(graph, node, len(result.shape), dtype)
