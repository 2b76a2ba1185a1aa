"""The operators with a memory, and how a graph holds their states.

A stateful operator is a node in the domain ``onnx2snn``. Its meaning is a model-local
function in standard operators, stored in the same file, so any ONNX runtime executes it.

====================  ================================================  =====================
op                    equations, for one time-step                      state, and its start
====================  ================================================  =====================
IF                    u = v + current; s = 1 if u > V_th else 0         v, at v_init
                      (strict); x = s V_th; v_next = u - x (reset by
                      subtraction)
SpikingMaxPool        S_next = S + current;                             S, at 0
                      x = max_pool(S_next) - max_pool(S)
SpikingGlobalMaxPool  the same, the window being the whole image        S, at 0
SpikingThreshold      S_next = S + current; f(S, t) = S where           S, at 0
                      S > alpha t, else 0; x = f(S_next, t) -
                      f(S, t - 1)
RunningMean           S_next = S + current; mean = S_next / t           S, at 0
Clock                 t = n + 1, the time-step, from 1; n_next = t      n, at 0
====================  ================================================  =====================

Sources: IF: Bu et al., AAAI 2022, equations 2 to 5. SpikingMaxPool: the lateral-inhibition
pooling of Li and Zeng (2022) as a difference; its outputs add up to the maximum of its
inputs' sums, for any window. SpikingThreshold does the same for ThresholdedRelu.

A node ``n`` of such an operator reads its state from the graph input ``v/n``, its last
input, and writes the next one to the graph output ``v_next/n``, its last output. In the
file, ``v/n`` has a default, its start: run with the image alone for the first time-step,
then feed each ``v_next/n`` back as ``v/n``. An output that comes from a RunningMean is the
read-out of all time-steps so far; any other is that of one time-step, to be averaged.
"""

import functools

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs

DOMAIN = "onnx2snn"
DOMAIN_VERSION = 1

STATE_PREFIX = "v/"
NEXT_STATE_PREFIX = "v_next/"

MIN_OPSET = 17
"""Oldest opset in which ONNX Runtime was measured to inline the functions below."""

FUNCTIONS = {
    "IF": """
        IF <v_threshold, v_init> (current, v) => (x, v_next)
        {
            threshold = Constant <value: tensor = @v_threshold> ()
            v_threshold = CastLike (threshold, current)
            u = Add (v, current)
            fired = Greater (u, v_threshold)
            s = CastLike (fired, current)
            x = Mul (s, v_threshold)
            v_next = Sub (u, x)
        }
    """,
    "SpikingMaxPool": """
        SpikingMaxPool <kernel_shape, strides, pads, dilations, ceil_mode>
            (current, total) => (x, total_next)
        {
            c = CastLike (current, total)
            shape = Shape (c)
            held = Expand (total, shape)
            total_next = Add (held, c)
            before = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides,
                pads: ints = @pads, dilations: ints = @dilations, ceil_mode: int = @ceil_mode>
                (held)
            after = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides,
                pads: ints = @pads, dilations: ints = @dilations, ceil_mode: int = @ceil_mode>
                (total_next)
            difference = Sub (after, before)
            x = CastLike (difference, current)
        }
    """,
    "SpikingGlobalMaxPool": """
        SpikingGlobalMaxPool (current, total) => (x, total_next)
        {
            c = CastLike (current, total)
            shape = Shape (c)
            held = Expand (total, shape)
            total_next = Add (held, c)
            before = GlobalMaxPool (held)
            after = GlobalMaxPool (total_next)
            difference = Sub (after, before)
            x = CastLike (difference, current)
        }
    """,
    "SpikingThreshold": """
        SpikingThreshold <alpha> (current, t, total) => (x, total_next)
        {
            c = CastLike (current, total)
            total_next = Add (total, c)
            a = Constant <value: tensor = @alpha> ()
            level = CastLike (a, total)
            now = CastLike (t, total)
            level_now = Mul (level, now)
            level_before = Sub (level_now, level)
            counts_now = Greater (total_next, level_now)
            counts_before = Greater (total, level_before)
            factor_now = CastLike (counts_now, total)
            factor_before = CastLike (counts_before, total)
            after = Mul (total_next, factor_now)
            before = Mul (total, factor_before)
            difference = Sub (after, before)
            x = CastLike (difference, current)
        }
    """,
    "RunningMean": """
        RunningMean (current, t, total) => (mean, total_next)
        {
            c = CastLike (current, total)
            total_next = Add (total, c)
            steps = CastLike (t, total)
            quotient = Div (total_next, steps)
            mean = CastLike (quotient, current)
        }
    """,
    "Clock": """
        Clock (n) => (t, n_next)
        {
            one = Constant <value: tensor = float {1}> ()
            t = Add (n, one)
            n_next = Identity (t)
        }
    """,
}
"""ONNX text of each stateful operator. ``v_threshold``, ``v_init`` and ``alpha`` are tensors:
the threshold V_th and the initial membrane potential v(0) of IF, in the unit of the input
current, shaped to broadcast against one sample: () per tensor, (C, 1, 1) per channel, or a
full sample's shape; and the level of SpikingThreshold, a scalar. The other attributes are
those of MaxPool, all of them given."""

