"""Write every piecewise linear activation as a sum of ReLUs and clips from 0."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.activations import is_non_negative, relu_of_min
from onnx2snn.graph_passes.graph.bounds import clip_bounds
from onnx2snn.graph_passes.graph.broadcasting import constant_fits
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_value,
    is_floating,
    known_value,
    one_number,
    producer,
    replace_node,
    require_opset,
    type_of,
    variables_of,
)
from onnx2snn.graph_passes.graph.ranges import ANY, Range, range_of
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy


def decompose_activations(graph: gs.Graph) -> bool:
    """Activations that are piecewise linear -> ReLU(x), clip(x; 0, theta), sums of them.

        LeakyRelu, PRelu (slope a)   ->  ReLU(x) - a ReLU(-x)
        Abs                          ->  ReLU(x) + ReLU(-x)
        HardSigmoid (alpha, beta)    ->  clip(alpha x + beta; 0, 1)
        clip(x; a, b), a < 0 < b     ->  clip(x; 0, b) - clip(-x; 0, -a)
        clip(x; a, b), 0 <= a        ->  a + clip(x - a; 0, b - a)
        clip(x; a, b), b <= 0        ->  b - clip(b - x; 0, b - a)
        Max(x, a), Min(x, b)         ->  a + ReLU(x - a),  b - ReLU(b - x)
        Max(x, y), Min(x, y)         ->  y + ReLU(x - y),  y - ReLU(y - x)
        ThresholdedRelu (alpha > 0)  ->  ThresholdedRelu(ReLU(x)); ReLU(x) where alpha is 0

    An infinite bound gives a ReLU for the clip. Each ReLU and clip becomes a population of
    neurons; the last form lets spikes reach the ThresholdedRelu, which can count them. y is the one
    of two that no mask fills with numbers far from 0, beside which others would be lost in the
    sum, and that is no logarithm of what may be 0, which is minus infinity; where such are in both,
    and where the type is not known, all stays.
    """
    require_opset(graph)
    if any(type_of(node) is None for node in graph.nodes if node.op in _OPS):
        infer_shapes(graph)
    editor, far = Editor(graph), _far_tensors(graph)
    changed = False
    for node in list(graph.nodes):
        changed |= _decompose(editor, node, far)
    if changed:
        tidy(graph)
    return changed


_OPS = ("Abs", "Clip", "HardSigmoid", "LeakyRelu", "Max", "Min", "PRelu", "ThresholdedRelu")


_BOUNDED = {
    "Celu", "Elu", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "Selu", "Softplus",
}  # fmt: skip
"""What makes numbers near 0, or infinity, of numbers far below 0, besides what has a range."""

_LAYERS = {
    "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "RNN",
}  # fmt: skip
"""What no network feeds with numbers as masks have them: all that it makes would be far."""

_FACTORS = {
    **dict.fromkeys((*_LAYERS, "Div", "Mul"), (0, 1)),
    "BatchNormalization": (1, 3, 4),
}
"""By operator, the places of what others are multiplied or divided by, or made near to 0 by."""


_LEAST_MASK, _LEAST_MADE = 1e6, 1e4
"""From where on a number is a mask's, and one that is made of 0 and 1.

