"""Weights that bring a layer's mean current, or read-out, nearest to that of the ANN."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.graph.editing import Editor, only_consumer, producer
from onnx2snn.graph_passes.graph.windows import pads_itself, written_pads
from onnx2snn.runtime.inputs import largest_number

from .layers import few_samples

CONVOLUTIONS = ("Conv", "ConvTranspose")

ALL = slice(None)

Slices = tuple[slice, ...]

RIDGE = 0.1
"""How much a change of weights is held back: a share of the inputs' mean square."""

MOST_NUMBERS = 2**24
"""Of patches in memory at a time."""

ENOUGH_PLACES = 2**13
"""From which a layer's weights are refitted: of more, only some samples are looked at."""

FEWEST_SAMPLES = 8
"""That are looked at, whatever their size: one black image would stand for all."""

PRUNED = 0.5
"""A layer of whose weights so many are 0 was pruned: they stay 0, and no spike goes there."""

DIRECTIONS = 10
"""Of conjugate gradients, for all outputs of a pruned layer together: with 5, and with 50, networks
err as much (docs/experiments.md)."""

_TINY = np.finfo(np.float64).tiny
"""In place of 0 / 0, where nothing is left."""


def fit_weights(
    graph: gs.Graph,
    tensor: gs.Tensor,
    wanted: np.ndarray,
    part: float,
    measure: Callable[[list[gs.Tensor]], list[np.ndarray]],
    floor: float = -np.inf,
) -> bool:
    """Refit the convolutions and dense layers that add up to a tensor.

    wanted: the tensor in the ANN, [N, ...]. ``measure``: means over time. With P the patches of
    the mean inputs that each place of the output sees, of K numbers each, and R a part of what
    the mean c of the tensor lacks, max(wanted, floor) - max(c, floor), with 0 where a pruned layer
    has it:

        dW = argmin |R - P dW|^2 + RIDGE |P|^2 (1 / K + 1 / places) |dW|^2

    which the normal equations (P'P + ...) dW = P'R give, of each group, and of a transposed
    convolution of each phase of its strides; of a pruned layer nearly, by conjugate gradients.
    Where there are fewer places than weights, as in a dense layer after few images, 1 / places
    holds dW back. A layer keeps its weights if anything but sums lies between it and the tensor, or
    if others read its output too. Returns whether any was refitted. Raises ``DataError`` where the
    inputs are so large that weights would not be finite.
    """
    linear = [node for node in _summed(graph, tensor) if _is_known(node)]
    if not linear:
        return False
    *sources, mean = measure([*(node.inputs[0] for node in linear), tensor])
    residual = np.maximum(wanted, floor).astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):
        residual -= np.maximum(mean, floor)
    # A mask may have made both infinite.
    residual[~np.isfinite(residual)] = 0
    residual *= part
    fitted = False
    for node, source in zip(linear, sources, strict=True):
        changes = _refit(graph, node, source, residual)
        fitted = fitted or bool(changes)
        if changes and node is not linear[-1]:
            residual = _left(node, source, residual, changes)
    return fitted


def _summed(graph: gs.Graph, tensor: gs.Tensor) -> list[gs.Node]:
    """The weighted nodes whose outputs are added to make a tensor, and nothing else."""
    node = producer(tensor)
    if node is None:
        return []
    if node.op == "Add":
        alone = [operand for operand in node.inputs if only_consumer(graph, operand) is not None]
        return [found for operand in alone for found in _summed(graph, operand)]
    weighted = node.op in (*CONVOLUTIONS, "Gemm", "MatMul")
    return [node] if weighted and isinstance(node.inputs[1], gs.Constant) else []


# What is not finite then is refused.
@np.errstate(over="ignore", invalid="ignore")
def _refit(
    graph: gs.Graph, node: gs.Node, source: np.ndarray, residual: np.ndarray
) -> list[np.ndarray]:
    """Change a node's weights towards a residual; returns what changes, as ``_solve``."""
    weights = np.asarray(node.inputs[1].values)
    columns = np.moveaxis(residual, 1, -1) if node.op in CONVOLUTIONS else residual
    if columns.ndim < 2 or columns.shape != (*_places(node, source), _outputs(node)):
        # Its output is broadcast to a larger tensor, or has no axis for samples.
        return []
    changes = _solve(node, source, columns, _kept(node))
    new = (weights + _as_weights(node, changes)).astype(weights.dtype)
    if not np.all(np.isfinite(new)):
        raise DataError(
            f"on the calibration data the inputs of '{node.name}' reach "
            f"{largest_number(source):.3g}, too far to refit its weights: scale the data as for "
            "the network's training"
        )
    old = node.inputs[1]
    # Weights that several nodes share part here.
    name = old.name if len(old.outputs) == 1 else Editor(graph).name(old.name)
    node.inputs[1] = gs.Constant(name, new)
    return changes


