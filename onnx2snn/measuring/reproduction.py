"""The paper's experiments on any network and data set, kept batch by batch as they are measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnx2snn.ann import Ann
from onnx2snn.converting.conversion import convert
from onnx2snn.data.batches import samples_at_once
from onnx2snn.data.samples import Data, Inputs
from onnx2snn.digests import digest_of, digest_of_data, digest_of_settings
from onnx2snn.graph_passes.errors import DataError, MissingThresholdError
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.running import Running
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.providers import Providers, resolve_providers
from onnx2snn.version import __version__

from .classes import check_labels, classes_of, require_class_output
from .kept_results import KeptFile
from .published import TIMESTEPS

ANN = "ANN"


@dataclass(frozen=True)
class Curve:
    """One way to convert the network of an experiment."""

    name: str
    v_init: InitialPotential = 0.5
    recipe: str = "opi"


@dataclass(frozen=True)
class Experiment:
    """A table or figure: its data set, the network if none is named, its curves, at which T."""

    dataset: str
    network: str
    curves: tuple[Curve, ...]
    timesteps: tuple[int, ...]


_FIGURE = (4, 8, 16, 32, 64, 128)
_OPI = (Curve("v(0) = V_th/2"),)
_STARTS = (
    Curve("half", 0.5),
    Curve("zero", 0.0),
    Curve("uniform", "uniform"),
    Curve("normal", "normal"),
)
_STEPS = tuple(Curve(f"{i / 10:.1f}", i / 10) for i in range(11))

EXPERIMENTS = {
    "table1": Experiment("cifar10", "vgg16", _OPI, TIMESTEPS),
    "table2": Experiment("cifar100", "vgg16", _OPI, TIMESTEPS),
    "table3": Experiment("imagenet", "vgg16", _OPI, TIMESTEPS),
    "fig1": Experiment("cifar10", "vgg16", _STARTS[:2], (1, 2, 4, 8, 16, 32, 64)),
    "fig2": Experiment("cifar10", "vgg16", _STARTS, _FIGURE),
    "fig3": Experiment("cifar10", "vgg16", _STEPS, _FIGURE),
    "figS1": Experiment("cifar10", "vgg16", _STEPS, _FIGURE),
    "fig4": Experiment(
        "cifar10",
        "resnet20",
        tuple(
            Curve(f"{recipe.upper()}, {start}", v_init, recipe)
            for recipe in ("rmp", "rnl")
            for start, v_init in (("zero", 0.0), ("half", 0.5))
        ),
        (16, 32, 64, 128, 256),
    ),
}
"""By name."""


class CountsFile:
    """A file with what was counted over the batches so far, by what decides it."""

    def __init__(self, path: Path) -> None:
        self._file = KeptFile(path, "onnx2snn reproduce 1", "cells", _is_cell)
        self.cells = self._file.entries()

    def keep(self, key: str) -> None:
        """Write the cell of this key; others, which another process may have written, stay.

        Raises ``OutputError`` if the file cannot be written; it is then as it was.
        """
        self._file.add({key: self.cells[key]})


def _is_cell(cell: Any) -> bool:
    if not isinstance(cell, dict) or not isinstance(cell.get("sums"), dict):
        return False
    counts = [cell.get("samples"), *cell["sums"].values()]
    if cell.get("samples") and not cell["sums"]:
        return False
    return all(isinstance(count, int) and count >= 0 for count in counts)


@dataclass(frozen=True)
class ExperimentRun:
    """How an experiment is run: on what data, where its counts are kept."""

    data: Data
    state: CountsFile
    running: Running

    @cached_property
    def digest(self) -> str:
        """That of the data, all of which is read once more for it."""
        return digest_of_data(self.data, self.running.batch_size)


Count = Callable[[Inputs, np.ndarray], Mapping[str, int]]
"""What is counted in one batch, by name."""


def _sum(
    made_from: Mapping[str, Any], name: str, run: ExperimentRun, model: ModelParts, count: Count
) -> dict[str, int]:
    """Sums over all batches of the data, on from those that the state has already."""
    data = run.data
    # A spiking network may have kept a fixed batch that the ANN's runs are multiples of.
    together = samples_at_once(model, data, run.running.batch_size)
    settings = {
        **made_from,
        "version": __version__,
        "data": run.digest,
        "n": together,
        "providers": str(resolve_providers(run.running.providers)),
    }
    key = digest_of_settings(settings)
    cell = run.state.cells.setdefault(key, {"name": name, "samples": 0, "sums": {}})
    sums: dict[str, int] = cell["sums"]
    if cell["samples"] >= data.samples:
        return sums
    # From 0 first, with which a part's clock starts, wherever it goes on from.
    for done in sorted({0, cell["samples"]}):
        run.running.report(name, done, data.samples)
    start = 0
    for x, y in data.batches(together):
        if y is None:
            raise DataError(f"'{data.name}' has no labels (y)")
        start += len(y)
        if start > cell["samples"]:
            for what, number in count(x, y).items():
                sums[what] = sums.get(what, 0) + number
            cell["samples"] = start
            run.state.keep(key)
            run.running.report(name, start, data.samples)
    return sums


def ann_accuracy(model: ModelParts, run: ExperimentRun) -> float:
    """Top-1 accuracy of the ANN in percent."""
    network = Ann(model, run.running.providers)

    def count(x: Inputs, y: np.ndarray) -> dict[str, int]:
        values = network.run(x)
        return {"right": _right(values, require_class_output(values), y, run)}

    sums = _sum({"ann": digest_of(model)}, ANN, run, model, count)
    return 100 * sums["right"] / run.data.samples


def _right(values: Mapping[str, np.ndarray], scored: str, y: np.ndarray, run: ExperimentRun) -> int:
    """How many samples get their class from an output."""
    check_labels(y, values[scored].shape, run.data.name)
    return int((classes_of(values[scored]) == y).sum())


def snn_accuracies(
    snn: ModelParts, name: str, timesteps: Sequence[int], run: ExperimentRun
) -> list[float]:
    """Top-1 accuracies in percent after each T, from one run of the largest."""
    session = SpikingSession(snn, run.running.providers)

    def count(x: Inputs, y: np.ndarray) -> dict[str, int]:
        result = session.run(x, max(timesteps), timesteps)
        scored = require_class_output(result.values)
        return {str(t): _right(result.readouts[t].values, scored, y, run) for t in timesteps}

    made_from = {"snn": digest_of(snn), "timesteps": sorted(timesteps)}
    sums = _sum(made_from, name, run, snn, count)
    return [100 * sums[str(t)] / run.data.samples for t in timesteps]


def fired_shares(
    snn: ModelParts, name: str, timesteps: Sequence[int], run: ExperimentRun
) -> dict[str, list[float]]:
    """By layer, the share in percent of neurons that have fired by each T, over all samples."""
    session = SpikingSession(snn, run.running.providers)

    def count(x: Inputs, y: np.ndarray) -> dict[str, int]:
        result = session.run(x, max(timesteps), timesteps)
        found = {}
        for t in sorted(set(timesteps)):
            # Out of the result: of VGG-16 the counts of each T take 2 MB a sample.
            for layer, spikes in result.readouts.pop(t).spike_counts.items():
                found[f"{t} {layer}"] = int(np.count_nonzero(spikes))
                found[f"neurons {layer}"] = spikes.size
        return found

    made_from = {"snn": digest_of(snn), "fired by": sorted(timesteps)}
    sums = _sum(made_from, name, run, snn, count)
    sizes = {neuron.name: sums[f"neurons {neuron.name}"] for neuron in session.neurons}
    return {
        layer: [100 * sums[f"{t} {layer}"] / size for t in timesteps]
        for layer, size in sizes.items()
    }


def converted(
    ann: ModelParts,
    curve: Curve,
    calibration: Data | None,
    seed: int,
    batch_size: int | None,
    providers: Providers,
) -> ModelParts:
    """The spiking network of a curve; ``calibration``: for recipes other than the paper's.

    Raises ``MissingThresholdError`` where the ANN was not trained with clips.
    """
    try:
        return convert(
            ann,
            recipe=curve.recipe,
            v_init=curve.v_init,
            calibration=None if curve.recipe == "opi" else calibration,
            seed=seed,
            batch_size=batch_size,
            providers=providers,
        ).parts
    except MissingThresholdError as error:
        raise MissingThresholdError(
            "the paper's thresholds are the bounds of trained clips, and these activations have "
            "none: take a network trained with clips, as 'onnx2snn train' does, or 'onnx2snn "
            "compare' for this one:",
            [replace(refusal, reason="no upper bound") for refusal in error.refusals],
        ) from error


def differences(ours: Sequence[float | None], paper: Sequence[float | None]) -> list[float | None]:
    """Ours less the paper's, where there are both."""
    return [None if a is None or b is None else a - b for a, b in zip(ours, paper, strict=True)]
