"""Fold batch normalization into the linear operator before it."""

import numpy as np
import onnx_graphsurgeon as gs

from .editing import (
    bypass,
    constant_value,
    is_used,
    new_constant,
    only_consumer,
    producer,
    tidy,
)
from .errors import Refusal

# Axis of the weights that counts the output channels.
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}


def fold_batch_normalization(graph: gs.Graph, declined: list[Refusal] | None = None) -> bool:
    """BatchNormalization(Wx + b) -> W'x + b', for W of Conv, ConvTranspose, Gemm, MatMul.

        BN(y) = a y + c   with  a = scale / sqrt(var + epsilon),  c = bias - a mean
        W' = a W,  b' = a b + c,  per output channel, computed in float64

    A MatMul becomes a Gemm, which has a place for b'. Exact up to the rounding of the new
    weights. Where it cannot be done the node stays, which is correct too: it is affine;
    the reasons are appended to ``declined``.
    """
    changed = False
    for node in list(graph.nodes):
        if node.op != "BatchNormalization" or node.domain:
            continue
        reason = _fold(graph, node)
        changed |= reason is None
        if reason is not None and declined is not None:
            declined.append(Refusal(node.name, node.op, reason))
    tidy(graph)
    return changed


def _fold(graph: gs.Graph, node: gs.Node) -> str | None:
    """Fold one node; the reason if it cannot be."""
    values = [constant_value(tensor) for tensor in node.inputs[1:5]]
    parameters = [value.astype(np.float64) for value in values if value is not None]
    if len(parameters) < 4:
        return "its parameters are not constant"
    if node.attrs.get("training_mode", 0) or any(
        is_used(graph, tensor) for tensor in node.outputs[1:]
    ):
        return "it is in training mode: export the network in evaluation mode"
    linear = producer(node.inputs[0])
    if linear is None:
        return "it comes first in the network; it stays as a scale and shift"
    if linear.domain or linear.op not in _OUTPUT_AXIS:
        return "no Conv, Gemm or MatMul comes before it; it stays as a scale and shift"
    if only_consumer(graph, node.inputs[0]) is None:
        return f"the output of {linear.op} '{linear.name}' is used elsewhere too"
    weight = constant_value(linear.inputs[1])
    bias = constant_value(linear.inputs[2]) if len(linear.inputs) > 2 else np.float64(0)
    if weight is None or bias is None:
        return f"the weights of {linear.op} '{linear.name}' are not constant"
    if linear.op in ("MatMul", "Gemm") and weight.ndim != 2:
        return f"MatMul '{linear.name}' has weights of {weight.ndim} axes"
    if linear.op == "MatMul" and (node.inputs[0].shape is None or len(node.inputs[0].shape) != 2):
        return f"the output of MatMul '{linear.name}' is not known to be [N, channels]"
    if linear.op == "ConvTranspose" and linear.attrs.get("group", 1) != 1:
        return f"ConvTranspose '{linear.name}' is grouped"

    scale, shift, mean, variance = parameters
    a = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    c = shift - a * mean
    axis = _OUTPUT_AXIS[linear.op]
    if linear.op == "Gemm" and linear.attrs.get("transB", 0):
        axis = 0
    beta = linear.attrs.get("beta", 1.0) if linear.op == "Gemm" else 1.0
    new_weight = weight * a.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    new_bias = a * (beta * bias) + c

    # New tensors: another node may share the old ones.
    dtype = weight.dtype
    linear.inputs = [
        linear.inputs[0],
        new_constant(graph, f"{linear.name}/weight", new_weight.astype(dtype)),
        new_constant(graph, f"{linear.name}/bias", new_bias.astype(dtype)),
    ]
    if linear.op == "Gemm":
        linear.attrs["beta"] = 1.0
    if linear.op == "MatMul":
        linear.op = "Gemm"
    bypass(graph, node)
    return None
