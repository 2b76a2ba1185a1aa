"""Let clips stand for quantised activations: neurons round in their place."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .editing import (
    Editor,
    fits,
    is_floating,
    known_value,
    leave_out,
    only_consumer,
    optional_input,
    producer,
    replace_node,
    require_opset,
    tidy,
    type_of,
)
from .io import infer_shapes
from .limits import WEIGHTED
from .linear import before_weights, downstream
from .thresholds import is_non_negative

_STEPS = {"Round": 0.0, "Floor": -0.5, "Ceil": 0.5}
"""What each adds to z, on average over one of its steps."""

_TYPES = onnx.TensorProto
_RANGES = {
    _TYPES.UINT4: (0, 15), _TYPES.UINT8: (0, 255), _TYPES.UINT16: (0, 65535),
    _TYPES.INT4: (-8, 7), _TYPES.INT8: (-128, 127), _TYPES.INT16: (-32768, 32767),
}  # fmt: skip

_POSITIVE = {"Abs", "Exp", "HardSigmoid", "Sigmoid", "Softmax", "Softplus", "Sqrt"}
_POSITIVE_IF_ALL_ARE = {"Add", "Concat", "Sum"}
_POSITIVE_IF_FIRST_IS = {
    "AveragePool", "Dropout", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity",
    "MaxPool", "ReduceMean", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def unquantize_activations(graph: gs.Graph) -> bool:
    """Quantised activations -> the clips along which they step.

        Round(z), Floor(z), Ceil(z)            ->  z, z - 1/2, z + 1/2
        x + (Round(z) - x)                     ->  z
        DequantizeLinear(QuantizeLinear(x))    ->  clip(x; 0, largest), or x

    So theta / L clip(floor(x L / theta + 1/2); 0, L), the activation of networks that are trained
    for L time-steps (Bu et al., ICLR 2022), becomes clip(x; 0, theta), however it is spelled: a
    neuron with v(0) = V_th/2 rounds to T levels itself. The second form is how gradients are led
    past the rounding in training.

    Rounding goes where it lies between two layers of weights, quantisation with one scale
    wherever it is behind one. It is an activation where its levels begin at 0, since quantisers
    fold ReLUs into that, or where a Relu or Clip is right before it. Any other, as of sums, or of
    what cannot be negative, is left out together with its bounds.
    """
    require_opset(graph)
    if any(type_of(node) is None for node in graph.nodes if node.op in _STEPS):
        infer_shapes(graph)
    layers = [node for node in graph.nodes if node.op in WEIGHTED]
    behind = downstream(graph, [tensor for node in layers for tensor in node.outputs])
    between = behind & before_weights(graph)
    editor, changed = Editor(graph), False
    positive, clips = set[str](), dict[tuple[str, float], gs.Tensor]()
    for node in list(graph.nodes):
        if node.domain or not node.outputs or node.outputs[0].name not in behind:
            continue
        name = node.outputs[0].name
        if node.op == "DequantizeLinear":
            changed |= _leave_out_levels(graph, editor, node, positive, clips)
        elif node.op in _STEPS and name in between:
            changed |= _leave_out_steps(graph, editor, node)
        if node.outputs and _is_positive(graph, node, positive):
            positive.add(name)
    if changed:
        tidy(graph)
    return changed


def _is_positive(graph: gs.Graph, node: gs.Node, positive: set[str]) -> bool:
    """Whether a node makes no negative numbers, as far as is known of what it reads."""
    read = [tensor.name in positive for tensor in node.inputs]
    return (
        is_non_negative(graph, node)
        or node.op in _POSITIVE
        or (node.op in _POSITIVE_IF_ALL_ARE and all(read))
        or (node.op in _POSITIVE_IF_FIRST_IS and read[0])
    )


def _leave_out_steps(graph: gs.Graph, editor: Editor, node: gs.Node) -> bool:
    """Round(z) -> z, and so on; False for what is of an unknown type, or of whole numbers."""
    z, stepped, dtype = node.inputs[0], node.outputs[0], type_of(node)
    if dtype is None or not is_floating(z):
        return False
    for reader in [r for r in stepped.outputs if r.op == "Sub" and r.inputs[0] is stepped]:
        added = only_consumer(graph, reader.outputs[0])
        again = added is not None and any(x is reader.inputs[1] for x in added.inputs)
        if added is not None and again and added.op == "Add":
            leave_out(graph, added, stepped)
    shift = _STEPS[node.op]
    if not shift:
        leave_out(graph, node, z)
    elif (unshifted := _without(z, -shift)) is not None:
        leave_out(graph, node, unshifted)
    else:
        replace_node(node, "Add", [z, editor.constant(f"{node.name}/mean", dtype.type(shift))])
    return True


def _without(z: gs.Tensor, shift: float) -> gs.Tensor | None:
    """The x of z = x + shift; None if z is made in another way."""
    maker = producer(z)
    if maker is None or maker.op != "Add" or maker.domain:
        return None
    for x, added in (maker.inputs, maker.inputs[::-1]):
        value = known_value(added)
        if value is not None and np.all(value == shift) and fits(value.shape, x.shape):
            return x
    return None


def _leave_out_levels(
    graph: gs.Graph,
    editor: Editor,
    node: gs.Node,
    positive: set[str],
    clips: dict[tuple[str, float], gs.Tensor],
) -> bool:
    """Q and DQ -> a clip, the one in ``clips`` that is the same if there is one, or nothing."""
    found = _levels_of(node)
    if found is None:
        return False
    x, low, high = found
    maker = producer(x)
    cut = maker is not None and maker.op in ("Relu", "Clip") and is_non_negative(graph, maker)
    if not cut and (low < 0 or x.name in positive):
        leave_out(graph, node, x)
    elif (x.name, float(high)) in clips:
        leave_out(graph, node, clips[x.name, float(high)])
    else:
        bounds = {"min": np.zeros_like(high), "max": high}
        constants = [editor.constant(f"{node.name}/{key}", bounds[key]) for key in bounds]
        replace_node(node, "Clip", [x, *constants])
        clips[x.name, float(high)] = node.outputs[0]
    return True


def _levels_of(node: gs.Node) -> tuple[gs.Tensor, np.ndarray, np.ndarray] | None:
    """What a DequantizeLinear turns back into numbers, and its least and largest level, [].

    None if that was not quantised by the same scale, one for all, or to a type not known here.
    """
    lows, highs = [-np.inf], [np.inf]
    maker = producer(node.inputs[0])
    while maker is not None and maker.op == "Clip":
        # To fewer bits than the type has.
        lows.append(_number(maker, 1, -np.inf))
        highs.append(_number(maker, 2, np.inf))
        maker = producer(maker.inputs[0])
    if maker is None or maker.op != "QuantizeLinear":
        return None
    (scale, zero), other = ([_number(n, place, 0) for place in (1, 2)] for n in (node, maker))
    if any(number is None for number in (scale, zero, *lows, *highs)) or [scale, zero] != other:
        return None
    kind = maker.attrs.get("output_dtype", 0) or _TYPES.UINT8
    if optional_input(maker, 2) is not None:
        kind = onnx.helper.np_dtype_to_tensor_dtype(zero.dtype)
    if kind not in _RANGES:
        return None
    levels = max(*lows, _RANGES[kind][0]), min(*highs, _RANGES[kind][1])
    low, high = (np.asarray((level - int(zero)) * scale, scale.dtype) for level in levels)
    return maker.inputs[0], low, high


def _number(node: gs.Node, place: int, default: float) -> Any:
    """An input that is one number, ``default`` where it is left out; None for any other."""
    given = optional_input(node, place)
    value = np.asarray(default) if given is None else known_value(given)
    return value.reshape(-1)[0] if value is not None and value.size == 1 else None
