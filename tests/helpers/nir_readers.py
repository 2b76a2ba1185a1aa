"""Other simulators that read NIR files: as they read one, and with what they ignore set by hand."""

import nir
import numpy as np
import torch


def _neurons(path):
    """Each IF node of a file: its name, V_th and v(0), over a sample, and a V_th for >= ."""
    for key, node in nir.read(path, type_check=False).nodes.items():
        if isinstance(node, nir.IF):
            threshold = node.v_threshold.astype(np.float32)
            start = np.broadcast_to(node.metadata["v_init"], threshold.shape)
            yield key, threshold, start, np.nextafter(threshold, np.float32(np.inf))


def _batch(values, samples):
    return torch.tensor(np.broadcast_to(values, (samples, *values.shape)).copy())


SPIKINGJELLY = ("as read", "+ v(0)", "+ reset by subtraction", "+ u > V_th, not u >= V_th")


def spikingjelly(path, x, timesteps, settings):
    """Spikes of all neurons and the mean output [N, ...], after the first so many settings."""
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    # With dt = 1, NIR's r = 1 is its 1 / dt.
    network, spikes = import_from_nir(path, dt=1.0), []
    for key, _, start, strict in _neurons(path):
        module = network.get_submodule(key)
        if settings >= 1:
            module.module.v = _batch(start, len(x))
        if settings >= 2:
            module.module.v_reset = None
        if settings >= 3:
            module.module.v_threshold = float(strict.flat[0])
        module.register_forward_hook(lambda *call: spikes.append(float(call[2][0].sum())))
    total, state = 0.0, None
    with torch.no_grad():
        for _ in range(timesteps):
            output, state = network(torch.from_numpy(x), state)
            total = total + output
    return sum(spikes), (total / timesteps).numpy()


SINABS = ("as read", "+ v(0)", "+ one spike at most", "+ no lower bound of v",
          "+ u > V_th, not u >= V_th")  # fmt: skip


def sinabs(path, x, timesteps, settings):
    """The same; its batches are of all time-steps of all samples."""
    from sinabs.activation import SingleSpike
    from sinabs.nir import from_nir

    network, spikes = from_nir(nir.read(path, type_check=False), batch_size=len(x)), []
    for key, threshold, start, strict in _neurons(path):
        module = network.get_submodule(key)
        module.init_state_with_shape((len(x), *threshold.shape))
        if settings >= 1:
            module.v_mem.copy_(_batch(start, len(x)))
        if settings >= 2:
            module.spike_fn = SingleSpike
        if settings >= 3:
            module.min_v_mem = None
        if settings >= 4:
            module.spike_threshold = torch.nn.Parameter(torch.tensor(strict), requires_grad=False)
        module.register_forward_hook(lambda *call: spikes.append(float(call[2].sum())))
    steps = torch.from_numpy(x).repeat_interleave(timesteps, 0)
    with torch.no_grad():
        output = network(steps)
        output = output[0] if isinstance(output, tuple) else output
    return sum(spikes), output.reshape(len(x), timesteps, *output.shape[1:]).mean(1).numpy()
