"""Run an SNN over data of any size, in batches."""

from collections.abc import Mapping, Sequence

import numpy as np

from onnx2snn.ann import one_after_the_other
from onnx2snn.data.samples import Data, Inputs, from_arrays, joined, number_of
from onnx2snn.graph_passes.errors import DataError, require_whole
from onnx2snn.running import Running
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.coding import Coding


def is_over_time(session: SpikingSession, data: Data) -> bool:
    """Whether data holds an input for each time-step, [T, N, ...]."""
    ranks = {name: len(shape) for name, shape in session.inputs.items()}
    shapes = data.shapes_of(ranks).items()
    return all(len(shape) == ranks.get(name, -1) + 1 for name, shape in shapes)


def run_batches(
    session: SpikingSession,
    data: Data,
    timesteps: int,
    readout: Sequence[int] | None,
    *,
    coding: Coding,
    seed: int,
    running: Running,
) -> tuple[dict[int, dict[str, np.ndarray]], dict[str, float], int]:
    """Run all samples of ``data``.

    Inputs with one axis more than the network's have time first, [T, N, ...]. Poisson coding draws
    each batch's numbers from ``seed`` and which batch it is, so that they differ where batches are
    of other sizes. Returns the outputs [N, ...] by time-step and name, the firing rate by layer,
    and N. An output that has no rows for each sample, as a sum over all, is that of the one batch;
    of several batches it is refused. Raises ``DataError`` like ``session.run``.
    """
    seed = require_whole("seed", seed, 0)
    varies = is_over_time(session, data)
    if varies:
        if data.shape[0] != timesteps:
            raise DataError(f"x has {data.shape[0]} time-steps on its first axis, not {timesteps}")
        # Samples lie on the second axis here, so time has to be read whole.
        moments = [x for x, _ in data.batches(1)]
        data = from_arrays(_exchanged(joined(moments)), name=data.name)
    outputs: dict[int, list[dict[str, np.ndarray]]] = {}
    rates: dict[str, float] = {}
    for number, (x, _) in enumerate(running.batches(data, "running")):
        samples = number_of(x)
        result = session.run(
            _exchanged(x) if varies else x,
            timesteps,
            readout,
            coding=coding,
            # Not plus the number: seeds beside each other would draw the same for other batches.
            seed=seed + number * 2**32,
        )
        for t, readout_t in result.readouts.items():
            if samples < data.samples:
                before = outputs[t][0] if t in outputs else readout_t.values
                _require_rows(readout_t.values, samples, before, running.batch_size)
            outputs.setdefault(t, []).append(readout_t.values)
        for name, rate in result.firing_rates.items():
            rates[name] = rates.get(name, 0.0) + rate * samples / data.samples
        # Not beside the next batch's.
        del result, readout_t
    together = {}
    for t in [*outputs]:
        # Those of all T are not there twice.
        parts = outputs.pop(t)
        together[t] = parts[0] if len(parts) == 1 else one_after_the_other(parts)
    return together, rates, data.samples


def _exchanged(x: Inputs) -> Inputs:
    """Inputs with their first two axes exchanged, time and samples."""
    if isinstance(x, dict):
        return {name: np.swapaxes(value, 0, 1) for name, value in x.items()}
    return np.swapaxes(np.asarray(x), 0, 1)


def _require_rows(
    values: Mapping[str, np.ndarray],
    samples: int,
    first: Mapping[str, np.ndarray],
    first_samples: int,
) -> None:
    """Raise ``DataError`` where an output of a batch has not as many rows for each of its samples.

    first: the outputs of the first batch, of which each sample has as many, too.
    """
    for name, value in values.items():
        shape = np.shape(value)
        rows = shape[0] if shape else 1
        if not shape or rows % samples or rows * first_samples != len(first[name]) * samples:
            raise DataError(
                f"the network's output '{name}' has shape {list(shape)} for a batch of {samples} "
                "samples, with no rows for each: run all samples in one batch (--batch-size)"
            )
