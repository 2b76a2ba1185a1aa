"""What memory a way to run takes, and whether that fits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from onnx2snn.graph_passes.graph.neurons import DOMAIN
from onnx2snn.runtime.layers.columns import FEW_PLACES, NODES_OF_COLUMNS, Columns
from onnx2snn.runtime.layers.integer_products import NODES_OF_PRODUCTS
from onnx2snn.runtime.layers.kernel_forms import Layout
from onnx2snn.runtime.layers.winograd import NODES_OF_TILES, Tiles

from .chunks import (
    FED_USES,
    FED_USES_IN_ALL,
    LEAN_USES,
    MOST_NODES,
    SHORT,
    WeightedLayer,
    average_uses,
    axes_of_time,
    columns_in,
    fed_uses,
    held_by_lean,
    lengths_between,
    lengths_of_chunks,
    weighted_layers,
    weights_first_in,
    weights_in,
)
from .costs import Costs
from .memory import FEW_ACTIVATIONS, GRAPHS, NODE, Memory, nodes_of
from .run import Run

EXTRA_ACTIVATIONS = 2**28
"""Bytes, 256 MiB: by default, what a chunk may take beyond one time-step, as much what graphs may
keep of their activations while others run, and as much what graphs for lengths between take."""

FEW_NUMBERS = 2**15
"""Of the largest tensor that is computed on means: with fewer, single time-steps are as fast.

Each goes back to plain layout, and but for reading weights nothing is done once for a chunk
(docs/measurements.md, section Constants)."""

MANY_CASTS = 2**13
"""Neurons of a sample in float16, on a CPU, from which on single time-steps are faster than short
chunks.

