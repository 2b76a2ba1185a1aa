"""Simulate a spiking network layer by layer, each on the spikes that those before it emit.

A session runs a network time-step by time-step. Here a layer runs over all time-steps before
the next one begins, so that what a layer does can be measured, and changed, before what comes
after it sees its spikes. Memory: one byte for each spike of one batch, as long as a later layer
reads it, and one layer's currents over T time-steps, where a pass looks at them; and streams over T
time-steps (``segments``), each as long as it is read.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnx2snn.graph_passes.graph.editing import operands, part_of
from onnx2snn.graph_passes.graph.neurons import (
    neuron_nodes,
    states_read,
    states_written,
    threshold_of,
)
from onnx2snn.graph_passes.graph.regions import downstream, made_by
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.protos import names_in, unused_prefix
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.runtime.choices.rows import samples_are_apart
from onnx2snn.runtime.plans.graphs import with_nodes
from onnx2snn.runtime.plans.plan import State, states_of
from onnx2snn.runtime.plans.sizes import sizes_of
from onnx2snn.runtime.providers import Providers, resolve_providers
from onnx2snn.runtime.sessions import create_session, run_session

from .layers import IN_CACHE, Layer, as_term, few_samples, rates
from .segments import Segment, segments_of

ALL = slice(None)

Apart = dict[tuple[str, ...], bool]
"""Whether layers compute each sample by itself, by their names and those of what they read."""


class Simulation:
    """A spiking network on one batch of inputs, by name, for T time-steps.

    ``apart``: the layers, with whether they compute each sample by itself, as far as that is known;
    what another batch found out serves, too. ``ends``: what lies before each of the read-outs that
    ``layers`` was told of, by name. ``before_streams``: the same of streams.
    """

    def __init__(
        self,
        graph: gs.Graph,
        inputs: Mapping[str, np.ndarray],
        timesteps: int,
        providers: Providers = None,
        apart: Apart | None = None,
    ) -> None:
        self.graph, self.inputs, self.timesteps = graph, inputs, timesteps
        self._providers = resolve_providers(providers)
        self._neurons = {node.outputs[0].name: node for node in neuron_nodes(graph)}
        self._spikes: dict[str, np.ndarray] = {}
        self._streams: dict[str, np.ndarray] = {}
        self.before_streams: dict[str, Segment] = {}
        self._means: dict[str, np.ndarray] = {}
        self._apart = {} if apart is None else apart
        self.ends: dict[str, Segment] = {}

    def layers(self, first: int = 0, read_outs: Sequence[gs.Tensor] = ()) -> Iterator[Layer]:
        """The layers in order; each that did not fire does so when the next is asked for.

        What the last one reads stays, so that it can be looked at later, and what ``read_outs``
        read. ``first``: the number of the first one, where those before it have fired.
        """
        nodes = neuron_nodes(self.graph)
        tensors = [*(node.inputs[0] for node in nodes), *read_outs]
        segments, self.before_streams = segments_of(self.graph, tensors)
        ends = segments[len(nodes) :]
        self.ends = {t.name: segment for t, segment in zip(read_outs, ends, strict=True)}
        last_use = _last_uses(segments, self.before_streams)
        for number in range(first, len(nodes)):
            node, segment = nodes[number], segments[number]
            for name in segment.streams:
                # What it is made of may be gone later.
                self._stream(name)
            layer = Layer(node, self.timesteps, segment, self)
            yield layer
            if node.outputs[0].name in last_use:
                fired = layer.fire() if layer.fired is None else layer.fired
                self._spikes[node.outputs[0].name] = fired
            if number == len(nodes) - 1:
                return
            for held in (self._spikes, self._streams):
                for name in [name for name in held if last_use.get(name, -1) <= number]:
                    del held[name]
                    self._means.pop(name, None)

    def after(self, layer: Layer, read_outs: Sequence[gs.Tensor]) -> "Simulation":
        """How this ends if a layer fires as it is now; ``layers`` goes on from where it was."""
        ahead = Simulation(self.graph, self.inputs, self.timesteps, self._providers, self._apart)
        ahead._spikes = self._spikes | {layer.node.outputs[0].name: layer.fire()}
        ahead._streams = dict(self._streams)
        number = [node.name for node in neuron_nodes(self.graph)].index(layer.node.name)
        deque(ahead.layers(number + 1, read_outs), maxlen=0)
        return ahead

    def currents(self, segment: Segment, result: gs.Tensor) -> np.ndarray:
        """A tensor at each time-step: [T, N, ...], or [1, N, ...] where it stays the same."""
        found: np.ndarray | None = None
        for t, (value,) in enumerate(self.steps(segment, [result])):
            if found is None:
                count = self.timesteps if segment.varies else 1
                found = np.empty((count, *value.shape), value.dtype)
            found[t] = value
        assert found is not None
        return found

    def measure(
        self,
        segment: Segment,
        tensors: list[gs.Tensor],
        known: Mapping[str, np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Means over time of tensors of a segment, or of what it reads; of some they are known.

        Where the segment itself averages over time: what tensors are after the last time-step.
        """
        means = {name: self._mean(name) for name in segment.varying} | dict(known or {})
        unknown = [tensor for tensor in tensors if tensor.name not in means]
        if unknown:
            # What is affine in the spikes is at their mean what it is on average: one run, not T.
            found: list[np.ndarray] = []
            count = 0
            for values in self.steps(segment, unknown, at_means=segment.affine):
                # One sum: all time-steps of a wide layer take gigabytes.
                kept = found and not segment.averages
                now = [as_term(value) for value in values]
                found = [a + b for a, b in zip(found, now, strict=True)] if kept else now
                count = count + 1 if kept else 1
            means |= {t.name: total / count for t, total in zip(unknown, found, strict=True)}
        return [means[tensor.name] for tensor in tensors]

    def steps(
        self, segment: Segment, tensors: list[gs.Tensor], at_means: bool = False
    ) -> Iterator[list[np.ndarray]]:
        """Tensors of a segment, or of what it reads, at each time-step; once if they stay.

        ``at_means``: once, of the means over time of what it reads.
        """
        made = made_by(segment.nodes)
        inner = [tensor for tensor in tensors if tensor.name in made]
        session = create_session(self._model(segment, inner), self._providers) if inner else None
        held = segment.starts
        fixed = {name: np.asarray(self.inputs[name]) for name in segment.inputs}
        for t in range(self.timesteps if segment.varies and not at_means else 1):
            values = fixed | {
                name: self._mean(name) if at_means else self._now(name, t)
                for name in segment.varying
            }
            if session is not None:
                found = run_session(session, None, values | held)
                values |= {t.name: v for t, v in zip(inner, found, strict=False)}
                held = dict(zip(held, found[len(inner) :], strict=True))
            yield [values[tensor.name] for tensor in tensors]

    def fire(self, layer: Layer) -> np.ndarray:
        """``Layer.fire``, where nothing has asked for the currents: none are kept.

        A few samples at a time, if the layer computes each by itself, so that what they take
        stays in the CPU's cache.
        """
        node, segment = layer.node, layer.segment
        whole = replace(segment, nodes=[*segment.nodes, node])
        model = _shifted(self._model(whole, node.outputs[:1]), node, layer.shift)
        session = create_session(model, self._providers)
        count, size = self._shape(whole.varying[0])[0], node.outputs[0].shape[1:]
        parts = [ALL]
        if all(isinstance(n, int) for n in size) and self._is_apart(whole, model):
            parts = few_samples(count, math.prod(size), IN_CACHE)
        spikes: np.ndarray | None = None
        for part in parts:
            held = whole.starts
            fixed = {name: np.asarray(self.inputs[name])[part] for name in whole.inputs}
            for t in range(self.timesteps):
                feed = fixed | {name: self._now(name, t, part) for name in whole.varying}
                x, *states = run_session(session, None, feed | held)
                held = dict(zip(held, states, strict=True))
                if spikes is None:
                    rows = len(x) if part is ALL else count
                    spikes = np.empty((self.timesteps, rows, *x.shape[1:]), np.int8)
                spikes[t, part] = layer.to_spikes_in_place(x)
        assert spikes is not None
        return spikes

    def _is_apart(self, layer: Segment, model: ModelParts) -> bool:
        """Whether a layer, which this is a model of, computes each sample by itself."""
        key = (layer.nodes[-1].name, *layer.varying)
        if key not in self._apart:
            shapes = {n: self._shape(n) for n in layer.varying}
            shapes |= {n: np.shape(self.inputs[n]) for n in layer.inputs}
            states: list[State] = []
            for node in layer.stateful:
                # What a neuron integrates, or a pool sums, has the shape of what is kept of it.
                shape = sizes_of(model.structure, shapes).shapes.get(node.inputs[0].name, ())
                own = states_of(node)
                states += own
                shapes |= {state.read: shape for state in own}
            count = self._shape(layer.varying[0])[0]
            known = all(all(shape) for shape in shapes.values())
            self._apart[key] = known and samples_are_apart(model.structure, states, shapes, count)
        return self._apart[key]

    def _stream(self, name: str) -> np.ndarray:
        """A stream at each time-step: [T, N, ...]."""
        if name not in self._streams:
            segment = self.before_streams[name]
            made = {tensor.name: tensor for node in segment.nodes for tensor in node.outputs}
            self._streams[name] = self.currents(segment, made[name])
        return self._streams[name]

    def forget_streams(self, tensor: gs.Tensor) -> None:
        """Let a stream, and those that follow from it, be computed anew: weights have changed."""
        for name in downstream(self.graph, [tensor]) & self._streams.keys():
            del self._streams[name]
            self._means.pop(name, None)

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of what a layer before emitted, or of a stream: [N, ...]."""
        held = self._stream(name) if name in self.before_streams else self._spikes[name]
        return held.shape[1:]

    def _now(self, name: str, t: int, part: slice = ALL) -> np.ndarray:
        """What a layer before emitted at a time-step, x = s V_th, or a stream."""
        if name in self.before_streams:
            return self._stream(name)[t, part]
        threshold = threshold_of(self._neurons[name])
        return np.asarray(self._spikes[name][t, part] * threshold, threshold.dtype)

    def _mean(self, name: str) -> np.ndarray:
        """The mean over time of what a layer before emitted, or of a stream: [N, ...]."""
        if name not in self._means:
            if name in self.before_streams:
                self._means[name] = self._stream(name).mean(axis=0)
            else:
                threshold = threshold_of(self._neurons[name])
                rate = rates(self._spikes[name])
                self._means[name] = np.asarray(rate * threshold, threshold.dtype)
        return self._means[name]

    def session(self, node: gs.Node) -> Any:
        """A neuron, as it is now, in ONNX Runtime."""
        model = self._part([node], node.inputs, node.outputs)
        return create_session(model, self._providers, threads=1)

    def _part(
        self, nodes: list[gs.Node], inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor]
    ) -> ModelParts:
        model = to_parts(part_of(self.graph, nodes, inputs, outputs))
        graph = model.structure.graph
        del graph.value_info[:]
        # A few samples may run at a time, where the network itself is for a fixed number of them.
        for info in (*graph.input, *graph.output):
            for dimension in info.type.tensor_type.shape.dim[:1]:
                dimension.dim_param = f"{info.name}.0"
        return model

    def _model(self, segment: Segment, tensors: list[gs.Tensor]) -> ModelParts:
        """A model of a segment that makes these tensors, and then its states."""
        operand = {t.name: t for node in segment.nodes for t in operands(node)}
        read = [operand[name] for name in (*segment.inputs, *segment.varying)]
        states = [state for node in segment.stateful for state in states_read(node)]
        written = [state for node in segment.stateful for state in states_written(node)]
        return self._part(segment.nodes, [*read, *states], [*tensors, *written])


def _last_uses(segments: Sequence[Segment], streams: Mapping[str, Segment]) -> dict[str, int]:
    """The number of the last segment that reads spikes or a stream, by name.

    The first that reads a stream reads what that is made of.
    """
    found: dict[str, int] = {}
    for number, segment in enumerate(segments):
        waiting = [segment]
        while waiting:
            now = waiting.pop()
            waiting += [streams[name] for name in now.streams if name not in found]
            found |= dict.fromkeys(now.varying, number)
    return found


def _shifted(model: ModelParts, neuron: gs.Node, shift: np.ndarray) -> ModelParts:
    """The model with ``shift`` added to what a neuron of it reads."""
    structure = model.structure
    prefix = unused_prefix(names_in(structure), "shifted/")
    nodes = list(structure.graph.node)
    place = next(i for i, node in enumerate(nodes) if node.name == neuron.name)
    current, by = f"{prefix}current", f"{prefix}by"
    nodes.insert(place, helper.make_node("Add", [nodes[place].input[0], by], [current]))
    nodes[place + 1].input[0] = current
    constant = numpy_helper.from_array(np.asarray(shift, neuron.inputs[0].dtype), by)
    shifted = with_nodes(structure, nodes, structure.graph.output, constants=[constant])
    return ModelParts(shifted, model.weights)
