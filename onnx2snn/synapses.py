"""Counting synapses: what a spike costs, and what the ANN's multiplications would.

A spike of a neuron travels through pooling, reshapes and additions to each weighted layer
(Conv, ConvTranspose, Gemm, MatMul, Einsum of two) and is added up there once for each synapse,
that is each non-zero weight that it meets: its fan-out. Summing spikes times fan-out gives the
synaptic operations (SOPs); summing one for every connection gives the ANN's MACs.
Connections to padding count in neither. Of a window that a max-pool reads as many spikes go on as
the neuron in it emits that emits most, in each sample; of one that is kept between spikes, which
passes one on whenever any neuron fires, at least as many.

Both are computed by running a graph on counts of events: the network in float32 with every
weight 1 (0 where it is 0), biases and whatever carries no spikes 0, and averages as sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.editing import Editor, constant_value, replace_node, tidy
from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.graph_passes.io import infer_shapes, to_graph, to_parts
from onnx2snn.graph_passes.limits import WEIGHTED
from onnx2snn.graph_passes.linear import MAX_POOLS, SPIKING_POOLS, downstream, samples_axis
from onnx2snn.graph_passes.neurons import (
    is_mean,
    names_of_states,
    neuron_nodes,
    stateful_nodes,
)
from onnx2snn.graph_passes.weights import ModelParts
from onnx2snn.runtime.providers import CPU, create_session, run_session

InputShape = tuple[int, ...] | Mapping[str, tuple[int, ...]]
"""Shape of one sample; of a network with several inputs, by name."""


@dataclass(frozen=True)
class _Events:
    """A spiking network for one sample, to count events in, cut off behind its neurons.

    ``axes``: those of the samples, by neurons and max-pools. ``spikes``: what neurons emit, by
    their names, and now nothing makes; ``spiking`` names all tensors that events reach, ``pools``
    are the max-pools that do.
    """

    graph: gs.Graph
    axes: dict[str, int]
    spikes: dict[str, gs.Variable]
    spiking: set[str]
    pools: list[gs.Node]


def _events(model: onnx.ModelProto | ModelParts, input_shape: InputShape) -> _Events:
    graph = to_graph(model)
    pooling = [node for node in graph.nodes if node.op in {*MAX_POOLS, *SPIKING_POOLS}]
    layers = [*neuron_nodes(graph), *pooling]
    axes = {node.name: samples_axis(graph, node.outputs[0]) for node in layers}
    neurons, averages = _without_time(graph, input_shape)
    spiking = downstream(graph, [node.outputs[0] for node in neurons])
    spiking -= downstream(graph, averages)
    spikes = {}
    for node in neurons:
        spikes[node.name] = node.outputs[0]
        node.inputs.clear()
        node.outputs.clear()
    pools = [node for node in pooling if node.inputs[0].name in spiking]
    return _Events(graph, axes, spikes, spiking, pools)


def _hand_on(events: _Events) -> dict[str, gs.Variable]:
    """Let what events reach hand them on; returns the operations of each weighted layer, summed."""
    totals, editor = {}, Editor(events.graph)
    for node in list(events.graph.nodes):
        if not any(tensor.name in events.spiking for tensor in node.inputs):
            continue
        if not _has_weights(node):
            _pass_events_on(editor, node, events.spiking)
        else:
            weights = 1 if node.inputs[0].name in events.spiking else 0
            totals[node.name] = _operations(editor, node, weights, hands_on=True)
    return totals


class MaxPools:
    """What max-pools let through: of a window the most spikes of a neuron, in each sample.

    ``axes``: those along which neurons and max-pools have their samples, by name.
    """

    def __init__(self, model: onnx.ModelProto | ModelParts, input_shape: InputShape) -> None:
        events = _events(model, input_shape)
        self.axes = events.axes
        self._session: Any = None
        if not events.pools:
            return
        _hand_on(events)
        self._names = [node.name for node in events.pools]
        self._inputs = {name: tensor.name for name, tensor in events.spikes.items()}
        # What comes before the neurons may still give shapes.
        self._silence = _silence(events.graph)
        events.graph.inputs += list(events.spikes.values())
        self._session = _session(events.graph, [node.outputs[0] for node in events.pools])

    def counts(self, spike_counts: Mapping[str, np.ndarray], samples: int) -> dict[str, np.ndarray]:
        """Spikes that leave each max-pool, of each of N = ``samples``, in all time-steps.

        ``spike_counts``: those of each layer of neurons, in its shape for N samples.
        """
        if self._session is None:
            return {}
        feed = {name: spike_counts[layer] for layer, name in self._inputs.items()}
        feed |= {
            name: np.broadcast_to(zeros[:1], (samples, *zeros.shape[1:]))
            for name, zeros in self._silence.items()
        }
        return dict(zip(self._names, _run(self._session, feed), strict=True))


class SynapseCounter:
    """Counts the synaptic operations of a spiking network, with a 1 for each of its weights.

    ``input_shape`` is that of one sample, without the batch axis; of several inputs by name.
    """

    def __init__(self, model: onnx.ModelProto | ModelParts, input_shape: InputShape) -> None:
        events = _events(model, input_shape)
        totals = _hand_on(events)
        graph, sources = events.graph, dict(events.spikes)
        for node in events.pools:
            # Their counts are given: the maximum of means is no mean of maxima.
            sources[node.name] = node.outputs[0]
            node.inputs.clear()
            node.outputs.clear()
        self._axes = events.axes
        self._layers = tuple(totals)
        self._inputs = {name: tensor.name for name, tensor in sources.items()}
        self._batch = graph.inputs[0].shape[0]
        self._ranks = {name: len(tensor.shape) for name, tensor in sources.items()}
        self._silence = _silence(graph)
        graph.inputs += list(sources.values())
        self._session = _session(graph, list(totals.values())) if totals else None

    def layers(self, spike_counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Synaptic operations of one sample, by weighted layer.

        ``spike_counts``: by layer of neurons and by max-pool, in its shape with the samples' axis
        or without, the number of spikes of one sample (of ``MaxPools``), or its mean over samples,
        in all time-steps.
        """
        if self._session is None:
            return {}
        feed = {
            self._inputs[name]: self._batch_of(name, counts)
            for name, counts in spike_counts.items()
        }
        values = _run(self._session, feed | self._silence)
        return {n: float(v) / self._batch for n, v in zip(self._layers, values, strict=True)}

    def _batch_of(self, name: str, counts: np.ndarray) -> np.ndarray:
        """The counts of one sample for each of a batch."""
        rows = counts if counts.ndim == self._ranks[name] else counts[np.newaxis]
        return np.concatenate([rows] * self._batch, self._axes[name])


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


