"""``convert``: a trained ANN in, a spiking network out."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from onnx2snn.data.batches import MOST_SAMPLES, samples_at_once
from onnx2snn.data.calibration_data import notes_on_samples
from onnx2snn.data.samples import Data, require_data
from onnx2snn.digests import digest_of
from onnx2snn.graph_passes import DataError, PassReport, Refusal, neuron_nodes, threshold_of
from onnx2snn.graph_passes.approximate import MOST_CLIPS, ClipFit
from onnx2snn.graph_passes.driver import pass_name
from onnx2snn.graph_passes.errors import (
    optional_whole,
    require_one_of,
    require_truths,
    require_whole,
)
from onnx2snn.graph_passes.graph.activations import bounds_by_result
from onnx2snn.graph_passes.graph.linear import MaxPool
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.model_files.files import Model, read_any, read_model
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import ModelParts, attach
from onnx2snn.graph_passes.spiking import require_convertible
from onnx2snn.inspection import metadata_of, plain
from onnx2snn.recipe import DEFAULT_TIMESTEPS, Neuron, Recipe
from onnx2snn.recipes import as_recipe
from onnx2snn.running import Report, Running, no_report
from onnx2snn.runtime.inputs import MOST_TIMESTEPS
from onnx2snn.runtime.providers import Providers, resolve_providers
from onnx2snn.spiking_passes.searching import bounds_of_neurons
from onnx2snn.version import __version__

from .checking import Agreement
from .examination import analog_activations, require_bounds, require_loadable
from .network import Network
from .notes import notes_on_settings
from .statistics import Statistic, parse_statistic
from .to_spiking import apply_passes, bound_by_data, change_kind, delay_by, make_spiking

BOUND = "bound of the clip"
"""Where a threshold comes from that no data and no pass has set."""

Reset = Literal["subtract", "zero"]
"""What a spike does to the membrane potential: V_th less, as in the paper, or 0."""


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
    rewriting was checked. ``agreements``: what each change cost, on the calibration data.
    ``notes``: what a user should know of the result. ``threshold``: the statistic that thresholds
    from data are; None where there are none.
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
    on the calibration data or else on seeded inputs of the declared shape.

    Calibration data runs in batches of ``batch_size``, else of 100, or fewer where activations
    would take over 2 GiB, on ``providers``; ``report`` is told of progress.

    Raises ``ModelError`` (no ONNX, no activations), ``UnsupportedModelError`` (listing all
    nodes in the way), ``MissingThresholdError`` (listing the neurons that need data),
    ``DataError`` (data that does not fit, invalid settings), ``ProviderError`` (a device that is
    not there) and ``PassError`` (a pass changed the function).
    """
    if isinstance(model, str | os.PathLike) and not Path(model).is_file():
        # A pipe can be read once, and its digest is wanted, too.
        model = read_model(model)
    if recipe is None:
        recipe = "opi" if calibration is None else "best"
    chosen = as_recipe(recipe)
    seed = require_whole("seed", seed, 0)
    batch_size = optional_whole("batch_size", batch_size, 1)
    require_truths(per_channel=per_channel, recalibrate=recalibrate, on_means=on_means)
    if calibration is not None:
        require_data("calibration", calibration)
    if threshold is not None and not isinstance(threshold, Statistic):
        threshold = parse_statistic(threshold)
    options = {
        "threshold": threshold,
        "per_channel": None if per_channel is None else bool(per_channel),
        "recalibrate": None if recalibrate is None else bool(recalibrate),
        "maxpool": maxpool,
        "approximate": optional_whole("approximate", approximate, 1, MOST_CLIPS),
        "on_means": on_means or None,
        "v_init": v_init,
        "delay": optional_whole("delay", delay, 0, MOST_TIMESTEPS),
        "timesteps": optional_whole("timesteps", timesteps, 1, MOST_TIMESTEPS),
    }
    given: dict[str, Any] = {n: value for n, value in options.items() if value is not None}
    timesteps = int(given.get("timesteps", DEFAULT_TIMESTEPS))
    chosen.require_account(given)
    for name in ("threshold", "per_channel"):
        if given.get(name) and calibration is None:
            raise DataError(f"{name}={given[name]} is for calibration data: give calibration too")
    settings = _resolved(chosen, given, reset, timesteps)
    resolve_providers(providers)
    source, together = model, batch_size
    if calibration is not None:
        source = read_any(model)
        together = samples_at_once(source, calibration, batch_size)
    running = Running(together or MOST_SAMPLES, providers, report)
    network = Network(source, calibration, settings.maxpool, running, bool(on_means))
    network.unquantize()
    network.rewrite_exactly()
    network.replace_pools()
    if "approximate" in given:
        network.approximate(given["approximate"])
        if calibration is not None:
            # Of several clips for each curve there is room for fewer samples.
            together = samples_at_once(
                network.current, calibration, batch_size, beside=network.original
            )
            network.running = replace(running, batch_size=together)
        # Pools that had prepared the input for a curve, which clips now stand in for.
        network.replace_pools()
    require_convertible(network.graph, settings.maxpool, network.declined, network.on_means)
    if settings.threshold is None:
        require_bounds(network.graph, settings.name)
    clips = bounds_by_result(network.graph)
    sources = bound_by_data(network, settings, keep_bounds="recalibrate" in given)
    make_spiking(network, settings.v_init, seed)
    # Neurons may have other names than their activations, where those of their states are taken.
    names = {node.outputs[0].name: node.name for node in neuron_nodes(network.graph)}
    sources = {names[result]: text for result, text in sources.items() if result in names}
    bounds = bounds_of_neurons(network.graph, clips)
    change_kind(network, settings.neuron, int(settings.delay), timesteps)
    measured = {node.name: threshold_of(node) for node in neuron_nodes(network.graph)}
    apply_passes(network, settings.passes, timesteps)
    delay_by(network, int(settings.delay), timesteps)
    neurons = _reports(network, sources, measured, settings)
    network.notes += notes_on_samples(network.measures)
    network.notes += notes_on_settings(network, settings, given, bool(clips), bounds)
    for_timesteps = _is_for_timesteps(chosen, given)
    if "timesteps" in given and not for_timesteps:
        options_too = " with these options" if chosen.is_for_timesteps else ""
        network.notes.append(f"the recipe '{chosen.name}'{options_too} converts alike for every T")
    result = to_parts(network.graph, like=network.original.structure)
    made = _definition(network, settings, given, timesteps if for_timesteps else None, seed)
    _write_metadata(result.structure, digest_of(model), made, neurons, network.clips)
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


