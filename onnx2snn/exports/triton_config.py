"""Configurations of models for the Triton Inference Server, config.pbtxt."""

import json
from typing import Any

import onnx

from onnx2snn.graph_passes.errors import ModelError

from .triton_steps import START, StatefulModel

_MAX_BATCH = 32


class EnumName(str):
    """A value of an enum in a config.pbtxt: written without quotes."""

    __slots__ = ()


def config(name: str, model: onnx.ModelProto, apart: set[str]) -> dict[str, Any]:
    """What those of both models have; ``apart``: inputs and outputs that only the server sees."""
    return {
        "name": name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": _MAX_BATCH,
        "input": [tensor(info) for info in model.graph.input if info.name not in apart],
        "output": [tensor(info) for info in model.graph.output if info.name not in apart],
    }


def tensor(info: onnx.ValueInfoProto) -> dict[str, Any]:
    """An input or output, without its batch axis; raises ``ModelError`` where it has none."""
    sizes = info.type.tensor_type.shape.dim
    if not sizes:
        raise ModelError(
            f"'{info.name}' is one number for all samples, and Triton batches requests: export the "
            "ANN with one for each sample, and convert it again"
        )
    if sizes[0].HasField("dim_value"):
        raise ModelError(
            f"'{info.name}' has a fixed batch size, and Triton batches requests: "
            "export the ANN with a batch axis of any size, and convert it again"
        )
    dims = [size.dim_value if size.HasField("dim_value") else -1 for size in sizes[1:]]
    made = {"name": info.name, "data_type": _type(info), "dims": dims or [1]}
    return made if dims else made | {"reshape": {"shape": []}}


def _type(info: onnx.ValueInfoProto) -> EnumName:
    kind = onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type)
    return EnumName(
        "TYPE_" + {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}.get(kind, kind)
    )


def sequences(stateful: StatefulModel) -> dict[str, Any]:
    """The server keeps the states."""
    infos = {info.name: info for info in stateful.model.graph.input}
    start = {"kind": EnumName("CONTROL_SEQUENCE_START"), "bool_false_true": [False, True]}
    return {
        "max_sequence_idle_microseconds": 60_000_000,
        "oldest": {"max_candidate_sequences": 4 * _MAX_BATCH},
        "control_input": [{"name": START, "control": [start]}],
        "state": [
            {
                "input_name": read,
                "output_name": written,
                "data_type": _type(infos[read]),
                "dims": dims,
            }
            for read, written, dims in stateful.states
        ],
    }


def pbtxt(message: dict[str, Any], indent: str = "") -> str:
    """A message in protobuf's text format: lists are repeated fields, dicts are messages."""
    lines = []
    for key, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                inner = pbtxt(item, indent + "  ")
                lines.append(f"{indent}{key} {{\n{inner}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, EnumName):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
