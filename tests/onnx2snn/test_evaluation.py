"""``evaluate``: whose outputs are compared with whose."""

import numpy as np
import pytest
from one_neuron import WEIGHTS, X
from onnx_text import model

from onnx2snn import DataError, ModelError, convert, evaluate, from_arrays

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
