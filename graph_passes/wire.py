"""Models as protobuf encodes them, where large weights pass it by.

A message is a row of fields: a tag, number << 3 | kind, and a value, which is a varint (kind 0), 8
or 4 bytes (1, 5), or a length and so many bytes (2): text, data, or a message again. The graph is a
field of the model, an initializer one of the graph, and its data, raw_data, one of the initializer.
"""

from collections.abc import Iterator, Mapping
from mmap import mmap

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from .weights import ModelParts, copy_model, is_large, stub

Content = bytes | memoryview


def _tag(message: type, name: str) -> int:
    """The tag of a field that has a length."""
    number: int = message.DESCRIPTOR.fields_by_name[name].number  # type: ignore[attr-defined]
    return number << 3 | 2


_GRAPH = _tag(onnx.ModelProto, "graph")
_INITIALIZER = _tag(onnx.GraphProto, "initializer")
_RAW_DATA = _tag(onnx.TensorProto, "raw_data")


def encoded(parts: ModelParts) -> Iterator[Content]:
    """A model as protobuf, the weights one by one, so that no second copy of all is made.

    The graph is one message: what the structure holds of it, then its further initializers.
    """
    structure = copy_model(parts.structure)
    graph = onnx.GraphProto()
    graph.CopyFrom(structure.graph)
    structure.ClearField("graph")
    stubs = [tensor for tensor in graph.initializer if tensor.name in parts.weights]
    kept = [tensor for tensor in graph.initializer if tensor.name not in parts.weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    head = graph.SerializeToString()
    length, headers = len(head), []
    for tensor in stubs:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        size = parts.weights[tensor.name].nbytes
        message = tensor.SerializeToString() + _header(_RAW_DATA, size)
        headers.append(_header(_INITIALIZER, len(message) + size) + message)
        length += len(headers[-1]) + size
    yield structure.SerializeToString() + _header(_GRAPH, length) + head
    for tensor, header in zip(stubs, headers, strict=True):
        yield header
        yield bytes_of(parts.weights[tensor.name])


def bytes_of(values: np.ndarray) -> memoryview:
    """The data of an array, without a copy of it."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _header(tag: int, length: int) -> bytes:
    """What comes before so many bytes of a field."""
    return _varint(tag) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def without_large_weights(file: mmap) -> tuple[bytes, Mapping[str, tuple[int, onnx.TensorProto]]]:
    """An encoded model with stubs for its large initializers, and where in the file their data is.

    By name: the first byte, and the stub. Those whose data is not as long as their shape says stay
    as they are. Raises ``ValueError`` for what is not encoded so, as a file cut short.
    """
    places: dict[str, tuple[int, onnx.TensorProto]] = {}
    model = bytearray()
    for tag, begin, start, end in _fields(file, 0, len(file)):
        if tag != _GRAPH:
            model += file[begin:end]
            continue
        graph = bytearray()
        for inner, first, value, last in _fields(file, start, end):
            found = _large(file, value, last) if inner == _INITIALIZER else None
            if found is None or found[1].name in places:
                graph += file[first:last]
                continue
            message = found[1].SerializeToString()
            graph += _header(_INITIALIZER, len(message)) + message
            places[found[1].name] = found
        model += _header(_GRAPH, len(graph)) + graph
    return bytes(model), places


def _large(file: mmap, start: int, end: int) -> tuple[int, onnx.TensorProto] | None:
    """Where the data of an initializer is, and its stub; None if it is to stay as it is."""
    rest, data = bytearray(), []
    for tag, begin, first, last in _fields(file, start, end):
        if tag == _RAW_DATA:
            data.append((first, last))
        else:
            rest += file[begin:last]
    try:
        tensor = onnx.TensorProto.FromString(bytes(rest))
        plain = isinstance(tensor.name, str) and not tensor.HasField("segment")
    except (DecodeError, UnicodeDecodeError):
        return None
    if len(data) != 1 or not plain or min(tensor.dims, default=0) < 1 or not is_large(tensor):
        return None
    ((first, last),) = data
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if last - first != int(np.prod(tensor.dims, dtype=object)) * dtype.itemsize:
        return None
    return first, stub(tensor.name, tensor.data_type, tensor.dims)


def _fields(file: mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: tag, first byte, first byte of the value, and where it ends."""
    while start < end:
        tag, value = _varint_at(file, start, end)
        kind = tag & 7
        if kind == 2:
            length, value = _varint_at(file, value, end)
            last = value + length
        elif kind == 0:
            last = _varint_at(file, value, end)[1]
        elif kind in (1, 5):
            last = value + (8 if kind == 1 else 4)
        else:
            raise ValueError("no such kind of field")
        if last > end:
            raise ValueError("a field is longer than its message")
        yield tag, start, value, last
        start = last


def _varint_at(file: mmap, place: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while place < end and shift < 70:
        byte = file[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    raise ValueError("a number has no end")
