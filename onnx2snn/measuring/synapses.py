"""Counting synapses: what a spike costs, and what the ANN's multiplications would.

A spike of a neuron travels through pooling, reshapes and additions to each weighted layer
(Conv, ConvTranspose, Gemm, MatMul, Einsum of two) and is added up there once for each synapse,
that is each non-zero weight that it meets: its fan-out. Summing spikes times fan-out gives the
synaptic operations (SOPs); summing one for every connection gives the ANN's MACs.
Connections to padding count in neither. Of a window that a max-pool reads as many spikes go on as
the neuron in it emits that emits most, in each sample; of one that is kept between spikes, which
passes one on whenever any neuron fires, at least as many. What is computed on running means, what a
weighted layer makes of spikes, and what is made of either up to the next neurons, are numbers: each
weighted layer that reads them, each recurrent one, and each product of two matrices, has T times
its MACs as operations.

Both are computed by running a graph on counts of events (``event_rules``): the network in float32
with every weight 1 (0 where it is 0), biases and whatever carries no spikes 0, averages as sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.graph_passes.graph.editing import Editor, free_name, taken_names
from onnx2snn.graph_passes.graph.layouts import samples_axis
from onnx2snn.graph_passes.graph.neurons import (
    gives_mean,
    inputs_besides_states,
    mean_nodes,
    names_of_states,
    neuron_nodes,
    stateful_nodes,
)
from onnx2snn.graph_passes.graph.operators import MAX_POOLS, RECURRENT, SPIKING_POOLS
from onnx2snn.graph_passes.graph.regions import downstream
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.model_files.io import to_graph, to_parts
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.runtime.providers import CPU
from onnx2snn.runtime.sessions import Use, create_session, run_session

from .event_rules import (
    become,
    filled_like,
    has_weights,
    masks_of_padding,
    operations,
    pass_events_on,
    recurrent_operations,
)

Shapes = Mapping[str, tuple[int, ...]]
"""Of each input, by name, the shape of one sample, without the batch axis."""


@dataclass(frozen=True)
class _Events:
    """A spiking network for one sample, to count events in, cut off behind its neurons.

    ``axes``: those of the samples, by neurons and max-pools. ``spikes``: what neurons emit, by
    their names, and now nothing makes; ``spiking`` names all tensors that events reach, ``numbers``
    those that are, or are made of, running means or sums of weighted layers, each an event in each
    time-step of ``timesteps``, an input. ``pools`` are the max-pools that spikes reach.
    """

    graph: gs.Graph
    axes: dict[str, int]
    spikes: dict[str, gs.Variable]
    spiking: set[str]
    numbers: set[str]
    timesteps: gs.Variable
    pools: list[gs.Node]


def _events(model: ModelParts, shapes: Shapes) -> _Events:
    graph = to_graph(model)
    pooling = [node for node in graph.nodes if node.op in {*MAX_POOLS, *SPIKING_POOLS}]
    emitting = [*neuron_nodes(graph), *pooling]
    axes = {node.name: samples_axis(graph, node.outputs[0]) for node in emitting}
    means = [node.outputs[0] for node in stateful_nodes(graph) if gives_mean(node)]
    neurons, averages = _without_time(graph, shapes)
    behind = downstream(graph, averages)
    spiking = downstream(graph, [node.outputs[0] for node in neurons]) - behind
    spikes = {}
    for node in neurons:
        spikes[node.name] = node.outputs[0]
        node.inputs.clear()
        node.outputs.clear()
    layers = [n for n in graph.nodes if has_weights(n) and any(t.name in spiking for t in n.inputs)]
    sums = [tensor for node in layers for tensor in node.outputs]
    numbers = downstream(graph, [*means, *sums]) - behind
    pools = [n for n in pooling if n.inputs[0].name in spiking and n.inputs[0].name not in numbers]
    taken = taken_names(graph)
    timesteps = gs.Variable(free_name("timesteps", taken, {}), np.float64, [])
    return _Events(graph, axes, spikes, spiking, numbers, timesteps, pools)


def _hand_on(events: _Events) -> dict[str, gs.Variable]:
    """Let what events reach hand them on; returns the operations of each weighted layer, summed."""
    totals, editor = {}, Editor(events.graph)
    nodes, masks = list(events.graph.nodes), masks_of_padding(editor)
    for node in nodes:
        if any(tensor.name in events.numbers for tensor in node.inputs):
            if has_weights(node):
                name, once = f"{node.name}/in_all", _multiplications(editor, node, masks)
                totals[node.name] = editor.node("Mul", name, [once, events.timesteps], like=once)
            continue
        if not any(tensor.name in events.spiking for tensor in node.inputs):
            continue
        if not has_weights(node):
            pass_events_on(editor, node, events.spiking)
        else:
            weights = 1 if node.inputs[0].name in events.spiking else 0
            totals[node.name] = operations(editor, node, weights)
    return totals


def _multiplications(editor: Editor, node: gs.Node, masks: Mapping[str, gs.Tensor]) -> gs.Variable:
    """Those of a layer, or of a product of two matrices, in one forward pass.

    ``masks``: those of ``masks_of_padding``.
    """
    if node.op in RECURRENT:
        return recurrent_operations(editor, node)
    for index, tensor in enumerate(node.inputs[:2]):
        if not isinstance(tensor, gs.Constant):
            ones = masks.get(tensor.name)
            node.inputs[index] = filled_like(editor, tensor, 1.0) if ones is None else ones
    weights = 1 if isinstance(node.inputs[1], gs.Constant) else 0
    return operations(editor, node, weights)


class MaxPools:
    """What max-pools let through: of a window the most spikes of a neuron, in each sample.

    ``axes``: those along which neurons and max-pools have their samples, by name.
    """

    def __init__(self, model: ModelParts, shapes: Shapes) -> None:
        events = _events(model, shapes)
        self.axes = events.axes
        self._session: Any = None
        if not events.pools:
            return
        _hand_on(events)
        self._names = [node.name for node in events.pools]
        self._inputs = {name: tensor.name for name, tensor in events.spikes.items()}
        self._timesteps = events.timesteps.name
        # What comes before the neurons may still give shapes.
        self._silence = _silence(events.graph)
        events.graph.inputs += [*events.spikes.values(), events.timesteps]
        self._session = _session(events.graph, [node.outputs[0] for node in events.pools])

    def counts(
        self, spike_counts: Mapping[str, np.ndarray], samples: int, timesteps: int
    ) -> dict[str, np.ndarray]:
        """Spikes that leave each max-pool, of each of N = ``samples``, in all T ``timesteps``.

        ``spike_counts``: those of each layer of neurons, in its shape for N samples.
        """
        if self._session is None:
            return {}
        feed = {name: spike_counts[layer] for layer, name in self._inputs.items()}
        feed[self._timesteps] = np.asarray(timesteps, np.float64)
        feed |= {
            name: np.broadcast_to(zeros[:1], (samples, *zeros.shape[1:]))
            for name, zeros in self._silence.items()
        }
        return dict(zip(self._names, _run(self._session, feed), strict=True))


class SynapseCounter:
    """Counts the synaptic operations of a spiking network, with a 1 for each of its weights."""

    def __init__(self, model: ModelParts, shapes: Shapes) -> None:
        events = _events(model, shapes)
        totals = _hand_on(events)
        graph, sources = events.graph, dict(events.spikes)
        for node in events.pools:
            # Their counts are given: the maximum of means is no mean of maxima.
            sources[node.name] = node.outputs[0]
            node.inputs.clear()
            node.outputs.clear()
        self._axes = events.axes
        self._inputs = {name: tensor.name for name, tensor in sources.items()}
        self._batch = graph.inputs[0].shape[0]
        self._silence = _silence(graph)
        self._timesteps = events.timesteps.name
        graph.inputs += [*sources.values(), events.timesteps]
        self._session = _session(graph, list(totals.values())) if totals else None

    def operations(self, spike_counts: Mapping[str, np.ndarray], timesteps: int) -> float:
        """Synaptic operations of one sample, or of several, of all layers together.

        ``spike_counts``: by layer of neurons and by max-pool (of ``MaxPools``), in its shape for
        one sample, the number of spikes in all T ``timesteps``; of several samples, the sums of
        both.
        """
        if self._session is None:
            return 0.0
        # Of one sample, for each of a batch that the network may fix.
        feed = {
            self._inputs[name]: np.concatenate(
                [counts] * self._batch, self._axes[name], dtype=np.float64
            )
            for name, counts in spike_counts.items()
        }
        feed[self._timesteps] = np.asarray(timesteps, np.float64)
        counted = _run(self._session, feed | self._silence)
        return float(np.sum(counted, dtype=np.float64) / self._batch)


def summed_over_samples(counts: np.ndarray, axis: int, samples: int, name: str) -> np.ndarray:
    """Counts of a layer, or max-pool, of this name summed over N = ``samples``, in its shape for 1.

    counts: [N, C, ...] or, where a sample has several rows or samples come along another
    ``axis``, [N k, C, ...] or [L, N, C]; the sum is [1, C, ...], [k, C, ...] or [L, 1, C].
    """
    shape = counts.shape
    if shape[axis] % samples:
        raise ModelError(
            f"the layer '{name}' emits {list(shape)} for {samples} samples, so that its spikes "
            "are not told apart by sample: export the network with samples along axis 0"
        )
    parts = *shape[:axis], samples, shape[axis] // samples, *shape[axis + 1 :]
    return np.asarray(counts.reshape(parts).sum(axis=axis))


def macs_by_place(model: ModelParts, shapes: Shapes) -> tuple[int, int]:
    """Multiply-accumulates of one forward pass of the ANN behind an SNN, for one sample.

    Those of the layers that no spike reaches, which are in no SOPs, and those of the others.
    """
    graph = to_graph(model)
    neurons, _ = _without_time(graph, shapes)
    spiking = downstream(graph, [node.outputs[0] for node in neurons])
    editor = Editor(graph)
    layers = [node for node in graph.nodes if has_weights(node) and not node.domain]
    reached = [any(tensor.name in spiking for tensor in node.outputs) for node in layers]
    masks = masks_of_padding(editor)
    totals = [_multiplications(editor, node, masks) for node in layers]
    if not totals:
        return 0, 0
    counted = _run(_session(graph, totals), _silence(graph))
    samples = int(graph.inputs[0].shape[0])
    behind = sum(float(n) for n, late in zip(counted, reached, strict=True) if late)
    whole = round(sum(map(float, counted)) / samples)
    return whole - round(behind / samples), round(behind / samples)


def _without_time(graph: gs.Graph, shapes: Shapes) -> tuple[list[gs.Node], list[gs.Tensor]]:
    """Make an SNN one without states, in float32, for one sample of a known shape.

    Returns its neurons, which now pass on what they read, and the tensors that are averages over
    time, and so no spikes.
    """
    names = names_of_states(graph)
    for tensor in graph.tensors().values():
        if tensor.dtype in (np.float16, np.float64):
            if isinstance(tensor, gs.Constant):
                tensor.values = tensor.values.astype(np.float32)
            else:
                tensor.dtype = np.dtype(np.float32)
    for node in graph.nodes:
        for name, value in node.attrs.items():
            if isinstance(value, gs.Constant) and value.dtype in (np.float16, np.float64):
                node.attrs[name] = gs.Constant(value.name, value.values.astype(np.float32))
        if node.op == "Cast" and node.attrs["to"] in _OTHER_FLOATS:
            node.attrs["to"] = int(onnx.TensorProto.FLOAT)
    inputs = inputs_besides_states(graph)
    for tensor in inputs:
        # A fixed batch size is kept: a network may hold it in its reshapes.
        batch = tensor.shape[0] if tensor.shape and isinstance(tensor.shape[0], int) else 1
        tensor.shape = [batch, *shapes[tensor.name]]
    neurons = neuron_nodes(graph)
    averages = [node.outputs[0] for node in mean_nodes(graph)]
    _without_memory(graph)
    graph.inputs = inputs
    graph.outputs = [tensor for tensor in graph.outputs if tensor.name not in names]
    # Not before: no shape is known to follow from what a stateful operator reads.
    infer_shapes(graph)
    return neurons, averages


def _silence(graph: gs.Graph) -> dict[str, np.ndarray]:
    """0 for each input, in its type."""
    return {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in graph.inputs}


def _without_memory(graph: gs.Graph) -> None:
    """Replace every stateful operator by what it does in one time-step.

    Pools pool, a Clock says 1, the rest, neurons among them, pass on what they read.
    """
    for node in stateful_nodes(graph):
        x, attributes = node.inputs[0], dict(node.attrs)
        op = SPIKING_POOLS.get(node.op)
        if node.op == "Clock":
            become(node, "Constant", [], {"value": gs.Constant("", np.ones(1, np.float32))})
        else:
            become(node, op or "Identity", [x], attributes if op == "MaxPool" else {})


_OTHER_FLOATS = {onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}


def _session(graph: gs.Graph, outputs: list[gs.Variable]) -> Any:
    graph.outputs = list(outputs)
    tidy(graph)
    model = to_parts(graph)
    # Shapes and types of before; all sizes follow from the inputs.
    del model.structure.graph.value_info[:]
    for info in model.structure.graph.input:
        del info.type.tensor_type.shape.dim[:]
        info.type.tensor_type.ClearField("shape")
    # In order, and not optimised: so that ones are made one layer's at a time.
    return create_session(model, [CPU], use=Use(once=True, seldom=True, in_order=True))


def _run(session: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a session on those of the arrays that it reads, counts in float32."""
    types = {source.name: source.type for source in session.get_inputs()}
    wanted = {
        name: np.asarray(value, np.float32 if types[name] == "tensor(float)" else None)
        for name, value in feed.items()
        if name in types
    }
    found: list[np.ndarray] = run_session(session, None, wanted)
    return found