def macs(model: onnx.ModelProto | ModelParts, input_shape: InputShape) -> int:
    """Multiply-accumulates of one forward pass of the ANN behind an SNN, for one sample.

    ``input_shape`` is that of one sample, without the batch axis.
    """
    graph = to_graph(model)
    _without_time(graph, input_shape)
    totals, editor = [], Editor(graph)
    for node in [node for node in graph.nodes if _has_weights(node) and not node.domain]:
        weights = 1 if isinstance(node.inputs[1], gs.Constant) else 0
        node.inputs[1 - weights] = _filled_like(editor, node.inputs[1 - weights], 1.0)
        totals.append(_operations(editor, node, weights, hands_on=False))
    if not totals:
        return 0
    counted = _run(_session(graph, totals), _silence(graph))
    return round(sum(map(float, counted)) / int(graph.inputs[0].shape[0]))


def _without_time(
    graph: gs.Graph, input_shape: InputShape
) -> tuple[list[gs.Node], list[gs.Tensor]]:
    """Make an SNN one without states, in float32, for one sample of a known shape.

    Returns its neurons, which now pass on what they read, and the tensors that are averages over
    time, and so no spikes.
    """
    graph.toposort()
    names = names_of_states(graph)
    for tensor in graph.tensors().values():
        if tensor.dtype in (np.float16, np.float64):
            if isinstance(tensor, gs.Constant):
                tensor.values = tensor.values.astype(np.float32)
            elif tensor.name not in names:
                tensor.dtype = np.dtype(np.float32)
    for node in graph.nodes:
        for name, value in node.attrs.items():
            if isinstance(value, gs.Constant) and value.dtype in (np.float16, np.float64):
                node.attrs[name] = gs.Constant(value.name, value.values.astype(np.float32))
        if node.op == "Cast" and node.attrs["to"] in _OTHER_FLOATS:
            node.attrs["to"] = int(onnx.TensorProto.FLOAT)
    for tensor in graph.tensors().values():
        if tensor.name in names:
            tensor.dtype = np.dtype(np.float32)
    inputs = [tensor for tensor in graph.inputs if tensor.name not in names]
    for tensor in inputs:
        # A fixed batch size is kept: a network may hold it in its reshapes.
        batch = tensor.shape[0] if tensor.shape and isinstance(tensor.shape[0], int) else 1
        sizes = input_shape if isinstance(input_shape, tuple) else input_shape[tensor.name]
        tensor.shape = [batch, *sizes]
    neurons = neuron_nodes(graph)
    averages = [t for n in stateful_nodes(graph) if is_mean(n) for t in n.outputs[:1]]
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
            _become(node, "Constant", [], {"value": gs.Constant("", np.ones(1, np.float32))})
        else:
            _become(node, op or "Identity", [x], attributes if op == "MaxPool" else {})


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
    return create_session(model, [CPU], seldom=True, once=True, in_order=True)


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


