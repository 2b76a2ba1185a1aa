"""Puts mutants through the package, one after another: ``worker.py FIRST LAST``.

Prints a line of JSON as it begins with a mutant and one when it is done, so that whoever
reads them knows which mutant ended the process, as any call does that takes longer than
``MOST_SECONDS``.
"""

import contextlib
import faulthandler
import json
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from mutate import Mutant, mutant

import onnx2snn
from onnx2snn.cli import main

ADDRESS_SPACE = 6 * 2**30
MOST_MEMORY = 2 * 2**30
MOST_SECONDS = 10


def examine(case: Mutant, number: int, folder: Path) -> list[str]:
    """Do with a file what a user may; returns what should not have happened."""
    found: list[str] = []
    path, out, data = folder / "model.onnx", folder / "out", folder / "x.npy"
    out.mkdir()
    np.save(data, case.x)
    path.write_bytes(case.content)
    for name, content in case.beside.items():
        (folder / name).write_bytes(content)
    proto = attempt("read_model", lambda: onnx2snn.read_model(path), found)
    if proto is not None and number % 5 == 0:
        attempt("check of a proto", lambda: onnx2snn.check(proto), found)
    attempt("check", lambda: onnx2snn.check(path, approximate=number % 2 == 0), found)
    convert(path, case, number, out, found)
    run(path, case, "run", found)
    commands = [
        ["inspect", str(path)],
        ["check", str(path), "--json"],
        ["run", str(path), "--input", str(data), "-T", "2", "-o", str(out / "run.npz")],
        ["evaluate", str(path), "--data", str(data), "-T", "2", "--ann", str(path)],
    ]
    with_data = ["--calibration", str(data)] if number % 2 == 0 else []
    invoke(["convert", str(path), "-o", str(out / "cli.onnx"), *with_data], found)
    invoke(commands[number % len(commands)], found)
    for entry in out.iterdir():
        if entry.suffix == ".onnx":
            attempt("reading the result", lambda entry=entry: onnx2snn.read_model(entry), found)
        elif entry.name != "run.npz":
            found.append(f"left over: {entry.name}")
    return found


def convert(path: Path, case: Mutant, number: int, out: Path, found: list[str]) -> None:
    options: dict[str, Any] = {"maxpool": ("average", "exact", "keep")[number % 3]}
    if number % 2:
        options["calibration"] = onnx2snn.from_arrays(case.x)
        options["per_channel"] = number % 4 == 1
        options["approximate"] = 4 if number % 8 > 3 else None
    conversion = attempt("convert", lambda: onnx2snn.convert(path, **options), found)
    if conversion is not None:
        onnx2snn.write_model(conversion.model, out / "api.onnx")
        run(conversion.model, case, "run of the result", found)


def run(model: Any, case: Mutant, what: str, found: list[str]) -> None:
    session = attempt(what, lambda: onnx2snn.SpikingSession(model, threads=1), found)
    if session is not None:
        attempt(what, lambda: session.run(case.x, 2), found)


def attempt(what: str, call: Callable[[], Any], found: list[str]) -> Any:
    """What a call returns; None if it fails as it may. Any other failure is noted."""
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
    try:
        return call()
    except onnx2snn.Onnx2SnnError as error:
        if not str(error).strip():
            found.append(f"{what}: {type(error).__name__} without a message")
    except BaseException:
        found.append(f"{what}: {traceback.format_exc()}")
    return None


def invoke(arguments: list[str], found: list[str]) -> None:
    """A command exits with 0, or with 1 or 2 and one message, or check's verdict."""
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
    result = CliRunner().invoke(main, arguments)
    messages = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    command = arguments[0]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        found.append(f"{command}: {''.join(traceback.format_exception(result.exception))}")
    elif result.exit_code not in (0, 1, 2):
        found.append(f"{command}: exit code {result.exit_code}")
    elif result.exit_code and command != "check" and len(messages) != 1:
        found.append(f"{command}: exit code {result.exit_code}, and said {result.output!r}")


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of memory that the process held at most since ``reset_peak``; 0 if unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def outcome(number: int) -> dict[str, Any]:
    """What became of one mutant."""
    case = mutant(number)
    reset_peak()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = examine(case, number, Path(folder))
    faulthandler.cancel_dump_traceback_later()
    if peak() > MOST_MEMORY:
        found.append(f"memory: {peak() / 2**30:.1f} GiB")
    seconds = round(time.monotonic() - begin, 2)
    return {"end": number, "made": case.made, "found": found, "seconds": seconds, "peak": peak()}


if __name__ == "__main__":
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for number in range(*map(int, sys.argv[1:])):
        print(json.dumps({"begin": number}), flush=True)
        print(json.dumps(outcome(number)), flush=True)
