"""The session against the literal reference, bit for bit."""

import dyadic
import numpy as np
import onnx
import pytest
import stock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx2snn import SpikingSession, convert

SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def session_of(network, **options):
    return SpikingSession(convert(dyadic.to_onnx(network), **options).model, threads=1)


def check(result, total, spikes, timesteps):
    np.testing.assert_array_equal(result.output, (total / timesteps).astype(np.float32))
    assert set(result.spike_counts) == set(spikes)
    for name, counts in spikes.items():
        np.testing.assert_array_equal(result.spike_counts[name], counts)


@SETTINGS
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 17),
    timesteps=st.integers(1, 64),
    v_init=st.sampled_from([0.5, 0.0, 0.25, 1.0]),
)
def test_run_equals_the_equations(seed, samples, timesteps, v_init):
    network = dyadic.finish(seed)
    x = dyadic.images(network, samples)
    result = session_of(network, v_init=v_init).run(x, timesteps)
    check(result, *dyadic.simulate(network, x, timesteps, v_init), timesteps)


@SETTINGS
@given(seed=st.integers(0, 10**6), timesteps=st.integers(1, 20))
def test_input_that_varies_in_time(seed, timesteps):
    network = dyadic.finish(seed)
    x = np.stack([dyadic.images(network, 3, seed=t) for t in range(timesteps)])
    result = session_of(network).run(x, timesteps)
    check(result, *dyadic.simulate(network, x, timesteps, varies=True), timesteps)


@pytest.mark.parametrize("seed", range(5))
def test_readouts_at_further_times_equal_runs_of_that_length(seed):
    network = dyadic.finish(seed)
    x = dyadic.images(network, 4)
    session = session_of(network)
    result = session.run(x, 12, readout=[1, 5, 12])
    assert sorted(result.outputs) == [1, 5, 12]
    for t in (1, 5, 12):
        check(result.readouts[t], *dyadic.simulate(network, x, t), t)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_remains_of_the_run_before(seed):
    network = dyadic.finish(seed)
    session = session_of(network)
    for samples, timesteps in ((3, 7), (1, 4), (17, 5), (3, 7)):
        x = dyadic.images(network, samples, seed=samples)
        check(session.run(x, timesteps), *dyadic.simulate(network, x, timesteps), timesteps)


@pytest.mark.parametrize("seed", range(5))
def test_steps_add_up_to_a_run(seed):
    network = dyadic.finish(seed)
    session, x = session_of(network), dyadic.images(network, 2)
    total, _ = dyadic.simulate(network, x, 9)
    np.testing.assert_array_equal(sum(session.step(x) for _ in range(9)), total)
    session.reset()
    np.testing.assert_array_equal(sum(session.step(x) for _ in range(9)), total)


@pytest.mark.parametrize("seed", range(5))
def test_state_can_be_taken_and_given_back(seed):
    network = dyadic.finish(seed)
    session, x = session_of(network), dyadic.images(network, 2)
    for _ in range(4):
        session.step(x)
    state = session.state
    following = [session.step(x) for _ in range(3)]
    session.state = state
    for output in following:
        np.testing.assert_array_equal(session.step(x), output)
    fresh = session_of(network)
    fresh.state = state
    np.testing.assert_array_equal(fresh.step(x), following[0])


@pytest.mark.parametrize("seed", range(8))
def test_stock_onnx_runtime_in_a_plain_loop(seed):
    network = dyadic.finish(seed)
    model = convert(dyadic.to_onnx(network)).model
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True)
    x = dyadic.images(network, 3)
    steps = list(stock.steps(model, {"input": x}, 16))
    total = sum(value for outputs, _ in steps for value in outputs.values())
    np.testing.assert_array_equal(total, dyadic.simulate(network, x, 16)[0])
    session = SpikingSession(model)
    np.testing.assert_array_equal(session.run(x, 16).output, total / np.float32(16))
    for name, value in session.state.items():
        np.testing.assert_array_equal(value, steps[-1][1][name])


def test_potential_is_conserved():
    """Equation 6: inputs + v(0) - v(T) = V_th times the number of spikes."""
    network = dyadic.Network([], (2, 4, 4))
    builder = dyadic.Builder(0)
    builder.clip("input", 2)
    network.layers = builder.layers
    session = session_of(network)
    x = dyadic.images(network, 5)
    result = session.run(x, 13)
    (neuron,) = session.neurons
    (v,) = session.state.values()
    fired = result.spike_counts[neuron.name] * neuron.threshold
    np.testing.assert_array_equal(13 * x + neuron.v_init - v, fired)
    np.testing.assert_array_equal(result.output, (fired / 13).astype(np.float32))


def test_long_runs_count_every_spike():
    network = dyadic.Network([dyadic.Layer("clip", "c", ["input"], {"theta": np.array(0.5)})], (1,))
    x = np.array([[0.375], [1.0]], np.float32)
    result = session_of(network, v_init=0.0).run(x, 9001)
    total, spikes = dyadic.simulate(network, x, 9001, v_init=0.0)
    check(result, total, spikes, 9001)


def test_thresholds_that_are_no_powers_of_two_are_counted_exactly():
    theta = np.float32(0.7071)
    layer = dyadic.Layer("clip", "c", ["input"], {"theta": np.array(theta)})
    session = session_of(dyadic.Network([layer], (1,)), v_init=1.0)
    assert session.run(np.array([[9.0]], np.float32), 6000).spike_counts["c"].item() == 6000
