"""``evaluate``: an SNN beside its ANN on labelled data, at several time-steps."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.files import read_model, read_parts
from onnx2snn.runtime.int8 import Precision
from onnx2snn.runtime.providers import Providers
from onnx2snn.runtime.session import SpikingSession

from .calibration import Ann, Track, batches_of, no_progress
from .checking import classes_of, require_class_output
from .data import Data, Inputs, check_labels
from .inference import precision_rows
from .synapses import SynapseCounter, macs


def evaluate(
    model: str | os.PathLike[str] | onnx.ModelProto,
    data: Data,
    timesteps: Sequence[int],
    *,
    ann: str | os.PathLike[str] | onnx.ModelProto | None = None,
    batch_size: int = 100,
    providers: Providers = None,
    threads: int | None = None,
    precision: Precision = "float32",
    max_memory: int | None = None,
    track: Track = no_progress,
) -> dict[str, Any]:
    """Accuracy, agreement with the ANN, and activity of an SNN, each at several time-steps.

    One run of max(timesteps) steps a batch. Returns what ``onnx2snn evaluate --json`` prints:

        {"samples": int, "macs": int, "ann": {"accuracy": float} or None without an ANN,
         "snn": [{"timesteps": int, "accuracy": float, "agreement": float,
                  "firing_rate": float, "sops": float}, ...]}

    accuracy: percent with the right top-1 class, None without labels. agreement: percent
    with the ANN's top-1 class, None without an ANN. firing_rate: spikes per neuron and
    time-step. sops: synaptic operations per sample, each spike times its fan-out; macs: the
    ANN's multiply-accumulates per sample. precision: where it is not "float32" the network runs in
    float32, too, for what rounding costs, and the report has besides

        {"precision": str,
         "float32": [{"timesteps": int, "accuracy": float, "agreement": float}, ...],
         "precisions": [{"layer": str, "precision": str, "reason": str}, ...]}

    agreement: percent with the same class in either; precisions: as of ``SpikingSession``. Raises
    ``DataError`` if the data does not fit the network, a label is none of its classes, or the
    output is not [N, classes].
    """
    times = sorted(set(timesteps))
    if not times:
        raise DataError("no time-steps to evaluate at")
    model = model if isinstance(model, onnx.ModelProto) else read_model(model)
    session = SpikingSession(model, providers, threads, max_memory=max_memory, precision=precision)
    exact = None
    if precision != "float32":
        exact = SpikingSession(model, providers, threads, max_memory=max_memory)
    require_samples(data, session)
    sizes = _sample_shapes(session, data)
    counter = SynapseCounter(model, sizes)
    reference = None
    if ann is not None:
        whole = ann if isinstance(ann, onnx.ModelProto) else read_parts(ann)
        reference = Ann(whole, providers, threads)
    ann_right = 0
    right, agree = dict.fromkeys(times, 0), dict.fromkeys(times, 0)
    exact_right, exact_agree = dict.fromkeys(times, 0), dict.fromkeys(times, 0)
    spikes: dict[int, dict[str, Any]] = {t: {} for t in times}
    for x, y in batches_of(data, batch_size, "evaluating", track):
        result = session.run(x, times[-1], times)
        wanted = None if exact is None else exact.run(x, times[-1], times)
        scored = require_class_output(result.values)
        output = result.values[scored]
        check_labels(y, output.shape[1], data.name)
        chosen = None
        if reference is not None:
            chosen = ann_classes(reference, x, scored, output.shape)
        if y is not None and chosen is not None:
            ann_right += int((chosen == y).sum())
        for t in times:
            # Out of the result: spike counts of all T at once may be more than all else.
            readout = result.readouts.pop(t)
            classes = classes_of(readout.values[scored])
            right[t] += 0 if y is None else int((classes == y).sum())
            agree[t] += 0 if chosen is None else int((classes == chosen).sum())
            if wanted is not None:
                other = classes_of(wanted.readouts[t].values[scored])
                exact_right[t] += 0 if y is None else int((other == y).sum())
                exact_agree[t] += int((classes == other).sum())
            for name, counts in readout.spike_counts.items():
                spikes[t][name] = spikes[t].get(name, 0) + counter.summed(name, counts, len(output))
    samples, labelled = data.samples, data.labels is not None
    neurons = sum(total.size for total in spikes[times[0]].values())
    report = {
        "samples": samples,
        "macs": macs(model, sizes),
        "ann": None
        if ann is None
        else {"accuracy": 100 * ann_right / samples if labelled else None},
        "snn": [
            {
                "timesteps": t,
                "accuracy": 100 * right[t] / samples if labelled else None,
                "agreement": None if ann is None else 100 * agree[t] / samples,
                "firing_rate": sum(int(s.sum()) for s in spikes[t].values())
                / (neurons * samples * t),
                "sops": sum(
                    counter.layers({n: s / samples for n, s in spikes[t].items()}).values()
                ),
            }
            for t in times
        ],
    }
    if exact is None:
        return report
    beside = [
        {
            "timesteps": t,
            "accuracy": 100 * exact_right[t] / samples if labelled else None,
            "agreement": 100 * exact_agree[t] / samples,
        }
        for t in times
    ]
    rows = precision_rows(session)
    return report | {"precision": precision, "float32": beside, "precisions": rows}


def _sample_shapes(session: SpikingSession, data: Data) -> dict[str, tuple[int, ...]]:
    """The shape of one sample of each input."""
    if data.shapes is None:
        return {next(iter(session.inputs)): data.shape[1:]}
    alone = len(session.inputs) == 1
    return {
        n: data.shapes["x" if alone and n not in data.shapes else n][1:] for n in session.inputs
    }


def require_samples(data: Data, session: SpikingSession) -> None:
    """Raise ``DataError`` if the data has another number of axes than the network's input."""
    if data.shapes is None and len(data.shape) != len(session.input_shape):
        raise DataError(
            f"'{data.name}' has the shape {list(data.shape)}, with {len(data.shape)} axes; "
            f"the network's input has {len(session.input_shape)}"
        )


def ann_classes(ann: Ann, x: Inputs, output: str, shape: tuple[int, ...]) -> np.ndarray:
    """The ANN's classes, int64 [N], by its output of this name, or its first.

    Raises ``DataError`` unless that has the shape of the spiking network's.
    """
    outputs = dict(zip(ann.outputs, ann.run(x), strict=True))
    # The name of a lone output may differ.
    scores = outputs.get(output, next(iter(outputs.values())))
    if scores.shape != shape:
        raise DataError(
            f"the ANN's output has shape {list(scores.shape)}, the spiking network's "
            f"{list(shape)}: they are not the same network"
        )
    return classes_of(scores)