TENSOR_ATTRIBUTES = frozenset({"v_threshold", "v_init", "alpha"})


@functools.cache
def _signature(op: str) -> onnx.FunctionProto:
    header = '<opset_import: ["": 17], domain: "onnx2snn">'
    return onnx.parser.parse_function(header + FUNCTIONS[op])


def attributes_of(op: str) -> frozenset[str]:
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


def is_stateful(node: gs.Node) -> bool:
    """Whether the node keeps a state from one time-step to the next."""
    return (node.domain or "") == DOMAIN


def stateful_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The graph's stateful nodes, in graph order."""
    return [node for node in graph.nodes if is_stateful(node)]


def neuron_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The graph's spiking neurons, in graph order."""
    return [node for node in graph.nodes if is_neuron(node)]


def is_neuron(node: gs.Node) -> bool:
    """Whether the node is a layer of spiking neurons."""
    return is_stateful(node) and node.op == "IF"


def start_of(node: gs.Node) -> np.ndarray:
    """The state before the first time-step, of the state's rank; it broadcasts."""
    state = node.inputs[-1]
    start = initial_potential_of(node) if is_neuron(node) else np.zeros(())
    return with_batch_axis(start, len(state.shape)).astype(state.dtype)


def add_state(graph: gs.Graph, node: gs.Node, rank: int, dtype: np.dtype) -> None:
    """Give a new stateful node its state, as its last input and output and the graph's.

    Its axes have symbols of their own: the start broadcasts, so its sizes differ from those
    of the states that come after it.
    """
    read, written = state_names(node.name)
    shape = [f"{read}.{axis}" for axis in range(rank)]
    state, next_state = gs.Variable(read, dtype, shape), gs.Variable(written, dtype, shape)
    graph.inputs.append(state)
    graph.outputs.append(next_state)
    node.inputs.append(state)
    node.outputs.append(next_state)


def sum_type(dtype: np.dtype) -> np.dtype:
    """The type of a sum over time: float16 cannot even count beyond 2048."""
    return np.promote_types(dtype, np.float32)


def threshold_of(node: gs.Node) -> np.ndarray:
    """V_th of a neuron: an array that broadcasts against one sample of its current."""
    return np.asarray(node.attrs["v_threshold"].values)


def initial_potential_of(node: gs.Node) -> np.ndarray:
    """v(0) of a neuron: an array that broadcasts against one sample of its current."""
    return np.asarray(node.attrs["v_init"].values)


def state_names(node_name: str) -> tuple[str, str]:
    """The names of the graph input and output that carry a node's state."""
    return STATE_PREFIX + node_name, NEXT_STATE_PREFIX + node_name


def with_batch_axis(value: np.ndarray, rank: int) -> np.ndarray:
    """Reshape a per-sample array to ``rank`` axes, the first of them the batch, of size 1."""
    value = np.asarray(value)
    return value.reshape((1,) * (rank - value.ndim) + value.shape)


def attribute_tensor(value: np.ndarray) -> gs.Constant:
    """An array as the TENSOR attribute of a node."""
    return gs.Constant("", np.ascontiguousarray(value).reshape(np.shape(value)))
