"""``evaluate``: an SNN beside its ANN on labelled data, at several time-steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnx2snn.ann import Ann, require_no_neurons
from onnx2snn.data.batches import OVER_TIME, are_samples_elsewhere, samples_at_once
from onnx2snn.data.samples import Data, Inputs, require_data, require_samples
from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.model_files.files import Model, read_any
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.running import Report, Running, no_report
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.inputs import required_times
from onnx2snn.runtime.precision import Precision, precision_rows
from onnx2snn.runtime.providers import Providers
from onnx2snn.runtime.result import SpikingResult

from .classes import (
    Truth,
    ann_classes,
    ann_report,
    check_labels,
    classes_of,
    require_class_output,
    shares,
    truth_of,
)
from .synapses import MaxPools, SynapseCounter, macs_by_place, summed_over_samples


def evaluate(
    model: Model,
    data: Data,
    timesteps: Sequence[int],
    *,
    ann: Model | None = None,
    batch_size: int | None = None,
    providers: Providers = None,
    threads: int | None = None,
    precision: Precision = "float32",
    max_memory: int | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Accuracy, agreement with the ANN, and activity of an SNN, each at several time-steps.

    One run of max(timesteps) steps for each batch of ``batch_size`` samples, or of 100, fewer where
    activations would take over 2 GiB; ``report`` is told of progress. providers, threads,
    precision and max_memory are those of the ``SpikingSession``. Returns what
    ``onnx2snn evaluate --json`` prints:

        {"samples": int, "macs": int, "macs_before_neurons": int,
         "ann": {"accuracy": float} or None without an ANN,
         "snn": [{"timesteps": int, "accuracy": float, "agreement": float,
                  "firing_rate": float, "sops": float}, ...]}

    accuracy: percent with the right top-1 class, None without labels. agreement: percent
    with the ANN's top-1 class, None without an ANN. firing_rate: spikes per neuron and
    time-step. sops: synaptic operations per sample, each spike times its fan-out; macs: the
    ANN's multiply-accumulates per sample. precision: where it is not "float32" the network runs in
    float32 first, for what rounding costs, and the report has besides

        {"precision": str,
         "float32": [{"timesteps": int, "accuracy": float, "agreement": float}, ...],
         "precisions": [{"layer": str, "precision": str, "reason": str}, ...]}

    agreement: percent with the same class in either; precisions: as of ``SpikingSession``.

    Raises ``ModelError`` for what is no spiking network, or an ``ann`` that is one,
    ``ProviderError`` for a device that is not there, and ``DataError`` if the data does not fit the
    network, a label is none of its classes, or the output is not [N, classes].
    """
    require_data("data", data)
    times = required_times(timesteps)
    # One session after the other, and what counts synapses after them: each takes memory of its
    # own, beside these weights, which all read.
    parts = read_any(model)
    ann_parts = None if ann is None else read_any(ann)
    _require_countable(parts, data)
    together = samples_at_once(parts, data, batch_size, OVER_TIME, ann_parts)
    running = Running(together, providers, report)
    if ann_parts is not None:
        require_no_neurons(ann_parts.structure.graph.node)
    require_samples(data, parts.structure)
    session_of = partial(SpikingSession, parts, providers, threads, max_memory=max_memory)
    unrounded = None
    if precision != "float32":
        # Refused now, where that cannot be or does not fit, not after the run in float32.
        _require_room(session_of(precision=precision), data, times, running, max_memory)
        unrounded = _classes_by(session_of(), data, times, running)
    session = session_of(precision=precision)
    precisions = precision_rows(session.precisions)
    sizes = {name: shape[1:] for name, shape in data.shapes_of(session.inputs).items()}
    reference = None if ann_parts is None else Ann(ann_parts, providers, threads)
    found = _measured(session, reference, partial(MaxPools, parts, sizes), data, times, running)
    del session, reference, ann_parts
    before, behind = macs_by_place(parts, sizes)
    counter = SynapseCounter(parts, sizes)
    result = {
        "samples": data.samples,
        "macs": before + behind,
        "macs_before_neurons": before,
        "ann": ann_report(found.truth),
        "snn": [_row(t, found, counter, data.samples) for t in times],
    }
    if unrounded is None:
        return result
    beside = [
        {"timesteps": t, **shares(unrounded[t], truth_of(data.labels, [found.said[t]]))}
        for t in times
    ]
    return result | {"precision": precision, "float32": beside, "precisions": precisions}


