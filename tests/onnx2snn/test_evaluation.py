"""``evaluate``: whose outputs are compared with whose."""

import numpy as np
import pytest
from one_neuron import WEIGHTS, X
from onnx_text import model

from onnx2snn import DataError, ModelError, SpikingSession, convert, evaluate, from_arrays
from onnx2snn.measuring.classes import require_class_output
from onnx2snn.runtime.result import class_output

BOUNDS = {"zero": np.float32(0), "one": np.float32(1)}


def test_inputs_of_data_may_come_in_another_order():
    text = (
        "net (float[N, 4] x, float[N, 2, 2] z) => (float[N, 4] y) { f = Flatten(z) s = Add(x, f) "
        "r = Clip(s, zero, one) y = Neg(r) }"
    )
    snn = convert(model(text, BOUNDS)).model
    x = np.random.default_rng(0).random((6, 4), np.float32)
    inputs = {"x": x, "z": x.reshape(6, 2, 2)}
    there, back = from_arrays(inputs), from_arrays(dict(reversed(inputs.items())))
    assert evaluate(snn, there, [8]) == evaluate(snn, back, [8])


def test_the_ann_says_its_classes_by_the_output_of_the_same_name():
    text = (
        "net (float[N, 3] x) => (float[N, 2, 2] z, float[N, 2] y) { a = MatMul(x, w) "
        "r = Clip(a, zero, one) z = Reshape(r, shape) y = MatMul(r, v) }"
    )
    ann = model(text, {n: WEIGHTS[n] for n in "wv"} | BOUNDS | {"shape": np.array([-1, 2, 2])})
    row = evaluate(convert(ann).model, from_arrays(X), [64], ann=ann)["snn"][0]
    assert row["agreement"] > 80


def test_an_ann_of_other_rows_is_not_the_same_network():
    text = "net (float[N, 3] x) => (float[M, 4] y) { a = MatMul(x, w) r = Clip(a, zero, one) "
    weights = {"w": WEIGHTS["w"]} | BOUNDS
    snn = convert(model(text + "y = Neg(r) }", weights)).model
    other = model(text + "n = Neg(r) y = ReduceMean<axes = [0]>(n) }", weights)
    with pytest.raises(DataError, match="they are not the same network"):
        evaluate(snn, from_arrays(X), [4], ann=other)


def test_a_spiking_network_is_no_ann_before_anything_runs():
    text = "net (float[N, 3] x) => (float[N, 4] y) { a = MatMul(x, w) r = Clip(a, zero, one) "
    snn = convert(model(text + "y = Neg(r) }", {"w": WEIGHTS["w"]} | BOUNDS)).model
    ran = []
    with pytest.raises(ModelError, match="is a spiking network"):
        evaluate(
            snn, from_arrays(X), [4], ann=snn, precision="int8", report=lambda *a: ran.append(a)
        )
    assert not ran


@pytest.mark.parametrize(("dtype", "to"), [("int32", 6), ("uint8", 2)])
def test_scores_may_be_whole_numbers(dtype, to):
    """As those of a quantised network are; not of 64 bits, which are labels or places."""
    text = (
        "net (float[N, 3] x) => (%s[N, 2] y) "
        "{ a = MatMul(x, w) r = Clip(a, zero, one) s = MatMul(r, v) m = Mul(s, k) c = Add(m, k) "
        "y = Cast<to = %s>(c) }"
    )
    weights = {n: np.abs(WEIGHTS[n]) for n in "wv"} | BOUNDS | {"k": np.float32(20)}
    data = from_arrays(X, np.zeros(len(X), np.int64))
    row = evaluate(convert(model(text % (dtype, to), weights)).model, data, [64])["snn"][0]
    assert 0 <= row["accuracy"] <= 100
    with pytest.raises(DataError, match=r"of scores \[N, classes\], not int64\[12, 2\]"):
        evaluate(convert(model(text % ("int64", 7), weights)).model, data, [4])


def test_an_ann_that_says_nan_is_told_by_its_own_output():
    text = "net (float[N, 3] x) => (float[N, 4] %s) { a = MatMul(x, w) r = Clip(a, zero, one) "
    weights = {"w": WEIGHTS["w"], "none": np.float32(np.nan)} | BOUNDS
    snn = convert(model(text % "y" + "y = Neg(r) }", weights)).model
    ann = model(text % "logits" + "logits = Mul(r, none) }", weights)
    with pytest.raises(DataError, match="the ANN's output 'logits' holds NaN"):
        evaluate(snn, from_arrays(X), [4], ann=ann)


def test_whole_numbers_beside_scores_of_places_are_no_classes():
    """As the labels of a sequence beside its scores; and what is no array has no type."""
    labels, scores = np.zeros((4, 7), np.int32), np.zeros((4, 7, 5), np.float32)
    assert class_output({"labels": labels}) == "labels"
    assert class_output({"scores": scores, "labels": labels}) is None
    with pytest.raises(DataError, match=r"not a sequence, int32\[4, 7\], float32\[4, 7, 5\] of"):
        require_class_output({"parts": [labels], "labels": labels, "scores": scores})


def test_rounded_networks_are_compared_with_themselves_in_float32(monkeypatch):
    """At each number of time-steps."""
    monkeypatch.setattr("onnx2snn.runtime.layers.int8.WORTH", np.inf)
    rng = np.random.default_rng(1)
    text = (
        "net (float[N, 16] x) => (float[N, 10] y) { a = Clip(x, zero, one) b = MatMul(a, w) "
        "c = Clip(b, zero, one) d = MatMul(c, v) e = Clip(d, zero, one) y = MatMul(e, u) }"
    )
    shapes = {"w": (16, 16), "v": (16, 16), "u": (16, 10)}
    weights = {name: rng.normal(size=n).astype(np.float32) / 2 for name, n in shapes.items()}
    snn = convert(model(text, weights | BOUNDS)).model
    x = rng.random((200, 16), np.float32)
    report = evaluate(snn, from_arrays(x), [4, 32], precision="int8", batch_size=200)
    said = {
        precision: SpikingSession(snn, precision=precision).run(x, 32, [4]).readouts
        for precision in ("float32", "int8")
    }
    for row in report["float32"]:
        plain, rounded = (said[p][row["timesteps"]].output.argmax(1) for p in said)
        assert row["agreement"] == 100 * (plain == rounded).mean() < 100
