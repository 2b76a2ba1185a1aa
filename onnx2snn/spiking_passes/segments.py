"""What lies between one layer of neurons and those before it.

Residual blocks may add to a sum that no neuron interrupts, and all that comes after may read what a
dense block makes. What lies before a neuron then lies before all later ones, too, and L layers are
computed L (L + 1) / 2 times. Such a sum is a *stream*, a border of segments as spikes are:

    s = s_before + W x,  u = g s        becomes        s <- s_before, x        and        u <- s
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import operands, producer
from onnx2snn.graph_passes.graph.neurons import (
    inputs_besides_states,
    is_mean,
    is_neuron,
    is_stateful,
    neuron_nodes,
    starts_of,
    states_read,
)
from onnx2snn.graph_passes.graph.operators import MAX_POOLS, SHAPE_OPS, WEIGHTED

_SUMS = {*WEIGHTED, "Add"}
"""Operators that make a stream worth to be kept."""


@dataclass(frozen=True)
class Segment:
    """The nodes between the neurons and streams before a tensor and that tensor.

    ``spikes`` names the neurons' outputs that it reads, ``inputs`` the network's inputs, and
    ``streams`` those.
    """

    nodes: list[gs.Node]
    spikes: tuple[str, ...]
    inputs: tuple[str, ...]
    streams: tuple[str, ...] = ()

    @property
    def varying(self) -> tuple[str, ...]:
        """What it reads that differs from one time-step to the next."""
        return (*self.spikes, *self.streams)

    @property
    def stateful(self) -> list[gs.Node]:
        """The nodes that keep a state."""
        return [node for node in self.nodes if is_stateful(node)]

    @property
    def varies(self) -> bool:
        """Whether what it makes may differ from one time-step to the next."""
        return bool(self.varying or self.stateful)

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


def segment_of(graph: gs.Graph, tensor: gs.Tensor, streams: Collection[str] = ()) -> Segment:
    """What lies between a tensor and the neurons, streams and inputs that it depends on."""
    wanted: dict[int, gs.Node] = {}
    spikes: dict[str, None] = {}
    inputs: dict[str, None] = {}
    read: dict[str, None] = {}
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
        elif now.name in streams and now is not tensor:
            read[now.name] = None
        elif id(maker) not in wanted:
            wanted[id(maker)] = maker
            waiting += operands(maker)
    nodes = [node for node in graph.nodes if id(node) in wanted]
    return Segment(nodes, tuple(spikes), tuple(inputs), tuple(read))


def segments_of(
    graph: gs.Graph, tensors: Sequence[gs.Tensor]
) -> tuple[list[Segment], dict[str, Segment]]:
    """What lies before each of these tensors, and before the streams that they read, by name.

    A stream is read on the way to at least two of the tensors, and not by the same nodes. What is
    as quickly made anew of spikes, such as a pool of them, is none, nor what is wider than all
    neurons: over all time-steps it would take more memory. In float16 it would be rounded anew.
    """
    readers = _readers(graph, tensors)
    ends = Counter(tensor.name for tensor in tensors)
    widest = max((numbers_in(node.outputs[0]) for node in neuron_nodes(graph)), default=0)
    streams: dict[str, Segment] = {}
    for node in graph.nodes:
        tensor, ways = node.outputs[0], readers[node.outputs[0].name]
        through = reduce(or_, ways, 0).bit_count() - ends[tensor.name]
        if through < 2 or len(set(ways)) < 2 or is_neuron(node) or len(node.outputs) > 1:
            continue
        precise = tensor.dtype in (np.float32, np.float64)
        if precise and tensor.shape and numbers_in(tensor) <= widest:
            segment = segment_of(graph, tensor, streams)
            ops = {each.op for each in segment.nodes}
            if segment.varying and ops & _SUMS and not (ops & SHAPE_OPS or segment.averages):
                streams[tensor.name] = segment
    return [segment_of(graph, tensor, streams) for tensor in tensors], streams


def numbers_in(tensor: gs.Tensor) -> int:
    """How many numbers a sample of a tensor has; what is not known does not count."""
    return math.prod(size for size in (tensor.shape or ())[1:] if isinstance(size, int))


def _readers(graph: gs.Graph, tensors: Sequence[gs.Tensor]) -> dict[str, list[int]]:
    """By tensor, for each result of what reads it, to which of ``tensors`` that leads, as bits."""
    found = defaultdict[str, list[int]](list)
    for place, tensor in enumerate(tensors):
        found[tensor.name].append(1 << place)
    for node in reversed(graph.nodes):
        if not is_neuron(node):
            led = [reduce(or_, found[made.name], 0) for made in node.outputs]
            for name in {tensor.name for tensor in operands(node)}:
                found[name] += filter(None, led)
    return found
