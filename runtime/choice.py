"""How a network runs for a number of samples: what is chosen, why, and what memory it takes.

``choose`` is all there is to it: sessions run what it says, and ``inspect --plan`` shows it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.neurons import DOMAIN

from .chunks import WeightedLayer, axes_of_time, lengths_of_chunks, weighted_layers
from .integer_products import NODES_OF_PRODUCTS
from .kernel_forms import Layout
from .memory import GRAPHS, NODE, Memory, Peaks, nodes_of, sizes_of
from .plan import Plan, State
from .rows import Shape
from .winograd import NODES_OF_TILES, Tiles

EXTRA_ACTIVATIONS = 2**28
"""Bytes, 256 MiB: by default, what a chunk may take beyond one time-step, and as much what graphs
may keep of their activations while others run."""


@dataclass(frozen=True)
class Choice:
    """What a session does for inputs of these shapes.

    ``chunks``: lengths of the chunks, in time-steps, the longest first; what is left over, as up
    to a read-out that none of them hits, runs one time-step at a time, and all where there are
    none. ``samples``: N. ``together``: at most so many samples run at once; the run is repeated for
    the rest. ``layers`` describes runs of that many. ``derived_counts``: whether spike counts
    follow from membrane potentials, or are added up at each time-step. ``short_of_memory``: whether
    longer chunks would be faster, but do not fit. ``layout``: what enters the layout of the CPU in
    a chunk; None where chunks are in plain layout. ``shapes``: those of what a time-step reads.
    ``in_full``: whether those of all states are known, so that a chunk reads them in full.
    """

    samples: int
    together: int
    chunks: tuple[int, ...]
    layers: tuple[WeightedLayer, ...]
    derived_counts: bool
    memory: Memory
    short_of_memory: bool
    layout: Layout | None
    shapes: Mapping[str, Shape]
    in_full: bool

    @cached_property
    def time_batched(self) -> dict[str, int]:
        """The nodes that run once for a whole chunk, by name, and their ``axis``."""
        return axes_of_time(self.layers)

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
    varying: bool = False,
) -> Choice:
    """Choose how time-steps run.

    peaks: of the graph of one time-step. shapes: of what it reads; ``samples`` is N, of which
    ``together`` are in one run. weights: bytes, of the whole network; ``copied`` are those of them
    that each graph of time-steps holds anew. read_out: bytes that reading out takes.
    in_chunks: whether chunks are wanted at all. may_tile: the names of weights of which
    convolutions may run on tiles. layout: what ``layout_of`` says. max_memory: bytes; None lets a
    chunk take ``EXTRA_ACTIVATIONS`` more than a time-step, and refuses nothing. kept: the states
    of which each of so many ``readouts`` keeps a copy, and where inputs are ``varying``, of their
    sums.
    Raises ``DataError`` where not even a time-step fits.
    """
    at_once = _with_samples(shapes, together) if together < samples else shapes
    sizes = sizes_of(peaks.step, at_once)
    layers = weighted_layers(peaks.step, sizes, may_tile, peaks.scratch)
    heavy = axes_of_time(layers)
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

    if derived_counts:
        counting = max(2 * states + most(1) * samples // together, 3 * states + rounding)
    else:
        # Half of the states, or more, are sums over time.
        counting = max(states, states // 2 + rounding)

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
            # While a run goes on, a result of the one before may be there, too.
            inputs=(3 + varying * (2 * readouts - 1)) * inputs,
            activations=max(alive),
            idle=0,
            read_out=read_out,
            counts=max((2 * readouts - 1) * copies, (readouts - 1) * copies + counting),
        )
        # Shorter chunks take no more than the longest.
        idle = alive[0] * len(chunks) + alive[-1] - max(alive)
        room = EXTRA_ACTIVATIONS if max_memory is None else max_memory - given_back.total
        return replace(given_back, idle=idle) if idle <= room else given_back

    least = memory_of(())
    if max_memory is not None and least.total > max_memory:
        raise DataError(_too_much(least, samples, together, readouts, max_memory))
    ladder = lengths_of_chunks(layers, layout)
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
            varying=varying,
        )
        return replace(plain, short_of_memory=True)
    return Choice(
        samples, together, (), layers, derived_counts, least, in_chunks, None, shapes, in_full
    )


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
