import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from onnx_text import model, run
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from onnx2snn import (
    DataError,
    MissingThresholdError,
    ModelError,
    Refusal,
    SpikingSession,
    Statistic,
    UnsupportedModelError,
    check,
    convert,
    evaluate,
    from_arrays,
)
from onnx2snn.ann import Ann
from onnx2snn.cli.conversion_tables import advice
from onnx2snn.converting.checking import Agreement, Differences, compare, relative_error
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.measuring.comparison import compare_recipes
from onnx2snn.recipe import Neuron
from onnx2snn.recipes import recipe_by_name
from onnx2snn.running import Running

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32),
    "v": RNG.normal(size=(36, 3)).astype(np.float32),
    "scale": np.ones(4, np.float32), "shift": np.zeros(4, np.float32),
    "mean": np.full(4, 0.1, np.float32), "var": np.full(4, 0.7, np.float32),
}  # fmt: skip
MAX_POOLED = (
    "net (float[N, 2, 8, 8] x) => (float[N, 3] y) { c = Conv(x, w) "
    "b = BatchNormalization(c, scale, shift, mean, var) r = Relu(b) "
    "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) f = Flatten(p) y = MatMul(f, v) }"
)
X = RNG.normal(size=(50, 2, 8, 8)).astype(np.float32)
Y = RNG.integers(0, 3, 50)
DATA = from_arrays(X, Y)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_from_file_and_proto_alike(tmp_path):
    proto = model(MAX_POOLED, WEIGHTS)
    before = proto.SerializeToString()
    onnx.save(proto, tmp_path / "ann.onnx")
    a = convert(proto, calibration=DATA).model
    b = convert(tmp_path / "ann.onnx", calibration=DATA).model
    assert proto.SerializeToString() == before
    assert a.graph == b.graph
    assert a.functions == b.functions


@pytest.mark.parametrize("on_means", [True, False])
def test_curves_between_normalizations_need_two_options(on_means):
    text = "net (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w) e = Erf(a) b = MatMul(e, w) "
    text += "n = LayerNormalization(b, s) f = Erf(n) y = MatMul(f, w) }"
    ann = model(text, {"w": normal(4, 4), "s": np.ones(4, np.float32)})
    with pytest.raises(UnsupportedModelError, match="convert --on-means --approximate N --calib"):
        convert(ann, calibration=from_arrays(normal(20, 4)), on_means=on_means)
    plain = model(
        text.replace("n = LayerNormalization(b, s) f = Erf(n)", "f = Erf(b)"), {"w": normal(4, 4)}
    )
    with pytest.raises(
        UnsupportedModelError, match=r"\(convert --approximate N --calibration DATA\)"
    ):
        convert(plain)


def test_what_averages_cost_is_not_known_without_data():
    clipped = MAX_POOLED.replace("Relu(b)", "Clip(b, lo, hi)")
    ann = model(clipped, WEIGHTS | {"lo": np.float32(0), "hi": np.float32(1)})
    (note,) = convert(ann).notes
    assert note.startswith("max-pooling became average-pooling")
    for options in ({"maxpool": "average"}, {"maxpool": "exact"}):
        assert convert(ann, **options).notes == []
    assert convert(ann, calibration=DATA, recipe="opi").notes == []


def test_a_first_input_of_one_number():
    text = "net (float s, float[N, 4] x) => (float[N, 4] y) { a = Neg(x) b = Neg(a) c = Mul(b, s) "
    text += "r = Clip(c, lo, hi) y = Identity(r) }"
    conversion = convert(model(text, {"lo": np.float32(0), "hi": np.float32(1)}))
    assert "random inputs (seed 0)" in conversion.check


def test_an_ann_of_a_fixed_batch_size_takes_arrays_of_samples():
    text = "net (float[2, 3] a, float[2, 3] b) => (float[2, 3] y) { y = Add(a, b) }"
    ann = Ann(detach(model(text)))
    a = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(ann.run({"a": a, "b": a})["y"], 2 * a)
    with pytest.raises(DataError, match="b"):
        ann.run({"a": a, "b": np.float32(1)})
    # Where one of them is open, the other says it.
    mixed = Ann(detach(model(text.replace("float[2, 3] b", "float[N, 3] b"))))
    np.testing.assert_array_equal(mixed.run({"a": a, "b": a})["y"], 2 * a)


def test_what_an_input_is_normalised_by_is_no_pool():
    text = "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { m = ReduceMax<axes = [2, 3]>(x) "
    proto = model(
        text + "d = Div(x, m) r = Clip(d, lo, hi) y = Neg(r) }",
        {"lo": np.float32(0), "hi": np.float32(1)},
    )
    x = np.random.default_rng(0).random((3, 2, 4, 4), np.float32)
    wanted = Ann(detach(proto)).run(x)["y"]
    found = SpikingSession(convert(proto).model).run(x, 512).output
    np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize(("low", "high"), [(0, 1e30), (0, 1e9), (-1e30, 6)])
def test_a_bound_that_means_none_is_no_threshold(low, high):
    text = "net (float[N, 4] x) => (float[N, 4] y) { r = Clip(x, lo, hi) y = Neg(r) }"
    proto = model(text, {"lo": np.float32(low), "hi": np.float32(high)})
    with pytest.raises(MissingThresholdError):
        convert(proto)


@pytest.mark.parametrize("far", [1e30, np.inf, np.finfo(np.float32).max])
@pytest.mark.parametrize(("op", "first"), [("Min", "Neg"), ("Max", "Neg"), ("Min", "Relu")])
def test_data_tell_thresholds_of_channels_whose_bound_means_none(op, first, far):
    text = "net (float[N, 3, 2] x) => (float[N, 3, 2] y) "
    text += f"{{ c = {first}(x) r = {op}(c, b) y = Neg(r) }}"
    sign = 1 if op == "Min" else -1
    proto = model(text, {"b": np.array([[far], [0.5], [1]], np.float32) * sign})
    with pytest.raises(MissingThresholdError, match="no upper bound"):
        convert(proto)
    samples = np.random.default_rng(0).normal(0, 2, (32, 3, 2)).astype(np.float32)
    session = SpikingSession(convert(proto, calibration=from_arrays(samples), recipe="opi").model)
    thresholds = [neuron.threshold.ravel() for neuron in session.neurons]
    (bounded,) = [v_th for v_th in thresholds if v_th.size > 1 and v_th[1] == 0.5]
    assert bounded[0] < 8
    assert bounded[2] == 1
    wanted = Ann(detach(proto)).run(samples)["y"]
    np.testing.assert_allclose(session.run(samples, 256).output, wanted, atol=0.1)


