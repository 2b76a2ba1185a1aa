"""Dense layers with their weights as they are, of which all chunks then read one copy.

    y = x W^T + b      becomes      y^T = W x^T,  y = (y^T)^T + b

x [rows, inputs], W [outputs, inputs]. ONNX Runtime repacks the second factor of a product where it
is constant, for each graph anew; the first it reads where it is. The sums are the same, of the same
products, so that exact ones stay exact.
"""

from collections.abc import Collection, Mapping

import onnx

from onnx2snn.graph_passes.model_files.protos import attributes_of
from onnx2snn.runtime.plans.graphs import Writer, with_layers

FEWEST, MOST = 16, 128
"""Rows for which that pays, multiples of the former; 4 do where weights are ``LARGE``.

Others are no faster than with repacked weights, which take as much memory again in each graph
(docs/measurements.md, section Constants)."""

LARGE = 2**23
"""Weights, 32 MiB in float32, which no cache keeps."""


def may_come_first(
    node: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]], free: Collection[str]
) -> bool:
    """Whether a node is a dense layer whose weights may come first in its product.

    ``constants``: shapes of weights, by name. ``free``: those that a layer may read in another way.
    Not where W is [inputs, outputs]: read across, it takes up to three times as long.
    """
    given, (_, weights, *bias) = attributes_of(node), node.input
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if node.op_type != "Gemm" or not given.get("transB") or weights not in free:
        return False
    if any(given.get(k, v) != v for k, v in plain.items()):
        return False
    return all(len(constants.get(b, (0, 0))) == 1 for b in filter(None, bias))


def first_pays(rows: int, weights: int) -> bool:
    """Whether a product of so many rows with so many weights is to have them first."""
    if weights >= LARGE:
        return 4 <= rows <= MOST
    return rows <= MOST and rows % FEWEST == 0


def with_weights_first(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A model in which the Gemms with these weights, [outputs, inputs], have them first."""
    return with_layers(model, ("Gemm",), {name: name for name in names}, "first/", _write)


def _write(graph: Writer, node: onnx.NodeProto, weights: str) -> None:
    """Nodes that compute what ``node`` does."""
    (x, _, *bias), (y,) = filter(None, node.input), node.output
    columns = graph.node("Transpose", [x], f"{y}/columns", perm=[1, 0])
    made = graph.product(weights, columns, bias, y)
    graph.node("Transpose", [made], f"{y}/back", y, perm=[1, 0])
