"""Small edits of an onnx-graphsurgeon graph that several passes share.

onnx-graphsurgeon compares tensors by name and nodes by structure, so membership is
tested here by identity or by name, and nodes leave a graph by being disconnected and
then tidied away, never by ``list.remove``.
"""

from collections.abc import Callable, Container, Sequence

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import ArrayLike
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnx2snn.graph_passes.errors import DataError, ModelError
from onnx2snn.graph_passes.quiet import muted

MIN_OPSET = 13
"""Oldest opset whose operators the passes know: older ones have attributes for inputs."""

AXES_ARE_AN_INPUT = 18
"""The opset since which reductions but ReduceSum have them so."""


def require_graph(graph: gs.Graph) -> None:
    """Raise ``DataError`` for what is no graph of onnx-graphsurgeon."""
    if not isinstance(graph, gs.Graph):
        raise DataError(
            "passes change a graph, as to_graph makes one of a model, and to_model makes one of "
            f"it again: this is of type {type(graph).__name__}"
        )
    # Here, where every pass begins: copies of onnx-graphsurgeon, and its own graphs, have no marks.
    if any(map(subgraphs_of, graph.nodes)):
        mark_inner_nodes(graph)


def require_opset(graph: gs.Graph, least: int = MIN_OPSET, what: str = "passes") -> None:
    """Raise ``ModelError`` if a graph's opset is too old, ``DataError`` for what is no graph."""
    require_graph(graph)
    if graph.opset < least:
        raise ModelError(
            f"{what} need opset {least} or newer, and the graph's is {graph.opset}: bring its "
            "model there with upgrade_opset before to_graph"
        )


def until_done(step: Callable[[gs.Graph], bool], graph: gs.Graph) -> bool:
    """Repeat a step until it changes nothing; whether it ever changed something."""
    changed = False
    while step(graph):
        changed = True
    return changed


def is_graph_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is an output of the graph."""
    return any(output is tensor for output in graph.outputs)


def only_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The one node of a graph that reads a tensor once.

    None if there are others, it is an output, or the node is in the branch of an If.
    """
    if len(tensor.outputs) != 1 or is_graph_output(graph, tensor):
        return None
    return None if is_inner(tensor.outputs[0]) else tensor.outputs[0]


def is_inner(node: gs.Node) -> bool:
    """Whether a node is in a subgraph: it reads the graph's tensors, but is none of its nodes."""
    return getattr(node, "inner", False)


def mark_inner_nodes(graph: gs.Graph, inner: bool = False) -> None:
    """Tell the nodes of subgraphs from the graph's own, for ``is_inner``."""
    for node in graph.nodes:
        node.inner = inner
        for subgraph in subgraphs_of(node):
            mark_inner_nodes(subgraph, inner=True)


def subgraphs_of(node: gs.Node) -> list[gs.Graph]:
    """The branches of an If, the body of a Loop or Scan."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor, or None for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def maker_of(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The node that computes a tensor, if it is this operator of ONNX; None for any other."""
    node = producer(tensor)
    return node if node is not None and node.op == op and not node.domain else None


def constant_value(tensor: gs.Tensor) -> np.ndarray | None:
    """The value of a constant tensor, or None for any other."""
    if not isinstance(tensor, gs.Constant):
        return None
    if not isinstance(tensor._values, LazyValues):
        return np.asarray(tensor.values)
    # They are read now, of bfloat16 with a warning.
    with muted():
        return np.asarray(tensor.values)


def known_value(tensor: gs.Tensor) -> np.ndarray | None:
    """The value of a constant tensor, or of what a node Constant makes; None for any other."""
    maker = producer(tensor)
    if maker is None or maker.op != "Constant":
        return constant_value(tensor)
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        if name in maker.attrs:
            return np.asarray(maker.attrs[name], np.int64 if "int" in name else np.float32)
    return constant_value(maker.attrs.get("value"))


def variables_of(node: gs.Node) -> list[gs.Tensor]:
    """What a node reads that is not constant, without inputs that are left out."""
    return [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]


