"""Files that are written whole or not at all, and folders for them."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from onnx2snn.graph_passes.errors import OutputError

from .wire import Content


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


@contextlib.contextmanager
def output_file(path: Path, *, new: bool = False) -> Iterator[BinaryIO]:
    """``whole_file`` that raises ``OutputError``, leaving an older file as it was.

    new: refuse to replace a file.
    """
    check_writable(path, new=new)
    try:
        with whole_file(path, new=new) as file:
            yield file
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes | Iterable[Content], *, new: bool = False) -> None:
    """Write a file whole or not at all; raises ``OutputError``, leaving an older file as it was.

    An older file's mode stays. new: refuse to replace a file.
    """
    with output_file(path, new=new) as file:
        for chunk in (content,) if isinstance(content, bytes) else content:
            file.write(chunk)


def _is_printed_to(path: Path) -> bool:
    """Whether a file is where standard output or the like goes, as to /dev/stdout."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(number), path.stat()) and path.is_file():
                return True
    return False


def check_writable(path: Path, *, new: bool = False) -> None:
    """Raise ``OutputError`` if a file cannot come to be, or be replaced, at ``path``.

    new: where a file must not be replaced.
    """
    try:
        folder = path.resolve().parent
        if not folder.is_dir():
            raise OutputError(f"cannot write '{path}': the folder '{folder}' does not exist")
        if _is_printed_to(path):
            raise OutputError(f"cannot write '{path}': what this program prints goes there")
        if path.exists() and not path.is_file():
            raise OutputError(f"cannot write '{path}': something else than a file is there")
        if new and path.exists():
            raise OutputError(f"cannot write '{path}': {os.strerror(errno.EEXIST)}")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"cannot write '{path}': no permission to write in its folder")
    except (OSError, RuntimeError) as error:  # Python 3.11 raises the latter for link loops.
        raise OutputError(
            f"cannot write '{path}': {getattr(error, 'strerror', None) or error}"
        ) from error
    except ValueError as error:
        # Its name has a null character.
        raise OutputError(f"cannot write {str(path)!r}: {error}") from error


@contextlib.contextmanager
def folder_for(folder: Path) -> Iterator[None]:
    """Make the folder, or the one that a link leads to, unless it is there.

    A failure that leaves it empty leaves none. Raises ``OutputError`` unless it can be made and
    takes files.
    """
    try:
        whole = Path(os.path.realpath(folder))
    except ValueError as error:
        # Its name has a null character.
        raise OutputError(f"cannot make the folder {str(folder)!r}: {error}") from error
    made = [path for path in (whole, *whole.parents) if not os.path.exists(path)]
    try:
        try:
            whole.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder '{folder}': {error.strerror}") from error
        if not os.access(whole, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write into the folder '{folder}'")
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
