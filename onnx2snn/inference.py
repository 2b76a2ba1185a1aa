"""Run an SNN over data of any size, in batches."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.coding import Coding

from .data import Data, from_arrays, number_of
from .progress import Track, batches_of, no_progress


def run_batches(
    session: SpikingSession,
    data: Data,
    timesteps: int,
    readout: Sequence[int] | None = None,
    *,
    coding: Coding = "constant",
    seed: int = 0,
    batch_size: int = 100,
    track: Track = no_progress,
) -> tuple[dict[int, dict[str, np.ndarray]], dict[str, float], int]:
    """Run all samples of ``data``.

    Inputs with one axis more than the network's have time first, [T, N, ...]. Poisson
    coding draws from ``seed`` plus the number of the batch. Returns the outputs [N, ...] by
    time-step and name, the firing rate by layer, and N. Raises ``DataError`` like ``session.run``.
    """
    varies = data.shapes is None and len(data.shape) == len(session.input_shape) + 1
    if varies:
        if data.shape[0] != timesteps:
            raise DataError(f"x has {data.shape[0]} time-steps on its first axis, not {timesteps}")
        # Samples lie on the second axis here, so time has to be read whole.
        whole = np.concatenate([np.asarray(x) for x, _ in data.batches(1)])
        data = from_arrays(np.moveaxis(whole, 1, 0), name=data.name)
    outputs: dict[int, list[dict[str, np.ndarray]]] = {}
    rates: dict[str, float] = {}
    for number, (x, _) in enumerate(batches_of(data, batch_size, "running", track)):
        samples = number_of(x)
        result = session.run(
            np.moveaxis(np.asarray(x), 0, 1) if varies else x,
            timesteps,
            readout,
            coding=coding,
            seed=seed + number,
        )
        for t, readout_t in result.readouts.items():
            outputs.setdefault(t, []).append(readout_t.values)
        for name, rate in result.firing_rates.items():
            rates[name] = rates.get(name, 0.0) + rate * samples / data.samples
    together = {
        t: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for t, parts in outputs.items()
    }
    return together, rates, data.samples


def precision_rows(session: SpikingSession) -> list[dict[str, str]]:
    """What each layer between neurons is computed in, and why; none if all is as in the file."""
    return [asdict(row) for row in session.precisions]
