"""Layers in 8 bits: exact on networks whose weights fit, and close on trained ones."""

import re

import dyadic
import numpy as np
import onnx
import pytest
from alike import run_alike, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import KINDS, Kind, Network
from onnx_text import model

from onnx2snn import SpikingSession, convert
from onnx2snn.demo import demo_images
from onnx2snn.graph_passes import read_model, to_model
from onnx2snn.graph_passes.errors import DataError, ModelError, ProviderError
from onnx2snn.graph_passes.graph.neurons import DOMAIN
from onnx2snn.graph_passes.model_files.files import read_any
from onnx2snn.models import shipped
from onnx2snn.runtime.choices import chunks
from onnx2snn.runtime.layers import int8, whole_numbers
from onnx2snn.runtime.plans.plan import build_plan
from onnx2snn.runtime.providers import CPU, CUDA

SETTINGS = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def everywhere(monkeypatch):
    """Layers in 8 bits however small they are."""
    monkeypatch.setattr(int8, "WORTH", np.inf)


def both(snn, plan="auto"):
    """The plain session, and one in 8 bits."""
    exact = SpikingSession(snn, threads=1, plan="step")
    return exact, SpikingSession(snn, threads=1, plan=plan, precision="int8")


def trained(name):
    return read_model(shipped(f"{name}.onnx"))


def in_int8(session):
    return {row.layer for row in session.precisions if row.precision == "int8"}


@SETTINGS
@given(
    seed=st.integers(0, 10**6),
    runs=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=3),
    maxpool=st.sampled_from(["average", "exact", "keep"]),
    plan=st.sampled_from(["auto", "step"]),
    cached=st.sampled_from([0, chunks.CACHED]),
)
def test_eight_bits_lose_nothing_where_weights_fit(
    everywhere, monkeypatch, seed, runs, maxpool, plan, cached
):
    """Weights are multiples of a power of two, as are thresholds: every plan, any T, any N."""
    monkeypatch.setattr(chunks, "CACHED", cached)
    network = dyadic.finish(seed)
    exact, rounded = both(convert(dyadic.to_onnx(network), maxpool=maxpool).model, plan)
    run_alike(rounded, exact, network, runs)


@pytest.mark.parametrize("seed", range(4))
def test_states_are_handed_on(everywhere, seed):
    network = dyadic.finish(seed)
    x = dyadic.images(network, 3)
    exact, rounded = both(convert(dyadic.to_onnx(network)).model)
    assert in_int8(rounded)
    exact.run(x, 11)
    rounded.run(x, 11)
    for giver, taker in ((exact, rounded), (rounded, exact)):
        taker.state = giver.state
        for _ in range(3):
            np.testing.assert_array_equal(taker.step(x), giver.step(x))


@pytest.mark.parametrize("op", KINDS)
@pytest.mark.parametrize("negative", [-1.0, 0.0])
def test_neurons_of_every_kind(everywhere, op, negative):
    """Spikes of both signs, several at once, and pools that take some back."""
    network = Network(3)
    snn = to_model(network.graph(Kind(op, negative)))
    exact, rounded = both(snn)
    assert len(in_int8(rounded)) == 1
    x = network.images(20)
    same(rounded.run(x, 22, [5]), exact.run(x, 22, [5]))


def test_time_steps_of_a_convolution_of_single_places(everywhere, monkeypatch):
    """In float32 they are one higher image; products in 8 bits take images of one size."""
    monkeypatch.setattr(chunks, "CACHED", 0)
    rng = np.random.default_rng(0)
    text = (
        "net (float[N, 64, 3, 3] x) => (float[N, 8, 3, 3] y) { "
        "p = Clip(x, zero, one) d = Conv(p, w) y = Clip(d, zero, one) }"
    )
    w = (rng.integers(-4, 5, (8, 64, 1, 1)) / 8).astype(np.float32)
    exact, rounded = both(
        convert(model(text, {"zero": np.float32(0), "one": np.float32(1), "w": w})).model
    )
    x = (rng.integers(-8, 9, (2, 64, 3, 3)) / 8).astype(np.float32)
    same(rounded.run(x, 21, [5]), exact.run(x, 21, [5]))
    assert set(rounded.chosen(x).time_batched.values()) == {0}
    assert len(in_int8(rounded)) == 1


