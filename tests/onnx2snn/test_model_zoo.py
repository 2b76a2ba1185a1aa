"""The nine light graphs in the onnx wheel: real structures of 2015 to 2018, constant weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx2snn import SpikingSession, UnsupportedModelError, check, convert, from_arrays

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
CONVERTS = {
    "densenet121": 121, "inception_v2": 69, "resnet50": 49, "shufflenet": 33, "squeezenet": 26,
    "vgg19": 18,
}  # fmt: skip
NORMALISED = {"bvlc_alexnet": 2, "inception_v1": 2, "zfnet512": 2}
IMAGES = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)


def path(name):
    return FOLDER / f"light_{name}.onnx"


def test_all_nine_are_known():
    assert {p.name for p in FOLDER.glob("light_*.onnx")} == {
        path(name).name for name in (*CONVERTS, *NORMALISED)
    }


@pytest.mark.parametrize("maxpool", ["average", "exact"])
@pytest.mark.parametrize("name", CONVERTS)
def test_converts_with_calibration(name, maxpool):
    result = check(path(name), maxpool=maxpool)
    assert result.converts
    assert result.verdict.startswith("Converts with --calibration DATA")
    assert sum(row.role == "neuron" for row in result.nodes) == CONVERTS[name]
    assert "on 1 random input " in result.check


@pytest.mark.parametrize("maxpool", ["average", "exact"])
@pytest.mark.parametrize("name", NORMALISED)
def test_local_response_normalization_is_what_stands_in_the_way(name, maxpool):
    result = check(path(name), maxpool=maxpool)
    obstacles = [row for row in result.nodes if row.role == "obstacle"]
    assert not result.converts
    assert {row.op for row in obstacles} == {"LRN"}
    assert len(obstacles) == NORMALISED[name]
    assert all("local response normalization" in row.reason for row in obstacles)


@pytest.mark.parametrize("maxpool", ["average", "exact"])
def test_squeezenet_runs(maxpool):
    data = from_arrays(IMAGES)
    snn = SpikingSession(convert(path("squeezenet"), calibration=data, maxpool=maxpool).model)
    output = snn.run(IMAGES, 2).output
    assert output.shape == (1, 1000, 1, 1)
    np.testing.assert_allclose(output.sum(), 1, rtol=1e-4)


def test_refused_with_every_obstacle_named():
    with pytest.raises(UnsupportedModelError, match="LRN 'n2', 'n6': "):
        convert(path("zfnet512"), calibration=from_arrays(IMAGES))
