"""One training run from its settings to an ONNX file and its card."""

import csv
import hashlib
import importlib.metadata
import io
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import onnx
import torch
from torch import nn

from onnx2snn.graph_passes.graph.shapes import declared_shape
from onnx2snn.graph_passes.model_files.files import read_model
from onnx2snn.graph_passes.model_files.whole_file import write_bytes

from . import shipped
from .clips import TrainableClip
from .configs import CONFIGS, Config, unused
from .export import export
from .images import describe, open_images, some_images
from .training import Epoch, bounds, build, has_begun, plain_clips, restore_weights, train

Tell = Callable[[float, list[Epoch]], None]
"""Told after each step how many epochs are done, and what the whole ones came to."""


def run(
    name: str,
    config: Config,
    folder: Path,
    root: Path | None = None,
    *,
    device: str = "cpu",
    workers: int = 0,
    tell: Tell = lambda done, history: None,
) -> tuple[Path, list[Epoch]]:
    """Train, or go on where an earlier call stopped, and export; returns the file and all epochs.

    In ``folder``, made if it is not there: checkpoint.pt and log.csv after each epoch,
    NAME.onnx and its card NAME.md at the end. ``root``: the folder of the data set. Raises
    what ``train`` raises, ``OSError`` if the data is not there or the folder cannot be made,
    ``OutputError`` if it cannot be written, ``ModelError`` if ``config.start`` cannot be read,
    and ``ValueError`` if that is of another network or the data is damaged.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world > 1:
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    folder.mkdir(parents=True, exist_ok=True)
    data, preprocessing = describe(config, root)
    images, test = open_images(config, root)
    network = build(config, data)
    checkpoint = folder / "checkpoint.pt"
    if config.start and not has_begun(checkpoint):
        start_from(config.start, network, some_images(images))

    def note(done: float, history: list[Epoch]) -> None:
        if rank == 0 and done == len(history):
            write_bytes(folder / "log.csv", _csv(history).encode())
        tell(done, history)

    history = train(
        network, config, images, test, checkpoint, device=device, workers=workers, tell=note
    )
    path = folder / f"{name}.onnx"
    thetas = [theta.item() for theta in bounds(network)]
    plain_clips(network)
    if rank == 0:
        # That of the last epoch, too, if it was killed between that and this.
        write_bytes(folder / "log.csv", _csv(history).encode())
        export(network, path, preprocessing)
        card = _card(name, config, path, history, thetas)
        # The name of a file need not be UTF-8.
        write_bytes(path.with_suffix(".md"), card.encode(errors="backslashreplace"))
    if world > 1:
        torch.distributed.destroy_process_group()
    return path, history


def start_from(source: str, network: nn.Module, images: torch.Tensor) -> None:
    """Give a network the weights of an ONNX file that a run of the same network ended with.

    ``source``: its path, or the name of one that ships. ``images``: as in ``restore_weights``.
    Raises ``ModelError`` if it cannot be read, and ``ValueError`` if it is another network's.
    """
    path = Path(source)
    if not path.exists():
        path = shipped(source)
    if not path.exists():
        raise ValueError(f"start: there is no file '{source}'")
    model = read_model(path)
    clips = [name for name, module in network.named_modules() if isinstance(module, TrainableClip)]
    # Bounds of the same value are one initializer, under one name.
    minima = [node.input[-1] for node in model.graph.node if node.op_type == "Min"]
    try:
        weights = {
            tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor))
            for tensor in model.graph.initializer
        }
        of_clips = {f"{name}.theta": weights[b] for name, b in zip(clips, minima, strict=True)}
        restore_weights(network, weights | of_clips, images)
    except KeyError as error:
        what = f"'{source}' is of another network than the run's: it has no {error}"
        raise ValueError(what) from error
    except (RuntimeError, TypeError, ValueError) as error:
        # TypeError: torch lacks some of ONNX's types.
        what = f"'{source}' is of another network than the run's: its weights do not fit"
        raise ValueError(what) from error


def _csv(history: list[Epoch]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _card(name: str, config: Config, path: Path, history: list[Epoch], thetas: list[float]) -> str:
    """What the file is and how it was made, in Markdown."""
    source = name if CONFIGS.get(name) == config else f"{name}.toml"
    model = onnx.load(path)
    shapes = {
        value.name: declared_shape(value.type.tensor_type)
        for value in (*model.graph.input, *model.graph.output)
    }
    vain = unused(config)
    kept = {key: v for key, v in asdict(config).items() if v != "" and key not in vain}
    settings = ", ".join(f"{key} {value}" for key, value in kept.items())
    packages = ("onnx2snn", "torch", "onnx", "onnxscript")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    lines = [
        f"# {name}.onnx",
        "",
        f"{config.network} trained on {config.dataset} by `onnx2snn train {source}`.",
        "",
        *(f"- `{key}`: float32 {shape}" for key, shape in shapes.items()),
        "- Images: pixels in [0, 1]; the network normalises them itself.",
        f"- sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`",
        f"- Settings: {settings}.",
        f"- {versions}; {sum(epoch['seconds'] for epoch in history) / 60:.0f} minutes.",
    ]
    if thetas:
        listed = ", ".join(f"{theta:.2f}" for theta in thetas)
        lines.append(f"- Bounds theta, in the network's order: {listed}.")
    lines += [
        "- The test images were only looked at after each epoch; they chose nothing.",
        "",
        f"Accuracy on the test images after the last epoch: {history[-1]['accuracy']:.2f} %",
    ]
    if config.levels:
        lines[-1] += f" with the clips quantised to {config.levels} levels, as they were trained"
    return "\n".join(lines) + ".\n"
