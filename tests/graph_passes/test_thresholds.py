"""Which nodes are activations, what bounds them, and how they get a bound."""

import re

import numpy as np
import pytest
from onnx_text import graph, run

from onnx2snn.graph_passes.graph.activations import (
    bounded_activations,
    is_non_negative,
    unbounded_activations,
)
from onnx2snn.graph_passes.thresholds import bound_activations


def test_a_bound_of_infinity_is_none():
    text = "g (float[N, 3] x) => (float[N, 3] y) { y = Clip(x, zero, most) }"
    values = {"zero": np.float32(0), "most": np.float32(np.inf)}
    assert not bounded_activations(graph(text, values))


@pytest.mark.parametrize(
    "body",
    [
        # Of three, of one that something else reads, and a bound that makes more of it.
        "r = Relu(x) y = Min(r, one, two)",
        "r = Relu(x) m = Min(r, two) y = Add(r, m)",
        "r = Relu(x) m = Min(r, more) y = ReduceMax<axes = [0], keepdims = 0>(m)",
    ],
)
def test_bounds_that_are_none(body):
    values = {"one": 1, "two": 2, "more": np.ones((2, 1, 1))}
    used = {n: np.float32(v) for n, v in values.items() if re.search(rf"\b{n}\b", body)}
    g = graph(f"g (float[N, 3] x) => (float[N, 3] y) {{ {body} }}", used)
    assert not bounded_activations(g)
    assert [node.op for node in unbounded_activations(g)] == ["Relu"]


def test_a_clip_from_elsewhere_than_0_is_no_activation():
    g = graph(
        "g (float[N, 3] x) => (float[N, 3] y) { y = Clip(x, one, two) }",
        {"one": np.float32(1), "two": np.float32(2)},
    )
    assert not bounded_activations(g)


def test_the_largest_number_of_a_type_bounds_nothing():
    text = "g (float16[N, 3] x) => (float16[N, 3] y) { r = Relu(x) y = Min(r, most) }"
    g = graph(text, {"most": np.float16([1, 2, 65504])})
    (bound,) = bounded_activations(g).values()
    np.testing.assert_array_equal(bound, [1, 2, np.inf])


@pytest.mark.parametrize(
    "body", ["y = Clip(x, zero, two)", "y = Relu(x)", "r = Relu(x) y = Min(r, two)"]
)
def test_operators_of_other_domains_are_no_activations(body):
    values = {"zero": np.float32(0), "two": np.float32(2)}
    used = {name: value for name, value in values.items() if name in body}
    g = graph(f"g (float[N, 3] x) => (float[N, 3] y) {{ {body} }}", used)
    last = g.nodes[-1]
    last.domain = "my"
    assert last.name not in (*bounded_activations(g), *[n.name for n in unbounded_activations(g)])
    assert not is_non_negative(g, last)


def test_the_min_of_a_relu_of_another_domain_bounds_nothing():
    g = graph("g (float[N, 3] x) => (float[N, 3] y) { r = Relu(x) y = Min(r, two) }",
              {"two": np.float32(2)})  # fmt: skip
    g.nodes[0].domain = "my"
    assert bounded_activations(g) == {}
    assert not bound_activations(g, {"y": np.float32(1)})


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("y = Clip(x, one, two)", True),
        # The upper bound is the one that holds.
        ("y = Clip(x, one, below)", False),
        ("y = ThresholdedRelu<alpha = 0.5>(x)", True),
        ("y = ThresholdedRelu<alpha = 0.0>(x)", True),
        ("y = ThresholdedRelu<alpha = -0.5>(x)", False),
        ("r = Relu(x) y = Min(r, two)", True),
        ("r = Relu(x) y = Min(r, below)", False),
    ],
)
def test_what_is_never_negative(body, wanted):
    values = {"one": np.float32(1), "two": np.float32(2), "below": np.float32(-1)}
    g = graph(f"g (float[N, 3] x) => (float[N, 3] y) {{ {body} }}",
              {n: v for n, v in values.items() if n in body})  # fmt: skip
    assert is_non_negative(g, g.nodes[-1]) == wanted


def test_a_bound_in_front_is_lowered():
    text = "g (float[N, 3] x) => (float[N, 3] y) { r = Relu(x) y = Min(most, r) }"
    g = graph(text, {"most": np.float32([2, 3, 4])})
    name = g.nodes[-1].name
    assert bound_activations(g, {name: np.float32([1, 1, 9])})
    x = np.float32([[-1, 0.5, 8], [5, 5, 5]])
    np.testing.assert_array_equal(run(g, x), [[0, 0.5, 4], [1, 1, 4]])


def test_a_relu_of_whole_numbers_is_no_activation():
    g = graph("g (int32[N, 3] x) => (int32[N, 3] y) { y = Relu(x) }")
    assert not unbounded_activations(g)
