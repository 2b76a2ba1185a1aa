"""How many samples run at once, where that is not said."""

import numpy as np
import pytest
from onnx_text import model, run

from onnx2snn import (
    DataError,
    SpikingSession,
    compare_recipes,
    convert,
    diagnose,
    evaluate,
    from_arrays,
)
from onnx2snn.data import batches
from onnx2snn.data.batches import bytes_of_tensors, samples_at_once
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.measuring import comparison
from onnx2snn.measuring.early_exits import early_exits

X = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)
WEIGHTS = {"w": np.ones((4, 3, 1, 1), np.float32), "hi": np.float32(1), "lo": np.float32(0)}
BODY = "{ a = Conv(x, w) b = Clip(a, lo, hi) m = GlobalAveragePool(b) y = Flatten(m) }"


def parts(shape="N, 3, 8, 8"):
    return detach(model(f"net (float[{shape}] x) => (float[M, 4] y) {BODY}", WEIGHTS))


# x, a and b, m and y.
EACH = 4 * (3 * 64 + 2 * 4 * 64 + 2 * 4)


@pytest.mark.parametrize("shape", ["N, 3, 8, 8", "N, 3, H, W", "1, 3, 8, 8"])
def test_the_tensors_of_a_sample(shape):
    assert sum(bytes_of_tensors(parts(shape), 1, {"x": (7, 3, 8, 8)}).values()) == EACH


@pytest.mark.parametrize(
    ("room", "given", "wanted"),
    [(2**31, None, 100), (2**31, 7, 7), (7.5, None, 7), (7.5, 30, 30), (0.5, None, 1)],
)
def test_as_many_as_there_is_room_for(monkeypatch, room, given, wanted):
    monkeypatch.setattr(batches, "MOST_BYTES", int(EACH * room))
    assert samples_at_once(parts("N, 3, H, W"), from_arrays(X), given) == wanted


@pytest.mark.parametrize(("batch", "room", "wanted"), [(4, 9.5, 8), (4, 2, 4), (1, 9.5, 9)])
def test_whole_batches_of_a_network_that_fixes_their_size(monkeypatch, batch, room, wanted):
    monkeypatch.setattr(batches, "MOST_BYTES", int(EACH * room))
    assert samples_at_once(parts(f"{batch}, 3, 8, 8"), from_arrays(X), None) == wanted


def test_layers_of_whole_numbers(monkeypatch):
    """Of ONNX Runtime's own, of which shape inference knows nothing."""
    text = (
        "net (float[N, 3, 8, 8] x) => (float[N, 3, 1, 1] y) { q = QuantizeLinear(x, s, z) "
        "a = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z) b = DequantizeLinear(a, s, z) "
        "y = GlobalAveragePool(b) }"
    )
    quantised = detach(model(text, {"s": np.float32(1), "z": np.uint8(0)}))
    # x, q, both operands, their sum, what it is in 8 bits and again as numbers, and y.
    each = 3 * 64 * (5 * 4 + 2) + 3 * 4
    monkeypatch.setattr(batches, "MOST_BYTES", int(each * 7.5))
    assert samples_at_once(quantised, from_arrays(X), None) == 7


ATTENTION = (
    "net (float[N, 2, 16, 4] q) => (float[N, 2, 16, 4] y) { y = Attention<scale = 1.0>(q, q, q) }",
    # q, scaled, and its transpose, twice 16 x 16 of each head, and y.
    4 * 2 * (3 * 64 + 2 * 256 + 64),
)
FUSED = (
    "net (float[N, 2, 16, 4] q) => (float[N, 2, 16, 4] y) "
    "{ a = com.microsoft.QuickGelu<alpha = 1.702>(q) y = Relu(a) }",
    # q, its multiple, its Sigmoid, their product, and y.
    4 * 2 * 5 * 64,
)


@pytest.mark.parametrize(("text", "each"), [ATTENTION, FUSED])
def test_what_is_within_an_operator(monkeypatch, text, each):
    one = model(text, opset=23)
    monkeypatch.setattr(batches, "MOST_BYTES", int(each * 7.5))
    assert samples_at_once(detach(one), from_arrays(X.reshape(-1, 2, 16, 4)), None) == 7


def test_inputs_over_time_have_one_axis_more(monkeypatch):
    monkeypatch.setattr(batches, "MOST_BYTES", int(EACH * 7.5))
    assert samples_at_once(parts("N, 3, H, W"), from_arrays(X[None]), None) == 7


