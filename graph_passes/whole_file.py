"""Files that are written whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, *, new: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name, and an older file's permissions, once it is whole.

    Through a link, that of the file which it names. new: only where no file has the name by then.
    Raises ``OSError``, naming the file, if it cannot be written; what stood there is left then.
    """
    place = path.resolve()
    temporary = place.with_name(f".onnx2snn-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, temporary)
        if new:
            # Takes the name; fails where another process was faster.
            place.touch(exist_ok=False)
        try:
            temporary.replace(place)
        except BaseException:
            if new:
                place.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), str(place)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or leave what stood there; raises ``OSError`` if it cannot be written."""
    with whole_file(path) as file:
        file.write(content)
