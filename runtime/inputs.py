"""What a network is given: held against what it declares."""

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from onnx2snn.graph_passes.errors import DataError, NotFiniteError, counted, require_whole

MOST_TIMESTEPS = 2**31 - 1
"""More than any run takes: what is beyond is a mistake."""


def as_array(values: Any, what: str) -> np.ndarray:
    """Values as an array, or ``DataError``, beginning with ``what``, if they cannot be one."""
    if isinstance(values, str | os.PathLike):
        raise DataError(
            f"{what} is a path, and no array: np.load reads the arrays of a file, open_data makes "
            "a Data of it"
        )
    try:
        found = np.asarray(values)
    # A tensor of torch says by the others that it is on a GPU, or has a gradient.
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{what} is no array: {error}") from error
    if np.ma.is_masked(values):
        raise DataError(f"{what} has masked numbers: fill them in, as by .filled(0)")
    if found.dtype == object and not found.ndim:
        raise DataError(f"{what} is no array, but of the type {type(values).__name__}")
    return found


def by_input_name(
    x: np.ndarray | Mapping[str, np.ndarray], names: Sequence[str], who: str
) -> dict[str, np.ndarray]:
    """Inputs by name: of a mapping those that are needed, an array as the one input.

    The only input may be called x in a mapping. Raises ``DataError`` if one is missing, or no
    array.
    """
    if not isinstance(x, Mapping):
        if len(names) != 1:
            raise DataError(f"{who} has the inputs {', '.join(names)}: give each by its name")
        return {names[0]: as_array(x, "x")}
    if called_x(x, names):
        return {names[0]: as_array(x["x"], "x")}
    if any(name not in x for name in names):
        found = ", ".join(map(str, x)) or "none"
        hint = "; call the array x" if len(names) == 1 and names[0] != "x" else ""
        raise DataError(f"{who} has the inputs {', '.join(names)}; given were {found}{hint}")
    return {name: as_array(x[name], name) for name in names}


def called_x(given: Collection[str], names: Sequence[str]) -> bool:
    """Whether the only input goes by x, since nothing that is given has its name."""
    return len(names) == 1 and names[0] not in given and "x" in given


def require_same_numbers(
    shapes: Mapping[str, Sequence[int]], declared: Mapping[str, Sequence[int | str | None]]
) -> None:
    """Raise ``DataError`` where inputs differ in N, where the network gives it one name.

    An input of one sample goes with any number of another's.
    """
    known: dict[str, tuple[str, int]] = {}
    for name, shape in shapes.items():
        symbol = next(iter(declared[name]), None)
        if not isinstance(symbol, str) or not symbol or shape[0] == 1:
            continue
        other, before = known.setdefault(symbol, (name, shape[0]))
        if shape[0] != before:
            raise DataError(
                f"'{symbol}' is {shape[0]} in the input {name} of shape {list(shape)}, but "
                f"{before} in {other}"
            )


def samples_in(inputs: Mapping[str, np.ndarray], varying: Collection[str] = ()) -> int:
    """N, which an input of one sample for all of them does not say; 1 where nothing does.

    Inputs are [N, ...], those named in ``varying`` [T, N, ...].
    """
    sizes = [x.shape[int(name in varying) :][:1] for name, x in inputs.items()]
    return max((size for along in sizes for size in along), default=1)


def fixed_batch(shapes: Iterable[Sequence[int | str | None]]) -> int | None:
    """The number of samples that inputs of these shapes declare; None where it is open.

    Also where several declare different ones.
    """
    sizes = {shape[0] for shape in shapes if shape and isinstance(shape[0], int) and shape[0] > 0}
    return sizes.pop() if len(sizes) == 1 else None


def largest_in(values: np.ndarray) -> float:
    """The largest of some floating-point numbers, whatever its sign; 0 of none.

    And of masks and indices, which say nothing of what is made of them.
    """
    return largest_number(values) if values.dtype.kind == "f" else 0.0


def largest_number(values: np.ndarray) -> float:
    """The same of numbers of any type."""
    # Without the memory that |x| takes.
    return max(float(values.max()), -float(values.min())) if values.size else 0.0


