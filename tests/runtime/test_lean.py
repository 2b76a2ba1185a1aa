"""Sessions whose graphs read one copy of the weights, as one sample of a heavy network does."""

import dyadic
import numpy as np
import pytest
from alike import run_alike, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_text import model

from onnx2snn import SpikingSession, convert
from onnx2snn.graph_passes import weights
from onnx2snn.runtime import chunks, columns, estimate, session, winograd
from onnx2snn.runtime.estimate import Estimate


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
        patch.setattr(session, "FEW_WEIGHTS", 0)
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
            assert not set(chosen.columns(16)) & set(chosen.tiled)


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
    monkeypatch.setattr(estimate, "OWN", 0)


def images(samples):
    rng = np.random.default_rng(samples)
    return (rng.integers(-8, 33, (samples, 2, 6, 6)) / 16).astype(np.float32)


def test_by_default_one_sample_of_a_heavy_network(no_overheads, monkeypatch):
    snn = heavy()
    reference = SpikingSession(snn, threads=1, plan="step")
    auto = SpikingSession(snn, threads=1)
    for samples, lean in ((1, True), (2, False), (1, True)):
        assert auto.chosen(images(samples)).lean == lean
        for timesteps in (1, 3, 29, 32):
            same(auto.run(images(samples), timesteps), reference.run(images(samples), timesteps))
    # More memory buys time; a step at a time is as it was.
    assert not SpikingSession(snn, threads=1, max_memory=2**40).chosen(images(1)).lean
    assert not reference.chosen(images(1)).lean
    memory = auto.chosen(images(1)).memory
    held = memory.total - memory.graphs - memory.counts
    taken = sum(values.nbytes for values in auto._plan.weights.values()) + memory.states // 2
    assert held <= 1.5 * taken
    monkeypatch.setattr(estimate, "LEAN_SHARE", held / taken - 0.01)
    less = SpikingSession(snn, threads=1).chosen(images(1))
    assert not less.lean or less.chunks[0] < auto.chosen(images(1)).chunks[0]
    monkeypatch.setattr(estimate, "LEAN_SHARE", 1.0)
    assert not SpikingSession(snn, threads=1).chosen(images(1)).lean


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
    x = np.zeros((1, 8, 2, 2), np.float32)
    assert SpikingSession(snn, threads=1).chosen(x).lean == dense


def test_what_its_graphs_hold(no_overheads, monkeypatch):
    """Weights are fed to them, but those of small convolutions and their biases."""
    monkeypatch.setattr(weights, "STAYS_INLINE", 16)
    monkeypatch.setattr(chunks, "FEW_HELD", 8)
    lean = SpikingSession(heavy(), threads=1)
    lean.run(images(1), 21)
    assert lean.chosen(images(1)).held(1) == lean.chosen(images(1)).held(16) == {"k"}
    own = {value.ctypes.data for value in lean._plan.weights.values()}
    for made in lean._progress.time_steps.sessions.values():
        fed = made.weight_feed
        assert {"w", "v"} <= fed.keys()
        assert not {"k", "c"} & fed.keys()
        assert {value.ctypes.data for value in fed.values()} <= own


def test_large_weights_of_prologue_and_read_out_are_fed(monkeypatch):
    x = images(1)
    for few, fed in ((2**24, False), (0, True)):
        monkeypatch.setattr(session, "FEW_WEIGHTS", few)
        made = SpikingSession(heavy(), threads=1)
        made.run(x, 3)
        averages = made._progress.averages
        (read_out,) = [v for v in vars(averages).values() if hasattr(v, "weight_feed")]
        assert bool(read_out.weight_feed) == fed
