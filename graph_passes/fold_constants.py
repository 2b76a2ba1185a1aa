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
    if not any(_may_fold(node) for node in graph.nodes):
        return False
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


def _may_fold(node: gs.Node) -> bool:
    """Whether onnx-graphsurgeon might find something in a node: it copies the whole graph first."""
    if node.op in ("Constant", "Shape", "Size", "If", "Loop", "Scan"):
        return True
    return not neurons.is_stateful(node) and all(
        isinstance(tensor, gs.Constant) or tensor.is_empty() for tensor in node.inputs
    )


def _type_constant(node: gs.Node) -> None:
    """Constant(value_float=...) -> Constant(value=float32): gs would make it float64."""
    for name, dtype in (
        ("value_float", np.float32), ("value_floats", np.float32),
        ("value_int", np.int64), ("value_ints", np.int64),
    ):  # fmt: skip
        if name in node.attrs:
            value = np.array(node.attrs.pop(name), dtype)
            node.attrs["value"] = gs.Constant(f"{node.name}/value", value)
