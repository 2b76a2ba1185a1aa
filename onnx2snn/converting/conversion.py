"""``convert``: a trained ANN in, a spiking network out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnx2snn.data.batches import MOST_SAMPLES, samples_at_once
from onnx2snn.data.calibration_data import notes_on_samples
from onnx2snn.data.ranges import common_ranges
from onnx2snn.data.samples import Data, require_data, require_samples
from onnx2snn.digests import with_digest
from onnx2snn.graph_passes import PassReport, Refusal, neuron_nodes, threshold_of
from onnx2snn.graph_passes.approximate import ClipFit
from onnx2snn.graph_passes.driver import pass_name
from onnx2snn.graph_passes.errors import optional_whole, require_truths, require_whole
from onnx2snn.graph_passes.graph.activations import bounds_by_result
from onnx2snn.graph_passes.graph.obstacles import require_convertible
from onnx2snn.graph_passes.graph.operators import MaxPool
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.model_files.files import Model, read_any
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import ModelParts, attach
from onnx2snn.inspection import metadata_of
from onnx2snn.json_values import plain
from onnx2snn.recipe import Recipe
from onnx2snn.recipes import as_recipe
from onnx2snn.running import Report, Running, no_report
from onnx2snn.runtime.providers import Providers, resolve_providers
from onnx2snn.spiking_passes.searching import bounds_of_neurons
from onnx2snn.version import __version__

from .checking import Agreement
from .examination import (
    analog_activations,
    options_to_approximate,
    require_bounds,
    require_loadable,
)
from .network import Network
from .notes import notes_on_settings
from .request import Request, Reset, requested
from .statistics import Statistic
from .to_spiking import apply_passes, bound_by_data, change_kind, delay_by, make_spiking

BOUND = "bound of the clip"
"""Where a threshold comes from that no data and no pass has set."""


@dataclass(frozen=True, eq=False)
class NeuronReport:
    """One layer of neurons: the shape of a sample, V_th, and where V_th came from."""

    name: str
    shape: tuple[int | str, ...]
    threshold: np.ndarray
    source: str


@dataclass(frozen=True, eq=False)
class Conversion:
    """A converted network and what was done to make it.

    ``parts``: the network, its large weights beside its structure. ``neurons``: its layers of
    neurons, with their thresholds. ``passes``: what each pass did. ``declined``: what passes left
    as it was, with reasons. ``analog``: activations that stay what they were in the ANN: before the
    first neuron those that are no clip, and those of the read-out. ``check``: how the exact
    rewriting was checked, or why not. ``agreements``: what each change cost, on the calibration
    data. ``notes``: what a user should know of the result. ``threshold``: the statistic that
    thresholds from data are; None where there are none.
    """

    parts: ModelParts = field(repr=False)
    neurons: list[NeuronReport]
    passes: list[PassReport]
    declined: list[Refusal]
    analog: list[Refusal]
    check: str
    agreements: list[Agreement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    threshold: Statistic | None = None

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The spiking network, of one time-step."""
        return attach(self.parts)


