"""Thresholds from data: run the ANN, watch its activations."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes import neurons
from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.runtime.providers import Providers, create_session, resolve_providers, run_session
from onnx2snn.runtime.session import as_input, check_finite

from .data import Batch, Data
from .statistics import ActivationHistogram, Statistic

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Wraps an iterable of batches to show progress: ``track(batches, what, how_many)``."""


def no_progress(batches: Iterable[Any], what: str, how_many: int) -> Iterable[Any]:
    """A ``Track`` that shows nothing."""
    return batches


class Ann:
    """An ANN in ONNX Runtime that takes one input, checked against what it declares.

    Raises ``ModelError`` if the model has several inputs or neurons.
    """

    def __init__(
        self, model: onnx.ModelProto, providers: Providers = None, threads: int | None = None
    ):
        if any(node.domain == neurons.DOMAIN for node in model.graph.node):
            raise ModelError("the model given as the ANN is a spiking network")
        self._session = create_session(model, resolve_providers(providers), threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(f"the model given as the ANN has {len(inputs)} inputs, not one")
        (source,) = inputs
        self._name, self._shape = source.name, source.shape
        kind = next(i.type.tensor_type.elem_type for i in model.graph.input if i.name == self._name)
        self._dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """The model's outputs for inputs x [N, ...]; ``DataError`` if x does not fit."""
        value = as_input(x, self._shape, self._dtype, "the ANN")
        return run_session(self._session, None, {self._name: value})


def batches_of(data: Data, batch_size: int, what: str, track: Track) -> Iterable[Batch]:
    """The batches of ``data``, with progress."""
    return track(data.batches(batch_size), what, -(-data.samples // batch_size))


def calibrate(
    model: onnx.ModelProto,
    activations: dict[str, str],
    data: Data,
    statistic: Statistic,
    per_channel: bool,
    batch_size: int,
    providers: Providers = None,
    track: Track = no_progress,
) -> dict[str, np.ndarray]:
    """Thresholds of activations, in one pass over the data.

    ``activations`` maps names of neurons to the tensors that they watch. Returns V_th by
    neuron: float32, () per tensor, or (C, 1, ...) per channel. Where a channel is never
    active, its threshold is the layer's largest; where a whole layer is, 1. Raises
    ``DataError`` if the data does not fit the model, or activations are not finite.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in activations.values())
    ann = Ann(watched, providers)
    histograms = {name: ActivationHistogram(per_channel) for name in activations}
    ranks = {}
    for x, _ in batches_of(data, batch_size, "calibrating", track):
        for name, values in zip(activations, ann.run(x), strict=True):
            check_finite(values, f"the activation '{name}'")
            ranks[name] = values.ndim
            histograms[name].update(values)
    thresholds = {}
    for name, histogram in histograms.items():
        value = histogram.value(statistic)
        value = np.where(value > 0, value, value.max() if value.max() > 0 else 1.0)
        shape = (-1, *(1,) * (ranks[name] - 2)) if per_channel else ()
        thresholds[name] = value.astype(np.float32).reshape(shape)
    return thresholds
