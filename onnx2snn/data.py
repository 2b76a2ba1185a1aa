"""Data as the command line names it: an .npz or .npy file, or a data set by name.

Files are read in batches, never whole where the format allows: an .npy is mapped, an .npz
is read as a stream. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError, ModelError, Onnx2SnnError
from onnx2snn.graph_passes.files import read_parts
from onnx2snn.models.datasets import IN_MEMORY, in_memory
from onnx2snn.models.image_folder import image_files, imagenet_folder, read_images
from onnx2snn.models.preprocessing import KEY, Preprocessing

Inputs = np.ndarray | dict[str, np.ndarray]
"""A network's one input, or its several inputs by name."""

Batch = tuple[Inputs, np.ndarray | None]
"""Inputs [n, ...] and labels int64 [n], or None without labels."""

DATASETS = (*IN_MEMORY, "imagenet")


@dataclass(frozen=True)
class Data:
    """Inputs, and labels if there are any, read in batches.

    ``shape`` and ``dtype`` are those of all samples together, on the first axis; for a
    network with several inputs those of the first, and ``shapes`` has all, by name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    labels: np.ndarray | None
    read: Callable[[int], Iterator[Inputs]]
    shapes: dict[str, tuple[int, ...]] | None = None

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return self.shape[0]

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the samples in order, ``batch_size`` at a time, the last batch what is left."""
        start = 0
        for x in self.read(batch_size):
            stop = start + number_of(x)
            for name, values in x.items() if isinstance(x, dict) else (("x", x),):
                if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
                    first, *rest = np.argwhere(~np.isfinite(values))[0].tolist()
                    place = [start + first, *rest]
                    raise DataError(f"'{self.name}' holds NaN or infinity, first at {name}{place}")
            yield x, None if self.labels is None else self.labels[start:stop]
            start = stop


def require_whole(name: str, value: Any, least: int) -> None:
    """Raise ``DataError`` unless an argument of this name is a whole number, ``least`` or more."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (whole and value >= least):
        raise DataError(f"{name} must be a whole number, {least} or more, not {value}")


def number_of(x: Inputs) -> int:
    """How many samples there are in a batch."""
    return len(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def from_arrays(
    x: np.ndarray | Mapping[str, np.ndarray], y: np.ndarray | None = None, name: str = "data"
) -> Data:
    """Data that is in memory: x [N, ...], and integer labels y [N] if there are any.

    For a network with several inputs, x has each by its name. Raises ``DataError`` if x is
    empty, its arrays are of different lengths, or y does not fit it.
    """
    if isinstance(x, Mapping):
        arrays = {key: np.asarray(value) for key, value in x.items()}
        if not arrays:
            raise DataError(f"'{name}' holds no arrays")
        parts = {key: from_arrays(value, None, f"{name}: {key}") for key, value in arrays.items()}
        return _checked(_together(name, parts), y)

    def read(batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(x), batch_size):
            yield x[start : start + batch_size]

    return _checked(Data(name, x.shape, x.dtype, None, read), y)


def _together(name: str, parts: dict[str, Data]) -> Data:
    """Several inputs as one data set."""
    sizes = {key: part.samples for key, part in parts.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"'{name}': its arrays hold different numbers of samples: {sizes}")

    def read(batch_size: int) -> Iterator[Inputs]:
        readers = {key: part.read(batch_size) for key, part in parts.items()}
        for values in zip(*readers.values(), strict=True):
            yield dict(zip(readers, values, strict=True))

    first = next(iter(parts.values()))
    shapes = {key: part.shape for key, part in parts.items()}
    return Data(name, first.shape, first.dtype, None, read, shapes)


def check_labels(y: np.ndarray | None, classes: int, name: str) -> None:
    """Raise ``DataError`` if a label is none of the network's classes."""
    if y is not None and (y.min() < 0 or y.max() >= classes):
        raise DataError(
            f"'{name}' holds labels from {y.min()} to {y.max()}; "
            f"the network has the classes 0 to {classes - 1}"
        )


