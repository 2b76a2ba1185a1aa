"""Recipes by name: what each is known for, against numbers by hand; and how settings combine."""

import functools
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from one_neuron import RNG, TWO, WEIGHTS, X, activations, clipped, fire, held, one, two
from onnx_text import model

from onnx2snn import (
    DataError,
    MissingThresholdError,
    ModelError,
    SpikingSession,
    Statistic,
    convert,
    diagnose,
    evaluate,
    from_arrays,
)
from onnx2snn.cli import main
from onnx2snn.converting.statistics import ActivationHistogram
from onnx2snn.graph_passes import PassError, neuron_nodes, threshold_of
from onnx2snn.graph_passes.graph.neurons import attribute_tensor
from onnx2snn.inspection import recipe_in
from onnx2snn.measuring.comparison import compare_recipes
from onnx2snn.measuring.early_exits import early_exits
from onnx2snn.recipe import Neuron, Recipe
from onnx2snn.recipes import RECIPES, recipe_by_name
from onnx2snn.spiking_passes import searching
from onnx2snn.spiking_passes.correction import correct, shift_currents

DATA = from_arrays(X)
MAX = Statistic("max")


def thresholds(conversion):
    return {neuron.name: neuron.threshold for neuron in conversion.neurons}


def potentials(conversion):
    """V(0) of each layer."""
    graph = conversion.model.graph
    return {
        node.name: onnx.numpy_helper.to_array(attribute.t)
        for node in graph.node
        for attribute in node.attribute
        if attribute.name == "v_init"
    }


def neuron_of(recipe, data, **options):
    """A layer of neurons whose current is the input, with V_th 1 unless said otherwise."""
    data = np.asarray(data, np.float32)
    return convert(one(data.shape[1]), calibration=from_arrays(data), recipe=recipe, **options)


def spikes_of(conversion, x, timesteps):
    """The net number of spikes of ``one``'s neurons at each time-step, [T, N, C]."""
    session, threshold = SpikingSession(conversion.model), conversion.neurons[0].threshold
    x = np.asarray(x, np.float32)
    sums = [np.zeros(x.shape[-2:])]
    for t in range(1, timesteps + 1):
        part = x[:t] if x.ndim == 3 else x
        sums.append(session.run(part, t).readouts[t].potential_sums["r"] / threshold)
    return np.diff(sums, axis=0)


# Thresholds from activations ------------------------------------------------------------------


def test_threshold_balancing_takes_the_largest_activation():
    conversion = convert(two(), calibration=DATA, recipe="threshold-balancing", batch_size=5)
    for (name, found), wanted in zip(thresholds(conversion).items(), activations(), strict=True):
        np.testing.assert_allclose(found, wanted.max(), rtol=1e-6)
        assert found.shape == ()
        assert potentials(conversion)[name] == 0


FROM_DATA = (
    "threshold-balancing",
    "robust-norm",
    "robust-norm-per-channel",
    "pre-charged",
    "burst",
    "signed",
)


@pytest.mark.parametrize("recipe", FROM_DATA)
def test_thresholds_from_data_are_so_for_clips_too(recipe):
    """A bound that activations come nowhere near, as that of ReLU6, is no firing threshold."""
    found = thresholds(convert(clipped(1000), calibration=DATA, recipe=recipe))
    wanted = thresholds(convert(two(), calibration=DATA, recipe=recipe))
    np.testing.assert_equal(list(found.values()), list(wanted.values()))
    near = convert(clipped(0.25), calibration=DATA, recipe=recipe)
    for threshold in thresholds(near).values():
        # Five spikes of a burst are the bound.
        assert threshold.max() == np.float32(0.25 / 5 if recipe == "burst" else 0.25)


OUTLIERS = np.ones((2000, 2)) * [1, 2]
OUTLIERS[0] = 50


def test_robust_norm_leaves_out_one_in_a_thousand():
    found = neuron_of("robust-norm", OUTLIERS)
    # Of 4000 activations two are 50, half of the others 1 and half 2: a bin is 1/32 wide.
    np.testing.assert_allclose(found.neurons[0].threshold, 2, atol=1 / 32)
    assert potentials(found)["r"] == 0
    by_channel = neuron_of("robust-norm-per-channel", OUTLIERS)
    np.testing.assert_allclose(by_channel.neurons[0].threshold, [1, 2], atol=1 / 32)
    assert neuron_of("threshold-balancing", OUTLIERS).neurons[0].threshold == 50


def test_tcl_takes_trained_bounds_and_refuses_others():
    conversion = convert(clipped(4), recipe="tcl")
    assert [float(v) for v in thresholds(conversion).values()] == [4, 4]
    assert [float(v) for v in potentials(conversion).values()] == [0, 0]
    # With data too, which could lower them.
    again = convert(clipped(4), recipe="tcl", calibration=DATA)
    assert again.model.graph == conversion.model.graph
    with pytest.raises(
        MissingThresholdError, match=r"(?s)'tcl' takes thresholds from trained.*'r'"
    ):
        convert(two(), calibration=DATA, recipe="tcl")


def error_of_levels(values, theta, timesteps, to_level=np.rint):
    levels = np.clip(to_level(values * timesteps / theta), 0, timesteps) * theta / timesteps
    return np.square(values - levels).mean()


@pytest.mark.parametrize("timesteps", [2, 4, 16, 100])
def test_rnl_scales_the_largest_activation_of_a_layer(timesteps):
    x = np.random.default_rng(1).exponential(size=(2000, 3)).astype(np.float32)
    conversion = neuron_of("rnl", x, timesteps=timesteps)
    (theta,) = thresholds(conversion).values()

    def error(p):
        # From v(0) = 0 a neuron says the level below; p is searched on the first 32 samples.
        return error_of_levels(x[:32], p * x.max(), min(timesteps, 64), np.floor)

    p = min((1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1), key=error)
    for _ in range(2):
        p = min((p, 0.8 * p, 1.25 * p), key=error)
    assert theta.shape == ()
    np.testing.assert_allclose(theta, p * x.max(), rtol=1e-6)
    assert potentials(conversion)["r"] == 0


def cross_entropy(found, truth):
    """Of the classes that two read-outs [N, C] give probabilities for."""
    p, q = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (truth, found))
    return -(p * np.log(q)).sum(axis=1).mean()


@pytest.mark.parametrize("labels", [None, np.arange(len(X)) % 2])
def test_rnl_searches_each_layer_by_the_loss_of_the_read_out(labels):
    data = from_arrays(X, labels)
    conversion = convert(two(), calibration=data, recipe="rnl", timesteps=16)
    hidden, last = activations()
    most, truth = np.array([hidden.max(), last.max()]), last @ WEIGHTS["v"]

    def loss(shares):
        first, second = shares * most
        spikes = fire(held(X @ WEIGHTS["w"], 16), first)
        said = fire(list(spikes * first @ WEIGHTS["u"]), second).mean(axis=0) * second
        read = said @ WEIGHTS["v"]
        return np.square(read - truth).mean() if labels is None else cross_entropy(read, truth)

    found = min(([p, p] for p in (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)), key=loss)
    for layer in (0, 1, 0, 1):
        changed = [np.where(np.arange(2) == layer, f, 1) * found for f in (1, 0.8, 1.25)]
        found = min(changed, key=loss)
    assert found[0] != found[1]
    np.testing.assert_allclose(list(thresholds(conversion).values()), found * most, rtol=1e-5)


def test_rnl_with_labels_heeds_the_classes_alone():
    """Not boxes beside them, whose softmax means nothing."""
    boxes = TWO.replace("=> (float[N, 2] y)", "=> (float[N, 2] y, float[N, 4] box)")
    boxes = boxes.replace("y = Gemm(q, v)", "y = Gemm(q, v) box = Gemm(q, large)")
    large = 50 * RNG.normal(size=(4, 4)).astype(np.float32)
    data = from_arrays(X, np.arange(len(X)) % 2)
    options = {"calibration": data, "recipe": "rnl", "timesteps": 8}
    both = convert(model(boxes, WEIGHTS | {"large": large}), **options)
    assert str(thresholds(both)) == str(thresholds(convert(two(), **options)))


