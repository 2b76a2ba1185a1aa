"""Fold a scale and shift that comes after an activation into the linear operator behind."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .errors import Refusal
from .graph.affine import Affine, affine_of, per_channel, rounded, rounded_weights
from .graph.computed import computed
from .graph.editing import (
    Editor,
    constant_input,
    constant_value,
    is_graph_output,
    is_inner,
    leave_out,
    only_consumer,
    pads_of,
    release,
    require_opset,
)
from .graph.operators import CANONICAL_ACTIVATIONS
from .graph.regions import downstream
from .graph.tidying import tidy
from .graph.windows import pads_itself

_POOLS = ("AveragePool", "GlobalAveragePool")
_LINEAR = ("Conv", "Gemm", "MatMul")

_ROUNDING = 1e-6
"""Difference, by the largest, of what is the same but for rounding in float32."""


@dataclass(frozen=True)
class _Fold:
    """A linear operator's new weight, in its type, and K: in its bias, or to be added behind it."""

    weight: np.ndarray
    bias: np.ndarray | None = None
    shift: np.ndarray | None = None


def fold_forward(graph: gs.Graph, declined: list[Refusal] | None = None) -> bool:
    """L(a x + c) -> L'(x) + K, for what lies between an activation and the next weights.

        L' = L diag(a),  K = L(c) - L(0)

    L is Conv, Gemm or MatMul, after any number of AveragePool, GlobalAveragePool, Flatten,
    Reshape to [N, features], Pad by 0 and Transpose. K goes into L's bias where it is the
    same at every place; at a padded border it is not, and is added as a constant map, so
    the rewriting is exact up to rounding, of K in float32. Where it cannot be done the scale and
    shift stays, which is affine too; the reasons are appended to ``declined``.
    """
    require_opset(graph)
    found: list[Refusal] = []
    changed = False
    while _fold_all(graph, found):
        # A constant map that a fold leaves may fold into the next layer.
        changed, found = True, []
    if declined is not None:
        declined += found
    return changed


def _fold_all(graph: gs.Graph, declined: list[Refusal]) -> bool:
    """Fold each node that can be, once; what can not is appended to ``declined``."""
    changed, editor = False, Editor(graph)
    after = downstream(graph, [n.outputs[0] for n in graph.nodes if n.op in CANONICAL_ACTIVATIONS])
    # From the last to the first, so that of several in a row each is next to the layer when its
    # turn comes.
    for node in reversed(list(graph.nodes)):
        affine = affine_of(graph, node)
        if affine is None or affine.x.name not in after:
            continue
        reason = _fold(editor, node, affine)
        changed |= reason is None
        if reason is not None and node.op == "BatchNormalization":
            declined.append(Refusal(node.name, node.op, reason))
    if changed:
        tidy(graph)
    return changed


def _fold(editor: Editor, node: gs.Node, affine: Affine) -> str | None:
    """Fold one node into all that reads it; the reason if it cannot be."""
    result = node.outputs[0]
    shape = result.shape
    if is_graph_output(editor.graph, result) or shape is None:
        return "its result is an output, or of unknown rank"
    new = []
    for consumer in result.outputs:
        path = _path(editor.graph, result, consumer)
        found = None if path is None else _fold_of(path, affine, shape, editor.graph.opset)
        if path is None or found is None:
            return "what reads it is not one linear operator with constant weights"
        linear = path[-1]
        fold = _in_type_of(linear, *found)
        if fold is None:
            dtype = linear.inputs[1].dtype
            return f"{dtype} cannot hold the weights of {linear.op} '{linear.name}' with it in them"
        new.append((linear, fold))
    for linear, fold in new:
        _apply(editor, linear, fold)
    leave_out(editor.graph, node, affine.x)
    return None


def _path(graph: gs.Graph, source: gs.Tensor, first: gs.Node) -> list[gs.Node] | None:
    """The nodes up to the next linear operator; None if anything else lies on it or reads it."""
    nodes = [first]
    while True:
        node = nodes[-1]
        if (
            node.domain
            or is_inner(node)
            or [i for i, tensor in enumerate(node.inputs) if tensor is source] != [0]
        ):
            return None
        if node.op in _LINEAR and not node.attrs.get("transA", 0):
            return nodes if constant_value(node.inputs[1]) is not None else None
        if not _passes_on(node):
            return None
        source = node.outputs[0]
        following = only_consumer(graph, source)
        if following is None:
            return None
        nodes.append(following)


