"""Names for all nodes of a graph, and their order, without those that nothing needs."""

from collections.abc import Callable, Iterator

import onnx_graphsurgeon as gs

from .editing import Editor, disconnect, free_name, operands, subgraphs_of


def name_nodes(graph: gs.Graph) -> None:
    """Give every node a unique name: its own, or its first output's, numbered if taken.

    Own names are taken first. Those inside of others get some too: onnx-graphsurgeon confuses nodes
    that are alike, name and all.
    """
    taken, numbers, others = set[str](), dict[str, int](), []
    for node in _with_inner_nodes(graph):
        if not node.name or node.name in taken:
            others.append(node)
        taken.add(node.name)
    for node in others:
        base = node.name or next((t.name for t in node.outputs if t.name), node.op)
        node.name = free_name(base, taken, numbers)
        taken.add(node.name)


def _with_inner_nodes(graph: gs.Graph) -> list[gs.Node]:
    """All nodes, those of subgraphs last."""
    level, found = list(graph.nodes), []
    while level:
        found += level
        level = [inner for node in level for part in subgraphs_of(node) for inner in part.nodes]
    return found


def rewrite_nodes(graph: gs.Graph, step: Callable[[Editor, gs.Node], bool]) -> bool:
    """Let a step look at each node in turn, and say whether it changed it; whether any was.

    Nodes that a step adds are not looked at.
    """
    editor = Editor(graph)
    changed = [step(editor, node) for node in list(graph.nodes)]
    if any(changed):
        tidy(graph)
    return any(changed)


def tidy(graph: gs.Graph) -> None:
    """Drop nodes that contribute to no output, and put the rest in topological order.

    Nodes that are in order already keep it. Both take time linear in the graph, and no
    recursion, which onnx-graphsurgeon's own ``cleanup`` and ``toposort`` do not promise.
    """
    makers = {id(tensor): node for node in graph.nodes for tensor in node.outputs}
    # An optional output that is left out has no name, like an input that is left out.
    by_name = {t.name: node for node in graph.nodes for t in node.outputs if t.name}

    def sources(node: gs.Node) -> Iterator[gs.Node]:
        for tensor in operands(node):
            maker = makers.get(id(tensor)) or by_name.get(tensor.name)
            if maker is not None:
                yield maker

    useful: set[int] = set()
    waiting = [makers[id(tensor)] for tensor in graph.outputs if id(tensor) in makers]
    while waiting:
        node = waiting.pop()
        if id(node) not in useful:
            useful.add(id(node))
            waiting.extend(sources(node))
    ordered: list[gs.Node] = []
    done: set[int] = set()
    for first in graph.nodes:
        stack = [first] if id(first) in useful else []
        entered: set[int] = set()
        while stack:
            node = stack[-1]
            if id(node) in done:
                stack.pop()
                continue
            before = [source for source in sources(node) if id(source) not in done]
            if before and id(node) not in entered:
                entered.add(id(node))
                stack.extend(reversed(before))
                continue
            # A node that waits for itself stays where it is: ``verify`` names the cycle.
            done.add(id(node))
            ordered.append(stack.pop())
    for node in graph.nodes:
        if id(node) not in useful:
            disconnect(node)
    graph.nodes = ordered
