"""Recipes by name, and the correction of biases."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from onnx_text import model, run

from onnx2snn import (
    DataError,
    MissingThresholdError,
    SpikingSession,
    Statistic,
    convert,
    from_arrays,
)
from onnx2snn.cli import main
from onnx2snn.correction import mean_by_channel
from onnx2snn.recipes import RECIPES, recipe_by_name
from onnx2snn.statistics import ActivationHistogram

RNG = np.random.default_rng(0)
TEXT = (
    "net (float[N, 2, 8, 8] x) => (float[N, 3] y) "
    "{ c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) "
    "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) d = Conv<pads = [1, 1, 1, 1]>(p, u) "
    "e = Add(d, p) q = Relu(e) g = GlobalAveragePool(q) f = Flatten(g) y = Gemm(f, v) }"
)
WEIGHTS = {
    "w": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32),
    "u": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32) / 3,
    "v": RNG.normal(size=(4, 3)).astype(np.float32),
}
DATA = from_arrays(RNG.normal(size=(64, 2, 8, 8)).astype(np.float32))
UNSEEN = RNG.normal(size=(64, 2, 8, 8)).astype(np.float32)


def mean_activations(text, name):
    """Of an inner tensor of the ANN, per channel, on the calibration data."""
    inner = text.replace("float[N, 3] y)", f"float[N, 3] y, float[N, 4, a, b] {name})")
    (x, _) = next(iter(DATA.batches(64)))
    return mean_by_channel(run(model(inner, WEIGHTS), x, output=1), 1)


@pytest.mark.parametrize("timesteps", [4, 8])
def test_corrected_spikes_average_to_the_activations(timesteps):
    ann = model(TEXT, WEIGHTS)
    (x, _) = next(iter(DATA.batches(64)))
    gaps = {}
    for recipe in ("mmse", "best"):
        conversion = convert(ann, calibration=DATA, recipe=recipe, timesteps=timesteps)
        readout = SpikingSession(conversion.model).run(x, timesteps).readouts[timesteps]
        for name in ("r", "q"):
            target = mean_activations(TEXT, name)
            gap = mean_by_channel(readout.potential_sums[name] / timesteps, 1) - target
            gaps[recipe, name] = np.abs(gap).max() / target.max()
    for name in ("r", "q"):
        assert gaps["best", name] < 0.01
        assert gaps["best", name] < gaps["mmse", name] / 3


def test_corrected_networks_come_nearer_to_the_ann():
    ann = model(TEXT, WEIGHTS)
    wanted = run(ann, UNSEEN)
    errors = {}
    for recipe in ("threshold-balancing", "robust-norm", "mmse", "best"):
        conversion = convert(ann, calibration=DATA, recipe=recipe, maxpool="exact", timesteps=8)
        output = SpikingSession(conversion.model).run(UNSEEN, 8).output
        errors[recipe] = np.abs(output - wanted).mean()
    assert errors["best"] < errors["mmse"] < errors["threshold-balancing"]
    assert errors["best"] < errors["robust-norm"]


def test_a_correction_is_folded_into_the_weights():
    conversion = convert(model(TEXT, WEIGHTS), calibration=DATA, recipe="best", timesteps=8)
    ops = [node.op_type for node in conversion.model.graph.node]
    # The residual sum has no bias that could take it.
    assert ops.count("Add") == 2
    metadata = {entry.key: entry.value for entry in conversion.model.metadata_props}
    recipe = json.loads(metadata["onnx2snn.recipe"])
    assert (recipe["name"], recipe["timesteps"], recipe["maxpool"]) == ("best", 8, "exact")


def test_settings_override_a_recipe():
    ann = model(TEXT, WEIGHTS)
    conversion = convert(
        ann, calibration=DATA, recipe="threshold-balancing", threshold=Statistic("percentile", 50.0)
    )
    plain = convert(ann, calibration=DATA, threshold=Statistic("percentile", 50.0), v_init=0.0)
    assert conversion.model.graph == plain.model.graph


def test_a_correction_needs_data():
    clipped = TEXT.replace("Relu(c)", "Clip(c, lo, hi)").replace("Relu(e)", "Clip(e, lo, hi)")
    weights = WEIGHTS | {"lo": np.float32(0), "hi": np.float32(4)}
    with pytest.raises(MissingThresholdError, match="mean activations"):
        convert(model(clipped, weights), recipe="best")
    with pytest.raises(DataError, match="no recipe 'bestest', only"):
        convert(model(clipped, weights), recipe="bestest")


def test_least_squared_error_of_time_steps():
    """Of activations 0.25, 0.5, 0.75 and a rare 4, with four levels above 0: 1, not 4."""
    values = np.repeat([0.25, 0.5, 0.75, 4.0], [10_000, 10_000, 10_000, 1]).astype(np.float32)[
        None, None
    ]
    histogram = ActivationHistogram(per_channel=True)
    histogram.update(values)
    np.testing.assert_allclose(histogram.value(Statistic("mmse", 4)), 1.0, rtol=0.03)
    # With many levels, to cut off the rare one costs more than to round the others.
    assert histogram.value(Statistic("mmse", 1000))[0] > 3.9


def test_recipes_are_listed_with_their_sources():
    found = json.loads(CliRunner().invoke(main, ["recipes", "--json"]).stdout)["recipes"]
    assert [row["name"] for row in found] == [recipe.name for recipe in RECIPES]
    assert all(row["source"] and row["what"] for row in found)
    assert "Rueckauer" in CliRunner().invoke(main, ["recipes"]).output
    assert recipe_by_name("opi").v_init == 0.5
    alone = CliRunner().invoke(main, ["convert", "ann.onnx", "-o", "snn.onnx", "-T", "8"])
    assert alone.exit_code == 2
    assert "give --recipe too" in alone.output
