"""The command ``onnx2snn benchmark``: how fast a spiking network runs here."""

import contextlib
from pathlib import Path
from typing import Any

import click

from onnx2snn.digests import OTHER_FILE, is_source
from onnx2snn.graph_passes.model_files.files import parse_structure
from onnx2snn.measuring import benchmarking
from onnx2snn.runtime.sessions import MOST_THREADS

from . import tables, terminal
from .options import ann_option, examples, json_option
from .outputs import print_json, require_plot, tell_drawn
from .parameter_types import MODEL, ONE_T, CountsType, NamedPath
from .plot_benchmark import ratio_plot


@examples(
    "  onnx2snn benchmark\n"
    "  onnx2snn benchmark snn.onnx --ann ann.onnx -T 32 --batch 1,16 --plot speed.png"
)
@click.command()
@click.argument("model", **MODEL, required=False)
@ann_option
@click.option("-T", "--timesteps", type=ONE_T, default=32, show_default=True, help="Time-steps.")
@click.option(
    "--batch",
    "batches",
    type=CountsType("samples", "N"),
    default=[1, 16, 64],
    help="Samples at a time.  [default: 1,16,64]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    default=1,
    show_default=True,
    help="CPU threads; a single thread is pinned to a core.",
)
@click.option("--plot", type=NamedPath(), help="Draw the ratios.")
@json_option
def benchmark(
    model: Path | None,
    ann: Path | None,
    timesteps: int,
    batches: list[int],
    threads: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Time each way to run the spiking network in MODEL.

    Without MODEL, the demo's network. Shows the time of T time-steps divided by that of T forward
    passes of the ANN in ONNX Runtime; without --ann, by that of the plan "step", which runs one
    time-step at a time. All run in turns on random inputs, each in its own process; the figures
    are medians of the ratios within a round, with quartiles.
    """
    if model is None and ann is not None:
        raise click.UsageError("--ann is the ANN of a MODEL: give MODEL too")
    require_plot(plot, model, ann)
    if model is not None and ann is not None and not is_source(parse_structure(model), ann):
        terminal.note(OTHER_FILE)
    with contextlib.ExitStack() as stack:
        if model is None:
            model, ann = stack.enter_context(benchmarking.demo_files())
        report = stack.enter_context(terminal.overall_progress())
        found = benchmarking.benchmark(
            model, timesteps, batches, ann=ann, threads=threads, report=report
        )
    if as_json:
        print_json(found)
    else:
        terminal.console().print(tables.benchmark_table(found))
        if found["against"] == "step":
            terminal.say("Give --ann to compare with T forward passes of the ANN.")
    if plot is not None:
        _plot(plot, found)
        tell_drawn(plot, as_json)


def _plot(path: Path, found: dict[str, Any]) -> None:
    rows = [row for row in found["rows"] if row["plan"] != found["against"]]
    groups = dict.fromkeys(f"N={row['samples']}" for row in rows)
    bars: dict[str, dict[str, dict[str, float]]] = {row["plan"]: {} for row in rows}
    for row in rows:
        bars[row["plan"]][f"N={row['samples']}"] = row["ratio"]
    unit = "T forward passes of the ANN" if found["against"] == "ANN" else 'plan "step"'
    ratio_plot(path, list(groups), bars, f"{found['timesteps']} time-steps", unit)
