"""Remove what computes nothing."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.broadcasting import surely_fits
from onnx2snn.graph_passes.graph.editing import (
    bypass,
    constant_value,
    is_used,
    optional_input,
    replace_node,
    require_opset,
    until_done,
)
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.graph.windows import pads_of_window
from onnx2snn.graph_passes.model_files.protos import onnx_type


def remove_no_ops(graph: gs.Graph) -> bool:
    """X -> f(x) = x: the nodes that compute nothing at inference are removed.

    And CastLike(x, y) -> Cast(x), which does not need what y computes. A node stays whose output is
    the graph's and whose input is an input or an output of the graph.
    """
    require_opset(graph)
    # The type of what a node makes may be known by the name that it then has alone.
    return until_done(_remove_once, graph)


def _remove_once(graph: gs.Graph) -> bool:
    changed = False
    for node in list(graph.nodes):
        if node.op == "CastLike" and not node.domain and node.inputs[1].dtype is not None:
            to = {"to": onnx_type(node.inputs[1].dtype)}
            replace_node(node, "Cast", node.inputs[:1], dict(node.attrs) | to)
            changed = True
        if _is_no_op(graph, node):
            changed |= bypass(graph, node)
    if changed:
        tidy(graph)
    return changed


def _is_no_op(graph: gs.Graph, node: gs.Node) -> bool:
    if node.domain or not node.inputs or any(is_used(graph, t) for t in node.outputs[1:]):
        return False
    source = node.inputs[0]
    match node.op:
        case "Identity":
            return True
        case "Dropout":
            training = optional_input(node, 2)
            return training is None or constant_value(training) == np.False_
        case "Cast":
            return source.dtype is not None and onnx_type(source.dtype) == node.attrs["to"]
        case "Transpose":
            permutation = node.attrs.get("perm")
            return permutation is not None and permutation == sorted(permutation)
        case "Pad":
            pads = constant_value(node.inputs[1])
            return pads is not None and not np.any(pads)
        case "Pow":
            exponent = constant_value(node.inputs[1])
            if exponent is None or exponent.size != 1:
                return False
            return bool(exponent == 1) and surely_fits(exponent.shape, source.shape)
        case "Concat" | "Sum" | "Min" | "Max" | "Mean":
            return len(node.inputs) == 1
        case "AveragePool" | "MaxPool":
            kernel, strides = node.attrs["kernel_shape"], node.attrs.get("strides", [1])
            nothing = [0] * 2 * len(kernel)
            return {*kernel, *strides} == {1} and pads_of_window(node, kernel) == nothing
        case _:
            return False
