"""convert on networks of unusual form, and the check that it always makes."""

import pickle

import numpy as np
import onnx
import pytest
import stock
from onnx_text import model, run

from onnx2snn import (
    DataError,
    MissingThresholdError,
    PassError,
    SpikingSession,
    UnsupportedModelError,
    check,
    convert,
    diagnose,
    evaluate,
    from_arrays,
    to_loop,
    write_model,
)
from onnx2snn.converting import checking, network
from onnx2snn.graph_passes import Refusal
from onnx2snn.recipes import RECIPES

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


def test_the_name_of_the_only_input_is_said(tmp_path):
    ann = model("net (float[N, 6] image) => (float[N, 6] y) { y = Clip(image, lo, hi) }", WEIGHTS)
    data = from_arrays({"images": X, "labels": np.arange(len(X))})
    for ask in (lambda s: evaluate(s, data, [4]), lambda s: SpikingSession(s).run({"a": X}, 4)):
        with pytest.raises(DataError, match=r"has the inputs image; given were .*call the array x"):
            ask(convert(ann).model)


def test_an_input_that_passes_straight_through_is_copied():
    ann = model(
        "net (float[N, 6] x, int64[N] id) => (float[N, 6] y, int64[N] id) { y = Clip(x, lo, hi) }",
        WEIGHTS,
    )
    session, ids = SpikingSession(convert(ann).model), np.arange(len(X))
    result = session.run({"x": X, "id": ids}, 8, [4])
    ids[:] = -1
    result.values["id"][0] = -2
    assert result.readouts[4].values["id"].tolist() == list(range(len(X)))
    assert set(ids) == {-1}


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
    *_, (values, _) = stock.steps(snn, {"x": X}, 12)
    result = SpikingSession(snn).run(X, 12)
    np.testing.assert_allclose(values["p"], result.values["p"], rtol=1e-5)
    np.testing.assert_array_equal(values["label"], result.values["label"])


def test_long_runs_with_a_read_out_that_is_not_affine():
    session = SpikingSession(convert(model(TWO_OUTPUTS, WEIGHTS)).model)
    values = session.run(X[:2], 5000).values
    np.testing.assert_allclose(values["p"], softmax(values["logits"]), rtol=1e-5)


# Scalar activations -------------------------------------------------------------------


def settles(conversion, ann):
    """What is a mean of neurons for long enough is what the ANN computes of the same values."""
    found = SpikingSession(conversion.model).run(X[:5], 4096).output
    np.testing.assert_allclose(found, run(ann, X[:5]), atol=0.02)


def becomes(ann, neurons):
    """Of these activations alone neurons are made, and what they settle at is the ANN's."""
    conversion = convert(ann, calibration=from_arrays(X), recipe="opi", threshold="max")
    assert [neuron.name for neuron in conversion.neurons] == neurons
    settles(conversion, ann)


BANK = np.abs(np.random.default_rng(0).normal(size=(6, 6))).astype(np.float32)
HEADS = {
    "normalize": "n = ReduceL2<axes = [1], keepdims = 1>(b) c = Clip(n, tiny) s = Shape(b) "
    "e = Expand(c, s) y = Div(b, e)",
    "log of a probability": "p = Softmax<axis = 1>(b) c = Clip(p, tiny) y = Log(c)",
    "clamped sigmoid": "p = Sigmoid(b) y = Clip(p, lo, one)",
    "hard shrink": "p = Softmax<axis = 1>(b) y = ThresholdedRelu<alpha = 0.3>(p)",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("calibration", [None, from_arrays(X)])
def test_a_clip_behind_what_is_not_affine_stays_in_the_read_out(head, calibration):
    text = (
        "net (float[N, 6] x) => (float[N, 3] y) "
        f"{{ a = MatMul(x, w) r = Clip(a, lo, hi) b = MatMul(r, v) {HEADS[head]} }}"
    )
    ann = model(text, WEIGHTS | {"tiny": np.float32(1e-7), "one": np.float32(1)})
    rows = check(ann)
    assert rows.converts
    assert rows.options == ()
    assert [row.node for row in rows.nodes if row.role == "neuron"] == ["r"]
    conversion = convert(ann, calibration=calibration, recipe="opi")
    assert [neuron.name for neuron in conversion.neurons] == ["r"]
    kept = [(refusal.node, refusal.op) for refusal in conversion.analog]
    assert len(kept) == 1
    assert "in the read-out" in conversion.analog[0].reason
    assert kept == [(n.node, n.op) for n in rows.nodes if n.reason.startswith("it stays as it is")]
    # What is a mean of neurons for long enough is what the ANN computes of the same values.
    values = SpikingSession(conversion.model).run(X[:5], 4096).output
    near = np.isclose(values, run(ann, X[:5]), atol=0.02)
    assert near.all() if head != "hard shrink" else near.mean() > 0.9


def test_distances_to_prototypes_are_read_out():
    """As PyTorch exports ``torch.cdist``: |b|^2 - 2 b p + |p|^2 is a product."""
    prototypes = BANK[:4, :3]
    weights = np.concatenate([-2 * prototypes.T, np.ones((1, 4), np.float32)])
    text = (
        "net (float[N, 6] x) => (float[N, 4] y) { a = MatMul(x, w) r = Clip(a, lo, hi) "
        "b = MatMul(r, v) q = Pow(b, hi) s = ReduceSum(q, ones) c = Concat<axis = 1>(b, s) "
        "m = MatMul(c, p) t = Add(m, squares) d = Max(t, lo) e = Sqrt(d) y = Neg(e) }"
    )
    values = {"p": weights, "squares": (prototypes**2).sum(1), "ones": np.array([1])}
    ann = model(text, WEIGHTS | values)
    assert check(ann).converts
    conversion = convert(ann, recipe="opi")
    assert [neuron.name for neuron in conversion.neurons] == ["r"]
    settles(conversion, ann)


def test_hidden_layers_are_no_read_out():
    """log(1 + relu(.)) in each: no ReLU is the guard of the logarithm behind it."""
    body = "g = MatMul(x, w) r = Relu(g) o = Add(r, hi) l = Log(o) h = MatMul(l, u) s = Relu(h) "
    body += "p = Add(s, hi) q = Log(p) i = MatMul(q, w) t = Relu(i) k = Add(t, hi) m = Log(k)"
    ann = model(f"net (float[N, 6] x) => (float[N, 3] y) {{ {body} y = MatMul(m, v) }}", WEIGHTS)
    assert not check(ann).converts
    made = convert(ann, calibration=from_arrays(X), recipe="opi", approximate=2)
    assert [n.name for n in made.neurons if "clip" not in n.name] == ["r", "s", "t"]


def test_what_divides_the_read_out_are_neurons():
    """The guard behind, of the last layer, is none that would follow the division."""
    text = (
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) n = Relu(a) d = Add(n, hi) "
        "i = Reciprocal(d) m = MatMul(i, v) c = Relu(m) y = Sqrt(c) }"
    )
    becomes(model(text, WEIGHTS), ["n"])


def test_a_norm_before_a_guarded_read_out_is_no_neuron():
    """Of its first spikes the mean would be 0, by which it divides."""
    text = (
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) "
        "s = ReduceSum(r, last) n = Clip(s, tiny) i = Div(r, n) m = MatMul(i, v) c = Relu(m) "
        "y = Sqrt(c) }"
    )
    ann = model(text, WEIGHTS | {"last": np.array([1]), "tiny": np.float32(1e-6)})
    for on_means in (False, True):
        made = convert(ann, calibration=from_arrays(X), recipe="opi", on_means=on_means)
        assert [neuron.name for neuron in made.neurons] == ["r"]


