"""Bring models of old opsets to one that can hold neurons, right where onnx's converter errs."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.version_converter

from onnx2snn.graph_passes.errors import ModelError, first_line
from onnx2snn.graph_passes.graph.editing import free_name
from onnx2snn.graph_passes.graph.neurons import NEURON_OPSET

from .contents import every_graph, every_node
from .inference import inferred
from .protos import STANDARD, all_nodes, called, constants_of, graphs_in, infos_of, names_in
from .weights import replace_all

_ADVICE = f"export the network again with opset {NEURON_OPSET} or newer"


def convert_opset(structure: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A model of an old opset in ``neurons.NEURON_OPSET``.

    Raises ``ModelError`` if onnx's version converter cannot do it, for a Scan of opset 8, for a
    Resize to the nearest sample by constant scales of which some are above 1 and others below, no
    power of two, and for a Dropout before opset 12 whose mask is used.
    """
    if opset < 9:
        _refuse_scans(structure)
    # The first IR versions want every initializer to be an input as well.
    structure.ir_version = max(structure.ir_version, 8)
    types = _types_in(structure) if opset < 11 else {}
    for node in all_nodes(structure.graph.node):
        _drop_outputs_left_out(node)
        if opset < 11:
            _drop_unused_value(node)
    if opset < 12:
        _drop_masks(structure)
    if opset < 13:
        _flatten_before_hardmax(structure.graph, names_in(structure))
    try:
        converted = onnx.version_converter.convert_version(structure, NEURON_OPSET)
    except Exception as error:  # The converter raises RuntimeError and types of its own.
        raise ModelError(
            f"the model's opset {opset} cannot be brought to {NEURON_OPSET}: "
            f"{first_line(error)}; {_ADVICE}"
        ) from error
    # Of an input that is an output, too, the converter knows one shape alone.
    replace_all(converted.graph.input, structure.graph.input)
    inputs = {info.name for info in structure.graph.input}
    for info, declared in zip(converted.graph.output, structure.graph.output, strict=True):
        if info.name in inputs:
            info.CopyFrom(declared)
    if opset < 11:
        _give_types(converted.graph, types)
        _place_samples(converted.graph, {})
    return converted


def _is(node: onnx.NodeProto, op: str) -> bool:
    return node.op_type == op and node.domain in STANDARD


def _drop_outputs_left_out(node: onnx.NodeProto) -> None:
    """Drop the last outputs where they are left out: the converter counts those without a name."""
    while node.output and not node.output[-1]:
        node.output.pop()


def _drop_unused_value(node: onnx.NodeProto) -> None:
    """Drop the value of a Pad that pads with none: the converter would leave it as it is."""
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
    if _is(node, "Pad") and mode != b"constant":
        replace_all(node.attribute, [a for a in node.attribute if a.name != "value"])


def _refuse_scans(structure: onnx.ModelProto) -> None:
    """Raise ``ModelError`` for a Scan that goes through each sample: the converter leaves it so."""
    for node in every_node(structure):
        if _is(node, "Scan"):
            raise ModelError(
                f"Scan '{called(node)}' is that of opset 8, which goes through each sample, and no "
                f"Scan from opset 9 on does: {_ADVICE}"
            )


def _drop_masks(structure: onnx.ModelProto) -> None:
    """Drop the masks of Dropout, which changed: of ONNX Runtime they were 0, and are True.

    Before opset 10 they had the type of the input. Raises ``ModelError`` for one that is used.
    """
    used = {name for node in every_node(structure) for name in node.input}
    used |= {info.name for graph in every_graph(structure) for info in graph.output}
    for node in every_node(structure):
        if not _is(node, "Dropout") or len(node.output) < 2:
            continue
        mask = node.output.pop()
        if mask in used:
            raise ModelError(
                f"Dropout '{called(node)}' has a mask, '{mask}', that is used, and "
                f"no Dropout from opset 12 on has the same: {_ADVICE}, without the mask"
            )


