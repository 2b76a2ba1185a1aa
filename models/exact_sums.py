"""Weights and bounds rounded so that float32 adds spikes exactly, in any order.

A layer that reads a trained clip gets s theta from each spiking neuron, s being 0 or 1, and adds

    b + sum_i w_i s_i theta        where        |b| + sum_i |w_i| theta <= 2^n

With theta a multiple of 2^p, w of 2^q and b of 2^(p + q), every partial sum is a multiple of
2^(p + q), and exact in float32 if n + 1 - (p + q) <= 24; the bit to spare is for what rounding
adds, and for a shortcut. Any runtime then computes the same, in whatever order it adds: elsewhere
two of them differ by a rounding, one day by a spike, and then by many. theta keeps
``THETA_BITS`` bits, and each output channel has the finest grid that its sum allows.
"""

import math

import numpy as np
import onnx
from onnx import numpy_helper

THETA_BITS = 8
"""Significant bits of a bound, which moves by a 256th at most.

On the ResNet-20 of the demo 6, 8 and 10 bits moved a layer's weights by 0.15, 0.6 and 2.3 % at
most (in norm), and the ANN's logits of 1,000 training images by 0.10, 0.04 and 0.12."""

_FLOAT32 = 24


def round_for_exact_sums(model: onnx.ModelProto) -> None:
    """Round, in place, the bounds of trained clips and the layers that read one directly.

    A clip is Min(Relu(x), theta) with a scalar theta, as ``TrainableClip`` is exported; a layer
    a Conv or Gemm with constant weights and biases. All else stays as it is.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    rectified = {node.output[0] for node in graph.node if node.op_type == "Relu"}
    bounds: dict[str, float] = {}
    for node in graph.node:
        if node.op_type == "Min" and node.input[0] in rectified and node.input[1] in constants:
            theta = constants[node.input[1]]
            value = float(numpy_helper.to_array(theta))
            if value > 0:
                bounds[node.output[0]] = _round(theta, 2.0 ** (_exponent(value) - THETA_BITS))
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[0] in bounds:
            weights, *bias = (constants[name] for name in node.input[1:])
            transposed = node.op_type == "Conv" or any(
                a.name == "transB" and a.i for a in node.attribute
            )
            _round_layer(weights, bias, bounds[node.input[0]], 0 if transposed else 1)


def _round_layer(
    weights: onnx.TensorProto, bias: list[onnx.TensorProto], theta: float, axis: int
) -> None:
    """Round a layer's weights, with the output channels on ``axis``, and its bias."""
    values = np.abs(numpy_helper.to_array(weights).astype(np.float64))
    others = tuple(a for a in range(values.ndim) if a != axis)
    largest = values.sum(axis=others, keepdims=True) * theta
    for tensor in bias:
        largest += np.abs(numpy_helper.to_array(tensor)).reshape(largest.shape)
    p = _exponent(theta) - THETA_BITS
    grid = np.exp2(np.ceil(np.log2(np.maximum(largest, 2.0**-100))) + 1 - _FLOAT32)
    _round(weights, grid / 2.0**p)
    for tensor in bias:
        _round(tensor, grid.reshape(tensor.dims))


def _exponent(value: float) -> int:
    """The e for which value is in [2^(e - 1), 2^e)."""
    return math.frexp(value)[1]


def _round(tensor: onnx.TensorProto, grid: float | np.ndarray) -> float:
    """Round to multiples of ``grid``; returns the largest value."""
    have = numpy_helper.to_array(tensor)
    values = (np.round(have / grid) * grid).astype(have.dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return float(values.max())
