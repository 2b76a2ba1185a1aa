"""How images become a network's input, as its ONNX file says it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["KEY", "Preprocessing"]

KEY = "onnx2snn.preprocessing"
"""Of an ONNX file's metadata: a ``Preprocessing`` as JSON."""

LONGEST_SIDE = 2**15
"""Pixels of ``size`` and ``resize``, at most."""


@dataclass(frozen=True)
class Preprocessing:
    """What makes an image file a network's input [C, H, W] float32.

    Scale the shorter side to ``resize``, if it is given; cut the middle ``size`` x ``size`` out;
    1 ``channels`` are grey, 3 are RGB; pixels in [0, 1]; then subtract ``mean`` and divide by
    ``std``, a value for each channel, if the network does not do so itself. Raises ``ValueError``
    for sizes, channels or values that are none.
    """

    size: int
    channels: int
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        sizes = [self.size, self.channels, self.size if self.resize is None else self.resize]
        numbers = all(isinstance(v, int | np.integer) and type(v) is not bool for v in sizes)
        if not numbers or not all(0 < v <= LONGEST_SIDE for v in sizes) or sizes[1] not in (1, 3):
            raise ValueError(
                f"sizes must be integers from 1 to {LONGEST_SIDE} and channels 1 or 3, not {sizes}"
            )
        # NumPy's become Python's, which JSON knows.
        for name in ("size", "channels", "resize"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else int(value))
        for name in ("mean", "std"):
            object.__setattr__(self, name, _floats(name, getattr(self, name)))
        if any(v is not None and len(v) != self.channels for v in (self.mean, self.std)):
            raise ValueError("mean and std must have a value for each channel")
        std = self.std or (1.0,)
        if not np.all(np.isfinite([*(self.mean or ()), *std])) or min(std) <= 0:
            raise ValueError("mean and std must be finite, and std above 0")

    def __str__(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Preprocessing":
        """Read what ``str`` wrote; raises ``ValueError`` for anything else."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is no JSON: {error}") from error
        try:
            if not isinstance(values, dict):
                raise ValueError(f"it is no JSON object, but {text[:40]}")
            known = {field.name for field in dataclasses.fields(cls)}
            if set(values) - known:
                raise ValueError(f"unknown: {', '.join(sorted(set(values) - known))}")
            if not {"size", "channels"} <= set(values):
                raise ValueError("it wants size and channels")
            return cls(**values)
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(str(error)) from error

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Pixels uint8 [N, C, H, W] to the network's input, float32 in the same shape."""
        x: np.ndarray = images.astype(np.float32) / np.float32(255)
        if self.mean is not None:
            x -= np.reshape(self.mean, (-1, 1, 1)).astype(np.float32)
        if self.std is not None:
            x /= np.reshape(self.std, (-1, 1, 1)).astype(np.float32)
        return x


def _floats(name: str, values: Any) -> tuple[float, ...] | None:
    """A value for each channel, from any sequence of numbers."""
    if values is None:
        return None
    try:
        if isinstance(values, str | bytes | Mapping):
            raise TypeError(f"not {values!r}")
        return tuple(map(float, values))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a number for each channel: {error}") from error
