"""Ifs of which it is known which branch they take."""

import numpy as np
import onnx_graphsurgeon as gs

from .editing import (
    bypass,
    constant_value,
    disconnect,
    free_name,
    mark_inner_nodes,
    name_nodes,
    names_in,
    operands,
)


def flatten_branches(graph: gs.Graph) -> None:
    """If(constant) -> the nodes of the branch that it takes, under names that no other has.

    onnx-graphsurgeon's own flattening leaves an If of several outputs broken.
    """
    found = [n for n in graph.nodes if n.op == "If" and constant_value(n.inputs[0]) is not None]
    for node in found:
        _flatten(graph, node)
    if found:
        # The nodes of a branch are the graph's own now, and often have no names.
        name_nodes(graph)
        mark_inner_nodes(graph)


def _flatten(graph: gs.Graph, node: gs.Node) -> None:
    branch = node.attrs["then_branch" if np.any(node.inputs[0].values) else "else_branch"]
    nodes, results = list(branch.nodes), list(node.outputs)
    inner, branch.nodes = names_in(branch), []
    place = next(place for place, other in enumerate(graph.nodes) if other is node)
    del graph.nodes[place]
    disconnect(node)
    _rename(_own_tensors(graph, nodes, branch.outputs), names_in(graph), inner)
    ends = [
        gs.Node("Identity", "", {}, [source], [result])
        for source, result in zip(branch.outputs, results, strict=True)
    ]
    graph.nodes[place:place] = [*nodes, *ends]
    for end in ends:
        bypass(graph, end)


def _own_tensors(
    graph: gs.Graph, nodes: list[gs.Node], results: list[gs.Tensor]
) -> list[gs.Tensor]:
    """What the nodes of a branch make, and its constants."""
    outer = graph.tensors()
    made = [tensor for node in nodes for tensor in node.outputs]
    read = [tensor for node in nodes for tensor in operands(node)]
    constants = [t for t in (*read, *results) if isinstance(t, gs.Constant)]
    own = {id(t): t for t in (*made, *constants) if t.name and outer.get(t.name) is not t}
    return list(own.values())


def _rename(tensors: list[gs.Tensor], taken: set[str], inner: set[str]) -> None:
    """Give tensors names that are not taken, and not those of others inside the branch either."""
    for tensor in tensors:
        if tensor.name in taken:
            tensor.name = free_name(tensor.name, taken | inner)
        taken.add(tensor.name)
