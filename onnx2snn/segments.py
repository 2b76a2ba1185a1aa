"""What lies between one layer of neurons and those before it."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.editing import operands, producer
from onnx2snn.graph_passes.linear import MAX_POOLS
from onnx2snn.graph_passes.neurons import (
    inputs_besides_states,
    is_mean,
    is_neuron,
    is_stateful,
    starts_of,
    states_read,
)


@dataclass(frozen=True)
class Segment:
    """The nodes between the neurons before a tensor and that tensor.

    ``spikes`` names the neurons' outputs that it reads, ``inputs`` the network's inputs.
    """

    nodes: list[gs.Node]
    spikes: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def stateful(self) -> list[gs.Node]:
        """The nodes that keep a state."""
        return [node for node in self.nodes if is_stateful(node)]

    @property
    def varies(self) -> bool:
        """Whether what it makes may differ from one time-step to the next."""
        return bool(self.spikes or self.stateful)

    @property
    def averages(self) -> bool:
        """Whether some of its nodes average over time."""
        return any(is_mean(node) for node in self.nodes)

    @property
    def affine(self) -> bool:
        """Whether what it makes of means over time is the mean of what it makes."""
        return not (self.stateful or any(node.op in MAX_POOLS for node in self.nodes))

    @property
    def starts(self) -> dict[str, np.ndarray]:
        """The states of ``stateful`` before the first time-step, by name."""
        return {
            state.name: start
            for node in self.stateful
            for state, start in zip(states_read(node), starts_of(node), strict=True)
        }


def segment_of(graph: gs.Graph, tensor: gs.Tensor) -> Segment:
    """What lies between a tensor and the neurons and inputs that it depends on."""
    wanted: dict[int, gs.Node] = {}
    spikes: dict[str, None] = {}
    inputs: dict[str, None] = {}
    given = {t.name for t in inputs_besides_states(graph)}
    waiting = [tensor]
    while waiting:
        now = waiting.pop()
        maker = producer(now)
        if maker is None:
            if now.name in given:
                inputs[now.name] = None
        elif is_neuron(maker):
            spikes[now.name] = None
        elif id(maker) not in wanted:
            wanted[id(maker)] = maker
            waiting += operands(maker)
    nodes = [node for node in graph.nodes if id(node) in wanted]
    return Segment(nodes, tuple(spikes), tuple(inputs))
