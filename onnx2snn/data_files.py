"""Data as the command line names it: an .npz or .npy file, or a data set by name.

Files are read in batches, never whole where the format allows: an .npy is mapped, an .npz
is read as a stream. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError, ModelError, Onnx2SnnError, optional_whole
from onnx2snn.graph_passes.files import Model, read_structure, require_path
from onnx2snn.graph_passes.weights import ModelParts
from onnx2snn.models.datasets import DATASETS as IMAGE_SETS
from onnx2snn.models.datasets import IN_MEMORY, in_memory
from onnx2snn.models.image_folder import has_both, image_files, imagenet_folder, read_images
from onnx2snn.models.preprocessing import KEY, Preprocessing
from onnx2snn.runtime.inputs import fits, require_type, written

from .data import (
    Data,
    by_name,
    checked,
    from_arrays,
    rows_by_rounds,
    some_rows,
    together,
    with_rows,
)
from .inspection import inputs_of, metadata_of

DATASETS = (*IN_MEMORY, "imagenet")

_IMAGENET = IMAGE_SETS["imagenet"]
_EXAMPLE = Preprocessing(_IMAGENET.size, 3, 256, _IMAGENET.mean, _IMAGENET.std)


def open_data(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    train: bool = False,
    samples: int | None = None,
    labels: bool = True,
    model: Model | ModelParts | None = None,
) -> Data:
    """Open DATA: a path ending in .npz (``x``, optionally ``y``) or .npy, a data set's name, or
    a folder with a folder of images for each class.

    root: the folder of a named data set. train: its training images instead of its test
    images; of a folder, one of each class, then another of each, so that each batch is of many
    classes (what corrects batch by batch minds). samples: only so many: the first, or, where labels
    come class by class, as those of a folder do, evenly spread over all. labels: whether the y of
    an .npz is wanted; with train it is left out where it holds no classes, as to calibrate it need
    not.
    model: the network that images are for, whose metadata may say how they become its input, which
    a folder of images needs; images of a named data set are else pixels in [0, 1]. They have their
    channels where its input has them: [N, C, H, W], or [N, H, W, C]. Arrays are taken as they are;
    those beside x that are inputs of the model must have as many rows, and y is none of them where
    an input of it has that name.
    Raises ``DataError`` if the data is not there, is empty, is damaged or holds pickled objects, or
    does not fit its labels or the network; ``ModelError`` if the network cannot be read.
    """
    require_path(source, "DATA is a path or a name (from_arrays takes arrays)", DataError)
    if root is not None:
        require_path(root, "root is a folder's path", DataError)
    source, root = os.fspath(source), None if root is None else Path(root)
    samples = optional_whole("samples", samples, 1)
    kind = source.lower()[-4:]
    structure = _structure_of(model)
    if source in DATASETS or (source and Path(source).is_dir()):
        wanted = None if structure is None else preprocessing_of(structure)
        if source in IN_MEMORY:
            data = _open_in_memory(source, root, train, wanted)
        else:
            data = _open_folder(source, root, wanted, samples, train)
        if structure is not None and _has_channels_last(structure, data.shape[1]):
            data = _with_channels_last(data)
    elif kind in (".npz", ".npy"):
        path = Path(source)
        data = _open_npz(path, labels, train, structure) if kind == ".npz" else _open_npy(path)
        if structure is not None:
            _require_fit(data, structure)
    else:
        raise DataError(
            f"'{source}' is no data: give an .npz with x (and y), an .npy, a folder of "
            f"folders of images, or one of {', '.join(DATASETS)}"
        )
    if samples is None or samples >= data.samples:
        return data
    known = data.labels
    if not labels and kind == ".npz":
        known = _order_of(Path(source), data.samples)
    return with_rows(data, some_rows(samples, data.samples, known))


def _require_fit(data: Data, structure: onnx.ModelProto) -> None:
    """Raise ``DataError`` where an array has another type or shape than the input that it is.

    How many samples there are is not looked at, nor whether there is an input for each time-step.
    """
    declared = {info.name: info.type.tensor_type for info in inputs_of(structure)}
    first = by_name(next(data.read(1)))
    for key, shape in (data.shapes or {"x": data.shape}).items():
        name = next(iter(declared)) if key == "x" and len(declared) == 1 else key
        if name not in declared or not declared[name].HasField("shape"):
            continue
        what = f"'{data.name}'" if data.shapes is None else f"'{key}' of '{data.name}'"
        wanted = [n if n > 0 else None for n in (d.dim_value for d in declared[name].shape.dim)]
        sizes = shape[1:] if len(shape) == len(wanted) + 1 else shape
        if not fits(sizes, [None, *wanted[1:]]):
            needs = written([None, *wanted[1:]])
            remedy = _remedy(sizes[1:], wanted[1:])
            raise DataError(f"{what} has shape {list(shape)}, the network needs {needs}{remedy}")
        kind = onnx.helper.tensor_dtype_to_np_dtype(declared[name].elem_type)
        # Of others, such as bfloat16, the network itself is refused.
        if kind.kind in "fiub":
            require_type(first[key].dtype, kind, "the network", what)


def _remedy(sizes: Sequence[int], wanted: Sequence[int | None]) -> str:
    """What fits a sample of these sizes to those that are wanted, None being any."""
    known = [size for size in wanted if size is not None]
    if len(known) < len(wanted):
        return ""
    if sorted(sizes) == sorted(known):
        return ": transpose it"
    others = len(sizes) != len(wanted) and math.prod(sizes) == math.prod(known)
    return ": reshape it" if others else ""


def _has_channels_last(structure: onnx.ModelProto, channels: int) -> bool:
    """Whether a model's first input is [N, H, W, C], and not, as well, [N, C, H, W]."""
    info = next(iter(inputs_of(structure)), None)
    sizes = [] if info is None else [d.dim_value for d in info.type.tensor_type.shape.dim]
    return len(sizes) == 4 and sizes[3] == channels != sizes[1]


