"""Every error that a user can cause, in one small hierarchy.

The command line prints the message of an ``Onnx2SnnError`` and exits with 1; anything
else that escapes is a bug of this package and keeps its traceback.
"""

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np


class Onnx2SnnError(Exception):
    """Base of all errors that this package raises for bad input or a bad environment."""


class ModelError(Onnx2SnnError):
    """A file is no ONNX model, is damaged, or is not of the kind that was expected."""


class DataError(Onnx2SnnError):
    """Data is missing, of a wrong shape or type, or not finite; or a setting makes no sense."""


class NotFiniteError(DataError):
    """What a network says is NaN or infinite."""


class OutputError(Onnx2SnnError):
    """A result cannot be written; what stood there before is untouched."""


class ProviderError(Onnx2SnnError):
    """ONNX Runtime is missing, or cannot use the device that was asked for."""


class PassError(Onnx2SnnError):
    """A pass failed, left a graph that is not valid, or changed what the network computes."""


@dataclass(frozen=True)
class Refusal:
    """One node that stands in the way: which, and why, with what to do about it."""

    node: str
    op: str
    reason: str

    def __str__(self) -> str:
        (line,) = listed([self])
        return line


def listed(refusals: Iterable[Refusal]) -> list[str]:
    """Nodes and why, one line for all of one operator and reason."""
    alike: dict[tuple[str, str], list[str]] = {}
    for refusal in refusals:
        alike.setdefault((refusal.op, refusal.reason), []).append(f"'{refusal.node}'")
    return [f"{op} {', '.join(nodes)}: {reason}" for (op, reason), nodes in alike.items()]


class UnsupportedModelError(ModelError):
    """Nodes that no pass can convert; ``refusals`` lists all of them."""

    def __init__(self, heading: str, refusals: Sequence[Refusal]) -> None:
        super().__init__("\n".join([heading, *(f"  {line}" for line in listed(refusals))]))
        self.heading, self.refusals = heading, tuple(refusals)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[Refusal, ...]]]:
        # As of all exceptions that are made of other things than their text; a pool of processes
        # that cannot read one back waits for ever.
        return type(self), (self.heading, self.refusals)


class MissingThresholdError(UnsupportedModelError):
    """Neurons whose threshold is not known without calibration data."""


def require_whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A value of this name as an int, since NumPy's whole numbers have a largest one.

    Raises ``DataError`` unless it is a whole number in this range.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        wanted = f", {least} or more" if most is None else f" from {least} to {most}"
        raise DataError(f"{name} must be a whole number{wanted}, not {value!r}")
    return int(value)


def optional_whole(name: str, value: Any, least: int, most: int | None = None) -> int | None:
    """A value as of ``require_whole``, or None, which stays so."""
    return None if value is None else require_whole(name, value, least, most)


def require_truths(**given: Any) -> None:
    """Raise ``DataError`` unless each is true, false, or None."""
    for name, value in given.items():
        if value is not None and not isinstance(value, bool | np.bool_):
            raise DataError(f"{name} must be True or False, not {value!r}")


def require_one_of(name: str, value: Any, literal: Any) -> None:
    """Raise ``DataError`` unless a value of this name is one of those of a ``Literal``."""
    choices = get_args(literal)
    if not isinstance(value, str) or value not in choices:
        raise DataError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def require_named(what: str, names: Iterable[str], known: Container[str]) -> None:
    """Raise ``DataError`` naming those of ``names`` that no node or tensor of a graph has."""
    unknown = [f"'{name}'" for name in names if name not in known]
    if unknown:
        raise DataError(f"the graph has no {what} named {' or '.join(unknown)}")


def is_number(value: Any) -> bool:
    """Whether a value is one finite number."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # A whole number beyond all floating ones.
        return False


def counted(number: int, what: str) -> str:
    """A number of things, for messages: "1 sample", "2 samples"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def first_line(error: BaseException) -> str:
    """The first line that an exception of another library says, without its backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


_BUILT_IN = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError)


def from_onnxruntime(error: Exception) -> bool:
    """Whether ONNX Runtime raised it: by a type of its own, or one that C++ has in Python.

    Its own types have no common base. What else comes out of its calls a signal handler raised,
    as a job's time limit, and is nobody's to translate.
    """
    kind = type(error)
    return kind in _BUILT_IN or kind.__module__.startswith("onnxruntime.")
