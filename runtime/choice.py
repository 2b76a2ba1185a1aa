"""How a network runs for a number of samples: what is chosen, why, and what memory it takes.

``choose`` is all there is to it: sessions run what it says, and ``inspect --plan`` shows it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.limits import WEIGHTED
from onnx2snn.graph_passes.neurons import DOMAIN

from .integer_products import NODES_OF_PRODUCTS
from .kernel_forms import Layout
from .memory import GRAPHS, NODE, NODES_OF_FUNCTIONS, Memory, Peaks, Sizes, sizes_of
from .plan import Plan, State
from .rows import Shape, samples_are_apart
from .unroll import axis_of_time
from .winograd import NODES_OF_TILES, Tiles, tiles_where_they_pay

SHORT, MIDDLE, LONG, LONGEST = 4, 8, 16, 32
"""Time-steps of a chunk. Long ones are for what a chunk does once: reading the weights of layers
that are time-batched, and bringing states into the layout of the CPU and out of it. The longest
take twice as long to make, and pay where a time-step does little with each weight (``FEW_USES``).

Measured in plain layout at 1, 2, 4 and 8 on the shipped ResNet-20 and VGG, N=1, 4 and 16: 4 was
best or near it. Time-batched, VGG-16 with N=1 took 0.56 of its ANN's time at 8 and 0.49 at 16. In
the layout of the CPU, ResNet-20 with N=16 took 1.06 at 4, 1.04 at 8 and 1.03 at 16. At T=8, one run
of 8 took of the time of two of 4, on a Xeon: VGG-16, N=1, 0.73; MobileNet, N=1 and 16, 0.91 and
0.90; ResNet-18 of 224 x 224, N=1, 0.94; ResNet-20, N=1 and 16, 0.92 and 0.96; with the recipe
``best``, VGG 0.91 and 0.89, ResNet-20 0.90 and 0.91.

Where nothing has either to be done once, as in small dense networks, a graph costs more than its
nodes: 20 layers of 128, ``best``, N=4, T=32, took 1.16, 1.04, 0.82 and 0.75 of the time of single
time-steps in runs of 32, 16, 8 and 4, and three layers of 64, N=1, 0.54, 0.52, 0.54 and 0.61."""

CACHED = 2**18
"""Weights, 1 MiB in float32: a layer that has no more finds them in the cache each time."""

FEW_USES = 64
"""How often a time-step uses a weight, on average: with fewer, weights come from memory for little.

Measured on a Xeon, T=32, one thread, ratios to T forward passes of the ANN with chunks of 16 and of
32; in brackets, the uses: VGG-16, N=1 (10), 0.329 and 0.290, N=16 (30), 0.629 and 0.627; MobileNet,
N=1 (14), 1.026 and 0.981, N=16 (43), 1.238 and 1.158; ResNet-18 of 224 x 224 (152) 0.875 and 0.890;
ResNet-20, N=16 (1795), 1.136 and 1.153. Hours later, several sessions each: VGG-16, N=1, 0.353 and
0.317; MobileNet, N=1, 1.029 and 1.041, N=16, 1.276 and 1.270."""

CACHE = 3 * 2**18
"""Bytes, 768 KiB, for each core: where the states of a layer, for all samples that run together,
take no more, what it reads and writes stays in the cache nearby."""

MISS, NODE_RUN = 1.2e-10, 4.5e-7
"""Seconds that a byte of states beyond ``CACHE`` costs in a time-step, and that a node costs
however little it computes: by these as many samples run together as take least.