@pytest.mark.parametrize("recipe", ["opi", "opt"])
@pytest.mark.parametrize("recalibrate", [False, True])
def test_channels_beside_one_whose_bound_means_none_keep_theirs(recipe, recalibrate):
    text = "net (float[N, 3, 2] x) => (float[N, 3, 2] y) { c = Relu(x) r = Min(c, b) y = Neg(r) }"
    proto = model(text, {"b": np.array([[np.inf], [50], [80]], np.float32)})
    samples = from_arrays(np.random.default_rng(0).normal(0, 2, (32, 3, 2)).astype(np.float32))
    found = convert(proto, calibration=samples, recipe=recipe, recalibrate=recalibrate).model
    (neuron,) = SpikingSession(found).neurons
    v_th = np.broadcast_to(neuron.threshold, (3, 1)).ravel()
    assert v_th[0] < 8
    assert (v_th[1:] < 8).all() if recalibrate else v_th[1:].tolist() == [50, 80]


def test_layers_of_no_neurons_are_named():
    text = "net (float[N, 4] x) => (float[N, 4] y) { a, b = Split<axis = 1>(x, sizes) r = Relu(a) "
    text += "s = Relu(b) y = Concat<axis = 1>(r, s) }"
    x = from_arrays(np.ones((2, 4), np.float32))
    with pytest.raises(UnsupportedModelError, match=r"(?s)no neurons.*Relu 's'.*shape is 0"):
        convert(model(text, {"sizes": np.array([4, 0])}), calibration=x)


@pytest.mark.parametrize("recipe", ["opi", "best"])
def test_a_batch_of_one_that_is_squeezed(recipe):
    text = "net (float[1, 3, 4, 4] x) => (float[2] y) { c = Conv(x, w) r = Relu(c) "
    text += "s = Squeeze(r, first) "
    text += "m = ReduceMean<axes = [1, 2], keepdims = 0>(s) y = MatMul(m, v) }"
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(5, 3, 3, 3)), "v": rng.normal(size=(5, 2))}
    named = {name: value.astype(np.float32) for name, value in weights.items()}
    x = rng.random((1, 3, 4, 4), np.float32)
    proto = model(text, named | {"first": np.array([0])})
    snn = convert(proto, calibration=from_arrays(x), batch_size=1, recipe=recipe).model
    wanted = Ann(detach(proto)).run(x)["y"]
    # Of so few activations the 99.9 percentile cuts some off.
    np.testing.assert_allclose(SpikingSession(snn).run(x, 512).output, wanted, rtol=0.05)


@pytest.mark.parametrize("recipe", ["opi", "best"])
def test_a_bound_larger_than_what_it_bounds(recipe):
    """No clip then: the result has the size of the bound. Behind the neurons it may stay."""
    rng = np.random.default_rng(0)
    text = "net (float[N, 1, 3] x) => (float[N, 5, 3] y) { r = Relu(x) m = Min(r, k) "
    weights = {"k": rng.random((5, 3), np.float32), "w": rng.random((3, 3), np.float32)}
    proto = model(text + "y = Neg(m) }", {"k": weights["k"]})
    x = rng.random((4, 1, 3), np.float32)
    snn = convert(proto, calibration=from_arrays(x), recipe=recipe).model
    wanted = Ann(detach(proto)).run(x)["y"]
    np.testing.assert_allclose(SpikingSession(snn).run(x, 512).output, wanted, atol=0.01)
    text = text.replace("Relu(x)", "Relu(c)").replace("{ ", "{ c = MatMul(x, w) ")
    between = model(text + "l = MatMul(m, w) y = Relu(l) }", weights)
    with pytest.raises(UnsupportedModelError, match="Min 'm'"):
        convert(between, calibration=from_arrays(x), recipe=recipe)


def test_outputs_and_inputs_that_are_left_out_are_no_tensor():
    """A max-pool without indices, and a bias that is not there, have the same name: none."""
    text = "net (float[N, 4, 6, 6] x) => (float[N, 3, 4, 4] y) { c = Conv(x, w) r = Relu(c) "
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 4, 3, 3)), "s": np.ones((3, 4, 4))}
    named = {name: value.astype(np.float32) for name, value in weights.items()}
    proto = model(text + "y = LayerNormalization<axis = 1>(r, s) }", named)
    proto.graph.node[0].input.append("")
    proto.graph.node[2].output.extend(["", ""])
    x = rng.random((2, 4, 6, 6), np.float32)
    wanted = Ann(detach(proto)).run(x)["y"]
    snn = convert(proto, calibration=from_arrays(x), recipe="opi").model
    np.testing.assert_allclose(SpikingSession(snn).run(x, 512).output, wanted, atol=0.05)


def test_an_ann_of_a_fixed_batch_size_and_an_output_of_no_axes():
    text = "net (float[2, 3] x) => (float y) { r = Clip(x, lo, hi) y = ReduceSum<keepdims = 0>(r) }"
    proto = model(text, {"lo": np.float32(0), "hi": np.float32(1)})
    x = np.ones((4, 3), np.float32)
    assert Ann(detach(proto)).run(x)["y"].tolist() == [6, 6]
    conversion = convert(proto, calibration=from_arrays(x), recipe="opi")
    assert any("samples depend on each other" in note for note in conversion.notes)


@pytest.mark.parametrize("listed", [False, True])
def test_an_ann_of_quantized_weights(listed):
    """Also where the file lists them as inputs."""
    inputs = "float[N, 32] x, int8[32, 32] w" if listed else "float[N, 32] x"
    text = f"net ({inputs}) => (float[N, 32] y) {{ d = DequantizeLinear(w, s) y = MatMul(x, d) }}"
    named = {"w": np.eye(32, dtype=np.int8), "s": np.float32(0.5)}
    x = np.ones((2, 32), np.float32)
    np.testing.assert_array_equal(Ann(detach(model(text, named))).run(x)["y"], x / 2)


def test_labels_where_samples_lie_along_another_axis():
    text = "net (float[N, 4] x) => (float[5, N] y) { a = MatMul(x, w) r = Relu(a) b = MatMul(r, u) "
    ann = model(text + "y = Transpose(b) }", {"w": np.eye(4, 6, dtype=np.float32),
                                               "u": np.eye(6, 5, dtype=np.float32)})  # fmt: skip
    x = RNG.normal(size=(20, 4)).astype(np.float32)
    data = from_arrays(x, RNG.integers(0, 5, 20))
    conversion = convert(ann, calibration=data)
    assert conversion.neurons
    assert {agreement.accuracy_after for agreement in conversion.agreements} == {None}
    assert conversion.agreements[0].top1 == 100
    for score in (
        partial(evaluate, conversion.model),
        partial(compare_recipes, ann, ["opi"], data),
    ):
        with pytest.raises(DataError, match=r"output is \[5, 20\], with no row for each"):
            score(data, [2])


