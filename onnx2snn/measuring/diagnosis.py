"""``diagnose``: the error of each layer of neurons, and what it consists of.

With T time-steps, the threshold V_th and the potential v(0) of a layer, let

    z(t)    be the current into a neuron at time-step t, as the spiking network computes it
    zbar    its mean over the T time-steps
    phi     V_th times the number of spikes over T: what the neuron emits, on average
    a       what the ANN's own activation makes of zbar: ReLU(zbar), or Clip(zbar, 0, theta)
            where the ANN has a clip

phi and a are made of the same input, so the errors of earlier layers do not count in phi - a.
It splits exactly into three (after Bu et al., ICLR 2022, "Optimal ANN-SNN conversion"):

    clipping       clip(zbar, 0, V_th) - a
    quantisation   V_th q / T - clip(zbar, 0, V_th), with
                   q = clip(ceil((T zbar + v(0)) / V_th) - 1, 0, T)
    unevenness     phi - V_th q / T

q is the number of spikes that a neuron with v(0) from 0 to V_th, which subtracts V_th, emits if its
current is zbar at each time-step. It is floor((T zbar + v(0)) / V_th) but at ties, since a neuron
fires above V_th and not at it. With bursts of B spikes a time-step, V_th is B V_th in the clips,
and T is B T. What a reset to zero loses, a neuron that starts again after some time-steps, or a
v(0) that is too far off to be made up for, counts as unevenness.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.converting.calibration import watch
from onnx2snn.converting.network import Network
from onnx2snn.data.batches import WATCHED, samples_at_once
from onnx2snn.data.samples import Data, number_of, require_data, require_samples
from onnx2snn.graph_passes import ModelError, infer_shapes, neuron_nodes, threshold_of
from onnx2snn.graph_passes.approximate import ClipFit
from onnx2snn.graph_passes.errors import counted, require_whole
from onnx2snn.graph_passes.graph.activations import bounds_by_result
from onnx2snn.graph_passes.graph.neurons import (
    initial_potential_of,
    is_mean,
    max_spikes_of,
    require_neurons,
)
from onnx2snn.graph_passes.graph.operators import MaxPool
from onnx2snn.graph_passes.graph.regions import made_by
from onnx2snn.graph_passes.model_files.files import Model, read_any
from onnx2snn.graph_passes.model_files.io import to_graph
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.inspection import metadata_of, recipe_in
from onnx2snn.json_values import json_object
from onnx2snn.running import Report, Running, no_report
from onnx2snn.runtime.inputs import MOST_TIMESTEPS
from onnx2snn.runtime.providers import Providers
from onnx2snn.spiking_passes.layers import IN_CACHE, few_samples

from .watched_run import LayerSums, WatchedRun

NOT_THE_ANN = "the ANN is not the one that this network was made from"


@dataclass(frozen=True)
class LayerDiagnosis:
    """The errors of one layer of neurons, over all its neurons and all samples.

    ``place``: its position in the network, from 1. ``neurons``: how many a sample has.
    ``own_error``: of phi - a, phi being V_th times the number of spikes over T, and a what the
    ANN's own activation makes of zbar, the mean over time of the current into a neuron. phi - a is
    the sum of ``clipping``, clip(zbar, 0, V_th) - a, ``quantisation``, V_th q / T - clip(zbar, 0,
    V_th), and ``unevenness``, phi - V_th q / T, q being clip(ceil((T zbar + v(0)) / V_th) - 1, 0,
    T). With bursts of B spikes a time-step, V_th is B V_th in the clips, and T is B T in q. All
    four are root mean squares in percent of that of a. (So the three do not add up; the errors
    themselves do.) ``total_error``: that of phi against the activations in the ANN, errors of
    earlier layers included, in percent of their root mean square. Where all activations are 0, the
    percentages are of V_th. ``firing_rate``: spikes, of either sign, per neuron and time-step.
    ``silent`` and ``saturated``: percent of the neurons without a spike, and with as many as they
    can emit at every time-step, and none taken back. ``correlation``: Pearson's, of phi and the
    activations in the ANN; None where one of them does not vary.
    """

    place: int
    name: str
    neurons: int
    clipping: float
    quantisation: float
    unevenness: float
    own_error: float
    total_error: float
    firing_rate: float
    silent: float
    saturated: float
    correlation: float | None


def diagnose(
    snn: Model,
    ann: Model,
    data: Data,
    timesteps: int,
    *,
    batch_size: int | None = None,
    providers: Providers = None,
    report: Report = no_report,
    left_out: list[str] | None = None,
) -> list[LayerDiagnosis]:
    """Say for each layer of neurons what its error is in T time-steps, and of what kind.

    The layers come with the largest ``own_error`` first: an error that a layer only inherits
    is not its fault, so the first of them is the one to improve. (A current that corrects
    biases is part of a layer's input: what it mends shows in ``total_error``.)

    The ANN is brought to the form in which it was converted; where its max-pools became
    average-pools, its activations are those behind average-pools, and where clips stand in for
    other activations (``approximate``) they are these clips, since ``convert`` says what those
    changes cost. Memory is that of one batch of ``batch_size`` samples, as in ``evaluate``: a
    handful of arrays for each layer. ``providers``: what ONNX Runtime runs on; ``report`` is
    told of progress; ``left_out`` takes what of the ANN was changed so, and is in no figure.

    Raises ``ModelError`` if ``snn`` has no neurons or does not say how it was made, or if a
    neuron has no counterpart in ``ann``, ``DataError`` if the data does not fit or ``timesteps`` is
    no whole number from 1 on, and ``ProviderError`` for a device that is not there.
    """
    timesteps = require_whole("timesteps", timesteps, 1, MOST_TIMESTEPS)
    require_data("data", data)
    parts = read_any(snn)
    graph = to_graph(parts)
    infer_shapes(graph)
    require_neurons(graph)
    require_samples(data, parts.structure)
    recipe = _recipe(parts)
    network = _converted_form(ann, recipe, _clips(parts))
    if left_out is not None:
        left_out += _changes(network)
    unsaid = recipe.get("approximate") is not None and not network.clips
    activations = _counterparts(graph, network.graph, unsaid)
    layers = _layers(graph, activations, bounds_by_result(network.graph), timesteps)
    spiking = WatchedRun(graph, timesteps, providers)
    batch_size = samples_at_once(parts, data, batch_size, WATCHED, network.current)
    running = Running(batch_size, providers, report)
    # The batches of both are the same; one of them is told of.
    watched = watch(network.current, activations, data, Running(batch_size, providers))
    for (x, _), values in zip(running.batches(data, "diagnosing"), watched, strict=True):
        for layer, sums in zip(layers, spiking.run(x), strict=True):
            layer.add(sums, values[layer.name], number_of(x))
    found = [layer.result(place) for place, layer in enumerate(layers, start=1)]
    return sorted(found, key=lambda layer: layer.own_error, reverse=True)


def _recipe(parts: ModelParts) -> dict[str, Any]:
    """How an SNN was made, as ``convert`` wrote it; raises ``ModelError`` if it is not said."""
    recipe = recipe_in(parts.structure)
    if recipe.get("maxpool") not in get_args(MaxPool):
        raise ModelError(
            "the spiking network does not say how it was made, so its neurons cannot be matched "
            "with the ANN's activations: convert the ANN again"
        )
    return recipe


def _clips(parts: ModelParts) -> dict[str, ClipFit]:
    """The clips that stand in for activations, as ``convert`` wrote them."""
    fits = json_object(metadata_of(parts.structure).get("onnx2snn.clips", ""))
    found = {}
    for name, fit in fits.items():
        try:
            knots, values = (np.array(fit[key], np.float64) for key in ("knots", "values"))
        except (KeyError, OverflowError, TypeError, ValueError):
            knots, values = np.empty(0), np.empty(0)
        fitting = knots.ndim == 1 and knots.shape == values.shape and len(knots) > 1
        if not fitting or not np.all(np.isfinite([knots, values])) or np.any(np.diff(knots) <= 0):
            raise ModelError(
                "the spiking network's metadata does not say which clips stand in for the "
                f"activation '{name}': convert the ANN again"
            )
        found[name] = ClipFit(knots, values)
    return found


def _converted_form(ann: Model, recipe: Mapping[str, Any], clips: dict[str, ClipFit]) -> Network:
    """An ANN in the form in which its activations became neurons, before they were clipped."""
    network = Network(ann, None, recipe["maxpool"], Running())
    network.unquantize()
    network.rewrite_exactly()
    network.replace_pools()
    if clips:
        network.replace_by_clips(clips)
        network.replace_pools()
    return network


def _changes(network: Network) -> list[str]:
    """What an ANN lost on its way to the form in which it was converted, besides rounding."""
    pooled = any(r.name == "max_to_average_pool" and r.changed for r in network.reports)
    said = {
        "average-pools take the place of its max-pools": pooled,
        "clips take the place of other activations": bool(network.clips),
        "its quantisation is left out": network.unquantised,
    }
    return [change for change, was_made in said.items() if was_made]


def _counterparts(snn: gs.Graph, ann: gs.Graph, unsaid: bool) -> dict[str, str]:
    """The tensor of the ANN that each neuron stands for, by the neuron's name.

    ``unsaid``: whether clips stand in for activations of which the network does not say more.
    """
    there = made_by(ann.nodes)
    found = {}
    for node in neuron_nodes(snn):
        # An output that begins after a delay has the name that the neuron's own had.
        delayed = [n.outputs[0] for n in node.outputs[0].outputs if is_mean(n)]
        tensors = [node.outputs[0], *delayed]
        found[node.name] = next((t.name for t in tensors if t.name in there), tensors[0].name)
    missing = [name for name, tensor in found.items() if tensor not in there]
    if missing and unsaid:
        others = f" and {counted(len(missing) - 1, 'other')}" if len(missing) > 1 else ""
        raise ModelError(
            f"the neurons '{missing[0]}'{others} stand in for approximated activations "
            "(--approximate), of which the file does not say more: convert the ANN again with this "
            "version"
        )
    if missing:
        raise ModelError(f"{NOT_THE_ANN}: it has no activation for the neuron '{missing[0]}'")
    return found


@dataclass(frozen=True)
class Split:
    """The activations a of the mean currents, and the errors of phi against them: [N, ...]."""

    activation: np.ndarray
    clipping: np.ndarray
    quantisation: np.ndarray
    unevenness: np.ndarray


def split(
    sums: LayerSums,
    threshold: np.ndarray,
    start: np.ndarray,
    bound: np.ndarray,
    timesteps: int,
    burst: int = 1,
) -> Split:
    """Split phi - a, as this module defines it, into its three parts.

    threshold, start and bound: V_th, v(0), and theta of the ANN's own clip (infinity if it has
    none), in the unit of the current; they broadcast against the sums, and are float64. burst:
    how many spikes a neuron can emit in a time-step.
    """
    mean = sums.current / timesteps
    activation = np.minimum(np.maximum(mean, 0), bound)
    clipped = np.clip(mean, 0, burst * threshold)
    even = np.clip(np.ceil((sums.current + start) / threshold) - 1, 0, burst * timesteps)
    quantised = even * threshold / timesteps
    return Split(
        activation,
        clipped - activation,
        quantised - clipped,
        sums.potential / timesteps - quantised,
    )


@dataclass
class _Layer:
    """A layer's parameters, and the sums over neurons and samples that its figures need."""

    name: str
    threshold: np.ndarray
    start: np.ndarray
    bound: np.ndarray
    timesteps: int
    burst: int
    samples: int = 0
    values: int = 0
    totals: dict[str, float] = field(default_factory=dict)

    def add(self, sums: LayerSums, reference: np.ndarray, samples: int) -> None:
        """Take in one batch of N samples. reference: the ANN's activations [N, ...]."""
        if reference.shape != sums.potential.shape:
            raise ModelError(
                f"{NOT_THE_ANN}: at the neuron '{self.name}' its activations have the shape "
                f"{list(reference.shape)}, those of the network {list(sums.potential.shape)}"
            )
        self.samples += samples
        self.values += reference.size
        of_all = (self.threshold, self.start, self.bound)
        of_each = [np.broadcast_to(values, reference.shape) for values in of_all]
        # What is worked out of a few samples at a time stays in the CPU's cache.
        for part in few_samples(len(reference), reference[:1].size, IN_CACHE):
            own = LayerSums(*(values[part] for values in vars(sums).values()))
            given = (values[part] for values in of_each)
            for name, value in self._totals(own, reference[part], *given).items():
                self.totals[name] = self.totals.get(name, 0.0) + value

    def _totals(
        self,
        sums: LayerSums,
        reference: np.ndarray,
        threshold: np.ndarray,
        start: np.ndarray,
        bound: np.ndarray,
    ) -> dict[str, float]:
        """What some samples add to the totals."""
        parts = split(sums, threshold, start, bound, self.timesteps, self.burst)
        wanted = reference.astype(np.float64)
        phi = sums.potential / self.timesteps
        rate = sums.magnitude / threshold / self.timesteps
        spikes = np.rint(sums.potential / threshold)
        return {
            **{name: _squares(values) for name, values in vars(parts).items()},
            "own": _squares(phi - parts.activation),
            "total": _squares(phi - wanted),
            "threshold": _squares(threshold),
            "rate": float(rate.sum()),
            "silent": float(np.count_nonzero(sums.magnitude == 0)),
            "saturated": float(np.count_nonzero(spikes >= self.burst * self.timesteps)),
            "x": float(phi.sum()),
            "y": float(wanted.sum()),
            "xx": _squares(phi),
            "yy": _squares(wanted),
            "xy": float((phi * wanted).sum()),
        }

    def result(self, place: int) -> LayerDiagnosis:
        """What was found in all batches."""
        totals = self.totals
        own_unit = totals["activation"] or totals["threshold"]
        unit = totals["yy"] or totals["threshold"]

        def percent(name: str) -> float:
            return 100 * float(np.sqrt(totals[name] / own_unit))

        return LayerDiagnosis(
            place=place,
            name=self.name,
            neurons=self.values // self.samples,
            clipping=percent("clipping"),
            quantisation=percent("quantisation"),
            unevenness=percent("unevenness"),
            own_error=percent("own"),
            total_error=100 * float(np.sqrt(totals["total"] / unit)),
            firing_rate=totals["rate"] / self.values,
            silent=100 * totals["silent"] / self.values,
            saturated=100 * totals["saturated"] / self.values,
            correlation=_correlation(totals, self.values),
        )


def _layers(
    graph: gs.Graph,
    activations: Mapping[str, str],
    bounds: Mapping[str, np.ndarray],
    timesteps: int,
) -> list[_Layer]:
    """The layers of an SNN, their bounds those of the ANN's tensors that they stand for."""
    return [
        _Layer(
            node.name,
            threshold_of(node).astype(np.float64),
            initial_potential_of(node).astype(np.float64),
            np.asarray(bounds.get(activations[node.name], np.inf), np.float64),
            timesteps,
            max_spikes_of(node),
        )
        for node in neuron_nodes(graph)
    ]


def _squares(values: np.ndarray) -> float:
    return float(np.square(values).sum())


def _correlation(totals: Mapping[str, float], count: int) -> float | None:
    """Pearson's correlation from sums; None where a variance is 0, up to rounding."""
    x, y = totals["x"], totals["y"]
    spread_x, spread_y = count * totals["xx"] - x * x, count * totals["yy"] - y * y
    if spread_x <= 1e-12 * count * totals["xx"] or spread_y <= 1e-12 * count * totals["yy"]:
        return None
    value = (count * totals["xy"] - x * y) / np.sqrt(spread_x * spread_y)
    return float(np.clip(value, -1, 1))
