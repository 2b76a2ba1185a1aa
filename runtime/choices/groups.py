"""Groups of samples: how many of a batch run together."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnx2snn.runtime.plans.plan import State
from onnx2snn.runtime.plans.sizes import CACHED, sizes_of

from .chunks import MIDDLE
from .memory import nodes_of
from .rows import Shape, samples_are_apart

CACHE = 3 * 2**18
"""Bytes, 768 KiB, for each core: where the states of a layer, for all samples that run together,
take no more, what it reads and writes stays in the cache nearby."""

MISS, NODE_RUN = 1.2e-10, 4.5e-7
"""Seconds that a byte of states beyond ``CACHE`` costs in a time-step, and that a node costs
however little it computes: by these as many samples run together as take least.

Between what an EPYC and a Xeon say (docs/measurements.md, section Constants)."""

READ = 6e-11
"""Seconds that a byte of weights costs that a run reads from memory, not from the cache.

In a long chunk that is a time-step's part alone, which ``MISS`` contains
(docs/measurements.md)."""

OUTERMOST = 8
"""How many times the cache nearby the states of a layer may take, at most, in chunks.

Single time-steps are worth more samples (docs/measurements.md)."""


@dataclass(frozen=True)
class Groups:
    """At most so many samples run together: in chunks longer than ``MIDDLE``, and others.

    ``short``: in chunks that are no longer; ``alone``: in single time-steps.
    """

    long: int
    short: int
    alone: int

    def of(self, timesteps: int) -> int:
        """How many run together in a run of so many time-steps."""
        if timesteps == 1:
            return self.alone
        return self.short if timesteps <= MIDDLE else self.long


def groups_of_all(samples: int) -> Groups:
    """All samples together."""
    return Groups(samples, samples, samples)


def groups_of(
    step: onnx.ModelProto,
    states: Sequence[State],
    shapes: Mapping[str, Shape],
    samples: int,
    cores: int,
) -> Groups:
    """How many samples are in one run on so many cores: as many as take least time for each.

        NODE_RUN nodes / n + MISS (states, in bytes, of the layers with n states > CACHE)

    and besides, for bytes of weights that no cache holds, READ weights / n in a single time-step,
    and an eighth of that, ``MIDDLE``, in short chunks. For single time-steps, whose runs are made
    even, 1 / n is how many of these there are for each sample, and n the largest.
    ``shapes``: those of what ``step`` reads, for N = ``samples``. All N where samples are not
    computed each by itself.
    """
    if samples == 1 or not samples_are_apart(step, states, shapes, samples):
        return groups_of_all(samples)
    made = sizes_of(step, shapes)
    by_layer = Counter[str]()
    for state in states:
        layer = state.read.partition("/")[2]
        by_layer[layer] += made.bytes_of(state.written) // samples
    cache = CACHE * cores
    nodes = NODE_RUN * sum(nodes_of(node) for node in step.graph.node)
    constants = (math.prod(tensor.dims) for tensor in step.graph.initializer)
    reading = 4 * READ * sum(count for count in constants if count > CACHED)
    # Between these only the first term changes.
    ends = {samples, *(cache // size for size in by_layer.values() if size)}
    outermost = OUTERMOST * cache // max([1, *by_layer.values()])
    most = min(samples, outermost)

    def beyond(together: int) -> int:
        """Bytes of a sample's states in layers that do not fit the cache."""
        return sum(size for size in by_layer.values() if size * together > cache)

    def in_chunks(shared: float) -> int:
        """The number that takes the least time, of which samples share so much."""
        possible = sorted((n for n in {*ends, outermost} if 1 <= n <= most), reverse=True)
        return min(possible, key=lambda n: shared / n + MISS * beyond(n), default=1)

    def alone(shared: float) -> int:
        """The same of single time-steps, whose last runs are not much smaller than the others."""

        def takes(together: int) -> float:
            runs = -(-samples // together)
            return shared * runs / samples + MISS * beyond(-(-samples // runs))

        return min(sorted((n for n in ends if 1 <= n <= samples), reverse=True), key=takes)

    return Groups(in_chunks(nodes), in_chunks(nodes + reading / MIDDLE), alone(nodes + reading))
