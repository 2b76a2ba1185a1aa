"""Every way to run time-steps gives the spikes of the plain one, bit for bit."""

import gc
from dataclasses import replace
from functools import partial

import dyadic
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from alike import run_alike, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_text import model

from onnx2snn import DataError, SpikingSession, convert, from_arrays
from onnx2snn.recipe import Neuron
from onnx2snn.recipes import recipe_by_name
from onnx2snn.runtime.choices import chunks
from onnx2snn.runtime.choices.chunks import weighted_layers
from onnx2snn.runtime.derived_sums import derived_sums_of
from onnx2snn.runtime.plans.plan import build_plan
from onnx2snn.runtime.plans.sizes import sizes_of
from onnx2snn.runtime.plans.unroll import unrolled

SETTINGS = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def both(snn):
    return SpikingSession(snn, threads=1, plan="step"), SpikingSession(snn, threads=1)


def network_of(seed, **options):
    return convert(dyadic.to_onnx(dyadic.finish(seed)), **options).model


@SETTINGS
@given(
    seed=st.integers(0, 10**6),
    runs=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=3),
    maxpool=st.sampled_from(["average", "exact"]),
)
def test_chunks_are_steps(seed, runs, maxpool):
    """Any T, so any remainder; read-outs anywhere; N changes from run to run."""
    network = dyadic.finish(seed)
    plain, chunked = both(convert(dyadic.to_onnx(network), maxpool=maxpool).model)
    run_alike(chunked, plain, network, runs)


@pytest.mark.parametrize("seed", range(6))
def test_states_are_handed_from_one_plan_to_another(seed):
    network = dyadic.finish(seed)
    x = dyadic.images(network, 3)
    plain, chunked = both(network_of(seed))
    plain.run(x, 11)
    chunked.run(x, 11)
    for giver, taker in ((plain, chunked), (chunked, plain)):
        taker.state = giver.state
        for _ in range(3):
            np.testing.assert_array_equal(taker.step(x), giver.step(x))


@pytest.mark.parametrize("seed", range(6))
def test_inputs_that_vary_in_time(seed):
    network = dyadic.finish(seed)
    x = np.stack([dyadic.images(network, 2, seed=t) for t in range(13)])
    plain, chunked = both(network_of(seed))
    same(chunked.run(x, 13, [5]), plain.run(x, 13, [5]))


EVERY_KIND = ["opi", "signed", "burst", "spike-norm", "srp", "ltb", "best", "best-burst"]
# Of a fifth of a clip's bound sums are not exact.
BURSTS = replace(recipe_by_name("burst"), neuron=Neuron("BurstIF", max_spikes=4))


@pytest.mark.parametrize("recipe", [{"burst": BURSTS}.get(name, name) for name in EVERY_KIND])
def test_neurons_of_every_kind(recipe):
    network = dyadic.finish(7)
    x = dyadic.images(network, 20)
    snn = convert(
        dyadic.to_onnx(network), calibration=from_arrays(x), recipe=recipe, timesteps=8
    ).model
    plain, chunked = both(snn)
    found, wanted = chunked.run(x, 24, [8]), plain.run(x, 24, [8])
    for t in (8, 24):
        for name, counts in wanted.readouts[t].spike_counts.items():
            np.testing.assert_array_equal(found.readouts[t].spike_counts[name], counts)


def test_long_runs():
    """Beyond what is worked out at once, and a T that no chunk divides."""
    network = dyadic.finish(3)
    x = dyadic.images(network, 2)
    plain, chunked = both(network_of(3))
    same(chunked.run(x, 1111, [300]), plain.run(x, 1111, [300]))


DENSE = (
    "net (float[N, 2, 4] x) => (float[N, 3] y) { "
    "f = Flatten(x) a = Gemm(f, w1, b1) c = Clip(a, zero, one) "
    "d = Gemm<transB = 1>(c, w2, b2) e = Clip(d, zero, two) "
    "m = MatMul(e, w3) g = Clip(m, zero, one) y = Gemm(g, w4) }"
)


