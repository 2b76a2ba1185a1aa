"""What a network says after some time-steps: the averages over time, and what follows from them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx2snn.graph_passes.errors import DataError, NotFiniteError
from onnx2snn.graph_passes.graph.broadcasting import may_fit

from .inputs import check_finite
from .plans.plan import Plan
from .result import Arrays
from .sessions import outputs_of, run_session


@dataclass(frozen=True)
class Earlier:
    """Time-steps that averages count besides those that sums are of, and what they came to.

    ``epilogue_sums``: what the epilogue made in them, summed, by what takes the averages.
    """

    steps: int = 0
    epilogue_sums: Arrays = field(default_factory=dict)


def finite_outputs(plan: Plan, values: Arrays) -> Arrays:
    """Every output of a plan by name, of these values.

    Raises ``DataError`` where one is not finite.
    """
    outputs = {name: values[name] for name in plan.outputs}
    for name, value in outputs.items():
        check_finite(value, f"the network's output '{name}'", NotFiniteError)
    return outputs


class Averages:
    """The outputs of a plan, from sums over time of what its epilogue reads.

    create: makes a session of a graph.
    """

    def __init__(self, plan: Plan, create: Callable[..., Any]) -> None:
        self._plan = plan
        self._epilogue = create(plan.epilogue)
        self._read_out = None if plan.read_out is None else create(plan.read_out)
        self._silence: dict[tuple, list[np.ndarray]] = {}

    @property
    def providers(self) -> list[str]:
        """What ONNX Runtime runs it on."""
        found: list[str] = self._epilogue.get_providers()
        return found

    def outputs(
        self, sums: Arrays, timesteps: int, latest: Mapping[str, np.ndarray], earlier: Earlier
    ) -> Arrays:
        """Every output by name, from sums over ``timesteps`` time-steps, and those before.

        ``latest``: what the read-out takes of the last of them. The arrays in ``sums`` may be
        overwritten. Raises ``DataError`` where an output is not finite, and where what is summed
        now and what was before are not of the same shape.
        """
        values = self._means(sums, timesteps, earlier)
        # Copies, since what is an output as it was given is still the caller's.
        values |= {n: np.array(latest[n]) for n in self._plan.outputs if n in latest}
        if self._read_out is not None:
            values |= outputs_of(self._read_out, {**values, **latest})
        return finite_outputs(self._plan, values)

    def of_one(self, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the epilogue makes of what it reads, in one time-step."""
        types = self._plan.readout_types.items()
        feed = {name: np.asarray(values[name], dtype) for name, dtype in types}
        return run_session(self._epilogue, None, feed)

    def epilogue_sums(self, sums: Arrays, timesteps: int, earlier: Earlier) -> Arrays:
        """The sums over all these time-steps of what the epilogue computes, float64.

        By what takes the averages.
        """
        found = self._epilogue_sums_now(sums, timesteps)
        return {name: self._with(summed, name, earlier) for name, summed, _ in found}

    def _means(self, sums: Arrays, t: int, earlier: Earlier) -> Arrays:
        """The means over t steps and those before; the one rounding is that of the division."""
        means = {}
        for name, summed, dtype in self._epilogue_sums_now(sums, t):
            steps = t + earlier.steps if name in earlier.epilogue_sums else t
            mean = self._with(summed, name, earlier)
            mean /= steps
            means[name] = mean.astype(dtype)
        return means

    def _with(self, summed: np.ndarray, name: str, earlier: Earlier) -> np.ndarray:
        before = earlier.epilogue_sums.get(name)
        if before is None:
            return summed
        if before.ndim != summed.ndim or not may_fit(before.shape, summed.shape):
            raise DataError(
                f"the state of the average '{name}' has shape {list(before.shape)}, and what is "
                f"averaged now {list(summed.shape)}"
            )
        return np.asarray(summed + before)

    def _epilogue_sums_now(
        self, sums: Arrays, t: int
    ) -> Iterator[tuple[str, np.ndarray, np.dtype]]:
        """The sums of what the epilogue g computes over t steps: g(S) + (t - 1) g(0), in float64.

        One after the other, since they may be much larger than the states: what takes the average,
        the sum, an array of its own, and the type of the average. g is affine and S the sum of what
        it reads; each enters once. float16 cannot hold such sums, wherever g computes in it, nor
        can integers: there it is t g(S / t), the same to rounding.
        """
        names, types = self._plan.averages, self._plan.readout_types.values()
        of_means: list[np.ndarray] = []
        half = self._plan.sums_in_float16
        if half or any(dtype.kind != "f" for dtype in types):
            of_means = self.of_one({name: value / t for name, value in sums.items()})
        if half:
            for name, value in zip(names, of_means, strict=True):
                yield name, np.asarray(value.astype(np.float64) * t), value.dtype
            return
        with np.errstate(invalid="ignore"):
            # Of integers it is of_means that counts.
            made = self.of_one(sums)
        shapes = tuple(value.shape for value in sums.values())
        if shapes not in self._silence:
            # Others of this size would take as much memory: they may be as large as the states.
            for value in sums.values():
                value.fill(0)
            self._silence = {shapes: self.of_one(sums)}
        silence = self._silence[shapes]
        for name, summed, silent, mean in zip(names, made, silence, of_means or made, strict=True):
            if summed.dtype.kind != "f":
                yield name, np.asarray(mean.astype(np.float64) * t), mean.dtype
                continue
            total = silent.astype(np.float64)
            total *= t - 1
            total += summed
            yield name, total, summed.dtype
