"""Small edits of an onnx-graphsurgeon graph that several passes share.

onnx-graphsurgeon compares tensors by name and nodes by structure, so membership is
tested here by identity or by name, and nodes leave a graph by being disconnected and
then cleaned up, never by ``list.remove``.
"""

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs


def is_graph_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is an output of the graph."""
    return any(output is tensor for output in graph.outputs)


def only_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The one node that reads a tensor once, or None if there are others or it is an output."""
    if len(tensor.outputs) != 1 or is_graph_output(graph, tensor):
        return None
    return tensor.outputs[0]


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor, or None for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def constant_value(tensor: gs.Tensor) -> np.ndarray | None:
    """The value of a constant tensor, or None for any other."""
    return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else None


def is_used(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a node reads a tensor, or it is an output of the graph."""
    return bool(tensor.outputs) or is_graph_output(graph, tensor)


def is_floating(tensor: gs.Tensor) -> bool:
    """Whether a tensor holds floating-point numbers, as far as is known."""
    if tensor.dtype is None:
        return True
    return not isinstance(tensor.dtype, int) and np.issubdtype(tensor.dtype, np.floating)


def unique_name(graph: gs.Graph, wanted: str) -> str:
    """``wanted``, or ``wanted_2``, ``wanted_3``, ... if a tensor or node has that name."""
    taken = {*graph.tensors(), *(t.name for t in graph.inputs), *(n.name for n in graph.nodes)}
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def new_constant(graph: gs.Graph, wanted_name: str, values: np.ndarray) -> gs.Constant:
    """A new constant tensor under a name that no other has."""
    return gs.Constant(unique_name(graph, wanted_name), np.asarray(values))


def operands(node: gs.Node) -> list[gs.Tensor]:
    """All that a node reads: its inputs, and what its subgraphs (of If, Loop) capture."""
    tensors = list(node.inputs)
    for subgraph in (value for value in node.attrs.values() if isinstance(value, gs.Graph)):
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
    """Take a node out of the graph's wiring; ``Graph.cleanup`` then drops it."""
    node.inputs.clear()
    node.outputs.clear()


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
    node: gs.Node, op: str, inputs: Sequence[gs.Tensor], attrs: dict | None = None
) -> None:
    """Make a node another operation on other inputs; its name and outputs stay."""
    node.op, node.domain = op, None
    node.inputs = list(inputs)
    node.attrs.clear()
    node.attrs.update(attrs or {})


def name_nodes(graph: gs.Graph) -> None:
    """Give every node a unique name: its own, or its first output's, numbered if taken."""
    taken: set[str] = set()
    for node in graph.nodes:
        base = node.name or (node.outputs[0].name if node.outputs else node.op)
        name, number = base, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        node.name = name
        taken.add(name)


def tidy(graph: gs.Graph) -> None:
    """Drop what contributes to no output, and put the nodes in topological order."""
    graph.cleanup().toposort()
