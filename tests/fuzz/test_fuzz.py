"""Damaged and hostile model files end in one clear message, never in a crash.

Each mutant runs in a worker process with limited memory and time; one that ends the process
is known by its number, and the next worker goes on behind it. ``ONNX2SNN_FUZZ=10000 pytest
tests/fuzz`` runs so many; what it finds is printed as it comes, and ``worker.py N N+1`` runs
one alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import environment

HERE = Path(__file__).parent
COUNT = int(os.environ.get("ONNX2SNN_FUZZ", "120"))
FIRST = int(os.environ.get("ONNX2SNN_FUZZ_FIRST", "0"))


def outcomes(first: int, last: int) -> Iterator[dict[str, Any]]:
    """What became of each mutant, as ``worker.outcome`` says it."""
    folders = HERE, HERE.parent / "helpers"
    while first < last:
        command = [sys.executable, HERE / "worker.py", str(first), str(last)]
        with tempfile.TemporaryFile("w+") as errors:
            with subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(*folders),
            ) as worker:
                for line in worker.stdout:
                    if line.startswith('{"end"'):
                        done = json.loads(line)
                        yield done
                        first = done["end"] + 1
            errors.seek(0)
            said = errors.read()
        if first < last:
            found = [f"ended the process ({worker.returncode}): {said[-3000:]}"]
            yield {"end": first, "made": "", "found": found}
            first += 1


def test_mutants():
    failures = 0
    for outcome in outcomes(FIRST, FIRST + COUNT):
        for found in outcome["found"]:
            failures += 1
            print(f"mutant {outcome['end']} ({outcome['made']}): {found}")
    assert not failures
