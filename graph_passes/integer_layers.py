"""Write layers of whole numbers as layers of numbers between quantisers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .editing import (
    Editor,
    become_product,
    constant_input,
    constant_value,
    is_graph_output,
    is_inner,
    leave_out,
    maker_of,
    optional_input,
    replace_node,
    require_opset,
)
from .shapes import infer_shapes
from .tidying import tidy


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

_PRODUCTS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
"""Of what DynamicQuantizeLinear makes, without the scales."""

_MOVING = {
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "ReduceMax",
    "ReduceMin", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
}  # fmt: skip
"""What makes of whole numbers others of the same scale (a Resize may round them)."""

_TOGETHER = {"Concat", "Max", "Min"}
"""The same, of several of one scale."""

_FUSED = {"DynamicQuantizeMatMul": (2, 3, 4), "MatMulIntegerToFloat": (3, 5, 6)}
"""The places of scale and zero point of the weights, and of a bias."""

_DYNAMIC = (*_PRODUCTS, *_FUSED, "DynamicQuantizeLSTM")
"""What reads numbers that are quantised anew in each run, which is left out."""

INTEGER_LAYERS = (*_FORMS, *_DYNAMIC, "QLinearConcat")
"""What ``dequantize_layers`` makes layers of numbers of."""

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
    standard = {*_MOVING, *_TOGETHER, *_PRODUCTS}
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
    they keep the network's function, but where rounding decides between two levels. The third is
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
            changed |= _lstm(editor, node)
        elif node.op in _FUSED:
            changed |= _fused(editor, node, *_FUSED[node.op])
        elif node.op in (*_MOVING, *_TOGETHER) and node.inputs:
            changed |= _move(editor, node)
        elif node.op in _PRODUCTS:
            changed |= _product(editor, node)
        elif node.op == "MatMulNBits" and quantises_anew(node):
            node.attrs["accuracy_level"] = 0
            changed = True
    if changed:
        tidy(graph)
        # Of the operators of ONNX Runtime's own it is not known what they make.
        infer_shapes(graph)
    return changed


_Unit = tuple[gs.Constant, gs.Constant]
"""A scale and a zero point, [] each where they are one for all."""


def _layer(editor: Editor, node: gs.Node, form: _Form) -> bool:
    """Write a layer with constant scales as one of numbers, its result quantised if it was."""
    attrs = {n: v for n, v in node.attrs.items() if n not in ("channels_last", "opset")}
    rank = len(node.inputs[0].shape or ())
    # Before opset 13 a Softmax is one over all axes from one on.
    over_last = node.attrs.get("opset", 13) >= 13 or attrs.get("axis", 1) in (-1, rank - 1)
    if node.attrs.get("channels_last", 0) or not over_last:
        return False
    units = [unit for p in form.read if (unit := _unit_of(editor, node, p)) is not None]
    given = None if form.bias is None else optional_input(node, form.bias)
    bias = None if given is None else constant_value(given)
    if len(units) < len(form.read) or units[0][0].shape or (given is not None and bias is None):
        return False
    made = _unit(editor, node, form.made, units[0][1].dtype)
    if optional_input(node, form.made) is not None and (made is None or made[0].shape):
        return False
    columns = {"Conv": 0, "Gemm": 1 - attrs.get("transB", 0)}.get(form.op, -1)
    inputs: list[gs.Tensor] = [
        _numbers(editor, node, place, unit, columns)
        for place, unit in zip(form.read, units, strict=True)
    ]
    if bias is not None:
        scale = np.prod(np.broadcast_arrays(*(unit[0].values for unit in units)), axis=0)
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
    units = {p: unit for p in places if (unit := _unit_of(editor, node, p)) is not None}
    made = _unit(editor, node, 0, node.inputs[2].dtype)
    if made is None or len(units) < len(places) or any(u[0].shape for u in (made, *units.values())):
        return False
    inputs = [_numbers(editor, node, place, unit) for place, unit in units.items()]
    _quantise(editor, node, "Concat", inputs, dict(node.attrs), made)
    return True


def _move(editor: Editor, node: gs.Node) -> bool:
    """Let what only moves whole numbers of one scale move numbers, quantised behind it."""
    places = range(len(node.inputs) if node.op in _TOGETHER else 1)
    makers = [maker_of(node.inputs[place], "QuantizeLinear") for place in places]
    units = [
        None if maker is None else _unit(editor, maker, 1, maker.outputs[0].dtype)
        for maker in makers
    ]
    unit = units[0]
    # That of a pool of which largest numbers were where is read as whole numbers.
    if unit is None or unit[0].shape or (node.op == "MaxPool" and len(node.outputs) > 1):
        return False
    if any(other is None or not _are_one(unit, other) for other in units):
        return False
    border = constant_input(node, 2, 0) if node.op == "Pad" else None
    if node.op == "Pad" and border is None:
        return False
    inputs: list[gs.Tensor] = [_numbers(editor, node, place, unit) for place in places]
    inputs += node.inputs[len(inputs) :]
    if border is not None:
        scale, zero = (tensor.values for tensor in unit)
        number = (border.astype(np.float64) - zero) * scale
        value = editor.constant(f"{node.name}/border", number.astype(scale.dtype).reshape(()))
        inputs[2:3] = [value]
    whole = list(node.outputs)
    moved = [gs.Variable(editor.name(f"{tensor.name}/numbers")) for tensor in whole]
    node.inputs, node.outputs = inputs, moved
    for x, tensor in zip(moved, whole, strict=True):
        tensor.dtype = unit[1].dtype
        name = editor.name(f"{tensor.name}/quantised")
        editor.graph.nodes.append(gs.Node("QuantizeLinear", name, {}, [x, *unit], [tensor]))
    return True


def _are_one(unit: _Unit, other: _Unit) -> bool:
    return all(np.array_equal(a.values, b.values) for a, b in zip(unit, other, strict=True))


def _product(editor: Editor, node: gs.Node) -> bool:
    """Let a product with what is quantised anew in each run be one with numbers instead.

    Its scale, which only then is known, must be a factor of all that reads the product.
    """
    operands = [o for place in (0, 1) if (o := _operand(editor, node, place)) is not None]
    scales = [scale for _, scale in operands if scale is not None]
    whole = node.outputs[0]
    bias = None
    if len(whole.outputs) == 1 and whole.outputs[0].op == "Add":
        bias = _bias(whole.outputs[0], whole, scales)
        if bias is None:
            return False
        whole = whole.outputs[0].outputs[0]
    casts = whole.outputs
    if any(cast.op != "Cast" for cast in casts):
        return False
    results = [node.outputs[0], whole, *(cast.outputs[0] for cast in casts)]
    readers = [reader for cast in casts for reader in cast.outputs[0].outputs]
    if any(map(is_inner, (*node.outputs[0].outputs, *casts, *readers))):
        return False
    rests = [r for node in readers if (r := _besides(node, scales, results)) is not None]
    seen = any(is_graph_output(editor.graph, tensor) for tensor in results)
    if len(operands) < 2 or not scales or len(rests) < len(readers) or seen:
        return False
    if bias is not None and any(rest != bias.rest for rest in rests):
        return False
    name, numbers = f"{node.name}/numbers", [x for x, _ in operands]
    product = editor.node(_PRODUCTS[node.op], name, numbers, dict(node.attrs))
    added = None if bias is None else bias.values
    if bias is not None and bias.shape is not None:
        added = editor.node("Reshape", f"{node.name}/bias", [bias.values, bias.shape])
    for reader, rest in zip(readers, rests, strict=True):
        if added is not None:
            scaled = editor.node("Mul", f"{reader.name}/scaled", [product, *rest])
            replace_node(reader, "Add", [scaled, added])
        elif rest:
            replace_node(reader, "Mul", [product, *rest])
        else:
            leave_out(editor.graph, reader, product)
    return True


@dataclass(frozen=True)
class _Bias:
    """A bias b that is added as floor(b / (s s_w)), as older quantisers of ONNX Runtime did.

    ``shape``: what it is reshaped to, if it is. ``rest``: s_w.
    """

    values: gs.Tensor
    shape: gs.Tensor | None
    rest: list[gs.Tensor]


def _bias(node: gs.Node, product: gs.Tensor, scales: Sequence[gs.Tensor]) -> _Bias | None:
    """What an Add adds to a product of whole numbers; None if that is no such bias."""
    others = [tensor for tensor in node.inputs if tensor is not product]
    if len(others) != 1:
        return None
    reshape = maker_of(others[0], "Reshape")
    tensor: gs.Tensor | None = others[0] if reshape is None else reshape.inputs[0]
    for op in ("Cast", "Floor", "Div"):
        maker = None if tensor is None else maker_of(tensor, op)
        tensor = None if maker is None else maker.inputs[0]
    rest = None if maker is None else _left(maker.inputs[1], scales)
    if tensor is None or not rest:
        return None
    return _Bias(tensor, None if reshape is None else reshape.inputs[1], rest)


def _operand(
    editor: Editor, node: gs.Node, place: int
) -> tuple[gs.Tensor, gs.Tensor | None] | None:
    """The numbers that a product reads, and their scale if it is not theirs; None if not known."""
    quantiser = maker_of(node.inputs[place], "DynamicQuantizeLinear")
    if quantiser is not None:
        _, scale, zero = quantiser.outputs
        same = optional_input(node, place + 2) is zero
        return (quantiser.inputs[0], scale) if same else None
    whole, zero = constant_value(node.inputs[place]), constant_input(node, place + 2, 0)
    # One for each row, of the first, is not known here.
    if whole is None or zero is None or (place == 0 and zero.size > 1):
        return None
    if node.op == "ConvInteger":
        zero = zero.reshape(-1, *[1] * (whole.ndim - 1))
    values = _scaled(whole, zero, np.ones((), np.float32))
    return editor.constant(f"{node.name}/{place}", values), None


def _fused(editor: Editor, node: gs.Node, scaled: int, zeroed: int, added: int) -> bool:
    """What ONNX Runtime makes of a MatMulInteger and what multiplies it -> MatMul, Add.

    ``scaled``, ``zeroed``, ``added``: the places of what belongs to the weights.
    """
    x, quantiser = node.inputs[0], maker_of(node.inputs[0], "DynamicQuantizeLinear")
    whole, scale = (constant_value(node.inputs[place]) for place in (1, scaled))
    zero, bias = constant_input(node, zeroed, 0), optional_input(node, added)
    if whole is None or scale is None or zero is None:
        return False
    if node.op == "MatMulIntegerToFloat":
        if quantiser is None:
            return False
        own = zip((2, 4), quantiser.outputs[1:], strict=True)
        if any(optional_input(node, place) is not tensor for place, tensor in own):
            return False
        x = quantiser.inputs[0]
    factors = [x, editor.constant(f"{node.name}/weights", _scaled(whole, zero, scale))]
    become_product(editor, node, factors, bias)
    return True


def _lstm(editor: Editor, node: gs.Node) -> bool:
    """DynamicQuantizeLSTM, of weights [directions, inputs, gates] in 8 bits -> LSTM."""
    weights: list[gs.Tensor] = []
    for place, scaled, name in ((1, 8, "W"), (2, 10, "R")):
        read = [constant_value(node.inputs[index]) for index in (place, scaled, scaled + 1)]
        whole, scale, zero = (np.empty(0) if value is None else value for value in read)
        if not whole.size * scale.size * zero.size:
            return False
        # One for each direction, or for each of its gates.
        scale, zero = (value.reshape(len(whole), 1, -1) for value in (scale, zero))
        numbers = _scaled(whole, zero, scale).transpose(0, 2, 1)
        weights.append(editor.constant(f"{node.name}/{name}", numbers))
    replace_node(node, "LSTM", [node.inputs[0], *weights, *node.inputs[3:8]], dict(node.attrs))
    return True


def _scaled(whole: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The numbers that whole numbers stand for, in the scale's type; they broadcast."""
    return np.asarray((whole.astype(scale.dtype) - zero.astype(scale.dtype)) * scale)


