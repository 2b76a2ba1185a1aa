"""What layers with weights compute in, as asked for and as it came to be."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from onnx2snn.graph_passes.errors import ModelError

from .layers.integer_products import IntegerLayer
from .plans.plan import Neuron, Plan

Precision = Literal["float32", "float16", "int8"]
"""What layers with weights compute in: as the file says, in 16 bits on a GPU, or in 8 bits on a
CPU where that is faster."""


@dataclass(frozen=True)
class LayerPrecision:
    """What a layer is computed in, "int8", "float16" or "float32", and why."""

    layer: str
    precision: str
    reason: str


@dataclass(frozen=True)
class PlanInPrecision:
    """A plan, and which of its layers compute in fewer bits than the file says.

    ``layers``: those in 8 bits, by the names of their weights, which are rounded, each under a name
    of its own; their codes are weights of the name ``<weights>/codes``. ``half``: the names of the
    weights of those in 16 bits. ``precisions``: what became of all layers with weights. The step
    itself computes in float32, what ``layers`` say to rounding.
    """

    plan: Plan
    layers: Mapping[str, IntegerLayer] = field(default_factory=dict)
    precisions: tuple[LayerPrecision, ...] = ()
    half: frozenset[str] = frozenset()


def require_float32(neurons: Iterable[Neuron], precision: Precision) -> None:
    """Raise ``ModelError`` if neurons compute in another type than float32."""
    other = [neuron for neuron in neurons if neuron.threshold.dtype != np.float32]
    if other:
        raise ModelError(
            f"precision '{precision}' takes the place of float32, but {other[0].op} "
            f"'{other[0].name}' computes in {other[0].threshold.dtype}: leave it out"
        )
