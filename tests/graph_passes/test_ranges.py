"""What is known of a tensor's numbers, beside what ONNX Runtime makes of random inputs."""

import math

import numpy as np
import pytest
from onnx_text import graph, run

from onnx2snn.graph_passes.ranges import ANY, range_of

X = np.random.default_rng(0).normal(size=(5, 2, 6, 6)).astype(np.float32) * 3
WEIGHTS = {
    "one": np.float32(1), "two": np.float32(2), "minus": np.float32(-1), "many": np.float32([1, 2]),
    "nothing": np.float32(0), "infinite": np.float32(np.inf), "places": np.int64([1]),
    "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "twice": np.float32([1, 1, 2, 2]),
    "shape": np.int64([5, 2, 6, 6]), "axes": np.int64([1]),
    "roi": np.float32([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5]), "mask": X > 0,
}  # fmt: skip
S, R = "s = Sigmoid(x) ", "r = Relu(x) "
INFINITY = math.inf
CASES = {
    "y = Relu(x)": (0, INFINITY),
    "y = Tanh(x)": (-1, 1),
    "y = Erf(x)": (-1, 1),
    "y = Abs(x)": (0, INFINITY),
    "y = Clip(x, minus, two)": (-1, 2),
    "y = Clip(x, two, one)": (1, 1),
    "y = Clip(x, minus)": (-1, INFINITY),
    "z = Neg(x) y = Identity(z)": ANY,
    "t = Erf(x) y = Add(t, one)": (0, 2),
    S + "y = Sub(one, s)": (0, 1),
    S + "y = Sub(s, one)": (-1, 0),
    S + "y = Neg(s)": (-1, 0),
    S + "y = Mul(s, minus)": (-1, 0),
    S + "y = Div(s, two)": (0, 0.5),
    R + "y = Mul(r, nothing)": (0, 0),
    "y = Mul(x, x)": (0, INFINITY),
    S + "t = Tanh(x) y = Mul(s, t)": (-1, 1),
    S + R + "y = Mul(s, r)": (0, INFINITY),
    S + "t = Tanh(x) y = Add(s, t)": (-1, 2),
    S + R + "y = Sum(s, r, s)": (0, INFINITY),
    S + R + "a = Add(s, one) y = Div(r, a)": (0, INFINITY),
    S + "t = Tanh(x) a = Add(s, one) y = Div(t, a)": ANY,
    S + "y = Max(s, x)": (0, INFINITY),
    S + "y = Min(s, x)": (-INFINITY, 1),
    S + R + "y = Concat<axis = 1>(s, r)": (0, INFINITY),
    S + "e = Expand(two, shape) y = Concat<axis = 1>(s, e)": (0, 2),
    S + "o = Shape(x) e = ConstantOfShape(o) y = Where(mask, s, e)": (0, 1),
    S + "y = Where(mask, s, x)": ANY,
    S + "t = Transpose(s) y = Flatten(t)": (0, 1),
    S + "y = MaxPool<kernel_shape = [2, 2]>(s)": (0, 1),
    S + "a = Add(s, one) y = AveragePool<kernel_shape = [2, 2]>(a)": (0, 2),
    S + "y = GlobalAveragePool(s)": (0, 1),
    S + "y = ReduceSum(s, axes)": (0, INFINITY),
    "t = Tanh(x) y = ReduceSum(t, axes)": ANY,
    S + "y = Pad(s, pads, minus)": (-1, 1),
    S + "y = Pad(s, pads)": (0, 1),
    S + 'y = Resize<mode = "linear">(s, , twice)': (0, 1),
    S + 'y = Resize<mode = "cubic">(s, , twice)': ANY,
    S + 'y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", '
        "extrapolation_value = -3.0>(s, roi, twice)": (-3, 1),
    "y = Min(x, infinite)": ANY,
    "b = ReduceMax<keepdims = 0>(x) y = Clip(x, minus, b)": ANY,
    "y = Exp(x)": (0, INFINITY),
}  # fmt: skip


@pytest.mark.parametrize("body", CASES)
def test_the_range_of_a_tensor(body):
    g = graph(f"g (float[5, 2, 6, 6] x) => (float y) {{ {body} }}", WEIGHTS)
    g.outputs[0].shape = None
    known = {}
    for node in g.nodes:
        known[node.outputs[0].name] = range_of(g, node, known)
    low, high = known["y"]
    assert (low, high) == CASES[body]
    made = run(g, X)
    assert low <= made.min() <= made.max() <= high


def test_of_other_domains_nothing_is_known():
    g = graph("g (float[5, 2, 6, 6] x) => (float y) { y = Relu(x) }")
    g.nodes[0].domain = "some.domain"
    assert range_of(g, g.nodes[0], {}) == ANY
