"""Dense layers with their weights as they are, of which all graphs then read one copy.

    y = x W^T + b      becomes      y^T = W x^T,  y = (y^T)^T + b

x [rows, inputs], W [outputs, inputs]. ONNX Runtime repacks the second factor of a product where it
is constant, for each graph anew; the first it reads where it is. The sums are the same, of the same
products, so that exact ones stay exact.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper

from .graphs import Writer, attributes_of, names_in, unused_prefix, with_nodes

FEWEST, MOST = 4, 128
"""Rows for which that pays, and one row.

Measured on a Xeon, one thread, times of those with repacked weights, for 1, 2, 4, 8, 16, 32, 64,
96 and 128 rows: 4096 inputs and outputs 0.88, 1.23, 1.07, 0.89, 0.76, 0.75, 0.94, 1.12, 1.11; 512
inputs 0.91, 1.42, 1.24, 0.95, 0.81, 0.72, 0.90, 1.12, 1.03. Repacked weights take as much memory
again in each graph."""


def dense_weights(
    node: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]], free: Collection[str]
) -> str | None:
    """The name of the weights of a dense layer that may come first in its product.

    ``constants``: shapes of weights, by name. ``free``: those that a layer may read in another way.
    None for other layers, and where W is [inputs, outputs]: read across, it takes up to three times
    as long.
    """
    given, (_, weights, *bias) = attributes_of(node), node.input
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if node.op_type != "Gemm" or not given.get("transB") or weights not in free:
        return None
    if any(given.get(k, v) != v for k, v in plain.items()):
        return None
    return weights if all(len(constants.get(b, (0, 0))) == 1 for b in filter(None, bias)) else None


def first_pays(rows: int) -> bool:
    """Whether a product of so many rows is to have its weights first."""
    return rows == 1 or FEWEST <= rows <= MOST


def with_weights_first(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A model in which the Gemms with these weights, [outputs, inputs], have them first."""
    if not names:
        return model
    inputs = {t.name: t.dims[1] for t in model.graph.initializer if t.name in names}
    graph = Writer(unused_prefix(names_in(model), "first/"))
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.input[1] in inputs:
            _write(graph, node, inputs)
        else:
            graph.nodes.append(node)
    constants = graph.initializers.values()
    return with_nodes(model, graph.nodes, model.graph.output, constants=constants)


def _write(graph: Writer, node: onnx.NodeProto, inputs: Mapping[str, int]) -> None:
    """Nodes that compute what ``node`` does."""
    (x, weights, *bias), (y,) = filter(None, node.input), node.output
    turned = graph.node("Transpose", [x], f"{y}/turned", perm=[1, 0])
    # Behind it, ONNX Runtime does not make that Transpose a part of the product, which takes 1.3
    # times as long for one row.
    sizes = graph.constant(np.array([inputs[weights], -1]), f"sizes/{inputs[weights]}")
    columns = graph.node("Reshape", [turned, sizes], f"{y}/columns")
    if bias:
        column = graph.node("Reshape", [*bias, graph.constant([-1, 1], "column")], f"{y}/bias")
        made = graph.node("Gemm", [weights, columns, column], f"{y}/product")
    else:
        made = graph.node("MatMul", [weights, columns], f"{y}/product")
    back = helper.make_node("Transpose", [made], [y], f"{graph.prefix}{y}/back", perm=[1, 0])
    graph.nodes.append(back)
