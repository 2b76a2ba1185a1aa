"""Two sessions that must give the same numbers, bit for bit."""

import dyadic
import numpy as np


def same(found, wanted):
    """Results with the same outputs, spikes and sums at every read-out."""
    for t, readout in wanted.readouts.items():
        for name, value in readout.values.items():
            np.testing.assert_array_equal(found.readouts[t].values[name], value)
        for name, counts in readout.spike_counts.items():
            np.testing.assert_array_equal(found.readouts[t].spike_counts[name], counts)
        for name, total in readout.potential_sums.items():
            np.testing.assert_array_equal(found.readouts[t].potential_sums[name], total)


def run_alike(session, reference, network, runs):
    """Runs of so many samples and time-steps, one after another, that leave the same states."""
    for samples, timesteps in runs:
        x = dyadic.images(network, samples, seed=samples)
        readout = sorted({1 + timesteps // 3, timesteps})
        same(session.run(x, timesteps, readout), reference.run(x, timesteps, readout))
        for name, value in reference.state.items():
            np.testing.assert_array_equal(session.state[name], value)
