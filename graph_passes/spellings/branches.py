"""Ifs of which it is known which branch they take."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    bypass,
    constant_value,
    disconnect,
    free_name,
    mark_inner_nodes,
    operands,
    part_of,
    subgraphs_of,
    taken_names,
)
from onnx2snn.graph_passes.graph.tidying import name_nodes


def flatten_branches(graph: gs.Graph) -> None:
    """If(constant) -> the nodes of the branch that it takes, under names that no other has.

    onnx-graphsurgeon's own flattening leaves an If of several outputs broken.
    """
    known = {
        id(node)
        for node in graph.nodes
        if node.op == "If" and constant_value(node.inputs[0]) is not None
    }
    if not known:
        return
    rest, tensors = [node for node in graph.nodes if id(node) not in known], graph.tensors()
    taken = taken_names(part_of(graph, rest, graph.inputs, graph.outputs)) | set(tensors)
    # In a branch within one that is taken: what comes to the graph must not be called so.
    taken |= {name for node in graph.nodes if id(node) in known for name in _made_within(node)}
    outer = {id(tensor) for tensor in tensors.values()}
    nodes, ends = list[gs.Node](), list[gs.Node]()
    for node in graph.nodes:
        if id(node) in known:
            own, results = _flattened(node, taken, outer)
            nodes += [*own, *results]
            ends += results
        else:
            nodes.append(node)
    graph.nodes = nodes
    for end in ends:
        bypass(graph, end)
    # The nodes of a branch are the graph's own now, and often have no names.
    name_nodes(graph)
    mark_inner_nodes(graph)


def _branch_taken(node: gs.Node) -> gs.Graph:
    return node.attrs["then_branch" if np.any(node.inputs[0].values) else "else_branch"]


def _flattened(
    node: gs.Node, taken: set[str], outer: set[int]
) -> tuple[list[gs.Node], list[gs.Node]]:
    """The nodes of the branch that an If takes, and those that give its results their names.

    ``taken``: the names of all tensors and nodes of the graph, ``outer`` the identities of its
    own tensors; what comes to the graph is added to both.
    """
    branch = _branch_taken(node)
    nodes, results, inner = list(branch.nodes), list(node.outputs), taken_names(branch)
    # What is disconnected with the If is what is left in it.
    branch.nodes = []
    disconnect(node)
    names, numbers = taken | inner, dict[str, int]()
    for tensor in _own_tensors(nodes, branch.outputs, outer):
        if tensor.name in taken:
            tensor.name = free_name(tensor.name, names, numbers)
        taken.add(tensor.name)
        names.add(tensor.name)
        outer.add(id(tensor))
    ends = [
        gs.Node("Identity", "", {}, [source], [result])
        for source, result in zip(branch.outputs, results, strict=True)
    ]
    return nodes, ends


def _made_within(node: gs.Node) -> set[str]:
    """The names of what is made in branches within the branch that an If takes."""
    inner = [sub for own in _branch_taken(node).nodes for sub in subgraphs_of(own)]
    found = set[str]()
    while inner:
        subgraph = inner.pop()
        made = [*subgraph.inputs, *(tensor for own in subgraph.nodes for tensor in own.outputs)]
        found |= {tensor.name for tensor in made}
        inner += [sub for own in subgraph.nodes for sub in subgraphs_of(own)]
    return found


def _own_tensors(
    nodes: list[gs.Node], results: list[gs.Tensor], outer: set[int]
) -> list[gs.Tensor]:
    """What the nodes of a branch make, and its constants."""
    made = [tensor for node in nodes for tensor in node.outputs]
    read = [tensor for node in nodes for tensor in operands(node)]
    constants = [t for t in (*read, *results) if isinstance(t, gs.Constant)]
    own = {id(t): t for t in (*made, *constants) if t.name and id(t) not in outer}
    return list(own.values())