def largest_of(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How large the tensors are that a step reads, by name, as ``largest_in``.

    Raises ``NotFiniteError`` where one holds NaN, of which neurons emit nothing, or NaN, by how
    they are computed; also where a Where would not pass it on. Infinity is a current, as the
    logarithm of 0 is.
    """
    found = {name: largest_in(value) for name, value in values.items()}
    for name in (name for name, largest in found.items() if math.isnan(largest)):
        first = np.argwhere(np.isnan(values[name]))[0].tolist()
        raise NotFiniteError(
            f"'{name}', made of the input before any neuron, holds NaN, first at {first}: prepare "
            "the input as for the network's training"
        )
    return found


def power_above(value: float) -> float:
    """The least power of two that is not below a number; infinity beyond what float64 holds."""
    with np.errstate(over="ignore"):
        return float(np.exp2(np.ceil(np.log2(max(value, 1e-300)))))


def readout_times(timesteps: int, readout: Sequence[int] | None) -> set[int]:
    """The time-steps at which to read out, T among them; ``DataError`` for invalid ones."""
    timesteps = require_whole("a time-step", timesteps, 1, MOST_TIMESTEPS)
    wanted = times_in("readout", readout if readout is not None else [])
    if wanted and wanted[-1] > timesteps:
        raise DataError(f"cannot read out at time-step {wanted[-1]} of {timesteps}")
    return {timesteps, *wanted}


def times_in(name: str, times: Iterable[int]) -> list[int]:
    """Time-steps in order, each once; ``DataError`` for invalid ones, or no list."""
    try:
        found = list(times)
    except TypeError as error:
        raise DataError(f"{name} takes a list of time-steps, as [8, 16], not {times!r}") from error
    return sorted({require_whole("a time-step", t, 1, MOST_TIMESTEPS) for t in found})


def required_times(timesteps: Iterable[int]) -> list[int]:
    """Time-steps in order, each once, of which there must be one; ``DataError`` as ``times_in``."""
    times = times_in("timesteps", timesteps)
    if not times:
        raise DataError("no time-steps to evaluate at: give them, as [8, 16]")
    return times


def fits(sizes: Sequence[int | str], shape: Sequence[int | str | None]) -> bool:
    """Whether these sizes are of this shape, in which names and None are any size."""
    return len(sizes) == len(shape) and all(
        have == want for have, want in zip(sizes, shape, strict=True) if isinstance(want, int)
    )


def remedy(sizes: Sequence[int], wanted: Sequence[int | str | None]) -> str:
    """What fits a sample of these sizes to those that are wanted, names and None being any."""
    known = [size for size in wanted if isinstance(size, int)]
    if len(known) < len(wanted):
        return ""
    if sorted(sizes) == sorted(known):
        return ": transpose it"
    others = len(sizes) != len(wanted) and math.prod(sizes) == math.prod(known)
    return ": reshape it" if others else ""


def as_input(
    x: np.ndarray,
    shape: Sequence[int | str | None],
    dtype: np.dtype,
    who: str = "the network",
    name: str = "x",
) -> np.ndarray:
    """X as an input of this shape and type, or ``DataError`` if it cannot be one.

    Names and None in ``shape`` stand for any size. Floating-point types are cast to each
    other; any other type must be the network's own, since pixel values of one type are no
    intensities of another. ``who`` needs the input, for the message.
    """
    if not fits(x.shape, shape):
        hint = remedy(x.shape[1:], shape[1:])
        if shape and isinstance(shape[0], int) and list(x.shape[1:]) == list(shape[1:]):
            hint = (
                f"; its batch size is fixed: give it {counted(shape[0], 'sample')} at a time, in "
                "all a multiple of that (--samples), or export it without"
            )
            if name != "x":
                hint += "; what holds no samples, such as an initial state, make a constant instead"
        raise DataError(f"{name} has shape {list(x.shape)}, {who} needs {written(shape)}{hint}")
    require_type(x.dtype, dtype, who, name)
    if x.size == 0:
        raise DataError(f"{name} is empty: its shape is {list(x.shape)}")
    check_finite(x, name)
    with np.errstate(over="ignore"):
        value = np.asarray(x, dtype, order="C")
    if value.dtype != x.dtype:
        check_finite(value, f"{name}, as the {value.dtype} that {who} needs,")
    return value


def written(shape: Sequence[int | str | None]) -> str:
    """A shape as messages show it, with * for any size: "[*, 3, 32, 32]"."""
    return f"[{', '.join(str(size) if isinstance(size, int) else '*' for size in shape)}]"


def require_type(given: np.dtype, wanted: np.dtype, who: str, name: str) -> None:
    """Raise ``DataError`` unless an input of one type can be one of the other, as ``as_input``."""
    floating = np.issubdtype(given, np.floating) and np.issubdtype(wanted, np.floating)
    if not floating and given.newbyteorder("=") != wanted:
        raise DataError(
            f"{name} has type {given}, {who} needs {np.dtype(wanted)}: "
            "prepare it as for the network's training"
        )


def check_finite(x: np.ndarray, what: str, kind: type[DataError] = DataError) -> None:
    """Raise an error of this ``kind`` if x holds NaN or infinity."""
    if x.dtype.kind in "fc" and not np.all(np.isfinite(x)):
        bad = np.argwhere(~np.isfinite(x))[0]
        raise kind(f"{what} holds NaN or infinity, first at {bad.tolist()}")