def convert(
    model: Model,
    *,
    calibration: Data | None = None,
    recipe: Recipe | str | None = None,
    timesteps: int | None = None,
    threshold: Statistic | str | None = None,
    per_channel: bool | None = None,
    recalibrate: bool | None = None,
    maxpool: MaxPool | None = None,
    approximate: int | None = None,
    on_means: bool = False,
    v_init: InitialPotential | None = None,
    reset: Reset | None = None,
    delay: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    providers: Providers = None,
    report: Report = no_report,
) -> Conversion:
    """Convert a trained ANN into a spiking network of one time-step.

    Each Relu or Clip becomes a neuron of the recipe's kind, and each other piecewise linear
    activation a sum of them. A clip's bound is its threshold; a Relu's comes from ``calibration``
    data by the statistic ``threshold`` (or its name, as "percentile=99.9"), for the whole layer or
    per channel. With ``recalibrate`` a clip's threshold comes from the data too, where that is
    lower than its bound.
    ``recipe``: a ``Recipe``, or the name of one, whose settings hold where no other is given:
    "best" if there is calibration data, "opi" without. What a recipe corrects it corrects for
    ``timesteps``, 16 if not given.

    ``maxpool``: "average" (unless the recipe says otherwise) replaces max-pooling by
    average-pooling, before the thresholds are measured; "exact" by pools that count spikes;
    "keep" leaves it between spikes. ``reset``: "subtract" V_th from v at a spike, or "zero" it.
    ``delay``: how many time-steps the read-out leaves out at the start.
    ``approximate``: the number of clips, 1 to 64, that replace any other scalar activation, such as
    Sigmoid, over the range that the data shows. ``on_means``: whether products of activations, as
    in squeeze-and-excitation, Softmax, normalizations by other neurons' activity and recurrent
    layers are computed between neurons, at each time-step, on the means of what they read.
    ``v_init`` is v(0) as a fraction of V_th, the recipe's if not given, or "uniform" or "normal",
    drawn from ``seed``. The input model is left as it was.

    The rewriting that should not change the network's function is checked by running both,
    on the calibration data or else, where these can run, on seeded inputs of the declared shape.

    Calibration data runs in batches of ``batch_size``, else of 100, or fewer where activations
    would take over 2 GiB, on ``providers``; ``report`` is told of progress.

    Raises ``ModelError`` (no ONNX, no activations), ``UnsupportedModelError`` (listing all
    nodes in the way), ``MissingThresholdError`` (listing the neurons that need data),
    ``DataError`` (data that does not fit, invalid settings), ``ProviderError`` (a device that is
    not there) and ``PassError`` (a pass changed the function).
    """
    if recipe is None:
        recipe = "opi" if calibration is None else "best"
    chosen = as_recipe(recipe)
    seed = require_whole("seed", seed, 0)
    batch_size = optional_whole("batch_size", batch_size, 1)
    require_truths(per_channel=per_channel, recalibrate=recalibrate, on_means=on_means)
    if calibration is not None:
        require_data("calibration", calibration)
    options = {
        "threshold": threshold,
        "per_channel": per_channel,
        "recalibrate": recalibrate,
        "maxpool": maxpool,
        "approximate": approximate,
        "on_means": on_means or None,
        "v_init": v_init,
        "delay": delay,
        "timesteps": timesteps,
    }
    request = requested(chosen, options, reset, seed, calibration is not None)
    settings, given = request.settings, request.given
    resolve_providers(providers)
    model, digest = with_digest(model)
    network = _network(model, calibration, request, batch_size, providers, report)
    _rewrite_ann(network, calibration, given.get("approximate"), batch_size)
    require_convertible(network.graph, settings.maxpool, network.declined, network.on_means)
    network.notes += _note_on_curves(network)
    if settings.threshold is None:
        require_bounds(network.graph, settings.name)
    clips = bounds_by_result(network.graph)
    sources = bound_by_data(network, settings, keep_bounds="recalibrate" in given)
    make_spiking(network, settings.v_init, request.seed)
    sources, bounds = _by_neuron(network, sources), bounds_of_neurons(network.graph, clips)
    change_kind(network, settings.neuron, int(settings.delay), request.timesteps)
    measured = {node.name: threshold_of(node) for node in neuron_nodes(network.graph)}
    apply_passes(network, settings.passes, request.timesteps)
    delay_by(network, int(settings.delay), request.timesteps)
    neurons = _reports(network, sources, measured, settings)
    network.notes += notes_on_samples(network.measures)
    network.notes += notes_on_settings(network, settings, given, bool(clips), bounds)
    network.notes += _note_on_vain_timesteps(request)
    result = to_parts(network.graph, like=network.original.structure)
    made = _definition(network, request)
    ranges = common_ranges(network.input_ranges)
    _write_metadata(result.structure, digest, made, neurons, network.clips, ranges)
    require_loadable(network.current, network.graph)
    return Conversion(
        parts=result,
        neurons=neurons,
        passes=network.reports,
        declined=network.declined,
        analog=analog_activations(network.graph),
        check=network.check,
        agreements=network.agreements,
        notes=network.notes,
        threshold=settings.threshold if sources else None,
    )


def _network(
    model: Model,
    calibration: Data | None,
    request: Request,
    batch_size: int | None,
    providers: Providers,
    report: Report,
) -> Network:
    """The network as it was given; calibration data runs in batches as large as it allows."""
    source, together = model, batch_size
    if calibration is not None:
        source = read_any(model)
        require_samples(calibration, source.structure)
        together = samples_at_once(source, calibration, batch_size)
    running = Running(together or MOST_SAMPLES, providers, report)
    on_means = "on_means" in request.given
    return Network(source, calibration, request.settings.maxpool, running, on_means)