Beside less, as -1e4, float32 still tells numbers apart.
"""


def _far_tensors(graph: gs.Graph) -> set[str]:
    """The names of tensors in which there may be numbers far from 0, as masks take them and
    logarithms of 0 are.

    None where no node has use for them.
    """
    found: set[str] = set()
    if not any(node.op in ("Max", "Min") and len(variables_of(node)) == 2 for node in graph.nodes):
        return found
    ranges: dict[str, Range] = {}
    for node in graph.nodes:
        for tensor in node.outputs[:1]:
            ranges[tensor.name] = range_of(graph, node, ranges)
        if not node.outputs or not is_floating(node.outputs[0]):
            continue
        own = ranges[node.outputs[0].name]
        if not node.domain and (
            node.op in _BOUNDED or max(map(abs, own)) < _limit(node.outputs[0].dtype)
        ):
            continue
        passed = node.op not in _LAYERS and any(tensor.name in found for tensor in node.inputs)
        if passed or _takes_far(node, own, ranges):
            found.update(tensor.name for tensor in node.outputs)
    return found


def _takes_far(node: gs.Node, own: Range, ranges: dict[str, Range]) -> bool:
    """Whether a node takes numbers as far from 0 as those of masks, or makes such."""
    if node.domain:
        # What others do with a constant is not known.
        return False
    made = _known_numbers(node.outputs[0])
    if made is not None:
        return _largest(made) >= _limit(made.dtype)
    match node.op:
        case "Clip":
            # A far bound is none.
            return False
        case "Log":
            return ranges.get(node.inputs[0].name, ANY)[0] <= 0
        case "Cast" | "Div" | "Mul" if _LEAST_MADE <= max(map(abs, own)) < np.inf:
            # Of a mask, whose numbers are known to be 0 or 1.
            return True
    factors = _FACTORS.get(node.op, ())
    for place, tensor in enumerate(node.inputs):
        value = _known_numbers(tensor)
        if value is None:
            continue
        # A scale leaves large numbers beside large ones, unless it is as large as what masks take.
        if place not in factors:
            far = _largest(value) >= _limit(value.dtype)
        else:
            makes = node.op == "Mul" and _largest(value) >= _LEAST_MASK
            far = makes or not _is_no_mask(value)
        if far:
            return True
    return False


def _known_numbers(tensor: gs.Tensor) -> np.ndarray | None:
    """The floating-point numbers of a constant, or the one that a tensor holds everywhere."""
    value = known_value(tensor)
    value = one_number(tensor) if value is None else value
    return value if value is not None and value.dtype.kind == "f" else None


def _largest(values: np.ndarray) -> float:
    return float(np.max(np.abs(values), initial=0))


def _limit(dtype: np.dtype | None) -> float:
    """From where on numbers leave too little of others beside them, or of what V_th they make."""
    return min(_most_beside(dtype), _LEAST_MASK)


def _most_beside(dtype: np.dtype | None) -> float:
    """The most that a number may be for x to survive a sum with it."""
    return float(2.0 ** (np.finfo(dtype or np.float32).nmant - 3))


def _decompose(editor: Editor, node: gs.Node, far: set[str]) -> bool:
    """Rewrite a node; False if it is no activation, or canonical already."""
    # What is of whole numbers is no activation; an unknown type does not tell that of constants.
    floating = all(is_floating(tensor) for tensor in (*node.inputs, *node.outputs))
    if node.domain or not node.inputs or not floating or type_of(node) is None:
        return False
    match node.op:
        case "LeakyRelu":
            _leaky(editor, node, node.attrs.get("alpha", 0.01))
            return True
        case "PRelu":
            slope = constant_value(node.inputs[1])
            if (
                slope is not None
                and np.all(np.isfinite(slope))
                and constant_fits(slope, node.inputs[0])
            ):
                _leaky(editor, node, slope)
                return True
        case "Abs":
            replace_node(node, "Add", _parts(editor, node))
            return True
        case "HardSigmoid":
            _hard_sigmoid(editor, node)
            return True
        case "Clip":
            low, high = clip_bounds(node)
            if low < high and not (low == 0 and np.isfinite(high)):
                _clip(editor, node, float(low), float(high))
                return True
        case "Max" | "Min" if len(node.inputs) == 2:
            constants = [v for t in node.inputs if (v := constant_value(t)) is not None]
            near = all(_is_near(value) for value in constants)
            fits = all(constant_fits(v, t) for v in constants for t in variables_of(node))
            two = _base_last(node, far)
            if two and near and fits and relu_of_min(editor.graph, node) is None:
                write = _above if node.op == "Max" else _below
                write(editor, node, *two)
                return True
        case "ThresholdedRelu" if node.attrs.get("alpha", 1.0) == 0:
            replace_node(node, "Relu", node.inputs)
            return True
        case "ThresholdedRelu" if node.attrs.get("alpha", 1.0) > 0:
            before = producer(node.inputs[0])
            if before is None or not is_non_negative(editor.graph, before):
                node.inputs[0] = _relu_or_clip(editor, node, "positive", node.inputs[0])
                return True
    return False


def _is_near(bound: np.ndarray) -> bool:
    """Whether x survives a sum with it: far bounds, as of channels that have none, swallow x."""
    return bool(np.all(np.abs(bound) <= _most_beside(bound.dtype)))


def _is_no_mask(scale: np.ndarray) -> bool:
    return bool(np.all(np.abs(scale) < min(2.0**29, float(np.finfo(scale.dtype).max) / 2)))


def _like(node: gs.Node) -> gs.Tensor:
    """A stand-in for the dtype and shape of a node's result."""
    return gs.Variable("", type_of(node), node.outputs[0].shape)


