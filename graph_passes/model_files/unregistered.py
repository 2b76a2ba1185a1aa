"""Operators that ONNX Runtime adds to the standard domain, where ONNX does not have them."""

import onnx
import onnx.parser

from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.graph_passes.graph.editing import AXES_ARE_AN_INPUT, free_name
from onnx2snn.graph_passes.graph.operators import LAYER_NORMALIZATION

from .limits import with_shapes
from .protos import STANDARD, all_nodes, called, constants_of, infos_of, names_in, standard_opset
from .weights import replace_all

_DOMAIN = "onnxruntime"
"""Of the functions that stand for them."""

_EPSILON = 1e-5
"""Of a normalization that says none."""


def define_unregistered(structure: onnx.ModelProto, what: str) -> None:
    """LayerNormalization of an opset before 17, and SimplifiedLayerNormalization, which divides by
    the root mean square: calls of functions that the model then has.

    As ONNX Runtime's optimiser writes them. Those stay, and the checker refuses them, that count
    their axis from the back and reduce more than the last, or hand on more than their result.
    Raises ``ModelError``, beginning with ``what``, where another axis is not known to be the last.
    """
    opset = standard_opset(structure)
    nodes = list(all_nodes(structure.graph.node))
    tensors = {t.name: t for t in structure.graph.initializer} | constants_of(nodes)
    taken = names_in(structure)
    numbers: dict[str, int] = {}
    kinds: dict[str, int] | None = None
    functions, from_front = {}, list[tuple[onnx.NodeProto, str, int]]()
    for node in nodes:
        if node.domain not in STANDARD or not node.output:
            continue
        centred = node.op_type == "LayerNormalization" and opset < LAYER_NORMALIZATION
        if not centred and node.op_type != "SimplifiedLayerNormalization":
            continue
        attrs = {attribute.name: attribute for attribute in node.attribute}
        given = [name for name in node.input if name]
        axis = attrs["axis"].i if "axis" in attrs else -1
        if len(given) < 2 or axis < -1 or any(node.output[1:]):
            continue
        x, scale, *bias = given
        if axis >= 0:
            from_front.append((node, x, axis))
        if scale in tensors:
            kind = tensors[scale].data_type
        else:
            kinds = _kinds_of(structure, what) if kinds is None else kinds
            kind = kinds.get(scale) or kinds.get(x) or onnx.TensorProto.FLOAT
        epsilon = free_name(f"{node.output[0]}/epsilon", taken, numbers)
        taken.add(epsilon)
        value = attrs["epsilon"].f if "epsilon" in attrs else _EPSILON
        structure.graph.initializer.append(onnx.helper.make_tensor(epsilon, kind, [], [value]))
        name = f"{node.op_type}WithBias" if bias else node.op_type
        functions[name] = _function(name, opset, centred, bool(bias))
        node.domain, node.op_type = _DOMAIN, name
        replace_all(node.input, [x, epsilon, scale, *bias])
        del node.attribute[:]
        del node.output[1:]
    structure.functions.extend(functions.values())
    if functions:
        structure.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
        # Models have functions of their own since then.
        structure.ir_version = max(structure.ir_version, 8)
    if from_front:
        # Of which it is to be seen that they are the last.
        _require_last(structure, from_front, what)


def _kinds_of(structure: onnx.ModelProto, what: str) -> dict[str, int]:
    """The types of tensors, by name, as far as they can be inferred."""
    infos = infos_of(with_shapes(structure, what).graph)
    return {info.name: info.type.tensor_type.elem_type for info in infos}


def _require_last(
    structure: onnx.ModelProto, nodes: list[tuple[onnx.NodeProto, str, int]], what: str
) -> None:
    """Raise ``ModelError`` for a node whose axis is not the last of what it reads."""
    inferred = with_shapes(structure, what).graph
    infos = (*inferred.input, *inferred.value_info)
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in infos
             if info.type.tensor_type.HasField("shape")}  # fmt: skip
    for node, x, axis in nodes:
        if ranks.get(x) != axis + 1:
            raise ModelError(
                f"{what}: {node.op_type} '{called(node)}' is over axis {axis} of "
                f"{ranks.get(x, 'an unknown number')}, and what ONNX Runtime's optimiser writes so "
                "is known over the last alone: convert the file that it read"
            )


def _function(name: str, opset: int, centred: bool, biased: bool) -> onnx.FunctionProto:
    """The function in operators of an opset."""
    as_input = opset >= AXES_ARE_AN_INPUT
    mean = "ReduceMean ({}, last)" if as_input else "ReduceMean <axes = [-1]> ({})"
    text = f"""
        <domain: "{_DOMAIN}", opset_import: ["": {opset}]>
        {name} (x, epsilon, scale{", bias" * biased}) => (y)
        {{
            {"last = Constant <value_ints = [-1]> ()" * as_input}
            {f"mean = {mean.format('x')}" * centred}
            centred = {"Sub (x, mean)" if centred else "Identity (x)"}
            square = Mul (centred, centred)
            variance = {mean.format("square")}
            above = Add (variance, epsilon)
            deviation = Sqrt (above)
            normal = Div (centred, deviation)
            scaled = Mul (normal, scale)
            y = {"Add (scaled, bias)" if biased else "Identity (scaled)"}
        }}
    """
    return onnx.parser.parse_function(text)
