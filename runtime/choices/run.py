"""One run of a network, as what it takes is estimated from."""

from collections.abc import Mapping
from dataclasses import dataclass

from onnx2snn.runtime.plans.sizes import Sizes

from .groups import Groups
from .rows import Shape


@dataclass(frozen=True)
class Run:
    """One run: N ``samples``, in ``groups``; ``shapes`` and ``sizes`` are those of long chunks.

    ``prologue`` and ``read_out``: bytes that these take; there are so many ``readouts``, whose
    ``outputs`` take so many bytes each.
    ``varying``: whether inputs are others at each time-step.
    """

    sizes: Sizes
    shapes: Mapping[str, Shape]
    samples: int
    groups: Groups
    prologue: int
    read_out: int
    outputs: int
    readouts: int
    varying: bool
