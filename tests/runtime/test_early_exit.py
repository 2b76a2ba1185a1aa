"""Samples that leave a run are read out as they were then; those that stay notice nothing."""

import dyadic
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_text import model

from onnx2snn import DataError, EarlyExit, SpikingSession, convert

SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def literal(rule, result, times):
    """When each sample leaves: the first look at which it is settled, by the rule's words."""
    samples = len(result.output)
    leaves = np.full(samples, times[-1])
    for n in range(samples):
        chosen = []
        for t in times:
            z = np.float64(result.readouts[t].output[n].ravel())
            chosen.append(int(np.argmax(z)))
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            same = len(chosen) >= rule.stable and len(set(chosen[-rule.stable :])) == 1
            if same and p.max() >= rule.confidence:
                leaves[n] = t
                break
    return leaves


@SETTINGS
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 17),
    timesteps=st.integers(1, 40),
    confidence=st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
    stable=st.integers(1, 4),
    every=st.sampled_from([1, 3, 4, 8]),
    plan=st.sampled_from(["auto", "step"]),
)
def test_an_early_exit_is_a_read_out(seed, samples, timesteps, confidence, stable, every, plan):
    network = dyadic.finish(seed)
    x = dyadic.images(network, samples)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1, plan=plan)
    rule = EarlyExit(confidence, stable, every)
    times = rule.looks_at(timesteps)
    whole = session.run(x, timesteps, times)
    early = session.run(x, timesteps, early_exit=rule)
    leaves = literal(rule, whole, times)
    np.testing.assert_array_equal(early.sample_timesteps, leaves)
    for n, t in enumerate(leaves):
        np.testing.assert_array_equal(early.output[n], whole.readouts[t].output[n])
        for name, counts in early.spike_counts.items():
            np.testing.assert_array_equal(counts[n], whole.readouts[t].spike_counts[name][n])
    for name, counts in early.spike_counts.items():
        neurons = counts[0].size * leaves.sum()
        assert early.firing_rates[name] == pytest.approx(counts.sum() / neurons)
    # Nothing of it remains.
    np.testing.assert_array_equal(session.run(x, timesteps).output, whole.output)


def test_a_run_without_early_exit_says_t():
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    x = dyadic.images(network, 3)
    assert session.run(x, 7).sample_timesteps.tolist() == [7, 7, 7]


def test_a_delayed_read_out_is_not_looked_at_before_it_begins():
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network), delay=10).model, threads=1)
    x = dyadic.images(network, 5)
    result = session.run(x, 16, early_exit=EarlyExit(0.0, stable=1, every=4))
    assert set(result.sample_timesteps) == {12}
    np.testing.assert_array_equal(result.output, session.run(x, 12).output)


@pytest.mark.parametrize(
    "options", [{"confidence": 1.1}, {"confidence": float("nan")}, {"stable": 0}, {"every": 0}]
)
def test_rules_that_make_no_sense(options):
    with pytest.raises(DataError, match="an early exit takes a confidence from 0 to 1"):
        EarlyExit(**options)


def test_runs_that_cannot_leave_early():
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    x = dyadic.images(network, 2)
    for options in ({"readout": [2]}, {"coding": "poisson"}):
        with pytest.raises(DataError, match="constant input"):
            session.run(np.clip(x, 0, 1), 4, early_exit=EarlyExit(), **options)
    with pytest.raises(DataError, match="constant input"):
        session.run(np.stack([x] * 4), 4, early_exit=EarlyExit())
    clip = "net (float[N, 1] x) => (float[N, 1] y) { y = Clip(x, zero, one) }"
    scalar = model(clip, {"zero": np.float32(0), "one": np.float32(1)})
    with pytest.raises(DataError, match="two classes or more"):
        SpikingSession(convert(scalar).model).run(
            np.ones((2, 1), np.float32), 4, early_exit=EarlyExit()
        )


@pytest.mark.parametrize(
    "tail",
    [
        "y = Softmax<axis = 1>(z)",
        "p = Softmax<axis = 1>(z) i = Identity(p) y = Reshape(i, shape)",
    ],
)
def test_a_softmax_is_not_taken_twice(tail):
    rng = np.random.default_rng(3)
    weights = {
        "w": rng.normal(size=(4, 6)).astype(np.float32),
        "v": 4 * rng.normal(size=(6, 5)).astype(np.float32),
        "zero": np.float32(0),
        "one": np.float32(1),
        "shape": np.array([0, 5]),
    }
    text = (
        "net (float[N, 4] x) => (float[N, 5] y) "
        "{ c = MatMul(x, w) s = Clip(c, zero, one) z = MatMul(s, v) TAIL }"
    )
    plain, softmax = (
        SpikingSession(convert(model(text.replace("TAIL", end), weights)).model, threads=1)
        for end in ("y = Identity(z)", tail)
    )
    x = rng.normal(size=(30, 4)).astype(np.float32)
    by_logits = plain.run(x, 40, early_exit=EarlyExit(0.8)).sample_timesteps
    result = softmax.run(x, 40, early_exit=EarlyExit(0.8))
    np.testing.assert_array_equal(result.sample_timesteps, by_logits)
    assert 12 < by_logits.mean() < 40
    np.testing.assert_allclose(result.output.sum(1), 1, rtol=1e-5)
