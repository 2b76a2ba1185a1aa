"""Cut an SNN into the three graphs that a session runs.

    prologue   what no neuron feeds; under a constant input, run once
    step       the neurons and what lies between them; run once a time-step
    epilogue   the read-out; run on sums over time, when a read-out is wanted

The step also adds up, over time, the postsynaptic potential of every neuron (from which
spike counts follow) and whatever else the epilogue reads.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.driver import verify
from onnx2snn.graph_passes.editing import operands
from onnx2snn.graph_passes.errors import ModelError, PassError, UnsupportedModelError
from onnx2snn.graph_passes.io import infer_shapes, opset_of, to_graph, to_model
from onnx2snn.graph_passes.linear import downstream, nonlinear_nodes, regions
from onnx2snn.graph_passes.neurons import (
    initial_potential_of,
    is_stateful,
    state_names,
    stateful_nodes,
    threshold_of,
    with_batch_axis,
)
from onnx2snn.graph_passes.spiking import require_finite_weights

from .kernels import lower_if


@dataclass(frozen=True)
class Neuron:
    """One layer of neurons.

    ``shape`` is that of one sample, with names for sizes that are not fixed; ``threshold``
    and ``v_init`` broadcast against it. ``spikes`` names the tensor of postsynaptic
    potentials x = s V_th.
    """

    name: str
    shape: tuple[int | str, ...]
    threshold: np.ndarray
    v_init: np.ndarray
    spikes: str


@dataclass(frozen=True)
class State:
    """A tensor that the step reads and writes anew; ``start`` broadcasts to its shape."""

    read: str
    written: str
    start: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The graphs of one SNN and the tensors that pass between them.

    ``step_inputs`` are what the step reads from the prologue or from the input itself;
    ``potentials`` the membrane potentials, in the order of ``neurons``; ``sums`` the sums
    over time, by the name of what is summed; ``readout_types`` the types of those of them
    that the epilogue reads.
    """

    input: gs.Variable
    output: str
    prologue: onnx.ModelProto | None
    step: onnx.ModelProto
    epilogue: onnx.ModelProto
    step_inputs: tuple[str, ...]
    readout_types: dict[str, np.dtype]
    neurons: tuple[Neuron, ...]
    potentials: tuple[State, ...]
    sums: dict[str, State]


def build_plan(model: onnx.ModelProto) -> Plan:
    """Make the plan of an SNN.

    Raises ``ModelError`` if the model has no neurons, or several inputs or outputs, and
    ``UnsupportedModelError`` if a node after a neuron is not affine.
    """
    graph = to_graph(model)
    graph.toposort()
    if not stateful_nodes(graph):
        raise ModelError(
            "the model has no spiking neurons: it is an ANN; convert it first (onnx2snn convert)"
        )
    try:
        verify(graph)
    except PassError as error:
        raise ModelError(f"not a valid spiking network: {error}") from error
    require_finite_weights(graph)
    refusals = nonlinear_nodes(graph)
    if refusals:
        raise UnsupportedModelError("not a rate-coded spiking network:", refusals)
    infer_shapes(graph)
    states = {name for node in stateful_nodes(graph) for name in state_names(node.name)}
    inputs = [tensor for tensor in graph.inputs if tensor.name not in states]
    outputs = [tensor for tensor in graph.outputs if tensor.name not in states]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"the model has {len(inputs)} inputs and {len(outputs)} outputs; "
            "spiking networks with one of each can be run so far"
        )
    (source,), (result,) = inputs, outputs

    neurons = tuple(_neuron(node) for node in stateful_nodes(graph))
    potentials = tuple(_potential(node) for node in stateful_nodes(graph))
    prologue, core, epilogue = _parts(graph)
    core_reads = _reads(core, {source.name, *_made(prologue)})
    epilogue_reads = _reads(epilogue, {source.name, *_made(prologue + core)})
    if result.name not in _made(epilogue):
        # The output is a neuron's, say: the read-out is the mean of just that tensor.
        epilogue_reads.setdefault(result.name, result)
    summed = {n.outputs[0].name: n.outputs[0] for n in stateful_nodes(graph)} | epilogue_reads
    step_reads = core_reads | {
        name: tensor for name, tensor in epilogue_reads.items() if name not in _made(core)
    }
    prologue_makes = [t for name, t in step_reads.items() if name in _made(prologue)]
    prefix = _unused_prefix(graph)
    sums = {name: _sum_state(tensor, prefix) for name, tensor in summed.items()}

    return Plan(
        input=source,
        output=result.name,
        prologue=_model(graph, prologue, [source], prologue_makes, model)
        if prologue_makes
        else None,
        epilogue=_epilogue_model(graph, epilogue, epilogue_reads, result, prefix, model),
        # Last, since it rewrites the neurons.
        step=_step_model(graph, core, step_reads, summed, sums, epilogue_reads, prefix, model),
        step_inputs=tuple(step_reads),
        readout_types={name: np.dtype(t.dtype) for name, t in epilogue_reads.items()},
        neurons=neurons,
        potentials=potentials,
        sums=sums,
    )