def _rewrite_ann(
    network: Network, calibration: Data | None, approximate: int | None, batch_size: int | None
) -> None:
    """Bring the ANN into the form that neurons are made of; ``approximate``: clips for a curve."""
    network.unquantize()
    network.rewrite_exactly()
    network.replace_pools()
    if approximate is None:
        return
    network.approximate(approximate)
    if calibration is not None:
        # Of several clips for each curve there is room for fewer samples.
        together = samples_at_once(
            network.current, calibration, batch_size, beside=network.original
        )
        network.running = replace(network.running, batch_size=together)
    # Pools that had prepared the input for a curve, which clips now stand in for.
    network.replace_pools()


def _by_neuron(network: Network, sources: Mapping[str, str]) -> dict[str, str]:
    """What is told of activations by the tensors that they make, by the names of their neurons.

    These may have other names than the activations, where those of their states are taken.
    """
    names = {node.outputs[0].name: node.name for node in neuron_nodes(network.graph)}
    return {names[result]: text for result, text in sources.items() if result in names}


def _reports(
    network: Network,
    sources: Mapping[str, str],
    measured: Mapping[str, np.ndarray],
    recipe: Recipe,
) -> list[NeuronReport]:
    """The layers of neurons. ``measured``: V_th before the recipe's passes, by name."""
    then = f", then {', '.join(map(pass_name, recipe.passes))}"
    found = []
    for node in neuron_nodes(network.graph):
        threshold, source = threshold_of(node), sources.get(node.name, BOUND)
        same = np.array_equal(threshold, measured.get(node.name, []))
        shape = tuple(node.outputs[0].shape[1:])
        found.append(NeuronReport(node.name, shape, threshold, source if same else source + then))
    return found


def _note_on_curves(network: Network) -> list[str]:
    """By which options more of the network would spike."""
    options = options_to_approximate(network.graph, network.maxpool, network.on_means)
    if not options:
        return []
    return [
        "curves stay analog, before the first neurons or behind the last ones; "
        f"{options} makes neurons of them, and more of the network spikes"
    ]


def _note_on_vain_timesteps(request: Request) -> list[str]:
    """That T was given, but decides nothing."""
    if "timesteps" not in request.given or request.is_for_timesteps:
        return []
    options_too = " with these options" if request.recipe.is_for_timesteps else ""
    return [f"the recipe '{request.recipe.name}'{options_too} converts alike for every T"]


def _definition(network: Network, request: Request) -> dict[str, Any]:
    """How a network was converted, for its metadata."""
    settings = request.settings
    return {
        "name": settings.name,
        "timesteps": request.timesteps if request.is_for_timesteps else None,
        "threshold": str(settings.threshold) if settings.threshold else None,
        "headroom": None if settings.headroom == 1 else float(settings.headroom),
        "per_channel": settings.per_channel,
        "recalibrate": settings.recalibrate,
        "maxpool": settings.maxpool,
        "approximate": request.given.get("approximate"),
        "on_means": network.on_means,
        "v_init": settings.v_init,
        "neuron": vars(settings.neuron),
        "delay": settings.delay,
        "corrections": settings.definition()["passes"],
        "seed": request.seed,
        "passes": [report.name for report in network.reports],
    }


def _write_metadata(
    model: onnx.ModelProto,
    digest: str,
    recipe: dict[str, Any],
    neurons: list[NeuronReport],
    clips: dict[str, ClipFit],
    ranges: dict[str, list[float]],
) -> None:
    entries = {
        "onnx2snn.version": __version__,
        "onnx2snn.onnx_version": onnx.__version__,
        "onnx2snn.source_sha256": digest,
        "onnx2snn.recipe": json.dumps(recipe, default=plain),
        "onnx2snn.thresholds": json.dumps({neuron.name: neuron.source for neuron in neurons}),
    }
    if clips:
        # What ``diagnose`` needs to know which neuron stands for what.
        fits = {name: {n: v.tolist() for n, v in vars(fit).items()} for name, fit in clips.items()}
        entries["onnx2snn.clips"] = json.dumps(fits)
    if ranges:
        entries["onnx2snn.inputs"] = json.dumps(ranges)
    onnx.helper.set_model_props(model, metadata_of(model) | entries)
