"""Training runs as data: those of the paper, and those that made the files that ship."""

import math
import tomllib
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .datasets import DATASETS, IN_MEMORY

NETWORKS = ("vgg16", "resnet18", "resnet20", "resnet20-relu", "vgg", "mobilenet")
PRECISIONS = ("float32", "bfloat16", "float16")

_WITH_CLIPS = ("vgg16", "resnet18", "resnet20")
"""The networks whose clips have trainable bounds."""

_FEWEST_CHANNELS = {"vgg16": 64, "resnet18": 64, "resnet20": 16, "resnet20-relu": 16}
"""Of a network's narrowest layer, at width 1."""


@dataclass(frozen=True)
class Config:
    """One training run. The defaults are the paper's where all its runs agree.

    ``network``: one of ``NETWORKS``. ``dataset``: one of ``datasets.DATASETS``, or "folder" for
    a folder with train and val, each with a folder of images for each class, scaled and cut to
    ``size``. ``width`` scales the channels; ``hidden`` and ``dropout`` are of VGG-16's dense
    layers.
    ``theta_weight_decay``: of the clips' bounds; ``weight_decay``: of all else. ``cutout``: side of
    the square in pixels, 0 for none. ``color_jitter``: of ImageNet.
    ``levels``: L of the quantised clip (QCFS), 0 for the plain clip. ``start``: an ONNX file
    that an earlier run of the same network ended with, to go on from; of the files that ship,
    the name is enough. ``precision``: "float32", or "bfloat16" or "float16" for the forward pass
    (``torch.autocast``). ``batch_size``: of all GPUs together.
    """

    network: str
    dataset: str
    epochs: int
    learning_rate: float
    weight_decay: float = 5e-4
    theta_weight_decay: float = 5e-4
    momentum: float = 0.9
    batch_size: int = 128
    size: int = 224
    width: float = 1.0
    hidden: int = 4096
    dropout: float = 0.5
    auto_augment: bool = False
    cutout: int = 0
    color_jitter: float = 0.0
    label_smoothing: float = 0.0
    levels: int = 0
    start: str = ""
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "network": NETWORKS,
            "dataset": (*DATASETS, "folder"),
            "precision": PRECISIONS,
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        for name in ("epochs", "batch_size", "size", "hidden", "width", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "theta_weight_decay", "cutout", "color_jitter", "levels"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("momentum", "dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError("batch_size must be 2 or more, for batch normalization, not 1")
        if self.batch_size >= 2**31:
            raise ValueError(f"batch_size must be below 2**31, not {self.batch_size}")
        # Torch takes 64 bits of what is made of it for each epoch and process.
        if abs(self.seed) >= 2**32:
            raise ValueError(f"seed must be above -2**32 and below 2**32, not {self.seed}")
        size = self.size if self.dataset == "folder" else DATASETS[self.dataset].size
        if self.network == "vgg" and size != 28:
            raise ValueError(f"network vgg is for images of 28 x 28, and these are {size} x {size}")
        # Its five pools halve; the last is global up to 64 pixels, and leaves 7 x 7 beyond.
        if self.network == "vgg16" and not (16 <= size <= 64 or 224 <= size < 256):
            raise ValueError(
                "network vgg16 is for images of 16 x 16 to 64 x 64 or 224 x 224 to 255 x 255, and "
                f"these are {size} x {size}"
            )
        channels = _FEWEST_CHANNELS.get(self.network)
        if channels is not None and channels * self.width < 1:
            raise ValueError(
                f"width {self.width} leaves no channels of {self.network}'s first {channels}: take "
                f"{1 / channels} or more"
            )
        if self.levels and self.network not in _WITH_CLIPS:
            raise ValueError(f"levels are of trainable clips, and {self.network} has none")


def unused(config: Config) -> list[str]:
    """The settings that mean nothing for a run's network and data set."""
    used = {
        "size": config.dataset == "folder",
        "width": config.network in _FEWEST_CHANNELS,
        "hidden": config.network == "vgg16",
        "dropout": config.network == "vgg16",
        "theta_weight_decay": config.network in _WITH_CLIPS,
        "auto_augment": config.dataset in IN_MEMORY,
        "cutout": config.dataset in IN_MEMORY,
        "color_jitter": config.dataset not in IN_MEMORY,
    }
    return [name for name, is_used in used.items() if not is_used]


def _cifar10(network: str, theta_weight_decay: float) -> Config:
    return Config(
        network,
        "cifar10",
        epochs=300,
        learning_rate=0.1,
        theta_weight_decay=theta_weight_decay,
        auto_augment=True,
        cutout=16,
    )


def _cifar100(network: str) -> Config:
    return replace(_cifar10(network, 5e-4), dataset="cifar100", learning_rate=0.02, cutout=8)


def _fashion(network: str, epochs: int, **settings: Any) -> Config:
    return Config(network, "fashion-mnist", epochs, learning_rate=0.1, dropout=0.0, **settings)


CONFIGS = {
    "vgg16-cifar10": _cifar10("vgg16", 1e-3),
    "resnet20-cifar10": _cifar10("resnet20", 5e-4),
    "resnet18-cifar10": _cifar10("resnet18", 5e-4),
    "vgg16-cifar100": _cifar100("vgg16"),
    "resnet20-cifar100": _cifar100("resnet20"),
    "resnet18-cifar100": _cifar100("resnet18"),
    "vgg16-imagenet": Config(
        "vgg16",
        "imagenet",
        epochs=120,
        learning_rate=0.1,
        weight_decay=1e-4,
        batch_size=256,
        color_jitter=0.4,
        label_smoothing=0.1,
    ),
    "vgg16-fashion-mnist": _fashion("vgg16", 18, width=0.25, hidden=512, theta_weight_decay=1e-3),
    "resnet18-fashion-mnist": _fashion("resnet18", 10, width=0.125),
    "resnet20-fashion-mnist": _fashion("resnet20", 20),
    "resnet20-qcfs-fashion-mnist": replace(
        _fashion("resnet20", 4, levels=4),
        learning_rate=0.02,
        start="resnet20-fashion-mnist.onnx",
    ),
    "resnet20-relu-fashion-mnist": _fashion("resnet20-relu", 10),
    "vgg-fashion-mnist": _fashion("vgg", 10),
    "mobilenet-fashion-mnist": _fashion("mobilenet", 10),
}
"""By name, the runs of the paper's text ("Hyper-Parameters") and of the files that ship.

The text at hand states no decay of theta for CIFAR-100; it is taken as that of ResNet on
CIFAR-10, as is that of VGG-16 on ImageNet. Its batch sizes, jitter and smoothing are not stated
either: these are the usual ones.
"""


def read_config(source: str) -> tuple[str, Config]:
    """A run's name and settings: one of ``CONFIGS``, or a TOML file's stem and content.

    The file has the fields of ``Config``, or a ``base``, one of ``CONFIGS``, and what differs
    from it. Raises ``ValueError`` for what is neither, and ``OSError`` if it cannot be read.
    """
    if source in CONFIGS:
        return source, CONFIGS[source]
    if not source.endswith(".toml"):
        raise ValueError(f"'{source}' is no .toml file, and none of {', '.join(CONFIGS)}")
    path = Path(source)
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))
        base = content.pop("base", None)
        if base is not None and base not in list(CONFIGS):
            raise ValueError(f"base must be one of {', '.join(CONFIGS)}, not {base!r}")
        config = _config(content, CONFIGS.get(base))
        usual = {field.name: field.default for field in fields(Config)}
        if config.dataset in DATASETS:
            usual["size"] = DATASETS[config.dataset].size
        vain = [
            f"{name} {content[name]}"
            for name in unused(config)
            if content.get(name) and content[name] != usual[name]
        ]
        if vain:
            raise ValueError(
                f"network {config.network} on dataset {config.dataset} does not use "
                f"{', '.join(vain)}: leave it out"
            )
        if CONFIGS.get(path.stem, config) != config:
            raise ValueError(f"{path.stem} is a run of other settings: name the file otherwise")
        return path.stem, config
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error


def _config(content: dict[str, Any], base: Config | None) -> Config:
    known = {field.name: field for field in fields(Config)}
    for name, value in content.items():
        if name not in known:
            raise ValueError(f"there is no setting {name!r}, only {', '.join(known)}")
        wanted: Any = known[name].type
        allowed = (int, float) if wanted is float else (wanted,)
        if type(value) not in allowed:
            raise ValueError(f"{name} must be of type {wanted.__name__}, not {value!r}")
        try:
            content[name] = wanted(value)
        except OverflowError as error:
            raise ValueError(f"{name} is too large a number") from error
    if base is not None:
        return replace(base, **content)
    needed = [name for name, field in known.items() if field.default is MISSING]
    missing = [name for name in needed if name not in content]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given, or a base")
    return Config(**content)
