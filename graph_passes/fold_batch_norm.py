"""Fold batch normalization, however it is spelled, into the linear operator before it."""

import numpy as np
import onnx_graphsurgeon as gs

from .errors import Refusal
from .graph.affine import (
    AFFINE_OPS,
    Affine,
    affine_of,
    is_in_training,
    per_channel,
    rounded,
    rounded_weights,
)
from .graph.editing import (
    Editor,
    constant_input,
    constant_value,
    leave_out,
    only_consumer,
    producer,
    release,
    require_opset,
)
from .graph.tidying import tidy

# Axis of the weights that counts the output channels.
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}


def fold_batch_normalization(graph: gs.Graph, declined: list[Refusal] | None = None) -> bool:
    """BatchNormalization(Wx + b) -> W'x + b', for W of Conv, ConvTranspose, Gemm, MatMul.

        BN(y) = a y + c   with  a = scale / sqrt(var + epsilon),  c = bias - a mean
        W' = a W,  b' = a b + c,  per output channel, computed in float64

    The same for Mul, Div, Add, Sub and Neg by constants, as some exporters write it. A
    MatMul becomes a Gemm, which has a place for b'. Exact up to the rounding of the new
    weights. Where it cannot be done the node stays, which is correct too: it is affine;
    the reasons are appended to ``declined`` for each BatchNormalization.
    """
    require_opset(graph)
    changed, editor = False, Editor(graph)
    for node in list(graph.nodes):
        if node.op not in AFFINE_OPS or node.domain:
            continue
        reason = _fold(editor, node)
        changed |= reason is None
        if reason is not None and declined is not None and node.op == "BatchNormalization":
            declined.append(Refusal(node.name, node.op, reason))
    if changed:
        tidy(graph)
    return changed


def _fold(editor: Editor, node: gs.Node) -> str | None:
    """Fold one node; the reason if it cannot be."""
    affine = affine_of(editor.graph, node)
    if affine is None:
        return _why_not_affine(editor.graph, node)
    linear = producer(affine.x)
    if linear is not None and linear.op == "BatchNormalization" and not linear.domain:
        return _into_batch_norm(editor, node, linear, affine)
    if linear is None:
        return "it comes first in the network; it stays as a scale and shift"
    if linear.domain or linear.op not in _OUTPUT_AXIS:
        return "no Conv, Gemm or MatMul comes before it; it stays as a scale and shift"
    if only_consumer(editor.graph, affine.x) is None:
        return f"the output of {linear.op} '{linear.name}' is used elsewhere too"
    weight = constant_value(linear.inputs[1])
    bias = constant_input(linear, 2, 0.0)
    if weight is None or bias is None:
        return f"the weights of {linear.op} '{linear.name}' are not constant"
    if linear.op in ("MatMul", "Gemm") and weight.ndim != 2:
        return f"{linear.op} '{linear.name}' has weights of {weight.ndim} axes"
    if linear.op == "MatMul" and (affine.x.shape is None or len(affine.x.shape) != 2):
        return f"the output of MatMul '{linear.name}' is not known to be [N, channels]"
    if linear.op == "ConvTranspose" and linear.attrs.get("group", 1) != 1:
        return f"ConvTranspose '{linear.name}' is grouped"
    return _scale_and_shift(editor, node, linear, affine, weight, bias)


def _why_not_affine(graph: gs.Graph, norm: gs.Node) -> str:
    """Why a BatchNormalization is no scale and shift by constants."""
    if any(constant_value(tensor) is None for tensor in norm.inputs[1:5]):
        return "its parameters are not constant"
    if is_in_training(graph, norm):
        return "it is in training mode: export the network in evaluation mode"
    if norm.inputs[0].shape is None:
        return "the number of axes of its input cannot be inferred"
    return "the type of its input is not known to be floating"


def _into_batch_norm(editor: Editor, node: gs.Node, norm: gs.Node, affine: Affine) -> str | None:
    """A (BN(x)) + c -> BN(x) with the scale a s and the bias a b + c."""
    scale, bias = (constant_value(tensor) for tensor in norm.inputs[1:3])
    rank = None if affine.x.shape is None else len(affine.x.shape)
    a = None if rank is None else per_channel(affine.scale, rank)
    c = None if rank is None else per_channel(affine.shift, rank)
    alone = only_consumer(editor.graph, affine.x) is not None and len(norm.outputs) == 1
    if scale is None or bias is None or a is None or c is None or not alone:
        return f"it cannot join BatchNormalization '{norm.name}'; it stays as a scale and shift"
    new_scale = rounded_weights(a * scale, scale.dtype)
    new_bias = rounded(a * bias + c, bias.dtype)
    if new_scale is None or new_bias is None:
        return f"{scale.dtype} cannot hold its product with BatchNormalization '{norm.name}'"
    norm.inputs[1] = editor.constant(f"{norm.name}/scale", new_scale)
    norm.inputs[2] = editor.constant(f"{norm.name}/bias", new_bias)
    leave_out(editor.graph, node, affine.x)
    return None


def _scale_and_shift(
    editor: Editor,
    node: gs.Node,
    linear: gs.Node,
    affine: Affine,
    weight: np.ndarray,
    bias: np.ndarray,
) -> str | None:
    rank = weight.ndim
    a, c = per_channel(affine.scale, rank), per_channel(affine.shift, rank)
    if a is None or c is None:
        return "its constants differ within a channel"
    if linear.op == "Gemm" and bias.ndim == 2 and bias.shape[0] != 1:
        return f"the bias of Gemm '{linear.name}' differs from sample to sample"
    # Of these operators Gemm alone has transB, alpha and beta.
    axis = 0 if linear.attrs.get("transB", 0) else _OUTPUT_AXIS[linear.op]
    channels = weight.shape[axis]
    a, c = np.broadcast_to(a, channels), np.broadcast_to(c, channels)
    alpha, beta = linear.attrs.get("alpha", 1.0), linear.attrs.get("beta", 1.0)
    factors = (alpha * a).reshape([-1 if i == axis else 1 for i in range(rank)])
    dtype, old = weight.dtype, linear.inputs[1]
    new_weight = rounded_weights(weight * factors, dtype)
    new_bias = rounded(a * (beta * bias.reshape(-1)) + c, dtype)
    if new_weight is None or new_bias is None:
        return f"{dtype} cannot hold the weights of {linear.op} '{linear.name}' with it in them"

    # New tensors: another node may share the old ones.
    linear.inputs = [
        linear.inputs[0],
        editor.constant(f"{linear.name}/weight", new_weight),
        editor.constant(f"{linear.name}/bias", new_bias),
    ]
    release(editor.graph, old)
    linear.attrs.pop("alpha", None)
    linear.attrs.pop("beta", None)
    if linear.op == "MatMul":
        linear.op = "Gemm"
    leave_out(editor.graph, node, affine.x)
    return None
