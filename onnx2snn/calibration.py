"""Thresholds from data: run the ANN, watch its activations."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from onnx2snn.graph_passes.limits import operands
from onnx2snn.graph_passes.linear import MAX_POOLS
from onnx2snn.graph_passes.weights import ModelParts, copy_model
from onnx2snn.runtime.graphs import names_in, unused_prefix
from onnx2snn.runtime.inputs import check_finite

from .ann import with_outputs
from .data import Data
from .progress import Running
from .statistics import ActivationHistogram, Statistic


def pooled(
    model: ModelParts, tensors: dict[str, str], ranks: Mapping[str, int]
) -> tuple[ModelParts, dict[str, str]]:
    """The ANN with further nodes, and the tensors to watch.

    For one that only a max-pool reads, that pool's result takes its place.

    ``tensors``: by names of the caller's choice; ``ranks``: their numbers of axes. The pool may
    read them joined with others: it is there once more, for each alone.
    """
    structure = copy_model(model.structure)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.structure.graph.node:
        for read in operands(node):
            readers.setdefault(read, []).append(node)
    made, outputs = {}, {info.name for info in structure.graph.output}
    prefix = unused_prefix(names_in(structure), "pooled/")
    for name, tensor in tensors.items():
        pool = _only_pool(tensor, readers, outputs, ranks[name])
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
        axes = {a.name: a.i for a in reader.attribute}
        if reader.op_type != "Concat" or axes["axis"] % rank != 1:
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


def calibrate(
    model: ModelParts,
    activations: dict[str, str],
    data: Data,
    statistic: Statistic,
    channel_axes: dict[str, int] | None,
    running: Running,
) -> dict[str, np.ndarray]:
    """Thresholds of activations, in one pass over the data.

    ``activations`` maps names of neurons to the tensors that they watch, ``channel_axes`` to
    the axes that count their channels; None for one threshold a layer. Returns V_th by
    neuron: float32, () per tensor, or (C, 1, ...) per channel. Where a channel is never
    active, its threshold is the layer's largest; where a whole layer is, 1. Raises
    ``DataError`` if the data does not fit the model, or activations are not finite.
    """
    per_channel = channel_axes is not None
    histograms = {name: ActivationHistogram(per_channel) for name in activations}
    shapes: dict[str, tuple[int, ...]] = {}
    for values in watch(model, activations, data, running):
        for name, value in values.items():
            axis = channel_axes[name] if channel_axes is not None else 0
            histograms[name].update(np.moveaxis(value, axis, 1) if axis > 1 else value)
            after = value.ndim - 1 - axis
            # Where a sample is one number, so is the threshold.
            shapes[name] = (1,) * (axis - 1) + (-1,) + (1,) * after if after >= 0 else ()
    thresholds = {}
    for name, histogram in histograms.items():
        value = histogram.value(statistic)
        value = np.where(value > 0, value, value.max() if value.max() > 0 else 1.0)
        shape = shapes[name] if per_channel else ()
        thresholds[name] = value.astype(np.float32).reshape(shape)
    return thresholds
