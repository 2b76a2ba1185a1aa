"""Write every piecewise linear activation as a sum of ReLUs and clips from 0."""

from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.activations import is_non_negative, relu_of_min
from onnx2snn.graph_passes.graph.bounds import clip_bounds
from onnx2snn.graph_passes.graph.broadcasting import constant_fits
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_value,
    is_floating,
    producer,
    replace_node,
    require_opset,
    type_of,
    variables_of,
)
from onnx2snn.graph_passes.graph.ranges import Range, ranges_of
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import rewrite_nodes

from .far_numbers import far_tensors, is_near


def decompose_activations(graph: gs.Graph) -> bool:
    """Activations that are piecewise linear -> ReLU(x), clip(x; 0, theta), sums of them.

        LeakyRelu, PRelu (slope a)   ->  ReLU(x) - a ReLU(-x)
        Abs                          ->  ReLU(x) + ReLU(-x)
        HardSigmoid (alpha, beta)    ->  clip(alpha x + beta; 0, 1)
        clip(x; a, b), a < 0 < b     ->  clip(x; 0, b) - clip(-x; 0, -a)
        clip(x; a, b), 0 <= a        ->  a + clip(x - a; 0, b - a)
        clip(x; a, b), b <= 0        ->  b - clip(b - x; 0, b - a)
        Max(x, a), a < 0             ->  ReLU(x) - clip(-x; 0, -a)
        Min(x, b), b > 0             ->  clip(x; 0, b) - ReLU(-x); no ReLU(-x) where x >= 0
        Max(x, a), Min(x, b), else   ->  a + ReLU(x - a),  b - ReLU(b - x)
        Max(x, y), Min(x, y)         ->  y + ReLU(x - y),  y - ReLU(y - x)
        ThresholdedRelu (alpha > 0)  ->  ThresholdedRelu(ReLU(x)); ReLU(x) where alpha is 0

    An infinite bound gives a ReLU for the clip, and one for each channel Min(ReLU(x), b). Each
    ReLU and clip becomes a population of neurons, those of either sign with thresholds that no
    bound enlarges; the last form lets spikes reach the ThresholdedRelu, which can count them. y is
    the one of two that no mask fills with numbers far from 0, beside which others would be lost in
    the sum, and that is no logarithm of what may be 0, which is minus infinity; where such are in
    both, or among constants of which some are below 0 and others above, and where the type is not
    known, all stays.
    """
    require_opset(graph)
    if any(type_of(node) is None for node in graph.nodes if node.op in _OPS):
        infer_shapes(graph)
    of_two = any(n.op in ("Max", "Min") and len(variables_of(n)) == 2 for n in graph.nodes)
    bounding = any(n.op in ("Clip", "Max", "Min") for n in graph.nodes)
    ranges = ranges_of(graph) if bounding else dict[str, Range]()
    far = far_tensors(graph, ranges) if of_two else set[str]()
    positive = {name for name, (low, _) in ranges.items() if low >= 0}
    return rewrite_nodes(graph, partial(_decompose, far=far, positive=positive))


_OPS = ("Abs", "Clip", "HardSigmoid", "LeakyRelu", "Max", "Min", "PRelu", "ThresholdedRelu")


