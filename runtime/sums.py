"""What a session adds up over time: carried by the step, or worked out from its states."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx

from .plans.plan import Plan, State
from .providers import give_back_memory, run_session
from .result import Arrays, Later
from .states import DeviceStates
from .totals import CONSERVING, Totals, steps_to_next

MOST_STEPS_CARRIED = 4096
"""Time-steps that a sum in float32 may hold. Sums of k equal terms are off by less than half a
term up to there, so that spike counts are exact; longer runs move them to float64 in between."""


class Sums:
    """The sums over time of a plan, by the name of what is summed.

    The step carries those that ``totals`` does not make: all, where it is None. These follow from
    the states when one of them is wanted. ``within_budget``: whether memory is to be given back.
    """

    def __init__(
        self,
        plan: Plan,
        totals: Totals | None,
        states: DeviceStates,
        create: Callable[[onnx.ModelProto], Any],
        within_budget: bool = False,
    ) -> None:
        self._plan, self._totals, self._states = plan, totals, states
        self._create, self._within_budget = create, within_budget
        self._carried = carried_sums(plan, totals)
        self._given = {tensor.name for tensor in plan.inputs}
        derived = () if totals is None else totals.made
        # Those that count what they emit need no v for it.
        self._conserving = [n for n in plan.neurons if n.op in CONSERVING and n.spikes in derived]
        self._most_carried = most_steps_carried(plan)
        self._followed = () if totals is None else _states_read_by(totals, plan.states)
        self._starts = {s.read: s.start for s in plan.states if s.read in self._followed}
        self._growth = 0.0 if totals is None else totals.growth
        self._most_at_start = self._room_from(self._starts)
        self._units = {name: n.threshold for n in plan.neurons for name in (n.spikes, n.positive)}
        self._session: Any = None
        self._silent: dict[tuple, Arrays] = {}
        self.reset()

    def reset(self) -> None:
        """Begin at zero."""
        # What was brought in: of neurons int32 multiples of V_th, of others float64.
        self._done: Arrays = {}
        self._steps = 0
        self._inputs: Arrays = {}
        self._last: tuple[Arrays, int] | None = None
        self._before, self._most = self._starts, self._most_at_start

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
        if self._steps == self._most:
            self.bring_in()
        return self._most - self._steps

    def count(self, steps: int, inputs: Arrays) -> None:
        """Note that time-steps have passed, in which the step read ``inputs``.

        Values that are not the network's own inputs must not be written to afterwards; of the
        caller's inputs a snapshot keeps copies.
        """
        self._steps += steps
        if self._last is not None and self._last[0] is inputs:
            self._last = inputs, self._last[1] + steps
        else:
            self._add_inputs()
            self._last = inputs, steps

    def carried(self, names: Iterable[str]) -> Arrays:
        """Sums that the step carries, up to now, by name.

        In the step's type, or float64 where some of them were brought in before.
        """
        now = {name: self._states.get(self._carried[name].read) for name in names}
        return self._with_done(now, {n: v for n, v in self._done.items() if n in now})

    def snapshot(self, rows: np.ndarray | None = None, count: int = 0) -> Callable[[], Arrays]:
        """A function for the sums of neurons up to now, which works them out when first called.

        Or for those of some of ``count`` samples alone.
        """
        every = self._all(rows, count)
        names = {name for n in self._plan.neurons for name in (n.spikes, n.positive)}
        # Else glibc keeps what is free again in pieces: with the results of two runs of eight
        # read-outs each 1.1 to 1.2 times a budget were taken, and 0.9 so.
        then = give_back_memory if self._within_budget else None
        return Later(
            lambda: {name: value for name, value in every().items() if name in names}, then
        )

    def _all(self, rows: np.ndarray | None = None, count: int = 0) -> Callable[[], Arrays]:
        """A function that works out all sums up to now."""
        if self._inputs:
            # Else the last varying input and the sum of those before would both be kept.
            self._add_inputs()
        moment, done = self._states.moment(self.kept), self._done
        read, before = self._read(), self._before

        def states() -> list[Arrays]:
            """What was read, summed over time, and the states before and at this moment."""
            return [_summed(read), before, moment()]

        if rows is not None:
            # Of the other samples nothing is kept.
            own = [rows_of(values, rows, count) for values in states()]
            states, done = (lambda: own), rows_of(done, rows, count)
        carried, totals, steps = self._carried, self._totals, self._steps

        def work_out() -> Arrays:
            read, before, now = states()
            sums = {name: now[state.read] for name, state in carried.items()}
            if totals is not None and steps:
                sums |= self._derived(totals, steps, read, sums, before, now)
            return self._with_done(sums, done)

        return work_out

    def _with_done(self, sums: Arrays, done: Arrays) -> Arrays:
        """Sums, float64 where parts of them were brought in before, whose places they take."""
        for name, before in done.items():
            unit = self._units.get(name)
            so_far = before if unit is None else before * unit
            sums[name] = np.asarray(so_far + sums[name]) if name in sums else so_far
        return sums

    def bring_in(self) -> None:
        """Take what has passed so far out of the states, which begin anew."""
        if self._steps == 0:
            return
        sums = self._all()()
        if self._carried:
            self._states.put({s.read: np.zeros_like(self._states.get(s.read))
                              for s in self._carried.values()})  # fmt: skip
        self._done = {}
        for name in list(sums):
            unit, total = self._units.get(name), sums.pop(name).astype(np.float64)
            # Whole multiples, so that what sums of V_th in float32 are off by does not add up.
            self._done[name] = total if unit is None else np.rint(total / unit).astype(np.int32)
        self._steps, self._inputs, self._last = 0, {}, None
        self.begin_here()

    def begin_here(self) -> None:
        """What passes from now on begins at the states as they are."""
        self._before = {name: self._states.get(name) for name in self._followed}
        self._most = self._room_from(self._before)

    def _room_from(self, before: Arrays) -> int:
        """How many time-steps may pass until sums are brought in, from these states on."""
        if self._totals is None:
            return self._most_carried
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
        if self._totals is None or self._last is None:
            return [(self._inputs, 1)]
        inputs, steps = self._last
        # The caller may write to what is an input of the network itself.
        given = {n: np.array(inputs[n]) for n in inputs.keys() & self._given}
        return [(self._inputs, 1), (inputs | given, steps)]

    def _add_inputs(self) -> None:
        self._inputs, self._last = _summed(self._read()), None

    def _derived(
        self,
        totals: Totals,
        steps: int,
        inputs: Arrays,
        carried: Arrays,
        before: Arrays,
        after: Arrays,
    ) -> Arrays:
        """The sums of ``totals`` over some time-steps, from those of what the step reads.

        ``carried``: the sums that the step made itself.
        """
        prefix = totals.prefix
        feed = carried | inputs | {f"{prefix}more": np.array(steps - 1, np.float32)}
        feed |= {f"{prefix}silent/{n}": v for n, v in self._silence(totals, inputs).items()}
        feed |= {f"{prefix}before/{name}": value for name, value in before.items()}
        feed |= {f"{prefix}after/{name}": value for name, value in after.items()}
        if self._session is None:
            self._session = self._create(totals.totals)
        made = run_session(self._session, list(totals.made), _read_by(self._session, feed))
        return dict(zip(totals.made, made, strict=True))

    def _silence(self, totals: Totals, inputs: Arrays) -> Arrays:
        """What currents are where nothing is emitted and the input is zero."""
        if not totals.silenced:
            return {}
        shapes = tuple(value.shape for value in inputs.values())
        found = self._silent.get(shapes)
        if found is None:
            session = self._create(totals.silent)
            zeros = {name: np.zeros_like(value) for name, value in inputs.items()}
            names = [f"{totals.prefix}silent/{name}" for name in totals.silenced]
            made = run_session(session, names, _read_by(session, zeros))
            found = dict(zip(totals.silenced, made, strict=True))
            # Others of this size would take as much memory again.
            self._silent = {shapes: found}
        return found


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
            total = value if steps == 1 else value * value.dtype.type(steps)
            # NumPy's sum of arrays without axes is no array.
            sums[name] = np.asarray(sums[name] + total if name in sums else total)
    return sums


def rows_of(values: Arrays, rows: np.ndarray, count: int) -> Arrays:
    """Some samples of arrays [N, ...], N being ``count``; others stay as they are."""
    return {n: v[rows] if v.ndim and len(v) == count else v for n, v in values.items()}


def carried_sums(plan: Plan, totals: Totals | None) -> dict[str, State]:
    """The sums that the step itself must carry."""
    derived = () if totals is None else totals.made
    return {name: state for name, state in plan.sums.items() if name not in derived}


def _states_read_by(totals: Totals, states: Iterable[State]) -> tuple[str, ...]:
    """The names of the states that sums follow from."""
    read = {info.name for info in totals.totals.graph.input}
    return tuple(s.read for s in states if f"{totals.prefix}before/{s.read}" in read)


def _read_by(session: Any, feed: Arrays) -> Arrays:
    names = {i.name for i in session.get_inputs()}
    return {name: value for name, value in feed.items() if name in names}
