"""Networks as exporters write them: ONNX Runtime agrees with the framework, and they convert.

The build scripts beside this file made models/; ``make test-exporters`` builds all of it anew.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from onnx2snn import SpikingSession, convert, from_arrays

FOLDER = Path(os.environ.get("ONNX2SNN_EXPORTERS") or Path(__file__).parent / "models")
MODELS = sorted(FOLDER.glob("*.onnx"))
EXPORTERS = ["jax", "keras", "sklearn", "tf2onnx", "torch-dynamo", "torch-legacy"]

pytestmark = pytest.mark.exporters
each_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)


def stored(path):
    """Inputs, the framework's outputs, and the true classes (None for regression)."""
    with np.load(path.with_suffix(".npz")) as samples:
        return samples["x"], samples["y_framework"], samples.get("labels")


def run(path, x):
    """The last output, all samples at once unless the file has a fixed batch size."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    size = source.shape[0] if isinstance(source.shape[0], int) else len(x)
    batches = np.split(x, range(size, len(x), size))
    return np.concatenate([scores(session.run(None, {source.name: x})[-1]) for x in batches])


def scores(output):
    """An output as an array, also if it is ZipMap's list of a dictionary for each sample."""
    if isinstance(output, list):
        return np.array([[sample[label] for label in sorted(sample)] for sample in output])
    return output


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_each_exporter_has_a_model(exporter):
    assert [path for path in MODELS if path.stem.startswith(exporter)]


@each_model
def test_onnx_runtime_agrees_with_the_framework(path):
    x, expected, labels = stored(path)
    got = run(path, x).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    if labels is not None:
        assert np.mean(expected.argmax(1) == labels) > 0.9


@each_model
def test_the_spiking_network_agrees_with_the_framework(path):
    x, expected, labels = stored(path)
    conversion = convert(path, calibration=from_arrays(x))
    timesteps = 256 if labels is None else 64
    *classes, got = SpikingSession(conversion.model).run(x, timesteps).values.values()
    if labels is None:
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.95
    else:
        assert np.mean(got.argmax(1) == expected.argmax(1)) >= 0.9
        assert all(np.array_equal(label, got.argmax(1)) for label in classes)
