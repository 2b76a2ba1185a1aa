"""Train a network by Algorithm 1, with a checkpoint after each epoch from which it goes on exactly.

All that is random in an epoch follows from the seed and the epoch's number, so that a
checkpoint needs weights, momenta and the number, and a run that was killed ends, on a CPU,
with the weights of one that was not.
"""

import errno
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from onnx2snn.graph_passes.model_files.whole_file import whole_file

from .clips import QuantizedClip, TrainableClip
from .configs import Config, unused
from .datasets import DataSet
from .images import batches, digest_of_images
from .networks import Normalize, mobilenet, resnet18, resnet20, vgg, vgg16

Epoch = dict[str, float]
"""What an epoch came to: epoch (from 1), loss, accuracy (percent of test images), theta_min,
theta_max, seconds."""


class CheckpointError(ValueError):
    """A checkpoint that is of another run, or damaged."""


def build(config: Config, data: DataSet) -> nn.Sequential:
    """The network of a run, freshly initialised from its seed; it normalises its input itself."""
    torch.manual_seed(config.seed)

    def clip() -> nn.Module:
        return QuantizedClip(config.levels) if config.levels else TrainableClip()

    channels, classes = data.channels, data.classes
    scaled: dict[str, Any] = {"width": config.width, "imagenet": data.size > 64}
    dense: dict[str, Any] = {"hidden": config.hidden, "dropout": config.dropout}
    networks: dict[str, Callable[[], nn.Sequential]] = {
        "vgg16": lambda: vgg16(channels, classes, clip, **dense, **scaled),
        "resnet18": lambda: resnet18(channels, classes, clip, **scaled),
        "resnet20": lambda: resnet20(channels, classes, clip, **scaled),
        "resnet20-relu": lambda: resnet20(channels, classes, nn.ReLU, **scaled),
        "vgg": lambda: vgg(channels, classes),
        "mobilenet": lambda: mobilenet(channels, classes),
    }
    return nn.Sequential(Normalize(data.mean, data.std), *networks[config.network]())


def bounds(network: nn.Module) -> list[nn.Parameter]:
    """The trainable bounds theta, in the network's order."""
    return [m.theta for m in network.modules() if isinstance(m, TrainableClip)]


def cosine(start: float, step: int, steps: int) -> float:
    """The learning rate at a step, from ``start`` to 0 (Loshchilov & Hutter 2017)."""
    return start * (1 + math.cos(math.pi * step / steps)) / 2


def layout(network: nn.Module) -> torch.memory_format:
    """The order of an image's numbers in memory that trains fastest.

    Not channels last where a convolution makes fewer than 16 channels, or a number that 16 does
    not divide: PyTorch 2.13 then corrupts the memory of the process on a CPU with AVX-512.
    """
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    even = all(width % 16 == 0 for width in widths)
    return torch.channels_last if even else torch.contiguous_format


@torch.inference_mode()
def accuracy(network: nn.Module, images: Dataset, device: str, workers: int) -> float:
    """Top-1 accuracy in percent, in evaluation mode."""
    network.eval()
    right, count, laid_out = 0, 0, layout(network)
    for x, y in batches(images, 500, workers=workers):
        chosen = network(x.to(device, memory_format=laid_out)).argmax(1)
        right += int((chosen == y.to(device)).sum())
        count += len(y)
    return 100.0 * right / count


