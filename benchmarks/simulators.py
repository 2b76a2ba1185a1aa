"""The peers: other simulators of spiking networks, as contestants for ``timing``.

Each simulates a network of ``networks.py`` with its weights, its neurons with threshold 1 that
start at 1/2, emit one spike a time-step at most and subtract 1 at a spike; the output is the mean
over time. Needs the extra ``[peers]``.
"""

import torch
from networks import NETWORKS

from onnx2snn.measuring.benchmarking import RandomInputs


class TorchSimulation:
    """What the simulators have in common: one network, in this process.

    ``network(layers)`` builds it of a simulator's layers, ``neuron`` is the class of its neurons,
    and ``simulate(x)`` gives the output [N, classes] of T time-steps.
    """

    def __init__(self, shapes, timesteps, threads, folder, name):
        torch.set_num_threads(threads)
        self.timesteps, self.folder, self.name = timesteps, folder, name
        self.inputs, self.samples = RandomInputs(shapes), 0
        self.prepare()

    def load(self):
        self.network = self.build(NETWORKS[self.name]).eval()
        weights = torch.load(self.folder / f"{self.name}.pt", weights_only=True)
        wrong = self.network.load_state_dict(weights, strict=False).unexpected_keys
        assert not wrong, wrong
        self.neurons = [m for m in self.network.modules() if isinstance(m, self.neuron)]

    @torch.inference_mode()
    def run(self, samples):
        self.output = self.simulate(self.resized(samples))

    def resized(self, samples):
        """The input of N samples, ready to run."""
        x = torch.from_numpy(self.inputs(samples)["input"])
        if samples != self.samples:
            self.resize(x)
            self.samples = samples
        return x

    def resize(self, x):
        """Called before the first run with another N."""

    def check(self, samples):
        """The output [N, classes], and the spikes of all neurons together."""
        with torch.inference_mode():
            self.resized(samples)
        spikes = []
        hooks = [
            neuron.register_forward_hook(lambda _, given, made: spikes.append(float(made.sum())))
            for neuron in self.neurons
        ]
        self.run(samples)
        for hook in hooks:
            hook.remove()
        return self.output.numpy(), sum(spikes)


class SpikingJelly(TorchSimulation):
    """One time-step after another (step mode "s")."""

    mode = "s"

    def prepare(self):
        from spikingjelly.activation_based import functional, layer, neuron

        self.library, self.layers, self.neuron = functional, layer, neuron.IFNode

    def build(self, network):
        def node():
            made = self.neuron(v_threshold=1.0, v_reset=None)
            made.set_reset_value("v", 0.5)
            return made

        made = network(self.layers, node)
        self.library.set_step_mode(made, self.mode)
        return made

    def simulate(self, x):
        self.library.reset_net(self.network)
        return sum(self.network(x) for _ in range(self.timesteps)) / self.timesteps


class SpikingJellyMultiStep(SpikingJelly):
    """All time-steps of a layer before the next layer (step mode "m")."""

    mode = "m"

    def simulate(self, x):
        self.library.reset_net(self.network)
        return self.network(x.expand(self.timesteps, *x.shape).contiguous()).mean(0)


class Sinabs(TorchSimulation):
    """All time-steps of a layer before the next layer; time is part of the batch axis."""

    def prepare(self):
        import sinabs
        from sinabs import layers
        from sinabs.activation import SingleSpike

        self.library, self.neuron, self.spike = sinabs, layers.IAFSqueeze, SingleSpike

    def build(self, network):
        def node():
            return self.neuron(batch_size=1, spike_threshold=torch.tensor(1.0), spike_fn=self.spike)

        return network(torch.nn, node)

    def resize(self, x):
        self.library.set_batch_size(self.network, len(x))
        for node in self.neurons:
            node.v_mem = torch.zeros(0)
        self.network(x)

    def simulate(self, x):
        for node in self.neurons:
            node.v_mem = torch.full_like(node.v_mem, 0.5)
        output = self.network(x.repeat_interleave(self.timesteps, 0))
        return output.unflatten(0, (len(x), self.timesteps)).mean(1)


class SnnTorch(TorchSimulation):
    """One time-step after another."""

    def prepare(self):
        import snntorch

        self.neuron = snntorch.Leaky

    def build(self, network):
        def node():
            return self.neuron(
                beta=1.0, threshold=1.0, init_hidden=True, reset_mechanism="subtract"
            )

        return network(torch.nn, node)

    def resize(self, x):
        self.network(x)

    def simulate(self, x):
        for node in self.neurons:
            node.mem = torch.full_like(node.mem, 0.5)
        return sum(self.network(x) for _ in range(self.timesteps)) / self.timesteps


class TimeBatchedIF(torch.nn.Module):
    """Reads [N, ...], a constant current, or [T N, ...]; gives [T N, ...]."""

    timesteps, samples, layout = 1, 1, torch.contiguous_format

    def forward(self, currents):
        constant = len(currents) == self.samples
        shape = self.timesteps * self.samples, *currents.shape[1:]
        layout = self.layout if currents.ndim == 4 else torch.contiguous_format
        spikes = torch.empty(shape, memory_format=layout)
        steps = [currents] * self.timesteps if constant else currents.split(self.samples)
        v = torch.full_like(steps[0], 0.5)
        for current, spike in zip(steps, spikes.split(self.samples), strict=True):
            v += current
            torch.gt(v, 1, out=spike)
            v -= spike
        return spikes


class HandWritten(TorchSimulation):
    """What one writes by hand for speed: no autograd, nothing done twice.

    All time-steps of a layer before the next, in place, the first layer once, the last one on
    the mean of what it reads.
    """

    neuron, layout = TimeBatchedIF, torch.contiguous_format

    def prepare(self):
        pass

    def build(self, network):
        return network(torch.nn, self.neuron).to(memory_format=self.layout)

    def resize(self, x):
        for node in self.neurons:
            node.timesteps, node.samples, node.layout = self.timesteps, len(x), self.layout

    def simulate(self, x):
        spikes = self.network[:-1](x.contiguous(memory_format=self.layout))
        return self.network[-1](spikes.unflatten(0, (self.timesteps, len(x))).mean(0))


class HandWrittenChannelsLast(HandWritten):
    """The same with channels as the last axis in memory."""

    layout = torch.channels_last


SIMULATORS = {
    "SpikingJelly s": SpikingJelly,
    "SpikingJelly m": SpikingJellyMultiStep,
    "sinabs": Sinabs,
    "snntorch": SnnTorch,
    "torch by hand": HandWritten,
    "torch by hand, NHWC": HandWrittenChannelsLast,
}
