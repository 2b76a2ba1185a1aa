"""Thresholds from data: run the ANN, watch its activations."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import counted
from onnx2snn.graph_passes.limits import operands
from onnx2snn.graph_passes.linear import MAX_POOLS, channel_axis
from onnx2snn.graph_passes.protos import attributes_of, names_in, unused_prefix
from onnx2snn.graph_passes.weights import ModelParts, copy_model
from onnx2snn.runtime.inputs import check_finite

from .ann import with_outputs
from .data import Data, Inputs, by_name, come_by_class, number_of
from .progress import Running
from .statistics import ActivationHistogram, Statistic

MOST_CHANNELS = 2**16
"""About as many have histograms at once, of 1 GiB together."""

SAMPLED = 2**17
"""Of so many values clips are fitted to a curve: half a megabyte for each."""

MOST_VARIANCE = 10.0
"""Fisher's F between batches, from which on their order means something.

It is 1 on average where it does not. The largest of 118 stretches of 512 training images of
Fashion-MNIST, in batches of 100, is 3.3. Digits of three brightnesses in turn have 820, and
``best`` then made 3 times the error at T=8 that it makes of shuffled ones.
"""

ORDERS = 200
"""Random ones, beside which the data's own is seen: of few samples, or where few of them have most
of the variance, F is above 10 by chance.
"""

FEWEST = 8
"""Samples of which a variance is taken."""

FAR_LARGER = 16
"""How many times the others' largest number one sample's is, where they go ill together.

