"""Correct the biases of a spiking network against the ANN's mean activations.

In few time-steps a layer's spikes do not average to its activations: they come in whole
thresholds, and unevenly. What is lost on average is lost in each channel by much the same
amount for every image, so a constant current to each channel gives it back (Li et al., "A Free
Lunch From ANN", ICML 2021, in its light form). Layers are corrected in order, each on the
spikes that the corrected layers before it really emit in T time-steps:

    delta_c := delta_c + (mean a_c - mean x_c),  several times, until x follows a

with a the ANN's activations, x = s V_th the postsynaptic potentials, and the means over
images, places and time-steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.editing import Editor, operands, part_of, producer, tidy
from onnx2snn.graph_passes.io import to_parts
from onnx2snn.graph_passes.linear import channel_axis
from onnx2snn.graph_passes.neurons import (
    initial_potential_of,
    is_neuron,
    is_stateful,
    neuron_nodes,
    start_of,
    state_names,
    threshold_of,
    with_batch_axis,
)
from onnx2snn.runtime.providers import Providers, create_session, resolve_providers, run_session

from .calibration import Track, no_progress

ROUNDS = 4
"""How often a layer's correction is refined; each round simulates its neurons once more."""


@dataclass(frozen=True)
class Segment:
    """The nodes between the neurons before a tensor and that tensor.

    ``spikes`` names the neurons' outputs that it reads, ``inputs`` the network's inputs.
    """

    nodes: list[gs.Node]
    spikes: tuple[str, ...]
    inputs: tuple[str, ...]


def mean_by_channel(values: np.ndarray, axis: int) -> np.ndarray:
    """Means over all axes but one, shaped to broadcast against one sample: (C, 1, 1)."""
    others = tuple(place for place in range(values.ndim) if place != axis)
    means = values.mean(axis=others, dtype=np.float64)
    return np.asarray(means.reshape(-1, *(1,) * (values.ndim - 1 - axis)))


def correct_biases(
    graph: gs.Graph,
    targets: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    timesteps: int,
    providers: Providers = None,
    track: Track = no_progress,
) -> bool:
    """IF(current) -> IF(current + delta), delta per channel, for ``timesteps`` time-steps.

    graph: an SNN. targets: by neuron, the ANN's mean activation per channel, as
    ``mean_by_channel`` gives it. inputs: one batch of calibration data by input name; memory
    is that of its spikes, one byte each, and of one layer's currents over T time-steps.
    """
    spikes: dict[str, np.ndarray] = {}
    thresholds = {node.outputs[0].name: threshold_of(node) for node in neuron_nodes(graph)}
    nodes = neuron_nodes(graph)
    segments = [_segment(graph, node.inputs[0]) for node in nodes]
    last_use = {name: i for i, segment in enumerate(segments) for name in segment.spikes}
    editor = Editor(graph)
    layers = list(enumerate(zip(nodes, segments, strict=True)))
    for number, (node, segment) in track(layers, "correcting biases", len(layers)):
        currents = _currents(
            graph, segment, node.inputs[0], spikes, thresholds, inputs, timesteps, providers
        )
        delta, fired = _fit(node, currents, targets[node.name], timesteps)
        spikes[node.outputs[0].name] = fired
        for name in [name for name in spikes if last_use.get(name, -1) <= number]:
            del spikes[name]
        current = node.inputs[0]
        constant = editor.constant(
            f"{node.name}/correction", delta.astype(threshold_of(node).dtype)
        )
        node.inputs[0] = editor.node(
            "Add", f"{node.name}/corrected", [current, constant], like=current
        )
    tidy(graph)
    return bool(nodes)


