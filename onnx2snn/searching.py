"""Passes that search for thresholds and initial potentials, layer by layer, in order."""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.neurons import (
    attribute_tensor,
    initial_potential_of,
    neuron_nodes,
    threshold_of,
)
from onnx2snn.graph_passes.spiking import per_sample
from onnx2snn.graph_passes.thresholds import bounded_activations

from .examination import import_ann
from .layers import Layer
from .spiking import Spiking

BALANCING_STEPS = 64
"""Time-steps over which the largest input current of a layer is sought, and, at most, its p."""

SCALING_SAMPLES = 32
"""On which p is searched for. 100 take three times as long, and gave as much: the ANN's class for
72.0 % of 400 images, not 67.2, on the shipped VGG at T = 8, 96.5 and 96.5 at T = 32, and 37.0 and
40.5 on the plain ResNet-20 at T = 16."""


def search_potentials(snn: Spiking, fractions: Sequence[float]) -> bool:
    """v(0) of each layer, in order: the fraction of V_th with the least squared error.

    The pre-charged membrane potential of Hwang et al. (2021), with mean (a - x)^2 over the
    first batch as what is searched for.
    """
    nodes = neuron_nodes(snn.graph)
    ann = snn.in_the_ann([node.outputs[0] for node in nodes])
    inputs = next(snn.batches("searching v(0)", snn.timesteps))
    truth = ann.run(inputs)
    for layer in snn.simulate(inputs, snn.timesteps):
        errors = []
        for fraction in fractions:
            _start_at(layer.node, fraction)
            errors.append(_squared_error(layer, truth[layer.node.outputs[0].name]))
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
    (truth,) = ann.run(inputs).values()
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
        (truth,) = ann.run(inputs).values()
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