def test_rnl_sees_samples_of_all_classes():
    """In one batch, of which it takes the first 32, too."""
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    data = from_arrays(x, np.repeat(np.arange(2), 50))
    notes = {
        recipe: [n for n in convert(two(), calibration=data, recipe=recipe).notes if "order" in n]
        for recipe in ("rnl", "calibration")
    }
    assert [len(found) for found in notes.values()] == [1, 0]
    assert "batches of 32 samples" in notes["rnl"][0]


def test_thresholds_say_what_they_come_from():
    plain, then = "max, per layer, 12 samples", ", then balance_thresholds"
    for recipe, wanted in {
        "threshold-balancing": [plain, plain],
        # The largest current of the first layer is its largest activation.
        "spike-norm": [plain, plain + then],
        "tsc": [f"{plain}{then}, switch_inputs"] * 2,
    }.items():
        found = convert(two(), calibration=DATA, recipe=recipe).neurons
        assert [neuron.source for neuron in found] == wanted


def test_rnl_with_labels_heeds_the_first_output_of_classes(monkeypatch):
    """Also where a later one is behind an average in the file, as before a Softmax."""
    text = (
        "net (float[N, 4] x) => (float[N, 3] y, float[N, 5] z) { h = MatMul(x, w) r = Relu(h) "
        "y = MatMul(r, v) s = MatMul(r, u) z = Softmax(s) }"
    )
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 6), "v": (6, 3), "u": (6, 5)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    data = from_arrays(rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, 40))
    shown, loss = set(), searching._cross_entropy
    monkeypatch.setattr(searching, "_cross_entropy", lambda a, b: shown.add(a.shape) or loss(a, b))
    convert(model(text, weights), calibration=data, recipe="rnl", timesteps=8)
    assert shown == {(32, 3)}


def test_rnl_leaves_trained_bounds():
    for options in ({}, {"timesteps": 4}, {"v_init": 0.5}):
        bounded = convert(clipped(4), calibration=DATA, recipe="rnl", **options)
        assert {neuron.source for neuron in bounded.neurons} == {"bound of the clip"}
        assert [float(v) for v in thresholds(bounded).values()] == [4, 4]
        (scaling,) = (each for each in bounded.passes if each.name == "scale_thresholds")
        assert not scaling.changed
    assert set(map(float, potentials(bounded).values())) == {2}


def test_mmse_and_robust_mmse_per_channel():
    rng = np.random.default_rng(2)
    x = (rng.exponential(size=(5000, 2)) ** 3 * [1, 10]).astype(np.float32)
    most = neuron_of("robust-norm-per-channel", x).neurons[0].threshold
    np.testing.assert_allclose(most, np.quantile(x, 0.999, axis=0), rtol=0.03)
    for timesteps, room in ((4, 1), (32, 1), (64, 1.125), (256, 1.21875)):
        free = neuron_of("mmse", x, timesteps=timesteps).neurons[0].threshold
        assert free.shape == (2,)
        for theta, values in zip(free, x.T, strict=True):
            errors = [
                error_of_levels(values, p * values.max(), timesteps)
                for p in np.arange(0.05, 1.0, 0.01)
            ]
            assert error_of_levels(values, theta, timesteps) < 1.02 * min(errors)
        robust, burst = (
            neuron_of(recipe, x, timesteps=timesteps).neurons[0].threshold
            for recipe in ("best-binary", "best-burst")
        )
        np.testing.assert_allclose(robust, room * np.minimum(free, most), rtol=1e-6)
        # Bursts have more room as it is.
        np.testing.assert_allclose(burst, 1.5 / 4 * np.minimum(free, most), rtol=1e-6)
    # The few largest would have raised it.
    assert np.all(free > 1.2 * most)


POOLED = """net (float[N, 2, 6, 6] x) => (float[N, 2] y, float[N, 4, H, W] z) {
    a = Relu(x) n = Neg(x) b = Relu(n) %s
}"""