def test_says_what_it_did():
    result = convert(model(MAX_POOLED, WEIGHTS), calibration=DATA, recipe="opi")
    assert [report.name for report in result.passes if report.changed] == [
        "fold_batch_normalization",
        "max_to_average_pool",
        "bound_activations",
        "activations_to_neurons",
        "set_initial_potential",
    ]
    folded, pooled, clipped, together = result.agreements
    assert folded.top1 == 100.0
    assert folded.error < 1e-5
    assert pooled.change == "max-pooling -> average-pooling"
    assert pooled.error > 0.1
    assert pooled.accuracy_before is not None
    assert clipped.error < 0.1
    assert together.change == "all together"
    assert together.error >= pooled.error - clipped.error
    (neuron,) = result.neurons
    assert (neuron.name, neuron.shape) == ("r", (4, 6, 6))
    assert "99.9 % of all activations, per channel, 50 samples" in neuron.source
    metadata = {entry.key: entry.value for entry in result.model.metadata_props}
    assert json.loads(metadata["onnx2snn.recipe"])["v_init"] == 0.5
    assert json.loads(metadata["onnx2snn.thresholds"]) == {"r": neuron.source}


def test_thresholds_are_measured_after_pooling_was_replaced():
    text = (
        "net (float[N, 1, 2, 2] x) => (float[N, 1, 1, 1] y) "
        "{ p = MaxPool<kernel_shape = [2, 2]>(x) y = Relu(p) }"
    )
    x = np.array([[[[0, 4], [0, 0]]]], np.float32)
    data, largest = from_arrays(x), Statistic("max")
    result = convert(model(text), calibration=data, recipe="opi", threshold=largest)
    assert result.neurons[0].threshold == 1.0


def test_thresholds_per_channel_equal_the_largest_activations():
    result = convert(
        model(MAX_POOLED, WEIGHTS),
        calibration=DATA,
        threshold=Statistic("max"),
        per_channel=True,
        batch_size=7,
    )
    text = MAX_POOLED.split(" p = ")[0].replace("float[N, 3] y", "float[N, 4, 6, 6] r") + " }"
    largest = run(model(text, {k: v for k, v in WEIGHTS.items() if k != "v"}), X).max((0, 2, 3))
    assert result.neurons[0].threshold.shape == (4, 1, 1)
    np.testing.assert_allclose(result.neurons[0].threshold.ravel(), largest, rtol=1e-5)


def test_silent_layers_and_channels_get_positive_thresholds():
    dead = WEIGHTS | {"mean": np.array([0, 0, 0, 1e6], np.float32)}
    result = convert(model(MAX_POOLED, dead), calibration=DATA, per_channel=True)
    thresholds = result.neurons[0].threshold.ravel()
    assert np.all(thresholds > 0)
    assert thresholds[3] == thresholds.max()


def test_relu_without_data_is_listed():
    with pytest.raises(MissingThresholdError, match=r"(?s)needed for 1 activation:.*Relu 'r'"):
        convert(model(MAX_POOLED, WEIGHTS))


def test_clip_needs_no_data():
    proto = model(
        MAX_POOLED.replace("Relu(b)", "Clip(b, zero, six)"),
        WEIGHTS | {"zero": np.float32(0), "six": np.float32(6)},
    )
    (neuron,) = convert(proto).neurons
    assert neuron.threshold == 6
    assert neuron.source == "bound of the clip"


