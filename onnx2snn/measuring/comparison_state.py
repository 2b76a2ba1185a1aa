"""The file in which a comparison keeps its results, so that it can go on where it stopped.

Each result stands under a digest of everything that decides it, so that one file may hold the
results of several networks, data sets and versions, and none is taken for another.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.model_files.whole_file import check_writable, write_bytes
from onnx2snn.json_values import plain

if sys.platform != "win32":
    import fcntl

FORMAT = "onnx2snn compare 1"


@dataclass(frozen=True)
class Score:
    """What a spiking network does in T time-steps, as ``evaluate`` says it.

    ``accuracy``, ``agreement`` and ``ann_accuracy`` are percentages, the first and the last None
    without labels; ``sops``: synaptic operations per sample.
    """

    timesteps: int
    accuracy: float | None
    agreement: float
    firing_rate: float
    sops: float
    ann_accuracy: float | None


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a state file by key; none if there is no file.

    Raises ``DataError`` if it cannot be read or is no state file.
    """
    return read_kept(path, FORMAT, "results", _is_entry)


def read_kept(
    path: Path, kind: str, what: str, is_entry: Callable[[Any], bool]
) -> dict[str, dict[str, Any]]:
    """What a file of this kind, a command and a version, keeps under ``what``; none without a file.

    Raises ``DataError`` if it cannot be read, or is of no such kind.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from error
    except (ValueError, RecursionError):
        content = None
    known = isinstance(content, dict) and content.get("format") == kind
    entries: Any = content.get(what) if known else None
    if not (isinstance(entries, dict) and all(map(is_entry, entries.values()))):
        raise DataError(
            f"'{path}' holds no results of {kind.rpartition(' ')[0]}, or is damaged; it was left "
            "as it is: move it away, or name another file (--state FILE)"
        )
    return entries


def add_results(path: Path, made_from: Mapping[str, Any], scores: Mapping[str, Score]) -> None:
    """Add results, by key, to what the file holds; it is replaced as a whole or not at all.

    ``made_from`` is kept beside each, for those who look into the file. Raises ``OutputError``
    if the file cannot be written, ``DataError`` if it is no state file.
    """
    added = {
        key: {"score": dataclasses.asdict(score), "made_from": dict(made_from)}
        for key, score in scores.items()
    }
    add_kept(path, FORMAT, "results", _is_entry, added)


def add_kept(
    path: Path, kind: str, what: str, is_entry: Callable[[Any], bool], added: Mapping[str, Any]
) -> None:
    """Add to what ``read_kept`` reads, or replace entries of it; the file is written as a whole.

    Raises ``OutputError`` if the file cannot be written, and like ``read_kept``.
    """
    with _others_held_back(path):
        # Read again: another process may have added its own meanwhile.
        entries = read_kept(path, kind, what, is_entry) | dict(added)
        content = {"format": kind, what: entries}
        write_bytes(path, json.dumps(content, indent=1, default=plain).encode())


@contextmanager
def _others_held_back(path: Path) -> Iterator[None]:
    """Let no other process add results in this folder meanwhile, where the system can do that.

    The folder is locked, not the file, which is another one after each time.
    """
    check_writable(path)
    if sys.platform == "win32":
        yield
        return
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY)
    except PermissionError:
        # It may be written to, but not listed.
        yield
        return
    try:
        # Some network file systems have no locks.
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_entry(entry: Any) -> bool:
    score = entry.get("score") if isinstance(entry, dict) else None
    fields = {field.name for field in dataclasses.fields(Score)}
    if not isinstance(score, dict) or set(score) != fields:
        return False
    may_lack = {"accuracy", "ann_accuracy"}
    return all(
        type(value) in (int, float) or (value is None and name in may_lack)
        for name, value in score.items()
    )
