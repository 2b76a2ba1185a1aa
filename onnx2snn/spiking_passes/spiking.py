"""What a pass over a spiking network changes, and what it measures it against."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.ann import Ann, with_outputs
from onnx2snn.data.batches import bytes_of_tensors
from onnx2snn.data.samples import Data
from onnx2snn.graph_passes.driver import Pass, pass_name
from onnx2snn.graph_passes.errors import MissingThresholdError, Refusal
from onnx2snn.graph_passes.graph.editing import (
    is_floating,
    is_graph_output,
    is_inner,
    only_consumer,
    producer,
    variables_of,
)
from onnx2snn.graph_passes.graph.neurons import (
    inputs_besides_states,
    is_mean,
    is_neuron,
    mean_nodes,
    neuron_nodes,
)
from onnx2snn.graph_passes.graph.ranges import SHAPING
from onnx2snn.graph_passes.graph.shapes import is_fixed
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.running import Running, no_report
from onnx2snn.runtime.inputs import as_input, by_input_name, fixed_batch

from .layers import Layer
from .segments import numbers_in, segment_of, segments_of
from .simulation import Apart, Simulation

MOST_BYTES = 2**30
"""Of one layer's currents over all time-steps of one batch."""


@dataclass(frozen=True)
class Spiking:
    """A spiking network in the making, and what a pass may measure it against.

    ``graph``: the network, which a pass changes. ``running``: how networks are run over data.
    ``ann``: the ANN with the activations that the network's neurons stand for, of the same
    names. ``data``: the calibration data, or None. ``timesteps``: the T that it is made for.
    ``apart``: what simulations found out about its layers.
    """

    graph: gs.Graph
    ann: ModelParts
    data: Data | None
    running: Running
    timesteps: int
    apart: Apart = field(default_factory=dict)

    def batches(
        self, what: str, timesteps: int, samples: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """The inputs by name, in the network's types, batch by batch, with progress.

        Batches are cut to a fixed batch size, or to so many ``samples``, or where the currents of
        a layer over ``timesteps``, or two streams, would take more than 1 GiB. Raises
        ``MissingThresholdError`` without data.
        """
        if self.data is None:
            raise MissingThresholdError(
                "this recipe measures the network on data (--calibration DATA):",
                [
                    Refusal(node.name, node.op, "no calibration data")
                    for node in neuron_nodes(self.graph)
                ],
            )
        inputs = inputs_besides_states(self.graph)
        names = [tensor.name for tensor in inputs]
        together = self.samples_at_once(self.data, timesteps, samples)
        for x, _ in self.running.batches(self.data, what):
            given = by_input_name(x, names, "the network")
            count = len(given[names[0]])
            size = min(count, together)
            for start in range(0, count, size):
                part = slice(start, start + size)
                yield {t.name: as_input(given[t.name][part], t.shape, t.dtype) for t in inputs}

    def first_batch(self, timesteps: int, samples: int | None = None) -> dict[str, np.ndarray]:
        """The first of ``batches``, of which nothing is told."""
        silent = replace(self, running=replace(self.running, report=no_report))
        return next(silent.batches("", timesteps, samples))

    def samples_at_once(self, data: Data, timesteps: int, samples: int | None = None) -> int:
        """How many samples a batch has, but for the last: see ``batches``."""
        fixed = fixed_batch(tensor.shape or () for tensor in inputs_besides_states(self.graph))
        if fixed is not None:
            return fixed
        most = max(1, MOST_BYTES // (4 * timesteps * self._largest(data)))
        return min(self.running.batch_size, most, samples or most)

    def _largest(self, data: Data) -> int:
        """The most numbers of a sample that are kept at each time-step."""
        nodes = neuron_nodes(self.graph)
        tensors = self.graph.tensors()
        layers = [node.outputs[0] for node in nodes]
        _, names = segments_of(self.graph, [node.inputs[0] for node in nodes])
        streams = [tensors[name] for name in names]
        numbers = {tensor.name: numbers_in(tensor) for tensor in (*layers, *streams)}
        if not all(is_fixed(tensor.shape) for tensor in (*layers, *streams)):
            shapes = data.shapes_of(t.name for t in inputs_besides_states(self.graph))
            known = bytes_of_tensors(to_parts(self.graph), 1, shapes)
            for tensor in (*layers, *streams):
                if tensor.name in known:
                    numbers[tensor.name] = known[tensor.name] // np.dtype(tensor.dtype).itemsize
        # One stream is made of the one before.
        two = [2 * numbers[tensor.name] for tensor in streams]
        return max([1, *(numbers[tensor.name] for tensor in layers), *two])

    def simulate(
        self,
        inputs: dict[str, np.ndarray],
        timesteps: int,
        read_outs: Sequence[gs.Tensor] = (),
    ) -> Iterator[Layer]:
        """The layers in order on one batch; what ``read_outs`` read is kept to the end."""
        providers = self.running.providers
        simulation = Simulation(self.graph, inputs, timesteps, providers, self.apart)
        return simulation.layers(read_outs=read_outs)

    def in_the_ann(self, tensors: Sequence[gs.Tensor]) -> Ann:
        """The ANN with these tensors as its outputs, each once."""
        names = list(dict.fromkeys(tensor.name for tensor in tensors))
        return with_outputs(self.ann, names, self.running.providers)

    @property
    def _known(self) -> set[str]:
        """The tensors that nodes of the ANN make."""
        return {name for node in self.ann.structure.graph.node for name in node.output}

    def currents_in_the_ann(self) -> dict[str, tuple[gs.Tensor, float]]:
        """By node, what the ANN too adds up to a neuron's current, and from where on it counts.

        What passes have added to the current since is left out. Of what is below 0 a neuron says
        nothing. Of several that read one current, as those of a LeakyReLU, the first has it; where
        one reads it turned round or shifted, all of it counts.
        """
        known, shared = self._known, set[str]()
        found = {}
        for node in neuron_nodes(self.graph):
            tensor, maker = node.inputs[0], producer(node.inputs[0])
            while tensor.name not in known and maker is not None and maker.op == "Add":
                tensor, maker = maker.inputs[0], producer(maker.inputs[0])
            root = tensor
            while maker is not None and _is_shift(maker):
                (root,) = variables_of(maker)
                maker = producer(root)
            if root.name in shared:
                continue
            if root.name in known and len(self._neurons_behind(root) or []) > 1:
                shared.add(root.name)
                ways = (reader.outputs[0].name for reader in root.outputs if not is_neuron(reader))
                found[node.name] = root, -np.inf if known.intersection(ways) else 0.0
            elif tensor.name in known and only_consumer(self.graph, tensor) is not None:
                found[node.name] = self.before_shaping(tensor), 0.0
        return found

    def _neurons_behind(self, tensor: gs.Tensor) -> list[gs.Node] | None:
        """The neurons that read a tensor, as it is, turned round or shifted; None if others do."""
        if is_graph_output(self.graph, tensor):
            return None
        found: list[gs.Node] = []
        for reader in tensor.outputs:
            behind = [reader] if is_neuron(reader) else None
            if behind is None and _is_shift(reader) and not is_inner(reader):
                behind = self._neurons_behind(reader.outputs[0])
            if behind is None:
                return None
            found += behind
        return found

    def read_outs_in_the_ann(self) -> dict[str, gs.Tensor]:
        """By name, what is averaged over time, and the outputs, where the ANN makes them too.

        What no spikes lead to is left out.
        """
        ends = (*(node.inputs[0] for node in mean_nodes(self.graph)), *self.graph.outputs)
        known, found = self._known, {}
        for tensor in ends:
            alone = all(is_mean(reader) for reader in tensor.outputs)
            if tensor.name in known and alone and segment_of(self.graph, tensor).spikes:
                found[tensor.name] = tensor
        return found

    def before_shaping(self, tensor: gs.Tensor) -> gs.Tensor:
        """The tensor, or one that has its numbers in another shape or type, in the ANN, too.

        Which nothing else reads.
        """
        maker = producer(tensor)
        while maker is not None and maker.op in (*SHAPING, "Cast") and not maker.domain:
            source = maker.inputs[0]
            alone = only_consumer(self.graph, source) is not None
            if not alone or source.name not in self._known or not is_floating(source):
                break
            tensor, maker = source, producer(source)
        return tensor


def _is_shift(node: gs.Node) -> bool:
    """Whether a node is x + c, x - c, c - x or -x, of a constant c."""
    return node.op in ("Add", "Neg", "Sub") and len(variables_of(node)) == 1


def over_graph(function: Callable[[Spiking], bool], snn: Spiking) -> Pass:
    """A pass over a spiking network as one over its graph, of the same name."""

    def changed(graph: gs.Graph) -> bool:
        return function(snn)

    changed.__name__ = pass_name(function)
    return changed
