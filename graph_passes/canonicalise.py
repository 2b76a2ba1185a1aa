"""Canonicalise: constants folded, no-ops gone, every spelling of a clip in one form.

Three passes that leave the network's function as it is:

    fold_constants     Add(2, 3) -> 5; Constant nodes and shape arithmetic -> constants
    remove_no_ops      Identity, Dropout, Cast to the same type, Pad by 0, ... -> nothing
    unify_clips        Relu, Clip, Min, Max and chains of them -> Relu or Clip(0, theta)

``canonicalise`` runs them in this order. Later passes rely on its result: an activation
is ``Relu(x)``, ``Clip(x, 0, theta)`` with one theta, or ``Min(Relu(x), theta)`` with a
theta per channel.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from . import neurons
from .editing import (
    bypass,
    constant_value,
    disconnect,
    is_floating,
    is_used,
    name_nodes,
    new_constant,
    only_consumer,
    producer,
    replace_node,
    tidy,
    unique_name,
)


def canonicalise(graph: gs.Graph) -> bool:
    """Run ``fold_constants``, ``remove_no_ops`` and ``unify_clips``; exact."""
    changed = [fold_constants(graph), remove_no_ops(graph), unify_clips(graph)]
    return any(changed)


# Constant folding ---------------------------------------------------------------------

_RANDOM_OPS = {
    "Bernoulli", "Dropout", "Multinomial",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip


def fold_constants(graph: gs.Graph) -> bool:
    """f(constants) -> its value. Random operators and neurons are never folded."""
    before = len(graph.nodes)
    for node in graph.nodes:
        if node.op == "Constant":
            _type_constant(node)
    # onnx-graphsurgeon warns of each node that it cannot evaluate; such a node just stays.
    with G_LOGGER.suppress():
        graph.fold_constants(
            should_exclude_node=lambda node: neurons.is_stateful(node) or node.op in _RANDOM_OPS
        )
    # An If whose condition is constant is replaced by its branch, whose nodes have no names.
    name_nodes(graph)
    tidy(graph)
    return len(graph.nodes) != before


def _type_constant(node: gs.Node) -> None:
    """Constant(value_float=...) -> Constant(value=float32): gs would make it float64."""
    for name, dtype in (
        ("value_float", np.float32), ("value_floats", np.float32),
        ("value_int", np.int64), ("value_ints", np.int64),
    ):  # fmt: skip
        if name in node.attrs:
            value = np.array(node.attrs.pop(name), dtype)
            node.attrs["value"] = gs.Constant(f"{node.name}/value", value)


# No-op removal ------------------------------------------------------------------------


def remove_no_ops(graph: gs.Graph) -> bool:
    """X -> f(x) = x: the nodes that compute nothing at inference are removed.

    One whose output is the graph's output and whose input is the graph's input stays.
    """
    changed = False
    for node in list(graph.nodes):
        if _is_no_op(graph, node):
            changed |= bypass(graph, node)
    tidy(graph)
    return changed


def _is_no_op(graph: gs.Graph, node: gs.Node) -> bool:
    if node.domain or not node.inputs or any(is_used(graph, t) for t in node.outputs[1:]):
        return False
    source = node.inputs[0]
    match node.op:
        case "Identity":
            return True
        case "Dropout":
            training = node.inputs[2] if len(node.inputs) > 2 else None
            return training is None or training.is_empty() or constant_value(training) == np.False_
        case "Cast":
            return source.dtype is not None and _onnx_type(source.dtype) == node.attrs["to"]
        case "Transpose":
            permutation = node.attrs.get("perm")
            return permutation is not None and permutation == sorted(permutation)
        case "Pad":
            pads = constant_value(node.inputs[1]) if len(node.inputs) > 1 else node.attrs["pads"]
            return pads is not None and not np.any(pads)
        case "Concat" | "Sum" | "Min" | "Max" | "Mean":
            return len(node.inputs) == 1
        case "AveragePool" | "MaxPool":
            return (
                set(node.attrs["kernel_shape"]) == {1}
                and set(node.attrs.get("strides", [1])) == {1}
                and not any(node.attrs.get("pads", []))
            )
        case _:
            return False


def _onnx_type(dtype: np.dtype | int) -> int:
    return dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(dtype)


# Clips --------------------------------------------------------------------------------


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


def unify_clips(graph: gs.Graph) -> bool:
    """Every elementwise bound in one form, and a chain of bounds in one activation.

        Max(x, 0), Clip(x, 0)                      ->  Relu(x)
        Clip(x, 0, t), Min(Max(x, 0), t)           ->  Clip(x, 0, t)
        Relu or Clip(0, t) after a bound, and back ->  one of these, by ``_Bounds.then``
        the same with t per channel                ->  Min(Relu(x), t)

    Chains are merged where nothing else reads what lies between.
    """
    changed = False
    for node in list(graph.nodes):
        chain = _chain_of_bounds(graph, node)
        if not chain:
            continue
        bounds = _UNBOUNDED
        for link in chain:
            bounds = bounds.then(_bounds_of(link) or _UNBOUNDED)
        wanted = _canonical_form(bounds)
        if wanted is not None and [_spelling(link) for link in chain] != wanted:
            changed |= _rewrite(graph, chain, wanted)
    tidy(graph)
    return changed


def _chain_of_bounds(graph: gs.Graph, last: gs.Node) -> list[gs.Node]:
    """The longest run of bounds that ends in ``last``; empty if another bound follows it."""
    following = only_consumer(graph, last.outputs[0]) if last.outputs else None
    if _bounds_of(last) is None or (following is not None and _bounds_of(following) is not None):
        return []
    chain = [last]
    while True:
        source = _bounded_input(chain[0])
        before = producer(source)
        if before is None or only_consumer(graph, source) is None or _bounds_of(before) is None:
            return chain
        chain.insert(0, before)


def _bounded_input(node: gs.Node) -> gs.Tensor:
    """The one input of Relu, Clip, Min or Max that is not a constant bound."""
    return next(tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant))


def _bounds_of(node: gs.Node) -> _Bounds | None:
    """What a node clips to; None if it is no clip of one tensor by constants."""
    variables = [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]
    if node.domain or len(variables) != 1 or not is_floating(variables[0]):
        return None
    match node.op:
        case "Relu":
            return _Bounds(np.array(0.0), _UNBOUNDED.high)
        case "Clip":
            low, high = _clip_bound(node, 1, "min", -np.inf), _clip_bound(node, 2, "max", np.inf)
            usable = variables[0] is node.inputs[0] and not (np.isnan(low) or np.isnan(high))
            return _Bounds(low, high) if usable else None
        case "Min" | "Max":
            values = [np.asarray(t.values) for t in node.inputs if isinstance(t, gs.Constant)]
            if not values or not all(_keeps_shape(value, variables[0]) for value in values):
                return None
            combine = np.minimum if node.op == "Min" else np.maximum
            bound = values[0].astype(np.float64)
            for value in values[1:]:
                bound = combine(bound, value)
            if np.any(np.isnan(bound)):
                return None
            largest = float(np.finfo(values[0].dtype).max)
            if node.op == "Min":
                return _Bounds(_UNBOUNDED.low, np.where(bound >= largest, np.inf, bound))
            return _Bounds(np.where(bound <= -largest, -np.inf, bound), _UNBOUNDED.high)
    return None


def _clip_bound(node: gs.Node, index: int, attribute: str, unbounded: float) -> np.ndarray:
    """A bound of Clip: an input since opset 11, an attribute before, or absent."""
    bound: float | np.ndarray | None = node.attrs.get(attribute, unbounded)
    if len(node.inputs) > index and not node.inputs[index].is_empty():
        bound = constant_value(node.inputs[index])
    value = np.asarray(bound, np.float64).reshape(())
    # Exporters write "no bound" as the type's largest number.
    largest = float(np.finfo(bound.dtype if isinstance(bound, np.ndarray) else np.float32).max)
    beyond = value >= largest if unbounded > 0 else value <= -largest
    return np.array(unbounded) if beyond else value


def _keeps_shape(bound: np.ndarray, tensor: gs.Tensor) -> bool:
    """Whether a floating bound broadcasts to a tensor without changing the tensor's shape."""
    if not np.issubdtype(bound.dtype, np.floating) or bound.ndim == 0:
        return np.issubdtype(bound.dtype, np.floating)
    if tensor.shape is None or bound.ndim > len(tensor.shape):
        return False
    dimensions = zip(bound.shape[::-1], tensor.shape[::-1], strict=False)
    return all(size in (1, dimension) for size, dimension in dimensions)


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
    bounds = _bounds_of(node) or _UNBOUNDED
    return node.op, bounds.low.tolist(), bounds.high.tolist()


