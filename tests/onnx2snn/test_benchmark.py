"""``onnx2snn benchmark``: contestants in processes of their own; what the figures are made of."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import dyadic
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from contender import Contender
from onnx_text import model

from onnx2snn import DataError, ModelError, Onnx2SnnError, convert
from onnx2snn.cli import main
from onnx2snn.measuring.benchmarking import RandomInputs, benchmark, input_shapes, regret
from onnx2snn.measuring.timing import Contestant, interleaved, ratio
from onnx2snn.runtime.plans.plan import build_plan
from onnx2snn.runtime.session import PlanKind

ROOT = Path(__file__).parents[2]


@pytest.fixture
def every_core():
    """Those that the machine gives, whichever this process has."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes cannot be pinned here")
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count()))
    yield
    os.sched_setaffinity(0, own)


def test_a_contestant_is_an_object_elsewhere(every_core):
    with Contestant(Contender, "ab") as contestant:
        seconds, value = contestant.call("say", 3)
        assert value == "ababab"
        assert seconds >= 0
        with pytest.raises(Onnx2SnnError, match="out of luck"):
            contestant.call("fail")
        assert contestant.call("say", 1)[1] == "ab"
        process, cores = contestant.call("where")[1]
        assert process != os.getpid()
        assert cores == [max(os.sched_getaffinity(0))]
        # Ctrl-C reaches it, too, while it is being made.
        assert not contestant.call("heeds_interrupts")[1]
        assert Contender("ab").heeds_interrupts()
        with pytest.raises(Onnx2SnnError, match="exit code 3"):
            contestant.call("end")
        with pytest.raises(Onnx2SnnError, match="exit code 3"):
            contestant.call("say", 1)
    with pytest.raises(Onnx2SnnError, match="cannot be made"):
        Contestant(Contender, "broken")
    with Contestant(Contender, "ab", pinned=False) as free:
        assert free.call("where")[1][1] == sorted(os.sched_getaffinity(0))


