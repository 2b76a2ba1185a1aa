"""Cut an SNN into the graphs that a session runs.

    prologue   what no neuron feeds; under a constant input, run once
    step       the neurons and what lies between them; run once a time-step
    epilogue   the affine part of the read-out; run on sums over time, when one is wanted
    read-out   what is not affine, such as a Softmax, run on the averages over time

The step also adds up, over time, the postsynaptic potential of every neuron (from which
spike counts follow) and whatever else the epilogue reads.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.driver import verify
from onnx2snn.graph_passes.errors import ModelError, PassError
from onnx2snn.graph_passes.graph.broadcasting import may_fit
from onnx2snn.graph_passes.graph.editing import operands, part_of
from onnx2snn.graph_passes.graph.finite import require_finite_weights
from onnx2snn.graph_passes.graph.neurons import (
    COUNTING,
    TENSOR_ATTRIBUTES,
    initial_potential_of,
    inputs_besides_states,
    is_neuron,
    is_stateful,
    max_spikes_of,
    names_of_states,
    require_neurons,
    starts_of,
    state_names,
    stateful_nodes,
    states_read,
    states_written,
    sum_type,
    threshold_of,
)
from onnx2snn.graph_passes.graph.regions import downstream, made_by
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.model_files.io import to_graph, to_parts
from onnx2snn.graph_passes.model_files.protos import unused_prefix
from onnx2snn.graph_passes.model_files.weights import ModelParts, attach

from .graphs import has_float16
from .kernels import lower_if
from .parts import Parts, Passed, finals_of, parts_of, passed_between, require_affine


@dataclass(frozen=True, eq=False)
class NeuronLayer:
    """One layer of neurons, of the kind ``op``; ``current`` names what it reads.

    ``shape`` is that of one sample, with names for sizes that are not fixed; ``threshold``
    and ``v_init``, read-only, broadcast against it. ``spikes`` names the sum of postsynaptic
    potentials x = s V_th, ``positive`` that of those above 0, the same where no s is negative.
    ``max_spikes``: so many are emitted in a time-step at most.
    """

    name: str
    op: str
    shape: tuple[int | str, ...]
    threshold: np.ndarray
    v_init: np.ndarray
    current: str
    spikes: str
    positive: str
    max_spikes: int

    @property
    def states(self) -> list[str]:
        """The names of the states that it reads, each of the shape of its current."""
        return [read for read, _ in state_names(self.op, self.name)]


@dataclass(frozen=True)
class State:
    """A tensor that the step reads and writes anew; ``start`` broadcasts to its shape."""

    read: str
    written: str
    start: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The graphs of one SNN and the tensors that pass between them.

    ``step_inputs`` are what the step reads from the prologue or from the inputs themselves;
    ``states`` what it reads and writes anew besides sums, in the order of the file; ``sums`` the
    sums over time, by the name of what is summed;
    ``readout_types`` the types of those of them that the epilogue reads. ``affine``: whether the
    step is known to be affine in all that it reads. ``averages`` names
    what the epilogue computes, by the tensors that take its averages over time: outputs, or
    inputs of ``read_out``, the part that is not affine. ``means`` names the outputs that the
    file gives as averages of all time-steps so far; averages begin after ``delay`` time-steps.
    ``mean_states`` are the states of those averages in the file, by what takes the average, and
    ``clock`` that of the time-step, if the file counts it: the step has them only where it needs
    them itself.
    ``latest``: what ``read_out``, or an output, takes of the step's inputs as it is at the last
    time-step, such as masks and indices, of which there is no average.
    ``shared``: inputs, and what the step reads, that hold for all samples, their first axis being
    fixed where that of another input is open.
    ``weights`` are the large initializers of all graphs, by name, which the graphs hold as stubs.
    """

    inputs: tuple[gs.Variable, ...]
    outputs: tuple[str, ...]
    prologue: onnx.ModelProto | None
    step: onnx.ModelProto
    epilogue: onnx.ModelProto
    read_out: onnx.ModelProto | None
    step_inputs: tuple[str, ...]
    readout_types: dict[str, np.dtype]
    affine: bool
    averages: tuple[str, ...]
    neurons: tuple[NeuronLayer, ...]
    states: tuple[State, ...]
    sums: dict[str, State]
    means: tuple[str, ...]
    mean_states: dict[str, State]
    clock: State | None
    latest: tuple[str, ...]
    delay: int
    shared: frozenset[str]
    weights: dict[str, np.ndarray]

    @cached_property
    def sums_in_float16(self) -> bool:
        """Whether the epilogue computes in float16, which cannot hold sums over time."""
        return has_float16(self.epilogue)

    @property
    def graphs(self) -> list[onnx.ModelProto]:
        """The graphs that there are."""
        parts = (self.prologue, self.step, self.epilogue, self.read_out)
        return [part for part in parts if part is not None]