def _resolved(
    recipe: Recipe, given: Mapping[str, Any], reset: Reset | None, timesteps: int
) -> Recipe:
    """A recipe with the options that were given, and with a threshold and a delay for T."""
    named = {setting.name for setting in fields(Recipe)}
    own = {name: value for name, value in given.items() if name in named}
    for_timesteps = {
        "threshold": recipe.statistic(timesteps),
        "delay": recipe.delay_for(timesteps),
    }
    settings = replace(recipe, neuron=_with_reset(recipe, reset), **for_timesteps | own)
    require_one_of("maxpool", settings.maxpool, MaxPool)
    return settings


def _is_for_timesteps(recipe: Recipe, given: Mapping[str, Any]) -> bool:
    """Whether anything of a recipe that was not given otherwise depends on T."""
    threshold = None if "threshold" in given else recipe.threshold
    delay = 0 if "delay" in given else recipe.delay
    return replace(recipe, threshold=threshold, delay=delay).is_for_timesteps


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


def _with_reset(recipe: Recipe, reset: Reset | None) -> Neuron:
    """The recipe's neurons with this reset; ``DataError`` where they cannot reset to zero."""
    if reset is None:
        return recipe.neuron
    require_one_of("reset", reset, Reset)
    if recipe.neuron.op not in ("IF", "ResetToZeroIF"):
        if reset == "subtract":
            # All other kinds do.
            return recipe.neuron
        raise DataError(
            f"the recipe '{recipe.name}' is made of neurons {recipe.neuron.op}, which reset by "
            "subtraction alone: leave out --reset, or take another recipe"
        )
    return Neuron("ResetToZeroIF" if reset == "zero" else "IF")


def _definition(
    network: Network,
    settings: Recipe,
    given: Mapping[str, Any],
    timesteps: int | None,
    seed: int,
) -> dict[str, Any]:
    """How a network was converted, for its metadata; ``timesteps``: T, if that decides anything."""
    return {
        "name": settings.name,
        "timesteps": timesteps,
        "threshold": str(settings.threshold) if settings.threshold else None,
        "headroom": None if settings.headroom == 1 else float(settings.headroom),
        "per_channel": settings.per_channel,
        "recalibrate": settings.recalibrate,
        "maxpool": settings.maxpool,
        "approximate": given.get("approximate"),
        "on_means": network.on_means,
        "v_init": settings.v_init,
        "neuron": vars(settings.neuron),
        "delay": settings.delay,
        "corrections": settings.definition()["passes"],
        "seed": seed,
        "passes": [report.name for report in network.reports],
    }


def _write_metadata(
    model: onnx.ModelProto,
    digest: str,
    recipe: dict[str, Any],
    neurons: list[NeuronReport],
    clips: dict[str, ClipFit],
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
    onnx.helper.set_model_props(model, metadata_of(model) | entries)
