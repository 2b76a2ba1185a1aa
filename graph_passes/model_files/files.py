"""Models on disk: read whole and checked, written whole or not at all.

Model files are untrusted input: nothing outside a model's own folder is read.
"""

import contextlib
import io
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
import onnx.checker
import onnx.external_data_helper

from onnx2snn.graph_passes.errors import ModelError, Onnx2SnnError, OutputError, first_line

from .contents import (
    check_contents,
    check_values,
    has_sparse,
    make_dense,
    mend,
    stored_tensors,
)
from .data_files import data_file, external_data, with_data_beside
from .limits import check_shapes, check_structure
from .unregistered import define_unregistered
from .weights import (
    ModelParts,
    attach,
    copy_model,
    detach,
    fill,
    is_large,
    stub,
    with_weights_as_inputs,
)
from .whole_file import check_writable, write_bytes
from .wire import buffer_of, encoded, without_large_weights

MAX_PROTO_BYTES = 2**31 - 2**20
"""Protobuf's limit is 2 GiB; the weights of a larger model are kept in a file beside it."""


EXPORT = "onnx2snn.export"
"""The key under which the metadata of an export says how it was made."""

Model = str | os.PathLike[str] | onnx.ModelProto | ModelParts
"""A model file's path, or the model in memory, whole or in parts."""

Opened = io.BufferedReader | io.BytesIO
"""A file to read at any place, or what came from a pipe."""


def require_path(path: Any, what: str, error: type[Onnx2SnnError]) -> None:
    """Raise an ``error`` that begins with ``what``, which says what is wanted, for no path."""
    if not isinstance(path, str | os.PathLike):
        raise error(f"{what}, not {type(path).__name__}")


def read_any(model: Model) -> ModelParts:
    """A model in parts, checked; parts are taken as they are.

    Raises ``ModelError`` for what is no model, or cannot be read.
    """
    if isinstance(model, ModelParts):
        return model
    if isinstance(model, onnx.ModelProto):
        return take_apart(model, "the model")
    what = "a model is a file's path or an onnx.ModelProto (of a Conversion, its .model)"
    require_path(model, what, ModelError)
    return read_parts(model)


def read_structure(model: Model) -> onnx.ModelProto:
    """A model without its large weights, and without reading what is in other files.

    Raises ``ModelError`` for what is no model, or cannot be read.
    """
    if not isinstance(model, str | os.PathLike):
        return read_any(model).structure
    structure = parse_structure(Path(model))
    _check_whole(structure, f"'{model}'")
    return structure


