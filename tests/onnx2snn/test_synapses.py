"""SOPs and MACs against counting synapse by synapse."""

import numpy as np
from onnx_text import model

from onnx2snn import convert
from onnx2snn.synapses import macs, synaptic_operations

RNG = np.random.default_rng(0)
ZERO, ONE = np.float32(0), np.float32(1)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def conv_connections(size_in, size_out, kernel, stride, pad):
    """How many outputs each input position reaches, along one axis."""
    reached = np.zeros(size_in, int)
    for o in range(size_out):
        for k in range(kernel):
            i = o * stride + k - pad
            if 0 <= i < size_in:
                reached[i] += 1
    return reached


def test_convolution_counts_no_padding():
    weights = {"w": normal(3, 2, 3, 3), "v": normal(5, 3, 3, 3), "zero": ZERO, "one": ONE}
    proto = model(
        "g (float[N, 2, 8, 8] x) => (float[N, 5, 4, 4] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) "
        "s = Clip(c, zero, one) y = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(s, v) }",
        weights,
    )
    snn = convert(proto).model
    reached = conv_connections(8, 4, 3, 2, 1)
    fan_out = 5 * np.outer(reached, reached)
    counts = RNG.integers(0, 9, (3, 8, 8))
    assert synaptic_operations(snn, {"s": counts}) == (counts * fan_out).sum()
    first = conv_connections(8, 8, 3, 1, 1)
    in_first = 2 * 3 * np.outer(first, first).sum()
    assert macs(snn, (2, 8, 8)) == in_first + 3 * fan_out.sum()


def test_zero_weights_are_no_synapses():
    weights = {"w": np.array([[1, 0, 2], [0, 0, 3]], np.float32), "zero": ZERO, "one": ONE}
    proto = model(
        "g (float[N, 2] x) => (float[N, 3] y) { s = Clip(x, zero, one) y = MatMul(s, w) }", weights
    )
    snn = convert(proto).model
    assert synaptic_operations(snn, {"s": np.array([10, 100])}) == 10 * 2 + 100 * 1
    assert macs(snn, (2,)) == 3


def test_through_pooling_flatten_and_residual_add():
    weights = {"w": normal(2, 2, 1, 1), "f": normal(8, 3), "b": normal(3), "zero": ZERO, "one": ONE}
    proto = model(
        "g (float[N, 2, 4, 4] x) => (float[N, 3] y) { a = Clip(x, zero, one) c = Conv(a, w) "
        "d = Add(c, a) e = Clip(d, zero, one) "
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(e) q = Flatten(p) "
        "y = Gemm(q, f, b) }",
        weights,
    )
    snn = convert(proto).model
    a, e = RNG.integers(0, 9, (2, 4, 4)), RNG.integers(0, 9, (2, 4, 4))
    assert synaptic_operations(snn, {"a": a, "e": e}) == 2 * a.sum() + 3 * e.sum()
    assert macs(snn, (2, 4, 4)) == 16 * 4 + 8 * 3


def test_global_pooling_and_scales():
    weights = {"f": normal(2, 5), "half": np.float32(0.5), "zero": ZERO, "one": ONE}
    proto = model(
        "g (float[N, 2, 4, 4] x) => (float[N, 5] y) { a = Clip(x, zero, one) m = Mul(a, half) "
        "n = Add(m, one) p = GlobalAveragePool(n) q = Flatten(p) y = MatMul(q, f) }",
        weights,
    )
    counts = RNG.integers(0, 9, (2, 4, 4))
    assert synaptic_operations(convert(proto).model, {"a": counts}) == 5 * counts.sum()
