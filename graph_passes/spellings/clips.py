"""Bring every spelling of a clip into one form."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.bounds import (
    UNBOUNDED,
    Bounds,
    bounded_input,
    bounds_of,
    open_above,
    open_below,
    written_bounds_of,
)
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    disconnect,
    is_floating,
    leave_out,
    only_consumer,
    producer,
    replace_node,
    require_opset,
    type_of,
)
from onnx2snn.graph_passes.graph.tidying import tidy


def unify_clips(graph: gs.Graph) -> bool:
    """Every elementwise bound in one form, and a chain of bounds in one activation.

        Max(x, 0), Clip(x, 0)                      ->  Relu(x)
        Clip(x, 0, t), Min(Max(x, 0), t)           ->  Clip(x, 0, t)
        Relu or Clip(0, t) after a bound, and back ->  one of these, the bounds of both
        the same with t per channel                ->  Min(Relu(x), t)

    Chains are merged where nothing else reads what lies between; a Cast within one, as tools that
    make float16 of a network leave them, comes before it. A bound of 2^20 or more (2^49 in double
    precision) is none, and infinite in a channel beside others that have one.
    """
    require_opset(graph)
    editor = Editor(graph)
    changed = _cast_before_bounds(editor)
    for node in list(graph.nodes):
        chain = _chain_of_bounds(graph, node)
        if not chain:
            continue
        bounds = UNBOUNDED
        for link in chain:
            bounds = bounds.then(bounds_of(link) or UNBOUNDED)
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
    return all(t.dtype is not None and is_floating(t) for t in (node.inputs[0], node.outputs[0]))


def _swap(editor: Editor, bound: gs.Node, cast: gs.Node) -> None:
    """Let a Cast behind a bound come before it."""
    x, dtype, result = bounded_input(bound), cast.outputs[0].dtype, cast.outputs[0]
    given = gs.Variable(editor.name(f"{cast.name}/given"), dtype, x.shape)

    def cast_to(values: np.ndarray) -> gs.Constant:
        # The largest number of a type is no bound, and is none of the other's.
        opened = open_below(open_above(values, values.dtype), values.dtype)
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


def _canonical_form(bounds: Bounds) -> list[tuple] | None:
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
    bounds = written_bounds_of(node) or UNBOUNDED
    # A Max or Min of more than one bound is not canonical.
    op = node.op if node.op == "Clip" or len(node.inputs) <= 2 else None
    return op, bounds.low.tolist(), bounds.high.tolist()


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
    bounds = editor.bounds(last.name, low, high, dtype) if op == "Clip" else []
    replace_node(last, op, [source, *bounds])