def open_data(
    source: str,
    root: Path | None = None,
    train: bool = False,
    samples: int | None = None,
    labels: bool = True,
    model: str | os.PathLike[str] | onnx.ModelProto | None = None,
) -> Data:
    """Open DATA: a path ending in .npz (``x``, optionally ``y``) or .npy, a data set's name, or
    a folder with a folder of images for each class.

    root: the folder of a named data set. train: its training images instead of its test
    images. samples: only the first so many. labels: whether y is wanted at all. model: the
    network that images are for, whose metadata may say how they become its input; else they
    are pixels in [0, 1] as they are, and images of various sizes cannot be read. Arrays are
    taken as they are. Raises ``DataError`` if the data is not there, is empty, is damaged or
    holds pickled objects, or does not fit its labels or the network; ``ModelError`` if
    the network cannot be read.
    """
    if source in DATASETS or Path(source).is_dir():
        data = _open_images(source, root, train, None if model is None else preprocessing_of(model))
    elif source.endswith(".npz"):
        data = _open_npz(Path(source), labels)
    elif source.endswith(".npy"):
        data = _open_npy(Path(source))
    else:
        raise DataError(
            f"'{source}' is no data: give an .npz with x (and y), an .npy, a folder of "
            f"folders of images, or one of {', '.join(DATASETS)}"
        )
    return data if samples is None else _first(data, samples)


def _first(data: Data, samples: int) -> Data:
    kept = min(samples, data.samples)

    def read(batch_size: int) -> Iterator[Inputs]:
        left = kept
        for x in data.read(batch_size):
            yield {n: v[:left] for n, v in x.items()} if isinstance(x, dict) else x[:left]
            left -= min(left, number_of(x))
            if not left:
                return

    labels = None if data.labels is None else data.labels[:kept]
    shapes = data.shapes
    if shapes is not None:
        shapes = {key: (kept, *shape[1:]) for key, shape in shapes.items()}
    return Data(data.name, (kept, *data.shape[1:]), data.dtype, labels, read, shapes)


def _checked(data: Data, y: np.ndarray | None) -> Data:
    if not data.shape or 0 in data.shape:
        raise DataError(f"'{data.name}' holds no samples: x has shape {list(data.shape)}")
    if y is None:
        return data
    if y.shape != (data.samples,) or y.dtype.kind not in "iu":
        raise DataError(
            f"'{data.name}': y must hold one integer label for each of {data.samples} samples, "
            f"not {y.dtype} of shape {list(y.shape)}; leave y out where there are none"
        )
    if y.max() > np.iinfo(np.int64).max:
        raise DataError(f"'{data.name}' holds the label {y.max()}, which is no class")
    return dataclasses.replace(data, labels=y.astype(np.int64))


def _open_images(
    source: str, root: Path | None, train: bool, preprocessing: Preprocessing | None
) -> Data:
    if source in IN_MEMORY:
        return _open_in_memory(source, root, train, preprocessing)
    folder = imagenet_folder(root or Path(), train) if source == "imagenet" else Path(source)
    return _open_folder(source, folder, preprocessing)


def preprocessing_of(model: str | os.PathLike[str] | onnx.ModelProto) -> Preprocessing | None:
    """How a model's metadata says that images become its input; None if it does not.

    Raises ``ModelError`` if it says what cannot be understood, or if the file is no model.
    """
    if not isinstance(model, onnx.ModelProto):
        model = read_parts(model).structure
    for entry in model.metadata_props:
        if entry.key == KEY:
            try:
                return Preprocessing.parse(entry.value)
            except ValueError as error:
                raise ModelError(f"the model's metadata {KEY} is damaged: {error}") from error
    return None