FRONTS = {
    "normalize": "n = ReduceL2<axes = [1], keepdims = 1>(x) c = Clip(n, tiny) s = Div(x, c)",
    "log of a clamp": "q = Mul(x, x) c = Clip(q, tiny) s = Log(c)",
    "log1p of magnitudes": "m = Abs(x) o = Add(m, one) s = Log(o)",
    "a share of the magnitudes": "m = Abs(x) t = ReduceSum<keepdims = 1>(m) s = Div(m, t)",
    "a root": "c = Clip(x, lo, one) o = Add(c, tiny) s = Sqrt(o)",
    "log of a bank of magnitudes": "m = Abs(x) t = MatMul(m, bank) o = Add(t, tiny) s = Log(o)",
    "root of two banks": "m = Relu(x) t = MatMul(m, bank) o = MatMul(t, bank) s = Sqrt(o)",
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("maxpool", ["exact", "average"])
def test_what_prepares_the_input_stays_what_it_is(front, maxpool):
    text = (
        "net (float[N, 6] x) => (float[N, 3] y) "
        f"{{ {FRONTS[front]} b = MatMul(s, u) r = Relu(b) d = Clip(r, lo, hi) y = MatMul(d, v) }}"
    )
    weights = WEIGHTS | {"tiny": np.float32(1e-3), "one": np.float32(1), "bank": BANK}
    ann = model(text, weights)
    rows = check(ann, maxpool=maxpool)
    assert rows.converts
    assert [row.op for row in rows.nodes if row.role == "neuron"] == ["Clip"]
    conversion = convert(ann, calibration=from_arrays(X), recipe="opi", maxpool=maxpool)
    assert len(conversion.neurons) == 1
    first = [refusal for refusal in conversion.analog if refusal.op in ("Clip", "Relu")]
    assert first
    assert all(refusal.reason.startswith("it prepares the input") for refusal in first)
    assert {n.node for n in rows.nodes if "it prepares" in n.reason} == {n.node for n in first}
    settles(conversion, ann)


@pytest.mark.parametrize(
    "front",
    [
        "m = Relu(x) t = MatMul(m, mixed) o = Add(t, tiny) s = Log(o)",
        "m = MatMul(x, mixed) i = Relu(m) t = MatMul(i, bank) o = Add(t, tiny) s = Log(o)",
        "m = Relu(x) t = MatMul(m, bank) o = Add(t, tiny) l = Log(o) s = Add(l, t)",
    ],
)
def test_layers_before_a_logarithm_that_are_no_filter_bank(front):
    """They add up with either sign, or what is activated, or more is made of them."""
    text = f"net (float[N, 6] x) => (float[N, 3] y) {{ {front} b = MatMul(s, u) r = Relu(b) "
    text += "d = Clip(r, lo, hi) y = MatMul(d, v) }"
    mixed = np.where(np.eye(6), -BANK, BANK)
    ann = model(text, WEIGHTS | {"tiny": np.float32(1e-3), "bank": BANK, "mixed": mixed})
    assert not check(ann).converts


SPECTRUM = (
    "net (float[N, 1, 12] x) => (float[N, 3] y) { re = Conv(x, cos) im = Conv(x, sin) "
    "p = Mul(re, re) q = Mul(im, im) s = Add(p, q) "
)
LAYERS = "f = Flatten(l) a = MatMul(f, w1) %s y = MatMul(h, w2) }"
SPECTRA = {
    "log mel": "t = Transpose<perm = [0, 2, 1]>(s) m = MatMul(t, mel) c = Clip(m, tiny) l = Log(c)",
    "log of a maximum": "c = Max(s, tiny) g = Log(c) l = Mul(g, hi)",
    "magnitudes": "c = Add(s, tiny) l = Sqrt(c)",
    "magnitudes above 0": "c = Relu(s) l = Sqrt(c)",
    "decibels, normalized": "c = Clip(s, tiny) g = Log(c) m = ReduceMax<axes = [1, 2]>(g) "
    "d = Sub(g, m) b = Neg(m) e = Max(b, tiny) l = Div(d, e)",
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_spectrum_of_the_input_is_computed_before_the_neurons(spectrum):
    """Though convolutions make it; and no clips stand in for its logarithm."""
    rng = np.random.default_rng(0)
    angles = np.outer(1 + np.arange(4), np.arange(6)) * np.pi / 6
    weights = {
        "cos": np.cos(angles)[:, None], "sin": np.sin(angles)[:, None],
        "mel": rng.uniform(0, 1, (4, 4)), "w1": rng.normal(size=(7 * 4, 6)) / 4,
        "w2": rng.normal(size=(6, 3)), "tiny": 1e-3, "hi": 2.0,
    }  # fmt: skip
    weights = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    x = rng.normal(size=(20, 1, 12)).astype(np.float32)
    ann = model(SPECTRUM + SPECTRA[spectrum] + LAYERS % "h = Relu(a)", weights)
    assert check(ann).verdict == "Converts with --calibration DATA."
    assert check(ann, approximate=True).verdict == "Converts with --calibration DATA."
    for given in ({"approximate": 4}, {"on_means": "yes"}):
        with pytest.raises(DataError, match=f"{next(iter(given))} must be True or False"):
            check(ann, **given)
    for clips in (None, 4):
        made = convert(
            ann, calibration=from_arrays(x), recipe="opi", threshold="max", approximate=clips
        )
        assert [neuron.name for neuron in made.neurons] == ["h"]
        assert {"Log", "Sqrt"} & {refusal.op for refusal in made.analog}
        found = SpikingSession(made.model).run(x, 2048).output
        wanted = run(ann, x)
        np.testing.assert_allclose(found, wanted, atol=0.01 * np.abs(wanted).max())


def test_what_is_before_the_neurons_is_not_said_to_be_on_means():
    """Not since clips could stand in for a curve before it."""
    ann = model(
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) e = Sigmoid(a) "
        "m = ReduceMax<axes = [1]>(e) d = Div(e, m) b = MatMul(d, u) r = Relu(b) "
        "y = MatMul(r, v) }",
        WEIGHTS,
    )
    roles = {row.op: row.role for row in check(ann, on_means=True).nodes}
    assert roles["Div"] == roles["ReduceMax"] == "before the neurons"
    roles = {row.op: row.role for row in check(ann, on_means=True, approximate=True).nodes}
    assert roles["Div"] == roles["ReduceMax"] == "on means"


def test_what_keeps_a_variance_from_0_is_no_neuron():
    """Of a layer normalization as Flax has it, also where it is the only ReLU of a network."""
    norm = (
        "s = ReduceMean<axes = [1]>(g) q = Mul(g, g) t = ReduceMean<axes = [1]>(q) p = Mul(s, s) "
        "d = Sub(t, p) r = Relu(d) e = Add(r, tiny) k = Sqrt(e) i = Reciprocal(k) "
        "j = Mul(i, scale) c = Sub(g, s) f = Mul(c, j)"
    )
    text = "net (float[N, 6] x) => (float[N, 3] y) "
    text += f"{{ a = MatMul(x, w) g = Softplus(a) {norm} b = MatMul(f, u) %s y = MatMul(h, v) }}"
    scale = np.linspace(0.5, 1.5, 6, dtype=np.float32)
    weights = WEIGHTS | {"tiny": np.float32(1e-2), "scale": scale}
    for last in ("Softplus", "Identity"):
        ann = model(text % f"h = {last}(b)", weights)
        with pytest.raises(UnsupportedModelError, match="Relu 'r': nothing but a divisor"):
            convert(ann, calibration=from_arrays(X))
        assert not check(ann).converts
    ann = model(text % "h = Softplus(b)", weights)
    assert check(ann, approximate=True).verdict.endswith("with --on-means it would.")
    found = check(ann, approximate=True, on_means=True)
    assert found.options == ("--approximate N --calibration DATA", "--on-means")
    assert {"Sqrt", "Reciprocal"} <= {row.op for row in found.nodes if row.role == "on means"}
    made = convert(ann, calibration=from_arrays(X), recipe="opi", approximate=16, on_means=True)
    assert len([note for note in made.notes if "clips over" in note]) == 2
    values = SpikingSession(made.model).run(X, 1024).output
    np.testing.assert_allclose(values, run(ann, X), atol=0.1)


def test_no_clips_stand_in_for_a_norm():
    """Before the first neuron it stays what it is; behind one it is in the way."""
    norm = (
        "q = Pow(a, two) m = ReduceMean<axes = [1]>(q) e = Add(m, tiny) k = Sqrt(e) f = Div(a, k)"
    )
    text = "net (float[N, 6] x) => (float[N, 3] y) "
    text += f"{{ g = MatMul(x, w) %s {norm} s = Sigmoid(f) h = Mul(f, s) y = MatMul(h, v) }}"
    weights = WEIGHTS | {"two": np.float32(2), "tiny": np.float32(1e-3)}
    ann = model(text % "a = Identity(g)", weights)
    assert check(ann, approximate=True).converts
    made = convert(ann, calibration=from_arrays(X), recipe="opi", approximate=16)
    assert {refusal.op for refusal in made.analog} == {"Pow", "Sqrt", "Div"}
    found = SpikingSession(made.model).run(X, 2048).output
    np.testing.assert_allclose(found, run(ann, X), atol=0.05)
    ann = model(text % "a = Relu(g)", weights)
    assert check(ann, approximate=True).verdict.endswith("with --on-means it would.")
    with pytest.raises(UnsupportedModelError, match="on-means"):
        convert(ann, calibration=from_arrays(X), recipe="opi", approximate=16)


@pytest.mark.parametrize("activation", ["Sigmoid", "Relu"])
def test_no_clips_stand_in_for_a_norm_before_the_last_layer(activation):
    """As of a language model: x^2 and the root of its mean belong to the read-out."""
    norm = "q = Pow(b, two) m = ReduceMean<axes = [1]>(q) e = Add(m, tiny) k = Sqrt(e) "
    norm += "i = Div(one, k) f = Mul(b, i)"
    text = "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) "
    text += f"h = {activation}(a) b = MatMul(h, u) {norm} y = MatMul(f, v) }}"
    weights = WEIGHTS | {"two": np.float32(2), "tiny": np.float32(1e-3), "one": np.float32(1)}
    ann = model(text, weights)
    made = convert(ann, calibration=from_arrays(X), recipe="opi", approximate=16)
    assert len(made.neurons) == (16 if activation == "Sigmoid" else 1)
    found = SpikingSession(made.model).run(X, 2048).output
    np.testing.assert_allclose(found, run(ann, X), atol=0.05)


@pytest.mark.parametrize("first", [
    "s = ReduceMean<axes = [1]>(r) q0 = Sub(r, s) p0 = Mul(q0, q0) v0 = ReduceMean<axes = [1]>(p0) "
    "e0 = Add(v0, tiny) k0 = Sqrt(e0) n = Div(q0, k0)",
    "n = Softmax(r)",
])  # fmt: skip
def test_a_norm_before_the_last_layer_is_no_activation(first):
    """The ReLU before another norm stays the one that there is."""
    text = f"net (float[N, 6] x) => (float[N, 3] y) {{ a = MatMul(x, w) r = Relu(a) {first} "
    text += "b = MatMul(n, u) q = Pow(b, two) m = ReduceMean<axes = [1]>(q) e = Add(m, tiny) "
    text += "k = Sqrt(e) f = Div(b, k) y = MatMul(f, v) }"
    ann = model(text, WEIGHTS | {"two": np.float32(2), "tiny": np.float32(1e-3)})
    for approximate in (None, 8):
        made = convert(ann, calibration=from_arrays(X), recipe="opi", approximate=approximate)
        assert len(made.neurons) == 1
    found = SpikingSession(made.model).run(X, 2048).output
    np.testing.assert_allclose(found, run(ann, X), atol=0.1)


@pytest.mark.parametrize(
    ("inside", "converts"), [("s = Neg(c)", True), ("s = MatMul(c, z)", False)]
)
def test_a_branch_is_a_layer_if_weights_are_in_it(inside, converts):
    """As torchvision's batched_nms behind boxes that are decoded and clipped to the image."""
    text = "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) b = MatMul(r, v) "
    text += "e = Exp(b) c = Clip(e, tiny, two) n = Size(x) k = Equal(n, none) y = If (k) <"
    text += "then_branch = none () => (float[N, 3] o) { o = Identity(c) }, "
    text += f"else_branch = some () => (float[N, 3] s) {{ {inside} }}> }}"
    numbers = {"two": np.float32(2), "tiny": np.float32(1e-3), "none": np.int64(0)}
    ann = model(text, WEIGHTS | numbers | {"z": np.eye(3, dtype=np.float32)})
    assert check(ann).converts == converts
    if converts:
        made = convert(ann, calibration=from_arrays(X), recipe="opi")
        assert len(made.neurons) == 1
        found = SpikingSession(made.model).run(X, 2048).output
        np.testing.assert_allclose(found, run(ann, X), atol=0.05)


def test_a_branch_that_makes_a_divisor_is_no_part_of_a_norm():
    text = "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) "
    text += (
        "n = ReduceMax<keepdims = 0>(x) k = Greater(n, two) s = ReduceSum<keepdims = 1>(r, last) "
    )
    text += "d = If (k) <then_branch = one () => (float[N, 1] o) { o = Add(s, two) }, "
    text += "else_branch = other () => (float[N, 1] p) { p = Add(s, tiny) }> "
    text += "m = Div(r, d) b = MatMul(m, v) y = Relu(b) }"
    numbers = {"two": np.float32(2), "tiny": np.float32(1e-3), "last": np.array([1])}
    ann = model(text, WEIGHTS | numbers)
    (advice,) = [node.reason for node in check(ann).nodes if node.op == "If"]
    assert "control flow" in advice
    assert "--on-means" not in advice


@pytest.mark.parametrize("gate", [
    "n = Neg(b) e = Exp(n) s = Add(e, one) i = Div(one, s) h = Mul(a, i)",
    "n = Neg(b) e = Exp(n) s = Add(e, one) h = Div(a, s)",
])  # fmt: skip
def test_a_gate_that_is_spelled_out_is_no_norm(gate):
    text = "net (float[N, 6] x) => (float[N, 3] y) "
    text += f"{{ a = MatMul(x, w) b = MatMul(x, u) {gate} y = MatMul(h, v) }}"
    ann = model(text, WEIGHTS | {"one": np.float32(1)})
    assert check(ann, approximate=True).converts


@pytest.mark.parametrize(
    "guarded", ["s = ReduceSum(x, one) t = Max(s, low) p = Div(x, t)", "t = Max(x, low) p = Log(t)"]
)
def test_what_prepares_the_input_of_curves_is_no_neuron(guarded):
    """Else the one neuron would be what keeps a sum, or a logarithm, from 0; nor is that."""
    text = f"net (float[N, 6] x) => (float[N, 3] y) {{ {guarded} a = MatMul(p, w) "
    text += "g = Sigmoid(a) h = Mul(a, g) y = MatMul(h, v) }"
    ann = model(text, WEIGHTS | {"low": np.float32(0.5), "one": np.array([1])})
    found = check(ann)
    assert not found.converts
    wanted = "it has no ReLU and no clip; with --approximate N --calibration DATA it would."
    assert found.verdict.endswith(wanted)
    assert check(ann, approximate=True).converts
    made = convert(ann, calibration=from_arrays(X), recipe="opi", approximate=16)
    assert len(made.neurons) == 16
    found = SpikingSession(made.model).run(X, 2048).output
    np.testing.assert_allclose(found, run(ann, X), atol=0.05)


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_a_fourier_transform_between_neurons(plan):
    """As FNet mixes: it is linear in its signal."""
    text = (
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) "
        "e = Unsqueeze(r, minus) d = DFT<axis = 1>(e) g = Gather<axis = 2>(d, zero) "
        "c = MatMul(g, u) t = Relu(c) y = MatMul(t, v) }"
    )
    ann = model(text, WEIGHTS | {"minus": np.array([-1]), "zero": np.array(0)})
    made = convert(ann, calibration=from_arrays(X), recipe="opi")
    found = SpikingSession(made.model, plan=plan).run(X, 2048).output
    np.testing.assert_allclose(found, run(ann, X), atol=0.05)


