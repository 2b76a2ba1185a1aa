"""Thresholds from data: how it is read, and how much memory that takes."""

import numpy as np
import pytest
from onnx_text import model

from onnx2snn import calibration, convert, from_arrays, parse_statistic
from onnx2snn.calibration import sampled
from onnx2snn.graph_passes.weights import detach
from onnx2snn.progress import Running

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype(np.float32)


def dense(layers):
    """So many layers of six neurons."""
    weights = {f"w{i}": RNG.normal(size=(6, 6)).astype(np.float32) for i in range(layers + 1)}
    body = "".join(f"a{i} = MatMul(x{i}, w{i}) x{i + 1} = Relu(a{i}) " for i in range(layers))
    last = f"y = MatMul(x{layers}, w{layers})"
    return model(f"net (float[N, 6] x0) => (float[N, 6] y) {{ {body}{last} }}", weights)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("statistic", ["max", "percentile=99", "robust-mmse=4"])
def test_layers_may_be_measured_in_several_passes(monkeypatch, per_channel, statistic):
    ann = dense(5)

    def thresholds(passes):
        seen = []

        def track(found, what, how_many):
            seen.append(what)
            return found

        made = convert(
            ann, calibration=from_arrays(X), recipe="opi", track=track,
            threshold=parse_statistic(statistic), per_channel=per_channel,
        )  # fmt: skip
        assert seen.count("calibrating") == passes
        return [neuron.threshold.tolist() for neuron in made.neurons]

    once = thresholds(1)
    assert len(once) == 5
    monkeypatch.setattr(calibration, "MOST_CHANNELS", 12 if per_channel else 2)
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
