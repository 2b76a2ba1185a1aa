"""The graphs that run a session's time-steps: one, or a chunk of several."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.graph.neurons import DOMAIN, NEURONS
from onnx2snn.graph_passes.graph.operators import SPIKING_POOLS
from onnx2snn.graph_passes.model_files.weights import ModelParts

from .choices.choice import Choice, Form, all_known, choose, shapes_read, without_open_states
from .choices.costs import Costs
from .choices.groups import Groups, groups_of, groups_of_all
from .choices.memory import read_out_memory
from .choices.rows import Shape, states_have_rows
from .choices.run import Run
from .given import samples_of
from .layers.columns import with_columns
from .layers.half import with_half_products
from .layers.integer_products import IntegerLayer, with_integer_products
from .layers.kernel_forms import Layout, laid_out, layout_of, with_stand_ins
from .layers.unit_steps import rescaled
from .layers.unit_thresholds import with_unit_thresholds
from .layers.weights_first import with_weights_first
from .layers.winograd import Tiles, matrices_of, with_winograd
from .plans.plan import State
from .plans.sizes import sizes_of
from .plans.unroll import unrolled
from .precision import PlanInPrecision
from .sessions import Use, give_back_memory

_MOST_CHOICES = 1000
"""For so many shapes of inputs it is kept how they run; it is worked out in milliseconds."""

_LAST_SIZES = 4
"""Graphs that ran on none of the last so many sizes of samples are let go.

