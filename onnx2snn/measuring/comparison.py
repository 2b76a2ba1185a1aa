"""``compare``: one ANN converted by several recipes, each evaluated at several time-steps."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnx2snn.ann import Ann
from onnx2snn.converting.conversion import convert
from onnx2snn.data.batches import samples_at_once
from onnx2snn.data.samples import Data, require_data
from onnx2snn.digests import digest_of, digest_of_data, digest_of_settings
from onnx2snn.graph_passes.approximate import MOST_CLIPS
from onnx2snn.graph_passes.errors import (
    DataError,
    ModelError,
    NotFiniteError,
    Onnx2SnnError,
    OutputError,
    ProviderError,
    UnsupportedModelError,
    optional_whole,
    require_one_of,
    require_truths,
    require_whole,
)
from onnx2snn.graph_passes.graph.operators import MAX_POOLS, MaxPool
from onnx2snn.graph_passes.model_files.contents import every_node
from onnx2snn.graph_passes.model_files.files import Model, read_any, require_path
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.graph_passes.model_files.whole_file import check_writable
from onnx2snn.recipe import Recipe
from onnx2snn.recipes import as_recipe
from onnx2snn.running import Report, no_report, require_report
from onnx2snn.runtime.inputs import required_times
from onnx2snn.runtime.providers import Providers, resolve_providers
from onnx2snn.version import __version__

from .classes import check_labels, require_class_output
from .comparison_state import Score, state_file
from .evaluation import evaluate
from .kept_results import KeptFile


@dataclass
class RecipeRow:
    """What one recipe came to: its results by T, and by T why it could not convert."""

    recipe: Recipe
    scores: dict[int, Score] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Recipes beside each other: a row for each, in the order given.

    ``kind``: what to compare by, "accuracy" with labels, else "agreement" with the ANN.
    ``reused``: how many results came from the state file. ``maxpool``: what max-pools became in
    all of them; None where the ANN has none, or each recipe did as it says.
    """

    samples: int
    timesteps: tuple[int, ...]
    kind: str
    rows: list[RecipeRow]
    reused: int
    maxpool: MaxPool | None = None

    @property
    def ann(self) -> float | None:
        """The ANN's accuracy in percent; None without labels, or if no recipe could convert."""
        scores = (score for row in self.rows for score in row.scores.values())
        return next((score.ann_accuracy for score in scores), None)

    def values(self, row: RecipeRow) -> list[float | None]:
        """A row's accuracies, or agreements, in percent, by T; None where there is none."""
        scores = [row.scores.get(t) for t in self.timesteps]
        return [None if score is None else getattr(score, self.kind) for score in scores]


@dataclass(frozen=True)
class _Unit:
    """Work that is done and kept as one: a conversion, and its evaluation at some T."""

    row: RecipeRow
    timesteps: list[int]

    @property
    def name(self) -> str:
        """Which recipe, and at which T."""
        return f"{self.row.recipe.name}, T={','.join(map(str, self.timesteps))}"


