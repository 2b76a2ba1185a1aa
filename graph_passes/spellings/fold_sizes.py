"""Sizes that a graph asks for at run time though they are known before."""

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    disconnect,
    known_value,
    optional_input,
    producer,
    subgraphs_of,
)


def fold_sizes(graph: gs.Graph) -> None:
    """Shape(x), and a Gather or Slice of it, -> a constant, where all sizes it picks are known.

    Others, such as the batch size, may be open. So Size(x), as of a shape, whose sizes are axes.
    onnx-graphsurgeon's own folding of sizes knows no ``start`` and ``end`` of Shape, and takes
    Casts of data for those of sizes.
    """
    doubtful = _behind_pools_in_branches(graph)
    for node in list(graph.nodes):
        sizes = None if any(t.name in doubtful for t in node.outputs) else _sizes(node)
        if sizes is not None and np.all(sizes >= 0):
            node.outputs[0].to_constant(sizes)
            disconnect(node)


def _behind_pools_in_branches(graph: gs.Graph) -> set[str]:
    """The names of tensors whose size may be less than ONNX's shape inference says.

    Of pools outside of branches ``end_pools_in_the_image`` has seen to that.
    """
    found: set[str] = set()
    for node in graph.nodes:
        inside = [inner for part in subgraphs_of(node) for inner in part.nodes]
        rounds_up = any(inner.attrs.get("ceil_mode") for inner in inside)
        if rounds_up or any(tensor.name in found for tensor in node.inputs):
            found.update(tensor.name for tensor in node.outputs)
    return found


def _sizes(node: gs.Node | None) -> np.ndarray | None:
    """The sizes that a node picks of a shape, -1 for an open one; None if it does no such thing."""
    if node is None or node.domain or not node.inputs:
        return None
    match node.op:
        case "Shape":
            shape = node.inputs[0].shape
            if shape is None:
                return None
            known = [size if isinstance(size, int) else -1 for size in shape]
            return np.array(known, np.int64)[node.attrs.get("start", 0) : node.attrs.get("end")]
        case "Size":
            shape = node.inputs[0].shape
            if shape is None or not all(isinstance(size, int) for size in shape):
                return None
            return np.array(math.prod(shape), np.int64)
        case "Gather" | "Slice":
            sizes = _sizes(producer(node.inputs[0]))
            if sizes is None or sizes.ndim != 1:
                return None
            return _gathered(node, sizes) if node.op == "Gather" else _sliced(node, sizes)
    return None


def _gathered(node: gs.Node, sizes: np.ndarray) -> np.ndarray | None:
    indices = known_value(node.inputs[1])
    if indices is None or not np.all((indices >= -sizes.size) & (indices < sizes.size)):
        return None
    return np.asarray(sizes[indices])


def _sliced(node: gs.Node, sizes: np.ndarray) -> np.ndarray | None:
    start, end, step = (_bound(node, index) for index in (1, 2, 4))
    if start is None or end is None or not step:
        return None
    # Backwards from far before the first, ONNX begins at the first, and NumPy nowhere.
    return sizes[max(start, -sizes.size) : end : step]


def _bound(node: gs.Node, index: int) -> int | None:
    """Start, end or step of a Slice of one axis; None if it is not constant."""
    given = optional_input(node, index)
    if given is None:
        return 1  # The step alone may be left out.
    value = known_value(given)
    return int(value.reshape(())) if value is not None and value.size == 1 else None
