"""How a network runs for a number of samples: what is chosen, why, and what memory it takes.

``choose`` is all there is to it: sessions run what it says, and ``inspect --plan`` shows it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import onnx
from onnx import helper

from onnx2snn.graph_passes.errors import DataError, counted
from onnx2snn.graph_passes.graph.neurons import DOMAIN, NEURONS
from onnx2snn.graph_passes.graph.operators import SPIKING_POOLS
from onnx2snn.graph_passes.model_files.protos import attributes_of
from onnx2snn.runtime.layers.columns import Columns
from onnx2snn.runtime.layers.kernel_forms import Layout
from onnx2snn.runtime.layers.winograd import Tiles
from onnx2snn.runtime.plans.graphs import with_nodes
from onnx2snn.runtime.plans.plan import Plan, State
from onnx2snn.runtime.plans.sizes import sizes_of

from .chunks import (
    LONG,
    WeightedLayer,
    axes_of_time,
    columns_in,
    held_by_lean,
    lean_weights_first,
    weights_first_in,
)
from .costs import Costs
from .estimate import Estimate
from .groups import Groups, groups_of_all
from .memory import Memory
from .rows import Shape
from .run import Run


class Form(NamedTuple):
    """What a run of time-steps is: all that its graph is made from, and what tells sessions apart.

    ``plans_memory``: as of ``Use``. ``weights_first``: the weights of dense layers that
    come first. ``columns`` and ``tiled``: the convolutions that run so. ``held``: the weights that
    a lean graph holds itself, by name. ``time_batched``: the nodes that run once for all
    time-steps, and their axis. The rest is as in ``Choice``.

    What has a default is the same for all single time-steps. Sessions are looked up by it in each
    run, which a dataclass makes slower.
    """

    steps: int
    lean: bool
    plans_memory: bool
    weights_first: frozenset[str]
    columns: tuple[Columns, ...]
    held: frozenset[str]
    time_batched: tuple[tuple[str, int], ...] = ()
    layout: Layout | None = None
    tiled: tuple[Tiles, ...] = ()
    shapes_known: bool = False


@dataclass(frozen=True)
class Choice:
    """What a session does for inputs of these shapes.

    ``chunks``: lengths of the chunks, in time-steps, the longest first, and ``between`` others,
    where one of these takes what those leave over; the rest, as up to a read-out that none of them
    hits, runs one time-step at a time, and all where there are none. ``samples``: N. ``groups``:
    how many of them run at once; the run is repeated for the rest. ``layers`` describes those of
    long chunks.
    ``derived_counts``: whether spike counts follow from membrane potentials, or are added up at
    each time-step. ``short_of_memory``: whether other chunks would be faster, but do not fit.
    ``layout``: what enters the layout of the CPU in a chunk; None where chunks are in plain layout.
    ``shapes``: those of what a time-step reads. ``shapes_known``: whether those of all states are,
    so that a chunk reads them in full. ``lean``: whether all graphs read one copy of the weights,
    as they are, which takes the least memory. ``within_budget``: whether ``max_memory`` is given.
    """

    samples: int
    groups: Groups
    chunks: tuple[int, ...]
    between: range
    layers: tuple[WeightedLayer, ...]
    derived_counts: bool
    memory: Memory
    short_of_memory: bool
    layout: Layout | None
    shapes: Mapping[str, Shape]
    shapes_known: bool
    lean: bool
    within_budget: bool

    @cached_property
    def time_batched(self) -> dict[str, int]:
        """The nodes that run once for a whole chunk, by name, and their ``axis``."""
        return axes_of_time(self.layers)

    @cached_property
    def tiled(self) -> tuple[Tiles, ...]:
        """The convolutions that run on tiles within a chunk."""
        if not self.chunks:
            return ()
        return tuple(layer.tiles for layer in self.layers if layer.tiles is not None)

    @cached_property
    def sizes(self) -> tuple[Shape, ...]:
        """The shapes of what a time-step reads, without their first axis."""
        return tuple(shape[1:] for shape in self.shapes.values())

    @cached_property
    def forms(self) -> dict[int, Form]:
        """The forms of its runs, by how many time-steps they are."""
        return {steps: self._form(steps) for steps in (1, *self.between, *self.chunks)}

    def _form(self, steps: int) -> Form:
        layers, alone = self.layers, self.groups.alone
        first, held = weights_first_in(layers, steps), frozenset[str]()
        if self.lean:
            first = lean_weights_first(layers, steps, alone)
            held = held_by_lean(layers, steps, within_budget=self.within_budget)
        form = Form(
            steps=steps,
            lean=self.lean,
            plans_memory=self.memory.plans_activations,
            weights_first=first,
            columns=columns_in(layers, steps, alone),
            held=held,
        )
        if steps == 1:
            return form
        return form._replace(
            time_batched=tuple(self.time_batched.items()),
            layout=self.layout,
            tiled=self.tiled,
            shapes_known=self.shapes_known,
        )

    def chunk(self, most: int) -> int:
        """The length of the next chunk, where ``most`` time-steps are wanted.

        One of ``between`` takes what is left over, together with a chunk if it can.
        What is left over of all comes first: the first time-step of a run reads states that are
        the same for all samples and places, as they start, which a chunk needs in full
        (docs/measurements.md).
        """
        longest = min(max(self.chunks, default=1), LONG)
        beside, left = most % longest, most
        for length in self.chunks:
            left %= length
        for steps in (longest + beside, beside, left):
            if steps in self.between and steps <= most:
                return steps
        return 1 if left else next((length for length in self.chunks if length <= most), 1)


def choose(costs: Costs, run: Run, layout: Layout | None, shapes: Mapping[str, Shape]) -> Choice:
    """Choose how time-steps of a run go on.

    layout: what ``layout_of`` says; shapes: those of what a time-step reads of all samples,
    ``without_open_states``. Raises ``DataError`` where not even a time-step fits.
    """
    # Without tiles chunks may fit that otherwise do not.
    with_tiles = (True, False) if costs.free else (False,)
    full = [Estimate(costs, run, tiles, layout) for tiles in with_tiles]
    if costs.max_memory is not None and not full[0].fits(full[0].lengths_of_chunks[0]):
        # Nor do as many samples in single time-steps and short chunks as take least time.
        run = replace(run, groups=groups_of_all(run.groups.long))
        full = [replace(way, run=run) for way in full]
    lean = []
    if costs.may_be_lean and (costs.in_chunks or costs.max_memory is not None):
        # Columns of many samples take memory, too.
        ways_to_convolve = [(tiles, True) for tiles in with_tiles] + [(False, False)]
        lean = [
            Estimate(costs, run, tiles, None, lean=True, columns=columns)
            for tiles, columns in ways_to_convolve
        ]
    if costs.max_memory is None:
        ways = [*(way for way in lean if way.pays_by_default and way.fits(())), *full]
    else:
        ways = [way for way in full if way.fits(())]
        if not ways or (lean and lean[0].chunks_pay):
            ways += [way for way in lean if way.fits(())]
        if not ways:
            least = (lean or full)[-1]
            raise DataError(_too_much(least.memory(()), run, costs.max_memory))
    way, chunks = _first_in_chunks(ways) if costs.in_chunks else (ways[0], ())
    between, memory = way.with_lengths_between(chunks)
    # By default what comes first is what should run, where that fits.
    best = ways[0] if costs.max_memory is None else full[0]
    wanted = best, best.lengths_of_chunks[0]
    return Choice(
        samples=run.samples,
        groups=run.groups,
        chunks=chunks,
        between=between,
        layers=way.layers,
        derived_counts=costs.derived_counts,
        memory=memory,
        short_of_memory=costs.in_chunks and (way, chunks) != wanted,
        layout=way.layout if chunks else None,
        shapes=shapes,
        shapes_known=all_known(costs.peaks.states, shapes),
        lean=way.lean,
        within_budget=costs.max_memory is not None,
    )


def _first_in_chunks(ways: Sequence[Estimate]) -> tuple[Estimate, tuple[int, ...]]:
    """The first way whose chunks fit, and the fastest that do; else the first, without chunks."""
    for way in ways:
        for chunks in way.lengths_of_chunks:
            if way.fits(chunks):
                return way, chunks
    return ways[0], ()


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
        for state in neuron.states:
            known[state] = (samples, *neuron.shape)
    starts = {state.read: state.start for state in plan.states}
    made = sizes_of(_of_one_time_step(step), known).shapes
    for node in step.graph.node:
        state = node.input[-1] if node.domain == DOMAIN else ""
        if state in read and state not in known:
            # Kept sums have the shape of what they sum; a clock is one number.
            shape = starts[state].shape if node.op_type == "Clock" else made.get(node.input[0], ())
            known |= {state: shape} if all(shape) else {}
    for name, kept in plan.sums.items():
        shape = made.get(name, (0,))
        if kept.read in read and all(shape):
            known[kept.read] = shape
    for neuron in plan.neurons:
        found, said = made.get(neuron.current, ()), (samples, *neuron.shape)
        # What does not depend on all inputs may have fewer samples. Sizes that are open are those
        # of the current; of axes of 1, to which any may be added, they are not known.
        fits = len(found) == len(said) and all(
            size > 0 if isinstance(wanted, str) else size == wanted
            for size, wanted in zip(found, said, strict=True)
        )
        for state in neuron.states:
            if fits:
                known[state] = found
            else:
                del known[state]
    return known


def without_open_states(plan: Plan, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The same without the states of neurons whose sizes the file leaves open."""
    left_open = {
        state
        for neuron in plan.neurons
        if any(isinstance(size, str) for size in neuron.shape)
        for state in neuron.states
    }
    return {name: shape for name, shape in shapes.items() if name not in left_open}


