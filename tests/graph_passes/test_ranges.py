"""What is known of a tensor's numbers, beside what ONNX Runtime makes of random inputs."""

import math

import numpy as np
import pytest
from onnx_text import graph, run

from onnx2snn.graph_passes.graph.ranges import ANY, range_of

X = np.random.default_rng(0).normal(size=(5, 2, 6, 6)).astype(np.float32) * 3
WEIGHTS = {
    "one": np.float32(1), "two": np.float32(2), "minus": np.float32(-1), "many": np.float32([1, 2]),
    "nothing": np.float32(0), "infinite": np.float32(np.inf), "places": np.int64([1]),
    "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "twice": np.float32([1, 1, 2, 2]),
    "shape": np.int64([5, 2, 6, 6]), "axes": np.int64([1]), "nan": np.float32(np.nan),
    "channels": np.float32([[[1]], [[2]]]), "last": np.int64([-1]),
    "thrice": np.int64([1, 1, 1, 3]),
    "none": np.zeros((5, 2, 6, 0), np.float32), "wholes": np.int64([[[3]], [[4]]]),
    "three": np.float32(3),
    "roi": np.float32([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5]), "mask": X > 0,
}  # fmt: skip
S, R = "s = Sigmoid(x) ", "r = Relu(x) "
INFINITY = math.inf
CASES = {
    "y = Relu(x)": (0, INFINITY),
    "y = Tanh(x)": (-1, 1),
    "y = Erf(x)": (-1, 1),
    "y = Abs(x)": (0, INFINITY),
    "y = Sqrt(x)": (0, INFINITY),
    "y = Softplus(x)": (0, INFINITY),
    "y = HardSigmoid(x)": (0, 1),
    "y = Softmax(x)": (0, 1),
    "y = Cos(x)": (-1, 1),
    "y = Sin(x)": (-1, 1),
    "y = Softsign(x)": (-1, 1),
    R + "y = Tanh(r)": (0, 1),
    R + "y = Erf(r)": (0, 1),
    R + "y = Softsign(r)": (0, 1),
    R + "y = Sin(r)": (-1, 1),
    "y = Max(x, channels)": (1, INFINITY),
    "y = Mul(x, nothing)": (0, 0),
    "y = Add(x, nan)": ANY,
    S + "y = Concat<axis = 3>(s, none)": ANY,
    S + "w = Cast<to = 1>(wholes) y = Max(s, w)": (3, 4),
    S + "w = Cast<to = 10>(s) v = Cast<to = 1>(w) y = Neg(v)": (-1, 0),
    S + "w = Cast<to = 7>(s) y = Cast<to = 1>(w)": ANY,
    "c = Greater(x, one) y = Cast<to = 1>(c)": (0, 1),
    "c = Greater(x, one) w = Cast<to = 7>(c) v = Mul(w, places) u = Sub(v, places) "
    "y = Cast<to = 1>(u)": (-1, 0),
    S + "t = Tanh(x) y = Sub(s, t)": (-1, 2),
    "c = Greater(x, one) y = Where(c, two, one)": (1, 2),
    R + "y = Floor(r)": (0, INFINITY),
    S + "y = Ceil(s)": (0, 1),
    "c = Clip(x, minus, two) d = Mul(c, channels) e = Div(d, three) y = Round(e)": (-1, 2),
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
    S + "y = Div(s, x)": ANY,
    S + "y = Max(s, x)": (0, INFINITY),
    S + "y = Min(s, x)": (-INFINITY, 1),
    S + R + "y = Concat<axis = 1>(s, r)": (0, INFINITY),
    S + "e = Expand(two, shape) y = Concat<axis = 1>(s, e)": (0, 2),
    S + "o = Shape(x) e = ConstantOfShape(o) y = Where(mask, s, e)": (0, 1),
    S + "y = Where(mask, s, x)": ANY,
    S + "t = Transpose(s) y = Flatten(t)": (0, 1),
    S + "y = MaxPool<kernel_shape = [2, 2]>(s)": (0, 1),
    S + "a = Add(s, one) y = AveragePool<kernel_shape = [2, 2]>(a)": (0, 2),
    S + "n = Neg(s) a = Sub(n, one) y = AveragePool<kernel_shape = [2, 2]>(a)": (-2, 0),
    S + "y = GlobalAveragePool(s)": (0, 1),
    S + "y = SpaceToDepth<blocksize = 2>(s)": (0, 1),
    S + "y = DepthToSpace<blocksize = 1>(s)": (0, 1),
    S + "y = Expand(s, shape)": (0, 1),
    S + "y = Gather<axis = 1>(s, places)": (0, 1),
    S + "y = Slice(s, axes, last, axes)": (0, 1),
    S + "y = Reshape(s, shape)": (0, 1),
    S + "y = Tile(s, thrice)": (0, 1),
    S + "y = ReduceMean<axes = [1]>(s)": (0, 1),
    S + "y = ReduceMax<axes = [1]>(s)": (0, 1),
    S + "y = GlobalMaxPool(s)": (0, 1),
    S + "y = ReduceSum(s, axes)": (0, INFINITY),
    "t = Tanh(x) y = ReduceSum(t, axes)": ANY,
    S + "y = Pad(s, pads, minus)": (-1, 1),
    S + "y = Pad(s, pads)": (0, 1),
    S + "a = Add(s, one) y = Pad(a, pads)": (0, 2),
    S + "u = Unsqueeze(s, axes) y = Squeeze(u, axes)": (0, 1),
    S + 'y = Resize<mode = "linear">(s, , twice)': (0, 1),
    S + 'y = Resize<mode = "cubic">(s, , twice)': ANY,
    S + 'y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", '
        "extrapolation_value = -3.0>(s, roi, twice)": (-3, 1),
    'c = Clip(x, one, two) y = Resize<mode = "linear", '
        'coordinate_transformation_mode = "tf_crop_and_resize">(c, roi, twice)': (0, 2),
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
    made = made[~np.isnan(made)]
    assert not made.size or low <= made.min() <= made.max() <= high


def test_of_other_domains_nothing_is_known():
    g = graph("g (float[5, 2, 6, 6] x) => (float y) { y = Sigmoid(x) }")
    g.nodes[0].domain = "some.domain"
    assert range_of(g, g.nodes[0], {}) == ANY
