"""What a terminal shows: where, how wide, progress bars, and what stands in the cells of tables."""

import contextlib
import errno
import os
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from onnx2snn.running import Report, no_report


def console() -> Console:
    """Where tables go: standard output, 120 wide unless a terminal or COLUMNS tells."""
    columns = os.environ.get("COLUMNS", "")
    told = sys.stdout.isatty() or (columns.isdecimal() and int(columns) > 0)
    return _console(width=None if told else 120)


def _console(**settings: Any) -> Console:
    # Of what is no number, as a superscript, rich makes one by int(), where str.isdigit says so.
    for name in ("COLUMNS", "LINES"):
        if not os.environ.get(name, "0").isdecimal():
            del os.environ[name]
    return Console(highlight=False, **settings)


def say(text: str, style: str | None = None) -> None:
    """One line of a result, on standard output; it may show names of files and what is in them.

    A terminal has it in lines of its width; what reads it from a pipe has it whole.
    """
    shown = console()
    shown.print(name_text(text), style=style, soft_wrap=not shown.is_terminal)


def note(text: str) -> None:
    """What a user should know of a result, on standard error."""
    console = _console(stderr=True)
    console.print(name_text(f"Note: {text}."), style="yellow", soft_wrap=True)


@contextlib.contextmanager
def overall_progress(first: str = "reading data") -> Iterator[Report]:
    """A progress bar on standard error, if that is a terminal, which is told how far the work is.

    ``first``: what is done before it is told anything. Where one work follows another, each has a
    bar and a time of its own.
    """
    console = _console(stderr=True)
    # Told by FORCE_COLOR rich takes any file for one.
    if not (console.is_terminal and sys.stderr.isatty()):
        # Disabled, bars of rich before 14 would still print an empty line.
        yield no_report
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # The speed is that of the last hour: one part may take minutes before it tells anything.
    progress = Progress(*columns, console=console, transient=True, speed_estimate_period=3600)
    with progress:
        progress.add_task(first, total=None)
        (task,) = progress.tasks

        def report(what: str, done: int, total: int) -> None:
            if done == 0:
                progress.reset(task.id)
            # What comes before the next work is told of is no part of what is done.
            left = done < total
            # One part tells nothing before its end: a bar that moves, and says no share.
            task.total = total if total > 1 else None
            progress.update(task.id, description=what, completed=done, visible=left)

        yield report


def new_table(title: str, *columns: str) -> Table:
    """A table whose columns that begin with '>' are aligned to the right: those of numbers."""
    table = _Table(title=title, box=box.SIMPLE_HEAD)
    for column in columns:
        if column.startswith(">"):
            table.add_column(column.removeprefix(">"), justify="right", overflow="fold")
        else:
            table.add_column(column, overflow="fold")
    return table


FOLDED, STILL_READ, LEAST_FOLDED, LEAST_HEAD = 12, 8, 5, 5
"""Letters in which a name, or a text, can be read in several lines, those that it keeps before a
head breaks within words, those that it keeps at least, and those that the head of a column of
numbers keeps.
"""


class _Table(Table):
    """Where it is too wide it breaks names, and the heads of numbers, rather than numbers.

    Within words only where it would else be too wide still, and numbers in several lines where it
    is even then, as long as there is a letter's room for each column.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(max_width=10**4)
        if Measurement.get(console, wide, self).maximum > options.max_width:
            self.padding = (0, 0)
            numbers = [column for column in self.columns if column.justify == "right"]
            heads = [str(column.header) for column in numbers]
            # As wide as there is room for, the last of them within words.
            widths = [*range(max(map(len, heads), default=LEAST_HEAD), LEAST_HEAD, -1)]
            ways = [(least, FOLDED) for least in widths]
            ways += [(LEAST_HEAD, folded) for folded in range(FOLDED, STILL_READ - 1, -1)]
            ways += [(0, folded) for folded in range(FOLDED, LEAST_FOLDED - 1, -1)]
            for least, folded in ways:
                for column, head in zip(numbers, heads, strict=True):
                    cells = (Measurement.get(console, wide, cell) for cell in column.cells)
                    width = max([least or LEAST_HEAD, *(cell.maximum for cell in cells)])
                    column.header = textwrap.fill(head, width, break_long_words=least == 0)
                    column.no_wrap = True
                if self._least_width(console, wide, folded) <= options.max_width:
                    break
            else:
                for column in self.columns:
                    if column in numbers:
                        column.no_wrap = False
                    else:
                        # Rich would take all that is missing from these.
                        column.width = LEAST_FOLDED
        # Of its own a table breaks these where it ends itself.
        title, caption, self.title, self.caption = self.title, self.caption, None, None
        if title:
            yield Text(str(title), style="table.title")
        yield from super().__rich_console__(console, options)
        if caption:
            yield Text(str(caption), style="table.caption")
        self.title, self.caption = title, caption

    def _least_width(self, console: Console, wide: ConsoleOptions, folded: int) -> int:
        """What it takes with names folded to so many letters, and a line between columns."""
        width = len(self.columns) + 1
        for column in self.columns:
            cells = [
                Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)
            ]
            most = max(cell.maximum for cell in cells)
            width += most if column.no_wrap else min(most, folded)
        return width


def printable(text: str) -> str:
    """Text from a file without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def said_by_system(error: OSError) -> str:
    """What the system refused, and of which file; the current folder alone it does not name."""
    text = error.strerror or str(error)
    if error.filename:
        return f"{text}: '{error.filename}'"
    return f"{text}: the current folder" if error.errno == errno.ENOENT else text


def name_text(text: object) -> Text:
    """A cell, or a line, that shows a file's text as it is, which may look like markup."""
    return Text(printable(str(text)))


def shape_text(shape: tuple[int | str, ...]) -> str:
    """A shape as 16x28x28; '?' for sizes that are not fixed."""
    return "x".join(str(size) if isinstance(size, int) else "?" for size in shape) or "()"


def values_text(values: np.ndarray) -> str:
    """One number, or the range of many."""
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def percent_text(value: float | None) -> str:
    """A percentage, or '-' for None."""
    return "-" if value is None else f"{value:.2f}"
