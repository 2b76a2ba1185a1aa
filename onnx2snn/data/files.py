"""Data as the command line names it: an .npz or .npy file, a data set by name, or a folder."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError, ModelError, optional_whole, require_truths
from onnx2snn.graph_passes.model_files.files import Model, read_structure, require_path
from onnx2snn.inspection import inputs_of, metadata_of
from onnx2snn.models.datasets import DATASETS, IN_MEMORY, in_memory
from onnx2snn.models.image_folder import (
    has_both,
    image_files,
    imagenet_folder,
    read_images,
    require_imagenet,
)
from onnx2snn.models.preprocessing import KEY, Preprocessing
from onnx2snn.runtime.inputs import called_x, fits, remedy, require_type, written

from .arrays import classes_beside, open_npy, open_npz
from .samples import Data, by_name, checked, rows_by_rounds, some_rows, with_rows

_IMAGENET = DATASETS["imagenet"]
_EXAMPLE = Preprocessing(_IMAGENET.size, 3, 256, _IMAGENET.mean, _IMAGENET.std)


def open_data(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    train: bool = False,
    samples: int | None = None,
    labels: bool = True,
    model: Model | None = None,
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
    channels where its input has them, [N, C, H, W] or [N, H, W, C], and are [N, C H W] or, of one
    channel, [N, H, W] where it is. Arrays are taken as they are; those beside x that are inputs of
    the model must have as many rows, and y is none of them where an input of it has that name.
    Raises ``DataError`` if the data is not there, is empty, is damaged or holds pickled objects, or
    does not fit its labels or the network; ``ModelError`` if the network cannot be read.
    """
    require_path(source, "DATA is a path or a name (from_arrays takes arrays)", DataError)
    if root is not None:
        require_path(root, "root is a folder's path", DataError)
    require_truths(train=train, labels=labels)
    source, root = os.fspath(source), None if root is None else Path(root)
    samples = optional_whole("samples", samples, 1)
    kind = source.lower()[-4:]
    structure = _structure_of(model)
    inputs = None if structure is None else {info.name for info in inputs_of(structure)}
    if source in DATASETS or (source and Path(source).is_dir()):
        wanted = None if structure is None else preprocessing_of(structure)
        if source in IN_MEMORY:
            data = _open_in_memory(source, root, train, wanted)
        else:
            data = _open_folder(source, root, wanted, samples, train, labels and not train)
        if structure is not None:
            data = _arranged_for(structure, data)
    elif kind in (".npz", ".npy"):
        path = Path(source)
        data = open_npz(path, labels, train, inputs) if kind == ".npz" else open_npy(path)
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
        known = classes_beside(Path(source), data.samples, inputs)
    return with_rows(data, some_rows(samples, data.samples, known))


def _require_fit(data: Data, structure: onnx.ModelProto) -> None:
    """Raise ``DataError`` where an array has another type or shape than the input that it is.

    How many samples there are is not looked at, nor whether there is an input for each time-step.
    """
    declared = {info.name: info.type.tensor_type for info in inputs_of(structure)}
    first = by_name(next(data.read(1)))
    given = data.shapes or {"x": data.shape}
    input_x = next(iter(declared)) if called_x(given, list(declared)) else "x"
    for key, shape in given.items():
        name = input_x if key == "x" else key
        if name not in declared or not declared[name].HasField("shape"):
            continue
        what = f"'{data.name}'" if data.shapes is None else f"'{key}' of '{data.name}'"
        wanted = [n if n > 0 else None for n in (d.dim_value for d in declared[name].shape.dim)]
        sizes = shape[1:] if len(shape) == len(wanted) + 1 else shape
        if not fits(sizes, [None, *wanted[1:]]):
            needs = written([None, *wanted[1:]])
            hint = remedy(sizes[1:], wanted[1:]) or remedy(shape[1:], wanted[1:])
            raise DataError(f"{what} has shape {list(shape)}, the network needs {needs}{hint}")
        kind = onnx.helper.tensor_dtype_to_np_dtype(declared[name].elem_type)
        # Of others, such as bfloat16, the network itself is refused.
        if kind.kind in "fiub":
            require_type(first[key].dtype, kind, "the network", what)


def _arranged_for(structure: onnx.ModelProto, data: Data) -> Data:
    """Images [N, C, H, W] as a model's first input has them.

    [N, H, W, C], if it is not as well [N, C, H, W]; [N, C H W]; or [N, H, W] of one channel.
    """
    info = next(iter(inputs_of(structure)), None)
    declared = [] if info is None else [d.dim_value for d in info.type.tensor_type.shape.dim]
    sizes = declared[1:]
    count, channels, height, width = data.shape
    channels_last = len(sizes) == 3 and sizes[2] == channels != sizes[0]
    flat, plane = [channels * height * width], [height, width] if channels == 1 else None
    if not channels_last and sizes not in (flat, plane):
        return data

    def arranged(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x, 1, 3) if channels_last else x.reshape(len(x), *sizes)

    def read(batch_size: int) -> Iterator[np.ndarray]:
        for x in data.read(batch_size):
            yield np.ascontiguousarray(arranged(np.asarray(x)))

    shape = (height, width, channels) if channels_last else tuple(sizes)
    return dataclasses.replace(data, shape=(count, *shape), read=read)


def preprocessing_of(structure: onnx.ModelProto) -> Preprocessing | None:
    """How a model's metadata says that images become its input; None if it does not.

    Raises ``ModelError`` if it says what cannot be understood.
    """
    text = metadata_of(structure).get(KEY)
    try:
        return None if text is None else Preprocessing.parse(text)
    except ValueError as error:
        raise ModelError(
            f"the model's metadata {KEY} cannot be understood: {error}; {_EXAMPLE} is that of "
            "torchvision's models of ImageNet"
        ) from error


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
    scored: bool,
) -> Data:
    try:
        folder = (root or Path()) if name == "imagenet" else Path(name)
        divided = name == "imagenet" or has_both(folder)
        if divided:
            folder = imagenet_folder(folder, train)
        files, labels, classes = image_files(folder)
        if name == "imagenet" and scored:
            require_imagenet(folder, classes)
    except (OSError, ValueError) as error:
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
                raise DataError(str(error)) from error
            yield wanted.normalise(images)

    title = f"{name} ({'training' if train else 'validation'} images)" if divided else name
    shape = (len(files), wanted.channels, wanted.size, wanted.size)
    return checked(Data(title, shape, None, read), labels)


def _structure_of(model: Model | None) -> onnx.ModelProto | None:
    """A network without its weights; None where it is not known."""
    # A pipe can be read once, and others need the model.
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    a_pipe = path is not None and path.exists() and not path.is_file()
    return None if model is None or a_pipe else read_structure(model)