CONV = (
    "net (float[N, 2, 9, 7] x) => (float[N, a, b, c] y) {{ "
    "p = Clip(x, zero, one) d = Conv<{attributes}>(p, w, bias) e = Relu(d) q = Min(e, two) "
    "f = Conv(q, last) y = Clip(f, zero, one) }}"
)


@pytest.mark.parametrize(
    "attributes",
    [
        "strides = [1, 1]",
        "strides = [2, 1]",
        "pads = [1, 0, 2, 3]",
        "dilations = [2, 3], pads = [2, 3, 2, 3]",
        "strides = [3, 2], pads = [1, 1, 0, 2], dilations = [1, 2]",
    ],
)
def test_windows_of_every_shape(everywhere, attributes):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-127, 128, (4, 2, 3, 2)) / 64, "bias": rng.integers(-8, 9, 4) / 8,
        "zero": 0, "one": 1, "two": np.reshape([0.5, 1, 2, 4], (4, 1, 1)),
        "last": rng.integers(-8, 9, (3, 4, 1, 1)) / 16,
    }  # fmt: skip
    floats = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    exact, rounded = both(convert(model(CONV.format(attributes=attributes), floats)).model)
    assert len(in_int8(rounded)) == 2
    x = (rng.integers(0, 9, (3, 2, 9, 7)) / 8).astype(np.float32)
    same(rounded.run(x, 19), exact.run(x, 19))


