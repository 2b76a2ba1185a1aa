"""What commands print and write, and what they check of it before the work."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

import click

from onnx2snn.data.arrays import arrays_besides
from onnx2snn.data.ranges import Ranges, common_ranges, notes_on_ranges
from onnx2snn.data.samples import Data
from onnx2snn.graph_passes.errors import ModelError, OutputError, counted
from onnx2snn.graph_passes.model_files.files import files_of
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.graph_passes.model_files.whole_file import check_writable
from onnx2snn.inspection import inputs_of, own_metadata_of
from onnx2snn.json_values import json_object

from . import terminal
from .plot import check_format


def print_json(value: Any) -> None:
    """Print what ``--json`` asks for."""
    click.echo(json.dumps(_finite(value)))


def _finite(value: Any) -> Any:
    """The same with None for what is no finite number, for which JSON has no word."""
    if isinstance(value, dict):
        return {name: _finite(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_output(path: Path | None, *inputs: Path | str | None, new: bool = False) -> None:
    """Fail before the work, not after it, where a result cannot or must not be written.

    new: what stands there must stay.
    """
    if path is None:
        return
    check_writable(path)
    if new and path.exists():
        raise OutputError(f"'{path}' exists: give another name, or --force to replace it")
    require_no_input(path, *inputs)


def require_no_input(path: Path, *inputs: Path | str | None) -> None:
    """Fail where a file that is to be written holds one of the inputs, or weights of it."""
    for source in inputs if path.exists() else ():
        if source is not None and any(path.samefile(each) for each in _files_of(Path(source))):
            raise OutputError(f"'{path}' is an input too: write the result to another file")


def _files_of(source: Path) -> list[Path]:
    """An input's file, and those that hold weights of it."""
    if source.is_file() and source.suffix.lower() not in (".npz", ".npy"):
        with contextlib.suppress(ModelError):
            return files_of(source)
    return [source] if source.exists() else []


def with_data_file(model: Path) -> str:
    """A model's file that was written, for messages, with the one beside it that it reads."""
    beside = [path.name for path in files_of(model)[1:]]
    return " and, beside it, ".join([str(model), *beside]) + (", which it reads" if beside else "")


def require_state(state: Path, plot: Path | None, *inputs: Path | str | None) -> None:
    """Raise as ``require_output`` for a file that keeps results, and a plot of them, another.

    One that is there may hold all that is asked for, so that it need not be written.
    """
    if not os.path.isfile(state):
        check_writable(state)
    require_no_input(state, *inputs)
    require_plot(plot, *inputs)
    if plot is not None and plot.resolve() == state.resolve():
        raise OutputError(f"'{plot}' is the state file too: draw to another file")


def require_plot(plot: Path | None, *inputs: Path | str | None) -> None:
    """Raise as ``require_output`` for a plot; it needs matplotlib, and a format that this has."""
    require_output(plot, *inputs)
    if plot is not None:
        check_format(plot)


def title_of(data: Data) -> str:
    """A picture's title: a file of samples without the folders that it is in."""
    return f"{Path(data.name).name or data.name}, {counted(data.samples, 'sample')}"


def note_on_labels(source: str, data: Data, model: ModelParts) -> None:
    """Say where an .npz holds no labels y, but arrays that may be meant as such."""
    if data.labels is not None or not source.lower().endswith(".npz"):
        return
    others = arrays_besides(Path(source), [info.name for info in inputs_of(model.structure)])
    if others:
        held = ", ".join(f"'{name}'" for name in others)
        terminal.note(
            f"'{source}' holds no labels y, which accuracy is told by; {held} "
            f"{'is' if len(others) == 1 else 'are'} not read: call the labels y"
        )


def notes_on_inputs(snn: ModelParts, ranges: Ranges) -> list[str]:
    """That inputs have another range than those that a spiking network was calibrated on."""
    calibrated = json_object(own_metadata_of(snn.structure).get("inputs", ""))
    return notes_on_ranges(calibrated, common_ranges(ranges))


def tell_drawn(plot: Path, as_json: bool) -> None:
    """Say what was drawn, after all else: a plot that fails does not take the results with it."""
    if not as_json:
        terminal.say(f"Drew {plot}.")
