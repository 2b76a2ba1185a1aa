"""Layers of what is quantised anew in each run, written as layers of numbers.

They are what ONNX Runtime's quantize_dynamic writes. What quantising rounds is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
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
)

PRODUCTS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
"""Of what DynamicQuantizeLinear makes, without the scales."""

FUSED = {"DynamicQuantizeMatMul": (2, 3, 4), "MatMulIntegerToFloat": (3, 5, 6)}
"""The places of scale and zero point of the weights, and of a bias."""


def product_of_numbers(editor: Editor, node: gs.Node) -> bool:
    """Let a product with what is quantised anew in each run be one with numbers instead.

    Its scale, which only then is known, must be a factor of all that reads the product.
    """
    found = _scaled_product(editor.graph, node)
    if found is None:
        return False
    numbers = [_numbers(editor, node, place) for place in (0, 1)]
    product = editor.node(PRODUCTS[node.op], f"{node.name}/numbers", numbers, dict(node.attrs))
    bias = found.bias
    added = None if bias is None else bias.values
    if bias is not None and bias.shape is not None:
        added = editor.node("Reshape", f"{node.name}/bias", [bias.values, bias.shape])
    for reader, rest in found.readers:
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


@dataclass(frozen=True)
class _ScaledProduct:
    """What is made of a product of whole numbers: of it and a bias, if there is one.

    ``readers``: the nodes that multiply it by its scales, each with what else it multiplies by.
    """

    bias: _Bias | None
    readers: list[tuple[gs.Node, list[gs.Tensor]]]


def _scaled_product(graph: gs.Graph, node: gs.Node) -> _ScaledProduct | None:
    """What is made of a product of whole numbers; None if its scales are no factors of all."""
    first, second = (_scales(node, place) for place in (0, 1))
    if first is None or second is None or not (scales := [*first, *second]):
        return None
    whole, bias = node.outputs[0], None
    if len(whole.outputs) == 1 and whole.outputs[0].op == "Add":
        bias = _bias(whole.outputs[0], whole, scales)
        if bias is None:
            return None
        whole = whole.outputs[0].outputs[0]
    casts = whole.outputs
    if any(cast.op != "Cast" for cast in casts):
        return None
    results = [node.outputs[0], whole, *(cast.outputs[0] for cast in casts)]
    readers = [reader for cast in casts for reader in cast.outputs[0].outputs]
    inner = any(map(is_inner, (*node.outputs[0].outputs, *casts, *readers)))
    if inner or any(is_graph_output(graph, tensor) for tensor in results):
        return None
    scaled = []
    for reader in readers:
        rest = _besides(reader, scales, results)
        if rest is None or (bias is not None and rest != bias.rest):
            return None
        scaled.append((reader, rest))
    return _ScaledProduct(bias, scaled)


def _scales(node: gs.Node, place: int) -> list[gs.Tensor] | None:
    """The scale of what a product reads, if that is quantised anew; None if it is not known."""
    quantiser = maker_of(node.inputs[place], "DynamicQuantizeLinear")
    if quantiser is not None:
        _, scale, zero = quantiser.outputs
        return [scale] if optional_input(node, place + 2) is zero else None
    zero = constant_input(node, place + 2, 0)
    # One for each row, of the first, is not known here.
    if zero is None or (place == 0 and zero.size > 1):
        return None
    return [] if isinstance(node.inputs[place], gs.Constant) else None


def _numbers(editor: Editor, node: gs.Node, place: int) -> gs.Tensor:
    """The numbers that a product reads as whole ones, but for their scale."""
    quantiser = maker_of(node.inputs[place], "DynamicQuantizeLinear")
    if quantiser is not None:
        return quantiser.inputs[0]
    whole, given = node.inputs[place].values, optional_input(node, place + 2)
    zero = np.zeros(()) if given is None else given.values
    if node.op == "ConvInteger":
        zero = zero.reshape(-1, *[1] * (whole.ndim - 1))
    values = _scaled(whole, zero, np.ones((), np.float32))
    return editor.constant(f"{node.name}/{place}", values)


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


def fused_product(editor: Editor, node: gs.Node, scaled: int, zeroed: int, added: int) -> bool:
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


def lstm_of_numbers(editor: Editor, node: gs.Node) -> bool:
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
