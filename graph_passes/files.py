"""Models on disk: read whole and checked, written whole or not at all.

Model files are untrusted input: nothing outside a model's own folder is read.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import google.protobuf.message
import numpy as np
import onnx
import onnx.checker
import onnx.external_data_helper

from .errors import ModelError, OutputError

MAX_PROTO_BYTES = 2**31 - 2**20
"""Protobuf's limit is 2 GiB; the weights of a larger model are kept in a file beside it."""

# onnx-graphsurgeon changes or loses these types without a word.
UNSUPPORTED_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT8E4M3FNUZ: "FLOAT8E4M3FNUZ",
    onnx.TensorProto.INT4: "INT4",
    onnx.TensorProto.UINT4: "UINT4",
    onnx.TensorProto.FLOAT4E2M1: "FLOAT4E2M1",
}
"""Types of tensors that cannot be converted, and their names."""


def read_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an ONNX file, with its external data, and check that it is a valid model.

    Raises ``ModelError`` if the file cannot be read, is no ONNX model, is damaged, or
    keeps data outside its own folder.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except google.protobuf.message.DecodeError as error:
        raise ModelError(
            f"'{path}' is not an ONNX model, or is damaged: export it again"
        ) from error
    # Some files of other kinds, the empty one among them, parse as a protobuf message.
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"'{path}' is not an ONNX model, or is damaged: it holds no graph")
    try:
        _check_fields(model, path)
    except UnicodeDecodeError as error:
        raise ModelError(f"'{path}' is damaged: a name in it is no text") from error
    for tensor in stored_tensors(model.graph):
        if onnx.external_data_helper.uses_external_data(tensor):
            _load_external_data(tensor, path)
        _check_size(tensor, path)
    check_model(model, f"'{path}'")
    return model


def check_model(model: onnx.ModelProto, what: str) -> None:
    """Raise ``ModelError``, beginning with ``what``, unless onnx's checker accepts the model."""
    if model.ByteSize() > MAX_PROTO_BYTES:
        return  # The checker takes larger models only as files, which this one may not be.
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{what} is not a valid ONNX model: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line that an exception of another library says, without its backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _check_fields(model: onnx.ModelProto, path: Path) -> None:
    """Refuse what only damage can put into a file: names that are no text, unknown types."""
    texts: list[str] = []
    for entry in (*model.opset_import, *model.functions):
        texts.append(entry.domain)
    for entry in model.metadata_props:
        texts += [entry.key, entry.value]
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        texts += [tensor.name for tensor in graph.initializer]
        for info in (*graph.input, *graph.output, *graph.value_info):
            texts.append(info.name)
            kind = info.type.WhichOneof("value")
            if kind == "tensor_type":
                texts += [dimension.dim_param for dimension in info.type.tensor_type.shape.dim]
                _check_type(info.type.tensor_type.elem_type, info.name, path)
            elif kind not in (None, "sequence_type"):
                raise ModelError(f"'{path}': '{info.name}' is no tensor; it cannot be converted")
        for node in graph.node:
            texts += [*node.input, *node.output, node.name, node.op_type, node.domain]
            texts.append(node.doc_string)
            for attribute in node.attribute:
                texts.append(attribute.name)
                waiting += _subgraphs(attribute)
    # Protobuf hands out a string that is no UTF-8 as bytes, or raises, by its version.
    if any(isinstance(text, bytes) for text in texts):
        raise ModelError(f"'{path}' is damaged: a name in it is no text")


def _check_type(kind: int, name: str, path: Path) -> None:
    if kind not in UNSUPPORTED_TYPES and kind != onnx.TensorProto.STRING:
        try:
            onnx.helper.tensor_dtype_to_np_dtype(kind)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"'{path}': '{name}' has an unknown type, {kind}") from error


def _subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All initializers and tensor attributes of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in _subgraphs(attribute):
                yield from stored_tensors(subgraph)


def _load_external_data(tensor: onnx.TensorProto, path: Path) -> None:
    folder = path.resolve().parent
    location = next((e.value for e in tensor.external_data if e.key == "location"), "")
    what = f"'{path}': tensor '{tensor.name}' keeps its data in '{location}'"
    try:
        # Resolved, so that neither '..' nor a link leads out of the folder.
        target = (folder / location).resolve()
        if not target.is_relative_to(folder):
            raise ModelError(
                f"{what}, outside the model's folder: refused; put the data file beside the model"
            )
        if not target.is_file():
            raise ModelError(f"{what}, which is not there")
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        # Older versions of onnx leave the tensor marked as external.
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.ClearField("external_data")
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{what}, which cannot be read: {first_line(error)}") from error


def _check_size(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse an unknown type, and raw data shorter or longer than the tensor's shape says."""
    _check_type(tensor.data_type, tensor.name, path)
    if not tensor.HasField("raw_data") or tensor.data_type in UNSUPPORTED_TYPES:
        return
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    expected = int(np.prod(tensor.dims, dtype=np.int64)) * itemsize
    if len(tensor.raw_data) != expected:
        raise ModelError(
            f"'{path}': tensor '{tensor.name}' holds {len(tensor.raw_data)} bytes where its "
            f"shape {list(tensor.dims)} needs {expected}: the file or its data is damaged"
        )


def write_model(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model to ``path``, whole or not at all.

    The bytes go to a temporary file in the same folder, which then takes the name.
    Weights beyond protobuf's 2 GiB go to ``<name>.<digest>.data`` beside it. Raises
    ``OutputError`` if the folder does not exist, cannot be written or is full; a file
    that stood at ``path`` is then as it was.
    """
    path = Path(path)
    if model.ByteSize() <= MAX_PROTO_BYTES:
        write_bytes(path, model.SerializeToString())
        return
    model = copy_model(model)
    weights, blob = [t for t in model.graph.initializer if len(t.raw_data) >= 1024], bytearray()
    for tensor in weights:
        # ONNX recommends offsets at page boundaries, so that runtimes can map the file.
        blob.extend(b"\0" * (-len(blob) % 4096))
        offset = len(blob)
        blob.extend(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, "", offset, len(tensor.raw_data))
    data_name = f"{path.name}.{hashlib.sha256(blob).hexdigest()[:12]}.data"
    for tensor in weights:
        tensor.ClearField("raw_data")
        tensor.external_data[0].value = data_name
    # The data first, under a name that its content gives: an older model's file keeps its own.
    write_bytes(path.with_name(data_name), bytes(blob))
    write_bytes(path, model.SerializeToString())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises ``OutputError``, leaving an older file as it was."""
    check_writable(path)
    # Through a link, to the file that it names.
    path = path.resolve()
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=".onnx2snn-", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is its owner's alone; the result gets what a new file would.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise ``OutputError`` if a file cannot come to be, or be replaced, at ``path``."""
    try:
        folder = path.resolve().parent
        if not folder.is_dir():
            raise OutputError(f"cannot write '{path}': the folder '{folder}' does not exist")
        if path.exists() and not path.is_file():
            raise OutputError(f"cannot write '{path}': something else than a file is there")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"cannot write '{path}': no permission to write in its folder")
    except (OSError, RuntimeError) as error:  # Python 3.11 raises the latter for link loops.
        raise OutputError(
            f"cannot write '{path}': {getattr(error, 'strerror', None) or error}"
        ) from error


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that shares nothing with the model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
