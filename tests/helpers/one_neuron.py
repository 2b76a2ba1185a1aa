"""Neurons by their equations, one time-step after another, and tiny networks around them."""

import numpy as np
from onnx_text import model

ONE = "net (float[N, C] x) => (float[N, C] y) { r = Relu(x) y = Identity(r) }"
"""A layer of neurons whose current is the input."""

TWO = (
    "net (float[N, 3] x) => (float[N, 2] y) "
    "{ a = Gemm(x, w) r = Relu(a) b = Gemm(r, u) q = Relu(b) y = Gemm(q, v) }"
)
POOLED = (
    "net (float[N, 2, 8, 8] x) => (float[N, 3] y) "
    "{ c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) "
    "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) d = Conv<pads = [1, 1, 1, 1]>(p, u) "
    "e = Add(d, p) q = Relu(e) g = GlobalAveragePool(q) f = Flatten(g) y = Gemm(f, v) }"
)
"""Two layers of neurons with a max-pool and a residual sum between them."""

RNG = np.random.default_rng(5)
WEIGHTS = {
    "w": RNG.normal(size=(3, 4)).astype(np.float32),
    "u": RNG.normal(size=(4, 4)).astype(np.float32),
    "v": RNG.normal(size=(4, 2)).astype(np.float32),
}
X = RNG.normal(size=(12, 3)).astype(np.float32)


def one(channels=1):
    return model(ONE.replace("C]", f"{channels}]"))


def two():
    return model(TWO, WEIGHTS)


def clipped(bound):
    """``two`` with clips to this bound in place of its ReLUs."""
    text = TWO.replace("Relu(a)", "Clip(a, lo, hi)").replace("Relu(b)", "Clip(b, lo, hi)")
    return model(text, WEIGHTS | {"lo": np.float32(0), "hi": np.float32(bound)})


def activations(x=X):
    """Of both layers of ``TWO``."""
    r = np.maximum(x @ WEIGHTS["w"], 0)
    return r, np.maximum(r @ WEIGHTS["u"], 0)


def fire(currents, threshold, start=0.0, *, to_zero=False, negative=None, most=1):
    """The numbers of spikes of neurons, [T, ...], from their currents at each time-step."""
    v = np.broadcast_to(np.float64(start), np.shape(currents[0])).copy()
    emitted, spikes = np.zeros_like(v), []
    for current in currents:
        u = v + current
        s = np.clip(np.ceil(u / threshold) - 1, 0, most)
        if negative is not None:
            s -= (u < negative) & (emitted > 0)
        v = np.where(s > 0, 0, u) if to_zero else u - s * threshold
        emitted += s
        spikes.append(s)
    return np.array(spikes)


def held(value, timesteps):
    """The same current at each time-step."""
    return [np.float64(value)] * timesteps


def computed_sizes():
    """Two layers of neurons, the second padded, 5 x 6, by what is computed of a shape."""
    text = (
        "net (float[N, 2, 4, 4] x) => (float[N, 2, u, v] y) { a = Clip(x, zero, one) s = Shape(a) "
        "z = Sub(s, s) p = Concat<axis = 0>(z, z) q = Add(p, pads) b = Pad(a, q) "
        "y = Clip(b, zero, one) }"
    )
    pads = np.int64([0, 0, 1, 1, 0, 0, 0, 1])
    return model(text, {"zero": np.float32(0), "one": np.float32(1), "pads": pads})
