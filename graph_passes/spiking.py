"""Turn bounded activations into integrate-and-fire neurons."""

import numpy as np
import onnx_graphsurgeon as gs

from . import neurons
from .editing import constant_value, disconnect, tidy
from .errors import MissingThresholdError, ModelError, Refusal, UnsupportedModelError
from .io import infer_shapes
from .linear import nonlinear_nodes
from .thresholds import bounded_activations, relu_of_min, unbounded_activations


def activations_to_neurons(graph: gs.Graph) -> bool:
    """Clip(x, 0, theta) -> IF(x, v/name) with V_th = theta, and its state in and out.

        Clip(x, 0, theta)       (x_out, v_next/name) = IF(x, v/name)
        Min(Relu(x), theta)  -> the same, with V_th of shape (C, 1, 1)

    All activations of the graph, in canonical form (pass ``canonicalise``), become
    neurons; v(0) is 0 until ``set_initial_potential`` sets it. Raises
    ``MissingThresholdError`` listing every Relu without a bound, and
    ``UnsupportedModelError`` listing every node that spikes would reach and that is not
    affine, and every bound that is not positive. The graph is then as it was.
    """
    require_convertible(graph)
    missing = [
        Refusal(node.name, node.op, "no upper bound, so its threshold needs calibration data")
        for node in unbounded_activations(graph)
    ]
    if missing:
        raise MissingThresholdError(
            f"{len(missing)} activations need calibration data (--calibration DATA):", missing
        )
    bounds = bounded_activations(graph)
    activations = [node for node in graph.nodes if node.name in bounds]
    if not activations:
        return False

    if any(node.outputs[0].shape is None for node in activations):
        infer_shapes(graph)
    unknown = [node for node in activations if node.outputs[0].shape is None]
    if unknown:
        raise UnsupportedModelError(
            "the number of axes of these activations cannot be inferred:",
            [
                Refusal(
                    node.name,
                    node.op,
                    "declare the shape of the model's input; operators before it that ONNX has "
                    "no shape inference for, such as custom ones, also hide it",
                )
                for node in unknown
            ],
        )
    thresholds = {n.name: _per_sample(bounds[n.name], len(n.outputs[0].shape)) for n in activations}
    refusals = [
        Refusal(n.name, n.op, f"its upper bound of shape {bounds[n.name].shape} differs by sample")
        for n in activations
        if thresholds[n.name] is None
    ]
    if refusals:
        raise UnsupportedModelError("a threshold cannot depend on the batch axis:", refusals)
    for node in activations:
        _to_neuron(graph, node, thresholds[node.name])
    tidy(graph)
    return True


def _per_sample(bound: np.ndarray, rank: int) -> np.ndarray | None:
    """A bound that broadcasts to [N, ...] without its batch axis; None if that is no 1."""
    while bound.ndim >= rank and bound.ndim and bound.shape[0] == 1:
        bound = bound[0]
    return bound if bound.ndim < rank else None


def require_convertible(graph: gs.Graph) -> None:
    """Raise ``UnsupportedModelError``, listing every node in the way of a spiking network.

    Such are nodes that spikes would reach and that are not affine, and activations whose
    upper bound is not positive. A Relu without a bound is none: data can tell its threshold.
    """
    unbounded = unbounded_activations(graph)
    bounds = bounded_activations(graph)
    bounded = [node for node in graph.nodes if node.name in bounds]
    relus = [relu_of_min(graph, node) for node in bounded]
    activations = {id(node) for node in (*unbounded, *bounded, *relus)}
    refusals = nonlinear_nodes(
        graph, lambda node: neurons.is_stateful(node) or id(node) in activations
    )
    for node in bounded:
        bound = bounds[node.name]
        if not np.all((bound > 0) & np.isfinite(bound)):
            text = (
                f"its upper bound, {np.min(bound)} to {np.max(bound)}, is not positive and finite"
            )
            refusals.append(Refusal(node.name, node.op, text))
    if refusals:
        raise UnsupportedModelError(
            "these nodes cannot become part of a spiking network:", refusals
        )


def require_finite_weights(graph: gs.Graph) -> None:
    """Raise ``UnsupportedModelError`` for NaN anywhere, and infinity where it is no bound."""
    bad = []
    for node in graph.nodes:
        for tensor in node.inputs:
            value = constant_value(tensor)
            if value is None or not np.issubdtype(value.dtype, np.floating):
                continue
            bound = node.op in ("Clip", "Min", "Max") and not np.any(np.isnan(value))
            if not bound and not np.all(np.isfinite(value)):
                bad.append(Refusal(node.name, node.op, f"'{tensor.name}' holds NaN or infinity"))
    if bad:
        raise UnsupportedModelError("weights must be finite; train or export the model again:", bad)


def _to_neuron(graph: gs.Graph, node: gs.Node, bound: np.ndarray | None) -> None:
    relu = relu_of_min(graph, node)
    current = (relu or node).inputs[0]
    result = node.outputs[0]
    rank = len(result.shape)
    dtype = result.dtype if current.dtype is None else current.dtype
    if dtype is None:
        raise ModelError(f"{node.op} '{node.name}': the type of its tensor cannot be inferred")
    taken = {*graph.tensors(), *(tensor.name for tensor in graph.inputs)}
    name, number = node.name, 2
    while taken & set(neurons.state_names(node.name)):
        node.name, number = f"{name}_{number}", number + 1
    read, written = neurons.state_names(node.name)
    # Symbols of its own in every axis: the default v(0) broadcasts, so its dimensions
    # differ from those of the states that come after it.
    shape = [f"{read}.{axis}" for axis in range(rank)]
    state, next_state = gs.Variable(read, dtype, shape), gs.Variable(written, dtype, shape)
    graph.inputs.append(state)
    graph.outputs.append(next_state)
    if relu is not None:
        disconnect(relu)
    threshold = np.asarray(bound, dtype)
    node.op, node.domain = "IF", neurons.DOMAIN
    node.inputs, node.outputs = [current, state], [result, next_state]
    node.attrs.clear()
    node.attrs["v_threshold"] = neurons.attribute_tensor(threshold)
    node.attrs["v_init"] = neurons.attribute_tensor(np.zeros_like(threshold))
