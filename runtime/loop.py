"""A spiking network and its time-steps in one ordinary ONNX graph.

    x -> prologue -> Loop over the step, which adds up what the epilogue reads
      -> epilogue on the sums, averages over time, read-out -> y

The parts are those of the plan that a session runs, and so is the arithmetic between them: the
graph gives what ``SpikingSession(plan="step")`` gives, bit for bit in float32 at one optimisation
level of ONNX Runtime, and what the default session gives where sums are exact. docs/exports.md says
where float16 differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.inliner
from onnx import helper

from onnx2snn.graph_passes.errors import DataError, ModelError, optional_whole
from onnx2snn.graph_passes.graph.neurons import DOMAIN
from onnx2snn.graph_passes.graph.shapes import declared_shape
from onnx2snn.graph_passes.model_files.files import MAX_PROTO_BYTES
from onnx2snn.graph_passes.model_files.protos import unused_prefix
from onnx2snn.graph_passes.model_files.weights import ModelParts, replace_all

from .inputs import MOST_TIMESTEPS
from .loop_read_outs import Network, read_outs, sum_of
from .plans.graphs import Writer
from .plans.plan import build_plan, with_weights
from .sums import most_steps_carried


def loop_model(
    snn: onnx.ModelProto | ModelParts,
    timesteps: int | None,
    *,
    unroll: bool = False,
    each_step: bool = False,
    rates: bool = False,
    inline: bool = False,
) -> onnx.ModelProto:
    """The network over T time-steps as one model: inputs [N, ...] in, read-outs out.

    timesteps: T, or None to make it an input ``timesteps``, an int64 scalar.
    unroll: T copies of the step in a row, in place of a Loop; for a fixed T up to 4096 (819 with
    bursts of 5), which is what sums in float32 hold.
    each_step: for each output y an output ``steps/y`` [T, N, ...], the read-out after each
    time-step. rates: for each layer of neurons n an output ``firing_rate/n``, float32 [N]:
    spikes per neuron and time-step in each sample, or in each row along the layer's axis 0, where
    samples are not its rows. Both: ``steps/firing_rate/n`` [T, N] too.
    inline: no operators but ONNX's own; else neurons other than IF are calls of functions in
    the file.

    Raises ``ModelError`` if the model is no spiking network, or too large for one file, and
    ``DataError`` for a T that is no whole number from 1 on or cannot be unrolled.
    """
    timesteps = optional_whole("timesteps", timesteps, 1, MOST_TIMESTEPS)
    plan = build_plan(snn)
    most = most_steps_carried(plan)
    if unroll and (timesteps is None or timesteps > most):
        raise DataError(
            f"only a fixed number of time-steps, up to {most}, can be unrolled: leave out --unroll"
        )
    size = sum(values.nbytes for values in plan.weights.values())
    if size > MAX_PROTO_BYTES:
        raise ModelError(
            f"the network's weights are {size:,} bytes: a file that loops holds its weights "
            f"itself, {MAX_PROTO_BYTES:,} bytes at most"
        )
    plan = with_weights(plan)
    network = Network(plan, timesteps, each_step, rates)
    names = [tensor.name for tensor in plan.inputs] + list(plan.outputs)
    root = unused_prefix(names, "loop/")
    main = Writer(root)
    reads = {tensor.name: tensor.name for tensor in plan.inputs}
    if plan.prologue is not None:
        reads |= main.part(plan.prologue, reads, "prologue")
    made = (_unrolled if unroll else _looped)(network, main, reads)
    own = {f"firing_rate/{neuron.name}" for neuron in plan.neurons} if rates else set[str]()
    own |= {f"steps/{name}" for name in (*plan.outputs, *own)} if each_step else set()
    own |= {_TIMESTEPS} if timesteps is None else set()
    clashes = own & set(names)
    if clashes:
        raise ModelError(
            f"the network has an input or output '{min(clashes)}', which is what the export calls "
            "one of its own: give it another name"
        )
    for name, tensor in made.items():
        main.node("Identity", [tensor], f"output/{name}", name)
    structure = snn.structure if isinstance(snn, ModelParts) else snn
    model = _model_of(network, main, list(made), structure)
    return _without_functions(model) if inline else model


# Time ----------------------------------------------------------------------------------


@dataclass
class _Carried:
    """A tensor that the Loop hands from time-step to time-step."""

    read: str
    start: np.ndarray
    written: str = ""


def _looped(network: Network, main: Writer, reads: Mapping[str, str]) -> dict[str, str]:
    """The step as the body of a Loop; returns the tensors that hold the outputs."""
    plan, sums = network.plan, network.sums
    body = Writer(f"{main.prefix}step/")
    states = {s.read: _Carried(body.prefix + s.read, s.start) for s in plan.states}
    running = {name: _Carried(body.prefix + s.read, s.start) for name, s in sums.items()}
    moved, before = dict[str, _Carried](), dict[str, _Carried]()
    for name, state in sums.items() if network.long else ():
        moved[name] = _Carried(f"{body.prefix}moved/{name}", state.start.astype(np.float64))
    for name in plan.readout_types if plan.delay else ():
        start = (moved or running)[name].start
        before[name] = _Carried(f"{body.prefix}before/{name}", start)
    carried = [*states.values(), *running.values(), *moved.values(), *before.values()]

    iteration = body.prefix + "iteration"
    number = body.node("Add", [iteration, body.constant(np.int64(1), "one")], "number")
    given = {name: held.read for name, held in states.items()}
    given |= {state.read: running[name].read for name, state in sums.items()}
    made = body.part(network.step, {**reads, **given}, "now")
    for state in plan.states:
        states[state.read].written = made[state.written]
    for name, state in sums.items():
        running[name].written = made[state.written]
    for name, held in before.items():
        # Up to the delay, nothing came before the averages; T may end there.
        begins = body.constant(np.int64(plan.delay + 1), "begins")
        at = body.node("Equal", [number, begins], f"begins/{name}")
        pair = running[name].read, moved[name].read if moved else ""
        until, _ = sum_of(network, body, name, *pair, f"until/{name}")
        held.written = body.node("Where", [at, until, held.read], f"before_next/{name}")
    if moved:
        _move(network, body, number, running, moved)
    steps = dict[str, str]()
    if network.each_step:
        t = body.node("Cast", [number], "t", to=onnx.TensorProto.DOUBLE)
        now = {held.read: held.written for held in carried}
        sums_now = _at(now, running), _at(now, moved), _at(now, before)
        steps = read_outs(network, body, t, reads, *sums_now)

    ends = [f"{main.prefix}end/{held.read.removeprefix(main.prefix)}" for held in carried]
    stacked = {f"steps/{name}": f"{main.prefix}steps/{name}" for name in steps}
    starts = [
        main.constant(held.start, f"start/{held.read.removeprefix(body.prefix)}")
        for held in carried
    ]
    trips = _TIMESTEPS
    if network.timesteps is not None:
        trips = main.constant(np.int64(network.timesteps), _TIMESTEPS)
    graph = _body_graph(body, iteration, carried, list(steps.values()))
    outputs = [*ends, *stacked.values()]
    # It may be left out, but the reference evaluator of onnx 1.23 takes that for False.
    read = [trips, main.constant(np.array(True), "go_on"), *starts]
    main.nodes.append(helper.make_node("Loop", read, outputs, f"{main.prefix}loop", body=graph))
    last = dict(zip((held.read for held in carried), ends, strict=True))
    t = main.node("Cast", [trips], "t", to=onnx.TensorProto.DOUBLE)
    sums_then = _at(last, running), _at(last, moved), _at(last, before)
    return read_outs(network, main, t, reads, *sums_then) | stacked


def _at(tensors: Mapping[str, str], kept: Mapping[str, _Carried]) -> dict[str, str]:
    """Where what is carried is found, by the names that the body reads it by."""
    return {name: tensors[held.read] for name, held in kept.items()}


def _move(
    network: Network,
    body: Writer,
    number: str,
    running: dict[str, _Carried],
    moved: dict[str, _Carried],
) -> None:
    """From time to time, move the sums to their float64 parts and begin them again."""
    most = body.constant(np.int64(most_steps_carried(network.plan)), "most")
    rest = body.node("Mod", [number, most], "rest")
    full = body.node("Equal", [rest, body.constant(np.int64(0), "none")], "full")
    thresholds = {x: n.threshold for n in network.plan.neurons for x in (n.spikes, n.positive)}
    for name, held in running.items():
        zero = body.constant(np.zeros((), held.start.dtype), f"zero/{held.start.dtype}")
        both = sum_of(network, body, name, held.written, moved[name].read, f"move/{name}")[0]
        if name in thresholds:
            # Whole multiples, so that what sums of V_th in float32 are off by does not add up.
            level = body.constant(thresholds[name].astype(np.float64), f"V_th/f64/{name}")
            levels = body.node("Div", [both, level], f"move/levels/{name}")
            whole = body.node("Round", [levels], f"move/whole/{name}")
            both = body.node("Mul", [whole, level], f"move/multiple/{name}")
        moved[name].written = body.node(
            "Where", [full, both, moved[name].read], f"moved_next/{name}"
        )
        held.written = body.node("Where", [full, zero, held.written], f"kept/{name}")


def _body_graph(
    body: Writer, iteration: str, carried: list[_Carried], scanned: list[str]
) -> onnx.GraphProto:
    going = body.prefix + "going"
    body.nodes.append(helper.make_node("Identity", [going], [f"{going}_next"], f"{going}_next"))

    def value(name: str, start: np.ndarray) -> onnx.ValueInfoProto:
        # Sizes change: the starts broadcast to the states that come after them.
        shape = [f"{name}.{axis}" for axis in range(start.ndim)]
        kind = helper.np_dtype_to_tensor_dtype(start.dtype)
        return helper.make_tensor_value_info(name, kind, shape)

    return helper.make_graph(
        body.nodes,
        "time_step",
        [
            helper.make_tensor_value_info(iteration, onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info(going, onnx.TensorProto.BOOL, []),
            *(value(held.read, held.start) for held in carried),
        ],
        [
            helper.make_tensor_value_info(f"{going}_next", onnx.TensorProto.BOOL, []),
            *(value(held.written, held.start) for held in carried),
            *(onnx.ValueInfoProto(name=name) for name in scanned),
        ],
        list(body.initializers.values()),
    )


def _unrolled(network: Network, main: Writer, reads: Mapping[str, str]) -> dict[str, str]:
    """One copy of the step after another; returns the tensors that hold the outputs."""
    plan, sums, step = network.plan, network.sums, network.step
    assert network.timesteps is not None
    now = {s.read: main.constant(s.start, f"start/{s.read}") for s in plan.states}
    now |= {s.read: main.constant(s.start, f"start/{s.read}") for s in sums.values()}
    before = dict[str, str]()
    finals = dict[str, str]()
    stacked: dict[str, list[str]] = {}
    for t in range(1, network.timesteps + 1):
        made = main.part(step, {**reads, **now}, f"step{t}")
        now = {s.read: made[s.written] for s in (*plan.states, *sums.values())}
        running = {name: now[state.read] for name, state in sums.items()}
        if network.each_step or t == network.timesteps:
            count = main.constant(np.float64(t), f"t/{t}")
            finals = read_outs(network, main, count, reads, running, {}, before, f"/{t}")
        for name, tensor in finals.items() if network.each_step else ():
            axis = main.constant(np.array([0]), "front")
            row = main.node("Unsqueeze", [tensor, axis], f"row/{t}/{name}")
            stacked.setdefault(f"steps/{name}", []).append(row)
        if t == plan.delay:
            before = {name: running[name] for name in plan.readout_types}
    return finals | {
        name: main.node("Concat", rows, name, axis=0) for name, rows in stacked.items()
    }


# The model ------------------------------------------------------------------------------

_TIMESTEPS = "timesteps"


def _model_of(
    network: Network, main: Writer, outputs: list[str], snn: onnx.ModelProto
) -> onnx.ModelProto:
    plan = network.plan
    inputs = {info.name: info for info in snn.graph.input}
    declared = {info.name: info for info in snn.graph.output}
    known = {info.name: info for info in (*snn.graph.value_info, *snn.graph.output)}
    for neuron in plan.neurons if network.rates else ():
        rate = f"firing_rate/{neuron.name}"
        rows = _sizes_of(known[neuron.spikes])[:1] if neuron.spikes in known else ["N"]
        declared[rate] = helper.make_tensor_value_info(rate, onnx.TensorProto.FLOAT, rows)
    for name in outputs:
        if name.startswith("steps/") and name not in declared:
            declared[name] = _stacked(declared[name.removeprefix("steps/")], network.timesteps)
    taken = [inputs[tensor.name] for tensor in plan.inputs]
    if network.timesteps is None:
        taken.append(helper.make_tensor_value_info(_TIMESTEPS, onnx.TensorProto.INT64, []))
    graph = helper.make_graph(
        main.nodes,
        snn.graph.name or "network",
        taken,
        [declared[name] for name in outputs],
        list(main.initializers.values()),
    )
    model = helper.make_model(
        graph,
        opset_imports=plan.step.opset_import,
        ir_version=max(8, snn.ir_version),
        producer_name="onnx2snn",
    )
    functions = {(f.domain, f.name): f for part in plan.graphs for f in part.functions}
    model.functions.extend(functions.values())
    return model


def _sizes_of(info: onnx.ValueInfoProto) -> list[int | str | None]:
    """The declared sizes of a tensor: numbers, names, or None where it has neither."""
    return [None if size == "?" else size for size in declared_shape(info.type.tensor_type)]


def _stacked(info: onnx.ValueInfoProto, timesteps: int | None) -> onnx.ValueInfoProto:
    """The declaration of an output at each time-step."""
    sizes = ["T" if timesteps is None else timesteps, *_sizes_of(info)]
    return helper.make_tensor_value_info(
        f"steps/{info.name}", info.type.tensor_type.elem_type, sizes
    )


def _without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every call of a function replaced by the function's body."""
    inlined = onnx.inliner.inline_local_functions(model) if model.functions else model
    kept = [entry for entry in inlined.opset_import if entry.domain != DOMAIN]
    replace_all(inlined.opset_import, kept)
    return inlined