def dense(seed=0):
    weights = partial(dyadic.weights, np.random.default_rng(seed), largest=8)
    named = {
        "zero": np.float32(0), "one": np.float32(1), "two": np.float32(2),
        "w1": weights(8, 16), "b1": weights(16), "w2": weights(12, 16), "b2": weights(1, 12),
        "w3": weights(12, 8), "w4": weights(8, 3),
    }  # fmt: skip
    return model(DENSE, named)


@pytest.mark.parametrize("samples", [1, 3, 40])
def test_heavy_layers_run_once_for_all_time_steps(monkeypatch, samples):
    monkeypatch.setattr(chunks, "CACHED", 0)
    snn = convert(dense()).model
    plain, chunked = both(snn)
    x = (np.random.default_rng(1).integers(-8, 9, (samples, 2, 4)) / 8).astype(np.float32)
    same(chunked.run(x, 45, [8, 16]), plain.run(x, 45, [8, 16]))
    # 16 x 12 and 12 x 8 weights, against 12 and 8 numbers a sample.
    few = samples < 12
    lengths = {8, 13, 16} if few else {8, 13}
    assert {key.steps for key in chunked._progress.time_steps.sessions} == lengths
    in_chunks = [key for key in chunked._progress.time_steps.sessions if key.steps > 1]
    assert {len(key.time_batched) for key in in_chunks} == {2 if few else 0}


def test_a_chunk_holds_a_heavy_layer_once(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 0)
    plan = build_plan(convert(dense()).model)
    states = [*plan.states, *plan.sums.values()]
    shapes = dict.fromkeys(plan.step_inputs, (1, 16))
    shapes |= {f"v/{neuron.name}": (1, *neuron.shape) for neuron in plan.neurons}
    layers = weighted_layers(plan.step, sizes_of(plan.step, shapes))
    heavy = {layer.name: layer.axis for layer in layers if layer.time_batched}
    assert len(heavy) == 2
    for batched, count in (({}, 4), (heavy, 1)):
        chunk = unrolled(plan.step, states, 4, batched)
        onnx.checker.check_model(chunk, full_check=True)
        ops = [node.op_type for node in chunk.graph.node]
        assert ops.count("Gemm") + ops.count("MatMul") == 2 * count
        assert {i.name for i in chunk.graph.input} == {i.name for i in plan.step.graph.input}


CONVOLUTION = (
    "net (float[N, 64, 3, 3] x) => (float[N, a, b, c] y) {{ "
    "p = Clip(x, zero, one) d = Conv<{attributes}>(p, w) y = Clip(d, zero, one) }}"
)


