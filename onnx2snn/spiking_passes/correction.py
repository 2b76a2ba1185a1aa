"""Passes over a spiking network that let it do in T time-steps what its ANN does.

In few time-steps a layer's spikes do not average to its activations: they come in whole
thresholds, and unevenly. Each pass here measures a layer on the spikes that the layers before
it really emit, changes it, and goes on to the next; the data is that of the calibration.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import require_truths, require_whole
from onnx2snn.graph_passes.graph.editing import Editor
from onnx2snn.graph_passes.graph.layouts import (
    channel_axis,
    refuse_layout,
    require_channels,
    samples_axis,
)
from onnx2snn.graph_passes.graph.neurons import (
    attribute_tensor,
    initial_potential_of,
    inputs_besides_states,
    max_spikes_of,
    neuron_nodes,
    threshold_of,
)
from onnx2snn.graph_passes.graph.shapes import is_fixed, require_shapes
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.switch_coding import code_inputs
from onnx2snn.runtime.inputs import samples_in

from .layers import Layer, rates
from .least_squares import fit_weights
from .segments import segment_of
from .spiking import Spiking


def mean_by_channel(values: np.ndarray, axis: int) -> np.ndarray:
    """Means over all axes but one, shaped to broadcast against one sample: (C, 1, 1)."""
    if axis >= values.ndim:
        # A sample is one number.
        return np.asarray(values.mean(dtype=np.float64))
    others = tuple(place for place in range(values.ndim) if place != axis)
    means = values.mean(axis=others, dtype=np.float64)
    return np.asarray(means.reshape(-1, *(1,) * (values.ndim - 1 - axis)))


def shift_currents(snn: Spiking) -> bool:
    """IF(current) -> IF(current + V_th / 2T): half a threshold over T time-steps.

    Deng and Gu, ICLR 2021; after T time-steps the same as v(0) = V_th / 2.
    """
    nodes = neuron_nodes(snn.graph)
    return _add_shifts(snn.graph, {n.name: threshold_of(n) / (2 * snn.timesteps) for n in nodes})


def correct(
    snn: Spiking,
    *,
    weights: bool = False,
    biases: bool = True,
    potentials: bool = False,
    rounds: int = 2,
) -> bool:
    """Correct each layer, in order, so that its spikes average to the ANN's activations.

    After Li et al., "A Free Lunch From ANN" (ICML 2021). With a the ANN's activations and x the
    postsynaptic potentials of T time-steps, on the same images:

        weights     by least squares on what the positive part of the mean current lacks, and
                    those of the read-out on what its mean lacks
        biases      delta_c := delta_c + (mean a_c - mean x_c), ``rounds`` times, for each
                    channel c, the means over images and places
        potentials  v(0) := v(0) + T (mean a - mean x), for each neuron, the means over images

    On the first batch. On each after it what is corrected moves by a part of what the batch
    lacks, its share of the images so far: a stochastic approximation (Robbins and Monro 1951).
    Where weights are corrected, later batches move them alone: a bias that moves without those
    behind it moves a whole background, one current at many places, over a level. Memory is that of
    one batch.

    Raises ``MissingThresholdError`` without calibration data, ``UnsupportedModelError`` where
    samples lie along the axis of the channels, and, of potentials, along any axis but the first,
    and ``DataError`` where ``rounds`` is no whole number from 0 on, or another no truth value, or
    where the data is so large that corrected weights would not be finite.
    """
    rounds = require_whole("rounds", rounds, 0)
    require_truths(weights=weights, biases=biases, potentials=potentials)
    biases = biases and rounds > 0
    nodes = neuron_nodes(snn.graph)
    if weights or biases:
        require_channels(snn.graph, nodes, "no channels to correct")
    if potentials:
        refuse_layout(
            [node for node in nodes if samples_axis(snn.graph, node.outputs[0])],
            "v(0) per neuron needs samples along axis 0, which these layers do not have:",
            "take a recipe that leaves v(0) alone",
        )
        # Shapes are not inferred through neurons: with inputs of fixed sizes they all are fixed.
        if not all(is_fixed(given.shape) for given in inputs_besides_states(snn.graph)):
            require_shapes(
                snn.graph,
                nodes,
                is_fixed,
                "v(0) per neuron needs the size of every layer, which these do not tell:",
                "export the model with fixed sizes of all axes but N, or take a recipe that leaves "
                "v(0) alone",
            )
    shifts = {node.name: np.zeros(()) for node in nodes}
    currents = snn.currents_in_the_ann() if weights else {}
    read_outs = snn.read_outs_in_the_ann() if weights else {}
    ends = [snn.before_shaping(tensor) for tensor in read_outs.values()]
    summed = [tensor for tensor, _ in currents.values()]
    ann = snn.in_the_ann([*(node.outputs[0] for node in nodes), *summed, *ends])
    seen = 0
    for inputs in snn.batches("correcting", snn.timesteps):
        count = samples_in(inputs)
        first, seen = not seen, seen + count
        truth = ann.run(inputs)
        part = count / seen
        for layer in snn.simulate(inputs, snn.timesteps, ends):
            node, activation = layer.node, truth[layer.node.outputs[0].name]
            layer.shift = shifts[node.name]
            if node.name in currents:
                current, floor = currents[node.name]
                _fit_current(layer, current, truth[current.name], part, floor)
            if first:
                for _ in range(rounds if biases else 0):
                    _move_shift(layer, activation - layer.mean_potential(), part)
                if potentials:
                    _move_potential(layer, activation - layer.mean_potential(), part)
                layer.fire()
            elif not weights:
                gap = activation - rates(layer.fire()) * threshold_of(node)
                if biases:
                    gap -= _move_shift(layer, gap, part)
                if potentials:
                    _move_potential(layer, gap, part)
            shifts[node.name] = layer.shift
        for tensor in ends:
            measure = partial(layer.simulation.measure, layer.simulation.ends[tensor.name])
            fit_weights(snn.graph, tensor, truth[tensor.name], part, measure)
    _add_shifts(snn.graph, shifts if biases else {})
    return bool(nodes) and (weights or biases or potentials)


def _fit_current(
    layer: Layer, current: gs.Tensor, wanted: np.ndarray, part: float, floor: float
) -> None:
    """Refit the weights between a layer and the spikes before it."""
    simulation, segment, measure = layer.simulation, layer.segment, layer.measure
    if all(tensor is not current for node in segment.nodes for tensor in node.outputs):
        # It is a stream, or lies before one.
        segment = segment_of(simulation.graph, current, simulation.before_streams)
        measure = partial(simulation.measure, segment)
    if segment.varying and fit_weights(simulation.graph, current, wanted, part, measure, floor):
        simulation.forget_streams(current)
        layer.refresh()


def _move_shift(layer: Layer, gap: np.ndarray, part: float) -> np.ndarray:
    """Add a part of what each channel lacks, on average, to its current; returns the average."""
    lacks = mean_by_channel(gap, channel_axis(layer.node.outputs[0]))
    # More cannot be emitted in a time-step.
    most = max_spikes_of(layer.node) * threshold_of(layer.node).max()
    layer.shift = np.clip(layer.shift + part * lacks, -most, most)
    return lacks


def _move_potential(layer: Layer, gap: np.ndarray, part: float) -> None:
    start = initial_potential_of(layer.node)
    moved = start + part * layer.timesteps * gap.mean(axis=0, dtype=np.float64)
    layer.node.attrs["v_init"] = attribute_tensor(moved.astype(start.dtype))


def switch_inputs(snn: Spiking) -> bool:
    """Show each input as two switches, on and off, in T time-steps (Han and Roy, ECCV 2020)."""
    scales: dict[str, float] = {}
    for inputs in snn.batches("measuring the inputs", 1):
        for name, value in inputs.items():
            scales[name] = max(scales.get(name, 0.0), float(np.abs(value).max()))
    return code_inputs(snn.graph, {n: s or 1.0 for n, s in scales.items()}, snn.timesteps)


def _add_shifts(graph: gs.Graph, shifts: Mapping[str, np.ndarray]) -> bool:
    """Add to the currents of neurons, by name; whether there were any."""
    editor = Editor(graph)
    for node in neuron_nodes(graph):
        if node.name not in shifts:
            continue
        current, value = node.inputs[0], np.asarray(shifts[node.name], threshold_of(node).dtype)
        constant = editor.constant(f"{node.name}/correction", value)
        shifted = editor.node("Add", f"{node.name}/corrected", [current, constant], like=current)
        node.inputs[0] = shifted
    tidy(graph)
    return bool(shifts)