def _types_in(structure: onnx.ModelProto) -> dict[str, int]:
    """The types of tensors by name, as far as they follow from the inputs'; of float32 none."""
    types: dict[str, int] = {}
    for graph in every_graph(inferred(structure)):
        types |= {info.name: info.type.tensor_type.elem_type for info in infos_of(graph)}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    half_or_double = (onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return {name: kind for name, kind in types.items() if kind in half_or_double}


def _give_types(graph: onnx.GraphProto, types: Mapping[str, int]) -> None:
    """Give what Clip and Pad had as attributes the type of their input: the converter forgets it.

    It makes a Constant in float32 of each.
    """
    made = constants_of(graph.node)
    for node in graph.node:
        for inner in graphs_in(node):
            _give_types(inner, types)
        if not (_is(node, "Clip") or _is(node, "Pad")) or node.input[0] not in types:
            continue
        for tensor in (made[name] for name in node.input[1:] if name in made):
            if tensor.data_type == onnx.TensorProto.FLOAT:
                kind = onnx.helper.tensor_dtype_to_np_dtype(types[node.input[0]])
                # A bound that is none, the lowest or largest number, is infinite then.
                with np.errstate(over="ignore"):
                    value = onnx.numpy_helper.to_array(tensor).astype(kind)
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))


def _flatten_before_hardmax(graph: onnx.GraphProto, taken: set[str]) -> None:
    """Hardmax over all axes from one on -> Reshape(Hardmax(Flatten(x)), Shape(x)).

    From opset 13 on it is over that axis alone, as Softmax, of which the converter knows it.
    """
    nodes = []
    for node in graph.node:
        for inner in graphs_in(node):
            _flatten_before_hardmax(inner, taken)
        if not _is(node, "Hardmax"):
            nodes.append(node)
            continue
        (x,), (y,) = node.input, node.output
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        flat, hot, shape = (free_name(f"{y}/{n}", taken, {}) for n in ("flat", "hot", "shape"))
        nodes += [
            onnx.helper.make_node("Flatten", [x], [flat], axis=axis),
            onnx.helper.make_node("Hardmax", [flat], [hot], axis=1),
            onnx.helper.make_node("Shape", [x], [shape]),
            onnx.helper.make_node("Reshape", [hot, shape], [y]),
        ]
    replace_all(graph.node, nodes)


def _place_samples(graph: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto]) -> None:
    """Say how Upsample, and Resize as it was, place their samples: the converter forgets it.

    ``outer``: the constants of the graphs around. Raises ``ModelError`` as ``_nearest_mode`` does.
    """
    own = {tensor.name: tensor for tensor in graph.initializer}
    constants = {**outer, **constants_of(graph.node), **own}
    for node in graph.node:
        for inner in graphs_in(node):
            _place_samples(inner, constants)
        if _is(node, "Resize"):
            nearest_mode = _nearest_mode(node, constants.get(node.input[2]))
            for name, value in (
                ("coordinate_transformation_mode", "asymmetric"),
                ("nearest_mode", nearest_mode),
            ):
                if all(attribute.name != name for attribute in node.attribute):
                    node.attribute.append(onnx.helper.make_attribute(name, value))


def _nearest_mode(node: onnx.NodeProto, scales: onnx.TensorProto | None) -> str:
    """Which sample a Resize took, on ONNX Runtime: the one before; where it shrank, the one after.

    Of a scale below 1 that is a power of two they are the same. Computed scales are taken to
    enlarge, as those to the size of another tensor do. Raises ``ModelError`` where some axes grow
    and others shrink.
    """
    linear = any(a.name == "mode" and a.s == b"linear" for a in node.attribute)
    factors = np.ones(0) if linear or scales is None else onnx.numpy_helper.to_array(scales)
    shrinks = (factors < 1) & (np.frexp(factors)[0] != 0.5)
    if not np.any(shrinks):
        return "floor"
    if np.all(factors <= 1):
        return "ceil"
    raise ModelError(
        f"Resize '{called(node)}' enlarges some axes and shrinks others, which no "
        f"Resize from opset 11 on does alike: {_ADVICE}"
    )
