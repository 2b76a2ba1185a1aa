"""Convolutions of small images as products of their weights, as they are, and columns.

    y[o, p] = sum over i, k of W[o, i, k] x[i, place(p, k)]     is     Y = W' X

with W' = W [outputs, inputs x kernel], as it lies in memory, and X [inputs x kernel, places x rows]
the windows that are read (im2col), a column for each place of each row, which is a sample at a
time-step. ONNX Runtime computes a convolution image by image, and reads all of W anew for each;
where an image has few places, that is what it spends its time on. Here all images are one product.

    x [N, C, H, W] -> Transpose -> Pad -> Gather -> X -> Gemm -> Transpose -> y

Rows come last, so that Gather copies runs of them. The sums are the same, of the same products, so
that exact ones stay exact, and all graphs read one copy of the weights.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx2snn.runtime.plans.graphs import Writer, with_layers

from .windows import Window, window_of

FEW_PLACES = 16
"""An image of fewer places is faster in columns, and of more in ONNX Runtime's own convolution."""

NODES_OF_COLUMNS = 9
"""About how many nodes a convolution in columns is."""


@dataclass(frozen=True)
class Columns:
    """A convolution that runs in columns, by the name of its weights."""

    weights: str
    inputs: int
    outputs: int
    window: Window

    @property
    def scratch(self) -> int:
        """Bytes of what is alive at once, for one sample, besides what it reads and makes."""
        window, places = self.window, math.prod(self.window.places)
        image = self.inputs * math.prod(window.padded)
        columns = self.inputs * math.prod(window.kernel) * places
        return 4 * (max(image, self.outputs * places) + columns)


def columns_where_they_pay(
    node: onnx.NodeProto, weights: Sequence[int], read: Sequence[int], made: Sequence[int]
) -> Columns | None:
    """The columns of a convolution of small images; None for others.

    ``weights``, ``read`` and ``made``: the shapes of its weights, its images and its result.
    """
    window = window_of(node, weights, read[1:])
    if isinstance(window, str) or not 0 < math.prod(made[2:]) < FEW_PLACES:
        return None
    return Columns(node.input[1], weights[1], weights[0], window)


def with_columns(model: onnx.ModelProto, layers: Iterable[Columns]) -> onnx.ModelProto:
    """A model in which these convolutions are products of their weights and columns."""
    by_weights = {columns.weights: columns for columns in layers}
    return with_layers(model, ("Conv",), by_weights, "columns/", _write)


def _write(graph: Writer, node: onnx.NodeProto, columns: Columns) -> None:
    """Nodes that compute what ``node`` does."""
    (x, weights, *bias), (y,) = filter(None, node.input), node.output
    window, inputs, outputs = columns.window, columns.inputs, columns.outputs
    read = inputs * math.prod(window.kernel)

    def reshaped(tensor: str, name: str, *sizes: int) -> str:
        shape = graph.constant(np.array(sizes), f"sizes/{sizes}")
        return graph.node("Reshape", [tensor, shape], f"{y}/{name}")

    x = graph.node("Transpose", [x], f"{y}/rows_last", perm=[1, 2, 3, 0])
    if any(window.pads):
        pads = graph.constant(window.pads_of_axes, f"{y}/pads")
        x = graph.node("Pad", [x, pads], f"{y}/padded")
    x = reshaped(x, "pixels", inputs, math.prod(window.padded), -1)
    places = graph.constant(window.pixels.T.reshape(-1), f"{y}/places")
    x = graph.node("Gather", [x, places], f"{y}/windows", axis=1)
    weights = reshaped(weights, "weights", outputs, read)
    made = graph.product(weights, reshaped(x, "columns", read, -1), bias, y)
    made = reshaped(made, "image", outputs, *window.places, -1)
    graph.node("Transpose", [made], f"{y}/rows_first", y, perm=[3, 0, 1, 2])
