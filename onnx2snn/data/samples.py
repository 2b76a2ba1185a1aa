"""Samples, and labels if there are any, read in batches."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike

from onnx2snn.graph_passes.errors import DataError, require_whole
from onnx2snn.graph_passes.graph.shapes import declared_shape
from onnx2snn.inspection import inputs_of
from onnx2snn.runtime.inputs import as_array, called_x

Inputs = np.ndarray | dict[str, np.ndarray]
"""A network's one input, or its several inputs by name."""

Batch = tuple[Inputs, np.ndarray | None]
"""Inputs [n, ...] and labels int64 [n], or None without labels."""

MOST_HELD = 2**29
"""Bytes of samples that are held in memory for another order: 890 images of 3 x 224 x 224."""

NUMBERED = "np.unique(y, return_inverse=True)[1]"
"""What makes labels of names of classes, as scikit-learn numbers them."""


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs, and labels if there are any, read in batches.

    ``shape`` is that of all samples together, on the first axis; for a network with several
    inputs that of the first, and ``shapes`` has all, by name. ``labels``: int64 [N], or None.
    ``read(batch_size)`` yields the inputs in order, [n, ...], of as many samples or the last few.
    """

    name: str
    shape: tuple[int, ...]
    labels: np.ndarray | None
    read: Callable[[int], Iterator[Inputs]]
    shapes: dict[str, tuple[int, ...]] | None = None

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return self.shape[0]

    def shapes_of(self, inputs: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by the name of the input that it is.

        An only array is the first input; one that is named x may be the only one.
        """
        names, shapes = list(inputs), self.shapes
        if shapes is None:
            return dict.fromkeys(names[:1], self.shape)
        return {names[0]: shapes["x"]} if called_x(shapes, names) else shapes

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the samples in order, ``batch_size`` at a time, the last batch what is left.

        Raises ``DataError`` for a size that is none, and for data that cannot be read, is not
        finite, or has another number of samples than ``shape`` says.
        """
        batch_size = require_whole("batch_size", batch_size, 1)
        stop = 0
        for x in self.read(batch_size):
            start, stop = stop, stop + number_of(x)
            if stop > self.samples:
                break
            for name, values in by_name(x).items():
                if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
                    first, *rest = np.argwhere(~np.isfinite(values))[0].tolist()
                    place = [start + first, *rest]
                    raise DataError(f"'{self.name}' holds NaN or infinity, first at {name}{place}")
            yield x, None if self.labels is None else self.labels[start:stop]
        if stop != self.samples:
            raise DataError(f"'{self.name}' holds {self.samples} samples, but {stop} were read")


def with_inputs(data: Data, names: Sequence[str]) -> Data:
    """The data without what no input of these names reads, where it has arrays by name."""
    shapes = data.shapes
    if shapes is None or called_x(shapes, names) or not set(names) < shapes.keys():
        return data

    def read(batch_size: int) -> Iterator[Inputs]:
        for x in data.read(batch_size):
            given = by_name(x)
            yield {name: given[name] for name in names}

    kept = {name: shapes[name] for name in names}
    return dataclasses.replace(data, shape=kept[names[0]], read=read, shapes=kept)


def require_data(name: str, data: Any) -> None:
    """Raise ``DataError`` unless a value of this name is a ``Data``."""
    if not isinstance(data, Data):
        raise DataError(f"{name} must be a Data: from_arrays(x) and open_data make one")


def require_samples(data: Data, structure: onnx.ModelProto) -> None:
    """Raise ``DataError`` if the data has another number of axes than a network's input."""
    declared = {info.name: declared_shape(info.type.tensor_type) for info in inputs_of(structure)}
    for name, shape in data.shapes_of(declared).items():
        wanted = declared.get(name)
        if wanted and len(shape) != len(wanted):
            what = f"'{data.name}'" if data.shapes is None else f"'{name}' of '{data.name}'"
            raise DataError(
                f"{what} has the shape {list(shape)}, with {len(shape)} axes; "
                f"the network's input has {len(wanted)}"
            )