def _of_one_time_step(step: onnx.ModelProto) -> onnx.ModelProto:
    """A step with what it makes of one time-step in place of what it makes of kept sums.

    That has the same shapes, also where those of the sums are not known yet: what a size of 1 is
    added to may have any.
    """
    nodes = []
    for node in step.graph.node:
        if node.domain != DOMAIN or node.op_type in {*NEURONS, "Clock"}:
            nodes.append(node)
            continue
        pool = SPIKING_POOLS.get(node.op_type)
        attributes = attributes_of(node) if pool else {}
        x, summed = node.output[0], node.output[-1]
        nodes += [
            helper.make_node(pool or "Identity", node.input[:1], [x], **attributes),
            helper.make_node("Identity", node.input[:1], [summed]),
        ]
    return with_nodes(step, nodes, step.graph.output)


def _too_much(memory: Memory, run: Run, max_memory: int) -> str:
    samples, together, readouts = run.samples, run.groups.long, run.readouts
    shared = memory.weights + memory.graphs
    left = max_memory - shared
    each = (memory.total - shared - memory.activations) / samples
    fit = int((left - memory.activations) // max(each, 1))
    if fit < together:
        # Activations are then those of fewer samples.
        each += memory.activations / together
        fit = int(left // max(each, 1))
    times = f", read out {readouts} times," if readouts > 1 else ""
    text = (
        f"one time-step of {counted(samples, 'sample')}{times} needs about {memory.total:,} bytes, "
        f"of which {memory.weights:,} are for weights, but max_memory is {max_memory:,}: "
    )
    if fit > 0:
        return text + f"run fewer at a time, up to {fit} (--batch-size)"
    alone = f"; one sample needs about {round(shared + each):,}" if samples > 1 else ""
    return f"{text}raise it{alone}"
