"""ONNX's shape inference, with the sizes that ONNX Runtime makes where the two differ.

ONNX multiplies sizes by the scales of a Resize in double precision, ONNX Runtime in float32: 10
pixels times 1.4 are 13 for one and 14 for the other. They count otherwise, too, how many windows a
pool has that rounds up or pads by itself, and what a ConvTranspose that pads by itself adds. Of two
normalizations ONNX infers nothing.
"""

import contextlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import helper, numpy_helper

from onnx2snn.graph_passes.errors import from_onnxruntime

from .protos import (
    STANDARD,
    all_nodes,
    attributes_of,
    constants_of,
    infos_of,
    names_in,
    standard_opset,
    unused_prefix,
)
from .weights import copy_model, replace_all

_POOLS = ("AveragePool", "LpPool", "MaxPool", "SpikingMaxPool")

_LEAST_OPSET = 11
"""From which on Pad takes its pads, and Resize its scales, where they are looked for here."""

_OF_ITS_INPUT = ("GroupNormalization", "MeanVarianceNormalization")
"""Whose result has the shape and type of the first input, of which ONNX infers nothing."""

_OF_AN_AXIS = ("kernel_shape", "strides", "dilations", "output_padding")

_OF_DAMAGED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What attributes of other types and lengths, and tensors without their data, bring about."""

_MOST_SIZE = 2**40
"""Along an axis, for what is no damaged file."""

_MOST_PIXELS = 2**22
"""Along an axis, of which the result is computed to see how long it is."""


def inferred(model: onnx.ModelProto, data_prop: bool = False) -> onnx.ModelProto:
    """A model with the shapes of its tensors, as far as they follow from its inputs'.

    data_prop: whether the values of shapes are computed with. Only its ``value_info`` and outputs
    are to be read: the graph may have other nodes, such as bring a size to what ONNX Runtime makes.
    Raises what ``onnx.shape_inference.infer_shapes`` does.
    """
    model = _with_known(model)
    found = onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
    opset = standard_opset(model)
    if opset < _LEAST_OPSET or not any(_may_differ(node) for node in model.graph.node):
        return found
    given, right = model, set[str]()
    while more := dict(_differences(model, found, right, opset)):
        given = copy_model(model) if given is model else given
        _pad(given, more)
        right |= more.keys()
        found = onnx.shape_inference.infer_shapes(given, data_prop=data_prop)
    return found


def _with_known(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with Identity in place of what ONNX has no inference for, and has such a result."""
    if not any(_is_normalization(node) for node in all_nodes(model.graph.node)):
        return model
    model = copy_model(model)
    for node in filter(_is_normalization, all_nodes(model.graph.node)):
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
    return model


def _is_normalization(node: onnx.NodeProto) -> bool:
    return node.op_type in _OF_ITS_INPUT and node.domain in STANDARD and bool(node.input)


def _differences(
    model: onnx.ModelProto, found: onnx.ModelProto, right: set[str], opset: int
) -> Iterator[tuple[str, list[int]]]:
    """By how much tensors are larger than ``found`` says, along each axis, by name.

    Of those that do not depend on others of these. ``right``: those that were among them before.
    """
    infos = infos_of(found.graph)
    shapes = {info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in infos}
    constants = {t.name: t for t in model.graph.initializer} | constants_of(model.graph.node)
    stale = set[str]()
    for node in model.graph.node:
        # What graphs within a node read is none of its inputs.
        within = any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)
        if not stale.isdisjoint(node.input) or (stale and within):
            stale.update(node.output)
        elif _may_differ(node) and node.output[0] not in right:
            read, made = (shapes.get(name, []) for name in (node.input[0], node.output[0]))
            sizes = []
            if len(read) == len(made):
                # A damaged node is as ONNX infers it, until it is refused.
                with contextlib.suppress(*_OF_DAMAGED):
                    sizes = _in_onnx_runtime(node, read, constants, opset)
            more = [a - b if a > 0 < b else 0 for a, b in zip(sizes, made, strict=False)]
            if any(more):
                stale.update(node.output)
                yield node.output[0], more


def _may_differ(node: onnx.NodeProto) -> bool:
    own = node.domain in STANDARD or node.op_type == "SpikingMaxPool"
    connected = node.input and node.output and node.output[0]
    if not own or not connected or node.op_type not in (*_POOLS, "ConvTranspose", "Resize"):
        return False
    try:
        attributes = attributes_of(node)
    except ValueError:
        # Of a function's argument, or of no type.
        return False
    automatic = attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    if node.op_type in _POOLS:
        return automatic or bool(attributes.get("ceil_mode"))
    if node.op_type == "ConvTranspose":
        more = "output_padding" in attributes and "output_shape" not in attributes
        return automatic and more
    by_scales = len(node.input) > 2 and bool(node.input[2]) and not any(node.input[3:])
    cropped = attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    return by_scales and not cropped


