"""What a session adds up over time: carried by the step, or worked out from its states."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from .derived_sums import CONSERVING, DerivedSums, steps_to_next
from .plans.plan import Plan, State
from .result import Arrays, Later
from .sessions import give_back_memory, read_by, run_session
from .states import DeviceStates, even_groups

MOST_STEPS_CARRIED = 4096
"""Time-steps that a sum in float32 may hold. Sums of k equal terms are off by less than half a
term up to there, so that spike counts are exact; longer runs bring them in, in between."""


@dataclass(frozen=True)
class _Stretch:
    """The time-steps since sums were brought in: what they ``read``, and in how many of them.

    ``derived``: the sums that follow; ``before``: the states that they began with; ``done``: what
    was brought in; ``together``: how many samples were in one run, at most.
    """

    derived: DerivedSums | None
    read: list[tuple[Arrays, int]]
    steps: int
    before: Arrays
    done: Arrays
    together: int

    def of(self, rows: np.ndarray, count: int) -> "_Stretch":
        """The same of some of ``count`` samples."""
        read = [(rows_of(values, rows, count), steps) for values, steps in self.read]
        before, done = (rows_of(values, rows, count) for values in (self.before, self.done))
        return replace(self, read=read, before=before, done=done)


class Sums:
    """The sums over time of a plan, by the name of what is summed.

    The step carries those that ``derived`` does not make: all, where it is None. These follow from
    the states when one of them is wanted. ``within_budget``: whether memory is to be given back.
    """

    def __init__(
        self,
        plan: Plan,
        derived: DerivedSums | None,
        states: DeviceStates,
        create: Callable[[onnx.ModelProto], Any],
        within_budget: bool,
    ) -> None:
        self._plan, self._derived, self._states = plan, derived, states
        self._create, self._within_budget = create, within_budget
        self._carried = carried_sums(plan, derived)
        self._given = {tensor.name for tensor in plan.inputs}
        made = () if derived is None else derived.made
        # Those that count what they emit need no v for it.
        self._conserving = [n for n in plan.neurons if n.op in CONSERVING and n.spikes in made]
        self._most_carried = most_steps_carried(plan)
        self._followed = () if derived is None else _states_read_by(derived, plan.states)
        self._starts = {s.read: s.start for s in plan.states if s.read in self._followed}
        self._growth = 0.0 if derived is None else derived.growth
        self._most_at_start = self._room_from(self._starts)
        self._units = {name: n.threshold for n in plan.neurons for name in (n.spikes, n.positive)}
        self._session: Any = None
        self._silent: dict[tuple, Arrays] = {}
        self.reset()

    def reset(self) -> None:
        """Begin at zero."""
        self._deriving = self._derived
        # What was brought in: of what neurons emit int32, in thresholds; of others float64.
        self._done: Arrays = {}
        self._steps, self._together = 0, 1
        self._inputs: Arrays = {}
        self._last: tuple[Arrays, int] | None = None
        self._before, self._most = self._starts, self._most_at_start

    def forget_derived(self) -> None:
        """Until ``reset`` only the sums that the step carries are wanted."""
        self._deriving = None

    def expect(self, growth: float) -> None:
        """Look sooner from now on, if potentials may grow by more thresholds in a time-step."""
        if growth > self._growth:
            self._growth = growth
            self._most_at_start = self._room_from(self._starts)
            self._most = max(self._steps, min(self._most, self._room_from(self._before)))

    @property
    def kept(self) -> frozenset[str]:
        """The states of which a snapshot keeps a copy."""
        return frozenset({*self._followed, *(state.read for state in self._carried.values())})

    def make_room(self) -> int:
        """How many time-steps may pass before sums are brought in, as is done where none may."""
        most = self._most_carried if self._deriving is None else self._most
        if self._steps == most:
            self._bring_in()
        return most - self._steps

    def count(self, steps: int, inputs: Arrays, together: int) -> None:
        """Note that time-steps have passed, in which the step read ``inputs``.

        ``together``: how many samples were in one run, at most.
        Values that are not the network's own inputs must not be written to afterwards; of the
        caller's inputs a snapshot keeps copies.
        """
        self._steps += steps
        self._together = together
        if self._last is not None and self._last[0] is inputs:
            self._last = inputs, self._last[1] + steps
        else:
            self._add_inputs()
            self._last = inputs, steps

    def carried(self) -> Arrays:
        """Sums of what the epilogue reads, which the step carries, up to now, by name.

        In the step's type, or float64 where some of them were brought in before.
        """
        wanted = self._plan.readout_types
        now = {name: self._states.get(self._carried[name].read) for name in wanted}
        for name in now.keys() & self._done.keys():
            now[name] = np.asarray(self._done[name] * self._units.get(name, 1.0) + now[name])
        return now

    def snapshot(self, rows: np.ndarray | None = None, count: int = 0) -> Callable[[], Arrays]:
        """A function for what neurons emitted so far, which works it out when first called.

        Or for that of some of ``count`` samples alone. In thresholds: int32.
        """
        stretch, after = self._stretch(), self._states.moment(self.kept)
        if rows is not None:
            # Of the other samples nothing is kept.
            stretch, own = stretch.of(rows, count), rows_of(after(), rows, count)
            after = Later(lambda: own)
        # Else glibc keeps what is free again in pieces, beyond the budget (docs/measurements.md).
        then = give_back_memory if self._within_budget else None

        def emitted() -> Arrays:
            return {n: v for n, v in self._sums(stretch, after()).items() if n in self._units}

        return Later(emitted, then)

    def _stretch(self) -> _Stretch:
        if self._inputs:
            # Else the last varying input and the sum of those before would both be kept.
            self._add_inputs()
        read, steps = self._read(), self._steps
        return _Stretch(self._deriving, read, steps, self._before, self._done, self._together)

    def _sums(self, stretch: _Stretch, after: Arrays) -> Arrays:
        """All sums up to a moment, as they are brought in."""
        carried = {name: after[state.read] for name, state in self._carried.items()}
        sums = {name: self._counted(name, value) for name, value in carried.items()}
        if stretch.derived is not None:
            sums |= self._worked_out(stretch.derived, stretch, carried, after)
        for name in sums.keys() & stretch.done.keys():
            sums[name] = np.asarray(stretch.done[name] + sums[name])
        return stretch.done | sums

    def _counted(self, name: str, summed: np.ndarray) -> np.ndarray:
        """A sum of what neurons emit as int32, in thresholds; any other in float64.

        Rounded to whole numbers, so that what sums of V_th in float32 are off by does not add up.
        """
        unit = self._units.get(name)
        if unit is None:
            return summed.astype(np.float64)
        return np.asarray(np.rint(summed / unit), np.int32)

    def _bring_in(self) -> None:
        """Take what has passed so far out of the states, which begin anew."""
        after = {name: self._states.get(name) for name in self.kept}
        done = self._sums(self._stretch(), after)
        zeros = {s.read: np.zeros_like(after[s.read]) for s in self._carried.values()}
        if zeros:
            # Where there is no memory for them, nothing is brought in.
            self._states.put(zeros)
        self._done = done
        self._steps, self._inputs, self._last = 0, {}, None
        self._before = {name: after[name] for name in self._followed}
        self._most = self._room_from(self._before)

    def _room_from(self, before: Arrays) -> int:
        """How many time-steps may pass until sums are brought in, from these states on."""
        far = [_in_thresholds(before[f"v/{n.name}"], n.threshold) for n in self._conserving]
        room = steps_to_next(max(far, default=0.0), self._growth)
        return min(self._most_carried, room)

    def keep(self, rows: np.ndarray, count: int) -> None:
        """Go on with some of ``count`` samples."""
        self._add_inputs()
        self._done = rows_of(self._done, rows, count)
        self._inputs = rows_of(self._inputs, rows, count)
        self._before = rows_of(self._before, rows, count)

    def _read(self) -> list[tuple[Arrays, int]]:
        """What time-steps have read for what follows from it, and how many of them."""
        if self._deriving is None or self._last is None:
            return [(self._inputs, 1)]
        inputs, steps = self._last
        # The caller may write to what is an input of the network itself.
        given = {n: np.array(inputs[n]) for n in inputs.keys() & self._given}
        return [(self._inputs, 1), (inputs | given, steps)]

    def _add_inputs(self) -> None:
        self._inputs, self._last = _summed(self._read()), None

    def _worked_out(
        self, derived: DerivedSums, stretch: _Stretch, carried: Arrays, after: Arrays
    ) -> Arrays:
        """What neurons emitted in some time-steps, by the sums of ``derived``, in thresholds.

        ``carried``: the sums that the step made itself. As many samples at a time as ran together.
        """
        prefix, read = derived.prefix, _summed(stretch.read)
        feed = carried | read | {f"{prefix}more": np.array(stretch.steps - 1, np.float32)}
        feed |= {f"{prefix}before/{name}": value for name, value in stretch.before.items()}
        feed |= {f"{prefix}after/{name}": value for name, value in after.items()}
        samples, groups = _groups(after, stretch.together)
        # Of samples that ran apart f(0) of one is that of all.
        silent = self._silence(derived, rows_of(read, slice(1), samples) if samples else read)
        feed |= {f"{prefix}silent/{name}": value for name, value in silent.items()}
        if self._session is None:
            self._session = self._create(derived.sums)
        feed, parts = read_by(self._session, feed), []
        for rows in groups:
            made = run_session(self._session, list(derived.made), rows_of(feed, rows, samples))
            found = zip(derived.made, made, strict=True)
            parts.append({name: self._counted(name, value) for name, value in found})
        if not samples:
            return parts[0]
        return {name: np.concatenate([part.pop(name) for part in parts]) for name in derived.made}

    def _silence(self, derived: DerivedSums, inputs: Arrays) -> Arrays:
        """What currents are where nothing is emitted and the input is zero."""
        if not derived.silenced:
            return {}
        shapes = tuple(value.shape for value in inputs.values())
        found = self._silent.get(shapes)
        if found is None:
            session = self._create(derived.silent)
            zeros = {name: np.zeros_like(value) for name, value in inputs.items()}
            names = [f"{derived.prefix}silent/{name}" for name in derived.silenced]
            made = run_session(session, names, read_by(session, zeros))
            found = dict(zip(derived.silenced, made, strict=True))
            # Others of this size would take as much memory again.
            self._silent = {shapes: found}
        return found


def _groups(states: Arrays, together: int) -> tuple[int, list[slice]]:
    """How many samples there are, and those of each group that ran; 0, and all, of one group.

    Only where samples are computed apart do fewer than all run together.
    """
    counts = {len(value) if value.ndim else 0 for value in states.values()}
    samples = max(counts, default=0)
    if len(counts) != 1 or samples <= together:
        return 0, [slice(None)]
    return samples, [slice(*rows) for rows in even_groups(samples, together)]


def _in_thresholds(v: np.ndarray, threshold: np.ndarray) -> float:
    """The largest of membrane potentials, either sign, in their thresholds."""
    # Without the memory that v / V_th takes: only along axes that thresholds have, too.
    missing = max(v.ndim - threshold.ndim, 0)
    sizes = [1] * missing + list(threshold.shape)
    alike = tuple(axis for axis in range(v.ndim) if sizes[axis] == 1)
    ends = (v.max(axis=alike, keepdims=True), -v.min(axis=alike, keepdims=True))
    return max(float((end / threshold).max(initial=0)) for end in ends)


def most_steps_carried(plan: Plan) -> int:
    """How many time-steps sums in float32 may hold, of which each may bring several V_th."""
    most = max((neuron.max_spikes for neuron in plan.neurons), default=1)
    return max(1, MOST_STEPS_CARRIED // most)


def _summed(read: list[tuple[Arrays, int]]) -> Arrays:
    """The sums over time of what so many time-steps have read."""
    sums: Arrays = {}
    for values, steps in read:
        for name, value in values.items():
            if value.dtype.kind != "f":
                # Masks and indices have no sum: that is of their shapes.
                sums[name] = value
                continue
            added = value if steps == 1 else value * value.dtype.type(steps)
            # NumPy's sum of arrays without axes is no array.
            sums[name] = np.asarray(sums[name] + added if name in sums else added)
    return sums


def rows_of(values: Arrays, rows: np.ndarray | slice, count: int) -> Arrays:
    """Some samples of arrays [N, ...], N being ``count``; others stay as they are."""
    return {n: v[rows] if v.ndim and len(v) == count else v for n, v in values.items()}


def carried_sums(plan: Plan, derived: DerivedSums | None) -> dict[str, State]:
    """The sums that the step itself must carry."""
    made = () if derived is None else derived.made
    return {name: state for name, state in plan.sums.items() if name not in made}


def _states_read_by(derived: DerivedSums, states: Iterable[State]) -> tuple[str, ...]:
    """The names of the states that sums follow from."""
    read = {info.name for info in derived.sums.graph.input}
    return tuple(s.read for s in states if f"{derived.prefix}before/{s.read}" in read)
