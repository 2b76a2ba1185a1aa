"""Passes over a spiking network that let it do in T time-steps what its ANN does.

In few time-steps a layer's spikes do not average to its activations: they come in whole
thresholds, and unevenly. Each pass here measures a layer on the spikes that the layers before
it really emit, changes it, and goes on to the next; the data is that of the calibration.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.editing import Editor, producer, tidy
from onnx2snn.graph_passes.errors import MissingThresholdError, Refusal
from onnx2snn.graph_passes.linear import (
    channel_axis,
    refuse_layout,
    require_channels,
    samples_axis,
)
from onnx2snn.graph_passes.neurons import (
    attribute_tensor,
    initial_potential_of,
    names_of_states,
    neuron_nodes,
    threshold_of,
)
from onnx2snn.graph_passes.spiking import per_sample
from onnx2snn.graph_passes.switch_coding import code_inputs
from onnx2snn.graph_passes.thresholds import bounded_activations
from onnx2snn.graph_passes.weights import ModelParts
from onnx2snn.runtime.inputs import as_input, by_input_name

from .calibration import Ann, Running, with_outputs
from .data import Data
from .examination import import_ann
from .layers import Layer, Simulation, rates
from .least_squares import fit_weights

MOST_BYTES = 2**30
"""Of one layer's currents over all time-steps of one batch."""

BALANCING_STEPS = 64
"""Time-steps over which the largest input current of a layer is sought, and, at most, its p."""

SCALING_SAMPLES = 32
"""On which p is searched for. 100 take three times as long, and gave as much: the ANN's class for
72.0 % of 400 images, not 67.2, on the shipped VGG at T = 8, 96.5 and 96.5 at T = 32, and 37.0 and
40.5 on the plain ResNet-20 at T = 16."""