def _besides(
    node: gs.Node, scales: Sequence[gs.Tensor], results: Sequence[gs.Tensor]
) -> list[gs.Tensor] | None:
    """What a product is multiplied by besides its scales; None where these are no factors."""
    others = [tensor for tensor in node.inputs if all(tensor is not own for own in results)]
    if node.op != "Mul" or len(others) != 1:
        return None
    return _left(others[0], scales)


def _left(factor: gs.Tensor, scales: Sequence[gs.Tensor]) -> list[gs.Tensor] | None:
    """The factors of a product of two, or of one tensor, but for scales; None without these."""
    maker = maker_of(factor, "Mul")
    left = [factor] if maker is None else list(maker.inputs)
    for scale in scales:
        places = [place for place, tensor in enumerate(left) if tensor is scale]
        if not places:
            return None
        del left[places[0]]
    return left


def _unit_of(editor: Editor, node: gs.Node, place: int) -> _Unit | None:
    """Those of whole numbers that a node reads before them."""
    return _unit(editor, node, place + 1, node.inputs[place].dtype)


def _unit(editor: Editor, node: gs.Node, place: int, kind: np.dtype | None) -> _Unit | None:
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
    names = (f"{node.name}/scale", f"{node.name}/zero_point")
    return editor.constant(names[0], scale), editor.constant(names[1], zero)


def _numbers(editor: Editor, node: gs.Node, place: int, unit: _Unit, axis: int = -1) -> gs.Variable:
    """The numbers that whole numbers which a node reads stand for."""
    attrs = {"axis": axis} if unit[0].shape else {}
    name = f"{node.name}/{place}"
    return editor.node("DequantizeLinear", name, [node.inputs[place], *unit], attrs)


def _quantise(
    editor: Editor, node: gs.Node, op: str, inputs: list[gs.Tensor], attrs: dict, made: _Unit
) -> None:
    """Let a node quantise what an operator makes of numbers."""
    result = editor.node(op, f"{node.name}/numbers", inputs, attrs)
    replace_node(node, "QuantizeLinear", [result, *made])
    node.outputs[0].dtype = made[1].dtype
