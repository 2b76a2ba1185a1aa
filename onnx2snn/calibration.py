"""Thresholds from data: run the ANN, watch its activations."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes import neurons
from onnx2snn.graph_passes.errors import DataError, ModelError, require_whole
from onnx2snn.graph_passes.linear import MAX_POOLS
from onnx2snn.graph_passes.scikit_learn import zip_maps_to_tensors
from onnx2snn.graph_passes.weights import ModelParts, copy_model, detach
from onnx2snn.runtime.graphs import names_in, operands, unused_prefix
from onnx2snn.runtime.inputs import as_input, by_input_name, check_finite
from onnx2snn.runtime.providers import Providers, create_session, resolve_providers, run_session

from .data import Batch, Data
from .statistics import ActivationHistogram, Statistic

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Wraps an iterable of batches to show progress: ``track(batches, what, how_many)``."""


def no_progress(batches: Iterable[Any], what: str, how_many: int) -> Iterable[Any]:
    """A ``Track`` that shows nothing."""
    return batches


@dataclass(frozen=True)
class Running:
    """How networks are run over data: samples at a time, on what device, showing what."""

    batch_size: int = 100
    providers: Providers = None
    track: Track = no_progress

    def batches(self, data: Data, what: str) -> Iterable[Batch]:
        """The batches of ``data``, with progress."""
        return batches_of(data, self.batch_size, what, self.track)


class Ann:
    """An ANN in ONNX Runtime, its inputs checked against what it declares.

    Raises ``ModelError`` if the model has neurons.
    """

    def __init__(
        self,
        model: onnx.ModelProto | ModelParts,
        providers: Providers = None,
        threads: int | None = None,
        once: bool = False,
    ):
        parts = model if isinstance(model, ModelParts) else detach(model)
        structure = zip_maps_to_tensors(parts.structure)
        require_no_neurons(structure)
        chosen = resolve_providers(providers)
        # ONNX Runtime's optimisations of quantized weights round activations as well.
        once = once or any(n.op_type == "DequantizeLinear" for n in structure.graph.node)
        self._session = create_session(ModelParts(structure, parts.weights), chosen, threads, once)
        self._outputs = [output.name for output in self._session.get_outputs()]
        kinds = {i.name: i.type.tensor_type.elem_type for i in structure.graph.input}
        self._inputs = {
            source.name: (source.shape, onnx.helper.tensor_dtype_to_np_dtype(kinds[source.name]))
            for source in self._session.get_inputs()
            if source.name in kinds
        }

    def _fixed_batch(self) -> int | None:
        """The number of samples that all inputs declare, if that is fixed."""
        sizes = {shape[0] if shape else None for shape, _ in self._inputs.values()}
        size = sizes.pop() if len(sizes) == 1 else None
        return size if isinstance(size, int) and size > 0 else None

    def run(self, x: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's outputs by name for inputs x [N, ...]; ``DataError`` if x does not fit.

        A model of a fixed batch size runs several times where N is a multiple of that.
        """
        given = by_input_name(x, list(self._inputs), "the ANN")
        batch = self._fixed_batch()
        samples = {len(value) for value in given.values() if np.ndim(value)}
        if batch is not None and len(samples) == 1:
            (size,) = samples
            if size > batch and size % batch == 0:
                parts = [
                    self.run({name: v[start : start + batch] for name, v in given.items()})
                    for start in range(0, size, batch)
                ]
                return {n: np.concatenate([part[n] for part in parts]) for n in self._outputs}
        feed = {
            name: as_input(given[name], shape, dtype, "the ANN", "x" if len(given) == 1 else name)
            for name, (shape, dtype) in self._inputs.items()
        }
        return dict(zip(self._outputs, run_session(self._session, None, feed), strict=True))


def require_no_neurons(model: onnx.ModelProto) -> None:
    """Raise ``ModelError`` if the model has neurons."""
    if any(node.domain == neurons.DOMAIN for node in model.graph.node):
        raise ModelError("the model given as the ANN is a spiking network")


def batches_of(data: Data, batch_size: int, what: str, track: Track) -> Iterable[Batch]:
    """The batches of ``data``, with progress; ``DataError`` for a size or a track that is none."""
    require_whole("batch_size", batch_size, 1)
    if not callable(track):
        raise DataError(f"track must be a function that wraps batches, not {track!r}")
    return track(data.batches(batch_size), what, -(-data.samples // batch_size))


def with_outputs(model: ModelParts, tensors: list[str], providers: Providers) -> Ann:
    """An ANN with inner tensors of it as its outputs."""
    watched = copy_model(model.structure)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return Ann(ModelParts(watched, model.weights), providers)


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