def test_check_names_the_data_that_relus_need_beside_means():
    text = "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) b = MatMul(r, u) "
    text += "s = Softmax(b) c = MatMul(s, u) t = Relu(c) y = MatMul(t, v) }"
    ann = model(text, WEIGHTS)
    assert check(ann).verdict.endswith("with --on-means --calibration DATA it would.")
    assert check(ann, on_means=True).verdict == "Converts with --calibration DATA --on-means."


def test_check_sees_neurons_that_there_are_with_clips_alone():
    """Without these the magnitude only keeps a logarithm of the read-out from 0."""
    text = (
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) n = ReduceMean<axes = [1]>(a) "
        "q = Mul(a, a) m = ReduceMean<axes = [1]>(q) s = Mul(n, n) d = Sub(m, s) r = Relu(d) "
        "e = Add(r, hi) k = Sqrt(e) i = Reciprocal(k) c = Sub(a, n) f = Mul(c, i) t = Abs(f) "
        "o = Add(t, hi) l = Log(o) b = MatMul(l, u) g = Sigmoid(b) h = Mul(b, g) y = MatMul(h, v) }"
    )
    ann = model(text, WEIGHTS)
    found = check(ann, approximate=True)
    assert found.converts
    made = convert(ann, calibration=from_arrays(X), recipe="opi", approximate=4)
    assert {neuron.name for neuron in made.neurons if "clip" not in neuron.name} == {
        row.node for row in found.nodes if row.role == "neuron"
    }


def test_what_is_no_spectrum_has_clips_for_its_curves():
    """A Softplus in parts, and where no activation would be left."""
    weights = {
        "w": W[:, :, None], "w1": RNG.normal(size=(6, 6)).astype(np.float32),
        "w2": RNG.normal(size=(6, 3)).astype(np.float32), "one": np.float32(1),
    }  # fmt: skip
    text = "net (float[N, 6, 1] x) => (float[N, 3] y) { c = Conv(x, w) "
    data = from_arrays(X[:, :, None])
    softplus = "e = Exp(c) o = Add(e, one) l = Log(o)"
    ann = model(text + softplus + LAYERS % "h = Relu(a)", weights)
    made = convert(ann, calibration=data, recipe="opi", approximate=4)
    assert len(made.neurons) == 5
    square = "e = Mul(c, c) o = Add(e, one) l = Log(o)"
    ann = model(text + square + LAYERS % "h = Identity(a)", weights)
    made = convert(ann, calibration=data, recipe="opi", approximate=4)
    assert len(made.neurons) == 4


NO_SPECTRA = {
    # What follows becomes no neurons.
    "head": ("e = Mul(c, c) o = Add(e, one) l = Log(o)", "h = Identity(a)", "s = Softmax(y)", 4),
    "pool": (
        "e = Mul(c, c) o = Add(e, one) g = Log(o) l = MaxPool<kernel_shape = [1]>(g)",
        "h = Identity(a)", "s = Neg(y)", 4,
    ),
    # A ReLU of a layer, whatever its input was divided by.
    "relu": (
        "m = ReduceMean<axes = [1]>(c) d = Div(c, m) q = Conv(d, w) r = Relu(q) l = Sqrt(r)",
        "h = Relu(a)", "s = Neg(y)", 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_SPECTRA)
def test_layers_before_a_logarithm_are_layers(what):
    first, last, head, neurons = NO_SPECTRA[what]
    weights = {
        "w": W[:, :, None], "w1": RNG.normal(size=(6, 6)).astype(np.float32),
        "w2": RNG.normal(size=(6, 3)).astype(np.float32), "one": np.float32(1),
    }  # fmt: skip
    text = "net (float[N, 6, 1] x) => (float[N, 3] s) { c = Conv(x, w) "
    ann = model(text + f"{first} {LAYERS % last}".replace("}", f"{head} }}"), weights)
    assert check(ann, approximate=True).converts
    made = convert(ann, calibration=from_arrays(X[:, :, None]), recipe="opi", approximate=4)
    assert len(made.neurons) == neurons


def test_a_curve_behind_a_spectrum_has_clips_of_its_own():
    text = "net (float[N, 6] x) => (float[N, 3] y) { q = Mul(x, x) c = MatMul(q, p) a = Max(c, o) "
    text += "l = Log(a) t = Tanh(l) b = MatMul(t, u) r = Relu(b) y = MatMul(r, v) }"
    ann = model(text, WEIGHTS | {"p": np.abs(W), "o": np.float32(0.1)})
    made = convert(ann, calibration=from_arrays(X), recipe="opi", approximate=4)
    assert any(note.startswith("Tanh 't'") for note in made.notes)
    assert "Log" in {refusal.op for refusal in made.analog}
    assert len(made.neurons) == 5
    rows = {row.node: row.role for row in check(ann, approximate=True).nodes}
    assert (rows["l"], rows["t"]) == ("before the neurons", "approximated")


def test_a_relu_whose_only_followers_are_of_the_read_out_is_a_neuron():
    """The clip of the norm becomes none, so nothing stands behind the Softmax."""
    ann = model(
        "net (float[N, 6] x) => (float[N, 3] y) { r = Relu(x) p = Softmax(r) l = MatMul(p, v) "
        "n = ReduceL2<axes = [1], keepdims = 1>(l) c = Clip(n, tiny) y = Div(l, c) }",
        {"v": WEIGHTS["v"], "tiny": np.float32(1e-7)},
    )
    becomes(ann, ["r"])


def test_with_clips_for_a_curve_what_prepares_the_input_is_neurons():
    images = (
        "net (float[N, 1, 2, 3] x) => (float[N, 3] y) { r = Relu(x) "
        "m = MaxPool<kernel_shape = [1, 2]>(r) s = Sigmoid(m) f = Flatten(s) a = MatMul(f, w) "
        "q = Relu(a) y = MatMul(q, v) }"
    )
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in (("w", (4, 6)), ("v", (6, 3)))}
    ann, data = model(images, weights), from_arrays(X.reshape(-1, 1, 2, 3))
    rows = {row.node: row.role for row in check(ann, approximate=True).nodes}
    assert (rows["r"], rows["s"], rows["q"]) == ("neuron", "approximated", "neuron")
    conversion = convert(ann, calibration=data, recipe="opi", maxpool="average", approximate=8)
    assert not conversion.analog
    assert {"r", "q"} < {neuron.name for neuron in conversion.neurons}
    alone = convert(ann, calibration=data, recipe="opi", maxpool="average")
    assert [neuron.name for neuron in alone.neurons] == ["q"]
    assert [refusal.node for refusal in alone.analog] == ["r", "s"]


