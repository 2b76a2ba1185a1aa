"""A NIR file run over time in float64 NumPy, from its nodes, edges and documented metadata."""

import nir
import numpy as np
from equations import conv


def run(path, x, timesteps):
    """The mean of each output, and the spikes of each IF node, [N, ...], by NIR's names."""
    graph = nir.read(path, type_check=False)
    sources = {key: [a for a, b in graph.edges if b == key] for key in graph.nodes}
    potentials, spikes, totals = {}, {}, {}
    for _ in range(timesteps):
        made = {}
        while len(made) < len(graph.nodes):
            for key, node in graph.nodes.items():
                if key in made or any(source not in made for source in sources[key]):
                    continue
                given = x[key] if isinstance(x, dict) and key in x else x
                inputs = sum(made[s] for s in sources[key]) if sources[key] else given
                if isinstance(node, nir.IF):
                    made[key] = _fire(key, node, inputs, potentials)
                    spikes[key] = spikes.get(key, 0) + made[key]
                else:
                    made[key] = _value(node, np.asarray(inputs, np.float64))
                if isinstance(node, nir.Output):
                    totals[key] = totals.get(key, 0) + made[key]
    return {key: total / timesteps for key, total in totals.items()}, spikes


def _fire(key, node, current, potentials):
    u = potentials.get(key, node.metadata["v_init"]) + node.r * current
    z = (u > node.v_threshold).astype(np.float64)
    subtracted = u - z * node.v_threshold
    soft = node.metadata["reset"] == "subtract"
    potentials[key] = subtracted if soft else np.where(z, node.v_reset, u)
    return z


def _value(node, x):
    match node:
        case nir.Conv2d():
            return _conv(node, x, node.stride, node.padding, node.dilation)
        case nir.Conv1d():
            one = (1, node.stride), (0, node.padding), (1, node.dilation)
            return _conv(node, x[:, :, None], *one)[:, :, 0]
        case nir.Affine():
            return x @ node.weight.T + node.bias
        case nir.Scale():
            return x * node.scale
        case nir.AvgPool2d():
            channels = x.shape[1]
            weight = np.ones((channels, 1, *node.kernel_size)) / np.prod(node.kernel_size)
            pads = [*node.padding, *node.padding]
            return conv(x, weight, np.zeros(channels), node.stride, pads, (1, 1), channels)
        case nir.Flatten():
            return x.reshape(len(x), -1)
    return x


def _conv(node, x, stride, padding, dilation):
    weight = node.weight if node.weight.ndim == 4 else node.weight[:, :, None]
    return conv(x, weight, node.bias, stride, [*padding, *padding], dilation, int(node.groups))