@pytest.mark.parametrize("recipe", [{"recipe": "opi"}, {"recipe": "best", "timesteps": 512}])
def test_the_rate_approaches_the_ann(recipe):
    proto = model(MAX_POOLED.replace("MaxPool", "AveragePool"), WEIGHTS)
    snn = convert(proto, calibration=DATA, threshold=Statistic("max"), **recipe).model
    result = SpikingSession(snn).run(X, 512, readout=[16, 128])
    ann = run(proto, X)
    errors = [np.abs(result.outputs[t] - ann).max() for t in (16, 128, 512)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02 * np.abs(ann).max()


@pytest.mark.parametrize(
    "between",
    [
        # y[:, :2] = y[:, 2:], as exporters write it.
        "t = Transpose<perm = [1, 0, 2, 3]>(r) m = Slice(t, two, four, first) "
        "s = ScatterND(t, rows, m) u = Transpose<perm = [1, 0, 2, 3]>(s)",
        # The same, added to what is there.
        "t = Transpose<perm = [1, 0, 2, 3]>(r) m = Slice(t, two, four, first) "
        'o = ScatterND<reduction = "add">(t, rows, m) u = Transpose<perm = [1, 0, 2, 3]>(o)',
        "n = ReduceMin<axes = [2, 3]>(r) u = Sub(r, n)",
        "m = ReduceMax<axes = [1]>(r) u = Sub(r, m)",
        "n = ReduceMin<axes = [3]>(r) u = Add(r, n)",
    ],
)
def test_the_rate_approaches_the_ann_through(between):
    text = (
        f"net (float[N, 2, 8, 8] x) => (float[N, 3] y) {{ c = Conv(x, w) r = Relu(c) {between} "
        "q = Conv(u, z) k = Relu(q) g = GlobalAveragePool(k) f = Flatten(g) y = MatMul(f, e) }"
    )
    values = WEIGHTS | {
        "two": np.array([2]), "four": np.array([4]), "first": np.array([0]),
        "rows": np.array([[0], [1]]), "z": normal(5, 4, 3, 3), "e": normal(5, 3),
    }  # fmt: skip
    proto = model(text, {name: v for name, v in values.items() if re.search(rf"\b{name}\b", text)})
    assert check(proto, maxpool="exact").converts
    snn = convert(proto, calibration=DATA, recipe="opi", threshold="max", maxpool="exact").model
    ann = run(proto, X)
    found = [SpikingSession(snn, plan=plan).run(X, 512, readout=[32]) for plan in ("auto", "step")]
    for result in found:
        errors = [np.abs(result.outputs[t] - ann).max() for t in (32, 512)]
        assert errors[1] < min(errors[0] / 4, 0.02 * np.abs(ann).max())


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("i = ArgMax<axis = 1>(r) s = ScatterElements<axis = 1>(r, i, p)", "where it writes"),
        ('s = ScatterElements<axis = 1, reduction = "mul">(r, ones, p)', "not linear"),
        ("s = ReduceMax<axes = [1]>(r)", "over axes of known sizes"),
    ],
)
def test_refuses_what_is_not_linear_though_something_like_it_is(written, message):
    text = (
        f"net (float[N, 4] x) => (float[N, a] y) {{ r = Relu(x) p = Neg(r) {written} y = Relu(s) }}"
    )
    ones = {"ones": np.ones((2, 4), np.int64)} if "ones" in written else {}
    with pytest.raises(UnsupportedModelError, match=message):
        convert(model(text, ones), calibration=from_arrays(normal(2, 4)))


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 20, 23])
def test_old_and_new_opsets(opset):
    text = "net (float[N, 4] x) => (float[N, 4] y) { r = Relu(x) y = MatMul(r, m) }"
    proto = model(text, {"m": np.eye(4, dtype=np.float32)}, opset)
    x = np.abs(RNG.normal(size=(3, 4))).astype(np.float32)
    data, largest = from_arrays(x), Statistic("max")
    snn = convert(proto, calibration=data, recipe="opi", threshold=largest).model
    np.testing.assert_allclose(SpikingSession(snn).run(x, 256).output, x, atol=0.02)


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("body", ["y = Clip(x, zero, one)", "a = Relu(x) y = Clip(a, zero, one)"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_types(dtype, body, with_data):
    kind = {np.float16: "float16", np.float64: "double"}[dtype]
    text = f"net ({kind}[N, 2] x) => ({kind}[N, 2] y) {{ {body} }}"
    proto = model(text, {"zero": dtype(0), "one": dtype(1)})
    x = np.array([[0.25, 2.0]], dtype)
    data = from_arrays(x) if with_data else None
    result = SpikingSession(convert(proto, calibration=data, recipe="opi").model).run(x, 8)
    assert result.output.dtype == dtype
    np.testing.assert_array_equal(result.output, [[0.25, 1.0]])
    assert result.spike_counts["y"].tolist() == [[2, 8]]


def test_refusals():
    snn = convert(model(MAX_POOLED, WEIGHTS), calibration=DATA).model
    with pytest.raises(ModelError, match="is a spiking network: give the network"):
        convert(snn)
    with pytest.raises(ModelError, match=r"no ReLU.*no activations"):
        convert(model("net (float[N] x) => (float[N] y) { y = Neg(x) }"))
    with pytest.raises(UnsupportedModelError, match=r"(?s)Sigmoid.*Tanh"):
        convert(
            model(
                "n (float[N] x) => (float[N] y) "
                "{ a = Relu(x) b = Sigmoid(a) c = Tanh(b) y = Relu(c) }"
            )
        )
    for bad, message in ((X[:, :1], "shape"), (X.astype(int), "type"), (X * np.nan, "NaN")):
        with pytest.raises(DataError, match=message):
            convert(model(MAX_POOLED, WEIGHTS), calibration=from_arrays(bad))
    with pytest.raises(DataError, match="from_arrays"):
        convert(model(MAX_POOLED, WEIGHTS), calibration=X)
    with pytest.raises(DataError, match="v_init must be"):
        convert(model(MAX_POOLED, WEIGHTS), calibration=from_arrays(X), v_init=[0.5])


def test_calibration_data_that_says_nothing():
    ann = model(MAX_POOLED, WEIGHTS)
    assert not convert(ann, calibration=DATA, recipe="mmse", timesteps=8).notes
    (note,) = convert(ann, calibration=from_arrays(0 * X), recipe="mmse", timesteps=8).notes
    assert "all the same" in note
    (note,) = convert(ann, calibration=from_arrays(X[:1]), recipe="mmse", timesteps=8).notes
    assert "one sample calibrates" in note


def notes_on(x, ann=None, **options):
    options = {"recipe": "mmse", "batch_size": 4} | options
    return convert(ann or model(MAX_POOLED, WEIGHTS), calibration=from_arrays(x), **options).notes


@pytest.mark.parametrize("sign", [1, -1])
def test_samples_of_another_scale(sign):
    """An image in 0 to 255 among those in 0 to 1; the worst is named."""
    near = np.abs(X) / np.abs(X).max(axis=(1, 2, 3), keepdims=True)
    far = near.copy()
    far[9, 1, 2, 3] = 255 * sign
    (note,) = notes_on(far)
    said = "sample 9 of the 50 that calibrate has numbers of up to 255 in x, half of them have none"
    assert note.startswith(f"{said} beyond 1: ")
    far[[2, 30]] *= 40
    (note,) = notes_on(far)
    assert note.startswith("sample 9 of the 50 that calibrate (and 2 others) has numbers of up to")
    far[0] *= 300
    assert notes_on(far)[0].startswith("sample 0 of the 50")


def test_samples_of_nearly_one_scale():
    near = np.ones_like(X)
    near[3, 0, 0, 0] = 15
    assert not notes_on(near, recipe="opi")
    near[3, 0, 0, 0] = 17
    assert "sample 3" in notes_on(near)[0]
    # Most of which say nothing.
    blank = np.zeros_like(X)
    blank[:20] = X[:20]
    assert not notes_on(blank, batch_size=50)


def test_samples_of_another_scale_where_no_threshold_is_measured():
    text = "net (float[N, 6] x) => (float[N, 3] y) {{ a = MatMul(x, w) {} y = MatMul(b, v) }}"
    values = {"w": normal(6, 8), "v": normal(8, 3), "lo": np.float32(0), "hi": np.float32(1)}
    x = normal(32, 6)
    x[7] *= 1000
    for body, options in (("b = Sigmoid(a)", {"approximate": 4}), ("b = Clip(a, lo, hi)", {})):
        notes = notes_on(x, model(text.format(body), values), recipe="tsc", **options)
        assert any("sample 7 of the 32" in note for note in notes)


def test_samples_of_which_one_input_has_another_scale():
    ann = model(
        "net (float[N, 6] x, float[N, 6] u, int64[N] i) => (float[N, 3] y) "
        "{ s = Add(x, u) a = MatMul(s, w) b = Relu(a) e = Gather(table, i) c = Add(b, e) "
        "y = MatMul(c, v) }",
        {"w": normal(6, 8), "v": normal(8, 3), "table": normal(90, 8)},
    )
    u, i = normal(20, 6), np.arange(20)
    u[3], i[5] = 1e4, 89
    (note,) = notes_on({"x": normal(20, 6), "u": u, "i": i}, ann, recipe="opi")
    assert "sample 3 of the 20" in note
    assert "in u, half" in note


def test_conversions_can_be_compared():
    found = [convert(model(MAX_POOLED, WEIGHTS), calibration=DATA, recipe="opi") for _ in range(2)]
    assert found[0] != found[1]
    assert found[0].neurons != found[1].neurons


@pytest.mark.parametrize("asked", [{"threshold": "percentile=90"}, {"per_channel": False}])
def test_a_threshold_asked_for_where_all_are_bounds(asked):
    """It changes nothing, as is said; not where a ReLU takes it, or bounds are measured.

    Also where what is measured lowers none of them.
    """
    text = MAX_POOLED.replace("Relu(b)", "Clip(b, lo, hi)")
    clipped = model(text, WEIGHTS | {"lo": np.float32(0), "hi": np.float32(100)})
    (note,) = convert(clipped, calibration=DATA, recipe="opi", **asked).notes
    assert "which --threshold and --per-channel do not change without --recalibrate" in note
    assert not convert(clipped, calibration=DATA, recipe="opi").notes
    assert not convert(clipped, calibration=DATA, recipe="opi", recalibrate=True, **asked).notes
    tight = model(text, WEIGHTS | {"lo": np.float32(0), "hi": np.float32(0.01)})
    measured = convert(tight, calibration=DATA, recipe="threshold-balancing", **asked)
    assert {neuron.source for neuron in measured.neurons} == {"bound of the clip"}
    assert not measured.notes
    (note,) = convert(tight, calibration=DATA, recipe="spike-norm", threshold="max").notes
    assert note.endswith("which --threshold and --per-channel do not change")
    assert not convert(model(MAX_POOLED, WEIGHTS), calibration=DATA, recipe="opi", **asked).notes


def test_bursts_beyond_the_bound_of_a_clip_are_told():
    text = MAX_POOLED.replace("Relu(b)", "Clip(b, lo, hi)")
    tight = model(text, WEIGHTS | {"lo": np.float32(0), "hi": np.float32(0.01)})
    loose = replace(recipe_by_name("burst"), passes=())
    (note,) = convert(tight, calibration=DATA, recipe=loose).notes
    assert note.startswith("neurons may say more than a clip of the ANN lets through")
    one = replace(loose, neuron=Neuron("BurstIF", max_spikes=1))
    for ann, recipe in ((tight, one), (tight, "burst"), (model(MAX_POOLED, WEIGHTS), loose)):
        assert not convert(ann, calibration=DATA, recipe=recipe).notes
    options = {"threshold": "max", "recalibrate": False}
    for recipe in ("best", "best-burst"):
        assert not convert(tight, calibration=DATA, recipe=recipe).notes
        (note,) = convert(tight, calibration=DATA, recipe=recipe, **options).notes
        assert note.startswith("all thresholds are bounds of clips")


def test_options_that_nothing_is_there_for_are_said_to_change_nothing():
    made = partial(convert, model(MAX_POOLED, WEIGHTS), calibration=DATA, recipe="opi")
    (note,) = made(approximate=4).notes
    assert note == "--approximate changes nothing: there are no curves to approximate"
    (note,) = made(on_means=True).notes
    assert note.startswith("--on-means changes nothing")
    (note,) = made(recalibrate=True).notes
    assert note == "--recalibrate changes nothing: there are no clips"


def test_a_threshold_by_its_name():
    ann = model(MAX_POOLED, WEIGHTS)
    by_name, made = (
        convert(ann, calibration=DATA, recipe="opi", threshold=threshold).neurons
        for threshold in ("percentile=90", Statistic("percentile", 90))
    )
    for one, other in zip(by_name, made, strict=True):
        np.testing.assert_array_equal(one.threshold, other.threshold)


def test_evaluate():
    ann = model(MAX_POOLED.replace("MaxPool", "AveragePool"), WEIGHTS)
    snn = convert(ann, calibration=DATA).model
    classes = run(ann, X).argmax(1)
    report = evaluate(snn, from_arrays(X, classes), [64, 4], ann=ann, batch_size=7)
    assert report["samples"] == 50
    assert report["ann"] == {"accuracy": 100.0}
    assert [row["timesteps"] for row in report["snn"]] == [4, 64]
    for row in report["snn"]:
        session = SpikingSession(snn)
        result = session.run(X, row["timesteps"])
        accuracy = 100 * (result.output.argmax(1) == classes).mean()
        assert row["accuracy"] == row["agreement"] == pytest.approx(accuracy)
        assert row["firing_rate"] == pytest.approx(result.firing_rate)
        spikes = sum(counts.sum() for counts in result.spike_counts.values())
        # Each pixel of the 6x6 layer lies in one pooling window, which feeds 3 classes.
        assert row["sops"] == 3 * spikes / 50
    assert report["macs"] == 36 * 9 * 2 * 4 + 36 * 3
    unlabelled = evaluate(snn, from_arrays(X), [4])
    assert unlabelled["ann"] is None
    assert unlabelled["snn"][0]["accuracy"] is None
    assert unlabelled["snn"][0]["agreement"] is None
    with pytest.raises(DataError, match="labels from"):
        evaluate(snn, from_arrays(X, Y + 3), [4])


QUANTISED = (
    "net (float[N, 4] x) => (float[N, 2] y) { c = MatMul(x, w) d = Div(c, theta) "
    "e = Clip(d, zero, one) f = Mul(e, levels) h = Add(f, half) i = Floor(h) j = Div(i, levels) "
    "a = Mul(j, theta) y = MatMul(a, v) }"
)
QUANTISED_WEIGHTS = {
    "w": np.float32([[1, -1, 0, 0], [0, 1, 2, 0], [0, 0, -1, 1], [0, 0, 0, 4]]),
    "v": np.float32([[1, 0], [-2, 1], [0, 4], [1, 1]]),
    "theta": np.float32([2]), "levels": np.float32(4), "zero": np.float32(0),
    "one": np.float32(1), "half": np.float32(0.5),
}  # fmt: skip


def test_neurons_round_as_a_quantised_activation_does():
    """QCFS (Bu et al., ICLR 2022): in as many time-steps as it has levels."""
    ann = model(QUANTISED, QUANTISED_WEIGHTS)
    # All sums are odd multiples of 1/16, and none is in the middle between two levels.
    x = (RNG.integers(-40, 40, (50, 4)) * 2 + np.array([1, 0, 1, 0])).astype(np.float32) / 16
    conversion = convert(ann)
    np.testing.assert_array_equal(SpikingSession(conversion.model).run(x, 4).output, run(ann, x))
    assert "unquantize_activations" in [report.name for report in conversion.passes]
    assert "neurons round to T levels themselves" in conversion.notes[0]
    assert "relative error" in conversion.check
    assert check(ann).notes == conversion.notes


@pytest.mark.parametrize("most", [255, 15])
def test_ranges_of_quantisers_are_no_trained_bounds(most):
    """But of few bits they are. One activation is far above all others."""
    text = (
        "net (float[N, 4] x) => (float[N, 2] y) { c = MatMul(x, w) r = Relu(c) "
        "q = QuantizeLinear(r, s, z) k = Clip(q, z, most) a = DequantizeLinear(k, s, z) "
        "y = MatMul(a, v) }"
    )
    numbers = {"s": np.float32(100 / most), "z": np.uint8(0), "most": np.uint8(most)}
    ann = model(text, {name: QUANTISED_WEIGHTS[name] for name in "wv"} | numbers)
    data = from_arrays(RNG.normal(size=(200, 4)).astype(np.float32))

    def thresholds(**options):
        conversion = convert(ann, recipe="opi", **options)
        return conversion.neurons[0].threshold, " ".join(conversion.notes)

    kept, found = "are ranges of quantisers", "come from the data"
    (bound, alone), (taken, said), (given, silent) = (
        thresholds(), thresholds(calibration=data), thresholds(calibration=data, recalibrate=False)
    )  # fmt: skip
    for value in (bound, given):
        np.testing.assert_allclose(value, 100, rtol=1e-6)
    assert (kept in alone, found in said) == (most == 255, most == 255)
    assert kept not in silent
    assert found not in silent
    assert np.all(taken < 20) == (most == 255)


QUANTISE = "q = QuantizeLinear({0}, s, z) d = DequantizeLinear(q, s, z)"


@pytest.mark.parametrize(
    ("body", "from_data"),
    [
        (f"r = Relu(c) {QUANTISE.format('r')} a = Identity(d)", True),
        (f"{QUANTISE.format('c')} a = Relu(d)", True),
        (f"{QUANTISE.format('c')} a = Min(d, hundred)", True),
        (f"t = Transpose<perm = [1, 0]>(c) {QUANTISE.format('t')} a = Transpose<perm = [1, 0]>(d)",
         True),
        (f"{QUANTISE.format('c')} a = Mul(d, half)", True),
        # The network's own bound is lower, before or behind.
        (f"r = Clip(c, zero, one) {QUANTISE.format('r')} a = Identity(d)", False),
        (f"{QUANTISE.format('c')} a = Clip(d, zero, one)", False),
    ],
)  # fmt: skip
def test_ranges_are_known_again_whatever_passes_did(body, from_data):
    text = f"net (float[N, 4] x) => (float[N, 2] y) {{ c = MatMul(x, w) {body} y = MatMul(a, v) }}"
    numbers = {"s": np.float32(100 / 255), "z": np.uint8(0), "hundred": np.float32(100)}
    ann = model(text, QUANTISED_WEIGHTS | numbers)
    data = from_arrays(RNG.normal(size=(200, 4)).astype(np.float32))
    (neuron,) = convert(ann, calibration=data, recipe="opi").neurons
    assert np.all(neuron.threshold < 20)
    assert ("samples" in neuron.source) == from_data


def test_what_clips_for_quantised_activations_cost():
    ann, data = model(QUANTISED, QUANTISED_WEIGHTS), from_arrays(X.reshape(50, -1)[:, :4])
    conversion = convert(ann, calibration=data)
    first, exact, *_, together = conversion.agreements
    assert (first.change, exact.change) == ("quantised activations -> clips", "exact rewriting")
    assert first.error > 0.01 > 1e-5 > exact.error
    assert together.error > 0.01


@pytest.mark.parametrize("behind", [
    "y = MatMul(a, v)",
    "u = Unsqueeze(a, one) p = MaxPool<kernel_shape = [1], strides = [2]>(u) "
    "e = Squeeze(p, one) y = MatMul(e, pooled)",
])  # fmt: skip
def test_activations_that_quantisation_has_folded_into_levels_of_both_signs(behind):
    """It is that which is said, also where a pool is all else that is not linear."""
    text = (
        "net (float[N, 4] x) => (float[N, 2] y) { c = MatMul(x, w) q = QuantizeLinear(c, s, z) "
        f"a = DequantizeLinear(q, s, z) {behind} }}"
    )
    levels = {"s": np.float32(1 / 127), "z": np.int8(0), "one": np.array([1]),
              "pooled": np.ones((2, 2), np.float32)}  # fmt: skip
    ann = model(text, {name: QUANTISED_WEIGHTS[name] for name in "wv"} | levels)
    with pytest.raises(UnsupportedModelError, match="into which quantisation folds them"):
        convert(ann)
    assert "into which quantisation folds them" in check(ann).verdict


@pytest.mark.parametrize("form", QuantFormat)
@pytest.mark.parametrize("levels", [QuantType.QUInt8, QuantType.QInt8])
def test_a_statically_quantised_network(tmp_path, form, levels):
    """As ONNX Runtime's own tool writes it: its ReLUs are in the levels of what follows."""

    class Reader(CalibrationDataReader):
        batches = iter([{"x": X[:25]}, {"x": X[25:]}])

        def get_next(self):
            return next(self.batches, None)

    plain, quantised = tmp_path / "plain.onnx", tmp_path / "quantised.onnx"
    onnx.save(model(MAX_POOLED, WEIGHTS), plain)
    quantize_static(plain, quantised, Reader(), quant_format=form, activation_type=levels)
    operators = {node.op_type for node in onnx.load(quantised).graph.node}
    assert ("QLinearConv" if form is QuantFormat.QOperator else "DequantizeLinear") in operators
    # QOperator leaves batch normalization, and with it the ReLU, in numbers.
    conversion = convert(quantised, calibration=DATA, recipe="opi")
    assert len(conversion.neurons) == 1
    got = SpikingSession(conversion.model).run(X, 64).output
    wanted = SpikingSession(convert(plain, calibration=DATA, recipe="opi").model).run(X, 64).output
    assert relative_error({"y": wanted}, {"y": got}) < 0.1


@pytest.mark.parametrize("calibration", [None, DATA])
def test_a_dynamically_quantised_network(tmp_path, calibration):
    """Its activations have no scale before it runs, so that ReLUs are what they were."""
    plain, quantised = tmp_path / "plain.onnx", tmp_path / "quantised.onnx"
    bounds = {"zero": np.float32(0), "two": np.float32(2)}
    onnx.save(model(MAX_POOLED.replace("Relu(b)", "Clip(b, zero, two)"), WEIGHTS | bounds), plain)
    quantize_dynamic(plain, quantised, weight_type=QuantType.QUInt8)
    operators = {node.op_type for node in onnx.load(quantised).graph.node}
    assert {"ConvInteger", "DynamicQuantizeLinear"} <= operators
    conversion = convert(quantised, calibration=calibration, recipe="opi")
    got = SpikingSession(conversion.model).run(X, 64).output
    wanted = SpikingSession(convert(plain, recipe="opi").model).run(X, 64).output
    assert relative_error({"y": wanted}, {"y": got}) < 0.1
    assert "the ANN's activations are quantised" in conversion.notes[0]


@pytest.mark.parametrize("largest", [1 / 8, 64])
def test_a_clip_of_both_signs_that_is_a_quantiser_alone(largest):
    """Without it the network is another, which is told."""
    text = (
        "net (float[N, 4] x) => (float[N, 2] y) { c = MatMul(x, w) q = QuantizeLinear(c, s, z) "
        "a = DequantizeLinear(q, s, z) b = MatMul(a, u) r = Relu(b) y = MatMul(r, v) }"
    )
    levels = {"s": np.float32(largest / 128), "z": np.int8(0)}
    weights = {name: QUANTISED_WEIGHTS[name] for name in "wv"}
    square = np.eye(len(weights["v"]), dtype=np.float32)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    conversion = convert(
        model(text, weights | levels | {"u": square}), calibration=from_arrays(x), recipe="opi"
    )
    told = [note for note in conversion.notes if "a HardTanh, or another clip of both" in note]
    assert bool(told) == (largest < 1)


def test_quantisers_as_pytorch_exports_them():
    """With a Cast to the type that whole numbers have between them."""
    text = (
        "net (float[N, 4] x) => (float[N, 2] y) { c = MatMul(x, w) q = QuantizeLinear(c, s, z) "
        "r = Cast<to = 2>(q) a = DequantizeLinear(r, s, z) y = MatMul(a, v) }"
    )
    levels = {"s": np.float32(1 / 128), "z": np.uint8(0)}
    ann = model(text, {name: QUANTISED_WEIGHTS[name] for name in "wv"} | levels)
    (neurons,) = convert(ann).neurons
    assert neurons.threshold == 255 / 128


@pytest.mark.parametrize("body", [
    "q = QuantizeLinear(x, s, z) t = Transpose<perm = [0, 2, 1]>(q) d = DequantizeLinear(t, s, z) "
    "c = MatMul(d, w) a = Clip(c, zero, one) y = MatMul(a, v)",
    "q = QuantizeLinear(w, s, z) t = Transpose<perm = [1, 0]>(q) d = DequantizeLinear(t, s, z) "
    "c = MatMul(x, d) a = Clip(c, zero, one) y = MatMul(a, v)",
])  # fmt: skip
def test_no_activation_is_quantised_where_whole_numbers_only_move(body):
    text = f"net (float[N, 4, 4] x) => (float[N, 4, 2] y) {{ {body} }}"
    names = ("w", "v", "zero", "one")
    levels = {"s": np.float32(1 / 32), "z": np.uint8(128)}
    ann = model(text, {name: QUANTISED_WEIGHTS[name] for name in names} | levels)
    conversion = convert(ann)
    assert not any("quantised" in note for note in conversion.notes)
    assert "relative error" in conversion.check
    assert check(ann).notes == conversion.notes


def test_errors_of_whole_numbers_are_beside_their_spread():
    """The zero point, wherever it is, is no signal; the same in floating point is one."""
    signal = np.array([[-3, 3], [3, -3]])
    for dtype, zero in ((np.uint8, 128), (np.int8, 0), (np.uint16, 40_000)):
        before, after = ({"y": (x + zero).astype(dtype)} for x in (signal, 0 * signal))
        assert relative_error(before, after) == 1
        assert relative_error(before, before) == 0
    constant = {"y": np.full((2, 2), 7, np.uint8)}
    assert relative_error(constant, {"y": constant["y"] + 1}) == 2
    places = {"y": np.array([3, 4], np.int64)}
    assert relative_error(places, {"y": places["y"] + 1}) == 0


def test_errors_of_numbers_that_are_not_finite():
    """A few may be so in one network alone, by rounding; more are an error without end."""
    before = {"y": np.array([*[-np.inf] * 5, np.inf, np.nan, *np.full(393, 2.0)])}
    assert relative_error(before, before) == 0
    for other in (0.0, np.inf, np.nan):
        after = {"y": before["y"].copy()}
        after["y"][:4] = other
        assert relative_error(before, after) == relative_error(after, before) == 0
        after["y"][7:] += 1
        assert relative_error(before, after) == pytest.approx(0.5)
        after["y"][:5] = other
        assert relative_error(before, after) == np.inf
    assert relative_error(before, {"y": before["y"][:-1]}) == np.inf
    # Of many batches one of another shape is, too; where samples come one by one they add up.
    for wrong, error in ((before["y"][:-1], np.inf), (np.full(400, np.nan), 0)):
        sums = Differences()
        for after in [before["y"]] * 200 + [wrong]:
            sums.add(before, {"y": after})
        assert sums.error() == error
    assert relative_error({"y": np.zeros((0, 2))}, {"y": np.zeros((0, 3))}) == np.inf


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16"])
def test_what_quantised_outputs_cost(kind):
    """What is quantised there is compared, too; places, such as classes, are not."""
    text = (
        f"net (float[N, 4] x) => ({kind}[N, 2] y, int64[N] k) {{ c = MatMul(x, w) "
        "q = QuantizeLinear(c, s, z) a = DequantizeLinear(q, s, z) b = MatMul(a, v) "
        "y = QuantizeLinear(b, t, n) k = ArgMax<axis = 1, keepdims = 0>(b) }"
    )
    levels = {"s": np.float32(1 / 8), "z": np.uint8(0), "t": np.float32(1 / 8),
              "n": np.zeros((), kind)}  # fmt: skip
    ann = model(text, {name: QUANTISED_WEIGHTS[name] for name in "wv"} | levels, opset=21)
    data = from_arrays(X.reshape(50, -1)[:, :4])
    first, *_ = convert(ann, calibration=data, recipe="opi").agreements
    assert first.change == "quantised activations -> clips"
    assert 0.001 < first.error < 0.5


@pytest.mark.parametrize("per_channel", [False, True])
def test_advises_thresholds_per_channel_where_there_are_none(per_channel):
    clipped = Agreement("activations clipped", 90.0, 95.0, 80.0, 0.5)
    (text,) = advice([clipped], per_channel)
    assert "changed the class of 10.0 % of the samples: take higher thresholds" in text
    assert ("--per-channel" in text) != per_channel


def test_advises_no_higher_thresholds_than_are_best_for_the_time_steps():
    clipped = Agreement("activations clipped", 90.0, 95.0, 80.0, 0.5)
    (text,) = advice([clipped], True, True)
    assert "more time-steps (-T)" in text
    assert "--threshold" not in text


def test_advises_the_network_as_it_was_before_quantisation():
    (text,) = advice([Agreement("quantised activations -> clips", 90.0, None, None, 0.5)], True)
    assert "convert the network as it was before quantisation" in text


def test_advises_nothing_where_nothing_helps():
    assert advice([Agreement("exact folding", 90.0, None, None, 0.5)], False) == []


def test_outputs_with_other_numbers_of_rows_do_not_agree():
    pairs = {"s": np.array([-1, 2])}
    before = detach(model("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"))
    after = detach(model("g (float[N, 4] x) => (float[M, 2] y) { y = Reshape(x, s) }", pairs))
    found = compare("halves", before, after, from_arrays(np.ones((3, 4), np.float32)), Running())
    assert found.top1 == 0
    assert found.error == np.inf


@pytest.mark.parametrize("settings", [{"threshold": "max"}, {"per_channel": True}])
def test_statistics_of_data_need_data(settings):
    """Bounds are thresholds without it, whatever statistic was asked for."""
    text = "net (float[N, 3] x) => (float[N, 3] y) { a = Clip(x, zero, one) y = Neg(a) }"
    ann = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    with pytest.raises(DataError, match="is for calibration data: give calibration too"):
        convert(ann, **settings)
    assert convert(ann, per_channel=False).neurons[0].threshold == 1


def test_infinite_padding_before_the_first_neurons_may_stay():
    """Windows that stick out keep it from the pool."""
    text = "net (float[N, 1, 5, 5] x) => (float[N, 1, h, w] y) { p = Pad(x, pads, infinite) "
    text += "m = MaxPool<kernel_shape = [3, 3], strides = [3, 3], ceil_mode = 1>(p) "
    text += "y = Clip(m, zero, one) }"
    weights = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "infinite": np.float32(-np.inf),
        "zero": np.float32(0), "one": np.float32(1),
    }  # fmt: skip
    x = np.random.default_rng(0).normal(size=(4, 1, 5, 5)).astype(np.float32)
    ann = model(text, weights)
    snn = convert(ann, maxpool="exact", v_init=0.5).model
    np.testing.assert_allclose(SpikingSession(snn).run(x, 64).output, run(ann, x), atol=1 / 64)


def test_channels_of_a_sequence_come_last():
    """Behind a product with weights, of places whose number is fixed."""
    text = "net (float[N, 5, 4] x) => (float[N, 5, 2] y) { h = MatMul(x, w) r = Relu(h) "
    text += "y = MatMul(r, v) }"
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 3)), "v": rng.normal(size=(3, 2))}
    ann = model(text, {name: value.astype(np.float32) for name, value in weights.items()})
    x = rng.normal(size=(30, 5, 4)).astype(np.float32)
    conversion = convert(ann, calibration=from_arrays(x), recipe="signed")
    wanted = np.maximum(x @ weights["w"], 0).max((0, 1))
    threshold = conversion.neurons[0].threshold
    np.testing.assert_allclose(threshold.reshape(-1), wanted, rtol=1e-5)