def _ones_for(editor: Editor, weights: gs.Tensor) -> gs.Tensor:
    """1 for each weight that is not 0, made as the graph runs: no copy of all weights is kept."""
    name = editor.name(f"{weights.name}/synapses")
    some, ones = gs.Variable(f"{name}/some", np.bool_), gs.Variable(name, np.float32)
    to_bool, to_float = int(onnx.TensorProto.BOOL), int(onnx.TensorProto.FLOAT)
    editor.graph.nodes.append(gs.Node("Cast", some.name, {"to": to_bool}, [weights], [some]))
    editor.graph.nodes.append(gs.Node("Cast", name, {"to": to_float}, [some], [ones]))
    return ones


def _filled_like(editor: Editor, tensor: gs.Tensor, value: float) -> gs.Tensor:
    """A tensor of the same shape, filled with one value."""
    if isinstance(tensor, gs.Constant):
        return editor.constant("filled", np.full(tensor.shape, value, np.float32))
    name = editor.name(f"{tensor.name}/filled")
    shape, filled = gs.Variable(f"{name}/shape", np.int64), gs.Variable(name, np.float32)
    editor.graph.nodes.append(gs.Node("Shape", shape.name, {}, [tensor], [shape]))
    fill = {"value": gs.Constant("", np.array([value], np.float32))}
    editor.graph.nodes.append(gs.Node("ConstantOfShape", name, fill, [shape], [filled]))
    return filled


def _has_weights(node: gs.Node) -> bool:
    return node.op in WEIGHTED or (node.op == "Einsum" and len(node.inputs) == 2)


def _fan_outs(node: gs.Node, weights: int) -> np.ndarray | None:
    """Of a dense layer how many of its weights each input meets, as those of a single output.

    None for others, and where weights are not constant. Without it a layer counts by its weights.
    """
    value = constant_value(node.inputs[weights])
    if node.op not in ("Gemm", "MatMul") or value is None or value.ndim < 2:
        return None
    if node.attrs.get(("transA", "transB")[weights], 0):
        value = value.T
    counts: np.ndarray = np.count_nonzero(value, axis=(-2, -1)[weights], keepdims=True)
    return counts.astype(np.float64)


def _let_count(editor: Editor, node: gs.Node, weights: int) -> None:
    """Make a weighted layer hand on events: weights to 1, no bias."""
    if constant_value(node.inputs[weights]) is not None:
        node.inputs[weights] = _ones_for(editor, node.inputs[weights])
    node.inputs = list(node.inputs[:2])
    if node.op == "Gemm":
        node.attrs["alpha"] = 1.0


