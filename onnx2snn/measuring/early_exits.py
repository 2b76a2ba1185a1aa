"""``evaluate --early-exit``: accuracy against mean T, by rules for when a sample is settled."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnx2snn.ann import Ann
from onnx2snn.data.batches import OVER_TIME, samples_at_once
from onnx2snn.data.samples import Data, require_data
from onnx2snn.graph_passes.model_files.files import Model, read_any
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.progress import Running, Track, no_progress
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.early_exit import EarlyExit, scored_output
from onnx2snn.runtime.inputs import required_times
from onnx2snn.runtime.precision import Precision
from onnx2snn.runtime.providers import Providers

from .classes import ann_classes, ann_report, check_labels, classes_of, shares, truth_of
from .evaluation import require_samples
from .inference import precision_rows

RULES = tuple(EarlyExit(confidence) for confidence in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99))
"""The default rule and others, by how sure a sample must be to leave."""

AS_ACCURATE = 0.1
"""Points of accuracy that a fixed T may lack and still count as accurate as a rule."""


def early_exits(
    model: Model | ModelParts,
    data: Data,
    timesteps: Sequence[int],
    *,
    rules: Sequence[EarlyExit] = RULES,
    ann: Model | ModelParts | None = None,
    batch_size: int | None = None,
    providers: Providers = None,
    threads: int | None = None,
    precision: Precision = "float32",
    max_memory: int | None = None,
    track: Track = no_progress,
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
    timesteps = required_times(timesteps)
    most = timesteps[-1]
    times = sorted({*timesteps, *(t for rule in rules for t in rule.looks_at(most))})
    parts = read_any(model)
    ann_parts = None if ann is None else read_any(ann)
    together = samples_at_once(parts, data, batch_size, OVER_TIME, ann_parts)
    running = Running(together, providers, track)
    session = SpikingSession(parts, providers, threads, max_memory=max_memory, precision=precision)
    require_samples(data, session)
    reference = None if ann_parts is None else Ann(ann_parts, providers, threads)
    chosen: list[np.ndarray] = []
    fixed: dict[int, list[np.ndarray]] = {}
    left: list[list[np.ndarray]] = [[] for _ in rules]
    for x, y in running.batches(data, "evaluating"):
        recorder = _Recorder(times=times)
        values = session.run(x, most, early_exit=recorder).values
        scored = scored_output(values, len(next(iter(values.values()))))
        shape = values[scored].shape
        check_labels(y, shape, data.name)
        if reference is not None:
            chosen.append(ann_classes(reference, x, scored, shape))
        # A read-out with a delay is not looked at before it begins.
        looks = dict(zip(times[-len(recorder.looks) :], recorder.looks, strict=True))
        before = [t for t in times if t in timesteps and t not in looks]
        readouts = session.run(x, before[-1], before).readouts if before else {}
        outputs = {t: readout.values[scored] for t, readout in readouts.items()}
        first = min(looks)
        if not fixed and first < most and shape[0] > 1:
            # Refuses what reads a sample out by others, too, as a run of which some leave does.
            session.run(x, first + 1, early_exit=_HalfLeaves(first=first))
        for t, look in {**outputs, **looks}.items():
            fixed.setdefault(t, []).append(classes_of(look))
        for rule, found in zip(rules, left, strict=True):
            found.append(leaves(rule, looks))

    truth = truth_of(data.labels, chosen)
    classes = {t: np.concatenate(parts) for t, parts in fixed.items()}
    snn = [{"timesteps": t, **shares(said, truth)} for t, said in classes.items()]
    seen = ([t for t in rule.looks_at(most) if t in looks][rule.stable - 1 :] for rule in rules)
    earliest = min((looked[0] for looked in seen if looked and looked[0] < most), default=None)
    rows = []
    for rule, found in zip(rules, left, strict=True):
        ran = np.concatenate(found)
        said = np.select([ran == t for t in classes], list(classes.values()))
        row = {**asdict(rule), "mean_timesteps": float(ran.mean()), **shares(said, truth)}
        rows.append({**row, "as_accurate_as": _as_accurate(row, snn)})
    report = {
        "samples": data.samples,
        "ann": ann_report(truth),
        "snn": snn,
        "early_exit": rows,
        "earliest": earliest,
    }
    if precision == "float32":
        return report
    return report | {"precision": precision, "precisions": precision_rows(session)}


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
