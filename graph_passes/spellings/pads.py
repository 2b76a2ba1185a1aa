"""Fold a Pad into the operator that it was written for."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.activations import is_non_negative
from onnx2snn.graph_passes.graph.bounds import open_below
from onnx2snn.graph_passes.graph.editing import (
    bypass,
    constant_input,
    is_floating,
    only_consumer,
    pads_of,
    producer,
    require_opset,
)
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.graph.windows import (
    is_dilated,
    pads_itself,
    pads_of_window,
    written_pads,
)

_POOLS = ("AveragePool", "MaxPool")


def fold_pads(graph: gs.Graph) -> bool:
    """Pad(0) -> the pads of Conv or AveragePool; Pad(-infinity) -> those of MaxPool.

    Zeros before a MaxPool are folded too where what they surround is never below 0. Only
    constant, non-negative pads of an image's axes are folded; any other Pad stays, which is
    affine as well. ``auto_pad`` of a Conv becomes pads, too, where sizes tell them. Exact.
    """
    require_opset(graph)
    changed = False
    alone = [node for node in graph.nodes if node.op == "Conv" and _can_be_written_out(node)]
    if any(set(node.attrs.get("strides", [1])) != {1} for node in alone):
        # What a file says of sizes need not be so.
        infer_shapes(graph)
    for node in alone:
        changed |= _write_out(node)
    # From the last to the first, so that of several in a row each meets the operator in its turn.
    for node in reversed(list(graph.nodes)):
        if node.op == "Pad" and not node.domain:
            changed |= _fold(graph, node)
    if changed:
        tidy(graph)
    return changed


def _can_be_written_out(conv: gs.Node) -> bool:
    # ONNX Runtime takes none that are dilated.
    return pads_itself(conv) and not is_dilated(conv) and not conv.domain


def _write_out(conv: gs.Node) -> bool:
    """Give a convolution that pads by itself its pads; whether that could be."""
    kernel = list((conv.inputs[1].shape or [])[2:])
    if not kernel or not all(isinstance(size, int) for size in kernel):
        return False
    pads = pads_of_window(conv, kernel)
    # ONNX Runtime begins within the image where windows leave out pixels.
    if pads is None or min(pads) < 0:
        return False
    del conv.attrs["auto_pad"]
    conv.attrs["pads"] = pads
    return True


def _fold(graph: gs.Graph, node: gs.Node) -> bool:
    following = only_consumer(graph, node.outputs[0])
    pads = _spatial_pads(node)
    if following is None or pads is None or following.domain:
        return False
    if following.op not in ("Conv", *_POOLS) or following.inputs[0] is not node.outputs[0]:
        return False
    attrs, own = following.attrs, written_pads(following, len(pads) // 2)
    if pads_itself(following) or len(own) != len(pads):
        return False
    value = _value(node)
    total = [a + b for a, b in zip(own, pads, strict=True)]
    is_conv = following.op == "Conv"
    if not (value == 0 if is_conv else _fits_pool(graph, node, following, value, own, total)):
        return False
    attrs.pop("auto_pad", None)
    attrs["pads"] = total
    if following.op == "AveragePool":
        attrs["count_include_pad"] = 1
    bypass(graph, node)
    return True


def _fits_pool(
    graph: gs.Graph, pad: gs.Node, pool: gs.Node, value: float, own: list[int], total: list[int]
) -> bool:
    kernel = pool.attrs["kernel_shape"]
    # ONNX Runtime refuses a pool that could see padding alone.
    if (
        is_dilated(pool)
        or pool.attrs.get("ceil_mode", 0)
        or any(size >= kernel[axis % len(kernel)] for axis, size in enumerate(total))
    ):
        return False
    if pool.op == "AveragePool":
        counted = not any(own) or pool.attrs.get("count_include_pad", 0) == 1
        return bool(value == 0 and counted)
    if len(pool.outputs) > 1:
        return False
    dtype = np.dtype(np.float32 if pad.inputs[0].dtype is None else pad.inputs[0].dtype)
    if open_below(np.asarray(value), dtype) == -np.inf:
        return True
    before = producer(pad.inputs[0])
    return bool(value == 0 and before is not None and is_non_negative(graph, before))


def _value(node: gs.Node) -> float:
    value = constant_input(node, 2, 0.0)
    return np.nan if value is None else float(value.reshape(()))


def _spatial_pads(node: gs.Node) -> list[int] | None:
    """The pads of axes 2 and up in ONNX's order, begins then ends; None if not foldable."""
    pads = pads_of(node)
    if node.attrs.get("mode", "constant") != "constant" or pads is None:
        return None
    if np.any(pads[:, :2]) or np.any(pads < 0) or not is_floating(node.inputs[0]):
        return None
    return [int(pad) for pad in pads[:, 2:].reshape(-1)]