def by_name(x: Inputs) -> dict[str, np.ndarray]:
    """The inputs of a batch by name; an only one is x."""
    return x if isinstance(x, dict) else {"x": x}


def number_of(x: Inputs) -> int:
    """How many samples there are in a batch."""
    return len(next(iter(by_name(x).values())))


def from_arrays(
    x: ArrayLike | Mapping[str, ArrayLike], y: ArrayLike | None = None, name: str = "data"
) -> Data:
    """Data that is in memory: x [N, ...], and integer labels y [N] if there are any.

    For a network with several inputs, x has each by its name. Raises ``DataError`` if x is
    empty, its arrays are of different lengths, or y does not fit it.
    """
    y = None if y is None else as_array(y, f"'{name}': y")
    if isinstance(x, Mapping):
        if not x:
            raise DataError(f"'{name}' holds no arrays")
        parts = {key: from_arrays(value, None, f"{name}: {key}") for key, value in x.items()}
        return checked(several_inputs(name, parts), y)
    array = _array_like(x, name)

    def read(batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(array), batch_size):
            yield as_array(array[start : start + batch_size], f"'{name}'")

    return checked(Data(name, array.shape, None, read), y)


def _array_like(values: ArrayLike, name: str) -> np.ndarray:
    """Values as an array, unless they can be one part by part, as those of an HDF5 file can."""
    alike = isinstance(getattr(values, "dtype", None), np.dtype) and hasattr(values, "shape")
    if alike and not isinstance(values, np.ndarray) and _has_rows(values):
        return values  # type: ignore[return-value]
    return as_array(values, f"'{name}'")


def _has_rows(values: Any) -> bool:
    """Whether values have a length, which sparse matrices have not."""
    try:
        return len(values) >= 0
    except TypeError:
        return False


def several_inputs(name: str, parts: dict[str, Data]) -> Data:
    """Several inputs as one data set; raises ``DataError`` if their numbers of samples differ."""
    sizes = {key: part.samples for key, part in parts.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"'{name}': its arrays hold different numbers of samples: {sizes}; what holds none, "
            "such as an initial state, make a constant of the network"
        )

    def read(batch_size: int) -> Iterator[Inputs]:
        readers = {key: part.read(batch_size) for key, part in parts.items()}
        for values in zip(*readers.values(), strict=True):
            yield dict(zip(readers, values, strict=True))

    first = next(iter(parts.values()))
    shapes = {key: part.shape for key, part in parts.items()}
    return Data(name, first.shape, None, read, shapes)


def some_rows(samples: int, count: int, labels: np.ndarray | None) -> np.ndarray:
    """The rows of so many samples, of ``count``, in order: int64 [min(samples, count)].

    The first; where labels come class by class, evenly spread ones, since the first would be of a
    few classes. Of 512 training images of one class, recipe ``best`` took 8.6 points from what the
    VGG classifies at T=8 (1,000 test images).
    """
    rows = np.arange(min(samples, count))
    if labels is None:
        return rows
    return rows * count // len(rows) if come_by_class(labels) else rows


def come_by_class(labels: np.ndarray) -> bool:
    """Whether labels are all of one class, then all of another, and so on."""
    changes, classes = np.count_nonzero(np.diff(labels)), len(np.unique(labels))
    return 1 < classes < len(labels) and changes == classes - 1