def _parts(graph: gs.Graph) -> tuple[list[gs.Node], list[gs.Node], list[gs.Node]]:
    """Prologue, core and epilogue, each with the arithmetic on shapes that it needs.

    What depends on shapes alone cannot pass from part to part as a sum over time, so each
    part computes it anew from the shapes of its own tensors.
    """
    varying = downstream(graph, graph.inputs)
    makers = {tensor.name: node for node in graph.nodes for tensor in node.outputs}
    order = {node.name: place for place, node in enumerate(graph.nodes)}

    def complete(nodes: list[gs.Node]) -> list[gs.Node]:
        part: dict[str, gs.Node] = {}
        waiting = [n for n in nodes if any(tensor.name in varying for tensor in n.outputs)]
        while waiting:
            node = waiting.pop()
            part[node.name] = node
            names = [tensor.name for tensor in operands(node)]
            waiting += [makers[n] for n in names if n in makers and n not in varying]
        return sorted(part.values(), key=lambda node: order[node.name])

    parts = regions(graph)
    return complete(parts.prologue), complete(parts.core), complete(parts.epilogue)


def _unused_prefix(graph: gs.Graph) -> str:
    """A prefix that no tensor or node of the graph has."""
    names = [*graph.tensors(), *(node.name for node in graph.nodes)]
    prefix = "plan/"
    while any(name.startswith(prefix) for name in names):
        prefix = "_" + prefix
    return prefix


def _neuron(node: gs.Node) -> Neuron:
    x = node.outputs[0]
    shape = tuple(x.shape[1:]) if x.shape is not None else ()
    for name in ("v_threshold", "v_init"):
        own = node.attrs[name].shape
        pairs = zip(own[::-1], shape[::-1], strict=False)
        if len(own) > len(shape) or any(a != 1 and isinstance(b, int) and a != b for a, b in pairs):
            raise ModelError(
                f"{node.op} '{node.name}': {name} has shape {list(own)}, "
                f"which does not fit a sample of shape {list(shape)}"
            )
    return Neuron(node.name, shape, threshold_of(node), initial_potential_of(node), x.name)


def _potential(node: gs.Node) -> State:
    read, written = state_names(node.name)
    start = with_batch_axis(initial_potential_of(node), len(node.inputs[-1].shape))
    return State(read, written, start)


def _sum_state(tensor: gs.Variable, prefix: str) -> State:
    if tensor.shape is None or tensor.dtype is None:
        raise ModelError(f"the number of axes of '{tensor.name}' cannot be inferred")
    # float16 holds no sums: above 2048 it cannot even count.
    dtype = np.promote_types(tensor.dtype, np.float32)
    start = np.zeros((1,) * len(tensor.shape), dtype)
    return State(f"{prefix}sum/{tensor.name}", f"{prefix}sum_next/{tensor.name}", start)


def _made(nodes: list[gs.Node]) -> set[str]:
    return {tensor.name for node in nodes for tensor in node.outputs}


def _reads(nodes: list[gs.Node], available: set[str]) -> dict[str, gs.Variable]:
    """What ``nodes`` read of ``available``, by name, in the order of first use."""
    made = _made(nodes)
    read = {t.name: t for node in nodes for t in operands(node)}
    return {name: t for name, t in read.items() if name in available and name not in made}


def _model(
    graph: gs.Graph,
    nodes: list[gs.Node],
    inputs: list[gs.Variable],
    outputs: list[gs.Variable],
    like: onnx.ModelProto,
) -> onnx.ModelProto:
    part = gs.Graph(
        nodes=list(nodes),
        inputs=list(inputs),
        outputs=list(outputs),
        opset=opset_of(like),
        import_domains=graph.import_domains,
        functions=graph.functions,
        ir_version=graph.ir_version,
        name="plan",
    )
    model = to_model(part)
    # Shapes of the whole graph do not belong to a part of it: only ranks and types do.
    del model.graph.value_info[:]
    for info in (*model.graph.input, *model.graph.output):
        for axis, dimension in enumerate(info.type.tensor_type.shape.dim):
            dimension.dim_param = f"{info.name}.{axis}"
    return model


def _step_model(
    graph: gs.Graph,
    core: list[gs.Node],
    reads: dict[str, gs.Variable],
    summed: dict[str, gs.Variable],
    sums: dict[str, State],
    readout: dict[str, gs.Variable],
    prefix: str,
    like: onnx.ModelProto,
) -> onnx.ModelProto:
    states_in = [node.inputs[-1] for node in core if is_stateful(node)]
    states_out = [node.outputs[-1] for node in core if is_stateful(node)]
    step = gs.Graph(nodes=[node for node in core if not is_stateful(node)])
    for node in core:
        if is_stateful(node):
            lower_if(step, node, prefix)
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
    now = [tensor for name, tensor in readout.items() if name not in reads]
    return _model(
        graph,
        step.nodes,
        [*reads.values(), *states_in, *sums_in],
        [*now, *states_out, *sums_out],
        like,
    )


def _epilogue_model(
    graph: gs.Graph,
    epilogue: list[gs.Node],
    reads: dict[str, gs.Variable],
    result: gs.Variable,
    prefix: str,
    like: onnx.ModelProto,
) -> onnx.ModelProto:
    nodes = list(epilogue)
    output = result
    if result.name in reads:
        output = gs.Variable(prefix + result.name, result.dtype, result.shape)
        nodes.append(gs.Node("Identity", output.name, {}, [result], [output]))
    return _model(graph, nodes, list(reads.values()), [output], like)
