"""Data that is prepared otherwise than the calibration data is told by its range."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx_text import model

from onnx2snn import convert, from_arrays
from onnx2snn.cli import main
from onnx2snn.data.ranges import common_ranges, notes_on_ranges, with_ranges

RNG = np.random.default_rng(0)
PIXELS = RNG.random((40, 3)).astype(np.float32)
WEIGHTS = {"w": RNG.normal(size=(3, 4)).astype(np.float32), "v": np.ones((4, 2), np.float32)}
ANN = model(
    "net (float[N, 3] x) => (float[N, 2] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }",
    WEIGHTS,
)


def read_in(data, batch_size=7):
    seen, ranges = with_ranges(data)
    batches = [x for x, _ in seen.batches(batch_size)]
    return batches, ranges


@pytest.mark.parametrize("batch_size", [1, 7, 40, 100])
def test_ranges_are_those_of_samples(batch_size):
    x = {"a": PIXELS, "b": RNG.integers(-9, 9, (40, 2, 2))}
    batches, ranges = read_in(from_arrays(x), batch_size)
    for name, values in x.items():
        np.testing.assert_array_equal(np.concatenate([each[name] for each in batches]), values)
        rows = values.reshape(40, -1)
        np.testing.assert_array_equal(ranges[name], np.stack([rows.min(1), rows.max(1)], 1))
        assert common_ranges(ranges)[name] == np.median(ranges[name], axis=0).tolist()


def test_of_few_samples_nothing_is_common():
    _, ranges = read_in(from_arrays(PIXELS[:7]))
    assert common_ranges(ranges) == {}
    whole, ranges = with_ranges(from_arrays(PIXELS))
    next(whole.batches(7))
    assert common_ranges(ranges) == {}


@pytest.mark.parametrize(
    ("other", "noted"),
    [
        (255 * PIXELS, True),
        ((PIXELS - 0.5) / 0.5, True),
        ((PIXELS - 0.3) / 0.35, True),
        (PIXELS / 20, True),
        (0.8 * PIXELS, False),
        (PIXELS[::-1], False),
        # Of blank images nothing is known.
        (np.zeros_like(PIXELS), False),
    ],
)
def test_which_ranges_differ(other, noted):
    found = [common_ranges(read_in(from_arrays(x))[1]) for x in (PIXELS, other)]
    for one, two in (found, found[::-1]):
        assert bool(notes_on_ranges(one, two)) == noted


@pytest.mark.parametrize("told", [None, 3, "text", [1], [1, 2, 3], [1, "a"], {"a": 1}])
def test_what_a_file_says_of_ranges_may_be_anything(told):
    assert notes_on_ranges({"x": told}, {"x": [0.0, 255.0]}) == []


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(ANN, "ann.onnx")
    np.savez("pixels.npz", x=PIXELS, y=np.arange(40) % 2)
    np.savez("bytes.npz", x=255 * PIXELS, y=np.arange(40) % 2)
    onnx.save(convert(ANN, calibration=from_arrays(PIXELS), timesteps=4).model, "snn.onnx")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "snn.onnx", "-T", "4", "--data"],
        ["evaluate", "snn.onnx", "-T", "4", "--early-exit", "--data"],
        ["diagnose", "snn.onnx", "--ann", "ann.onnx", "-T", "4", "--data"],
        ["run", "snn.onnx", "-T", "4", "--data"],
        ["compare", "ann.onnx", "--calibration", "pixels.npz", "-T", "4", "--recipes", "best",
         "--data"],
    ],
)  # fmt: skip
def test_commands_say_it(command):
    for source, noted in (("pixels.npz", False), ("bytes.npz", True)):
        result = CliRunner().invoke(main, [*command, source])
        assert result.exit_code == 0, result.output
        text = " ".join(result.stderr.split())
        assert ("Note: the numbers of input 'x' are from" in text) == noted
        assert ("prepare both as in training." in text) == noted


def test_the_range_of_calibration_data_is_kept():
    one, other = (
        convert(ANN, calibration=from_arrays(PIXELS), timesteps=4, batch_size=size).model
        for size in (5, 40)
    )
    (held,) = (e.value for e in one.metadata_props if e.key == "onnx2snn.inputs")
    wanted = np.median([PIXELS.min(1), PIXELS.max(1)], axis=1)
    np.testing.assert_array_equal(json.loads(held)["x"], wanted)
    assert held == next(e.value for e in other.metadata_props if e.key == "onnx2snn.inputs")