def train(
    network: nn.Module,
    config: Config,
    images: Dataset,
    test: Dataset,
    checkpoint: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    tell: Callable[[float, list[Epoch]], None] = lambda done, history: None,
) -> list[Epoch]:
    """Train the network in place, on from the checkpoint if there is one; returns all epochs.

    Under ``torchrun`` each process trains on its share. The test images choose nothing. ``tell``
    is called after each step with how many epochs are done, as a float, and those that are
    whole. Raises ``ValueError`` for a batch that processes cannot share evenly, two images or more
    for each, ``CheckpointError`` for a checkpoint of another run, ``OSError`` if it cannot
    be written, before the first epoch where that can be known, and ``FloatingPointError`` if
    the loss or a weight is no number any more, or a clip's bound not above 0; the checkpoint stays
    that of the last whole epoch.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    share = _share(config.batch_size, world)
    steps = _steps(math.ceil(len(images) / world), share)
    network.to(device, memory_format=layout(network))
    thetas = bounds(network)
    mine = {id(theta) for theta in thetas}
    others = [p for p in network.parameters() if id(p) not in mine]
    optimizer = torch.optim.SGD(
        [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": thetas, "weight_decay": config.theta_weight_decay},
        ],
        lr=config.learning_rate,
        momentum=config.momentum,
    )
    scaler = torch.amp.GradScaler(device, enabled=config.precision == "float16")
    parts = {"network": network, "optimizer": optimizer, "scaler": scaler}
    data = digest_of_images(images)
    history = _restore(checkpoint, config, data, parts) if checkpoint.exists() else []
    if rank == 0 and not history:
        _require_space(checkpoint, network)
        _save(checkpoint, config, data, parts, history)
    model = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    precision, laid_out = getattr(torch, config.precision), layout(network)
    for epoch in range(len(history), config.epochs):
        start = time.monotonic()
        torch.manual_seed((config.seed * 1_000_003 + epoch) * world + rank)
        network.train()
        total = torch.zeros((), device=device)
        shuffled = batches(
            images, share, epoch=epoch, seed=config.seed, rank=rank, world=world, workers=workers
        )
        for (x, y), step in zip(shuffled, range(steps), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = cosine(
                    config.learning_rate, epoch * steps + step, config.epochs * steps
                )
            x = x.to(device, memory_format=laid_out, non_blocking=True)
            with torch.autocast(device, precision, enabled=precision != torch.float32):
                output = model(x)
            loss = nn.functional.cross_entropy(
                output.float(),
                y.to(device, non_blocking=True),
                label_smoothing=config.label_smoothing,
            )
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach()
            # What is left of an epoch is its evaluation.
            tell(epoch + (step + 1) / (steps + 1), history)
        if world > 1:
            torch.distributed.all_reduce(total)
            total /= world
        wrong = _diverged(total, network, thetas)
        if wrong:
            raise FloatingPointError(
                f"{wrong} in epoch {epoch + 1}: the learning rate may be too high"
            )
        row = {
            "epoch": epoch + 1,
            "loss": total.item() / steps,
            "accuracy": accuracy(network, test, device, workers),
        }
        if thetas:
            values = [theta.item() for theta in thetas]
            row |= {"theta_min": min(values), "theta_max": max(values)}
        history.append({**row, "seconds": time.monotonic() - start})
        if rank == 0:
            _save(checkpoint, config, data, parts, history)
        tell(epoch + 1, history)
    network.eval()
    return history


def _diverged(loss: Tensor, network: nn.Module, thetas: list[nn.Parameter]) -> str:
    """What of a network's training is no use to go on with; nothing where all is well."""
    if not math.isfinite(loss.item()):
        return "the loss is not finite"
    for name, values in network.state_dict().items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            return f"'{name}' is not finite"
    low = min((theta.item() for theta in thetas), default=1.0)
    return "" if low > 0 else f"a clip's bound fell to {low:.3g}"


def _share(batch_size: int, world: int) -> int:
    """How many images of a batch each of so many processes takes."""
    if batch_size % world:
        raise ValueError(f"batch_size {batch_size} cannot be divided among {world} processes")
    if batch_size == world:
        raise ValueError(
            f"batch_size {batch_size} is one image for each of {world} processes, and batch "
            f"normalization needs 2: take {2 * world} or more"
        )
    return batch_size // world


def _steps(images: int, share: int) -> int:
    """How many batches an epoch has; a last one of a single image, without variance, is none."""
    rest = images % share
    return images // share + (rest > 1 or rest == images)


