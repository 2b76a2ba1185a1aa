"""The command line: the small commands, and those of other files."""

import codecs
import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from onnx2snn.converting import readiness
from onnx2snn.demo import TIMESTEPS, run_demo
from onnx2snn.graph_passes.errors import Onnx2SnnError
from onnx2snn.graph_passes.graph.linear import MaxPool
from onnx2snn.graph_passes.model_files.files import write_model
from onnx2snn.recipes import RECIPES
from onnx2snn.runtime.failures import OUT_OF_MEMORY
from onnx2snn.version import __version__

from . import tables, terminal
from .benchmark import benchmark
from .compare import compare
from .conversion_tables import readiness_table, recipe_table
from .convert import convert
from .diagnose import diagnose
from .evaluate import evaluate
from .export import export
from .import_ import import_
from .inspect import inspect
from .options import (
    NamedPath,
    examples,
    folder_for,
    json_option,
    maxpool_option,
    model_argument,
    on_means_option,
    print_json,
    said_by_system,
    samples_option,
)
from .plot import accuracy_plot, pyplot
from .reproduce import reproduce
from .run import run
from .train import train


@contextlib.contextmanager
def _takes_sigterm() -> Iterator[None]:
    """Let SIGTERM, as of timeout or a stopped service, put away what is half done, like Ctrl-C."""
    ignored = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    again = list[threading.Timer]()
    told, sys.unraisablehook = sys.unraisablehook, _sends_again(sys.unraisablehook, again)
    try:
        try:
            yield
        finally:
            # What was sent again comes now, at the latest.
            for timer in again:
                timer.join()
    finally:
        sys.unraisablehook = told
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _sends_again(
    told: Callable[[Any], None], again: list[threading.Timer]
) -> Callable[[Any], None]:
    """What Python tells of exceptions that it loses, as in a weakref's callback.

    Where a signal raised one, the signal is sent once more, soon after, by a timer in ``again``.
    """

    def hook(lost: Any) -> None:
        number = _SIGNALS.get(lost.exc_type)
        if number is None:
            told(lost)
            return
        again.append(threading.Timer(0.05, os.kill, (os.getpid(), number)))
        again[-1].start()

    return hook


_SIGNALS = {SystemExit: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
"""What raises these, while a command runs."""


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
            click.echo(f"Error: {said_by_system(error)}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; Ctrl-C exits with 128 + SIGINT, as shells and scripts expect."""
        try:
            with _takes_sigterm(), _tells_warnings():
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
            raise click.ClickException(said_by_system(error)) from error
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
    benchmark, compare, convert, diagnose, evaluate, export, import_, inspect, reproduce, run,
    train,
):  # fmt: skip
    main.add_command(command)


@examples(
    "  onnx2snn check ann.onnx\n  onnx2snn check ann.onnx --maxpool exact --approximate --json"
)
@main.command()
@model_argument
@maxpool_option("average")
@click.option(
    "--approximate", is_flag=True, help="Let clips stand in for Sigmoid, Tanh, SiLU, GELU, ..."
)
@on_means_option
@json_option
def check(model: Path, maxpool: MaxPool, approximate: bool, on_means: bool, as_json: bool) -> None:
    """Say what of the ANN in MODEL would convert, and what not and why.

    Exits with 0 where it says that the network converts, with the options that it names;
    else with 1.
    """
    result = readiness.check(model, maxpool=maxpool, approximate=approximate, on_means=on_means)
    if as_json:
        print_json(asdict(result))
    else:
        terminal.console().print(readiness_table(result.nodes))
        terminal.say(f"Exact rewriting checked: {result.check}.")
        for line in result.notes:
            terminal.say(f"Note: {line}", "yellow")
        terminal.say(result.verdict, "bold green" if result.converts else "bold red")
    if not result.converts:
        sys.exit(1)


@examples("  onnx2snn recipes\n  onnx2snn recipes --json")
@main.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the ways to convert that have a name, with their sources."""
    if as_json:
        rows = [{"name": r.name, "source": r.source, "what": r.what} for r in RECIPES]
        print_json({"recipes": rows})
        return
    terminal.console().print(recipe_table(RECIPES))


@examples("  onnx2snn demo\n  onnx2snn demo --output results --samples 500")
@main.command()
@click.option(
    "--output",
    type=NamedPath(file_okay=False),
    default="demo-out",
    show_default=True,
    help="Folder for the networks and the plot; made if it is not there.",
)
@samples_option
@json_option
def demo(output: Path, samples: int | None, as_json: bool) -> None:
    """Convert the ResNet-20 that ships with the tool and classify real images with it.

    Shows the accuracy of the ANN and of the spiking network at T = 4, 8, 16, 32, started
    at half the threshold and at zero.
    """
    pyplot()
    with folder_for(output):
        with terminal.overall_progress("rewriting") as report:
            found = run_demo(samples, report)
        for name, conversion in zip(("half", "zero"), found.conversions.values(), strict=True):
            write_model(conversion.parts, output / f"snn-{name}.onnx")
        title = f"ResNet-20, {found.samples} Fashion-MNIST test images"
        accuracy_plot(output / "accuracy.png", TIMESTEPS, found.accuracies, found.ann, title)
    if as_json:
        print_json(
            {
                "samples": found.samples,
                "timesteps": TIMESTEPS,
                "ann": found.ann,
                "snn": found.accuracies,
            }
        )
        return
    terminal.say(
        f"{title}; the network was trained with clips, so no data was needed to convert it."
    )
    terminal.console().print(tables.demo_table(TIMESTEPS, found.ann, found.accuracies))
    terminal.say(f"Wrote snn-half.onnx, snn-zero.onnx and accuracy.png to {output}/")
