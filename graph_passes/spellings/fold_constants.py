"""Compute at conversion what is constant."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.graph_passes.graph import neurons
from onnx2snn.graph_passes.graph.editing import known_value, require_opset, until_done
from onnx2snn.graph_passes.graph.operators import WEIGHTED
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.model_files.limits import MAX_COMPUTED_WEIGHT_BYTES, MAX_TENSOR_BYTES
from onnx2snn.graph_passes.model_files.protos import onnx_type
from onnx2snn.graph_passes.quiet import quietly

from .branches import flatten_branches
from .ceil_mode import end_pools_in_the_image
from .fold_sizes import fold_sizes

RANDOM_OPS = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip
"""What computes another result each time; besides, Dropout does in training."""

_MAKE_SEQUENCES = {
    "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap",
    "SplitToSequence",
}  # fmt: skip
"""What makes no tensor, so that no constant can stand for it."""

# What a few numbers can make large: folded only once the size of the result is known.
_GROWING_OPS = {
    "ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample",
}  # fmt: skip

_KNOWN_DOMAINS = ("", "ai.onnx.ml", "com.microsoft")

_MOST = 2**25
"""Elements that all folded constants of a network may always have together, besides weights."""


def fold_constants(graph: gs.Graph) -> bool:
    """f(constants) -> its value. Random operators and neurons are never folded, nor what would
    be larger, in all, than twice the constants of the network, if those are many.

    Pools that are smaller than ONNX's shape inference says, which sizes follow from, are brought to
    that size first (``end_pools_in_the_image``). ONNX Runtime's default log level is that of
    warnings afterwards, as it is at first: what it was cannot be asked for.
    """
    require_opset(graph)
    # Sizes that only then are known may make more constant.
    return until_done(_fold_once, graph)


def _fold_once(graph: gs.Graph) -> bool:
    before, ended = list(graph.nodes), end_pools_in_the_image(graph)
    if not any(_may_fold(node) for node in graph.nodes):
        return ended
    for node in graph.nodes:
        if node.op == "Constant" and "value" not in node.attrs:
            # onnx-graphsurgeon would make value_float float64.
            value = known_value(node.outputs[0])
            if value is not None:
                node.attrs = {"value": gs.Constant(f"{node.name}/value", value)}
    if any(node.op in _GROWING_OPS and _elements(node) is None for node in graph.nodes):
        infer_shapes(graph)
    _require_sane_sizes(graph)
    fold_sizes(graph)
    # Not inside the branches of an If: one whose condition is constant is flattened, and what
    # was inside it is folded in the next round.
    with quietly():
        graph.fold_constants(
            fold_shapes=False,
            recurse_subgraphs=False,
            flatten_subgraphs=False,
            should_exclude_node=_stays(graph),
        )
    flatten_branches(graph)
    tidy(graph)
    if {id(node) for node in graph.nodes} == {id(node) for node in before}:
        return ended
    # What was computed at run time may have hidden shapes.
    infer_shapes(graph)
    return True


def _may_fold(node: gs.Node) -> bool:
    """Whether onnx-graphsurgeon might find something in a node: it copies the whole graph first."""
    if node.op in ("Constant", "Shape", "Size", "If", "Loop", "Scan"):
        return True
    return not neurons.is_stateful(node) and all(
        isinstance(tensor, gs.Constant) or tensor.is_empty() for tensor in node.inputs
    )


def _require_sane_sizes(graph: gs.Graph) -> None:
    """Refuse what nothing can compute, now that constants give more sizes than the file did."""
    for node in graph.nodes:
        if node.op not in _GROWING_OPS:
            continue
        size = (_elements(node) or 0) * _itemsize(node)
        if size > MAX_TENSOR_BYTES:
            raise ModelError(
                f"{node.op} '{node.name}' would make {size / 2**30:.3g} GiB: the file is damaged, "
                "or export the network for smaller inputs or fewer samples"
            )


def _stays(graph: gs.Graph) -> Callable[[gs.Node], bool]:
    """Whether a node must not be folded, though its inputs are constant."""
    constants = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    left = max(_MOST, 2 * sum(math.prod(tensor.shape) for tensor in constants))
    folded: dict[str, int] = {}
    # onnx-graphsurgeon asks about the nodes of a copy.
    made = {tensor.name for node in graph.nodes for tensor in node.outputs}

    def stays(node: gs.Node) -> bool:
        nonlocal left
        if neurons.is_stateful(node) or node.op in RANDOM_OPS or node.op == "Dropout":
            return True
        if node.op == "If":
            # It becomes its branch, whole: of several results some alone would be computed.
            return True
        if (node.domain or "") not in _KNOWN_DOMAINS:
            # One that ONNX Runtime cannot compute would keep it from all others.
            return True
        if node.op in _MAKE_SEQUENCES and not _is_read_with_constants(node, made):
            return True
        size = _elements(node)
        if size is None:
            return node.op in _GROWING_OPS
        if _makes_weights(node) and size * _itemsize(node) <= MAX_COMPUTED_WEIGHT_BYTES:
            return False
        # onnx-graphsurgeon may ask about a node several times.
        if size > left + folded.get(node.name, 0):
            return True
        left -= size - folded.get(node.name, 0)
        folded[node.name] = size
        return False

    return stays


def _is_read_with_constants(node: gs.Node, made: set[str]) -> bool:
    """Whether all that is made of a node's sequences, up to tensors, is made of constants.

    ``made``: the names of what nodes make that are in no subgraph.
    """
    waiting, own = [node], set[int]()
    while waiting:
        maker = waiting.pop()
        own |= {id(tensor) for tensor in maker.outputs}
        for reader in (reader for tensor in maker.outputs for reader in tensor.outputs):
            beside = [tensor for tensor in reader.inputs if id(tensor) not in own]
            inner = reader.outputs[0].name not in made
            if inner or not all(isinstance(t, gs.Constant) for t in beside):
                return False
            if reader.op in _MAKE_SEQUENCES:
                waiting.append(reader)
    return True


def _makes_weights(node: gs.Node) -> bool:
    """Whether all that reads a node's result is layers, as their weights."""
    readers = [reader for tensor in node.outputs for reader in tensor.outputs]
    return all(
        reader.op in WEIGHTED and all(reader.inputs[0] is not tensor for tensor in node.outputs)
        for reader in readers
    )


def _elements(node: gs.Node) -> int | None:
    """How many elements the outputs of a node have; None where a shape is not known."""
    size = 0
    for tensor in node.outputs:
        if tensor.shape is None or not all(isinstance(axis, int) for axis in tensor.shape):
            return None
        size += math.prod(tensor.shape)
    return size


def _itemsize(node: gs.Node) -> int:
    """Bytes of an element of what a node makes; those of float32 where the type is not known."""
    types = [onnx_type(tensor.dtype) for tensor in node.outputs if tensor.dtype is not None]
    sizes = [onnx.helper.tensor_dtype_to_np_dtype(number).itemsize for number in types]
    return max(sizes, default=np.dtype(np.float32).itemsize)