@pytest.mark.parametrize("recipe", ["best", "best-binary", "best-burst"])
@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("p = GlobalMaxPool(a) y = Flatten(p) z = Concat<axis = 1>(b, b)", {"a": 6}),
        # Both are read by one pool, as two halves of its channels.
        ("j = Concat<axis = 1>(a, b) z = MaxPool<kernel_shape = [3, 3], strides = [3, 3]>(j) "
         "g = GlobalAveragePool(n) y = Flatten(g)", {"a": 3, "b": 3}),
        ("j = Concat<axis = -3>(a, b) z = MaxPool<kernel_shape = [3, 3], strides = [3, 3]>(j) "
         "g = GlobalAveragePool(n) y = Flatten(g)", {"a": 3, "b": 3}),
        # In another type.
        ("h = Cast<to = 10>(a) g = GlobalMaxPool(h) p = Cast<to = 1>(g) y = Flatten(p) "
         "z = Concat<axis = 1>(b, b)", {"a": 6}),
        # Something else reads a, too; of b, rows lie one above the other.
        ("p = GlobalMaxPool(a) y = Flatten(p) q = MaxPool<kernel_shape = [2, 2]>(b) "
         "z = Concat<axis = 1>(a, b)", {}),
        ("j = Concat<axis = 2>(b, b) z0 = MaxPool<kernel_shape = [3, 3], strides = [3, 3]>(j) "
         "z = Concat<axis = 1>(z0, z0) g = GlobalAveragePool(a) y = Flatten(g)", {}),
    ],
)  # fmt: skip
def test_best_takes_thresholds_of_what_max_pools_let_through(recipe, text, size):
    x = np.random.default_rng(0).normal(size=(200, 2, 6, 6)).astype(np.float32) ** 3
    found = convert(model(POOLED % text), calibration=from_arrays(x), recipe=recipe, timesteps=8)
    assert {neuron.name for neuron in found.neurons} == {"a", "b"}
    for neuron in found.neurons:
        values = np.maximum(x if neuron.name == "a" else -x, 0)
        width = size.get(neuron.name, 1)
        values = values.reshape(200, 2, 6 // width, width, 6 // width, width).max((3, 5))
        histogram = ActivationHistogram(per_channel=True, peaks=True)
        histogram.update(values)
        wanted = histogram.value(Statistic("robust-mmse", 8))
        if recipe == "best-burst":
            wanted = 1.5 * wanted / 4
        np.testing.assert_allclose(neuron.threshold.ravel(), wanted, rtol=1e-6)


def test_pools_for_thresholds_have_names_of_their_own():
    ann = model(POOLED % "p = GlobalMaxPool(a) y = Flatten(p) z = Concat<axis = 1>(b, b)")
    data = from_arrays(np.random.default_rng(0).normal(size=(20, 2, 6, 6)).astype(np.float32))
    wanted = thresholds(convert(ann, calibration=data, recipe="best", timesteps=8))
    (pool,) = [node for node in ann.graph.node if node.op_type == "GlobalMaxPool"]
    pool.name = pool.output[0] = "pooled/a"
    next(node for node in ann.graph.node if node.op_type == "Flatten").input[0] = "pooled/a"
    found = thresholds(convert(ann, calibration=data, recipe="best", timesteps=8))
    np.testing.assert_equal(found, wanted)


def test_local_threshold_balancing_by_its_recursion():
    # theta: 0 + 2 mean a = 2, then 2 + 2 (4 - 2) / 4 = 3, then 3 + 2 (4 - 3) / 4 = 3.5.
    values = np.array([[0, 0, 0, 4]], np.float32).T
    histogram = ActivationHistogram(per_channel=True)
    histogram.update(values)
    for steps, theta in ((1, 2), (2, 3), (3, 3.5), (1000, 4)):
        found = histogram.value(Statistic("balanced", steps))
        np.testing.assert_allclose(found, theta, atol=4 / 1000)
    conversion = neuron_of("ltb", values, timesteps=8)
    np.testing.assert_allclose(conversion.neurons[0].threshold, 4, rtol=1e-5)
    # Behind a delay of T / 4: of current 1.7 and v(0) = 2, spikes at t = 2, 4, 6.
    spikes = spikes_of(conversion, [[1.7]], 8)[:, 0, 0]
    assert spikes.tolist() == [0, 1, 0, 1, 0, 1, 0, 0]
    output = SpikingSession(conversion.model).run(np.float32([[1.7]]), 8).output
    np.testing.assert_allclose(output, 2 * 4 / 6, rtol=1e-2)


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


def test_a_layer_of_one_neuron_has_a_channel():
    text = (
        "net (float[N, 3] x) => (float[N] y) "
        "{ a = ReduceSum<keepdims = 0>(x, axes) r = Relu(a) y = Mul(r, two) }"
    )
    ann = model(text, {"axes": np.array([1]), "two": np.float32(2)})
    for recipe in ("robust-norm-per-channel", "mmse", "best"):
        conversion = convert(ann, calibration=DATA, recipe=recipe)
        assert conversion.neurons[0].threshold.shape == ()
        output = SpikingSession(conversion.model).run(X, 64).output
        wanted = 2 * np.maximum(X.sum(1), 0)
        assert np.abs(output - wanted).mean() < 0.1 * wanted.mean()


# Kinds of neurons -----------------------------------------------------------------------------


def test_opi_begins_at_half_a_threshold():
    conversion = neuron_of("opi", [[1.0]], threshold=MAX)
    assert potentials(conversion)["r"] == 0.5
    x = np.float32([[0.3, 0.7, 1.0, -0.2, 0.05]]).T
    wanted = fire(held(x, 4), 1.0, 0.5)
    np.testing.assert_array_equal(spikes_of(conversion, x, 4), wanted)
    # 0.5 + 4 * 0.3 = 1.7, 0.5 + 4 * 0.7 = 3.3, a full 4, never, and 0.5 + 4 * 0.05 = 0.7.
    assert wanted.sum(0).ravel().tolist() == [1, 3, 4, 0, 0]


def test_opi_takes_a_threshold_for_each_channel_unless_a_clip_has_its_own():
    data = [[1.0, 2.0], [0.5, 4.0]]
    conversion = neuron_of("opi", data, threshold=MAX)
    assert conversion.neurons[0].threshold.ravel().tolist() == [1, 4]
    assert potentials(conversion)["r"].ravel().tolist() == [0.5, 2]
    clip = convert(clipped(3), calibration=DATA, recipe="opi")
    assert clip.neurons[0].threshold.tolist() == 3


def test_opt_is_opi_at_t_and_not_before():
    x = np.linspace(-0.37, 0.99, 35, dtype=np.float32)[:, None]
    options = {"threshold": MAX, "timesteps": 8}
    shifted = neuron_of("opt", [[1.0]], **options)
    charged = neuron_of("opi", [[1.0]], **options)
    assert potentials(shifted)["r"] == 0
    counts = {t: [spikes_of(c, x, t).sum(0) for c in (shifted, charged)] for t in (4, 8)}
    np.testing.assert_array_equal(*counts[8])
    assert np.any(counts[4][0] < counts[4][1])
    np.testing.assert_array_equal(spikes_of(shifted, x, 8), fire(held(x + 1 / 16, 8), 1.0))


def test_burst_emits_several_spikes():
    conversion = neuron_of("burst", [[1.0]], threshold=MAX)
    x = np.float32([[0.3, 2.6, 9.0]]).T
    spikes = spikes_of(conversion, x, 3)
    np.testing.assert_array_equal(spikes, fire(held(x, 3), 1.0, most=5))
    # 2.6, 0.6 + 2.6, 0.2 + 2.6 and what is left over; 5 at most.
    assert spikes[:, 1:, 0].T.tolist() == [[2, 3, 2], [5, 5, 5]]


@pytest.mark.parametrize(
    "end", ["s = Unsqueeze(z, last) y = Squeeze(s, last)", "y = Cast<to = 1>(z)"]
)
def test_rate_norm_by_the_loss_of_classes_in_another_shape(end):
    """Thresholds are those of the network that ends in its scores."""
    rng = np.random.default_rng(1)
    weights = {"u": rng.normal(size=(4, 8)), "v": rng.normal(size=(8, 3))}
    values = {name: value.astype(np.float16) for name, value in weights.items()}
    text = "net (float16[N, 4] x) => (float{}[N, 3] y) {{ a = MatMul(x, u) r = Relu(a) {} }}"
    x = rng.normal(size=(60, 4)).astype(np.float16)
    data = from_arrays(x, rng.integers(0, 3, 60))
    shaped = text.format("" if "Cast" in end else "16", f"z = MatMul(r, v) {end}")
    found, wanted = (
        convert(model(each, values | more), calibration=data, recipe="rnl", timesteps=4).neurons
        for each, more in (
            (shaped, {"last": np.int64([2])}),
            (text.format("16", "y = MatMul(r, v)"), {}),
        )
    )
    assert [n.threshold for n in found] == [n.threshold for n in wanted]


def test_bursts_behind_a_clip_of_next_to_nothing():
    text = "net (float16[N, 1] x) => (float16[N, 1] y) { a = Mul(x, one) r = Clip(a, low, high) "
    values = {"one": np.float16(2), "low": np.float16(0), "high": np.float16(6e-8)}
    ann = model(text + "y = Identity(r) }", values)
    made = convert(ann, calibration=from_arrays(X[:, :1].astype(np.float16)), recipe="burst")
    assert [neuron.threshold > 0 for neuron in made.neurons] == [True]


@pytest.mark.parametrize(("bound", "per_channel"), [(0.25, False), (1000.0, False), (6.0, True)])
def test_bursts_say_no_more_than_a_clip(bound, per_channel):
    """V_th is the percentile, at most a fifth of the bound, so that 5 spikes are that."""
    options = {"calibration": DATA, "per_channel": per_channel}
    made = convert(clipped(bound), recipe="burst", **options)
    ranges = thresholds(convert(clipped(bound), recipe="robust-norm", **options))
    if per_channel:
        # In each layer some channels are capped, and some are not.
        assert [len(set(wanted > bound / 5)) for wanted in ranges.values()] == [2, 2]
    told = SpikingSession(made.model).run(10 * X, 5).readouts[5].potential_sums
    for neuron, wanted in zip(made.neurons, ranges.values(), strict=True):
        np.testing.assert_allclose(neuron.threshold, np.minimum(wanted, bound / 5), rtol=1e-6)
        assert np.all(told[neuron.name] / 5 <= bound * (1 + 1e-6))
    capped = [r.changed for r in made.passes if r.name == "cap_thresholds"]
    assert capped == [bound < 1000]
    assert not recipe_by_name("burst").is_for_timesteps


def test_signed_neurons_take_spikes_back():
    conversion = neuron_of("signed", [[1.0]])
    currents = np.float32([1.5, 0.75, -1.25, -2.5, -2.5, 0.75])[:, None, None]
    spikes = spikes_of(conversion, currents, 6)
    np.testing.assert_array_equal(spikes, fire(currents, 1.0, negative=-1.0))
    # v: 0.5, 0.25, -1, then -3.5 < -1 takes two back, one a step; there are no more after.
    assert spikes.ravel().tolist() == [1, 1, 0, -1, -1, 0]
    # Those of best take one back as soon as v is below 0.
    at_once = replace(recipe_by_name("signed"), neuron=recipe_by_name("best").neuron)
    spikes = spikes_of(neuron_of(at_once, [[1.0]]), currents, 6)
    np.testing.assert_array_equal(spikes, fire(currents, 1.0, negative=0.0))
    assert spikes.ravel().tolist() == [1, 1, -1, -1, 0, 0]
    # Those of best-burst two at once.
    bursts = replace(recipe_by_name("signed"), neuron=recipe_by_name("best-burst").neuron)
    spikes = spikes_of(neuron_of(bursts, [[1.0]]), currents, 6)
    assert spikes.ravel().tolist() == [1, 1, -2, 0, 0, 0]


@pytest.mark.parametrize("bound", [None, 0.25, 1000.0])
def test_bursts_share_what_one_spike_says(bound):
    """1.5 times V_th of best, at most the bound of the clip, in four parts."""
    ann = two() if bound is None else clipped(bound)
    bursts = replace(recipe_by_name("best-burst"), passes=(searching.divide_thresholds,))
    made = convert(ann, calibration=DATA, recipe=bursts, timesteps=8)
    ranges = thresholds(convert(ann, calibration=DATA, recipe="best", timesteps=8))
    told = SpikingSession(made.model).run(10 * X, 5).readouts[5].potential_sums
    for neuron, wanted in zip(made.neurons, ranges.values(), strict=True):
        most = np.inf if bound is None else bound
        np.testing.assert_allclose(neuron.threshold, np.minimum(1.5 * wanted, most) / 4, rtol=1e-6)
        np.testing.assert_allclose(potentials(made)[neuron.name], neuron.threshold / 2, rtol=1e-6)
        said = "1.5 times least squared error at T=8, without outliers, per channel"
        said = f"{said}, 12 samples" if np.any(1.5 * wanted < most) else "bound of the clip"
        assert neuron.source == f"{said}, then divide_thresholds"
        assert np.all(told[neuron.name] / 5 <= most * (1 + 1e-6))


def test_thresholds_that_a_pass_found_are_no_bounds_of_clips():
    loose, tight = (
        convert(clipped(bound), calibration=DATA, recipe="spike-norm", threshold="max").notes
        for bound in (1000.0, 0.01)
    )
    assert not loose
    assert [note.split(",")[0] for note in tight] == ["all thresholds are bounds of clips"]


def test_neurons_of_one_spike_keep_their_thresholds():
    divided = replace(recipe_by_name("opi"), passes=(searching.divide_thresholds,))
    made, plain = (convert(two(), calibration=DATA, recipe=r) for r in (divided, "opi"))
    assert str(thresholds(made)) == str(thresholds(plain))
    assert [r.changed for r in made.passes if r.name == "divide_thresholds"] == [False]
    assert not divided.is_for_timesteps


@pytest.mark.parametrize(("largest", "wanted"), [(60000, 65472 / 4), (6e-8, 6e-8)])
def test_bursts_keep_to_what_16_bits_hold(largest, wanted):
    text = "net (float16[N, 2] x) => (float16[N, 2] y) { r = Relu(x) y = Identity(r) }"
    x = np.full((8, 2), largest, np.float16)
    bursts = replace(recipe_by_name("best-burst"), passes=(searching.divide_thresholds,))
    made = convert(model(text), calibration=from_arrays(x), recipe=bursts, threshold="max")
    np.testing.assert_array_equal(made.neurons[0].threshold, np.float16([wanted] * 2))
    SpikingSession(made.model).run(x, 2)


def test_biases_of_bursts_move_by_several_thresholds():
    """V(0) = -2.5 V_th at T=1: of a current of 4 V_th one spike is left, and a gap of 3 V_th."""
    only_biases = (searching.divide_thresholds, partial(correct, rounds=1))
    bursts = replace(recipe_by_name("best-burst"), v_init=-2.5, headroom=1.0, passes=only_biases)
    made = neuron_of(bursts, [[1.0]] * 4, threshold=MAX, timesteps=1)
    assert made.neurons[0].threshold == 0.25
    (shift,) = (
        onnx.numpy_helper.to_array(tensor)
        for tensor in made.model.graph.initializer
        if tensor.name.endswith("/correction")
    )
    assert shift == 0.75


def test_srp_silences_and_cos_shifts():
    options = {"threshold": MAX, "timesteps": 8, "v_init": 0.5}
    # Residuals after 4 of 8 steps: 0.5 - 1.2 = -0.7, and 0.5 + 4 * 0.2 - 1 = 0.3.
    start = np.float32([[-0.3], [0.2]])
    then = np.float32([[0.4], [0.4]])
    currents = np.array([start] * 4 + [then] * 4)
    silenced = neuron_of("srp", [[1.0]], **options)
    spikes = spikes_of(silenced, currents, 8)[..., 0]
    assert spikes[:, 0].sum() == 0
    np.testing.assert_array_equal(spikes[4:, 1:], fire(currents[4:, 1], 1.0, 0.5))
    output = SpikingSession(silenced.model).run(currents, 8).output
    np.testing.assert_array_equal(output, spikes[4:].mean(0)[:, None])
    shifted = neuron_of("cos", [[1.0]], **options)
    # Residuals: below 0, between, and 0.5 + 4 * 1.9 - 4 above V_th.
    start = np.float32([[-0.3], [0.2], [1.9]])
    currents = np.array([start] * 4 + [np.full((3, 1), 0.4, np.float32)] * 4)
    spikes = spikes_of(shifted, currents, 8)[4:, :, 0]
    for neuron, v in enumerate((-0.5, 0.5, 1.5)):
        np.testing.assert_array_equal(spikes[:, neuron], fire(held(0.4, 4), 1.0, v))


# Settings that go with any recipe -------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["rmp", "rnl"])
def test_half_a_threshold_changes_v0_alone(recipe):
    """Bu et al. 2022, figure 4: the optimal initial potential on top of RMP and RNL."""
    options = {"calibration": DATA, "recipe": recipe, "timesteps": 8}
    plain, half = convert(two(), **options), convert(two(), v_init=0.5, **options)
    first = plain.neurons[0].threshold
    np.testing.assert_array_equal(half.neurons[0].threshold, first)
    for name, threshold in thresholds(half).items():
        np.testing.assert_allclose(potentials(half)[name], threshold / 2, rtol=1e-6)
        assert np.all(potentials(plain)[name] == 0)
    # What else follows from v(0): the thresholds that rmp measures on spikes.
    if recipe == "rnl":
        assert str(thresholds(half)) == str(thresholds(plain))
        ops = [[n.op_type for n in c.model.graph.node] for c in (plain, half)]
        assert ops[0] == ops[1]
    uniform = convert(two(), v_init="uniform", **options)
    assert all(v.size == 4 and np.ptp(v) > 0 for v in potentials(uniform).values())


@pytest.mark.parametrize("recipe", ["rmp", "rnl", "spike-norm", "best-binary"])
def test_resets_and_delays_go_with_any_recipe(recipe):
    options = {"calibration": DATA, "recipe": recipe, "timesteps": 8}
    for reset, op in (("zero", "ResetToZeroIF"), ("subtract", "IF")):
        conversion = convert(two(), reset=reset, delay=3, **options)
        ops = [node.op_type for node in conversion.model.graph.node]
        assert ops.count(op) == 2
        assert "DelayedMean" in ops
        session = SpikingSession(conversion.model)
        at = session.run(X, 8, readout=[3]).outputs
        # The mean after the delay: 8 y(8) of all, less 3 y(3), in 5 steps.
        whole = SpikingSession(convert(two(), reset=reset, delay=0, **options).model)
        both = whole.run(X, 8, readout=[3]).outputs
        np.testing.assert_allclose(at[3], both[3], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(at[8], (8 * both[8] - 3 * both[3]) / 5, rtol=1e-4, atol=1e-5)


def test_reset_to_zero_by_hand():
    x = np.float32([[0.7, 0.35, 1.4]]).T
    conversion = neuron_of("opi", [[1.0]], threshold=MAX, reset="zero")
    wanted = fire(held(x, 6), 1.0, 0.5, to_zero=True)
    np.testing.assert_array_equal(spikes_of(conversion, x, 6), wanted)
    # 0.5 + 0.7 fires and forgets 0.2; then every second time-step.
    assert wanted[:, 0, 0].tolist() == [1, 0, 1, 0, 1, 0]


def test_resets_of_other_neurons_are_refused():
    for recipe in ("signed", "burst", "srp", "cos", "best", "best-burst"):
        with pytest.raises(DataError, match="reset by subtraction alone"):
            convert(two(), calibration=DATA, recipe=recipe, reset="zero")
        as_ever, said = (
            convert(two(), calibration=DATA, recipe=recipe, reset=reset).model.graph
            for reset in (None, "subtract")
        )
        assert as_ever == said


def test_a_share_as_delay_is_rounded():
    """0.29 * 100 is a little less than 29."""
    assert replace(recipe_by_name("opi"), delay=0.29).delay_for(100) == 29
    assert replace(recipe_by_name("opi"), delay=0.25).delay_for(7) == 1


@pytest.mark.parametrize(("recipe", "kind"), [("cos", "OffsetIF"), ("srp", "ResidualIF")])
@pytest.mark.parametrize("delay", [0, 3, 8, 20])
def test_a_delay_that_leaves_no_time_is_said(recipe, kind, delay):
    notes = convert(two(), calibration=DATA, recipe=recipe, delay=delay, timesteps=8).notes
    assert any(kind in note and "it is an IF" in note for note in notes) == (delay != 3)
    assert any("are read out from their start" in note for note in notes) == (delay >= 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", "max"), ("neuron", "IF"), ("delay", float("nan")), ("delay", -1),
     ("headroom", 0), ("headroom", "1.5"), ("headroom", float("inf")),
     ("delay", 10**400),
     ("delay", True), ("passes", 3), ("passes", ("correct",)), ("per_channel", "yes"),
     ("recalibrate", 1), ("source", None), ("what", 3)],
)  # fmt: skip
def test_a_recipe_refuses_fields_that_are_none(name, value):
    with pytest.raises(DataError, match=f"{name} of the recipe 'mine' must be"):
        replace(recipe_by_name("mmse"), name="mine", **{name: value})


def test_a_neuron_refuses_a_kind_and_spikes_that_are_none():
    with pytest.raises(ModelError, match="there is no neuron 'LIF', only BurstIF, IF"):
        Neuron("LIF")
    with pytest.raises(DataError, match="max_spikes must be a whole number from 1 to 127"):
        Neuron("SignedBurstIF", max_spikes=128)


def test_a_recipes_name_is_text():
    with pytest.raises(DataError, match="name of the recipe '3' must be text, not 3"):
        replace(recipe_by_name("mmse"), name=3)


@pytest.mark.parametrize("factor", [0, -1])
def test_a_pass_that_leaves_no_threshold_is_named(factor):
    def scale(snn):
        for node in neuron_nodes(snn.graph):
            node.attrs["v_threshold"] = attribute_tensor(factor * threshold_of(node))
        return True

    recipe = replace(recipe_by_name("opi"), passes=(scale,))
    with pytest.raises(PassError, match=r"pass .*scale.* IF '\w+': V_th must be positive"):
        convert(two(), calibration=DATA, recipe=recipe)


@pytest.mark.parametrize("negative", [float("nan"), float("-inf"), "a", True, 0.5])
def test_a_neuron_takes_spikes_back_at_a_finite_potential(negative):
    with pytest.raises(DataError, match="below 0 or less of V_th, not"):
        Neuron("SignedIF", negative)


def changes_nothing(snn, extra):
    return False


@pytest.mark.parametrize(
    ("extra", "told"),
    [(len, "builtin_function_or_method"), (DATA, "Data"), (threading.Lock(), "lock"),
     ({1, 2}, "set"), ({(1, 2): 3}, "dict"), (np.float32(0.5), 0.5), ([1, "a"], [1, "a"])],
)  # fmt: skip
def test_a_pass_takes_whatever_it_wants(extra, told):
    mine = partial(changes_nothing, extra=extra)
    recipe = replace(recipe_by_name("opi"), name="mine", passes=(mine,))
    conversion = convert(two(), calibration=DATA, recipe=recipe)
    metadata = {entry.key: entry.value for entry in conversion.model.metadata_props}
    (entry,) = json.loads(metadata["onnx2snn.recipe"])["corrections"]
    assert entry == {"pass": "changes_nothing", "extra": told}


def test_a_file_tells_all_settings_of_its_recipe():
    told = recipe_in(convert(two(), calibration=DATA).model)
    settings = {setting.name for setting in fields(Recipe)} - {"source", "what"}
    assert {*settings, "corrections"} <= told.keys()


@dataclass
class ChangesNothing:
    """A pass that is an object, and cannot be hashed."""

    extra: list[int]

    def __call__(self, snn):
        return False


@pytest.mark.parametrize("v_init", [-0.5, 0, 1, 1.5])
def test_initial_potentials_outside_of_0_to_v_th_are_noted(v_init):
    notes = [n for n in convert(two(), calibration=DATA, v_init=v_init).notes if "times V_th" in n]
    assert len(notes) == (not 0 <= v_init <= 1)


@pytest.mark.parametrize(
    ("recipe", "v_init", "noted"),
    [
        ("opt", None, 0),
        ("opt", 0.5, 1),
        ("opt", "uniform", 1),
        (replace(recipe_by_name("opt"), passes=(partial(shift_currents),)), 0.5, 1),
        ("calibration", 0.5, 0),
    ],
)
def test_half_a_threshold_that_counts_twice_is_noted(recipe, v_init, noted):
    conversion = convert(two(), calibration=DATA, recipe=recipe, v_init=v_init)
    assert sum("V_th/2T" in note for note in conversion.notes) == noted


def test_a_pass_may_be_an_object():
    recipe = replace(recipe_by_name("opi"), name="mine", passes=(ChangesNothing([1]),))
    conversion = convert(two(), calibration=DATA, recipe=recipe, timesteps=8, v_init=0.25)
    metadata = {entry.key: entry.value for entry in conversion.model.metadata_props}
    # Not its repr, in which its place in memory may be.
    assert json.loads(metadata["onnx2snn.recipe"])["corrections"] == [{"pass": "ChangesNothing"}]


def test_settings_without_a_form_in_json_tell_no_recipe():
    known, unknown = (
        replace(recipe_by_name("opi"), passes=(partial(correct, rounds=rounds),))
        for rounds in (3, DATA)
    )
    assert known.is_told_by_definition
    assert not unknown.is_told_by_definition


def test_what_wraps_a_pass_of_the_package_is_told_by_no_name():
    """Not even by that of what it wraps."""

    @functools.wraps(correct)
    def mine(snn, **settings):
        return correct(snn, weights=True, **settings)

    of_the_package, wrapped = (replace(recipe_by_name("opi"), passes=(f,)) for f in (correct, mine))
    assert of_the_package.is_told_by_definition
    assert not wrapped.is_told_by_definition


@pytest.mark.parametrize(("name", "value"), [("timesteps", 0), ("timesteps", -4), ("delay", -1)])
def test_no_time_steps_at_all(name, value):
    with pytest.raises(DataError, match=name):
        convert(two(), calibration=DATA, **{name: value})


@pytest.mark.parametrize("recipe", ["best", "pre-charged", "calibration-advanced", "srp"])
def test_delays_where_the_last_layer_is_neurons(recipe):
    ann = model(TWO.replace("y = Gemm(q, v)", "y = Relu(q)").replace("N, 2] y", "N, 4] y"), WEIGHTS)
    conversion = convert(ann, calibration=DATA, recipe=recipe, delay=4, timesteps=8)
    output = SpikingSession(conversion.model).run(X, 8).output
    assert np.corrcoef(output.ravel(), activations()[1].ravel())[0, 1] > 0.8


def test_cli_reset_and_delay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(two(), "ann.onnx")
    np.savez("data.npz", x=X)
    words = ["convert", "ann.onnx", "-o", "snn.onnx", "--calibration", "data.npz", "--json"]
    more = ["--recipe", "rnl", "--reset", "zero", "--delay", "2", "--v-init", "half", "-T", "8"]
    assert CliRunner().invoke(main, [*words, *more]).exit_code == 0
    snn = onnx.load("snn.onnx")
    wanted = convert(
        two(), calibration=DATA, recipe="rnl", reset="zero", delay=2, v_init=0.5, timesteps=8
    )
    assert snn.graph == wanted.model.graph
    ops = {node.op_type for node in snn.graph.node}
    assert {"ResetToZeroIF", "DelayedMean"} <= ops
    refused = CliRunner().invoke(main, [*words, "--recipe", "signed", "--reset", "zero"])
    assert refused.exit_code == 1
    assert "leave out --reset" in refused.output


def test_settings_override_a_recipe():
    half = Statistic("percentile", 50.0)
    conversion = convert(two(), calibration=DATA, recipe="threshold-balancing", threshold=half)
    plain = convert(
        two(), calibration=DATA, recipe="opi", threshold=half, per_channel=False, v_init=0.0
    )
    assert conversion.model.graph == plain.model.graph


def test_the_default_is_best_with_data_and_opi_without():
    def name(conversion):
        (found,) = [e.value for e in conversion.model.metadata_props if e.key == "onnx2snn.recipe"]
        return json.loads(found)["name"]

    assert name(convert(two(), calibration=DATA)) == "best"
    assert name(convert(clipped(4))) == "opi"


def test_a_correction_needs_data():
    with pytest.raises(
        MissingThresholdError, match=r"calibration data .* is needed for 2 activations"
    ):
        convert(clipped(4), recipe="best")
    with pytest.raises(DataError, match="no recipe 'bestest', only"):
        convert(clipped(4), recipe="bestest")


def test_what_measures_nothing_needs_no_data():
    """V_th of ``opt`` is a clip's bound, and its shift follows from it."""
    bounded = convert(clipped(4), recipe="opt", timesteps=8)
    measured = convert(clipped(4), calibration=DATA, recipe="opt", timesteps=8)
    assert bounded.model.graph == measured.model.graph
    with pytest.raises(MissingThresholdError, match=r"data .* is needed"):
        convert(clipped(4), recipe="opi", recalibrate=True)
    with pytest.raises(MissingThresholdError, match="this recipe measures the network on data"):
        convert(clipped(4), recipe="rmp")


@pytest.mark.parametrize("recipe", ["spike-norm", "rmp", "tsc"])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 1, 1), (1, 1, 1, 1), ()])
def test_balanced_thresholds_stay_below_a_bound_of_any_shape(recipe, shape):
    text = (
        "net (float[N, 2, 4, 4] x) => (float[N, 3, 4, 4] y) { a = Conv(x, w) r = Relu(a) "
        "c = Min(r, bounds) y = Neg(c) }"
    )
    rng = np.random.default_rng(0)
    bounds = np.resize(np.float32([0.25, 0.5, 1]), shape)
    w = rng.normal(size=(3, 2, 1, 1)).astype(np.float32)
    data = from_arrays(rng.normal(size=(8, 2, 4, 4)).astype(np.float32))
    ann = model(text, {"w": w, "bounds": bounds})
    conversion = convert(ann, calibration=data, recipe=recipe, timesteps=4)
    (threshold,) = thresholds(conversion).values()
    assert threshold.ndim <= 3
    assert np.all(threshold <= bounds.reshape(bounds.shape[-3:]))
    SpikingSession(conversion.model).run(next(data.batches(8))[0], 4)


