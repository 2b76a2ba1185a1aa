"""One layer of neurons on one batch: what goes in, what it fires, and that measured and changed."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.neurons import (
    COUNTING,
    starts_of,
    states_read,
    states_written,
    threshold_of,
)
from onnx2snn.runtime.derived_sums import CONSERVING
from onnx2snn.runtime.inputs import largest_in
from onnx2snn.runtime.sessions import run_session

from .segments import Segment

if TYPE_CHECKING:
    from .simulation import Simulation

KEEP_WHAT_IS_LEFT = {*CONSERVING, *COUNTING}
"""The neurons of which v(T) = v(0) + sum of currents - sum of x, and so equation 6 holds."""

IN_CACHE = 2**17
"""Neurons that are simulated at a time."""


@dataclass
class Layer:
    """One layer of neurons on one batch.

    ``shift``: what is added to its current at every time-step; set it, or attributes of ``node``,
    and the layer fires accordingly. ``measure(tensors)`` gives the means over time of tensors
    between the layers before and this one; after a change of weights ``refresh()`` forgets the
    currents.
    """

    node: gs.Node
    timesteps: int
    segment: Segment
    simulation: "Simulation"
    shift: np.ndarray = field(default_factory=lambda: np.zeros(()))
    fired: np.ndarray | None = None
    _currents: np.ndarray | None = None
    _mean: np.ndarray | None = None
    _made: tuple[list[np.ndarray], Any] | None = None

    @property
    def currents(self) -> np.ndarray:
        """The input current at each time-step: [T, N, ...], or [1, N, ...] if it stays the same."""
        if self._currents is None:
            self._currents = self.simulation.currents(self.segment, self.node.inputs[0])
        return self._currents

    @property
    def _mean_current(self) -> np.ndarray:
        if self._mean is None:
            self._mean = self.currents.mean(axis=0)
        return self._mean

    def refresh(self) -> None:
        """Let the currents be computed anew, after the weights before the layer have changed."""
        self._currents = self._mean = None

    def fire(self) -> np.ndarray:
        """The number of spikes of each neuron at each time-step: int8 [T, N, ...].

        The layers that come after see those of the last call.
        """
        # Neurons with a delay also read a Clock, which only the path below feeds.
        plain = self.segment.varying and "delay" not in self.node.attrs
        if plain and self._currents is None:
            self.fired = self.simulation.fire(self)
            return self.fired
        spikes = np.empty((self.timesteps, *self.currents.shape[1:]), np.int8)
        for part in self._parts():
            for t, (x, *_) in enumerate(self._run(part, self.node.outputs[:1])):
                spikes[t, part] = self.to_spikes_in_place(x)
        self.fired = spikes
        return spikes

    def to_spikes_in_place(self, x: np.ndarray) -> np.ndarray:
        """Postsynaptic potentials as numbers of spikes, which take their place."""
        np.divide(x, threshold_of(self.node), out=x)
        np.rint(x, out=x)
        return x

    def mean_potential(self) -> np.ndarray:
        """The mean of x over the time-steps: [N, ...].

        What came in and did not stay as v went out, if a spike subtracts what it emits.
        """
        mean: np.ndarray = np.empty_like(self.currents[0])
        for part in self._parts():
            if self.node.op in KEEP_WHAT_IS_LEFT and self._keeps_thresholds(part):
                came_in = self._mean_current[part] + self.shift
                start, *_ = starts_of(self.node)
                left, *_ = deque(self._run(part, []), maxlen=1).pop()
                unit = threshold_of(self.node) / self.timesteps
                # Whole spikes: this takes away what the sums were rounded by.
                mean[part] = unit * np.rint((came_in + (start - left) / self.timesteps) / unit)
            else:
                potentials = (as_term(x) for x, *_ in self._run(part, self.node.outputs[:1]))
                mean[part] = sum(potentials) / self.timesteps
        return mean

    def _keeps_thresholds(self, part: slice) -> bool:
        """Whether the rounding of v stays below a quarter of a threshold.

        In float16 it is whole ones. In float32 it is at most T |v| / 2**24, and |v| at most T
        times the largest current.
        """
        if self.currents.dtype == np.float16:
            return False
        currents, threshold = self.currents[:, part], threshold_of(self.node)
        most = 2**22 / self.timesteps**2
        # Without the memory of quotients, which thresholds far apart alone need.
        if largest_in(currents) <= most * float(threshold.min()):
            return True
        with np.errstate(over="ignore"):
            return bool(np.abs(currents / threshold).max() <= most)

    def measure(self, tensors: list[gs.Tensor]) -> list[np.ndarray]:
        """Means over time of tensors of the segment, or of what it reads: [N, ...] each."""
        known = {} if self.segment.affine else {self.node.inputs[0].name: self._mean_current}
        return self.simulation.measure(self.segment, tensors, known)

    def _parts(self) -> list[slice]:
        """The samples, a few at a time, so that a neuron's arrays stay in the CPU's cache."""
        # Without what comes before the neurons there is less to do at once.
        return few_samples(len(self.currents[0]), self.currents[0, :1].size, IN_CACHE // 4)

    def _run(self, part: slice, wanted: list[gs.Tensor]) -> Iterator[list[np.ndarray]]:
        """Tensors that the neuron makes, and its states, after each time-step, of some samples.

        By the neuron's own function in ONNX Runtime.
        """
        session = self._session()
        names = [tensor.name for tensor in self.node.inputs]
        states = [tensor.name for tensor in states_read(self.node)]
        held = dict(zip(states, starts_of(self.node), strict=True))
        clocks = [name for name in names[1:] if name not in states]
        fetched = [tensor.name for tensor in (*wanted, *states_written(self.node))]
        shift = self.shift.astype(self.currents.dtype)
        current = np.empty_like(self.currents[0, part])
        for t in range(self.timesteps):
            np.add(self.currents[t if len(self.currents) > 1 else 0, part], shift, out=current)
            feed = {names[0]: current, **held}
            feed |= {name: np.full(1, t + 1, np.float32) for name in clocks}
            values = run_session(session, fetched, feed)
            held = dict(zip(states, values[len(wanted) :], strict=True))
            yield values

    def _session(self) -> Any:
        """The neuron as it is now.

        Another v(0) makes no other session: it is fed, but to neurons that start again at it.
        """
        attributes = [a.values for n, a in self.node.attrs.items() if n != "v_init"]
        known = self._made is not None and all(
            np.array_equal(a, b) for a, b in zip(self._made[0], attributes, strict=True)
        )
        if not known or "delay" in self.node.attrs:
            self._made = (attributes, self.simulation.session(self.node))
        assert self._made is not None
        return self._made[1]


def as_term(value: np.ndarray) -> np.ndarray:
    """A value as a sum over time adds it: float16 cannot hold one."""
    return value.astype(np.float32) if value.dtype == np.float16 else value


def few_samples(samples: int, size: int, most: int) -> list[slice]:
    """Parts of a batch of so many samples, each of ``size`` numbers, of ``most`` in a part."""
    few = max(1, most // max(1, size))
    return [slice(start, start + few) for start in range(0, samples, few)]


def rates(spikes: np.ndarray) -> np.ndarray:
    """The mean number of spikes a time-step: float32 [N, ...], of int8 [T, N, ...]."""
    # Sums in int16, where they fit, take a third of the time of others.
    fit = len(spikes) * np.iinfo(np.int8).max <= np.iinfo(np.int16).max
    counts = spikes.sum(axis=0, dtype=np.int16 if fit else np.int32)
    found: np.ndarray = np.divide(counts, len(spikes), dtype=np.float32)
    return found
