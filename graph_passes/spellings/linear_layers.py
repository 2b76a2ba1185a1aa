"""Bring the spellings of linear layers and of global pooling into one form."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.affine import rounded, rounded_weights
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_value,
    leave_out,
    maker_of,
    only_consumer,
    optional_input,
    producer,
    reduction_axes,
    replace_node,
    require_opset,
)
from onnx2snn.graph_passes.graph.operators import ACTIVATIONS
from onnx2snn.graph_passes.graph.regions import downstream, upstream
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.model_files.limits import MAX_WINDOW


def unify_linear_layers(graph: gs.Graph) -> bool:
    """One form for each linear layer; exact up to rounding.

    Add(MatMul(x, W), b), x of [N, features]   ->  Gemm(x, W, b)
    Gemm with alpha, beta                      ->  Gemm(x, alpha W, beta b)
    Gemm with transA                           ->  Gemm(Transpose(x), W, b)
    Sum(x, y)                                  ->  Add(x, y)
    ReduceMean, ReduceMax over all of an image ->  GlobalAveragePool, GlobalMaxPool
    Squeeze(pool(Unsqueeze(x))), pool global   ->  pool(x), as of the mean of a sequence
    ReduceMax over other axes of known sizes   ->  MaxPool, those last
    ReduceMin                                  ->  -ReduceMax(-x), and that as above

    Neither ReduceMax nor ReduceMin before all activations: what an input is normalised by, no pool.
    Nor a MaxPool where no activation follows: a read-out may hold any maximum.
    """
    require_opset(graph)
    editor = Editor(graph)
    starts = [node for node in graph.nodes if node.op in ACTIVATIONS and not node.domain]
    activated = downstream(graph, [node.outputs[0] for node in starts])
    followed = upstream(graph, starts)
    changed = False
    for node in list(graph.nodes):
        if node.domain or not node.inputs:
            continue
        match node.op:
            case "MatMul":
                changed |= _with_bias(graph, node)
            case "Gemm":
                changed |= _plain_gemm(editor, node)
            case "Sum" if len(node.inputs) == 2:
                node.op = "Add"
                changed = True
            case "ReduceMax" | "ReduceMin" if starts and node.inputs[0].name not in activated:
                pass
            case "ReduceMean" | "ReduceMax" | "ReduceMin":
                changed |= _pool(editor, node, node.outputs[0].name in followed)
            case "Squeeze":
                changed |= _pool_without_added_axes(graph, node)
    if changed:
        tidy(graph)
    return changed


def _with_bias(graph: gs.Graph, node: gs.Node) -> bool:
    weight, add = constant_value(node.inputs[1]), only_consumer(graph, node.outputs[0])
    shape = node.outputs[0].shape
    if weight is None or weight.ndim != 2 or weight.dtype.kind != "f":
        return False
    if shape is None or len(shape) != 2:
        return False
    if add is None or add.op != "Add" or add.domain:
        return False
    other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    bias = constant_value(other)
    features = weight.shape[1]
    if bias is None or bias.shape not in ((), (1,), (features,), (1, 1), (1, features)):
        return False
    x, w = node.inputs
    replace_node(node, "Gemm", [x, w, other])
    leave_out(graph, add, node.outputs[0])
    return True


def _plain_gemm(editor: Editor, node: gs.Node) -> bool:
    changed = False
    for attribute, index in (("alpha", 1), ("beta", 2)):
        factor = node.attrs.get(attribute, 1.0)
        if factor == 1.0:
            continue
        given = optional_input(node, index)
        value = None if given is None else constant_value(given)
        if given is not None and value is None:
            continue
        if value is not None:
            as_type = rounded_weights if attribute == "alpha" else rounded
            scaled = as_type(value.astype(np.float64) * factor, value.dtype)
            if scaled is None:
                continue
            node.inputs[index] = editor.constant(f"{node.name}/{attribute}", scaled)
        del node.attrs[attribute]
        changed = True
    if node.attrs.get("transA", 0):
        x = node.inputs[0]
        shape = None if x.shape is None else list(x.shape)[::-1]
        like = gs.Variable("", x.dtype, shape)
        node.inputs[0] = editor.node(
            "Transpose", f"{node.name}/transA", [x], {"perm": [1, 0]}, like
        )
        del node.attrs["transA"]
        changed = True
    return changed


def _pool(editor: Editor, node: gs.Node, between: bool) -> bool:
    """A global pool where one axis is kept; else of maxima a window over those that are not.

    ``between``: whether an activation follows.
    """
    x = node.inputs[0]
    axes = reduction_axes(node)
    # ONNX Runtime has pools of one to three axes, not in double precision, and not of nothing.
    if not axes or x.shape is None or 0 in x.shape or x.dtype not in (np.float32, np.float16):
        return False
    rank = len(x.shape)
    if not 3 <= rank <= 5:
        return False
    reduced = sorted({axis % rank for axis in axes})
    kept = [axis for axis in range(1, rank) if axis not in reduced]
    if 0 in reduced or not kept:
        return False
    sizes = [x.shape[axis] for axis in reduced]
    windows = len(kept) > 1
    known = all(isinstance(size, int) and 0 < size <= MAX_WINDOW for size in sizes)
    if windows and not (between and known and node.op != "ReduceMean"):
        return False
    if node.op == "ReduceMin":
        x = editor.node("Neg", f"{node.name}/negative", [x], like=x)
        inputs, attributes = [x, *node.inputs[1:]], dict(node.attrs)
        name, like = f"{node.name}/largest", node.outputs[0]
        largest = editor.node("ReduceMax", name, inputs, attributes, like)
        replace_node(node, "Neg", [largest])
        (node,) = largest.inputs
    front = [0, *kept, *reduced]
    moved = front != list(range(rank))
    if moved:
        like = gs.Variable("", x.dtype, [x.shape[axis] for axis in front])
        x = editor.node("Transpose", f"{node.name}/front", [x], {"perm": front}, like)
    op, attributes = "GlobalAveragePool" if node.op == "ReduceMean" else "GlobalMaxPool", {}
    if windows:
        op, attributes = "MaxPool", {"kernel_shape": [*(1 for _ in kept[1:]), *sizes]}
    keeps = node.attrs.get("keepdims", 1)
    if keeps and not moved:
        replace_node(node, op, [x], attributes)
        return True
    like = gs.Variable("", x.dtype, [*x.shape[: 1 + len(kept)], *(1 for _ in reduced)])
    pooled = editor.node(op, f"{node.name}/pool", [x], attributes, like)
    if keeps:
        replace_node(node, "Transpose", [pooled], {"perm": [front.index(n) for n in range(rank)]})
        return True
    places = np.arange(1 + len(kept), rank, dtype=np.int64)
    replace_node(node, "Squeeze", [pooled, editor.constant(f"{node.name}/axes", places)])
    return True


def _pool_without_added_axes(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether a Squeeze took away what an Unsqueeze before a global pool had added."""
    pool = producer(node.inputs[0])
    if pool is None or pool.domain or pool.op not in ("GlobalAveragePool", "GlobalMaxPool"):
        return False
    added = maker_of(pool.inputs[0], "Unsqueeze")
    if added is None or only_consumer(graph, pool.outputs[0]) is None:
        return False
    x, new, taken = added.inputs[0], reduction_axes(added), reduction_axes(node)
    if x.shape is None or len(x.shape) < 3 or not new or not taken:
        return False
    rank = len(x.shape) + len(new)
    places = {axis % rank for axis in new}
    # Samples and channels stay where they are.
    if min(places) < 2 or places != {axis % rank for axis in taken}:
        return False
    replace_node(node, pool.op, [x])
    return True
