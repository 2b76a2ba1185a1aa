"""Layers in 16 bits: exact on networks whose numbers fit."""

import dyadic
import numpy as np
import onnx
import pytest
from alike import run_alike
from gpu import needs_cuda
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import Kind, Network
from onnx_text import model

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.graph_passes import to_model
from onnx2snn.graph_passes.errors import ModelError, ProviderError
from onnx2snn.runtime.layers import half
from onnx2snn.runtime.layers.half import halve, with_half_products
from onnx2snn.runtime.plans.plan import build_plan, with_weights
from onnx2snn.runtime.providers import CPU, CUDA

SETTINGS = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def anywhere(monkeypatch):
    """ONNX Runtime's CPU rounds to 16 bits as well, if slowly."""
    monkeypatch.setattr(half, "ON_GPU", {CPU, CUDA})


@SETTINGS
@given(
    seed=st.integers(0, 10**6),
    runs=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 24)), min_size=1, max_size=2),
    plan=st.sampled_from(["auto", "step"]),
)
def test_sixteen_bits_lose_nothing_where_numbers_fit(anywhere, seed, runs, plan):
    network = dyadic.finish(seed)
    snn = convert(dyadic.to_onnx(network)).model
    exact = SpikingSession(snn, threads=1, plan="step")
    halved = SpikingSession(snn, threads=1, plan=plan, precision="float16")
    # None, where the only layers read the input or make the read-out.
    assert {row.precision for row in halved.precisions} <= {"float16"}
    run_alike(halved, exact, network, runs)


