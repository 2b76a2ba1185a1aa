"""The operators with a memory, and how a graph holds their states.

A stateful operator is a node in the domain ``onnx2snn``. Its meaning is a model-local
function in standard operators, stored in the same file, so any ONNX runtime executes it.

====================  ================================================  =====================
op                    equations, for one time-step                      state, and its start
====================  ================================================  =====================
IF                    u = v + current; s = 1 if u > V_th else 0         v, at v_init
                      (strict); x = s V_th; v_next = u - x (reset by
                      subtraction)
ResetToZeroIF         as IF, but v_next = 0 where s = 1, else u         v, at v_init
SignedIF              as IF, and s = -1 if u < v_negative and m > 0;    v, at v_init;
                      m_next = m + s                                    m, at 0
BurstIF               as IF, but s = ceil(u / V_th) - 1, from 0 to      v, at v_init
                      max_spikes
SignedBurstIF         as IF, but s = ceil(u / V_th) - 1, from           v, at v_init;
                      -max_spikes, and no less than -m, to max_spikes;  m, at 0
                      m_next = m + s
ResidualIF            as IF, but after the time-step t = delay v_next   v, at v_init
                      is v_init where it is positive, and else so low
                      that the neuron is silent from then on
OffsetIF              as IF, but after the time-step t = delay v_next   v, at v_init
                      is v_init - V_th where it is below 0, v_init +
                      V_th where it is V_th or more, else v_init
SpikingMaxPool        S_next = S + current;                             S, at 0
                      x = max_pool(S_next) - max_pool(S)
SpikingGlobalMaxPool  the same, the window being the whole image        S, at 0
SpikingThreshold      S_next = S + current; f(S, t) = S where           S, at 0
                      S > alpha t, else 0; x = f(S_next, t) -
                      f(S, t - 1)
ToMean                S_next = S + current; mean = S_next / t           S, at 0
FromMean              S_next = t mean, or S where that is not finite,   S, at 0
                      as 0 / 0 before the first spikes; x = S_next - S
RunningMean           as ToMean, for the read-out                       S, at 0
DelayedMean           as RunningMean, but begun again after the         S, at 0
                      time-step t = delay
SwitchCoder           x = scale sign(r) if |r| > scale / 2 else 0,      S, at 0
                      r = timesteps current - S; S_next = S + x
Clock                 t = n + 1, the time-step, from 1; n_next = t      n, at 0
====================  ================================================  =====================

Sources: IF: Bu et al., AAAI 2022, equations 2 to 5. SignedIF: Wang et al., IJCAI 2022, the
"signed neuron with memory", with v_negative = -V_th. BurstIF: Li and Zeng, IJCAI 2022.
SwitchCoder: the temporal-switch coding of Han and Roy, ECCV 2020. ResidualIF: Hao et al., AAAI
2023. OffsetIF: Hao et al., ICLR 2023. DelayedMean: the delayed
evaluation of Hwang et al. 2021. SpikingMaxPool: the lateral-inhibition
pooling of Li and Zeng (2022) as a difference; its outputs add up to the maximum of its
inputs' sums, for any window. SpikingThreshold does the same for ThresholdedRelu. ToMean and
FromMean do it for any function between them: the expectation compensation of Huang et al., ACM
Multimedia 2024.

A node ``n`` of such an operator reads its state from the graph input ``v/n``, its last
input, and writes the next one to the graph output ``v_next/n``, its last output; a SignedIF
has two states, ``v/n`` and ``m/n``. In the file, ``v/n`` has a default, its start: run with
the image alone for the first time-step, then feed each ``v_next/n`` back as ``v/n``. An
output that comes from a RunningMean or DelayedMean is the read-out of all time-steps so far;
any other is that of one time-step, to be averaged.
"""

import functools

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import DataError, ModelError

from . import editing
from .neuron_functions import FUNCTIONS

DOMAIN = "onnx2snn"

NEURON_OPSET = 17
"""Oldest opset in which ONNX Runtime was measured to inline ``FUNCTIONS``."""

MOST_COUNTED = 2**24
"""Time-steps of a delay or a code: beyond, float32, in which a Clock counts, stays as it is."""

TENSOR_ATTRIBUTES = frozenset(
    {"v_threshold", "v_init", "v_negative", "max_spikes", "delay", "alpha", "scale", "timesteps"}
)

NEURONS = frozenset(op for op in FUNCTIONS if op.endswith("IF"))
"""The operators that are layers of neurons; what they emit is x = s V_th, s a whole number."""

MEANS = frozenset({"RunningMean", "DelayedMean"})
"""The operators that average over time for the read-out."""

COUNTING = frozenset({"SignedIF", "SignedBurstIF"})
"""The neurons that keep, besides v, the number of spikes that they have emitted, m."""


@functools.cache
def _signature(op: str) -> onnx.FunctionProto:
    header = '<opset_import: ["": 17], domain: "onnx2snn">'
    return onnx.parser.parse_function(header + FUNCTIONS[op])


def attribute_names_of(op: str) -> frozenset[str]:
    """What a stateful operator must carry, no more and no less: checker and runtimes
    silently ignore an attribute whose name is misspelled.
    """
    return frozenset(_signature(op).attribute)


def inputs_of(op: str) -> int:
    """How many inputs a stateful operator has, its state among them."""
    return len(_signature(op).input)


def function_proto(op: str, opset: int) -> onnx.FunctionProto:
    """The model-local function of a stateful operator, its body in ``opset``."""
    function = onnx.FunctionProto()
    function.CopyFrom(_signature(op))
    function.opset_import[0].version = opset
    return function