With convolutions on tiles they are of one size, and have weights of their own. Two or three sizes
in turn, as of images that lie, stand or are square, make none anew; with others each time memory
would grow without bound."""


@dataclass
class TimeSteps:
    """Chooses how time-steps run, and makes their graphs where they are first used.

    ``step``: the graph of one time-step; ``states``: what it reads and writes anew.
    ``costs``: what its graphs cost. ``create``: makes a session of a graph, as ``create_session``
    does. ``on_cpu``: whether that runs on a CPU, on so many ``cores``. Chunks share weights
    ``in_layout``, that of the CPU, by shape, type and digest, and those ``in_units`` of thresholds,
    by name and ``shapes_known``. ``matrices``: those of convolutions on tiles, which lean chunks
    share, by the names of their weights. ``used``: by the last sizes of samples, the latest at the
    end, which sessions ran on them.
    """

    network: PlanInPrecision
    step: onnx.ModelProto
    states: Sequence[State]
    costs: Costs
    create: Callable[..., Any]
    on_cpu: bool
    cores: int
    sessions: dict[Form, Any] = field(default_factory=dict)
    in_layout: dict[tuple, np.ndarray] = field(default_factory=dict)
    in_units: dict[tuple[str, bool], np.ndarray] = field(default_factory=dict)
    matrices: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    choices: dict[tuple, Choice] = field(default_factory=dict)
    used: dict[tuple[Shape, ...], set[Form]] = field(default_factory=dict)

    def choice(
        self,
        inputs: Mapping[str, np.ndarray],
        readouts: int,
        varying: bool,
        prologue: int,
    ) -> Choice:
        """How time-steps run that read ``inputs`` besides states, with so many read-outs.

        ``varying``: whether inputs are others at each time-step. ``prologue``: bytes that it takes.
        """
        read = {name: value.shape for name, value in inputs.items()}
        key = (*read.items(), readouts, varying, prologue)
        if key not in self.choices:
            if len(self.choices) == _MOST_CHOICES:
                self.choices.clear()
            samples = samples_of(self.network.plan, inputs)
            found = shapes_read(self.network.plan, self.step, read, samples)
            shapes = without_open_states(self.network.plan, found)
            groups = self._groups(shapes, samples)
            together = groups.long
            read_out, outputs = self._read_out(found)
            if together < samples:
                found = {name: (together, *shape[1:]) for name, shape in found.items()}
            run = Run(
                sizes=sizes_of(self.costs.peaks.step, found),
                shapes=found,
                samples=samples,
                groups=groups,
                prologue=prologue,
                read_out=read_out,
                outputs=outputs,
                readouts=readouts,
                varying=varying,
            )
            self.choices[key] = choose(self.costs, run, self._layout(shapes, samples), shapes)
            # Graphs of chunks were made to estimate what they take.
            give_back_memory()
        return self.choices[key]

    def _groups(self, shapes: Mapping[str, Shape], samples: int) -> Groups:
        """How many of so many samples run together."""
        if not self.on_cpu or not self.costs.in_chunks:
            return groups_of_all(samples)
        return groups_of(self.step, self.states, shapes, samples, self.cores)

    def states_have_rows(self, choice: Choice, samples: int) -> bool:
        """Whether states have a row for each of so many samples, along axis 0, as inputs do.

        And nothing has other rows of which there may be as many as samples, once some have left.
        True for one sample: the run ends when it leaves.
        """
        if choice.samples != samples or samples == 1:
            return choice.samples == samples
        others = {shape[0] for shape in choice.shapes.values() if shape} - {1, samples}
        if any(isinstance(rows, int) and rows < samples for rows in others):
            return False
        return states_have_rows(self.step, self.states, choice.shapes, samples)

    def session(self, steps: int, choice: Choice) -> Any:
        """The session that does so many time-steps in a run; if not lean, with its own weights."""
        form = choice.forms[steps]
        self._note(form, choice.sizes)
        if form not in self.sessions:
            self._make_room(choice)
            graph, own = self._graph(form)
            use = Use(
                lean=form.lean,
                plans_memory=form.plans_memory,
                in_order=form.layout is not None,
                captures=True,
            )
            self.sessions[form] = self.create(graph, use, own)
            # Its own weights are there once more, in the layout of the session.
            del graph, own
            give_back_memory()
        return self.sessions[form]

    def _note(self, form: Form, sizes: tuple[Shape, ...]) -> None:
        """Note which session runs on samples of these sizes; let go of those of older ones."""
        forms = self.used.pop(sizes, set())
        forms.add(form)
        self.used[sizes] = forms
        if len(self.used) > _LAST_SIZES:
            del self.used[next(iter(self.used))]
            kept = self.sessions.keys() & set().union(*self.used.values())
            self.sessions = {form: self.sessions[form] for form in kept}

    def _make_room(self, choice: Choice) -> None:
        """Let go of sessions that other choices made, where not all fit the memory."""
        most = self.costs.max_memory
        if most is None:
            return
        wanted = set(choice.forms.values())
        others = [form for form in self.sessions.keys() - wanted if not form.lean]
        tiled = {tiles.weights for tiles in choice.tiled if choice.lean}
        # Lean chunks hold nothing within a budget, but share matrices.
        shared = [v for name in self.matrices.keys() - tiled for v in self.matrices[name].values()]
        total = choice.memory.total + len(others) * self.costs.copied
        total += sum(values.nbytes for values in shared)
        if total > most:
            self.sessions = {form: self.sessions[form] for form in self.sessions.keys() & wanted}
            self.matrices = {name: self.matrices[name] for name in self.matrices.keys() & tiled}

    def _rounded(
        self, model: onnx.ModelProto, layers: Mapping[str, IntegerLayer]
    ) -> onnx.ModelProto:
        """A graph of time-steps with layers in the precision of the network."""
        model = with_integer_products(model, layers)
        return with_half_products(model, self.network.half)

    def _graph(self, form: Form) -> tuple[ModelParts, dict[str, np.ndarray]]:
        """The graph of a run, and weights that its session holds in another layout."""
        if form.steps == 1 or form.lean:
            return self._plain_graph(form)
        unit = with_unit_thresholds(self.step, self.network, self.states, form.shapes_known)
        weights, own = self.network.plan.weights | unit.weights, dict(unit.weights)
        for tiles in form.tiled:
            own.pop(tiles.weights, None)
            own |= matrices_of(weights[tiles.weights], tiles.weights)

        def chunk_of(step: onnx.ModelProto) -> onnx.ModelProto:
            states = [*self.states, *unit.inner]
            chunk = unrolled(step, states, form.steps, dict(form.time_batched), unit.begins)
            chunk = with_winograd(self._rounded(chunk, unit.layers), form.tiled)
            return with_weights_first(chunk, form.weights_first)

        chunk = None
        if form.layout is not None:
            stand_ins = with_stand_ins(unit.step, unit.bodies)
            chunk = laid_out(chunk_of(stand_ins.step), stand_ins, form.layout, weights | own)
        if chunk is None:
            # Of the same names and states chunks have the same weights.
            keys = {name: (name, form.shapes_known) for name in form.weights_first & own.keys()}
            shared = {n: self.in_units.setdefault(key, own[n]) for n, key in keys.items()}
            chunk = ModelParts(chunk_of(unit.step), shared)
        else:
            shared = self._shared(chunk.weights)
        structure = rescaled(chunk.structure, unit.units, self.states)
        held = {tensor.name for tensor in structure.graph.initializer} - shared.keys()
        own = {name: values for name, values in own.items() if name in held}
        return ModelParts(structure, shared), own

    def _plain_graph(self, form: Form) -> tuple[ModelParts, dict[str, np.ndarray]]:
        """The same with weights as they are, of which all such graphs share one copy."""
        step = self.step
        if form.steps > 1:
            step = unrolled(step, self.states, form.steps, dict(form.time_batched))
        step = with_winograd(self._rounded(step, self.network.layers), form.tiled)
        step = with_columns(step, form.columns)
        step = with_weights_first(step, form.weights_first)
        return ModelParts(step, self._shared_matrices(form.tiled)), self._with_biases(form.held)

    def _with_biases(self, names: frozenset[str]) -> dict[str, np.ndarray]:
        """Weights of these names, and the biases beside them, by name.

        ONNX Runtime lays out convolutions that have both.
        """
        layers = (node for node in self.step.graph.node if names.intersection(node.input[1:2]))
        weights = self.network.plan.weights
        return {n: weights[n] for node in layers for n in node.input[1:] if n in weights}

    def _shared_matrices(self, tiled: Iterable[Tiles]) -> dict[str, np.ndarray]:
        """The matrices of convolutions on tiles by name, of which lean chunks share one copy."""
        weights, found = self.network.plan.weights, dict[str, np.ndarray]()
        for name in (tiles.weights for tiles in tiled):
            if name not in self.matrices:
                self.matrices[name] = matrices_of(weights[name], name)
            found |= self.matrices[name]
        return found

    def _shared(self, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weights of a chunk, those of the network or of another chunk where they equal these."""
        held, network = {}, self.network.plan.weights
        for name, values in own.items():
            if name in network and np.array_equal(values, network[name]):
                held[name] = network[name]
                continue
            key = values.shape, values.dtype, hashlib.blake2b(values.data).digest()
            held[name] = self.in_layout.setdefault(key, values)
        return held

    def _read_out(self, shapes: dict[str, Shape]) -> tuple[int, int]:
        """``read_out_memory`` where a step reads tensors of these shapes."""
        plan, sizes = self.network.plan, sizes_of(self.step, shapes)
        read = {n: sizes.shapes[n] for n in plan.readout_types if all(sizes.shapes.get(n, (0,)))}
        return read_out_memory(plan, sizes, read)

    def _layout(self, shapes: dict[str, Shape], samples: int) -> Layout | None:
        """What enters the layout of the CPU in chunks; None where they stay in plain layout."""
        if not self.on_cpu or not all_known(self.states, shapes) or self.network.half:
            return None
        plan = self.network.plan
        any_number = any(not isinstance(size, int) for t in plan.inputs for size in t.shape[:1])
        # What is computed in plain layout reads and writes its states so.
        plain = {
            name
            for node in self.step.graph.node
            if node.domain == DOMAIN and node.op_type not in (*NEURONS, *SPIKING_POOLS)
            for name in node.input
        }
        entering = {name: shape for name, shape in shapes.items() if name not in plain}
        return layout_of(plan.neurons, entering, samples, any_number)