@pytest.mark.parametrize("x", [X[:, :2], X[:, 0], X[None, None]])
def test_data_that_does_not_fit_is_for_the_run_to_refuse(x):
    assert samples_at_once(parts("N, C, H, W"), from_arrays(x), None) == 100


@pytest.mark.parametrize("names", ["N, N", "N, M"])
def test_samples_along_two_axes_run_together(names):
    """As the nodes of a graph, beside its matrix."""
    text = f"net (float[N, 3] x, float[{names}] g) => (float[N, 2] y) {{ a = MatMul(g, x) "
    weights = {"u": np.ones((3, 4), np.float32), "v": np.ones((4, 2), np.float32)}
    ann = model(text + "b = MatMul(a, u) c = Relu(b) d = MatMul(g, c) y = MatMul(d, v) }", weights)
    rng = np.random.default_rng(0)
    x, g = rng.random((150, 3), np.float32), np.eye(150, dtype=np.float32)
    data = from_arrays({"x": x, "g": g})
    assert samples_at_once(detach(ann), data, None) == (150 if names == "N, N" else 100)
    assert samples_at_once(detach(ann), data, 30) == 30
    if names == "N, N":
        snn = convert(ann, calibration=data).model
        output = SpikingSession(snn).run({"x": x, "g": g}, 64).output
        wanted = run(ann, x, g)
        assert np.linalg.norm(output - wanted) < 0.05 * np.linalg.norm(wanted - wanted.mean(0))
        with pytest.raises(DataError, match="does not compute alone"):
            evaluate(snn, data, [16])
    # Nor in another order, which that of the columns would have to follow.
    turns = from_arrays({"x": x * np.tile(np.float32([[1], [0.1]]), (75, 1)), "g": g})
    notes = convert(ann, calibration=turns, recipe="best", batch_size=150).notes
    assert not [note for note in notes if "in an order" in note]
    # The name of all that is open, as some exporters have it.
    images = parts("N, 3, N, N")
    assert samples_at_once(images, from_arrays(X), None) == 100


def test_a_network_without_inputs():
    none = model("net () => (float[2] y) { y = Constant <value_floats = [1.0, 2.0]> () }")
    assert samples_at_once(detach(none), from_arrays(X), None) == 100


def test_several_inputs():
    two = model(
        "net (float[N, 3] p, float[N, 2] q) => (float[N, 5] y) { y = Concat<axis = 1>(p, q) }"
    )
    data = from_arrays({"p": X[:, :, 0, 0], "q": X[:, :2, 0, 0]})
    found = bytes_of_tensors(detach(two), 7, {"p": (9, 3), "q": (9, 2)})
    assert sum(found.values()) == 7 * 4 * 10
    assert samples_at_once(detach(two), data, None) == 100


def test_conversion_evaluation_and_diagnosis_run_so_many(monkeypatch):
    monkeypatch.setattr(batches, "MOST_BYTES", int(EACH * 12.5))
    ann = model(f"net (float[N, 3, 8, 8] x) => (float[N, 4] y) {BODY}", WEIGHTS)
    data, seen = from_arrays(X), []

    def report(what, done, total):
        if not done:
            seen.append(total)

    snn = convert(ann, calibration=data, recipe="calibration", timesteps=4, report=report).model
    assert set(seen) == {4}
    seen.clear()
    evaluate(snn, data, [2], report=report)
    diagnose(snn, ann, data, 2, report=report)
    assert all(count > 4 for count in seen)
    assert len(seen) == 2


def test_of_clips_that_stand_in_for_a_curve_there_is_room_for_fewer(monkeypatch):
    monkeypatch.setattr(batches, "MOST_BYTES", int(EACH * 12.5))
    curve = "r = Relu(a) s = Conv(r, v) g = Sigmoid(s) h = Conv(g, v) b = Relu(h)"
    body = BODY.replace("b = Clip(a, lo, hi)", curve)
    ann = model(
        f"net (float[N, 3, 8, 8] x) => (float[N, 4] y) {body}",
        {**WEIGHTS, "v": np.full((4, 4, 1, 1), 0.01, np.float32)},
    )
    seen = []

    def report(what, done, total):
        if not done:
            seen.append(total)

    data = from_arrays(X[:10])
    convert(ann, calibration=data, recipe="opi", approximate=8, report=report)
    assert (seen[0], seen[-1]) == (2, 10)
    seen.clear()
    convert(ann, calibration=data, recipe="opi", approximate=8, batch_size=5, report=report)
    assert set(seen) == {2}


