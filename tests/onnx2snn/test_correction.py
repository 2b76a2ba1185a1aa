"""Passes over a spiking network, each against a simulation in NumPy alone."""

import json
import tracemalloc
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import dyadic
import numpy as np
import onnx
import pytest
from one_neuron import POOLED, X, activations, clipped, fire, held, one, two
from one_neuron import WEIGHTS as DENSE
from onnx_text import model, run

from onnx2snn import SpikingSession, Statistic, UnsupportedModelError, convert, from_arrays
from onnx2snn.graph_passes import infer_shapes, neuron_nodes, threshold_of, to_graph
from onnx2snn.graph_passes.graph.neurons import attribute_tensor
from onnx2snn.recipe import Neuron, Recipe
from onnx2snn.recipes import recipe_by_name
from onnx2snn.spiking_passes import correction, layers, least_squares, simulation
from onnx2snn.spiking_passes.correction import correct, mean_by_channel
from onnx2snn.spiking_passes.searching import balance_thresholds
from onnx2snn.spiking_passes.simulation import Apart, Simulation

SMALL = from_arrays(X)
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32),
    "u": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32) / 3,
    "v": RNG.normal(size=(4, 3)).astype(np.float32),
}
DATA = from_arrays(RNG.normal(size=(64, 2, 8, 8)).astype(np.float32))
UNSEEN = RNG.normal(size=(64, 2, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("recipe", ["calibration", "calibration-advanced", "best", "rmp"])
def test_sums_that_float16_cannot_hold(recipe):
    """Activations of a thousand, over 128 time-steps."""
    text = (
        "net ({0}[N, 4, 6, 6] x) => ({0}[N, 3] y) {{ a = Conv<pads = [1, 1, 1, 1]>(x, w) "
        "b = Relu(a) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b) c = Conv(p, u) "
        "d = Relu(c) e = Flatten(d) y = MatMul(e, v) }}"
    )
    rng = np.random.default_rng(3)
    shapes = {"w": (4, 4, 3, 3), "u": (4, 4, 3, 3), "v": (4, 3)}
    weights = {n: (rng.normal(size=s) / 6).astype(np.float16) for n, s in shapes.items()}
    x = (800 * rng.random((48, 4, 6, 6))).astype(np.float16)
    accurate = []
    for kind, dtype in (("float", np.float32), ("float16", np.float16)):
        ann = model(text.format(kind), {n: w.astype(dtype) for n, w in weights.items()})
        data = from_arrays(x.astype(dtype))
        snn = convert(ann, calibration=data, recipe=recipe, timesteps=128, maxpool="exact").model
        wanted = run(ann, x.astype(dtype)).astype(np.float32)
        found = SpikingSession(snn).run(x.astype(dtype), 128).output.astype(np.float32)
        accurate.append(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    assert accurate[1] < 1.5 * accurate[0] + 0.01


def test_what_float16_cannot_hold_is_refused():
    text = (
        "net (float16[N, 4] x) => (float16[N, 3] y) "
        "{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"
    )
    weights = {"w": np.eye(4, dtype=np.float16), "v": np.ones((4, 3), np.float16)}

    def beyond(snn):
        for node in neuron_nodes(snn.graph):
            node.attrs["v_init"] = attribute_tensor(np.full((4,), np.inf, np.float16))
        return True

    recipe = replace(recipe_by_name("mmse"), passes=(beyond,))
    data = from_arrays(RNG.random((8, 4)).astype(np.float16))
    with pytest.raises(UnsupportedModelError, match="v_init is beyond what float16 holds"):
        convert(model(text, weights), calibration=data, recipe=recipe)


# Networks corrected as a whole ----------------------------------------------------------------


def mean_activations(text, name):
    """Of an inner tensor of the ANN, per channel, on the calibration data."""
    inner = text.replace("float[N, 3] y)", f"float[N, 3] y, float[N, 4, a, b] {name})")
    (x, _) = next(iter(DATA.batches(64)))
    return mean_by_channel(run(model(inner, WEIGHTS), x, output=1), 1)


@pytest.mark.parametrize("timesteps", [4, 8])
def test_corrected_spikes_average_to_the_activations(timesteps):
    ann = model(POOLED, WEIGHTS)
    (x, _) = next(iter(DATA.batches(64)))
    gaps = {}
    for recipe in ("mmse", "best"):
        conversion = convert(ann, calibration=DATA, recipe=recipe, timesteps=timesteps)
        readout = SpikingSession(conversion.model).run(x, timesteps).readouts[timesteps]
        for name in ("r", "q"):
            target = mean_activations(POOLED, name)
            gap = mean_by_channel(readout.potential_sums[name] / timesteps, 1) - target
            gaps[recipe, name] = np.abs(gap).max() / target.max()
    for name in ("r", "q"):
        assert gaps["best", name] < 0.01
        assert gaps["best", name] < gaps["mmse", name] / 3


def test_corrected_networks_come_nearer_to_the_ann():
    ann = model(POOLED, WEIGHTS)
    wanted = run(ann, UNSEEN)
    errors = {}
    for recipe in ("threshold-balancing", "robust-norm", "mmse", "best"):
        conversion = convert(ann, calibration=DATA, recipe=recipe, maxpool="exact", timesteps=8)
        output = SpikingSession(conversion.model).run(UNSEEN, 8).output
        errors[recipe] = np.abs(output - wanted).mean()
    assert errors["best"] < errors["mmse"] < errors["threshold-balancing"]
    assert errors["best"] < errors["robust-norm"]


def test_a_correction_is_folded_into_the_weights():
    conversion = convert(model(POOLED, WEIGHTS), calibration=DATA, recipe="best", timesteps=8)
    ops = [node.op_type for node in conversion.model.graph.node]
    # The residual sum has no bias that could take it.
    assert ops.count("Add") == 2
    metadata = {entry.key: entry.value for entry in conversion.model.metadata_props}
    recipe = json.loads(metadata["onnx2snn.recipe"])
    assert (recipe["name"], recipe["timesteps"], recipe["maxpool"]) == ("best", 8, "exact")


# Thresholds and v(0) from spikes --------------------------------------------------------------


def balanced(scale, to_zero, x=X, timesteps=64):
    """V_th of both layers of ``TWO``: the largest current of one time-step, layer by layer."""
    steps = held(x @ np.float64(DENSE["w"]), timesteps)
    first = scale * np.max(steps)
    emitted = fire(steps, first, to_zero=to_zero) * first
    return first, scale * (emitted @ np.float64(DENSE["u"])).max()


def best_scale():
    """That of ``rmp``: the last layer nearest to the ANN's activations."""
    scales = {}
    for scale in (0.8, 0.6, 0.4):
        first, second = balanced(scale, to_zero=False)
        emitted = fire(held(X @ np.float64(DENSE["w"]), 64), first) * first
        last = (fire(emitted @ np.float64(DENSE["u"]), second) * second).mean(axis=0)
        scales[scale] = np.square(last - activations()[1]).mean()
    return min(scales, key=scales.get)


@pytest.mark.parametrize("recipe", ["spike-norm", "rmp", "tsc"])
def test_thresholds_are_the_largest_currents_of_spikes(recipe):
    scale = 1.0 if recipe == "spike-norm" else best_scale()
    conversion = convert(two(), calibration=SMALL, recipe=recipe, timesteps=8)
    found = [float(neuron.threshold) for neuron in conversion.neurons]
    np.testing.assert_allclose(found, balanced(scale, recipe == "spike-norm"), rtol=1e-5)
    # Not the largest activation: spikes of one time-step come together.
    assert found[1] != pytest.approx(scale * activations()[1].max(), rel=0.01)
    ops = [node.op_type for node in conversion.model.graph.node]
    assert ops.count("ResetToZeroIF" if recipe == "spike-norm" else "IF") == 2
    output = SpikingSession(conversion.model).run(X, 64).output
    if recipe != "tsc":
        thetas = balanced(scale, recipe == "spike-norm")
        r = (
            fire(held(X @ np.float64(DENSE["w"]), 64), thetas[0], to_zero=recipe == "spike-norm")
            * thetas[0]
        )
        q = fire(r @ DENSE["u"], thetas[1], to_zero=recipe == "spike-norm") * thetas[1]
        # Whether a current that is V_th fires depends on its last bit.
        close = np.isclose(output, q.mean(0) @ DENSE["v"], rtol=1e-3, atol=1e-4)
        assert close.mean() > 0.9


def test_largest_currents_are_those_of_64_time_steps():
    """Here the largest of 32 are smaller, and those of 128 larger."""
    x = np.random.default_rng(241).normal(size=(12, 3)).astype(np.float32)
    fewer, wanted, more = (balanced(1.0, True, x, timesteps) for timesteps in (32, 64, 128))
    assert fewer[1] < 0.99 * wanted[1] < 0.98 * more[1]
    conversion = convert(two(), calibration=from_arrays(x), recipe="spike-norm")
    found = [float(neuron.threshold) for neuron in conversion.neurons]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_scale_that_fits_best_is_taken_wherever_it_stands():
    """The first of ``rmp`` fits best here, so that without a search it would be taken, too."""
    assert best_scale() == 0.8
    scale = partial(balance_thresholds, scales=(0.4, 0.8, 0.6))
    recipe = replace(recipe_by_name("rmp"), name="mine", passes=(scale,))
    found = [float(n.threshold) for n in convert(two(), calibration=SMALL, recipe=recipe).neurons]
    np.testing.assert_allclose(found, balanced(0.8, to_zero=False), rtol=1e-5)


@pytest.mark.parametrize("recipe", ["spike-norm", "rmp", "tsc"])
def test_largest_currents_beyond_a_clip_are_no_threshold(recipe):
    """The first layer's currents are cut off at the bound, in the ANN as in the SNN."""
    (free, _), (first, second) = (
        [float(n.threshold) for n in convert(ann, calibration=SMALL, recipe=recipe).neurons]
        for ann in (two(), clipped(0.5))
    )
    assert free > 0.5
    assert first == 0.5
    assert second <= 0.5


@pytest.mark.parametrize("recipe", ["spike-norm", "rmp", "rnl"])
def test_what_a_spike_is_taken_back_below_stays_a_fraction_of_the_threshold(recipe):
    signed = replace(recipe_by_name(recipe), neuron=Neuron("SignedIF", negative=-0.5))
    found = convert(model(POOLED, WEIGHTS), calibration=DATA, recipe=signed, timesteps=8)
    for node in neuron_nodes(to_graph(found.model)):
        np.testing.assert_allclose(node.attrs["v_negative"].values, -threshold_of(node) / 2)


def test_balanced_over_batches():
    """The first layer's threshold is the same; the second's is at least that of any batch."""
    whole = convert(two(), calibration=SMALL, recipe="rmp")
    parts = convert(two(), calibration=SMALL, recipe="rmp", batch_size=5)
    assert parts.neurons[0].threshold == whole.neurons[0].threshold
    last = convert(two(), calibration=from_arrays(X[10:]), recipe="rmp")
    assert parts.neurons[1].threshold > 0.99 * last.neurons[1].threshold


def test_inputs_are_switched_on_for_their_share_of_time():
    x = np.float32([[0.25, -0.5, 1.0, 0.05, 0.07]])
    ann = model("net (float[N, 5] x) => (float[N, 5] y) { r = Relu(x) y = Identity(r) }")
    conversion = convert(ann, calibration=from_arrays(2 * x), recipe="tsc", timesteps=8)
    session = SpikingSession(conversion.model)
    # The largest input is 2, so that T x / 2 of the 8 steps are 2, 4, 8, 0.4 and 0.56.
    for t in range(1, 13):
        session.step(2 * x)
        (shown,) = [v for name, v in session.state.items() if "coded" in name]
        np.testing.assert_array_equal(
            shown, 2 * np.minimum(t, [[2, 4, 8, 0, 1]]) * np.sign(x), f"{t}"
        )


def test_v0_is_the_best_of_an_exhaustive_search():
    """Of eighths: the second layer's is 3/8."""
    fractions, timesteps = np.arange(9) / 8, 8
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    conversion = convert(
        two(),
        calibration=from_arrays(x),
        recipe="pre-charged",
        timesteps=timesteps,
        threshold=Statistic("max"),
    )
    thresholds = [float(neuron.threshold) for neuron in conversion.neurons]
    currents, found = held(x @ np.float64(DENSE["w"]), timesteps), []
    for theta, wanted in zip(thresholds, activations(x), strict=True):
        tried = [fire(currents, theta, f * theta) * theta for f in fractions]
        errors = [np.square(emitted.mean(0) - wanted).mean() for emitted in tried]
        best = int(np.argmin(errors))
        found.append(fractions[best] * theta)
        emitted, currents = tried[best], tried[best] @ np.float64(DENSE["u"])
    assert fractions[best] == 3 / 8
    np.testing.assert_allclose([float(v) for v in starts(conversion).values()], found, rtol=1e-6)
    # The read-out leaves out the first two time-steps.
    output = SpikingSession(conversion.model).run(x, timesteps).output
    late = emitted[2:].mean(0) @ DENSE["v"]
    np.testing.assert_allclose(output, late, rtol=1e-4, atol=1e-5)


def starts(conversion):
    """V(0) of each layer."""
    return {
        node.name: onnx.numpy_helper.to_array(attribute.t)
        for node in conversion.model.graph.node
        for attribute in node.attribute
        if attribute.name == "v_init"
    }


# Corrections ----------------------------------------------------------------------------------

# A layer of neurons whose current is the input plus a bias of each channel.
POINTWISE = (
    "net (float[N, 2, 1, 2] x) => (float[N, 2, 1, 2] y) "
    "{ a = Conv(x, w, b) r = Relu(a) y = Identity(r) }"
)
UNIT = {"w": np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1), "b": np.zeros(2, np.float32)}
IMAGES = np.random.default_rng(8).normal(0.4, 0.5, size=(9, 2, 1, 2)).astype(np.float32)


def bias_of(conversion):
    (conv,) = [node for node in conversion.model.graph.node if node.op_type == "Conv"]
    arrays = {t.name: t for t in conversion.model.graph.initializer}
    return onnx.numpy_helper.to_array(arrays[conv.input[2]]).astype(np.float64)


def test_light_calibration_of_one_layer():
    conversion = convert(
        model(POINTWISE, UNIT),
        calibration=from_arrays(IMAGES),
        recipe="calibration",
        timesteps=4,
    )
    theta, timesteps = float(conversion.neurons[0].threshold), 4
    x = np.float64(IMAGES)
    wanted = np.maximum(x, 0)
    current = x + theta / (2 * timesteps)
    emitted = fire(held(current, timesteps), theta).mean(0) * theta
    delta = (wanted - emitted).mean((0, 2, 3))
    np.testing.assert_allclose(bias_of(conversion), theta / 8 + delta, rtol=1e-4, atol=1e-6)
    corrected = current + delta.reshape(2, 1, 1)
    emitted = fire(held(corrected, timesteps), theta).mean(0) * theta
    start = timesteps * (wanted - emitted).mean(0)
    np.testing.assert_allclose(starts(conversion)["r"], start, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [4, 5, 7])
def test_biases_in_rounds_and_over_batches(size):
    """The first batch moves on in rounds; each after it by its share of the images so far."""
    recipe = replace(recipe_by_name("best-binary"), passes=(partial(correct, rounds=2),))
    conversion = convert(
        model(POINTWISE, UNIT),
        calibration=from_arrays(IMAGES),
        recipe=recipe,
        timesteps=4,
        batch_size=size,
        per_channel=False,
    )
    theta = float(conversion.neurons[0].threshold)
    delta = np.zeros(2)
    for start in range(0, len(IMAGES), size):
        part = IMAGES[start : start + size]
        share = len(part) / (start + len(part))
        for _ in range(1 if start else 2):
            currents = held(np.float64(part) + delta.reshape(2, 1, 1), 4)
            emitted = fire(currents, theta, theta / 2).mean(0) * theta
            delta = delta + (np.maximum(part, 0) - emitted).mean((0, 2, 3)) * share
    np.testing.assert_allclose(bias_of(conversion), delta, rtol=1e-4, atol=1e-6)


def test_large_images_are_looked_at_beside_each_other(monkeypatch):
    """Of a layer with more places a sample than are enough, not the first sample alone counts."""
    monkeypatch.setattr(least_squares, "ENOUGH_PLACES", 8)
    x, _ = next(iter(DATA.batches(64)))
    black = np.concatenate([np.zeros_like(x[:1]), x[1:]])
    ann, errors = model(POOLED, WEIGHTS), []
    for data in (x, black):
        snn = convert(ann, calibration=from_arrays(data), recipe="best", timesteps=8).model
        error = SpikingSession(snn).run(UNSEEN, 8).output - run(ann, UNSEEN)
        errors.append(np.square(error).mean())
    assert errors[1] < 1.3 * errors[0]


def test_memory_of_wide_layers_is_that_of_one_time_step():
    """Where their mean is taken over steps, as behind a head that is not affine."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 1, 1, 1)), "u": rng.normal(size=(64, 4, 1, 1)),
        "v": rng.normal(size=(2, 64, 1, 1)),
    }  # fmt: skip
    text = (
        "net (float[N, 1, 16, 16] x) => (float[N, 2, 16, 16] y) { a = Conv(x, w) r = Relu(a) "
        "b = Conv(r, u) s = Sigmoid(b) y = Conv(s, v) }"
    )
    ann = model(text, {name: value.astype(np.float32) for name, value in weights.items()})
    data = from_arrays(rng.normal(size=(16, 1, 16, 16)).astype(np.float32))
    peaks = []
    for timesteps in (4, 64):
        tracemalloc.start()
        convert(ann, calibration=data, recipe="best", timesteps=timesteps)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Sixty more time-steps of 64 channels would take 63 MB.
    assert peaks[1] - peaks[0] < 16e6


def simulate_both_ways(snn, x, shift):
    """Layers that fire before their currents are asked for, and again after."""
    apart: Apart = {}
    for layer in Simulation(to_graph(snn), x, 8, apart=apart).layers():
        layer.shift = np.float32(shift)
        streamed = layer.fire()
        assert (layer._currents is None) == bool(layer.segment.spikes)
        assert layer.currents.any()
        np.testing.assert_array_equal(layer.fire(), streamed)
    # A few samples at a time.
    assert set(apart.values()) == {True}


def cache(monkeypatch, neurons):
    """Let so many neurons be simulated at a time."""
    for module in (layers, simulation):
        monkeypatch.setattr(module, "IN_CACHE", neurons)


@pytest.mark.parametrize("op", ["IF", "SignedIF", "BurstIF", "SignedBurstIF", "ResetToZeroIF"])
@pytest.mark.parametrize("together", [1, 2**17])
@pytest.mark.parametrize("seed", range(3))
def test_layers_fire_the_same_whether_or_not_currents_are_kept(op, together, seed, monkeypatch):
    cache(monkeypatch, together)
    network = dyadic.finish(seed)
    recipe = replace(recipe_by_name("opi"), name="other", neuron=Neuron(op))
    snn = convert(dyadic.to_onnx(network), recipe=recipe).model
    simulate_both_ways(snn, {"input": dyadic.images(network, 6)}, 0.125)


@pytest.mark.parametrize("together", [1, 2**17])
def test_layers_behind_pools_that_count_fire_the_same(together, monkeypatch):
    cache(monkeypatch, together)
    text = POOLED.replace("Relu(c)", "Clip(c, lo, hi)").replace("Relu(e)", "Clip(e, lo, hi)")
    rng = np.random.default_rng(2)
    weights = {name: dyadic.weights(rng, *values.shape) for name, values in WEIGHTS.items()}
    ann = model(text, weights | {"lo": np.float32(0), "hi": np.float32(1)})
    snn = convert(ann, recipe="opi", maxpool="exact").model
    x = dyadic.weights(rng, 6, 2, 8, 8, largest=8)
    simulate_both_ways(snn, {"x": x}, 0.0)


def test_means_are_of_the_weights_as_they_are():
    """Behind a pool that counts, too, where they are measured in all time-steps."""
    ann, (x, _) = model(POOLED, WEIGHTS), next(iter(DATA.batches(64)))
    snn = convert(ann, calibration=DATA, recipe="opi", maxpool="exact").model
    *_, layer = Simulation(to_graph(snn), {"x": x}, 8).layers()
    assert not layer.segment.affine
    conv = next(node for node in layer.segment.nodes if node.op == "Conv")
    before = layer.measure([layer.node.inputs[0]])[0], layer.mean_potential()
    conv.inputs[1].values = 2 * conv.inputs[1].values
    layer.refresh()
    after = layer.measure([layer.node.inputs[0]])[0], layer.mean_potential()
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(before, after, strict=True))
    emitted = layer.fire().mean(axis=0) * threshold_of(layer.node)
    np.testing.assert_allclose(after[1], emitted, atol=1e-5)


def test_a_fixed_batch_whose_samples_depend_on_each_other(monkeypatch):
    """Its neurons run a few samples at a time, its layers all at once."""
    text = (
        "net (float[4, 3] x) => (float[4, 2] y) { a = MatMul(x, w) r = Relu(a) "
        "m = ReduceMean<axes = [0]>(r) c = Add(r, m) b = MatMul(c, u) q = Relu(b) "
        "y = MatMul(q, v) }"
    )
    ann = model(text, {name: DENSE[name] for name in "wuv"})
    data = from_arrays(np.tile(X, (4, 1))[:12])
    whole = convert(ann, calibration=data, recipe="best", timesteps=8, batch_size=4)
    cache(monkeypatch, 4)
    few = convert(ann, calibration=data, recipe="best", timesteps=8, batch_size=4)
    assert "samples depend on each other" in few.notes[0]
    assert few.model.graph == whole.model.graph


# Data -----------------------------------------------------------------------------------------

MEASURING = ["rmp", "tsc", "opt", "pre-charged", "calibration", "calibration-advanced", "best"]


@pytest.mark.parametrize("recipe", MEASURING)
def test_what_does_not_matter_of_the_data(recipe):
    """Not its float type, nor a batch size larger than it, nor that the batch size is fixed."""
    graph = convert(two(), calibration=SMALL, recipe=recipe, timesteps=8).model.graph
    double = from_arrays(X.astype(np.float64))
    assert convert(two(), calibration=double, recipe=recipe, timesteps=8).model.graph == graph
    exactly = convert(two(), calibration=SMALL, recipe=recipe, timesteps=8, batch_size=len(X))
    assert exactly.model.graph == graph
    labelled = from_arrays(X, np.zeros(len(X), np.int64))
    assert convert(two(), calibration=labelled, recipe=recipe, timesteps=8).model.graph == graph


@pytest.mark.parametrize("recipe", MEASURING)
def test_a_batch_size_that_stays_fixed(recipe):
    """Four samples that depend on each other: batches of twelve come in three parts."""
    text = (
        "net (float[4, 3] x) => (float[4, 2] y) { m = MatMul(k, x) a = Gemm(m, w) r = Relu(a) "
        "b = Gemm(r, u) q = Relu(b) y = Gemm(q, v) }"
    )
    mixing = np.float32(np.eye(4) + 0.1)
    ann = model(text, DENSE | {"k": mixing})
    conversion = convert(ann, calibration=SMALL, recipe=recipe, timesteps=8)
    assert any("batch size stays fixed" in note for note in conversion.notes)
    by_fours = convert(ann, calibration=SMALL, recipe=recipe, timesteps=8, batch_size=4)
    assert by_fours.model.graph == conversion.model.graph
    assert np.all(np.isfinite(SpikingSession(conversion.model).run(X[:4], 8).output))


@pytest.mark.parametrize("recipe", ["calibration", "calibration-advanced", "best-binary", "best"])
def test_several_batches_correct_as_well_as_one(recipe):
    """The mean activations over all data are met, whatever the batches."""
    ann = model(POOLED, WEIGHTS)
    wanted = run(ann, UNSEEN)
    errors = []
    options = {"calibration": DATA, "recipe": recipe, "timesteps": 8}
    for batch_size in (64, 16, 20):
        conversion = convert(ann, batch_size=batch_size, **options)
        output = SpikingSession(conversion.model).run(UNSEEN, 8).output
        errors.append(np.abs(output - wanted).mean())
    again = convert(ann, batch_size=batch_size, **options)
    assert again.model.graph == conversion.model.graph
    assert max(errors) < 1.3 * errors[0]


def test_later_batches_count():
    """Two halves of unlike images: the bias lies between those that each half asks for."""
    dark, bright = IMAGES[:4] - 0.3, IMAGES[4:8] + 0.3
    ann = model(POINTWISE, UNIT)

    def bias(images, batch_size=100):
        options = {"recipe": "best-binary", "threshold": Statistic("max"), "batch_size": batch_size}
        options |= {"per_channel": False, "timesteps": 2}
        images = np.concatenate([images, np.full((1, 2, 1, 2), 2, np.float32)])
        return bias_of(convert(ann, calibration=from_arrays(images), **options))

    both = bias(np.concatenate([dark, bright]), 4)
    assert np.all(both != bias(dark))
    assert np.all(both != bias(np.concatenate([dark, bright])))


@pytest.mark.parametrize("recipe", ["rmp", "best"])
def test_memory_is_that_of_one_batch(recipe):
    ann = model(POOLED.replace("8, 8]", "16, 16]"), WEIGHTS)
    x = np.random.default_rng(9).normal(size=(64, 2, 16, 16)).astype(np.float32)

    def peak(samples):
        data = from_arrays(x[:samples])
        options = {"recipe": recipe, "timesteps": 8, "batch_size": 16}
        found = []
        # The least, since other threads of this process may allocate memory meanwhile.
        for _ in range(2):
            tracemalloc.start()
            convert(ann, calibration=data, **options)
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return min(found)

    once, twice = peak(32), peak(64)
    assert twice < 1.2 * once
    # The check sees the arrays: currents of 8 time-steps, 16 images and 4 channels, 0.5 MB.
    assert once > 16 * 4 * 16 * 16 * 4 * 4


def test_a_search_goes_on_behind_layers_that_no_layer_reads():
    """Those of an auxiliary head, whose spikes an output alone reads."""
    text = (
        "net (float[N, 3] x) => (float[N, 2] y, float[N, 2] z) { a = Gemm(x, w) r = Relu(a) "
        "z = Gemm(r, u) b = Gemm(x, w) s = Relu(b) c = Gemm(s, u) t = Relu(c) y = Gemm(t, v) }"
    )
    weights = {name: DENSE[name] for name in "wuv"}
    conversion = convert(model(text, weights), calibration=SMALL, recipe="rnl", timesteps=8)
    assert len(conversion.neurons) == 3


def test_a_shift_is_at_most_one_threshold():
    """More than one spike a time-step no neuron can emit."""
    text = "net (float[N, 3] x) => (float[N, 3] y) { c = Clip(x, lo, hi) y = Neg(c) }"
    snn = convert(model(text, {"lo": np.float32(0), "hi": np.float32(2)})).model
    (node,) = neuron_nodes(to_graph(snn))
    layer = SimpleNamespace(node=node, shift=np.zeros(()))
    correction._move_shift(layer, np.float32([[5, 1, -7]]), 1.0)
    np.testing.assert_array_equal(layer.shift, [2, 1, -2])


def test_a_shift_is_at_most_a_burst_at_the_largest_threshold():
    text = "net (float[N, 3] x) => (float[N, 3] y) { c = Clip(x, lo, hi) y = Neg(c) }"
    recipe = replace(recipe_by_name("opi"), name="other", neuron=Neuron("BurstIF"))
    ann = model(text, {"lo": np.float32(0), "hi": np.float32(2)})
    (node,) = neuron_nodes(to_graph(convert(ann, recipe=recipe).model))
    node.attrs["v_threshold"] = attribute_tensor(np.float32([0.5, 1, 2]))
    layer = SimpleNamespace(node=node, shift=np.zeros(()))
    correction._move_shift(layer, np.float32([[50, 5, -50]]), 1.0)
    np.testing.assert_array_equal(layer.shift, [10, 5, -10])


def test_potentials_take_what_shifts_leave_of_later_batches(monkeypatch):
    gaps, move = [], correction._move_potential

    def watched(layer, gap, part):
        gaps.append((part, np.array(gap)))
        move(layer, gap, part)

    monkeypatch.setattr(correction, "_move_potential", watched)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3)).astype(np.float32)
    ann = model("net (float[N, 4] x) => (float[N, 3] y) { a = MatMul(x, w) y = Relu(a) }", {"w": w})
    x = rng.normal(size=(60, 4)).astype(np.float32)
    convert(ann, calibration=from_arrays(x), recipe="calibration", timesteps=4, batch_size=20)
    later = [gap for part, gap in gaps if part < 1]
    assert len(later) == 2
    for gap in later:
        np.testing.assert_allclose(gap.mean(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("settings", [{"weights": True, "biases": False}, {"rounds": 0}])
def test_where_no_biases_are_corrected_nothing_is_added(settings):
    changed = []
    recipe = Recipe(
        "mine", "nobody", "no biases", Statistic("max"),
        passes=(lambda snn: changed.append(correct(snn, **settings)),),
    )  # fmt: skip
    conversion = convert(one(3), calibration=SMALL, recipe=recipe, timesteps=4)
    assert [node.op_type for node in conversion.model.graph.node] == ["IF"]
    assert changed == ["weights" in settings]


def test_potentials_move_by_the_share_of_each_batch():
    recipe = Recipe(
        "mine", "nobody", "v(0) alone", Statistic("max"),
        passes=(partial(correct, biases=False, potentials=True),),
    )  # fmt: skip
    x = np.float32([[0.2], [0.9], [0.55], [0.35], [1.0], [0.1]])
    conversion = convert(
        one(), calibration=from_arrays(x), recipe=recipe, timesteps=5, batch_size=2
    )
    start = 0.5
    for seen, batch in enumerate(np.split(x, 3), 1):
        spikes = fire(held(batch, 5), 1.0, start)
        start = start + 5 * (batch - spikes.mean(axis=0)).mean(axis=0) / seen
    (node,) = [node for node in conversion.model.graph.node if node.op_type == "IF"]
    (found,) = [a.t for a in node.attribute if a.name == "v_init"]
    np.testing.assert_allclose(onnx.numpy_helper.to_array(found), start, rtol=1e-5)


@pytest.mark.parametrize(("sign", "scale"), [(1, 4), (-1, 4), (0, 1)])
def test_switches_are_as_large_as_the_inputs_of_all_batches(sign, scale):
    """Above 0 or below; inputs that are all 0 have a scale, too."""
    data = from_arrays(sign * np.float32([[4, 1, 2], [1, 3, 2], [0.5, 1, 1], [1, 0, 2]]))
    conversion = convert(two(), calibration=data, recipe="tsc", timesteps=4, batch_size=2)
    (coder,) = [n for n in conversion.model.graph.node if n.op_type == "SwitchCoder"]
    (found,) = [a.t for a in coder.attribute if a.name == "scale"]
    assert onnx.numpy_helper.to_array(found) == scale


def test_of_a_sequence_the_last_axis_is_shifted():
    text = (
        "net (float[N, 5, 4] x) => (float[N, 5, 3] y) "
        "{ a = MatMul(x, w) b = Clip(a, zero, one) y = Neg(b) }"
    )
    weights = {"w": np.ones((4, 3), np.float32), "zero": np.float32(0), "one": np.float32(1)}
    g = to_graph(convert(model(text, weights)).model)
    infer_shapes(g)
    (node,) = neuron_nodes(g)
    layer = SimpleNamespace(node=node, shift=np.zeros(()))
    gap = np.random.default_rng(0).random((2, 5, 3)).astype(np.float32)
    correction._move_shift(layer, gap, 1.0)
    np.testing.assert_allclose(layer.shift, gap.mean(axis=(0, 1)), rtol=1e-6)


def test_many_spikes_in_many_time_steps_are_counted():
    assert layers.rates(np.full((300, 1), 127, np.int8)) == 127
    assert layers.rates(np.full((258, 1), 127, np.int8)) == 127


def test_neurons_that_start_again_do_so_where_they_now_start():
    text = "net (float[N, 3] x) => (float[N, 3] y) { a = Clip(x, zero, one) y = Neg(a) }"
    bounds = {"zero": np.float32(0), "one": np.float32(1)}
    g = to_graph(convert(model(text, bounds), recipe="cos", timesteps=12).model)
    (node,) = neuron_nodes(g)
    x = np.float32([[0.2, 0.45, 0.7]])
    (layer,) = Simulation(g, {"x": x}, 12).layers()
    layer.fire()
    node.attrs["v_init"] = attribute_tensor(np.full_like(node.attrs["v_init"].values, 0.9))
    found = layer.fire()
    (fresh,) = Simulation(g, {"x": x}, 12).layers()
    np.testing.assert_array_equal(found, fresh.fire())
    assert found.any()


@pytest.mark.parametrize("maxpool", ["average", "exact", "keep"])
def test_means_of_every_pool_are_those_over_all_time_steps(maxpool):
    ann, (x, _) = model(POOLED, WEIGHTS), next(iter(DATA.batches(64)))
    converted = convert(ann, calibration=DATA, recipe="mmse", timesteps=8, maxpool=maxpool)
    for layer in Simulation(to_graph(converted.model), {"x": x}, 8).layers():
        # What is not needed has not been computed.
        assert layer._currents is None
        tensors = [node.outputs[0] for node in layer.segment.nodes]
        steps = list(layer.simulation.steps(layer.segment, tensors))
        for tensor, found, *values in zip(tensors, layer.measure(tensors), *steps, strict=True):
            np.testing.assert_allclose(
                found, np.mean(values, axis=0), atol=1e-5, err_msg=tensor.name
            )


def test_layers_of_coded_inputs_fire_as_in_a_session():
    """No spikes lie before the first, and yet its currents vary."""
    snn = convert(two(), calibration=SMALL, recipe="tsc", timesteps=8).model
    sums = SpikingSession(snn).run(X, 8).readouts[8].potential_sums
    for layer in Simulation(to_graph(snn), {"x": X}, 8).layers():
        assert len(layer.currents) == 8
        found = layer.fire().sum(axis=0) * threshold_of(layer.node)
        np.testing.assert_allclose(found, sums[layer.node.name], rtol=1e-6)
        tensors = [node.outputs[0] for node in layer.segment.nodes]
        steps = zip(*layer.simulation.steps(layer.segment, tensors), strict=True)
        for measured, values in zip(layer.measure(tensors), steps, strict=True):
            np.testing.assert_allclose(measured, np.mean(values, axis=0), rtol=1e-5, atol=1e-6)


def currents_of(ann, data, passes=()):
    """What ``currents_in_the_ann`` finds after some passes: names by node."""
    found = {}

    def look(snn):
        found.update({name: t.name for name, (t, _) in snn.currents_in_the_ann().items()})
        return False

    recipe = replace(recipe_by_name("calibration"), name="other", passes=(*passes, look))
    convert(ann, calibration=data, recipe=recipe, timesteps=8)
    return found


def test_currents_may_be_any_output_of_a_node():
    text = (
        "net (float[N, 4] x) => (float[N, 3] y) { a = MatMul(x, w) b, c = Split<axis = 1>(a, two) "
        "r = Relu(b) q = Relu(c) s = Concat<axis = 1>(r, q) y = MatMul(s, v) }"
    )
    weights = {"w": np.eye(4, dtype=np.float32), "v": WEIGHTS["v"], "two": np.array([2, 2])}
    data = from_arrays(np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32))
    assert currents_of(model(text, weights), data) == {"r": "b", "q": "c"}


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [("y = MatMul(r, v) z = MatMul(x, v)", ["y"]), ("y = MatMul(r, v) z = Neg(y)", ["z"])],
    ids=["no spikes reach", "others read"],
)
def test_outputs_that_are_no_read_outs(nodes, wanted):
    text = (
        "net (float[N, 4] x) => (float[N, 3] y, float[N, 3] z) "
        f"{{ a = MatMul(x, w) r = Relu(a) {nodes} }}"
    )
    weights = {"w": np.eye(4, dtype=np.float32), "v": WEIGHTS["v"]}
    found = []

    def look(snn):
        found.extend(snn.read_outs_in_the_ann())
        return False

    recipe = replace(recipe_by_name("calibration"), name="other", passes=(look,))
    data = from_arrays(np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32))
    convert(model(text, weights), calibration=data, recipe=recipe, timesteps=8)
    assert found == wanted


def test_layers_of_more_samples_than_the_batch_fire_as_in_a_session():
    """Behind a Reshape that makes several samples of one."""
    text = (
        "net (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w) r = Clip(a, zero, one) "
        "b = Reshape(r, halves) c = MatMul(b, u) q = Clip(c, zero, one) y = Reshape(q, wholes) }"
    )
    weights = {
        "w": np.eye(4, dtype=np.float32), "u": np.float32([[1, -0.5], [0.25, 0.5]]),
        "zero": np.float32(0), "one": np.float32(1), "halves": np.array([-1, 2]),
        "wholes": np.array([-1, 4]),
    }  # fmt: skip
    x = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    snn = convert(model(text, weights), recipe="opi").model
    output = SpikingSession(snn).run(x, 8).output
    *_, last = Simulation(to_graph(snn), {"x": x}, 8).layers()
    np.testing.assert_allclose(last.fire().mean(axis=0).reshape(6, 4), output, rtol=1e-6)


def test_what_averages_over_time_is_measured_after_the_last_time_step():
    text = (
        "net (float[N, 4] x) => (float[N, 3] y) { a = MatMul(x, w) r = Relu(a) l = MatMul(r, v) "
        "y = Softmax<axis = -1>(l) }"
    )
    weights = {"w": np.eye(4, dtype=np.float32), "v": WEIGHTS["v"]}
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    snn = convert(model(text, weights), calibration=from_arrays(x), timesteps=8).model
    graph = to_graph(snn)
    (output,) = [tensor for tensor in graph.outputs if tensor.name == "y"]
    *_, last = Simulation(graph, {"x": x}, 8).layers(read_outs=[output])
    (found,) = last.simulation.measure(last.simulation.ends["y"], [output])
    np.testing.assert_allclose(found, SpikingSession(snn).run(x, 8).output, rtol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e36])
@pytest.mark.parametrize("shift", [-0.25, 0.25])
@pytest.mark.parametrize("op", ["IF", "SignedIF", "BurstIF", "SignedBurstIF", "ResetToZeroIF"])
def test_mean_potentials_are_those_of_shifted_currents(op, shift, scale):
    """Also where potentials lose whole thresholds by rounding."""
    recipe = replace(recipe_by_name("mmse"), name="other", neuron=Neuron(op))
    snn = convert(two(), calibration=SMALL, recipe=recipe, timesteps=8).model
    x = X * np.float32(scale)
    for layer in Simulation(to_graph(snn), {"x": x}, 8).layers():
        layer.shift = np.float32(shift * threshold_of(layer.node))
        found = layer.mean_potential()
        emitted = layer.fire().mean(axis=0) * threshold_of(layer.node)
        np.testing.assert_allclose(found, emitted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", ["srp", "cos"])
def test_neurons_that_read_a_clock_fire_as_in_a_session(recipe):
    snn = convert(two(), calibration=SMALL, recipe=recipe, timesteps=8).model
    sums = SpikingSession(snn).run(X, 8).readouts[8].potential_sums
    for layer in Simulation(to_graph(snn), {"x": X}, 8).layers():
        found = layer.fire().sum(axis=0) * threshold_of(layer.node)
        np.testing.assert_allclose(found, sums[layer.node.name], rtol=1e-5, atol=1e-5)
