"""Replace max-pooling by average-pooling (Algorithm 1, line 4)."""

import numpy as np
import onnx_graphsurgeon as gs

from .errors import Refusal
from .graph.editing import (
    is_floating,
    is_used,
    replace_node,
    require_opset,
)
from .graph.kept import kept_by_read_out, nonlinear_before_layers
from .graph.operators import CANONICAL_ACTIVATIONS, MAX_POOLS
from .graph.regions import upstream
from .graph.shapes import infer_shapes
from .graph.tidying import tidy
from .graph.windows import is_dilated, lowest_padding

_CARRIED = ("kernel_shape", "strides", "pads", "auto_pad", "ceil_mode")


def max_to_average_pool(graph: gs.Graph, declined: list[Refusal] | None = None) -> bool:
    """MaxPool -> AveragePool with the same window; GlobalMaxPool -> GlobalAveragePool.

    Kernel, strides, pads, auto_pad and ceil_mode stay; ``count_include_pad`` is 0, so
    padding counts in neither the maximum nor the mean. This changes the network's
    function: it is exact only for a network that was trained with average pooling.
    Reasons for a node that stays are appended to ``declined``. Pools of a read-out, behind what is
    not affine, as a Softmax, stay without one, and such as prepare the input, before what is not
    affine: no spikes come there.
    """
    require_opset(graph)
    if any(node.inputs[0].dtype is None for node in graph.nodes if node.op in MAX_POOLS):
        infer_shapes(graph)

    def emits(node: gs.Node) -> bool:
        return node.op in CANONICAL_ACTIVATIONS

    spared = kept_by_read_out(graph, emits)
    spared |= upstream(graph, nonlinear_before_layers(graph, emits))
    changed = False
    for node in graph.nodes:
        if node.domain or node.op not in MAX_POOLS or node.inputs[0].name in spared:
            continue
        reason = _replace(graph, node)
        changed |= reason is None
        if reason is not None and declined is not None:
            declined.append(Refusal(node.name, node.op, reason))
    if changed:
        tidy(graph)
    return changed


def _replace(graph: gs.Graph, node: gs.Node) -> str | None:
    """Replace one node; the reason if it cannot be."""
    if not is_floating(node.inputs[0]):
        return "it is of whole numbers, which an average is not"
    if node.inputs[0].dtype == np.float64:
        return "it is in double precision, in which ONNX Runtime has no averages"
    if node.op == "GlobalMaxPool":
        node.op = "GlobalAveragePool"
        return None
    if lowest := lowest_padding(node):
        return f"it is padded with {lowest} by a Pad of its own, which an average would count"
    if any(is_used(graph, tensor) for tensor in node.outputs[1:]):
        return "its second output, the indices, is used; an average has no such thing"
    if is_dilated(node) and graph.opset < 19:
        return "it is dilated, and AveragePool has dilations since opset 19 only"
    attributes = {name: node.attrs[name] for name in _CARRIED if name in node.attrs}
    if is_dilated(node):
        attributes["dilations"] = node.attrs["dilations"]
    node.outputs = node.outputs[:1]
    replace_node(node, "AveragePool", node.inputs, attributes | {"count_include_pad": 0})
    return None