def _operations(editor: Editor, node: gs.Node, weights: int, hands_on: bool) -> gs.Variable:
    """The sum of what a layer counts; ``hands_on``: whether others read the events behind it."""
    fan_outs = _fan_outs(node, weights)
    if hands_on or fan_outs is None:
        _let_count(editor, node, weights)
    # In double, since a layer can have more than the 2^24 operations that float32 counts.
    name = editor.name(f"{node.name}/operations")
    exact, total = gs.Variable(f"{name}/exact", np.float64), gs.Variable(name, np.float64, [])
    counted = node.outputs[0] if fan_outs is None else node.inputs[1 - weights]
    to_double = {"to": int(onnx.TensorProto.DOUBLE)}
    editor.graph.nodes.append(gs.Node("Cast", exact.name, to_double, [counted], [exact]))
    if fan_outs is not None:
        inputs = [exact, exact]
        inputs[weights] = editor.constant(f"{name}/fan-outs", fan_outs)
        transposed = ("transA", "transB")[1 - weights]
        attributes = {k: v for k, v in node.attrs.items() if k == transposed}
        exact = gs.Variable(f"{name}/dense", np.float64)
        editor.graph.nodes.append(gs.Node(node.op, exact.name, attributes, inputs, [exact]))
    editor.graph.nodes.append(gs.Node("ReduceSum", name, {"keepdims": 0}, [exact], [total]))
    return total


def _become(node: gs.Node, op: str, inputs: list[gs.Tensor], attrs: dict | None = None) -> None:
    replace_node(node, op, inputs, attrs)
    node.outputs = node.outputs[:1]


def _pass_events_on(editor: Editor, node: gs.Node, spiking: set[str]) -> None:
    """Let an operator between spikes and weights hand on events instead of potentials."""
    x = node.inputs[0]

    def others_filled(value: float) -> list[gs.Tensor]:
        """The operands, those without spikes filled: they still give the result its shape."""
        return [t if t.name in spiking else _filled_like(editor, t, value) for t in node.inputs]

    match node.op:
        case "AveragePool":
            _sum_pool(editor, node)
        case "GlobalAveragePool":
            axes = editor.constant(f"{node.name}/axes", np.arange(2, len(x.shape)))
            _become(node, "ReduceSum", [x, axes], {"keepdims": 1})
        case "ReduceMean":
            axes = list(node.inputs[1:])
            if "axes" in node.attrs:
                axes = [editor.constant(f"{node.name}/axes", np.array(node.attrs["axes"]))]
            kept = {"keepdims": 1, "noop_with_empty_axes": 0}
            attributes = {name: node.attrs.get(name, value) for name, value in kept.items()}
            _become(node, "ReduceSum", [x, *axes], attributes)
        case "BatchNormalization" | "Neg":
            _become(node, "Identity", [x])
        case "Mul" | "Div":
            _become(node, "Mul", others_filled(1.0))
        case "Add" | "Sub" | "Sum" | "Mean":
            _become(node, "Sum", others_filled(0.0))
        case "Concat":
            node.inputs = others_filled(0.0)
        case "Where":
            node.inputs = [x, *others_filled(0.0)[1:]]
        case "Einsum":
            node.inputs = [t if t.name in spiking else _ones_for(editor, t) for t in node.inputs]
        case "Pad" if len(node.inputs) > 2 and not node.inputs[2].is_empty():
            node.inputs[2] = editor.constant(f"{node.name}/zero", np.zeros((), np.float32))


def _sum_pool(editor: Editor, node: gs.Node) -> None:
    """AveragePool -> a convolution of each channel with ones, over the same windows."""
    x, result, attrs = node.inputs[0], node.outputs[0], dict(node.attrs)
    kernel = attrs["kernel_shape"]
    attrs.pop("count_include_pad", None)
    if attrs.pop("ceil_mode", 0):
        # Conv rounds sizes down: pad the end by what the last windows reach beyond.
        axes = len(kernel)
        pads = list(attrs.get("pads", [0] * 2 * axes))
        strides, dilations = (attrs.get(k, [1] * axes) for k in ("strides", "dilations"))
        for axis in range(axes):
            window = (kernel[axis] - 1) * dilations[axis] + 1
            covered = (result.shape[2 + axis] - 1) * strides[axis] + window
            padded = x.shape[2 + axis] + pads[axis] + pads[axes + axis]
            pads[axes + axis] += max(covered - padded, 0)
        attrs["pads"] = pads
    channels = x.shape[1]
    ones = np.ones((channels, 1, *kernel), np.float32)
    weights = editor.constant(f"{node.name}/ones", ones)
    _become(node, "Conv", [x, weights], attrs | {"group": channels})
