"""Times of things that run in turns, as ratios: a busy machine slows down all of them.

Each contestant may run in a process of its own, so that memory can be told apart and no
library's threads disturb another's.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np

from onnx2snn.graph_passes.errors import Onnx2SnnError

ROUNDS, FEWEST_ROUNDS, SECONDS = 15, 5, 60.0
"""Rounds of a measurement; fewer, down to so many, where they would take longer than that."""


def pin() -> None:
    """Confine this process to one core, the last that it may use, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def seconds_of(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(
    tasks: Mapping[str, Callable[[], float]],
    rounds: int | None = None,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, np.ndarray]:
    """Run tasks in turns, every second round backwards; their seconds [rounds], by name.

    Each task runs once and says how many seconds it took. A first call of each is not counted.
    rounds: None for 15, or fewer, 5 at least, where those would take longer than a minute.
    report: told after each round how many are done, and of how many.
    """
    for task in tasks.values():
        task()
    names = list(tasks)
    found: dict[str, list[float]] = {name: [] for name in names}
    done, of = 0, ROUNDS if rounds is None else rounds
    while done < of:
        for name in names if done % 2 == 0 else names[::-1]:
            found[name].append(tasks[name]())
        done += 1
        if done == 1 and rounds is None:
            once = sum(times[0] for times in found.values())
            of = max(FEWEST_ROUNDS, min(ROUNDS, int(SECONDS / once)))
        report(done, of)
    return {name: np.array(times) for name, times in found.items()}


@dataclass(frozen=True)
class Ratio:
    """The median over rounds of a ratio within a round, and its quartiles."""

    median: float
    low: float
    high: float


def ratio(times: np.ndarray, others: np.ndarray) -> Ratio:
    """How many times as long as the others something took, both [rounds], of the same rounds."""
    low, median, high = np.quantile(times / others, [0.25, 0.5, 0.75])
    return Ratio(float(median), float(low), float(high))


def peak_memory() -> int | None:
    """The most memory that this process has held, in bytes; None where that is unknown."""
    try:
        # Not getrusage, which counts the memory of the parent from before exec too.
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def in_a_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a fresh process; what it returns, or raises. All must be picklable."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(function, *arguments).result()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C back, from processes that begin within for good: it is the parent's to heed."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    # Where the first process begins it would unblock the signals, in Python 3.11.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Contestant:
    """An object in a process of its own, whose methods are timed there.

    ``make(*arguments)`` makes it; both must be picklable. pinned: that process is confined to
    one core, the same for all contestants of one parent.
    """

    def __init__(self, make: Callable[..., Any], *arguments: object, pinned: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, pinned, make, arguments), daemon=True
        )
        with _interrupts_blocked():
            self._process.start()
        theirs.close()
        self.peak_memory: int | None = None
        self._answer()

    def call(self, method: str, *arguments: object) -> tuple[float, Any]:
        """Call a method there; the seconds it took, and its result.

        ``peak_memory`` then is that process's, in bytes. Raises ``Onnx2SnnError`` with the
        message of an error there, or if the process has ended.
        """
        return self._answer((method, arguments))

    def _answer(self, request: tuple[str, tuple[object, ...]] | None = None) -> tuple[float, Any]:
        try:
            if request is not None:
                self._connection.send(request)
            seconds, value, self.peak_memory, error = self._connection.recv()
        except (EOFError, ConnectionError) as ended:
            self._process.join()
            raise Onnx2SnnError(
                f"a process that was timed has ended, exit code {self._process.exitcode}: if "
                "memory was short, take fewer samples at a time"
            ) from ended
        if error is not None:
            raise Onnx2SnnError(error)
        return seconds, value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()


def _serve(
    connection: Connection, pinned: bool, make: Callable[..., Any], arguments: Sequence[object]
) -> None:
    """Make the object and answer calls until the parent closes the connection, or is gone."""
    # Ctrl-C is the parent's, which then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if pinned:
        pin()
    with contextlib.suppress(EOFError, ConnectionError):
        _answer_calls(connection, make, arguments)


def _answer_calls(
    connection: Connection, make: Callable[..., Any], arguments: Sequence[object]
) -> None:
    def answer(function: Callable[..., Any], given: Sequence[object]) -> Any:
        value, error, start = None, None, time.perf_counter()
        try:
            value = function(*given)
        except Exception as raised:
            error = str(raised) or type(raised).__name__
        return time.perf_counter() - start, value, error

    seconds, made, error = answer(make, arguments)
    connection.send((seconds, None, peak_memory(), error))
    while error is None:
        method, given = connection.recv()
        seconds, value, failed = answer(getattr(made, method), given)
        connection.send((seconds, value, peak_memory(), failed))