def fixed_at_four():
    """A network whose samples look at each other, so that its batch stays fixed, and its SNN."""
    w = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    ann = model(
        "net (float[4, 3] x) => (float[4, 5] y) { m = ReduceMean<axes = [0]>(x) d = Sub(x, m) "
        "a = MatMul(d, w) b = Clip(a, lo, hi) y = MatMul(b, v) }",
        {**WEIGHTS, "w": w, "v": np.eye(5, dtype=np.float32)},
    )
    return ann, convert(ann).model


@pytest.mark.parametrize(("given", "wanted"), [(None, 4), (4, 4), (100, 4), (6, 6)])
def test_a_spiking_network_of_a_fixed_batch_runs_one_at_a_time(given, wanted):
    snn = fixed_at_four()[1]
    assert samples_at_once(detach(snn), from_arrays(X[:, :, 0, 0]), given) == wanted


def test_an_only_array_may_be_called_x():
    """Whatever the only input is called."""
    _, snn = fixed_at_four()
    parts, x = detach(snn), X[:, :, 0, 0]
    parts.structure.graph.input[0].name = "image"
    for given in (x, {"x": x}, {"image": x}):
        assert from_arrays(given).shapes_of(["image"]) == {"image": x.shape}
        assert samples_at_once(parts, from_arrays(given), None) == 4
    assert from_arrays({"x": x}).shapes_of(["a", "b"]) == {"x": x.shape}


@pytest.mark.parametrize("wrong", [0, 8.0, "4"])
def test_a_batch_size_is_a_number_for_networks_of_a_fixed_batch_too(wrong):
    ann, snn = fixed_at_four()
    data = from_arrays(X[:, :, 0, 0])
    for call in (lambda **o: evaluate(snn, data, [4], **o),
                 lambda **o: diagnose(snn, ann, data, 4, **o)):  # fmt: skip
        with pytest.raises(DataError, match="batch_size must be a whole number"):
            call(batch_size=wrong)


def test_an_ann_of_a_fixed_batch_beside_its_spiking_network_of_any():
    """100 is no multiple of 8, of which the ANN takes batches."""
    weights = {name: np.eye(6, dtype=np.float32) for name in "uvw"}
    text = (
        "net (float[8, 6] x) => (float[8, 6] y) { a = MatMul(x, u) b = Sigmoid(a) "
        "c = MatMul(b, v) d = Relu(c) y = MatMul(d, w) }"
    )
    ann, plain = model(text, weights), model(text.replace("Sigmoid", "Relu"), weights)
    x = np.random.default_rng(0).random((240, 6)).astype(np.float32)
    data = from_arrays(x, np.zeros(240, np.int64))
    made = convert(ann, calibration=data, approximate=4, recipe="rnl")
    assert evaluate(made.model, data, [4], ann=ann)["ann"] is not None
    assert early_exits(made.model, data, [8], ann=ann)["ann"] is not None
    found = compare_recipes(plain, ["rnl"], data, data, [4])
    assert set(found.rows[0].scores) == {4}


def test_comparison_fits_its_batches_to_clips(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        comparison, "convert", lambda ann, **o: sizes.append(o) or convert(ann, **o)
    )
    ann = model(f"net (float[N, 3, 8, 8] x) => (float[N, 4] y) {BODY}", WEIGHTS)
    data = from_arrays(X, np.zeros(len(X), np.int64))
    for given in (None, 7):
        compare_recipes(ann, ["mmse"], data, data, [4], batch_size=given)
    assert [options["batch_size"] for options in sizes] == [None, 7]


def test_networks_of_a_fixed_batch_are_evaluated_and_compared():
    ann, snn = fixed_at_four()
    data = from_arrays(X[:, :, 0, 0], np.zeros(len(X), np.int64))
    by_fours = evaluate(snn, data, [4], ann=ann, batch_size=4)
    assert evaluate(snn, data, [4], ann=ann) == by_fours
    assert len(diagnose(snn, ann, data, 4)) == 1
    told = []
    found = compare_recipes(
        ann, ["opi"], None, data, [4], report=lambda what, done, total: told.append((done, total))
    )
    assert found.rows[0].scores[4].agreement == by_fours["snn"][0]["agreement"]
    # One batch of 100 was thought of, and ten of four ran, after the conversion.
    assert told == [(0, 4), *((done * 4 // 10, 4) for done in range(11))]
