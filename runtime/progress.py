"""How far a network has come in time, and how it goes on."""

from dataclasses import dataclass, field

import numpy as np

from onnx2snn.graph_passes.errors import DataError

from .choices.choice import Choice
from .plans.plan import Plan
from .plans.sizes import sizes_of
from .prologue import Prologue
from .read_out import Averages, Earlier
from .result import Arrays, ReadOut
from .sessions import give_back_memory
from .states import DeviceStates
from .sums import Sums, rows_of
from .time_steps import TimeSteps


@dataclass
class Progress:
    """A network after ``time`` time-steps, its states and sums.

    ``readouts``: how many are wanted of this run; ``varying``: whether its inputs are others at
    each time-step. ``begun``: when the averages of the read-out began, as after a delay;
    ``before``: sums of what is read out, as they were then. ``earlier``: what the averages count
    besides, from where the states were set. ``latest``: what the last time-step read that the
    read-out takes as it is.
    """

    plan: Plan
    prologue: Prologue
    time_steps: TimeSteps
    states: DeviceStates
    sums: Sums
    averages: Averages
    time: int = 0
    readouts: int = 1
    varying: bool = False
    begun: int = 0
    before: Arrays = field(default_factory=dict)
    earlier: Earlier = field(default_factory=Earlier)
    latest: Arrays = field(default_factory=dict)

    def reset(self, readouts: int = 1, varying: bool = False) -> None:
        """Go back to v(0)."""
        self.states.reset()
        self.sums.reset()
        self.time, self.readouts, self.varying = 0, readouts, varying
        self.begun, self.before, self.earlier = 0, {}, Earlier()
        self.latest = {}

    def choice(self, values: Arrays, readouts: int = 1, varying: bool = False) -> Choice:
        """How time-steps run that read these values."""
        return self.time_steps.choice(values, readouts, varying, self.prologue.memory)

    def can_go_on_with(self, values: Arrays) -> bool:
        """Whether the states can go on from here with these values."""
        if not self.states.were_put:
            return self.states.can_go_on_with(values)
        shapes = self.choice(values, self.readouts, self.varying).shapes
        names = {state: neuron for neuron in self.plan.neurons for state in neuron.states}
        # What is added to these has the shape that it has, which a state of a neuron has, too.
        ones = {state: (1,) * (1 + len(neuron.shape)) for state, neuron in names.items()}
        made = sizes_of(self.time_steps.step, {**ones, **shapes}).shapes
        of_neurons = {
            # Some follow from no input.
            state: tuple(size or "?" for size in made[neuron.current])
            for state, neuron in names.items()
            if neuron.current in made
        }
        return self.states.fit({**of_neurons, **shapes})

    def advance(
        self, values: Arrays, fetch: tuple[str, ...] = (), most: int = 1
    ) -> list[np.ndarray]:
        """Do up to ``most`` time-steps in one run; returns the tensors named in ``fetch``."""
        if 0 < self.plan.delay == self.time:
            self._begin_averages(Earlier())
        most = min(most, self.sums.make_room())
        choice = self.choice(values, self.readouts, self.varying)
        steps = choice.chunk(most)
        together = choice.groups.of(steps)
        # A budget counts on groups of samples, from the first run on.
        grouped = together < choice.samples and self.time_steps.costs.max_memory is not None
        shapes = choice.shapes if choice.shapes_known and (steps > 1 or grouped) else None
        # What runs next may be another graph, which needs the memory; the next run is as this one.
        following = choice.chunk(most - steps if most > steps else self.time + steps)
        shrink = following != steps and choice.memory.gives_back and self.time_steps.on_cpu
        session = self.time_steps.session(steps, choice)
        fetched = self.states.advance(session, fetch, shrink, together, shapes, steps > 1)
        if shrink:
            # glibc would keep what the graph gave back.
            give_back_memory()
        self.time += steps
        self.sums.count(steps, values, together)
        self.latest = {name: values[name] for name in self.plan.latest}
        return fetched

    def _begin_averages(self, earlier: Earlier) -> None:
        """Let averages be of what comes, and of what was earlier."""
        self.begun, self.earlier = self.time, earlier
        self.before = self.sums.carried()

    def advance_to(self, t: int, values: Arrays) -> None:
        """Go on to time-step t, in chunks as far as they fit."""
        while self.time < t:
            stop = self.plan.delay if self.time < self.plan.delay < t else t
            self.advance(values, most=stop - self.time)

    def keep(self, rows: np.ndarray, count: int) -> None:
        """Go on with some of ``count`` samples."""
        self.states.keep(rows, count)
        self.sums.keep(rows, count)
        self.before = rows_of(self.before, rows, count)
        self.latest = rows_of(self.latest, rows, count)
        self.earlier = Earlier(self.earlier.steps, rows_of(self.earlier.epilogue_sums, rows, count))

    def _require_finite(self) -> None:
        """Raise ``DataError`` where a potential in float16 is infinite, and fires for ever.

        Of an input that is always the same that is right.
        """
        for name in (s.read for s in self.plan.states if s.start.dtype == np.float16):
            if not np.all(np.isfinite(self.states.get(name))):
                raise DataError(
                    f"the state '{name}' is beyond what float16 holds after {self.time} "
                    "time-steps: export the network in float32, or give it smaller inputs"
                )

    def read_out(self) -> ReadOut:
        """What the network says and did in the time-steps so far."""
        return ReadOut(self.time, self.outputs(), self.plan.neurons, self.sums.snapshot())

    def outputs(self) -> Arrays:
        """The outputs by name after the time-steps so far, but those of a delay."""
        if self.varying:
            self._require_finite()
        return self.averages.outputs(*self._averaged(), self.latest, self.earlier)

    def _averaged(self) -> tuple[Arrays, int]:
        """The sums that averages are of, and over how many time-steps."""
        sums = self.sums.carried()
        if self.before:
            sums = {n: np.asarray(value - self.before[n]) for n, value in sums.items()}
        return sums, self.time - self.begun

    def state(self) -> Arrays:
        """All states by the names that they have in the file, as copies."""
        found = {state.read: self.states.get(state.read) for state in self.plan.states}
        clock = self.plan.clock
        if clock is not None and clock.read not in found:
            found[clock.read] = np.full_like(clock.start, self.time)
        epilogue_sums = self.earlier.epilogue_sums
        if self.plan.mean_states and self.time > self.begun:
            epilogue_sums = self.averages.epilogue_sums(*self._averaged(), self.earlier)
        for name, state in self.plan.mean_states.items():
            value = epilogue_sums.get(name, state.start)
            found[state.read] = np.array(value, state.start.dtype)
        return found

    def go_on_from(self, values: Arrays) -> None:
        """Set states, all or some, in their types, by the names that they have in the file."""
        of_averages = {state.read: name for name, state in self.plan.mean_states.items()}
        clock = self.plan.clock
        averages = clock is not None and values.keys() & {clock.read, *of_averages}
        now = self.state() | values if averages else {}
        # What neurons emitted does not follow from states that were set.
        self.sums.forget_derived()
        core = {state.read for state in self.plan.states}
        self.states.put({name: value for name, value in values.items() if name in core})
        if clock is None or not averages:
            return
        self.time = int(now[clock.read].flat[0])
        left_out = self.plan.delay if self.time > self.plan.delay else 0
        epilogue_sums = {n: now[read].astype(np.float64) for read, n in of_averages.items()}
        self._begin_averages(Earlier(self.time - left_out, epilogue_sums))
