"""What depends on what."""

import numpy as np
import onnx_graphsurgeon as gs
from onnx_text import graph

from onnx2snn.graph_passes.graph.regions import downstream, upstream


def test_what_is_left_out_connects_nothing():
    """Neither outputs nor inputs without a name."""
    text = "{ h = Relu(x) c = Clip(z, , six) y = Neg(c) }"
    text = f"g (float[N] x, float[N] z) => (float[N] y, float[N] h) {text}"
    g = graph(text, {"six": np.float32(6)})
    relu, clip, neg = g.nodes
    relu.outputs.append(gs.Variable.empty())
    assert downstream(g, [relu.inputs[0]]) == {"x", "h"}
    assert downstream(g, [gs.Variable.empty()]) == set()
    assert upstream(g, [clip]) == {"z", "six"}
    assert upstream(g, [neg]) == {"c", "z", "six"}


def test_sizes_are_no_values_unless_said():
    text = "g (float[N] x, float[M] z) => (float[L] y) { s = Shape(x) y = Reshape(z, s) }"
    g = graph(text)
    assert downstream(g, g.inputs[:1]) == {"x"}
    assert downstream(g, g.inputs[:1], shapes=True) == {"x", "s", "y"}
