"""Layers in 8 bits as a graph: windows of bytes and products of matrices, for ONNX Runtime's CPU.

    x -> QuantizeLinear -> [Transpose, Pad, Gather] -> MatMulIntegerToFloat -> [Transpose] -> y

QuantizeLinear makes whole numbers of x, exactly. For a convolution the image comes with its
channels last, so that Gather copies each window as a few runs of bytes. Pad, Gather and Transpose
are why this loses against a convolution in float32 where channels are few.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.graph.operators import WEIGHTED
from onnx2snn.graph_passes.model_files.weights import stub
from onnx2snn.runtime.plans.graphs import Writer, with_layers

from .whole_numbers import WholeNumbers
from .windows import Window

_CONTRIB = "com.microsoft"

NODES_OF_PRODUCTS = 8
"""About how many nodes a layer in 8 bits is more than one in float32."""


@dataclass(frozen=True)
class IntegerLayer:
    """A layer in 8 bits: y = scale (n codes) + bias, of whole numbers n that ``node`` reads.

    ``codes``: the weights q, int8 [inputs of a sum, outputs]; the inputs of a convolution in the
    order vertical, horizontal, channel. ``scale`` and ``bias``: float32 [outputs].
    """

    node: str
    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    reads: WholeNumbers
    window: Window | None

    @property
    def scratch(self) -> int:
        """Bytes for each sample, besides what a layer in float32 reads and makes."""
        inputs, outputs = self.codes.shape
        if self.window is None:
            return int(inputs)
        image = math.prod(self.window.padded) * inputs // math.prod(self.window.kernel)
        # The rows of windows give way to the result with its channels last, in float32.
        return int(image + math.prod(self.window.places) * max(inputs, 4 * outputs))


def with_integer_products(
    model: onnx.ModelProto, layers: Mapping[str, IntegerLayer]
) -> onnx.ModelProto:
    """A model whose layers with the weights named in ``layers`` compute in whole numbers.

    Their codes are initializers without data, ``<weights>/codes``.
    """
    if not layers:
        return model
    made = with_layers(model, WEIGHTED, layers, "whole/", _write)
    made.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    return made


def _write(graph: Writer, node: onnx.NodeProto, layer: IntegerLayer) -> None:
    """Nodes that compute what ``node`` does."""
    (x, weight), (y,) = node.input[:2], node.output
    codes = stub(f"{weight}/codes", onnx.TensorProto.INT8, layer.codes.shape)
    graph.initializers[codes.name] = codes
    unit = graph.constant(layer.reads.unit, f"{weight}/unit")
    zeros = np.full_like(layer.reads.unit, -layer.reads.lowest, np.uint8)
    zero = graph.constant(np.uint8(-layer.reads.lowest), f"{weight}/zero")
    one = graph.constant(np.float32(1), "one")
    scale = graph.constant(layer.scale, f"{weight}/scale")
    bias = graph.constant(layer.bias, f"{weight}/bias")
    n = graph.node(
        "QuantizeLinear", [x, unit, graph.constant(zeros, f"{weight}/zeros")], f"{y}/n", axis=1
    )
    if layer.window is not None:
        n = _windows(graph, n, zero, layer, weight, y)
    factors = [n, codes.name, one, scale, zero, "", bias]
    output = y if layer.window is None else ""
    made = graph.node("MatMulIntegerToFloat", factors, f"{y}/product", output, domain=_CONTRIB)
    if layer.window is not None:
        sizes = np.array([-1, *layer.window.places, len(layer.scale)])
        made = graph.node("Reshape", [made, graph.constant(sizes, f"{weight}/sizes")], f"{y}/image")
        graph.node("Transpose", [made], f"{y}/channels_first", y, perm=[0, 3, 1, 2])


def _windows(graph: Writer, n: str, zero: str, layer: IntegerLayer, weight: str, y: str) -> str:
    """[N, C, H, W] -> [N x places, inputs of a sum], the inputs in the order of the codes."""
    window, inputs = layer.window, len(layer.codes)
    assert window is not None
    n = graph.node("Transpose", [n], f"{y}/channels_last", perm=[0, 2, 3, 1])
    if any(window.pads):
        pads = graph.constant(window.pads_of_axes, f"{weight}/pads")
        n = graph.node("Pad", [n, pads, zero], f"{y}/padded")
    pixels = window.pixels
    # Windows of the first pixels alone are gathered, too: what is beyond them is no window's.
    if not np.array_equal(pixels.ravel(), np.arange(math.prod(window.padded))):
        flat = graph.constant(np.array([0, -1, inputs // pixels.shape[1]]), f"{weight}/flat")
        n = graph.node("Reshape", [n, flat], f"{y}/pixels")
        n = graph.node("Gather", [n, graph.constant(pixels, f"{weight}/places")], f"{y}/windows",
                       axis=1)  # fmt: skip
    rows = graph.constant(np.array([-1, inputs]), f"{weight}/rows")
    return graph.node("Reshape", [n, rows], f"{y}/sums")