def _open_in_memory(
    name: str, root: Path | None, train: bool, preprocessing: Preprocessing | None
) -> Data:
    try:
        images, labels = in_memory(name, root, train)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: {error}") from error
    count, channels, *size = images.shape
    wanted = preprocessing or Preprocessing(size[0], channels)
    if [wanted.channels, wanted.size, wanted.size] != [channels, *size]:
        raise DataError(
            f"the network is for images of {wanted.channels} channels and {wanted.size} x "
            f"{wanted.size} pixels; those of {name} have {channels} and {size[0]} x {size[1]}"
        )

    def read(batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, count, batch_size):
            yield wanted.normalise(images[start : start + batch_size])

    title = f"{name} ({'training' if train else 'test'} images)"
    return _checked(Data(title, images.shape, np.dtype(np.float32), None, read), labels)


def _open_folder(name: str, folder: Path, preprocessing: Preprocessing | None) -> Data:
    if preprocessing is None:
        raise DataError(
            f"'{name}' holds images, and the model does not say how they become its input: "
            f"record it in its metadata ({KEY}), or give an .npz of what the network takes"
        )
    wanted = preprocessing
    try:
        files, labels, _ = image_files(folder)
    except OSError as error:
        raise DataError(str(error)) from error

    def read(batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(files), batch_size):
            try:
                images = read_images(files[start : start + batch_size], wanted)
            except ImportError as error:
                raise DataError("images need Pillow: pip install pillow") from error
            except (OSError, ValueError) as error:
                raise DataError(f"'{name}': {error}") from error
            yield wanted.normalise(images)

    shape = (len(files), wanted.channels, wanted.size, wanted.size)
    return _checked(Data(name, shape, np.dtype(np.float32), None, read), labels)


def pixels_to_input(images: np.ndarray) -> np.ndarray:
    """Grey images uint8 [N, H, W] to float32 [N, 1, H, W] in [0, 1]."""
    return images[:, None].astype(np.float32) / np.float32(255)


def _open_npy(path: Path) -> Data:
    with _reading(path):
        with path.open("rb") as file:
            _read_header(file)
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    return from_arrays(x, None, str(path))


def _open_npz(path: Path, labels: bool) -> Data:
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        inputs = [name for name in names if name != "y"]
        if "x" not in inputs and len(inputs) < 2:
            held = ", ".join(sorted(names)) or "nothing"
            raise DataError(f"'{path}' holds no array x, only: {held}")
        y = None
        if labels and "y" in names:
            with archive.open("y.npy") as file:
                y = np.lib.format.read_array(file, allow_pickle=False)
        if "x" in inputs:
            data = _open_member(path, archive, "x")
            # What else is there may be further inputs, or has nothing to do with them.
            inputs = [name for name in inputs if _length(archive, name) == data.samples]
        if len(inputs) > 1:
            parts = {name: _open_member(path, archive, name) for name in inputs}
            data = _together(str(path), parts)
    return _checked(data, y)


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

    return _checked(Data(str(path), shape, dtype, None, read), None)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes zipfile, zlib and NumPy raise into ``DataError``."""
    try:
        yield
    except Onnx2SnnError:
        raise
    except Exception as error:
        raise DataError(f"cannot read '{path}': {_reason(error)}") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    if file.peek(1)[:1] == b"\x80":  # type: ignore[attr-defined]
        raise ValueError("it holds pickled objects, which are never loaded")
    version = np.lib.format.read_magic(file)
    reader: Any = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise ValueError(f"unknown .npy version {version}")
    try:
        shape, in_columns, dtype = reader(file)
    except Exception as error:
        raise ValueError("its header is damaged") from error
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"its header is damaged: shape {shape}")
    return shape, in_columns and len(shape) > 1, dtype


def _read_rows(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    content = file.read(size)
    if len(content) != size:
        raise EOFError("the file ends before its data does")
    return np.frombuffer(content, dtype).reshape(shape)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "allow_pickle" in str(error):
        return "it holds pickled objects, which are never loaded"
    return str(error) or type(error).__name__
