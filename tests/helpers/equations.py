"""What operators, ANNs and SNNs compute, by their equations, in NumPy alone.

A network is a list of layers, each an equation ``f(run, *inputs)``. ``run`` says what an
activation, a max-pool and a read-out are: those of the ANN (``Analog``), of the ANN whose
max-pools are averages (``Averaged``), or of the SNN in one time-step (``Spiking``).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Layer:
    """``outputs`` = ``equation(run, *inputs)``; a tuple if there are several outputs."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    equation: Callable
    is_neuron: bool = False
    is_read_out: bool = False


# Operators -----------------------------------------------------------------------------


def same_pads(sizes, kernel, strides, dilations, upper):
    """The pads of auto_pad SAME_UPPER or SAME_LOWER: as many windows as there are strides."""
    begins, ends = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        begins.append(total // 2 if upper else total - total // 2)
        ends.append(total - begins[-1])
    return begins + ends


def windows(x, kernel, strides, pads, dilations, fill, ceil=False):
    """What each window sees: [N, C, *places, *kernel]; NaN beyond the padding."""
    dimensions = len(kernel)
    for axis in range(dimensions):
        begin, end = pads[axis], pads[axis + dimensions]
        size, reach = x.shape[2 + axis], (kernel[axis] - 1) * dilations[axis] + 1
        room = size + begin + end - reach
        count = (-(-room // strides[axis]) if ceil else room // strides[axis]) + 1
        if ceil and (count - 1) * strides[axis] >= size + begin:
            count -= 1  # No window begins beyond the image.
        around = [(0, 0)] * x.ndim
        around[2 + axis] = (begin, end)
        x = np.pad(x, around, constant_values=fill)
        around[2 + axis] = (0, max((count - 1) * strides[axis] + reach - x.shape[2 + axis], 0))
        x = np.pad(x, around, constant_values=np.nan)
        places = (
            np.arange(count)[:, None] * strides[axis] + np.arange(kernel[axis]) * (dilations[axis])
        )
        x = np.moveaxis(np.take(x, places, axis=2 + axis), 3 + axis, -1)
    return x


def conv(x, w, b, strides, pads, dilations, group):
    seen = windows(x, w.shape[2:], strides, pads, dilations, 0.0)
    axes = seen.ndim - w.ndim + 2
    parts = []
    for xs, ws in zip(np.split(seen, group, 1), np.split(w, group, 0), strict=True):
        inner = (1, *range(axes, seen.ndim))
        part = np.tensordot(xs, ws, (inner, tuple(range(1, w.ndim))))
        parts.append(np.moveaxis(part, -1, 1))
    return np.concatenate(parts, 1) + b.reshape(-1, *(1,) * (axes - 2))


def conv_transpose(x, w, b, strides, pads, output_padding):
    """Each pixel adds its copy of the kernel to the output."""
    kernel, dimensions = w.shape[2:], w.ndim - 2
    full = [
        (size - 1) * stride + k + more
        for size, stride, k, more in zip(x.shape[2:], strides, kernel, output_padding, strict=True)
    ]
    out = np.zeros((len(x), w.shape[1], *full))
    for offset in itertools.product(*(range(k) for k in kernel)):
        place = tuple(
            slice(o, o + (size - 1) * stride + 1, stride)
            for o, size, stride in zip(offset, x.shape[2:], strides, strict=True)
        )
        out[(slice(None), slice(None), *place)] += np.moveaxis(
            np.tensordot(x, w[(slice(None), slice(None), *offset)], (1, 0)), -1, 1
        )
    kept = tuple(slice(pads[i], full[i] - pads[i + dimensions]) for i in range(dimensions))
    return out[(slice(None), slice(None), *kept)] + b.reshape(-1, *(1,) * dimensions)


def pad(x, pads, value=0.0):
    """Pads of all axes, begins then ends; negative ones crop."""
    for axis in range(x.ndim):
        begin, end = pads[axis], pads[axis + x.ndim]
        around = [(0, 0)] * x.ndim
        around[axis] = (max(begin, 0), max(end, 0))
        x = np.pad(x, around, constant_values=value)
        x = x.take(range(max(-begin, 0), x.shape[axis] - max(-end, 0)), axis)
    return x


def upsample_linear(x, half_pixel=True):
    """Twice the height and width, borders repeated; before opset 11 from the corner on."""
    for axis in (2, 3):
        size = x.shape[axis]
        shift = 0.5 if half_pixel else 0.0
        place = np.clip((np.arange(2 * size) + shift) / 2 - shift, 0, size - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, size - 1)
        part = (place - low).reshape(-1, *(1,) * (3 - axis))
        x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
    return x


def depth_to_space(x, mode):
    n, c, h, w = x.shape
    if mode == "DCR":
        blocks = x.reshape(n, 2, 2, c // 4, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // 4, 2 * h, 2 * w)


def space_to_depth(x):
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, 4 * c, h // 2, w // 2)


@dataclass(frozen=True)
class Pool:
    """A pooling window; the padding counts in no mean unless ``counted``."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil: bool = False
    counted: bool = False

    def _windows(self, x, fill):
        seen = windows(x, self.kernel, self.strides, self.pads, self.dilations, fill, self.ceil)
        return seen.reshape(*seen.shape[: x.ndim], -1)

    def largest(self, x):
        return np.nanmax(self._windows(x, np.nan), -1)

    def mean(self, x):
        return np.nanmean(self._windows(x, 0.0 if self.counted else np.nan), -1)


def whole_image(x):
    """The window of global pooling."""
    size, ones = x.shape[2:], (1,) * (x.ndim - 2)
    return Pool(size, ones, (0,) * 2 * len(size), ones)


# What a network computes ------------------------------------------------------------------


class Analog:
    """The ANN."""

    def fire(self, name, current, theta):
        """ReLU(current), or clip(current; 0, theta)."""
        return np.maximum(current, 0) if theta is None else np.clip(current, 0, theta)

    def max_pool(self, name, x, pool):
        return pool.largest(x)

    def threshold(self, name, x, alpha):
        return np.where(x > alpha, x, 0)

    def read_out(self, name, x, f):
        return f(x)


class Averaged(Analog):
    """The ANN as it is calibrated; the largest value of each ReLU is its V_th."""

    def __init__(self, maxpool):
        self.thresholds, self._average = {}, maxpool == "average"

    def fire(self, name, current, theta):
        x = super().fire(name, current, theta)
        # A layer that is never active takes 1.
        self.thresholds[name] = (x.max() or 1.0) if theta is None else theta
        return x

    def max_pool(self, name, x, pool):
        return pool.mean(x) if self._average else pool.largest(x)


class Spiking:
    """The SNN; one object for all time-steps of a run."""

    def __init__(self, thresholds, maxpool, v_init, before_neurons):
        self.thresholds, self.maxpool, self.v_init = thresholds, maxpool, v_init
        self._before_neurons = before_neurons
        self.t, self.counts, self._v, self._sums = 0, {}, {}, {}

    def fire(self, name, current, theta):
        theta = np.asarray(self.thresholds[name])
        v = self._v.get(name, self.v_init * theta)
        u = v + current  # (2)
        s = (u > theta).astype(np.float64)  # (3)
        x = s * theta  # (4)
        self._v[name] = u - x  # (5)
        self.counts[name] = self.counts.get(name, 0) + s
        return x

    def _sum(self, name, x):
        before = self._sums.get(name, np.zeros_like(x))
        self._sums[name] = before + x
        return before, before + x

    def max_pool(self, name, x, pool):
        if self.maxpool == "average":
            return pool.mean(x)
        if self.maxpool == "keep" and name in self._before_neurons:
            return pool.largest(x)
        # Also max-pooling that is kept after the last neuron: what this emits adds up to it.
        before, after = self._sum(name, x)
        return pool.largest(after) - pool.largest(before)

    def threshold(self, name, x, alpha):
        before, after = self._sum(name, x)
        return np.where(after > alpha * self.t, after, 0) - np.where(
            before > alpha * (self.t - 1), before, 0
        )

    def read_out(self, name, x, f):
        return f(self._sum(name, x)[1] / self.t)


def evaluate(layers, inputs, run):
    """Every tensor of a network for one run, or one time-step."""
    tensors = {name: np.asarray(value, np.float64) for name, value in inputs.items()}
    for layer in layers:
        result = layer.equation(run, *(tensors[name] for name in layer.inputs))
        results = result if len(layer.outputs) > 1 else (result,)
        tensors |= zip(layer.outputs, results, strict=True)
    return tensors


def feeding_neurons(layers):
    """The tensors on which a neuron depends."""
    names = set()
    for layer in reversed(layers):
        if layer.is_neuron or names & set(layer.outputs):
            names |= {*layer.inputs, *layer.outputs}
    return names


def behind_read_outs(layers):
    """The tensors that are read-outs of all time-steps so far."""
    names = set()
    for layer in layers:
        if layer.is_read_out or names & set(layer.inputs):
            names |= set(layer.outputs)
    return names


def simulate(layers, inputs, timesteps, maxpool="average", v_init=0.5, data=None):
    """What each tensor reads out after some time-steps, and the spikes of each neuron.

    The thresholds of ReLUs are their largest values on ``data``, or else on the inputs.
    """
    measured = Averaged(maxpool)
    evaluate(layers, inputs if data is None else data, measured)
    run = Spiking(measured.thresholds, maxpool, v_init, feeding_neurons(layers))
    last = behind_read_outs(layers)
    totals = {}
    for t in range(1, timesteps + 1):
        run.t = t
        now = evaluate(layers, inputs, run)
        totals = {name: totals.get(name, 0) + value for name, value in now.items()}
    means = {name: now[name] if name in last else totals[name] / timesteps for name in now}
    return means, run.counts