def _with_channels_last(data: Data) -> Data:
    """Images [N, C, H, W] as [N, H, W, C]."""

    def read(batch_size: int) -> Iterator[np.ndarray]:
        for x in data.read(batch_size):
            yield np.ascontiguousarray(np.moveaxis(np.asarray(x), 1, 3))

    count, channels, height, width = data.shape
    return dataclasses.replace(data, shape=(count, height, width, channels), read=read)


def preprocessing_of(structure: onnx.ModelProto) -> Preprocessing | None:
    """How a model's metadata says that images become its input; None if it does not.

    Raises ``ModelError`` if it says what cannot be understood.
    """
    text = metadata_of(structure).get(KEY)
    try:
        return None if text is None else Preprocessing.parse(text)
    except ValueError as error:
        raise ModelError(f"the model's metadata {KEY} is damaged: {error}") from error


def _open_in_memory(
    name: str, root: Path | None, train: bool, preprocessing: Preprocessing | None
) -> Data:
    try:
        images, labels = in_memory(name, root, train)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: {error}") from error
    if not images.size:
        raise DataError(f"'{name}' holds no pixels: its images are {list(images.shape)}")
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
    return checked(Data(title, images.shape, None, read), labels)


def _open_folder(
    name: str,
    root: Path | None,
    preprocessing: Preprocessing | None,
    samples: int | None,
    train: bool,
) -> Data:
    try:
        folder = (root or Path()) if name == "imagenet" else Path(name)
        divided = name == "imagenet" or has_both(folder)
        if divided:
            folder = imagenet_folder(folder, train)
        files, labels, _ = image_files(folder)
    except OSError as error:
        raise DataError(str(error)) from error
    if preprocessing is None:
        raise DataError(
            f"'{name}' holds images, and no model says how they become its input: record it in "
            f"the model's metadata, {KEY} = {_EXAMPLE} for torchvision's of ImageNet (in Python: "
            "docs/paper.md, Data), or give an .npz of what the network takes"
        )
    wanted = preprocessing
    rows = some_rows(len(files) if samples is None else samples, len(files), labels)
    if train:
        rows = rows[rows_by_rounds(labels[rows])]
    files, labels = [files[row] for row in rows], labels[rows]

    def read(batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(files), batch_size):
            try:
                images = read_images(files[start : start + batch_size], wanted)
            except ImportError as error:
                raise DataError("images need Pillow: pip install pillow") from error
            except (OSError, ValueError) as error:
                raise DataError(f"'{name}': {error}") from error
            yield wanted.normalise(images)

    title = f"{name} ({'training' if train else 'validation'} images)" if divided else name
    shape = (len(files), wanted.channels, wanted.size, wanted.size)
    return checked(Data(title, shape, None, read), labels)


def _open_npy(path: Path) -> Data:
    with _reading(path):
        with path.open("rb") as file:
            _read_header(file)
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    return from_arrays(x, None, str(path))


def _open_npz(path: Path, labels: bool, train: bool, structure: onnx.ModelProto | None) -> Data:
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        wanted = None if structure is None else {info.name for info in inputs_of(structure)}
        has_labels = "y" in names and not _has_input_y(names, wanted)
        inputs = [name for name in names if name != "y" or not has_labels]
        if not inputs:
            held = ", ".join(sorted(names)) or "nothing"
            raise DataError(f"'{path}' holds no array x, only: {held}")
        y = None
        # What cannot be labels is not read where they are not needed.
        if labels and has_labels and not (train and _length(archive, "y") is None):
            y = _labels_in(archive)
            y = None if train and not _are_classes(y) else y
        if "x" in inputs:
            samples = _open_member(path, archive, "x").samples
            # What else is there may be further inputs, or has nothing to do with them.
            fitting = [name for name in inputs if _length(archive, name) == samples]
            others = [name for name in inputs if name not in ("x", *fitting)]
            _refuse_inputs(path, others, samples, wanted or set())
            # The only input may be called x.
            inputs = [name for name in fitting if wanted is None or name in wanted] or ["x"]
        parts = {name: _open_member(path, archive, name) for name in inputs}
        several = len(inputs) > 1 or "x" not in names
        data = together(str(path), parts) if several else parts[inputs[0]]
    return checked(data, y)


def _has_input_y(names: list[str], wanted: set[str] | None) -> bool:
    """Whether arrays of these names are the network's inputs, y one of them, and no labels.

    The only input is x, where there is one.
    """
    if wanted is None or "y" not in wanted or not wanted.issubset(names):
        return False
    return len(wanted) > 1 or "x" not in names


def _structure_of(model: Model | ModelParts | None) -> onnx.ModelProto | None:
    """A network without its weights; None where it is not known."""
    # A pipe can be read once, and others need the model.
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    a_pipe = path is not None and path.exists() and not path.is_file()
    return None if model is None or a_pipe else read_structure(model)


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


def _order_of(path: Path, samples: int) -> np.ndarray | None:
    """The labels beside so many samples, where that is what y is."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        if _length(archive, "y") != samples:
            return None
        y = _labels_in(archive)
    return y if _are_classes(y) else None


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
        raise ValueError("it holds pickled objects, which are never loaded")
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


def _reason(error: BaseException, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "pickle" in str(error):
        return "it holds pickled objects, which are never loaded"
    said = str(error) or type(error).__name__
    if isinstance(error, EOFError | ValueError | zipfile.BadZipFile | zlib.error):
        kind = path.suffix.lower()
        return f"it is empty, cut off, damaged or no {kind} file; save it again ({said})"
    return said