def _kept(node: gs.Node) -> list[np.ndarray] | None:
    """Where the weights of a pruned layer are not 0: bool [K, C] of each group; None of others."""
    weights = np.asarray(node.inputs[1].values)
    if not 0 < np.count_nonzero(weights) <= (1 - PRUNED) * weights.size:
        return None
    return _as_matrices(node, weights != 0)


def _phases(node: gs.Node) -> list[tuple[Slices, Slices]]:
    """The weights of a kernel that places see together, and these places, along their axes.

    Of a transposed convolution weight k adds to place o where k dilation = o + pad modulo the
    stride; of others all to each.
    """
    if node.op != "ConvTranspose":
        return [((), ())]
    kernel = node.inputs[1].values.shape[2:]
    ones = [1] * len(kernel)
    strides, dilations = node.attrs.get("strides", ones), node.attrs.get("dilations", ones)
    pads = written_pads(node, len(kernel))[: len(kernel)]
    axes: list[tuple[list[slice], list[slice]]] = []
    for size, stride, dilation, pad in zip(kernel, strides, dilations, pads, strict=True):
        step = stride // math.gcd(stride, dilation)
        # Behind the first of these weights, k, their phases come again.
        phases = [(k, k * dilation % stride) for k in range(min(size, step))]
        taps = [slice(k, None, step) for k, _ in phases]
        places = [slice((phase - pad) % stride, None, stride) for _, phase in phases]
        axes.append((taps, places))
    every_taps, every_places = (itertools.product(*each) for each in zip(*axes, strict=True))
    return list(zip(every_taps, every_places, strict=True))


def _as_matrices(node: gs.Node, weights: np.ndarray) -> list[np.ndarray]:
    """What stands in the place of weights, [K, C] of each phase and group."""
    groups = node.attrs.get("group", 1)
    if node.op == "ConvTranspose":
        channels_last = [np.moveaxis(weights[ALL, ALL, *taps], 1, -1) for taps, _ in _phases(node)]
        parts = [part for own in channels_last for part in np.split(own, groups)]
        return [part.reshape(-1, part.shape[-1]) for part in parts]
    rows = weights if _has_outputs_first(node) else weights.T
    return [part.T for part in np.split(rows.reshape(len(rows), -1), groups)]


def _as_weights(node: gs.Node, matrices: list[np.ndarray]) -> np.ndarray:
    """The inverse of ``_as_matrices``."""
    shape = node.inputs[1].values.shape
    if node.op == "ConvTranspose":
        weights = np.zeros(shape)
        for (taps, _), own in zip(_phases(node), _by_phase(node, matrices), strict=True):
            part = np.moveaxis(weights[ALL, ALL, *taps], 1, -1)
            part[...] = np.concatenate(own).reshape(part.shape)
        return weights
    rows = np.concatenate([matrix.T for matrix in matrices])
    return (rows if _has_outputs_first(node) else rows.T).reshape(shape)


def _by_phase(node: gs.Node, parts: list[np.ndarray]) -> list[list[np.ndarray]]:
    """What there is for each phase and group, the groups of each phase together."""
    groups = node.attrs.get("group", 1)
    return [parts[start : start + groups] for start in range(0, len(parts), groups)]


def _has_outputs_first(node: gs.Node) -> bool:
    """Whether a node's weights have its channels or features along their first axis."""
    return bool(node.attrs.get("transB", node.op == "Conv"))


def _outputs(node: gs.Node) -> int:
    """How many channels or features a node makes."""
    shape = node.inputs[1].values.shape
    if node.op == "ConvTranspose":
        return int(shape[1] * node.attrs.get("group", 1))
    return int(shape[0 if _has_outputs_first(node) else -1])


