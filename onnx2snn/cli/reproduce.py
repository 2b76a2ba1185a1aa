"""The command ``onnx2snn reproduce``: a table or figure of the paper, beside what it prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from onnx2snn.data.batches import OVER_TIME, samples_at_once
from onnx2snn.data.files import open_data
from onnx2snn.graph_passes.errors import DataError, counted
from onnx2snn.graph_passes.model_files.files import read_any
from onnx2snn.measuring.published import OURS, SAID, published
from onnx2snn.measuring.reproduction import (
    EXPERIMENTS,
    CountsFile,
    Experiment,
    ExperimentRun,
    ann_accuracy,
    converted,
    differences,
    fired_shares,
    snn_accuracies,
)
from onnx2snn.models import shipped
from onnx2snn.models.configs import CONFIGS
from onnx2snn.models.datasets import DATASETS
from onnx2snn.models.image_folder import has_both
from onnx2snn.running import Report, Running

from . import terminal
from .options import (
    CALIBRATION_SAMPLES,
    batch_option,
    chosen_providers,
    device_option,
    examples,
    json_option,
    refuse_root,
    root_option,
    samples_option,
)
from .outputs import print_json, require_state, tell_drawn
from .parameter_types import MODEL, TIMESTEPS, NamedPath
from .plot import comparison_plot
from .plot_paper import fired_plot, potential_plot
from .train import default_workers, train_network


@examples(
    "  onnx2snn reproduce table1 --network resnet20 --data-root data --device cuda\n"
    "  onnx2snn reproduce figS1 --dataset fashion-mnist --samples 1000 --plot figS1.png\n"
    "  onnx2snn reproduce table1 --ann mine.onnx --network vgg16 -T 8,16"
)
@click.command()
@click.argument("what", type=click.Choice(list(EXPERIMENTS)))
@click.option(
    "--dataset", metavar="DATA", help="Data set by name, or a file.  [default: the paper's]"
)
@click.option(
    "--network",
    type=click.Choice(["vgg16", "resnet18", "resnet20"]),
    help="The paper's network to repeat, or that --ann stands for.  [default: the first one in "
    "the paper's table or figure]",
)
@click.option(
    "--ann",
    **MODEL,
    help="A trained network, with clips except for fig4.  [default: the shipped NETWORK-DATA.onnx, "
    "else that of 'onnx2snn train NETWORK-DATA', which is run if needed]",
)
@click.option(
    "-T",
    "--timesteps",
    type=TIMESTEPS,
    help="Time-steps, as in 8,16,32.  [default: for tables the paper's, up to 256; for figures, "
    "where it prints none, 4 to 128 (fig1: 1 to 64, fig4: 16 to 256)]",
)
@samples_option
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="For random initial potentials.",
)
@click.option(
    "--state",
    type=NamedPath(),
    default="reproduce.json",
    show_default=True,
    help="File that saves each batch's result, so that an interrupted run can continue.",
)
@click.option("--plot", type=NamedPath(), help="Draw it.")
@root_option
@batch_option
@device_option
@json_option
def reproduce(
    what: str,
    dataset: str | None,
    network: str | None,
    ann: Path | None,
    timesteps: list[int] | None,
    samples: int | None,
    seed: int,
    state: Path,
    plot: Path | None,
    data_root: Path | None,
    batch_size: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Repeat a table or figure of the paper.

    WHAT is table1 to table3, fig1 to fig4 or figS1. If there is no trained network, it trains one
    first. If it is interrupted, the same command continues where it stopped.
    """
    experiment = EXPERIMENTS[what]
    network = network or experiment.network
    dataset = experiment.dataset if dataset is None else dataset
    times = timesteps or list(experiment.timesteps)
    refuse_root(data_root, dataset)
    require_state(state, plot, ann, dataset)
    kept = CountsFile(state)
    providers = chosen_providers(device)
    with terminal.overall_progress() as report:
        path = ann or _trained(network, dataset, data_root, device, report)
        model = read_any(path)
        data = open_data(dataset, data_root, samples=samples, model=model)
        together = samples_at_once(model, data, batch_size, OVER_TIME)
        run = ExperimentRun(data, kept, Running(together, providers, report))
        calibration = None
        if what == "fig4":
            if dataset not in DATASETS and not has_both(Path(dataset)):
                terminal.note(
                    f"'{dataset}' has no training images: calibrating on some of those that are "
                    "classified"
                )
            calibration = open_data(
                dataset, data_root, train=True, samples=CALIBRATION_SAMPLES, model=model
            )
        found: dict[str, Any] = {
            "what": what, "network": network, "data": data.name, "samples": data.samples,
            "ann": {"file": str(path), "accuracy": ann_accuracy(model, run)},
            "timesteps": times, "curves": {},
        }  # fmt: skip
        measure = fired_shares if what == "fig1" else snn_accuracies
        for curve in experiment.curves:
            snn = converted(model, curve, calibration, seed, batch_size, providers)
            found["curves"][curve.name] = measure(snn, curve.name, times, run)
    found["paper"] = _of_the_paper(what, network, times)
    if as_json:
        print_json(found)
    else:
        table = _fired_table(found) if what == "fig1" else _accuracy_table(found, experiment)
        terminal.console().print(table)
        looked_at = counted(data.samples, "sample")
        terminal.say(f"{path}, {data.name}, {looked_at}. The counts are in {state}.")
        if what in SAID:
            terminal.say(f"The paper: {SAID[what]}.")
    if plot is not None:
        _plot(plot, found)
        tell_drawn(plot, as_json)