def read_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an ONNX file, with its external data, and check that it is a valid model.

    Raises ``ModelError`` if the file cannot be read, is no ONNX model, is damaged, or
    keeps data outside its own folder.
    """
    return attach(read_parts(path))


def read_parts(path: str | os.PathLike[str]) -> ModelParts:
    """Like ``read_model``, with the weights beside the structure."""
    require_path(path, "a model is read from a file's path", ModelError)
    path = Path(path)
    with opened(path) as file:
        return parts_in(file, path)


def parts_in(file: Opened, path: Path) -> ModelParts:
    """The model in a file that is ``opened``; raises ``ModelError`` as ``read_model``."""
    parsed = parse_model(file, path)
    model, weights = parsed.structure, dict(parsed.weights)
    _check_whole(model, f"'{path}'")
    for tensor, is_initializer in _external(model, weights):
        values = external_data(tensor, path)
        tensor.ClearField("data_location")
        if is_initializer and is_large(tensor):
            weights[tensor.name] = values
            tensor.CopyFrom(stub(tensor.name, tensor.data_type, tensor.dims))
        else:
            fill(tensor, values)
    rest = detach(model)
    return _mended(ModelParts(rest.structure, rest.weights | weights), f"'{path}'")


def _external(
    structure: onnx.ModelProto, held: Container[str]
) -> list[tuple[onnx.TensorProto, bool]]:
    """The tensors whose data is in another file, and whether each is one of the initializers.

    ``held``: the names of large initializers whose data is known.
    """
    initializers = len(structure.graph.initializer)
    stored = [(t, place < initializers) for place, t in enumerate(stored_tensors(structure))]
    return [
        (tensor, is_initializer)
        for tensor, is_initializer in stored
        if onnx.external_data_helper.uses_external_data(tensor)
        and not (is_initializer and tensor.name in held)
    ]


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """An ONNX file, and after it the files beside it that hold weights of it.

    Raises ``ModelError`` if the file cannot be read, or names another that is not beside it.
    """
    path = Path(path)
    with opened(path) as file:
        return [path, *files_beside(file, path)]


def files_beside(file: Opened, path: Path) -> list[Path]:
    """The files beside one that is ``opened`` that hold weights of it; raises as ``files_of``."""
    stored = _external(*_parsed(file, path))
    return sorted({data_file(tensor, path)[0] for tensor, _ in stored})


def parse_model(file: Opened, path: Path) -> ModelParts:
    """What a file holds that is ``opened``, without its external data and not checked any further.

    Large weights are read from the file straight into arrays: parsed, and copied out, they would
    take up to three times the memory. Raises ``ModelError`` if it is no ONNX model.
    """
    model, places = _parsed(file, path)
    weights = {
        tensor.name: _data_at(file, places[tensor.name], tensor)
        for tensor in model.graph.initializer
        if tensor.name in places
    }
    return ModelParts(model, weights)


def parse_structure(path: Path) -> onnx.ModelProto:
    """Like ``parse_model``, without reading the large weights.

    Raises ``ModelError`` if the file cannot be read, too.
    """
    with opened(path) as file:
        return _parsed(file, path)[0]


def _parsed(file: Opened, path: Path) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The model in a file with stubs for its large initializers, and where their data begins."""
    try:
        content, places = without_large_weights(file)
    except ValueError:
        # Damaged, or no model: protobuf says which.
        file.seek(0)
        content, places = file.read(), {}
    model = onnx.ModelProto()
    model.ParseFromString(content)
    names = [tensor.name for tensor in model.graph.initializer]
    if places and len(set(names)) < len(names):
        # Damaged: where the data of a name is would be the place of each that has it.
        file.seek(0)
        model.ParseFromString(file.read())
        places = {}
    # Some files of other kinds, the empty one among them, parse as a protobuf message.
    if not model.graph.node or not model.opset_import:
        lacks = "names no opset" if model.graph.node else "holds no graph"
        what = f"'{path}' is not an ONNX model, or is damaged"
        raise ModelError(f"{what}: it {lacks}{_cure_of(path)}")
    return model, places


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """A file to read, or what a pipe gives; ``ModelError`` for what is wrong with it."""
    try:
        with path.open("rb") as file:
            yield file if file.seekable() else io.BytesIO(file.read())
    except OSError as error:
        cure = _cure_of_folder(path) if os.path.isdir(path) else ""
        raise ModelError(f"cannot read '{path}': {error.strerror}{cure}") from error
    except ValueError as error:
        # Its name has a null character.
        raise ModelError(f"cannot read {str(path)!r}: {error}") from error
    except MemoryError as error:
        raise ModelError(f"cannot read '{path}': it is larger than the memory") from error
    except google.protobuf.message.DecodeError as error:
        what = f"'{path}' is not an ONNX model, or is damaged"
        raise ModelError(what + (_cure_of(path) or ": export it again")) from error


_EXPORTS = {
    (".pt", ".pth", ".ckpt"): "torch.onnx.export makes an ONNX file of a network of PyTorch",
    (".h5", ".keras"): "Keras makes an ONNX file by model.export(FILE, format='onnx')",
    (".pb", ".tflite"): "tf2onnx makes an ONNX file of a network of TensorFlow",
    (".npz", ".npy"): "it holds arrays, which are data",
    (".nir",): "'onnx2snn import' reads the files of 'onnx2snn export --to nir'",
}
"""What to do about files of other kinds, by their suffixes."""


def _cure_of(path: Path) -> str:
    suffix = path.suffix.lower()
    return "".join(f"; {cure}" for suffixes, cure in _EXPORTS.items() if suffix in suffixes)


def _cure_of_folder(path: Path) -> str:
    # What TensorFlow saves is a folder.
    saved = path / "saved_model.pb"
    if os.path.exists(saved):
        return _cure_of(saved)
    return "; a model is a file, in a Triton repository NAME/1/model.onnx"