def take_turns(labels: np.ndarray) -> bool:
    """Whether labels of several classes come again and again, four times or more, in one order."""
    periods = range(1, min(len(labels) // 4, 1000) + 1)
    same = any(np.array_equal(labels[period:], labels[:-period]) for period in periods)
    return same and len(np.unique(labels)) > 1


def rows_by_rounds(labels: np.ndarray) -> np.ndarray:
    """Rows in rounds: one of each class, in random order (seed 0), then another of each."""
    rounds = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = labels == label
        rounds[own] = np.arange(np.count_nonzero(own))
    return np.lexsort((np.random.default_rng(0).permutation(len(labels)), rounds))


def with_rows(data: Data, rows: np.ndarray) -> Data:
    """These rows of the data, which are in order."""
    kept = len(rows)

    def read(batch_size: int) -> Iterator[Inputs]:
        start, parts = 0, list[Inputs]()
        for x in data.read(batch_size):
            stop = start + number_of(x)
            parts.append(_taken(x, rows[(start <= rows) & (rows < stop)] - start))
            while sum(map(number_of, parts)) >= batch_size:
                found = joined(parts)
                yield _taken(found, slice(batch_size))
                parts = [_taken(found, slice(batch_size, None))]
            start = stop
            if start > rows[-1]:
                break
        if sum(map(number_of, parts)):
            yield joined(parts)

    labels = None if data.labels is None else data.labels[rows]
    shapes = data.shapes
    if shapes is not None:
        shapes = {key: (kept, *shape[1:]) for key, shape in shapes.items()}
    return Data(data.name, (kept, *data.shape[1:]), labels, read, shapes)


def shuffled(data: Data, batch_size: int) -> Data | None:
    """The data in another order, the same each time; None where that is more than ``MOST_HELD``.

    All samples are in memory then, read once, ``batch_size`` at a time.
    """
    first, _ = next(iter(data.batches(1)))
    if data.samples * sum(values.nbytes for values in by_name(first).values()) > MOST_HELD:
        return None
    x = joined([part for part, _ in data.batches(batch_size)])
    order = np.random.default_rng(0).permutation(number_of(x))
    labels = None if data.labels is None else data.labels[order]
    return from_arrays(_taken(x, order), labels, data.name)


def _taken(x: Inputs, rows: np.ndarray | slice) -> Inputs:
    return {key: x[key][rows] for key in x} if isinstance(x, dict) else x[rows]


def joined(parts: list[Inputs]) -> Inputs:
    """Inputs, one after the other along the first axis."""
    by_name = [part for part in parts if isinstance(part, dict)]
    if by_name:
        return {key: np.concatenate([part[key] for part in by_name]) for key in by_name[0]}
    return np.concatenate([part for part in parts if not isinstance(part, dict)])


def _cure_of(y: np.ndarray, samples: int) -> str:
    """What makes labels of y, one for each of so many samples, if it may be meant as such."""
    if y.ndim == 2 and len(y) == samples and y.shape[1] > 1:
        return ", of which y.argmax(1) makes labels if it is one-hot"
    if y.size == samples and y.dtype.kind in "iufb" and np.array_equal(y, np.rint(y)):
        return ", of which y.ravel().astype(int) makes labels"
    if y.shape != (samples,) or y.dtype.kind not in "OSU":
        return ""
    if _are_whole(y):
        return ", of which y.astype(int) makes labels"
    return f", of which {NUMBERED} makes labels, the classes in sorted order"


def _are_whole(values: np.ndarray) -> bool:
    """Whether texts or objects are whole numbers."""
    try:
        numbers = values.astype(float)
    except (TypeError, ValueError):
        return False
    return np.array_equal(numbers, np.rint(numbers))


def checked(data: Data, y: np.ndarray | None) -> Data:
    """The data with labels y; raises ``DataError`` if it is empty or y does not fit it."""
    if not data.shape or 0 in data.shape:
        raise DataError(f"'{data.name}' holds no samples: x has shape {list(data.shape)}")
    if y is None:
        return data
    if y.shape != (data.samples,) or y.dtype.kind not in "iu":
        raise DataError(
            f"'{data.name}': y must hold one integer label for each of {data.samples} samples, "
            f"not {y.dtype} of shape {list(y.shape)}{_cure_of(y, data.samples)}; leave y out where "
            "there are none (networks without classes are for diagnose and run)"
        )
    if y.max() > np.iinfo(np.int64).max:
        raise DataError(f"'{data.name}' holds the label {y.max()}, which is no class")
    return dataclasses.replace(data, labels=y.astype(np.int64))
