"""Files as ONNX Runtime's optimiser and quantisers leave them, which nobody exported so."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_text import model
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from onnx2snn import ModelError, SpikingSession, UnsupportedModelError, check, convert, from_arrays
from onnx2snn.converting.checking import relative_error

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 2, 8, 8)).astype(np.float32)
DATA = from_arrays(X, None)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


NETWORK = model(
    "net (float[N, 2, 8, 8] x) => (float[N, 3] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) "
    "r = Relu(c) d = Conv<pads = [1, 1, 1, 1]>(r, v, vb) s = Add(d, r) q = Relu(s) "
    "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(q) f = Flatten(p) g = Gemm(f, a, ab) "
    "h = Relu(g) y = Gemm(h, b, bb) }",
    {
        "w": normal(4, 2, 3, 3), "v": normal(4, 4, 3, 3), "vb": normal(4), "a": normal(64, 5),
        "ab": normal(5), "b": normal(5, 3), "bb": normal(3),
    },
)  # fmt: skip


def optimised(path, network, level):
    """What ONNX Runtime saves of a network."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(network.SerializeToString(), options, ["CPUExecutionProvider"])
    return onnx.load(path)


def test_fused_layers_make_the_same_spiking_network(tmp_path):
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    fused = optimised(tmp_path / "m.onnx", NETWORK, level)
    assert {"FusedConv", "FusedGemm"} <= {node.op_type for node in fused.graph.node}
    wanted, got = (convert(m, calibration=DATA, recipe="opi") for m in (NETWORK, fused))
    for one, other in zip(got.neurons, wanted.neurons, strict=True):
        np.testing.assert_allclose(one.threshold, other.threshold, rtol=1e-6)
    outputs = [SpikingSession(c.model).run(X, 8).output for c in (wanted, got)]
    assert relative_error({"y": outputs[0]}, {"y": outputs[1]}) < 1e-5
    assert check(tmp_path / "m.onnx").converts is check(NETWORK).converts


def test_layers_laid_out_for_a_processor_are_refused():
    blocked = onnx.ModelProto()
    blocked.CopyFrom(NETWORK)
    blocked.graph.node[0].domain = "com.microsoft.nchwc"
    blocked.opset_import.append(onnx.helper.make_opsetid("com.microsoft.nchwc", 1))
    with pytest.raises(ModelError, match=r"laid out 1 nodes, of which Conv 'c'.*EXTENDED"):
        convert(blocked, calibration=DATA)


def test_quantisers_of_qonnx_are_refused():
    other = onnx.ModelProto()
    other.CopyFrom(NETWORK)
    other.graph.node[0].op_type, other.graph.node[0].domain = "Quant", "qonnx.custom_op.general"
    other.opset_import.append(onnx.helper.make_opsetid("qonnx.custom_op.general", 1))
    with pytest.raises(ModelError, match=r"Quant 'c' is QONNX.*export_onnx_qcdq"):
        convert(other, calibration=DATA)


@pytest.mark.parametrize("op", ["QLinearConv", "NhwcMaxPool"])
def test_quantised_layers_laid_out_for_a_processor_are_refused(op):
    """With their channels last."""
    laid_out = onnx.ModelProto()
    laid_out.CopyFrom(NETWORK)
    node = laid_out.graph.node[0]
    node.op_type, node.domain = op, "com.microsoft"
    if op == "QLinearConv":
        node.attribute.append(onnx.helper.make_attribute("channels_last", 1))
    laid_out.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ModelError, match=rf"laid out 1 nodes, of which {op} 'c'.*EXTENDED"):
        convert(laid_out, calibration=DATA)


def test_attention_of_another_form_is_named():
    proto = model(
        "net (float[N, 2, 4, 8] x) => (float[N, 2, 4, 3] y) { l = MatMul(x, v) r = Relu(l) "
        "a = Attention<softcap = 2.0>(r, r, r) q = Relu(a) y = MatMul(q, w) }",
        {"v": normal(8, 8), "w": normal(8, 3)},
        opset=23,
    )
    data = from_arrays(normal(20, 2, 4, 8), None)
    with pytest.raises(UnsupportedModelError, match=r"soft cap.*opset 22"):
        convert(proto, calibration=data, on_means=True)


class Reader(CalibrationDataReader):
    def __init__(self):
        self.left = [{"x": X}]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.mark.parametrize(
    ("options", "weights"),
    [({"UseQDQContribOps": True}, QuantType.QInt8), ({}, QuantType.QInt4)],
    ids=["quantisers of its own", "weights of 4 bits"],
)
def test_other_quantisers(tmp_path, options, weights):
    plain, quantised = tmp_path / "plain.onnx", tmp_path / "quantised.onnx"
    onnx.save(NETWORK, plain)
    quantize_static(plain, quantised, Reader(), weight_type=weights, extra_options=options)
    conversion = convert(quantised, calibration=DATA, recipe="opi", maxpool="exact")
    assert len(conversion.neurons) == 3
    session = onnxruntime.InferenceSession(quantised)
    wanted = {"y": session.run(None, {"x": X})[0]}
    got = SpikingSession(conversion.model).run(X, 256).output
    assert relative_error(wanted, {"y": got}) < 0.1
