"""Which operators a mean over time-steps passes through.

A rate-coded network is its ANN on average only where every operator between spikes and
the next neuron, or the output, is affine in the spikes: then mean(f(x(t))) = f(mean(x(t))).
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .advice import (
    ADVICE,
    ATTENTION,
    BEFORE_OPTIMISER,
    GUARD,
    IN_TRAINING,
    NO_ACTIVATION,
    PRODUCT,
    QUANTISED,
    SCALES,
)
from .editing import constant_value, is_floating, producer
from .operators import ATTENTIONS, INTEGER_LAYERS, NORMALIZATIONS, RECURRENT, SHAPE_OPS

# Affine in all their inputs together.
_AFFINE_IN_ALL = {"Add", "Concat", "Identity", "Mean", "Neg", "Sub", "Sum"}

# Affine in one factor as long as the other is a constant.
_PRODUCTS: dict[str, int | None] = {"Einsum": None, "Gemm": 2, "MatMul": 2, "Mul": 2}

ON_MEANS = {
    *_PRODUCTS, *NORMALIZATIONS, *RECURRENT, "Conv", "ConvTranspose", "Div", "Gather",
    "GatherElements", "GatherND", "GridSample", "IsNaN", "LRN", "LogSoftmax", "ReduceL1",
    "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare",
    "ScatterElements", "ScatterND", "Softmax", "Where",
}  # fmt: skip
"""Operators that are not affine in activations and may be computed on the means of these."""

_AFFINE_IF_CONSTANT: dict[str, tuple[slice, str]] = {
    **dict.fromkeys(
        (
            "AffineGrid", "AveragePool", "Cast", "CenterCropPad", "Col2Im", "Compress", "CumSum",
            "DFT", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements",
            "GatherND", "GlobalAveragePool", "GridSample", "Pad", "ReduceMean", "ReduceSum",
            "Reshape", "ReverseSequence", "RotaryEmbedding", "STFT", "Slice", "SpaceToDepth",
            "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
        ),
        (
            slice(1, None),
            "what it takes depends on the values of the input: export the network with constant "
            "indices and sizes",
        ),
    ),
    **dict.fromkeys(
        ("BatchNormalization", "Conv", "ConvTranspose", "Div"),
        (slice(1, None), f"its second operand depends on the input: {PRODUCT}"),
    ),
    **dict.fromkeys(
        ("Resize", "Upsample"),
        (
            slice(1, None),
            "its size depends on the values of the input: export it with a constant size",
        ),
    ),
    **dict.fromkeys(
        ("ScatterElements", "ScatterND"),
        (
            slice(1, 2),
            "where it writes depends on the values of the input: export the network with constant "
            "indices",
        ),
    ),
    "Where": (
        slice(1),
        "which operand it takes depends on the input: export the network with a constant mask, or "
        "train it without one",
    ),
}  # fmt: skip
"""Affine in their other inputs as long as these are constant, and what to say if they are not."""


def why_not_affine(node: gs.Node, spikes: set[str], varying: set[str]) -> str | None:
    """Why a node is not affine in tensors of these names; None if it is.

    ``varying``: the names of all tensors that depend on the network's inputs.
    """
    if node.domain:
        return _why_not_standard(node)
    if node.op in SHAPE_OPS or node.op in _AFFINE_IN_ALL:
        return None
    if node.op in _PRODUCTS:
        return _why_no_constant_factor(node, spikes, varying)
    if node.op in _SPECIAL and (reason := _SPECIAL[node.op](node, varying)):
        return reason
    if node.op in _AFFINE_IF_CONSTANT:
        which, reason = _AFFINE_IF_CONSTANT[node.op]
        return reason if any(tensor.name in varying for tensor in node.inputs[which]) else None
    return ADVICE.get(node.op, NO_ACTIVATION)


def _why_not_standard(node: gs.Node) -> str:
    if node.op in INTEGER_LAYERS:
        return QUANTISED
    if node.op in ATTENTIONS:
        return f"{ATTENTION}: {BEFORE_OPTIMISER}"
    return (
        f"an operator of the domain '{node.domain}', of which nothing is known here: export "
        "the network with standard operators"
    )


def _why_no_constant_factor(node: gs.Node, spikes: set[str], varying: set[str]) -> str | None:
    factors = [t.name for t in node.inputs[: _PRODUCTS[node.op]] if t.name in varying]
    if len(factors) < 2:
        return None
    if any(map(_is_sum_of_integers, node.inputs)):
        return QUANTISED
    if spikes.issuperset(factors):
        return PRODUCT
    return (
        "the product of spikes and of what depends on the input alone is not linear where the "
        "input varies in time: export the network with a constant in place of that factor"
    )


def _is_sum_of_integers(tensor: gs.Tensor) -> bool:
    """Whether a tensor is the result of a layer of integers, of whatever type."""
    maker = producer(tensor)
    if maker is not None and maker.op == "Cast":
        maker = producer(maker.inputs[0])
    return maker is not None and maker.op in ("ConvInteger", "MatMulInteger")


def _norm_in_training(node: gs.Node, varying: set[str]) -> str | None:
    return IN_TRAINING if node.attrs.get("training_mode", 0) else None


def _rounding_cast(node: gs.Node, varying: set[str]) -> str | None:
    if node.inputs[0].dtype == np.bool_:
        return (
            "what a condition says is not linear in the spikes: train the network with ReLU or "
            "a clip in its place"
        )
    if node.attrs["to"] not in _FLOATING_TYPES:
        return (
            "casting spikes to a type that is not floating rounds them: export the network "
            "without the cast"
        )
    return None


def _clip_of_integers(node: gs.Node, varying: set[str]) -> str | None:
    if is_floating(node.inputs[0]):
        return None
    return "it bounds whole numbers, between quantisers that are not known here"


def _if_on_sizes(node: gs.Node, varying: set[str]) -> str | None:
    if node.inputs[0].name in varying:
        return None
    return (
        "control flow over spikes that depends on sizes alone: declare those of the model's "
        "inputs that are open, or export the network without it"
    )


def _scales_of_channels(node: gs.Node, varying: set[str]) -> str | None:
    scale = constant_value(node.inputs[1])
    return None if scale is None or scale.size == 1 else SCALES


def _other_reduction(node: gs.Node, varying: set[str]) -> str | None:
    # Assignments to slices, and sums, are affine in what is written and in what that is written to.
    return None if node.attrs.get("reduction", "none") in ("none", "add") else NO_ACTIVATION


def _guard_by_where(node: gs.Node, varying: set[str]) -> str | None:
    condition = producer(node.inputs[0])
    is_guard = condition is not None and condition.op == "IsNaN"
    return GUARD if is_guard and node.inputs[0].name in varying else None


_SPECIAL: dict[str, Callable[[gs.Node, set[str]], str | None]] = {
    "BatchNormalization": _norm_in_training,
    "Cast": _rounding_cast,
    "Clip": _clip_of_integers,
    "DequantizeLinear": _scales_of_channels,
    "If": _if_on_sizes,
    "QuantizeLinear": _scales_of_channels,
    "ScatterElements": _other_reduction,
    "ScatterND": _other_reduction,
    "Where": _guard_by_where,
}
"""What is to be said of some of an operator, before what goes for all of it."""

_FLOATING_TYPES = {
    onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
}  # fmt: skip