def test_reasons_for_pools_that_stay_are_given_once():
    """Also where it is tried again, behind clips for a curve."""
    ann = model(
        "net (float[N, 1, 2, 3] x) => (float[N, 6] y, int64[N, 1, 2, 3] i) { s = Sigmoid(x) "
        "r = Relu(s) m, i = MaxPool<kernel_shape = [1, 1]>(r) f = Flatten(m) y = MatMul(f, w) }",
        {"w": W},
    )
    data = from_arrays(X.reshape(-1, 1, 2, 3))
    conversion = convert(ann, calibration=data, recipe="opi", maxpool="average", approximate=4)
    assert len(conversion.declined) == len(set(conversion.declined))


@pytest.mark.parametrize("maxpool", ["average", "exact"])
def test_a_maximum_of_the_read_out_stays(maxpool):
    """Over what no neuron reads nothing is averaged, and nothing counted."""
    ann = model(
        "net (float[N, 6] x) => (float[N, 2, 1] y) { a = MatMul(x, w) r = Clip(a, lo, hi) "
        "b = Reshape(r, cube) y = ReduceMax<axes = [2], keepdims = 0>(b) }",
        WEIGHTS | {"cube": np.array([0, 2, 3, 1])},
    )
    snn = convert(ann, calibration=from_arrays(X), recipe="opi", maxpool=maxpool).model
    np.testing.assert_allclose(
        SpikingSession(snn).run(X[:5], 4096).output.ravel(), run(ann, X[:5]).ravel(), atol=0.02
    )
    assert "ReduceMax" in [node.op_type for node in snn.graph.node]


def test_what_is_not_affine_behind_the_first_layer_of_weights_is_refused():
    """A ReLU before it prepares no input, whether weights are between them or before both."""
    for body in (
        "r = Relu(x) b = MatMul(r, u) s = Sqrt(b)",
        "b = MatMul(x, u) r = Relu(b) s = Sqrt(r)",
    ):
        text = "net (float[N, 6] x) => (float[N, 3] y) "
        text += f"{{ {body} c = MatMul(s, u) d = Relu(c) y = MatMul(d, v) }}"
        with pytest.raises(UnsupportedModelError, match="Sqrt 's'"):
            convert(model(text, WEIGHTS), calibration=from_arrays(X))


ANALOG = {
    "where": "c = Greater(a, hi) l = Mul(a, hi) s = Where(c, a, l)",
    "mask": "c = GreaterOrEqual(a, hi) m = Cast<to = 1>(c) s = Mul(a, m)",
    "square": "s = Mul(a, a)",
    "swish": "g = Sigmoid(a) s = Mul(a, g)",
    "sign": "s = Sign(a)",
}


@pytest.mark.parametrize("name", ANALOG)
def test_what_stays_analog_before_the_first_neuron_is_said(name):
    text = "net (float[N, 6] x) => (float[N, 3] y) {{ a = MatMul(x, w) {} {} y = MatMul(r, v) }}"
    ann = model(text.format(ANALOG[name], "b = MatMul(s, u) r = Relu(b)"), WEIGHTS)
    rows = {row.node: row for row in check(ann).nodes}
    assert rows["s"].role == "before the neurons"
    assert "--approximate N makes neurons of it" in rows["s"].reason
    conversion = convert(ann, calibration=from_arrays(X), recipe="signed")
    assert [refusal.node for refusal in conversion.analog] == ["s"]
    assert any("; --approximate N makes neurons" in note for note in conversion.notes)
    assert [neuron.name for neuron in conversion.neurons] == ["r"]
    more = convert(ann, calibration=from_arrays(X), recipe="signed", approximate=4)
    assert not more.analog
    assert not any("--approximate" in note for note in more.notes)
    assert len(more.neurons) > 1
    alone = model(text.format(ANALOG[name], "r = Identity(s)"), WEIGHTS)
    with pytest.raises(UnsupportedModelError, match=r"(?s)--approximate N.* 's': not a ReLU"):
        convert(alone)


def test_a_curve_of_the_read_out_is_no_activation_before_the_neurons():
    ann = model(
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) b = MatMul(r, u) "
        "s = Sigmoid(b) y = MatMul(s, v) }",
        WEIGHTS,
    )
    rows = {row.node: row for row in check(ann).nodes}
    assert rows["s"].role == "read-out"
    assert "behind the last neurons; --approximate N makes neurons of it" in rows["s"].reason
    assert "before the first neuron" not in rows["s"].reason
    (row,) = (row for row in check(ann, on_means=True).nodes if row.node == "s")
    assert "behind the last neurons; --on-means --approximate N makes neurons of it" in row.reason


def test_no_options_are_named_that_do_not_make_neurons_of_a_curve():
    ann = model(
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) h = Hardmax(r) "
        "b = MatMul(h, u) t = Relu(b) c = MatMul(t, u) s = Sigmoid(c) y = MatMul(s, v) }",
        WEIGHTS,
    )
    (row,) = (row for row in check(ann).nodes if row.node == "s")
    assert row.reason.endswith("in the read-out, behind the last neurons")


def test_curves_of_the_read_out_that_want_means_too_are_told_of():
    ann = model(
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) b = MatMul(r, u) "
        "s = Sigmoid(b) c = Mul(r, s) d = MatMul(c, u) e = Sigmoid(d) y = MatMul(e, v) }",
        WEIGHTS,
    )
    options = "--on-means --approximate N makes neurons of"
    assert options in {row.node: row for row in check(ann).nodes}["s"].reason
    assert any(options in note for note in convert(ann, calibration=from_arrays(X)).notes)
    both = convert(ann, calibration=from_arrays(X), approximate=4, on_means=True)
    assert not both.analog
    assert not any("--approximate" in note for note in both.notes)


BY_ANOTHER = {
    "mask": "c = Greater(b, lo) m = Cast<to = 1>(c) g = Mul(a, m)",
    "square": "m = Mul(b, b) g = Mul(a, m)",
    "sign": "m = Sign(b) g = Mul(a, m)",
    "two layers": "g = Mul(a, b)",
    "where": "c = Greater(b, lo) g = Where(c, a, b)",
}


@pytest.mark.parametrize("name", BY_ANOTHER)
def test_what_another_branch_is_multiplied_by_stays_analog(name):
    """Before the first neuron; as spikes it would make a product of activations."""
    text = "net (float[N, 6] x) => (float[N, 3] y) {{ a = MatMul(x, w) b = MatMul(x, u) {} {} }}"
    ann = model(text.format(BY_ANOTHER[name], "e = MatMul(g, w2) r = Relu(e) y = MatMul(r, v)"),
                WEIGHTS | {"w2": W})  # fmt: skip
    data = from_arrays(X)
    for more in ({}, {"approximate": 4}):
        conversion = convert(ann, calibration=data, recipe="signed", **more)
        assert [neuron.name for neuron in conversion.neurons] == ["r"]
        assert "g" in [refusal.node for refusal in conversion.analog]
        # Each rate is within one spike of its activation.
        near = conversion.neurons[0].threshold.max() / 1024 * np.abs(V).sum(0).max()
        values = SpikingSession(conversion.model).run(X, 1024).output
        np.testing.assert_allclose(values, run(ann, X), atol=near)
    alone = model(text.format(BY_ANOTHER[name], "y = MatMul(g, v)"), WEIGHTS)
    with pytest.raises(UnsupportedModelError, match=r"(?s)these activations:.* 'g': not a ReLU"):
        convert(alone, calibration=data)