def _decompose(editor: Editor, node: gs.Node, far: set[str], positive: set[str]) -> bool:
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
            replace_node(node, "Add", _parts(editor, node, node.inputs[0]))
            return True
        case "HardSigmoid":
            _hard_sigmoid(editor, node)
            return True
        case "Clip":
            low, high = clip_bounds(node)
            if low < 0 < high < np.inf and node.inputs[0].name in positive:
                bounds = editor.bounds(node.name, 0, high, type_of(node))
                replace_node(node, "Clip", [node.inputs[0], *bounds])
                return True
            if low < high and not (low == 0 and np.isfinite(high)):
                _clip(editor, node, float(low), float(high))
                return True
        case "Max" | "Min" if len(node.inputs) == 2:
            constants = [v for t in node.inputs if (v := constant_value(t)) is not None]
            fits = all(constant_fits(v, t) for v in constants for t in variables_of(node))
            two = _base_last(node, far)
            if two and fits and relu_of_min(editor.graph, node) is None:
                return _larger_or_smaller(editor, node, *two, two[0].name in positive)
        case "ThresholdedRelu" if node.attrs.get("alpha", 1.0) == 0:
            replace_node(node, "Relu", node.inputs)
            return True
        case "ThresholdedRelu" if node.attrs.get("alpha", 1.0) > 0:
            before = producer(node.inputs[0])
            if before is None or not is_non_negative(editor.graph, before):
                node.inputs[0] = _relu_or_clip(editor, node, "positive", node.inputs[0])
                return True
    return False


def _like(node: gs.Node) -> gs.Tensor:
    """A stand-in for the dtype and shape of a node's result."""
    return gs.Variable("", type_of(node), node.outputs[0].shape)


def _constant(editor: Editor, node: gs.Node, name: str, value: object) -> gs.Constant:
    return editor.constant(f"{node.name}/{name}", np.asarray(value, type_of(node)))


def _relu_or_clip(
    editor: Editor, node: gs.Node, name: str, x: gs.Tensor, theta: float | np.ndarray = np.inf
) -> gs.Tensor:
    if np.all(np.isinf(theta)):
        return editor.node("Relu", f"{node.name}/{name}", [x], like=_like(node))
    if np.ndim(theta):
        relu = editor.node("Relu", f"{node.name}/{name}/relu", [x], like=_like(node))
        bound = _constant(editor, node, f"{name}/max", theta)
        return editor.node("Min", f"{node.name}/{name}", [relu, bound], like=_like(node))
    bounds = editor.bounds(f"{node.name}/{name}", 0, theta, type_of(node))
    return editor.node("Clip", f"{node.name}/{name}", [x, *bounds], like=_like(node))


def _parts(
    editor: Editor,
    node: gs.Node,
    x: gs.Tensor,
    high: float | np.ndarray = np.inf,
    low: float | np.ndarray = -np.inf,
) -> list[gs.Tensor]:
    """clip(x; 0, high) and clip(-x; 0, -low)."""
    positive = _relu_or_clip(editor, node, "positive", x, high)
    minus = editor.node("Neg", f"{node.name}/minus", [x], like=_like(node))
    return [positive, _relu_or_clip(editor, node, "negative", minus, -low)]


def _leaky(editor: Editor, node: gs.Node, slope: float | np.ndarray) -> None:
    positive, negative = _parts(editor, node, node.inputs[0])
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
        replace_node(node, "Sub", _parts(editor, node, x, high, low))
    elif low >= 0:
        _above(editor, node, x, _constant(editor, node, "low", low), high - low)
    else:
        _below(editor, node, x, _constant(editor, node, "high", high), high - low)


def _larger_or_smaller(
    editor: Editor, node: gs.Node, x: gs.Tensor, base: gs.Tensor, positive: bool
) -> bool:
    """Rewrite the Max or Min of x and a base; False where a far base would swallow x."""
    bound = constant_value(base)
    if bound is not None and positive and node.op == "Min" and np.all(bound > 0):
        relu = editor.node("Relu", f"{node.name}/relu", [x], like=_like(node))
        replace_node(node, "Min", [relu, base])
        return True
    if bound is not None and np.all(bound < 0 if node.op == "Max" else bound > 0):
        low, high = (bound, np.inf) if node.op == "Max" else (-np.inf, bound)
        replace_node(node, "Sub", _parts(editor, node, x, high, low))
        return True
    # As where some channels have no bound.
    if bound is not None and not is_near(bound):
        return False
    write = _above if node.op == "Max" else _below
    write(editor, node, x, base)
    return True


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
