"""Sessions whose graphs read one copy of the weights, as one sample of a heavy network does."""

import dyadic
import numpy as np
import pytest
from alike import run_alike, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_text import model

from onnx2snn import DataError, SpikingSession, convert
from onnx2snn.graph_passes.model_files import weights
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.runtime.choices import chunks, estimate
from onnx2snn.runtime.choices.estimate import Estimate
from onnx2snn.runtime.layers import columns, winograd
from onnx2snn.runtime.providers import CPU
from onnx2snn.runtime.sessions import Use, create_session


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    runs=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=3),
    maxpool=st.sampled_from(["average", "exact"]),
    time_batched=st.booleans(),
    tiles=st.booleans(),
    few=st.sampled_from([1, 1000]),
)
def test_the_same_spikes(seed, runs, maxpool, time_batched, tiles, few):
    """Wherever graphs can be lean, on tiles or in columns, whether that pays or not."""
    network = dyadic.finish(seed)
    snn = convert(dyadic.to_onnx(network), maxpool=maxpool).model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Estimate, "pays_by_default", True)
        patch.setattr(estimate, "LEAN_SHARE", np.inf)
        patch.setattr(weights, "STAYS_INLINE", 16)
        patch.setattr(chunks, "CACHED", 0 if time_batched else 2**18)
        patch.setattr(chunks, "MANY_TILES", 1)
        patch.setattr(columns, "FEW_PLACES", 10**6)
        # Few weights are held by graphs; or all of convolutions are.
        patch.setattr(chunks, "FEW_HELD", few)
        if tiles:
            patch.setattr(winograd, "TRANSFORMATION", -(2**30))
        lean = SpikingSession(snn, threads=1)
        chosen = lean.chosen(dyadic.images(network, 2))
        assert chosen.lean
        run_alike(lean, SpikingSession(snn, threads=1, plan="step"), network, runs)
        # The first layer is constant, and not within time-steps.
        plain = [layer.values for layer in network.layers[1:] if layer.op == "conv"]
        plain = [v for v in plain if v["group"] == 1]
        on_tiles = [v for v in plain if tiles and v["w"].shape[2] == 3 and v["stride"] == 1]
        assert len(chosen.tiled) == len(on_tiles)
        if tiles:
            assert not set(chosen.forms[max(chosen.chunks)].columns) & set(chosen.tiled)


def heavy():
    """A convolution of 6 x 6 images, and dense layers with nine tenths of the weights."""
    rng = np.random.default_rng(3)
    text = (
        "net (float[N, 2, 6, 6] x) => (float[N, 10] y) <float low = {0.0}, float one = {1.0}> { "
        "a = Clip(x, low, one) p = Conv<pads = [1, 1, 1, 1]>(a, k, c) b = Clip(p, low, one) "
        "f = Flatten(b) q = Gemm<transB = 1>(f, w) d = Clip(q, low, one) "
        "r = Gemm<transB = 1>(d, v) e = Clip(r, low, one) y = Gemm<transB = 1>(e, u) }"
    )
    shapes = {"k": (4, 2, 3, 3), "c": (4,), "w": (96, 144), "v": (96, 96), "u": (10, 96)}
    values = {n: (rng.integers(-8, 9, s) / 64).astype(np.float32) for n, s in shapes.items()}
    return convert(model(text, values)).model


@pytest.fixture
def no_overheads(monkeypatch):
    """Weights are what takes memory, as if they were large."""
    monkeypatch.setattr(chunks, "CACHED", 100)
    monkeypatch.setattr(estimate, "GRAPHS", 0)
    monkeypatch.setattr(estimate, "NODE", 0)


def images(samples):
    rng = np.random.default_rng(samples)
    return (rng.integers(-8, 33, (samples, 2, 6, 6)) / 16).astype(np.float32)