@dataclass(frozen=True)
class Spiking:
    """A spiking network in the making, and what a pass may measure it against.

    ``ann``: the ANN with the activations that the network's neurons stand for, of the same
    names. ``data``: the calibration data, or None. ``timesteps``: the T that it is made for.
    ``apart``: what simulations found out about its layers.
    """

    graph: gs.Graph
    ann: ModelParts
    data: Data | None
    running: Running
    timesteps: int
    apart: dict[str, bool] = field(default_factory=dict)

    def batches(
        self, what: str, timesteps: int, samples: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """The inputs by name, in the network's types, batch by batch, with progress.

        Batches are cut to a fixed batch size, or to so many ``samples``, or where the currents of
        a layer over ``timesteps`` would take more than ``MOST_BYTES``. Raises
        ``MissingThresholdError`` without data.
        """
        if self.data is None:
            raise MissingThresholdError(
                "this recipe measures the network on data (--calibration DATA):",
                [
                    Refusal(node.name, node.op, "no calibration data")
                    for node in neuron_nodes(self.graph)
                ],
            )
        states = names_of_states(self.graph)
        inputs = [tensor for tensor in self.graph.inputs if tensor.name not in states]
        names = [tensor.name for tensor in inputs]
        sizes = {tensor.shape[0] for tensor in inputs if tensor.shape}
        fixed = sizes.pop() if len(sizes) == 1 else None
        layers = [node.outputs[0].shape[1:] for node in neuron_nodes(self.graph)]
        known = [shape for shape in layers if all(isinstance(size, int) for size in shape)]
        largest = max((int(np.prod(shape)) for shape in known), default=1)
        most = max(1, MOST_BYTES // (4 * timesteps * largest))
        most = min(most, samples or most)
        for x, _ in self.running.batches(self.data, what):
            given = by_input_name(x, names, "the network")
            count = len(given[names[0]])
            size = fixed if isinstance(fixed, int) and fixed > 0 else min(count, most)
            for start in range(0, count, size):
                part = slice(start, start + size)
                yield {t.name: as_input(given[t.name][part], t.shape, t.dtype) for t in inputs}

    def simulate(self, inputs: dict[str, np.ndarray], timesteps: int) -> Iterator[Layer]:
        """The layers in order on one batch."""
        providers = self.running.providers
        return Simulation(self.graph, inputs, timesteps, providers, self.apart).layers()

    def in_the_ann(self, tensors: Sequence[gs.Tensor]) -> Ann:
        """The ANN with these tensors as its outputs, each once."""
        names = list(dict.fromkeys(tensor.name for tensor in tensors))
        return with_outputs(self.ann, names, self.running.providers)

    def currents_in_the_ann(self) -> dict[str, gs.Tensor]:
        """By node, what the ANN too adds up to a neuron's current, if it does.

        What passes have added to the current since is left out.
        """
        known = {name for node in self.ann.structure.graph.node for name in node.output}
        found = {}
        for node in neuron_nodes(self.graph):
            tensor, maker = node.inputs[0], producer(node.inputs[0])
            while tensor.name not in known and maker is not None and maker.op == "Add":
                tensor, maker = maker.inputs[0], producer(maker.inputs[0])
            if tensor.name in known:
                found[node.name] = tensor
        return found


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

        weights     by least squares on what the positive part of the mean current lacks
        biases      delta_c := delta_c + (mean a_c - mean x_c), ``rounds`` times, for each
                    channel c, the means over images and places
        potentials  v(0) := v(0) + T (mean a - mean x), for each neuron, the means over images

    On the first batch. On each after it what is corrected moves by a part of what the batch
    lacks, its share of the images so far: a stochastic approximation (Robbins and Monro 1951).
    A layer whose weights do so keeps its biases and potentials: to move them, too, gained
    nothing. Memory is that of one batch.

    Raises ``UnsupportedModelError`` where samples lie along the axis of the channels, and, of
    potentials, along any axis but the first.
    """
    nodes = neuron_nodes(snn.graph)
    if weights or biases:
        require_channels(snn.graph, nodes, "no channels to correct")
    if potentials:
        refuse_layout(
            [node for node in nodes if samples_axis(snn.graph, node.outputs[0])],
            "no v(0) of each neuron where samples come later:",
            "take a recipe that leaves v(0) alone",
        )
    shifts = {node.name: np.zeros(()) for node in nodes}
    currents = snn.currents_in_the_ann() if weights else {}
    ann = snn.in_the_ann([*(node.outputs[0] for node in nodes), *currents.values()])
    seen = 0
    for inputs in snn.batches("correcting", snn.timesteps):
        count = max(len(value) for value in inputs.values() if value.ndim)
        first, seen = not seen, seen + count
        truth = dict(zip(ann.outputs, ann.run(inputs), strict=True))
        for layer in snn.simulate(inputs, snn.timesteps):
            node, activation = layer.node, truth[layer.node.outputs[0].name]
            layer.shift = shifts[node.name]
            part, current = count / seen, currents.get(node.name)
            fitted = current is not None and fit_weights(layer, current, truth[current.name], part)
            if first:
                for _ in range(rounds if biases else 0):
                    _move_shift(layer, activation - layer.mean_potential(), part)
                if potentials:
                    _move_potential(layer, activation - layer.mean_potential(), part)
                layer.fire()
            elif not fitted:
                gap = activation - rates(layer.fire()) * threshold_of(node)
                if biases:
                    gap -= _move_shift(layer, gap, part)
                if potentials:
                    _move_potential(layer, gap, part)
            shifts[node.name] = layer.shift
    _add_shifts(snn.graph, shifts if biases else {})
    return bool(nodes)


def _move_shift(layer: Layer, gap: np.ndarray, part: float) -> np.ndarray:
    """Add a part of what each channel lacks, on average, to its current; returns the average."""
    lacks = mean_by_channel(gap, channel_axis(layer.node.outputs[0]))
    # More than one threshold a time-step cannot be emitted.
    most = threshold_of(layer.node).max()
    layer.shift = np.clip(layer.shift + part * lacks, -most, most)
    return lacks


def _move_potential(layer: Layer, gap: np.ndarray, part: float) -> None:
    start = initial_potential_of(layer.node)
    moved = start + part * layer.timesteps * gap.mean(axis=0, dtype=np.float64)
    layer.node.attrs["v_init"] = attribute_tensor(moved.astype(start.dtype))


def search_potentials(snn: Spiking, fractions: Sequence[float]) -> bool:
    """v(0) of each layer, in order: the fraction of V_th with the least squared error.

    The pre-charged membrane potential of Hwang et al. (2021), with mean (a - x)^2 over the
    first batch as what is searched for.
    """
    nodes = neuron_nodes(snn.graph)
    ann = snn.in_the_ann([node.outputs[0] for node in nodes])
    inputs = next(snn.batches("searching v(0)", snn.timesteps))
    truth = dict(zip((node.name for node in nodes), ann.run(inputs), strict=True))
    for layer in snn.simulate(inputs, snn.timesteps):
        errors = []
        for fraction in fractions:
            _start_at(layer.node, fraction)
            errors.append(_squared_error(layer, truth[layer.node.name]))
        _start_at(layer.node, fractions[int(np.argmin(errors))])
    return bool(nodes)


def _squared_error(layer: Layer, activation: np.ndarray) -> float:
    """The mean over images and neurons of (a - x)^2."""
    gap = layer.mean_potential() - activation
    return float(np.square(gap, dtype=np.float64).mean())


def _start_at(node: gs.Node, fraction: float | np.ndarray) -> None:
    threshold = threshold_of(node)
    node.attrs["v_init"] = attribute_tensor((threshold * fraction).astype(threshold.dtype))


def scale_thresholds(
    snn: Spiking, scales: Sequence[float], factors: Sequence[float], rounds: int
) -> bool:
    """V_th of each layer: p times what it is, p as brings the last layer nearest to the ANN.

    What the p of a rate norm layer (Ding et al., IJCAI 2021) learns from the network's loss is
    searched for here, by the error mean (a - x)^2 of the last layer's neurons in T time-steps
    (64, if T is more) from v(0) = 0, on the first 32 samples: first one p of ``scales`` for all
    layers, then, layer by layer and ``rounds`` times, p times one of ``factors`` wherever that
    lowers the error. Where V_th is the bound of a clip it stays: that has been learned. v(0)
    keeps its fraction of V_th.
    """
    nodes = neuron_nodes(snn.graph)
    bounds = _bounds(snn)
    free = [node for node in nodes if not _is_bound(threshold_of(node), bounds.get(node.name))]
    if not free:
        return False
    ann = snn.in_the_ann([nodes[-1].outputs[0]])
    timesteps = min(snn.timesteps, BALANCING_STEPS)
    inputs = next(snn.batches("scaling thresholds", timesteps, SCALING_SAMPLES))
    (truth,) = ann.run(inputs)
    starts = {node.name: initial_potential_of(node) / threshold_of(node) for node in nodes}
    for node in nodes:
        _start_at(node, 0.0)

    wholes = {node.name: threshold_of(node) for node in free}

    def scale_all(p: float) -> None:
        for node in free:
            _set_threshold(node, p * wholes[node.name])

    errors = []
    for scale in scales:
        scale_all(scale)
        # Of the layers one at a time is in memory.
        last = deque(snn.simulate(inputs, timesteps), maxlen=1).pop()
        errors.append(_squared_error(last, truth))
    least = min(errors)
    scale_all(scales[int(np.argmin(errors))])
    for _ in range(rounds):
        for layer in snn.simulate(inputs, timesteps):
            if layer.node.name not in wholes:
                continue
            now = best = threshold_of(layer.node)
            for factor in factors:
                _set_threshold(layer.node, factor * now)
                found = _squared_error(layer.simulation.last_after(layer), truth)
                if found < least:
                    least, best = found, factor * now
            _set_threshold(layer.node, best)
            layer.fire()
    for node in nodes:
        _start_at(node, starts[node.name])
    return True


def _set_threshold(node: gs.Node, threshold: np.ndarray) -> None:
    """Set V_th; what is a fraction of it stays that."""
    old = threshold_of(node)
    for name in {"v_init", "v_negative"} & node.attrs.keys():
        value = node.attrs[name].values / old * threshold
        node.attrs[name] = attribute_tensor(np.asarray(value, old.dtype))
    node.attrs["v_threshold"] = attribute_tensor(np.asarray(threshold, old.dtype))


def _is_bound(threshold: np.ndarray, bound: np.ndarray | None) -> bool:
    return bound is not None and bool(np.all(threshold == bound))


def _bounds(snn: Spiking) -> dict[str, np.ndarray | None]:
    """The bounds of clips in the ANN, by the neuron that stands for each, for one sample."""
    found = bounded_activations(import_ann(snn.ann))
    return {
        node.name: per_sample(found[node.name], len(node.outputs[0].shape))
        for node in neuron_nodes(snn.graph)
        if node.name in found
    }


def balance_thresholds(snn: Spiking, scales: Sequence[float] = (1.0,)) -> bool:
    """V_th of each layer, in order: a scale times its largest input current.

    Spike-Norm (Sengupta et al. 2019): the current of one time-step from the spikes of the
    layers before, over all neurons, images and ``BALANCING_STEPS`` time-steps. v(0) keeps its
    fraction of V_th. Each batch raises thresholds, the layers before it being settled then. Where
    the ANN clips, V_th is at most the clip's bound: a neuron with more would say what the ANN
    cuts off.

    Of several scales (Han et al. 2020 tune theirs for each network) the one is taken with which
    the last layer comes nearest to the ANN's activations, by squared error on the first batch.
    """
    nodes = neuron_nodes(snn.graph)
    bounds = _bounds(snn)
    scale = scales[0]
    if len(scales) > 1:
        ann = snn.in_the_ann([nodes[-1].outputs[0]])
        inputs = next(snn.batches("scaling thresholds", BALANCING_STEPS))
        (truth,) = ann.run(inputs)
        errors = []
        for candidate in scales:
            last = _balance(snn, inputs, candidate, bounds, {})
            errors.append(_squared_error(last, truth))
        scale = scales[int(np.argmin(errors))]
    largest: dict[str, float] = {}
    for inputs in snn.batches("balancing thresholds", BALANCING_STEPS):
        _balance(snn, inputs, scale, bounds, largest)
    return bool(nodes)


def _balance(
    snn: Spiking,
    inputs: dict[str, np.ndarray],
    scale: float,
    bounds: Mapping[str, np.ndarray | None],
    largest: dict[str, float],
) -> Layer:
    """Balance all thresholds on one batch and what came before it; returns the last layer."""
    for layer in snn.simulate(inputs, BALANCING_STEPS):
        node = layer.node
        most = max(largest.get(node.name, 0.0), float(layer.currents.max()))
        largest[node.name] = most
        # A layer that no current reaches stays silent with any threshold.
        bound = bounds.get(node.name)
        new = np.asarray(scale * most if most > 0 else 1.0)
        if bound is not None:
            new = np.minimum(new, bound)
        _set_threshold(node, new)
    return layer


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
