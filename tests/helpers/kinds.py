"""A small network of any kind of neurons, and its equations, neuron by neuron.

Weights and thresholds are such that sums are exact, in float16 too, and potentials often
equal V_th, 0 or v_negative. The network is y = Gemm(neurons(Conv(max_pool(neurons(a x))))).
"""

from dataclasses import dataclass

import numpy as np
from onnx_text import graph

from onnx2snn.graph_passes import (
    activations_to_neurons,
    average_before_read_out,
    change_neurons,
    code_inputs,
    delay_read_out,
    max_to_spiking_pool,
    set_initial_potential,
    to_model,
)

KINDS = (
    "IF", "ResetToZeroIF", "SignedIF", "BurstIF", "SignedBurstIF", "ResidualIF", "OffsetIF",
)  # fmt: skip
ONNX_TYPES = {"float16": "float16", "float32": "float", "float64": "double"}
SILENT = -30000
READ_OUTS = {
    "logits": ("T[N, 3] y", "y = Gemm(f, wy, by)"),
    "several": ("T[N, 3] y, T[N, 3] p, T[N, 3, 2, 2] q",
                "y = Gemm(f, wy, by) p = Softmax<axis = -1>(y)"),
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """``change_neurons`` to these; a ``read_out_delay`` too, if there is one."""

    op: str
    negative: float = -1.0
    max_spikes: int = 3
    delay: int = 2
    read_out_delay: int = 0


# The equations ------------------------------------------------------------------------


def fire(kind, current, v, m, t, theta, v_init):
    """One neuron in one time-step: (s, v_next, m_next)."""
    u = v + current
    s = 1 if u > theta else 0
    if kind.op == "BurstIF":
        s = 0
        while s < kind.max_spikes and u > (s + 1) * theta:
            s += 1
    if kind.op == "SignedBurstIF":
        s = 0
        while s < kind.max_spikes and u > (s + 1) * theta:
            s += 1
        while -s < min(kind.max_spikes, m) and u <= s * theta:
            s -= 1
    if kind.op == "SignedIF" and u < kind.negative * theta and m > 0:
        s = -1
    v = u - s * theta
    if kind.op == "ResetToZeroIF" and s:
        v = 0.0
    if kind.op == "ResidualIF" and t == kind.delay:
        v = v_init if v > 0 else SILENT * theta
    if kind.op == "OffsetIF" and t == kind.delay:
        if v < 0:
            v = v_init - theta
        elif v >= theta:
            v = v_init + theta
        else:
            v = v_init
    return s, v, m + s


_FIRE = np.vectorize(fire, otypes=[float, float, float], excluded=[0])


class Layer:
    """A layer of neurons with its states; ``net`` and ``events`` count spikes."""

    def __init__(self, kind, theta, v_init, shape):
        self.kind, self.theta = kind, np.broadcast_to(theta, shape[1:])
        self.v_init = v_init * self.theta
        self.v, self.m = np.broadcast_to(self.v_init, shape), np.zeros(shape)
        self.net, self.events = np.zeros(shape), np.zeros(shape)

    def __call__(self, current, t):
        s, self.v, self.m = _FIRE(
            self.kind, current, self.v, self.m, float(t), self.theta, self.v_init
        )
        self.net = self.net + s
        self.events = self.events + np.abs(s)
        return s * self.theta


def max_pool(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))


