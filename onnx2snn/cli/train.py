"""The command ``onnx2snn train``: the paper's networks, by Algorithm 1, to an ONNX file."""

import contextlib
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onnx2snn.graph_passes.errors import (
    DataError,
    Onnx2SnnError,
    OutputError,
    ProviderError,
    counted,
)
from onnx2snn.graph_passes.model_files.whole_file import folder_for
from onnx2snn.models.configs import CONFIGS, read_config
from onnx2snn.running import Report
from onnx2snn.runtime.sessions import cores_of

from . import terminal
from .options import device_option, examples, json_option, refuse_root, root_option
from .outputs import print_json
from .parameter_types import NamedPath


def default_workers() -> int:
    """How many processes read images, if nothing is said: one for each core, 4 at most."""
    return min(4, cores_of(None))


@examples(
    "  onnx2snn train resnet20-fashion-mnist\n"
    "  onnx2snn train vgg16-cifar10 --data-root data --device cuda -o runs/vgg16-cifar10\n"
    '  onnx2snn train mine.toml            # base = "resnet20-cifar10"; epochs = 30; ...\n'
    "  torchrun --nproc-per-node 4 --no-python onnx2snn train vgg16-imagenet --device cuda ...\n"
    "\n\b\nRuns:\n"
    + textwrap.indent(textwrap.fill(", ".join(CONFIGS), break_on_hyphens=False), "  ")
)
@click.command()
@click.argument("config")
@click.option(
    "-o",
    "--output",
    type=NamedPath(file_okay=False),
    help="Folder for checkpoint.pt, log.csv, and the ONNX file with its card; made if it is not "
    "there.  [default: runs/NAME]",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=default_workers,
    help="Processes that read images.  [default: one for each core, 4 at most]",
)
@root_option
@device_option
@json_option
def train(
    config: str,
    output: Path | None,
    workers: int,
    data_root: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Train a network with trainable clips, and export it.

    CONFIG is the name of a run listed below, or a .toml file with settings. If it is interrupted,
    the same command continues after the last whole epoch; on a CPU it ends with the same weights.
    """
    with terminal.overall_progress() as report:
        path, history = train_network(config, output, data_root, device, workers, report)
    if int(os.environ.get("RANK", 0)) > 0:  # of torchrun's processes the first one speaks
        return
    if as_json:
        print_json({"output": str(path), "epochs": history})
        return
    last = history[-1]
    bounds = ""
    if "theta_min" in last:
        bounds = f", theta {last['theta_min']:.2f} to {last['theta_max']:.2f}"
    epochs = counted(len(history), "epoch")
    terminal.say(f"{epochs}: {last['accuracy']:.2f} % of the test images{bounds}.")
    terminal.say(f"Wrote {path} and its card.")


def train_network(
    source: str,
    output: Path | None,
    root: Path | None,
    device: str,
    workers: int,
    report: Report,
) -> tuple[Path, list[dict[str, float]]]:
    """Train as CONFIG says; the ONNX file, and what each epoch came to.

    Raises ``DataError`` (no such run, no data), ``OutputError`` (the folder cannot be written,
    or is another run's), ``ProviderError`` (no CUDA), ``Onnx2SnnError`` (no torch), and
    ``click.UsageError`` for a ``root`` of a data set that is read from none.
    """
    try:
        name, config = read_config(source)
    except OSError as error:
        raise DataError(f"cannot read '{source}': {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(str(error)) from error
    if config.dataset != "folder":
        refuse_root(root, config.dataset)
    folder = output or Path("runs") / name
    torch = _torch()
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError("torch finds no CUDA device: leave out --device cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        click.echo(f"Training on {device}.", err=True)
    with folder_for(folder), _translated():
        from onnx2snn.models.run import run

        def tell(done: float, history: list[dict[str, float]]) -> None:
            last = f", {history[-1]['accuracy']:.2f} % after {len(history)}" if history else ""
            what = f"{name}: epoch {min(int(done) + 1, config.epochs)} of {config.epochs}{last}"
            report(what, round(done * 1000), config.epochs * 1000)

        return run(name, config, folder, root, device=device, workers=workers, tell=tell)


def _torch() -> Any:
    try:
        import onnxscript  # noqa: F401
        import torch
        import torchvision  # noqa: F401
    except ImportError as error:
        raise Onnx2SnnError(
            f"training needs {error.name}: pip install 'onnx2snn[train]'"
        ) from error
    return torch


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """What training raises, as errors that the command line shows."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(terminal.said_by_system(error)) from error
    except OSError as error:
        raise OutputError(terminal.said_by_system(error)) from error
    except (ValueError, FloatingPointError) as error:
        raise DataError(str(error)) from error
    except RuntimeError as error:
        # Torch has no error of its own for it on a CPU.
        if "allocate memory" in str(error) or "out of memory" in str(error):
            raise Onnx2SnnError(
                "out of memory: train in smaller batches, batch_size of a .toml file with settings"
            ) from error
        raise