def test_by_default_one_sample_of_a_heavy_network(no_overheads, monkeypatch):
    snn = heavy()
    reference = SpikingSession(snn, threads=1, plan="step")
    auto = SpikingSession(snn, threads=1)
    for samples, lean in ((1, True), (2, False), (1, True)):
        assert auto.chosen(images(samples)).lean == lean
        for timesteps in (1, 3, 11, 29, 32):
            same(auto.run(images(samples), timesteps), reference.run(images(samples), timesteps))
    # More memory buys time; a step at a time is as it was.
    assert not SpikingSession(snn, threads=1, max_memory=2**40).chosen(images(1)).lean
    assert not reference.chosen(images(1)).lean
    assert auto.chosen(images(1), readouts=10_000).lean
    memory = auto.chosen(images(1)).memory
    held = memory.needed - memory.counts
    taken = sum(values.nbytes for values in auto._plan.weights.values()) + memory.states // 2
    assert held <= 1.5 * taken
    # Of the estimate of graphs, half.
    monkeypatch.setattr(estimate, "GRAPHS", 2**20)
    held += 2**19
    monkeypatch.setattr(estimate, "LEAN_SHARE", held / taken)
    assert SpikingSession(snn, threads=1).chosen(images(1)).memory.weights == memory.weights
    monkeypatch.setattr(estimate, "LEAN_SHARE", held / taken - 0.01)
    less = SpikingSession(snn, threads=1).chosen(images(1))
    most = auto.chosen(images(1))
    # What is left over of long chunks is one run as well, where that fits.
    assert 11 in most.between
    assert not less.lean or (less.chunks[0], less.between.stop) < (
        most.chunks[0],
        most.between.stop,
    )
    monkeypatch.setattr(estimate, "LEAN_SHARE", 1.0)
    assert not SpikingSession(snn, threads=1).chosen(images(1)).lean


def test_by_default_lean_graphs_give_back_what_is_much(no_overheads, monkeypatch):
    assert not SpikingSession(heavy(), threads=1).chosen(images(1)).memory.gives_back
    monkeypatch.setattr(estimate, "FEW_ACTIVATIONS", 0)
    chosen = SpikingSession(heavy(), threads=1).chosen(images(1))
    assert chosen.lean
    assert chosen.memory.gives_back


@pytest.mark.parametrize("dense", [True, False])
def test_only_where_most_weights_may_come_first(dense, no_overheads, monkeypatch):
    """A dense layer has 10 times the weights of the convolution, or a tenth."""
    monkeypatch.setattr(estimate, "LEAN_SHARE", np.inf)
    monkeypatch.setattr(estimate, "LEAN_USES", np.inf)
    outputs = 160 if dense else 2
    text = (
        "net (float[N, 8, 2, 2] x) => (float[N, C] y) <float low = {0.0}, float one = {1.0}> { "
        "a = Clip(x, low, one) p = Conv<pads = [1, 1, 1, 1]>(a, k) b = Clip(p, low, one) "
        "f = Flatten(b) q = Gemm<transB = 1>(f, w) y = Clip(q, low, one) }"
    )
    values = {"k": np.ones((8, 8, 3, 3), np.float32), "w": np.ones((outputs, 32), np.float32)}
    snn = convert(model(text, values)).model
    x = np.zeros((2, 8, 2, 2), np.float32)
    assert SpikingSession(snn, threads=1).chosen(x[:1]).lean == dense
    assert not SpikingSession(snn, threads=1).chosen(x).lean


def test_what_its_graphs_hold(no_overheads, monkeypatch):
    """Weights are fed to them, but those of small convolutions and their biases."""
    monkeypatch.setattr(weights, "STAYS_INLINE", 16)
    monkeypatch.setattr(chunks, "FEW_HELD", 8)
    lean = SpikingSession(heavy(), threads=1)
    lean.run(images(1), 21)
    assert lean.chosen(images(1)).forms[1].held == {"k"}
    assert lean.chosen(images(1)).forms[16].held == {"k"}
    assert chunks.weights_in(
        [n for n in lean.chosen(images(1)).layers if n.initializer == "k"]
    ) <= (chunks.weights_in(lean.chosen(images(1)).layers) / 8)
    own = {value.ctypes.data for value in lean._plan.weights.values()}
    for made in lean._progress.time_steps.sessions.values():
        fed = made.weight_feed
        assert {"w", "v"} <= fed.keys()
        assert not {"k", "c"} & fed.keys()
        assert {value.ctypes.data for value in fed.values()} <= own


