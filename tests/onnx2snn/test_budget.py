"""``evaluate`` fails outside of an accuracy budget."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnx2snn import convert
from onnx2snn.cli import main
from onnx2snn.cli.budget import BudgetError, require_budget
from onnx2snn.demo import demo_images, demo_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    onnx.save(demo_network(), folder / "ann.onnx")
    onnx.save(convert(demo_network()).model, folder / "snn.onnx")
    x, y = next(demo_images(20).batches(20))
    np.savez(folder / "test.npz", x=x, y=y)
    np.savez(folder / "unlabelled.npz", x=x)
    return folder


def evaluate(folder, *options, data="test.npz"):
    arguments = ["evaluate", folder / "snn.onnx", "--data", folder / data, "-T", "2,6", *options]
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_within_and_outside(folder):
    ann = ["--ann", folder / "ann.onnx"]
    inside = evaluate(folder, "--min-accuracy", 0, "--max-drop", 100, *ann, "--json")
    assert inside.exit_code == 0, inside.output
    report = json.loads(inside.stdout)
    accuracy = report["snn"][-1]["accuracy"]
    assert evaluate(folder, "--min-accuracy", accuracy).exit_code == 0
    drop = report["ann"]["accuracy"] - accuracy
    outside = evaluate(folder, "--min-accuracy", accuracy + 0.5, *ann, "--json")
    assert outside.exit_code == 1
    assert json.loads(outside.stdout) == report
    assert "--min-accuracy" in outside.stderr
    assert drop > 0
    assert "--max-drop" in evaluate(folder, "--max-drop", drop / 2, *ann).output


@pytest.mark.parametrize(("limit", "told"), [("0.92", 1), ("1", 1), ("0", 0), ("1.5", 0)])
def test_a_fraction_in_place_of_percent_is_told(folder, limit, told):
    """On standard error; a drop of so many points is what one asks for."""
    found = evaluate(folder, "--min-accuracy", limit, "--json")
    assert found.exit_code == 0, found.output
    assert found.stderr.count(f"Note: --min-accuracy is in percent: {limit} is {limit} %.") == told
    ann = ["--ann", folder / "ann.onnx"]
    assert "in percent" not in evaluate(folder, "--max-drop", 0.5, *ann).stderr


def test_what_cannot_be_judged(folder):
    assert evaluate(folder, "--max-drop", 1).exit_code == 2
    found = evaluate(folder, "--min-accuracy", 90, data="unlabelled.npz")
    assert found.exit_code == 1
    assert "needs data with labels" in found.output


def report(accuracy, ann):
    return {"snn": [{"timesteps": 8, "accuracy": accuracy}], "ann": {"accuracy": ann}}


def test_limits_are_inclusive_and_all_are_named():
    require_budget(report(94.1, 95.1), 94.1, 1.0)
    require_budget(report(97.0, 95.0), None, 0.0)
    with pytest.raises(BudgetError, match=r"94\.00 % at T=8.*; 1\.10 points below"):
        require_budget(report(94.0, 95.1), 94.1, 1.0)
    # Of 397 samples: two decimals would say that 96.73 is less than 96.73.
    with pytest.raises(BudgetError, match=r"96\.725 % at T=8, less than --min-accuracy 96\.73$"):
        require_budget(report(100 * 384 / 397, 97.0), 96.73, None)
    require_budget(report(None, 95), None, None)


@pytest.mark.parametrize("option", ["--min-accuracy", "--max-drop"])
@pytest.mark.parametrize("limit", ["nan", "-1", "101", "much"])
def test_limits_that_are_none(folder, option, limit):
    result = evaluate(folder, option, limit, "--ann", folder / "ann.onnx")
    assert result.exit_code == 2, result.output


def test_the_very_drop_that_is_reported_is_within():
    found = report(55.43859649122807, 62.45614035087719)
    require_budget(found, None, found["ann"]["accuracy"] - found["snn"][0]["accuracy"])