def is_stateful(node: gs.Node | onnx.NodeProto) -> bool:
    """Whether the node keeps a state from one time-step to the next."""
    return (node.domain or "") == DOMAIN


def stateful_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The graph's stateful nodes, in graph order.

    Raises ``DataError`` for what is no graph.
    """
    editing.require_graph(graph)
    return [node for node in graph.nodes if is_stateful(node)]


def neuron_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The graph's spiking neurons, in graph order.

    Raises ``DataError`` for what is no graph.
    """
    editing.require_graph(graph)
    return [node for node in graph.nodes if is_neuron(node)]


def require_neuron_opset(graph: gs.Graph) -> None:
    """Raise ``ModelError`` if a graph's opset is too old for stateful nodes."""
    editing.require_opset(graph, NEURON_OPSET, "neurons")


def require_neurons(graph: gs.Graph) -> None:
    """Raise ``ModelError`` if a graph has no spiking neurons."""
    if not neuron_nodes(graph):
        raise ModelError(
            "the model has no spiking neurons: it is an ANN; convert it first (onnx2snn convert)"
        )


def is_neuron(node: gs.Node) -> bool:
    """Whether the node is a layer of spiking neurons."""
    return is_stateful(node) and node.op in NEURONS


def gives_mean(node: gs.Node) -> bool:
    """Whether the node hands the mean of its inputs so far to what is between it and a FromMean."""
    return is_stateful(node) and node.op == "ToMean"


def is_mean(node: gs.Node) -> bool:
    """Whether the node averages over time, for the read-out."""
    return is_stateful(node) and node.op in MEANS


def mean_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The graph's averages over time, in graph order."""
    return [node for node in graph.nodes if is_mean(node)]


def states_read(node: gs.Node) -> list[gs.Variable]:
    """The states that a stateful node reads: its last inputs."""
    return list(node.inputs[-len(state_names(node.op, node.name)) :])


def states_written(node: gs.Node) -> list[gs.Variable]:
    """The states that a stateful node writes: its last outputs, in the same order."""
    return list(node.outputs[-len(state_names(node.op, node.name)) :])


def starts_of(node: gs.Node) -> list[np.ndarray]:
    """Its states before the first time-step, each of the state's rank; they broadcast."""
    states = states_read(node)
    first = initial_potential_of(node) if is_neuron(node) else np.zeros(())
    starts = [first] + [np.zeros(())] * (len(states) - 1)
    return [
        np.array(start, state.dtype, ndmin=len(state.shape))
        for start, state in zip(starts, states, strict=True)
    ]


def add_state(graph: gs.Graph, node: gs.Node, rank: int, dtype: np.dtype) -> None:
    """Give a new stateful node its states, as its last inputs and outputs and the graph's.

    Their axes have symbols of their own, before and after: the starts broadcast, so their sizes
    differ from those of the states that come after them, and ONNX Runtime puts what has the same
    symbols into the same memory.
    """
    for read, written in state_names(node.op, node.name):
        state, next_state = (
            gs.Variable(name, dtype, [f"{name}.{axis}" for axis in range(rank)])
            for name in (read, written)
        )
        graph.inputs.append(state)
        graph.outputs.append(next_state)
        node.inputs.append(state)
        node.outputs.append(next_state)


def sum_type(dtype: np.dtype) -> np.dtype:
    """The type of a sum over time: float16 cannot even count beyond 2048."""
    return np.promote_types(dtype, np.float32)


def threshold_of(node: gs.Node) -> np.ndarray:
    """V_th of a neuron: an array that broadcasts against one sample of its current.

    Raises ``DataError`` for what is no neuron.
    """
    return _attribute_of(node, "v_threshold")


def initial_potential_of(node: gs.Node) -> np.ndarray:
    """v(0) of a neuron: an array that broadcasts against one sample of its current.

    Raises ``DataError`` for what is no neuron.
    """
    return _attribute_of(node, "v_init")


def _attribute_of(node: gs.Node, name: str) -> np.ndarray:
    if not isinstance(node, gs.Node) or not is_neuron(node):
        what = f"{node.op} '{node.name}'" if isinstance(node, gs.Node) else type(node).__name__
        raise DataError(f"a neuron is wanted, as neuron_nodes lists them, not {what}")
    return np.asarray(node.attrs[name].values)


def max_spikes_of(node: gs.Node) -> int:
    """How many spikes a neuron may emit in a time-step."""
    return int(node.attrs["max_spikes"].values) if "max_spikes" in node.attrs else 1


def state_names(op: str, node_name: str) -> list[tuple[str, str]]:
    """The names of the graph's inputs and outputs that carry a node's states."""
    letters = "vm" if op in COUNTING else "v"
    return [(f"{letter}/{node_name}", f"{letter}_next/{node_name}") for letter in letters]


def names_of_states(graph: gs.Graph) -> set[str]:
    """The names of all inputs and outputs of a graph that carry states."""
    pairs = [pair for node in stateful_nodes(graph) for pair in state_names(node.op, node.name)]
    return {name for pair in pairs for name in pair}


def states_in(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """The names of the inputs and outputs of a model that carry states, in pairs."""
    nodes = filter(is_stateful, model.graph.node)
    return [pair for node in nodes for pair in state_names(node.op_type, node.name)]


def inputs_besides_states(graph: gs.Graph) -> list[gs.Variable]:
    """What a network is shown: the inputs of a graph that are no states, in its order."""
    states = names_of_states(graph)
    return [tensor for tensor in graph.inputs if tensor.name not in states]


def attribute_tensor(value: np.ndarray) -> gs.Constant:
    """An array as the TENSOR attribute of a node."""
    return gs.Constant("", np.asarray(value, order="C"))
