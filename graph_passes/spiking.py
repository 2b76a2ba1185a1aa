"""Turn bounded activations into integrate-and-fire neurons."""

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
from .graph.activations import find_activations, relu_of_min
from .graph.affine import per_sample
from .graph.editing import disconnect, replace_node
from .graph.obstacles import require_convertible
from .graph.operators import MaxPool
from .graph.shapes import require_ranks
from .graph.states import StateEditor
from .graph.tidying import tidy

DATA_NEEDED = "calibration data (--calibration DATA) is needed for"
NO_BOUND = "no upper bound, so its threshold needs calibration data"
"""What to do about activations without a bound, and why."""


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
    neurons.require_neuron_opset(graph)
    require_convertible(graph, maxpool, on_means=on_means)
    unbounded, bounds = find_activations(graph)
    missing = [Refusal(node.name, node.op, NO_BOUND) for node in unbounded]
    if missing:
        raise MissingThresholdError(
            f"{DATA_NEEDED} {counted(len(missing), 'activation')}:", missing
        )
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