def _segment(graph: gs.Graph, tensor: gs.Tensor) -> Segment:
    """What lies between a tensor and the neurons and inputs that it depends on."""
    wanted: dict[int, gs.Node] = {}
    spikes: dict[str, None] = {}
    inputs: dict[str, None] = {}
    given = {t.name for t in graph.inputs}
    states = {name for n in graph.nodes if is_stateful(n) for name in state_names(n.name)}
    waiting = [tensor]
    while waiting:
        now = waiting.pop()
        maker = producer(now)
        if maker is None:
            if now.name in given - states:
                inputs[now.name] = None
        elif is_neuron(maker):
            spikes[now.name] = None
        elif id(maker) not in wanted:
            wanted[id(maker)] = maker
            waiting += operands(maker)
    nodes = [node for node in graph.nodes if id(node) in wanted]
    return Segment(nodes, tuple(spikes), tuple(inputs))


def _currents(
    graph: gs.Graph,
    segment: Segment,
    result: gs.Tensor,
    spikes: Mapping[str, np.ndarray],
    thresholds: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    timesteps: int,
    providers: Providers,
) -> np.ndarray:
    """A tensor at each time-step: [T, N, ...], or [1, N, ...] where it stays the same."""
    tensors = {t.name: t for n in segment.nodes for t in operands(n)}
    stateful = [node for node in segment.nodes if is_stateful(node)]
    if not segment.nodes:
        held = inputs.get(result.name)
        if held is not None:
            return np.asarray(held)[None]
        return np.stack([_potentials(result.name, spikes, thresholds, t) for t in range(timesteps)])
    read = [tensors[name] for name in (*segment.inputs, *segment.spikes)]
    inner = [*read, *(node.inputs[-1] for node in stateful)]
    outer = [result, *(node.outputs[-1] for node in stateful)]
    model = to_parts(part_of(graph, segment.nodes, inner, outer))
    del model.structure.graph.value_info[:]
    session = create_session(model, resolve_providers(providers))
    states = {node.inputs[-1].name: start_of(node) for node in stateful}
    fixed = {name: np.asarray(inputs[name]) for name in segment.inputs}
    steps = []
    for t in range(timesteps if segment.spikes or stateful else 1):
        potentials = {name: _potentials(name, spikes, thresholds, t) for name in segment.spikes}
        current, *written = run_session(session, None, {**fixed, **potentials, **states})
        states = dict(zip(states, written, strict=True))
        steps.append(current)
    return np.stack(steps)


def _potentials(
    name: str, spikes: Mapping[str, np.ndarray], thresholds: Mapping[str, np.ndarray], t: int
) -> np.ndarray:
    """X(t) = s(t) V_th."""
    threshold = thresholds[name]
    return np.asarray(spikes[name][t] * threshold, threshold.dtype)


def _fit(
    node: gs.Node, currents: np.ndarray, target: np.ndarray, timesteps: int
) -> tuple[np.ndarray, np.ndarray]:
    """The correction of one layer, and its spikes with it: bool [T, N, ...]."""
    threshold = threshold_of(node).astype(np.float64)
    axis = channel_axis(node.outputs[0])
    delta = np.zeros_like(target)
    for _ in range(ROUNDS):
        fired = _simulate(node, currents, delta, timesteps)
        potentials = fired.mean(axis=0, dtype=np.float32) * threshold
        delta = delta + (target - mean_by_channel(potentials, axis))
        # More than one threshold a time-step cannot be emitted.
        delta = np.clip(delta, -threshold.max(), threshold.max())
    return delta, _simulate(node, currents, delta, timesteps)


def _simulate(node: gs.Node, currents: np.ndarray, delta: np.ndarray, timesteps: int) -> np.ndarray:
    """Equations 2, 3 and 5 over all time-steps; the spikes, bool [T, N, ...]."""
    threshold = threshold_of(node)
    shift = delta.astype(threshold.dtype)
    start = with_batch_axis(initial_potential_of(node), currents.ndim - 1)
    v = np.broadcast_to(start, currents.shape[1:]).astype(threshold.dtype)
    fired = np.empty((timesteps, *currents.shape[1:]), bool)
    for t in range(timesteps):
        v = v + (currents[t if len(currents) > 1 else 0] + shift)
        np.greater(v, threshold, out=fired[t])
        v -= fired[t] * threshold
    return fired
