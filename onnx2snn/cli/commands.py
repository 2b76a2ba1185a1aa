"""The command line: all commands in one group, and how they fail."""

import codecs
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from onnx2snn.graph_passes.errors import Onnx2SnnError
from onnx2snn.runtime.failures import OUT_OF_MEMORY
from onnx2snn.version import __version__

from . import terminal
from .benchmark import benchmark
from .check import check
from .compare import compare
from .convert import convert
from .demo import demo
from .diagnose import diagnose
from .evaluate import evaluate
from .export import export
from .import_ import import_
from .inspect import inspect
from .recipes import recipes
from .reproduce import reproduce
from .run import run
from .signals import takes_sigterm
from .train import train


class _Notes(logging.Handler):
    """Prints what is logged as the commands print their notes, on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        terminal.note(record.getMessage())


@contextlib.contextmanager
def _tells_warnings() -> Iterator[None]:
    """Print as notes what the package warns of."""
    logger, notes = logging.getLogger("onnx2snn"), _Notes(logging.WARNING)
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)


def _drop_what_cannot_be_written() -> None:
    """Else Python tries once more as it ends, tells of that as well, and exits with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Commands(click.Group):
    """The commands, and how they fail: one message, no traceback, exit code 1."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does; help that cannot be written is one message too."""
        # As the shell's >&- and 2>&- leave them; errors would go to standard output.
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            click.echo(f"Error: {terminal.said_by_system(error)}", err=True)
            sys.exit(1)
        finally:
            _drop_what_cannot_be_written()

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; Ctrl-C exits with 128 + SIGINT, as shells and scripts expect."""
        try:
            with takes_sigterm(), _tells_warnings():
                return super().invoke(ctx)
        except Onnx2SnnError as error:
            lines = [terminal.printable(line) for line in str(error).split("\n")]
            raise click.ClickException("\n".join(lines)) from error
        except MemoryError as error:
            raise click.ClickException(OUT_OF_MEMORY) from error
        except BrokenPipeError:
            # Who reads has seen enough, as head has: click ends without a word.
            raise
        except OSError as error:
            raise click.ClickException(terminal.said_by_system(error)) from error
        except KeyboardInterrupt:
            click.echo("\nAborted!", err=True)
            ctx.exit(130)


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes of a file's name as they are, and what else the encoding lacks by its number."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnx2snn")
def main() -> None:
    """Convert trained ONNX networks into spiking neural networks, and run them."""
    # As on standard error: the name of a file, or a table, may have what the encoding lacks.
    escaped = {"strict": "backslashreplace", "surrogateescape": "onnx2snn.escaped"}
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in escaped:
        codecs.register_error("onnx2snn.escaped", _escaped)
        sys.stdout.reconfigure(errors=escaped[sys.stdout.errors])


for command in (
    benchmark, check, compare, convert, demo, diagnose, evaluate, export, import_, inspect, recipes,
    reproduce, run, train,
):  # fmt: skip
    main.add_command(command)
