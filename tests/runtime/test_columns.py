"""Convolutions in columns give what the convolutions give, bit for bit where sums are exact."""

import numpy as np
import onnx
import pytest
from onnx_text import model

from onnx2snn.runtime.choices.memory import FRAGMENTED, as_executed, peak_of_activations
from onnx2snn.runtime.layers.columns import FEW_PLACES, columns_where_they_pay, with_columns
from onnx2snn.runtime.plans.sizes import sizes_of
from onnx2snn.runtime.providers import CPU
from onnx2snn.runtime.sessions import create_session

CONV = "net (float[N, 3, {height}, {width}] x) => (float[N, C, H, W] y) {{ {node} }}"


def conv(height, width, kernel, attributes, bias=True):
    """A convolution with dyadic weights."""
    rng = np.random.default_rng(height)
    values = {"w": (rng.integers(-8, 9, (5, 3, *kernel)) / 8).astype(np.float32)}
    if bias:
        values["b"] = (rng.integers(-8, 9, 5) / 8).astype(np.float32)
    node = f"y = Conv<{attributes}>({', '.join(['x', *values])})"
    return model(CONV.format(height=height, width=width, node=node), values)


@pytest.mark.parametrize(
    ("size", "kernel", "attributes"),
    [
        ((2, 2), (3, 3), "pads = [1, 1, 1, 1]"),
        ((3, 5), (3, 3), "pads = [0, 1, 2, 0]"),
        ((6, 4), (3, 2), "strides = [2, 1]"),
        ((7, 7), (3, 3), "strides = [2, 3], dilations = [2, 1], pads = [1, 0, 1, 2]"),
        ((4, 1), (1, 1), "strides = [2, 1]"),
        ((1, 1), (1, 1), "kernel_shape = [1, 1]"),
        ((2, 3), (2, 3), "kernel_shape = [2, 3]"),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_same_numbers(size, kernel, attributes, bias):
    plain = conv(*size, kernel, attributes, bias)
    x = np.random.default_rng(1).integers(-4, 5, (4, 3, *size)).astype(np.float32)
    wanted = create_session(plain, [CPU], 1).run(None, {"x": x})[0]
    (node,) = plain.graph.node
    columns = columns_where_they_pay(node, (5, 3, *kernel), x.shape, wanted.shape)
    assert columns is not None
    made = with_columns(plain, [columns])
    onnx.checker.check_model(made, full_check=True)
    assert "Conv" not in [node.op_type for node in made.graph.node]
    for rows in (1, 4):
        found = create_session(made, [CPU], 1).run(None, {"x": x[:rows]})[0]
        np.testing.assert_array_equal(found, wanted[:rows])
    order = as_executed(made.graph.node)
    peak = peak_of_activations(made, sizes_of(made, {"x": (1, 3, *size)}), order) / FRAGMENTED
    # Reshaped weights are counted there, but are the weights themselves.
    own = 4 * 15 * int(np.prod(kernel))
    assert peak - own >= columns.scratch if bias else peak - own == columns.scratch
    # What has no convolution of those weights stays as it is.
    assert list(with_columns(made, [columns]).graph.node) == list(made.graph.node)
    assert with_columns(plain, []) is plain


@pytest.mark.parametrize(
    ("attributes", "weights", "image", "places"),
    [
        ("pads = [1, 1, 1, 1]", (5, 3, 3, 3), (3, 4, 4), (4, 4)),
        ('auto_pad = "SAME_UPPER"', (5, 3, 3, 3), (3, 2, 2), (2, 2)),
        ("group = 3", (6, 1, 1, 1), (3, 2, 2), (2, 2)),
        ("kernel_shape = [1]", (5, 3, 1), (3, 2), (2,)),
        ("pads = [1, 1, 1, 1]", (5, 3, 3, 3), (3, 0, 2), (0, 2)),
        ("pads = [1, 1, 1, 1]", (5, 3, 3, 3), (), ()),
    ],
)
def test_others_stay(attributes, weights, image, places):
    """With pads of their own, in groups, of one dimension, empty, or of unknown size."""
    (node,) = conv(4, 4, (3, 3), attributes).graph.node
    made = (2, weights[0], *places) if places else ()
    assert columns_where_they_pay(node, weights, (2, *image), made) is None


def test_images_of_few_places():
    (node,) = conv(4, 4, (3, 3), "pads = [1, 1, 1, 1]").graph.node
    for wide, pays in ((FEW_PLACES - 1, True), (FEW_PLACES, False)):
        found = columns_where_they_pay(node, (5, 3, 3, 3), (2, 3, 1, wide), (2, 5, 1, wide))
        assert (found is not None) == pays
