"""Chunks in the form that runs fastest on the CPU at hand: blocked layout, layer by layer.

On CPUs ONNX Runtime computes convolutions, and pools and sums between them, on tensors whose
channels are blocked (NCHWc), but few other operators: at every neuron it goes back to plain
NCHW, and forth again behind it. What a neuron does is the same for every element, so it does
not mind the order of elements. Hence three steps:

    u = v + current                      u = v + current           u = v + current
    s = [u > 1]             becomes      s = Relu(u)       and     s = [u > 1]
    v_next = u - s                       v_next = u + s            v_next = u - s

ONNX Runtime lays out the graph in the middle, whose operators it knows for blocked tensors; then
the neurons take their places again, on the tensors that it has chosen. It also adds v to the
current within the convolution. No number changes: each operator computes what it did. Other states
of a neuron stand in like v; its s is then the sum of those that it depends on.

States enter through a convolution of one weight, 1, for each channel, since ONNX Runtime begins
a blocked layout only there; of it, only the change of layout is left.

Then the nodes are ordered: all time-steps of two layers before the next two, and v_next right
after x, so that weights, potentials and spikes are in the cache when they are read again.
"""

import heapq
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx2snn.graph_passes.graph.neurons import DOMAIN
from onnx2snn.graph_passes.model_files.inference import inferred
from onnx2snn.graph_passes.model_files.protos import names_in, unused_prefix
from onnx2snn.graph_passes.model_files.weights import (
    ModelParts,
    copy_model,
    detach,
    replace_all,
    with_weights_as_inputs,
)
from onnx2snn.runtime.failures import is_time_limit
from onnx2snn.runtime.plans.graphs import (
    MANY,
    give_shapes,
    in_order,
    renamed,
    with_names,
    with_nodes,
    with_nodes_in_order,
)
from onnx2snn.runtime.plans.plan import NeuronLayer

from .cpu_layout import in_layout_of_cpu
from .unit_steps import Body

logger = logging.getLogger("onnx2snn")

IN_TURN = 2
"""Layers that take turns, time-step by time-step, before the next ones do.

With one at a time the spikes of all time-steps wait for the next layer (docs/measurements.md,
section Constants)."""

LEAST_FILLED = 0.75
"""For an image to enter, so many of the channels of its blocks must be its own, not padding: 24 of
32 are worth it, 20 are not with ``best``, nor 8 of 16 (docs/measurements.md)."""

Layout = tuple[tuple[str, tuple[int | str, ...]], ...]
"""The shapes, by name, of what may enter a blocked layout: ["N", C, H, W], or [N, C, H, W]."""


def layout_of(
    neurons: Iterable[NeuronLayer],
    shapes: Mapping[str, Sequence[int | str]],
    samples: int,
    any_number: bool,
) -> Layout | None:
    """What may enter a blocked layout; None for neurons of other types.

    ``shapes``: those, all known, of the states, and of what else a step reads, for so many samples;
    ``any_number``: whether the network takes others, too, for which the layout is the same.
    """
    if any(neuron.threshold.dtype != np.float32 for neuron in neurons):
        return None
    # A network for so many may hold their number elsewhere, and ONNX Runtime compares the two.
    rows = "N" if any_number else samples
    return tuple(
        (name, (rows, *shape[1:]))
        for name, shape in shapes.items()
        if shape[:1] == (samples,) and _enters(shape)
    )


def _enters(shape: Sequence[int | str]) -> bool:
    """Whether tensors of this shape have a blocked layout of their own that is worth it."""
    if len(shape) != 4 or shape[1] == 1:
        return False
    channels = int(shape[1])
    return channels >= LEAST_FILLED * padded_channels(channels)


