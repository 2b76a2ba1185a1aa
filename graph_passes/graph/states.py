"""Nodes that keep a state, added to a graph."""

import numpy as np
import onnx_graphsurgeon as gs

from . import neurons
from .editing import Editor


class StateEditor(Editor):
    """An editor for nodes that keep states: the names of these are free too."""

    def settle(self, node: gs.Node) -> None:
        """Rename a node that is to become stateful where a name of its states is taken."""
        wanted = node.name
        while not self._taken.isdisjoint(_names_of_states(node)):
            node.name = self.name(wanted)
        self._taken |= _names_of_states(node)


def _names_of_states(node: gs.Node) -> set[str]:
    # Of all kinds of neurons, so that one kind can become another.
    kinds = {*neurons.COUNTING, node.op}
    return {n for op in kinds for pair in neurons.state_names(op, node.name) for n in pair}


def add_counting(
    editor: StateEditor,
    op: str,
    name: str,
    inputs: list[gs.Tensor],
    result: gs.Variable,
    attributes: dict | None = None,
) -> None:
    """Add a stateful node that keeps a sum of what it reads or emits, in the shape of ``result``.

    It has this name, which the editor gave, or one like it where a name of its states is taken.
    """
    node = gs.Node(op, name, attributes or {}, inputs, [result], domain=neurons.DOMAIN)
    editor.settle(node)
    editor.graph.nodes.append(node)
    dtype = neurons.sum_type(np.dtype(result.dtype))
    neurons.add_state(editor.graph, node, len(result.shape), dtype)


def clock(editor: StateEditor) -> gs.Variable:
    """The time-step t, counted by the graph's one Clock, which is added if there is none."""
    for node in neurons.stateful_nodes(editor.graph):
        if node.op == "Clock":
            result: gs.Variable = node.outputs[0]
            return result
    t = gs.Variable(editor.name("t"), np.float32, [1])
    node = gs.Node("Clock", editor.name("clock"), {}, [], [t], domain=neurons.DOMAIN)
    editor.settle(node)
    editor.graph.nodes.insert(0, node)
    neurons.add_state(editor.graph, node, 1, np.dtype(np.float32))
    return t