def test_a_contestant_whose_parent_is_gone_ends_quietly(tmp_path):
    text = (
        "import signal, time; from onnx2snn.measuring.timing import Contestant; "
        "signal.alarm(1); Contestant(time.sleep, 2)"
    )
    # Not here, where the sources are not laid out as they are installed.
    run = [sys.executable, "-c", text]
    done = subprocess.run(run, stderr=subprocess.PIPE, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (-signal.SIGALRM, b"")


def test_rounds_take_turns():
    calls, told = [], []

    def task(name, seconds):
        def run():
            calls.append(name)
            return seconds

        return run

    tasks = {"a": task("a", 1.0), "b": task("b", 2.0)}
    times = interleaved(tasks, 3, lambda done, of: told.append((done, of)))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert told == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(times["b"], [2.0] * 3)
    assert len(interleaved({"a": task("a", 6.0)})["a"]) == 10
    assert len(interleaved({"a": task("a", 1e-9)})["a"]) == 15
    assert len(interleaved({"a": task("a", 1e9)})["a"]) == 5


def test_ratios_are_within_rounds():
    found = ratio(np.array([2.0, 40.0, 3.0]), np.array([1.0, 10.0, 1.0]))
    assert (found.median, found.low, found.high) == (3.0, 2.5, 3.5)


def test_regret_is_against_the_best_plan():
    def row(*rounds):
        return {"seconds": float(np.median(rounds)), "rounds": list(rounds)}

    rows = {"ANN": row(1, 1, 1), "auto": row(12, 22, 11), "step": row(10, 20, 10)}
    assert regret(rows) == pytest.approx(0.1)
    assert regret({**rows, "chunks": row(30, 30, 30)}) == pytest.approx(0.1)
    assert regret({**rows, "auto": row(9, 9, 9)}) == 0
    assert regret({**rows, "int8": row(1, 1, 1)}) == pytest.approx(0.1)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ann = dyadic.to_onnx(dyadic.finish(2))
    onnx.save(ann, "ann.onnx")
    onnx.save(convert(ann).model, "snn.onnx")
    return tmp_path


def test_the_figures_belong_together(files):
    snn, ann = files / "snn.onnx", files / "ann.onnx"
    found = benchmark(snn, 8, [3, 1], ann=ann, rounds=2)
    assert [(row["samples"], row["plan"]) for row in found["rows"]] == [
        (n, name) for n in (1, 3) for name in ("ANN", *get_args(PlanKind), "int8")
    ]
    for row in found["rows"]:
        base = next(
            r for r in found["rows"] if (r["samples"], r["plan"]) == (row["samples"], "ANN")
        )
        assert row["seconds"] == np.median(row["rounds"])
        assert len(row["rounds"]) == 2
        wanted = ratio(np.array(row["rounds"]), np.array(base["rounds"]))
        assert row["ratio"] == vars(wanted)
        assert row["steps_per_second"] == pytest.approx(8 * row["samples"] / row["seconds"])
        assert row["peak_memory"] > 1e6
        assert row["load_seconds"] > 0
        assert (row["regret"] is None) == (row["plan"] != "auto")
    assert benchmark(snn, 4, [1], rounds=1)["against"] == "step"


def test_the_command(files, monkeypatch):
    def call(*options, code=0):
        result = CliRunner().invoke(main, ["benchmark", *options])
        assert result.exit_code == code, result.output
        return result.output

    options = ("-T", "4", "--batch", "2,1")
    shown = call("snn.onnx", "--ann", "ann.onnx", *options, "--plot", "speed.png")
    assert "of T forward passes" in shown
    assert (files / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert "Give --ann" in call("snn.onnx", *options, "--plot", "speed.svg")
    found = json.loads(call(*options, "--json"))
    assert found["against"] == "ANN"
    assert "it is an ANN" in call("ann.onnx", *options, code=1)
    assert "spiking network" in call("snn.onnx", "--ann", "snn.onnx", *options, code=1)
    text = "net (float[N, 3, 8, 8] input) => (float[N, 3, 8, 8] y) { y = Relu(input) }"
    onnx.save(model(text), "other.onnx")
    refused = call("snn.onnx", "--ann", "other.onnx", *options, code=1)
    assert "not the same network" in " ".join(refused.split())
    assert "give MODEL" in call("--ann", "ann.onnx", code=2)
    assert "samples start at 1" in call("snn.onnx", "--batch", "0", code=2)

    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    assert "directory: the current folder\n" in call(str(files / "snn.onnx"), *options, code=1)


def test_inputs(files):
    inputs = RandomInputs(
        {"x": ((None, 2, 3), np.dtype(np.float32)), "i": ((None,), np.dtype(np.int64))}
    )
    made = inputs(5)
    assert made["x"].shape == (5, 2, 3)
    assert made["x"].dtype == np.float32
    assert set(made["i"].tolist()) <= {0, 1}
    assert inputs(5) is made
    assert RandomInputs({"s": ((), np.dtype(np.float32))})(5)["s"].shape == ()
    text = "net (float[N, C, H] x) => (float[N, C, H] y) { y = Clip(x, zero, one) }"
    ann = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    with pytest.raises(DataError, match="leaves sizes open"):
        input_shapes(build_plan(convert(ann).model))
    text = "net (float[N, 4] x, float s) => (float[N, 4] y) { c = Clip(x, zero, one) y = Add(c, s)}"
    scaled = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    text = text.replace("float s", "float[1, 4] s")
    shared = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    onnx.save(shared, "shared.ann.onnx")
    onnx.save(convert(scaled).model, "scalar.onnx")
    assert input_shapes(build_plan(convert(scaled).model))["s"] == ((), np.dtype(np.float32))
    assert benchmark(files / "scalar.onnx", 2, [3], rounds=1)["rows"]
    onnx.save(convert(shared).model, "shared.onnx")
    assert input_shapes(build_plan(convert(shared).model), [3])["s"][0] == (1, 4)
    assert benchmark(files / "shared.onnx", 2, [3], ann=files / "shared.ann.onnx", rounds=1)["rows"]
    with pytest.raises(ModelError, match="it is an ANN"):
        benchmark(files / "ann.onnx", 2, [1])


def test_fixed_batch_sizes(files):
    """An ANN of one sample at a time is timed with as many as its spiking network takes."""
    # Which size the Reshape has is known where constants are folded.
    text = (
        "net (float[B, 4] x) => (float[B, 4] y) { k = ConstantOfShape(sizes) s = Shape(k) "
        "r = Reshape(x, s) c = Clip(r, zero, one) y = MIX(c, w) }"
    )
    bounds = {"zero": np.float32(0), "one": np.float32(1)}

    def write(batch, mix, w):
        values = {**bounds, "sizes": np.array([batch, 4]), "w": w}
        onnx.save(model(text.replace("B", str(batch)).replace("MIX", mix), values), "fixed.onnx")
        onnx.save(convert("fixed.onnx").model, "fixed-snn.onnx")
        return files / "fixed-snn.onnx", files / "fixed.onnx"

    snn, ann = write(1, "MatMul", np.eye(4, dtype=np.float32))
    rows = benchmark(snn, 2, [3], ann=ann, rounds=1)["rows"]
    assert {row["samples"] for row in rows} == {3}
    # Each sample has weights of its own.
    snn, ann = write(2, "Mul", np.ones((2, 4), np.float32))
    assert benchmark(snn, 2, [2], ann=ann, rounds=1)["rows"]
    with pytest.raises(DataError, match="2 samples at a time only"):
        benchmark(snn, 2, [1, 2], ann=ann)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("calibration_cost.py --images 8 --timesteps 2 --rounds 1", "best-binary: "),
        ("memory.py --help", "--max-memory"),
        ("regret.py --help", "--recipes"),
        ("conversion_cost.py --help", "usage"),
        ("loop_export.py --help", "usage"),
    ],
)
def test_the_documented_benchmarks_run(script, said):
    name, *arguments = script.split()
    run = subprocess.run(
        [sys.executable, f"benchmarks/{name}", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert said in run.stdout