def test_layers_alone_are_in_sixteen_bits():
    plan = with_weights(build_plan(convert(dyadic.to_onnx(dyadic.finish(3))).model))
    halved = halve(plan, [(CUDA, {})])
    step = with_half_products(plan.step, halved.half)
    onnx.checker.check_model(step, full_check=True)
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in onnx.shape_inference.infer_shapes(step).graph.value_info
    }
    half_type = onnx.TensorProto.FLOAT16
    layers = [node for node in step.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    casts = [node for node in step.graph.node if node.op_type == "Cast"]
    halves = {name for name, found in types.items() if found == half_type}
    made = {name for node in layers for name in node.output}
    assert halves == made | {node.output[0] for node in casts if node.attribute[0].i == half_type}
    assert len(halved.precisions) == len(layers) > 1
    assert with_half_products(plan.step, ()) is plan.step


def test_rounding_is_that_of_sixteen_bits(anywhere):
    """1 + 2^-11 becomes 1, so the neuron fires no earlier than it would with 1."""
    builder = dyadic.Builder(0)
    x = builder.clip(builder.conv("input", 2, 2), 2)
    x = builder.add("flatten", [builder.clip(builder.conv(x, 2, 2), 2)])
    builder.add("gemm", [x], w=builder.eighths(3, 32), b=builder.eighths(3))
    network = dyadic.Network(builder.layers, (2, 4, 4))
    convolutions = [layer.values for layer in network.layers if layer.op == "conv"]
    x = dyadic.images(network, 2)
    exact = SpikingSession(convert(dyadic.to_onnx(network)).model, plan="step").run(x, 12)
    convolutions[1]["w"] = convolutions[1]["w"] * (1 + 2.0**-12)
    rounded = SpikingSession(convert(dyadic.to_onnx(network)).model, precision="float16")
    np.testing.assert_array_equal(rounded.run(x, 12).output, exact.output)


def test_where_float16_is_no_option():
    network = dyadic.finish(0)
    snn = convert(dyadic.to_onnx(network)).model
    with pytest.raises(ProviderError, match="'float16' is for GPUs, CPUExecutionProvider would"):
        SpikingSession(snn, precision="float16")
    already = build_plan(to_model(Network(3, "float16").graph(Kind("IF"))))
    with pytest.raises(ModelError, match="takes the place of float32"):
        halve(already, [CUDA])


@pytest.mark.parametrize("what", ["weights", "bias", "sums", "threshold"])
def test_layers_whose_numbers_float16_cannot_hold_stay_in_float32(anywhere, what):
    builder = dyadic.Builder(0)
    x = builder.clip(builder.conv("input", 2, 2), 2)
    x = builder.clip(builder.conv(x, 2, 2), 2)
    x = builder.clip(builder.conv(x, 2, 2), 2)
    x = builder.add("flatten", [x])
    builder.add("gemm", [x], w=builder.eighths(3, 32), b=builder.eighths(3))
    network = dyadic.Network(builder.layers, (2, 4, 4))
    large, second = 2.0**18, [layer.values for layer in network.layers if layer.op == "conv"][1]
    for layer in network.clips:
        layer.values["theta"] = np.array(large if what == "threshold" else 2.0)
    if what == "bias":
        second["b"] = np.array([large, -large], np.float32)
    elif what in ("weights", "sums"):
        second["w"] = second["w"] * (large if what == "weights" else 2.0**15)
    snn = convert(dyadic.to_onnx(network)).model
    halved = SpikingSession(snn, precision="float16")
    first, last = halved.precisions
    assert (first.precision, first.reason) == ("float32", "its numbers may be beyond 65504")
    assert last.precision == ("float32" if what == "threshold" else "float16")
    run_alike(halved, SpikingSession(snn, plan="step"), network, [(2, 9)])


@pytest.mark.parametrize(
    ("most", "weight", "bias", "kept"),
    [
        (1, 65504, 0, False), (1, 65536, 0, True), (1, 1, 65504, True),
        (2**-9, 65536, 0, True), (65536, 2**-9, 0, True),
    ],
)  # fmt: skip
def test_the_largest_number_of_float16_is_one(most, weight, bias, kept):
    """Of what a layer reads, has and makes, with its bias."""
    values = {"w": np.float32([[weight]]), "b": np.float32([bias]), "zero": np.float32(0)}
    values["most"] = np.float32(most)
    text = "net (float[N, 1] x) => (float[N, 1] y) { a = Clip(x, zero, most) c = Gemm(a, w, b) "
    snn = convert(model(text + "y = Clip(c, zero, one) }", values | {"one": np.float32(1)})).model
    (row,) = halve(build_plan(snn), [CUDA]).precisions
    assert row.precision == ("float32" if kept else "float16")


def test_a_layer_in_float16_stays_as_it_is():
    text = (
        "net (float[N, 2] x) => (float[N, 2] y) { a = Clip(x, zero, one) b = Cast<to = 10>(a) "
        "c = MatMul(b, v) d = Cast<to = 1>(c) e = Clip(d, zero, one) f = MatMul(e, w) "
        "y = Clip(f, zero, one) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(2, dtype=np.float32)}
    snn = convert(model(text, values | {"v": np.eye(2, dtype=np.float16)})).model
    halved = halve(build_plan(snn), [CUDA])
    assert [row.reason for row in halved.precisions] == ["as the file says", "on a GPU"]
    assert halved.half == {"w"}


def test_what_is_made_of_sizes_is_not_known():
    text = (
        "net (float[N, 2] x) => (float[N, 2] y) { a = Clip(x, zero, one) s = Shape(a) "
        "k = Expand(many, s) b = MatMul(k, w) c = Add(a, b) y = Clip(c, zero, one) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(2, dtype=np.float32)}
    snn = convert(model(text, values | {"many": np.float32([1e5])})).model
    (row,) = halve(build_plan(snn), [CUDA]).precisions
    assert row.precision == "float32"


def test_what_comes_at_each_time_step_may_be_of_any_size():
    text = (
        "net (float[N, 2] x, float[N, 2] z) => (float[N, 2] y) { a = Clip(x, zero, one) "
        "s = Add(a, z) c = MatMul(s, w) y = Clip(c, zero, one) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(2, dtype=np.float32)}
    (row,) = halve(build_plan(convert(model(text, values)).model), [CUDA]).precisions
    assert row.precision == "float32"


def test_a_bias_that_is_made_of_sizes_is_not_known():
    ann = model(
        "g (float[N, 4] x) => (float[N, 3] y) { a = Relu(x) s = Shape<end = 1>(x) "
        "k = Cast<to = 1>(s) b = Unsqueeze(k, last) c = Gemm(a, w, b) y = Relu(c) }",
        {"w": np.eye(4, 3, dtype=np.float32), "last": np.int64([1])},
    )
    snn = convert(ann, calibration=from_arrays(np.ones((8, 4), np.float32)), recipe="opi").model
    (row,) = halve(build_plan(snn), [CUDA]).precisions
    assert row.precision == "float32"


def test_weights_of_several_layers_are_in_float16_in_none_or_in_all(anywhere):
    text = (
        "net (float[N, 2] x) => (float[N, 2] y) { a = Clip(x, zero, one) b = MatMul(a, w) "
        "c = Clip(b, zero, most) d = MatMul(c, w) y = Clip(d, zero, one) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1), "most": np.float32(5000)}
    snn = convert(model(text, values | {"w": np.full((2, 2), 20, np.float32)})).model
    halved = halve(build_plan(snn), [CUDA])
    assert [row.precision for row in halved.precisions] == ["float32", "float32"]
    assert halved.half == set()


@pytest.mark.gpu
@needs_cuda
def test_sixteen_bits_on_a_gpu():
    network = dyadic.finish(5)
    snn = convert(dyadic.to_onnx(network)).model
    halved = SpikingSession(snn, "cuda", precision="float16")
    run_alike(halved, SpikingSession(snn, plan="step"), network, [(3, 22)])
