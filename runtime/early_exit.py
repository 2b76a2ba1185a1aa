"""Samples whose read-out is settled need no further time-steps."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError, is_number, require_whole
from onnx2snn.graph_passes.graph.ranges import SHAPING

from .plans.plan import Plan
from .progress import Progress
from .result import Arrays, Exit, ReadOut, class_output, read_out_of, types_of
from .sums import rows_of


@dataclass(frozen=True)
class EarlyExit:
    """When a sample's read-out is settled.

    Every ``every`` time-steps the read-out [N, classes] is looked at. A sample leaves where the
    softmax of its read-out is ``confidence`` or more for one class, and that class has been
    its largest at the last ``stable`` looks. A read-out that is a Softmax already counts as it
    is; that of Sigmoids, as what they were taken of. The defaults did best of 21 pairs of
    ``confidence`` and ``stable``, at looks every 4 time-steps, on 4,000 training images of the
    demo (docs/speed.md, section Early exit).

    Raises ``DataError`` for values that make no sense: ``confidence`` is from 0 to 1, the others
    are whole numbers, 1 or more.
    """

    confidence: float = 0.85
    stable: int = 3
    every: int = 4

    def __post_init__(self) -> None:
        for name in ("stable", "every"):
            # Of a frozen dataclass, as its own __init__ sets them.
            object.__setattr__(self, name, require_whole(name, getattr(self, name), 1))
        if not (is_number(self.confidence) and 0 <= self.confidence <= 1):
            raise DataError(f"confidence must be a number from 0 to 1, not {self.confidence!r}")

    def settled(self, looks: list[np.ndarray]) -> np.ndarray:
        """Which samples leave, bool [N], after these looks, each [N, classes]; the last is now.

        A look holds logits.
        """
        scores = looks[-1].astype(np.float64)
        if len(looks) < self.stable:
            return np.zeros(len(scores), bool)
        chosen = [look.argmax(axis=1) for look in looks[-self.stable :]]
        same = np.all([now == chosen[-1] for now in chosen], axis=0)
        # softmax of the largest: 1 over the sum of exp(z - z_max).
        certainty = 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)
        return np.asarray(same & (certainty >= self.confidence))

    def looks_at(self, timesteps: int) -> Iterator[int]:
        """The time-steps at which to look, T being the last."""
        return itertools.chain(range(self.every, timesteps, self.every), [timesteps])


def require_may_leave(
    rule: EarlyExit, plan: Plan, constant: bool, readout: Sequence[int] | None
) -> None:
    """Raise ``DataError`` for what is no rule, or where no sample may leave by one.

    ``constant``: whether the input is the same at every time-step.
    """
    if not isinstance(rule, EarlyExit):
        raise DataError(f"early_exit takes an EarlyExit, not {rule!r}")
    if not constant:
        raise DataError(
            "early_exit is for an input that is the same at every time-step: x [N, ...], "
            "with coding='constant'"
        )
    if readout is not None:
        raise DataError("early_exit reads out where samples leave: leave readout away")
    fixed = [t for t in plan.inputs if isinstance(next(iter(t.shape), None), int)]
    # Nothing is shared where no input has an open number of samples.
    if fixed and not plan.shared:
        raise DataError("an early exit needs a network whose batch size is not fixed")
    if fixed:
        raise DataError(
            "an early exit needs inputs with a row for each sample, which can leave with it: "
            f"'{fixed[0].name}' is {list(fixed[0].shape)}"
        )


def run_until_settled(
    rule: EarlyExit, progress: Progress, values: Arrays, samples: int, timesteps: int
) -> ReadOut:
    """Run those of so many samples that are left, and read out those that leave; at T all do.

    ``values``: what time-steps read. Raises ``DataError`` where samples are no rows, or depend on
    each other.
    """
    plan = progress.plan
    left = np.arange(samples)
    if not progress.time_steps.states_have_rows(progress.choice(values), len(left)):
        raise DataError(
            "an early exit needs a network that has its samples along the first axis of all "
            "layers, and computes each by itself, so that some of them can leave"
        )
    looks: list[np.ndarray] = []
    exits: list[Exit] = []
    for t in rule.looks_at(timesteps):
        progress.advance_to(t, values)
        if t <= plan.delay and t < timesteps:
            continue
        outputs = progress.outputs()
        scored = scored_output(outputs, len(left))
        scores = logits(outputs[scored].reshape(len(left), -1), last_op(plan.read_out, scored))
        looks = [*looks, scores][-rule.stable :]
        leave = rule.settled(looks) | (t == timesteps)
        if not leave.any():
            continue
        count, gone, stay = len(left), np.flatnonzero(leave), np.flatnonzero(~leave)
        sums = progress.sums.snapshot(gone, count)
        exits.append(Exit(t, left[gone], rows_of(outputs, gone, count), sums))
        if leave.all():
            break
        progress.keep(stay, count)
        # At each exit: what a largest is taken of changes only when that leaves.
        _require_alike(progress.outputs(), rows_of(outputs, stay, count))
        values = rows_of(values, stay, count)
        looks = [look[stay] for look in looks]
        left = left[stay]
    return read_out_of(exits, timesteps, plan.neurons)


def _require_alike(alone: Arrays, among: Arrays) -> None:
    """Raise ``DataError`` where what samples are read out as depends on those that have left."""
    other = depends_on_others(alone, among)
    if other is not None:
        raise DataError(
            "an early exit needs a network that reads out each sample by itself; its output "
            f"'{other}' depends on the other samples, too"
        )


def depends_on_others(alone: Arrays, among: Arrays) -> str | None:
    """The first of the tensors of which samples alone have others than among more, if any."""
    for name, value in among.items():
        if alone[name].shape != value.shape:
            # Rows of its own, as many as there were samples.
            return name
        if value.dtype.kind != "f":
            if not np.array_equal(alone[name], value):
                return name
            continue
        # Before the neurons there may be infinite ones, as the logarithm of 0.
        largest = np.abs(value[np.isfinite(value)]).max(initial=0.0)
        rounding = largest * np.sqrt(np.finfo(value.dtype).eps)
        if not np.allclose(alone[name], value, rtol=0, atol=rounding):
            return name
    return None


def last_op(read_out: onnx.ModelProto | None, output: str) -> str | None:
    """The op that computes an output of a plan's read-out, but for its shape and type."""
    nodes = () if read_out is None else read_out.graph.node
    makers = {name: node for node in nodes for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in (*SHAPING, "Cast") and not node.domain:
        node = makers.get(node.input[0])
    return None if node is None else node.op_type


def scored_output(outputs: Arrays, samples: int) -> str:
    """The name of the first output [N, classes], all outputs having a row for each sample.

    Raises ``DataError`` where they have not, or where there is none with two classes.
    """
    for name, value in outputs.items():
        if value.shape[:1] != (samples,):
            raise DataError(
                f"an early exit needs outputs with a row for each sample; '{name}' is "
                f"{list(value.shape)} for {samples}"
            )
    scored = class_output(outputs)
    if scored is None:
        raise DataError(
            "an early exit needs an output of scores [N, classes], of two classes or more, not "
            f"{types_of(outputs)}"
        )
    return scored


def logits(scores: np.ndarray, op: str | None) -> np.ndarray:
    """The logits that an op took these scores of, of the same shape: of probabilities, float64.

    Of a Softmax p, log p, which is finite, and has it as its softmax; of a Sigmoid, log p - log
    (1 - p), finite as well. Of any other op, the scores themselves.
    """
    if op not in ("Softmax", "Sigmoid"):
        return scores
    probabilities, limits = scores.astype(np.float64), np.finfo(scores.dtype)
    found = np.log(np.maximum(probabilities, limits.tiny))
    if op == "Sigmoid":
        # Less than the step below 1, so that the largest stays the largest.
        found -= np.log(np.maximum(1 - probabilities, limits.epsneg / 2))
    return np.asarray(found)
