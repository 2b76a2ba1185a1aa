"""The model of one time-step for Triton, which keeps the states of sequences apart.

The server may batch requests of different sequences, each at a time-step of its own. So the reset
is inside: state' = Where(START, v(0), state), and time is counted for each sample.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx2snn.converting.checking import seeded_inputs
from onnx2snn.graph_passes.errors import DataError, ModelError
from onnx2snn.graph_passes.graph.neurons import DOMAIN, state_names, stateful_nodes
from onnx2snn.graph_passes.graph.shapes import declared_shape, infer_shapes
from onnx2snn.graph_passes.model_files.io import to_graph
from onnx2snn.graph_passes.model_files.protos import names_in, unused_prefix
from onnx2snn.graph_passes.model_files.weights import copy_model, replace_all
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.apart import why_not_apart
from onnx2snn.runtime.failures import OUT_OF_MEMORY
from onnx2snn.runtime.plans.graphs import MANY
from onnx2snn.runtime.plans.plan import Plan, build_plan
from onnx2snn.runtime.plans.sizes import sizes_of

START = "START"
"""The input of the stateful model that is true at the first time-step of a sequence."""

_SIZES = (1009, 1013, 1019, 1021, 1031, 1033, 1039)
"""Primes that stand in for axes of any size."""


class SequenceState(NamedTuple):
    """A state [N, ...] by the names of the input and the output; ``dims``: those of a sample."""

    read: str
    written: str
    dims: list[int]


@dataclass(frozen=True)
class StatefulModel:
    """One time-step with a reset inside.

    START, bool [N, 1], says which samples begin a sequence. What the states of those hold does not
    matter. ``means``: the outputs that are the read-out of all time-steps so far.
    """

    model: onnx.ModelProto
    states: list[SequenceState]
    means: tuple[str, ...]


def stateful_model(snn: onnx.ModelProto) -> StatefulModel:
    """The model of one time-step of a network; raises ``ModelError`` as ``to_triton``."""
    plan = build_plan(snn)  # Refuses what is no spiking network.
    _require_rows(snn)
    _require_apart(snn, plan)
    graph = to_graph(snn)
    infer_shapes(graph)
    currents = {node.name: node.inputs[0].shape for node in stateful_nodes(graph)}
    clocks = {node.name for node in stateful_nodes(graph) if node.op == "Clock"}
    model = copy_model(snn)
    proto = model.graph
    taken = names_in(model)
    root = unused_prefix(taken, "triton/")
    if START in taken:
        raise ModelError(f"the network has a tensor or node '{START}' already: rename it")
    defaults = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
    infos = {info.name: info for info in (*proto.input, *proto.output)}
    nodes: list[onnx.NodeProto] = []
    states: list[SequenceState] = []
    constants: dict[str, np.ndarray] = {}
    reshaped: set[str] = set()

    def per_sample(tensor: str, rank: int, name: str) -> str:
        """[N, 1] as [N, 1, ..., 1] of a rank."""
        if rank == 2:
            return tensor
        shape = root + f"shape/{rank}"
        constants[shape] = np.array([-1] + [1] * (rank - 1))
        if name not in reshaped:
            nodes.append(helper.make_node("Reshape", [tensor, shape], [name], name))
            reshaped.add(name)
        return name

    times = {node.output[0] for node in proto.node if node.name in clocks}
    for node in list(proto.node):
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        shape = [-1, 1] if node.name in clocks else _sizes(currents[node.name])
        for position, tensor in enumerate(node.input):
            if tensor in times:
                node.input[position] = per_sample(tensor, len(shape), f"{root}t/{len(shape)}")
        for read, written in state_names(node.op_type, node.name):
            first = root + f"first/{read}"
            constants[first] = np.array(defaults[read], ndmin=len(shape))
            begins = per_sample(START, len(shape), f"{root}start/{len(shape)}")
            reset = root + read
            nodes.append(helper.make_node("Where", [begins, first, read], [reset], reset))
            node.input[:] = [reset if name == read else name for name in node.input]
            for name in (read, written):
                sizes = ["N", *(f"{name}.{i}" if d < 0 else d for i, d in enumerate(shape[1:]))]
                kind = infos[name].type.tensor_type.elem_type
                infos[name].CopyFrom(helper.make_tensor_value_info(name, kind, sizes))
            states.append(SequenceState(read, written, shape[1:]))
        nodes.append(node)
    del proto.value_info[:]
    replace_all(proto.node, nodes)
    starts = {state.read for state in states}
    weights = [tensor for tensor in proto.initializer if tensor.name not in starts]
    weights += [numpy_helper.from_array(v, n) for n, v in constants.items()]
    replace_all(proto.initializer, weights)
    proto.input.append(helper.make_tensor_value_info(START, onnx.TensorProto.BOOL, ["N", 1]))
    return StatefulModel(model, states, plan.means)


def _require_rows(snn: onnx.ModelProto) -> None:
    """Raise ``ModelError`` where not all have one row for each sample, as far as shapes are known.

    As where the axis of time became part of that of samples, or is before it.
    """
    stateful = [node for node in snn.graph.node if node.domain == DOMAIN]
    pairs = [
        (node.name, *pair) for node in stateful for pair in state_names(node.op_type, node.name)
    ]
    layers, read = {written: name for name, _, written in pairs}, {name for _, name, _ in pairs}
    given = [info for info in snn.graph.input if info.name not in read]
    declared = {info.name: declared_shape(info.type.tensor_type) for info in given}
    free = {n: d for n, d in declared.items() if d and isinstance(d[0], str)}
    # Numbers of their own tell other axes of any size from that of samples, also in a product.
    others = {size for shape in free.values() for size in shape[1:] if isinstance(size, str)}
    numbers: dict[int | str, int | str] = dict(
        zip(sorted(others), itertools.cycle(_SIZES), strict=False)
    )
    known = {n: (MANY, *(numbers.get(size, size) for size in d[1:])) for n, d in free.items()}
    shapes = sizes_of(snn, known).shapes
    wrong = [
        f"the output '{info.name}'" if info.name not in layers else f"'{layers[info.name]}'"
        for info in snn.graph.output
        if (shape := shapes.get(info.name))
        # 0 is not known; one row is that of all samples.
        if shape[0] not in (0, 1, MANY) or MANY in shape[1:]
    ]
    if wrong and free:
        raise ModelError(
            "Triton batches requests, and needs one row for each sample, which is not so in "
            f"{', '.join(dict.fromkeys(wrong))}: export the ANN with samples on the first axis of "
            "all its inputs, layers and outputs, as without a Reshape that joins another axis to "
            "it, and convert it again"
        )


def _require_apart(snn: onnx.ModelProto, plan: Plan) -> None:
    """Raise ``ModelError`` where that shows in a run on random inputs."""
    session = SpikingSession(snn, threads=1, plan="step")
    for pair in seeded_inputs(plan.inputs):
        if any(value.shape[:1] != (2,) for value in pair.values()):
            return
        # So many samples as no other axis has.
        inputs = {name: np.resize(value, (7, *value.shape[1:])) for name, value in pair.items()}
        try:
            why = why_not_apart(session, inputs)
        except DataError as error:
            if str(error) == OUT_OF_MEMORY:
                raise
            # Sizes that are open may be others.
            continue
        if why is not None:
            raise ModelError(
                f"Triton batches requests, and needs one row for each sample by itself, but {why}"
            )
        return


def _sizes(shape: list | None) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape or []]
