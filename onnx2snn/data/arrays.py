"""Arrays of .npy and .npz files as data, read in batches and never unpickled.

An .npy is mapped, an .npz read as a stream.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnx2snn.graph_passes.errors import DataError, Onnx2SnnError

from .samples import NUMBERED, Data, checked, from_arrays, several_inputs

_PICKLED = (
    "it holds pickled objects, which are never loaded: save numbers (labels y that are names of "
    f"classes as {NUMBERED})"
)


def open_npy(path: Path) -> Data:
    """The array of an .npy as x; raises ``DataError`` if it cannot be read."""
    with _reading(path):
        with path.open("rb") as file:
            _read_header(file)
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    return from_arrays(x, None, str(path))


def open_npz(path: Path, labels: bool, train: bool, wanted: set[str] | None) -> Data:
    """The arrays of an .npz that are inputs, and y where it holds ``labels``, and such are wanted.

    train: y is left out where it holds no classes. wanted: the names of the network's inputs, or
    None where it is not known. Raises ``DataError`` if the file cannot be read, holds no inputs, or
    arrays that do not fit each other.
    """
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = _names_in(archive)
        has_labels = "y" in names and not _is_input_y(names, wanted)
        given = [name for name in names if name != "y" or not has_labels]
        if not given:
            held = ", ".join(sorted(names)) or "nothing"
            raise DataError(f"'{path}' holds no array x, only: {held}")
        y = None
        # What cannot be labels is not read where they are not needed.
        if labels and has_labels and not (train and _length(archive, "y") is None):
            y = _labels_in(archive)
            y = None if train and not _are_classes(y) else y
        inputs = _inputs_among(given, path, archive, wanted)
        parts = {name: _open_member(path, archive, name) for name in inputs}
        several = len(inputs) > 1 or "x" not in names
        data = several_inputs(str(path), parts) if several else parts[inputs[0]]
    return checked(data, y)


def _inputs_among(
    given: list[str], path: Path, archive: zipfile.ZipFile, wanted: set[str] | None
) -> list[str]:
    """Which of the arrays that are no labels are the network's inputs; ``wanted`` as of the above.

    Without x, all that are wanted, or all where one of these is missing. Beside x, those that have
    as many rows; what else is there has nothing to do with the network.
    """
    if wanted is not None and "x" not in wanted and _go_by_name(given, wanted):
        return [name for name in given if name in wanted]
    if "x" not in given:
        return given
    samples = _open_member(path, archive, "x").samples
    fitting = [name for name in given if _length(archive, name) == samples]
    if wanted is None and "x" not in fitting:
        raise DataError(f"'{path}': x holds no numbers")
    if wanted is None:
        return fitting
    _refuse_inputs(path, [name for name in given if name not in ("x", *fitting)], samples, wanted)
    # The only input may be called x.
    return [name for name in fitting if name in wanted] or ["x"]


def classes_beside(path: Path, samples: int, wanted: set[str] | None) -> np.ndarray | None:
    """The labels beside so many samples of an .npz, int [N]; None where y holds no such.

    wanted: as of ``open_npz``.
    """
    with _reading(path), zipfile.ZipFile(path) as archive:
        is_input = _is_input_y(_names_in(archive), wanted)
        if is_input or _length(archive, "y") != samples:
            return None
        y = _labels_in(archive)
    return y if _are_classes(y) else None


def arrays_besides(path: Path, inputs: Collection[str]) -> list[str]:
    """The names of the arrays of an .npz that are none of a network's inputs."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        return [name for name in _names_in(archive) if name not in ("x", *inputs)]


def _names_in(archive: zipfile.ZipFile) -> list[str]:
    """Of arrays: what else a zip may hold is none."""
    names = archive.namelist()
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def _is_input_y(names: list[str], wanted: set[str] | None) -> bool:
    """Whether y, among arrays of these names, is an input of the network, and no labels."""
    return wanted is not None and "y" in wanted and _go_by_name(names, wanted)


def _go_by_name(names: list[str], wanted: set[str]) -> bool:
    """Whether arrays have the names of all inputs wanted: an only one is x, if that is there."""
    if not wanted or not wanted.issubset(names):
        return False
    return len(wanted) > 1 or "x" not in names


def _refuse_inputs(path: Path, others: list[str], samples: int, wanted: set[str]) -> None:
    """Raise ``DataError`` where an input of the network is among arrays of other lengths than x."""
    # The only input may be called x, whatever else has its name.
    found = [name for name in others if name in wanted and len(wanted) > 1]
    if found:
        raise DataError(
            f"'{path}': the network's input '{found[0]}' has no row of numbers for each of the "
            f"{samples} samples in x: give it one for each; what holds for all samples is a "
            "constant of the network, or is given to SpikingSession.run in Python"
        )


def _are_classes(y: np.ndarray) -> bool:
    return y.ndim == 1 and y.dtype.kind in "iu"


def _labels_in(archive: zipfile.ZipFile) -> np.ndarray:
    with archive.open("y.npy") as file:
        y: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return y


def _length(archive: zipfile.ZipFile, name: str) -> int | None:
    """The length of an array's first axis; None if it has none, or is no array of numbers."""
    try:
        with archive.open(f"{name}.npy") as file:
            shape, _, dtype = _read_header(file)
    except (KeyError, ValueError):
        return None
    return shape[0] if shape and dtype.kind in "fiub" else None


def _open_member(path: Path, archive: zipfile.ZipFile, name: str) -> Data:
    with archive.open(f"{name}.npy") as file:
        shape, in_columns, dtype = _read_header(file)
    if not shape:
        raise DataError(f"'{path}' holds no samples: {name} has shape []")

    def read(batch_size: int) -> Iterator[np.ndarray]:
        with _reading(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            if in_columns:
                # Stored column by column, a sample is nowhere in one piece.
                x = np.lib.format.read_array(file, allow_pickle=False)
                for start in range(0, len(x), batch_size):
                    yield x[start : start + batch_size]
                return
            _read_header(file)
            for start in range(0, shape[0], batch_size):
                yield _read_rows(file, (min(batch_size, shape[0] - start), *shape[1:]), dtype)

    return checked(Data(str(path), shape, None, read), None)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes zipfile, zlib and NumPy raise into ``DataError``."""
    try:
        yield
    except Onnx2SnnError:
        raise
    except Exception as error:
        raise DataError(f"cannot read '{path}': {_reason(error, path)}") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    if file.peek(1)[:1] == b"\x80":  # type: ignore[attr-defined]
        raise ValueError(_PICKLED)
    version = np.lib.format.read_magic(file)
    reader: Any = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise NotImplementedError(f"unknown .npy version {version}")
    try:
        shape, in_columns, dtype = reader(file)
    except Exception as error:
        raise ValueError("its header is damaged") from error
    if dtype.hasobject:
        raise ValueError(_PICKLED)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"its header is damaged: shape {shape}")
    return shape, in_columns and len(shape) > 1, dtype


def _read_rows(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    content = file.read(size)
    if len(content) != size:
        raise EOFError("the file ends before its data does")
    return np.frombuffer(content, dtype).reshape(shape)


def _reason(error: BaseException, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "pickle" in str(error):
        return _PICKLED
    said = str(error) or type(error).__name__
    if isinstance(error, EOFError | ValueError | zipfile.BadZipFile | zlib.error):
        kind = path.suffix.lower()
        return f"it is empty, cut off, damaged or no {kind} file; save it again ({said})"
    return said