def build_plan(model: onnx.ModelProto | ModelParts) -> Plan:
    """Make the plan of an SNN.

    Raises ``ModelError`` if the model has no neurons, and ``UnsupportedModelError`` if a
    node between neurons, or in a read-out that is averaged over time, is not affine.
    """
    graph = to_graph(model)
    require_neurons(graph)
    try:
        verify(graph)
    except PassError as error:
        raise ModelError(f"not a valid spiking network: {error}") from error
    require_finite_weights(graph)
    infer_shapes(graph)
    states, inputs = names_of_states(graph), inputs_besides_states(graph)
    outputs = [tensor for tensor in graph.outputs if tensor.name not in states]

    parts = parts_of(graph)
    require_affine(graph, parts)
    finals = finals_of(parts, outputs)
    passed = passed_between(parts, inputs, finals)
    stateful = [node for node in parts.core if is_stateful(node)]
    neurons = [node for node in stateful if is_neuron(node)]
    prefix = unused_prefix([*graph.tensors(), *(node.name for node in graph.nodes)], "plan/")
    positive = {node.name: _positive(node, prefix) for node in neurons}
    summed = {node.outputs[0].name: node.outputs[0] for node in neurons} | passed.to_epilogue
    summed |= {tensor.name: tensor for tensor in positive.values()}
    sums = {name: _sum_state(tensor, prefix) for name, tensor in summed.items()}
    made = passed.from_prologue
    prologue = _model(graph, parts.prologue, inputs, made) if made else None
    epilogue = _epilogue_model(graph, parts.epilogue, passed.to_epilogue, finals, prefix)
    read_out = _read_out_model(graph, parts, finals, outputs)
    # The file averages what it wants averaged: finals by another name.
    means = tuple(t.name for t in outputs if t.name in made_by(parts.read_out + parts.means))
    layers = tuple(_neuron(node, positive[node.name].name) for node in neurons)
    kept = tuple(state for node in stateful for state in states_of(node))
    shared = _shared(graph, inputs, passed.to_step)
    clocks = [node for node in stateful_nodes(graph) if node.op == "Clock"]
    # Last, since it rewrites the neurons.
    step = _step_model(graph, parts.core, passed, summed, sums, prefix)
    held = [part for part in (prologue, epilogue, read_out, step) if part is not None]
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            # The plan has the weights; those of the graph, whose tensors refer to themselves, go.
            tensor.values = np.empty(0, tensor.dtype)

    return Plan(
        # Of their own: those of the graph would hold it, and its weights.
        inputs=tuple(gs.Variable(t.name, t.dtype, t.shape) for t in inputs),
        outputs=tuple(tensor.name for tensor in outputs),
        prologue=prologue.structure if prologue else None,
        step=step.structure,
        epilogue=epilogue.structure,
        read_out=read_out.structure if read_out else None,
        readout_types={name: np.dtype(t.dtype) for name, t in passed.to_epilogue.items()},
        affine=not parts.shaped,
        averages=tuple(finals),
        neurons=layers,
        states=kept,
        sums=sums,
        step_inputs=tuple(passed.to_step),
        means=means,
        mean_states={n.outputs[0].name: state for n in parts.means for state in states_of(n)},
        clock=states_of(clocks[0])[0] if clocks else None,
        latest=tuple(passed.late),
        delay=_delay(parts.means),
        shared=shared,
        weights={name: values for part in held for name, values in part.weights.items()},
    )