def test_a_clip_stays_in_the_read_out_where_clips_stand_in_for_what_is_before():
    ann = model(
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) s = Sigmoid(a) "
        "b = MatMul(s, v) p = Sigmoid(b) y = Clip(p, lo, one) }",
        WEIGHTS | {"one": np.float32(1)},
    )
    roles = {row.node: row.role for row in check(ann).nodes}
    assert roles["y"] == "neuron"
    found = check(ann, approximate=True)
    assert found.converts
    roles = {row.node: row.role for row in found.nodes}
    assert (roles["s"], roles["y"]) == ("approximated", "read-out")
    conversion = convert(ann, approximate=8, calibration=from_arrays(X))
    assert [refusal.node for refusal in conversion.analog] == ["y"]


def test_a_pool_that_is_part_of_the_read_out_counts_no_spikes():
    text = (
        "net (float[N, 2, 4, 4] x) => (float[N, 2, 2, 2] y) { r = Clip(x, lo, hi) "
        "p = Softmax<axis = 1>(r) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(p) }"
    )
    ann = model(text, WEIGHTS)
    x = RNG.normal(size=(3, 2, 4, 4)).astype(np.float32)
    session = SpikingSession(convert(ann, maxpool="exact").model)
    np.testing.assert_allclose(session.run(x, 1024).output, run(ann, x), atol=0.01)


@pytest.mark.parametrize("kind", [UnsupportedModelError, MissingThresholdError])
def test_refusals_can_be_sent_from_process_to_process(kind):
    error = kind("these nodes:", [Refusal("a", "Relu", "why"), Refusal("b", "Exp", "because")])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.refusals) == (kind, str(error), error.refusals)


def test_a_curved_activation_is_refused_with_the_option_that_helps():
    advice = (
        "(?s)Sigmoid 's'.*--approximate N.*Mul 'm'.*as a function of 'a' alone.*--approximate N"
    )
    with pytest.raises(UnsupportedModelError, match=advice):
        convert(model(CURVED.replace("a = MatMul(x, w)", "z = Relu(x) a = MatMul(z, w)"), WEIGHTS))


@pytest.mark.parametrize(
    "curve",
    [
        "k = HardSigmoid<alpha = 0.1666667>(a) m = Mul(a, k)",
        "i = Add(a, three) c = Clip(i, lo, six) k = Mul(c, sixth) m = Mul(a, k)",
    ],
)
def test_a_hard_swish_in_parts_is_refused_with_the_option_that_helps(curve):
    text = CURVED.replace("a = MatMul(x, w)", "z = Relu(x) a = MatMul(z, w)")
    text = text.replace("s = Sigmoid(a) m = Mul(a, s)", curve)
    numbers = {"three": np.float32(3), "six": np.float32(6), "sixth": np.float32(1 / 6)}
    ann = model(text, WEIGHTS | numbers)
    with pytest.raises(UnsupportedModelError, match=r"'m': .* of 'a' alone .*--approximate N"):
        convert(ann)
    assert check(ann).verdict.endswith("with --approximate N --calibration DATA it would.")
    convert(ann, calibration=from_arrays(X), approximate=4)


ALL_CURVED = CURVED.replace("r = Relu(b)", "t = Sigmoid(b) r = Mul(b, t)")
GATED = CURVED.replace("r = Relu(b)", "t = Sigmoid(b) g = Mul(m, t) r = Sigmoid(g)")


def test_without_a_relu_the_option_that_helps_is_named_where_it_does():
    for text, options in ((ALL_CURVED, ""), (GATED, "--on-means ")):
        with pytest.raises(UnsupportedModelError, match="no ReLU") as caught:
            convert(model(text, WEIGHTS))
        assert f"(convert {options}--approximate N --calibration DATA)" in str(caught.value)
        on_means = bool(options)
        convert(model(text, WEIGHTS), calibration=from_arrays(X), approximate=4, on_means=on_means)


def test_check_sees_gates_without_a_relu_too():
    verdict = check(model(ALL_CURVED, WEIGHTS)).verdict
    assert verdict.startswith("Does not convert: it has no ReLU and no clip; with --approximate N ")
    assert check(model(ALL_CURVED, WEIGHTS), approximate=True).converts
    ann = model(GATED, WEIGHTS)
    both = f"--on-means {check(model(CURVED, WEIGHTS), approximate=True).options[0]}"
    for given, count, more in (
        (False, "5 nodes stand", both),
        (True, "1 node stands", "--on-means"),
    ):
        result = check(ann, approximate=given)
        assert result.verdict == f"Does not convert: {count} in the way; with {more} it would."
        (gate,) = (row for row in result.nodes if row.node == "g")
        assert (gate.role, gate.option) == ("obstacle", "")
        assert "product of two activations" in gate.reason
    with pytest.raises(UnsupportedModelError, match="Mul 'g': the product of two"):
        convert(ann, calibration=from_arrays(X), approximate=4)
    convert(ann, calibration=from_arrays(X), approximate=4, on_means=True)


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


def test_a_pass_that_changes_the_function_in_a_later_round_is_named(monkeypatch):
    calls = dict[int, int]()

    def wrong_at_last(graph):
        calls[id(graph)] = calls.get(id(graph), 0) + 1
        return calls[id(graph)] < 3 or (calls[id(graph)] == 3 and wrong(graph))

    monkeypatch.setattr(network, "CANONICAL_FORM", (wrong_at_last, *network.CANONICAL_FORM))
    with pytest.raises(PassError, match="pass wrong_at_last should leave"):
        convert(model(TWO_OUTPUTS, WEIGHTS))


@pytest.mark.parametrize("calibration", [None, from_arrays(X)])
def test_a_pass_that_changes_which_numbers_are_finite_is_named(monkeypatch, calibration):
    def negates(graph):
        weights = next(node for node in graph.nodes if node.op == "MatMul").inputs[1]
        changes = bool(np.any(weights.values > 0))
        weights.values = -abs(weights.values)
        return changes

    text = (
        "net (float[N, 6] x) => (float[N, M] y) "
        "{ a = Abs(x) m = MatMul(a, w) r = Clip(m, lo, hi) y = Log(r) }"
    )
    ann = model(text, WEIGHTS | {"w": abs(W)})
    monkeypatch.setattr(network, "CANONICAL_FORM", (*network.CANONICAL_FORM, negates))
    with pytest.raises(PassError, match=r"pass negates should leave.*changed its output by inf"):
        convert(ann, calibration=calibration)


def wrong_once():
    seen = set()

    def wrong_once(graph):
        if id(graph) in seen:
            return False
        seen.add(id(graph))
        return wrong(graph)

    wrong_once.__name__ = "wrong"
    return wrong_once


def test_the_rounding_of_the_network_itself_is_no_change_of_its_function():
    # Where a Sigmoid in float32 is next to 0 a last digit of its operand is much of its result.
    text = (
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) s = Mul(a, scale) "
        "r = Clip(s, lo, hi) l = MatMul(r, v) m = Sub(l, far) y = Sigmoid(m) }"
    )
    scale = np.random.default_rng(0).uniform(0.1, 3, 6).astype(np.float32)
    ann = model(text, {**WEIGHTS, "scale": scale, "far": np.float32(18)})
    check = convert(ann, calibration=from_arrays(X)).check
    assert "that of rounding the inputs is" in check


def test_says_on_what_it_was_checked(monkeypatch):
    ann = model(TWO_OUTPUTS, WEIGHTS)
    assert convert(ann).check == "not checked: there was nothing to rewrite"
    text = TWO_OUTPUTS.replace("Clip(a, lo, hi)", "Min(m, hi)")
    plain = model(text.replace("r = ", "m = Max(a, lo) r = "), WEIGHTS)
    assert convert(plain).check.startswith("checked on 2 random inputs (seed 0)")
    monkeypatch.setattr(checking, "MOST_ACTIVATIONS", 0)
    assert convert(plain).check.startswith("not checked: ")
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
    places = {row.node: row.role for row in curved.nodes}
    assert places == {
        "a": "before the neurons", "s": "approximated", "m": "approximated", "b": "linear",
        "r": "neuron", "y": "read-out",
    }  # fmt: skip
    roles = {row.node: row.role for row in check(model(TWO_OUTPUTS, WEIGHTS)).nodes}
    assert roles == {
        "a": "before the neurons", "r": "neuron", "logits": "read-out", "p": "read-out",
        "label": "read-out",
    }  # fmt: skip


def test_check_names_another_way_to_pool():
    """Average pools have no dilations; recipe best, which data means, takes exact ones."""
    text = (
        "net (float[N, 1, 9] x) => (float[N, 2] y) { a = Relu(x) "
        "p = MaxPool<kernel_shape = [2], dilations = [3]>(a) f = Flatten(p) b = MatMul(f, w) "
        "c = Relu(b) y = Neg(c) }"
    )
    network = model(text, {"w": np.ones((6, 2), np.float32)})
    wanted = "; with --maxpool exact, as in recipe best, and --calibration DATA it would."
    assert check(network).verdict.endswith(wanted)
    for maxpool, role in (("exact", "counting pool"), ("keep", "max-pool")):
        found = check(network, maxpool=maxpool)
        assert found.converts
        assert [row.role for row in found.nodes if row.op == "MaxPool"] == [role]


def test_check_says_where_the_recipe_for_data_cannot_keep_the_pools():
    pool = 'MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">'
    text = "net (float[N, 1, H, W] x) => (float[N, 1, 1, 1] y) "
    text += f"{{ a = Relu(x) p = {pool}(a) b = Relu(p) y = GlobalAveragePool(b) }}"
    found, data = check(model(text)), from_arrays(X.reshape(-1, 1, 2, 3))
    assert found.verdict == "Converts with --calibration DATA --maxpool average."
    (row,) = (row for row in found.nodes if row.op == "MaxPool")
    assert "recipe best refuse it: its padding, auto_pad SAME_UPPER" in row.reason
    with pytest.raises(UnsupportedModelError, match="--maxpool average"):
        convert(model(text), calibration=data)
    convert(model(text), calibration=data, maxpool="average")
    assert not check(model(text), maxpool="exact").converts


