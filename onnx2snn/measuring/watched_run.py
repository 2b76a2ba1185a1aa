"""A spiking network over T time-steps, with what its neurons take in and emit added up."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.data.samples import Inputs
from onnx2snn.graph_passes.graph.editing import Editor
from onnx2snn.graph_passes.graph.neurons import (
    inputs_besides_states,
    neuron_nodes,
    state_names,
    stateful_nodes,
    states_written,
)
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.runtime.inputs import as_input, by_input_name
from onnx2snn.runtime.providers import Providers, resolve_providers
from onnx2snn.runtime.sessions import create_session, run_session


@dataclass(frozen=True)
class LayerSums:
    """One layer over T time-steps, each [N, ...].

    ``current``: the sum of the input currents; ``potential``: that of what was emitted;
    ``magnitude``: that of its absolute values; all float64.
    """

    current: np.ndarray
    potential: np.ndarray
    magnitude: np.ndarray


class WatchedRun:
    """Runs an SNN over T time-steps and adds up what its neurons take in and emit.

    graph: the SNN, which is changed: what its neurons take in and emit become its outputs.
    """

    def __init__(self, graph: gs.Graph, timesteps: int, providers: Providers) -> None:
        self._timesteps = timesteps
        nodes = stateful_nodes(graph)
        self._states = dict(pair for node in nodes for pair in state_names(node.op, node.name))
        self._inputs = inputs_besides_states(graph)
        editor = Editor(graph)
        watched = [
            # A copy: the tensor itself may be an input, or an output already.
            editor.node("Identity", f"watched/{tensor.name}", [tensor], like=tensor)
            for node in neuron_nodes(graph)
            for tensor in (node.inputs[0], node.outputs[0])
        ]
        states = [state for node in nodes for state in states_written(node)]
        graph.outputs = [*states, *watched]
        self._session = create_session(to_parts(graph), resolve_providers(providers))

    def run(self, x: Inputs) -> list[LayerSums]:
        """The sums of each layer, in graph order; ``DataError`` if x does not fit."""
        given = by_input_name(x, [tensor.name for tensor in self._inputs], "the network")
        feed = {
            t.name: as_input(given[t.name], tuple(t.shape), np.dtype(t.dtype), name=t.name)
            for t in self._inputs
        }
        held: dict[str, np.ndarray] = {}
        sums: list[LayerSums] = []
        for _ in range(self._timesteps):
            # Without states in the first time-step, each is at its default, v(0).
            values = run_session(self._session, None, feed | held)
            held = dict(zip(self._states, values, strict=False))
            watched = values[len(self._states) :]
            pairs = list(zip(watched[::2], watched[1::2], strict=True))
            if not sums:
                sums = [LayerSums(*(np.zeros(x.shape) for _ in range(3))) for _, x in pairs]
            for total, (current, emitted) in zip(sums, pairs, strict=True):
                np.add(total.current, current, out=total.current)
                np.add(total.potential, emitted, out=total.potential)
                np.add(total.magnitude, np.abs(emitted), out=total.magnitude)
            # Not to be there beside those of the next time-step.
            del values, watched, pairs, current, emitted
        return sums