@pytest.mark.parametrize("threshold", [0.3, 0.5, [0.25, 0.3, 0.5]])
def test_weights_that_fit_stay_what_they_are(everywhere, threshold):
    """Where what a layer reads has one unit."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-100, 101, (4, 3)) / 64, "v": rng.integers(-100, 101, (3, 5)) / 64,
               "u": rng.integers(-100, 101, (5, 2)) / 64, "bound": threshold, "zero": 0,
               "one": 1}  # fmt: skip
    text = (
        "net (float[N, 4] x) => (float[N, 2] y) { a = MatMul(x, w) r = Relu(a) q = Min(r, bound) "
        "d = MatMul(q, v) c = Clip(d, zero, one) y = MatMul(c, u) }"
    )
    floats = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    made = int8.quantise(build_plan(read_any(convert(model(text, floats)).model)), [CPU])
    (name,) = made.layers
    found, wanted = made.plan.weights[name], floats["v"]
    assert np.allclose(found, wanted, rtol=1e-6, atol=0) == np.isscalar(threshold)


IMAGES = (
    "net (float[N, 2, {height}, {width}] x) => (float[N, 3, a, b] y) {{ p = Clip(x, zero, one) "
    "d = Conv<{attributes}>(p, w) q = Clip(d, zero, one) y = Conv(q, last) }}"
)


@pytest.mark.parametrize(
    ("image", "kernel", "strides", "pad"),
    [
        # These read the first pixels of the image in their order, and not the last.
        ((2, 1), (3, 3), (2, 2), 1),
        ((1, 30), (1, 4), (1, 4), 0),
        ((8, 3), (3, 3), (3, 3), 0),
        ((1, 8), (1, 4), (1, 8), 0),
        ((4, 2), (2, 2), (4, 2), 0),
        # These all of them.
        ((9, 3), (3, 3), (3, 3), 0),
        ((5, 4), (1, 1), (1, 1), 0),
    ],
)
@pytest.mark.parametrize("plan", ["auto", "step"])
def test_windows_of_the_first_pixels(everywhere, image, kernel, strides, pad, plan):
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-8, 9, (4, 2, *kernel)) / 16, "zero": 0, "one": 1,
               "last": rng.integers(-8, 9, (3, 4, 1, 1)) / 16}  # fmt: skip
    floats = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    attributes = f"strides = {list(strides)}, pads = {[pad] * 4}"
    text = IMAGES.format(height=image[0], width=image[1], attributes=attributes)
    exact, rounded = both(convert(model(text, floats)).model, plan)
    assert in_int8(rounded) == {"d"}
    for samples in (1, 4):
        x = (rng.integers(0, 9, (samples, 2, *image)) / 8).astype(np.float32)
        same(rounded.run(x, 19), exact.run(x, 19))


DENSE = (
    "net (float[N, 3, 4] x) => (float[N, 3, 5] y) { "
    "p = Clip(x, zero, one) d = MatMul(p, w1) q = Clip(d, zero, two) "
    "m = MatMul(q, w2) a = Add(m, bias) y = Clip(a, zero, one) }"
)


def test_products_of_more_axes(everywhere):
    rng = np.random.default_rng(0)
    weights = {
        "zero": 0, "one": 1, "two": 2, "bias": rng.integers(-8, 9, 5) / 8,
        "w1": rng.integers(-8, 9, (4, 6)) / 8, "w2": rng.integers(-8, 9, (6, 5)) / 8,
    }  # fmt: skip
    floats = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    exact, rounded = both(convert(model(DENSE, floats)).model)
    assert len(in_int8(rounded)) == 2
    x = (rng.integers(0, 9, (2, 3, 4)) / 8).astype(np.float32)
    same(rounded.run(x, 19), exact.run(x, 19))


def test_neurons_of_one_number_a_sample(everywhere):
    shapes = {"w": (3, 1), "u": (1, 2), "v": (2, 2)}
    weights = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    weights |= {"axis": np.int64([1]), "low": np.float32(0), "high": np.float32(1)}
    text = (
        "net (float[N, 3] x) => (float[N, 2] y) { a = Gemm(x, w) b = Squeeze(a, axis) "
        "r = Clip(b, low, high) c = Unsqueeze(r, axis) d = Gemm(c, u) q = Clip(d, low, high) "
        "y = Gemm(q, v) }"
    )
    exact, rounded = both(convert(model(text, weights)).model)
    x = np.float32([[0.5, 0.25, 0.125], [1, 0, 0]])
    same(rounded.run(x, 7), exact.run(x, 7))
    assert [row.precision for row in rounded.precisions] == ["int8"]


@pytest.mark.parametrize("across", [False, True])
def test_weights_are_rounded_in_parts(across, monkeypatch):
    matrix = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    matrix = matrix.T if across else matrix
    whole = int8.rounded(matrix, 0.3)
    monkeypatch.setattr(int8, "ROUNDED_AT_ONCE", 30)
    for part, wanted in zip(int8.rounded(matrix, 0.3), whole, strict=True):
        np.testing.assert_array_equal(part, wanted)


def test_weights_are_rounded_to_the_nearest_code():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(40, 6)).astype(np.float32)
    matrix[:, 1] = rng.integers(-100, 101, 40) / 1024
    matrix[:, 2] = 0
    matrix[:, 3] = np.float32(0.3) * (rng.integers(-100, 101, 40) / 1024).astype(np.float32)
    codes, scale = int8.rounded(matrix, 0.3)
    assert (codes.dtype, scale.dtype) == (np.int8, np.float32)
    assert np.all(np.abs(codes * scale - matrix) <= 0.5001 * scale)
    assert np.abs(codes.astype(int)).max() <= 127
    np.testing.assert_array_equal((codes * scale)[:, 1:3], matrix[:, 1:3])
    # What neurons with a threshold of 0.3 emit was taken in.
    np.testing.assert_allclose((codes * scale)[:, 3], matrix[:, 3], rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("least", [0, 1e-45, 1e-40])
def test_weights_too_small_for_a_scale_are_nothing(least):
    matrix = np.float32([[1, least], [0.5, -least]])
    codes, scale = int8.rounded(matrix, 0.3)
    np.testing.assert_array_equal(codes[:, 1], 0)
    np.testing.assert_array_equal(codes[:, 0] * scale[0], matrix[:, 0])
    assert scale.min() > 0


POOLED = (
    "net (float[N, 4, H, W] x) => (float[N, 3] y) { "
    "p = Clip(x, zero, one) a = {pool}(p) f = Conv(a, w) q = Clip(f, zero, one) "
    "g = GlobalAveragePool(q) h = Flatten(g) y = Gemm(h, last) }"
)


def pooled(pool, size):
    rng = np.random.default_rng(0)
    weights = {"zero": 0, "one": 1, "w": rng.integers(-8, 9, (5, 4, 1, 1)) / 16,
               "last": rng.integers(-8, 9, (5, 3)) / 16}  # fmt: skip
    floats = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    text = POOLED.replace("H, W", size).replace("{pool}", pool)
    return convert(model(text, floats)).model


@pytest.mark.parametrize(
    ("pool", "size", "reason"),
    [
        ("AveragePool<kernel_shape = [2, 2]>", "6, 6", None),
        # Means of 1, 2 and 4 pixels are all quarters.
        ("AveragePool<kernel_shape = [2, 2], pads = [1, 1, 1, 1]>", "6, 6", None),
        ("AveragePool<kernel_shape = [2, 2], pads = [1, 1, 0, 0], count_include_pad = 1>",
         "6, 6", None),
        ("AveragePool<kernel_shape = [4, 4]>", "8, 8", None),
        ("AveragePool<kernel_shape = [16, 8]>", "16, 16", None),
        ("GlobalAveragePool", "16, 16", "whole numbers from 0 to 256"),
        ("AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>", "6, 6",
         "no spikes"),
        ("AveragePool<kernel_shape = [7, 7], strides = [2, 2]>", "6, 6", "no spikes"),
        ("AveragePool<kernel_shape = [7, 7], strides = [2, 2], pads = [0, 0, 0, 0]>", "6, 6",
         "no spikes"),
        ("Identity", "height, width", "fixed size"),
    ],
)  # fmt: skip
def test_what_a_layer_reads_decides(everywhere, pool, size, reason):
    exact, rounded = both(pooled(pool, size))
    (row,) = (row for row in rounded.precisions)
    assert (row.precision == "int8") == (reason is None)
    assert reason is None or reason in row.reason
    shape = [3, 4, *(5 if side.isalpha() else int(side) for side in size.split(", "))]
    x = (np.random.default_rng(1).integers(0, 9, shape) / 8).astype(np.float32)
    same(rounded.run(x, 22, [5]), exact.run(x, 22, [5]))


def test_a_threshold_for_each_place_stays_in_float32(everywhere):
    snn = pooled("Identity", "6, 6")
    first = next(node for node in snn.graph.node if node.domain == DOMAIN)
    threshold = next(a for a in first.attribute if a.name == "v_threshold")
    threshold.t.CopyFrom(onnx.numpy_helper.from_array(np.ones((4, 6, 6), np.float32)))
    (row,) = SpikingSession(snn, precision="int8").precisions
    assert row.precision == "float32"


@pytest.mark.parametrize("places", [6, 8])
def test_thresholds_along_the_last_axis_stay_in_float32(everywhere, places):
    text = (
        "net (float[N, 6, 4] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) "
        "b = Min(r, bounds) f = Flatten(b) g = Gemm(f, v) c = Clip(g, zero, one) y = Gemm(c, u) }"
    )
    rng = np.random.default_rng(0)
    weights = {
        "zero": 0, "one": 1, "bounds": np.resize([0.25, 0.5, 1, 2], places),
        "w": rng.integers(-8, 9, (4, places)) / 8, "v": rng.integers(-8, 9, (6 * places, 5)) / 16,
        "u": rng.integers(-8, 9, (5, 3)) / 8,
    }  # fmt: skip
    floats = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    exact, rounded = both(convert(model(text, floats)).model)
    (row,) = rounded.precisions
    assert row.precision == "float32"
    x = (rng.integers(-8, 9, (3, 6, 4)) / 8).astype(np.float32)
    same(rounded.run(x, 16, [3]), exact.run(x, 16, [3]))


@pytest.mark.parametrize(
    ("shape", "precision"),
    [((8,), "int8"), ((1, 8), "int8"), ((8, 1), "float32"), ((8, 8), "float32")],
)
def test_a_bias_of_a_sample_stays_in_float32(everywhere, shape, precision):
    text = (
        "net (float[8, 4] x) => (float[8, 3] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
        "g = Gemm(b, v, bias) c = Clip(g, zero, one) y = Gemm(c, u) }"
    )
    rng = np.random.default_rng(0)
    weights = {
        "zero": 0, "one": 1, "w": rng.integers(-8, 9, (4, 6)) / 8,
        "v": rng.integers(-8, 9, (6, 8)) / 16, "bias": rng.integers(-8, 9, shape) / 16,
        "u": rng.integers(-8, 9, (8, 3)) / 8,
    }  # fmt: skip
    floats = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    exact, rounded = both(convert(model(text, floats)).model)
    (row,) = rounded.precisions
    assert row.precision == precision
    x = (rng.integers(-8, 9, (8, 4)) / 8).astype(np.float32)
    same(rounded.run(x, 16, [3]), exact.run(x, 16, [3]))


@pytest.fixture(scope="module")
def vgg():
    data = demo_images(128)
    return convert(trained("vgg-fashion-mnist"), calibration=data).model, data


def test_only_layers_that_gain_are_rounded(vgg):
    session = SpikingSession(vgg[0], precision="int8")
    assert 0 < len(in_int8(session)) < len(session.precisions)
    for row in session.precisions:
        share = float(re.search("about (.*) of", row.reason)[1])
        assert (row.precision == "int8") == (share <= int8.WORTH)
    assert SpikingSession(vgg[0]).precisions == ()


@pytest.mark.parametrize(("group", "precision"), [(1, "int8"), (160, "float32")])
def test_convolutions_of_1_x_1_between_others_in_float32_stay(group, precision):
    """Depthwise ones cannot be in 8 bits: to leave the layout for one of 1 x 1 takes longer."""
    text = "net (float[N, 160, 6, 6] x) => (float[N, 320, 6, 6] y) { a = Clip(x, zero, one) "
    text += f"c = Conv<group = {group}, pads = [1, 1, 1, 1]>(a, k) b = Clip(c, zero, one) "
    text += "d = Conv(b, w) e = Clip(d, zero, one) y = Conv(e, v) }"
    values = {"zero": np.float32(0), "one": np.float32(1)}
    shapes = {"k": (160, 160 // group, 3, 3), "w": (320, 160, 1, 1), "v": (320, 320, 1, 1)}
    values |= {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    session = SpikingSession(convert(model(text, values)).model, precision="int8")
    assert {row.layer: row.precision for row in session.precisions}["d"] == precision


def test_a_trained_network_stays_what_it_is(vgg):
    exact, rounded = both(vgg[0])
    x, _ = next(vgg[1].batches(100))
    wanted, found = exact.run(x, 16), rounded.run(x, 16)
    assert (found.output.argmax(1) == wanted.output.argmax(1)).mean() >= 0.9
    for name, rate in wanted.firing_rates.items():
        assert found.firing_rates[name] == pytest.approx(rate, rel=0.05)


def test_where_int8_is_no_option():
    network = Network(3, "float16")
    with pytest.raises(ModelError, match=r"takes the place of float32, but IF 's' computes in"):
        SpikingSession(to_model(network.graph(Kind("IF"))), precision="int8")
    plan = build_plan(convert(dyadic.to_onnx(dyadic.finish(0))).model)
    with pytest.raises(ProviderError, match="runs on the CPU only, not on CUDA"):
        int8.quantise(plan, [(CUDA, {})])
    with pytest.raises(DataError, match="precision must be one of"):
        SpikingSession(convert(dyadic.to_onnx(dyadic.finish(0))).model, precision="int4")


@pytest.mark.parametrize("factor", ["alpha", "beta"])
def test_a_product_with_a_factor_is_what_it_is_in_float32(factor):
    """In a file that ``convert``, which takes it into the weights, did not write."""
    rng = np.random.default_rng(0)
    text = (
        "net (float[N, 256] x) => (float[N, 256] y) { s = Clip(x, zero, one) "
        "g = Gemm(s, w, b) t = Clip(g, zero, one) y = Neg(t) }"
    )
    weights = {"w": rng.integers(-8, 9, (256, 256)) / 256, "b": rng.integers(-8, 9, 256) / 8}
    weights |= {"zero": 0, "one": 1}
    snn = convert(model(text, {name: np.float32(value) for name, value in weights.items()})).model
    (gemm,) = (node for node in snn.graph.node if node.op_type == "Gemm")
    gemm.attribute.append(onnx.helper.make_attribute(factor, 2.0))
    x = rng.random((3, 256)).astype(np.float32)
    found, wanted = (
        SpikingSession(snn, precision=precision).run(x, 8).output
        for precision in ("int8", "float32")
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, 6),
        ({"pads": [1, 0, 0, 0]}, 12),
        ({"pads": [0, 0, 1, 0]}, 12),
        ({"pads": [1, 0, 0, 0], "count_include_pad": 1}, 6),
        ({"ceil_mode": 1}, None),
        ({"dilations": [1, 2]}, None),
        ({"auto_pad": "SAME_UPPER"}, None),
    ],
)
def test_of_how_many_pixels_the_means_of_a_pool_are(given, wanted):
    """Windows of 3 x 2 in steps of 2 and 1; at a pad that does not count they have 2 x 2."""
    given = {"kernel_shape": [3, 2], "strides": [2, 1], **given}
    node = onnx.helper.make_node("AveragePool", ["x"], ["y"], **given)
    assert whole_numbers._common_multiple(node, (4, 4)) == wanted
