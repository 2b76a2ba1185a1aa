"""The most memory that a graph's run takes."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field

import onnx

from onnx2snn.graph_passes.graph.neurons import DOMAIN
from onnx2snn.graph_passes.model_files.protos import attributes_of, operand_names
from onnx2snn.runtime.layers.kernel_forms import block_of_channels, layer_by_layer, padded_channels
from onnx2snn.runtime.plans.plan import Plan, State
from onnx2snn.runtime.plans.sizes import Sizes, sizes_of
from onnx2snn.runtime.plans.unroll import unrolled

FRAGMENTED = 1.25
"""What ONNX Runtime's allocator takes over what is alive at once: about as much as in long chunks
(docs/measurements.md, section Constants)."""

GRAPHS, NODE = 28 * 2**20, 6 * 2**10
"""Bytes that ONNX Runtime takes for any graphs, 28 MiB, of which the first session of a process
brings most, and for each node, 6 KiB: a line through what four networks take
(docs/measurements.md)."""

NODES_OF_FUNCTIONS = 9
"""About how many nodes a neuron, or a pool, that is a function in the file is more than one."""

FEW_ACTIVATIONS = 2**22
"""Bytes, 4 MiB: up to there ONNX Runtime plans the memory of a run ahead, in one piece besides what
it took when it did not know the sizes. Runs of more are no faster by that, and may take twice the
memory (docs/measurements.md)."""

_POOLS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}
IN_PLACE = {"Add", "Sub", "Mul", "Clip", "Relu", "Neg", "Floor", "Reshape", "Flatten", "Identity",
            "Squeeze", "Unsqueeze"}  # fmt: skip
"""Operators whose result takes the place of an operand that nothing reads again."""


@dataclass(frozen=True)
class Memory:
    """Estimated bytes, on a CPU, beyond what Python and its libraries take.

    ``weights``: one copy, one for each graph of time-steps (as Winograd matrices where tiled), and
    one while a graph is made; chunks share convolutions in the CPU's layout. ``graphs``: these
    graphs themselves. ``states``: two sets of buffers.
    ``starts``: what states are at first, in full, for the samples that are in one run of a chunk.
    ``inputs``: what the time-steps read, three times, and more where that varies in time.
    ``activations``: the most that is alive within a chunk. ``idle``: what graphs keep of theirs
    while others run; 0 where they give it back, and ask for it anew each time. ``planned``: as much
    again as all of them keep, where that is planned ahead, as ``FEW_ACTIVATIONS`` are; else 0.
    ``read_out``: what reading out takes, or the prologue. ``outputs``: those of all read-outs, and
    of the run before, whose result may still be held. ``counts``: what read-outs keep for spike
    counts and firing rates, and what working them out takes, which happens where they are asked
    for. Not arrays that belong to the caller alone: x, ``spike_counts``.
    """

    weights: int
    graphs: int
    states: int
    starts: int
    inputs: int
    activations: int
    idle: int
    planned: int
    read_out: int
    outputs: int
    counts: int

    @property
    def plans_activations(self) -> bool:
        """Whether to keep twice the memory of activations, so that a run needs not ask for it."""
        return self.planned > 0

    @property
    def gives_back(self) -> bool:
        """Whether graphs give back the memory of their activations before others run.

        To ask for it anew costs a page fault every 4 KiB (docs/measurements.md).
        """
        return self.activations > 0 and not self.idle and not self.plans_activations

    @property
    def total(self) -> int:
        """All of it."""
        return sum(astuple(self))

    @property
    def needed(self) -> int:
        """What it takes at least: not what graphs keep only where there is room."""
        return self.total - self.idle - self.planned


_MOST_FOUND = 10_000
"""Estimates that are kept: of images whose size is open there are some for each size."""


@dataclass(frozen=True)
class Peaks:
    """The most memory that the activations of chunks of a step take, estimated where not known.

    ``scratch``: bytes that nodes take for each sample besides what they read and make, by name.
    ``spikes`` names what neurons emit.
    """

    step: onnx.ModelProto
    states: Sequence[State]
    spikes: frozenset[str]
    scratch: dict[str, int] = field(default_factory=dict)
    found: dict[tuple, float] = field(default_factory=dict)

    def of(
        self,
        timesteps: int,
        time_batched: Mapping[str, int],
        samples: int,
        shapes: Mapping[str, tuple[int | str, ...]],
        by_layer: bool,
        scratch: Mapping[str, int],
    ) -> int:
        """Bytes, for a chunk that reads ``shapes``; in proportion to ``samples``.

        ``by_layer``: its nodes run ``layer_by_layer``. ``scratch``: that of so many time-steps.
        """
        rest = tuple((name, shape[1:]) for name, shape in shapes.items())
        key = (timesteps, frozenset(time_batched), rest, by_layer, frozenset(scratch.items()))
        if key not in self.found:
            if len(self.found) == _MOST_FOUND:
                self.found.clear()
            chunk = self.step
            if timesteps > 1:
                chunk = unrolled(chunk, self.states, timesteps, time_batched)
            order = self._by_layer(chunk) if by_layer else as_executed(chunk.graph.node)
            peak = peak_of_activations(chunk, sizes_of(chunk, shapes), order) / samples
            extra = (
                size * (timesteps if name in time_batched else 1)
                for name, size in {**self.scratch, **scratch}.items()
            )
            self.found[key] = peak + FRAGMENTED * max(extra, default=0)
        return int(self.found[key] * samples)

    def _by_layer(self, chunk: onnx.ModelProto) -> list[onnx.NodeProto]:
        written = {state.written for state in self.states}
        names = {name: name.split("/", 2)[-1] for node in chunk.graph.node for name in node.output}
        spikes = {name for name, of in names.items() if {name, of} & self.spikes}
        potentials = {name for name, of in names.items() if {name, of} & written}
        return layer_by_layer(chunk.graph.node, spikes, potentials)


def peak_of_activations(
    model: onnx.ModelProto, sizes: Sizes, nodes: Sequence[onnx.NodeProto], plain: bool = False
) -> int:
    """Bytes that ONNX Runtime allocates for a run, besides inputs, outputs and weights.

    ``nodes``: those of the model, in the order in which they run. ``plain``: whether what pools
    read may be in plain layout.
    """
    outside = {info.name for info in model.graph.output}
    last = {name: place for place, node in enumerate(nodes) for name in operand_names(node)}
    alive: dict[str, int] = {}
    now = most = 0
    for place, node in enumerate(nodes):
        for name in node.output:
            size = 0 if name in outside else sizes.bytes_of(name)
            taken = next((n for n in node.input if last[n] == place and alive.get(n) == size), "")
            if node.op_type in IN_PLACE and taken:
                now -= alive.pop(taken)
            alive[name] = size
            now += size
        pooled = _blocks_of_pool(node, sizes) if plain else 0
        most = max(most, now + pooled + _blocks_beside(node, sizes, outside))
        for name in (*operand_names(node), *node.output):
            if last.get(name, place) == place:
                now -= alive.pop(name, 0)
    return int(FRAGMENTED * most)


def _blocks_beside(node: onnx.NodeProto, sizes: Sizes, outside: Collection[str]) -> int:
    """Bytes of what a convolution reads and makes in blocks of channels, beyond its result.

    ONNX Runtime pads 2 channels to 8 or 16, and copies the result from that; of a depthwise one
    what it reads, too.
    """
    if node.op_type != "Conv":
        return 0
    read, made = (sizes.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
    whole = all(read) and all(made) and sizes.itemsizes.get(node.output[0]) == 4
    if len(read) != 4 or len(made) != 4 or not whole:
        return 0
    padded = _padded_bytes(made)
    beside = padded if node.output[0] in outside else padded - sizes.bytes_of(node.output[0])
    if attributes_of(node).get("group", 1) == 1:
        plain = read[1] % 4 and read[1] >= block_of_channels()
        return 0 if plain else beside
    return _padded_bytes(read) + beside if read[1] == made[1] and made[1] % 4 == 0 else 0


def _blocks_of_pool(node: onnx.NodeProto, sizes: Sizes) -> int:
    """Bytes of what a pool reads in blocks of channels, beside the same in plain layout.

    Beyond its result, which is not there yet.
    """
    image = sizes.shapes.get(node.input[0], ()) if node.op_type in _POOLS else ()
    return max(_padded_bytes(image) - sizes.bytes_of(node.output[0]), 0) if len(image) == 4 else 0


def _padded_bytes(image: tuple[int, ...]) -> int:
    """Of an image [N, C, H, W] of float32 in blocks of channels."""
    samples, channels, *size = image
    return 4 * samples * padded_channels(channels) * math.prod(size)


def nodes_of(node: onnx.NodeProto) -> int:
    """About how many nodes run for one, which may be a function."""
    return 1 + (NODES_OF_FUNCTIONS if node.domain == DOMAIN else 0)


def prologue_memory(prologue: onnx.ModelProto, shapes: Mapping[str, Sequence[int | str]]) -> int:
    """Bytes that a prologue takes for inputs of these shapes."""
    sizes = sizes_of(prologue, shapes)
    made = sum(sizes.bytes_of(info.name) for info in prologue.graph.output)
    return made + _peak(prologue, sizes)


def read_out_memory(
    plan: Plan, sizes: Sizes, shapes: Mapping[str, Sequence[int | str]]
) -> tuple[int, int]:
    """Bytes that reading out takes, the sums that it reads and what it makes of them; and outputs.

    What the epilogue makes is there twice, of sums and of silence (``Averages``), one tensor at a
    time in float64, and as averages, which are outputs where nothing is read out of them.
    ``shapes``: those of what it reads; ``sizes`` has theirs in bytes.
    """
    made = sizes_of(plan.epilogue, shapes)
    # The epilogue's outputs may have other names than what takes their averages.
    results = [info.name for info in plan.epilogue.graph.output]
    taking = dict(zip(plan.averages, results, strict=True))
    outputs = {name: made.bytes_of(result) for name, result in taking.items()}
    averaged = sum(outputs.values())
    averages = 2 * averaged + 8 * max(map(made.count, results), default=0)
    most = _peak(plan.epilogue, made)
    if plan.read_out is not None:
        averages += averaged
        known = {name: made.shapes[of] for name, of in taking.items() if of in made.shapes}
        read = sizes_of(plan.read_out, known)
        most = max(most, _peak(plan.read_out, read))
        outputs |= {info.name: read.bytes_of(info.name) for info in plan.read_out.graph.output}
    taken = most + averages + sum(sizes.bytes_of(name) for name in shapes)
    return taken, sum(outputs.get(name, 0) for name in plan.outputs)


def _peak(model: onnx.ModelProto, sizes: Sizes) -> int:
    """``peak_of_activations`` in the order in which ONNX Runtime runs the model.

    Its weights may be inputs: then convolutions are in plain layout, but pools are not.
    """
    return peak_of_activations(model, sizes, as_executed(model.graph.node), plain=True)


def as_executed(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes in the order in which ONNX Runtime runs them: depth first, from the last result."""
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    read = {name for node in nodes for name in operand_names(node)}
    ends = [place for place, node in enumerate(nodes) if not read.intersection(node.output)]
    stack, seen, order = [(place, False) for place in ends], set[int](), list[onnx.NodeProto]()
    while stack:
        place, done = stack.pop()
        if done:
            order.append(nodes[place])
        elif place not in seen:
            seen.add(place)
            stack.append((place, True))
            before = {makers[name] for name in operand_names(nodes[place]) if name in makers}
            stack += [(source, False) for source in sorted(before - seen)]
    return order
