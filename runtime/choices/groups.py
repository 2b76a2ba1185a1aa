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

Measured at N = 1, 2, 4, 8, 16, one thread, microseconds for a time-step of a sample; in brackets
KiB of states of the largest layer. Recipe ``best``, EPYC (Zen 5) with 1 MiB of cache a core: a
ShuffleNet of 96 x 96 (432) 665, 580, 491, 441, 454; a MnasNet (432) 1067, 919, 848, 857, 963; a
SqueezeNet (1104) 1137, 1038, 964, 1053, 1208; MobileNet (392) 411, 393, 378, 408, 444; VGG (196)
403, 382, 365, 364, 370; a U-Net of 64 x 64 (512) 1048, 1001, 1038, 1141, 1256; one of 160 x 160
(1600) 1010, 1032, 1142, 1281, 1411. Xeon with 2 MiB: MobileNet 760, 812, 908, 1080, 1280; VGG 771,
687, 669, 703, 771; others, ResNet-20 (64) 621, 625, 606, 621, 648; VGG-16 (256) 3690, 3195, 3115,
3205, 3390; ResNet-18 of 224 x 224 (3136), N = 1 to 8, 18200, 19600, 20800, 21700. These say 0.3 to
0.7 microseconds for a node, and 0.05 (EPYC) to 0.2 (Xeon) for a KiB; the two are in between."""

READ = 6e-11
"""Seconds that a byte of weights costs that a run reads from memory, not from the cache.

Measured on a Xeon: VGG-16, N=16, a time-step in six groups took 147 ms, as a whole 109, each group
reading 134 MB. In a long chunk that is a time-step's part alone, which the figures above contain.
Chunks of 4, 8, 16 and 32 of an AlexNet, N=16, whose groups read 230 MB, times of single time-steps:
in groups of one 1.12, 0.92, 0.83 and 0.80, of eight 0.86, 0.87, 0.86 and 0.86; of the VGG-16, in
groups of three 0.66, 0.56 (4, 8) and 0.53 (32), of twelve 0.57 and 0.55."""

OUTERMOST = 8
"""How many times the cache nearby the states of a layer may take, at most, in chunks.

Single time-steps are worth more samples. Measured on a Xeon, T=2, N=16, times of ``plan="step"``
with 2, 4, 8 and 16 together: AlexNet 1.26, 1.11, 1.03, 1.00; VGG-16 1.28, 1.12, 1.05, 0.97; dqn
1.23, 1.07, 1.00, 0.96; ResNet-50 of 96 x 96 0.98, 0.96 (5), 0.95 (10), 0.94; ResNet-18 of 224 x 224
0.96, 0.96, 0.95, 0.95; convolutions on 160 x 160 0.77, 0.83, 0.83, 0.82."""


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

        return min(sorted(ends & {*range(1, samples + 1)}, reverse=True), key=takes)

    return Groups(in_chunks(nodes), in_chunks(nodes + reading / MIDDLE), alone(nodes + reading))
