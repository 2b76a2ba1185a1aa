"""Write attention in one operator as the products and the Softmax that it is."""

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_value,
    is_used,
    optional_input,
    replace_node,
    require_opset,
    until_done,
)
from onnx2snn.graph_passes.graph.neurons import attribute_tensor
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.model_files.protos import onnx_type

_SWAPPED = [0, 2, 1, 3]
"""[N, L, heads, size] from [N, heads, L, size], or the other way."""

_KEYS = [0, 2, 3, 1]
"""[N, heads, size, L], as keys are multiplied, from [N, L, heads, size]."""

_SHORT_MASKS = 24
"""The opset since which masks may be shorter than the keys."""

_SHAPE_OF_AXES = 15
"""The opset since which Shape may be of some axes; that of Trilu is older."""

_MASKS = (1, 2, 3)
"""How many axes masks have that ONNX Runtime's operators read: lengths, [N], or for each key."""


def split_attention(graph: gs.Graph) -> bool:
    """Attention(Q, K, V)  ->  MatMul(Softmax(MatMul(scale Q, K^T) + mask), V), for each head.

    Attention of ONNX (opset 23 and newer), as PyTorch's exporter writes
    ``scaled_dot_product_attention`` there: heads as an axis or side by side, fewer of keys than of
    queries, masks, of which one that lets a query see no key gives 0. And what ONNX Runtime's
    optimiser makes of attention: Attention, which has the weights of Q, K and V inside, and
    MultiHeadAttention. Those stay that read or hand on keys of other runs, have a soft cap, windows
    or rotary positions, or of whose heads number or size are not known; before opset 15 also those
    whose masks follow from an open number of keys.
    """
    require_opset(graph)
    # What one makes may be of a size that only then is known.
    return until_done(_split_once, graph)


def _split_once(graph: gs.Graph) -> bool:
    splits = {
        ("Attention", ""): _attention,
        ("Attention", "com.microsoft"): _with_weights,
        ("MultiHeadAttention", "com.microsoft"): _multi_head,
    }
    found = [node for node in graph.nodes if (node.op, node.domain or "") in splits]
    # Scores and keys that are handed on are not made here.
    found = [n for n in found if not any(is_used(graph, tensor) for tensor in n.outputs[1:])]
    if graph.opset < _SHAPE_OF_AXES:
        found = [node for node in found if not _counts_open_sizes(node)]
    if not found:
        return False
    if any(t.dtype is None for node in found for t in node.inputs if not t.is_empty()):
        # Of a mask it says whether it is added.
        infer_shapes(graph)
    editor = Editor(graph)
    changed = [splits[node.op, node.domain or ""](editor, node) for node in found]
    if any(changed):
        tidy(graph)
        infer_shapes(graph)
    return any(changed)


def _counts_open_sizes(node: gs.Node) -> bool:
    """Whether one of ONNX Runtime's has a mask that follows from how many queries or keys come."""
    apart = node.op == "MultiHeadAttention"
    mask, given = optional_input(node, 4 if apart else 3), node.inputs[: 2 if apart else 1]
    # Lengths are of keys alone.
    lengths = given[-1:] if mask is not None and len(mask.shape or ()) < 2 else []
    counted = given if node.attrs.get("unidirectional", 0) else lengths
    return not all(isinstance((tensor.shape or [0, ""])[1], int) for tensor in counted)


