"""Thresholds from data: how it is read, and how much memory that takes."""

import numpy as np
import pytest
from onnx_text import model, run

from onnx2snn import SpikingSession, convert, from_arrays, parse_statistic
from onnx2snn.converting import calibration
from onnx2snn.converting.calibration import sampled
from onnx2snn.data import calibration_data
from onnx2snn.data.calibration_data import comes_in_an_order, with_measures
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.running import Running

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype(np.float32)


def dense(layers):
    """So many layers of six neurons."""
    weights = {f"w{i}": RNG.normal(size=(6, 6)).astype(np.float32) for i in range(layers + 1)}
    body = "".join(f"a{i} = MatMul(x{i}, w{i}) x{i + 1} = Relu(a{i}) " for i in range(layers))
    last = f"y = MatMul(x{layers}, w{layers})"
    return model(f"net (float[N, 6] x0) => (float[N, 6] y) {{ {body}{last} }}", weights)


def differ(x, y=None, batch_size=10, together=None):
    data, measures = with_measures(from_arrays(x, y))
    return comes_in_an_order(data, measures, min(batch_size, together or batch_size), batch_size)


def test_batches_that_are_of_other_kinds():
    """Of another scale or mean, or of other classes; not by chance, nor where there is one."""
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(45, 6)).astype(np.float32), rng.integers(0, 4, 45)
    assert not differ(x)
    assert not differ(x, labels)
    assert differ(x, np.sort(labels))
    assert differ(x, np.int64([0] * 20 + [1] * 25))
    assert not differ(x, np.zeros(45, np.int64))
    scales = np.repeat(np.float32([0.25, 1, 4]), 15)[:, None]
    assert differ(x * scales)
    assert differ({"a": x, "b": x * scales})
    assert not differ(rng.permutation(x * scales))
    assert not differ(x * scales, np.sort(labels), batch_size=45)
    assert differ(x + np.linspace(-3, 3, 45, dtype=np.float32)[:, None])
    # Nothing varies within batches; or at all; or there is nothing to measure.
    assert differ(np.repeat(x[:5], 10, axis=0)[:45])
    assert not differ(np.ones_like(x))
    assert not differ(np.full((45, 2), "a"))
    # Classes that differ in where they are bright alone, and no labels.
    places = np.roll(np.eye(6, dtype=np.float32)[np.arange(45) // 15], 1, axis=1)
    assert differ(rng.permuted(np.tile(x[:1], (45, 1)), axis=1) / 4 + 4 * places)
    assert not differ(rng.permutation(x / 4 + 4 * places))
    # Whole numbers, as pixels.
    pixels = rng.integers(0, 60, (45, 9)).astype(np.uint8)
    assert not differ(pixels)
    assert differ(pixels * (1 + np.arange(45, dtype=np.uint8) // 15)[:, None])
    # A rest counts where a variance can be taken of it.
    dark = np.repeat(np.float32([1, 0.1]), [37, 8])[:, None]
    assert differ(x * dark, batch_size=37)
    assert not differ(x * dark, batch_size=38)
    assert not differ((x * scales)[::5], batch_size=2)


def test_batches_that_are_small():
    ann, data = dense(2), from_arrays(X)

    def told(recipe, batch_size):
        found = convert(ann, calibration=data, recipe=recipe, batch_size=batch_size)
        return [note for note in found.notes if "corrections look at batches of" in note]

    assert "batches of 1 sample," in told("best", 1)[0]
    assert told("best", 7)
    assert not told("best", 8)
    # They measure all data, whatever the batches.
    assert not told("opi", 1)
    assert not told("rmp", 1)


def test_a_small_batch_size_that_the_network_fixes_is_told_of():
    """Samples are not apart, so that it cannot be opened: each is scaled by the batch's mean."""
    text = (
        "net (float[{0}, 6] x) => (float[{0}, 6] y) {{ m = ReduceMean<axes = [0], keepdims = 1>(x) "
        "c = Sub(x, m) r = Relu(c) d = MatMul(r, w) s = Relu(d) y = MatMul(s, w) }}"
    )
    weights = {"w": RNG.normal(size=(6, 6)).astype(np.float32)}
    for size in (2, 12):
        notes = convert(model(text.format(size), weights), calibration=from_arrays(X)).notes
        assert any("look at batches of 2 samples," in note for note in notes) == (size == 2)


def test_arrays_that_no_input_reads_change_nothing():
    """Neither a running number, which has an order, nor what is not finite or far off."""
    ann = model(
        "net (float[N, 6] a, float[N, 6] b) => (float[N, 6] y) "
        "{ c = Add(a, b) r = Relu(c) y = MatMul(r, w) }",
        {"w": RNG.normal(size=(6, 6)).astype(np.float32)},
    )
    given = {name: RNG.normal(size=(400, 6)).astype(np.float32) for name in "ab"}
    others = {"number": np.arange(400.0), "age": np.where(np.arange(400) == 7, 1e6, 1)}
    alone = convert(ann, calibration=from_arrays(given))
    found = convert(ann, calibration=from_arrays({**others, **given}))
    beside = convert(ann, calibration=from_arrays({**given, "none": np.full(400, np.nan)}))
    for conversion in (found, beside):
        assert conversion.notes == alone.notes
        assert conversion.model.graph == alone.model.graph


def test_samples_that_take_turns():
    """Least squares look at every second or third ... sample of a batch."""
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(60, 6)).astype(np.float32), np.tile([0, 1, 2], 20)
    dark = np.tile(np.float32([1, 0.1]), 30)[:, None]
    for batch_size in (20, 60):
        assert differ(x * dark, batch_size=batch_size)
        assert differ(x, labels, batch_size)
        assert not differ(x, rng.permutation(labels), batch_size)
        assert not differ(rng.permutation(x * dark), batch_size=batch_size)
    # All samples of so few are looked at.
    assert not differ(x * dark, batch_size=10)
    assert not differ(x, labels, batch_size=10)
    # Labels that come twice in an order are no turns.
    assert not differ(x, np.tile(rng.integers(0, 5, 30), 2), 60)


@pytest.mark.parametrize(("kinds", "batch_size"), [(3, 100), (6, 100), (2, 33), (2, 25), (5, 45)])
def test_turns_that_do_not_end_with_a_batch(kinds, batch_size):
    rng = np.random.default_rng(2)
    scales = rng.permutation(np.geomspace(0.1, 4, kinds)).astype(np.float32)
    x = rng.normal(size=(500, 9)).astype(np.float32) * scales[np.arange(500) % kinds][:, None]
    assert differ(x, batch_size=batch_size)
    assert differ(x, batch_size=200, together=batch_size)
    assert not differ(rng.permutation(x), batch_size=batch_size)


def test_many_samples_are_compared_with_few_other_orders(monkeypatch):
    """An order takes as long as they are many, and chance makes less of them."""
    tried, ratio = [], calibration_data._largest_ratio
    monkeypatch.setattr(
        calibration_data, "_largest_ratio", lambda *given: tried.append(1) or ratio(*given)
    )
    for samples, most in ((2_000, calibration_data.ORDERS), (50_000, 20)):
        tried.clear()
        x = np.linspace(0, 1, samples, dtype=np.float32)[:, None]
        assert differ(x, batch_size=samples // 4)
        assert 10 < len(tried) <= 1 + most


@pytest.mark.parametrize("batch_size", [1, 2, 4, 10, 100])
def test_batches_do_not_differ_by_chance(batch_size):
    """Where some samples have most of the variance; nor by rounding, where all have one mean."""
    rng = np.random.default_rng(3)
    flagged = 0
    for samples in (11, 17, 45, 101, 110, 250):
        heavy = rng.standard_cauchy((samples, 6)).astype(np.float32)
        few = (rng.random((samples, 20)) < 0.01).astype(np.float32)
        scaled = rng.normal(size=(samples, 6)) * np.exp(2 * rng.normal(size=(samples, 1)))
        one_hot = np.eye(9, dtype=np.float32)[rng.integers(0, 9, samples)]
        ranks = rng.permuted(np.tile(np.linspace(0, 0.9, 10), (samples, 1)), axis=1)
        normed = rng.normal(size=(samples, 7))
        normed /= np.abs(normed).max(axis=1, keepdims=True)
        for x in (heavy, few, scaled.astype(np.float32), one_hot, ranks, normed):
            flagged += differ(x, batch_size=batch_size)
    assert flagged <= 1


def error(network, ann, x, timesteps):
    result = SpikingSession(network.model).run(x, timesteps).output
    return float(np.sqrt(np.square(result - ann).mean()))


@pytest.mark.parametrize("recipe", ["best", "best-binary", "best-burst"])
def test_corrections_do_not_mind_the_order_of_data(recipe):
    """Of batches that are darker and brighter, they had made more errors than without."""
    rng = np.random.default_rng(0)
    shapes = {"u": (10, 16), "v": (16, 16), "w": (16, 5)}
    weights = {n: rng.normal(size=s).astype(np.float32) / 4 for n, s in shapes.items()}
    text = "net (float[N, 10] x) => (float[N, 5] y) { a = MatMul(x, u) b = Relu(a) "
    ann = model(text + "c = MatMul(b, v) d = Relu(c) y = MatMul(d, w) }", weights)
    x = rng.normal(size=(300, 10)).astype(np.float32)
    x *= np.repeat(np.float32([4, 1, 0.25]), 100)[:, None]
    wanted = run(ann, x)

    def converted(data, **options):
        return convert(ann, calibration=from_arrays(data), timesteps=8, **options)

    ordered = converted(x, recipe=recipe)
    mixed = converted(rng.permutation(x), recipe=recipe)
    found, known = (error(network, wanted, x, 8) for network in (ordered, mixed))
    assert found < 1.1 * known
    assert found < error(converted(x, recipe="mmse"), wanted, x, 8)
    (note,) = ordered.notes
    assert "batches of 100 samples, or every n-th sample of them, are of other kinds" in note
    assert not mixed.notes
    # One batch is in no order, but for labels that take turns.
    assert not converted(x, recipe=recipe, batch_size=300).notes
    turns = from_arrays(x, y=np.arange(300) % 3)
    (note,) = convert(ann, calibration=turns, recipe=recipe, batch_size=300).notes
    assert "is in an order, so that every n-th sample is of other kinds" in note


def ordered(monkeypatch, recipe, ann, **options):
    """What is noted of data that gets darker, of images in 8 bits."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 6)) * np.repeat([[1.0], [0.3], [0.05]], 20, axis=0)
    x = x.astype(np.uint8)
    found = convert(ann, calibration=from_arrays(x), recipe=recipe, **options)
    return [note for note in found.notes if "of other kinds" in note]


def of_bytes(batch="N"):
    text = f"net (uint8[{batch}, 6] p) => (float[{batch}, 6] y) {{ x = Cast<to = 1>(p) "
    weights = {name: RNG.normal(size=(6, 6)).astype(np.float32) for name in "uv"}
    return model(text + "a = MatMul(x, u) b = Relu(a) y = MatMul(b, v) }", weights)


def test_samples_along_another_axis_are_not_taken_for_rows():
    """A threshold is then as of all places, whatever the batches."""
    text = "net (float[N, 30, 4] x) => (float[30, N, 4] y) { t = Transpose<perm = [1, 0, 2]>(x) "
    weights = {name: RNG.normal(size=(4, 4)).astype(np.float32) for name in "uv"}
    ann = model(text + "a = MatMul(t, u) r = Relu(a) y = MatMul(r, v) }", weights)
    x = RNG.normal(size=(40, 30, 4)).astype(np.float32) * (RNG.random((40, 30, 1)) < 0.01)
    found = [
        convert(ann, calibration=from_arrays(x), recipe="best", batch_size=n, timesteps=32)
        for n in (5, 40)
    ]
    one, other = ([neuron.threshold for neuron in each.neurons] for each in found)
    np.testing.assert_array_equal(one, other)


def test_an_order_that_recipes_mind(monkeypatch):
    """Of whole numbers, too, and of the batches that are corrected."""
    (note,) = ordered(monkeypatch, "best", of_bytes(), batch_size=20)
    assert note.endswith("the data is shuffled for what the recipe does batch by batch")
    # Passes that read no data.
    for recipe in ("burst", "opt", "opi", "robust-norm"):
        assert not ordered(monkeypatch, recipe, of_bytes(), batch_size=20)
    # One batch, but for a network that takes fewer, or where more would take too much memory.
    assert not ordered(monkeypatch, "best", of_bytes())
    text = "net (float[15, 6] x) => (float[15, 6] y) { a = Add(x, w) b = Relu(a) y = MatMul(b, v) }"
    values = {"w": RNG.normal(size=(15, 6)).astype(np.float32), "v": np.eye(6, dtype=np.float32)}
    x = RNG.normal(size=(60, 6)).astype(np.float32) * np.repeat(np.float32([4, 1]), 30)[:, None]
    (note,) = convert(model(text, values), calibration=from_arrays(x), recipe="best").notes[-1:]
    assert "batches of 15 samples" in note
    with monkeypatch.context() as patched:
        patched.setattr("onnx2snn.spiking_passes.spiking.MOST_BYTES", 4 * 16 * 6 * 20)
        (note,) = ordered(patched, "best", of_bytes())
        assert "batches of 20 samples" in note
    monkeypatch.setattr("onnx2snn.data.samples.MOST_HELD", 0)
    (note,) = ordered(monkeypatch, "best", of_bytes(), batch_size=20)
    assert "shuffle the data, which here takes too much memory" in note


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("statistic", ["max", "percentile=99", "robust-mmse=4"])
def test_layers_may_be_measured_in_several_passes(monkeypatch, per_channel, statistic):
    ann = dense(5)

    def thresholds(passes):
        seen = []

        def report(what, done, total):
            if not done:
                seen.append(what)

        made = convert(
            ann, calibration=from_arrays(X), recipe="opi", report=report,
            threshold=parse_statistic(statistic), per_channel=per_channel,
        )  # fmt: skip
        assert seen.count("calibrating") == passes
        return [neuron.threshold.tolist() for neuron in made.neurons]

    once = thresholds(1)
    assert len(once) == 5
    # That is robust has two for each channel.
    each = 2 if statistic.startswith("robust") else 1
    monkeypatch.setattr(calibration, "MOST_CHANNELS", each * (12 if per_channel else 2))
    assert thresholds(3) == once


def seen_in(x, batch_size):
    """Some values of -x, which is taken for an activation."""
    ann = detach(model("net (float[N, C, D] x) => (float[N, C, D] y) { y = Neg(x) }", {}))
    return sampled(ann, {"f": "y"}, from_arrays(x), Running(batch_size))["f"]


def test_what_clips_are_fitted_to_is_the_same_whatever_the_batches(monkeypatch):
    monkeypatch.setattr(calibration, "SAMPLED", 2000)
    x = RNG.normal(size=(21, 40, 30)).astype(np.float32)
    x[20] += 2
    found = seen_in(x, 7)
    for batch_size in (1, 20, 100):
        np.testing.assert_array_equal(seen_in(x, batch_size), found)
    # As many of each sample, and the extremes; no axis of them is left out.
    assert len(found) == 21 * (2000 // 21) + 2
    assert (found.min(), found.max()) == (-x.max(), -x.min())
    assert found.mean() == pytest.approx(-x.mean(), abs=0.1)


def test_few_values_are_all_taken():
    x = RNG.normal(size=(5, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(seen_in(x, 2)[:-2], -x.reshape(-1))


def test_places_differ_along_every_axis(monkeypatch):
    """A step through memory had met one channel, or one place, where it was that of an axis."""
    monkeypatch.setattr(calibration, "SAMPLED", 1600)
    x = np.zeros((16, 40, 50), np.float32)
    x[:, ::2] += 1
    x[..., ::2] += 2
    values, counts = np.unique(seen_in(x, 16)[:-2], return_counts=True)
    assert values.tolist() == [-3, -2, -1, 0]
    assert counts.min() > 1600 / 8


def test_a_pool_that_takes_in_several_channels():
    """Behind a MatMul of tokens channels lie along the last axis, as do the pool's windows."""
    text = "net (float[N, 4, 6] x) => (float[N, 4, 2] y) { a = MatMul(x, w) b = Relu(a) "
    text += "p = MaxPool<kernel_shape = [2], strides = [2]>(b) y = MatMul(p, v) }"
    weights = {"w": RNG.normal(size=(6, 8)), "v": RNG.normal(size=(4, 2))}
    ann = model(text, {name: values.astype(np.float32) for name, values in weights.items()})
    data = from_arrays(RNG.normal(size=(40, 4, 6)).astype(np.float32))
    found = convert(ann, calibration=data, threshold="robust-mmse=8", per_channel=True)
    assert found.neurons[0].threshold.size == 8