def is_used(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a node reads a tensor, or it is an output of the graph."""
    return bool(tensor.outputs) or is_graph_output(graph, tensor)


def is_floating(tensor: gs.Tensor) -> bool:
    """Whether a tensor holds floating-point numbers, as far as is known."""
    if tensor.dtype is None:
        return True
    return not isinstance(tensor.dtype, int) and np.issubdtype(tensor.dtype, np.floating)


def type_of(node: gs.Node) -> np.dtype | None:
    """The type of the numbers of a node that has one for all, as any of them tells it."""
    known = [t.dtype for t in (*node.inputs, *node.outputs) if t.dtype is not None]
    return known[0] if known else None


def taken_names(graph: gs.Graph) -> set[str]:
    """The names of all tensors and nodes, those of subgraphs among them."""
    found = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        found.add(node.name)
        found.update(tensor.name for tensor in (*node.inputs, *node.outputs))
        found.update(name for subgraph in subgraphs_of(node) for name in taken_names(subgraph))
    return found


def free_name(wanted: str, taken: Container[str], numbers: dict[str, int]) -> str:
    """``wanted``, or ``wanted_2``, ``wanted_3``, ... if that is taken.

    Names are only ever added to ``taken``. ``numbers``: the next number of each wanted name, which
    is kept there, so that thousands that want the same one do not each try all again.
    """
    name = wanted
    while name in taken:
        number = numbers.get(wanted, 2)
        name, numbers[wanted] = f"{wanted}_{number}", number + 1
    return name


class Editor:
    """Adds tensors and nodes to a graph under names that no other has.

    The graph is scanned for names once, so a pass makes one editor and adds everything
    through it.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self._taken = taken_names(graph)
        self._numbers: dict[str, int] = {}

    def name(self, wanted: str) -> str:
        """``wanted``, or ``wanted_2``, ``wanted_3``, ... if a tensor or node has that name."""
        name = free_name(wanted, self._taken, self._numbers)
        self._taken.add(name)
        return name

    def constant(self, wanted_name: str, values: ArrayLike) -> gs.Constant:
        """A new constant tensor."""
        return gs.Constant(self.name(wanted_name), np.asarray(values))

    def bounds(
        self, of: str, low: ArrayLike, high: ArrayLike, dtype: np.dtype | None
    ) -> list[gs.Tensor]:
        """The two bounds of a Clip, new constants ``of/min`` and ``of/max``, none for infinity."""
        return [
            gs.Variable.empty()
            if np.isinf(value)
            else self.constant(f"{of}/{name}", np.asarray(value, dtype))
            for name, value in (("min", low), ("max", high))
        ]

    def node(
        self,
        op: str,
        wanted_name: str,
        inputs: Sequence[gs.Tensor],
        attrs: dict | None = None,
        like: gs.Tensor | None = None,
    ) -> gs.Variable:
        """Add a node; returns its one output, with the dtype and shape of ``like``."""
        name = self.name(wanted_name)
        result = gs.Variable(name) if like is None else gs.Variable(name, like.dtype, like.shape)
        self.graph.nodes.append(gs.Node(op, name, attrs or {}, list(inputs), [result]))
        return result

    def reduction(
        self, op: str, wanted_name: str, x: gs.Tensor, like: gs.Tensor | None = None
    ) -> gs.Variable:
        """Add a reduction, no ReduceSum, along the last axis, which stays with size 1."""
        if self.graph.opset < AXES_ARE_AN_INPUT:
            return self.node(op, wanted_name, [x], {"axes": [-1]}, like)
        last = self.constant(f"{wanted_name}/axes", np.array([-1], np.int64))
        return self.node(op, wanted_name, [x, last], like=like)


def release(graph: gs.Graph, tensor: gs.Tensor) -> None:
    """Let go of the values of a constant that nothing reads any more, and is no output.

    onnx-graphsurgeon's tensors refer to themselves, so that the array would stay until Python
    looks for such cycles.
    """
    if isinstance(tensor, gs.Constant) and not is_used(graph, tensor):
        tensor.values = np.empty(0, tensor.dtype)


def operands(node: gs.Node) -> list[gs.Tensor]:
    """All that a node reads: its inputs, and what its subgraphs (of If, Loop) capture."""
    tensors = list(node.inputs)
    for subgraph in subgraphs_of(node):
        local = {tensor.name for tensor in subgraph.inputs}
        local |= {tensor.name for inner in subgraph.nodes for tensor in inner.outputs}
        read = [tensor for inner in subgraph.nodes for tensor in operands(inner)]
        tensors += [t for t in (*read, *subgraph.outputs) if t.name not in local]
    return tensors


def replace_uses(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every node that reads ``old`` read ``new``."""
    for node in list(old.outputs):
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[index] = new


def disconnect(node: gs.Node) -> None:
    """Take a node out of the graph's wiring, with all that is inside it; ``tidy`` drops it."""
    node.inputs.clear()
    node.outputs.clear()
    for subgraph in subgraphs_of(node):
        for inner in subgraph.nodes:
            disconnect(inner)


def bypass(graph: gs.Graph, node: gs.Node) -> bool:
    """Remove a node, letting its first input take the place of its first output.

    A graph output keeps its name. False, and nothing changes, where both sides are named
    from outside: an output that would be a graph input, a constant or another output.
    """
    source, result = node.inputs[0], node.outputs[0]
    if is_graph_output(graph, result):
        maker = producer(source)
        if maker is None or is_graph_output(graph, source):
            return False
        disconnect(node)
        replace_uses(source, result)
        maker.outputs[[tensor is source for tensor in maker.outputs].index(True)] = result
    else:
        replace_uses(result, source)
        disconnect(node)
    return True


def replace_node(
    node: gs.Node,
    op: str,
    inputs: Sequence[gs.Tensor],
    attrs: dict | None = None,
    domain: str | None = None,
) -> None:
    """Make a node another operation on other inputs; its name and outputs stay."""
    node.op, node.domain = op, domain
    node.inputs = list(inputs)
    node.attrs.clear()
    node.attrs.update(attrs or {})


def become_product(
    editor: Editor, node: gs.Node, factors: Sequence[gs.Tensor], bias: gs.Tensor | None
) -> None:
    """Make a node the MatMul of two tensors, plus a bias if there is one."""
    if bias is None:
        replace_node(node, "MatMul", factors)
        return
    made = editor.node("MatMul", f"{node.name}/product", factors)
    replace_node(node, "Add", [made, bias])


def leave_out(graph: gs.Graph, node: gs.Node, x: gs.Tensor) -> None:
    """Let ``x``, whichever of a node's inputs it is, take the place of the node's first output.

    An Identity stays where ``bypass`` can do nothing.
    """
    replace_node(node, "Identity", [x])
    bypass(graph, node)


def one_number(tensor: gs.Tensor) -> np.ndarray | None:
    """The one number, [], that a tensor holds everywhere; None if it is not known to.

    As of a constant, ``full_like(x, b)`` and ``b * ones_like(x)``.
    """
    product = maker_of(tensor, "Mul")
    if product is None:
        return _filled_with(tensor)
    a, b = map(_filled_with, product.inputs)
    if a is None or b is None:
        return None
    with np.errstate(all="ignore"):
        return np.asarray(a * b)


def _filled_with(tensor: gs.Tensor) -> np.ndarray | None:
    while (expand := maker_of(tensor, "Expand")) is not None:
        tensor = expand.inputs[0]
    values, filled = known_value(tensor), maker_of(tensor, "ConstantOfShape")
    if filled is not None:
        value = filled.attrs.get("value")
        values = np.zeros(1, np.float32) if value is None else np.asarray(value.values)
    if values is None or not values.size or np.any(values != values.flat[0]):
        return None
    return values.reshape(-1)[:1].reshape(())


def optional_input(node: gs.Node, index: int) -> gs.Tensor | None:
    """An input of a node; None where it is left out."""
    held = len(node.inputs) > index and not node.inputs[index].is_empty()
    return node.inputs[index] if held else None


def constant_input(node: gs.Node, index: int, default: float) -> np.ndarray | None:
    """The value of an input, ``default`` where it is left out; None where it is not constant."""
    given = optional_input(node, index)
    return np.asarray(default) if given is None else constant_value(given)


def pads_of(node: gs.Node) -> np.ndarray | None:
    """Begins and ends of a Pad, int64 [2, rank]; None where they, or the rank, are not known.

    Nor are they, in a damaged file, where they are not two for each axis.
    """
    pads, shape = constant_value(node.inputs[1]), node.inputs[0].shape
    given = optional_input(node, 3)
    if pads is None or (shape is None and given is not None):
        return None
    rank = pads.size // 2 if shape is None else len(shape)
    axes = np.arange(rank) if given is None else constant_value(given)
    if axes is None or pads.size != 2 * axes.size:
        return None
    all_axes = np.zeros((2, rank), np.int64)
    all_axes[:, axes] = pads.reshape(2, -1)
    return all_axes


def reduction_axes(node: gs.Node) -> list[int] | None:
    """The axes of a reduction, an input or, before opset 18, an attribute; None if not known."""
    axes: list[int] | None = node.attrs.get("axes")
    given = optional_input(node, 1)
    if given is not None:
        value = constant_value(given)
        axes = None if value is None else value.tolist()
    return axes


def part_of(
    graph: gs.Graph,
    nodes: Sequence[gs.Node],
    inputs: Sequence[gs.Tensor],
    outputs: Sequence[gs.Tensor],
) -> gs.Graph:
    """Some nodes of a graph as one of their own; nodes and tensors belong to both."""
    return gs.Graph(
        list(nodes),
        list(inputs),
        list(outputs),
        opset=graph.opset,
        import_domains=graph.import_domains,
        functions=graph.functions,
        ir_version=graph.ir_version,
        name="part",
    )
