"""Write layers of whole numbers as layers of numbers between quantisers."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_input,
    constant_value,
    maker_of,
    optional_input,
    replace_node,
    require_opset,
)
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy

from .dynamic_layers import FUSED, PRODUCTS, fused_product, lstm_of_numbers, product_of_numbers


@dataclass(frozen=True)
class _Form:
    """How a layer of whole numbers names what it reads.

    ``op``: the layer of numbers. ``read``: the places of whole numbers, each followed by those of
    their scale and zero point. ``made``: the place of the scale of the result, followed by its zero
    point. ``bias``: the place of the bias in int32, whose scale is the product of the others.
    """

    op: str
    read: tuple[int, ...]
    made: int
    bias: int | None = None


_FORMS = {
    "QLinearConv": _Form("Conv", (0, 3), 6, bias=8),
    "QLinearMatMul": _Form("MatMul", (0, 3), 6),
    "QGemm": _Form("Gemm", (0, 3), 7, bias=6),
    "QLinearAdd": _Form("Add", (0, 3), 6),
    "QLinearMul": _Form("Mul", (0, 3), 6),
    "QLinearAveragePool": _Form("AveragePool", (0,), 3),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", (0,), 3),
    "QLinearLeakyRelu": _Form("LeakyRelu", (0,), 3),
    "QLinearSigmoid": _Form("Sigmoid", (0,), 3),
    "QLinearSoftmax": _Form("Softmax", (0,), 3),
}

_MOVING = {
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "ReduceMax",
    "ReduceMin", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
}  # fmt: skip
"""What makes of whole numbers others of the same scale (a Resize may round them)."""

_TOGETHER = {"Concat", "Max", "Min"}
"""The same, of several of one scale."""

_DYNAMIC = (*PRODUCTS, *FUSED, "DynamicQuantizeLSTM")
"""What reads numbers that are quantised anew in each run, which is left out."""

_IN_INTEGERS = 4
"""The accuracy at which MatMulNBits quantises what it reads."""


def quantises_anew(node: gs.Node) -> bool:
    """Whether a layer quantises what it reads anew in each run."""
    if not _is_known(node):
        return False
    in_integers = node.attrs.get("accuracy_level", 0) == _IN_INTEGERS
    return node.op in _DYNAMIC or (node.op == "MatMulNBits" and in_integers)


def _is_known(node: gs.Node) -> bool:
    """Whether it is an operator of ONNX's or of ONNX Runtime's, as its name then says."""
    standard = {*_MOVING, *_TOGETHER, *PRODUCTS}
    return not node.domain or (node.domain == "com.microsoft" and node.op not in standard)


def dequantize_layers(graph: gs.Graph) -> bool:
    """Layers of whole numbers -> layers of numbers, between QuantizeLinear and DequantizeLinear.

        QLinearConv(q, w, b)          ->  QuantizeLinear(Conv(DequantizeLinear(q),
                                              s_w (w - z_w), s_q s_w b))
        MaxPool(QuantizeLinear(x))    ->  QuantizeLinear(MaxPool(DequantizeLinear(...)))
        s s_w MatMulInteger(q, w)     ->  s_w MatMul(x, w - z_w)
            of q, s, z = DynamicQuantizeLinear(x)

    The first two are what ONNX Runtime's quantize_static writes as QOperator (besides QLinearConv:
    QLinearMatMul, QGemm, QLinearAdd, QLinearMul, QLinearAveragePool, QLinearGlobalAveragePool,
    QLinearConcat, QLinearLeakyRelu, QLinearSigmoid, QLinearSoftmax, and what only moves numbers);
    they keep the network's function, but where rounding decides between two levels, and where a
    pool rounds its size up and counts pads: ONNX Runtime's divides what hangs over by the whole
    window in whole numbers, and by the part on pads in others. The third is
    what its quantize_dynamic writes (also ConvInteger and DynamicQuantizeLSTM); what quantising x
    rounds is left out, as it is of MatMulNBits at accuracy 4. Layers stay whose scales are not
    constant, or whose channels are last.
    """
    require_opset(graph)
    editor, changed = Editor(graph), False
    for node in filter(_is_known, list(graph.nodes)):
        if node.op in _FORMS:
            changed |= _layer(editor, node, _FORMS[node.op])
        elif node.op == "QLinearConcat":
            changed |= _concatenate(editor, node)
        elif node.op == "DynamicQuantizeLSTM":
            changed |= lstm_of_numbers(editor, node)
        elif node.op in FUSED:
            changed |= fused_product(editor, node, *FUSED[node.op])
        elif node.op in (*_MOVING, *_TOGETHER) and node.inputs:
            changed |= _move(editor, node)
        elif node.op in PRODUCTS:
            changed |= product_of_numbers(editor, node)
        elif node.op == "MatMulNBits" and quantises_anew(node):
            node.attrs["accuracy_level"] = 0
            changed = True
    if changed:
        tidy(graph)
        # Of the operators of ONNX Runtime's own it is not known what they make.
        infer_shapes(graph)
    return changed


@dataclass(frozen=True)
class _Unit:
    """A scale and a zero point, [] each where they are one for all, and the node that has them."""

    scale: np.ndarray
    zero: np.ndarray
    of: str


def _layer(editor: Editor, node: gs.Node, form: _Form) -> bool:
    """Write a layer with constant scales as one of numbers, its result quantised if it was."""
    attrs = {n: v for n, v in node.attrs.items() if n not in ("channels_last", "opset")}
    rank = len(node.inputs[0].shape or ())
    # Before opset 13 a Softmax is one over all axes from one on.
    over_last = node.attrs.get("opset", 13) >= 13 or attrs.get("axis", 1) in (-1, rank - 1)
    if node.attrs.get("channels_last", 0) or not over_last:
        return False
    units = [unit for p in form.read if (unit := _unit_of(node, p)) is not None]
    given = None if form.bias is None else optional_input(node, form.bias)
    bias = None if given is None else constant_value(given)
    if len(units) < len(form.read) or units[0].scale.shape or (given is not None and bias is None):
        return False
    made = _unit(node, form.made, units[0].zero.dtype)
    if optional_input(node, form.made) is not None and (made is None or made.scale.shape):
        return False
    columns = {"Conv": 0, "Gemm": 1 - attrs.get("transB", 0)}.get(form.op, -1)
    inputs: list[gs.Tensor] = [
        _numbers(editor, node, place, _constants(editor, unit), columns)
        for place, unit in zip(form.read, units, strict=True)
    ]
    if bias is not None:
        scale = np.prod(np.broadcast_arrays(*(unit.scale for unit in units)), axis=0)
        values = bias * (attrs.get("alpha", 1.0) * scale.astype(np.float64))
        inputs.append(editor.constant(f"{node.name}/bias", values.astype(scale.dtype)))
    if made is None:
        replace_node(node, form.op, inputs, attrs)
    else:
        _quantise(editor, node, form.op, inputs, attrs, made)
    return True


def _concatenate(editor: Editor, node: gs.Node) -> bool:
    """QLinearConcat(s, z, q_1, s_1, z_1, ...) -> Concat of numbers, quantised."""
    places = range(2, len(node.inputs), 3)
    units = {p: unit for p in places if (unit := _unit_of(node, p)) is not None}
    made = _unit(node, 0, node.inputs[2].dtype)
    if made is None or len(units) < len(places):
        return False
    if any(unit.scale.shape for unit in (made, *units.values())):
        return False
    inputs = [_numbers(editor, node, p, _constants(editor, unit)) for p, unit in units.items()]
    _quantise(editor, node, "Concat", inputs, dict(node.attrs), made)
    return True


def _move(editor: Editor, node: gs.Node) -> bool:
    """Let what only moves whole numbers of one scale move numbers, quantised behind it."""
    places = range(len(node.inputs) if node.op in _TOGETHER else 1)
    makers = [maker_of(node.inputs[place], "QuantizeLinear") for place in places]
    units = [None if maker is None else _unit(maker, 1, maker.outputs[0].dtype) for maker in makers]
    unit = units[0]
    # That of a pool of which largest numbers were where is read as whole numbers.
    if unit is None or unit.scale.shape or (node.op == "MaxPool" and len(node.outputs) > 1):
        return False
    if any(other is None or not _are_one(unit, other) for other in units):
        return False
    border = constant_input(node, 2, 0) if node.op == "Pad" else None
    if node.op == "Pad" and border is None:
        return False
    constants = _constants(editor, unit)
    inputs: list[gs.Tensor] = [_numbers(editor, node, place, constants) for place in places]
    inputs += node.inputs[len(inputs) :]
    if border is not None:
        number = (border.astype(np.float64) - unit.zero) * unit.scale
        value = editor.constant(f"{node.name}/border", number.astype(unit.scale.dtype).reshape(()))
        inputs[2:3] = [value]
    whole = list(node.outputs)
    moved = [gs.Variable(editor.name(f"{tensor.name}/numbers")) for tensor in whole]
    node.inputs, node.outputs = inputs, moved
    for x, tensor in zip(moved, whole, strict=True):
        tensor.dtype = unit.zero.dtype
        name = editor.name(f"{tensor.name}/quantised")
        editor.graph.nodes.append(gs.Node("QuantizeLinear", name, {}, [x, *constants], [tensor]))
    return True


def _are_one(unit: _Unit, other: _Unit) -> bool:
    return np.array_equal(unit.scale, other.scale) and np.array_equal(unit.zero, other.zero)


def _unit_of(node: gs.Node, place: int) -> _Unit | None:
    """That of whole numbers which a node reads before it."""
    return _unit(node, place + 1, node.inputs[place].dtype)


def _unit(node: gs.Node, place: int, kind: np.dtype | None) -> _Unit | None:
    """The scale that a node reads and the zero point behind it; None where not constant.

    ``kind``: the type of whole numbers, if known, of which 0 is one that is left out.
    """
    given, behind = (optional_input(node, place + index) for index in (0, 1))
    scale = None if given is None else constant_value(given)
    none = None if kind is None else np.zeros((), kind)
    zero = none if behind is None else constant_value(behind)
    if scale is None or zero is None:
        return None
    if scale.size == zero.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    else:
        scale, zero = np.broadcast_arrays(scale, zero)
        if scale.shape[-1] < scale.size:
            return None
        # A QLinearMatMul may have those of its columns as [1, columns].
        scale, zero = scale.reshape(-1), zero.reshape(-1)
    return _Unit(scale, zero, node.name)


def _constants(editor: Editor, unit: _Unit) -> list[gs.Constant]:
    """A scale and a zero point as tensors."""
    named = (("scale", unit.scale), ("zero_point", unit.zero))
    return [editor.constant(f"{unit.of}/{name}", value) for name, value in named]


def _numbers(
    editor: Editor, node: gs.Node, place: int, unit: list[gs.Constant], axis: int = -1
) -> gs.Variable:
    """The numbers that whole numbers which a node reads stand for."""
    attrs = {"axis": axis} if unit[0].shape else {}
    name = f"{node.name}/{place}"
    return editor.node("DequantizeLinear", name, [node.inputs[place], *unit], attrs)


def _quantise(
    editor: Editor, node: gs.Node, op: str, inputs: list[gs.Tensor], attrs: dict, made: _Unit
) -> None:
    """Let a node quantise what an operator makes of numbers."""
    result = editor.node(op, f"{node.name}/numbers", inputs, attrs)
    replace_node(node, "QuantizeLinear", [result, *_constants(editor, made)])
    node.outputs[0].dtype = made.zero.dtype