def test_infinity_in_place_of_what_is_masked():
    text = (
        "net (float[N, 4] x) => (float[N, 3] y) { c = MatMul(x, w) r = Relu(c) "
        "%s m = Where(mask, low, r) y = MatMul(m, v) }"
    )
    weights = {"w": normal(4, 3), "v": normal(3, 3), "mask": np.array([False, True, False])}
    node = model(text % "low = Constant<value = float {-inf}>()", weights)
    initializer = model(text % "", weights | {"low": np.float32(-np.inf)})
    for ann in (node, initializer):
        with pytest.raises(UnsupportedModelError, match=r"Where 'm': 'low' .*such as -1e9"):
            convert(ann, calibration=from_arrays(normal(5, 4)), recipe="opi")
    assert [row.node for row in check(node).nodes if "-1e9" in row.reason] == ["m"]


@pytest.mark.parametrize("delay", [0, 3])
def test_infinity_may_take_numbers_out_of_a_choice(delay):
    """As of actions that are not allowed now; but not out of scores that are an output, too."""
    text = (
        "net (float[N, 4] x, bool[N, 3] mask) => (int64[N] y) { "
        "low = Constant<value = float {-inf}>() "
        "c = MatMul(x, w) r = Relu(c) s = MatMul(r, v) m = Where(mask, low, s) "
        "y = ArgMax<axis = 1, keepdims = 0>(m) }"
    )
    ann = model(text, {"w": normal(4, 3), "v": normal(3, 3)})
    x = {"x": normal(20, 4), "mask": np.tile([False, True, False], (20, 1))}
    options = {"calibration": from_arrays(x), "recipe": "opi", "threshold": "max", "delay": delay}
    session = SpikingSession(convert(ann, **options).model)
    result = session.run(x, 4096, [1])
    assert 1 not in result.output
    assert 1 not in result.outputs[1]
    assert 1 not in session.step(x)
    np.testing.assert_array_equal(result.output, Ann(detach(ann)).run(x)["y"])
    ann.graph.output.add().CopyFrom(
        onnx.helper.make_tensor_value_info("m", onnx.TensorProto.FLOAT, ["N", 3])
    )
    with pytest.raises(UnsupportedModelError, match=r"Where 'm': .*such as -1e9"):
        convert(ann, **options)
    assert not check(ann).converts


