"""Dense layers with their weights first give what they gave, from one copy of the weights."""

import numpy as np
import onnx
import pytest
from onnx_text import model

from onnx2snn import SpikingSession, convert
from onnx2snn.runtime.choices import chunks
from onnx2snn.runtime.layers import weights_first
from onnx2snn.runtime.layers.weights_first import first_pays, may_come_first, with_weights_first
from onnx2snn.runtime.providers import CPU
from onnx2snn.runtime.sessions import create_session

GEMM = "net (float[N, 7] x) => (float[N, 5] y) {{ y = Gemm<{attributes}>({reads}) }}"


def dense(bias=True, attributes="transB = 1", shape=(5, 7)):
    """A dense layer with dyadic weights."""
    rng = np.random.default_rng(0)
    values = {"w": (rng.integers(-8, 9, shape) / 8).astype(np.float32)}
    if bias:
        values["b"] = (rng.integers(-8, 9, 5) / 8).astype(np.float32)
    return model(GEMM.format(attributes=attributes, reads=", ".join(["x", *values])), values)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_the_same_numbers(rows, bias):
    plain = dense(bias)
    made = with_weights_first(plain, {"w"})
    onnx.checker.check_model(made, full_check=True)
    (product,) = (node for node in made.graph.node if node.op_type in ("Gemm", "MatMul"))
    assert product.input[0] == "w"
    x = np.random.default_rng(1).integers(-4, 5, (rows, 7)).astype(np.float32)
    both = [create_session(each, [CPU], 1).run(None, {"x": x})[0] for each in (plain, made)]
    np.testing.assert_array_equal(*both)
    # Other layers stay as they are, and so do all where there are no such weights.
    assert with_weights_first(plain, {"v"}) == plain
    assert with_weights_first(plain, set()) is plain


@pytest.mark.parametrize(
    ("attributes", "bias", "found"),
    [
        ("transB = 1", (5,), True),
        ("transB = 1", None, True),
        ("transB = 0", (5,), False),
        ("transB = 1, transA = 1", (5,), False),
        ("transB = 1, alpha = 0.5", (5,), False),
        ("transB = 1, beta = 2.0", (5,), False),
        ("transB = 1", (4, 5), False),
    ],
)
def test_only_plain_layers_whose_weights_have_a_row_for_each_output(attributes, bias, found):
    node = dense(bias is not None, attributes).graph.node[0]
    shapes = {"w": (5, 7)} | ({"b": bias} if bias else {})
    assert may_come_first(node, shapes, {"w"}) == found
    assert not may_come_first(node, shapes, set())


def test_a_bias_that_is_no_constant_is_left():
    node = dense().graph.node[0]
    assert not may_come_first(node, {"w": (5, 7)}, {"w"})


def test_where_it_pays():
    for weights, wanted in ((2**20, range(16, 129, 16)), (2**24, range(4, 129))):
        assert [rows for rows in range(1, 200) if first_pays(rows, weights)] == list(wanted)


@pytest.fixture
def small_caches(monkeypatch):
    """Layers are time-batched, and have their weights first, as if they were large."""
    monkeypatch.setattr(chunks, "CACHED", 15)


def snn_of(*bounds):
    """Three layers of neurons with these thresholds."""
    rng = np.random.default_rng(3)
    graph = "net (float[N, 16] x) => (float[N, 10] y) <float low = {{0.0}}, float one = {{{}}}, "
    graph += "float two = {{{}}}, float three = {{{}}}> {{ a = Clip(x, low, one) "
    graph += "b = Gemm<transB = 1>(a, w, k) c = Clip(b, low, two) d = Gemm<transB = 1>(c, v) "
    graph += "e = Clip(d, low, three) y = Gemm<transB = 1>(e, u) }}"
    shapes = {"w": (24, 16), "k": (24,), "v": (40, 24), "u": (10, 40)}
    values = {n: (rng.integers(-8, 9, s) / 8).astype(np.float32) for n, s in shapes.items()}
    return convert(model(graph.format(*bounds), values)).model


@pytest.mark.parametrize("bounds", [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0), (0.75, 2.0, 1.25)])
@pytest.mark.parametrize("samples", [1, 2, 4])
def test_networks_spike_as_one_time_step_at_a_time(small_caches, samples, bounds):
    snn = snn_of(*bounds)
    x = (np.random.default_rng(0).integers(-8, 33, (samples, 16)) / 16).astype(np.float32)
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    for timesteps in (1, 3, 7, 29, 32):
        found, wanted = auto.run(x, timesteps), step.run(x, timesteps)
        np.testing.assert_array_equal(found.output, wanted.output)
        for name, counts in wanted.spike_counts.items():
            np.testing.assert_array_equal(found.spike_counts[name], counts)
    assert auto.chosen(x).forms[32].weights_first == {"w", "v"}
    assert not step.chosen(x).forms[1].weights_first


@pytest.mark.parametrize("bounds", [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0)])
def test_graphs_share_one_copy(small_caches, bounds):
    session = SpikingSession(snn_of(*bounds))
    x = np.ones((1, 16), np.float32)
    session.run(x, 61)
    assert session.chosen(x).chunks == (32, 16, 8, 4)
    assert not session.chosen(x).forms[1].weights_first
    held = {
        key.steps: made.shared_weights
        for key, made in session._progress.time_steps.sessions.items()
    }
    weights = session._progress.time_steps.network.plan.weights
    for name in ("w", "v"):
        (place,) = {held[steps][name].data_ptr() for steps in (32, 16)}
        # Chunks count in thresholds: if these differ, they have other weights than the file.
        assert (place == weights[name].ctypes.data) == (len(set(bounds)) == 1)


def test_weights_of_two_layers_stay(small_caches):
    rng = np.random.default_rng(3)
    graph = "net (float[N, 16] x) => (float[N, 16] y) <float low = {0.0}, float high = {1.0}> {"
    graph += "a = Clip(x, low, high) b = Gemm<transB = 1>(a, w, k) c = Clip(b, low, high)"
    graph += "d = Gemm<transB = 1>(c, w) e = Clip(d, low, high) y = Gemm<transB = 1>(e, u) }"
    shapes = {"w": (16, 16), "k": (16,), "u": (16, 16)}
    values = {n: (rng.integers(-8, 9, s) / 8).astype(np.float32) for n, s in shapes.items()}
    session = SpikingSession(convert(model(graph, values)).model)
    assert session.chosen(np.zeros((1, 16), np.float32)).forms[32].weights_first == set()


def test_estimates_count_it_once(small_caches, monkeypatch):
    snn, x = snn_of(1.0, 1.0, 1.0), np.ones((1, 16), np.float32)
    least = SpikingSession(snn).chosen(x).memory.weights
    monkeypatch.setattr(weights_first, "MOST", 0)
    # Each of two chunks has a copy of its own, where before they shared one.
    assert SpikingSession(snn).chosen(x).memory.weights == least + 4 * (24 * 16 + 40 * 24)
