"""Bring pools that round their size up to the size that they really have."""

import onnx_graphsurgeon as gs

from .io import infer_shapes
from .linear import downstream


def end_pools_in_the_image(graph: gs.Graph) -> bool:
    """A pool with ``ceil_mode`` whose last window would lie in the padding -> pads that fit.

    Of an image of H pixels with pads b and e, windows of k pixels and strides of s make

        ceil((H + b + e - k) / s) + 1

    results by ``ceil_mode``; PyTorch and ONNX Runtime leave out the last one where it begins
    at H or later, which ONNX's shape inference does not know. Pads at the end that stop at the
    window before say the same without ``ceil_mode``, and shapes follow. Exact.
    """
    changed = False
    for node in graph.nodes:
        if node.op in ("AveragePool", "MaxPool") and not node.domain and _end(node):
            changed = True
            # What comes after has another size, and so may have other windows.
            after = downstream(graph, node.outputs)
            for tensor in graph.tensors().values():
                if tensor.name in after:
                    tensor.shape = None
            infer_shapes(graph)
    return changed


def _end(pool: gs.Node) -> bool:
    """Set the pads of a pool; whether that was needed."""
    attrs, shape = pool.attrs, pool.inputs[0].shape
    size = shape[2:] if shape else ()
    known = size and all(isinstance(axis, int) for axis in size)
    if not attrs.get("ceil_mode") or attrs.get("auto_pad", "NOTSET") != "NOTSET" or not known:
        return False
    rank = len(size)
    ones, own = [1] * rank, attrs.get("pads", [0] * 2 * rank)
    ends, too_far = [], False
    for axis, (pixels, kernel, stride, dilation) in enumerate(
        zip(
            size,
            attrs["kernel_shape"],
            attrs.get("strides", ones),
            attrs.get("dilations", ones),
            strict=True,
        )
    ):
        begin, end, reach = own[axis], own[rank + axis], dilation * (kernel - 1) + 1
        last = -((begin + pixels + end - reach) // -stride)
        if last * stride >= begin + pixels:
            last, too_far = last - 1, True
        ends.append(last * stride + reach - begin - pixels)
    # Where windows reach beyond the pads, an average over all pixels counts none of those.
    counts = pool.op == "AveragePool" and attrs.get("count_include_pad", 0)
    beyond = any(new > old for new, old in zip(ends, own[rank:], strict=True))
    # ONNX Runtime takes no pads as large as a kernel.
    fits = all(new < kernel for new, kernel in zip(ends, attrs["kernel_shape"], strict=True))
    if not too_far or not fits or (counts and beyond):
        return False
    attrs["pads"] = [*own[:rank], *(max(0, end) for end in ends)]
    attrs["ceil_mode"] = 0
    return True
