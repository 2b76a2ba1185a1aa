"""convert on networks of unusual form, and the check that it always makes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_text import model, run

from onnx2snn import (
    DataError,
    MissingThresholdError,
    PassError,
    SpikingSession,
    UnsupportedModelError,
    check,
    convert,
    evaluate,
    from_arrays,
    network,
)

RNG = np.random.default_rng(0)
W = RNG.normal(size=(6, 6)).astype(np.float32)
V = RNG.normal(size=(6, 3)).astype(np.float32)
X = RNG.normal(size=(40, 6)).astype(np.float32)
WEIGHTS = {"w": W, "u": -W, "v": V, "lo": np.float32(0), "hi": np.float32(2)}
TWO_INPUTS = (
    "net (float[N, 6] left, float[N, 6] right) => (float[N, 3] y) "
    "{ a = MatMul(left, w) b = MatMul(right, u) c = Add(a, b) r = Clip(c, lo, hi) "
    "y = MatMul(r, v) }"
)
TWO_OUTPUTS = (
    "net (float[N, 6] x) => (float[N, 3] logits, float[N, 3] p, int64[N] label) "
    "{ a = MatMul(x, w) r = Clip(a, lo, hi) logits = MatMul(r, v) p = Softmax<axis = 1>(logits) "
    "label = ArgMax<axis = 1, keepdims = 0>(p) }"
)
CURVED = (
    "net (float[N, 6] x) => (float[N, 3] y) "
    "{ a = MatMul(x, w) s = Sigmoid(a) m = Mul(a, s) b = MatMul(m, u) r = Relu(b) "
    "y = MatMul(r, v) }"
)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# Several inputs and outputs -----------------------------------------------------------


def test_several_inputs_come_by_name():
    ann = model(TWO_INPUTS, WEIGHTS)
    session = SpikingSession(convert(ann).model)
    assert list(session.inputs) == ["left", "right"]
    inputs = {"left": X, "right": X[::-1]}
    snn = session.run(inputs, 256).output
    np.testing.assert_allclose(snn, run(ann, X, X[::-1]), atol=0.1)
    moving = {"left": np.stack([X] * 8), "right": X[::-1]}
    np.testing.assert_array_equal(session.run(moving, 8).output, session.run(inputs, 8).output)
    with pytest.raises(DataError, match="inputs left, right: give each by its name"):
        session.run(X, 8)
    with pytest.raises(DataError, match="given were left"):
        session.run({"left": X}, 8)


def test_several_inputs_in_calibration_and_evaluation():
    text = TWO_INPUTS.replace("Clip(c, lo, hi)", "Relu(c)")
    ann = model(text, WEIGHTS)
    labels = run(ann, X, X).argmax(1)
    data = from_arrays({"left": X, "right": X}, labels)
    conversion = convert(ann, calibration=data)
    assert conversion.agreements[0].accuracy_before == 100
    report = evaluate(conversion.model, data, [64], ann=ann, batch_size=7)
    assert report["snn"][0]["accuracy"] > 90
    assert report["macs"] == 36 + 36 + 18


def test_each_output_is_a_read_out():
    session = SpikingSession(convert(model(TWO_OUTPUTS, WEIGHTS)).model)
    result = session.run(X, 16, readout=[4])
    assert session.outputs == ("logits", "p", "label")
    for values in (result.values, result.readouts[4].values):
        np.testing.assert_allclose(values["p"], softmax(values["logits"]), rtol=1e-5)
        np.testing.assert_array_equal(values["label"], values["logits"].argmax(1))
    np.testing.assert_array_equal(result.output, result.values["logits"])
    session.reset()
    steps = [session.step(X) for _ in range(16)]
    total = sum(step["logits"] for step in steps)
    np.testing.assert_allclose(total / 16, result.values["logits"], rtol=1e-6)
    # What is not affine is the read-out of all steps so far.
    np.testing.assert_allclose(steps[-1]["p"], result.values["p"], rtol=1e-6)


def test_a_read_out_that_is_not_affine_in_a_plain_loop():
    snn = convert(model(TWO_OUTPUTS, WEIGHTS)).model
    onnx.checker.check_model(snn, full_check=True)
    stock = onnxruntime.InferenceSession(snn.SerializeToString())
    names, state = [output.name for output in stock.get_outputs()], {}
    for _ in range(12):
        values = dict(zip(names, stock.run(None, {"x": X, **state}), strict=True))
        state = {n.replace("v_next/", "v/"): v for n, v in values.items() if "v_next/" in n}
    result = SpikingSession(snn).run(X, 12)
    np.testing.assert_allclose(values["p"], result.values["p"], rtol=1e-5)
    np.testing.assert_array_equal(values["label"], result.values["label"])


def test_long_runs_with_a_read_out_that_is_not_affine():
    session = SpikingSession(convert(model(TWO_OUTPUTS, WEIGHTS)).model)
    values = session.run(X[:2], 5000).values
    np.testing.assert_allclose(values["p"], softmax(values["logits"]), rtol=1e-5)


# Scalar activations -------------------------------------------------------------------


def test_a_curved_activation_is_refused_with_the_option_that_helps():
    with pytest.raises(UnsupportedModelError, match=r"(?s)Sigmoid 's'.*--approximate N.*Mul 'm'"):
        convert(model(CURVED.replace("a = MatMul(x, w)", "z = Relu(x) a = MatMul(z, w)"), WEIGHTS))


def test_clips_stand_in_for_a_curved_activation():
    ann = model(CURVED, WEIGHTS)
    data = from_arrays(X)
    with pytest.raises(MissingThresholdError, match=r"Sigmoid, Mul 'm'"):
        convert(ann, approximate=4)
    errors = []
    for clips in (2, 4, 8):
        conversion = convert(ann, calibration=data, approximate=clips)
        (row,) = (r for r in conversion.agreements if r.change.startswith("activations approx"))
        errors.append(row.error)
        assert f"'m': {clips} clips over [" in conversion.notes[0]
        assert len(conversion.neurons) == clips + 1
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    snn = SpikingSession(conversion.model).run(X, 256).output
    assert np.corrcoef(snn.ravel(), run(ann, X).ravel())[0, 1] > 0.99


# The check that is always made --------------------------------------------------------


def wrong(graph):
    """A pass that claims to be exact and is not."""
    node = next((node for node in graph.nodes if node.op == "MatMul"), None)
    if node is None or node.attrs.get("done"):
        return False
    node.inputs[1].values = node.inputs[1].values * np.float32(1.01)
    return True


@pytest.mark.parametrize("calibration", [None, from_arrays(X)])
def test_a_pass_that_changes_the_function_is_named(monkeypatch, calibration):
    monkeypatch.setattr(network, "CANONICAL_FORM", (*network.CANONICAL_FORM[:2], wrong_once()))
    with pytest.raises(PassError, match=r"pass wrong should leave.*but changed its output"):
        convert(model(TWO_OUTPUTS, WEIGHTS), calibration=calibration)


def wrong_once():
    seen = set()

    def wrong_once(graph):
        if id(graph) in seen:
            return False
        seen.add(id(graph))
        return wrong(graph)

    wrong_once.__name__ = "wrong"
    return wrong_once


def test_says_on_what_it_was_checked():
    ann = model(TWO_OUTPUTS, WEIGHTS)
    assert convert(ann).check == "not needed: nothing was rewritten"
    text = TWO_OUTPUTS.replace("Clip(a, lo, hi)", "Min(m, hi)")
    plain = model(text.replace("r = ", "m = Max(a, lo) r = "), WEIGHTS)
    assert "2 random inputs (seed 0)" in convert(plain).check
    assert "40 samples of the calibration" in convert(plain, calibration=from_arrays(X)).check


def test_a_newer_opset_is_checked_too():
    ann = model(TWO_OUTPUTS.replace("Softmax<axis = 1>", "Softmax<axis = -1>"), WEIGHTS, opset=13)
    assert "2 random inputs" in convert(ann).check


def test_open_sizes_are_tried():
    text = (
        "net (float[N, 1, H, W] x) => (float[N, 1, 1, 1] y) "
        "{ a = Max(x, lo) b = Min(a, hi) y = GlobalAveragePool(b) }"
    )
    assert "2 random inputs" in convert(model(text, WEIGHTS)).check


# onnx2snn check -----------------------------------------------------------------------


def test_check_agrees_with_convert():
    assert check(model(TWO_OUTPUTS, WEIGHTS)).verdict == "Converts as it is."
    relu = TWO_OUTPUTS.replace("Clip(a, lo, hi)", "Relu(a)")
    assert check(model(relu, WEIGHTS)).verdict == "Converts with --calibration DATA."
    curved = check(model(CURVED, WEIGHTS), approximate=True)
    assert curved.converts
    assert curved.options == ("--approximate N --calibration DATA",)
    roles = {row.node: row.role for row in check(model(TWO_OUTPUTS, WEIGHTS)).nodes}
    assert roles == {
        "a": "before the neurons", "r": "neuron", "logits": "read-out", "p": "read-out",
        "label": "read-out",
    }  # fmt: skip


def test_check_names_what_stands_in_the_way():
    text = CURVED.replace("a = MatMul(x, w)", "z = Relu(x) a = MatMul(z, w)")
    result = check(model(text, WEIGHTS))
    assert not result.converts
    assert result.verdict == (
        "Does not convert: 2 nodes stand in the way; with --approximate N --calibration DATA "
        "it would."
    )
    found = {row.node: row for row in result.nodes if row.role == "obstacle"}
    assert set(found) == {"s", "m"}
    assert "product of two activations" in found["m"].reason
    linear = "net (float[N, 6] x) => (float[N, 6] y) { y = MatMul(x, w) }"
    assert check(model(linear, WEIGHTS)).verdict == "Does not convert: it has no ReLU and no clip."


def test_thresholds_of_clips_are_lowered_by_data_on_demand():
    ann = model(TWO_OUTPUTS, WEIGHTS | {"hi": np.float32(1000)})
    data = from_arrays(X)
    (kept,) = convert(ann, calibration=data, recipe="opi").neurons
    (lowered,) = convert(ann, calibration=data, recipe="opi", recalibrate=True).neurons
    assert kept.threshold == 1000
    assert kept.source == "bound of the clip"
    assert np.all(lowered.threshold < 20)
    assert "99.9 %" in lowered.source
