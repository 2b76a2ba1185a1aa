"""The command line; the commands of other files are added below."""

import io
import sys
from pathlib import Path
from typing import Literal

import click
import numpy as np

from onnx2snn.graph_passes.errors import DataError, OutputError
from onnx2snn.graph_passes.files import write_bytes, write_model
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.spiking import MaxPool
from onnx2snn.runtime.coding import Coding
from onnx2snn.runtime.int8 import Precision

from . import tables
from .calibration import no_progress
from .cli_benchmark import benchmark
from .cli_compare import compare
from .cli_diagnose import diagnose
from .cli_evaluate import evaluate
from .cli_export import export
from .cli_import import import_
from .cli_inspect import inspect
from .cli_reproduce import reproduce
from .cli_train import train
from .data import open_data
from .options import (
    DATA,
    TIMESTEPS,
    InitialPotentialType,
    batch_option,
    calibration_option,
    chosen_providers,
    device_option,
    examples,
    json_option,
    max_memory_option,
    maxpool_option,
    model_argument,
    precision_option,
    print_json,
    reports_errors,
    require_output,
    root_option,
    samples_option,
    threads_option,
)
from .version import __version__

# Modules that bring ONNX Runtime's session or matplotlib are imported by the commands that
# need them, so that --help and usage errors come at once.


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnx2snn")
def main() -> None:
    """Convert trained ONNX networks into spiking neural networks, and run them."""


main.add_command(benchmark)
main.add_command(compare)
main.add_command(diagnose)
main.add_command(evaluate)
main.add_command(export)
main.add_command(inspect)
main.add_command(reproduce)
main.add_command(train)
main.add_command(import_)


@examples(
    "  onnx2snn convert ann.onnx -o snn.onnx\n"
    "  onnx2snn convert ann.onnx -o snn.onnx --calibration images.npz\n"
    "  onnx2snn convert ann.onnx -o snn.onnx --calibration fashion-mnist --samples 512 \\\n"
    "      --threshold max --per-channel --explain\n"
    "  onnx2snn convert ann.onnx -o snn.onnx --calibration images.npz --recipe best -T 8"
)
@main.command()
@model_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="SNN file.")
@calibration_option
@click.option(
    "--recipe",
    metavar="NAME",
    help="A way to convert by name, as 'onnx2snn recipes' lists them; other options override "
    "its settings.  [default: best with --calibration, opi without]",
)
@click.option(
    "-T",
    "--timesteps",
    type=click.IntRange(1),
    help="The T that a recipe converts for.  [default: 16]",
)
@click.option(
    "--threshold",
    metavar="max|percentile=Q|nonzero-percentile=Q|mmse=T",
    help="V_th of a ReLU: the largest activation, a percentile of all activations, or of those "
    "above 0, or the least squared error of T time-steps. A clip keeps its bound.  "
    "[default: the recipe's]",
)
@click.option(
    "--per-channel/--per-layer", default=None, help="One threshold for each channel, or layer."
)
@click.option(
    "--recalibrate/--keep-bounds",
    default=None,
    help="Let data lower a clip's threshold below its bound, or not.",
)
@maxpool_option(None)
@click.option(
    "--approximate",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Let N clips stand in for each Sigmoid, Tanh, SiLU, GELU, ... between neurons.",
)
@click.option(
    "--v-init",
    type=InitialPotentialType(),
    metavar="half|zero|FRACTION|uniform|normal",
    help="v(0): half the threshold is optimal; a number is a fraction of it.  "
    "[default: the recipe's; half]",
)
@click.option(
    "--reset",
    type=click.Choice(["subtract", "zero"]),
    help="At a spike, subtract V_th from the membrane potential, or set it to zero.  "
    "[default: subtract]",
)
@click.option(
    "--delay",
    type=click.IntRange(0),
    metavar="N",
    help="Leave the first N time-steps out of the read-out.  [default: 0]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="For uniform and normal."
)
@click.option("--explain", is_flag=True, help="List what each pass declined to do, and why.")
@root_option
@samples_option
@batch_option
@device_option
@json_option
@reports_errors
def convert(
    model: Path,
    output: Path,
    calibration: str | None,
    recipe: str | None,
    timesteps: int | None,
    threshold: str | None,
    per_channel: bool | None,
    recalibrate: bool | None,
    maxpool: MaxPool | None,
    approximate: int | None,
    v_init: InitialPotential | None,
    reset: Literal["subtract", "zero"] | None,
    delay: int | None,
    seed: int,
    explain: bool,
    data_root: Path | None,
    samples: int | None,
    batch_size: int,
    device: str,
    as_json: bool,
) -> None:
    """Convert the ANN in MODEL into a spiking network.

    Clip(0, theta) gives a threshold without data; a ReLU needs --calibration.
    """
    from .conversion import convert as convert_model
    from .statistics import parse_statistic

    if timesteps is not None and recipe is None and calibration is None:
        raise click.UsageError(
            "-T is the T that a recipe converts for: give --calibration or --recipe too"
        )
    require_output(output, model, calibration)
    data = None
    if calibration is not None:
        data = open_data(calibration, data_root, train=True, samples=samples, model=model)
    result = convert_model(
        model,
        calibration=data,
        recipe=recipe,
        timesteps=timesteps,
        threshold=None if threshold is None else parse_statistic(threshold),
        per_channel=per_channel,
        recalibrate=recalibrate,
        maxpool=maxpool,
        approximate=approximate,
        v_init=v_init,
        reset=reset,
        delay=delay,
        seed=seed,
        batch_size=batch_size,
        providers=chosen_providers(device),
        track=no_progress if as_json else tables.track,
    )
    write_model(result.parts, output)
    warnings = tables.advice(result.agreements)
    if as_json:
        print_json(
            {
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
                "passes": [vars(report) for report in result.passes],
                "declined": [vars(refusal) for refusal in result.declined],
                "analog": [vars(refusal) for refusal in result.analog],
                "check": result.check,
                "notes": result.notes,
                "agreements": [vars(row) for row in result.agreements],
                "warnings": warnings,
            }
        )
        return
    console = tables.console()
    console.print(tables.neuron_table(result.neurons))
    console.print(tables.pass_table(result))
    if result.agreements:
        console.print(tables.agreement_table(result.agreements))
    console.print(f"Exact rewriting checked: {result.check}.", markup=False)
    for line in warnings:
        console.print(f"Warning: {line}", style="bold red", markup=False)
    for line in result.notes:
        console.print(f"Note: {tables.printable(line)}", style="yellow", markup=False)
    if result.analog:
        console.print("These stay analog, as in the ANN, before the first neuron:")
        for refusal in result.analog:
            console.print(f"  {tables.printable(str(refusal))}", markup=False)
    if explain:
        console.print("Declined:" if result.declined else "No pass declined anything.")
        for refusal in result.declined:
            console.print(f"  {tables.printable(str(refusal))}", markup=False)
    console.print(f"Wrote {output}: {len(result.neurons)} layers of neurons.", markup=False)


