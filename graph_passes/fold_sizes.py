"""Sizes that a graph asks for at run time though they are known before."""

import numpy as np
import onnx_graphsurgeon as gs

from .editing import disconnect, known_value, producer


def fold_sizes(graph: gs.Graph) -> None:
    """Shape(x), and a Gather or Slice of it, -> a constant, where all sizes it picks are known.

    Others, such as the batch size, may be open. onnx-graphsurgeon's own folding of sizes knows
    no ``start`` and ``end`` of Shape, and takes Casts of data for those of sizes.
    """
    for node in list(graph.nodes):
        sizes = _sizes(node)
        if sizes is not None and np.all(sizes >= 0):
            node.outputs[0].to_constant(sizes)
            disconnect(node)


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
    start, end, step = (_bound(node, *which) for which in _BOUNDS)
    if start is None or end is None or step is None:
        return None
    # Backwards from far before the first, ONNX begins at the first, and NumPy nowhere.
    return sizes[max(start, -sizes.size) : end : step]


# Of a Slice: where they are among its inputs, their names as attributes before opset 10.
_BOUNDS = ((1, "starts", None), (2, "ends", None), (4, "steps", 1))


def _bound(node: gs.Node, index: int, attribute: str, default: int | None) -> int | None:
    """One of the bounds of a Slice of one axis; None if it is not constant."""
    given = node.attrs.get(attribute)
    if len(node.inputs) > index and not node.inputs[index].is_empty():
        given = known_value(node.inputs[index])
        if given is None:
            return None
    if given is None:
        return default
    return int(np.ravel(given)[0]) if np.size(given) == 1 else None