def test_no_other_pools_are_advised_where_they_do_not_help_either():
    """Padding of computed sizes, as exporters write SAME, is no constant."""
    body = "a = Relu(x) k = Shape(x) z = Mul(k, none) q = Concat<axis = 0>(z, pads) "
    body += "d = Pad(a, q, lowest) p = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(d) "
    text = f"net (float[N, 1, H, W] x) => (float[N, 1, 1, 1] y) {{ {body}"
    text += "b = Relu(p) y = GlobalAveragePool(b) }"
    weights = {
        "none": np.zeros(4, np.int64), "pads": np.array([0, 0, 1, 1]),
        "lowest": np.float32(-np.inf),
    }  # fmt: skip
    assert check(model(text, weights)).verdict == "Does not convert: 1 node stands in the way."
    found = check(model(text, weights), maxpool="exact")
    (row,) = (row for row in found.nodes if row.op == "MaxPool")
    assert "sizes that are computed: declare the sizes" in row.reason


def test_exponents_that_differ_are_no_curve():
    text = "net (float[N, 6] x) => (float[N, 3] y) { c = MatMul(x, u) a = Relu(c) p = Pow(a, e) "
    text += "b = MatMul(p, w) r = Relu(b) y = MatMul(r, v) }"
    for exponents, advice in ((np.full(6, 0.5), "approximate N"), (np.arange(6) / 6, "everywhere")):
        ann = model(text, WEIGHTS | {"e": exponents.astype(np.float32)})
        with pytest.raises(UnsupportedModelError, match=advice) as caught:
            convert(ann, calibration=from_arrays(X), recipe="opi")
        assert ("approximate N" in str(caught.value)) == (advice != "everywhere")


def test_check_names_constant_outputs():
    text = "net (float[N, 6] x) => (float[N, 6] y, float[6, 6] c) { y = Relu(x) c = Identity(w) }"
    (row,) = (row for row in check(model(text, WEIGHTS)).nodes if row.role == "obstacle")
    assert (row.node, row.op) == ("c", "output")
    assert row.reason.startswith("depends on no input")


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


@pytest.mark.parametrize("maxpool", ["average", "exact"])
@pytest.mark.parametrize(("op", "maximum", "why"), [
    ("MaxPool", "u = Unsqueeze(a, one) p = MaxPool<kernel_shape = [2], strides = [2]>(u) "
     "h = Squeeze(p, one)", "a pool makes no spikes of its own"),
    ("ReduceMax", "s = Reshape(a, pairs) h = ReduceMax<axes = [0], keepdims = 0>(s)",
     "not a ReLU or a clip"),
])  # fmt: skip
def test_maxima_that_are_all_that_is_not_linear_are_named(op, maximum, why, maxpool):
    text = (
        f"net (float[N, 6] x) => (float[N, 3] y) {{ a = MatMul(x, w) {maximum} y = MatMul(h, v) }}"
    )
    sizes = {"one": [1], "pairs": [2, -1, 3]}
    weights = {name: np.array(value) for name, value in sizes.items()}
    wide = {"w": np.ones((6, 6), np.float32), "v": np.ones((3, 3), np.float32)}
    ann = model(text, weights | wide)
    with pytest.raises(UnsupportedModelError, match=f"(?s)these activations.*{op} '[a-z]'.*{why}"):
        convert(ann, maxpool=maxpool)
    found = check(ann, maxpool=maxpool)
    assert found.verdict == "Does not convert: 1 node stands in the way."
    (row,) = (row for row in found.nodes if row.role == "obstacle")
    assert row.reason.startswith(why)


def test_no_way_to_pool_helps_where_nothing_else_spikes():
    """Also where average pools cannot take the pool's place."""
    text = (
        "net (float[N, 1, 9] x) => (float[N, 3] y) "
        "{ p = MaxPool<kernel_shape = [2], dilations = [3]>(x) f = Flatten(p) y = MatMul(f, v) }"
    )
    for maxpool in ("average", "exact"):
        found = check(model(text, {"v": np.ones((6, 3), np.float32)}), maxpool=maxpool)
        assert found.verdict == "Does not convert: 1 node stands in the way."


def test_thresholds_of_clips_are_lowered_by_data_on_demand():
    ann = model(TWO_OUTPUTS, WEIGHTS | {"hi": np.float32(1000)})
    data = from_arrays(X)
    (kept,) = convert(ann, calibration=data, recipe="opi").neurons
    (lowered,) = convert(ann, calibration=data, recipe="opi", recalibrate=True).neurons
    assert kept.threshold == 1000
    assert kept.source == "bound of the clip"
    assert np.all(lowered.threshold < 20)
    assert "99.9 %" in lowered.source


# Samples that are not rows of their own -----------------------------------------------

