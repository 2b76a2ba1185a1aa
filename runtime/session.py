"""``SpikingSession``: a spiking network, run over time."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.files import read_parts, take_apart

from .coding import Coding, encode
from .plan import Neuron, build_plan
from .providers import CUDA, Providers, create_session, resolve_providers, run_session
from .result import ReadOut, SpikingResult
from .states import DeviceStates

# Sums of k equal float32 terms are off by less than half a term up to k = 4096, so that
# spike counts are exact; longer runs move them to float64 in between.
_MOST_STEPS_A_SUM = 4096


class SpikingSession:
    """A spiking network that ``onnx2snn convert`` made, ready to run over time.

        session = SpikingSession("snn.onnx")
        result = session.run(images, timesteps=32, readout=[8, 16])
        result.output.argmax(1), result.outputs[8], result.firing_rates

    model: an SNN file's path, or its ``onnx.ModelProto``.
    providers: None or "cpu"; "cuda", which fails if CUDA is absent; "auto"; or a list of
    ONNX Runtime's provider names. ``session.providers`` says what is used.
    threads: threads within an operator; None for ONNX Runtime's choice.

    Raises ``ModelError`` for a file that is no SNN and ``ProviderError`` for a device that
    is not there.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | onnx.ModelProto,
        providers: Providers = None,
        threads: int | None = None,
    ) -> None:
        if isinstance(model, onnx.ModelProto):
            parts = take_apart(model, "the model")
        else:
            parts = read_parts(model)
        self._plan = plan = build_plan(parts)
        chosen = resolve_providers(providers)
        self._prologue = _session_of(plan.prologue, chosen, threads)
        step = create_session(plan.step, chosen, threads)
        self._epilogue = create_session(plan.epilogue, chosen, threads)
        self._read_out_session = _session_of(plan.read_out, chosen, threads)
        self.providers: list[str] = step.get_providers()
        device = "cuda" if self.providers[0] == CUDA else "cpu"
        states = [*plan.states, *plan.sums.values()]
        self._states = DeviceStates(step, states, plan.step_inputs, device)
        self._silence: dict[tuple, list[np.ndarray]] = {}
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

    @property
    def input_dtype(self) -> np.dtype:
        """Type of the first input's elements."""
        dtype: np.dtype = np.dtype(self._plan.inputs[0].dtype)
        return dtype

    def run(
        self,
        x: np.ndarray | Mapping[str, np.ndarray],
        timesteps: int,
        readout: Sequence[int] | None = None,
        *,
        coding: Coding = "constant",
        seed: int = 0,
    ) -> SpikingResult:
        """Run ``timesteps`` time-steps from v(0); the session's state is then v(T).

        x: the input, [N, ...] in the network's input shape, the same at every time-step;
        or [T, N, ...], one for each. N may change from run to run. A network with several
        inputs takes them by name.
        readout: further time-steps, each from 1 to T, at which to read the output.
        coding: "constant", or "poisson" for random spikes with probability x, drawn from
        ``seed``.

        Nothing of an earlier run or ``step`` remains. Memory does not grow with T. Raises
        ``DataError`` for an x of a wrong shape or type, with NaN or infinity, or empty, and
        for time-steps that are not positive integers.
        """
        wanted = _readout_times(timesteps, readout)
        inputs, varying = self._check_inputs(x, timesteps)
        self.reset()
        readouts = {}
        for t, now in enumerate(encode(inputs, timesteps, coding, varying, seed), start=1):
            if now is not None:
                self._states.set_inputs(self._step_inputs(now))
            self._advance()
            if t in wanted:
                readouts[t] = self._read_out()
        return SpikingResult(timesteps, readouts)

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
        now = dict(zip(made, self._advance(made), strict=True)) | {
            name: values[name] for name in self._plan.readout_types if name in values
        }
        outputs = dict(zip(self._plan.averages, self._run_epilogue(now), strict=True))
        if self._plan.means:
            together = self._read_out().values
            outputs |= {name: together[name] for name in self._plan.means}
        by_name = {name: outputs[name] for name in self._plan.outputs}
        return by_name if len(by_name) > 1 else by_name[self._plan.outputs[0]]

    def reset(self) -> None:
        """Set every membrane potential to v(0), as in the file."""
        self._states.reset()
        self._time = self._summed = 0
        self._moved: dict[str, np.ndarray] = {}
        self._before: dict[str, np.ndarray] = {}

    @property
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
    def state(self, values: Mapping[str, np.ndarray]) -> None:
        unknown = set(values) - {state.read for state in self._plan.states}
        if unknown:
            raise DataError(f"the network has no state {sorted(unknown)}")
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
        self._states.put(dict(values))

    def _check_inputs(
        self, x: np.ndarray | Mapping[str, np.ndarray], timesteps: int | None
    ) -> tuple[dict[str, np.ndarray], set[str]]:
        """The inputs in the network's types, and the names of those with a leading time axis."""
        declared = {tensor.name: tensor for tensor in self._plan.inputs}
        given = by_input_name(x, list(declared), "the network")
        varying, inputs = set(), {}
        for name, tensor in declared.items():
            value, shape = np.asarray(given[name]), tuple(tensor.shape)
            called = "x" if len(declared) == 1 else name
            if value.ndim == len(shape) + 1:
                varying.add(name)
                if timesteps is not None and len(value) != timesteps:
                    raise DataError(
                        f"{called} has {len(value)} time-steps on its first axis, not {timesteps}"
                    )
                shape = (timesteps, *shape)
            inputs[name] = as_input(value, shape, np.dtype(tensor.dtype), name=called)
        return inputs, varying

    def _step_inputs(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the step reads: the prologue's results, and the inputs that it reads itself."""
        names = self._plan.step_inputs
        values = {name: inputs[name] for name in names if name in inputs}
        if self._prologue is not None:
            made = [output.name for output in self._prologue.get_outputs()]
            wanted = {source.name for source in self._prologue.get_inputs()}
            feed = {name: value for name, value in inputs.items() if name in wanted}
            values |= zip(made, run_session(self._prologue, made, feed), strict=True)
        return values

    def _advance(self, fetch: tuple[str, ...] = ()) -> list[np.ndarray]:
        fetched = self._states.advance(fetch)
        self._time += 1
        self._summed += 1
        if self._summed == _MOST_STEPS_A_SUM:
            self._move_sums()
        if self._time == self._plan.delay:
            self._before = {name: self._sum(name) for name in self._plan.readout_types}
        return fetched

    def _sum(self, name: str) -> np.ndarray:
        """A sum over time: float64 where parts of it were moved, else as it was summed."""
        now = self._states.get(self._plan.sums[name].read)
        return self._moved[name] + now if name in self._moved else now

    def _move_sums(self) -> None:
        self._moved = {name: self._sum(name).astype(np.float64) for name in self._plan.sums}
        self._states.put(
            {s.read: np.zeros_like(self._states.get(s.read)) for s in self._plan.sums.values()}
        )
        self._summed = 0

    def _read_out(self) -> ReadOut:
        """What the network says after the time-steps so far."""
        sums = {name: self._sum(name) for name in self._plan.sums}
        values = dict(zip(self._plan.averages, self._averages(sums), strict=True))
        if self._read_out_session is not None:
            made = [output.name for output in self._read_out_session.get_outputs()]
            wanted = {source.name for source in self._read_out_session.get_inputs()}
            feed = {name: value for name, value in values.items() if name in wanted}
            values |= zip(made, run_session(self._read_out_session, made, feed), strict=True)
        outputs = {name: values[name] for name in self._plan.outputs}
        for name, value in outputs.items():
            check_finite(value, f"the network's output '{name}'")
        return ReadOut(
            timesteps=self._time,
            values=outputs,
            potential_sums={neuron.name: sums[neuron.spikes] for neuron in self.neurons},
            event_sums={neuron.name: sums[neuron.events] for neuron in self.neurons},
            neurons=self.neurons,
        )

    def _averages(self, sums: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The mean of the epilogue g over t steps: (g(S) + (t - 1) g(0)) / t.

        g is affine and S the sum of what it reads, so the numerator is the sum of its
        outputs; each enters once, and the one rounding is that of the division. float16
        cannot hold such sums: there it is g(S / t), the same to rounding.
        """
        t, read = self._time, {name: sums[name] for name in self._plan.readout_types}
        if 0 < self._plan.delay < t:
            t -= self._plan.delay
            read = {name: total - self._before[name] for name, total in read.items()}
        if np.dtype(np.float16) in self._plan.readout_types.values():
            return self._run_epilogue({name: value / t for name, value in read.items()})
        shapes = tuple(value.shape for value in read.values())
        if shapes not in self._silence:
            zeros = {name: np.zeros_like(value) for name, value in read.items()}
            silence = self._run_epilogue(zeros)
            self._silence = {shapes: [value.astype(np.float64) for value in silence]}
        return [
            ((total.astype(np.float64) + (t - 1) * silent) / t).astype(total.dtype)
            for total, silent in zip(self._run_epilogue(read), self._silence[shapes], strict=True)
        ]

    def _run_epilogue(self, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        types = self._plan.readout_types
        feed = {name: np.asarray(value, types[name]) for name, value in values.items()}
        return run_session(self._epilogue, None, feed)


def _session_of(
    model: onnx.ModelProto | None, providers: list[Any], threads: int | None
) -> Any | None:
    return None if model is None else create_session(model, providers, threads)


def by_input_name(
    x: np.ndarray | Mapping[str, np.ndarray], names: Sequence[str], who: str
) -> dict[str, np.ndarray]:
    """Inputs by name: of a mapping those that are needed, an array as the one input.

    The only input may be called x in a mapping. Raises ``DataError`` if one is missing.
    """
    if not isinstance(x, Mapping):
        if len(names) != 1:
            raise DataError(f"{who} has the inputs {', '.join(names)}: give each by its name")
        return {names[0]: x}
    if len(names) == 1 and names[0] not in x and "x" in x:
        return {names[0]: x["x"]}
    if any(name not in x for name in names):
        raise DataError(
            f"{who} has the inputs {', '.join(names)}; given were {', '.join(x) or 'none'}"
        )
    return {name: np.asarray(x[name]) for name in names}


def _readout_times(timesteps: int, readout: Sequence[int] | None) -> set[int]:
    wanted = [timesteps, *(readout if readout is not None else [])]
    for t in wanted:
        if isinstance(t, bool) or not isinstance(t, int | np.integer) or t < 1:
            raise DataError(f"time-steps must be positive integers, not {t!r}")
        if t > timesteps:
            raise DataError(f"cannot read out at time-step {t} of {timesteps}")
    return {int(t) for t in wanted}


def as_input(
    x: np.ndarray,
    shape: Sequence[int | str | None],
    dtype: np.dtype,
    who: str = "the network",
    name: str = "x",
) -> np.ndarray:
    """X as an input of this shape and type, or ``DataError`` if it cannot be one.

    Names and None in ``shape`` stand for any size. Floating-point types are cast to each
    other; any other type must be the network's own, since pixel values of one type are no
    intensities of another. ``who`` needs the input, for the message.
    """
    expected = ", ".join(str(size) if isinstance(size, int) else "*" for size in shape)
    fits = x.ndim == len(shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(shape, x.shape, strict=True)
    )
    if not fits:
        hint = ""
        if shape and isinstance(shape[0], int) and list(x.shape[1:]) == list(shape[1:]):
            hint = f"; its batch size is fixed: use --batch-size {shape[0]}, or export it without"
        raise DataError(f"{name} has shape {list(x.shape)}, {who} needs [{expected}]{hint}")
    floating = np.issubdtype(x.dtype, np.floating) and np.issubdtype(dtype, np.floating)
    if not floating and x.dtype != dtype:
        raise DataError(
            f"{name} has type {x.dtype}, {who} needs {np.dtype(dtype)}: "
            "prepare it as for the network's training"
        )
    if x.size == 0:
        raise DataError(f"{name} is empty: its shape is {list(x.shape)}")
    with np.errstate(over="ignore"):
        value = np.ascontiguousarray(x, dtype)
    check_finite(value, name)
    return value


def check_finite(x: np.ndarray, what: str) -> None:
    """Raise ``DataError`` if x holds NaN or infinity."""
    if x.dtype.kind in "fc" and not np.all(np.isfinite(x)):
        bad = np.argwhere(~np.isfinite(x))[0]
        raise DataError(f"{what} holds NaN or infinity, first at {bad.tolist()}")
