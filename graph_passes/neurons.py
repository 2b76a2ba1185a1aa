"""The operators with a memory, and how a graph holds their states.

A stateful operator is a node in the domain ``onnx2snn``. Its meaning is a model-local
function in standard operators, stored in the same file, so any ONNX runtime executes it.

=====  ==========================================================  ======================
op     equations, for one time-step                                state, and its start
=====  ==========================================================  ======================
IF     u = v + current; s = 1 if u > V_th else 0 (strict);         v, at v_init
       x = s V_th; v_next = u - x (reset by subtraction)
=====  ==========================================================  ======================

Source: Bu et al., AAAI 2022, equations 2 to 5.

A node ``n`` of such an operator reads its state from the graph input ``v/n`` and writes
the next one to the graph output ``v_next/n``. In the file, ``v/n`` has a default, v(0),
taken from the attribute ``v_init``: run with the image alone for the first time-step,
then feed each ``v_next/n`` back as ``v/n``.
"""

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
        <opset_import: ["": 17], domain: "onnx2snn">
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
}
"""ONNX text of each stateful operator. Attributes are tensors: the threshold V_th and the
initial membrane potential v(0), in the unit of the input current, shaped to broadcast
against one sample: () per tensor, (C, 1, 1) per channel, or a full sample's shape."""

ATTRIBUTES = {"IF": frozenset({"v_threshold", "v_init"})}
"""What each stateful operator must carry, no more and no less: checker and runtimes
silently ignore an attribute whose name is misspelled."""


def function_proto(op: str, opset: int) -> onnx.FunctionProto:
    """The model-local function of a stateful operator, its body in ``opset``."""
    function = onnx.parser.parse_function(FUNCTIONS[op])
    function.opset_import[0].version = opset
    return function


def is_stateful(node: gs.Node) -> bool:
    """Whether the node keeps a state from one time-step to the next."""
    return (node.domain or "") == DOMAIN


def stateful_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The graph's stateful nodes, in graph order."""
    return [node for node in graph.nodes if is_stateful(node)]


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
