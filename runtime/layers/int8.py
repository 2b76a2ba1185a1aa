"""Layers in 8 bits: which, and their weights as whole numbers.

What a layer reads is often whole numbers n times a unit: what neurons emit, or a mean or maximum
of it. Once its weights are whole numbers too, so are its sums:

    y[o] = sum of W[o, i] x[i] + b[o],   x[i] = unit[i] n[i]
         = scale[o] (sum of q[o, i] n[i]) + b[o],   q[o, i] = W[o, i] unit[i] / scale[o], rounded

n has at most 8 bits and loses nothing. q, from -127 to 127, is where rounding happens, once, and
the inner sum is exact in 32 bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import ProviderError
from onnx2snn.graph_passes.model_files.protos import attributes_of, names_in, unused_prefix
from onnx2snn.graph_passes.model_files.weights import copy_model, stub
from onnx2snn.runtime.plans.graphs import has_weights, values_of, with_nodes
from onnx2snn.runtime.plans.plan import Plan
from onnx2snn.runtime.precision import (
    LayerPrecision,
    PlanInPrecision,
    other_type,
    require_float32,
)
from onnx2snn.runtime.providers import CPU, name_of

from .integer_products import IntegerLayer
from .whole_numbers import SampleShape, WholeNumbers, shapes_of, whole_numbers
from .windows import Window, window_of

LARGEST_INT8 = 127
"""Of a weight, either sign."""

ROUNDED_AT_ONCE = 2**20
"""Weights, which take several times their memory while they are rounded."""

MOST = 128
"""The range of n. Processors without VNNI add products in pairs, in 16 bits: 2 x 127 x 128 is
the most that fits."""

_FROM_ROUNDING = 1e-12
"""What part of the squares of weights the squared error of rounding in float32 may be."""

WORTH = 0.7
"""What part of float32's time a layer may take in 8 bits. Above that it would gain little and,
where its neighbours stay in float32, take ONNX Runtime out of its blocked layout."""


def cost(inputs: int, outputs: int, beside_float32: bool = False) -> float:
    """A layer's time in 8 bits over that in float32, with so many inputs of a sum and outputs.

    ``beside_float32``: a convolution of 1 x 1 whose neighbours stay in float32, so that all it
    reads and makes leaves the layout of the CPU and comes back.

    The products take a quarter of the time; what copies windows serves all outputs, what rescales
    and transposes is done once for all inputs (docs/measurements.md, section Constants).
    """
    if beside_float32:
        return 0.25 + 64 / outputs + 64 / inputs
    return 0.25 + 12 / outputs + 25 / inputs


def quantise(plan: Plan, providers: Sequence[Any]) -> PlanInPrecision:
    """Round the weights of the layers of a plan's step that read whole numbers, where that pays.

    Raises ``ProviderError`` where the step would not run on the CPU, and ``ModelError`` for a
    network in another type than float32.
    """
    first = name_of(providers[0])
    if first != CPU:
        raise ProviderError(f"precision 'int8' runs on the CPU only, not on {first}: leave it out")
    neurons = plan.neurons
    require_float32(plan, "int8")
    step = copy_model(plan.step)
    graph, prefix = step.graph, unused_prefix(names_in(step), "int8/")
    shapes = shapes_of(step, neurons)
    whole = whole_numbers(step, neurons, shapes)
    weights, layers, precisions = dict(plan.weights), dict[str, IntegerLayer](), []
    constants = values_of(step, weights)
    # They are what 1 x 1 come between, and no products.
    grouped = any(attributes_of(node).get("group", 1) > 1 for node in graph.node)
    for node in filter(has_weights, graph.node):
        x, other = node.input[0], other_type(node, constants)
        if other is not None:
            precisions.append(LayerPrecision(node.name, str(other), "as the file says"))
            continue
        found = _layer(node, constants, whole.get(x), shapes.get(x))
        if isinstance(found, str):
            precisions.append(LayerPrecision(node.name, "float32", found))
            continue
        matrix, bias, window = found
        beside = grouped and window is not None and window.kernel == (1, 1)
        inputs, outputs = matrix.shape
        share = cost(inputs, outputs, beside)
        precision = "int8" if share <= WORTH else "float32"
        reason = "{} inputs, {} outputs: about {:.2f} of float32's time"
        precisions.append(LayerPrecision(node.name, precision, reason.format(*matrix.shape, share)))
        if precision == "float32":
            continue
        unit = np.resize(whole[x].unit, len(matrix))[:, np.newaxis]
        codes, scale = rounded(matrix * unit, float(unit.min()))
        name, shape = f"{prefix}{node.output[0]}", constants[node.input[1]].shape
        values = codes * scale
        values /= unit
        weights[name] = np.ascontiguousarray(_as_weight(node, values, shape))
        weights[f"{name}/codes"] = codes = np.ascontiguousarray(codes)
        graph.initializer.append(stub(name, onnx.TensorProto.FLOAT, shape))
        layers[name] = IntegerLayer(node.name, codes, scale, bias, whole[x], window)
        node.input[1] = name
    plan = replace(plan, step=with_nodes(step, graph.node, graph.output))
    read = {tensor.name for part in plan.graphs for tensor in part.graph.initializer}
    read |= {f"{name}/codes" for name in layers}
    kept = {name: values for name, values in weights.items() if name in read}
    return PlanInPrecision(replace(plan, weights=kept), layers, tuple(precisions))


def rounded(matrix: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights [inputs, outputs] as codes, int8 of the same shape, times a scale [outputs].

    Of two scales each output has the one of the lower squared error: that which puts its largest
    weight at 127, and a power of two, which loses nothing where weights are whole multiples of it.
    Or ``unit`` times a power of two where weights are multiples of that, but for float32's
    rounding: they were of a power of two before the one unit of what they read was taken in.
    """
    codes, scale = np.empty_like(matrix, np.int8), np.empty(matrix.shape[1], np.float32)
    few = max(1, ROUNDED_AT_ONCE // len(matrix))
    for start in range(0, matrix.shape[1], few):
        part = slice(start, start + few)
        codes[:, part], scale[part] = _rounded(matrix[:, part], unit)
    return codes, scale


def _rounded(matrix: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    largest = np.abs(matrix).max(axis=0)
    # A 127th of a denormal number may be 0.
    none = largest < np.finfo(np.float32).tiny
    fine = np.where(none, 1, largest) / np.float32(LARGEST_INT8)
    codes, error = _codes_at(fine, matrix)
    scale, squares = fine, np.square(matrix).sum(axis=0)
    for base, most in ((np.float32(1), np.inf), (np.float32(unit), _FROM_ROUNDING * squares)):
        coarse = base * np.exp2(np.ceil(np.log2(fine / base)))
        others, now = _codes_at(coarse, matrix)
        better = now <= np.minimum(error, most)
        codes, scale = np.where(better, others, codes), np.where(better, coarse, scale)
        error = np.where(better, now, error)
    return codes, scale


def _codes_at(scale: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes by a scale, and their squared error: [outputs]."""
    codes = np.round(matrix / scale)
    return codes.astype(np.int8), np.square(codes * scale - matrix).sum(axis=0)


def _layer(
    node: onnx.NodeProto,
    constants: Mapping[str, np.ndarray],
    reads: WholeNumbers | None,
    shape: SampleShape | None,
) -> tuple[np.ndarray, np.ndarray, Window | None] | str:
    """A layer's weights [inputs of a sum, outputs], bias and window; or why it has none.

    ``reads`` and ``shape``, that of a sample, are those of its first input.
    """
    if reads is None:
        return "reads no spikes, nor means of equally many"
    if reads.highest - reads.lowest > MOST:
        return f"reads whole numbers from {reads.lowest} to {reads.highest}"
    if not all(name in constants for name in node.input[1:] if name):
        return "has no constant weights"
    weight, attributes, window = constants[node.input[1]], attributes_of(node), None
    if node.op_type in ("Conv", "ConvTranspose"):
        found = window_of(node, weight.shape, shape or ())
        if isinstance(found, str):
            return found
        window = found
    elif weight.ndim != 2 or any(attributes.get(name, 1) != 1 for name in ("alpha", "beta")):
        return "is no plain product with a matrix"
    elif attributes.get("transA", 0) or (reads.unit.ndim and (shape is None or len(shape) != 1)):
        return "does not sum over the channels of what it reads"
    matrix = _as_matrix(node, weight)
    bias = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.float32(0)
    if bias.size not in (1, matrix.shape[1]) or bias.shape[:-1] not in ((), (1,)):
        return "adds another bias to each sample"
    return matrix, np.resize(bias, matrix.shape[1]), window


def _as_matrix(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    """A layer's weights as [inputs of a sum, outputs]."""
    if node.op_type == "Conv":
        return weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
    return weight.T if attributes_of(node).get("transB") else weight


def _as_weight(node: onnx.NodeProto, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The same back again; ``shape`` is that of the layer's weights."""
    if node.op_type == "Conv":
        outputs, inputs, *kernel = shape
        return matrix.reshape(*kernel, inputs, outputs).transpose(3, 2, 0, 1)
    return matrix.T if attributes_of(node).get("transB") else matrix
