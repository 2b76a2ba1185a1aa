"""What a network says after some time-steps: the averages over time, and what follows from them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .inputs import check_finite
from .plan import Plan
from .providers import run_session
from .result import Arrays


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

    def outputs(self, sums: Arrays, timesteps: int, latest: Mapping[str, np.ndarray]) -> Arrays:
        """Every output by name, from sums over ``timesteps`` time-steps.

        ``latest``: what the read-out takes of the last of them. The arrays in ``sums`` may be
        overwritten. Raises ``DataError`` where an output is not finite.
        """
        values = dict(zip(self._plan.averages, self._means(sums, timesteps), strict=True))
        # Copies, since what is an output as it was given is still the caller's.
        values |= {n: np.array(latest[n]) for n in self._plan.outputs if n in latest}
        if self._read_out is not None:
            made = [output.name for output in self._read_out.get_outputs()]
            # A mean over a clock's time-steps, [1], has an axis even where what it is of has none.
            ranks = {source.name: len(source.shape) for source in self._read_out.get_inputs()}
            feed = {
                name: value.reshape((1,) * (ranks[name] - value.ndim) + value.shape)
                for name, value in {**values, **latest}.items()
                if name in ranks
            }
            values |= zip(made, run_session(self._read_out, made, feed), strict=True)
        outputs = {name: values[name] for name in self._plan.outputs}
        for name, value in outputs.items():
            check_finite(value, f"the network's output '{name}'")
        return outputs

    def of_one(self, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the epilogue makes of what it reads, in one time-step."""
        types = self._plan.readout_types
        feed = {name: np.asarray(value, types[name]) for name, value in values.items()}
        return run_session(self._epilogue, None, feed)

    def _means(self, sums: Arrays, t: int) -> list[np.ndarray]:
        """The mean of the epilogue g over t steps: (g(S) + (t - 1) g(0)) / t.

        g is affine and S the sum of what it reads, so the numerator is the sum of its
        outputs; each enters once, and the one rounding is that of the division. float16
        cannot hold such sums, nor can integers: there it is g(S / t), the same to rounding.
        """
        types = self._plan.readout_types.values()
        of_means: list[np.ndarray] = []
        if any(dtype == np.float16 or dtype.kind != "f" for dtype in types):
            of_means = self.of_one({name: value / t for name, value in sums.items()})
        if np.dtype(np.float16) in types:
            return of_means
        with np.errstate(invalid="ignore"):
            # Of integers it is of_means that counts.
            totals = self.of_one(sums)
        shapes = tuple(value.shape for value in sums.values())
        if shapes not in self._silence:
            # Others of this size would take as much memory: they may be as large as the states.
            for value in sums.values():
                value.fill(0)
            silence = self.of_one(sums)
            self._silence = {shapes: [value.astype(np.float64) for value in silence]}
        means = [
            np.asarray((total.astype(np.float64) + (t - 1) * silent) / t, total.dtype)
            for total, silent in zip(totals, self._silence[shapes], strict=True)
        ]
        return [
            mean if mean.dtype.kind == "f" else whole
            for mean, whole in zip(means, of_means or means, strict=True)
        ]
