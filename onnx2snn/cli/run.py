"""The command ``onnx2snn run``: a spiking network on data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from onnx2snn.data.batches import OVER_TIME, samples_at_once
from onnx2snn.data.files import open_data
from onnx2snn.data.ranges import Ranges, with_ranges
from onnx2snn.graph_passes.errors import DataError, OutputError, counted
from onnx2snn.graph_passes.model_files.files import read_any
from onnx2snn.graph_passes.model_files.whole_file import output_file
from onnx2snn.inspection import notes_on_timesteps
from onnx2snn.measuring.classes import classes_of
from onnx2snn.measuring.inference import is_over_time, run_batches
from onnx2snn.running import Running
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.coding import Coding
from onnx2snn.runtime.precision import Precision, precision_rows
from onnx2snn.runtime.result import class_output

from . import tables, terminal
from .options import (
    DATA,
    batch_option,
    chosen_providers,
    device_option,
    examples,
    json_option,
    max_memory_option,
    model_argument,
    precision_option,
    refuse_options,
    refuse_root,
    root_option,
    samples_option,
    threads_option,
    timesteps_option,
)
from .outputs import notes_on_inputs, print_json, require_output
from .parameter_types import TIMESTEPS, NamedPath


@examples(
    "  onnx2snn run snn.onnx --data images.npy -T 32 -o out.npz\n"
    "  onnx2snn run snn.onnx --data images.npz -T 32 --readout 8,16 --coding poisson --seed 1"
)
@click.command()
@model_argument
@click.option("--data", "--input", "source", metavar="DATA", required=True, help=f"Inputs: {DATA}.")
@timesteps_option
@click.option("--readout", type=TIMESTEPS, help="More time-steps at which -o saves the output.")
@click.option(
    "--coding",
    type=click.Choice(get_args(Coding)),
    default="constant",
    show_default=True,
    help="Input at each time-step: DATA itself, or random spikes with DATA as probabilities.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="For --coding poisson; the spikes depend on --batch-size, too.  [default: 0]",
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    help="An .npz with output [N, ...] (more outputs: output/NAME), output_T (output_T/NAME) for "
    "each --readout, and firing_rate/LAYER.",
)
@root_option
@samples_option
@batch_option
@device_option
@precision_option
@threads_option
@max_memory_option
@json_option
def run(
    model: Path,
    source: str,
    timesteps: int,
    readout: list[int] | None,
    coding: Coding,
    seed: int | None,
    output: Path | None,
    data_root: Path | None,
    samples: int | None,
    batch_size: int | None,
    device: str,
    precision: Precision,
    threads: int | None,
    max_memory: int | None,
    as_json: bool,
) -> None:
    """Run the spiking network in MODEL on DATA.

    DATA of the network's input shape is the input at every time-step. With one more axis in
    front, DATA holds T inputs, one for each time-step.
    """
    if coding != "poisson":
        refuse_options({"--seed": seed is not None}, "is for --coding poisson")
    if readout is not None and readout[-1] > timesteps:
        raise click.UsageError(
            f"--readout {readout[-1]} is beyond the {timesteps} time-steps of the run: give "
            "time-steps up to -T"
        )
    refuse_root(data_root, source)
    require_output(output, model, source)
    if output is not None and output.suffix.lower() not in ("", ".npz"):
        raise OutputError(f"'{output}' would be an .npz, whatever its name: call it so")
    parts = read_any(model)
    session = SpikingSession(
        parts, chosen_providers(device), threads, max_memory=max_memory, precision=precision
    )
    data = open_data(source, data_root, samples=samples, labels=False, model=parts)
    varies, ranges = is_over_time(session, data), Ranges()
    if samples is not None and varies:
        raise DataError("--samples counts samples, and the first axis of this DATA is time")
    if not varies:
        data, ranges = with_ranges(data)
    for note in notes_on_timesteps(parts.structure, [timesteps, *(readout or [])]):
        terminal.note(note)
    with terminal.overall_progress() as report:
        outputs, rates, count = run_batches(
            session,
            data,
            timesteps,
            # Those are only written.
            None if output is None else readout,
            coding=coding,
            seed=seed or 0,
            running=Running(samples_at_once(parts, data, batch_size, OVER_TIME), report=report),
        )
    for note in notes_on_inputs(parts, ranges):
        terminal.note(note)
    if output is not None:
        with output_file(output) as file:
            np.savez(file, **_arrays(outputs, rates, timesteps))
    scored = class_output(outputs[timesteps])
    found: dict[str, Any] = {
        "samples": count,
        "timesteps": timesteps,
        "device": session.providers[0],
        "classes": None if scored is None else classes_of(outputs[timesteps][scored]).tolist(),
        "firing_rates": rates,
        "output": None if output is None else str(output),
    }
    if precision != "float32":
        found["precisions"] = precision_rows(session.precisions)
    if as_json:
        print_json(found)
    else:
        _print(found, precision)


def _arrays(
    outputs: Mapping[int, Mapping[str, np.ndarray]], rates: Mapping[str, float], timesteps: int
) -> dict[str, Any]:
    """What is saved, by the names in the file: the outputs at each read-out, and firing rates."""
    arrays: dict[str, Any] = {}
    for t, values in outputs.items():
        key = "output" if t == timesteps else f"output_{t}"
        for number, (name, value) in enumerate(values.items()):
            kept = value.astype(str) if value.dtype == object else value
            arrays[f"{key}/{name}" if number else key] = kept
    return arrays | {f"firing_rate/{name}": np.array(rate) for name, rate in rates.items()}


def _print(found: dict[str, Any], precision: Precision) -> None:
    terminal.console().print(tables.rates_table(found["firing_rates"]))
    ran = f"{counted(found['samples'], 'sample')}, {counted(found['timesteps'], 'time-step')}"
    terminal.say(f"{ran}, on {found['device']}.")
    if "precisions" in found:
        terminal.say(tables.precision_text(precision, found["precisions"]))
    classes = found["classes"]
    if classes is not None:
        shown = ", ".join(map(str, classes[:20])) + (", ..." if len(classes) > 20 else "")
        terminal.say(f"Index of the largest output: {shown}")
    if found["output"] is not None:
        terminal.say(f"Wrote {found['output']}.")
