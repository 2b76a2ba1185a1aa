"""Counting synapses: what a spike costs, and what the ANN's multiplications would.

A spike of a neuron travels through pooling, reshapes and additions to each weighted layer
(Conv, ConvTranspose, Gemm, MatMul) and is added up there once for each synapse, that is
each non-zero weight that it meets: its fan-out. Summing spikes times fan-out gives the
synaptic operations (SOPs); summing one for every connection gives the ANN's MACs.
Connections to padding count in neither.

Both are computed by running a graph, the network with every weight replaced by 1 (0 where
it is 0), biases by 0, and averages by sums: its weighted layers then add up events.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.editing import constant_value, new_constant, tidy
from onnx2snn.graph_passes.io import infer_shapes, to_graph, to_model
from onnx2snn.graph_passes.linear import downstream
from onnx2snn.graph_passes.neurons import state_names, stateful_nodes
from onnx2snn.runtime.providers import CPU, create_session

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def synaptic_operations(model: onnx.ModelProto, spike_counts: Mapping[str, np.ndarray]) -> float:
    """SOPs of one sample: each spike times its fan-out.

    ``spike_counts``: by neuron layer, [C, H, W] or the layer's own shape, the (mean) number
    of spikes of one sample in all its time-steps.
    """
    return sum(SynapseCounter(model).layers(spike_counts).values())


def macs(model: onnx.ModelProto, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass of the ANN behind an SNN, for one sample.

    ``input_shape`` is that of one sample, without the batch axis.
    """
    graph = to_graph(model)
    graph.toposort()
    infer_shapes(graph)
    _remove_states(graph)
    for node in stateful_nodes(graph):
        _become(node, "Identity", node.inputs[:1])
    counted = []
    for node in [node for node in graph.nodes if node.op in _WEIGHTED and not node.domain]:
        variable = _varying_operand(node)
        ones = _ones_like(graph, node.inputs[variable])
        node.inputs[variable] = ones
        counted.append(_count_events(graph, node, 1 - variable))
    return round(sum(_run(graph, counted, {graph.inputs[0].name: np.zeros((1, *input_shape))})))


class SynapseCounter:
    """The graph that counts a network's synaptic operations, ready to run."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = to_graph(model)
        graph.toposort()
        infer_shapes(graph)
        _remove_states(graph)
        neurons = stateful_nodes(graph)
        spiking = downstream(graph, [node.outputs[0] for node in neurons])
        self._inputs = {}
        graph.inputs.clear()
        for node in neurons:
            x = node.outputs[0]
            node.inputs.clear()
            node.outputs.clear()
            graph.inputs.append(x)
            self._inputs[node.name] = x
        self._counted = {}
        for node in list(graph.nodes):
            if any(tensor.name in spiking for tensor in node.inputs):
                _pass_events_on(graph, node, spiking)
                if node.op in _WEIGHTED:
                    weights = 1 if node.inputs[0].name in spiking else 0
                    self._counted[node.name] = _count_events(graph, node, weights)
        self._graph = graph

    def layers(self, spike_counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Synaptic operations of one sample by weighted layer."""
        if not self._counted:
            return {}
        feed = {
            tensor.name: np.asarray(spike_counts[name])[None]
            for name, tensor in self._inputs.items()
        }
        values = _run(self._graph, list(self._counted.values()), feed)
        return dict(zip(self._counted, values, strict=True))


def _run(graph: gs.Graph, outputs: list[gs.Variable], feed: dict[str, np.ndarray]) -> list[float]:
    graph.outputs = list(outputs)
    tidy(graph)
    model = to_model(graph)
    del model.graph.value_info[:]
    session = create_session(model, [CPU])
    types = {tensor.name: tensor.dtype for tensor in graph.inputs}
    needed = {source.name for source in session.get_inputs()}
    values = session.run(
        None, {name: value.astype(types[name]) for name, value in feed.items() if name in needed}
    )
    return [float(value) for value in values]


def _remove_states(graph: gs.Graph) -> None:
    names = {name for node in stateful_nodes(graph) for name in state_names(node.name)}
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name not in names]
    graph.outputs = [tensor for tensor in graph.outputs if tensor.name not in names]