def test_weights_in_any_order_of_memory():
    """What a lean session holds is read until it is made, also where it was copied for that."""
    rng = np.random.default_rng(0)
    k = (rng.integers(-8, 9, (48, 48, 3, 3)) / 8).astype(np.float32)
    plain = model(
        "net (float[N, 48, 5, 5] x) => (float[N, 48, 3, 3] y) { y = Conv(x, k) }", {"k": k}
    )
    parts = weights.detach(plain)
    x = rng.integers(-4, 5, (2, 48, 5, 5)).astype(np.float32)
    wanted = create_session(plain, [CPU], 1).run(None, {"x": x})[0]
    for _ in range(20):
        own = {"k": np.asfortranarray(parts.weights["k"])}
        made = create_session(ModelParts(parts.structure, {}), [CPU], 1, Use(lean=True), own)
        np.testing.assert_array_equal(made.run(None, {"x": x})[0], wanted)


def layer(weights, uses=1, op="Conv", **options):
    name = f"{op}{weights}"
    return chunks.WeightedLayer(name, op, name, weights, uses, uses, 0, None, **options)


def test_graphs_hold_the_smallest_convolutions(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 300)
    layers = [layer(400), layer(100), layer(200), layer(20, op="Gemm"), layer(31 * 700, op="Gemm")]
    # 700 of 32 x 700 weights; in a chunk none that a layer reads once for all of its time-steps.
    assert chunks.held_by_lean(layers, 1, within_budget=False) == {"Conv100", "Conv200", "Conv400"}
    assert chunks.held_by_lean(layers, 16, within_budget=False) == {"Conv100", "Conv200"}
    assert chunks.held_by_lean([*layers, layer(90)], 1, within_budget=False) == {
        "Conv90",
        "Conv100",
        "Conv200",
    }
    # What is fed counts as often as it is used at 16 places or more.
    fed = [layer(500, uses=64), layer(600, uses=16), layer(11 * 2**10, op="Gemm")]
    assert chunks.fed_uses(fed, 17) == 500 * 64 / chunks.weights_in(fed)
    assert chunks.fed_uses(fed, 16) == (500 * 64 + 600 * 16) / chunks.weights_in(fed)


def test_not_where_large_convolutions_are_fed(no_overheads, monkeypatch):
    snn = heavy()
    monkeypatch.setattr(chunks, "CACHED", 30)
    monkeypatch.setattr(chunks, "FEW_HELD", 10**6)
    monkeypatch.setattr(estimate, "LEAN_SHARE", np.inf)
    layers = SpikingSession(snn, threads=1).chosen(images(1)).layers
    uses = chunks.fed_uses(layers, 36)
    assert uses > 0
    for name in ("FED_USES", "FED_USES_IN_ALL"):
        for most, lean in ((uses - 0.01, False), (uses, True)):
            monkeypatch.setattr(estimate, name, most)
            assert SpikingSession(snn, threads=1).chosen(images(1)).lean == lean


def test_dense_layers_come_first_where_several_rows_use_them(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 100)
    few, many = layer(50, op="Gemm", dense=True), layer(500, op="Gemm", dense=True)
    for timesteps, samples, first in ((1, 1, ""), (4, 1, "Gemm500"), (1, 2, "Gemm50 Gemm500")):
        found = chunks.lean_weights_first([few, many, layer(900)], timesteps, samples)
        assert found == set(first.split())


def small_images():
    """Two convolutions of 8 channels on 2 x 2 and a large one on 8 x 8, then dense layers."""
    rng = np.random.default_rng(5)
    text = (
        "net (float[N, 8, 8, 8] x) => (float[N, 10] y) <float low = {0.0}, float one = {1.0}> { "
        "a = Clip(x, low, one) p = Conv<pads = [1, 1, 1, 1]>(a, k) b = Clip(p, low, one) "
        "m = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(b) "
        "q = Conv<pads = [1, 1, 1, 1]>(m, l) c = Clip(q, low, one) "
        "f = Flatten(c) r = Gemm<transB = 1>(f, w) d = Clip(r, low, one) "
        "s = Gemm<transB = 1>(d, v) e = Clip(s, low, one) y = Gemm<transB = 1>(e, u) }"
    )
    shapes = {"k": (8, 8, 3, 3), "l": (8, 8, 3, 3), "w": (96, 32), "v": (96, 96), "u": (10, 96)}
    values = {n: (rng.integers(-8, 9, s) / 64).astype(np.float32) for n, s in shapes.items()}
    return convert(model(text, values)).model


