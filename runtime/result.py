"""What a run returns."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from onnx2snn.graph_passes.errors import DataError

from .failures import OUT_OF_MEMORY
from .one_at_a_time import refuse_nested
from .plans.plan import NeuronLayer

Arrays = dict[str, np.ndarray]


class Later:
    """Arrays that are worked out when someone first asks, from what is kept until then.

    So they are when it is pickled or copied. ``then`` is called once they are, and what they were
    worked out from is let go of. ``DataError`` where there is not enough memory.
    """

    def __init__(
        self, work_out: Callable[[], Arrays], then: Callable[[], None] | None = None
    ) -> None:
        self._work_out: Callable[[], Arrays] | None = work_out
        self._then = then
        self._found: Arrays = {}
        # Results may be read in another thread than the one that runs.
        self._turn = threading.RLock()

    def __call__(self) -> Arrays:
        """The arrays."""
        refuse_nested(self._turn, "these arrays are being worked out")
        with self._turn:
            if self._work_out is not None:
                try:
                    self._found = self._work_out()
                except MemoryError as error:
                    raise DataError(OUT_OF_MEMORY) from error
                # With it go states, and the session that they are of.
                self._work_out = None
                if self._then is not None:
                    self._then()
            return self._found

    def __reduce__(self) -> tuple[Any, ...]:
        return Later, (dict,), {"_work_out": None, "_found": self()}


@dataclass(frozen=True, eq=False)
class ReadOut:
    """The network's outputs and activity after ``timesteps`` time-steps.

    ``values``: each output by name, with the ANN output's shape and dtype: the mean over
    time of the last linear layer, and what the ANN computes from it, by masks and indices, which
    have no mean, as they are at the last time-step. Activity is worked out when it is first asked
    for, by ``sums``, which gives what neurons emitted over time, by tensor: int32, in thresholds.
    ``sample_timesteps``: int64 [N], how many time-steps each sample ran, where they left early.
    """

    timesteps: int
    values: Arrays
    neurons: tuple[NeuronLayer, ...]
    sums: Callable[[], Arrays] = field(repr=False)
    sample_timesteps: np.ndarray | None = None

    @property
    def potential_sums(self) -> Arrays:
        """The postsynaptic potentials x = s V_th of each layer, summed over time: float64 [N, ...].

        Worked out anew each time that it is asked for.
        """
        sums = self.sums()
        return {n.name: np.asarray(sums[n.spikes] * n.threshold) for n in self.neurons}

    @property
    def output(self) -> np.ndarray:
        """The first output."""
        return next(iter(self.values.values()))

    @cached_property
    def spike_counts(self) -> Arrays:
        """Spikes of each neuron by layer, of either sign: int64, [N, ...] in its shape."""
        sums, found = self.sums(), {}
        for neuron in self.neurons:
            counts = sums[neuron.spikes].astype(np.int64)
            if neuron.positive != neuron.spikes:
                # Of p spikes and n that take one back, p + n are 2 p - (p - n).
                counts = 2 * sums[neuron.positive].astype(np.int64) - counts
            found[neuron.name] = counts
        return found

    @cached_property
    def firing_rates(self) -> dict[str, float]:
        """Spikes per neuron and time-step by layer, over all time-steps of all samples.

        After an early exit a sample counts for as many as it ran. In [0, 1], or up to
        ``max_spikes`` where neurons emit several in one time-step.
        """
        return {name: float(spikes) / steps for name, (spikes, steps) in self._activity.items()}

    @cached_property
    def firing_rate(self) -> float:
        """Spikes per neuron and time-step over all layers."""
        layers = self._activity.values()
        return sum(spikes for spikes, _ in layers) / sum(steps for _, steps in layers)

    @cached_property
    def _activity(self) -> dict[str, tuple[int, int]]:
        """By layer, its spikes, and in how many time-steps of neurons."""
        sums, found = self.sums(), {}
        for neuron in self.neurons:
            # Not of spike_counts, which take twice the memory.
            net, positive = (sums[name] for name in (neuron.spikes, neuron.positive))
            steps = net.size * self.timesteps
            if self.sample_timesteps is not None:
                ran = self.sample_timesteps
                steps = net.size // len(ran) * int(ran.sum())
            spikes = 2 * positive.sum(dtype=np.int64) - net.sum(dtype=np.int64)
            found[neuron.name] = int(spikes), steps
        return found


@dataclass(frozen=True)
class Exit:
    """Samples that left a run after ``timesteps``.

    ``samples``: which of the run's.
    """

    timesteps: int
    samples: np.ndarray
    values: Arrays
    sums: Callable[[], Arrays]


def read_out_of(exits: list[Exit], timesteps: int, neurons: tuple[NeuronLayer, ...]) -> ReadOut:
    """The read-out of a run that samples left at different times."""
    order = np.argsort(np.concatenate([each.samples for each in exits]))
    ran = np.concatenate([np.full(len(e.samples), e.timesteps, np.int64) for e in exits])[order]
    if len(order) == 1:
        # A layer may have several rows for one sample: there is nothing to put together.
        return ReadOut(timesteps, exits[0].values, neurons, exits[0].sums, ran)

    def joined(parts: list[Arrays]) -> Arrays:
        return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}

    def sums() -> Arrays:
        return joined([{n: of_each(v, each) for n, v in each.sums().items()} for each in exits])

    def of_each(summed: np.ndarray, left: Exit) -> np.ndarray:
        # A layer that depends on an input of one row has one for all samples.
        return np.broadcast_to(summed, (len(left.samples), *summed.shape[1:]))

    return ReadOut(timesteps, joined([each.values for each in exits]), neurons, Later(sums), ran)


@dataclass(frozen=True, eq=False)
class SpikingResult:
    """The read-outs of a run of N ``samples``, by time-step; that at T is also at hand directly."""

    timesteps: int
    readouts: dict[int, ReadOut]
    samples: int

    @property
    def output(self) -> np.ndarray:
        """The first output at T: mean over T of the last linear layer, in the ANN's shape."""
        return self.readouts[self.timesteps].output

    @property
    def values(self) -> Arrays:
        """Every output at T, by name."""
        return self.readouts[self.timesteps].values

    @property
    def outputs(self) -> dict[int, np.ndarray]:
        """The first output at each time-step that was asked for, T among them."""
        return {t: readout.output for t, readout in self.readouts.items()}

    @property
    def spike_counts(self) -> Arrays:
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

    @property
    def sample_timesteps(self) -> np.ndarray:
        """How many time-steps each sample ran: int64 [N]; T, but where it left early."""
        ran = self.readouts[self.timesteps].sample_timesteps
        return np.full(self.samples, self.timesteps, np.int64) if ran is None else ran


def class_output(outputs: Mapping[str, np.ndarray]) -> str | None:
    """The name of the first output [N, classes], or [N, classes, 1, ...]; None without.

    Of floating-point numbers or, where no output is of such, of whole ones, as a quantised
    network's scores are; not of 64 bits, which are places or labels.
    """
    arrays = {name: value for name, value in outputs.items() if isinstance(value, np.ndarray)}
    floats = {name: value for name, value in arrays.items() if value.dtype.kind == "f"}
    return next((name for name, value in (floats or arrays).items() if _has_classes(value)), None)


def types_of(outputs: Mapping[str, np.ndarray]) -> str:
    """Outputs as messages show them: "float32[8, 3, 4], int64[8]"."""
    return ", ".join(
        f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else "a sequence"
        for value in outputs.values()
    )


def _has_classes(values: np.ndarray) -> bool:
    scores = values.dtype.kind == "f" or (values.dtype.kind in "iu" and values.itemsize < 8)
    return scores and values.ndim > 1 and values[0].size == values.shape[1] > 1
