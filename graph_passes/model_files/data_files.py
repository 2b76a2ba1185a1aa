"""Data files: where tensors that are not in a model's own file keep their data, beside it."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import ModelError, first_line

from .contents import FEW_BITS, UNSUPPORTED_TYPES, check_dimensions
from .weights import ModelParts, copy_model
from .wire import Content, buffer_of

_PAGE = 4096


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def data_file(tensor: onnx.TensorProto, path: Path) -> tuple[Path, str]:
    """The file in which a tensor of the model at ``path`` keeps its data; and how to say that."""
    model, location = path.resolve(), _entries(tensor).get("location", "")
    if not isinstance(location, str):
        # As of names in ``check_contents``, before which data files are looked for.
        raise ModelError(f"'{path}' is damaged: a name in it is no text")
    what = f"'{path}': tensor '{tensor.name}' keeps its data in '{location}'"
    try:
        target, beside_link = model.parent / location, path.parent / location
        if not target.exists() and beside_link.exists():
            # Caches of downloads keep a model and its data under other names, and links to both.
            target = beside_link
        # Resolved, so that neither '..' nor a link leads out of the folder.
        target = target.resolve()
        if not target.is_relative_to(model.parent):
            raise ModelError(
                f"{what}, outside the model's folder: refused; put the data file beside '{model}'"
            )
        if not target.is_file():
            raise ModelError(f"{what}, which is not there")
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{what}, which cannot be read: {first_line(error)}") from error
    return target, what


def external_data(tensor: onnx.TensorProto, path: Path) -> np.ndarray:
    """What a tensor keeps in another file."""
    entries = _entries(tensor)
    check_dimensions(tensor, f"'{path}'")
    packed = tensor.data_type in FEW_BITS
    if tensor.data_type in UNSUPPORTED_TYPES and not packed:
        return np.empty(0, np.uint8)  # Refused later, by its name.
    target, what = data_file(tensor, path)
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", target.stat().st_size - offset))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        size = math.prod(tensor.dims)
        expected = (
            -(-size * FEW_BITS[tensor.data_type][0] // 8) if packed else size * dtype.itemsize
        )
        if length != expected:
            raise ModelError(
                f"{what}, {length} bytes at {offset}, but its shape {list(tensor.dims)} needs "
                f"{expected}: the file or its data is damaged"
            )
        if not 0 <= offset <= target.stat().st_size - length:
            raise ModelError(
                f"{what}, {length} bytes at {offset}, but that file has {target.stat().st_size}: "
                "it is damaged, or that of another model"
            )
        if not expected:
            return np.empty(tensor.dims, dtype)
        # Not mapped: who writes the file anew would change what a session holds, or end it.
        content = np.fromfile(target, np.uint8, length, offset=offset)
        return content if packed else content.view(dtype).reshape(tuple(tensor.dims))
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelError(f"{what}, which cannot be read: {first_line(error)}") from error


def with_data_beside(
    parts: ModelParts, path: Path
) -> tuple[onnx.ModelProto, Path, Iterator[Content]]:
    """The structure of a model at ``path`` with its large weights in a file beside it, that file,
    and what is in it.

    It is named after the model and after its content: ``<name>.<digest>.data``, a long name cut.
    """
    offset, digest = 0, hashlib.sha256()
    structure = copy_model(parts.structure)
    stubs = [tensor for tensor in structure.graph.initializer if tensor.name in parts.weights]
    places = []
    for tensor in stubs:
        # ONNX recommends offsets at page boundaries, so that runtimes can map the file.
        offset += -offset % _PAGE
        places.append(offset)
        digest.update(buffer_of(parts.weights[tensor.name]))
        offset += parts.weights[tensor.name].nbytes
    data = path.with_name(f"{_begin(path)}.{digest.hexdigest()[:12]}.data")
    for tensor, place in zip(stubs, places, strict=True):
        size = parts.weights[tensor.name].nbytes
        del tensor.external_data[:]
        for key, value in (("location", data.name), ("offset", place), ("length", size)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return structure, data, _pages(parts.weights[tensor.name] for tensor in stubs)


def _begin(path: Path) -> str:
    """A file's name as text, so much of it that a data file's name is no longer than names may be.

    It is 255 bytes on most file systems, of which digest and ending take 18.
    """
    return os.fsencode(path.name)[: 255 - 18].decode(errors="ignore")


def _pages(arrays: Iterable[np.ndarray]) -> Iterator[Content]:
    """The data of each array, from a page boundary on."""
    offset = 0
    for values in arrays:
        yield b"\0" * (-offset % _PAGE)
        offset += -offset % _PAGE + values.nbytes
        yield buffer_of(values)
