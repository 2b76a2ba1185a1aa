"""``evaluate --early-exit``: accuracy against mean T, by rules for when a sample is settled."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnx2snn.ann import Ann
from onnx2snn.data.batches import OVER_TIME, samples_at_once
from onnx2snn.data.samples import Data, Inputs, require_data, require_samples
from onnx2snn.graph_passes.model_files.files import Model, read_any
from onnx2snn.running import Report, Running, no_report
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.early_exit import EarlyExit, scored_output
from onnx2snn.runtime.inputs import required_times
from onnx2snn.runtime.precision import Precision, precision_rows
from onnx2snn.runtime.providers import Providers

from .classes import (
    Truth,
    ann_classes,
    ann_report,
    check_labels,
    classes_of,
    shares,
    truth_of,
)

RULES = tuple(EarlyExit(confidence) for confidence in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99))
"""The default rule and others, by how sure a sample must be to leave."""

AS_ACCURATE = 0.1
"""Points of accuracy that a fixed T may lack and still count as accurate as a rule."""


def early_exits(
    model: Model,
    data: Data,
    timesteps: Sequence[int],
    *,
    rules: Sequence[EarlyExit] = RULES,
    ann: Model | None = None,
    batch_size: int | None = None,
    providers: Providers = None,
    threads: int | None = None,
    precision: Precision = "float32",
    max_memory: int | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Accuracy of an SNN whose samples leave early, up to max(timesteps), beside that of fixed T.

    Each batch runs to the end, and is read out at all time-steps at which a rule looks: when a
    sample would leave follows from that, since those that stay notice nothing of those that leave.
    Where the read-out begins after a delay, those before its end are a run of their own. Returns
    what ``onnx2snn evaluate --early-exit --json`` prints:

        {"samples": int, "ann": {"accuracy": float} or None without an ANN,
         "snn": [{"timesteps": int, "accuracy": float, "agreement": float}, ...],
         "early_exit": [{"confidence": float, "stable": int, "every": int,
                         "mean_timesteps": float, "accuracy": float, "agreement": float,
                         "as_accurate_as": int}, ...],
         "earliest": int or None}

    snn: at fixed T, those in ``timesteps`` and those at which rules look. accuracy, agreement:
    as of ``evaluate``. as_accurate_as: the smallest of these T whose accuracy (agreement,
    without labels) is as high, up to 0.1 points; None if there is none. earliest: the first
    time-step at which a sample may leave by one of the rules; None if there is none before the
    last. Raises ``DataError`` like ``evaluate`` and ``SpikingSession.run(early_exit=...)``. Where
    ``precision`` is not "float32", the report has ``precision`` and ``precisions`` of ``evaluate``
    besides.
    """
    require_data("data", data)
    times = required_times(timesteps)
    parts = read_any(model)
    ann_parts = None if ann is None else read_any(ann)
    together = samples_at_once(parts, data, batch_size, OVER_TIME, ann_parts)
    running = Running(together, providers, report)
    session = SpikingSession(parts, providers, threads, max_memory=max_memory, precision=precision)
    require_samples(data, parts.structure)
    reference = None if ann_parts is None else Ann(ann_parts, providers, threads)
    found = _measured(session, reference, data, times, rules, running)
    snn = [{"timesteps": t, **shares(said, found.truth)} for t, said in found.said.items()]
    result = {
        "samples": data.samples,
        "ann": ann_report(found.truth),
        "snn": snn,
        "early_exit": [
            _row(rule, left, found, snn) for rule, left in zip(rules, found.left, strict=True)
        ],
        "earliest": _earliest(rules, found.looked),
    }
    if precision == "float32":
        return result
    return result | {"precision": precision, "precisions": precision_rows(session.precisions)}


@dataclass(frozen=True)
class _Measured:
    """What all batches came to.

    ``said``: the SNN's classes, int64 [N], by T. ``left``: when samples leave, int64 [N], by each
    rule. ``looked``: the time-steps at which there is a read-out to look at.
    """

    truth: Truth
    said: dict[int, np.ndarray]
    left: list[np.ndarray]
    looked: list[int]


