"""The options that the commands share, and what they refuse."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import click

from onnx2snn.graph_passes.approximate import MOST_CLIPS
from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.graph.operators import MaxPool
from onnx2snn.models.datasets import DATASETS
from onnx2snn.runtime.precision import Precision
from onnx2snn.runtime.providers import name_of, resolve_providers
from onnx2snn.runtime.sessions import MOST_THREADS

from .parameter_types import COUNT, MODEL, ONE_T, TIMESTEPS, NamedPath, SizeType


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


def examples(text: str) -> Callable[[Any], Any]:
    """Add examples to a command's help, unwrapped."""

    def decorate(command: click.Command) -> click.Command:
        command.epilog = "\b\nExamples:\n" + text
        return command

    return decorate


DATA = (
    "an .npz with x (and y), an .npy, a folder with a folder of images for each class, or "
    f"{', '.join(DATASETS)}"
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
batch_option = click.option(
    "--batch-size",
    type=COUNT,
    help="Samples at a time.  [default: 100, fewer if activations would take over 2 GiB]",
)
device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "auto"]),
    default="cpu",
    show_default=True,
    help="Where to run; auto: on CUDA if it is available, else on the CPU.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), help="CPU threads to use."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="float32",
    show_default=True,
    help="int8: 8-bit weights and exact sums, in layers where that is faster; CPU only.  "
    "float16: layers in 16 bits, membrane potentials in float32; GPU only.",
)
max_memory_option = click.option(
    "--max-memory",
    type=SizeType(),
    help="Memory that a run may take, by estimate, on a CPU; as in 2GB or 512MiB.  "
    "[default: 256MiB more than one time-step takes; 1.5 times weights and states for one sample "
    "of a network with most weights in dense layers]",
)
root_option = click.option(
    "--data-root",
    type=NamedPath(),
    help="Folder with the files of a data set that is given by name.",
)
CALIBRATION_SAMPLES = 512
"""As many set thresholds and correct weights as well as a whole data set does."""

SO_MANY = "Use the first N samples, or evenly spread ones if labels come class by class."
samples_option = click.option("--samples", type=COUNT, metavar="N", help=SO_MANY)
ann_option = click.option("--ann", **MODEL, help="The ANN to compare with.")
timesteps_option = click.option("-T", "--timesteps", type=ONE_T, required=True, help="Time-steps.")
several_timesteps_option = click.option(
    "-T", "--timesteps", type=TIMESTEPS, required=True, help="Time-steps, as in 8,16,32."
)
force_option = click.option("--force", is_flag=True, help="Replace what stands at OUTPUT.")
data_option = click.option(
    "--data", "source", metavar="DATA", required=True, help=f"Test data: {DATA}."
)
calibration_option = click.option(
    "--calibration",
    metavar="DATA",
    help="Data that sets thresholds and, in recipe best, corrects weights: "
    f"{DATA} (training images).",
)
approximate_option = click.option(
    "--approximate",
    type=click.IntRange(1, MOST_CLIPS),
    metavar="N",
    help="Replace each Sigmoid, Tanh, SiLU, GELU, ... before the last layer by a sum of N clips.",
)

on_means_option = click.option(
    "--on-means",
    is_flag=True,
    help="Allow products of activations, Softmax, normalizations and recurrent layers between "
    "neurons: each time-step computes them on running means. Their outputs are not spikes. A "
    "Sigmoid gate needs --approximate too.",
)


def maxpool_option(default: MaxPool | None) -> Callable[[Any], Any]:
    """What becomes of max-pooling; None leaves it to the recipe."""
    return click.option(
        "--maxpool",
        type=click.Choice(get_args(MaxPool)),
        default=default,
        help="average: replace max-pools by average-pools (as in the paper). exact: by pools that "
        "count spikes. keep: leave them as they are, which costs accuracy.  "
        f"[default: {default or 'as in the recipe: exact in best, average in opi'}]",
    )


model_argument = click.argument("model", **MODEL)


def chosen_providers(device: str) -> list[Any]:
    """ONNX Runtime's providers for a device; says on standard error what auto took."""
    chosen = resolve_providers(device)
    if device == "auto":
        click.echo(f"Running on {name_of(chosen[0])}.", err=True)
    return chosen
