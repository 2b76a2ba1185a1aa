"""What layers with weights compute in, as asked for and as it came to be."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import ModelError

from .layers.integer_products import IntegerLayer
from .plans.graphs import has_weights, values_of
from .plans.plan import Plan

Precision = Literal["float32", "float16", "int8"]
"""What layers with weights compute in: as the file says, in 16 bits on a GPU, or in 8 bits on a
CPU where that is faster."""


@dataclass(frozen=True)
class LayerPrecision:
    """What a layer is computed in, "int8", "float16", "float32" or what the file says, and why."""

    layer: str
    precision: str
    reason: str


def precision_rows(precisions: Iterable[LayerPrecision]) -> list[dict[str, str]]:
    """The precisions of a session as reports have them, none where all is as in the file."""
    return [asdict(row) for row in precisions]


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


def not_in_float32(plan: Plan) -> str | None:
    """What of a plan computes in another type than float32: neurons, or all layers with weights."""
    for neuron in plan.neurons:
        if neuron.threshold.dtype != np.float32:
            return f"{neuron.op} '{neuron.name}' computes in {neuron.threshold.dtype}"
    constants = values_of(plan.step, plan.weights)
    layers = list(filter(has_weights, plan.step.graph.node))
    types = [other_type(node, constants) for node in layers]
    # numpy takes None for float64.
    if not layers or any(dtype is None for dtype in types):
        return None
    return f"{layers[0].op_type} '{layers[0].name}' computes in {types[0]}, as all layers do"


def require_float32(plan: Plan, precision: Precision) -> None:
    """Raise ``ModelError`` if neurons, or all layers, compute in another type than float32."""
    other = not_in_float32(plan)
    if other is not None:
        raise ModelError(
            f"precision '{precision}' takes the place of float32, but {other}: leave it out"
        )


def other_type(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> np.dtype | None:
    """The type in which a layer computes, as its constants tell, if it is not float32."""
    types = (np.dtype(constants[name].dtype) for name in node.input if name in constants)
    return next((dtype for dtype in types if dtype != np.float32), None)