Measured at N = 1, 2, 4, 8, 16, one thread, microseconds for a time-step of a sample; in brackets
KiB of states of the largest layer. Recipe ``best``, EPYC (Zen 5) with 1 MiB of cache a core: a
ShuffleNet of 96 x 96 (432) 665, 580, 491, 441, 454; a MnasNet (432) 1067, 919, 848, 857, 963; a
SqueezeNet (1104) 1137, 1038, 964, 1053, 1208; MobileNet (392) 411, 393, 378, 408, 444; VGG (196)
403, 382, 365, 364, 370; a U-Net of 64 x 64 (512) 1048, 1001, 1038, 1141, 1256; one of 160 x 160
(1600) 1010, 1032, 1142, 1281, 1411. Xeon with 2 MiB: MobileNet 760, 812, 908, 1080, 1280; VGG 771,
687, 669, 703, 771; others, ResNet-20 (64) 621, 625, 606, 621, 648; VGG-16 (256) 3690, 3195, 3115,
3205, 3390; ResNet-18 of 224 x 224 (3136), N = 1 to 8, 18200, 19600, 20800, 21700. These say 0.3 to
0.7 microseconds for a node, and 0.05 (EPYC) to 0.2 (Xeon) for a KiB; the two are in between."""

OUTERMOST = 8
"""How many times the cache nearby the states of a layer may take, at most."""

EXTRA_ACTIVATIONS = 2**28
"""Bytes, 256 MiB: by default, what a chunk may take beyond one time-step, and as much what graphs
may keep of their activations while others run."""


@dataclass(frozen=True)
class Layer:
    """A node with weights, and the numbers that decide whether it runs once for a whole chunk.

    ``weights`` counts its weights, ``computes`` the numbers that it computes in a time-step, for
    all samples that run together, and ``uses`` how often it uses each weight for that. ``axis``:
    that along which time-steps may come together; None where they may not. ``tiles``: those of a
    convolution that runs on tiles within a chunk.
    """

    name: str
    op: str
    weights: int
    computes: int
    uses: int
    axis: int | None
    tiles: Tiles | None

    @property
    def time_batched(self) -> bool:
        """Whether it runs once for all time-steps of a chunk: reading weights costs most."""
        return self.axis is not None and self.weights > max(CACHED, self.computes)

    @property
    def why(self) -> str:
        """The reason, in a few words."""
        if self.axis is None:
            return "does not treat time-steps as samples"
        if self.weights <= CACHED:
            return "its weights fit the cache"
        than = "more" if self.time_batched else "no more"
        return f"{than} weights than it computes"


@dataclass(frozen=True)
class Choice:
    """What a session does for inputs of these shapes.

    ``chunks``: lengths of the chunks, in time-steps, the longest first; what is left over, as up
    to a read-out that none of them hits, runs one time-step at a time, and all where there are
    none. ``samples``: N. ``together``: how many of them, at most, are in one run; it is repeated
    for the others. ``layers`` are told for these. ``derived_counts``: whether spike counts follow
    from membrane potentials, or are added up at each time-step. ``short_of_memory``: whether
    longer chunks would be faster, but do not fit. ``layout``: what enters the layout of the CPU in
    a chunk; None where chunks are in plain layout. ``shapes``: those of what a time-step reads.
    ``in_full``: whether those of all states are known, so that a chunk reads them in full.
    """

    samples: int
    together: int
    chunks: tuple[int, ...]
    layers: tuple[Layer, ...]
    derived_counts: bool
    memory: Memory
    short_of_memory: bool
    layout: Layout | None
    shapes: Mapping[str, Shape]
    in_full: bool

    @cached_property
    def time_batched(self) -> dict[str, int]:
        """The nodes that run once for a whole chunk, by name, and their ``axis``."""
        return _axes_of_time(self.layers)

    @cached_property
    def tiled(self) -> tuple[Tiles, ...]:
        """The convolutions that run on tiles within a chunk."""
        return tuple(layer.tiles for layer in self.layers if layer.tiles is not None)

    def chunk(self, most: int) -> int:
        """The length of the next chunk, where ``most`` time-steps are wanted."""
        return next((length for length in self.chunks if length <= most), 1)


def choose(
    peaks: Peaks,
    shapes: Mapping[str, Shape],
    samples: int,
    together: int,
    weights: int,
    copied: int,
    read_out: int,
    *,
    in_chunks: bool,
    derived_counts: bool,
    may_tile: Collection[str] = (),
    layout: Layout | None = None,
    max_memory: int | None = None,
    kept: Collection[str] = (),
    readouts: int = 1,
) -> Choice:
    """Choose how time-steps run.

    peaks: of the graph of one time-step. shapes: of what it reads; ``samples`` is N, of which
    ``together`` are in one run. weights: bytes, of the whole network; ``copied`` are those of them
    that each graph of time-steps holds anew. read_out: bytes that reading out takes.
    in_chunks: whether chunks are wanted at all. may_tile: the names of weights of which
    convolutions may run on tiles. layout: what ``layout_of`` says. max_memory: bytes; None lets a
    chunk take ``EXTRA_ACTIVATIONS`` more than a time-step, and refuses nothing. kept: the states
    of which each of so many ``readouts`` keeps a copy.
    Raises ``DataError`` where not even a time-step fits.
    """
    at_once = _with_samples(shapes, together) if together < samples else shapes
    sizes = sizes_of(peaks.step, at_once)
    layers = weighted_layers(peaks.step, sizes, may_tile, peaks.scratch)
    heavy = _axes_of_time(layers)
    if 2 * len(heavy) > len(layers):
        # Time-batched layers are between plain ones: little would be left in the layout.
        # VGG-16 took 2 to 7 % longer with it than without.
        layout = None
    in_full = all_known(peaks.states, shapes)
    written = {state.read: state.written for state in peaks.states}
    reads = [info.name for info in peaks.step.graph.input if info.name not in written]
    states, inputs, copies = (
        sum(sizes.bytes_of(name) for name in names) * samples // together
        for names in (written.values(), reads, [written[name] for name in kept])
    )
    # One layer after the other is divided by its threshold, rounded, and made int64.
    largest = max((sizes.bytes_of(name) for name in written.values()), default=0)
    rounding = 4 * largest * samples // together
    tiled = {layer.name: layer.tiles for layer in layers if layer.tiles is not None}
    scratch = {name: tiles.scratch for name, tiles in tiled.items()}
    # A chunk holds their matrices in place of their weights.
    more = sum(tiles.matrices - tiles.bytes_of_weights for tiles in tiled.values())
    other = {*tiled, *peaks.scratch}
    laid_out = (layer for layer in layers if layer.op == "Conv" and layer.name not in other)
    shared = 0 if layout is None else min(copied, 4 * sum(layer.weights for layer in laid_out))

    def most(timesteps: int) -> int:
        by_layer = timesteps > 1 and layout is not None
        return peaks.of(timesteps, heavy, together, at_once, by_layer, scratch)

    def nodes(timesteps: int) -> int:
        """About how many nodes a graph of so many time-steps has."""
        besides = dict.fromkeys(peaks.scratch, NODES_OF_PRODUCTS)
        if timesteps > 1:
            besides |= dict.fromkeys(tiled, NODES_OF_TILES)
        return sum(
            (nodes_of(node) + besides.get(node.name, 0)) * (1 if node.name in heavy else timesteps)
            for node in peaks.step.graph.node
        )

    def memory_of(chunks: tuple[int, ...]) -> Memory:
        # Single time-steps run too, in another order.
        alive = [most(steps) for steps in (*chunks[:1], 1)]
        given_back = Memory(
            weights=weights
            # One graph of time-steps, and that of the sums while it is made, or one more; or, while
            # weights are rounded to 8 bits, what they were.
            + (copied + weights if derived_counts else max(2 * copied, weights - copied))
            + shared * bool(chunks)
            + (copied - shared + more) * len(chunks),
            graphs=GRAPHS + NODE * sum(nodes(steps) for steps in (*chunks, 1)),
            states=2 * states,
            inputs=3 * inputs,
            activations=max(alive),
            idle=0,
            read_out=read_out,
            counts=(readouts - 1) * copies
            + (
                max(2 * states + most(1) * samples // together, 3 * states + rounding)
                if derived_counts
                # Half of the states, or more, are sums over time.
                else max(states, states // 2 + rounding)
            ),
        )
        # Shorter chunks take no more than the longest.
        idle = alive[0] * len(chunks) + alive[-1] - max(alive)
        room = EXTRA_ACTIVATIONS if max_memory is None else max_memory - given_back.total
        return replace(given_back, idle=idle) if idle <= room else given_back

    least = memory_of(())
    if max_memory is not None and least.total > max_memory:
        raise DataError(_too_much(least, samples, together, readouts, max_memory))
    ladder = _ladder(layers, layout)
    for chunks in ladder if in_chunks else ():
        memory = memory_of(chunks)
        extra = memory.activations - least.activations
        if memory.total <= max_memory if max_memory is not None else extra <= EXTRA_ACTIVATIONS:
            return Choice(
                samples,
                together,
                chunks,
                layers,
                derived_counts,
                memory,
                chunks != ladder[0],
                layout,
                shapes,
                in_full,
            )
    if in_chunks and tiled:
        # Chunks fit without tiles, or not at all.
        plain = choose(
            peaks,
            shapes,
            samples,
            together,
            weights,
            copied,
            read_out,
            in_chunks=True,
            derived_counts=derived_counts,
            layout=layout,
            max_memory=max_memory,
            kept=kept,
            readouts=readouts,
        )
        return replace(plain, short_of_memory=True)
    return Choice(
        samples, together, (), layers, derived_counts, least, in_chunks, None, shapes, in_full
    )


def _ladder(layers: Sequence[Layer], layout: Layout | None) -> tuple[tuple[int, ...], ...]:
    """Lengths of chunks that pay for these layers, and less of them where memory is short."""
    if not layout and not any(layer.time_batched for layer in layers):
        return ((SHORT,),) if layout is None else ((MIDDLE, SHORT), (SHORT,))
    weights = sum(layer.weights for layer in layers)
    uses = sum(layer.weights * layer.uses for layer in layers)
    ladder = (LONG, MIDDLE, SHORT), (LONG, SHORT), (LONG,), (SHORT,)
    if weights > CACHED and uses < FEW_USES * weights:
        return (LONGEST, LONG, MIDDLE, SHORT), *ladder
    return ladder


def samples_together(
    step: onnx.ModelProto,
    states: Sequence[State],
    shapes: Mapping[str, Shape],
    samples: int,
    cores: int,
) -> int:
    """How many samples are in one run on so many cores: as many as take least time for each.

        NODE_RUN nodes / n + MISS (states, in bytes, of the layers with n states > CACHE)

    ``shapes``: those of what ``step`` reads, for N = ``samples``. All N where samples are not
    computed each by itself.
    """
    if not samples_are_apart(step, states, shapes, samples):
        return samples
    made = sizes_of(step, shapes)
    by_layer = Counter[str]()
    for state in states:
        layer = state.read.partition("/")[2]
        by_layer[layer] += made.bytes_of(state.written) // samples
    nodes, cache = sum(nodes_of(node) for node in step.graph.node), CACHE * cores
    most = OUTERMOST * cache // max([1, *by_layer.values()])

    def takes(together: int) -> float:
        beyond = sum(size for size in by_layer.values() if size * together > cache)
        return NODE_RUN * nodes / together + MISS * beyond

    # Between these only the first term changes.
    ends = {samples, most, *(cache // size for size in by_layer.values() if size)}
    possible = sorted((n for n in ends if 1 <= n <= min(samples, most)), reverse=True)
    return min(possible, key=takes, default=1)


def nodes_of(node: onnx.NodeProto) -> int:
    """About how many nodes run for one, which may be a function."""
    return 1 + (NODES_OF_FUNCTIONS if node.domain == DOMAIN else 0)


def _with_samples(shapes: Mapping[str, Shape], samples: int) -> dict[str, Shape]:
    """The shapes of as many samples."""
    return {name: (samples, *shape[1:]) for name, shape in shapes.items()}


def all_known(states: Iterable[State], shapes: Mapping[str, Shape]) -> bool:
    """Whether the shapes of all states are known."""
    return all(isinstance(n, int) for state in states for n in shapes.get(state.read, ("?",)))


def shapes_read(
    plan: Plan, step: onnx.ModelProto, inputs: Mapping[str, Shape], samples: int
) -> dict[str, Shape]:
    """The shapes of what a step of the plan reads, as far as they are known.

    ``inputs``: those of what it reads besides states, for so many samples.
    """
    read = {info.name for info in step.graph.input}
    known = dict(inputs)
    for neuron in plan.neurons:
        for state in (f"v/{neuron.name}", f"m/{neuron.name}"):
            if state in read:
                known[state] = (samples, *neuron.shape)
    starts = {state.read: state.start for state in plan.states}
    made = sizes_of(step, known).shapes
    for node in step.graph.node:
        state = node.input[-1] if node.domain == DOMAIN else ""
        if state in read and state not in known:
            # Kept sums have the shape of what they sum; a clock is one number.
            shape = starts[state].shape if node.op_type == "Clock" else made.get(node.input[0], ())
            known |= {state: shape} if all(shape) else {}
            made = sizes_of(step, known).shapes
    for name, total in plan.sums.items():
        shape = made.get(name, (0,))
        if total.read in read and all(shape):
            known[total.read] = shape
    for neuron in plan.neurons:
        # What does not depend on all inputs may have fewer samples.
        if made.get(neuron.current) != known[f"v/{neuron.name}"]:
            del known[f"v/{neuron.name}"]
    return known


def _axes_of_time(layers: Iterable[Layer]) -> dict[str, int]:
    heavy = (layer for layer in layers if layer.time_batched)
    return {layer.name: layer.axis for layer in heavy if layer.axis is not None}


def weighted_layers(
    step: onnx.ModelProto,
    sizes: Sizes,
    may_tile: Collection[str] = (),
    in_8_bits: Collection[str] = (),
) -> tuple[Layer, ...]:
    """The nodes of ``WEIGHTED`` with constant weights, in graph order.

    ``may_tile``: the names of weights of which convolutions may run on tiles. ``in_8_bits``: those
    of the nodes that run in 8 bits, which take images of one size alone.
    """
    inputs = {info.name for info in step.graph.input}
    # The starts of states, of which these are other sizes, are initializers too.
    constants = {t.name: tuple(t.dims) for t in step.graph.initializer if t.name not in inputs}
    nodes = [
        node
        for node in step.graph.node
        if node.op_type in WEIGHTED and node.domain == "" and node.input[1] in constants
    ]
    readers = Counter(node.input[1] for node in nodes)

    def tiles_of(node: onnx.NodeProto) -> Tiles | None:
        weights, made = node.input[1], sizes.shapes.get(node.output[0], ())
        if weights not in may_tile or readers[weights] > 1 or 0 in made[2:]:
            return None
        return tiles_where_they_pay(node, constants[weights], made)

    def uses_of(node: onnx.NodeProto) -> int:
        channels = 1 if node.op_type.startswith("Conv") else -1
        count = sizes.count(node.output[0])
        return count // sizes.shapes[node.output[0]][channels] if count else 0

    def axis(node: onnx.NodeProto) -> int | None:
        found = axis_of_time(node, constants)
        return 0 if found and node.name in in_8_bits else found

    return tuple(
        Layer(
            node.name,
            node.op_type,
            int(np.prod(constants[node.input[1]])),
            sizes.count(node.output[0]),
            uses_of(node),
            axis(node),
            tiles_of(node),
        )
        for node in nodes
    )


def _too_much(memory: Memory, samples: int, together: int, readouts: int, max_memory: int) -> str:
    left = max_memory - memory.weights - memory.graphs
    each = (memory.total - memory.weights - memory.graphs - memory.activations) / samples
    fit = int((left - memory.activations) // max(each, 1))
    if fit < together:
        # Activations are then those of fewer samples.
        fit = int(left // max(each + memory.activations / together, 1))
    times = f", read out {readouts} times," if readouts > 1 else ""
    text = (
        f"one time-step of {samples} samples{times} needs about {memory.total:,} bytes, of which "
        f"{memory.weights:,} are for weights, but max_memory is {max_memory:,}: "
    )
    return text + (f"run fewer at a time, up to {fit}" if fit > 0 else "raise it")
