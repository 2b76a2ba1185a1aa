"""Bring every spelling of a clip into one form."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_input,
    disconnect,
    is_floating,
    leave_out,
    only_consumer,
    producer,
    replace_node,
    require_opset,
    stays_within,
    type_of,
    variables_of,
)
from onnx2snn.graph_passes.graph.tidying import tidy


@dataclass(frozen=True)
class _Bounds:
    """clip(x; low, high) = min(max(x, low), high); scalars, or arrays that broadcast to x."""

    low: np.ndarray
    high: np.ndarray

    def then(self, outer: "_Bounds") -> "_Bounds":
        """clip(clip(x; a, b); c, d) = clip(x; clip(a; c, d), clip(b; c, d))."""
        return _Bounds(
            np.minimum(np.maximum(self.low, outer.low), outer.high),
            np.minimum(np.maximum(self.high, outer.low), outer.high),
        )


_UNBOUNDED = _Bounds(np.array(-np.inf), np.array(np.inf))

FAR = {np.dtype(np.float32): 2.0**20, np.dtype(np.float64): 2.0**49}
"""People write a bound like 1e9 for none: no sum of spikes with such a V_th is exact."""


def unify_clips(graph: gs.Graph) -> bool:
    """Every elementwise bound in one form, and a chain of bounds in one activation.

        Max(x, 0), Clip(x, 0)                      ->  Relu(x)
        Clip(x, 0, t), Min(Max(x, 0), t)           ->  Clip(x, 0, t)
        Relu or Clip(0, t) after a bound, and back ->  one of these, the bounds of both
        the same with t per channel                ->  Min(Relu(x), t)

    Chains are merged where nothing else reads what lies between; a Cast within one, as tools that
    make float16 of a network leave them, comes before it. A bound of 2^20 or more (2^49 in double
    precision) is none.
    """
    require_opset(graph)
    editor = Editor(graph)
    changed = _cast_before_bounds(editor)
    for node in list(graph.nodes):
        chain = _chain_of_bounds(graph, node)
        if not chain:
            continue
        bounds = _UNBOUNDED
        for link in chain:
            bounds = bounds.then(bounds_of(link) or _UNBOUNDED)
        wanted = _canonical_form(bounds)
        if wanted is not None and [_spelling(link) for link in chain] != wanted:
            _rewrite(editor, chain, wanted)
            changed = True
    if changed:
        tidy(graph)
    return changed


def _cast_before_bounds(editor: Editor) -> bool:
    """A bound, Cast, another bound -> Cast, both bounds.

        Cast(clip(x; a, b))  =  clip(Cast(x); Cast(a), Cast(b))

    since rounding keeps the order of numbers.
    """
    changed = False
    for node in list(editor.graph.nodes):
        if not _is_cast(node):
            continue
        before, behind = producer(node.inputs[0]), only_consumer(editor.graph, node.outputs[0])
        while behind is not None and _is_cast(behind):
            behind = only_consumer(editor.graph, behind.outputs[0])
        if behind is None or bounds_of(behind) is None:
            continue
        while before is not None and bounds_of(before) is not None:
            if only_consumer(editor.graph, node.inputs[0]) is None:
                break
            _swap(editor, before, node)
            changed, before = True, producer(node.inputs[0])
    return changed


def _is_cast(node: gs.Node) -> bool:
    """Whether a node casts numbers with a point to others."""
    if node.op != "Cast" or node.domain:
        return False
    types = node.inputs[0].dtype, node.outputs[0].dtype
    return all(dtype is not None and np.issubdtype(dtype, np.floating) for dtype in types)


def _swap(editor: Editor, bound: gs.Node, cast: gs.Node) -> None:
    """Let a Cast behind a bound come before it."""
    x, dtype, result = bounded_input(bound), cast.outputs[0].dtype, cast.outputs[0]
    given = gs.Variable(editor.name(f"{cast.name}/given"), dtype, x.shape)

    def cast_to(values: np.ndarray) -> gs.Constant:
        # The largest number of a type is no bound, and is none of the other's.
        opened = -open_above(-open_above(values, values.dtype), values.dtype)
        with np.errstate(over="ignore"):
            return editor.constant(f"{bound.name}/bound", opened.astype(dtype))

    bounds = [
        cast_to(t.values) if isinstance(t, gs.Constant) else (given if t is x else t)
        for t in bound.inputs
    ]
    cast.inputs, cast.outputs = [x], [given]
    bound.inputs, bound.outputs = bounds, [result]


def _chain_of_bounds(graph: gs.Graph, last: gs.Node) -> list[gs.Node]:
    """The longest run of bounds that ends in ``last``; empty if another bound follows it."""
    following = only_consumer(graph, last.outputs[0]) if last.outputs else None
    if bounds_of(last) is None or (following is not None and bounds_of(following) is not None):
        return []
    chain = [last]
    while True:
        source = bounded_input(chain[0])
        before = producer(source)
        if before is None or only_consumer(graph, source) is None or bounds_of(before) is None:
            return chain
        chain.insert(0, before)


def bounded_input(node: gs.Node) -> gs.Tensor:
    """The one input of Relu, Clip, Min or Max that is not a constant bound."""
    return variables_of(node)[0]


def bounds_of(node: gs.Node) -> _Bounds | None:
    """What a node clips to, ``FAR`` bounds being none; None if it is no clip by constants."""
    bounds = _written_bounds_of(node)
    if bounds is None:
        return None
    types = [np.dtype(t.dtype) for t in node.inputs if isinstance(t, gs.Constant)]
    far = min((FAR.get(dtype, np.inf) for dtype in types), default=np.inf)
    return _Bounds(
        _UNBOUNDED.low if np.all(bounds.low <= -far) else bounds.low,
        _UNBOUNDED.high if np.all(bounds.high >= far) else bounds.high,
    )


def _written_bounds_of(node: gs.Node) -> _Bounds | None:
    """The same, but that only the largest number of a type means none."""
    variables = variables_of(node)
    if node.domain or len(variables) != 1 or not is_floating(variables[0]):
        return None
    match node.op:
        case "Relu":
            return _Bounds(np.array(0.0), _UNBOUNDED.high)
        case "Clip":
            low, high = clip_bounds(node)
            usable = variables[0] is node.inputs[0] and not (np.isnan(low) or np.isnan(high))
            return _Bounds(low, high) if usable else None
        case "Min" | "Max":
            values = [np.asarray(t.values) for t in node.inputs if isinstance(t, gs.Constant)]
            usable = all(value.size and keeps_shape(value, variables[0]) for value in values)
            if not values or not usable:
                return None
            combine = np.minimum if node.op == "Min" else np.maximum
            bound = values[0].astype(np.float64)
            for value in values[1:]:
                bound = combine(bound, value)
            if np.any(np.isnan(bound)):
                return None
            dtype = values[0].dtype
            if node.op == "Min":
                return _Bounds(_UNBOUNDED.low, open_above(bound, dtype))
            return _Bounds(-open_above(-bound, dtype), _UNBOUNDED.high)
    return None


def open_above(bound: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Upper bounds, infinite where they are the largest number of a type, which says "none"."""
    return np.where(bound >= np.finfo(dtype).max, np.inf, bound)


