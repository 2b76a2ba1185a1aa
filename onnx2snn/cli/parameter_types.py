"""The types of the options' values."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.runtime.inputs import MOST_TIMESTEPS


class CountsType(click.ParamType):
    """Positive integers as ``8,16,32``, in order, each once."""

    def __init__(self, what: str, letter: str) -> None:
        self._what, self.name = what, f"{letter},..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """A list of the integers; a usage error for anything else."""
        if isinstance(value, list):
            return value
        try:
            counts = [int(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"'{value}' is not a list of integers such as 8,16,32", param, ctx)
        if min(counts) < 1:
            self.fail(f"{self._what} start at 1", param, ctx)
        if max(counts) > MOST_TIMESTEPS:
            self.fail(f"{self._what} end at {MOST_TIMESTEPS}", param, ctx)
        return sorted(set(counts))


COUNT = click.IntRange(1, MOST_TIMESTEPS)
"""How many samples or the like."""


class TimestepsType(click.IntRange):
    """One number of time-steps, where other commands take several."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The number; a usage error for anything else."""
        if "," in str(value):
            wanted = "one whole number here; evaluate and compare take several"
            self.fail(f"'{value}' must be {wanted}", param, ctx)
        return super().convert(value, param, ctx)


ONE_T = TimestepsType(1, MOST_TIMESTEPS)

TIMESTEPS = CountsType("time-steps", "T")


class LengthType(click.ParamType):
    """The number of time-steps, or ``input`` to leave it to whoever runs the file."""

    name = "time-steps"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        """T or "input"; a usage error for anything else."""
        text = str(value)
        if text == "input":
            return text
        if not text.isdecimal() or len(text) > 19 or not 1 <= int(text) <= MOST_TIMESTEPS:
            wanted = f"number of time-steps, from 1 to {MOST_TIMESTEPS}, nor 'input'"
            self.fail(f"'{text[:19]}' is no {wanted}", param, ctx)
        return int(text)


class Percent(click.FloatRange):
    """A number from 0 to 100, which NaN is none of: by it no comparison would ever fail."""

    def __init__(self) -> None:
        super().__init__(0, 100)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The number; a usage error for anything else."""
        number = super().convert(value, param, ctx)
        return self.fail(f"'{value}' is no number", param, ctx) if number != number else number


class InitialPotentialType(click.ParamType):
    """v(0): half, zero, uniform, normal, or a fraction of the threshold."""

    name = "half|zero|FRACTION|uniform|normal"

    def convert(self, value: Any, param: Any, ctx: Any) -> InitialPotential:
        """The fraction or the name of the distribution; a usage error for anything else."""
        named: dict[str, InitialPotential] = {
            "half": 0.5, "zero": 0.0, "uniform": "uniform", "normal": "normal",
        }  # fmt: skip
        if value in named:
            return named[value]
        try:
            fraction = float(value)
        except ValueError:
            fraction = np.nan
        if not np.isfinite(fraction):
            self.fail(f"'{value}' is none of half, zero, uniform, normal or a number", param, ctx)
        return fraction


class SizeType(click.ParamType):
    """Bytes as ``2GB``, ``512MiB`` or a number."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number of bytes; a usage error for anything else."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(I?)B?|B)?", str(value).upper())
        if found is None:
            self.fail(f"'{value}' is not a size such as 2GB, 512MiB or 100000000", param, ctx)
        number, unit, binary = found.groups()
        size = float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit or " "))
        if not 1 <= size < float("inf"):
            self.fail(f"'{value}' is no number of bytes", param, ctx)
        return int(size)


class NamedPath(click.Path):
    """A file or a folder; "" is refused, which ``Path`` would take for the current folder."""

    def __init__(self, *, file_okay: bool = True) -> None:
        # What cannot be read, whoever reads it says, as of all other files.
        super().__init__(path_type=Path, file_okay=file_okay, readable=False)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The path; a usage error for an empty one."""
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


def _from_pipe(ctx: Any, param: Any, path: Path | None) -> Path | None:
    """A model's path; where that is a pipe, which can be read once, of a copy of what it gives."""
    try:
        if path is None or not path.is_fifo():
            return path
    except OSError:
        # What is wrong with the name, whoever reads the file says.
        return path
    try:
        copy = Path(ctx.with_resource(tempfile.TemporaryDirectory()), path.name)
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error
    return copy


MODEL: dict[str, Any] = {"type": NamedPath(), "callback": _from_pipe}
"""What an argument or option is that names a model's file."""
