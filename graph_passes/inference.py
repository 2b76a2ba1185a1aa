"""ONNX's shape inference, with the sizes that ONNX Runtime makes where the two differ.

ONNX multiplies sizes by the scales of a Resize in double precision, ONNX Runtime in float32: 10
pixels times 1.4 are 13 for one and 14 for the other. They count otherwise, too, how many windows a
pool has that rounds up or pads by itself, and what a ConvTranspose that pads by itself adds.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import helper, numpy_helper

from .weights import copy_model

_POOLS = {name: name for name in ("AveragePool", "LpPool", "MaxPool")} | {
    "SpikingMaxPool": "MaxPool"
}
"""Pools, and what counts their windows."""

_LEAST_OPSET = 11
"""From which on Pad takes its pads, and Resize its scales, where they are looked for here."""

_ANY = 64
"""Pixels along an axis of which it is not known how many there are."""


def inferred(model: onnx.ModelProto, data_prop: bool = False) -> onnx.ModelProto:
    """A model with the shapes of its tensors, as far as they follow from its inputs'.

    data_prop: whether the values of shapes are computed with. Only its ``value_info`` and outputs
    are to be read: the graph may have nodes that bring a size to what ONNX Runtime makes. Raises
    what ``onnx.shape_inference.infer_shapes`` does.
    """
    found = onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
    opset = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)
    waiting = [node for node in model.graph.node if _may_differ(node)]
    if not waiting or opset < _LEAST_OPSET:
        return found
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    held |= {
        node.output[0]: node.attribute[0].t
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    given = model
    # In order, so that what a node reads is right by then.
    for node in waiting:
        infos = (*found.graph.input, *found.graph.value_info, *found.graph.output)
        shapes = {info.name: _sizes(info) for info in infos}
        read, made = (shapes.get(name, ()) for name in (node.input[0], node.output[0]))
        if len(made) != len(read):
            continue
        right = _in_onnx_runtime(node, read, held, opset)
        more = [a - b if a and b else 0 for a, b in zip(right, made[2:], strict=False)]
        if not any(more):
            continue
        given = copy_model(given) if given is model else given
        _pad(given, node.output[0], more)
        found = onnx.shape_inference.infer_shapes(given, data_prop=data_prop)
    return found


def _may_differ(node: onnx.NodeProto) -> bool:
    attributes = _attributes_of(node)
    automatic = attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    if node.op_type in _POOLS:
        return automatic or bool(attributes.get("ceil_mode"))
    if node.op_type == "ConvTranspose":
        return automatic and any(attributes.get("output_padding", ()))
    scaled = node.op_type == "Resize" and len(node.input) == 3 and bool(node.input[2])
    cropped = attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    return scaled and not cropped


def _attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _sizes(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape of a tensor, 0 where a size is not known."""
    return tuple(size.dim_value for size in info.type.tensor_type.shape.dim)


def _in_onnx_runtime(
    node: onnx.NodeProto,
    shape: Sequence[int],
    held: Mapping[str, onnx.TensorProto],
    opset: int,
) -> tuple[int, ...]:
    """The size of what a node makes of images of this shape, [N, C, ...]; 0 where not known."""
    size = tuple(n or _ANY for n in shape[2:])
    attributes, second = _attributes_of(node), None
    if node.op_type == "Resize":
        scales = held.get(node.input[2])
        if scales is None or scales.data_location == onnx.TensorProto.EXTERNAL:
            return ()
        axes = np.array(attributes.get("axes", range(len(shape)))) % len(shape)
        factors = np.ones(len(shape), np.float32)
        factors[axes] = numpy_helper.to_array(scales)
        if np.any(factors[:2] != 1):
            return ()
        attributes, second = {"mode": "nearest"}, tuple(factors.tolist())
    elif node.op_type == "ConvTranspose":
        weights = held.get(node.input[1])
        if weights is None:
            return ()
        attributes, second = attributes | {"group": 1}, tuple(weights.dims[2:])
    attributes.pop("storage_order", None)
    op = _POOLS.get(node.op_type, node.op_type)
    made = _run(op, _frozen(attributes), second, size, opset)
    # Axes do not heed each other.
    return tuple(n if known else 0 for n, known in zip(made, shape[2:], strict=False))


def _frozen(attributes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    lists = {name: tuple(v) if isinstance(v, list) else v for name, v in attributes.items()}
    return tuple(sorted(lists.items()))


@lru_cache(maxsize=4096)
def _run(
    op: str,
    attributes: tuple[tuple[str, Any], ...],
    second: tuple[float, ...] | None,
    size: tuple[int, ...],
    opset: int,
) -> tuple[int, ...]:
    """The size that ONNX Runtime makes of one channel; () where it refuses to.

    ``second``: the scales of a Resize, or the kernel of a ConvTranspose.
    """
    import onnxruntime

    names, constants = ["x"], []
    if op == "Resize":
        names += ["", "second"]
        constants.append(numpy_helper.from_array(np.array(second, np.float32), "second"))
    elif op == "ConvTranspose":
        names.append("second")
        weights = np.zeros((1, 1, *(int(n) for n in second or ())), np.float32)
        constants.append(numpy_helper.from_array(weights, "second"))
    x = np.zeros((1, 1, *size), np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **dict(attributes))],
        "one_node",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.ValueInfoProto(name="y")],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return tuple(session.run(None, {"x": x})[0].shape[2:])
    # It raises types of its own, which are not public.
    except Exception:
        return ()


def _pad(model: onnx.ModelProto, name: str, more: Sequence[int]) -> None:
    """Let a Pad make the tensor of this name larger, or smaller, at the ends of its last axes."""
    graph = model.graph
    place, maker = next(
        (place, node) for place, node in enumerate(graph.node) if name in node.output
    )
    before, pads = f"{name}/by onnx", f"{name}/more"
    maker.output[list(maker.output).index(name)] = before
    values = np.array([0] * (len(more) + 4) + list(more), np.int64)
    graph.initializer.append(numpy_helper.from_array(values, pads))
    graph.node.insert(place + 1, helper.make_node("Pad", [before, pads], [name]))