def clip_bounds(node: gs.Node) -> tuple[np.ndarray, np.ndarray]:
    """The scalar bounds of a Clip, infinite where there is none, NaN where not constant."""
    return _clip_bound(node, 1, -np.inf), _clip_bound(node, 2, np.inf)


def _clip_bound(node: gs.Node, index: int, unbounded: float) -> np.ndarray:
    """One of the bounds of a Clip, ``unbounded`` where there is none."""
    bound = constant_input(node, index, unbounded)
    if bound is None or bound.size != 1 or not np.issubdtype(bound.dtype, np.floating):
        return np.array(np.nan)
    value = bound.astype(np.float64).reshape(())
    if unbounded > 0:
        return open_above(value, bound.dtype)
    return -open_above(-value, bound.dtype)


def keeps_shape(bound: np.ndarray, tensor: gs.Tensor) -> bool:
    """Whether a floating constant broadcasts to a tensor without changing the tensor's shape."""
    return bound.dtype.kind == "f" and stays_within(bound.shape, tensor.shape)


def _canonical_form(bounds: _Bounds) -> list[tuple] | None:
    """The operations, each (op, low, high), that write these bounds; None: leave as they are."""
    low, high = _scalar(bounds.low), _scalar(bounds.high)
    if low is None:
        return None  # A lower bound per channel: no activation that has a spiking form.
    if low == np.inf or np.any(bounds.high == -np.inf):
        return None  # A constant in disguise.
    if high is None:
        return [("Relu", 0.0, np.inf), ("Min", -np.inf, bounds.high.tolist())] if low == 0 else None
    if (low, high) == (-np.inf, np.inf):
        return []
    return [("Relu" if (low, high) == (0, np.inf) else "Clip", low, high)]


def _scalar(bound: np.ndarray) -> float | None:
    """The one value of a bound, or None if it differs between channels."""
    first = float(bound.flat[0])
    return first if np.all(bound == first) else None


def _spelling(node: gs.Node) -> tuple:
    bounds = bounds_of(node) or _UNBOUNDED
    return node.op, bounds.low.tolist(), bounds.high.tolist()


def _rewrite(editor: Editor, chain: list[gs.Node], wanted: list[tuple]) -> None:
    """Let the last node of a chain, and one before it if need be, compute what is wanted."""
    source, last = bounded_input(chain[0]), chain[-1]
    dtype = next((kind for node in chain if (kind := type_of(node)) is not None), None)
    for node in chain[:-1]:
        disconnect(node)
    if not wanted:
        leave_out(editor.graph, last, source)
        return
    if len(wanted) == 2:
        positive = editor.node("Relu", f"{last.name}/relu", [source], like=last.outputs[0])
        bound = editor.constant(f"{last.name}/max", np.asarray(wanted[1][2], dtype))
        replace_node(last, "Min", [positive, bound])
        return
    op, low, high = wanted[0]
    inputs: list[gs.Tensor] = [source]
    for name, value in (("min", low), ("max", high)) if op == "Clip" else ():
        if np.isfinite(value):
            inputs.append(editor.constant(f"{last.name}/{name}", np.array(value, dtype)))
        else:
            inputs.append(gs.Variable.empty())
    replace_node(last, op, inputs)