def _shared(graph: gs.Graph, inputs: list[gs.Variable], read: Iterable[str]) -> frozenset[str]:
    """Of inputs, and what the step reads, the names of those that hold for all samples."""

    def fixed(tensor: gs.Variable) -> bool:
        return tensor.shape is not None and all(isinstance(n, int) for n in tensor.shape[:1])

    of_samples = [tensor for tensor in inputs if not fixed(tensor)]
    if not of_samples:
        return frozenset()
    # A sequence [L, N, C] has a fixed size first, and is of samples all the same.
    names = frozenset(tensor.name for tensor in inputs) | frozenset(read)
    return names - downstream(graph, of_samples, shapes=True)


def with_weights(plan: Plan) -> Plan:
    """The plan with graphs that hold their weights themselves."""
    parts = {name: getattr(plan, name) for name in ("prologue", "step", "epilogue", "read_out")}
    whole: dict[str, Any] = {
        name: attach(ModelParts(part, plan.weights))
        for name, part in parts.items()
        if part is not None
    }
    return replace(plan, **whole, weights={})


def _positive(node: gs.Node, prefix: str) -> gs.Variable:
    """What of x is above 0: x itself where a neuron takes no spikes back."""
    x = node.outputs[0]
    name = f"{prefix}positive/{x.name}"
    return gs.Variable(name, x.dtype, x.shape) if node.op in COUNTING else x


def _delay(means: list[gs.Node]) -> int:
    """After how many time-steps all averages begin."""
    values = [np.asarray(node.attrs["delay"].values if node.attrs else 0.0) for node in means]
    if any(value.ndim for value in values):
        raise ModelError("a DelayedMean's delay must be one number")
    delays = {float(value) for value in values}
    if len(delays) > 1:
        raise ModelError(f"the network's averages begin at different times: {sorted(delays)}")
    delay = delays.pop() if delays else 0.0
    if delay < 0 or not delay.is_integer():
        raise ModelError(f"the delay of the read-out must be whole time-steps, not {delay:g}")
    return int(delay)


def _neuron(node: gs.Node, positive: str) -> NeuronLayer:
    x = node.outputs[0]
    shape = tuple(x.shape[1:]) if x.shape is not None else ()
    for name in sorted(TENSOR_ATTRIBUTES & set(node.attrs)):
        own = node.attrs[name].shape
        if not may_fit(own, shape):
            raise ModelError(
                f"{node.op} '{node.name}': {name} has shape {list(own)}, "
                f"which does not fit a sample of shape {list(shape)}"
            )
    return NeuronLayer(
        name=node.name,
        op=node.op,
        shape=shape,
        threshold=_to_read(threshold_of(node)),
        v_init=_to_read(initial_potential_of(node)),
        current=node.inputs[0].name,
        spikes=x.name,
        positive=positive,
        max_spikes=max_spikes_of(node),
    )


def _to_read(values: np.ndarray) -> np.ndarray:
    """A view that cannot be written to: who has it is no owner of what sessions compute with."""
    view = values.view()
    view.flags.writeable = False
    return view


def states_of(node: gs.Node) -> list[State]:
    """The states of a stateful node."""
    names = state_names(node.op, node.name)
    pairs = zip(names, starts_of(node), strict=True)
    return [State(read, written, start) for (read, written), start in pairs]


def _sum_state(tensor: gs.Variable, prefix: str) -> State:
    if tensor.shape is None or tensor.dtype is None:
        raise ModelError(f"the number of axes of '{tensor.name}' cannot be inferred")
    dtype = sum_type(np.dtype(tensor.dtype))
    start = np.zeros((1,) * len(tensor.shape), dtype)
    return State(f"{prefix}sum/{tensor.name}", f"{prefix}sum_next/{tensor.name}", start)


