"""The states that a session hands out and takes: those of the file, the read-out's among them."""

from unittest.mock import Mock

import numpy as np
import pytest
import stock
from kinds import KINDS, Kind, Network, model_of
from one_neuron import computed_sizes

from onnx2snn import DataError, SpikingSession, convert

STEPS = 9


def after(model, x):
    """Outputs and states of stock ONNX Runtime after each time-step."""
    return list(stock.steps(model, {"x": x}, STEPS))


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("op", KINDS)
def test_states_are_those_of_the_file_and_can_be_given_to_another_session(op, delay, plan):
    network = Network(3)
    model = model_of(network, Kind(op, read_out_delay=delay), read_out="several")
    x = network.images(2)
    steps = after(model, x)
    session = SpikingSession(model, plan=plan)
    for done in range(1, STEPS):
        session.step(x)
        _, states = steps[done - 1]
        assert session.state.keys() == states.keys()
        for name, value in session.state.items():
            np.testing.assert_array_equal(value, states[name], err_msg=f"{name} after {done}")
        other = SpikingSession(model, plan=plan)
        for given in (session.state, states):
            other.state = given
            for wanted, _ in steps[done:]:
                for name, value in other.step(x).items():
                    np.testing.assert_allclose(value, wanted[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("delay", [0, 3, 6])
@pytest.mark.parametrize("done", [2, 3, 4, 8])
def test_a_session_goes_on_from_where_a_run_ended(delay, done):
    network = Network(4)
    model = model_of(network, Kind("IF", read_out_delay=delay), read_out="several")
    x = network.images(2)
    steps = after(model, x)
    first, second = SpikingSession(model), SpikingSession(model, plan="step")
    first.run(x, done)
    second.state = first.state
    for wanted, states in steps[done:]:
        for session in (first, second):
            for name, value in session.step(x).items():
                np.testing.assert_allclose(value, wanted[name], rtol=1e-6, err_msg=name)
            for name, value in session.state.items():
                np.testing.assert_array_equal(value, states[name])


def test_an_earlier_state_of_a_session():
    network = Network(5)
    model = model_of(network, Kind("SignedIF"), read_out="several")
    x = network.images(2)
    session = SpikingSession(model)
    session.step(x)
    early = session.state
    wanted = [session.step(x)["p"] for _ in range(3)]
    session.state = early
    np.testing.assert_array_equal([session.step(x)["p"] for _ in range(3)], wanted)
    # Nothing of it remains in a run.
    np.testing.assert_array_equal(session.run(x, 4).values["p"], wanted[-1])
    session.reset()
    assert not session.state["v/clock"]


def test_a_part_of_a_state_leaves_the_rest():
    network = Network(5)
    model = model_of(network, Kind("IF"), read_out="several")
    x = network.images(2)
    one, other = SpikingSession(model), SpikingSession(model)
    for session in (one, other):
        session.step(x)
    other.state = {name: value for name, value in one.state.items() if name == "v/s"}
    np.testing.assert_array_equal(one.step(x)["p"], other.step(x)["p"])
    (total,) = (name for name in one.state if name.endswith("mean"))
    other.state = {total: np.zeros_like(one.state[total])}
    assert np.all(other.state[total] == 0)
    assert other.state["v/clock"] == 2
    np.testing.assert_allclose(other.step(x)["y"], one.step(x)["y"])
    np.testing.assert_allclose(other.state[total], one.state[total] - _summed(model, x, 2, total))


def summing_up(monkeypatch):
    """A session whose sums hold 4 time-steps, its network and two images."""
    monkeypatch.setattr("onnx2snn.runtime.sums.MOST_STEPS_CARRIED", 4)
    network = Network(3)
    model = model_of(network, Kind("IF"), read_out="several")
    return SpikingSession(model), model, network.images(2)


def test_more_steps_than_sums_hold(monkeypatch):
    """The read-out's averages are of all of them."""
    session, model, x = summing_up(monkeypatch)
    session.run(x, 3)
    for wanted, states in after(model, x)[3:]:
        for name, value in session.step(x).items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-6, err_msg=name)
        for name, value in session.state.items():
            np.testing.assert_array_equal(value, states[name], err_msg=name)


def test_a_device_without_memory_for_new_sums_counts_nothing_twice(monkeypatch):
    session, model, x = summing_up(monkeypatch)
    for _ in range(4):
        session.step(x)
    with monkeypatch.context() as patched:
        patched.setattr(session._progress.states, "put", Mock(side_effect=DataError("no memory")))
        with pytest.raises(DataError):
            session.step(x)
    wanted, _ = after(model, x)[4]
    for name, value in session.step(x).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, err_msg=name)


