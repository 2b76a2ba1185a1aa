"""The states of a step graph, on the device, from one time-step to the next."""

import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.graph.broadcasting import may_fit

from .failures import failing_as
from .plans.plan import State
from .providers import onnxruntime
from .result import Later

NOT_CAPTURED = -1
"""By this number ONNX Runtime knows a run that is no part of a CUDA graph."""


def _made(make: Callable[..., Any], *arguments: Any) -> Any:
    """A value on the device; ``DataError`` where there can be none."""
    with failing_as(DataError, "the device cannot hold the states: {}"):
        return make(*arguments)


def even_groups(count: int, together: int) -> list[tuple[int, int]]:
    """The rows, from and to, of groups of at most so many samples.

    As even as they can be, so that there are two sizes at most.
    """
    how_many = -(-count // together)
    ends = [count * place // how_many for place in range(how_many + 1)]
    return list(itertools.pairwise(ends))


def _fetched(runs: list[Any], count: int) -> list[np.ndarray]:
    """The first so many outputs of these runs, whose samples follow each other."""
    if not count:
        return []
    outputs = ([value.numpy() for value in run.get_outputs()[:count]] for run in runs)
    return [
        parts[0] if len(parts) == 1 else np.concatenate(parts)
        for parts in zip(*outputs, strict=True)
    ]


class DeviceStates:
    """Runs step graphs again and again, feeding what they wrote back to what they read.

    The sessions may differ in how many time-steps a run of theirs is; all have these states.
    The first time-step reads the states' small, broadcastable starts, or these in full. Later
    ones read one of two sets of buffers and write the other, so that nothing is allocated or
    copied within a run; a buffer is never read and written in the same run.
    ``graphs``: the sessions capture runs as CUDA graphs. Those with the same buffers are one
    graph; runs that make the buffers, or fetch anything, are not captured.
    """

    def __init__(
        self,
        states: list[State],
        inputs: tuple[str, ...],
        device: str,
        device_id: int,
        graphs: bool,
    ):
        self.states, self._device, self._device_id = states, device, device_id
        self._graphs = graphs
        self._numbers = itertools.count(1)
        self._starts = {state.read: self._to_device(state.start) for state in states}
        self._inputs: dict[str, Any] = dict.fromkeys(inputs)
        self._moments: weakref.WeakSet[Later] = weakref.WeakSet()
        self._forget_buffers()
        self.reset()

    def _forget_buffers(self) -> None:
        self._buffers: list[dict[str, Any]] = []
        # The starts in full, as one run of several samples reads them.
        self._first: dict[str, Any] = {}
        self._forget_bindings()

    def _forget_bindings(self) -> None:
        # By session, which they must not outlive, and buffers; with the number of the CUDA graph,
        # which no other buffers may have.
        self._bindings: weakref.WeakKeyDictionary[Any, dict[tuple, tuple[list[Any], int]]] = (
            weakref.WeakKeyDictionary()
        )

    def forget(self) -> None:
        """Begin again, with new buffers and inputs."""
        self._inputs = dict.fromkeys(self._inputs)
        self._forget_buffers()
        self.reset()

    def reset(self) -> None:
        """Begin again: the next time-step reads the starts."""
        self._current: dict[str, Any] = self._starts
        self._current_index: int | None = None  # Of the buffers; None for the starts.

    def _starts_in_full(self, shapes: Mapping[str, Sequence[Any]], together: int) -> dict[str, Any]:
        """The starts written out, of so many samples as run together; ``shapes`` are of all.

        They are kept, since every run begins with them.
        """
        groups = [rows for rows in self._rows(together, self._buffers[0]) if rows is not None]
        largest = [max(end - first for first, end in groups)] if groups else []
        needed = {n: [*largest, *shapes[n][len(largest) :]] for n in self._starts}
        # Those of more samples serve fewer.
        if not self._first or any(self._first[n].shape() < shape for n, shape in needed.items()):
            # They know where these starts are.
            self._forget_bindings()
            self._first = {}
            starts = {name: value.numpy() for name, value in self._starts.items()}
            self._first = {
                n: self._to_device(np.broadcast_to(starts[n], needed[n])) for n in needed
            }
        return self._first

    def _to_device(self, array: np.ndarray) -> Any:
        # A copy: the value is written to later.
        return self._as_value(np.array(array, order="C"))

    def _as_value(self, array: np.ndarray) -> Any:
        """An array as a value on the device; on a CPU it is the array's own memory."""
        make = onnxruntime().OrtValue.ortvalue_from_numpy
        return _made(make, array, self._device, self._device_id)

    def set_inputs(self, values: dict[str, np.ndarray]) -> None:
        """Give what the step reads besides its states.

        Other shapes than before need other buffers: the states must then be at the start, or
        have been put since. ``can_go_on_with`` and ``fit`` tell.
        """
        for name, value in values.items():
            held = self._inputs[name]
            if held is not None and held.shape() == list(value.shape):
                held.update_inplace(np.asarray(value, order="C"))
                continue
            self._inputs[name] = self._to_device(value)
            if held is not None:
                self._forget_buffers()

    @property
    def were_put(self) -> bool:
        """Whether some are neither at their start nor what a run has written."""
        return self._current_index is None and self._current is not self._starts

    def fit(self, shapes: Mapping[str, Sequence[int | str]]) -> bool:
        """Whether states that were put are of these shapes, or broadcast to them, as starts do."""
        held = {name: value.shape() for name, value in self._current.items()}
        return all(may_fit(held[name], shapes[name]) for name in held.keys() & shapes.keys())

    def can_go_on_with(self, values: dict[str, np.ndarray]) -> bool:
        """Whether what a run has written can go on with inputs of these shapes."""
        return self._current_index is None or all(
            self._inputs[name] is not None and self._inputs[name].shape() == list(value.shape)
            for name, value in values.items()
        )

    def advance(
        self,
        session: Any,
        fetch: tuple[str, ...],
        shrink: bool,
        together: int,
        shapes: Mapping[str, Sequence[Any]] | None,
        in_full: bool,
    ) -> list[np.ndarray]:
        """Do what a session does; returns the outputs named in ``fetch``.

        ``shrink``: the session, on a CPU, gives back the memory of its activations.
        ``together``: how many samples are in one run, where all that is read and written has a
        row for each. ``shapes``: those of all states, where its first run is to be in
        groups or reads the starts ``in_full``.
        """
        self._let_go()
        read, begins = self._current, False
        if shapes is not None and self._current is self._starts:
            read, begins = self._begun_in_buffers(shapes, together, in_full), True
        runs, number = self._runs(session, fetch, together, read, begins)
        with failing_as(DataError, "the network cannot run on this input: {}"):
            for binding in runs:
                last = binding is runs[-1]
                session.run_with_iobinding(binding, self._options(shrink and last, number))
        self._go_on_with_written(runs, len(fetch))
        return _fetched(runs, len(fetch))

    def _begun_in_buffers(
        self, shapes: Mapping[str, Sequence[Any]], together: int, in_full: bool
    ) -> dict[str, Any]:
        """The starts as the first run reads them, which writes to buffers of these shapes."""
        if not self._buffers:
            # Where there is no room for all of them, there are none.
            self._buffers = [self._empty(shapes), self._empty(shapes)]
        return self._starts_in_full(shapes, together) if in_full else self._starts

    @property
    def _target(self) -> int:
        """The buffers that the next run writes to: not those that it reads."""
        return 1 if self._current_index == 0 else 0

    def _runs(
        self,
        session: Any,
        fetch: tuple[str, ...],
        together: int,
        read: dict[str, Any],
        begins: bool,
    ) -> tuple[list[Any], int]:
        """What a session reads and writes in each of its runs, and the number of the CUDA graph.

        ``read``: the states that it reads; ``begins``: whether they are the starts, and it writes
        to buffers. Made anew but where the same buffers were bound before.
        """
        source = self._current_index
        held = self._current is (self._starts if source is None else self._buffers[source])
        keep = held and not fetch
        known = self._bindings.setdefault(session, {}) if keep else {}
        place = begins, source, self._target
        if place in known:
            return known[place]
        groups = self._rows(together, self._buffers[0] if begins else read)
        runs = [self._bind(session, read, fetch, rows) for rows in groups]
        if not (keep and self._buffers and self._reads_in_place(session)):
            return runs, NOT_CAPTURED
        known[place] = runs, next(self._numbers)
        return known[place]

    def _go_on_with_written(self, runs: list[Any], fetched: int) -> None:
        """Let the next run read the states that these have written, behind what was fetched."""
        target = self._target
        if not self._buffers:
            made = runs[0].get_outputs()[fetched:]
            written = {s.read: value for s, value in zip(self.states, made, strict=True)}
            self._buffers = [written, self._like(written)]
        self._current, self._current_index = self._buffers[target], target

    def _rows(self, together: int, states: Mapping[str, Any]) -> list[tuple[int, int] | None]:
        """The rows, from and to, of each run; None for all of them."""
        bound = [*self._inputs.values(), *states.values()]
        counts = {tuple(value.shape()[:1]) for value in bound}
        if not self._buffers or len(counts) != 1:
            return [None]
        ((count,),) = counts
        groups = even_groups(count, together)
        return [*groups] if len(groups) > 1 else [None]

    def _options(self, shrink: bool, number: int) -> Any:
        entries = {}
        if shrink:
            entries["memory.enable_memory_arena_shrinkage"] = "cpu:0"
        if self._graphs:
            entries["gpu_graph_id"] = str(number)
        if not entries:
            return None
        options = onnxruntime().RunOptions()
        for name, value in entries.items():
            options.add_run_config_entry(name, value)
        return options

    def _reads_in_place(self, session: Any) -> bool:
        """Whether a session reads inputs where they are.

        What a node without a form for the device reads ONNX Runtime copies, once, as it is bound.
        """
        places = session.get_input_memory_infos() if self._device != "cpu" else []
        return all(place.name.lower() != "cpu" for place in places)

    def _bind(
        self,
        session: Any,
        states: dict[str, Any],
        fetch: tuple[str, ...],
        rows: tuple[int, int] | None,
    ) -> Any:
        binding = session.io_binding()
        read = {i.name for i in session.get_inputs()}
        # States have defaults in the graph.
        read |= {i.name for i in session.get_overridable_initializers()}
        # On a CPU, weights that a session does not hold itself.
        weights = {name: self._as_value(array) for name, array in session.weight_feed.items()}
        of_samples = self._inputs | states
        for name, value in (weights | of_samples).items():
            if name not in read:
                continue
            # Those of every group are the same.
            starts = name in states and states is self._starts
            if rows is None or name not in of_samples or starts:
                binding.bind_ortvalue_input(name, value)
            elif name in states and states is self._first:
                binding.bind_input(name, *self._memory(value, (0, rows[1] - rows[0])))
            else:
                binding.bind_input(name, *self._memory(value, rows))
        for name in fetch:
            binding.bind_output(name, "cpu")
        target = self._buffers[self._target] if self._buffers else {}
        for state in self.states:
            if not target:
                binding.bind_output(state.written, self._device, self._device_id)
            elif rows is None:
                binding.bind_ortvalue_output(state.written, target[state.read])
            else:
                binding.bind_output(state.written, *self._memory(target[state.read], rows))
        return binding

    def _memory(self, value: Any, rows: tuple[int, int]) -> tuple[Any, ...]:
        """Where some rows of a value are, as ONNX Runtime's bindings want to know it."""
        (first, end), shape = rows, value.shape()
        dtype = helper.tensor_dtype_to_np_dtype(value.element_type())
        place = value.data_ptr() + first * math.prod(shape[1:]) * dtype.itemsize
        return self._device, self._device_id, dtype, [end - first, *shape[1:]], place

    def _empty(self, shapes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        make = onnxruntime().OrtValue.ortvalue_from_shape_and_type
        return {
            name: _made(make, [*shapes[name]], start.element_type(), self._device, self._device_id)
            for name, start in self._starts.items()
        }

    def _like(self, values: dict[str, Any]) -> dict[str, Any]:
        return self._empty({name: value.shape() for name, value in values.items()})

    def keep(self, rows: np.ndarray, count: int) -> None:
        """Go on with some of ``count`` samples."""

        def kept(values: dict[str, Any]) -> dict[str, Any]:
            return {
                name: self._to_device(v.numpy()[rows]) if v.shape()[:1] == [count] else v
                for name, v in values.items()
            }

        self._inputs, current = kept(self._inputs), kept(self._current)
        self._forget_buffers()
        # With both sets of buffers, so that the next run may be in groups.
        self._buffers = [current, self._like(current)]
        self._current, self._current_index = current, 0

    def get(self, name: str) -> np.ndarray:
        """A copy of a state as it is now."""
        return np.array(self._current[name].numpy())

    def moment(self, names: Iterable[str]) -> Later:
        """Copies of states as they are now, whatever becomes of them.

        They are made where they are asked for, or before the states are written over: of a result
        that nobody holds any more they never are. (Memory that is new to a process costs a page
        fault every 4 KiB, and copies up to half of a short run: docs/measurements.md.)
        """
        held = {name: self._current[name] for name in names}
        moment = Later(lambda: {name: np.array(value.numpy()) for name, value in held.items()})
        self._moments.add(moment)
        return moment

    def _let_go(self) -> None:
        """Have copies of states made that are to be written over, where anyone holds them."""
        for moment in self._moments:
            moment()
        self._moments.clear()

    def put(self, values: dict[str, np.ndarray]) -> None:
        """Replace states; the next time-step reads these."""
        replaced = dict(self._current)
        for name, value in values.items():
            held = replaced[name]
            if self._current_index is not None and list(value.shape) != held.shape():
                raise DataError(
                    f"the state '{name}' has shape {value.shape}, not {tuple(held.shape())}: for "
                    "v(0), or another number of samples, call reset() first"
                )
            replaced[name] = self._to_device(value)
        self._current = replaced
