"""Compute at conversion what is constant."""

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from . import neurons
from .editing import name_nodes, tidy

_RANDOM_OPS = {
    "Bernoulli", "Dropout", "Multinomial",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip


def fold_constants(graph: gs.Graph) -> bool:
    """f(constants) -> its value. Random operators and neurons are never folded."""
    before = len(graph.nodes)
    for node in graph.nodes:
        if node.op == "Constant":
            _type_constant(node)
    # onnx-graphsurgeon warns of each node that it cannot evaluate; such a node just stays.
    with G_LOGGER.suppress():
        graph.fold_constants(
            should_exclude_node=lambda node: neurons.is_stateful(node) or node.op in _RANDOM_OPS
        )
    # An If whose condition is constant is replaced by its branch, whose nodes have no names.
    name_nodes(graph)
    tidy(graph)
    return len(graph.nodes) != before


def _type_constant(node: gs.Node) -> None:
    """Constant(value_float=...) -> Constant(value=float32): gs would make it float64."""
    for name, dtype in (
        ("value_float", np.float32), ("value_floats", np.float32),
        ("value_int", np.int64), ("value_ints", np.int64),
    ):  # fmt: skip
        if name in node.attrs:
            value = np.array(node.attrs.pop(name), dtype)
            node.attrs["value"] = gs.Constant(f"{node.name}/value", value)