def mean(values, delay):
    """The mean of the values of all time-steps, or of those after the delay once there are."""
    kept = values[delay:] if len(values) > delay else values
    return sum(kept) / len(kept)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Network:
    """Weights from a seed; ``graph`` makes its spiking network, ``steps`` its equations."""

    def __init__(self, seed, dtype="float32", per_channel=True, pool=True, v_init=0.5):
        rng = np.random.default_rng(seed)
        self.dtype, self.pool, self.v_init = np.dtype(dtype), pool, v_init
        powers = [0.5, 1.0]
        shape = (2, 1, 1) if per_channel else ()
        self.a = rng.choice([-1.0, 0.5, 1.0, 2.0], (2, 1, 1))
        self.theta = rng.choice(powers, shape), rng.choice(powers, ((3, 1, 1) if shape else ()))
        self.w, self.b = rng.choice([-1, -0.5, 0.5, 1], (3, 2, 1, 1)), rng.choice([0, 0.5, -0.5], 3)
        self.wy, self.by = rng.choice([-1, -0.5, 0, 0.5], (12, 3)), rng.choice([0.0, 0.5], 3)
        self.size = 4 if pool else 2
        self.rng = rng

    def images(self, samples):
        x = self.rng.choice([-1.0, -0.5, -0.25, 0, 0.25, 0.5, 1.0], (samples, 2, *[self.size] * 2))
        return x.astype(self.dtype)

    def graph(self, kind, read_out="logits", coding=None):
        """``coding``: (scale, timesteps) of a SwitchCoder."""
        outputs, last = READ_OUTS[read_out]
        pooled = "p1 = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(s)"
        # ONNX Runtime has no convolution of float64.
        conv = (
            "c2 = Conv(p1, w, b)"
            if self.dtype != np.float64
            else (
                "l1 = Transpose<perm = [0, 2, 3, 1]>(p1) l2 = MatMul(l1, wt) l3 = Add(l2, b) "
                "c2 = Transpose<perm = [0, 3, 1, 2]>(l3)"
            )
        )
        text = (
            f"g (T[N, 2, {self.size}, {self.size}] x) => ({outputs}) {{ c1 = Mul(x, a) "
            f"r1 = Relu(c1) s = Min(r1, t1) {pooled if self.pool else 'p1 = Identity(s)'} "
            f"{conv} r2 = Relu(c2) q = Min(r2, t2) f = Flatten(q) {last} }}"
        )
        values = {"a": self.a, "t1": self.theta[0], "t2": self.theta[1]}
        values |= {"wt": self.w[:, :, 0, 0].T} if "wt" in text else {"w": self.w}
        values |= {"b": self.b, "wy": self.wy, "by": self.by}
        weights = {name: np.asarray(value, self.dtype) for name, value in values.items()}
        g = graph(text.replace("T[", f"{ONNX_TYPES[self.dtype.name]}["), weights)
        activations_to_neurons(g, "exact")
        max_to_spiking_pool(g)
        set_initial_potential(g, self.v_init)
        average_before_read_out(g)
        change_neurons(
            g, kind.op, negative=kind.negative, max_spikes=kind.max_spikes, delay=kind.delay
        )
        if kind.read_out_delay:
            delay_read_out(g, kind.read_out_delay)
        if coding:
            code_inputs(g, {"x": coding[0]}, coding[1])
        return g

    def steps(self, kind, x, timesteps, coding=None):
        """Yields (t, y, q, layers) at each time-step; layers by name."""
        x = x.astype(np.float64)
        coded = np.zeros_like(x)
        layers = {
            "s": Layer(kind, self.theta[0], self.v_init, x.shape),
            "q": Layer(kind, self.theta[1], self.v_init, (len(x), 3, 2, 2)),
        }
        spikes_sum = np.zeros_like(x)
        for t in range(1, timesteps + 1):
            now = x
            if coding:
                scale, length = coding
                rest = length * x - coded
                now = scale * np.sign(rest) * (np.abs(rest) > scale / 2)
                coded = coded + now
            s = layers["s"](now * self.a, t)
            p = s
            if self.pool:
                p = max_pool(spikes_sum + s) - max_pool(spikes_sum)
                spikes_sum = spikes_sum + s
            current = np.einsum("oc,nchw->nohw", self.w[:, :, 0, 0], p) + self.b[:, None, None]
            q = layers["q"](current, t)
            yield t, q.reshape(len(q), -1) @ self.wy + self.by, q, layers


def model_of(network, kind, **options):
    return to_model(network.graph(kind, **options))