def _model(
    graph: gs.Graph,
    nodes: list[gs.Node],
    inputs: list[gs.Variable],
    outputs: list[gs.Variable],
) -> ModelParts:
    parts = to_parts(part_of(graph, nodes, inputs, outputs))
    model = parts.structure
    # Shapes of the whole graph do not belong to a part of it: only ranks and types do.
    del model.graph.value_info[:]
    for info in (*model.graph.input, *model.graph.output):
        for axis, dimension in enumerate(info.type.tensor_type.shape.dim):
            dimension.dim_param = f"{info.name}.{axis}"
    return parts


def _step_model(
    graph: gs.Graph,
    core: list[gs.Node],
    passed: Passed,
    summed: dict[str, gs.Variable],
    sums: dict[str, State],
    prefix: str,
) -> ModelParts:
    states_in = [state for node in core if is_stateful(node) for state in states_read(node)]
    states_out = [state for node in core if is_stateful(node) for state in states_written(node)]
    step = gs.Graph(nodes=[node for node in core if node.op != "IF"])
    for node in core:
        if node.op in COUNTING:
            x, above = node.outputs[0], summed[_positive(node, prefix).name]
            step.nodes.append(gs.Node("Relu", above.name, {}, [x], [above]))
        if node.op == "IF":
            lower_if(step, node, f"{prefix}neuron/")
    sums_in, sums_out = [], []
    for name, tensor in summed.items():
        state, dtype = sums[name], sums[name].start.dtype
        sums_in.append(gs.Variable(state.read, dtype, tensor.shape))
        sums_out.append(gs.Variable(state.written, dtype, tensor.shape))
        term = tensor
        if tensor.dtype != dtype:
            term = gs.Variable(f"{prefix}term/{name}", dtype)
            step.nodes.append(gs.Node("CastLike", term.name, {}, [tensor, sums_in[-1]], [term]))
        step.nodes.append(gs.Node("Add", state.written, {}, [sums_in[-1], term], [sums_out[-1]]))
    step.toposort()
    now = [tensor for name, tensor in passed.to_epilogue.items() if name not in passed.to_step]
    return _model(
        graph,
        step.nodes,
        [*passed.to_step.values(), *states_in, *sums_in],
        [*now, *states_out, *sums_out],
    )


def _epilogue_model(
    graph: gs.Graph,
    epilogue: list[gs.Node],
    reads: dict[str, gs.Variable],
    finals: dict[str, gs.Variable],
    prefix: str,
) -> ModelParts:
    nodes, outputs = list(epilogue), []
    taken: set[str] = set(reads)
    for number, tensor in enumerate(finals.values()):
        output = tensor
        if tensor.name in taken:
            output = gs.Variable(f"{prefix}{number}/{tensor.name}", tensor.dtype, tensor.shape)
            nodes.append(gs.Node("Identity", output.name, {}, [tensor], [output]))
        taken.add(output.name)
        outputs.append(output)
    return _model(graph, nodes, list(reads.values()), outputs)


def _read_out_model(
    graph: gs.Graph,
    parts: Parts,
    finals: dict[str, gs.Variable],
    outputs: list[gs.Variable],
) -> ModelParts | None:
    made = made_by(parts.read_out)
    wanted = [tensor for tensor in outputs if tensor.name in made]
    if not wanted:
        return None
    read = {tensor.name: tensor for node in parts.read_out for tensor in operands(node)}
    means = {node.outputs[0].name: node.outputs[0] for node in parts.means}
    for node in parts.means:
        # A clock's time-step, [1], gave the mean an axis even where what it is of has none.
        node.outputs[0].shape = node.inputs[0].shape
    inputs = [means.get(name, tensor) for name, tensor in finals.items() if name in read]
    return _model(graph, parts.read_out, inputs, wanted)
