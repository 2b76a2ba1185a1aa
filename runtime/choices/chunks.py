"""Chunks of time-steps: how long they are, and which layers run once for all of one."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx

from onnx2snn.runtime.layers.columns import Columns, columns_where_they_pay
from onnx2snn.runtime.layers.kernel_forms import Layout
from onnx2snn.runtime.layers.weights_first import first_pays, may_come_first
from onnx2snn.runtime.layers.winograd import Tiles, tiles_where_they_pay
from onnx2snn.runtime.plans.graphs import has_weights
from onnx2snn.runtime.plans.sizes import CACHED, Sizes
from onnx2snn.runtime.plans.unroll import axis_of_time

SHORT, MIDDLE, LONG, LONGEST = 4, 8, 16, 32
"""Time-steps of a chunk. Long ones are for what a chunk does once: reading the weights of layers
that are time-batched, and bringing states into the layout of the CPU and out of it. The longest
take twice as long to make, and pay where a time-step does little with each weight (``FEW_USES``).
No longer ones: a captured run cannot hold more tensors together (``cuda_graphs.py``).

Where nothing has either to be done once, as in small dense networks, a graph costs more than its
nodes (docs/measurements.md, section Constants)."""


def lengths_between(longest: int, mostly_time_batched: bool) -> range:
    """What other lengths a chunk may have, where graphs for them fit the memory.

    One graph for all time-steps of a short run reads weights once, and takes turns in the cache
    with no other, but where few layers are time-batched 2 take longer than 1 + 1. Beyond ``LONG``
    there is nothing left to gain (docs/measurements.md).
    """
    return range(2 if mostly_time_batched else 3, LONG if longest >= MIDDLE else MIDDLE)


MOST_NODES = 2**13
"""Nodes of a chunk, a neuron being one: to make a longer one takes ONNX Runtime time out of
proportion (docs/measurements.md)."""

FEW_USES = 64
"""How often a time-step uses a weight, on average: with fewer, weights come from memory for little
(docs/measurements.md)."""


LEAN_USES = 24
"""With fewer uses, lean chunks, which read weights as they are, take less time than single
time-steps do on weights in ONNX Runtime's own layout, where most layers are time-batched
(docs/measurements.md)."""


MANY_TILES = 16
"""Tiles of an image: with fewer, lean chunks leave a convolution as it is. Its matrices, which take
16 / 9 of the memory of its weights, are used once for each tile."""

FEW_HELD = 32
"""Of the weights, lean graphs hold at most one in so many, those of the smallest convolutions."""

FED_USES, FED_USES_IN_ALL = 3, 6
"""Lean graphs are for one sample where a time-step uses a weight at most so often, on average, in
convolutions of more than 16 places that no graph holds, and of 16 places or more.