One of 512 images in 0 to 255 among those in 0 to 1 took 8 points of accuracy from the shipped VGG
(``best``, T=8, 500 test images), one in 0 to 30 none.
"""


def _pooled(
    model: ModelParts, tensors: dict[str, str], ranks: Mapping[str, int]
) -> tuple[ModelParts, dict[str, str]]:
    """The ANN with further nodes, and the tensors to watch.

    For one that only a max-pool reads, that pool's result takes its place.

    ``tensors``: by names of the caller's choice; ``ranks``: the numbers of axes of those that may
    be replaced. The pool may read them joined with others: it is there once more, for each alone.
    """
    structure = copy_model(model.structure)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.structure.graph.node:
        for read in operands(node):
            readers.setdefault(read, []).append(node)
    made, outputs = {}, {info.name for info in structure.graph.output}
    prefix = unused_prefix(names_in(structure), "pooled/")
    for name, rank in ranks.items():
        tensor = tensors[name]
        pool = _only_pool(tensor, readers, outputs, rank)
        if pool is not None:
            made[name] = f"{prefix}{tensor}"
            node = structure.graph.node.add()
            node.CopyFrom(pool)
            node.name, node.input[:], node.output[:] = made[name], [tensor], [made[name]]
    return ModelParts(structure, model.weights), tensors | made


def _only_pool(
    tensor: str, readers: Mapping[str, list[onnx.NodeProto]], outputs: set[str], rank: int
) -> onnx.NodeProto | None:
    """The max-pool that reads a tensor, also as a part of channels, where nothing else does."""
    while len(readers.get(tensor, ())) == 1 and tensor not in outputs:
        (reader,) = readers[tensor]
        if reader.op_type in MAX_POOLS:
            return reader
        if reader.op_type != "Concat" or attributes_of(reader)["axis"] % rank != 1:
            return None
        tensor = reader.output[0]
    return None


def watch(
    model: ModelParts,
    tensors: dict[str, str],
    data: Data,
    running: Running,
) -> Iterator[dict[str, np.ndarray]]:
    """Run an ANN over the data and yield, for each batch, the values of inner tensors.

    ``tensors`` maps names of the caller's choice to tensors of the model. Raises
    ``DataError`` if the data does not fit the model, or the values are not finite.
    """
    ann = with_outputs(model, list(tensors.values()), running.providers)
    for x, _ in running.batches(data, "calibrating"):
        found = ann.run(x)
        values = {name: found[tensor] for name, tensor in tensors.items()}
        for name, value in values.items():
            check_finite(value, f"the activation '{name}'")
        yield values


def sampled(
    model: ModelParts, tensors: dict[str, str], data: Data, running: Running
) -> dict[str, np.ndarray]:
    """Some of the values that ``watch`` yields, flat: the extremes, and others at random places.

    Of each sample as many, in the same places whatever the batches: ``SAMPLED`` of a tensor, or
    one of each sample.
    """
    each, left = max(1, SAMPLED // data.samples), data.samples
    drawn = {name: np.random.default_rng(0) for name in tensors}
    found: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    ends: dict[str, tuple[np.floating, np.floating]] = {}
    for values in watch(model, tensors, data, running):
        rows = min(running.batch_size, left)
        left -= rows
        for name, value in values.items():
            flat = value.reshape(-1)
            apart = flat.reshape(rows if flat.size % rows == 0 else 1, -1)
            found[name].append(_some(apart, each * rows // len(apart), drawn[name]))
            low, high = ends.get(name, (flat[0], flat[0]))
            ends[name] = min(low, flat.min()), max(high, flat.max())
    return {name: np.concatenate([*parts, ends[name]]) for name, parts in found.items()}


def _some(rows: np.ndarray, each: int, generator: np.random.Generator) -> np.ndarray:
    """So many values of each row, or all where there are no more, flat."""
    if rows.shape[1] <= each:
        return rows.reshape(-1).copy()
    places = generator.integers(rows.shape[1], size=(len(rows), each))
    return np.take_along_axis(rows, places, axis=1).reshape(-1)


def with_measures(data: Data) -> tuple[Data, dict[str, np.ndarray]]:
    """The data, and the largest |x|, the mean and the mean |x| of each sample: float64 [N, 3].

    By input; NaN until a sample has been read. The largest is that of floating-point numbers: of
    others, as of indices, NaN.
    """
    measures: dict[str, np.ndarray] = {}

    def read(batch_size: int) -> Iterator[Inputs]:
        start = 0
        for x in data.read(batch_size):
            now = slice(start, start + number_of(x))
            for name, value in by_name(x).items():
                if value.dtype.kind not in "fiub" or not value.size:
                    continue
                known = measures.setdefault(name, np.full((data.samples, 3), np.nan))
                if np.any(np.isnan(known[now, 1])):
                    # What is not finite the data refuses.
                    with np.errstate(over="ignore", invalid="ignore"):
                        known[now] = _measured(value.reshape(len(value), -1))
            start = now.stop
            yield x

    return replace(data, read=read), measures


def _measured(rows: np.ndarray) -> np.ndarray:
    largest = np.full(len(rows), np.nan)
    if rows.dtype.kind == "f":
        largest = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
    sizes = np.abs(rows).mean(axis=1, dtype=np.float64)
    return np.stack([largest, rows.mean(axis=1, dtype=np.float64), sizes], axis=1)


def batches_differ(data: Data, measures: Mapping[str, np.ndarray], batch_size: int) -> bool:
    """Whether batches of data are of other kinds than each other, by more than chance has it.

    ``data``, ``measures``: as of ``with_measures``. So they are where labels come class by class,
    and where a measure's variance between batches is ``MOST_VARIANCE`` times what that within them
    says (Fisher's F), and more than in any of ``ORDERS`` other orders. Batches of fewer than
    ``FEWEST`` samples are looked at several together.
    """
    size = max(batch_size, FEWEST)
    if data.samples <= batch_size:
        return False
    if data.labels is not None and come_by_class(data.labels):
        return True
    if not measures or any(np.any(np.isnan(known[:, 1])) for known in measures.values()):
        # No pass has read all of it.
        for _ in data.batches(batch_size):
            pass
    return any(_are_in_an_order(known, size) for known in measures.values())


def _are_in_an_order(values: np.ndarray, size: int) -> bool:
    """Whether a column of values differs between groups of ``size`` rows by more than chance."""
    # A rest of fewer belongs to the last group.
    starts = np.arange(0, max(len(values) - FEWEST, 0) + 1, size)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        spread = values.std(axis=0)
        varies = spread > 1e-9 * np.abs(values).max(axis=0)
        columns = ((values - values.mean(axis=0)) / spread)[:, varies]
    if len(starts) < 2 or not np.all(np.isfinite(columns)):
        return False
    found = _variance_ratio(columns, starts)
    if not np.any(found > MOST_VARIANCE):
        return False
    generator = np.random.default_rng(0)
    others = [_variance_ratio(generator.permutation(columns), starts) for _ in range(ORDERS)]
    return bool(np.any((found > MOST_VARIANCE) & (found > np.max(others, axis=0))))


def _variance_ratio(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Fisher's F between groups of rows that begin there, of columns of mean 0 and variance 1."""
    counts = np.diff(starts, append=len(values))[:, None]
    between = (np.square(np.add.reduceat(values, starts)) / counts).sum(axis=0)
    within = np.maximum(len(values) - between, 1e-300)
    ratio = between / (len(starts) - 1) / (within / (len(values) - len(starts)))
    return np.asarray(ratio)


def notes_on_samples(measures: Mapping[str, np.ndarray]) -> list[str]:
    """What samples of the calibration data the others go ill with, by ``with_measures``."""
    notes = list[str]()
    of_floats = {n: found[:, 0] for n, found in measures.items() if np.any(found[:, 0] >= 0)}
    for name, sizes in of_floats.items():
        known = np.where(np.isnan(sizes), 0, sizes)
        half = float(np.median(sizes[~np.isnan(sizes)]))
        far, worst = int(np.count_nonzero(known / FAR_LARGER > half)), int(known.argmax())
        if half > 0 and far:
            more = f" (and {counted(far - 1, 'other')})" if far > 1 else ""
            notes.append(
                f"sample {worst} of the {len(sizes)} that calibrate{more} has numbers of up to "
                f"{known[worst]:.3g} in {name}, half of them have none beyond {half:.3g}: "
                "thresholds and corrections may fit these less for it; prepare all alike, or leave "
                "it out"
            )
    return notes


def calibrate(
    model: ModelParts,
    activations: Sequence[gs.Node],
    data: Data,
    statistic: Statistic,
    per_channel: bool,
    running: Running,
    rows: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Thresholds of an ANN's activations, in one pass over the data, or several of many layers.

    ``rows``: the names of those that have samples along axis 0.

    Returns V_th by the name of the activation: float32, () for a layer, or one number for each
    channel, shaped to broadcast against the activations, as (C, 1, 1); () where a sample is one
    number. Where a channel is never active, its threshold is the layer's largest; where a whole
    layer is, 1. Raises ``DataError`` if the data does not fit the model, or activations are not
    finite.
    """
    tensors = {node.name: node.outputs[0] for node in activations}
    watched = {name: tensor.name for name, tensor in tensors.items()}
    if statistic.is_of_pooled:
        # Not where a pool takes in several channels, as behind a MatMul of tokens.
        ranks = {
            name: len(tensor.shape)
            for name, tensor in tensors.items()
            if not per_channel or channel_axis(tensor) == 1
        }
        model, watched = _pooled(model, watched, ranks)
    axes = {name: channel_axis(tensor) for name, tensor in tensors.items()} if per_channel else {}
    each = 2 if statistic.kind == "robust-mmse" else 1
    channels = [each * _channels(tensor, axes.get(name)) for name, tensor in tensors.items()]
    number_of_pass = dict(zip(tensors, np.cumsum(channels) // MOST_CHANNELS, strict=True))
    thresholds: dict[str, np.ndarray] = {}
    for number in np.unique(list(number_of_pass.values())):
        some = {name: tensor for name, tensor in watched.items() if number_of_pass[name] == number}
        thresholds |= _in_one_pass(model, some, axes, data, statistic, running, rows)
    return thresholds


def _channels(tensor: gs.Tensor, axis: int | None) -> int:
    """How many along an axis, as far as is known; 1 without."""
    size = None if axis is None or axis >= len(tensor.shape) else tensor.shape[axis]
    return size if isinstance(size, int) else 1


def _in_one_pass(
    model: ModelParts,
    tensors: dict[str, str],
    axes: Mapping[str, int],
    data: Data,
    statistic: Statistic,
    running: Running,
    rows: Collection[str],
) -> dict[str, np.ndarray]:
    """Thresholds of the ``tensors``; ``axes``: those of channels, none for one of each layer."""
    peaks = set(rows) if statistic.kind == "robust-mmse" else set[str]()
    histograms = {name: ActivationHistogram(bool(axes), name in peaks) for name in tensors}
    shapes: dict[str, tuple[int, ...]] = {}
    for values in watch(model, tensors, data, running):
        for name, value in values.items():
            axis = axes.get(name, 0)
            histograms[name].update(np.moveaxis(value, axis, 1) if axis > 1 else value)
            after = value.ndim - 1 - axis
            shapes[name] = (1,) * (axis - 1) + (-1,) + (1,) * after if after >= 0 else ()
    thresholds = {}
    for name, histogram in histograms.items():
        value = histogram.value(statistic)
        value = np.where(value > 0, value, value.max() if value.max() > 0 else 1.0)
        shape = shapes[name] if axes else ()
        with np.errstate(over="ignore"):
            # What is too large even so is refused as a threshold.
            thresholds[name] = value.astype(np.float32).reshape(shape)
    return thresholds