def test_estimates_count_matrices_held_weights_and_columns(no_overheads, monkeypatch):
    monkeypatch.setattr(estimate, "LEAN_SHARE", np.inf)
    monkeypatch.setattr(winograd, "TRANSFORMATION", -(2**30))
    x = np.zeros((1, 8, 8, 8), np.float32)
    chosen = SpikingSession(small_images(), threads=1).chosen(x)
    assert chosen.lean
    assert (len(chosen.tiled), len(chosen.forms[16].columns), len(chosen.forms[1].columns)) == (
        1,
        1,
        0,
    )
    weights_ = sum(4 * n.weights for n in chosen.layers) + 4 * 960
    assert chosen.memory.weights == weights_ + 16 * 4 * 64
    # Held in each graph: neither the one in columns nor, where graphs are chunks, that on tiles.
    monkeypatch.setattr(chunks, "FEW_HELD", 1)
    held = SpikingSession(small_images(), threads=1).chosen(x)
    assert held.memory.weights == weights_ + 16 * 4 * 64 + 4 * 576


def test_columns_of_many_samples_are_in_the_estimate(no_overheads, monkeypatch):
    """Within a budget single time-steps of many samples have columns, too, while these fit."""
    monkeypatch.setattr(Estimate, "lengths_of_chunks", ((),))
    x, budget, seen = np.zeros((16, 8, 8, 8), np.float32), 2**40, []
    while True:
        try:
            made = SpikingSession(small_images(), threads=1, max_memory=budget).chosen(x)
        except DataError as error:
            said = str(error)
            break
        seen += [made] if made.lean else []
        budget = made.memory.needed - 1
    assert [len(made.forms[1].columns) for made in seen] == [1, 0]
    assert f"needs about {seen[-1].memory.needed:,} bytes" in said
    (found,) = seen[0].forms[1].columns
    assert seen[0].memory.activations > seen[0].groups.alone * found.scratch


def test_estimates_do_not_depend_on_what_was_asked_before(no_overheads, monkeypatch):
    monkeypatch.setattr(estimate, "LEAN_SHARE", np.inf)
    monkeypatch.setattr(winograd, "TRANSFORMATION", -(2**30))
    found = []
    for order in ((1, 2), (2, 1)):
        made = SpikingSession(small_images(), threads=1)
        memory = {n: made.chosen(np.zeros((n, 8, 8, 8), np.float32)).memory for n in order}
        found.append(sorted(memory.items()))
    assert found[0] == found[1]


def test_chunks_feed_one_copy_of_matrices(no_overheads, monkeypatch):
    monkeypatch.setattr(estimate, "LEAN_SHARE", np.inf)
    monkeypatch.setattr(winograd, "TRANSFORMATION", -(2**30))
    monkeypatch.setattr(weights, "STAYS_INLINE", 16)
    lean = SpikingSession(small_images(), threads=1)
    lean.run(np.zeros((1, 8, 8, 8), np.float32), 61)
    places = {}
    for key, made in lean._progress.time_steps.sessions.items():
        matrices = {n: v for n, v in made.weight_feed.items() if n.startswith("winograd/")}
        assert len(matrices) == (16 if key.steps > 1 else 0)
        for name, value in matrices.items():
            places.setdefault(name, set()).add(value.ctypes.data)
    assert len(lean.chosen(np.zeros((1, 8, 8, 8), np.float32)).chunks) > 1
    assert {len(addresses) for addresses in places.values()} == {1}


@pytest.mark.parametrize("samples", [1, 3])
def test_convolutions_of_single_places_come_together_not_in_columns(samples, monkeypatch):
    """Their time-steps do, as one higher image."""
    monkeypatch.setattr(Estimate, "pays_by_default", True)
    monkeypatch.setattr(estimate, "LEAN_SHARE", np.inf)
    monkeypatch.setattr(weights, "STAYS_INLINE", 16)
    monkeypatch.setattr(chunks, "CACHED", 0)
    text = (
        "net (float[N, 64, 2, 2] x) => (float[N, 8, 2, 2] y) { a = Clip(x, zero, one) "
        "b = Conv(a, w) y = Clip(b, zero, one) }"
    )
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "one": np.float32(1), "w": dyadic.weights(rng, 8, 64, 1, 1)}
    snn = convert(model(text, values)).model
    lean = SpikingSession(snn, threads=1)
    x = (rng.integers(-8, 9, (samples, 64, 2, 2)) / 8).astype(np.float32)
    same(lean.run(x, 21), SpikingSession(snn, threads=1, plan="step").run(x, 21))
    chosen = lean.chosen(x)
    assert chosen.lean
    assert set(chosen.time_batched.values()) == {2}
