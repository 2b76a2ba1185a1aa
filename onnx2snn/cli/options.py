"""The options that the commands share, and what they check."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from onnx2snn.data.files import DATASETS
from onnx2snn.data.samples import Data
from onnx2snn.graph_passes.errors import DataError, ModelError, OutputError, counted
from onnx2snn.graph_passes.graph.linear import MaxPool
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.model_files.files import files_of
from onnx2snn.graph_passes.model_files.whole_file import check_writable
from onnx2snn.runtime.inputs import MOST_TIMESTEPS
from onnx2snn.runtime.precision import Precision
from onnx2snn.runtime.providers import MOST_THREADS, name_of, resolve_providers

from . import terminal
from .plot import check_format


def parsed(parse: Callable[[str], Any]) -> Callable[[Any, Any, str | None], Any]:
    """A callback of an option: what it says, by ``parse``; a usage error for what that refuses."""

    def callback(ctx: Any, param: Any, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except DataError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return callback


FOR_CALIBRATION = "is for calibration data: give --calibration too"
"""Why an option is refused that would not be heeded without."""


def refuse_options(given: Mapping[str, Any], why: str) -> None:
    """A usage error for the first of these options that was given, which would not be heeded.

    False and None change nothing, so they may be.
    """
    for name, value in given.items():
        if value:
            raise click.UsageError(f"{name} {why}")


def refuse_root(root: Path | None, *sources: str | None) -> None:
    """A usage error for --data-root where none of the DATA is a data set in files of its own."""
    named = [name for name in DATASETS if name != "digits"]
    if root is not None and not set(named) & set(sources):
        raise click.UsageError(f"--data-root is for DATA by name: {', '.join(named)}")


class CountsType(click.ParamType):
    """Positive integers as ``8,16,32``, in order, each once."""

    def __init__(self, what: str, letter: str) -> None:
        self._what, self.name = what, f"{letter},..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """A list of the integers; a usage error for anything else."""
        if isinstance(value, list):
            return value
        try:
            counts = [int(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"'{value}' is not a list of integers such as 8,16,32", param, ctx)
        if min(counts) < 1:
            self.fail(f"{self._what} start at 1", param, ctx)
        if max(counts) > MOST_TIMESTEPS:
            self.fail(f"{self._what} end at {MOST_TIMESTEPS}", param, ctx)
        return sorted(set(counts))


COUNT = click.IntRange(1, MOST_TIMESTEPS)
"""How many time-steps, samples or the like."""

TIMESTEPS = CountsType("time-steps", "T")


class InitialPotentialType(click.ParamType):
    """v(0): half, zero, uniform, normal, or a fraction of the threshold."""

    name = "half|zero|FRACTION|uniform|normal"

    def convert(self, value: Any, param: Any, ctx: Any) -> InitialPotential:
        """The fraction or the name of the distribution; a usage error for anything else."""
        named: dict[str, InitialPotential] = {
            "half": 0.5, "zero": 0.0, "uniform": "uniform", "normal": "normal",
        }  # fmt: skip
        if value in named:
            return named[value]
        try:
            fraction = float(value)
        except ValueError:
            fraction = np.nan
        if not np.isfinite(fraction):
            self.fail(f"'{value}' is none of half, zero, uniform, normal or a number", param, ctx)
        return fraction


class SizeType(click.ParamType):
    """Bytes as ``2GB``, ``512MiB`` or a number."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number of bytes; a usage error for anything else."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(I?)B?|B)?", str(value).upper())
        if found is None:
            self.fail(f"'{value}' is not a size such as 2GB, 512MiB or 100000000", param, ctx)
        number, unit, binary = found.groups()
        size = float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit or " "))
        if not 1 <= size < float("inf"):
            self.fail(f"'{value}' is no number of bytes", param, ctx)
        return int(size)


class NamedPath(click.Path):
    """A file or a folder; "" is refused, which ``Path`` would take for the current folder."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The path; a usage error for an empty one."""
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


def examples(text: str) -> Callable[[Any], Any]:
    """Add examples to a command's help, unwrapped."""

    def decorate(command: click.Command) -> click.Command:
        command.epilog = "\b\nExamples:\n" + text
        return command

    return decorate