@dataclass(frozen=True)
class _Setting:
    """What all units have in common.

    ``options``: of ``convert``. ``together``: samples at a time, as far as is known first.
    """

    ann: ModelParts
    data: Data
    together: int
    options: dict[str, Any]
    found: dict[tuple[str, int], Score] = field(default_factory=dict)
    """Results of this comparison, by the digest of the spiking network and T."""

    @property
    def batches(self) -> int:
        """How many batches an evaluation takes."""
        return -(-self.data.samples // self.together)

    def made_from(self) -> dict[str, Any]:
        """What decides the results of every recipe, as JSON values."""
        given = self.options["calibration"]
        return {
            **self.options,
            "version": __version__,
            "model": digest_of(self.ann),
            "calibration": given and digest_of_data(given, self.together),
            "calibration_samples": given and given.samples,
            "data": digest_of_data(self.data, self.together),
            "samples": self.data.samples,
            "together": self.together,
            "providers": str(resolve_providers(self.options["providers"])),
        }


@dataclass(frozen=True)
class _Kept:
    """What a state file, if there is one, held at first, and what decides all its new results.

    Results are those of a recipe by ``identity``: its definition, or its network's digest.
    """

    file: KeptFile | None
    results: Mapping[str, dict[str, Any]]
    common: dict[str, Any]

    def known(self, identity: dict[str, Any], times: Iterable[int]) -> dict[int, Score]:
        """What the file held, by T."""
        keys = {t: _key(self.common | identity, t) for t in times}
        return {
            t: Score(**self.results[key]["score"]) for t, key in keys.items() if key in self.results
        }

    def add(self, identity: dict[str, Any], scores: Mapping[int, Score]) -> None:
        """Keep these results, by T, in the file."""
        made_from = self.common | identity
        if self.file is not None and scores:
            # ``made_from`` is for those who look into the file.
            self.file.add(
                {
                    _key(made_from, t): {"score": asdict(score), "made_from": made_from}
                    for t, score in scores.items()
                }
            )


def _key(made_from: Mapping[str, Any], timesteps: int) -> str:
    """What the result for T time-steps stands under in a state file."""
    return digest_of_settings([made_from, timesteps])


def compare_recipes(
    model: Model,
    recipes: Sequence[Recipe | str],
    calibration: Data | None,
    data: Data,
    timesteps: Sequence[int],
    *,
    state: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    maxpool: MaxPool | None = "exact",
    approximate: int | None = None,
    on_means: bool = False,
    providers: Providers = None,
    report: Report = no_report,
) -> Comparison:
    """Convert an ANN by each recipe, or its name, and evaluate it after each T time-steps.

    A recipe that ``is_for_timesteps`` converts anew for each T and is evaluated at that T;
    any other converts once and is evaluated at all T in one run. One that cannot convert the
    network, or whose network cannot run on the data, says why in its row; nothing else stops for
    it.

    ``calibration``: the data of those recipes that need it; ``data``: what is evaluated, in batches
    of ``batch_size``, of which calibration has as many samples. ``report`` is told of progress.
    ``seed``: that of the recipes, as in ``convert``. ``providers``: as in ``SpikingSession``.
    ``maxpool``: what becomes of max-pooling, in all recipes alike, so that what they differ in
    is compared; None leaves it to each. ``approximate``: how many clips stand in for any other
    scalar activation, and ``on_means``: both as in ``convert``, in all alike.

    ``state``: a file that keeps each result as it comes, and gives those that it holds already: of
    the same network, data, settings, version of this package and definition of the recipe. Killed
    at any moment and called again, only the work between two results is done again. A recipe with
    passes of your own converts again, and then takes what is known of this very spiking network.
    Failures are not kept.

    Raises ``ModelError`` (no ONNX), ``DataError`` (no time-steps; a recipe, a batch size, a seed
    or data that is none; data that is not finite; a file that holds no state), ``OutputError`` (the
    state cannot be written) and ``ProviderError``.
    """
    require_data("data", data)
    if calibration is not None:
        require_data("calibration", calibration)
    rows = _rows(recipes)
    times = required_times(timesteps)
    seed = require_whole("seed", seed, 0)
    approximate = optional_whole("approximate", approximate, 1, MOST_CLIPS)
    require_truths(on_means=on_means)
    if maxpool is not None:
        require_one_of("maxpool", maxpool, MaxPool)
    require_report(report)
    if state is not None:
        require_path(state, "state is a file's path", OutputError)
    parts = read_any(model)
    together = samples_at_once(parts, data, batch_size)
    options = {
        "calibration": calibration, "seed": seed, "maxpool": maxpool, "approximate": approximate,
        "on_means": on_means, "batch_size": batch_size, "providers": providers,
    }  # fmt: skip
    setting = _Setting(parts, data, together, options)
    kept = _kept(None if state is None else state_file(Path(state)), setting)
    for row in rows:
        if row.recipe.is_told_by_definition:
            row.scores.update(kept.known({"recipe": row.recipe.definition()}, times))
    reused = sum(len(row.scores) for row in rows)
    units = _units(rows, times)
    if units:
        if kept.file is not None:
            check_writable(kept.file.path)
        _require_classes(setting)
    pace = _Pace(report, len(units), setting.batches * sum(unit.timesteps[-1] for unit in units))
    for unit in units:
        pace.begin(unit, setting.batches)
        reused += _do(unit, setting, kept, pace.report)
    kind = "agreement" if data.labels is None else "accuracy"
    pools = any(node.op_type in MAX_POOLS for node in every_node(parts.structure))
    return Comparison(data.samples, tuple(times), kind, rows, reused, maxpool if pools else None)


def _rows(recipes: Sequence[Recipe | str]) -> list[RecipeRow]:
    """A row for each recipe, without results; ``DataError`` for what is none, or no recipes."""
    if isinstance(recipes, str | Recipe) or not isinstance(recipes, Iterable):
        raise DataError(f"recipes are several, as in ['opi', 'best'], not {recipes!r}")
    rows = [RecipeRow(as_recipe(recipe)) for recipe in recipes]
    if not rows:
        raise DataError("no recipes to compare: give them, as ['opi', 'best']")
    return rows


def _kept(file: KeptFile | None, setting: _Setting) -> _Kept:
    if file is not None:
        return _Kept(file, file.entries(), setting.made_from())
    calibration = setting.options["calibration"]
    if calibration is not None:
        # That it is not finite, which reading finds, is no recipe's failure.
        for _ in calibration.batches(setting.together):
            pass
    return _Kept(None, {}, {})


def _units(rows: list[RecipeRow], times: list[int]) -> list[_Unit]:
    """What is still to be done, in the order of the rows."""
    units = []
    for row in rows:
        missing = [t for t in times if t not in row.scores]
        if row.recipe.is_for_timesteps:
            units += [_Unit(row, [t]) for t in missing]
        elif missing:
            units.append(_Unit(row, missing))
    return units


def _do(unit: _Unit, setting: _Setting, kept: _Kept, report: Report) -> int:
    """Do the work of a unit; how many results were known of the network that it converts to."""
    row, times = unit.row, unit.timesteps
    snn = _converted(unit, setting)
    if snn is None:
        return 0
    network = digest_of(snn)
    told = row.recipe.is_told_by_definition
    identity = {"recipe": row.recipe.definition()} if told else {"network": network}
    again = kept.known(identity, times)
    if len(again) == len(times):
        row.scores.update(again)
        return len(again)
    scores = _scores(unit, snn, network, setting, report)
    row.scores.update(scores)
    kept.add(identity, scores)
    return 0


def _converted(unit: _Unit, setting: _Setting) -> ModelParts | None:
    """The network of a unit, without its metadata; None, with the reason in its row."""
    recipe, times = unit.row.recipe, unit.timesteps
    try:
        timesteps = times[0] if recipe.is_for_timesteps else None
        snn = convert(setting.ann, recipe=recipe, timesteps=timesteps, **setting.options).parts
    except ProviderError:
        raise
    except Onnx2SnnError as error:
        unit.row.reasons.update(dict.fromkeys(times, _one_line(error)))
        return None
    # Recipes that take V_th from trained clips, say, may come to the same network.
    del snn.structure.metadata_props[:]
    return snn


def _require_classes(setting: _Setting) -> None:
    """Raise ``DataError`` unless the ANN says classes, of which the labels are some."""
    ann = Ann(setting.ann, setting.options["providers"])
    x, y = next(iter(setting.data.batches(setting.together)))
    outputs = ann.run(x)
    shape = outputs[require_class_output(outputs)].shape
    check_labels(y, shape, setting.data.name)
    check_labels(setting.data.labels, (setting.data.samples, *shape[1:]), setting.data.name)


def _scores(
    unit: _Unit, snn: ModelParts, network: str, setting: _Setting, report: Report
) -> dict[int, Score]:
    """The results of a unit by T; none, with the reason in its row, if its network cannot run.

    network: its digest.
    """
    times = unit.timesteps
    if all((network, t) in setting.found for t in times):
        return {t: setting.found[network, t] for t in times}
    try:
        found = evaluate(
            snn,
            setting.data,
            times,
            ann=setting.ann,
            batch_size=setting.options["batch_size"],
            providers=setting.options["providers"],
            report=report,
        )
    except (ModelError, NotFiniteError) as error:
        unit.row.reasons.update(dict.fromkeys(times, _one_line(error)))
        return {}
    ann_accuracy = found["ann"]["accuracy"]
    scores = {row["timesteps"]: Score(**row, ann_accuracy=ann_accuracy) for row in found["snn"]}
    setting.found.update({(network, t): score for t, score in scores.items()})
    return scores


def _one_line(error: Onnx2SnnError) -> str:
    """An error's heading and the first thing that it lists."""
    heading, *rest = (line.strip() for line in str(error).splitlines())
    if isinstance(error, UnsupportedModelError):
        rest = [str(refusal) for refusal in error.refusals]
    more = f" (and {len(rest) - 1} more)" if len(rest) > 1 else ""
    return " ".join([heading, *rest[:1]]) + more


class _Pace:
    """How far a comparison is: a batch counts as many time-steps as it is run for."""

    def __init__(self, report: Report, units: int, total: int) -> None:
        self._report, self._units, self._total = report, units, total
        self._number = self._start = self._end = 0
        self._what = ""

    def begin(self, unit: _Unit, batches: int) -> None:
        """Begin a unit; one before it that ended early counts as done."""
        self._number += 1
        self._start = self._end
        self._end += batches * unit.timesteps[-1]
        self._what = f"{unit.name} ({self._number} of {self._units})"
        self._report(self._what, self._start, self._total)

    def report(self, what: str, done: int, total: int) -> None:
        """A ``Report`` of the unit's evaluation."""
        of_unit = (self._end - self._start) * done // total
        self._report(self._what, self._start + of_unit, self._total)
