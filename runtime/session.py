"""``SpikingSession``: a spiking network, run over time."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import RLock
from typing import Any, Literal, get_args

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError, require_whole
from onnx2snn.graph_passes.files import Model, read_any
from onnx2snn.graph_passes.weights import ModelParts

from .choice import Choice
from .coding import Coding, check_coding, encode
from .early_exit import EarlyExit, is_softmax, logits, scores_of
from .estimate import costs_of
from .graphs import only
from .half import halve
from .inputs import as_array, as_input, by_input_name, readout_times, require_same_numbers
from .int8 import LayerPrecision, Precision, Quantised, quantise
from .memory import prologue_memory
from .one_at_a_time import in_turn, one_at_a_time
from .plan import Neuron, Plan, build_plan
from .providers import (
    CPU,
    MOST_THREADS,
    ON_GPU,
    Providers,
    cores_of,
    create_session,
    device_id_of,
    resolve_providers,
    rounds_products,
    run_session,
    without_capture,
)
from .read_out import Averages
from .result import Exit, ReadOut, SpikingResult, together
from .states import DeviceStates
from .sums import Sums, carried_sums, rows_of
from .time_steps import TimeSteps
from .totals import totals_of

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
    threads: threads within an operator; None for ONNX Runtime's choice.
    plan: "auto" runs several time-steps at once where the input is constant, and works spike
    counts out from membrane potentials where it can; "step" does neither. The spikes are the
    same, but where rounding of real weights decides whether one is fired.
    max_memory: bytes that the session may take; chunks of time-steps get shorter to stay within,
    and ``run`` raises ``DataError`` where not even one time-step does. It is an estimate, of a
    CPU's memory: ``chosen`` gives it. None lets a chunk take 256 MiB more than a time-step.
    precision: "int8" rounds the weights of layers that read spikes to 8 bits, a scale for each
    output, and computes their sums in whole numbers, exactly, where that is faster; CPU only.
    "float16" computes layers in 16 bits, and potentials in float32; GPUs only.
    ``session.precisions`` says what became of each layer; it is empty for "float32".

    Threads may share a session: its methods wait for each other. Where one ends by anything but an
    error of this package, as by Ctrl-C, the session is at v(0) again.

    Raises ``ModelError`` for a file that is no SNN, or no float32 network for another precision,
    ``ProviderError`` for a device that is not there, or is not for that precision, and
    ``DataError`` for a plan, precision, number of threads or memory that is none.
    """

    def __init__(
        self,
        model: Model | ModelParts,
        providers: Providers = None,
        threads: int | None = None,
        plan: PlanKind = "auto",
        max_memory: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        for name, given, kinds in (("plan", plan, PlanKind), ("precision", precision, Precision)):
            if given not in get_args(kinds):
                raise DataError(f"{name} must be one of {get_args(kinds)}, not {given!r}")
        self._turn = RLock()
        number = isinstance(max_memory, int | float | np.number) and max_memory is not True
        if max_memory is not None and not (number and max_memory > 0):
            raise DataError(f"max_memory is a number of bytes, not {max_memory!r}")
        if threads is not None:
            require_whole("threads", threads, 1, MOST_THREADS)
        made, chosen = build_plan(read_any(model)), resolve_providers(providers)
        quantised = {"int8": quantise, "float16": halve}.get(precision, _as_it_is)(made, chosen)
        self._plan = made = quantised.plan
        self.precisions: tuple[LayerPrecision, ...] = quantised.precisions
        # Several graphs are made of the model's; all read these weights.
        create = partial(
            _create_with,
            made.weights,
            partial(create_session, providers=chosen, threads=threads),
        )
        # Within a budget they hold no weights of their own, whatever time-steps do.
        keeping_none = partial(create, seldom=True, lean=max_memory is not None)
        self._prologue = None if made.prologue is None else keeping_none(made.prologue)
        self._averages = Averages(made, keeping_none)
        # Currents in fewer bits are not what potentials say that they add up to.
        exact = precision != "float16" and not rounds_products(chosen)
        totals = totals_of(made) if plan == "auto" and exact else None
        states = [*made.states, *carried_sums(made, totals).values()]
        now = [name for name in made.readout_types if name not in made.step_inputs]
        step = only(made.step, [*now, *(state.written for state in states)])
        self.providers: list[str] = self._averages.providers
        device = "cuda" if self.providers[0] in ON_GPU else "cpu"
        device_id = device_id_of(chosen[0]) if device == "cuda" else 0
        graphs = chosen != without_capture(chosen)
        self._states = DeviceStates(states, made.step_inputs, device, device_id, graphs)
        self._sums = Sums(made, totals, self._states, partial(keeping_none, lean=True))
        on_cpu = self.providers[0] == CPU
        others = [made.prologue, made.epilogue, made.read_out]
        others += [totals.totals, totals.silent] if totals else []
        costs = costs_of(
            quantised,
            step,
            states,
            on_cpu=on_cpu,
            in_chunks=plan == "auto",
            derived_counts=self._sums.derived,
            kept=self._sums.kept,
            nodes=sum(len(model.graph.node) for model in others if model is not None),
            max_memory=max_memory,
        )
        capturing = partial(create, captures=True)
        self._time_steps = TimeSteps(
            quantised, step, states, costs, capturing, on_cpu, cores_of(threads)
        )
        self._given: dict[str, tuple[int, ...]] = {}
        self._prologue_takes = 0
        self.reset()

    @property
    def neurons(self) -> tuple[Neuron, ...]:
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

        x: the input, [N, ...] in the network's input shape, the same at every time-step;
        or [T, N, ...], one for each. N may change from run to run. A network with several
        inputs takes them by name.
        readout: further time-steps, each from 1 to T, at which to read the output.
        coding: "constant", or "poisson" for random spikes with probability x, drawn from
        ``seed``.
        early_exit: samples leave the batch where this rule says that their read-out, the first
        output, is settled; ``sample_timesteps`` of the result says after how many time-steps.
        For those that stay nothing changes. Without ``readout``, for a constant input.

        Nothing of an earlier run or ``step`` remains. Memory does not grow with T. Raises
        ``DataError`` for an x of a wrong shape or type, with NaN or infinity, or empty, and
        for time-steps that are not positive integers.
        """
        wanted = readout_times(timesteps, readout)
        check_coding(coding, seed)
        inputs, varying = self._check_inputs(x, timesteps)
        if early_exit is not None:
            if not isinstance(early_exit, EarlyExit):
                raise DataError(f"early_exit takes an EarlyExit, not {early_exit!r}")
            if coding != "constant" or varying:
                raise DataError(
                    "early_exit is for an input that is the same at every time-step: x [N, ...], "
                    "with coding='constant'"
                )
            if readout is not None:
                raise DataError("early_exit reads out where samples leave: leave readout away")
            return self._run_until_settled(inputs, timesteps, early_exit)
        self.reset()
        self._readouts, self._varying = len(wanted), coding != "constant" or bool(varying)
        readouts = {}
        if not self._varying:
            values = self._step_inputs(inputs)
            self._states.set_inputs(values)
            for t in sorted(wanted):
                self._advance_to(t, values)
                readouts[t] = self._read_out()
            return SpikingResult(timesteps, readouts)
        for t, now in enumerate(encode(inputs, timesteps, coding, varying, seed), start=1):
            values = self._step_inputs(now)
            self._states.set_inputs(values)
            self._advance(values)
            if t in wanted:
                readouts[t] = self._read_out()
        return SpikingResult(timesteps, readouts)

    @in_turn
    def chosen(self, x: np.ndarray | Mapping[str, np.ndarray], *, readouts: int = 1) -> Choice:
        """What ``run`` would do for an input x, [N, ...], the same at every time-step.

        Only the shape of x matters. readouts: at how many time-steps the output is read; each
        keeps a copy of states. Raises ``DataError`` like ``run``.
        """
        require_whole("readouts", readouts, 1)
        inputs, varying = self._check_inputs(x, None)
        if varying:
            raise DataError("chosen() takes the input of one time-step, [N, ...]")
        values = self._step_inputs(inputs)
        return self._time_steps.choice(values, readouts, prologue=self._prologue_takes)

    @one_at_a_time
    def step(
        self, x_t: np.ndarray | Mapping[str, np.ndarray]
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Run one time-step from the current state, on the input x_t [N, ...].

        Returns the output of this time-step alone, as the file's own output would be: the
        read-out of T steps is the mean of T such outputs. An output that is not affine in
        the spikes, such as a Softmax, or that begins after a delay, is that of all time-steps
        since ``reset()``. A network with several outputs returns them by name. Raises
        ``DataError`` like ``run``, and if N is not that of the state: call ``reset()`` first.
        """
        inputs, varying = self._check_inputs(x_t, None)
        if varying:
            raise DataError("step() takes the input of one time-step, [N, ...]")
        values = self._step_inputs(inputs)
        if not self._states.has_room_for(values):
            raise DataError("x_t has another shape than the state; call reset() first")
        self._states.set_inputs(values)
        made = tuple(name for name in self._plan.readout_types if name not in values)
        now = dict(zip(made, self._advance(values, made), strict=True)) | {
            name: values[name] for name in self._plan.readout_types if name in values
        }
        outputs = dict(zip(self._plan.averages, self._averages.of_one(now), strict=True))
        if self._plan.means:
            means = self._read_out().values
            outputs |= {name: means[name] for name in self._plan.means}
        by_name = {name: outputs[name] for name in self._plan.outputs}
        return by_name if len(by_name) > 1 else by_name[self._plan.outputs[0]]

    @one_at_a_time
    def reset(self) -> None:
        """Set every membrane potential to v(0), as in the file."""
        self._states.reset()
        self._sums.reset()
        self._time, self._readouts, self._varying = 0, 1, False
        self._before: dict[str, np.ndarray] = {}

    def _begin_anew(self) -> None:
        """Reset, and let go of all buffers: what was interrupted may have left them half done."""
        self._states.forget()
        self.reset()

    @property
    @in_turn
    def state(self) -> dict[str, np.ndarray]:
        """The membrane potentials by state name ``v/<neuron>``, as copies.

        Each is [N, ...] after a step, or v(0), of a shape that broadcasts, before the first.
        The sums that a spiking max-pool keeps are among them, and ``m/<neuron>``, the spikes
        so far of a neuron that can take them back. Set it (a dict of the same
        form, or a part of one) to let ``step`` go on from there; ``run`` starts at v(0)
        regardless.
        """
        return {state.read: self._states.get(state.read) for state in self._plan.states}

    @state.setter
    @one_at_a_time
    def state(self, values: Mapping[str, np.ndarray]) -> None:
        if not isinstance(values, Mapping):
            raise DataError(f"the state is a mapping of names to arrays, not {values!r}")
        unknown = set(values) - {state.read for state in self._plan.states}
        if unknown:
            raise DataError(f"the network has no state {sorted(map(str, unknown))}")
        for name, value in values.items():
            if not as_array(value, f"the state '{name}'").size:
                raise DataError(f"the state '{name}' is empty: {list(np.shape(value))}")
        neurons = {neuron.name: neuron for neuron in self.neurons}
        for state in self._plan.states:
            neuron = neurons.get(state.read.partition("/")[2])
            if neuron is None:
                continue
            have = np.shape(values.get(state.read, state.start))[1:]
            pairs = zip(have, neuron.shape, strict=False)
            if any(a != 1 and isinstance(b, int) and a != b for a, b in pairs):
                raise DataError(
                    f"the state '{state.read}' has shape {list(have)} for a sample, "
                    f"its layer {list(neuron.shape)}"
                )
        self._sums.bring_in()
        self._states.put(dict(values))
        self._sums.begin_here()

    def _check_inputs(
        self, x: np.ndarray | Mapping[str, np.ndarray], timesteps: int | None
    ) -> tuple[dict[str, np.ndarray], set[str]]:
        """The inputs in the network's types, and the names of those with a leading time axis."""
        declared = {tensor.name: tensor for tensor in self._plan.inputs}
        given = by_input_name(x, list(declared), "the network")
        varying, inputs = set(), {}
        for name, tensor in declared.items():
            value, shape = given[name], tuple(tensor.shape)
            called = "x" if len(declared) == 1 else name
            if value.ndim == len(shape) + 1:
                varying.add(name)
                if timesteps is not None and len(value) != timesteps:
                    raise DataError(
                        f"{called} has {len(value)} time-steps on its first axis, not {timesteps}"
                    )
                shape = (timesteps, *shape)
            inputs[name] = as_input(value, shape, np.dtype(tensor.dtype), name=called)
        sizes = {name: x.shape[1:] if name in varying else x.shape for name, x in inputs.items()}
        require_same_numbers(sizes, {name: tensor.shape for name, tensor in declared.items()})
        return inputs, varying

    def _step_inputs(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the step reads: the prologue's results, and the inputs that it reads itself."""
        names = self._plan.step_inputs
        values = {name: inputs[name] for name in names if name in inputs}
        if self._prologue is not None:
            shapes = {name: value.shape for name, value in inputs.items()}
            if shapes != self._given:
                self._given, self._prologue_takes = shapes, prologue_memory(self._plan, shapes)
            made = [output.name for output in self._prologue.get_outputs()]
            wanted = {source.name for source in self._prologue.get_inputs()}
            feed = {name: value for name, value in inputs.items() if name in wanted}
            values |= zip(made, run_session(self._prologue, made, feed), strict=True)
        return values

    def _run_until_settled(
        self, inputs: dict[str, np.ndarray], timesteps: int, rule: EarlyExit
    ) -> SpikingResult:
        """Run the samples that are left, and read out those that leave."""
        if any(isinstance(size, int) for tensor in self._plan.inputs for size in tensor.shape[:1]):
            raise DataError("an early exit needs a network whose batch size is not fixed")
        self.reset()
        values = self._step_inputs(inputs)
        left = np.arange(max((len(value) for value in inputs.values() if value.ndim), default=1))
        if not self._time_steps.states_have_rows(values, len(left)):
            raise DataError(
                "an early exit needs a network that has its samples along the first axis of all "
                "layers, and computes each by itself, so that some of them can leave"
            )
        self._states.set_inputs(values)
        looks: list[np.ndarray] = []
        exits: list[Exit] = []
        probabilities = is_softmax(self._plan.read_out, self.outputs[0])
        for t in rule.looks_at(timesteps):
            self._advance_to(t, values)
            if t <= self._plan.delay and t < timesteps:
                continue
            outputs = self._outputs_now()
            scores = scores_of(outputs, len(left))
            now = logits(scores) if probabilities else scores
            looks = [*looks, now][-rule.stable :]
            leave = rule.settled(looks) | (t == timesteps)
            if not leave.any():
                continue
            count, gone = len(left), np.flatnonzero(leave)
            sums = self._sums.snapshot(gone, count)
            exits.append(Exit(t, left[gone], rows_of(outputs, gone, count), sums))
            if leave.all():
                break
            stay = np.flatnonzero(~leave)
            self._states.keep(stay, count)
            self._sums.keep(stay, count)
            self._before = rows_of(self._before, stay, count)
            values = rows_of(values, stay, count)
            looks = [look[stay] for look in looks]
            left = left[stay]
        return SpikingResult(timesteps, {timesteps: together(exits, timesteps, self.neurons)})

    def _advance(
        self, inputs: dict[str, np.ndarray], fetch: tuple[str, ...] = (), most: int = 1
    ) -> list[np.ndarray]:
        """Do up to ``most`` time-steps in one run."""
        most = min(most, self._sums.make_room())
        choice = self._time_steps.choice(
            inputs, self._readouts, self._varying, self._prologue_takes
        )
        steps = choice.chunk(most)
        # A budget counts on groups of samples, which need states in full, from the first run on.
        grouped = choice.together < choice.samples and self._time_steps.costs.max_memory is not None
        if choice.in_full and (steps > 1 or grouped):
            self._states.fill(choice.shapes)
        # What runs next may be another graph, which needs the memory; the next run is as this one.
        following = choice.chunk(most - steps if most > steps else self._time + steps)
        shrink = following != steps and choice.memory.gives_back
        fetched = self._states.advance(
            self._time_steps.session(steps, choice), fetch, shrink, choice.together
        )
        self._time += steps
        self._sums.count(steps, inputs)
        if self._time == self._plan.delay:
            self._before = self._sums.carried(self._plan.readout_types)
        return fetched

    def _advance_to(self, t: int, inputs: dict[str, np.ndarray]) -> None:
        """Go on to time-step t, in chunks as far as they fit."""
        while self._time < t:
            stop = self._plan.delay if self._time < self._plan.delay < t else t
            self._advance(inputs, most=stop - self._time)

    def _read_out(self) -> ReadOut:
        """What the network says and did in the time-steps so far."""
        return ReadOut(self._time, self._outputs_now(), self.neurons, self._sums.snapshot())

    def _outputs_now(self) -> dict[str, np.ndarray]:
        """The outputs by name after the time-steps so far, but those of a delay."""
        sums, t = self._sums.carried(self._plan.readout_types), self._time
        if 0 < self._plan.delay < t:
            t -= self._plan.delay
            sums = {n: np.asarray(total - self._before[n]) for n, total in sums.items()}
        return self._averages.outputs(sums, t)


def _as_it_is(plan: Plan, providers: Sequence[Any]) -> Quantised:
    return Quantised(plan)


def _create_with(
    weights: Mapping[str, np.ndarray],
    create: Callable[..., Any],
    model: onnx.ModelProto | ModelParts,
    **options: Any,
) -> Any:
    """A session of a model whose large weights are among these, or its own."""
    parts = model if isinstance(model, ModelParts) else ModelParts(model, {})
    names = {t.name for t in parts.structure.graph.initializer} & weights.keys()
    # What comes with the model takes the place of what has the same name.
    names -= {*parts.weights, *(options.get("own") or {})}
    held = parts.weights | {name: weights[name] for name in names}
    return create(ModelParts(parts.structure, held), **options)
