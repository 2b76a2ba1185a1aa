"""Layers in float16, for the matrix units of GPUs.

    x, W, b -> Cast -> layer -> Cast -> y

Membrane potentials, thresholds and all else stay in float32. Weights, and what a layer reads and
makes, are rounded to 11 bits. A layer of which one of these may be beyond the largest float16,
65504, stays in float32: an infinite current fires for ever.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import ProviderError
from onnx2snn.graph_passes.graph.operators import WEIGHTED
from onnx2snn.runtime.plans.graphs import Writer, has_weights, renamed, values_of, with_layers
from onnx2snn.runtime.plans.plan import Plan
from onnx2snn.runtime.precision import (
    LayerPrecision,
    PlanInPrecision,
    other_type,
    require_float32,
)
from onnx2snn.runtime.providers import ON_GPU, name_of
from onnx2snn.runtime.reach import sizes_in

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


def halve(plan: Plan, providers: Sequence[Any]) -> PlanInPrecision:
    """The layers with constant weights of a plan's step, to be computed in float16.

    Raises ``ProviderError`` where the step would not run on a GPU, and ``ModelError`` for a
    network in another type than float32.
    """
    first = name_of(providers[0])
    if first not in ON_GPU:
        raise ProviderError(
            f"precision 'float16' is for GPUs, {first} would convert back and forth: leave it out"
        )
    require_float32(plan, "float16")
    constants = values_of(plan.step, plan.weights)
    # How large an input is that comes at each time-step nobody knows.
    sizes = sizes_in(plan, dict.fromkeys(plan.step_inputs, np.inf))
    layers = list(filter(has_weights, plan.step.graph.node))
    # Several layers may have the same weights.
    wide = {node.input[1] for node in layers if _largest_in(node, sizes) > LARGEST_FLOAT16}
    names, precisions = set[str](), []
    for node in layers:
        name, other, precision = node.input[1], other_type(node, constants), "float32"
        if other is not None:
            precision, reason = str(other), "as the file says"
        elif name not in constants:
            reason = "has no constant weights"
        elif name in wide:
            reason = f"its numbers may be beyond {LARGEST_FLOAT16:g}"
        else:
            names.add(name)
            precision, reason = "float16", "on a GPU"
        precisions.append(LayerPrecision(node.name, precision, reason))
    return PlanInPrecision(plan, precisions=tuple(precisions), half=frozenset(names))


def _largest_in(node: onnx.NodeProto, sizes: Mapping[str, np.ndarray]) -> float:
    """The largest number that a layer may read or make."""
    tensors = filter(None, (*node.input, *node.output))
    return max(float(sizes[name].max(initial=0)) for name in tensors)


def with_half_products(model: onnx.ModelProto, weights: Collection[str]) -> onnx.ModelProto:
    """A model whose layers with these weights, by their names, compute in float16."""
    single, half = np.dtype(np.float32), np.dtype(np.float16)
    cast: dict[str, str] = {}

    def write(graph: Writer, node: onnx.NodeProto, _: str) -> None:
        for name in filter(None, node.input):
            if name not in cast:
                cast[name] = graph.cast(name, single, half, name)
        (y,) = node.output
        made = f"{graph.prefix}made/{y}"
        names = {name: cast[name] for name in node.input if name} | {y: made}
        graph.nodes.append(renamed(node, names, graph.prefix + node.name))
        graph.node("Cast", [made], f"back/{y}", y, to=onnx.TensorProto.FLOAT)

    return with_layers(model, WEIGHTED, {name: name for name in weights}, "half/", write)
