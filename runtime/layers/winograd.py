"""Convolutions of 3 x 3 with 16 multiplications for four results instead of 36.

Winograd's minimal filtering F(2 x 2, 3 x 3), as Lavin & Gray 2016 ("Fast Algorithms for
Convolutional Neural Networks", equation 8) apply it: of each tile d of 4 x 4 inputs, two apart,

    y = A^T [sum over channels of (G g G^T) * (B^T d B)] A

are 2 x 2 results, with

    B^T = 1  0 -1  0     G =  1    0    0     A^T = 1  1  1  0
          0  1  1  0         1/2  1/2  1/2          0  1 -1 -1
          0 -1  1  0         1/2 -1/2  1/2
          0  1  0 -1          0    0    1

For each of the 16 places of the product the sum over channels, for all tiles, is one product of
matrices [tiles, C] [C, C']. Of weights that are whole multiples of a power of two it takes two
binary digits more than the convolution: it is exact where the sums of that have up to 22. Others
are rounded in another order.

Images have their channels last, so that all else is sums of long rows. With E the even and O the
odd rows of an image (or of its columns), the four of B^T d of all tiles are

    O' - O,  E + O,  O - E,  E - E'        O' = O one row later, E' = E one row earlier
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.model_files.protos import attributes_of
from onnx2snn.graph_passes.model_files.weights import stub
from onnx2snn.runtime.plans.graphs import Writer, with_layers

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

TRANSFORMATION = 1000
"""What B^T d B or A^T m A takes for a channel of a tile, in multiplications within a product, with
its part in what leaving the layout of the CPU takes: more, the less of it fits the cache
(docs/measurements.md, section Constants)."""

NODES_OF_TILES = 90
"""About how many nodes a convolution on tiles is."""

RUNNING_NODES = 2**21
"""What running so many nodes takes besides, in multiplications of a convolution: more than tiles
gain on one small image (docs/measurements.md)."""


@dataclass(frozen=True)
class Tiles:
    """A convolution that runs on tiles, by the name of its weights, and the size of its images."""

    weights: str
    inputs: int
    outputs: int
    height: int
    width: int

    @property
    def high(self) -> int:
        """How many tiles an image has from top to bottom."""
        return -(-self.height // 2)

    @property
    def wide(self) -> int:
        """How many tiles an image has from left to right."""
        return -(-self.width // 2)

    @property
    def bytes_of_weights(self) -> int:
        """Bytes of its weights as they are."""
        return 9 * 4 * self.inputs * self.outputs

    @property
    def bytes_of_matrices(self) -> int:
        """Bytes of its 16 matrices."""
        return 16 * 4 * self.inputs * self.outputs

    @property
    def scratch(self) -> int:
        """Bytes of what is alive at once, for one sample, besides what it reads and makes."""
        return 4 * self.high * self.wide * (8 * self.inputs + 18 * self.outputs)


def tiles_where_they_pay(
    node: onnx.NodeProto, weights: Sequence[int], made: Sequence[int], time_batched: bool
) -> Tiles | None:
    """The tiles of a convolution that runs faster that way; None for others.

    ``weights`` and ``made``: the shapes of its weights and of its result in a time-step.
    """
    if node.op_type != "Conv" or len(made) != 4 or tuple(weights[2:]) != (3, 3):
        return None
    given = attributes_of(node)
    plain = {"group": 1, "strides": [1, 1], "dilations": [1, 1], "auto_pad": b"NOTSET"}
    if given.get("pads") != [1] * 4 or any(given.get(k, v) != v for k, v in plain.items()):
        return None
    outputs, inputs, height, width = *weights[:2], *made[2:]
    tiles = Tiles(node.input[1], inputs, outputs, height, width)
    takes = tiles.high * tiles.wide * (16 * inputs * outputs + TRANSFORMATION * (inputs + outputs))
    gains = max(made[0], 1) * (9 * height * width * inputs * outputs - takes)
    return tiles if gains > (0 if time_batched else RUNNING_NODES) else None


def matrices_of(weights: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """G g G^T of weights [outputs, inputs, 3, 3], 16 matrices [inputs, outputs] by their names."""
    outputs, inputs = weights.shape[:2]
    # One product of matrices is faster than an einsum, and says the same to the bit.
    columns = weights.transpose(2, 3, 1, 0).reshape(9, -1).astype(np.float64)
    product = (np.kron(_G, _G) @ columns).astype(np.float32).reshape(4, 4, inputs, outputs)
    return {_matrix(name, a, b): product[a, b] for a in range(4) for b in range(4)}


def _matrix(weights: str, a: int, b: int) -> str:
    """What the matrix at row a and column b of a tile is called."""
    return f"winograd/{weights}/{a}/{b}"


def with_winograd(model: onnx.ModelProto, tiled: Iterable[Tiles]) -> onnx.ModelProto:
    """A model in which these convolutions run on tiles; its ``matrices_of`` are without data."""
    by_weights = {tiles.weights: tiles for tiles in tiled}
    return with_layers(model, ("Conv",), by_weights, "winograd/", _write)


def _write(graph: Writer, node: onnx.NodeProto, tiles: Tiles) -> None:
    """Nodes that compute what ``node`` does."""
    (x, _, *bias), (y,) = filter(None, node.input), node.output
    high, wide, inputs, outputs = tiles.high, tiles.wide, tiles.inputs, tiles.outputs
    missing = 2 * high - tiles.height, 2 * wide - tiles.width

    def sizes(*given: int) -> str:
        return graph.constant(np.array(given), f"sizes/{given}")

    def halves(pairs: str, lengths: str, name: str) -> tuple[str, str]:
        made = f"{graph.prefix}{name}/0", f"{graph.prefix}{name}/1"
        graph.nodes.append(helper.make_node("Split", [pairs, lengths], made, made[0], axis=2))
        return made

    def spread(x: str, along: int, row: int, name: str) -> list[str]:
        """The four of B^T d, each [..., along, row]."""
        pairs = graph.node("Reshape", [x, sizes(-1, along, 2 * row)], f"{name}/pairs")
        even, odd = halves(pairs, sizes(row, row), f"{name}/halves")
        later = graph.node("Pad", [odd, sizes(0, 1, 0, 0, -1, 0)], f"{name}/later")
        earlier = graph.node("Pad", [even, sizes(0, -1, 0, 0, 1, 0)], f"{name}/earlier")
        terms = ("Sub", later, odd), ("Add", even, odd), ("Sub", odd, even), ("Sub", even, earlier)
        return [graph.node(op, both, f"{name}/{a}") for a, (op, *both) in enumerate(terms)]

    def gathered(m: Sequence[str], name: str) -> list[str]:
        """The two of A^T m."""
        sum_, difference = (graph.node(op, m[1:3], f"{name}/{op}") for op in ("Add", "Sub"))
        return [
            graph.node("Add", [m[0], sum_], f"{name}/0"),
            graph.node("Sub", [difference, m[3]], f"{name}/1"),
        ]

    def product(tile: str, a: int, b: int) -> str:
        """The sum over channels at one of the 16 places."""
        matrix = stub(_matrix(tiles.weights, a, b), onnx.TensorProto.FLOAT, (inputs, outputs))
        graph.initializers[matrix.name] = matrix
        if (a, b) != (1, 1) or not bias:
            return graph.node("MatMul", [tile, matrix.name], f"{y}/{a}/{b}")
        # Each result has this product once, so it may bring the bias along.
        rows = graph.node("Reshape", [tile, sizes(-1, inputs)], f"{y}/flat")
        made = graph.node("Gemm", [rows, matrix.name, *bias], f"{y}/biased")
        return graph.node("Reshape", [made, sizes(-1, wide, outputs)], f"{y}/{a}/{b}")

    x = graph.node("Transpose", [x], f"{y}/last", perm=[0, 2, 3, 1])
    if any(missing):
        x = graph.node("Pad", [x, sizes(0, 0, 0, 0, 0, *missing, 0)], f"{y}/even")
    m = [
        [product(tile, a, b) for b, tile in enumerate(spread(row, wide, inputs, f"{y}/in/{a}"))]
        for a, row in enumerate(spread(x, high, 2 * wide * inputs, f"{y}/in"))
    ]
    columns = [gathered([m[a][b] for a in range(4)], f"{y}/out/{b}") for b in range(4)]
    rows = []
    for a in range(2):
        pair = gathered([column[a] for column in columns], f"{y}/pair/{a}")
        row = graph.node("Concat", pair, f"{y}/row/{a}", axis=2)
        long = sizes(-1, high, 2 * wide * outputs)
        rows.append(graph.node("Reshape", [row, long], f"{y}/long/{a}"))
    whole = graph.node("Concat", rows, f"{y}/whole", axis=2)
    made = graph.node("Reshape", [whole, sizes(-1, 2 * high, 2 * wide, outputs)], f"{y}/image")
    if any(missing):
        ends = sizes(tiles.height, tiles.width)
        made = graph.node("Slice", [made, sizes(0, 0), ends, sizes(1, 2)], f"{y}/cut")
    graph.node("Transpose", [made], f"{y}/first", y, perm=[0, 3, 1, 2])