@contextlib.contextmanager
def folder_for(folder: Path) -> Iterator[None]:
    """Make the folder, or the one that a link leads to, unless it is there.

    A failure that leaves it empty leaves none. Raises ``OutputError`` unless it can be made and
    takes files.
    """
    whole = Path(os.path.realpath(folder))
    made = [path for path in (whole, *whole.parents) if not os.path.exists(path)]
    try:
        try:
            whole.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder '{folder}': {error.strerror}") from error
        if not os.access(whole, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write into the folder '{folder}'")
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def said_by_system(error: OSError) -> str:
    """What the system refused, and of which file; the current folder alone it does not name."""
    text = error.strerror or str(error)
    if error.filename:
        return f"{text}: '{error.filename}'"
    return f"{text}: the current folder" if error.errno == errno.ENOENT else text


def _from_pipe(ctx: Any, param: Any, path: Path | None) -> Path | None:
    """A model's path; where that is a pipe, which can be read once, of a copy of what it gives."""
    try:
        if path is None or not path.is_fifo():
            return path
    except OSError:
        # What is wrong with the name, whoever reads the file says.
        return path
    try:
        copy = Path(ctx.with_resource(tempfile.TemporaryDirectory()), path.name)
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error
    return copy


MODEL: dict[str, Any] = {"type": NamedPath(), "callback": _from_pipe}
"""What an argument or option is that names a model's file."""

DATA = (
    "an .npz with x (and y), an .npy, a folder with a folder of images for each class, or "
    f"{', '.join(DATASETS)}"
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
batch_option = click.option(
    "--batch-size",
    type=COUNT,
    help="Samples at a time; 100 if not given, or as many as 2 GiB of activations hold.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "auto"]),
    default="cpu",
    show_default=True,
    help="Where to run; auto takes CUDA where it starts.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), help="CPU threads to use."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="float32",
    show_default=True,
    help="int8: weights of 8 bits and exact sums in layers where that is faster; CPU only.  "
    "float16: layers in 16 bits, potentials in float32; GPUs only.",
)
max_memory_option = click.option(
    "--max-memory",
    type=SizeType(),
    help="What a run may take, as in 2GB or 512MiB; an estimate of the CPU's.  "
    "[default: 256MiB beyond one time-step; 1.5 times weights and states for one sample of a "
    "network whose weights are mostly of dense layers]",
)
root_option = click.option(
    "--data-root",
    type=NamedPath(),
    help="Folder of a data set that is given by name.",
)
CALIBRATION_SAMPLES = 512
"""As many set thresholds and correct weights as well as a whole data set does."""

SO_MANY = "Use so many: the first or, where labels come class by class, evenly spread ones."
samples_option = click.option("--samples", type=COUNT, help=SO_MANY)
ann_option = click.option("--ann", **MODEL, help="The ANN to compare with.")
timesteps_option = click.option("-T", "--timesteps", type=COUNT, required=True, help="Time-steps.")
several_timesteps_option = click.option(
    "-T", "--timesteps", type=TIMESTEPS, required=True, help="As in 8,16,32."
)
force_option = click.option("--force", is_flag=True, help="Replace what stands at OUTPUT.")
data_option = click.option(
    "--data", "source", metavar="DATA", required=True, help=f"Test data: {DATA}."
)
calibration_option = click.option(
    "--calibration", metavar="DATA", help=f"Data for thresholds: {DATA} (training images)."
)
approximate_option = click.option(
    "--approximate",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Let N clips stand in for each Sigmoid, Tanh, SiLU, GELU, ... between neurons.",
)

on_means_option = click.option(
    "--on-means",
    is_flag=True,
    help="Compute products of activations, Softmax, normalizations and recurrent layers between "
    "neurons on running means, at each time-step; what they hand on are no spikes. A Sigmoid gate "
    "needs --approximate besides.",
)


def maxpool_option(default: MaxPool | None) -> Callable[[Any], Any]:
    """What becomes of max-pooling; None leaves it to the recipe."""
    return click.option(
        "--maxpool",
        type=click.Choice(get_args(MaxPool)),
        default=default,
        help="What becomes of max-pooling: average-pooling (as in the paper); exact: a pool that "
        "counts spikes; keep: nothing, which costs accuracy.  "
        f"[default: {default or 'as in the recipe: exact in best, average in opi'}]",
    )


model_argument = click.argument("model", **MODEL)


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
    for source in inputs if path.exists() else ():
        if source is not None and any(path.samefile(each) for each in _files_of(Path(source))):
            raise OutputError(f"'{path}' is an input too: write the result to another file")


def _files_of(source: Path) -> list[Path]:
    """An input's file, and those that hold weights of it."""
    if source.is_file() and source.suffix.lower() not in (".npz", ".npy"):
        with contextlib.suppress(ModelError):
            return files_of(source)
    return [source] if source.exists() else []


def require_state(state: Path, plot: Path | None, *inputs: Path | str | None) -> None:
    """Raise as ``require_output`` for a file that keeps results, and a plot of them, another."""
    require_output(state, *inputs)
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


def tell_drawn(plot: Path, as_json: bool) -> None:
    """Say what was drawn, after all else: a plot that fails does not take the results with it."""
    if not as_json:
        terminal.say(f"Drew {plot}.")


def chosen_providers(device: str) -> list[Any]:
    """ONNX Runtime's providers for a device; says on standard error what auto took."""
    chosen = resolve_providers(device)
    if device == "auto":
        click.echo(f"Running on {name_of(chosen[0])}.", err=True)
    return chosen