@pytest.mark.parametrize("recipe", ["robust-norm", "opi", "best"])
def test_activations_may_be_large(recipe):
    """Also as large as a bound by which people mean none."""
    text = (
        "net (float[N, 4] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    )
    ann, x = model(text, {"w": normal(4, 5), "v": normal(5, 3)}), 3e6 * normal(20, 4)
    data = from_arrays(x)
    snn = convert(ann, calibration=data, recipe=recipe, threshold="max", timesteps=512).model
    wanted = run(ann, x)
    error = np.abs(SpikingSession(snn).run(x, 512).output - wanted).max()
    assert error < 0.02 * np.abs(wanted).max()


def test_activations_that_are_not_finite_are_named():
    text = "net (float[N, 3] x) => (float[N, 4] y) { a = MatMul(x, w) r = Relu(a) y = Neg(r) }"
    ann = model(text, {"w": np.full((3, 4), 2, np.float32)})
    x = np.full((4, 3), 1e38, np.float32)
    with pytest.raises(DataError, match="the activation 'r' holds NaN or infinity"):
        convert(ann, calibration=from_arrays(x), threshold="max")


PERCEPTRON = "g (float[N, 4] x) => (float[N, 3] y) { h = MatMul(x, a) BETWEEN y = MatMul(q, b) }"
MATRICES = {"a": normal(4, 6), "b": normal(6, 3)}


def test_thresholds_are_reported_of_neurons_that_were_renamed():
    """By a tensor that has the name of a state, too."""
    data = from_arrays(normal(20, 4))
    proto = model(PERCEPTRON.replace("BETWEEN", "q = Relu(h)"), MATRICES)
    layer, relu, _ = proto.graph.node
    relu.name = "r"
    (wanted,) = convert(proto, calibration=data, recipe="opi", threshold="max").neurons
    layer.output[0] = relu.input[0] = "v/r"
    made = convert(proto, calibration=data, recipe="opi", threshold="max")
    (neuron,) = made.neurons
    assert (wanted.name, neuron.name) == ("r", "r_2")
    assert neuron.source == wanted.source == "max, per channel, 20 samples"
    assert made.notes == []


def test_what_no_session_would_load_is_refused():
    """The mask of a Dropout in the read-out, of which there is no mean."""
    text = PERCEPTRON.replace("BETWEEN", "r = Relu(h) d, m = Dropout(r) c = Cast<to = 1>(m) "
                              "q = Mul(d, c)")  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="Cast"):
        convert(model(text, MATRICES), calibration=from_arrays(normal(20, 4)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("recipe", ["best", "best-burst"])
def test_data_too_large_to_refit_weights_is_told_by_its_scale(recipe):
    text = PERCEPTRON.replace("BETWEEN", "q = Relu(h)")
    data = from_arrays(1e20 * np.abs(normal(20, 4)))
    convert(model(text, MATRICES), calibration=data, recipe="opi")
    with pytest.raises(DataError, match=r"inputs of 'y' reach \d.\d+e\+20, too far to refit"):
        convert(model(text, MATRICES), calibration=data, recipe=recipe)


def test_nodes_refused_for_the_same_reason_are_one_line():
    refusals = [
        Refusal("a", "Softmax", "no"),
        Refusal("b", "Div", "no"),
        Refusal("c", "Softmax", "no"),
    ]
    error = UnsupportedModelError("these:", refusals)
    assert str(error) == "these:\n  Softmax 'a', 'c': no\n  Div 'b': no"
    assert str(refusals[1]) == "Div 'b': no"


def test_max_pooling_is_no_option_of_networks_that_have_none():
    relu = model("net (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }", {})
    assert check(relu, maxpool="exact").options == ("--calibration DATA",)
