"""Thresholds from data: how it is read, and how much memory that takes."""

import numpy as np
import pytest
from onnx_text import model

from onnx2snn import calibration, convert, from_arrays, parse_statistic

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
