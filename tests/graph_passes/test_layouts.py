import numpy as np
import pytest
from onnx_text import graph

from onnx2snn.graph_passes import infer_shapes
from onnx2snn.graph_passes.graph.layouts import channel_axis

HEAD = "net (float[N, 6, 8] x) => (float[N, K, L] y)"
SHAPES = {"w": (8, 24), "b": (24,), "k": (4, 6, 1), "v": (12, 6)}
SIZES = {
    "rows": [-1, 8], "sequences": [-1, 6, 24], "halves": [-1, 12, 12], "pairs": [-1, 2, 2, 8],
    "parts": [-1, 3, 4, 8],
}  # fmt: skip
WEIGHTS = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
WEIGHTS |= {name: np.array(size) for name, size in SIZES.items()}
CASES = {
    "MatMul": ("m = MatMul(x, w) a = Add(m, b) y = Relu(a)", 2),
    "Reshape, Gemm, Reshape": (
        "r = Reshape(x, rows) g = Gemm(r, w, b) a = Reshape(g, sequences) y = Relu(a)",
        2,
    ),
    "Reshape, MatMul, Reshape": (
        "r = Reshape(x, rows) g = MatMul(r, w) a = Reshape(g, sequences) c = Add(a, b) y = Relu(c)",
        2,
    ),
    "another last axis": (
        "r = Reshape(x, rows) g = Gemm(r, w, b) a = Reshape(g, halves) y = Relu(a)",
        1,
    ),
    "weights first": ("a = MatMul(v, x) y = Relu(a)", 1),
    "weights first, Reshape": ("m = MatMul(v, x) a = Reshape(m, parts) y = Relu(a)", 1),
    "Conv": ("a = Conv(x, k) y = Relu(a)", 1),
    "Conv, Reshape": ("c = Conv(x, k) a = Reshape(c, pairs) y = Relu(a)", 1),
}


@pytest.mark.parametrize("case", CASES)
def test_axis_of_channels(case):
    body, axis = CASES[case]
    g = graph(f"{HEAD} {{ {body} }}", WEIGHTS)
    infer_shapes(g)
    assert channel_axis(g.outputs[0]) == axis