@examples(
    "  onnx2snn check ann.onnx\n  onnx2snn check ann.onnx --maxpool exact --approximate --json"
)
@main.command()
@model_argument
@maxpool_option("average")
@click.option(
    "--approximate", is_flag=True, help="Let clips stand in for Sigmoid, Tanh, SiLU, GELU, ..."
)
@json_option
@reports_errors
def check(model: Path, maxpool: MaxPool, approximate: bool, as_json: bool) -> None:
    """Say what of the ANN in MODEL would convert, and what not and why.

    Exits with 0 if convert would succeed, with the options that it names; else with 1.
    """
    from .readiness import check as check_model

    result = check_model(model, maxpool=maxpool, approximate=approximate)
    if as_json:
        print_json(
            {
                "converts": result.converts,
                "verdict": result.verdict,
                "options": list(result.options),
                "check": result.check,
                "nodes": [vars(row) for row in result.nodes],
            }
        )
    else:
        console = tables.console()
        console.print(tables.readiness_table(result.nodes))
        console.print(f"Exact rewriting checked: {result.check}.", markup=False)
        style = "bold green" if result.converts else "bold red"
        console.print(result.verdict, style=style, markup=False)
    if not result.converts:
        sys.exit(1)


@examples(
    "  onnx2snn run snn.onnx --input images.npy -T 32 -o out.npz\n"
    "  onnx2snn run snn.onnx --input images.npz -T 32 --readout 8,16 --coding poisson --seed 1"
)
@main.command()
@model_argument
@click.option("--input", "source", metavar="DATA", required=True, help=f"Inputs: {DATA}.")
@click.option("-T", "--timesteps", type=click.IntRange(1), required=True, help="Time-steps.")
@click.option("--readout", type=TIMESTEPS, help="Further time-steps to read the output at.")
@click.option(
    "--coding",
    type=click.Choice(["constant", "poisson"]),
    default="constant",
    show_default=True,
    help="Input at each time-step: itself, or random spikes with it as probability.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="For Poisson coding."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="An .npz for output [N, ...] (output/NAME for any further outputs), output_T at "
    "further read-outs, and firing rates.",
)
@root_option
@samples_option
@batch_option
@device_option
@precision_option
@threads_option
@max_memory_option
@json_option
@reports_errors
def run(
    model: Path,
    source: str,
    timesteps: int,
    readout: list[int] | None,
    coding: Coding,
    seed: int,
    output: Path | None,
    data_root: Path | None,
    samples: int | None,
    batch_size: int,
    device: str,
    precision: Precision,
    threads: int | None,
    max_memory: int | None,
    as_json: bool,
) -> None:
    """Run the spiking network in MODEL on DATA.

    DATA of the network's input shape is shown at every time-step; with one axis more, in
    front, it holds T inputs, one for each.
    """
    from onnx2snn.runtime import SpikingSession

    from .checking import class_output, classes_of
    from .inference import precision_rows, run_batches

    require_output(output, model, source)
    session = SpikingSession(
        model, chosen_providers(device), threads, max_memory=max_memory, precision=precision
    )
    data = open_data(source, data_root, samples=samples, labels=False, model=model)
    if samples is not None and len(data.shape) == len(session.input_shape) + 1:
        raise DataError("--samples counts samples, and the first axis of this DATA is time")
    outputs, rates, count = run_batches(
        session,
        data,
        timesteps,
        readout,
        coding=coding,
        seed=seed,
        batch_size=batch_size,
        track=no_progress if as_json else tables.track,
    )
    if output is not None:
        arrays = {}
        for t, values in outputs.items():
            key = "output" if t == timesteps else f"output_{t}"
            for number, (name, value) in enumerate(values.items()):
                kept = value.astype(str) if value.dtype == object else value
                arrays[f"{key}/{name}" if number else key] = kept
        arrays |= {f"firing_rate/{name}": np.array(rate) for name, rate in rates.items()}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_bytes(output, content.getvalue())
    scored = class_output(outputs[timesteps])
    classes = None if scored is None else classes_of(outputs[timesteps][scored]).tolist()
    if as_json:
        report = {
            "samples": count,
            "timesteps": timesteps,
            "device": session.providers[0],
            "classes": classes,
            "firing_rates": rates,
            "output": None if output is None else str(output),
        }
        if precision == "int8":
            report["precisions"] = precision_rows(session)
        print_json(report)
        return
    console = tables.console()
    console.print(tables.rates_table(rates))
    console.print(f"{count} samples, {timesteps} time-steps, on {session.providers[0]}.")
    if precision == "int8":
        console.print(tables.precision_text(precision_rows(session)))
    if classes is not None:
        shown = ", ".join(map(str, classes[:20])) + (", ..." if len(classes) > 20 else "")
        console.print(f"Classes: {shown}")
    if output is not None:
        console.print(f"Wrote {output}.", markup=False)