def _constant(editor: Editor, node: gs.Node, name: str, value: object) -> gs.Constant:
    return editor.constant(f"{node.name}/{name}", np.asarray(value, type_of(node)))


def _relu_or_clip(
    editor: Editor, node: gs.Node, name: str, x: gs.Tensor, theta: float = np.inf
) -> gs.Tensor:
    if np.isinf(theta):
        return editor.node("Relu", f"{node.name}/{name}", [x], like=_like(node))
    bounds = editor.bounds(f"{node.name}/{name}", 0, theta, type_of(node))
    return editor.node("Clip", f"{node.name}/{name}", [x, *bounds], like=_like(node))


def _parts(
    editor: Editor, node: gs.Node, high: float = np.inf, low: float = -np.inf
) -> list[gs.Tensor]:
    """clip(x; 0, high) and clip(-x; 0, -low)."""
    x = node.inputs[0]
    positive = _relu_or_clip(editor, node, "positive", x, high)
    minus = editor.node("Neg", f"{node.name}/minus", [x], like=_like(node))
    return [positive, _relu_or_clip(editor, node, "negative", minus, -low)]


def _leaky(editor: Editor, node: gs.Node, slope: float | np.ndarray) -> None:
    positive, negative = _parts(editor, node)
    scale = _constant(editor, node, "slope", slope)
    leak = editor.node("Mul", f"{node.name}/leak", [negative, scale], like=_like(node))
    replace_node(node, "Sub", [positive, leak])


def _hard_sigmoid(editor: Editor, node: gs.Node) -> None:
    alpha = _constant(editor, node, "alpha", node.attrs.get("alpha", 0.2))
    beta = _constant(editor, node, "beta", node.attrs.get("beta", 0.5))
    scaled = editor.node("Mul", f"{node.name}/scaled", [node.inputs[0], alpha], like=_like(node))
    shifted = editor.node("Add", f"{node.name}/shifted", [scaled, beta], like=_like(node))
    replace_node(node, "Clip", [shifted, *editor.bounds(node.name, 0, 1, type_of(node))])


def _clip(editor: Editor, node: gs.Node, low: float, high: float) -> None:
    x = node.inputs[0]
    if low < 0 < high:
        replace_node(node, "Sub", _parts(editor, node, high, low))
    elif low >= 0:
        _above(editor, node, x, _constant(editor, node, "low", low), high - low)
    else:
        _below(editor, node, x, _constant(editor, node, "high", high), high - low)


def _above(
    editor: Editor, node: gs.Node, x: gs.Tensor, low: gs.Tensor, theta: float = np.inf
) -> None:
    """Low + clip(x - low; 0, theta)."""
    excess = editor.node("Sub", f"{node.name}/excess", [x, low], like=_like(node))
    replace_node(node, "Add", [_relu_or_clip(editor, node, "above", excess, theta), low])


def _below(
    editor: Editor, node: gs.Node, x: gs.Tensor, high: gs.Tensor, theta: float = np.inf
) -> None:
    """High - clip(high - x; 0, theta)."""
    missing = editor.node("Sub", f"{node.name}/missing", [high, x], like=_like(node))
    replace_node(node, "Sub", [high, _relu_or_clip(editor, node, "below", missing, theta)])


def _base_last(node: gs.Node, far: set[str]) -> tuple[gs.Tensor, gs.Tensor] | None:
    """The operands, that which the other is added to last: a constant, or one that is not far.

    None where there is none, or both are constant.
    """
    a, b = node.inputs
    if isinstance(a, gs.Constant) or (b.name in far and not isinstance(b, gs.Constant)):
        a, b = b, a
    return None if isinstance(a, gs.Constant) or b.name in far else (a, b)