def _rewrite(graph: gs.Graph, chain: list[gs.Node], wanted: list[tuple]) -> bool:
    """Let the last node of a chain, and one before it if need be, compute what is wanted."""
    source, last = _bounded_input(chain[0]), chain[-1]
    dtype = np.float32 if source.dtype is None else source.dtype
    for node in chain[:-1]:
        disconnect(node)
    if not wanted:
        replace_node(last, "Identity", [source])
        bypass(graph, last)
        return True
    if len(wanted) == 2:
        name = unique_name(graph, f"{last.name}/relu")
        positive = gs.Variable(name, dtype, source.shape)
        graph.nodes.append(gs.Node("Relu", name, {}, [source], [positive]))
        bound = new_constant(graph, f"{last.name}/max", np.asarray(wanted[1][2], dtype))
        replace_node(last, "Min", [positive, bound])
        return True
    op, low, high = wanted[0]
    inputs: list[gs.Tensor] = [source]
    attributes: dict[str, float] = {}
    for name, value in (("min", low), ("max", high)) if op == "Clip" else ():
        if graph.opset < 11:
            attributes |= {name: value} if np.isfinite(value) else {}
        elif np.isfinite(value):
            inputs.append(new_constant(graph, f"{last.name}/{name}", np.array(value, dtype)))
        else:
            inputs.append(gs.Variable.empty())
    replace_node(last, op, inputs, attributes)
    return True
