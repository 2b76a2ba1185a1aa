"""What several threads may ask of an object, and what may be interrupted."""

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from onnx2snn.graph_passes.errors import DataError, Onnx2SnnError

from .failures import OUT_OF_MEMORY


def refuse_nested(turn: RLock, what: str) -> None:
    """Raise ``RuntimeError`` where this thread is at what the lock is for already.

    As a signal handler, or what Python runs of its own, may be: it would find things half done,
    and another thread's turn is not what it could wait for.
    """
    # The method by which threading.Condition asks its lock.
    if turn._is_owned():  # type: ignore[attr-defined]
        raise RuntimeError(
            f"{what} in this thread already: what interrupts it, as a signal handler, cannot use it"
        )


class Whole(Protocol):
    """An object whose methods take turns."""

    _turn: RLock

    def _begin_anew(self) -> None:
        """Forget all that a method may have left half done."""


W = TypeVar("W", bound=Whole)
P = ParamSpec("P")
R = TypeVar("R")


def in_turn(method: Callable[Concatenate[W, P], R]) -> Callable[Concatenate[W, P], R]:
    """A method that waits for the others of its object, in other threads.

    ``RuntimeError`` where this thread is within one, as ``refuse_nested`` says, and ``DataError``
    where there is not enough memory.
    """

    @wraps(method)
    def waiting(self: W, /, *args: P.args, **kwargs: P.kwargs) -> R:
        refuse_nested(self._turn, f"this {type(self).__name__} is at work")
        with self._turn:
            try:
                return method(self, *args, **kwargs)
            except MemoryError as error:
                raise DataError(OUT_OF_MEMORY) from error

    return waiting


def one_at_a_time(method: Callable[Concatenate[W, P], R]) -> Callable[Concatenate[W, P], R]:
    """The same of a method that changes its object.

    Where anything but an error of this package ends it, as Ctrl-C does, the object begins anew.
    """

    @wraps(method)
    def whole(self: W, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except Onnx2SnnError:
            raise
        except BaseException:
            self._begin_anew()
            raise

    return in_turn(whole)
