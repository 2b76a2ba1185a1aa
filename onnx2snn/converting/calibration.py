"""Thresholds from data: run the ANN, watch its activations."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.ann import with_outputs
from onnx2snn.data.samples import Data
from onnx2snn.graph_passes.graph.layouts import channel_axis
from onnx2snn.graph_passes.graph.operators import MAX_POOLS
from onnx2snn.graph_passes.model_files.protos import (
    attributes_of,
    names_in,
    operand_names,
    unused_prefix,
)
from onnx2snn.graph_passes.model_files.weights import ModelParts, copy_model
from onnx2snn.running import Running
from onnx2snn.runtime.inputs import check_finite

from .statistics import ActivationHistogram, Statistic

MOST_CHANNELS = 2**16
"""About as many have histograms at once, of 1 GiB together."""

SAMPLED = 2**17
"""Of so many values clips are fitted to a curve: half a megabyte for each."""


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
        for read in operand_names(node):
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
    """The max-pool that reads a tensor, also in another type or as a part of channels, alone."""
    while len(readers.get(tensor, ())) == 1 and tensor not in outputs:
        (reader,) = readers[tensor]
        if reader.op_type in MAX_POOLS:
            return reader
        joins = reader.op_type == "Concat" and attributes_of(reader)["axis"] % rank == 1
        if not joins and reader.op_type != "Cast":
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


def calibrate(
    model: ModelParts,
    activations: Sequence[gs.Node],
    data: Data,
    statistic: Statistic,
    per_channel: bool,
    running: Running,
    rows: Collection[str],
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