POINTS = (
    "net (float[N, 5, 6] x) => (float[N, 3] y) "
    "{ rows = Reshape(x, flat) a = MatMul(rows, w) r = Relu(a) again = Reshape(r, back) "
    "b = ReduceMean<axes = [1], keepdims = 0>(again) c = MatMul(b, u) s = Relu(c) "
    "y = MatMul(s, v) }"
)
SHAPES = {"flat": np.array([-1, 6]), "back": np.array([-1, 5, 6])}
SAMPLES_LAST = (
    "net (float[N, 6] x) => (float[N, 3] y) "
    "{ t = Transpose(x) a = MatMul(w, t) r = Relu(a) b = Transpose(r) y = MatMul(b, v) }"
)
SEQUENCE_FIRST = (
    "net (float[N, 5, 6] x) => (float[N, 3] y) "
    "{ t = Transpose<perm = [1, 0, 2]>(x) a = MatMul(t, w) r = Relu(a) "
    "b = Transpose<perm = [1, 0, 2]>(r) m = ReduceMean<axes = [1], keepdims = 0>(b) "
    "y = MatMul(m, v) }"
)
SEQUENCES = RNG.normal(size=(40, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("text", [POINTS, SEQUENCE_FIRST])
@pytest.mark.parametrize("batch_size", [40, 7])
def test_several_rows_of_a_sample_are_evaluated_and_diagnosed(text, batch_size, tmp_path):
    ann = model(text, WEIGHTS | SHAPES, opset=17)
    data = from_arrays(SEQUENCES, run(ann, SEQUENCES).argmax(1))
    snn = convert(ann, calibration=data).model
    onnx.save(ann, tmp_path / "ann.onnx")
    onnx.save(snn, tmp_path / "snn.onnx")
    report = evaluate(snn, data, [4, 64], ann=ann, batch_size=batch_size)
    files = tmp_path / "snn.onnx", tmp_path / "ann.onnx"
    assert report == evaluate(files[0], data, [4, 64], ann=files[1], batch_size=batch_size)
    assert report["snn"][1]["accuracy"] > 90
    result = SpikingSession(snn).run(SEQUENCES, 64)
    spikes = sum(int(counts.sum()) for counts in result.spike_counts.values())
    neurons = sum(counts.size for counts in result.spike_counts.values())
    assert report["snn"][1]["firing_rate"] == pytest.approx(spikes / neurons / 64)
    layers = diagnose(snn, ann, data, 8, batch_size=batch_size)
    assert {layer.name: layer.neurons for layer in layers}["r"] == 30


def test_rows_of_a_sample_spend_what_their_spikes_do():
    ann = model(POINTS, WEIGHTS | SHAPES)
    snn = convert(ann, calibration=from_arrays(SEQUENCES)).model
    counts = SpikingSession(snn).run(SEQUENCES, 8).spike_counts
    report = evaluate(snn, from_arrays(SEQUENCES), [8], batch_size=7)
    # Each spike before the mean meets 6 weights, each behind it 3.
    operations = 6 * counts["r"].sum() + 3 * counts["s"].sum()
    assert report["snn"][0]["sops"] == pytest.approx(operations / 40)
    assert report["macs"] == 5 * 36 + 36 + 18


@pytest.mark.parametrize("reshaped", [False, True])
def test_samples_are_not_taken_for_channels(reshaped):
    """Also where their number has lost its name."""
    text, x = SAMPLES_LAST, X
    if reshaped:
        text = text.replace("[N, 6]", "[N, 2, 3]").replace("Transpose(x)", "Transpose(f)")
        text, x = text.replace("{", "{ f = Reshape(x, flat)"), X.reshape(-1, 2, 3)
    ann = model(text, WEIGHTS | ({"flat": SHAPES["flat"]} if reshaped else {}))
    data = from_arrays(x, run(ann, x).argmax(1))
    assert not check(ann).converts
    for recipe in ("best", "opi"):
        with pytest.raises(UnsupportedModelError, match=r"(?s)counts samples in.*Relu 'r'.*axis 0"):
            convert(ann, calibration=data, recipe=recipe)
    with pytest.raises(UnsupportedModelError, match="no channels to correct"):
        convert(ann, calibration=data, per_channel=False)
    snn = convert(ann, calibration=data, recipe="opi", per_channel=False).model
    report = evaluate(snn, data, [64], ann=ann, batch_size=7)["snn"][0]
    assert report["accuracy"] > 90
    counts = SpikingSession(snn).run(x, 64).spike_counts["r"]
    assert report["sops"] == pytest.approx(3 * counts.sum() / 40)


def test_an_axis_of_open_size_counts_no_channels():
    """Thresholds would have the size that the calibration data has, and fit no other."""
    x, w = RNG.random((20, 7, 4), np.float32), WEIGHTS["v"][:4]
    text = "g (float[N, L, 4] x) => (float[N, L, k] y) { c = Clip(x, zero, one) "
    text += 'e = Einsum<equation = "nlc,cd->nld">(c, w) r = Relu(e) y = Neg(r) }'
    ann = model(text, {"w": w, "zero": np.float32(0), "one": np.float32(1)})
    snn = convert(ann, calibration=from_arrays(x)).model
    assert SpikingSession(snn).run(x[:, :5], 8).output.shape == (20, 5, w.shape[1])
    features_first = model("g (float[4, N] x) => (float[3, N] y) { r = Relu(x) y = MatMul(u, r) }",
                           {"u": RNG.random((3, 4), np.float32)})  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="is of open size"):
        convert(features_first, calibration=from_arrays(RNG.random((4, 9), np.float32)))


def test_no_potentials_of_images_of_open_sizes():
    text = "g (float[N, 1, H, W] x) => (float[N, 2] y) { c = Conv(x, w) r = Relu(c) "
    text += "p = GlobalAveragePool(r) y = Flatten(p) }"
    ann = model(text, {"w": RNG.random((2, 1, 3, 3), np.float32)})
    data = from_arrays(RNG.random((4, 1, 6, 6), np.float32))
    with pytest.raises(UnsupportedModelError, match="needs the size of every layer"):
        convert(ann, calibration=data, recipe="calibration")
    convert(ann, calibration=data, recipe="best")


def test_no_potential_of_each_neuron_where_samples_come_second():
    ann = model(SEQUENCE_FIRST, WEIGHTS)
    with pytest.raises(UnsupportedModelError, match=r"(?s)v\(0\) per neuron needs samples.*IF 'r'"):
        convert(ann, calibration=from_arrays(SEQUENCES), recipe="calibration")


@pytest.mark.parametrize("recipe", [recipe.name for recipe in RECIPES if recipe.name != "tcl"])
def test_one_output_runs_on_any_onnx_runtime(recipe):
    """States of one unit start as [1, 1] and go on as [N, 1], which is another size."""
    weights = WEIGHTS | {"v": V[:, :1]}
    text = (
        "net (float[N, 6] x) => (float[N, 1] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    )
    snn = convert(model(text, weights), calibration=from_arrays(X), recipe=recipe).model
    *_, (_, state) = stock.steps(snn, {"x": X}, 6)
    session = SpikingSession(snn)
    for _ in range(6):
        session.step(X)
    for name, value in session.state.items():
        np.testing.assert_allclose(value, np.broadcast_to(state[name], value.shape), atol=1e-5)


def test_a_pool_that_no_average_can_replace_says_so():
    text = (
        "net (float[N, 2, 8, 8] x) => (float[N, 2, 6, 6] y) { r = Relu(x) "
        "p = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(r) y = Relu(p) }"
    )
    ann, data = model(text), from_arrays(RNG.normal(size=(9, 2, 8, 8)).astype(np.float32))
    with pytest.raises(UnsupportedModelError, match=r"(?s)'p'.*dilated.*--maxpool exact"):
        convert(ann, calibration=data, recipe="opi")
    convert(ann, calibration=data, recipe="opi", maxpool="exact")


NAMES = np.array(["cat", "dog", "bird"], object)


def with_names():
    """Two outputs: logits, and the names of the classes, strings."""
    return model(
        "net (float[N, 6] x) => (float[N, 3] y, string[N] name) "
        "{ a = MatMul(x, w) r = Clip(a, lo, hi) y = MatMul(r, v) "
        "i = ArgMax<axis = 1, keepdims = 0>(y) name = Gather(names, i) }",
        WEIGHTS | {"names": NAMES},
    )


def test_names_of_classes_may_be_strings(tmp_path):
    proto = with_names()
    assert check(proto).converts
    snn = convert(proto, calibration=from_arrays(X), timesteps=64).model
    result = SpikingSession(snn).run(X, 64)
    np.testing.assert_array_equal(result.values["name"], NAMES[result.values["y"].argmax(1)])
    report = evaluate(snn, from_arrays(X), [64], ann=proto)
    assert report["snn"][0]["agreement"] > 90
    write_model(snn, tmp_path / "snn.onnx")
    again = SpikingSession(tmp_path / "snn.onnx").run(X, 64)
    np.testing.assert_array_equal(again.values["name"], result.values["name"])


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("int64", "e = Gather(table, ids) x = ReduceMean<axes = [1], keepdims = 0>(e)"),
        ("int32", "e = Gather(table, ids) x = ReduceMean<axes = [1], keepdims = 0>(e)"),
        ("uint8", "c = Cast<to = 1>(ids) f = Slice(c, from, end, from) x = MatMul(f, table)"),
        ("bool", "c = Cast<to = 1>(ids) f = Slice(c, from, end, from) x = MatMul(f, table)"),
    ],
)
def test_inputs_that_are_no_floats_are_evaluated(kind, start):
    proto = model(
        f"net ({kind}[N, 4] ids) => (float[N, 3] y) {{ {start} a = MatMul(x, w) "
        "r = Clip(a, lo, hi) y = MatMul(r, v) }",
        WEIGHTS | {
            "table": RNG.normal(size=(3, 6)).astype(np.float32),
            "from": np.array([1]), "end": np.array([4]),
        },
    )  # fmt: skip
    ids = RNG.integers(0, 2 if kind == "bool" else 3, (30, 4)).astype(kind)
    snn = convert(proto, calibration=from_arrays(ids)).model
    report = evaluate(snn, from_arrays(ids), [64], ann=proto)
    assert report["snn"][0]["agreement"] > 80
    assert 0 < report["snn"][0]["sops"] <= 64 * 18
    assert report["macs"] >= 36 + 18


RANDOM = {
    "Dropout": "d = Dropout(r, share, yes)",
    "RandomNormalLike": "z = RandomNormalLike(r) d = Add(r, z)",
    "Bernoulli": "z = Bernoulli(share) d = Mul(r, z)",
}


@pytest.mark.parametrize("op", RANDOM)
@pytest.mark.parametrize("as_node", [False, True])
def test_what_draws_random_numbers_is_refused(op, as_node):
    yes = "yes = Constant<value = bool {1}>()" if as_node else ""
    proto = model(
        "net (float[N, 6] x) => (float[N, 3] y) "
        f"{{ {yes} a = MatMul(x, w) r = Clip(a, lo, hi) {RANDOM[op]} y = MatMul(d, v) }}",
        WEIGHTS | {"share": np.float32(0.5)} | ({} if as_node else {"yes": np.array(True)}),
    )
    for function in (check, convert):
        with pytest.raises(
            UnsupportedModelError, match=f"in evaluation mode.*:\\n  {op} 'd?z?': it is random"
        ):
            function(proto)


def test_dropout_of_nothing_is_none():
    proto = model(
        "net (float[N, 6] x) => (float[N, 3] y) "
        "{ a = MatMul(x, w) r = Clip(a, lo, hi) d = Dropout(r, share, yes) y = MatMul(d, v) }",
        WEIGHTS | {"share": np.float32(0), "yes": np.array(True)},
    )
    assert check(proto).converts
    assert len(convert(proto).neurons) == 1


@pytest.mark.parametrize("place", ["before the neurons", "between them"])
def test_batch_normalization_in_training_mode_is_refused(place):
    norm = "BatchNormalization<training_mode = 1>({}, one, one, one, one)"
    nodes = {
        "before the neurons": f"n, m, q = {norm.format('a')} r = Clip(n, lo, hi)",
        "between them": f"c = Clip(a, lo, hi) n, m, q = {norm.format('c')} r = Clip(n, lo, hi)",
    }
    proto = model(
        "net (float[N, 6] x) => (float[N, 3] y) "
        f"{{ a = MatMul(x, w) {nodes[place]} y = MatMul(r, v) }}",
        WEIGHTS | {"one": np.ones(6, np.float32)},
    )
    for function in (check, convert):
        with pytest.raises(UnsupportedModelError, match="mean and variance from the batch"):
            function(proto)


def test_weights_that_batch_normalization_standardises():
    """As timm's layers do: of constants it is what it is in evaluation mode, too."""
    proto = model(
        "net (float[N, 6] x) => (float[N, 3] y) { s, m, q = "
        "BatchNormalization<training_mode = 1>(w, scale, bias, mean, var) a = MatMul(x, s) "
        "r = Clip(a, lo, hi) y = MatMul(r, v) }",
        # ONNX Runtime writes over the last two.
        WEIGHTS | {"scale": np.ones(6, np.float32), "bias": np.zeros(6, np.float32)}
        | {"mean": np.zeros(6, np.float32), "var": np.ones(6, np.float32)},
    )  # fmt: skip
    assert check(proto).converts
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    found = SpikingSession(convert(proto).model).run(x, 512).output
    np.testing.assert_allclose(found, run(proto, x), atol=0.05)


def test_weights_whose_standardisation_shares_constants_are_refused():
    """ONNX Runtime overwrites the mean and variance, and so what else reads them."""
    proto = model(
        "net (float[N, 6] x) => (float[N, 3] y) { s, m, q = "
        "BatchNormalization<training_mode = 1>(w, one, zero, zero, one) a = MatMul(x, s) "
        "r = Clip(a, lo, hi) y = MatMul(r, v) }",
        WEIGHTS | {"one": np.ones(6, np.float32), "zero": np.zeros(6, np.float32)},
    )
    with pytest.raises(UnsupportedModelError, match="overwrites mean and variance"):
        convert(proto)