@pytest.mark.parametrize("recipe", ["spike-norm", "rmp", "rnl"])
def test_a_bound_is_that_of_its_neuron_whatever_its_name(recipe):
    """A neuron of which an input has the name of its state gets another."""
    text = (
        "net (float[N, 4] x) => (float[N, 3] y) { z = MatMul(x, w) a = Clip(z, zero, one) "
        "y = MatMul(a, u) }"
    )
    rng = np.random.default_rng(0)
    values = {"w": 4 * abs(rng.normal(size=(4, 8))), "u": rng.normal(size=(8, 3)), "zero": 0}
    values = {name: np.float32(value) for name, value in (values | {"one": 1}).items()}
    x = rng.random((16, 4), dtype=np.float32)
    found = []
    for name in ("x", "v/act"):
        ann = model(text, values)
        ann.graph.input[0].name = ann.graph.node[0].input[0] = name
        ann.graph.node[1].name = "act"
        data = from_arrays({name: x})
        found.append(thresholds(convert(ann, calibration=data, recipe=recipe, timesteps=8)))
    plain, renamed = found
    assert plain.keys() != renamed.keys()
    assert list(plain.values()) == list(renamed.values()) == [1]


# Recipes as data ------------------------------------------------------------------------------

PRINT = (
    "import json; from onnx2snn.recipes import RECIPES; "
    "print(json.dumps({r.name: r.definition() for r in RECIPES}))"
)