def _summed(model, x, steps, name):
    return list(stock.steps(model, {"x": x}, steps))[-1][1][name]


@pytest.mark.parametrize("time", [-1.0, 0.5, np.nan, 2.0**24, 1e9, "3", None, 1j, True])
@pytest.mark.parametrize("op", ["IF", "OffsetIF"])
def test_times_that_are_none(time, op):
    """Also where neurons count them."""
    network = Network(5)
    session = SpikingSession(model_of(network, Kind(op), read_out="several"))
    session.step(network.images(2))
    before = session.state
    with pytest.raises(DataError, match="'v/clock'"):
        session.state = {"v/clock": np.array([time])}
    for name, value in session.state.items():
        np.testing.assert_array_equal(value, before[name])
    for three in (3, np.array([3]), np.array([[3.0]])):
        session.state = {"v/clock": three}
        assert session.state["v/clock"].tolist() == [3.0]
    for ends in (0, 2**24 - 1):
        session.state = {"v/clock": ends}
        assert session.state["v/clock"].tolist() == [ends]


def test_a_sum_may_be_infinite_and_a_potential_may_not():
    """As that of a mask is."""
    network = Network(5)
    session = SpikingSession(model_of(network, Kind("IF"), read_out="several"))
    session.step(network.images(2))
    state = session.state
    (total,) = (name for name in state if name.endswith("mean"))
    session.state = {total: np.full_like(state[total], -np.inf)}
    assert np.all(session.state[total] == -np.inf)
    with pytest.raises(DataError, match="'v/s' must hold finite numbers"):
        session.state = {"v/s": np.full_like(state["v/s"], np.inf)}


@pytest.mark.parametrize("value", [np.nan, "text", 1j])
def test_sums_that_are_no_numbers(value):
    network = Network(5)
    session = SpikingSession(model_of(network, Kind("IF"), read_out="several"))
    session.step(network.images(2))
    (total,) = (name for name in session.state if name.endswith("mean"))
    with pytest.raises(DataError, match="must hold finite numbers"):
        session.state = {total: np.full((2, 3), value)}
    with pytest.raises(DataError, match="and not 2 axes"):
        session.state = {total: np.zeros((2, 3, 1), np.float32)}


def test_sums_of_halves_are_more_than_halves_hold():
    network = Network(6, dtype="float16")
    model = model_of(network, Kind("IF"), read_out="several")
    x = network.images(2)
    first = SpikingSession(model)
    first.run(x, 3000)
    (total,) = (name for name in first.state if name.endswith("mean"))
    assert first.state[total].dtype == np.float32
    np.testing.assert_allclose(first.state[total], _summed(model, x, 3000, total), rtol=1e-3)
    second = SpikingSession(model)
    second.state = first.state
    np.testing.assert_allclose(second.step(x)["p"], first.step(x)["p"], rtol=1e-2)


def test_sums_of_other_samples():
    network = Network(5)
    session = SpikingSession(model_of(network, Kind("IF"), read_out="several"))
    session.step(network.images(3))
    (total,) = (name for name in session.state if name.endswith("mean"))
    given = {total: session.state[total], "v/clock": np.float32([1])}
    session.reset()
    session.state = given
    with pytest.raises(DataError, match=r"has shape \[3, 3\], and what is averaged now \[2, 3\]"):
        session.step(network.images(2))
    # It is at v(0) again.
    np.testing.assert_array_equal(session.step(network.images(2))["p"].shape, (2, 3))
    assert session.state["v/clock"] == 1


def test_a_state_of_sizes_that_are_computed_can_be_given_back():
    snn = convert(computed_sizes()).model
    x = np.random.default_rng(0).random((2, 2, 4, 4), np.float32)
    session = SpikingSession(snn, threads=1)
    for _ in range(3):
        session.step(x)
    state, wanted = session.state, session.step(x)
    for other in (SpikingSession(snn, threads=1), session):
        other.reset()
        other.state = state
        np.testing.assert_array_equal(other.step(x), wanted)