The former take longer in single time-steps, and in chunks all of them lose their tiles
(docs/measurements.md)."""


@dataclass(frozen=True)
class WeightedLayer:
    """A node with weights, and the numbers that decide whether it runs once for a whole chunk.

    ``weights`` counts its weights, ``computes`` the numbers that it computes in a time-step, for
    all samples that run together, and ``uses`` how often it uses each weight for that. ``axis``:
    that along which time-steps may come together; None where they may not. ``tiles``: those of a
    convolution that runs on tiles within a chunk, and ``columns`` of one that runs in columns.
    ``dense``: whether the weights may come first in the product, so that graphs share them.
    ``lean``: graphs read one copy of the ``initializer`` that its weights are.
    """

    name: str
    op: str
    initializer: str
    weights: int
    computes: int
    uses: int
    axis: int | None
    tiles: Tiles | None
    dense: bool = False
    columns: Columns | None = None
    lean: bool = False

    @property
    def time_batched(self) -> bool:
        """Whether it runs once for all time-steps of a chunk: reading weights costs most."""
        if self.axis is None:
            return False
        return self._reads_matrices or _reading_costs_most(self.weights, self.computes)

    @property
    def _reads_matrices(self) -> bool:
        """Whether it is on tiles whose matrices are repacked in each run."""
        return self.lean and self.tiles is not None

    @property
    def why(self) -> str:
        """The reason, in a few words."""
        if self.axis is None:
            return "does not treat time-steps as samples"
        if self._reads_matrices:
            return "its matrices are repacked in each run"
        if self.weights <= CACHED:
            return "its weights fit the cache"
        than = "more" if self.time_batched else "no more"
        return f"{than} weights than it computes"


def weighted_layers(
    step: onnx.ModelProto,
    sizes: Sizes,
    free: Collection[str] = (),
    *,
    tiles: bool = True,
    in_8_bits: Collection[str] = (),
    lean: bool = False,
    columns: bool = False,
) -> tuple[WeightedLayer, ...]:
    """The layers with constant weights, in graph order.

    ``free``: the names of weights that a layer may read in another way, convolutions on tiles if
    ``tiles``, or in ``columns``. ``in_8_bits``: the names of the nodes that run in 8 bits, which
    take images of one size alone. ``lean``: as in ``WeightedLayer``.
    """
    inputs = {info.name for info in step.graph.input}
    # The starts of states, of which these are other sizes, are initializers too.
    constants = {t.name: tuple(t.dims) for t in step.graph.initializer if t.name not in inputs}
    nodes = [node for node in filter(has_weights, step.graph.node) if node.input[1] in constants]
    readers = Counter(node.input[1] for node in nodes)
    # Ways to read weights are by their names: those of several nodes stay.
    own = {name for name in free if readers[name] == 1}

    def tiles_of(node: onnx.NodeProto) -> Tiles | None:
        weights, made = node.input[1], sizes.shapes.get(node.output[0], ())
        if not tiles or weights not in own or 0 in made[2:]:
            return None
        shape = constants[weights]
        heavy = lean or _reading_costs_most(math.prod(shape), sizes.count(node.output[0]))
        found = tiles_where_they_pay(node, shape, made, heavy)
        if found is None or (lean and found.high * found.wide < MANY_TILES):
            return None
        return found

    def columns_of(node: onnx.NodeProto) -> Columns | None:
        weights, read = node.input[1], sizes.shapes.get(node.input[0], ())
        if not columns or weights not in own or axis(node) != 0:
            return None
        made = sizes.shapes.get(node.output[0], ())
        return columns_where_they_pay(node, constants[weights], read, made)

    def uses_of(node: onnx.NodeProto) -> int:
        channels = 1 if node.op_type.startswith("Conv") else -1
        count = sizes.count(node.output[0])
        return count // sizes.shapes[node.output[0]][channels] if count else 0

    def axis(node: onnx.NodeProto) -> int | None:
        if len(sizes.shapes.get(node.input[0], (0, 0))) < 2:
            # A vector: its axis 0 is what is multiplied.
            return None
        found = axis_of_time(node, constants)
        return 0 if found and node.name in in_8_bits else found

    return tuple(
        WeightedLayer(
            name=node.name,
            op=node.op_type,
            initializer=node.input[1],
            weights=math.prod(constants[node.input[1]]),
            computes=sizes.count(node.output[0]),
            uses=uses_of(node),
            axis=axis(node),
            tiles=tiles_of(node),
            dense=may_come_first(node, constants, own),
            columns=columns_of(node),
            lean=lean,
        )
        for node in nodes
    )


def _reading_costs_most(weights: int, computes: int) -> bool:
    """Whether so many weights take longer than what is computed with them in a time-step."""
    return weights > max(CACHED, computes)


def axes_of_time(layers: Iterable[WeightedLayer]) -> dict[str, int]:
    """The layers that run once for a whole chunk, by name, and their ``axis``."""
    heavy = (layer for layer in layers if layer.time_batched)
    return {layer.name: layer.axis for layer in heavy if layer.axis is not None}


def lengths_of_chunks(
    layers: Sequence[WeightedLayer], layout: Layout | None
) -> tuple[tuple[int, ...], ...]:
    """Candidate lists of chunk lengths, the fastest first; later ones need less memory."""
    if not layout and not any(layer.time_batched for layer in layers):
        return ((SHORT,),) if layout is None else ((MIDDLE, SHORT), (SHORT,))
    ladder = (LONG, MIDDLE, SHORT), (LONG, SHORT), (LONG,), (SHORT,)
    if weights_in(layers) > CACHED and average_uses(layers) < FEW_USES:
        return (LONGEST, LONG, MIDDLE, SHORT), *ladder
    return ladder


def average_uses(layers: Sequence[WeightedLayer]) -> float:
    """How often a time-step uses a weight, on average."""
    return sum(layer.weights * layer.uses for layer in layers) / max(weights_in(layers), 1)


def weights_first_in(layers: Iterable[WeightedLayer], timesteps: int) -> frozenset[str]:
    """The weights of dense layers that come first in a chunk of so many time-steps."""
    if timesteps == 1:
        return frozenset()
    return frozenset(
        layer.initializer
        for layer in layers
        if layer.dense and layer.time_batched and first_pays(layer.uses * timesteps, layer.weights)
    )


def columns_in(
    layers: Iterable[WeightedLayer], timesteps: int, samples: int
) -> tuple[Columns, ...]:
    """The convolutions in columns in a run of so many time-steps and samples: not of one row."""
    found = (layer.columns for layer in layers if layer.columns is not None)
    return tuple(found) if max(timesteps, samples) > 1 else ()


def lean_weights_first(
    layers: Iterable[WeightedLayer], timesteps: int, samples: int
) -> frozenset[str]:
    """The weights of dense layers that come first in lean graphs: all that several rows use.

    Otherwise ONNX Runtime repacks them in each run.
    """
    return frozenset(
        layer.initializer
        for layer in layers
        if layer.dense and (samples > 1 or (timesteps > 1 and layer.time_batched))
    )


def held_by_lean(
    layers: Sequence[WeightedLayer], timesteps: int, *, within_budget: bool
) -> frozenset[str]:
    """The weights that a lean graph of so many time-steps holds itself, by name.

    In ONNX Runtime's own layout, in which small convolutions are faster. A budget counts on none.
    """
    if within_budget:
        return frozenset()
    held, room = set[str](), weights_in(layers) // FEW_HELD
    for layer in sorted(layers, key=lambda layer: layer.weights):
        plain = layer.tiles is None and layer.weights <= CACHED
        if layer.op != "Conv" or layer.columns is not None or not (plain or timesteps == 1):
            continue
        room -= layer.weights
        if room < 0:
            break
        held.add(layer.initializer)
    return frozenset(held)


def fed_uses(layers: Sequence[WeightedLayer], places: int) -> float:
    """How often a lean time-step uses a weight in convolutions that it is fed.

    Of those that use each weight at so many ``places`` or more.
    """
    held = held_by_lean(layers, 1, within_budget=False)
    uses = sum(
        layer.weights * layer.uses
        for layer in layers
        if layer.op == "Conv" and layer.uses >= places and layer.initializer not in held
    )
    return uses / max(weights_in(layers), 1)


def weights_in(layers: Sequence[WeightedLayer]) -> int:
    """How many weights the layers have."""
    return sum(layer.weights for layer in layers)