def test_definitions_are_json_and_the_same_in_every_process():
    for recipe in RECIPES:
        json.dumps(recipe.definition(), allow_nan=False)
    printed = []
    for seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PRINT],
            env=environment,
            capture_output=True,
            check=True,
            cwd="/",
        )
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    here = {recipe.name: recipe.definition() for recipe in RECIPES}
    assert json.loads(printed[0]) == json.loads(json.dumps(here))
    # No two recipes are the same under two names.
    assert len({json.dumps(definition) for definition in here.values()}) == len(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_is_for_timesteps(recipe):
    ann = clipped(4) if recipe.threshold is None else two()
    graphs = [
        convert(ann, calibration=DATA, recipe=recipe, timesteps=timesteps).model.graph
        for timesteps in (4, 16)
    ]
    assert (graphs[0] != graphs[1]) == recipe.is_for_timesteps


def test_a_recipe_of_ones_own():
    seen = []

    def count_neurons(snn):
        seen.append((len(neuron_nodes(snn.graph)), snn.timesteps, snn.data.samples))
        return False

    rnl = recipe_by_name("rnl")
    mine = replace(rnl, name="mine", passes=(*rnl.passes, count_neurons), v_init=0.25)
    conversion = convert(two(), calibration=DATA, recipe=mine, timesteps=8)
    assert seen == [(2, 8, 12)]
    assert "count_neurons" in [report.name for report in conversion.passes]
    plain = convert(two(), calibration=DATA, recipe="rnl", v_init=0.25, timesteps=8)
    assert conversion.model.graph == plain.model.graph
    assert mine.is_for_timesteps
    assert mine.definition()["passes"][1:] == [{"pass": "count_neurons"}]
    bare = Recipe("bare", "nobody", "nothing", MAX)
    assert not bare.is_for_timesteps
    (neuron,) = convert(one(), calibration=from_arrays(np.float32([[2.0]])), recipe=bare).neurons
    assert neuron.threshold == 2


def test_recipes_are_listed_with_their_sources():
    found = json.loads(CliRunner().invoke(main, ["recipes", "--json"]).stdout)["recipes"]
    assert [row["name"] for row in found] == [recipe.name for recipe in RECIPES]
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
    assert all(row["source"] and row["what"] for row in found)
    assert "Rueckauer" in CliRunner().invoke(main, ["recipes"]).output
    assert recipe_by_name("opi").v_init == 0.5
    alone = CliRunner().invoke(main, ["convert", "ann.onnx", "-o", "snn.onnx", "-T", "8"])
    assert alone.exit_code == 2
    assert "give --calibration or --recipe too" in alone.output


# Settings that a recipe would not heed ------------------------------------------------


@pytest.mark.parametrize("recipe", ["spike-norm", "rmp", "tsc"])
@pytest.mark.parametrize(
    ("setting", "option"),
    [
        ({"threshold": Statistic("percentile", 50)}, "--threshold"),
        ({"per_channel": True}, "--per-channel"),
        ({"recalibrate": True}, "--recalibrate"),
        ({"recalibrate": False}, "--keep-bounds"),
    ],
)
def test_thresholds_that_a_recipe_finds_by_itself_are_not_set(recipe, setting, option):
    with pytest.raises(DataError, match=f"'{recipe}' finds that by itself.*leave out {option},"):
        convert(two(), calibration=DATA, recipe=recipe, **setting)
    # Its own settings may be said.
    convert(two(), calibration=DATA, recipe=recipe, threshold=MAX, per_channel=False)


@pytest.mark.parametrize("v_init", [0.0, 0.5])
def test_a_searched_potential_is_not_set(v_init):
    with pytest.raises(DataError, match=r"'pre-charged' finds that by itself.*leave out --v-init"):
        convert(two(), calibration=DATA, recipe="pre-charged", v_init=v_init)


def test_trained_clips_are_not_recalibrated_without_a_statistic():
    with pytest.raises(DataError, match="with --recalibrate give a statistic"):
        convert(clipped(4.0), calibration=DATA, recipe="tcl", recalibrate=True)
    with pytest.raises(DataError, match="with --per-channel give a statistic"):
        convert(clipped(4.0), calibration=DATA, recipe="tcl", per_channel=True)
    convert(clipped(4.0), calibration=DATA, recipe="tcl", recalibrate=False, per_channel=False)
    lower = convert(
        clipped(4.0), calibration=DATA, recipe="tcl", recalibrate=True, threshold=MAX
    ).neurons
    assert all(np.all(neuron.threshold <= 4.0) for neuron in lower)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"v_init": "zero"}, "v_init must be a fraction of V_th, 'uniform' or 'normal'"),
        ({"reset": "foo"}, "reset must be one of subtract, zero"),
        ({"maxpool": "max"}, "maxpool must be one of average, exact, keep"),
        ({"approximate": 0}, "approximate must be a whole number from 1 to 64, not 0"),
        ({"batch_size": 0}, "batch_size must be a whole number, 1 or more, not 0"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, not -1"),
        ({"timesteps": True}, "timesteps must be a whole number from 1 to 2147483647, not True"),
        ({"timesteps": 10**30}, "timesteps must be a whole number from 1 to 2147483647, not 1000"),
        ({"v_init": True}, "v_init must be a fraction of V_th, 'uniform' or 'normal', not True"),
        ({"per_channel": "yes"}, "per_channel must be True or False, not 'yes'"),
        ({"recalibrate": 0}, "recalibrate must be True or False, not 0"),
        ({"recipe": 3}, "there is no recipe '3', only threshold-balancing"),
        ({"recipe": ["opi"]}, "there is no recipe '['opi']', only threshold-balancing"),
        ({"threshold": 3}, "'3' is no threshold: use max"),
        ({"threshold": ["max"]}, "'['max']' is no threshold: use max"),
        ({"report": None}, "report must be a function that is told of progress, not None"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(setting, text):
    with pytest.raises(DataError, match=re.escape(text)):
        convert(two(), calibration=DATA, **setting)


def test_sizes_of_batches_that_make_no_sense_are_refused():
    snn = convert(two(), calibration=DATA, recipe="opi").model
    runs = (
        lambda: evaluate(snn, DATA, [4], batch_size=0),
        lambda: early_exits(snn, DATA, [4], batch_size=0),
        lambda: diagnose(snn, two(), DATA, 4, batch_size=0),
        lambda: compare_recipes(two(), [recipe_by_name("opi")], DATA, DATA, [4], batch_size=0),
    )
    for run in runs:
        with pytest.raises(DataError, match="batch_size must be a whole number, 1 or more"):
            run()
    with pytest.raises(DataError, match="no time-steps"):
        early_exits(snn, DATA, [])


def test_time_steps_that_a_read_out_leaves_out():
    srp = recipe_by_name("srp")
    assert [srp.delay_for(timesteps) for timesteps in (1, 4, 7, 8, 64)] == [0, 2, 3, 4, 4]
    # One is a time-step, no share of them.
    assert replace(srp, delay=1).delay_for(16) == 1


def test_the_largest_current_of_all_batches():
    order = np.argsort(-(X @ WEIGHTS["w"]).max(axis=1))
    data = from_arrays(X[order])
    conversion = convert(two(), calibration=data, recipe="spike-norm", batch_size=3)
    first = next(neuron.threshold for neuron in conversion.neurons)
    np.testing.assert_allclose(first, (X @ WEIGHTS["w"]).max(), rtol=1e-6)


@pytest.mark.parametrize("recipe", ["spike-norm", "rmp"])
def test_what_no_current_reaches_has_a_threshold(recipe):
    data = from_arrays(-np.ones((4, 1), np.float32))
    (neuron,) = convert(one(), calibration=data, recipe=recipe).neurons
    assert neuron.threshold == 1


def test_a_balanced_neuron_takes_spikes_back_below_its_new_threshold():
    recipe = replace(recipe_by_name("rmp"), neuron=Neuron("SignedIF", negative=-0.5))
    conversion = convert(two(), calibration=from_arrays(X), recipe=recipe)
    attributes = [
        {a.name: onnx.numpy_helper.to_array(a.t) for a in node.attribute}
        for node in conversion.model.graph.node
        if node.op_type == "SignedIF"
    ]
    assert len(attributes) == 2
    for found in attributes:
        np.testing.assert_allclose(found["v_negative"], -0.5 * found["v_threshold"], rtol=1e-6)


def test_rnl_leaves_a_bound_beside_what_it_scales():
    text = TWO.replace("Relu(a)", "Clip(a, lo, hi)")
    ann = model(text, WEIGHTS | {"lo": np.float32(0), "hi": np.float32(6)})
    conversion = convert(ann, calibration=from_arrays(X), recipe="rnl", timesteps=16)
    first, _ = conversion.neurons
    assert first.threshold == 6


def test_rnl_scales_what_is_a_bound_in_some_channels_alone():
    text = "net (float[N, 2] x) => (float[N, 2] y) { r = Relu(x) c = Min(r, most) y = Neg(c) }"
    x = np.random.default_rng(1).exponential(size=(32, 2)).astype(np.float32)
    conversion = convert(
        model(text, {"most": np.float32([0.5, 100])}),
        calibration=from_arrays(x),
        recipe="rnl",
        recalibrate=True,
        timesteps=4,
    )
    (neuron,) = conversion.neurons
    shares = neuron.threshold / np.float32([0.5, x[:, 1].max()])
    np.testing.assert_allclose(shares, shares[0], rtol=1e-6)
    assert shares[0] < 0.99


def test_an_activation_that_is_an_output_too_is_not_only_pooled():
    text = (
        "net (float[N, 2, 6, 6] x) => (float[N, 2] y, float[N, 2, 6, 6] a) "
        "{ a = Relu(x) p = GlobalMaxPool(a) y = Flatten(p) }"
    )
    x = np.random.default_rng(0).normal(size=(200, 2, 6, 6)).astype(np.float32) ** 3
    found = convert(model(text), calibration=from_arrays(x), recipe="best", timesteps=8)
    histogram = ActivationHistogram(per_channel=True, peaks=True)
    histogram.update(np.maximum(x, 0))
    wanted = histogram.value(Statistic("robust-mmse", 8))
    np.testing.assert_allclose(found.neurons[0].threshold.ravel(), wanted, rtol=1e-6)


def test_rnl_searches_in_64_time_steps_at_most():
    x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    found = [
        convert(two(), calibration=from_arrays(x), recipe="rnl", timesteps=timesteps)
        for timesteps in (100, 64, 32)
    ]
    many, most, few = ([float(n.threshold) for n in made.neurons] for made in found)
    assert many == most != few


def test_read_outs_that_are_0_have_an_error():
    assert searching._relative_error(np.ones((2, 3)), np.zeros((2, 3))) == 1
    ten = np.full((2, 3), 10.0)
    assert searching._relative_error(ten + 2, ten) == pytest.approx(0.04)


def test_classes_of_scores_whose_exponentials_overflow():
    truth, found = np.float32([[1000, 998, -1000]]), np.float32([[999, 1000, 0]])
    small = (values[:, :2] - 999 for values in (found, truth))
    assert searching._cross_entropy(found, truth) == pytest.approx(cross_entropy(*small))


def test_a_factor_that_raises_the_loss_is_not_taken():
    # It lowers that of the other of ``scales``.
    scale = partial(searching.scale_thresholds, scales=(0.5, 1e-4), factors=(0.01,), rounds=1)
    recipe = Recipe("mine", "nobody", "V_th scaled", Statistic("max"), passes=(scale,))
    found = convert(two(), calibration=from_arrays(X), recipe=recipe, timesteps=8)
    r = np.maximum(X @ WEIGHTS["w"], 0)
    largest = r.max(), np.maximum(r @ WEIGHTS["u"], 0).max()
    scaled = [float(neuron.threshold) for neuron in found.neurons]
    np.testing.assert_allclose(scaled, 0.5 * np.array(largest), rtol=1e-3)


def test_layers_behind_see_the_spikes_of_the_factor_that_is_kept():
    """Not those of the last that was tried, by which this one would be silent."""
    found = []
    for factors in ((0.8, 1.25), (0.8, 1.25, 100.0)):
        scale = partial(searching.scale_thresholds, scales=(0.5,), factors=factors, rounds=1)
        recipe = Recipe("mine", "nobody", "V_th scaled", Statistic("max"), passes=(scale,))
        made = convert(two(), calibration=from_arrays(X), recipe=recipe, timesteps=8)
        found.append([float(neuron.threshold) for neuron in made.neurons])
    assert found[0] == found[1]


def test_factors_are_of_what_the_threshold_was_before_the_round():
    """Not one times another, which would be nearer still."""
    found = []
    for factors in ((8.0,), (8.0, 4.0), (4.0, 8.0)):
        scale = partial(searching.scale_thresholds, scales=(0.05,), factors=factors, rounds=1)
        recipe = Recipe("mine", "nobody", "V_th scaled", Statistic("max"), passes=(scale,))
        found.append(neuron_of(recipe, X, timesteps=8).neurons[0].threshold)
    np.testing.assert_allclose(found, 0.4 * X.max(), rtol=1e-6)


def test_what_is_said_of_means_counts_once():
    """A softmax behind an average is a function of the scores, which are compared already."""
    beside = TWO.replace("=> (float[N, 2] y)", "=> (float[N, 2] y, float[N, 2] p)")
    both = model(beside.replace("y = Gemm(q, v)", "y = Gemm(q, v) p = Softmax(y)"), WEIGHTS)
    found = [convert(ann, calibration=DATA, recipe="rnl", timesteps=8) for ann in (two(), both)]
    assert str(thresholds(found[0])) == str(thresholds(found[1]))


@pytest.mark.parametrize("labels", [None, np.arange(40) % 2])
def test_classes_that_a_mask_rules_out_say_nothing_of_the_loss(labels):
    """Added twice, the least number is minus infinity: as a loss it would be no number."""
    text = (
        "net (float[N, 3] x, float[N, 3] m) => (float[N, 3] y) {{ h = Gemm(x, w) r = Relu(h) "
        "a = Gemm(r, v) b = Add(a, m) y = {} }}"
    )
    weights = {
        "w": WEIGHTS["w"],
        "v": np.float32([[1, -2, 0], [-1, 0.5, 0], [0.5, 1, 0], [1, -1, 0]]),
    }
    x = np.random.default_rng(4).normal(size=(40, 3)).astype(np.float32)
    masks = np.tile(np.float32([0, 0, np.finfo(np.float32).min]), (40, 1))
    data = from_arrays({"x": x, "m": masks}, labels)
    shares = []
    for tail in ("Add(b, m)", "Identity(a)"):
        ann = model(text.format(tail), weights)
        conversion = convert(ann, calibration=data, recipe="rnl", timesteps=4)
        shares.append(
            float(conversion.neurons[0].threshold) / np.maximum(x @ WEIGHTS["w"], 0).max()
        )
    assert shares[0] < 1
    if labels is None:
        # What is masked was 0 in the other network, and is the same for both.
        assert shares[0] == shares[1]


def test_rnl_recalibrates_to_the_bound_at_most():
    """Of activations that stay below it, with p of more than 1."""
    text = TWO.replace("Relu(a)", "Clip(a, lo, hi)")
    ann = model(text, WEIGHTS | {"lo": np.float32(0), "hi": np.float32(1)})
    x = np.float32(0.9) * X / (X @ WEIGHTS["w"]).max()
    larger = partial(searching.scale_thresholds, scales=(1.25,), factors=(1.25,), rounds=1)
    recipe = replace(recipe_by_name("rnl"), name="larger", passes=(larger,))
    options = {"calibration": from_arrays(x), "recipe": recipe, "timesteps": 16}
    first, _ = convert(ann, recalibrate=True, **options).neurons
    assert first.threshold == 1


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_scale_of_1_changes_nothing(scale):
    changed = []

    def scale_all(snn):
        changed.append(searching.scale_thresholds(snn, scales=(scale,), factors=(), rounds=0))

    recipe = replace(recipe_by_name("rnl"), name="mine", passes=(scale_all,))
    convert(two(), calibration=DATA, recipe=recipe, timesteps=4)
    assert changed == [scale != 1]


@pytest.mark.parametrize(
    ("recipe", "given"),
    [
        ("mmse", {"threshold": "max"}),
        ("ltb", {"delay": 2}),
        ("srp", {"threshold": "max", "delay": 3}),
        ("opi", {"threshold": "mmse=8"}),
    ],
)
def test_what_is_given_in_place_of_what_minds_t_is_for_any_t(recipe, given):
    one, other = (
        convert(two(), calibration=DATA, recipe=recipe, timesteps=t, **given) for t in (8, 16)
    )
    assert one.model.graph == other.model.graph
    (told,) = [e.value for e in one.model.metadata_props if e.key == "onnx2snn.recipe"]
    assert json.loads(told)["timesteps"] is None
    assert any("alike for every T" in note for note in one.notes)


def test_without_data_all_that_needs_it_is_listed():
    text = (
        "net (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w) r = Relu(a) b = MatMul(r, w) "
        "s = Clip(b, zero, one) y = MatMul(s, w) }"
    )
    values = {"w": np.eye(4, dtype=np.float32), "zero": np.float32(0), "one": np.float32(1)}
    with pytest.raises(MissingThresholdError, match="for 2 activations") as error:
        convert(model(text, values), recipe="mmse")
    reasons = {refusal.node: refusal.reason for refusal in error.value.refusals}
    assert reasons["s"] == "its threshold comes from data here, not from its bound"
    assert reasons["r"].startswith("no upper bound")


def test_rounds_of_a_correction_are_whole():
    for rounds in (1.5, -1):
        half = replace(recipe_by_name("opi"), passes=(partial(correct, rounds=rounds),))
        with pytest.raises(DataError, match="rounds must be a whole number, 0 or more"):
            convert(two(), calibration=DATA, recipe=half)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (partial(searching.balance_thresholds, scales=()), "scales takes finite numbers, 1"),
        (partial(searching.balance_thresholds, scales=(-1.0,)), "scales takes numbers above 0"),
        (partial(searching.scale_thresholds, scales=(0.0,), factors=(), rounds=0), "above 0"),
        (partial(searching.scale_thresholds, scales=(1.0,), factors=(np.nan,), rounds=1),
         "factors takes finite numbers, 0 at least"),
        (partial(searching.scale_thresholds, scales=(1.0,), factors=(), rounds=1.5), "rounds"),
        (partial(searching.search_potentials, fractions=()), "fractions takes finite numbers"),
        (partial(searching.search_potentials, fractions=0.5), "fractions takes finite numbers"),
        (partial(searching.search_potentials, fractions=(None,)), "fractions takes finite"),
        (partial(searching.search_potentials, fractions=(np.nan, 0.5)), "fractions takes finite"),
    ],
)  # fmt: skip
def test_settings_of_passes_that_are_none(change, said):
    mine = replace(recipe_by_name("opi"), name="mine", passes=(change,))
    with pytest.raises(DataError, match=said):
        convert(two(), calibration=DATA, recipe=mine)