@pytest.mark.parametrize(
    ("attributes", "kernel", "axis"),
    [
        ("kernel_shape = [1, 1]", 1, 2),
        ("kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0]", 1, 2),
        ('auto_pad = "SAME_UPPER"', 1, 2),
        ("group = 2", 1, 2),
        ("kernel_shape = [3, 3]", 3, 0),
        ("strides = [2, 2]", 1, 0),
        ("pads = [1, 0, 0, 0]", 1, 0),
    ],
)
@pytest.mark.parametrize("opset", [13, 20])
def test_images_of_convolutions_of_single_places_are_joined(
    monkeypatch, attributes, kernel, axis, opset
):
    """Several samples, chunks of all lengths, with and without the layout of the CPU."""
    monkeypatch.setattr(chunks, "CACHED", 0)
    rng = np.random.default_rng(0)
    groups = 2 if "group" in attributes else 1
    w = (rng.integers(-4, 5, (8, 64 // groups, kernel, kernel)) / 8).astype(np.float32)
    values = {"zero": np.float32(0), "one": np.float32(1), "w": w}
    snn = convert(model(CONVOLUTION.format(attributes=attributes), values, opset)).model
    plain, chunked = both(snn)
    for samples in (1, 3):
        x = (rng.integers(-8, 9, (samples, 64, 3, 3)) / 8).astype(np.float32)
        same(chunked.run(x, 57, [6]), plain.run(x, 57, [6]))
    (layer,) = chunked.chosen(x).layers
    assert layer.time_batched
    assert layer.axis == axis


def test_what_does_not_follow_from_potentials_is_summed():
    network = dyadic.finish(3)
    x = dyadic.images(network, 4)
    for options in ({"reset": "zero"}, {"maxpool": "keep"}):
        snn = convert(dyadic.to_onnx(network), **options).model
        has_pools = any(node.op_type == "MaxPool" for node in snn.graph.node)
        assert (derived_sums_of(build_plan(snn)) is None) == ("reset" in options or has_pools)
        plain, chunked = both(snn)
        same(chunked.run(x, 18), plain.run(x, 18))


def test_activity_is_worked_out_after_other_runs():
    network = dyadic.finish(5)
    x, other = dyadic.images(network, 3), dyadic.images(network, 3, seed=9)
    plain, chunked = both(network_of(5))
    first = chunked.run(x, 9, [4])
    chunked.run(other, 5)
    same(first, plain.run(x, 9, [4]))


def test_another_plan_is_refused():
    with pytest.raises(DataError, match="plan must be one of"):
        SpikingSession(network_of(0), plan="fast")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "1", True, 10**6])
def test_numbers_of_threads_that_are_none(threads):
    with pytest.raises(DataError, match="threads must be a whole number from 1 to 1024"):
        SpikingSession(network_of(0), threads=threads)


def test_a_chunk_is_made_once():
    network = dyadic.finish(1)
    session = SpikingSession(network_of(1), threads=1)
    for samples in (1, 2, 1, 2):
        session.run(dyadic.images(network, samples), 3 * chunks.LONG)
    assert len(session._progress.time_steps.sessions) == 1


def test_a_plan_does_not_hold_the_graph_that_it_was_made_of():
    for tensor in build_plan(network_of(0)).inputs:
        assert not tensor.outputs


APART = {
    "a bias for each sample": (
        "(float[2, 8] x) => (float[2, 16] y)", "b = Gemm(a, w, shift)",
        {"w": (8, 16), "shift": (2, 16)},
    ),
    "samples along axis 1": (
        "(float[N, 8] x) => (float[3, N, 4] y)", "b = MatMul(a, w)", {"w": (3, 8, 4)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_layers_that_keep_time_steps_apart(name, monkeypatch):
    """What they make, or add, is not of so many samples along axis 0."""
    monkeypatch.setattr(chunks, "CACHED", 0)
    signature, layer, shapes = APART[name]
    rng = np.random.default_rng(0)
    values = {n: dyadic.weights(rng, *shape) for n, shape in shapes.items()}
    values |= {"zero": np.float32(0), "one": np.float32(1)}
    text = f"net {signature} {{ a = Clip(x, zero, one) {layer} y = Clip(b, zero, one) }}"
    stepped, chunked = both(convert(model(text, values)).model)
    x = (rng.integers(-8, 9, (2, 8)) / 8).astype(np.float32)
    same(chunked.run(x, 45), stepped.run(x, 45))


def test_a_plan_leaves_no_weights_behind():
    """What refers to itself stays until Python looks for it: in 8 bits that is a second copy."""
    weights = {"w": np.ones((64, 64), np.float32), "zero": np.float32(0), "one": np.float32(1)}
    snn = convert(
        model("net (float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
              "y = MatMul(b, w) }", weights)
    ).model  # fmt: skip
    gc.collect()
    gc.disable()
    try:
        build_plan(snn)
        left = [c for c in gc.get_objects() if isinstance(c, gs.Constant) and c.values.size > 1]
    finally:
        gc.enable()
    assert not left


def test_what_holds_for_all_samples_is_made_of_no_samples():
    """A sequence [L, N, C] is of samples, though its first axis is of one size."""
    ann = model(
        "net (float[N, 3, 4] x, float[5] s) => (float[N, 3, 4] y) { d = Mul(s, two) "
        "m = ReduceSum<keepdims = 0>(d) t = Transpose<perm = [1, 0, 2]>(x) a = Mul(t, m) "
        "b = Clip(a, zero, one) e = ReduceMean<axes = [0], keepdims = 0>(b) u = Mul(x, two) "
        "v = Transpose<perm = [1, 0, 2]>(u) c = Add(b, v) w = Clip(c, zero, one) "
        "y = Transpose<perm = [1, 0, 2]>(w) }",
        {"zero": np.float32(0), "one": np.float32(1), "two": np.float32(2)},
    )
    plan = build_plan(convert(ann).model)
    assert plan.shared & {"x", "s"} == {"s"}
    assert not plan.shared & {"a", "v"}
    assert {"a", "v"} <= set(plan.step_inputs)