def _passes_on(node: gs.Node) -> bool:
    """Whether an operator hands a scale and shift on to what comes after it."""
    if node.op == "Reshape":
        return constant_value(node.inputs[1]) is not None
    if node.op == "Transpose":
        return bool(node.attrs.get("perm", [1])[0] == 0)
    if node.op == "Pad":
        value, pads = constant_input(node, 2, 0.0), pads_of(node)
        if value is None or np.any(value) or pads is None:
            return False
        # Along places alone: channels keep theirs.
        return not np.any(pads[:, :2]) and node.attrs.get("mode", "constant") == "constant"
    return node.op in (*_POOLS, "Flatten", "Identity")


def _fold_of(
    path: list[gs.Node], affine: Affine, shape: list[int | str], opset: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The new weight of a path's linear operator and the constant K; None if there is none."""
    weight = _scaled_weight(path, affine.scale, shape, opset)
    if weight is None:
        return None
    if not np.any(affine.shift):
        return weight, np.zeros(())
    shift = _constant_through(path, affine.shift, shape, opset)
    return None if shift is None else (weight, shift)


def _scaled_weight(
    path: list[gs.Node], scale: np.ndarray, shape: list[int | str], opset: int
) -> np.ndarray | None:
    """W diag(a), where a reaches W as one factor for each input channel or feature."""
    linear = path[-1]
    weight = np.asarray(linear.inputs[1].values)
    if scale.size == 1:
        return np.asarray(weight.astype(np.float64) * float(scale.reshape(())))
    factors = _factors(path, scale, shape, opset)
    if factors is None:
        return None
    if linear.op == "Conv":
        groups = linear.attrs.get("group", 1)
        per_group = factors.reshape(groups, -1)
        rows = np.repeat(per_group, weight.shape[0] // groups, axis=0)
        if rows.shape[1] != weight.shape[1]:
            return None
        return np.asarray(weight * rows.reshape(*rows.shape, *(1,) * (weight.ndim - 2)))
    axis = 1 if linear.attrs.get("transB", 0) else 0
    if weight.ndim != 2 or weight.shape[axis] != factors.size:
        return None
    return np.asarray(weight * (factors if axis else factors[:, None]))


def _factors(
    path: list[gs.Node], scale: np.ndarray, shape: list[int | str], opset: int
) -> np.ndarray | None:
    """The scale as the linear operator meets it: one factor a channel, or a feature."""
    spread = [n for n in path[:-1] if n.op in ("Flatten", "Reshape", "Transpose")]
    rank = len(shape)
    mixes = [n for n in path[:-1] if n.op in (*_POOLS, "Pad")]
    if spread and any(path.index(node) > path.index(spread[0]) for node in mixes):
        # Windows of what is spread would be of several channels.
        return None
    if not spread and mixes and path[-1].op != "Conv" and rank > 2:
        # Features are then along the axis of windows.
        return None
    if not spread:
        axis = 1 if path[-1].op == "Conv" else rank - 1
        factors = per_channel(scale, rank, axis)
        size = shape[axis]
        if factors is None or not isinstance(size, int):
            return None
        return np.broadcast_to(factors, size)
    # Channels are spread over features: let the path itself spread their factors. A pool
    # passes on a scale that is the same over its window, so per channel alone.
    if per_channel(scale, rank) is None:
        return None
    sizes = spread[0].inputs[0].shape
    kept = [node for node in path[:-1] if node.op not in (*_POOLS, "Pad")]
    if sizes is None or len(sizes) != rank:
        return None
    values = _response(kept, scale, sizes[1:], opset)
    return None if values is None or values.ndim != 1 else values


def _constant_through(
    path: list[gs.Node], shift: np.ndarray, shape: list[int | str], opset: int
) -> np.ndarray | None:
    """K = L(c) - L(0) of one sample; only its channels where the image's size is unknown."""
    sizes = list(shape[1:])
    if not all(isinstance(size, int) for size in sizes):
        # Without padding K is the same everywhere, so any size of image tells it.
        if any(_has_borders(node) for node in path) or not isinstance(sizes[0], int):
            return None
        sizes = [sizes[0], *(64 if isinstance(size, str) else size for size in sizes[1:])]
    constant = _response(path, shift, sizes, opset)
    if constant is None:
        return None
    places = constant.reshape(constant.shape[0], -1)
    rounding = _ROUNDING * np.abs(constant).max()
    if constant.ndim == 1 or (path[-1].op == "Conv" and np.ptp(places, axis=1).max() <= rounding):
        return np.asarray(places[:, 0])
    return constant if sizes == list(shape[1:]) else None


def _has_borders(node: gs.Node) -> bool:
    fixed = node.op in ("Flatten", "Reshape", "Pad")
    padded = any(node.attrs.get("pads", [])) or node.attrs.get("ceil_mode", 0)
    return fixed or padded or pads_itself(node)


def _response(
    nodes: list[gs.Node], value: np.ndarray, sizes: list[int | str], opset: int
) -> np.ndarray | None:
    """L(c) - L(0) for a chain of nodes L and a constant c of a sample's sizes, in float32.

    None if it cannot be computed, is not the same for all samples, but for rounding, or L does not
    treat samples apart: one of c among others of zeros shows that.
    """
    if not all(isinstance(size, int) for size in sizes):
        return None
    sample = np.broadcast_to(np.asarray(value, np.float32), tuple(map(int, sizes)))
    # As many as no axis has, so that an axis which joins the batch is seen.
    count = next(n for n in range(3, len(sizes) + 4) if n not in sizes)
    constants = (t for node in nodes for t in node.inputs[1:] if isinstance(t, gs.Constant))
    known = {t.name: _single(t.values) for t in constants}

    def run(*of_constant: int) -> np.ndarray | None:
        samples = np.zeros((count, *sample.shape), np.float32)
        samples[list(of_constant)] = sample
        return computed(nodes, known | {nodes[0].inputs[0].name: samples}, opset)

    of_zeros, of_one, of_all = run(), run(1), run(*range(count))
    if of_zeros is None or of_one is None or of_all is None:
        return None
    if of_zeros.ndim < 2 or len(of_zeros) != count:
        return None
    apart = np.array_equal(np.delete(of_one, 1, axis=0), np.delete(of_zeros, 1, axis=0))
    responses = of_all - of_zeros
    rounding = _ROUNDING * np.abs(responses).max(initial=0)
    alike = np.allclose(responses, responses[0], rtol=0, atol=rounding)
    return np.asarray(responses[0]) if apart and alike else None


def _single(value: np.ndarray) -> np.ndarray:
    """Floating-point numbers in float32, others as they are."""
    return value.astype(np.float32) if np.issubdtype(value.dtype, np.floating) else value


def _in_type_of(linear: gs.Node, weight: np.ndarray, shift: np.ndarray) -> _Fold | None:
    """A new weight and K as a linear operator takes them; None if its type cannot hold them."""
    dtype = linear.inputs[1].dtype
    new_weight = rounded_weights(weight, dtype)
    if new_weight is None or not np.any(shift):
        return None if new_weight is None else _Fold(new_weight)
    bias, uniform = constant_input(linear, 2, 0.0), shift.ndim == 1
    takes_bias = linear.op in ("Conv", "Gemm") and linear.attrs.get("beta", 1.0) == 1.0
    if uniform and takes_bias and bias is not None:
        new_bias = rounded(bias + shift.astype(np.float64), dtype)
        return None if new_bias is None else _Fold(new_weight, bias=new_bias)
    if uniform and linear.op == "Conv":
        shift = shift.reshape(-1, *(1,) * (weight.ndim - 2))
    new_shift = rounded(shift, dtype)
    return None if new_shift is None else _Fold(new_weight, shift=new_shift)


def _apply(editor: Editor, linear: gs.Node, fold: _Fold) -> None:
    old = linear.inputs[1]
    linear.inputs[1] = editor.constant(f"{linear.name}/weight", fold.weight)
    release(editor.graph, old)
    if fold.bias is not None:
        linear.inputs = [*linear.inputs[:2], editor.constant(f"{linear.name}/bias", fold.bias)]
    if fold.shift is not None:
        result = linear.outputs[0]
        constant = editor.constant(f"{linear.name}/shift", fold.shift)
        before = gs.Variable(editor.name(f"{linear.name}/unshifted"), result.dtype, result.shape)
        linear.outputs = [before]
        name = editor.name(f"{linear.name}/shifted")
        editor.graph.nodes.append(gs.Node("Add", name, {}, [before, constant], [result]))
