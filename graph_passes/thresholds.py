"""Give every unbounded activation an upper bound, which becomes a neuron's threshold."""

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import ArrayLike

from .errors import DataError, Refusal, UnsupportedModelError, require_named
from .graph.activations import find_activations, relu_of_min
from .graph.broadcasting import may_fit
from .graph.editing import Editor, replace_node, require_opset, type_of
from .graph.shapes import infer_shapes
from .graph.tidying import tidy


def bound_activations(graph: gs.Graph, thresholds: Mapping[str, ArrayLike]) -> bool:
    """Relu(x) -> Clip(x, 0, V_th), or Min(Relu(x), V_th) where V_th differs by channel.

    ``thresholds`` maps names of activations to V_th: a positive scalar, or an array that
    broadcasts against one sample of x, such as (C, 1, 1); it is rounded to the type of x. An
    activation that is bounded already keeps its bound where that is lower. The result is still
    an ANN, so what the bounds cost can be measured by running it. Raises
    ``UnsupportedModelError`` for thresholds that are not positive and finite, or do not
    broadcast, and for an x of unknown type, and ``DataError`` for a name that no node has; the
    graph is then as it was.
    """
    require_opset(graph)
    if not isinstance(thresholds, Mapping):
        raise DataError(f"thresholds are a mapping of names to V_th, not {thresholds!r}")
    named = {node.name: node for node in graph.nodes}
    require_named("node", thresholds, named)
    if any(node.name in thresholds and type_of(node) is None for node in graph.nodes):
        infer_shapes(graph)
    changed, editor = False, Editor(graph)
    unbounded, bounds = find_activations(graph)
    wanted = [name for name in (*(n.name for n in unbounded), *bounds) if name in thresholds]
    # All before any is applied, since one may be refused.
    found = {name: _in_type_of(named[name], thresholds[name]) for name in wanted}
    for name, bound in found.items():
        node = named[name]
        if name in bounds:
            own = bounds[name]
            bound = np.minimum(bound, own).astype(bound.dtype)
            if np.all(bound == own):
                continue
            _unbound(graph, node)
        _bound(editor, node, bound)
        changed = True
    if changed:
        tidy(graph)
    return changed


def _in_type_of(node: gs.Node, given: ArrayLike) -> np.ndarray:
    """A threshold in the type of an activation; raises ``UnsupportedModelError``."""
    try:
        threshold = np.asarray(given)
    except ValueError:
        # Lists of different lengths.
        threshold = np.asarray(None)
    if threshold.dtype.kind not in "fiu" or not threshold.size:
        raise UnsupportedModelError(
            "thresholds must be numbers:", [Refusal(node.name, node.op, f"got {given!r}")]
        )
    dtype, shape = type_of(node), node.outputs[0].shape
    if dtype is None:
        raise UnsupportedModelError(
            "a threshold takes the type of its activation, which cannot be inferred:",
            [Refusal(node.name, node.op, "operators before it, such as custom ones, hide it")],
        )
    if not may_fit(threshold.shape, shape and (1, *shape[1:])):
        raise UnsupportedModelError(
            "thresholds must broadcast against one sample:",
            [Refusal(node.name, node.op, f"got the shape {threshold.shape}, and its is {shape}")],
        )
    with np.errstate(over="ignore"):
        bound = threshold.astype(dtype)
    low, high = threshold.min(), threshold.max()
    # The largest number is no bound in a Clip.
    if not np.all((bound > 0) & (bound < np.finfo(dtype).max)):
        raise UnsupportedModelError(
            "thresholds must be positive and finite, and below the largest number of their type:",
            [Refusal(node.name, node.op, f"got {low} to {high} for {bound.dtype}")],
        )
    return bound


def _unbound(graph: gs.Graph, node: gs.Node) -> None:
    """Make a bounded activation a Relu."""
    relu = relu_of_min(graph, node)
    replace_node(node, "Relu", [(relu or node).inputs[0]])


def _bound(editor: Editor, node: gs.Node, bound: np.ndarray) -> None:
    source, name = node.inputs[0], node.name
    if bound.ndim == 0:
        replace_node(node, "Clip", [source, *editor.bounds(name, 0, bound, bound.dtype)])
        return
    # The last node of an activation gives the neuron its name.
    node.name = editor.name(f"{name}/relu")
    result = node.outputs[0]
    positive = gs.Variable(node.name, result.dtype, result.shape)
    node.outputs = [positive]
    inputs = [positive, editor.constant(f"{name}/max", bound)]
    editor.graph.nodes.append(gs.Node("Min", name, {}, inputs, [result]))
