"""Write what ONNX Runtime's optimiser fuses as the operators that it was."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    Editor,
    is_used,
    optional_input,
    replace_node,
    require_opset,
    type_of,
    until_done,
)
from onnx2snn.graph_passes.graph.operators import LAYER_NORMALIZATION
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy

_PARAMETERS = {
    "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",),
    "Selu": ("alpha", "gamma"), "ThresholdedRelu": ("alpha",),
}  # fmt: skip
"""The attributes of activations that have any, in the order in which a FusedConv has them."""

_SIXTEEN_BITS = 21
"""The opset in which QuantizeLinear makes as many."""

_HALVES = 19
"""The opset in which it takes numbers of 16 bits."""

_EPSILON = 1e-12
"""Of a normalization that says none."""


def split_fused_layers(graph: gs.Graph) -> bool:
    """What ONNX Runtime's optimiser fused -> the operators that it was.

        FusedConv(x, w, b, z)        ->  f(Conv(x, w, b) + z), f its activation
        FusedGemm(a, b, c)           ->  f(Gemm(a, b, c))
        FusedMatMul(a, b)            ->  alpha MatMul(a', b'), these transposed as it says
        Gelu(x), BiasGelu(x, b)      ->  x (1 + erf(x / sqrt(2))) / 2, of x + b
        FastGelu(x, b)               ->  x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
        QuickGelu(x)                 ->  x Sigmoid(alpha x)
        SkipLayerNormalization(x, s) ->  LayerNormalization(x + s)
        SkipSimplifiedLayerNormalization(x, s)  ->  x + s over the root of its mean square
        EmbedLayerNormalization(i, j, w, p, s)  ->  LayerNormalization(w[i] + p[place] + s[j])

    Operators of the domain com.microsoft, as they are in a file that ONNX Runtime saved
    (``optimized_model_filepath``) or that its tool for transformers wrote. QuantizeLinear and
    DequantizeLinear of that domain become ONNX's.
    """
    require_opset(graph)
    # What one makes may be of a rank that only then is known.
    return until_done(_split_once, graph)


def _split_once(graph: gs.Graph) -> bool:
    found = [n for n in graph.nodes if n.domain == "com.microsoft" and n.op in _SPLITS]
    if not found:
        return False
    if any(type_of(node) is None for node in found):
        infer_shapes(graph)
    editor, changed = Editor(graph), False
    for node in found:
        # What is split before it may tell its type, in the next turn.
        if not changed or type_of(node) is not None:
            changed |= _SPLITS[node.op](editor, node)
    if changed:
        tidy(graph)
        # Of the operators of ONNX Runtime's own it is not known what they make.
        infer_shapes(graph)
    return changed


def _convolution(editor: Editor, node: gs.Node) -> bool:
    attrs = {n: v for n, v in node.attrs.items() if n not in ("activation", "activation_params")}
    inputs, z = list(node.inputs[:3]), optional_input(node, 3)
    op, given = node.attrs.get("activation", ""), node.attrs.get("activation_params", [])
    made = editor.node("Conv", f"{node.name}/layer", inputs, attrs)
    if z is not None:
        made = editor.node("Add", f"{node.name}/sum", [made, z])
    if op == "Clip":
        kind = type_of(node) or np.float32
        bounds = [editor.constant(f"{node.name}/bound", np.asarray(v, kind)) for v in given]
        replace_node(node, op, [made, *bounds])
    else:
        values = dict(zip(_PARAMETERS.get(op, ()), given, strict=False))
        replace_node(node, op or "Identity", [made], values)
    return True


def _dense(editor: Editor, node: gs.Node) -> bool:
    attrs = {n: v for n, v in node.attrs.items() if not n.startswith("activation")}
    op = node.attrs.get("activation", "")
    given = {name: f"activation_{name}" for name in _PARAMETERS.get(op, ())}
    values = {name: node.attrs[key] for name, key in given.items() if key in node.attrs}
    made = editor.node("Gemm", f"{node.name}/layer", list(node.inputs), attrs)
    replace_node(node, op or "Identity", [made], values)
    return True


def _product(editor: Editor, node: gs.Node) -> bool:
    orders = []
    for x, of in zip(node.inputs, "AB", strict=True):
        swaps, turns = (bool(node.attrs.get(f"{how}{of}", 0)) for how in ("trans", "transBatch"))
        if x.shape is None and (swaps or turns):
            return False
        order = list(range(len(x.shape or ())))
        if turns:
            order = [*order[1:-1], order[0], order[-1]]
        if swaps and len(order) > 1:
            order[-2:] = order[:-3:-1]
        orders.append(order)
    factors = [
        editor.node("Transpose", f"{node.name}/{place}", [x], {"perm": order})
        if order != sorted(order)
        else x
        for place, (x, order) in enumerate(zip(node.inputs, orders, strict=True))
    ]
    alpha = node.attrs.get("alpha", 1.0)
    if alpha != 1:
        # Not behind it: what scales a factor is affine, also where both are activations.
        number = _number(editor, node, "alpha", alpha)
        factors[0] = editor.node("Mul", f"{node.name}/scaled", [factors[0], number])
    replace_node(node, "MatMul", factors)
    return True


def _gelu(editor: Editor, node: gs.Node) -> bool:
    x = _with_bias(editor, node)
    scaled = editor.node("Div", f"{node.name}/scaled", [x, _number(editor, node, "root", 2**0.5)])
    bent = editor.node("Erf", f"{node.name}/erf", [scaled])
    return _gate(editor, node, x, bent)


def _fast_gelu(editor: Editor, node: gs.Node) -> bool:
    x = _with_bias(editor, node)
    cube = editor.node("Pow", f"{node.name}/cube", [x, _number(editor, node, "three", 3.0)])
    numbers = [_number(editor, node, *n)
               for n in (("of_cube", 0.044715), ("slope", math.sqrt(2 / math.pi)))]  # fmt: skip
    cube = editor.node("Mul", f"{node.name}/scaled_cube", [cube, numbers[0]])
    inner = editor.node("Add", f"{node.name}/sum", [x, cube])
    inner = editor.node("Mul", f"{node.name}/inner", [inner, numbers[1]])
    return _gate(editor, node, x, editor.node("Tanh", f"{node.name}/tanh", [inner]))


def _gate(editor: Editor, node: gs.Node, x: gs.Tensor, bent: gs.Tensor) -> bool:
    """Scale x by (1 + bent) / 2."""
    gate = editor.node("Add", f"{node.name}/gate", [bent, _number(editor, node, "one", 1.0)])
    gated = editor.node("Mul", f"{node.name}/gated", [x, gate])
    replace_node(node, "Mul", [gated, _number(editor, node, "half", 0.5)])
    return True


def _quick_gelu(editor: Editor, node: gs.Node) -> bool:
    x, alpha = node.inputs[0], node.attrs.get("alpha", 1.702)
    inner = x
    if alpha != 1:
        number = _number(editor, node, "alpha", alpha)
        inner = editor.node("Mul", f"{node.name}/scaled", [x, number])
    replace_node(node, "Mul", [x, editor.node("Sigmoid", f"{node.name}/gate", [inner])])
    return True


def _with_bias(editor: Editor, node: gs.Node) -> gs.Tensor:
    bias = optional_input(node, 1)
    if bias is None:
        return node.inputs[0]
    return editor.node("Add", f"{node.name}/biased", [node.inputs[0], bias])


def _layer_normalization(editor: Editor, node: gs.Node) -> bool:
    if not _gives_sum_alone(editor, node) or editor.graph.opset < LAYER_NORMALIZATION:
        return False
    gamma, beta, bias = node.inputs[2], optional_input(node, 3), optional_input(node, 4)
    _normalise(node, [_sum(editor, node, bias), gamma, *([] if beta is None else [beta])])
    return True


def _normalise(node: gs.Node, inputs: list[gs.Tensor]) -> None:
    attrs = {"axis": -1, "epsilon": node.attrs.get("epsilon", _EPSILON)}
    replace_node(node, "LayerNormalization", inputs, attrs)


def _simplified_normalization(editor: Editor, node: gs.Node) -> bool:
    if not _gives_sum_alone(editor, node):
        return False
    gamma, bias = node.inputs[2], optional_input(node, 3)
    epsilon = _number(editor, node, "epsilon", node.attrs.get("epsilon", _EPSILON))
    whole = _sum(editor, node, bias)
    square = editor.node("Mul", f"{node.name}/square", [whole, whole])
    mean = editor.reduction("ReduceMean", f"{node.name}/mean", square)
    above = editor.node("Add", f"{node.name}/not_zero", [mean, epsilon])
    root = editor.node("Sqrt", f"{node.name}/root", [above])
    normal = editor.node("Div", f"{node.name}/normal", [whole, root])
    replace_node(node, "Mul", [normal, gamma])
    return True


def _gives_sum_alone(editor: Editor, node: gs.Node) -> bool:
    """Whether nothing reads the mean and the deviation that a normalization may hand on."""
    return not any(is_used(editor.graph, tensor) for tensor in node.outputs[1:3])


def _sum(editor: Editor, node: gs.Node, bias: gs.Tensor | None) -> gs.Tensor:
    """What is normalized, which the node may hand on as its fourth output."""
    whole = editor.node("Add", f"{node.name}/sum", node.inputs[:2])
    if bias is not None:
        whole = editor.node("Add", f"{node.name}/biased", [whole, bias])
    whole = _handed_on(editor, node, whole, 3)
    node.outputs = node.outputs[:1]
    return whole


def _handed_on(editor: Editor, node: gs.Node, made: gs.Variable, place: int) -> gs.Variable:
    """What is made instead of an output of a node, which it is then, if that is used.

    It keeps the output's name, as it may be one of the graph.
    """
    if len(node.outputs) <= place or not is_used(editor.graph, node.outputs[place]):
        return made
    maker, handed_on = made.inputs[0], node.outputs[place]
    del node.outputs[place]
    maker.outputs = [handed_on]
    return handed_on


def _embedding(editor: Editor, node: gs.Node) -> bool:
    words, kinds, of_words, of_places, of_kinds, gamma, beta, mask, places = (
        optional_input(node, place) for place in range(9)
    )
    counted = len(node.outputs) > 1 and is_used(editor.graph, node.outputs[1])
    if editor.graph.opset < LAYER_NORMALIZATION or words is None or (counted and mask is None):
        return False
    name = node.name
    parts = [editor.node("Gather", f"{name}/words", [of_words, words])]
    if places is not None:
        parts.append(editor.node("Gather", f"{name}/places", [of_places, places]))
    else:
        # As many as there are words.
        count = editor.node("Shape", f"{name}/count", [words], {"start": 1, "end": 2})
        zero = editor.constant(f"{name}/zero", np.array([0], np.int64))
        parts.append(editor.node("Slice", f"{name}/places", [of_places, zero, count, zero]))
    if kinds is not None and of_kinds is not None:
        parts.append(editor.node("Gather", f"{name}/kinds", [of_kinds, kinds]))
    whole = parts[0]
    for part in parts[1:]:
        whole = editor.node("Add", f"{name}/sum", [whole, part])
    whole = _handed_on(editor, node, whole, 2)
    if counted:
        one = editor.constant(f"{name}/one", np.array(1, np.int32))
        ones = editor.node("Equal", f"{name}/counts", [mask, one])
        ones = editor.node("Cast", f"{name}/ones", [ones], {"to": onnx.TensorProto.INT32})
        along = editor.constant(f"{name}/along", np.array([1], np.int64))
        length = editor.node("ReduceSum", f"{name}/length", [ones, along], {"keepdims": 0})
        _handed_on(editor, node, length, 1)
    node.outputs = node.outputs[:1]
    _normalise(node, [whole, gamma, beta])
    return True


def _quantiser(editor: Editor, node: gs.Node) -> bool:
    types = [tensor.dtype for tensor in (*node.inputs, *node.outputs)]
    since = _SIXTEEN_BITS if any(t in (np.uint16, np.int16) for t in types) else 0
    if editor.graph.opset < (since or _HALVES * any(t == np.float16 for t in types)):
        return False
    node.domain = None
    return True


def _number(editor: Editor, node: gs.Node, name: str, value: float) -> gs.Constant:
    return editor.constant(f"{node.name}/{name}", np.asarray(value, type_of(node) or np.float32))


_SPLITS: dict[str, Callable[[Editor, gs.Node], bool]] = {
    "BiasGelu": _gelu,
    "DequantizeLinear": _quantiser,
    "EmbedLayerNormalization": _embedding,
    "FastGelu": _fast_gelu,
    "FusedConv": _convolution,
    "FusedGemm": _dense,
    "FusedMatMul": _product,
    "Gelu": _gelu,
    "QuantizeLinear": _quantiser,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _layer_normalization,
    "SkipSimplifiedLayerNormalization": _simplified_normalization,
    "TransposeMatMul": _product,
}
