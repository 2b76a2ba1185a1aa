"""What a run returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .plan import Neuron


@dataclass(frozen=True)
class ReadOut:
    """The network's outputs and activity after ``timesteps`` time-steps.

    ``values``: each output by name, with the ANN output's shape and dtype: the mean over
    time of the last linear layer, and what the ANN computes from it. Activity is worked out
    when it is first asked for, by ``sums``, which gives all sums over time by tensor.
    """

    timesteps: int
    values: dict[str, np.ndarray]
    neurons: tuple[Neuron, ...]
    sums: Callable[[], dict[str, np.ndarray]] = field(repr=False, compare=False)

    @cached_property
    def _sums(self) -> dict[str, np.ndarray]:
        return self.sums()

    @property
    def potential_sums(self) -> dict[str, np.ndarray]:
        """The postsynaptic potentials x = s V_th of each layer summed over time, [N, ...]."""
        return {neuron.name: self._sums[neuron.spikes] for neuron in self.neurons}

    @property
    def event_sums(self) -> dict[str, np.ndarray]:
        """The same of |x|, which differs where spikes are taken back."""
        return {neuron.name: self._sums[neuron.events] for neuron in self.neurons}

    @property
    def output(self) -> np.ndarray:
        """The first output."""
        return next(iter(self.values.values()))

    @cached_property
    def spike_counts(self) -> dict[str, np.ndarray]:
        """Spikes of each neuron by layer, of either sign: int64, [N, ...] in its shape."""
        return {
            neuron.name: np.rint(self.event_sums[neuron.name] / neuron.threshold).astype(np.int64)
            for neuron in self.neurons
        }

    @cached_property
    def firing_rates(self) -> dict[str, float]:
        """Spikes per neuron and time-step by layer, the mean over samples.

        In [0, 1], or up to ``max_spikes`` where neurons emit several in one time-step.
        """
        return {
            name: float(counts.mean()) / self.timesteps
            for name, counts in self.spike_counts.items()
        }

    @cached_property
    def firing_rate(self) -> float:
        """Spikes per neuron and time-step over all layers."""
        counts = self.spike_counts.values()
        return sum(int(c.sum()) for c in counts) / (sum(c.size for c in counts) * self.timesteps)


@dataclass(frozen=True)
class SpikingResult:
    """The read-outs of one run, by time-step; that at T is also at hand directly."""

    timesteps: int
    readouts: dict[int, ReadOut]

    @property
    def output(self) -> np.ndarray:
        """The first output at T: mean over T of the last linear layer, in the ANN's shape."""
        return self.readouts[self.timesteps].output

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Every output at T, by name."""
        return self.readouts[self.timesteps].values

    @property
    def outputs(self) -> dict[int, np.ndarray]:
        """The first output at each time-step that was asked for, T among them."""
        return {t: readout.output for t, readout in self.readouts.items()}

    @property
    def spike_counts(self) -> dict[str, np.ndarray]:
        """Spikes of each neuron in T time-steps, by layer: int64 [N, ...]."""
        return self.readouts[self.timesteps].spike_counts

    @property
    def firing_rates(self) -> dict[str, float]:
        """Spikes per neuron and time-step, by layer."""
        return self.readouts[self.timesteps].firing_rates

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and time-step, over all layers."""
        return self.readouts[self.timesteps].firing_rate