def test_passes_say_whether_they_changed_anything():
    """What is found anew by what was found is the same."""
    balance = partial(searching.balance_thresholds, scales=(1.0,))
    search = partial(searching.search_potentials, fractions=(0.25,))
    nothing = partial(correct, weights=False, biases=False)
    passes = (balance, balance, search, search, nothing, searching.cap_thresholds)
    mine = replace(recipe_by_name("opi"), name="mine", passes=passes)
    made = convert(clipped(1000.0), calibration=DATA, recipe=mine)
    of_recipe = [r.changed for r in made.passes[-7:-1]]
    assert of_recipe == [True, False, True, False, False, False]
    capped = replace(recipe_by_name("burst"), name="capped", passes=2 * (searching.cap_thresholds,))
    made = convert(clipped(0.3), calibration=DATA, recipe=capped, v_init="normal", per_channel=True)
    assert [r.changed for r in made.passes if r.name == "cap_thresholds"] == [True, False]


@pytest.mark.parametrize("low", [0, -1])
@pytest.mark.parametrize("data", [None, DATA])
def test_passes_see_the_ann_whether_or_not_a_recipe_takes_thresholds_from_data(low, data):
    """Where all activations are clips, tcl and a recipe with a statistic are the same."""
    text = TWO.replace("Relu(a)", "Clip(a, lo, hi)").replace("Relu(b)", "Clip(b, lo, hi)")
    ann = model(text, WEIGHTS | {"lo": np.float32(low), "hi": np.float32(0.5)})
    passes = (searching.cap_thresholds, *([partial(correct, weights=True)] if data else []))
    tcl = replace(recipe_by_name("tcl"), neuron=Neuron("BurstIF"), passes=passes)
    outputs = [
        SpikingSession(convert(ann, calibration=data, recipe=recipe).parts).run(X, 8).output
        for recipe in (tcl, replace(tcl, threshold=MAX))
    ]
    np.testing.assert_array_equal(*outputs)
