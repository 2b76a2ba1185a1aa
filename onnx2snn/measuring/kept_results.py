"""Files that keep results as they come, so that what makes them can go on where it stopped.

Each result stands under a digest of everything that decides it, so that one file may hold the
results of several networks, data sets and versions, and none is taken for another.
"""

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


@dataclass(frozen=True)
class KeptFile:
    """A JSON file of results. ``kind``: a command and a version; ``what``: the results' name."""

    path: Path
    kind: str
    what: str
    is_entry: Callable[[Any], bool]

    def entries(self) -> dict[str, dict[str, Any]]:
        """The results by key; none without a file.

        Raises ``DataError`` if the file cannot be read, or is of no such kind.
        """
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DataError(f"cannot read '{self.path}': {error.strerror}") from error
        except (ValueError, RecursionError):
            content = None
        known = isinstance(content, dict) and content.get("format") == self.kind
        entries: Any = content.get(self.what) if known else None
        if not (isinstance(entries, dict) and all(map(self.is_entry, entries.values()))):
            raise DataError(
                f"'{self.path}' holds no results of {self.kind.rpartition(' ')[0]}, or is damaged; "
                "it was left as it is: move it away, or name another file (--state FILE)"
            )
        return entries

    def add(self, added: Mapping[str, Any]) -> None:
        """Add results by key, or replace them; the file is written as a whole or not at all.

        Raises ``OutputError`` if it cannot be written, and ``DataError`` as ``entries``.
        """
        with _others_held_back(self.path):
            # Read again: another process may have added its own meanwhile.
            content = {"format": self.kind, self.what: self.entries() | dict(added)}
            write_bytes(self.path, json.dumps(content, indent=1, default=plain).encode())


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