def padded_channels(channels: int) -> int:
    """To how many channels so many are padded in the blocked layout."""
    block = block_of_channels()
    return block * -(-channels // block)


def block_of_channels() -> int:
    """How many channels a block has on this CPU; 1 where nothing can be laid out."""
    try:
        return _block_as_laid_out()
    except OSError as error:
        if is_time_limit(error):
            raise
        # No room for temporary files, which there may be at another time.
        return 1


@cache
def _block_as_laid_out() -> int:
    """How many channels a block has on this CPU; 1 where it has no such layout."""
    weights = numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float32), "w")
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 4, 4])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "", [image], [onnx.ValueInfoProto(name="y")],
        [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (filters,) = in_layout_of_cpu(detach(model)).structure.graph.initializer
    return int(filters.dims[0])


@dataclass(frozen=True)
class StandIns:
    """A step with operators in the places of neurons that ONNX Runtime can lay out.

    Their names are those of what they make, behind ``mark``.
    """

    step: onnx.ModelProto
    bodies: tuple[Body, ...]
    mark: str


def with_stand_ins(step: onnx.ModelProto, bodies: tuple[Body, ...]) -> StandIns:
    """Put stand-ins in the places of neurons whose bodies are these."""
    # In no name, also where something else is put before it.
    mark = "stand-in/"
    while any(mark in name for name in names_in(step)):
        mark = "_" + mark
    gone = {node.name for body in bodies for node in body.nodes}
    nodes = [node for node in step.graph.node if node.name not in gone]
    for body in bodies:
        op = "Sum" if body.reads else "Relu"
        nodes.append(helper.make_node(op, [body.u, *body.reads], [body.x], mark + body.x))
        for written, before in body.nexts.items():
            nodes.append(helper.make_node("Add", [before, body.x], [written], mark + written))
    return StandIns(with_nodes(step, nodes, step.graph.output), bodies, mark)


def laid_out(
    chunk: onnx.ModelProto,
    stand_ins: StandIns,
    layout: Layout,
    weights: Mapping[str, np.ndarray],
) -> ModelParts | None:
    """A chunk of a step with stand-ins, with the neurons themselves, for the CPU at hand.

    None if this version of ONNX Runtime fused or replaced a stand-in, or laid out those of one
    neuron apart, so that it cannot be put back, or if there is no room for temporary files.
    It must be given all states in full, and run in the order of its nodes. ``layout``: what
    ``layout_of`` says; ``weights``: what the stubs of the chunk stand for.
    """
    entrance = unused_prefix(names_in(chunk), "enter/")
    try:
        made = in_layout_of_cpu(_to_lay_out(chunk, dict(layout), entrance, weights))
    except OSError as error:
        if is_time_limit(error):
            raise
        _tell_of_plain_layout(tempfile.tempdir)
        return None
    laid = made.structure
    placed = _with_neurons(_entered(laid, entrance), stand_ins)
    if placed is None:
        return None
    nodes, spikes, potentials = placed
    for node in chunk.graph.node:
        if node.domain == DOMAIN:
            spikes.add(node.output[0])
            potentials.update(node.output[1:])
    given = {info.name for info in chunk.graph.input}
    own = given | {tensor.name for tensor in laid.graph.initializer}
    constants = {tensor.name: tensor for tensor in chunk.graph.initializer}
    constants |= {t.name: t for body in stand_ins.bodies for t in body.constants}
    others = [tensor for name, tensor in constants.items() if name not in own]
    replace_all(laid.graph.input, [info for info in laid.graph.input if info.name in given])
    outputs = chunk.graph.output
    kept = layer_by_layer(in_order(nodes, [info.name for info in outputs]), spikes, potentials)
    whole = with_nodes_in_order(laid, kept, outputs, constants=others)
    parts = detach(whole)
    held = {tensor.name for tensor in parts.structure.graph.initializer}
    filters = {name: values for name, values in made.weights.items() if name in held}
    return ModelParts(parts.structure, filters | parts.weights)


@cache
def _tell_of_plain_layout(folder: str | None) -> None:
    """Warn, once a process, that no temporary file can be written in this folder, or in any."""
    where = "in any of the system's folders for them" if folder is None else f"in '{folder}'"
    logger.warning(
        "time-steps run in plain layout, which is slower: a temporary file could not be written "
        "%s; make room there, or set TMPDIR to another folder",
        where,
    )


def _to_lay_out(
    chunk: onnx.ModelProto,
    entering: Mapping[str, Sequence[int | str]],
    entrance: str,
    weights: Mapping[str, np.ndarray],
) -> ModelParts:
    """The chunk with entrances, shapes that show which tensors are alike, and filters.

    Other weights are inputs, since no layout depends on them.
    """
    read = {info.name: info.type.tensor_type.elem_type for info in chunk.graph.input}
    names = {name: entrance + name for name, kind in read.items()
             if name in entering and kind == onnx.TensorProto.FLOAT}  # fmt: skip
    nodes, ones = [], []
    for name, inside in names.items():
        one = np.ones((int(entering[name][1]), 1, 1, 1), np.float32)
        ones.append(numpy_helper.from_array(one, f"{entrance}1/{name}"))
        inputs = [name, ones[-1].name]
        nodes.append(helper.make_node("Conv", inputs, [inside], inside, group=len(one)))
    nodes += [with_names(node, names) for node in chunk.graph.node]
    # What is read from outside as well is not made a part of the next operator.
    outputs = [info.name for info in chunk.graph.output] + list(names.values())
    model = with_nodes(chunk, nodes, [onnx.ValueInfoProto(name=n) for n in outputs], (), ones)
    give_shapes(model, entering)
    _give_rows(model, entering)
    filters = {name for node in chunk.graph.node if node.op_type == "Conv" for name in node.input}
    held = {name: values for name, values in weights.items() if name in filters}
    return ModelParts(with_weights_as_inputs(model, but=held), held)


def _give_rows(model: onnx.ModelProto, entering: Mapping[str, Sequence[int | str]]) -> None:
    """Say, in place, which tensors have N rows behind a Resize, where ONNX loses the name of N.

    ONNX Runtime reshapes what it does not know to be alike: a chunk may have nearly twice the nodes
    without this (docs/measurements.md).
    """
    resized = {n for node in model.graph.node if node.op_type == "Resize" for n in node.output}
    named = {name: shape for name, shape in entering.items() if not isinstance(shape[0], int)}
    if not resized or not named:
        return
    known = copy_model(model)
    give_shapes(known, {name: (MANY, *shape[1:]) for name, shape in named.items()})
    for info in inferred(known, data_prop=True).graph.value_info:
        dims = info.type.tensor_type.shape.dim
        if info.name in resized and dims and dims[0].dim_value == MANY:
            dims[0].dim_param = str(next(iter(named.values()))[0])
            model.graph.value_info.append(info)


def _entered(laid: onnx.ModelProto, entrance: str) -> list[onnx.NodeProto]:
    """The nodes of a laid out chunk without its entrances: of them, changes of layout are left."""
    makers = {name: node for node in laid.graph.node for name in node.output}
    instead: dict[str, str] = {}
    for info in laid.graph.output:
        if info.name.startswith(entrance):
            made = makers[info.name]
            back = made.op_type == "ReorderOutput"
            first = makers[made.input[0]] if back else made
            instead[first.output[0]] = first.input[0]
            if back:
                # What left the layout again is the state itself.
                instead[info.name] = makers[first.input[0]].input[0]
    return [
        with_names(node, instead)
        for node in laid.graph.node
        if instead.keys().isdisjoint(node.output)
    ]


def _with_neurons(
    nodes: Sequence[onnx.NodeProto], stand_ins: StandIns
) -> tuple[list[onnx.NodeProto], set[str], set[str]] | None:
    """The nodes with neurons where their stand-ins are, and the names of x and of states.

    None where a stand-in is missing, or those of one neuron are in different layouts.
    """
    makers = {name: node for node in nodes for name in node.output}

    def root(name: str) -> str:
        """The tensor that this is, but for its shape."""
        while name in makers and makers[name].op_type == "Reshape":
            name = makers[name].input[0]
        return name

    made = [node for node in nodes if stand_ins.mark not in node.name]
    # By what the step calls them, and by what the time-step puts before.
    marked = {
        (what, time_step): node
        for node in nodes
        for time_step, found, what in [node.name.partition(stand_ins.mark)]
        if found
    }
    spiking = {body.x: body for body in stand_ins.bodies}
    spikes, potentials = set[str](), set[str]()
    for (what, time_step), node in marked.items():
        if what not in spiking:
            continue
        body, x = spiking[what], node.output[0]
        names = dict(zip((body.u, *body.reads), node.input, strict=True)) | {body.x: x}
        for written, before in body.nexts.items():
            if (written, time_step) not in marked:
                return None
            then = marked[written, time_step]
            names[written] = then.output[0]
            others = [name for name in then.input if root(name) != root(x)]
            if len(others) != 1 or root(names.setdefault(before, others[0])) != root(others[0]):
                return None
            # ONNX Runtime reshapes what it does not know to be of one shape.
            if _reshaped(then, makers) != _reshaped(node, makers):
                return None
            potentials.add(then.output[0])
        for inner in body.nodes:
            names |= {n: f"{node.name}/{n}" for n in inner.output if n not in names}
        made += [renamed(inner, names, f"{node.name}/{inner.name}") for inner in body.nodes]
        spikes.add(x)
    return made, spikes, potentials


def _reshaped(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> bool:
    return any(name in makers and makers[name].op_type == "Reshape" for name in node.input)


def layer_by_layer(
    nodes: Sequence[onnx.NodeProto], spikes: set[str], potentials: set[str]
) -> list[onnx.NodeProto]:
    """Nodes, in topological order before, by ``IN_TURN`` layers and within these by time-step.

    A layer is how many neurons are behind a node, its time-step how many potentials are.
    """
    layer: dict[str, int] = {}
    time: dict[str, int] = {}
    readers = defaultdict(list)
    waits_for, keys = [], []
    for place, node in enumerate(nodes):
        read = {name for name in node.input if name in layer}
        resets = not potentials.isdisjoint(node.output)
        depths = [layer[n] + (n in spikes and not resets) for n in read if n not in potentials]
        steps = [time[name] + (name in potentials) for name in read]
        depth, step = max(depths, default=0), max(steps, default=0)
        for name in node.output:
            layer[name], time[name] = depth, step
        for name in read:
            readers[name].append(place)
        waits_for.append(len(read))
        keys.append((depth // IN_TURN, step, depth, place))
    ready = [key for key, count in zip(keys, waits_for, strict=True) if not count]
    heapq.heapify(ready)
    ordered = []
    while ready:
        node = nodes[heapq.heappop(ready)[-1]]
        ordered.append(node)
        for place in (place for name in node.output for place in readers[name]):
            waits_for[place] -= 1
            if not waits_for[place]:
                heapq.heappush(ready, keys[place])
    return ordered
