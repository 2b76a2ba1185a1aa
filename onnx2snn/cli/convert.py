"""The command ``onnx2snn convert``: an ANN into a spiking network."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click

from onnx2snn.converting import conversion
from onnx2snn.converting.request import Reset
from onnx2snn.converting.statistics import FOR_TIMESTEPS, Statistic, parse_statistic
from onnx2snn.data.files import open_data
from onnx2snn.graph_passes.errors import counted, listed
from onnx2snn.graph_passes.graph.neurons import MOST_COUNTED
from onnx2snn.graph_passes.graph.operators import MaxPool
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.model_files.files import write_model
from onnx2snn.recipe import Recipe
from onnx2snn.recipes import recipe_by_name

from . import terminal
from .conversion_tables import advice, agreement_table, neuron_table, pass_table
from .options import (
    CALIBRATION_SAMPLES,
    FOR_CALIBRATION,
    SO_MANY,
    approximate_option,
    batch_option,
    calibration_option,
    chosen_providers,
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
)
from .outputs import print_json, require_output, with_data_file
from .parameter_types import COUNT, ONE_T, InitialPotentialType, NamedPath


@examples(
    "  onnx2snn convert ann.onnx -o snn.onnx\n"
    "  onnx2snn convert ann.onnx -o snn.onnx --calibration images.npz\n"
    "  onnx2snn convert ann.onnx -o snn.onnx --calibration fashion-mnist --samples 2000 \\\n"
    "      --threshold max --per-channel --explain\n"
    "  onnx2snn convert ann.onnx -o snn.onnx --calibration images.npz --recipe best -T 8"
)
@click.command()
@model_argument
@click.option(
    "-o", "--output", type=NamedPath(), required=True, help="SNN file; replaced if it exists."
)
@calibration_option
@click.option(
    "--recipe",
    metavar="NAME",
    callback=parsed(recipe_by_name),
    help="How to convert: a name that 'onnx2snn recipes' lists. Other options override its "
    "settings.  [default: best with --calibration, opi without]",
)
@click.option(
    "-T",
    "--timesteps",
    type=ONE_T,
    help="Number of time-steps to convert for; needs --calibration or --recipe.  [default: 16]",
)
@click.option(
    "--threshold",
    callback=parsed(parse_statistic),
    metavar="max|percentile=Q|nonzero-percentile=Q|mmse=T|robust-mmse=T|balanced=N",
    help="V_th of a ReLU: the largest activation; a percentile of all activations, or of those "
    "above 0; least squared error in T time-steps, robust-: without outliers; local threshold "
    "balancing in N steps.  "
    "[default: the recipe's]",
)
@click.option(
    "--per-channel/--per-layer",
    default=None,
    help="One threshold for each channel, or for each layer.",
)
@click.option(
    "--recalibrate/--keep-bounds",
    default=None,
    help="Lower a clip's threshold below its bound where data says so, or keep the bound.",
)
@maxpool_option(None)
@approximate_option
@on_means_option
@click.option(
    "--v-init",
    type=InitialPotentialType(),
    metavar="half|zero|FRACTION|uniform|normal",
    help="v(0), the initial potential: half the threshold is optimal; a number is a fraction of "
    "the threshold.  "
    "[default: the recipe's; half]",
)
@click.option(
    "--reset",
    type=click.Choice(get_args(Reset)),
    help="At a spike, subtract V_th from the membrane potential, or set it to zero.  "
    "[default: the recipe's; subtract]",
)
@click.option(
    "--delay",
    type=click.IntRange(0, MOST_COUNTED),
    metavar="N",
    help="Leave the first N time-steps out of the read-out.  [default: the recipe's; 0]",
)
@click.option(
    "--seed", type=click.IntRange(0), help="For --v-init uniform and normal.  [default: 0]"
)
@click.option("--explain", is_flag=True, help="List what each pass left unchanged, and why.")
@root_option
@click.option(
    "--samples",
    type=COUNT,
    metavar="N",
    help=f"{SO_MANY}  [default: {CALIBRATION_SAMPLES} of a data set or a folder, all of a file]",
)
@batch_option
@device_option
@json_option
def convert(
    model: Path,
    output: Path,
    calibration: str | None,
    recipe: Recipe | None,
    timesteps: int | None,
    threshold: Statistic | None,
    per_channel: bool | None,
    recalibrate: bool | None,
    maxpool: MaxPool | None,
    approximate: int | None,
    on_means: bool,
    v_init: InitialPotential | None,
    reset: Reset | None,
    delay: int | None,
    seed: int | None,
    explain: bool,
    data_root: Path | None,
    samples: int | None,
    batch_size: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Convert the ANN in MODEL into a spiking network.

    ReLUs need --calibration. Clips do not, since their bounds are thresholds, but gain from it.
    """
    if timesteps is not None and recipe is None and calibration is None:
        raise click.UsageError(
            "-T is the T that a recipe converts for: give --calibration or --recipe too"
        )
    if calibration is None:
        of_data = {
            "--threshold": threshold,
            "--per-channel": per_channel,
            "--recalibrate": recalibrate,
            "--approximate": approximate,
            "--samples": samples,
            "--batch-size": batch_size,
            "--data-root": data_root,
        }
        refuse_options(of_data, FOR_CALIBRATION)
    if not isinstance(v_init, str):
        refuse_options({"--seed": seed is not None}, "is for --v-init uniform or normal")
    refuse_root(data_root, calibration)
    require_output(output, model, calibration)
    if threshold is not None and "percentile" in threshold.kind and threshold.q <= 1:
        terminal.note(f"percentiles are in percent: {threshold.q:g} is {threshold.q:g} %")
    data = None
    if calibration is not None:
        if samples is None and not calibration.lower().endswith((".npz", ".npy")):
            samples = CALIBRATION_SAMPLES
        data = open_data(calibration, data_root, train=True, samples=samples, model=model)
    providers = chosen_providers(device)
    with terminal.overall_progress("rewriting") as report:
        result = conversion.convert(
            model,
            calibration=data,
            recipe=recipe,
            timesteps=timesteps,
            threshold=threshold,
            per_channel=per_channel,
            recalibrate=recalibrate,
            maxpool=maxpool,
            approximate=approximate,
            on_means=on_means,
            v_init=v_init,
            reset=reset,
            delay=delay,
            seed=seed or 0,
            batch_size=batch_size,
            providers=providers,
            report=report,
        )
    write_model(result.parts, output)
    by_channel = any(neuron.threshold.size > 1 for neuron in result.neurons)
    fitted = result.threshold is not None and result.threshold.kind in FOR_TIMESTEPS
    warnings = advice(result.agreements, by_channel, fitted)
    if as_json:
        print_json(_as_json(result, output, warnings))
    else:
        _print(result, output, warnings, explain)


