"""``onnx2snn benchmark``: a spiking network's plans beside T forward passes of its ANN."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from onnx2snn.ann import require_no_neurons
from onnx2snn.converting.batch_axis import open_batch_axis
from onnx2snn.converting.checking import first_inputs_that_run
from onnx2snn.converting.conversion import convert
from onnx2snn.demo import demo_network
from onnx2snn.graph_passes.errors import DataError, ModelError, counted
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.model_files.files import read_parts, write_model
from onnx2snn.graph_passes.model_files.io import to_graph, to_parts
from onnx2snn.running import Report, no_report
from onnx2snn.runtime.inputs import fits
from onnx2snn.runtime.plans.plan import Plan, build_plan
from onnx2snn.runtime.precision import not_in_float32
from onnx2snn.runtime.providers import CPU, onnxruntime
from onnx2snn.runtime.session import PlanKind, SpikingSession
from onnx2snn.runtime.sessions import create_session

from .timing import Contestant, interleaved, ratio

ANN = "ANN"
"""The row of T forward passes of the ANN."""

INT8 = "int8"
"""The row of the plan "auto" in 8 bits."""

Shapes = Mapping[str, tuple[tuple[int | None, ...], np.dtype]]
"""Shape and type of each input by name; None stands for N."""


def benchmark(
    snn: Path,
    timesteps: int,
    batches: Sequence[int],
    *,
    ann: Path | None = None,
    threads: int = 1,
    rounds: int | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Time T time-steps of an SNN file by each plan, against T forward passes of its ANN.

    Each runs in a process of its own, on one core where ``threads`` is 1, in turns; inputs are
    random, N samples at a time, for each N in ``batches``. Without an ANN ratios are to the plan
    "step". rounds: as of ``interleaved``. Returns what ``onnx2snn benchmark --json`` prints:

        {"timesteps": int, "threads": int, "against": "ANN" or "step", "rows": [{
            "samples": N, "plan": "ANN", "auto", "step", ... or "int8",
            "seconds": of T time-steps, "rounds": [seconds, ...],
            "ratio": {"median": float, "low": float, "high": float},
            "steps_per_second": float, "peak_memory": int, "load_seconds": float,
            "regret": float}, ...]}

    seconds: the median of those of the rounds. ratio: to ``against``, the median and quartiles
    of those within a round. steps_per_second: T N / seconds. peak_memory: the most that the
    process has held, in bytes, its libraries with it; None where that is unknown. load_seconds:
    from the file until it runs, what a first run takes longer than a later one with it. regret:
    of "auto", by what share it is slower than the best other but int8, 0 at least; None in other
    rows. "int8" is "auto" with ``precision="int8"``, where the network is in float32.

    Raises ``ModelError`` for a file that is no SNN, and ``DataError`` if an input has other
    sizes open than N, or N fixed to another one.
    """
    network = build_plan(read_parts(snn))
    shapes = input_shapes(network, batches)
    against = "step" if ann is None else ANN
    makers: dict[str, tuple[Any, ...]] = {}
    with contextlib.ExitStack() as stack:
        if ann is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            makers[ANN] = (AnnRuns, with_open_batch(ann, folder))
        makers |= {plan: (SnnRuns, snn, {"plan": plan}) for plan in get_args(PlanKind)}
        if not_in_float32(network) is None:
            makers[INT8] = (SnnRuns, snn, {"precision": "int8"})
        running = {
            name: stack.enter_context(
                Contestant(make, shapes, timesteps, threads, *given, pinned=threads == 1)
            )
            for name, (make, *given) in makers.items()
        }
        rows = timed_rows(running, timesteps, batches, against, rounds, report)
    for row in rows:
        beside = {r["plan"]: r for r in rows if r["samples"] == row["samples"]}
        row["regret"] = regret(beside) if row["plan"] == "auto" else None
    return {"timesteps": timesteps, "threads": threads, "against": against, "rows": rows}


def with_open_batch(ann: Path, folder: Path) -> Path:
    """An ANN file whose batch size, if it is fixed, is open as a conversion opens it.

    The file itself where that changes nothing, else one in ``folder``. Raises ``ModelError`` for a
    file that is no ANN.
    """
    parts = read_parts(ann)
    require_no_neurons(parts.structure.graph.node)
    graph = to_graph(parts)
    if not any(tensor.shape and isinstance(tensor.shape[0], int) for tensor in graph.inputs):
        return ann
    infer_shapes(graph)
    sample = first_inputs_that_run(parts, graph)
    graph, _, reports, _ = open_batch_axis(graph, parts, None, sample)
    if not reports:
        return ann
    write_model(to_parts(graph), folder / "ann.onnx")
    return folder / "ann.onnx"