@pytest.mark.parametrize("recurrent", [True, False])
def test_what_stays_analog_behind_the_last_neurons_is_said(recurrent):
    """Not what no layers follow, as the last Softmax."""
    layer = '"", h, c = LSTM<hidden_size = 3>(q, wl, rl) s = Squeeze(h, front)'
    body = f"q = Unsqueeze(a, front) {layer}" if recurrent else "t = Tanh(a) s = MatMul(t, v)"
    rng = np.random.default_rng(0)
    weights = WEIGHTS | {
        "front": np.array([0]), "wl": rng.normal(size=(1, 12, 6)).astype(np.float32),
        "rl": rng.normal(size=(1, 12, 3)).astype(np.float32),
    }  # fmt: skip
    ann = model(
        "net (float[N, 6] x) => (float[N, 3] y) "
        f"{{ r = Relu(x) a = MatMul(r, u) {body} y = Softmax(s) }}",
        weights,
    )
    conversion = convert(ann, calibration=from_arrays(X), recipe="opi")
    assert [refusal.op for refusal in conversion.analog] == ["LSTM" if recurrent else "Tanh"]
    assert "behind the last neurons" in conversion.analog[0].reason


def test_recurrent_layers_before_the_first_neuron_are_said():
    rng = np.random.default_rng(0)
    weights = {
        "wl": rng.normal(size=(1, 24, 6)), "rl": rng.normal(size=(1, 24, 6)),
        "u": WEIGHTS["u"], "v": WEIGHTS["v"],
    }  # fmt: skip
    named = {name: value.astype(np.float32) for name, value in weights.items()}
    text = (
        "net (float[N, 6] x) => (float[N, 3] y) { q = Unsqueeze(x, front) "
        '"", h, c = LSTM<hidden_size = 6>(q, wl, rl) s = Squeeze(h, front) a = MatMul(s, u) %s }'
    )
    front = {"front": np.array([0])}
    ann = model(text % "r = Relu(a) y = MatMul(r, v)", named | front)
    conversion = convert(ann, calibration=from_arrays(X), recipe="opi")
    assert [refusal.op for refusal in conversion.analog] == ["LSTM"]
    alone = model(text % "y = MatMul(a, v)", named | front)
    with pytest.raises(UnsupportedModelError, match="LSTM"):
        convert(alone)


@pytest.mark.parametrize("length", ["L", "1"])
def test_control_flow_over_sizes_asks_for_these(length):
    """As PyTorch exports x.squeeze(-1) where the size is open."""
    squeezed = "then_branch = t () => (float[N, 3] p) { p = Squeeze(r, last) }"
    plain = "else_branch = e () => (float[N, 3, L] q) { q = Identity(r) }"
    text = (
        f"net (float[N, 3, {length}] x) => (float[N, M] y) {{ r = Relu(x) s = Shape(r) "
        f"g = Gather<axis = 0>(s, last) c = Equal(g, one) f = If (c) <{squeezed}, {plain}> "
        "h = Flatten(f) d = Relu(h) y = Neg(d) }"
    )
    ann = model(text, {"last": np.array([-1]), "one": np.array([1])})
    if length == "L":
        with pytest.raises(UnsupportedModelError, match=r"If 'f'.*sizes alone: declare those of"):
            convert(ann)
        return
    x = np.abs(RNG.normal(size=(4, 3, int(length)))).astype(np.float32)
    made = convert(ann, calibration=from_arrays(x), recipe="opi", threshold="max")
    np.testing.assert_allclose(
        SpikingSession(made.model).run(x, 512).output, run(ann, x), atol=0.02
    )


def test_control_flow_without_activations_is_said_to_be_none_of_them():
    branches = (
        "then_branch = t () => (float[N, 6] p) { p = MatMul(x, w) }, "
        "else_branch = e () => (float[N, 6] q) { q = MatMul(x, u) }"
    )
    text = "net (float[N, 6] x, bool[1] c) => (float[N, 3] y) "
    text += f"{{ k = Squeeze(c) b = If (k) <{branches}> d = MatMul(b, u) r = Relu(d) "
    ann = model(text + "y = MatMul(r, v) }", WEIGHTS)
    assert not any("activations within" in row.reason for row in check(ann).nodes)


def test_activations_within_control_flow_are_said():
    branch = "{} = {} () => (float[N, 6] {}) {{ {} }}"
    then = branch.format("then_branch", "t", "p", "k = MatMul(x, w) p = Relu(k)")
    other = branch.format("else_branch", "e", "q", "l = MatMul(x, u) q = Relu(l)")
    text = "net (float[N, 6] x, bool c) => (float[N, 3] y) "
    text += f"{{ b = If (c) <{then}, {other}> %s y = MatMul(r, v) }}"
    ann = model(text % "r = Identity(b)", WEIGHTS)
    with pytest.raises(UnsupportedModelError, match="If 'b': activations within control flow"):
        convert(ann)
    found = check(ann)
    assert found.verdict == "Does not convert: 1 node stands in the way."
    assert "without it" in next(row.reason for row in found.nodes if row.op == "If")
    ann = model(text % "r = Relu(b)", WEIGHTS)
    assert "activations within control flow" in check(ann).nodes[0].reason


SHAPE_OUTPUTS = {
    "of the input": ("int64[2] s", "s = Shape(x)"),
    "of a current": ("int64[2] s", "s = Shape(a)"),
    "of spikes": ("int64[2] s", "s = Shape(r)"),
    "of the read-out": ("int64[2] s", "s = Shape(y)"),
    "behind the average": ("int64[2] s", "p = Softmax(y) s = Shape(p)"),
    "number": ("int64 s", "s = Size(y)"),
    "filled": ("float[N, 3] s", "t = Shape(y) s = ConstantOfShape<value = float[1] {2.5}>(t)"),
    "both": ("int64[2] s", "p = Softmax(y) t = Shape(p) q = Shape(r) s = Add(t, q)"),
}


@pytest.mark.parametrize("name", SHAPE_OUTPUTS)
def test_outputs_of_shapes_alone(name):
    output, nodes = SHAPE_OUTPUTS[name]
    proto = model(
        f"net (float[N, 6] x) => (float[N, 3] y, {output}) "
        f"{{ a = MatMul(x, w) r = Clip(a, lo, hi) y = MatMul(r, v) {nodes} }}",
        WEIGHTS,
    )
    wanted = run(proto, X, output=1)
    snn = convert(proto).model
    for plan in ("auto", "step"):
        result = SpikingSession(snn, plan=plan).run(X, 7, [3])
        for values in (result.values, result.readouts[3].values):
            np.testing.assert_array_equal(values["s"], wanted)
            assert values["s"].dtype == wanted.dtype
    np.testing.assert_array_equal(SpikingSession(snn).step(X)["s"], wanted)
    np.testing.assert_array_equal(run(to_loop(snn, 7), X, output=1), wanted)


def test_a_mean_over_no_axes_is_evaluated():
    proto = model(
        "net (float[N, 6] x) => (float[N, 3] y) { a = MatMul(x, w) r = Clip(a, lo, hi) "
        "m = ReduceMean<noop_with_empty_axes = 1>(r) y = MatMul(m, v) }",
        WEIGHTS,
        opset=18,
    )
    report = evaluate(convert(proto).model, from_arrays(X), [8], ann=proto)
    assert report["macs"] == 36 + 18


@pytest.mark.parametrize("body", ["y = Clip(x, zero, four)", "y = Max(x, zero)"])
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_a_clip_of_integers_is_named(body, kind):
    weights = {"zero": np.dtype(kind).type(0), "four": np.dtype(kind).type(4)}
    ann = model(f"net ({kind}[N, 6] x) => ({kind}[N, 6] y) {{ {body} }}", weights)
    reason = f"it is on integers ({kind}): cast to float32 before it"
    with pytest.raises(UnsupportedModelError) as caught:
        convert(ann)
    assert [(r.node, r.reason) for r in caught.value.refusals] == [("y", reason)]
    found = check(ann)
    assert not found.converts
    assert [(row.role, row.reason) for row in found.nodes] == [("obstacle", reason)]


def test_a_fixed_batch_of_conditions_becomes_free():
    text = "net (bool[1, 6] x) => (float[1, 6] y) { f = Cast<to = 1>(x) a = MatMul(f, u) "
    proto = model(text + "y = Clip(a, lo, hi) }", WEIGHTS)
    assert check(proto).converts
    conversion = convert(proto)
    assert not conversion.notes
    x = np.random.default_rng(0).random((5, 6)) < 0.5
    assert SpikingSession(conversion.model).run(x, 4).output.shape == (5, 6)


def test_a_fixed_batch_of_inputs_of_open_length():
    """Of the lengths tried none is enough; the data knows one, else a note says so."""
    proto = model(
        "net (float[1, 2, L] x) => (float[1, 3] y) { c = Conv(x, w) a = Clip(c, lo, hi) "
        "p = GlobalAveragePool(a) f = Flatten(p) y = MatMul(f, v) }",
        {
            "w": np.ones((3, 2, 400), np.float32), "v": np.eye(3, dtype=np.float32),
            "lo": np.float32(0), "hi": np.float32(2),
        },
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(5, 2, 600)).astype(np.float32)
    conversion = convert(proto, calibration=from_arrays(x))
    assert not conversion.notes
    assert SpikingSession(conversion.model).run(x, 4).output.shape == (5, 3)
    (note,) = convert(proto).notes
    assert "the batch size stays fixed, as in the ANN: none of the inputs tried runs" in note
