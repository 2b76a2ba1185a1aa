"""Along which axes tensors have samples and channels."""

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import Refusal, UnsupportedModelError

from .editing import variables_of
from .neurons import NEURONS

_KEEP_CHANNELS = {
    "Add", "BatchNormalization", "Cast", "Clip", "Div", "Identity", "Min", "Mul", "Neg", "Relu",
    "Sub", "Sum", *NEURONS,
}  # fmt: skip


def channel_axis(tensor: gs.Tensor) -> int:
    """The axis that counts channels: 1, as for images, or the last one after a MatMul.

    The one before after a MatMul with the weights first, W x. The last also where a Reshape came
    between that left it as it was, as around a Gemm on sequences, and where axis 1 is of open size,
    as in sequences, and the last is not.
    """
    shape, reshaped = tensor.shape, False
    rank = None if shape is None else len(shape)
    while tensor.inputs and rank is not None and rank > 2:
        node = tensor.inputs[0]
        if node.op in ("MatMul", "Gemm"):
            if not isinstance(node.inputs[0], gs.Constant):
                return rank - 1
            if not reshaped:
                return rank - 2
            break
        if node.op not in (*_KEEP_CHANNELS, "Reshape"):
            break
        before = (variables_of(node) or node.inputs)[0]
        if before.shape is None:
            break
        if node.op == "Reshape":
            same, reshaped = before.shape[-1:] == tensor.shape[-1:], True
        else:
            same = len(before.shape) == len(tensor.shape)
        if not same:
            break
        tensor = before
    if shape and rank and rank > 2 and isinstance(shape[1], str) and isinstance(shape[-1], int):
        return rank - 1
    return 1


def names_of_samples(graph: gs.Graph) -> set[str]:
    """What the inputs of a graph call the number of samples, where that is open."""
    firsts = {given.shape[0] for given in graph.inputs if given.shape}
    return {name for name in firsts if isinstance(name, str)}


def samples_axis(graph: gs.Graph, tensor: gs.Tensor) -> int:
    """The axis along which a tensor has the samples, as far as shapes tell; else 0.

    Behind a Reshape to [-1, ...] their number has lost its name: then it is the one open size.
    """
    names, shape = names_of_samples(graph), list(tensor.shape or ())
    open_sizes = [axis for axis, size in enumerate(shape) if isinstance(size, str)]
    found = [axis for axis in open_sizes if shape[axis] in names]
    if not found and names and len(open_sizes) == 1 and isinstance(shape[0], int):
        found = open_sizes
    return found[0] if found else 0


def require_channels(graph: gs.Graph, nodes: Iterable[gs.Node], what: str) -> None:
    """Raise ``UnsupportedModelError`` for layers whose channel axis is their batch axis.

    Or another of which the inputs leave the size open: data shows how many there are of it in the
    data, not in the network.
    """
    opened = {size for given in graph.inputs for size in given.shape or () if isinstance(size, str)}

    def counts_no_channels(tensor: gs.Tensor) -> bool:
        axis, shape = channel_axis(tensor), tensor.shape or ()
        is_open = axis < len(shape) and shape[axis] in opened
        return is_open or samples_axis(graph, tensor) == axis

    refuse_layout(
        [n for n in nodes if counts_no_channels(n.outputs[0])],
        f"{what}: the axis that would count channels is of open size, or counts samples in these "
        "layers:",
        "take thresholds per layer (--per-layer) and a recipe that corrects nothing",
    )


def refuse_layout(nodes: Iterable[gs.Node], what: str, instead: str) -> None:
    """Raise ``UnsupportedModelError`` if there are nodes, whose samples are not along axis 0."""
    refusals = [
        Refusal(
            node.name,
            node.op,
            f"its output is {node.outputs[0].shape}: export the network with samples along axis "
            f"0, or {instead}",
        )
        for node in nodes
    ]
    if refusals:
        raise UnsupportedModelError(what, refusals)
