"""An IF in standard operators, in the form that runs fastest.

It computes exactly what the neuron's function in the file says, but of NaN.
"""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.neurons import threshold_of

STEEP = 2.0**100
"""The slope of a HardSigmoid that is 0 below a threshold and 1 above."""


def lower_if(graph: gs.Graph, node: gs.Node, prefix: str) -> None:
    """IF -> Add, [u > V_th], Mul, Sub, as standard operators in the same graph.

        u = v + current;  s = [u > V_th];  x = s V_th;  v_next = u - x

    [u > V_th] is Greater and Cast, or, for one float32 threshold, a single operator:
    HardSigmoid(u) = max(0, min(1, a u - a V_th)) with a = 2^100. Scaling by a power of two
    is exact and the sign of a rounded difference is right, so it is 0 for u <= V_th, a
    tie included, and 1 above. New names begin with ``prefix``.
    """
    current, state = node.inputs
    x, next_state = node.outputs
    threshold = threshold_of(node)
    name, dtype = prefix + node.name, threshold.dtype
    node.inputs.clear()
    node.outputs.clear()
    level = gs.Constant(f"{name}/V_th", threshold)
    u = gs.Variable(f"{name}/u", dtype)
    s = gs.Variable(f"{name}/s", dtype)
    graph.nodes.append(gs.Node("Add", f"{name}/u", {}, [state, current], [u]))
    if threshold.ndim == 0 and dtype == np.float32 and 2.0**-60 < threshold < 2.0**20:
        attributes = {"alpha": STEEP, "beta": -STEEP * float(threshold)}
        graph.nodes.append(gs.Node("HardSigmoid", f"{name}/s", attributes, [u], [s]))
    else:
        fired = gs.Variable(f"{name}/fired", np.bool_)
        graph.nodes.append(gs.Node("Greater", f"{name}/fired", {}, [u, level], [fired]))
        graph.nodes.append(gs.Node("CastLike", f"{name}/s", {}, [fired, u], [s]))
    graph.nodes.append(gs.Node("Mul", f"{name}/x", {}, [s, level], [x]))
    graph.nodes.append(gs.Node("Sub", f"{name}/v_next", {}, [u, x], [next_state]))
