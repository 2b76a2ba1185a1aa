"""Bring pools that round their size up to the size that they really have."""

from operator import gt, lt

import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import require_opset
from onnx2snn.graph_passes.graph.regions import downstream
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.windows import written_pads


def end_pools_in_the_image(graph: gs.Graph) -> bool:
    """A pool with ``ceil_mode`` whose last window would lie in the padding -> pads that fit.

    Of an image of H pixels with pads b and e, windows of k pixels and strides of s make

        ceil((H + b + e - k) / s) + 1

    results by ``ceil_mode``; PyTorch and ONNX Runtime leave out the last one where it begins
    at H or later, which ONNX's shape inference does not know. Pads at the end that stop at the
    window before say the same without ``ceil_mode``, and shapes follow. Nor does it know that pads
    beside VALID, which ONNX Runtime lets pools have, count for nothing: they go. Exact.
    """
    require_opset(graph)
    changed = False
    for node in graph.nodes:
        is_pool = node.op in ("AveragePool", "MaxPool") and not node.domain
        if is_pool and (_drop_idle_pads(node) or _end(node)):
            changed = True
            # What comes after has another size, and so may have other windows.
            after = downstream(graph, node.outputs)
            stale = [t for t in graph.tensors().values() if t.name in after and t.shape]
            old = [tensor.shape for tensor in stale]
            for tensor in stale:
                tensor.shape = None
            infer_shapes(graph)
            for tensor, (samples, *others) in zip(stale, old, strict=True):
                # Behind what ONNX has no shape inference for, the number of axes at least stays.
                if tensor.shape is None:
                    open_sizes = [f"{tensor.name}.{axis}" for axis in range(1, len(others) + 1)]
                    tensor.shape = [samples, *open_sizes]
    return changed


def _drop_idle_pads(pool: gs.Node) -> bool:
    """Drop pads that VALID switches off; whether there were any."""
    idle = pool.attrs.get("auto_pad") == "VALID" and any(pool.attrs.get("pads", []))
    if idle:
        del pool.attrs["pads"]
    return idle


def _end(pool: gs.Node) -> bool:
    """Set the pads of a pool; whether that was needed."""
    attrs, shape = pool.attrs, pool.inputs[0].shape
    size = shape[2:] if shape else ()
    known = size and all(isinstance(axis, int) for axis in size)
    if not attrs.get("ceil_mode") or attrs.get("auto_pad", "NOTSET") != "NOTSET" or not known:
        return False
    rank, kernels = len(size), attrs["kernel_shape"]
    ones, own = [1] * rank, written_pads(pool, rank)
    begins, olds, ends, too_far = own[:rank], own[rank:], [], []
    steps = attrs.get("strides", ones), attrs.get("dilations", ones)
    axes = zip(size, kernels, begins, olds, *steps, strict=True)
    for pixels, kernel, begin, end, stride, dilation in axes:
        reach = dilation * (kernel - 1) + 1
        last = -((begin + pixels + end - reach) // -stride)
        too_far.append(last * stride >= begin + pixels)
        last -= too_far[-1]
        ends.append(last * stride + reach - begin - pixels)
    # Where windows reach beyond the pads, an average over all pixels counts none of those.
    counts = pool.op == "AveragePool" and attrs.get("count_include_pad", 0) == 1
    rounds_up = counts and any(map(gt, ends, olds))
    # ONNX Runtime takes no pads as large as a kernel.
    fits = all(map(lt, ends, kernels))
    if rounds_up:
        # So axes whose windows are all there stay, and others end within their pads, or not at all.
        ends = [new if far else old for far, new, old in zip(too_far, ends, olds, strict=True)]
        fits &= all(0 <= new <= old for new, old in zip(ends, olds, strict=True))
    if not any(too_far) or not fits:
        return False
    attrs["pads"] = [*begins, *(max(0, end) for end in ends)]
    attrs["ceil_mode"] = int(rounds_up)
    return True