def _as_json(result: conversion.Conversion, output: Path, warnings: list[str]) -> dict[str, Any]:
    return {
        "output": str(output),
        "neurons": [
            {
                "name": neuron.name,
                "shape": list(neuron.shape),
                "threshold": neuron.threshold.tolist(),
                "source": neuron.source,
            }
            for neuron in result.neurons
        ],
        "passes": [asdict(report) for report in result.passes],
        "declined": [asdict(refusal) for refusal in result.declined],
        "analog": [asdict(refusal) for refusal in result.analog],
        "check": result.check,
        "notes": result.notes,
        "agreements": [asdict(row) for row in result.agreements],
        "warnings": warnings,
    }


def _print(result: conversion.Conversion, output: Path, warnings: list[str], explain: bool) -> None:
    console = terminal.console()
    console.print(neuron_table(result.neurons))
    console.print(pass_table(result.passes))
    if result.agreements:
        console.print(agreement_table(result.agreements))
    terminal.say(f"Exact rewriting {result.check}.")
    for line in warnings:
        terminal.say(f"Warning: {line}", "bold red")
    for line in result.notes:
        terminal.say(f"Note: {line}", "yellow")
    if result.analog:
        terminal.say("These stay analog, as in the ANN:")
        for line in listed(result.analog):
            terminal.say(f"  {line}")
    if explain:
        terminal.say("Declined:" if result.declined else "No pass declined anything.")
        for line in listed(result.declined):
            terminal.say(f"  {line}")
    layers = counted(len(result.neurons), "layer")
    terminal.say(f"Wrote {with_data_file(output)}: {layers} of neurons.")
