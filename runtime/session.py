"""``SpikingSession``: a spiking network, run over time."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from threading import RLock
from typing import Literal, NoReturn

import numpy as np

from onnx2snn.graph_passes.errors import (
    DataError,
    is_number,
    optional_whole,
    require_one_of,
    require_whole,
)
from onnx2snn.graph_passes.model_files.files import Model, read_any

from .beginning import Beginning
from .choices.choice import Choice
from .coding import Coding, check_coding, encode
from .derived_sums import derived_sums_of
from .early_exit import EarlyExit, require_may_leave, run_until_settled
from .given import checked_inputs, samples_of, taken_states
from .inputs import largest_of, power_above, readout_times
from .layers.dense import with_rows_of_weights
from .layers.half import halve
from .layers.int8 import quantise
from .one_at_a_time import in_turn, one_at_a_time
from .plans.plan import NeuronLayer, build_plan
from .precision import LayerPrecision, PlanInPrecision, Precision
from .providers import Providers, resolve_providers, rounds_products
from .read_out import finite_outputs
from .result import Arrays, ReadOut, SpikingResult
from .sessions import MOST_THREADS

_IN_FEWER_BITS = {"int8": quantise, "float16": halve}

PlanKind = Literal["auto", "step"]
"""How time-steps are run: in the fastest way, or one at a time, all sums carried along."""


class SpikingSession:
    """A spiking network that ``onnx2snn convert`` made, ready to run over time.

        session = SpikingSession("snn.onnx")
        result = session.run(images, timesteps=32, readout=[8, 16])
        result.output.argmax(1), result.outputs[8], result.firing_rates

    model: an SNN file's path, its ``onnx.ModelProto``, or ``parts`` of a conversion, whose weights
    are shared.
    providers: None or "cpu"; "cuda", which fails if CUDA is absent; "auto"; or a list of
    ONNX Runtime's provider names. ``session.providers`` says what is used.
    threads: threads within an operator; None for one for each core that the process may use.
    plan: "auto" runs several time-steps at once where the input is constant, and works spike
    counts out from membrane potentials where it can; "step" does neither. The spikes are the
    same, but where rounding of real weights decides whether one is fired.
    max_memory: bytes that the session may take; chunks of time-steps get shorter to stay within,
    and ``run`` raises ``DataError`` where not even one time-step does. It is an estimate, of a
    CPU's memory: ``chosen`` gives it. With None one sample of a network whose weights are mostly of
    dense layers runs in at most 1.5 times weights and states, if it can, which may be slower than
    in more; otherwise a chunk may take 256 MiB more than a time-step.
    precision: "int8" rounds the weights of layers that read spikes to 8 bits, a scale for each
    output, and computes their sums in whole numbers, exactly, where that is faster; CPU only.
    "float16" computes layers in 16 bits, and potentials in float32; GPUs only.
    ``session.precisions`` says what became of each layer; it is empty for "float32".

    Threads may share a session: its methods wait for each other. Within one of them, as in a signal
    handler that interrupts it, its own thread gets ``RuntimeError`` of another. Where one ends by
    anything but an error of this package, as by Ctrl-C, the session is at v(0) again. A process
    that was forked while a session ran makes one of its own: that one would wait for ever.

    Raises ``ModelError`` for a file that is no SNN, or no float32 network for another precision,
    ``ProviderError`` for a device that is not there, or is not for that precision, and
    ``DataError`` for an invalid plan, precision, number of threads or memory.
    """

    def __init__(
        self,
        model: Model,
        providers: Providers = None,
        threads: int | None = None,
        plan: PlanKind = "auto",
        max_memory: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        require_one_of("plan", plan, PlanKind)
        require_one_of("precision", precision, Precision)
        self._turn = RLock()
        if max_memory is not None and not (is_number(max_memory) and max_memory >= 1):
            raise DataError(f"max_memory is a number of bytes, not {max_memory!r}")
        max_memory = None if max_memory is None else int(max_memory)
        threads = optional_whole("threads", threads, 1, MOST_THREADS)
        made, chosen = build_plan(read_any(model)), resolve_providers(providers)
        if max_memory is None:
            # Which has both for a while.
            made = with_rows_of_weights(made)
        way = _IN_FEWER_BITS.get(precision)
        network = PlanInPrecision(made) if way is None else way(made, chosen)
        self._plan = made = network.plan
        self.precisions: tuple[LayerPrecision, ...] = network.precisions
        beginning = Beginning(network, chosen, threads, plan == "auto", max_memory)
        self.providers: list[str] = beginning.averages.providers
        # Currents in fewer bits are not what potentials say that they add up to.
        follows = plan == "auto" and precision != "float16" and not rounds_products(chosen)
        derived = derived_sums_of(made) if follows else None
        self._begin, self._derived = beginning.progress, derived
        self._largest = dict[str, float]()
        self._progress = self._begin(derived)

    @property
    def neurons(self) -> tuple[NeuronLayer, ...]:
        """The layers of neurons, in graph order."""
        return self._plan.neurons

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """Shape of each input by name, the batch axis first; sizes not fixed are names."""
        return {tensor.name: tuple(tensor.shape) for tensor in self._plan.inputs}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return self._plan.outputs

    @property
    def input_shape(self) -> tuple[int | str, ...]:
        """Shape of the first input."""
        return tuple(self._plan.inputs[0].shape)

    def __reduce__(self) -> NoReturn:
        """Raise ``TypeError``: what ONNX Runtime holds stays in its process."""
        raise TypeError(
            "a SpikingSession cannot be pickled or copied: open its file anew where another is "
            "needed, as in another process, with SpikingSession(path)"
        )

    @one_at_a_time
    def run(
        self,
        x: np.ndarray | Mapping[str, np.ndarray],
        timesteps: int,
        readout: Sequence[int] | None = None,
        *,
        coding: Coding = "constant",
        seed: int = 0,
        early_exit: EarlyExit | None = None,
    ) -> SpikingResult:
        """Run ``timesteps`` time-steps from v(0); the session's state is then v(T).

        With ``early_exit`` it is that of the samples that left last, in their order in x, as they
        left.

        x: the input, [N, ...] in the network's input shape, the same at every time-step;
        or [T, N, ...], one for each. N may change from run to run. A network with several
        inputs takes them by name.
        readout: further time-steps, each from 1 to T, at which to read the output.
        coding: "constant", or "poisson" for random spikes with probability x, drawn from
        ``seed``.
        early_exit: samples leave the batch where this rule says that their read-out, the first
        output [N, classes], is settled; ``sample_timesteps`` of the result says after how many
        time-steps. For those that stay nothing changes. Without ``readout``, for a constant input.

        Nothing of an earlier run or ``step`` remains. Memory has a bound, whatever T. Raises
        ``DataError`` for an x of a wrong shape or type, with NaN or infinity, or empty, or of which
        the network makes NaN before any neuron, as a square root does; for time-steps that are not
        positive integers; where an output is not finite; and where there is not enough memory.
        Floating-point types are cast to the network's; whole numbers and booleans are of a wrong
        type where it takes floating-point ones.
        """
        wanted = readout_times(timesteps, readout)
        timesteps = max(wanted)
        check_coding(coding, seed)
        inputs, varying = checked_inputs(self._plan, x, timesteps)
        constant = coding == "constant" and not varying
        if early_exit is not None:
            require_may_leave(early_exit, self._plan, constant, readout)
        samples = samples_of(self._plan, inputs, varying)
        if not constant:
            found = None
            while found is None:
                over_time = encode(inputs, timesteps, coding, varying, seed)
                found = self._run_over_time(over_time, wanted)
            return SpikingResult(timesteps, found, samples)
        values = self._progress.prologue.step_inputs(inputs)
        self._count_with(values)
        progress = self._progress
        progress.reset(len(wanted))
        progress.states.set_inputs(values)
        if early_exit is not None:
            left = run_until_settled(early_exit, progress, values, samples, timesteps)
            return SpikingResult(timesteps, {timesteps: left}, samples)
        readouts = {}
        for t in sorted(wanted):
            progress.advance_to(t, values)
            readouts[t] = progress.read_out()
        return SpikingResult(timesteps, readouts, samples)

    def _run_over_time(
        self, inputs: Iterable[Arrays], wanted: Collection[int]
    ) -> dict[int, ReadOut] | None:
        """Read-outs of a run whose input is another at each time-step.

        None where it must begin anew, since the step now counts more than it did at first.
        """
        progress, readouts = self._progress, {}
        progress.reset(len(wanted), varying=True)
        for t, now in enumerate(inputs, start=1):
            values = progress.prologue.step_inputs(now)
            if self._count_with(values):
                return None
            progress.states.set_inputs(values)
            progress.advance(values)
            if t in wanted:
                readouts[t] = progress.read_out()
        return readouts

    @in_turn
    def chosen(self, x: np.ndarray | Mapping[str, np.ndarray], *, readouts: int = 1) -> Choice:
        """What ``run`` would do for an input x, [N, ...], the same at every time-step.

        Only the shape of x matters, and what earlier runs were given: a session that has met large
        inputs counts more in each time-step. readouts: at how many time-steps the output is read;
        each keeps a copy of states. Raises ``DataError`` like ``run``.
        """
        readouts = require_whole("readouts", readouts, 1)
        inputs, varying = checked_inputs(self._plan, x, None)
        if varying:
            raise DataError("chosen() takes the input of one time-step, [N, ...]")
        return self._progress.choice(self._progress.prologue.step_inputs(inputs), readouts)

    @one_at_a_time
    def step(
        self, x_t: np.ndarray | Mapping[str, np.ndarray]
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Run one time-step from the current state, on the input x_t [N, ...].

        Returns the output of this time-step alone, as the file's own output would be, in the
        shape of the ANN's: the read-out of T steps is the mean of T such outputs. An output
        that is not affine in the spikes, such as a Softmax, or that begins after a delay, is
        that of all time-steps since ``reset()``. A network with several outputs returns them by
        name. Raises ``DataError`` like ``run``, and if N is not that of the state: call
        ``reset()`` first. Refused, it leaves the state as it was; where the time-step ran and
        its output is not finite, or cannot be worked out, as for lack of memory, the session is at
        v(0) again.
        """
        inputs, varying = checked_inputs(self._plan, x_t, None)
        if varying:
            raise DataError("step() takes the input of one time-step, [N, ...]")
        plan, progress = self._plan, self._progress
        values = progress.prologue.step_inputs(inputs)
        # A run before, refused or not, may have been read out more often, on other inputs.
        progress.readouts, progress.varying = 1, False
        # Nobody can ask what neurons emitted: working it out would take a pass now and then.
        progress.sums.forget_derived()
        if not progress.can_go_on_with(values):
            raise DataError("x_t has another shape than the state; call reset() first")
        # Which refuses NaN.
        largest_of(values)
        progress.states.set_inputs(values)
        made = tuple(name for name in plan.readout_types if name not in values)
        now = values | dict(zip(made, progress.advance(values, made), strict=True))
        try:
            outputs = dict(zip(plan.averages, progress.averages.of_one(now), strict=True))
            if plan.means:
                means = progress.outputs()
                outputs |= {name: means[name] for name in plan.means}
            by_name = finite_outputs(plan, outputs)
        except DataError:
            # Who tries again would count this time-step twice.
            progress.reset()
            raise
        return by_name if len(by_name) > 1 else by_name[plan.outputs[0]]

    @one_at_a_time
    def reset(self) -> None:
        """Set every membrane potential to v(0), as in the file."""
        self._progress.reset()

    def _count_with(self, values: Arrays) -> bool:
        """Let the step count the spikes that do not follow from states, where it reads so much.

        Returns whether the session is at v(0) for that. One that has met such values goes on so.
        """
        found = largest_of(values)
        if self._derived is None:
            return False
        if all(largest <= self._largest.get(name, 1.0) for name, largest in found.items()):
            return False
        # To the next power of two, so that it is worked out seldom.
        grown = {n: max(self._largest.get(n, 1.0), power_above(v)) for n, v in found.items()}
        derived = derived_sums_of(self._plan, grown)
        same = derived is not None and derived.made == self._derived.made
        if derived is not None and same:
            # The same layers follow from states, and may have to be looked at sooner.
            self._progress.sums.expect(derived.growth)
        else:
            self._progress = self._begin(derived)
            self._derived = derived
        # Last: where this is interrupted, it is done again.
        self._largest = grown
        return not same

    def _begin_anew(self) -> None:
        """Reset, and let go of all buffers: what was interrupted may have left them half done."""
        self._progress.states.forget()
        self._progress.reset()

    @property
    @in_turn
    def state(self) -> dict[str, np.ndarray]:
        """The membrane potentials by state name ``v/<neuron>``, as copies.

        Each is [N, ...] after a step, or v(0), of a shape that broadcasts, before the first.
        All states of the file are among them: the sums that a spiking max-pool keeps,
        ``m/<neuron>``, the spikes so far of a neuron that can take them back, and, where the
        read-out is an average of all time-steps so far, what it has summed and the number of
        time-steps, ``v/clock``. Set it (a dict of the same form, or a part of one) to let ``step``
        go on from there, in this session or another, after ``reset`` if it ran another N before;
        ``run`` starts at v(0) regardless.
        """
        return self._progress.state()

    @state.setter
    @one_at_a_time
    def state(self, values: Mapping[str, np.ndarray]) -> None:
        self._progress.go_on_from(taken_states(self._plan, values))