def _data_at(file: Opened, place: int, tensor: onnx.TensorProto) -> np.ndarray:
    """The data of a tensor that begins at this place in a file."""
    values = np.empty(tuple(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    file.seek(place)
    if file.readinto(buffer_of(values)) != values.nbytes:
        raise OSError(None, "it became shorter while it was read")
    return values


def _check_whole(model: onnx.ModelProto, what: str) -> None:
    """Check, before any other library reads it, that a model is whole and of sane proportions."""
    check_contents(model, what)
    if any(entry.key == EXPORT for entry in model.metadata_props):
        raise ModelError(
            f"{what} is what 'onnx2snn export' made of a spiking network: run it with ONNX Runtime "
            "alone, and give that network's own file here"
        )
    check_structure(model, what)
    make_dense(model, what)
    for tensor in stored_tensors(model):
        if not onnx.external_data_helper.uses_external_data(tensor):
            check_values(tensor, what)


def take_apart(model: onnx.ModelProto, what: str) -> ModelParts:
    """A model that is in memory, checked like one that is read; the model is left as it was.

    Raises ``ModelError``, beginning with ``what``.
    """
    if has_sparse(model):
        model = copy_model(model)
    _check_whole(model, what)
    parts = detach(model)
    require_values(parts, what)
    return _mended(parts, what)


def _mended(parts: ModelParts, what: str) -> ModelParts:
    """Parts that were just made, their structure as ONNX has it, and checked."""
    mend(parts.structure)
    define_unregistered(parts.structure, what)
    check_model(parts, what)
    return parts


def require_values(parts: ModelParts, what: str) -> None:
    """Raise ``ModelError``, beginning with ``what``, where tensors keep their values elsewhere."""
    for tensor, _ in _external(parts.structure, parts.weights):
        raise ModelError(
            f"{what} does not hold the values of its tensor '{tensor.name}', which are in another "
            "file: load its external data, or read it with read_model"
        )


def check_model(model: ModelParts, what: str) -> None:
    """Raise ``ModelError``, beginning with ``what``, unless the model is a valid one."""
    structure = with_weights_as_inputs(model.structure)
    try:
        onnx.checker.check_model(structure)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{what} is not a valid ONNX model: {first_line(error)}") from error
    check_shapes(model.structure, what)


def write_model(
    model: onnx.ModelProto | ModelParts, path: str | os.PathLike[str], *, new: bool = False
) -> None:
    """Write a model to ``path``, whole or not at all.

    The bytes go to a temporary file in the same folder, which then takes the name. new: only if
    no file has that name by then. Weights beyond protobuf's 2 GiB go to ``<name>.<digest>.data``
    beside it; that of a model that is replaced stays, since copies of it may read it. Raises
    ``OutputError`` if ``path`` is none, the folder does not exist, cannot be written or is full; a
    file that stood at ``path`` is then as it was. Raises ``ModelError`` for what is no model, or
    does not hold its values.
    """
    require_path(path, "a model is written to a file's path", OutputError)
    if not isinstance(model, onnx.ModelProto | ModelParts):
        raise ModelError(
            "what is written is an onnx.ModelProto (of a Conversion, its .model), "
            f"not {type(model).__name__}"
        )
    path = Path(path)
    parts = model if isinstance(model, ModelParts) else detach(model)
    require_values(parts, "what is written")
    check_writable(path, new=new)
    size = parts.structure.ByteSize() + sum(values.nbytes for values in parts.weights.values())
    if size <= MAX_PROTO_BYTES:
        write_bytes(path, encoded(parts), new=new)
    else:
        # Through a link: data belongs beside the file that it names, where readers look for it.
        _write_in_two(parts, path.resolve(), new)


def _write_in_two(parts: ModelParts, path: Path, new: bool) -> None:
    """Write the large weights to a file beside ``path``, and the rest there."""
    structure, data, pages = with_data_beside(parts, path)
    made = not data.exists()
    try:
        # The data first, under a name that its content gives: an older model's file keeps its own.
        write_bytes(data, pages)
        write_bytes(path, structure.SerializeToString(), new=new)
    except BaseException:
        # An interrupt may come when the structure is in its place, and is a model with its data.
        if made and not _reads(path, data):
            data.unlink(missing_ok=True)
        raise


def _reads(path: Path, data: Path) -> bool:
    """Whether there is a model at ``path`` that keeps weights in this file."""
    try:
        return data in files_of(path)
    except ModelError:
        return False
