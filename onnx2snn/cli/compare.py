"""The command ``onnx2snn compare``: recipes side by side on one network."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from onnx2snn.data.files import open_data
from onnx2snn.data.ranges import Ranges, common_ranges, notes_on_ranges, with_ranges
from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.graph_passes.graph.operators import MaxPool
from onnx2snn.graph_passes.model_files.files import read_any
from onnx2snn.measuring.comparison import Comparison, compare_recipes
from onnx2snn.recipe import Recipe
from onnx2snn.recipes import RECIPES, recipe_by_name

from . import tables, terminal
from .options import (
    CALIBRATION_SAMPLES,
    FOR_CALIBRATION,
    approximate_option,
    batch_option,
    calibration_option,
    chosen_providers,
    data_option,
    device_option,
    examples,
    json_option,
    maxpool_option,
    model_argument,
    on_means_option,
    parsed,
    refuse_options,
    refuse_root,
    root_option,
    samples_option,
    several_timesteps_option,
)
from .outputs import note_on_labels, print_json, require_state, tell_drawn, title_of
from .parameter_types import COUNT, NamedPath
from .plot import SHARES, comparison_plot


def _recipes_by_name(names: str) -> list[Recipe]:
    return [recipe_by_name(name) for name in dict.fromkeys(map(str.strip, names.split(",")))]


@examples(
    "  onnx2snn compare ann.onnx --calibration images.npz --data test.npz -T 4,8,16,32,64\n"
    "  onnx2snn compare ann.onnx --calibration fashion-mnist --data fashion-mnist -T 8,16 \\\n"
    "      --recipes opi,mmse,best --plot recipes.png"
)
@click.command()
@model_argument
@calibration_option
@click.option(
    "--calibration-samples",
    type=COUNT,
    metavar="N",
    help=f"As --samples, for --calibration.  [default: {CALIBRATION_SAMPLES}]",
)
@data_option
@samples_option
@several_timesteps_option
@click.option(
    "--recipes",
    callback=parsed(_recipes_by_name),
    metavar="NAME,...",
    help="Recipes to compare; 'onnx2snn recipes' lists their names.  [default: all]",
)
@click.option(
    "--state",
    type=NamedPath(),
    help="File that saves each result, so that an interrupted run can continue.  "
    "[default: NAME.compare.json in the current folder, for the model NAME.onnx]",
)
@maxpool_option("exact")
@approximate_option
@on_means_option
@click.option("--plot", type=NamedPath(), help="Draw a curve for each recipe.")
@root_option
@batch_option
@device_option
@json_option
def compare(
    model: Path,
    calibration: str | None,
    calibration_samples: int | None,
    source: str,
    samples: int | None,
    timesteps: list[int],
    recipes: list[Recipe] | None,
    state: Path | None,
    maxpool: MaxPool,
    approximate: int | None,
    on_means: bool,
    plot: Path | None,
    data_root: Path | None,
    batch_size: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Convert the ANN in MODEL by each recipe and evaluate them all.

    Shows accuracy if DATA has labels, else agreement with the ANN. A recipe made for a certain
    T converts anew for each T. --maxpool is the same for all recipes. If it is interrupted, the
    same command continues where it stopped. Exits with 1 if no recipe can convert the network.
    """
    chosen = RECIPES if recipes is None else recipes
    state = state or Path(f"{model.stem}.compare.json")
    refuse_root(data_root, source, calibration)
    require_state(state, plot, model, calibration, source)
    ann, thresholds, calibrated = read_any(model), None, Ranges()
    if calibration is None:
        given = {"--calibration-samples": calibration_samples, "--approximate": approximate}
        refuse_options(given, FOR_CALIBRATION)
    else:
        count = calibration_samples or CALIBRATION_SAMPLES
        thresholds, calibrated = with_ranges(
            open_data(calibration, data_root, train=True, samples=count, model=ann)
        )
    data = open_data(source, data_root, samples=samples, model=ann)
    note_on_labels(source, data, ann)
    data, ranges = with_ranges(data)
    providers = chosen_providers(device)
    try:
        with terminal.overall_progress() as report:
            comparison = compare_recipes(
                ann,
                chosen,
                thresholds,
                data,
                timesteps,
                state=state,
                maxpool=maxpool,
                approximate=approximate,
                on_means=on_means,
                batch_size=batch_size,
                providers=providers,
                report=report,
            )
    except KeyboardInterrupt:
        if state.exists():
            what = f"\nWhat is done is in {state}: the same command goes on from there."
            click.echo(what, err=True)
        raise
    for note in notes_on_ranges(common_ranges(calibrated), common_ranges(ranges)):
        terminal.note(note)
    converted = any(row.scores for row in comparison.rows)
    if as_json:
        print_json(_as_json(comparison, state))
    else:
        _print(comparison, state)
    if plot is not None and converted:
        _plot(plot, comparison, f"{model.name}, {title_of(data)}")
        tell_drawn(plot, as_json)
    if not converted:
        first = comparison.rows[0]
        reason = next(iter(first.reasons.values()))
        raise ModelError(
            f"none of the recipes could convert the network; {first.recipe.name}: {reason}"
        )


def _plot(path: Path, comparison: Comparison, title: str) -> None:
    comparison_plot(
        path,
        comparison.timesteps,
        # Those that refused, too: others look the same whatever the network.
        {row.recipe.name: comparison.values(row) for row in comparison.rows},
        100.0 if comparison.ann is None else comparison.ann,
        comparison.samples,
        title,
        SHARES[comparison.kind],
    )


def _as_json(comparison: Comparison, state: Path) -> dict[str, Any]:
    return {
        "samples": comparison.samples,
        "timesteps": list(comparison.timesteps),
        "kind": comparison.kind,
        "ann": {"accuracy": comparison.ann},
        "recipes": [
            {
                "name": row.recipe.name,
                "snn": [
                    {k: v for k, v in asdict(score).items() if k != "ann_accuracy"}
                    for _, score in sorted(row.scores.items())
                ],
                "failures": [{"timesteps": t, "reason": r} for t, r in row.reasons.items()],
            }
            for row in comparison.rows
        ],
        "state": str(state),
        "reused": comparison.reused,
        "maxpool": comparison.maxpool,
    }


def _print(comparison: Comparison, state: Path) -> None:
    terminal.console().print(tables.comparison_table(comparison))
    for line in tables.comparison_reasons(comparison):
        terminal.say(f"- {line}", "yellow")
    results = sum(len(row.scores) for row in comparison.rows)
    if results:
        terminal.say(
            f"{results} result{'s are' if results > 1 else ' is'} kept in {state}, "
            f"{comparison.reused} of them from before."
        )