def _require_space(path: Path, network: nn.Module) -> None:
    """Raise ``OSError`` unless two checkpoints, an old and a new one, fit beside what is there."""
    weights = sum(t.nbytes for t in network.state_dict().values())
    needed, free = 5 * weights, shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{_size(needed)} are needed in {path.parent} for checkpoints, {_size(free)} are free",
        )


def _size(count: int) -> str:
    """Bytes in a unit in which they are not rounded to nothing."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def _save(
    path: Path, config: Config, data: str, parts: dict[str, Any], history: list[Epoch]
) -> None:
    """Write the checkpoint whole or not at all."""
    content: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    with whole_file(path) as file:
        try:
            run = {"config": asdict(config), "data": data, "history": history}
            torch.save({**content, **run}, file)
        except RuntimeError as error:
            # In the end torch finds the file too short, and says so in place of the cause, as of a
            # full disk, or of an interruption.
            if isinstance(error.__context__, OSError | KeyboardInterrupt | SystemExit):
                raise error.__context__ from None
            raise


def has_begun(checkpoint: Path) -> bool:
    """Whether a run has a whole epoch behind it; raises ``CheckpointError`` like ``train``."""
    return checkpoint.exists() and len(_read(checkpoint)["history"]) > 0


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content | {"config": asdict(Config(**content["config"])), "data": content["data"],
                          "history": list(content["history"])}  # fmt: skip
    except Exception as error:
        raise CheckpointError(
            f"'{path}' is no checkpoint of a training run of this version: name another folder, or "
            "move it away"
        ) from error


def _restore(path: Path, config: Config, data: str, parts: dict[str, Any]) -> list[Epoch]:
    content = _read(path)
    history: list[Epoch] = content["history"]
    if not history:
        # Nothing is lost of a run that ended within its first epoch.
        return []
    kept, seen = content["config"], content["data"]
    now = asdict(config)
    vain = unused(config)
    differing = [key for key in now if key not in vain and kept.get(key) != now[key]]
    if differing:
        what = ", ".join(f"{key} {kept.get(key)!r}, now {now[key]!r}" for key in differing)
        raise CheckpointError(
            f"'{path}' is of another run ({what}): name another folder, or move it away"
        )
    if seen != data:
        raise CheckpointError(
            f"'{path}' is of a run on other training images: name another folder, or move it away"
        )
    for name, part in parts.items():
        try:
            part.load_state_dict(content[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"'{path}' holds another {name}, as another version may have it: name another "
                "folder, or move it away"
            ) from error
    return history


def plain_clips(network: nn.Module) -> None:
    """Make every quantised clip a plain one, in place: the ANN that the converter takes."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, QuantizedClip):
                clip = TrainableClip()
                clip.theta = child.theta
                setattr(parent, name, clip)


def restore_weights(network: nn.Module, weights: dict[str, Tensor], images: Tensor) -> None:
    """Give a fresh network the weights of an exported one, whose batch normalization is folded.

    ``weights``: the ONNX file's initializers by name; the exporter keeps torch's names, and
    calls a folded bias <weight>_bias. Each normalisation gets the mean and variance that its
    layer has on ``images`` [N, C, H, W], and undoes them: in evaluation mode the network is the
    exported one, in training mode nearly so. Raises ``KeyError`` if a weight is missing.
    """

    def undo(bias: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(norm: Any, inputs: tuple[Tensor]) -> None:
            variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_(torch.sqrt(variance + norm.eps))
            norm.bias.copy_(mean + bias)

        return hook

    hooks = []
    network.eval()
    with torch.no_grad():
        last = ""
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                bias = weights[f"{last}.weight_bias"]
                hooks.append(module.register_forward_pre_hook(undo(bias)))
            for key, parameter in module.named_parameters(recurse=False):
                if not isinstance(module, nn.BatchNorm2d):
                    parameter.copy_(weights[f"{name}.{key}"])
                    last = name
        network(images)
    for hook in hooks:
        hook.remove()