def _require_countable(parts: ModelParts, data: Data) -> None:
    """Raise ``DataError`` where one sample, for which synapses are counted, does not run alone."""
    if are_samples_elsewhere(parts, data):
        raise DataError(
            "synapses are counted for one sample, which this network does not compute alone: an "
            "input has an axis for the samples besides its first; run it instead (onnx2snn run)"
        )


def _require_room(
    session: SpikingSession,
    data: Data,
    times: Sequence[int],
    running: Running,
    max_memory: int | None,
) -> None:
    """Raise ``DataError`` where a session cannot run the data in the memory that it may take."""
    if max_memory is not None:
        session.chosen(next(iter(data.batches(running.batch_size)))[0], readouts=len(times))


@dataclass(frozen=True)
class _Measured:
    """What all batches came to.

    ``said``: the SNN's classes, int64 [N], by T. ``spikes``, and ``pooled``, what max-pools let
    through of them: by T and layer, summed over the samples.
    """

    truth: Truth
    said: dict[int, np.ndarray]
    spikes: dict[int, dict[str, Any]]
    pooled: dict[int, dict[str, Any]]


def _row(t: int, found: _Measured, counter: SynapseCounter, samples: int) -> dict[str, Any]:
    """What the SNN came to at T, over so many samples."""
    spikes = found.spikes[t]
    fired = sum(int(total.sum()) for total in spikes.values())
    neurons = sum(total.size for total in spikes.values())
    operations = counter.operations(spikes | found.pooled[t], t * samples)
    return {
        "timesteps": t,
        **shares(found.said[t], found.truth),
        "firing_rate": fired / (neurons * samples * t),
        "sops": operations / samples,
    }


def _measured(
    session: SpikingSession,
    reference: Ann | None,
    pools_of: Callable[[], MaxPools],
    data: Data,
    times: Sequence[int],
    running: Running,
) -> _Measured:
    pools: MaxPools | None = None
    chosen: list[np.ndarray] = []
    said: dict[int, list[np.ndarray]] = {t: [] for t in times}
    spikes: dict[int, dict[str, Any]] = {t: {} for t in times}
    pooled: dict[int, dict[str, Any]] = {t: {} for t in times}
    for x, result, scored in _results(session, data, times, running, "evaluating"):
        output = result.values[scored]
        # Only now is it known that the data fits the network.
        pools = pools or pools_of()
        if reference is not None:
            chosen.append(ann_classes(reference, x, scored, output.shape))
        for t in times:
            # Out of the result: spike counts of all T at once may be more than all else.
            readout = result.readouts.pop(t)
            said[t].append(classes_of(readout.values[scored]))
            let_through = pools.counts(readout.spike_counts, len(output), t)
            _add(spikes[t], readout.spike_counts, pools, len(output))
            _add(pooled[t], let_through, pools, len(output))
        # Not beside the next batch's.
        del result, readout, let_through
    classes = {t: np.concatenate(found) for t, found in said.items()}
    return _Measured(truth_of(data.labels, chosen), classes, spikes, pooled)


def _add(
    totals: dict[str, Any], counts: Mapping[str, np.ndarray], pools: MaxPools, samples: int
) -> None:
    """Add the counts of a batch, by layer, summed over its samples."""
    for name, values in counts.items():
        summed = summed_over_samples(values, pools.axes[name], samples, name)
        totals[name] = totals.get(name, 0) + summed


def _classes_by(
    session: SpikingSession, data: Data, times: Sequence[int], running: Running
) -> dict[int, np.ndarray]:
    """The classes at each of ``times``, int64 [N]."""
    said: dict[int, list[np.ndarray]] = {t: [] for t in times}
    for _, result, scored in _results(session, data, times, running, "in float32"):
        for t, found in said.items():
            found.append(classes_of(result.readouts[t].values[scored]))
        del result
    return {t: np.concatenate(found) for t, found in said.items()}


def _results(
    session: SpikingSession, data: Data, times: Sequence[int], running: Running, what: str
) -> Iterator[tuple[Inputs, SpikingResult, str]]:
    """Each batch's inputs, its result read at ``times``, and the name of its class output."""
    for x, y in running.batches(data, what):
        result = session.run(x, times[-1], times)
        scored = require_class_output(result.values)
        check_labels(y, result.values[scored].shape, data.name)
        yield x, result, scored
        del result
