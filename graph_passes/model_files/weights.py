"""Large weights, kept beside a model's structure.

What is done to a model mostly needs its structure alone: checking it, inferring shapes,
converting its opset. Copying and serialising the weights each time would cost several
times the model's size in memory, and protobuf cannot serialise more than 2 GiB at all.
"""

import math
from collections.abc import Collection, Iterable, MutableSequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

STAYS_INLINE = 1024
"""Bytes: smaller tensors, such as shapes and bounds, stay in the structure."""

_DETACHABLE = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32,
    onnx.TensorProto.INT64, onnx.TensorProto.UINT8, onnx.TensorProto.UINT16,
    onnx.TensorProto.UINT32, onnx.TensorProto.UINT64,
}  # fmt: skip


@dataclass(frozen=True)
class ModelParts:
    """A model in two parts: its structure, and its large weights by name.

    In ``structure`` such a weight is an initializer without data, marked as external. No
    function of this package changes the arrays, so parts of several models may share them.
    """

    structure: onnx.ModelProto
    weights: dict[str, np.ndarray]


def detach(model: onnx.ModelProto) -> ModelParts:
    """Take a model apart; the model is left as it was, and nothing is shared with it.

    ``training_info`` is left out.
    """
    structure, weights = onnx.ModelProto(), dict[str, np.ndarray]()
    for field, value in model.ListFields():
        if field.name == "graph":
            _detach_graph(value, structure.graph, weights)
        elif field.name != "training_info":
            _copy_field(field.name, value, structure)
    return ModelParts(structure, weights)


def _detach_graph(
    graph: onnx.GraphProto, structure: onnx.GraphProto, weights: dict[str, np.ndarray]
) -> None:
    for field, value in graph.ListFields():
        if field.name != "initializer":
            _copy_field(field.name, value, structure)
    for tensor in graph.initializer:
        if is_large(tensor):
            weights[tensor.name] = onnx.numpy_helper.to_array(tensor).copy()
            structure.initializer.append(stub(tensor.name, tensor.data_type, tensor.dims))
        else:
            kept = structure.initializer.add()
            kept.CopyFrom(tensor)
            if kept.data_location == onnx.TensorProto.DEFAULT:
                # onnx.load says so of what was in another file; left unsaid it means the same.
                kept.ClearField("data_location")


def _copy_field(name: str, value: object, target: object) -> None:
    held = getattr(target, name)
    if isinstance(held, str | bytes | int | float):
        setattr(target, name, value)
    else:
        held.extend(value)


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is kept beside the structure."""
    if tensor.data_type not in _DETACHABLE or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    size: int = math.prod(tensor.dims) * itemsize
    return size >= STAYS_INLINE


def stub(name: str, data_type: int, dims: Iterable[int]) -> onnx.TensorProto:
    """A tensor of a type and shape whose data is elsewhere."""
    tensor = onnx.TensorProto(
        name=name, data_type=data_type, dims=dims, data_location=onnx.TensorProto.EXTERNAL
    )
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "detached"
    return tensor


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that shares nothing with the model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def attach(parts: ModelParts) -> onnx.ModelProto:
    """The whole model, made of its parts."""
    model = copy_model(parts.structure)
    for tensor in model.graph.initializer:
        if tensor.name in parts.weights:
            fill(tensor, parts.weights[tensor.name])
    return model


def fill(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    """Give a stub its data."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = values.tobytes()


def with_weights_as_inputs(
    structure: onnx.ModelProto, but: Collection[str] = ()
) -> onnx.ModelProto:
    """A structure whose stubs are declared as inputs: valid for checks that look for the data.

    ``but``: the names of some that stay stubs.
    """
    model = copy_model(structure)
    stubs = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.name not in but
    ]
    gone = {tensor.name for tensor in stubs}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    declared = {info.name for info in model.graph.input}
    for tensor in stubs:
        if tensor.name not in declared:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    replace_all(model.graph.initializer, kept)
    return model


def replace_all(field: MutableSequence[Any], items: Iterable[Any]) -> None:
    """Let a repeated field of a protobuf message hold these items, some of its own among them."""
    kept = list(items)
    del field[:]
    field.extend(kept)