def timed_rows(
    running: Mapping[str, Contestant],
    timesteps: int,
    batches: Sequence[int],
    against: str,
    rounds: int | None,
    report: Report,
) -> list[dict[str, Any]]:
    """Time contestants that have ``load()`` and ``run(samples)``; rows as of ``benchmark``.

    Without the regrets. Peaks of memory are read after each N, the smallest first.
    """
    report("loading", 0, 1)
    loads = {name: contestant.call("load")[0] for name, contestant in running.items()}
    rows = []
    for place, samples in enumerate(sorted(batches)):
        firsts: dict[str, float] = {}

        def run(name: str, samples: int = samples, firsts: dict[str, float] = firsts) -> float:
            seconds, _ = running[name].call("run", samples)
            firsts.setdefault(name, seconds)
            return seconds

        def told(done: int, of: int, place: int = place, samples: int = samples) -> None:
            report(f"N={samples}", place * of + done, len(batches) * of)

        times = interleaved({name: partial(run, name) for name in running}, rounds, told)
        for name, seconds in times.items():
            middle = float(np.median(seconds))
            if place == 0:
                loads[name] += max(0.0, firsts[name] - middle)
            rows.append(
                {
                    "samples": samples,
                    "plan": name,
                    "seconds": middle,
                    "rounds": seconds.tolist(),
                    "ratio": asdict(ratio(seconds, times[against])),
                    "steps_per_second": timesteps * samples / middle,
                    "peak_memory": running[name].peak_memory,
                    "load_seconds": loads[name],
                }
            )
    return rows


def regret(rows: Mapping[str, Mapping[str, Any]]) -> float:
    """By what share the plan "auto" is slower than the best other in float32; 0 where it is not.

    rows: those of one N, by plan.
    """
    others = [row for plan, row in rows.items() if plan not in (ANN, INT8, "auto")]
    best = min(others, key=lambda row: float(row["seconds"]))
    slower = ratio(np.array(rows["auto"]["rounds"]), np.array(best["rounds"]))
    return max(0.0, slower.median - 1)


@contextlib.contextmanager
def demo_files() -> Iterator[tuple[Path, Path]]:
    """The demo's network as files, the SNN and its ANN, as long as this context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        snn, ann = Path(folder) / "snn.onnx", Path(folder) / "ann.onnx"
        network = demo_network()
        write_model(network, ann)
        write_model(convert(network).parts, snn)
        yield snn, ann


def input_shapes(plan: Plan, batches: Sequence[int] = ()) -> Shapes:
    """What a spiking network takes; ``DataError`` for open sizes other than N, or a fixed N."""
    found: dict[str, tuple[tuple[int | None, ...], np.dtype]] = {}
    for tensor in plan.inputs:
        of_samples = tensor.name not in plan.shared and bool(tensor.shape)
        batch = tensor.shape[0] if of_samples else None
        sizes = tuple(tensor.shape[of_samples:])
        if not all(isinstance(size, int) for size in sizes):
            raise DataError(
                f"the network's input '{tensor.name}' leaves sizes open, {list(tensor.shape)}: fix "
                "all but the first in the ANN (onnxruntime.tools.make_dynamic_shape_fixed) and "
                "convert again"
            )
        if isinstance(batch, int) and set(batches) - {batch}:
            together = counted(batch, "sample")
            raise DataError(f"the network takes {together} at a time only: --batch {batch}")
        found[tensor.name] = (None, *sizes) if of_samples else sizes, np.dtype(tensor.dtype)
    return found


class SnnRuns:
    """T time-steps of an SNN file, by a session of these options."""

    def __init__(
        self,
        shapes: Shapes,
        timesteps: int,
        threads: int,
        path: Path,
        options: Mapping[str, Any],
    ) -> None:
        onnxruntime()
        self.inputs, self.timesteps = RandomInputs(shapes), timesteps
        self._session_of = partial(SpikingSession, path, threads=threads, **options)

    def load(self) -> None:
        """Make the session."""
        self.session = self._session_of()

    def run(self, samples: int) -> None:
        """T time-steps of so many samples."""
        self.session.run(self.inputs(samples), self.timesteps)


class AnnRuns:
    """T forward passes of an ANN file in ONNX Runtime."""

    def __init__(self, shapes: Shapes, timesteps: int, threads: int, path: Path) -> None:
        onnxruntime()
        self._path, self._threads = path, threads
        self._inputs, self._timesteps = RandomInputs(shapes), timesteps

    def load(self) -> None:
        """Make the session; ``ModelError`` if the ANN takes other inputs than the SNN."""
        parts = read_parts(self._path)
        require_no_neurons(parts.structure.graph.node)
        self._session = create_session(parts, [CPU], self._threads)
        inputs = {source.name: source.shape for source in self._session.get_inputs()}
        known = {
            name: ["N" if size is None else size for size in shape]
            for name, (shape, _) in self._inputs.shapes.items()
        }
        own = {
            name: ["N", *shape[1:]] if "N" in known.get(name, ()) else shape
            for name, shape in inputs.items()
        }
        if own.keys() != known.keys() or not all(fits(known[n], own[n]) for n in own):
            raise ModelError(
                f"the ANN takes the inputs {own}, the spiking network {known}: they are not the "
                "same network"
            )

    def run(self, samples: int) -> None:
        """T forward passes of so many samples."""
        feed = self._inputs(samples)
        for _ in range(self._timesteps):
            self._session.run(None, feed)


class RandomInputs:
    """Inputs of N samples, uniform from 0 to 1, whole numbers 0 or 1; kept for the last N."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self._made: tuple[int, dict[str, np.ndarray]] = 0, {}

    def __call__(self, samples: int) -> dict[str, np.ndarray]:
        """Each input by name, [N, ...]; the same at each call with this N."""
        if self._made[0] != samples:
            rng = np.random.default_rng(samples)
            values = {}
            for name, (shape, dtype) in self.shapes.items():
                size = [samples if length is None else length for length in shape]
                drawn = rng.random(size) if dtype.kind == "f" else rng.integers(0, 2, size)
                values[name] = np.asarray(drawn, dtype)
            self._made = samples, values
        return self._made[1]