ONNX Runtime casts around each operator there, in a chunk as often (docs/measurements.md)."""

LEAN_SHARE = 1.5
"""Of weights and states, what a session may take by default whose graphs are lean."""


@dataclass(frozen=True)
class Estimate:
    """Of a run whose chunks may have some convolutions on ``tiles``, and a layout if it pays.

    ``lean``: all graphs read one copy of the weights, as they are, with some convolutions in
    ``columns``.
    """

    costs: Costs
    run: Run
    tiles: bool
    wanted_layout: Layout | None
    lean: bool = False
    columns: bool = False

    @cached_property
    def layers(self) -> tuple[WeightedLayer, ...]:
        """The layers with weights, as they are in a chunk."""
        return weighted_layers(
            self.costs.peaks.step,
            self.run.sizes,
            self.costs.free,
            tiles=self.tiles,
            in_8_bits=self.costs.peaks.scratch,
            lean=self.lean,
            columns=self.columns,
        )

    @cached_property
    def heavy(self) -> dict[str, int]:
        """The nodes that run once for a whole chunk, and their axis of time."""
        return axes_of_time(self.layers)

    @cached_property
    def tiled(self) -> dict[str, Tiles]:
        """The convolutions on tiles, by name."""
        return {layer.name: layer.tiles for layer in self.layers if layer.tiles is not None}

    @cached_property
    def layout(self) -> Layout | None:
        """What chunks have in the layout of the CPU.

        Not where most layers are time-batched: those are between plain ones, so that little would
        be left in the layout.
        """
        return None if self.lean or self._mostly_time_batched else self.wanted_layout

    @property
    def _mostly_time_batched(self) -> bool:
        return 2 * len(self.heavy) > len(self.layers)

    @property
    def lengths_of_chunks(self) -> tuple[tuple[int, ...], ...]:
        """Candidate lists of chunk lengths, the fastest first.

        Lean chunks of 4 on tiles are not: without tiles longer ones may fit, which are faster.
        """
        apart = self._has_few_numbers or self._casts_many_numbers
        if apart and not self.heavy and not self.tiled:
            return ((),)
        found = lengths_of_chunks(self.layers, self.layout)
        if self.lean and self.tiled:
            found = tuple(each for each in found if each[0] > SHORT)
        few = (tuple(steps for steps in each if steps <= self._most_steps) for each in found)
        return tuple(dict.fromkeys(filter(None, few))) or ((),)

    @property
    def _has_few_numbers(self) -> bool:
        """Whether the network computes on means, and on few numbers at a time."""
        nodes = [
            node
            for node in self.costs.peaks.step.graph.node
            if node.domain == DOMAIN and node.op_type in ("ToMean", "FromMean")
        ]
        counts = [self.run.sizes.count(node.output[0]) for node in nodes]
        return bool(counts) and max(counts) < FEW_NUMBERS

    @property
    def _casts_many_numbers(self) -> bool:
        """Whether many of a sample's neurons compute in float16 on a CPU.

        Of each sample, since chunks round otherwise there, and batches of all sizes should alike.
        """
        together = min(self.run.groups.long, self.run.samples)
        return sum(map(self.run.sizes.count, self.costs.cast)) >= MANY_CASTS * together

    @property
    def _most_steps(self) -> int:
        """The time-steps of a chunk of ``MOST_NODES``.

        Those of tiles leave ``SHORT`` of them: in single time-steps no convolution is on tiles.
        """
        return max(self._steps_of(NODES_OF_TILES), min(self._steps_of(1), SHORT))

    def _steps_of(self, tiles: int) -> int:
        """The same where a convolution on tiles is so many nodes."""
        names = [node.name for node in self.costs.peaks.step.graph.node]
        nodes = {name: tiles if name in self.tiled else 1 for name in names}
        once = sum(nodes[name] for name in names if name in self.heavy)
        return (MOST_NODES - once) // max(sum(nodes.values()) - once, 1)

    def with_lengths_between(self, chunks: tuple[int, ...]) -> tuple[range, Memory]:
        """The lengths of chunks besides these, and the memory with graphs for all of them.

        As many, from the shortest on, as fit ``EXTRA_ACTIVATIONS``, the budget, and by default, of
        lean graphs, ``LEAN_SHARE``. None where graphs give back what they keep while others run,
        which one that runs again and again does not.
        """
        memory = self.memory(chunks)
        if not chunks or memory.gives_back:
            return range(0), memory
        possible = self._possible_between(chunks)
        for longest in reversed(possible):
            between = range(possible[0], longest + 1)
            lengths = [steps for steps in between if steps not in chunks]
            most = self._longest([*chunks, *lengths])
            more = self._memory_with(lengths, most, memory)
            fits = more.total <= memory.total + EXTRA_ACTIVATIONS and self._has_room_for(more)
            if fits and all(steps in chunks or self.fits((steps,)) for steps in most.values()):
                return between, more
        return range(0), memory

    def _possible_between(self, chunks: tuple[int, ...]) -> list[int]:
        """The lengths between up to which graphs have room, and are not too large.

        What activations take besides is known only once the network is unrolled, which takes time.
        """
        found, most, room = list[int](), self._most_steps, EXTRA_ACTIVATIONS
        for steps in lengths_between(chunks[0], self._mostly_time_batched):
            if steps not in chunks:
                room -= self._own(steps) + NODE * self._nodes(steps)
            if steps > most or room < 0:
                break
            found.append(steps)
        return found

    def _longest(self, lengths: Iterable[int]) -> dict[int, int]:
        """The longest of these that run in as many samples, by how many these are."""
        return {self.run.groups.of(steps): steps for steps in sorted(lengths)}

    def _memory_with(
        self, lengths: Sequence[int], longest: Mapping[int, int], memory: Memory
    ) -> Memory:
        """What that becomes with graphs for these lengths, too; ``longest``: of all."""

        def kept_by(steps: int) -> int:
            """About as much as time-steps have in that of the longest with as many samples."""
            most = longest[self.run.groups.of(steps)]
            return self._peak(most) * steps // most

        activations = max(memory.activations, *map(self._peak, longest.values()))
        kept = sum(map(kept_by, lengths))
        idle = memory.idle + memory.activations + kept - activations
        return replace(
            memory,
            weights=memory.weights + sum(map(self._own, lengths)),
            graphs=memory.graphs + NODE * sum(map(self._nodes, lengths)),
            activations=activations,
            idle=idle,
            planned=activations + idle if memory.plans_activations else 0,
        )

    @property
    def chunks_pay(self) -> bool:
        """Whether lean chunks take less time than single time-steps that are not lean."""
        return self._mostly_time_batched and average_uses(self.layers) < LEAN_USES

    @property
    def pays_by_default(self) -> bool:
        """Whether lean graphs are what a session without a budget should run.

        Of one sample dense layers lose nothing by them, but convolutions lose their tiles.
        """
        if self.run.samples != 1 or average_uses(self.layers) >= LEAN_USES:
            return False
        dense = [layer for layer in self.layers if layer.dense]
        mostly_dense = 2 * weights_in(dense) > weights_in(self.layers)
        if not mostly_dense or fed_uses(self.layers, FEW_PLACES) > FED_USES_IN_ALL:
            return False
        return fed_uses(self.layers, FEW_PLACES + 1) <= FED_USES

    def fits(self, chunks: tuple[int, ...]) -> bool:
        """Whether these chunks fit the memory that there is.

        By default lean graphs are for sessions that fit ``LEAN_SHARE``.
        """
        most = self.costs.max_memory
        # To know the activations of a chunk is to make its graph, which takes memory, too.
        if most is not None and self._weights(chunks) + self._graphs(chunks) > most:
            return False
        return self._has_room_for(self.memory(chunks))

    def _has_room_for(self, memory: Memory) -> bool:
        if self.costs.max_memory is not None:
            return memory.total <= self.costs.max_memory
        if self.lean:
            # Measured, graphs take half of what they are estimated at, and keep few activations.
            held = memory.needed - memory.graphs // 2 - memory.outputs - memory.counts
            return held <= LEAN_SHARE * (self.costs.weights + self._states)
        return memory.activations - self._peak(1) <= EXTRA_ACTIVATIONS

    def memory(self, chunks: tuple[int, ...]) -> Memory:
        """With graphs for chunks of these lengths, the longest first, and for single time-steps."""
        costs, run = self.costs, self.run
        # Single time-steps run too, in another order, and short chunks with other samples.
        first = chunks[:1] if run.groups.short == run.groups.long else chunks
        alive = [self._peak(steps) for steps in (*first, 1)]
        copies = self._bytes_of(self._written[name] for name in costs.kept)
        given_back = Memory(
            weights=self._weights(chunks),
            graphs=self._graphs(chunks),
            states=2 * self._states,
            starts=self._starts(chunks),
            # While a run goes on, a result of the one before may be there, too.
            inputs=(3 + run.varying * (2 * run.readouts - 1)) * self._inputs,
            activations=max(alive),
            idle=0,
            planned=0,
            read_out=max(run.prologue, run.read_out),
            outputs=2 * run.readouts * run.outputs,
            # It may be while the counts of one read-out are worked out, too.
            counts=(2 * run.readouts - 1) * copies + self._counting,
        )
        # Of as many samples shorter chunks take no more than the longest.
        largest, every = max(alive), max(alive[:-1], default=0) * len(chunks) + alive[-1]
        few, most = largest <= FEW_ACTIVATIONS, costs.max_memory
        room = EXTRA_ACTIVATIONS if most is None else most - given_back.total
        if most is None and self.lean and not few:
            room = 0
        idle = every - largest
        if idle > room:
            return given_back
        return replace(given_back, idle=idle, planned=every if few and idle + every <= room else 0)

    def _weights(self, chunks: tuple[int, ...]) -> int:
        """Bytes of all copies of weights."""
        costs = self.costs
        weights, copied = costs.weights, costs.copied
        # A budget decides whether they are held: if it were refused by them, which are a small
        # part of it, a larger one might be, too.
        outside = weights + (costs.held if chunks else 0)
        if self.lean:
            matrices = bool(chunks) * sum(tiles.bytes_of_matrices for tiles in self.tiled.values())
            return outside + matrices + sum(map(self._own, (*chunks, 1)))
        # One graph of time-steps, and one while it is made; or, while weights are rounded to 8
        # bits, what they were.
        made = max(2 * copied, weights - copied)
        # Chunks share what they have in the layout of the CPU, and what is in other units.
        first = max(map(self._weights_first, chunks), default=0)
        once = self._shared * bool(chunks) + first
        return outside + made + once + sum(map(self._own, chunks))

    def _own(self, timesteps: int) -> int:
        """Bytes of weights that the graph of a chunk of so many time-steps holds itself."""
        if self.lean:
            limited = self.costs.max_memory is not None
            held = held_by_lean(self.layers, timesteps, within_budget=limited)
            return self._bytes_of_weights(held)
        # It holds the matrices of tiles in place of their weights.
        more = sum(
            tiles.bytes_of_matrices - tiles.bytes_of_weights for tiles in self.tiled.values()
        )
        return self.costs.copied - self._shared + more - self._weights_first(timesteps)

    def _weights_first(self, timesteps: int) -> int:
        """Bytes of weights that a chunk of so many time-steps reads where they are."""
        return self._bytes_of_weights(weights_first_in(self.layers, timesteps))

    def _bytes_of_weights(self, names: frozenset[str]) -> int:
        """Bytes of layers' weights of these names."""
        return 4 * weights_in([layer for layer in self.layers if layer.initializer in names])

    def _graphs(self, chunks: tuple[int, ...]) -> int:
        """Bytes of all graphs."""
        return GRAPHS + NODE * sum([self.costs.nodes, *map(self._nodes, (*chunks, 1))])

    def _bytes_of(self, names: Iterable[str]) -> int:
        """Of tensors, for all samples."""
        run = self.run
        return sum(run.sizes.bytes_of(name) for name in names) * run.samples // run.groups.long

    @cached_property
    def _written(self) -> dict[str, str]:
        return {state.read: state.written for state in self.costs.peaks.states}

    @cached_property
    def _states(self) -> int:
        return self._bytes_of(self._written.values())

    def _starts(self, chunks: tuple[int, ...]) -> int:
        """Bytes of the states as chunks read them at first, of as many samples as run together."""
        together = max(map(self.run.groups.of, chunks), default=0)
        return self._states * together // self.run.samples

    @property
    def _inputs(self) -> int:
        given = (info.name for info in self.costs.peaks.step.graph.input)
        return self._bytes_of(name for name in given if name not in self._written)

    @property
    def _shared(self) -> int:
        """Bytes of weights in the layout of the CPU, which chunks share."""
        other = {*self.tiled, *self.costs.peaks.scratch}
        convolutions = (n for n in self.layers if n.op == "Conv" and n.name not in other)
        shared = min(self.costs.copied, 4 * sum(layer.weights for layer in convolutions))
        return 0 if self.layout is None else shared

    @property
    def _counting(self) -> int:
        """Bytes that working out spike counts takes."""
        run, states = self.run, self._states
        # One layer after the other is divided by its threshold, rounded, and made int64.
        largest = max((run.sizes.bytes_of(name) for name in self._written.values()), default=0)
        rounding = 4 * largest * run.samples // run.groups.long
        if not self.costs.derived_counts:
            # Half of the states, or more, are sums over time.
            return max(states, states // 2 + rounding)
        at_once = self._peak(1) * run.samples // run.groups.alone
        return max(2 * states + at_once, 3 * states + rounding)

    def _peak(self, timesteps: int) -> int:
        """Bytes of activations that are alive within a chunk."""
        by_layer = timesteps > 1 and self.layout is not None
        scratch = {name: tiles.scratch for name, tiles in self.tiled.items() if timesteps > 1}
        scratch |= {name: columns.scratch for name, columns in self._columns(timesteps).items()}
        run, groups = self.run, self.run.groups
        peak = self.costs.peaks.of(
            timesteps, self.heavy, groups.long, run.shapes, by_layer, scratch
        )
        return peak * groups.of(timesteps) // groups.long

    def _columns(self, timesteps: int) -> dict[str, Columns]:
        """The convolutions in columns in a run of so many time-steps, by name."""
        found = columns_in(self.layers, timesteps, self.run.groups.alone)
        return {n.name: n.columns for n in self.layers if n.columns in found}

    def _nodes(self, timesteps: int) -> int:
        """About how many nodes a graph of so many time-steps has."""
        besides = dict.fromkeys(self.costs.peaks.scratch, NODES_OF_PRODUCTS)
        if timesteps > 1:
            besides |= dict.fromkeys(self.tiled, NODES_OF_TILES)
        besides |= dict.fromkeys(self._columns(timesteps), NODES_OF_COLUMNS)
        return sum(
            (nodes_of(node) + besides.get(node.name, 0))
            * (1 if node.name in self.heavy else timesteps)
            for node in self.costs.peaks.step.graph.node
        )
