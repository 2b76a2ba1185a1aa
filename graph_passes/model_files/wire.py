"""Models as protobuf encodes them, where large weights pass it by.

A message is a row of fields: a tag, number << 3 | kind, and a value, which is a varint (kind 0), 8
or 4 bytes (1, 5), or a length and so many bytes (2): text, data, or a message again. The graph is a
field of the model, an initializer one of the graph, and its data, raw_data, one of the initializer.
"""

import math
from collections.abc import Iterator
from os import SEEK_END
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from .limits import MAX_AXES
from .weights import STAYS_INLINE, ModelParts, copy_model, is_large, replace_all, stub

Content = bytes | memoryview


def _tag(message: type, name: str) -> int:
    """The tag of a field that has a length."""
    number: int = message.DESCRIPTOR.fields_by_name[name].number  # type: ignore[attr-defined]
    return number << 3 | 2


_GRAPH = _tag(onnx.ModelProto, "graph")
_INITIALIZER = _tag(onnx.GraphProto, "initializer")
_RAW_DATA = _tag(onnx.TensorProto, "raw_data")
_LONGEST = 10
"""Bytes of a varint."""
MOST_FIELDS, MOST_BESIDE = 10**5, 2**16
"""Files with more fields of the model itself, and initializers with more bytes beside their data,
are protobuf's: they are damaged, and it is faster."""


def encoded(parts: ModelParts) -> Iterator[Content]:
    """A model as protobuf, the weights one by one, so that no second copy of all is made.

    The graph is one message: what the structure holds of it, then its further initializers.
    """
    structure = copy_model(parts.structure)
    graph = onnx.GraphProto()
    graph.CopyFrom(structure.graph)
    structure.ClearField("graph")
    stubs = [tensor for tensor in graph.initializer if tensor.name in parts.weights]
    replace_all(graph.initializer, (t for t in graph.initializer if t.name not in parts.weights))
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
        yield buffer_of(parts.weights[tensor.name])


def buffer_of(values: np.ndarray) -> memoryview:
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


Piece = bytes | tuple[int, int]
"""Bytes, or where they are in a file: the first, and where they end."""


def without_large_weights(file: BinaryIO) -> tuple[bytes, dict[str, int]]:
    """An encoded model with stubs for its large initializers, and where their data begins.

    Those whose data is not as long as their shape says stay as they are. Raises ``ValueError`` for
    what is not encoded so, as a file cut short.
    """
    places: dict[str, int] = {}
    model: list[Piece] = []
    for count, (tag, begin, start, end) in enumerate(_fields(file, 0, file.seek(0, SEEK_END))):
        if count > MOST_FIELDS:
            raise ValueError("a model has no so many fields")
        if tag != _GRAPH:
            _append(model, begin, end)
            continue
        graph: list[Piece] = []
        for inner, first, value, last in _fields(file, start, end):
            large = inner == _INITIALIZER and last - value >= STAYS_INLINE
            found = _large(file, value, last) if large else None
            if found is None or found[1].name in places:
                _append(graph, first, last)
                continue
            place, tensor = found
            message = tensor.SerializeToString()
            graph.append(_header(_INITIALIZER, len(message)) + message)
            places[tensor.name] = place
        model += [_header(_GRAPH, sum(map(_length, graph))), *graph]
    # Where nothing is left out, it is read in one piece.
    return _joined(file, model if places else [(0, file.seek(0, SEEK_END))]), places


def _append(pieces: list[Piece], begin: int, end: int) -> None:
    """Add bytes of the file, to those that are right before them."""
    if pieces and isinstance(pieces[-1], tuple) and pieces[-1][1] == begin:
        pieces[-1] = pieces[-1][0], end
    else:
        pieces.append((begin, end))


def _length(piece: Piece) -> int:
    return piece[1] - piece[0] if isinstance(piece, tuple) else len(piece)


def _joined(file: BinaryIO, pieces: list[Piece]) -> bytes:
    def read(begin: int, end: int) -> bytes:
        file.seek(begin)
        return file.read(end - begin)

    return b"".join(read(*piece) if isinstance(piece, tuple) else piece for piece in pieces)


def _large(file: BinaryIO, start: int, end: int) -> tuple[int, onnx.TensorProto] | None:
    """Where the data of an initializer begins, and its stub; None if it is to stay as it is."""
    rest: list[Piece] = []
    data: list[tuple[int, int]] = []
    beside = 0
    for tag, begin, first, last in _fields(file, start, end):
        if tag == _RAW_DATA:
            data.append((first, last))
            continue
        _append(rest, begin, last)
        beside += last - begin
        if beside > MOST_BESIDE:
            return None
    if len(data) != 1:
        return None
    ((first, last),) = data
    try:
        tensor = onnx.TensorProto.FromString(_joined(file, rest))
        plain = isinstance(tensor.name, str) and not tensor.HasField("segment")
    except (DecodeError, UnicodeDecodeError):
        return None
    if not plain or not 0 < len(tensor.dims) <= MAX_AXES or min(tensor.dims) < 1:
        return None
    if not is_large(tensor):
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if last - first != math.prod(tensor.dims) * dtype.itemsize:
        return None
    return first, stub(tensor.name, tensor.data_type, tensor.dims)


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: tag, first byte, first byte of the value, and where it ends."""
    while start < end:
        file.seek(start)
        head = file.read(2 * _LONGEST)
        tag, size = _number(head, 0)
        kind = tag & 7
        last = start + size
        if kind == 2:
            length, size = _number(head, size)
            last = start + size + length
        elif kind == 0:
            last = start + _number(head, size)[1]
        elif kind in (1, 5):
            last += 8 if kind == 1 else 4
        if tag < 8 or kind in (3, 4, 6, 7) or last > end:
            raise ValueError("no such field, or one that is longer than its message")
        yield tag, start, start + size, last
        start = last


def _number(head: bytes, place: int) -> tuple[int, int]:
    """A varint that begins at this place, and where it ends."""
    number = 0
    for shift, byte in enumerate(head[place : place + _LONGEST]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return number, place + shift + 1
    raise ValueError("a number has no end")