def _become(node: gs.Node, op: str, inputs: list[gs.Tensor], attrs: dict | None = None) -> None:
    node.op, node.domain = op, None
    node.inputs, node.outputs = list(inputs), list(node.outputs[:1])
    node.attrs.clear()
    node.attrs.update(attrs or {})


def _varying_operand(node: gs.Node) -> int:
    return 0 if isinstance(node.inputs[1], gs.Constant) else 1


def _ones_like(graph: gs.Graph, tensor: gs.Tensor) -> gs.Variable:
    """1 + 0 x, of the tensor's shape."""
    zeros = _zeros_like(graph, tensor)
    ones = gs.Variable(f"{zeros.name}/ones", tensor.dtype)
    one = new_constant(graph, f"{ones.name}/one", np.ones((), tensor.dtype))
    graph.nodes.append(gs.Node("Add", ones.name, {}, [zeros, one], [ones]))
    return ones


def _zeros_like(graph: gs.Graph, tensor: gs.Tensor) -> gs.Variable:
    number = len(graph.nodes)
    zeros = gs.Variable(f"{tensor.name}/zeros_{number}", tensor.dtype)
    zero = new_constant(graph, f"{zeros.name}/zero", np.zeros((), tensor.dtype))
    graph.nodes.append(gs.Node("Mul", zeros.name, {}, [tensor, zero], [zeros]))
    return zeros


def _count_events(graph: gs.Graph, node: gs.Node, weights: int) -> gs.Variable:
    """Make a weighted layer count: weights to 1, no bias; returns the sum of its output."""
    value = constant_value(node.inputs[weights])
    if value is not None:
        ones = (value != 0).astype(value.dtype)
        node.inputs[weights] = new_constant(graph, f"{node.name}/synapses", ones)
    node.inputs = list(node.inputs[:2])
    if node.op == "Gemm":
        node.attrs["alpha"] = 1.0
    total = gs.Variable(f"{node.name}/operations", node.outputs[0].dtype, [])
    summing = gs.Node("ReduceSum", total.name, {"keepdims": 0}, [node.outputs[0]], [total])
    graph.nodes.append(summing)
    return total


def _pass_events_on(graph: gs.Graph, node: gs.Node, spiking: set[str]) -> None:
    """Let an operator between spikes and weights hand on events instead of potentials."""
    x = node.inputs[0]
    match node.op:
        case "AveragePool":
            _sum_pool(graph, node)
        case "GlobalAveragePool":
            rank = len(x.shape)
            axes = new_constant(graph, f"{node.name}/axes", np.arange(2, rank))
            _become(node, "ReduceSum", [x, axes], {"keepdims": 1})
        case "ReduceMean":
            axes = list(node.inputs[1:])
            if "axes" in node.attrs:
                axes = [new_constant(graph, f"{node.name}/axes", np.array(node.attrs["axes"]))]
            _become(node, "ReduceSum", [x, *axes], {"keepdims": node.attrs.get("keepdims", 1)})
        case "BatchNormalization" | "Neg" | "Div":
            _become(node, "Identity", [x])
        case "Mul":
            _become(node, "Identity", [next(t for t in node.inputs if t.name in spiking)])
        case "Add" | "Sub" | "Sum" | "Mean":
            _become(node, "Sum", [t for t in node.inputs if t.name in spiking])
        case "Concat":
            node.inputs = [t if t.name in spiking else _zeros_like(graph, t) for t in node.inputs]


def _sum_pool(graph: gs.Graph, node: gs.Node) -> None:
    """Average over the whole window, padding included, times its size."""
    node.attrs["count_include_pad"] = 1
    size = float(np.prod(node.attrs["kernel_shape"]))
    result = node.outputs[0]
    average = gs.Variable(f"{node.name}/average", result.dtype, result.shape)
    node.outputs = [average]
    factor = new_constant(graph, f"{node.name}/size", np.array(size, result.dtype))
    graph.nodes.append(gs.Node("Mul", f"{node.name}/sum", {}, [average, factor], [result]))