def _left(
    node: gs.Node, source: np.ndarray, residual: np.ndarray, changes: list[np.ndarray]
) -> np.ndarray:
    """What changes of a node's weights leave of a residual."""
    left = np.array(np.moveaxis(residual, 1, -1) if node.op in CONVOLUTIONS else residual)
    for part in _few_samples(node, source):
        made = [
            patch.T @ change.astype(np.float32)
            for patch, change in zip(_patches(node, source[part]), changes, strict=True)
        ]
        for (_, places), own in zip(_phases(node), _by_phase(node, made), strict=True):
            seen = left[part][ALL, *places]
            seen -= np.concatenate(own, axis=1).reshape(seen.shape)
    return np.moveaxis(left, -1, 1) if node.op in CONVOLUTIONS else left


def _solve(
    node: gs.Node, source: np.ndarray, columns: np.ndarray, kept: list[np.ndarray] | None
) -> list[np.ndarray]:
    """What changes in each phase's and group's weights, [K, C]: by P'P, or of few places by PP'.

    ``kept``: where they change at all.
    """
    every = math.prod(columns.shape[:-1]) // ENOUGH_PLACES
    every = max(1, min(every, len(source) // FEWEST_SAMPLES))
    source, columns = source[::every], columns[::every]
    # Of each system its numbers of weights and of places.
    sizes = [(len(p), len(source) * p.shape[1]) for p in _patches(node, source[:1])]
    if all(places < size for size, places in sizes):
        systems = zip(sizes, _patches(node, source), _targets(node, columns), strict=True)
        few = [(p, _penalty(np.square(p).sum(), *own), target) for own, p, target in systems]
        if kept is not None:
            several = zip(few, kept, strict=True)
            return [
                _descended((p, p.T), own, p @ target, rows) for (p, own, target), rows in several
            ]
        return [p @ np.linalg.solve(_held_back(p.T @ p, own), target) for p, own, target in few]
    grams = [np.zeros((size, size)) for size, _ in sizes]
    outputs = columns.shape[-1] // node.attrs.get("group", 1)
    products = [np.zeros((size, outputs)) for size, _ in sizes]
    for part in _few_samples(node, source):
        seen = zip(_patches(node, source[part]), _targets(node, columns[part]), strict=True)
        for gram, product, (patch, target) in zip(grams, products, seen, strict=True):
            gram += patch @ patch.T
            product += patch @ target
    for gram, own in zip(grams, sizes, strict=True):
        _held_back(gram, _penalty(np.trace(gram), *own))
    if kept is not None:
        masked = zip(grams, products, kept, strict=True)
        return [_descended((gram,), 0.0, product, rows) for gram, product, rows in masked]
    return [np.linalg.solve(*each) for each in zip(grams, products, strict=True)]


def _penalty(square: float, size: int, places: int) -> float:
    """That of so many weights at so many places, whose patches have this |P|^2."""
    # Where nothing comes in the weights stay.
    return RIDGE * square * (1 / size + 1 / max(places, 1)) or 1.0


def _held_back(gram: np.ndarray, penalty: float) -> np.ndarray:
    """With the penalty."""
    gram[np.diag_indices_from(gram)] += penalty
    return gram


def _descended(
    factors: Sequence[np.ndarray], penalty: float, product: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """The solution X of (A + penalty) X = product, A of one or two factors, by conjugate gradients.

    Each column is a system of its own, of those of its rows that are kept; the others are 0.
    """
    found = np.zeros_like(product)
    # Products of large inputs with its sums would be beyond what a factor's type holds.
    unit = np.abs(product).max(initial=0) or 1.0
    # Eight arrays of these columns, about, in 64 bits.
    for part in few_samples(product.shape[1], 16 * len(product), MOST_NUMBERS):
        rows, x = kept[:, part], found[:, part]
        left = rows * (product[:, part] / np.float64(unit))
        direction, square = left.copy(), np.square(left).sum(axis=0)
        for _ in range(DIRECTIONS):
            turned = direction
            for factor in reversed(factors):
                # In its own type, or there would be another copy of it each time.
                turned = factor @ turned.astype(factor.dtype, copy=False)
            turned = rows * (penalty * direction + turned)
            step = square / np.maximum((direction * turned).sum(axis=0), _TINY)
            x += step * direction
            left -= step * turned
            before, square = square, np.square(left).sum(axis=0)
            direction = left + square / np.maximum(before, _TINY) * direction
        x *= unit
    return found


def _targets(node: gs.Node, columns: np.ndarray) -> list[np.ndarray]:
    """What the places of each phase, and the outputs of each group, are to make: [places, C]."""
    rows = [columns[ALL, *places].reshape(-1, columns.shape[-1]) for _, places in _phases(node)]
    return [part for own in rows for part in np.split(own, node.attrs.get("group", 1), axis=1)]


def _few_samples(node: gs.Node, source: np.ndarray) -> list[slice]:
    """Parts of a batch whose patches take some hundred megabytes at most."""
    size = sum(patch.size for patch in _patches(node, source[:1]))
    return few_samples(len(source), size, MOST_NUMBERS)


def _places(node: gs.Node, source: np.ndarray) -> tuple[int, ...]:
    """The shape of a node's output without its channels, those put last."""
    if node.op not in CONVOLUTIONS:
        return source.shape[:-1]
    dimensions = source.ndim - 2
    return (len(source), *_windows(node, source[:1]).shape[2 : 2 + dimensions])


def _is_known(node: gs.Node) -> bool:
    """Whether the patches of a node are known."""
    if node.op in CONVOLUTIONS:
        return not pads_itself(node) and "output_shape" not in node.attrs
    plain = node.attrs.get("alpha", 1.0) == 1.0 and not node.attrs.get("transA", 0)
    return plain and node.inputs[1].values.ndim == 2


def _patches(node: gs.Node, source: np.ndarray) -> list[np.ndarray]:
    """What each place of the output sees: [K, places] for each phase and group."""
    if node.op not in CONVOLUTIONS:
        return [source.reshape(-1, source.shape[-1]).T.astype(np.float32)]
    windows, dimensions = _windows(node, source), source.ndim - 2
    phases = [windows[ALL, ALL, *places, *taps] for taps, places in _phases(node)]
    parts = [part for own in phases for part in np.split(own, node.attrs.get("group", 1), axis=1)]
    # Places last, as they lie in memory, so that a copy runs along them.
    order = (1, *range(-dimensions, 0), 0, *range(2, 2 + dimensions))
    return [
        part.transpose(order)
        .reshape(math.prod((part.shape[1], *part.shape[2 + dimensions :])), -1)
        .astype(np.float32, copy=False)
        for part in parts
    ]


def _windows(node: gs.Node, source: np.ndarray) -> np.ndarray:
    """What a convolution sees, as a view: [N, C, *places, *kernel]."""
    kernel = node.inputs[1].values.shape[2:]
    dimensions, ones = len(kernel), [1] * len(kernel)
    dilations, strides = node.attrs.get("dilations", ones), node.attrs.get("strides", ones)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = written_pads(node, dimensions)
    turn = 1
    if node.op == "ConvTranspose":
        # The convolution of an input with zeros between its numbers, its kernel turned round.
        source, strides, turn = _spread(source, strides), ones, -1
        more = node.attrs.get("output_padding", [0] * dimensions)
        pads = [r - 1 - pad for r, pad in zip([*reach, *reach], pads, strict=True)]
        pads[dimensions:] = [pad + m for pad, m in zip(pads[dimensions:], more, strict=True)]
    around = [(0, 0), (0, 0), *zip(pads[:dimensions], pads[dimensions:], strict=True)]
    axes = tuple(range(2, 2 + dimensions))
    seen = np.lib.stride_tricks.sliding_window_view(_padded(source, around), reach, axes)
    steps = (slice(None, None, s) for s in (*strides, *(turn * d for d in dilations)))
    return seen[ALL, ALL, *steps]


def _spread(source: np.ndarray, strides: Sequence[int]) -> np.ndarray:
    """An image with ``strides`` - 1 zeros between its numbers."""
    sizes = [(n - 1) * step + 1 for n, step in zip(source.shape[2:], strides, strict=True)]
    spread = np.zeros((*source.shape[:2], *sizes), source.dtype)
    spread[ALL, ALL, *(slice(None, None, step) for step in strides)] = source
    return spread


def _padded(source: np.ndarray, around: list[tuple[int, int]]) -> np.ndarray:
    """Zeros around an image, or, where less than 0, less of it."""
    padded = np.pad(source, [(max(a, 0), max(b, 0)) for a, b in around])
    inner = (
        slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(around, padded.shape, strict=True)
    )
    return padded[tuple(inner)]
