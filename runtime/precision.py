"""What layers with weights compute in, as asked for and as it came to be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.graph_passes.model_files.limits import WEIGHTED

from .layers.integer_products import IntegerLayer
from .plans.graphs import values_of
from .plans.plan import Plan

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


def other_than_float32(plan: Plan) -> str | None:
    """What of a plan, neurons or a layer with weights, computes in another type than float32."""
    types = {
        n: np.dtype(weights.dtype) for n, weights in values_of(plan.step, plan.weights).items()
    }
    computed = [(neuron.op, neuron.name, neuron.threshold.dtype) for neuron in plan.neurons]
    computed += [
        (node.op_type, node.name, types[node.input[1]])
        for node in plan.step.graph.node
        if node.op_type in WEIGHTED and not node.domain and node.input[1] in types
    ]
    found = (f"{op} '{name}' computes in {d}" for op, name, d in computed if d != np.float32)
    return next(found, None)


def require_float32(plan: Plan, precision: Precision) -> None:
    """Raise ``ModelError`` if neurons, or a layer, compute in another type than float32."""
    other = other_than_float32(plan)
    if other is not None:
        raise ModelError(
            f"precision '{precision}' takes the place of float32, but {other}: leave it out"
        )
