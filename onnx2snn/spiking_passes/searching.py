"""Passes that set thresholds and initial potentials: most search, layer by layer, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.ann import import_ann
from onnx2snn.graph_passes.errors import DataError, require_whole
from onnx2snn.graph_passes.graph.activations import bounds_by_result
from onnx2snn.graph_passes.graph.affine import per_sample
from onnx2snn.graph_passes.graph.neurons import (
    attribute_tensor,
    initial_potential_of,
    max_spikes_of,
    neuron_nodes,
    threshold_of,
)
from onnx2snn.graph_passes.graph.regions import upstream
from onnx2snn.runtime.result import class_output

from .layers import Layer
from .segments import segment_of
from .simulation import Simulation
from .spiking import Spiking

BALANCING_STEPS = 64
"""Time-steps over which the largest input current of a layer is sought, and, at most, its p."""

SCALING_SAMPLES = 32
"""On which p is searched for: more take longer, and gave as much."""


def search_potentials(snn: Spiking, fractions: Sequence[float]) -> bool:
    """v(0) of each layer, in order: the fraction of V_th with the least squared error.

    The pre-charged membrane potential of Hwang et al. (2021), with mean (a - x)^2 over the
    first batch as what is searched for. Raises ``DataError`` for what are no fractions.
    """
    _require_numbers("fractions", fractions)
    nodes = neuron_nodes(snn.graph)
    before = _settings(nodes)
    ann = snn.in_the_ann([node.outputs[0] for node in nodes])
    inputs = snn.first_batch(snn.timesteps)
    truth = ann.run(inputs)
    layers = snn.simulate(inputs, snn.timesteps)
    for layer in snn.running.told(layers, "searching v(0)", len(nodes)):
        errors = []
        for fraction in fractions:
            _start_at(layer.node, fraction)
            errors.append(_squared_error(layer, truth[layer.node.outputs[0].name]))
        _start_at(layer.node, fractions[int(np.argmin(errors))])
    return _settings(nodes) != before


def _require_numbers(name: str, values: Sequence[float], least: int = 1) -> None:
    """Raise ``DataError`` unless these are finite numbers, so many at least."""
    try:
        known = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        known = np.array(np.nan)
    if known.ndim != 1 or len(known) < least or not np.all(np.isfinite(known)):
        raise DataError(f"{name} takes finite numbers, {least} at least, not {values!r}")


def _require_factors(name: str, values: Sequence[float], least: int = 1) -> None:
    """Raise ``DataError`` unless these are numbers above 0, so many at least."""
    _require_numbers(name, values, least)
    if any(value <= 0 for value in values):
        raise DataError(f"{name} takes numbers above 0, not {values!r}: V_th is multiplied by them")


def _settings(nodes: Iterable[gs.Node]) -> list[bytes]:
    """The thresholds and initial potentials of neurons, by which a change shows."""
    return [part.tobytes() for n in nodes for part in (threshold_of(n), initial_potential_of(n))]


def _squared_error(layer: Layer, activation: np.ndarray) -> float:
    """The mean over images and neurons of (a - x)^2."""
    return _mean_square(layer.mean_potential() - activation)


def _mean_square(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).mean())


def _start_at(node: gs.Node, fraction: float | np.ndarray) -> None:
    threshold = threshold_of(node)
    node.attrs["v_init"] = attribute_tensor((threshold * fraction).astype(threshold.dtype))


def scale_thresholds(
    snn: Spiking, scales: Sequence[float], factors: Sequence[float], rounds: int
) -> bool:
    """V_th of each layer: p times what it is, p as brings the read-out nearest to the ANN's.

    What the p of a rate norm layer (Ding et al., IJCAI 2021) learns from the network's loss is
    searched for here, by the loss of T time-steps (64, if T is more) from v(0) = 0, on the first 32
    samples of a batch: first one p of ``scales`` for all layers, then, layer by layer and
    ``rounds`` times, p times one of ``factors`` wherever that lowers the loss. That is the
    cross-entropy between what the ANN and the spiking network say of the classes where the data has
    labels, else the squared error. V_th is at most the bound of a clip, and where it is that in all
    of a layer it stays: that has been learned. v(0) keeps its fraction of V_th. Raises
    ``DataError`` for what are no factors, or no number of rounds.
    """
    _require_factors("scales", scales)
    _require_factors("factors", factors, 0)
    rounds = require_whole("rounds", rounds, 0)
    nodes = neuron_nodes(snn.graph)
    bounds = _bounds(snn)
    free = [node for node in nodes if not np.all(threshold_of(node) == bounds.get(node.name))]
    if not free:
        return False
    timesteps = min(snn.timesteps, BALANCING_STEPS)
    inputs = snn.first_batch(timesteps, SCALING_SAMPLES)
    read_outs, loss_of = _read_outs(snn, inputs)
    before = _settings(nodes)
    starts = {node.name: initial_potential_of(node) / threshold_of(node) for node in nodes}
    for node in nodes:
        _start_at(node, 0.0)

    wholes = {node.name: threshold_of(node) for node in free}

    def scaled(node: gs.Node, now: np.ndarray, p: float) -> np.ndarray:
        bound = bounds.get(node.name)
        return p * now if bound is None else np.minimum(p * now, bound)

    def scale_all(p: float) -> None:
        for node in free:
            _set_threshold(node, scaled(node, wholes[node.name], p))

    losses, told = [], snn.running.told
    for scale in told(scales, "scaling all thresholds", len(scales)):
        scale_all(scale)
        # Of the layers one at a time is in memory.
        end = deque(snn.simulate(inputs, timesteps, read_outs), maxlen=1).pop()
        losses.append(loss_of(end.simulation))
    least = min(losses)
    scale_all(scales[int(np.argmin(losses))])
    for _ in range(rounds):
        layers = snn.simulate(inputs, timesteps, read_outs)
        for layer in told(layers, "scaling each threshold", len(nodes)):
            if layer.node.name not in wholes:
                continue
            now = best = threshold_of(layer.node)
            for factor in factors:
                new = scaled(layer.node, now, factor)
                _set_threshold(layer.node, new)
                found = loss_of(layer.simulation.after(layer, read_outs))
                if found < least:
                    least, best = found, new
            _set_threshold(layer.node, best)
            layer.fire()
    for node in nodes:
        _start_at(node, starts[node.name])
    return _settings(nodes) != before


def _read_outs(
    snn: Spiking, inputs: dict[str, np.ndarray]
) -> tuple[list[gs.Tensor], Callable[[Simulation], float]]:
    """The read-outs, and how far those of a simulation are from the ANN's.

    Where the ANN has no such tensor, that of the last layer of neurons. With labels that of the
    first output of classes alone counts, as in an evaluation.
    """
    # What is behind an average is a function of it, as the class of highest score is.
    known = snn.read_outs_in_the_ann()
    ends = {name: known[name] for name in _in_order_of_outputs(snn.graph, known)
            if not segment_of(snn.graph, known[name]).averages}  # fmt: skip
    labelled = ends and snn.data is not None and snn.data.labels is not None
    if not ends:
        last = neuron_nodes(snn.graph)[-1].outputs[0]
        ends = {last.name: last}
    truth = snn.in_the_ann(list(ends.values())).run(inputs)
    classes = class_output({name: truth[name] for name in ends}) if labelled else None
    loss = _relative_error if classes is None else _cross_entropy
    counting = list(ends) if classes is None else [classes]

    def loss_of(simulation: Simulation) -> float:
        found = {n: simulation.measure(simulation.ends[n], [ends[n]])[0] for n in counting}
        return sum(loss(found[n], truth[n]) for n in counting)

    return list(ends.values()), loss_of


def _in_order_of_outputs(graph: gs.Graph, names: Iterable[str]) -> list[str]:
    """The names of tensors by the first output of the graph that needs them."""
    needed = [{output.name} | upstream(graph, output.inputs) for output in graph.outputs]
    return sorted(names, key=lambda name: [name in each for each in needed].index(True))


def _relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """The squared error of a read-out, relative to what the ANN says, where that is finite."""
    known = np.isfinite(truth)
    found, truth = (np.where(known, values, 0.0) for values in (found, truth))
    return _mean_square(found - truth) / (_mean_square(truth) or 1.0)


def _cross_entropy(found: np.ndarray, truth: np.ndarray) -> float:
    """That of the classes of two read-outs, [N, classes] or [N, classes, 1, 1]."""
    said, wanted = (_log_softmax(scores.reshape(len(scores), -1)) for scores in (found, truth))
    # Of classes that are ruled out, as by a mask, the probability is 0, and 0 log(0) is 0.
    known = np.isfinite(wanted)
    return float(-(np.exp(wanted[known]) * said[known]).sum() / len(wanted))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def divide_thresholds(snn: Spiking) -> bool:
    """V_th of neurons that emit up to k spikes in a time-step: V_th / k.

    k spikes then say what one said, so that a neuron follows its current in steps as much finer
    and, where V_th was the bound of a clip, says no more than that lets through. v(0) keeps its
    fraction of V_th. No V_th becomes 0, which the smallest ones of 16 bits would.
    """
    several = [node for node in neuron_nodes(snn.graph) if max_spikes_of(node) > 1]
    for node in several:
        _set_threshold(node, threshold_of(node) / max_spikes_of(node))
    return bool(several)


def cap_thresholds(snn: Spiking) -> bool:
    """V_th of neurons that emit up to k spikes in a time-step: at most a clip's bound / k.

    They then say no more than what the clip lets through, in any time-step. v(0) keeps its fraction
    of V_th. No V_th becomes 0.
    """
    bounds, nodes = _bounds(snn), neuron_nodes(snn.graph)
    before = _settings(nodes)
    for node in nodes:
        bound, threshold = bounds.get(node.name), threshold_of(node)
        most = None if bound is None else (bound / max_spikes_of(node)).astype(threshold.dtype)
        if most is not None and np.any(threshold > most):
            _set_threshold(node, np.minimum(threshold, most))
    return _settings(nodes) != before


def _set_threshold(node: gs.Node, threshold: np.ndarray) -> None:
    """Set V_th, to no 0 of few bits; what is a fraction of it stays that."""
    old = threshold_of(node)
    threshold = np.maximum(threshold, np.finfo(old.dtype).smallest_subnormal)
    for name in {"v_init", "v_negative"} & node.attrs.keys():
        value = node.attrs[name].values / old * threshold
        node.attrs[name] = attribute_tensor(np.asarray(value, old.dtype))
    node.attrs["v_threshold"] = attribute_tensor(np.asarray(threshold, old.dtype))


def _bounds(snn: Spiking) -> dict[str, np.ndarray | None]:
    """The bounds of clips in the ANN, by the neuron that stands for each, for one sample."""
    return bounds_of_neurons(snn.graph, bounds_by_result(import_ann(snn.ann)))


def bounds_of_neurons(
    graph: gs.Graph, bounds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray | None]:
    """What ``bounds_by_result`` found, by the neuron that stands for each, for one sample."""
    return {
        node.name: per_sample(bounds[node.outputs[0].name], len(node.outputs[0].shape))
        for node in neuron_nodes(graph)
        if node.outputs[0].name in bounds
    }


def balance_thresholds(snn: Spiking, scales: Sequence[float] = (1.0,)) -> bool:
    """V_th of each layer, in order: a scale times its largest input current.

    Spike-Norm (Sengupta et al. 2019): the current of one time-step from the spikes of the
    layers before, over all neurons, images and 64 time-steps. v(0) keeps its
    fraction of V_th. Each batch raises thresholds, the layers before it being settled then. Where
    the ANN clips, V_th is at most the clip's bound: a neuron with more would say what the ANN
    cuts off.

    Of several scales (Han et al. 2020 tune theirs for each network) the one is taken with which
    the last layer comes nearest to the ANN's activations, by squared error on the first batch.
    Raises ``DataError`` for what are no scales.
    """
    _require_factors("scales", scales)
    nodes = neuron_nodes(snn.graph)
    bounds, before = _bounds(snn), _settings(nodes)
    scale = scales[0]
    if len(scales) > 1:
        ann = snn.in_the_ann([nodes[-1].outputs[0]])
        inputs = snn.first_batch(BALANCING_STEPS)
        (truth,) = ann.run(inputs).values()
        errors = []
        for candidate in snn.running.told(scales, "scaling thresholds", len(scales)):
            last = _balance(snn, inputs, candidate, bounds, {})
            errors.append(_squared_error(last, truth))
        scale = scales[int(np.argmin(errors))]
    largest: dict[str, float] = {}
    for inputs in snn.batches("balancing thresholds", BALANCING_STEPS):
        _balance(snn, inputs, scale, bounds, largest)
    return _settings(nodes) != before


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
