"""Write differences of absolute values as the clips that they are."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.affine import affine_of
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    is_floating,
    maker_of,
    only_consumer,
    producer,
    replace_node,
    require_opset,
)
from onnx2snn.graph_passes.graph.tidying import rewrite_nodes


def differences_to_clips(graph: gs.Graph) -> bool:
    """|u| - |u - a|  ->  2 clip(u; 0, a) - a, a > 0, and |u - a| - |u|  ->  a - 2 clip(u; 0, a).

    As PACT has its clip, (|x| - |x - a| + a) / 2 (Choi et al. 2018). a is constant, one for all or
    one for each channel; the clip is written as Min(Relu(u), a). Where something else reads the
    absolute values, or their type is unknown, they stay. Run it before ``decompose_activations``,
    which writes |x| as a sum.
    """
    require_opset(graph)
    return rewrite_nodes(graph, _rewrite)


def _rewrite(editor: Editor, node: gs.Node) -> bool:
    """Write a node as a clip, if it is one."""
    if node.op != "Sub" or node.domain or not node.inputs:
        return False
    like = node.outputs[0]
    if like.dtype is None or not is_floating(like):
        return False
    (first, more), (second, less) = (_shifted(editor.graph, tensor, True) for tensor in node.inputs)
    sizes = [maker_of(tensor, "Abs") for tensor in (first, second)]
    if any(n is None or only_consumer(editor.graph, n.outputs[0]) is None for n in sizes):
        return False
    u, v = (n.inputs[0] for n in sizes if n is not None)
    (x, beyond), (same, short) = (_shifted(editor.graph, tensor, False) for tensor in (u, v))
    a = beyond - short
    if x is not same or not (np.all(a > 0) or np.all(a < 0)):
        return False
    if np.any(2 * abs(a) >= np.finfo(like.dtype).max):
        # Of halves, twice a clip may be none.
        return False
    source, sign = (u, 1.0) if np.all(a > 0) else (v, -1.0)
    bound = editor.constant(f"{node.name}/bound", np.abs(a).astype(like.dtype))
    # One bound for all ``unify_clips`` makes a Clip of.
    relu = editor.node("Relu", f"{node.name}/relu", [source], like=like)
    clip = editor.node("Min", f"{node.name}/clip", [relu, bound], like=like)
    two = editor.constant(f"{node.name}/two", np.asarray(2 * sign, like.dtype))
    twice = editor.node("Mul", f"{node.name}/twice", [clip, two], like=like)
    rest = editor.constant(f"{node.name}/rest", (more - less - a).astype(like.dtype))
    replace_node(node, "Add", [twice, rest])
    return True


def _shifted(graph: gs.Graph, tensor: gs.Tensor, alone: bool) -> tuple[gs.Tensor, np.ndarray]:
    """The x of a tensor x + c, and c; the tensor and 0 where it is no such sum.

    ``alone``: whether nothing else may read the sum.
    """
    maker = producer(tensor)
    affine = None if maker is None else affine_of(graph, maker)
    if affine is None or np.any(affine.scale != 1):
        return tensor, np.zeros(())
    if alone and only_consumer(graph, tensor) is None:
        return tensor, np.zeros(())
    return affine.x, affine.shift
