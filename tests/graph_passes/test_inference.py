"""Sizes are those that ONNX Runtime makes, also where ONNX's shape inference says others."""

import sys

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
from onnx2snn.graph_passes.model_files import inference
from onnx2snn.graph_passes.model_files.inference import inferred

RNG = np.random.default_rng(0)
SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def of_one_node(op, opset, shape, second=None, inputs=None, **attributes):
    names = inputs or {"Resize": ["x", "", "second"], "ConvTranspose": ["x", "second"]}.get(op)
    node = helper.make_node(op, names or ["x"], ["y"], **attributes)
    held = {"second": second, "none": np.zeros(0, np.float32)}
    # What follows has another size, too.
    after = helper.make_node("Concat", ["y", "y"], ["z"], axis=2)
    graph = helper.make_graph(
        [node, after],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [onnx.ValueInfoProto(name="z")],
        [numpy_helper.from_array(v, name) for name, v in held.items() if v is not None],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def that_runs(proto, shape):
    """The shape of what ONNX Runtime makes; None where it takes no such network."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        return session.run(None, {"x": np.zeros(shape, np.float32)})[0].shape
    except Exception:
        return None


def size_of(proto, name, infer=inferred):
    graph = infer(proto, data_prop=True).graph
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
    attributes, second = {"strides": [stride] * 2, "auto_pad": pad}, None
    if op == "Resize":
        attributes, second = {"mode": "nearest"}, np.array([1, 1, scale, 1.4], np.float32)
    elif op == "ConvTranspose":
        attributes["output_padding"] = [stride - 1, 0]
        second = np.ones((3, 1, kernel, kernel), np.float32)
    else:
        attributes["kernel_shape"] = [kernel] * 2
        if op != "LpPool" or opset >= 18:
            attributes["ceil_mode"] = ceil
        if op == "MaxPool" or opset >= 19:
            attributes["dilations"] = [dilation] * 2
    proto = of_one_node(op, opset, (2, 3, *size), second, **attributes)
    found = that_runs(proto, (2, 3, *size))
    # Layers of nothing are refused, whatever is said of their size.
    assert found is None or 0 in found or size_of(proto, "z") == found


def floats(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("op", "opset", "shape", "second", "more"),
    [
        ("Resize", 13, (1, 2, 10, 10), floats(1, 1, 1.4, 0.7), {}),
        ("Resize", 11, (1, 2, 10, 10), floats(1, 1, 1.4, 0.7), {"inputs": ["x", "roi", "second"]}),
        ("Resize", 17, (1, 2, 10, 10), floats(1, 1, 1.4, 0.7), {"inputs": ["x", "", "second", ""]}),
        ("Resize", 18, (1, 2, 10, 10), floats(1.4), {"axes": [3]}),
        ("Resize", 13, (1, 10, 10, 2), floats(1, 1.4, 1.4, 1), {}),
        ("Resize", 13, (10, 10, 2), floats(1.4, 0.7, 1), {}),
        ("ConvTranspose", 13, (1, 6, 5, 4), np.ones((6, 1, 3, 2), np.float32),
         {"auto_pad": "SAME_UPPER", "strides": [3, 2], "output_padding": [2, 1], "group": 3}),
        ("MaxPool", 13, (1, 2, 9, 4), None,
         {"kernel_shape": [2, 1], "strides": [3, 2], "auto_pad": "VALID", "ceil_mode": 1,
          "storage_order": 1}),
        ("AveragePool", 19, (1, 2, 11, 9), None,
         {"kernel_shape": [3, 2], "dilations": [2, 3], "auto_pad": "SAME_LOWER"}),
    ],
)  # fmt: skip
def test_sizes_that_onnx_infers_otherwise(op, opset, shape, second, more):
    proto = of_one_node(op, opset, shape, second, **more)
    if "roi" in more.get("inputs", []):
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(8, np.float32), "roi"))
    found = that_runs(proto, shape)
    assert size_of(proto, "z") == found
    # Where it is an output, too, of which the model says what ONNX infers.
    wrong = size_of(proto, "y", onnx.shape_inference.infer_shapes)
    proto.graph.output.append(helper.make_tensor_value_info("y", 1, wrong))
    assert size_of(proto, "z") == found


def test_sizes_of_what_has_the_name_alone():
    """A function of one's own, called as an operator whose windows would be counted."""
    proto = of_one_node(
        "MaxPool", 17, (1, 2, 10, 10), kernel_shape=[1, 1], strides=[3, 3], ceil_mode=1
    )
    proto.graph.node[0].domain = "own"
    proto.opset_import.append(helper.make_opsetid("own", 1))
    body = [helper.make_node("Relu", ["a"], ["b"])]
    proto.functions.append(
        helper.make_function(
            "own", "MaxPool", ["a"], ["b"], body, [helper.make_opsetid("", 17)],
            ["kernel_shape", "strides", "ceil_mode"],
        )
    )  # fmt: skip
    assert size_of(proto, "y") == (1, 2, 10, 10)


def test_several_in_a_row_and_a_damaged_constant():
    scales = floats(1, 1, 1.4, 1.4)
    proto = of_one_node("Resize", 13, (1, 2, 10, 10), scales)
    proto.graph.node.insert(1, helper.make_node("Resize", ["y", "", "second"], ["u"]))
    proto.graph.node[2].input[:] = ["u", "u"]
    # Names that corrections could have.
    proto.graph.node.append(helper.make_node("Identity", ["z"], ["by onnx/y"]))
    assert size_of(proto, "y") == (1, 2, 14, 14)
    assert size_of(proto, "z")[2:] == that_runs(proto, (1, 2, 10, 10))[2:]
    proto.graph.node.append(helper.make_node("Constant", [], ["damaged"]))
    assert size_of(proto, "y") == (1, 2, 14, 14)


@pytest.mark.parametrize(
    ("op", "more"),
    [
        ("MaxPool", {"kernel_shape": [1, 1], "strides": [2], "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": [1, 1], "pads": [0], "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": 1, "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": [1, 1], "ceil_mode": [1]}),
        ("AveragePool", {"kernel_shape": [2**62, 2**62], "auto_pad": "SAME_LOWER"}),
        ("ConvTranspose", {"auto_pad": "SAME_UPPER", "output_padding": 1}),
        ("ConvTranspose", {"auto_pad": "SAME_UPPER", "output_padding": [1, 1], "inputs": ["x"]}),
        ("Resize", {"axes": 3}),
        ("Resize", {"axes": [7]}),
    ],
)
def test_what_is_damaged_is_as_onnx_infers_it(op, more):
    second = floats(1.4) if "axes" in more else np.ones((2, 1, 2, 2), np.float32)
    proto = of_one_node(op, 18, (1, 2, 9, 9), second, **more)
    inferred(proto)
    proto.graph.node[0].attribute.add().name = "of no type"
    inferred(proto)


def test_normalizations_have_the_shape_of_what_they_read():
    """ONNX infers nothing of them, so that nothing behind would be known."""
    text = "net (float[N, 4, 3, 3] x) => (float[N, 4, 2, 2] y) { a = Clip(x, low, high) "
    text += "c = GroupNormalization<num_groups = 2>(a, s, s) m = MeanVarianceNormalization(c) "
    text += "d = Clip(m, low, high) y = Conv(d, w) }"
    values = {"low": np.float32(0), "high": np.float32(1), "s": np.ones(4, np.float32)}
    proto = model(text, values | {"w": np.ones((4, 4, 2, 2), np.float32) / 16}, opset=21)
    assert size_of(proto, "d")[1:] == (4, 3, 3)
    x = RNG.normal(size=(2, 4, 3, 3)).astype(np.float32)
    result = SpikingSession(convert(proto, on_means=True).model).run(x, 2000).output
    np.testing.assert_allclose(result, run(proto, x), atol=0.01)


def test_normalizations_within_a_branch():
    branch = "g_{0} () => (float[N, 4, 3, 3] b_{0}) {{ b_{0} = {1} }}"
    normal = branch.format("then", "GroupNormalization<num_groups = 2>(a, s, s)")
    text = "net (float[N, 4, 3, 3] x, bool which) => (float[N, 4, 3, 3] y) { a = Relu(x) "
    text += (
        f"y = If(which)<then_branch = {normal}, else_branch = {branch.format('else', 'Neg(a)')}>"
    )
    proto = model(text + " }", {"s": np.ones(4, np.float32)}, opset=21)
    (branches,) = (node for node in proto.graph.node if node.op_type == "If")
    inner = [attribute.g.output[0] for attribute in branches.attribute]
    for info in (*proto.graph.output, *inner):
        info.type.tensor_type.ClearField("shape")
    assert size_of(proto, "y")[1:] == (4, 3, 3)


def test_windows_larger_than_what_they_read():
    proto = of_one_node("MaxPool", 18, (1, 1, 4, 9), kernel_shape=[3, 1], dilations=[3, 1])
    second = helper.make_node("MaxPool", ["y"], ["u"], kernel_shape=[2, 1], ceil_mode=1)
    proto.graph.node.insert(1, second)
    inferred(proto)


def test_sizes_behind_what_a_branch_reads():
    scales = floats(1, 1, 1.4, 1.4)
    proto = of_one_node("Resize", 13, (1, 2, 10, 10), scales)
    branches = [
        helper.make_graph(
            [helper.make_node("Relu", ["y"], [name])], name, [], [onnx.ValueInfoProto(name=name)]
        )
        for name in ("yes", "no")
    ]
    chosen = helper.make_node("If", ["c"], ["w"], then_branch=branches[0], else_branch=branches[1])
    window = {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}
    pool = helper.make_node("MaxPool", ["w"], ["u"], **window)
    proto.graph.node.insert(1, chosen)
    proto.graph.node.insert(2, pool)
    proto.graph.node[3].input[:] = ["u", "u"]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    assert size_of(proto, "z") == that_runs(proto, (1, 2, 10, 10))


def test_without_onnx_runtime(monkeypatch):
    """Passes need none: sizes are then as ONNX infers them."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    inference._length.cache_clear()
    pooled = of_one_node(
        "MaxPool", 13, (1, 2, 9, 4), kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1
    )
    assert size_of(pooled, "y") == size_of(pooled, "y", onnx.shape_inference.infer_shapes)
    inference._length.cache_clear()


def test_large_images_take_no_memory():
    enlarged = of_one_node("Resize", 13, (1, 1, 2000, 2000), floats(1, 1, 700, 700))
    assert size_of(enlarged, "y") == (1, 1, 1_400_000, 1_400_000)
    pooled = of_one_node(
        "MaxPool", 13, (1, 1, 2**20, 2**20), kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1
    )
    assert size_of(pooled, "y")[2:] == (2**19, 2**19)


def test_open_sizes_stay_open():
    scales = np.array([1, 1, 1.4, 1.4], np.float32)
    proto = of_one_node("Resize", 13, ("N", 3, "H", 10), scales, mode="nearest")
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
        POOLED.replace("{pool}", "AveragePool<kernel_shape = [4, 5], strides = [2, 2], "
                       'auto_pad = "SAME_UPPER">'),
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