def _in_onnx_runtime(
    node: onnx.NodeProto, read: list[int], constants: Mapping[str, onnx.TensorProto], opset: int
) -> list[int]:
    """The shape of what a node makes of a tensor of this shape; 0 where it is not known."""
    attributes = attributes_of(node)
    if node.op_type == "Resize":
        scales = constants.get(node.input[2])
        if scales is None or scales.data_location == onnx.TensorProto.EXTERNAL:
            return []
        axes, by = attributes.get("axes", list(range(len(read)))), numpy_helper.to_array(scales)
        if by.shape != (len(axes),) or not all(-len(read) <= axis < len(read) for axis in axes):
            return []
        sizes = np.array(read, np.float32)
        with np.errstate(all="ignore"):
            sizes[axes] *= by
        # What is beyond, or no number, is damaged.
        return sizes.astype(np.int64).tolist() if np.all(abs(sizes) < _MOST_SIZE) else []
    kernel = attributes.get("kernel_shape")
    if node.op_type == "ConvTranspose" and node.input[1] in constants:
        kernel = list(constants[node.input[1]].dims[2:])
    if not kernel or len(kernel) != len(read) - 2:
        return []
    attributes["kernel_shape"], rank = kernel, len(kernel)
    op, lengths = node.op_type.removeprefix("Spiking"), []
    for axis, size in enumerate(read[2:]):
        # Axes do not heed each other.
        of_axis = [(n, attributes[n][axis]) for n in _OF_AN_AXIS if attributes.get(n)]
        pads = attributes.get("pads") or [0] * 2 * rank
        how = attributes.get("auto_pad", b"NOTSET"), attributes.get("ceil_mode", 0)
        ends = (pads[axis], pads[rank + axis])
        key = (op, size, tuple(of_axis), ends, how, opset)
        lengths.append(_length_or_unknown(*key) if size > 0 else 0)
    return [0, 0, *lengths]


def _length_or_unknown(*key: Any) -> int:
    """``_length``; 0 where ONNX Runtime is not there, or refuses the node."""
    try:
        return _length(*key)
    except ImportError:
        return 0
    except Exception as error:
        if not from_onnxruntime(error):
            raise
        return 0


# An error is not kept: there may be memory at another time.
@lru_cache(maxsize=4096)
def _length(
    op: str,
    size: int,
    of_axis: tuple[tuple[str, int], ...],
    ends: tuple[int, int],
    how: tuple[bytes, int],
    opset: int,
) -> int:
    """How long ONNX Runtime makes one channel along one axis; 0 where that is not asked for.

    ``of_axis``: the kernel and so on, ``ends``: the pads, ``how``: auto_pad and ceil_mode. Raises
    what ONNX Runtime does.
    """
    values = [value for _, value in of_axis]
    if max(size * dict(of_axis).get("strides", 1), *values, *ends) > _MOST_PIXELS:
        return 0
    attributes: dict[str, Any] = {name: [value] for name, value in of_axis}
    names, constants = ["x"], []
    if op == "ConvTranspose":
        names.append("w")
        weights = np.zeros((1, 1, *attributes["kernel_shape"]), np.float32)
        constants.append(numpy_helper.from_array(weights, "w"))
    elif how[1]:
        attributes["ceil_mode"] = how[1]
    attributes |= {"pads": list(ends)} if how[0] == b"NOTSET" else {"auto_pad": how[0].decode()}
    x = np.zeros((1, 1, size), np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "one_node",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.ValueInfoProto(name="y")],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return int(session.run(None, {"x": x})[0].shape[2])


def _pad(model: onnx.ModelProto, more: Mapping[str, list[int]]) -> None:
    """Let a Pad make each tensor larger, or smaller, by so much at the end of each axis."""
    graph = model.graph
    prefix, nodes = unused_prefix(names_in(model), "by onnx/"), []
    for node in list(graph.node):
        nodes.append(node)
        name = node.output[0] if node.output else ""
        if name in more:
            before, pads = f"{prefix}{name}", f"{prefix}{name}/more"
            node.output[0] = before
            values = np.array([0] * len(more[name]) + more[name], np.int64)
            graph.initializer.append(numpy_helper.from_array(values, pads))
            nodes.append(helper.make_node("Pad", [before, pads], [name]))
    replace_all(graph.node, nodes)
    for info in graph.output:
        if info.name in more:
            # What a model says of it may be what ONNX infers.
            info.ClearField("type")