def _attention(editor: Editor, node: gs.Node) -> bool:
    """That of ONNX."""
    q, k, v = node.inputs[:3]
    mask = optional_input(node, 3)
    more = any(optional_input(node, place) is not None for place in range(4, len(node.inputs)))
    ranks = {len(tensor.shape or ()) for tensor in (q, k, v)}
    windows = [node.attrs.get(f"{side}_window_size", -1) for side in ("left", "right")]
    if more or node.attrs.get("softcap", 0.0) or windows != [-1, -1] or ranks not in ({3}, {4}):
        return False
    beside = ranks == {3}
    if beside:
        heads, shared = (node.attrs.get(f"{of}_num_heads") for of in ("q", "kv"))
    else:
        heads, shared = q.shape[1], k.shape[1]
    if not isinstance(heads, int) or not isinstance(shared, int):
        return False
    axis, size = (1, q.shape[2]) if beside else (2, q.shape[3])
    scale = _scale(node, size // heads if beside and isinstance(size, int) else size)
    # Since opset 24 a mask may be of the first keys alone, which leaves out the others.
    if mask is not None and editor.graph.opset >= _SHORT_MASKS and not _is_as_long(mask, k, axis):
        return False
    if scale is None:
        return False
    added = [] if mask is None else [_as_number(editor, node, mask)]
    if node.attrs.get("is_causal", 0):
        added.append(_causal(editor, node, q, k, axis))
    blind = mask is not None and _may_be_blind(added)
    if beside:
        q = _apart(editor, node, "q", q, heads, _SWAPPED)
        k = _apart(editor, node, "k", k, shared, _KEYS)
        v = _apart(editor, node, "v", v, shared, _SWAPPED)
    else:
        k = editor.node("Transpose", f"{node.name}/k", [k], {"perm": [0, 1, 3, 2]})
    if heads != shared:
        places = np.repeat(np.arange(shared), heads // shared)
        index = editor.constant(f"{node.name}/heads", places)
        k = editor.node("Gather", f"{node.name}/k_of_each", [k, index], {"axis": 1})
        v = editor.node("Gather", f"{node.name}/v_of_each", [v, index], {"axis": 1})
    _attend(editor, node, [q, k, v], scale, added, beside, blind)
    return True


def _is_as_long(mask: gs.Tensor, keys: gs.Tensor, axis: int) -> bool:
    """Whether a mask is known to be of all keys."""
    return _are_alike((mask.shape or [None])[-1], keys.shape[axis])


def _are_alike(size: int | str | None, other: int | str | None) -> bool:
    """Whether two sizes are known to be the same; those without a name are not known."""
    return size == other and size not in (None, "?")


def _as_number(editor: Editor, node: gs.Node, mask: gs.Tensor) -> gs.Tensor:
    """What a mask adds to the scores: -infinity where one of conditions does not hold."""
    if mask.dtype == np.bool_:
        return _where(editor, node, mask, -np.inf)
    if mask.dtype is None or mask.dtype == _type(node):
        return mask
    return editor.node("Cast", f"{node.name}/mask", [mask], {"to": onnx_type(_type(node))})


def _may_be_blind(added: Sequence[gs.Tensor]) -> bool:
    """Whether a query may see no key, as far as what is added to the scores says."""
    known = [value for tensor in added if (value := constant_value(tensor)) is not None]
    if len(known) < len(added):
        return True
    scores = sum(known[1:], known[0])
    return bool(scores.ndim and np.any(np.all(np.isneginf(scores), axis=-1)))


def _with_weights(editor: Editor, node: gs.Node) -> bool:
    """Attention of ONNX Runtime: x, weights of Q, K and V side by side, their biases, a mask."""
    x, weights = node.inputs[:2]
    bias, mask, past, added = (optional_input(node, place) for place in range(2, 6))
    held = constant_value(weights)
    if held is None or past is not None or node.attrs.get("do_rotary", 0):
        return False
    sizes = node.attrs.get("qkv_hidden_sizes") or [held.shape[1] // 3] * 3
    if not _is_known(mask, x):
        return False
    made = editor.node("MatMul", f"{node.name}/product", [x, weights])
    if bias is not None:
        made = editor.node("Add", f"{node.name}/biased", [made, bias])
    inputs = [made, editor.constant(f"{node.name}/sizes", np.array(sizes, np.int64))]
    parts = [gs.Variable(editor.name(f"{node.name}/{of}")) for of in "qkv"]
    name = editor.name(f"{node.name}/split")
    editor.graph.nodes.append(gs.Node("Split", name, {"axis": -1}, inputs, parts))
    _attend_beside(editor, node, (x, x), parts, sizes[0], mask, added)
    return True


def _multi_head(editor: Editor, node: gs.Node) -> bool:
    """MultiHeadAttention of ONNX Runtime: Q, K and V, their biases, a mask."""
    tensors = [optional_input(node, place) for place in range(3)]
    bias, mask, added = (optional_input(node, place) for place in range(3, 6))
    more = any(optional_input(node, place) is not None for place in range(6, len(node.inputs)))
    parts = [t for t in tensors if t is not None and len(t.shape or ()) == 3]
    if more or len(parts) < 3 or not all(isinstance(tensor.shape[2], int) for tensor in parts):
        return False
    sizes, given = [tensor.shape[2] for tensor in parts], parts[:2]
    biases = None if bias is None else constant_value(bias)
    if not _is_known(mask, parts[0]) or (bias is not None and biases is None):
        return False
    # Of fewer queries than keys ONNX Runtime lets the last see all.
    as_long = given[0] is given[1] or _are_alike(*(tensor.shape[1] for tensor in given))
    if node.attrs.get("unidirectional", 0) and not as_long:
        return False
    if biases is not None:
        shifts = np.split(biases, np.cumsum(sizes)[:-1])
        for place, (x, shift) in enumerate(zip(parts, shifts, strict=True)):
            constant = editor.constant(f"{node.name}/bias_{place}", shift)
            parts[place] = editor.node("Add", f"{node.name}/biased_{place}", [x, constant])
    _attend_beside(editor, node, given, parts, sizes[0], mask, added)
    return True


def _is_known(mask: gs.Tensor | None, x: gs.Tensor) -> bool:
    """Whether it is known which keys a mask leaves out.

    Of one axis it may also say where they begin, [2N], or where sequences begin, [3N + 2].
    """
    if mask is None:
        return True
    size, samples = ((tensor.shape or ["?"])[0] for tensor in (mask, x))
    # Two names may be of one size.
    other = size != samples and isinstance(size, int) and isinstance(samples, int)
    return len(mask.shape or ()) in _MASKS and not (len(mask.shape) == 1 and other)


def _attend_beside(
    editor: Editor,
    node: gs.Node,
    given: Sequence[gs.Tensor],
    parts: Sequence[gs.Tensor],
    size: int,
    mask: gs.Tensor | None,
    bias: gs.Tensor | None,
) -> None:
    """What ONNX Runtime's operators do with Q, K and V, whose heads are side by side.

    ``given``: what queries and keys are made of, [N, L, ...]. ``size``: that of all queries.
    ``mask``: which keys count, or how many; ``bias``: what is added to the scores.
    """
    heads = node.attrs["num_heads"]
    added = [] if bias is None else [_as_number(editor, node, bias)]
    if mask is not None:
        counts = _counting(editor, node, mask, given[1])
        added.append(_where(editor, node, counts, node.attrs.get("mask_filter_value", -10000.0)))
    if node.attrs.get("unidirectional", 0):
        added.append(_causal(editor, node, given[0], given[1], 1))
    q, k, v = (
        _apart(editor, node, of, part, heads, order)
        for of, part, order in zip("qkv", parts, (_SWAPPED, _KEYS, _SWAPPED), strict=True)
    )
    scale = node.attrs.get("scale", 0.0) or 1 / math.sqrt(size // heads)
    _attend(editor, node, [q, k, v], scale, added, True)


def _counting(editor: Editor, node: gs.Node, mask: gs.Tensor, keys: gs.Tensor) -> gs.Variable:
    """Which keys count, [N, 1, 1 or queries, keys], as a mask of ONNX Runtime's operators says.

    Of lengths, [N], the first so many; else those where it is above 0.
    """
    kind, rank = mask.dtype or np.int32, len(mask.shape)
    axes = {1: [1, 2, 3], 2: [1, 2], 3: [1]}[rank]
    axes_input = editor.constant(f"{node.name}/axes", np.array(axes, np.int64))
    mask = editor.node("Unsqueeze", f"{node.name}/mask", [mask, axes_input])
    if rank > 1:
        zero = editor.constant(f"{node.name}/zero", np.array(0, kind))
        return editor.node("Greater", f"{node.name}/counts", [mask, zero])
    lengths = editor.node("Cast", f"{node.name}/lengths", [mask], {"to": onnx.TensorProto.INT64})
    return editor.node("Less", f"{node.name}/counts", [_places(editor, node, keys), lengths])


def _places(editor: Editor, node: gs.Node, keys: gs.Tensor) -> gs.Tensor:
    """0, 1, ... for the keys [N, L, ...]."""
    size = keys.shape[1] if keys.shape else None
    if isinstance(size, int):
        return editor.constant(f"{node.name}/places", np.arange(size))
    count = editor.node("Shape", f"{node.name}/keys", [keys], {"start": 1, "end": 2})
    last = editor.node("Squeeze", f"{node.name}/count", [count])
    ends = [editor.constant(f"{node.name}/{name}", np.array(value, np.int64))
            for name, value in (("first", 0), ("one", 1))]  # fmt: skip
    return editor.node("Range", f"{node.name}/places", [ends[0], last, ends[1]])


def _scale(node: gs.Node, size: int | str | None) -> float | None:
    """By what Attention of ONNX multiplies the scores; None where it is not known, or not positive.

    ``size``: that of the query of a head.
    """
    scale = node.attrs.get("scale")
    if scale is None:
        return 1 / math.sqrt(size) if isinstance(size, int) and size else None
    return float(scale) if scale > 0 else None


def _apart(
    editor: Editor, node: gs.Node, of: str, x: gs.Tensor, heads: int, order: list[int]
) -> gs.Variable:
    """Heads that are side by side, [N, L, heads size], as an axis."""
    shape = editor.constant(f"{node.name}/{of}_shape", np.array([0, 0, heads, -1], np.int64))
    x = editor.node("Reshape", f"{node.name}/{of}_heads", [x, shape])
    return editor.node("Transpose", f"{node.name}/{of}", [x], {"perm": order})


def _where(editor: Editor, node: gs.Node, counts: gs.Tensor, value: float) -> gs.Variable:
    """0 where a key counts, a value elsewhere."""
    zero, low = (editor.constant(f"{node.name}/{name}", np.asarray(number, _type(node)))
                 for name, number in (("counted", 0.0), ("left_out", value)))  # fmt: skip
    return editor.node("Where", f"{node.name}/masked", [counts, zero, low])


def _causal(
    editor: Editor, node: gs.Node, queries: gs.Tensor, keys: gs.Tensor, axis: int
) -> gs.Tensor:
    """-infinity where a key comes after the query, [queries, keys], counted along an axis."""
    known = [tensor.shape[axis] for tensor in (queries, keys) if tensor.shape]
    sizes = [size for size in known if isinstance(size, int)]
    if len(sizes) == 2:
        later = np.triu(np.full(sizes, -np.inf, _type(node)), 1)
        return editor.constant(f"{node.name}/causal", later)
    read = {"start": axis, "end": axis + 1}
    counts = [editor.node("Shape", f"{node.name}/count", [t], read) for t in (queries, keys)]
    shape = editor.node("Concat", f"{node.name}/square", counts, {"axis": 0})
    value = {"value": attribute_tensor(np.array([-np.inf], _type(node)))}
    ruled_out = editor.node("ConstantOfShape", f"{node.name}/ruled_out", [shape], value)
    one = editor.constant(f"{node.name}/later", np.array(1, np.int64))
    return editor.node("Trilu", f"{node.name}/causal", [ruled_out, one], {"upper": 1})


def _type(node: gs.Node) -> np.dtype:
    return np.dtype(node.inputs[0].dtype or np.float32)


def _attend(
    editor: Editor,
    node: gs.Node,
    parts: Sequence[gs.Tensor],
    scale: float,
    added: Sequence[gs.Tensor],
    beside: bool,
    blind: bool = False,
) -> None:
    """Make a node what is computed of Q [N, heads, L, size], K^T and V.

    ``beside``: whether the result has the heads side by side. ``blind``: whether there may be
    queries that see no key, for which it is 0.
    """
    name, (q, k, v) = node.name, parts
    factor = editor.constant(f"{name}/scale", np.asarray(scale, _type(node)))
    scaled = editor.node("Mul", f"{name}/scaled", [q, factor])
    scores = editor.node("MatMul", f"{name}/scores", [scaled, k])
    for tensor in added:
        scores = editor.node("Add", f"{name}/with_mask", [scores, tensor])
    shares = editor.node("Softmax", f"{name}/shares", [scores], {"axis": -1})
    if blind:
        nothing = editor.constant(f"{name}/nothing", np.asarray(0.0, _type(node)))
        unseen = editor.node("IsNaN", f"{name}/unseen", [shares])
        shares = editor.node("Where", f"{name}/seen", [unseen, nothing, shares])
    node.outputs = node.outputs[:1]
    if not beside:
        replace_node(node, "MatMul", [shares, v])
        return
    result = editor.node("MatMul", f"{name}/result", [shares, v])
    swapped = editor.node("Transpose", f"{name}/swapped", [result], {"perm": _SWAPPED})
    shape = editor.constant(f"{name}/shape", np.array([0, 0, -1], np.int64))
    replace_node(node, "Reshape", [swapped, shape])