def _measured(
    session: SpikingSession,
    reference: Ann | None,
    data: Data,
    timesteps: Sequence[int],
    rules: Sequence[EarlyExit],
    running: Running,
) -> _Measured:
    most = timesteps[-1]
    times = sorted({*timesteps, *(t for rule in rules for t in rule.looks_at(most))})
    chosen: list[np.ndarray] = []
    said: dict[int, list[np.ndarray]] = {}
    left: list[list[np.ndarray]] = [[] for _ in rules]
    looked: list[int] = []
    for x, y in running.batches(data, "evaluating"):
        looks, scored, shape = _looks(session, x, times)
        check_labels(y, shape, data.name)
        if reference is not None:
            chosen.append(ann_classes(reference, x, scored, shape))
        before = [t for t in timesteps if t not in looks]
        outputs = _outputs(session, x, before, scored)
        first = min(looks)
        if not looked and first < most and shape[0] > 1:
            # Refuses what reads a sample out by others, too, as a run of which some leave does.
            session.run(x, first + 1, early_exit=_HalfLeaves(first=first))
        looked = list(looks)
        for t, scores in {**outputs, **looks}.items():
            said.setdefault(t, []).append(classes_of(scores))
        for rule, found in zip(rules, left, strict=True):
            found.append(leaves(rule, looks))
    return _Measured(
        truth_of(data.labels, chosen),
        {t: np.concatenate(found) for t, found in said.items()},
        [np.concatenate(found) for found in left],
        looked,
    )


def _looks(
    session: SpikingSession, x: Inputs, times: Sequence[int]
) -> tuple[dict[int, np.ndarray], str, tuple[int, ...]]:
    """What rules see of a batch at these time-steps, [N, classes] each; of which output; its shape.

    The batch runs to the last of them. A read-out with a delay is not looked at before it begins.
    """
    recorder = _Recorder(times=times)
    values = session.run(x, times[-1], early_exit=recorder).values
    scored = scored_output(values, len(next(iter(values.values()))))
    began = times[-len(recorder.looks) :]
    return dict(zip(began, recorder.looks, strict=True)), scored, values[scored].shape


def _outputs(
    session: SpikingSession, x: Inputs, times: Sequence[int], scored: str
) -> dict[int, np.ndarray]:
    """The output of this name at each of these time-steps, if any, of a run of its own."""
    readouts = session.run(x, times[-1], times).readouts if times else {}
    return {t: readout.values[scored] for t, readout in readouts.items()}


def _row(
    rule: EarlyExit, left: np.ndarray, found: _Measured, snn: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What a rule by which samples leave at these time-steps, int64 [N], comes to."""
    said = np.select([left == t for t in found.said], list(found.said.values()))
    row = {**asdict(rule), "mean_timesteps": float(left.mean()), **shares(said, found.truth)}
    return {**row, "as_accurate_as": _as_accurate(row, snn)}


def _earliest(rules: Iterable[EarlyExit], looked: Sequence[int]) -> int | None:
    """The first of these time-steps at which a rule may let a sample leave, before the last."""
    *_, most = looked
    firsts = list[int]()
    for rule in rules:
        times = [t for t in rule.looks_at(most) if t in looked]
        firsts += times[rule.stable - 1 : rule.stable]
    return min((t for t in firsts if t < most), default=None)


def leaves(rule: EarlyExit, looks: Mapping[int, np.ndarray]) -> np.ndarray:
    """When samples leave by a rule: int64 [N], from what it looks at, [N, classes] by time-step.

    Those that are never settled leave at the last time-step.
    """
    last = max(looks)
    times = [t for t in rule.looks_at(last) if t in looks]
    left = np.full(len(looks[last]), last, np.int64)
    # The first time-step at which a sample is settled is the last to be entered.
    for count in range(len(times) - 1, 0, -1):
        left[rule.settled([looks[t] for t in times[:count]])] = times[count - 1]
    return left


@dataclass(frozen=True)
class _Recorder(EarlyExit):
    """Lets no sample leave, and keeps what it sees at ``times``."""

    times: Sequence[int] = ()
    looks: list[np.ndarray] = field(default_factory=list)

    def settled(self, looks: list[np.ndarray]) -> np.ndarray:
        self.looks.append(looks[-1])
        return np.zeros(len(looks[-1]), bool)

    def looks_at(self, timesteps: int) -> Iterator[int]:
        return iter(self.times)


@dataclass(frozen=True)
class _HalfLeaves(EarlyExit):
    """Lets the former half of the samples leave at a time-step."""

    first: int = 1

    def settled(self, looks: list[np.ndarray]) -> np.ndarray:
        count = len(looks[-1])
        return np.arange(count) < count // 2

    def looks_at(self, timesteps: int) -> Iterator[int]:
        return iter((self.first, timesteps))


def _as_accurate(row: Mapping[str, Any], fixed: Sequence[Mapping[str, Any]]) -> int | None:
    """The first fixed T that is as accurate as a rule."""
    kind = "agreement" if row["accuracy"] is None else "accuracy"
    if row[kind] is None:
        return None
    # Rounded, since 94.1 - 94.0 is more than 0.1 in binary.
    good = (f["timesteps"] for f in fixed if round(row[kind] - f[kind], 9) <= AS_ACCURATE)
    return next(good, None)