def _trained(network: str, dataset: str, root: Path | None, device: str, report: Report) -> Path:
    """The network that ships, that was trained before, or that is trained now."""
    name = f"{network}-{dataset}"
    ours = shipped(f"{name}.onnx") if dataset in DATASETS else None
    if ours is not None and ours.exists():
        return ours
    if name not in CONFIGS:
        raise DataError(f"there is no run '{name}' to train a network: give one with --ann FILE")
    path = Path("runs") / name / f"{name}.onnx"
    if path.exists():
        return path
    click.echo(
        f"Training: onnx2snn train {name} ({CONFIGS[name].epochs} epochs take a GPU).", err=True
    )
    return train_network(name, None, root, device, default_workers(), report)[0]


def _of_the_paper(what: str, network: str, times: Sequence[int]) -> dict[str, Any] | str:
    rows = published(what, network)
    if not rows:
        return SAID.get(what, "")
    return {
        row.method: {"source": row.source, "ann": row.ann, "snn": [row.at(t) for t in times]}
        for row in rows
    }


def _accuracy_table(found: dict[str, Any], experiment: Experiment) -> Table:
    times = found["timesteps"]
    table = terminal.new_table(
        f"{found['what']}: {found['network']}, accuracy in percent", "", ">ANN",
        *(f">T={t}" for t in times),
    )  # fmt: skip
    ann = found["ann"]["accuracy"]
    paper = found["paper"] if isinstance(found["paper"], dict) else {}
    for method, row in paper.items():
        values = [terminal.percent_text(v) for v in (row["ann"], *row["snn"])]
        table.add_row(f"paper: {method}", *values)
    if paper:
        table.add_section()
    for name, values in found["curves"].items():
        table.add_row(
            f"here: {name}", terminal.percent_text(ann), *map(terminal.percent_text, values)
        )
    if paper:
        theirs = paper[OURS]
        (ours,) = found["curves"].values()
        gaps = differences([ann, *ours], [theirs["ann"], *theirs["snn"]])
        table.add_row("here less paper's Ours", *map(_signed, gaps))
        losses = differences([ann] * len(times), ours)
        table.add_row("loss here", "", *map(terminal.percent_text, losses))
        losses = differences([theirs["ann"]] * len(times), theirs["snn"])
        table.add_row("loss in the paper", "", *map(terminal.percent_text, losses))
    elif len(experiment.curves) > 2:
        best = []
        for accuracies in zip(*found["curves"].values(), strict=True):
            named = zip(found["curves"], accuracies, strict=True)
            best.append("/".join(name for name, value in named if value == max(accuracies)))
        table.add_section()
        table.add_row("best here", "", *best)
    return table


def _fired_table(found: dict[str, Any]) -> Table:
    """Share of neurons that have fired by t, layer by layer, for both initial potentials."""
    times = found["timesteps"]
    names = list(found["curves"])
    table = terminal.new_table(
        f"fig1: {found['network']}, percent of neurons that have fired, by v(0) and t", "layer",
        *(f">{name} {t}" for name in names for t in times),
    )  # fmt: skip
    for number, layer in enumerate(found["curves"][names[0]], start=1):
        shares = [share for name in names for share in found["curves"][name][layer]]
        table.add_row(str(number), *(f"{share:.0f}" for share in shares))
    return table


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _plot(path: Path, found: dict[str, Any]) -> None:
    title = f"{found['network']}, {found['data']}, {counted(found['samples'], 'sample')}"
    times, curves, ann = found["timesteps"], found["curves"], found["ann"]["accuracy"]
    if found["what"] == "fig1":
        fired_plot(path, times, curves, title)
    elif found["what"] == "figS1":
        potential_plot(path, times, curves, ann, title)
    else:
        form = {"fig2": "v(0): {}", "fig3": "v(0) = {} V_th"}.get(found["what"], "{}")
        curves = {form.format(name): values for name, values in curves.items()}
        paper = found["paper"]
        if isinstance(paper, dict):
            curves = {**curves, "paper's Ours, CIFAR or ImageNet": paper[OURS]["snn"]}
        comparison_plot(path, times, curves, ann, found["samples"], title, "accuracy (%)")
