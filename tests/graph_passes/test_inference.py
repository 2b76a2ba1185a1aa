"""Sizes are those that ONNX Runtime makes, also where ONNX's shape inference says others."""

import numpy as np
import onnx
import onnxruntime
import pytest
from alike import same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx_text import model, run

from onnx2snn import SpikingSession, convert, evaluate, from_arrays
from onnx2snn.graph_passes.inference import inferred

RNG = np.random.default_rng(0)
SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def of_one_node(op, opset, weights, shape, **attributes):
    names = {"Resize": ["x", "", "second"], "ConvTranspose": ["x", "second"]}.get(op, ["x"])
    node = helper.make_node(op, names, ["y"], **attributes)
    held = [] if weights is None else [numpy_helper.from_array(weights, "second")]
    # What follows has another size, too.
    after = helper.make_node("Concat", ["y", "y"], ["z"], axis=2)
    graph = helper.make_graph(
        [node, after],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [onnx.ValueInfoProto(name="z")],
        held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def size_of(proto, name):
    graph = inferred(proto, data_prop=True).graph
    infos = {info.name: info for info in (*graph.output, *graph.value_info)}
    return tuple(d.dim_value for d in infos[name].type.tensor_type.shape.dim)


@SETTINGS
@given(
    op=st.sampled_from(["Resize", "AveragePool", "MaxPool", "LpPool", "ConvTranspose"]),
    size=st.tuples(st.integers(1, 21), st.integers(1, 9)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 2),
    pad=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    ceil=st.integers(0, 1),
    scale=st.one_of(st.floats(0.2, 3), st.integers(2, 30).map(lambda tenths: tenths / 10)),
    opset=st.sampled_from([13, 18, 19]),
)
def test_sizes_are_those_that_run(op, size, kernel, stride, dilation, pad, ceil, scale, opset):
    attributes, weights = {"strides": [stride] * 2, "auto_pad": pad}, None
    if op == "Resize":
        attributes, weights = {"mode": "nearest"}, np.array([1, 1, scale, 1.4], np.float32)
    elif op == "ConvTranspose":
        attributes["output_padding"] = [stride - 1, 0]
        weights = np.ones((3, 1, kernel, kernel), np.float32)
    else:
        attributes["kernel_shape"] = [kernel] * 2
        if op != "LpPool" or opset >= 18:
            attributes["ceil_mode"] = ceil
        if op == "MaxPool" or opset >= 19:
            attributes["dilations"] = [dilation] * 2
    proto = of_one_node(op, opset, weights, (2, 3, *size), **attributes)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        (found,) = session.run(None, {"x": np.zeros((2, 3, *size), np.float32)})
    except Exception:
        # ONNX Runtime takes no such node.
        return
    # Layers of nothing are refused, whatever is said of their size.
    assert not found.size or size_of(proto, "z") == found.shape


def test_open_sizes_stay_open():
    scales = np.array([1, 1, 1.4, 1.4], np.float32)
    proto = of_one_node("Resize", 13, scales, ("N", 3, "H", 10), mode="nearest")
    assert size_of(proto, "y") == (0, 3, 0, 14)


RESIZED = (
    "net (float[N, 2, 10, 10] x) => (float[N, 3] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) "
    'p = Clip(c, zero, one) r = Resize<mode = "nearest">(p, none, scales) d = Conv(r, u) '
    "q = Clip(d, zero, one) g = GlobalAveragePool(q) f = Flatten(g) y = MatMul(f, v) }"
)
POOLED = (
    "net (float[N, 2, 9, 4] x) => (float[N, 3] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) "
    "p = Clip(c, zero, one) r = {pool}(p) d = Conv(r, u) q = Clip(d, zero, one) "
    "g = GlobalAveragePool(q) f = Flatten(g) y = MatMul(f, v) }"
)


def network(text):
    values = {
        "w": RNG.integers(-8, 9, (4, 2, 3, 3)) / 16, "u": RNG.integers(-8, 9, (5, 4, 1, 1)) / 16,
        "v": RNG.integers(-8, 9, (5, 3)) / 16, "zero": 0, "one": 1, "none": np.zeros(0),
        "scales": [1, 1, 1.4, 0.7],
    }  # fmt: skip
    return model(text, {name: np.asarray(value, np.float32) for name, value in values.items()})


@pytest.mark.parametrize(
    "text",
    [
        RESIZED,
        POOLED.replace("{pool}", 'MaxPool<auto_pad = "VALID", ceil_mode = 1, '
                       "kernel_shape = [2, 1], strides = [3, 2]>"),
        POOLED.replace("{pool}", "AveragePool<ceil_mode = 1, count_include_pad = 1, "
                       "kernel_shape = [2, 1], strides = [2, 3]>"),
        POOLED.replace("{pool}", "AveragePool<kernel_shape = [4, 5], strides = [2, 2]>"),
    ],
)  # fmt: skip
def test_spiking_networks_have_these_sizes(text):
    ann = network(text)
    x = RNG.integers(0, 9, (12, 2, *((10, 10) if "10, 10" in text else (9, 4)))) / 8
    data = from_arrays(x.astype(np.float32), RNG.integers(0, 3, 12))
    snn = convert(ann, maxpool="exact").model
    step = SpikingSession(snn, threads=1, plan="step").run(x.astype(np.float32), 21)
    for options in ({}, {"max_memory": 2**30}):
        same(SpikingSession(snn, threads=1, **options).run(x.astype(np.float32), 21), step)
    long = SpikingSession(snn, threads=1, precision="int8").run(x.astype(np.float32), 1024)
    np.testing.assert_allclose(long.output, run(ann, x.astype(np.float32)), atol=0.02)
    best = convert(ann, calibration=data, recipe="best", timesteps=8).model
    assert evaluate(best, data, [8], ann=ann)["snn"][0]["sops"] > 0
