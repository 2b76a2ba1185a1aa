"""Temporal-switch coding of the input (Han and Roy, ECCV 2020)."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from .errors import (
    DataError,
    ModelError,
    UnsupportedModelError,
    is_number,
    require_named,
    require_whole,
)
from .graph import neurons
from .graph.activations import activation_nodes
from .graph.editing import is_floating, replace_uses
from .graph.operators import MAX_POOLS
from .graph.regions import nonlinear_nodes
from .graph.states import StateEditor, add_counting
from .graph.tidying import tidy

_NO_MEAN = (
    "the maximum of switched inputs is not that of their means, and no neuron's spikes to count: "
    "replace it by average pooling (--maxpool average, pass max_to_average_pool)"
)

_NO_NEURON = "it is no neuron yet: run the pass activations_to_neurons first"


def code_inputs(graph: gs.Graph, scales: Mapping[str, float], timesteps: int) -> bool:
    """Replace x by SwitchCoder(x): on at the first time-step, off after |x| / scale of T of them.

        x(t) = scale sign(x) for t <= round(T |x| / scale), then 0

    Two switches carry a value: its mean over T time-steps is x to within scale / 2T.
    ``scales``: the largest |x| of each input. An input that is coded already stays. Raises
    ``UnsupportedModelError`` for nodes before the first neuron that are not affine, through
    which no mean over time passes, ``ModelError`` for an input of no known rank or type and for
    an opset older than 17, and ``DataError`` for a scale that is not positive and finite, for one
    of what is no input of the graph, and for ``timesteps`` that are no whole number from 1 to 2^24.
    """
    timesteps = require_whole("timesteps", timesteps, 1, neurons.MOST_COUNTED)
    if not isinstance(scales, Mapping):
        raise DataError(f"scales are a mapping of inputs to the largest |x|, not {scales!r}")
    for name, scale in scales.items():
        if not is_number(scale) or scale <= 0:
            raise DataError(f"the scale of the input '{name}' must be positive, not {scale}")
    neurons.require_neuron_opset(graph)
    inputs = {tensor.name: tensor for tensor in neurons.inputs_besides_states(graph)}
    require_named("input", scales, inputs)
    wanted = [tensor for name, tensor in inputs.items() if name in scales]
    fresh = [t for t in wanted if all(node.op != "SwitchCoder" for node in t.outputs)]
    _require_codable(graph, fresh)
    rounded = {tensor.name: _in_type_of(tensor, scales[tensor.name]) for tensor in fresh}
    editor = StateEditor(graph)
    for tensor in fresh:
        coded = gs.Variable(editor.name(f"{tensor.name}/coded"), tensor.dtype, tensor.shape)
        replace_uses(tensor, coded)
        full = rounded[tensor.name]
        attributes = {
            "scale": neurons.attribute_tensor(full),
            "timesteps": neurons.attribute_tensor(np.asarray(timesteps, full.dtype)),
        }
        add_counting(editor, "SwitchCoder", coded.name, [tensor], coded, attributes)
    tidy(graph)
    return bool(fresh)


def _in_type_of(tensor: gs.Variable, scale: float) -> np.ndarray:
    """The scale of an input in the type of its sums; raises ``DataError`` where that has none."""
    with np.errstate(over="ignore"):
        value = np.asarray(float(scale)).astype(neurons.sum_type(np.dtype(tensor.dtype)))
    if not np.isfinite(value) or value <= 0:
        raise DataError(
            f"the scale of the input '{tensor.name}' must be positive and finite in {value.dtype}, "
            f"not {scale}"
        )
    return value


def _require_codable(graph: gs.Graph, inputs: list[gs.Variable]) -> None:
    for tensor in inputs:
        if tensor.shape is None or tensor.dtype is None or not is_floating(tensor):
            raise ModelError(
                f"the input '{tensor.name}' is no floating-point tensor of known rank, which a "
                "switch could stand for: take a recipe other than tsc, or export the model with one"
            )
    before = {refusal.node for refusal in nonlinear_nodes(graph)}
    refusals = [r for r in nonlinear_nodes(graph, sources=inputs) if r.node not in before]
    if refusals:
        reasons = {node.name: _NO_NEURON for node in activation_nodes(graph)}
        reasons |= {refusal.node: _NO_MEAN for refusal in refusals if refusal.op in MAX_POOLS}
        raise UnsupportedModelError(
            "these nodes before the first neurons are in the way of a coded input:",
            [replace(other, reason=reasons.get(other.node, other.reason)) for other in refusals],
        )
