"""The command ``onnx2snn evaluate``: accuracy and activity of a spiking network, early exits."""

from pathlib import Path
from typing import Any

import click
import onnx

from onnx2snn.data.files import open_data
from onnx2snn.data.ranges import with_ranges
from onnx2snn.data.samples import Data
from onnx2snn.digests import OTHER_FILE, is_source
from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.model_files.files import read_any
from onnx2snn.inspection import notes_on_timesteps
from onnx2snn.measuring import evaluation
from onnx2snn.measuring.early_exits import early_exits
from onnx2snn.runtime.precision import Precision

from . import tables, terminal
from .budget import max_drop_option, min_accuracy_option, require_budget
from .options import (
    ann_option,
    batch_option,
    chosen_providers,
    data_option,
    device_option,
    examples,
    json_option,
    max_memory_option,
    model_argument,
    precision_option,
    refuse_root,
    root_option,
    samples_option,
    several_timesteps_option,
    threads_option,
)
from .outputs import (
    note_on_labels,
    notes_on_inputs,
    print_json,
    require_plot,
    tell_drawn,
    title_of,
)
from .parameter_types import NamedPath
from .plot import SHARES, accuracy_plot, early_exit_plot


@examples(
    "  onnx2snn evaluate snn.onnx --data fashion-mnist -T 8,16,32 --ann ann.onnx\n"
    "  onnx2snn evaluate snn.onnx --data test.npz -T 8,16,32 --plot curve.png\n"
    "  onnx2snn evaluate snn.onnx --data test.npz -T 16 --json\n"
    "  onnx2snn evaluate snn.onnx --data test.npz -T 32 --ann ann.onnx --min-accuracy 92 "
    "--max-drop 1.0\n"
    "  onnx2snn evaluate snn.onnx --data test.npz -T 64 --early-exit"
)
@click.command()
@model_argument
@data_option
@several_timesteps_option
@ann_option
@click.option(
    "--early-exit",
    is_flag=True,
    help="Stop each sample once its class is settled, at the last T at the latest; show accuracy "
    "against mean T for several rules.",
)
@click.option("--plot", type=NamedPath(), help="Draw accuracy over time-steps.")
@min_accuracy_option
@max_drop_option
@root_option
@samples_option
@batch_option
@device_option
@precision_option
@threads_option
@max_memory_option
@json_option
def evaluate(
    model: Path,
    source: str,
    timesteps: list[int],
    ann: Path | None,
    early_exit: bool,
    plot: Path | None,
    min_accuracy: float | None,
    max_drop: float | None,
    data_root: Path | None,
    samples: int | None,
    batch_size: int | None,
    device: str,
    precision: Precision,
    threads: int | None,
    max_memory: int | None,
    as_json: bool,
) -> None:
    """Measure accuracy and activity of the spiking network in MODEL.

    Agreement is the share of samples that get the ANN's class. SOPs are synaptic operations
    per sample: each spike times its fan-out. Exits with 1 if the accuracy at the last T is below
    --min-accuracy, or more than --max-drop below the ANN's.

    With --precision the network also runs in float32, to show what rounding costs: the accuracy
    in float32, and the share of samples with the same class. Not with --early-exit.

    With --early-exit each sample stops once the softmax of its read-out reaches a confidence and
    its class has not changed for some looks. Several such rules are compared; the default one is
    that of SpikingSession.run(early_exit=EarlyExit()).
    """
    refuse_root(data_root, source)
    require_plot(plot, model, source, ann)
    if max_drop is not None and ann is None:
        raise click.UsageError("--max-drop compares with the ANN: give --ann too")
    parts = read_any(model)
    data = open_data(source, data_root, samples=samples, model=parts)
    if data.labels is None and plot is not None and ann is None:
        raise DataError("there is nothing to plot without labels (y in DATA) or --ann")
    if data.labels is None and (min_accuracy is not None or max_drop is not None):
        raise DataError("a budget of accuracy needs data with labels (y in DATA)")
    if min_accuracy is not None and 0 < min_accuracy <= 1:
        terminal.note(f"--min-accuracy is in percent: {min_accuracy:g} is {min_accuracy:g} %")
    note_on_labels(source, data, parts)
    data, ranges = with_ranges(data)
    if data.labels is None and ann is None:
        terminal.note("without labels (y in DATA) and --ann neither accuracy nor agreement is told")
    providers = chosen_providers(device)
    with terminal.overall_progress("loading") as report:
        found = (early_exits if early_exit else evaluation.evaluate)(
            parts,
            data,
            timesteps,
            ann=ann,
            batch_size=batch_size,
            providers=providers,
            threads=threads,
            precision=precision,
            max_memory=max_memory,
            report=report,
        )
    for note in (*_notes(parts.structure, ann, timesteps), *notes_on_inputs(parts, ranges)):
        terminal.note(note)
    if as_json:
        print_json(found)
    else:
        table = tables.early_exit_table if early_exit else tables.evaluation_table
        terminal.console().print(table(found))
    if plot is not None:
        _plot(plot, found, data, precision)
        tell_drawn(plot, as_json)
    require_budget(found, min_accuracy, max_drop)


def _notes(snn: onnx.ModelProto, ann: Path | None, timesteps: list[int]) -> list[str]:
    """What the network's metadata says of the comparison."""
    notes = notes_on_timesteps(snn, timesteps)
    if ann is not None and not is_source(snn, ann):
        notes.append(OTHER_FILE)
    return notes


def _plot(path: Path, report: dict[str, Any], data: Data, precision: Precision) -> None:
    kind = "accuracy" if data.labels is not None else "agreement"
    values = [row[kind] for row in report["snn"]]
    ann = None
    if report["ann"] is not None:
        ann = report["ann"]["accuracy"] if kind == "accuracy" else 100.0
    times = [row["timesteps"] for row in report["snn"]]
    title = title_of(data) + ("" if precision == "float32" else f", {precision}")
    if "early_exit" not in report:
        accuracy_plot(path, times, {"SNN": values}, ann, title, SHARES[kind])
        return
    fixed = list(zip(times, values, strict=True))
    early = [(row["mean_timesteps"], row[kind]) for row in report["early_exit"]]
    early_exit_plot(path, fixed, early, ann, title, SHARES[kind])
