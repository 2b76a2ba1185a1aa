"""What a session chooses, and that it does what it says."""

import itertools

import dyadic
import numpy as np
import pytest
from onnx_text import model

from onnx2snn import DataError, SpikingSession, convert
from onnx2snn.runtime import choice

WIDE = (
    "net (float[N, 4] x) => (float[N, 2] y) { "
    "a = Gemm(x, w1) b = Clip(a, zero, one) c = Gemm(b, w2) d = Clip(c, zero, one) "
    "e = MatMul(d, w3) f = Clip(e, zero, one) y = Gemm(f, w4) }"
)


def wide(rng=None):
    rng = rng or np.random.default_rng(0)
    shapes = {"w1": (4, 16), "w2": (16, 12), "w3": (12, 8), "w4": (8, 2)}
    named = {n: (rng.integers(-8, 9, s) / 8).astype(np.float32) for n, s in shapes.items()}
    return convert(model(WIDE, named | {"zero": np.float32(0), "one": np.float32(1)})).model


def zeros(samples):
    return np.zeros((samples, 4), np.float32)


def test_the_numbers_that_decide(monkeypatch):
    monkeypatch.setattr(choice, "CACHED", 0)
    session = SpikingSession(wide(), threads=1)
    found = {n: session.chosen(zeros(n)) for n in (1, 10, 20)}
    # The first layer is in the prologue, the last in the epilogue.
    for n, chosen in found.items():
        assert chosen.samples == n
        assert [(layer.weights, layer.computes) for layer in chosen.layers] == [
            (192, 12 * n), (96, 8 * n),
        ]  # fmt: skip
    assert [layer.time_batched for layer in found[10].layers] == [True, True]
    assert [layer.time_batched for layer in found[20].layers] == [False, False]
    assert found[1].chunks == found[10].chunks == (16, 4)
    assert found[20].chunks == (4,)
    assert found[20].layers[0].why == "no more weights than it computes"


def test_small_weights_are_in_the_cache():
    chosen = SpikingSession(wide(), threads=1).chosen(zeros(1))
    assert chosen.chunks == (4,)
    assert not chosen.time_batched
    assert {layer.why for layer in chosen.layers} == {"its weights fit the cache"}


def test_what_is_shown_is_what_runs(monkeypatch):
    monkeypatch.setattr(choice, "CACHED", 0)
    session = SpikingSession(wide(), threads=1)
    chosen = session.chosen(zeros(3))
    session.run(zeros(3), 21)
    assert {steps for steps, _, _ in session._sessions} == {1, *chosen.chunks}
    assert {heavy for t, heavy, _ in session._sessions if t > 1} == {chosen.time_batched}


def test_the_step_plan_has_no_chunks():
    chosen = SpikingSession(wide(), threads=1, plan="step").chosen(zeros(3))
    assert chosen.chunks == ()
    assert not chosen.derived_counts
    assert not chosen.short_of_memory


def test_chosen_leaves_the_state_alone():
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    x = dyadic.images(network, 3)
    session.run(x, 5)
    before = session.state
    session.chosen(dyadic.images(network, 7))
    for name, value in session.state.items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(DataError, match="one time-step"):
        session.chosen(x[None])


def test_memory_grows_with_samples_and_states_are_exact():
    session = SpikingSession(wide(), threads=1)
    found = [session.chosen(zeros(n)).memory for n in (1, 2, 8, 64)]
    for less, more in itertools.pairwise(found):
        assert less.weights == more.weights
        assert less.activations < more.activations
        assert less.total < more.total
    # v of 16 + 12 + 8 neurons and the sum that the read-out reads, 8; float32, twice.
    assert found[1].states == 2 * 2 * 4 * (16 + 12 + 8 + 8)