@main.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the ways to convert that have a name, with their sources."""
    from .recipes import RECIPES

    if as_json:
        rows = [{"name": r.name, "source": r.source, "what": r.what} for r in RECIPES]
        print_json({"recipes": rows})
        return
    tables.console().print(tables.recipe_table(RECIPES))


@examples("  onnx2snn demo\n  onnx2snn demo --output results --samples 500")
@main.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="demo-out",
    show_default=True,
    help="Folder for the networks and the plot; made if it is not there.",
)
@samples_option
@json_option
@reports_errors
def demo(output: Path, samples: int | None, as_json: bool) -> None:
    """Convert the ResNet-20 that ships with the tool and classify real images with it.

    Shows the accuracy of the ANN and of the spiking network at T = 4, 8, 16, 32, started
    at half the threshold and at zero.
    """
    from .demo import TIMESTEPS, run_demo
    from .plot import accuracy_plot, pyplot

    pyplot()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{output}': {error.strerror}") from error
    found = run_demo(samples, no_progress if as_json else tables.track)
    for name, conversion in zip(("half", "zero"), found.conversions.values(), strict=True):
        write_model(conversion.model, output / f"snn-{name}.onnx")
    title = f"ResNet-20, {found.samples} Fashion-MNIST test images"
    accuracy_plot(output / "accuracy.png", TIMESTEPS, found.accuracies, found.ann, title)
    if as_json:
        print_json(
            {
                "samples": found.samples,
                "timesteps": TIMESTEPS,
                "ann": found.ann,
                "snn": found.accuracies,
            }
        )
        return
    console = tables.console()
    console.print(
        f"{title}; the network was trained with clips, so no data was needed to convert it."
    )
    console.print(tables.demo_table(TIMESTEPS, found.ann, found.accuracies))
    console.print(f"Wrote snn-half.onnx, snn-zero.onnx and accuracy.png to {output}/", markup=False)
