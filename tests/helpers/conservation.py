"""Eq. 7 as a conservation law: what flows into a neuron is what it emits and what it keeps."""

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.graph import neurons
from onnx2snn.graph_passes.model_files.weights import copy_model
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.derived_sums import CONSERVING


def conservation_errors(
    model: onnx.ModelProto, x: np.ndarray | dict[str, np.ndarray], timesteps: int
) -> dict[str, float]:
    """By layer, how far a run of T steps is from eq. 6, times T V_th, of Bu et al. (2022).

        sum over t of (W x(t) + b) + v(0) - v(T) = V_th sum over t of s(t)

    Largest difference of both sides over samples and neurons, in units of V_th: 0 where no sum
    rounds, about 1e-6 T in float32, and 1 for a spike that was lost. The
    network runs once, with the layers' currents as further outputs. x: as in
    ``SpikingSession.run``, not varying in time. Raises ``DataError`` for neurons that do not
    conserve, as those that reset to zero.
    """
    watched = copy_model(model)
    named = {neuron.name: neuron for neuron in SpikingSession(model).neurons}
    currents = {}
    for node in watched.graph.node:
        if node.domain != neurons.DOMAIN or node.name not in named:
            continue
        neuron = named[node.name]
        if node.op_type not in (*CONSERVING, *neurons.COUNTING):
            raise DataError(f"'{neuron.name}' is a {node.op_type}, which does not conserve")
        # Through an Identity of its own: two layers may share a current, or it may be an output.
        output = f"current of {neuron.name}"
        currents[neuron.name] = output
        watched.graph.node.append(helper.make_node("Identity", [node.input[0]], [output]))
        kind, shape = helper.np_dtype_to_tensor_dtype(neuron.threshold.dtype), ["N", *neuron.shape]
        watched.graph.output.append(helper.make_tensor_value_info(output, kind, shape))
    # The plan that counts every spike: the other takes counts from this very law.
    session = SpikingSession(watched, plan="step")
    start = session.state
    result = session.run(x, timesteps)
    end, readout = session.state, result.readouts[timesteps]
    errors = {}
    for neuron in session.neurons:
        kept = start[f"v/{neuron.name}"].astype(np.float64) - end[f"v/{neuron.name}"]
        received = timesteps * result.values[currents[neuron.name]].astype(np.float64) + kept
        emitted = readout.potential_sums[neuron.name]
        errors[neuron.name] = float(np.max(np.abs(received - emitted) / neuron.threshold))
    return errors
