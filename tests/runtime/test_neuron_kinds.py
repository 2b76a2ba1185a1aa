"""Neurons of each kind against their equations, neuron by neuron, without tolerance."""

import json

import numpy as np
import onnx
import pytest
import stock
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import KINDS, Kind, Network, mean, model_of, softmax
from onnx_text import graph, model

from onnx2snn import DataError, SpikingSession, convert, evaluate, from_arrays
from onnx2snn.cli import main
from onnx2snn.graph_passes import (
    ModelError,
    activations_to_neurons,
    change_neurons,
    set_initial_potential,
    to_model,
)
from onnx2snn.graph_passes.graph.neurons import COUNTING
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.measuring.synapses import SynapseCounter, macs_by_place
from onnx2snn.runtime.plans.plan import build_plan

T = 8
EVERY = [
    *(Kind(op) for op in KINDS),
    Kind("SignedIF", negative=0.0),
    Kind("SignedIF", negative=-0.5),
    Kind("BurstIF", max_spikes=1),
    Kind("SignedBurstIF", max_spikes=1),
    Kind("SignedBurstIF", max_spikes=2),
    Kind("ResidualIF", delay=1),
    Kind("OffsetIF", delay=T),
]
IDS = [f"{kind.op} {kind.negative:g} {kind.max_spikes} {kind.delay}" for kind in EVERY]
equal = np.testing.assert_array_equal


def states_of(layers, kind):
    found = {f"v/{name}": layer.v for name, layer in layers.items()}
    if kind.op in COUNTING:
        found |= {f"m/{name}": layer.m for name, layer in layers.items()}
    return found


# The file, step by step in stock ONNX Runtime ------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("kind", EVERY, ids=IDS)
def test_the_file_is_its_equations(kind, dtype):
    for seed in range(3):
        network = Network(seed, dtype)
        x = network.images(3)
        loop = stock.steps(model_of(network, kind), {"x": x}, T)
        for (_, y, _, layers), (outputs, states) in zip(
            network.steps(kind, x, T), loop, strict=True
        ):
            assert outputs["y"].dtype == dtype
            equal(outputs["y"], y.astype(dtype))
            for name, value in states_of(layers, kind).items():
                if dtype == "float16" and kind.op == "ResidualIF":
                    # What silences a neuron has no room for its current.
                    silent = value < -1000
                    assert np.all(states[name][silent] < -1000)
                    equal(states[name][~silent], value[~silent])
                else:
                    equal(states[name], value)


@pytest.mark.parametrize("op", KINDS)
def test_files_load_as_they_were_written(op):
    model = model_of(Network(0), Kind(op, read_out_delay=2), coding=(1.0, 4))
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True)
    plan = build_plan(onnx.ModelProto.FromString(model.SerializeToString()))
    assert [neuron.name for neuron in plan.neurons] == ["s", "q"]


# The session ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("kind", EVERY, ids=IDS)
def test_the_session_is_the_equations(kind, dtype):
    for seed in range(3):
        network = Network(seed, dtype, v_init=[0.5, 0.0, 1.0][seed])
        x = network.images(4)
        session = SpikingSession(model_of(network, kind), threads=1)
        result = session.run(x, T, readout=[1, 2, 4])
        values = []
        for t, y, _, layers in network.steps(kind, x, T):
            values.append(y)
            if t not in result.readouts:
                continue
            read = result.readouts[t]
            equal(read.output, (sum(values) / t).astype(dtype))
            for name, layer in layers.items():
                equal(read.spike_counts[name], layer.events)
                equal(read.potential_sums[name], layer.net * layer.theta)
            assert read.firing_rates["s"] == layers["s"].events.mean() / t
        if (dtype, kind.op) != ("float16", "ResidualIF"):
            state = session.state
            for name, value in states_of(layers, kind).items():
                equal(state[name], value)


@pytest.mark.parametrize("kind", EVERY, ids=IDS)
def test_steps_add_up_and_go_on_from_a_state(kind):
    network = Network(1)
    x = network.images(2)
    model = model_of(network, kind)
    session = SpikingSession(model, threads=1)
    wanted = [y for _, y, _, _ in network.steps(kind, x, T)]
    total = session.run(x, T).output
    session.reset()
    steps, states = [], []
    for _ in range(T):
        states.append(session.state)
        steps.append(session.step(x))
    equal(steps, wanted)
    equal(sum(steps) / np.float32(T), total)
    for t in (1, 3, T - 1):
        fresh = SpikingSession(model, threads=1)
        fresh.state = states[t]
        equal([fresh.step(x) for _ in range(t, T)], wanted[t:])
        session.state = states[t]
        equal(session.step(x), wanted[t])
    memory = {name for name in session.state if name.startswith("m/")}
    assert memory == ({"m/s", "m/q"} if kind.op in COUNTING else set())


def test_spike_counts_of_signed_neurons_follow_from_their_memory_alone():
    """A read-out keeps no copy of potentials that nothing is worked out from."""
    snn = model_of(Network(1), Kind("SignedIF", negative=0.0))
    session = SpikingSession(snn, threads=1)
    # The read-out sums what q emits at each time-step.
    assert {n for n in session._progress.sums.kept if n[:2] in ("v/", "m/")} == {"m/s"}
    assert {"v/s", "v/q", "m/q"} < set(session.state)


def test_the_memory_of_signed_neurons_is_a_state_like_any():
    network = Network(1)
    session = SpikingSession(model_of(network, Kind("SignedIF", negative=0.0)), threads=1)
    session.step(network.images(2))
    with pytest.raises(DataError, match="'m/s' has shape"):
        session.state = {"m/s": np.zeros((3, 2, 4, 4), np.float32)}
    session.reset()
    with pytest.raises(DataError, match="'m/s' has shape"):
        session.state = {"m/s": np.zeros((2, 5, 4, 4), np.float32)}


def test_signed_spikes_count_each_while_potentials_are_net():
    """A current of 1, 1, -3, -3: two spikes, of which both are taken back."""
    kind = Kind("SignedIF")
    g = graph(
        "g (float[N, 1] x) => (float[N, 1] y) { y = Clip(x, zero, one) }",
        {"zero": np.float32(0), "one": np.float32(1)},
    )
    activations_to_neurons(g)
    set_initial_potential(g, 0.5)
    change_neurons(g, kind.op)
    x = np.float32([1, 1, -3, -3, -3]).reshape(-1, 1, 1)
    result = SpikingSession(to_model(g)).run(x, 5, readout=[2, 3, 4])
    counts = [result.readouts[t].spike_counts["y"].item() for t in (2, 3, 4, 5)]
    net = [result.readouts[t].potential_sums["y"].item() for t in (2, 3, 4, 5)]
    assert (counts, net) == ([2, 3, 4, 4], [2, 1, 0, 0])
    assert result.firing_rate == 4 / 5


TIES = [
    # kind, v(0), currents, spikes, last potential; V_th is 2.
    (Kind("IF"), 1, [1, 0, 0.5], [0, 0, 1], 0.5),
    (Kind("ResetToZeroIF"), 1, [1, 0, 0.5, 2], [0, 0, 1, 0], 2),
    (Kind("SignedIF"), 0, [3, -3, -0.5, -9], [1, 0, -1, 0], -9.5),
    (Kind("SignedIF", negative=0.0), 0, [3, -1, -1, 0], [1, 0, -1, 0], 1),
    (Kind("BurstIF"), 0, [2, 2, 4.5, 9], [0, 1, 3, 3], 3.5),
    (Kind("BurstIF", max_spikes=1), 0, [8, 0], [1, 1], 4),
    (Kind("SignedBurstIF", max_spikes=2), 0, [2, 9, -9, 2, -7], [0, 2, -2, 1, -1], -3),
    (Kind("SignedBurstIF", max_spikes=2), 1, [7, -1, -2, 0, -3], [2, 1, -1, 0, -2], 2),
    (Kind("ResidualIF"), 1, [1, -2, 9], [0, 0, 0], -59991),
    (Kind("ResidualIF"), 1, [1, -1.5, 3], [0, 0, 1], 2),
    (Kind("OffsetIF"), 1, [1, 0, 0], [0, 0, 1], 1),
    (Kind("OffsetIF"), 1, [1, -2, 0], [0, 0, 0], 1),
    (Kind("OffsetIF"), 1, [1, -2.5, 0], [0, 0, 0], -1),
]


@pytest.mark.parametrize(("kind", "v_init", "currents", "spikes", "last"), TIES)
def test_ties(kind, v_init, currents, spikes, last):
    """By hand: u equal to V_th, v_negative or a multiple of V_th, v(delay) to 0 and V_th."""
    g = graph(
        "g (float[N, 1] x) => (float[N, 1] y) { y = Clip(x, zero, two) }",
        {"zero": np.float32(0), "two": np.float32(2)},
    )
    activations_to_neurons(g)
    set_initial_potential(g, v_init / 2)
    change_neurons(g, kind.op, negative=kind.negative, max_spikes=kind.max_spikes, delay=kind.delay)
    x = [np.float32([[c]]) for c in currents]
    model = to_model(g)
    loop = list(stock.steps(model, {"x": x}, len(x)))
    assert [outputs["y"].item() for outputs, _ in loop] == [2 * s for s in spikes]
    assert loop[-1][1]["v/y"].item() == last
    session = SpikingSession(model)
    assert [session.step(now).item() for now in x] == [2 * s for s in spikes]
    assert session.state["v/y"].item() == last


# Read-outs with a delay -----------------------------------------------------------------


@pytest.mark.parametrize("op", KINDS)
@pytest.mark.parametrize("delay", [1, 2, 5, 50])
def test_a_delay_of_several_outputs(op, delay):
    kind = Kind(op, delay=delay, read_out_delay=delay)
    network = Network(3)
    x = network.images(3)
    model = model_of(network, kind, read_out="several")
    session = SpikingSession(model, threads=1)
    assert session.outputs == ("y", "p", "q")
    result = session.run(x, T, readout=list(range(1, T)))
    session.reset()
    ys, qs = [], []
    loop = stock.steps(model, {"x": x}, T)
    for (t, y, q, _), (outputs, _) in zip(network.steps(kind, x, T), loop, strict=True):
        ys.append(y)
        qs.append(q)
        stepped = session.step(x)
        for found in (outputs, result.readouts[t].values, stepped):
            equal(found["y"], mean(ys, delay).astype(np.float32))
            equal(found["q"], mean(qs, delay).astype(np.float32))
            np.testing.assert_allclose(found["p"], softmax(mean(ys, delay)), rtol=1e-6)
        equal(result.readouts[t].values["p"], outputs["p"])
        equal(stepped["p"], outputs["p"])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_delay_in_other_types(dtype):
    kind = Kind("OffsetIF", delay=2, read_out_delay=2)
    network = Network(5, dtype)
    x = network.images(3)
    model = model_of(network, kind, read_out="several")
    result = SpikingSession(model, threads=1).run(x, 10, readout=[1, 2, 3, 4, 6])
    ys = []
    loop = stock.steps(model, {"x": x}, 10)
    for (t, y, _, _), (outputs, _) in zip(network.steps(kind, x, 10), loop, strict=True):
        ys.append(y)
        if t in result.readouts:
            for found in (outputs["y"], result.readouts[t].output):
                assert found.dtype == dtype
                equal(found, mean(ys, 2).astype(dtype))
            equal(result.readouts[t].values["p"], outputs["p"])


def test_a_delay_in_the_longest_sums():
    """Sums move to float64 after 4096 time-steps; the delay may be at that very moment."""
    network = Network(4)
    x = network.images(1)
    for delay in (10, 4096, 4100):
        kind = Kind("IF", read_out_delay=delay)
        result = SpikingSession(model_of(network, kind), threads=1).run(x, 4128, [4096, 4097])
        plain = SpikingSession(model_of(network, Kind("IF")), threads=1)
        first = plain.run(x, 4128, [4096, 4097, delay])
        for t in (4096, 4097, 4128):
            late = 0 if t <= delay else delay
            totals = {n: first.readouts[n].output * np.float64(n) for n in (t, delay)}
            wanted = (totals[t] - (totals[delay] if late else 0)) / (t - late)
            np.testing.assert_allclose(result.outputs[t], wanted, rtol=1e-3, atol=1e-3)


def test_delays_that_differ_or_are_no_steps_are_refused():
    def with_delays(*delays):
        model = model_of(Network(0), Kind("IF", read_out_delay=2), read_out="several")
        nodes = [node for node in model.graph.node if node.op_type == "DelayedMean"]
        for node, delay in zip(nodes, delays, strict=False):
            (attribute,) = node.attribute
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.asarray(delay, np.float32)))
        return model

    with pytest.raises(ModelError, match="begin at different times"):
        SpikingSession(with_delays(3))
    for bad in (-1, 1.5):
        with pytest.raises(ModelError, match="whole time-steps"):
            SpikingSession(with_delays(bad, bad, bad))
    with pytest.raises(ModelError, match="delay must be one number"):
        SpikingSession(with_delays([2, 2], [2, 2], [2, 2]))


# Coded inputs ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("op", KINDS)
def test_switched_inputs(op, dtype):
    kind, coding = Kind(op), (1.0, T)
    network = Network(2, dtype)
    x = network.images(3)
    assert (x < 0).any()
    assert (x == 0).any()
    model = model_of(network, kind, coding=coding)
    session = SpikingSession(model, threads=1)
    result = session.run(x, T)
    session.reset()
    values, layers = [], {}
    loop = stock.steps(model, {"x": x}, T)
    for (_, y, _, layers), (outputs, _) in zip(  # noqa: B007
        network.steps(kind, x, T, coding), loop, strict=True
    ):
        values.append(y)
        equal(outputs["y"], y.astype(dtype))
        equal(session.step(x), y.astype(dtype))
    equal(result.output, (sum(values) / T).astype(dtype))
    for name, layer in layers.items():
        equal(result.spike_counts[name], layer.events)
    equal(session.state["v/x/coded"], np.trunc(T * x.astype(float)))


# Any of them ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=st.builds(
        Kind,
        op=st.sampled_from(KINDS),
        negative=st.sampled_from([0.0, -0.25, -0.5, -1.0, -2.0]),
        max_spikes=st.integers(1, 4),
        delay=st.integers(0, 9),
        read_out_delay=st.sampled_from([0, 0, 1, 3, 20]),
    ),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["float32", "float32", "float64"]),
    per_channel=st.booleans(),
    pool=st.booleans(),
    v_init=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    timesteps=st.integers(1, 12),
    samples=st.integers(1, 3),
    length=st.sampled_from([0, 4, 12]),
)
def test_any_kind(kind, seed, dtype, per_channel, pool, v_init, timesteps, samples, length):
    network = Network(seed, dtype, per_channel, pool, v_init)
    x = network.images(samples)
    coding = (1.0, length) if length else None
    model = model_of(network, kind, coding=coding)
    result = SpikingSession(model, threads=1).run(x, timesteps)
    ys = []
    loop = stock.steps(model, {"x": x}, timesteps)
    for (_, y, _, layers), (outputs, states) in zip(
        network.steps(kind, x, timesteps, coding), loop, strict=True
    ):
        ys.append(y)
        now = mean(ys, kind.read_out_delay) if kind.read_out_delay else y
        equal(outputs["y"], now.astype(dtype))
        for name, value in states_of(layers, kind).items():
            equal(states[name], value)
    equal(result.output, mean(ys, kind.read_out_delay).astype(dtype))
    for name, layer in layers.items():
        equal(result.spike_counts[name], layer.events)
        equal(result.readouts[timesteps].potential_sums[name], layer.net * layer.theta)


# What is reported of them ------------------------------------------------------------------


def two_layers(kind, coding=None):
    network = Network(7, pool=False)
    return network, model_of(network, kind, coding=coding)


@pytest.mark.parametrize("kind", EVERY, ids=IDS)
@pytest.mark.parametrize("coding", [None, (1.0, T)])
def test_evaluation_and_synapses(kind, coding):
    network, model = two_layers(kind, coding)
    x = network.images(6)
    *_, (_, _, _, layers) = network.steps(kind, x, T, coding)
    report = evaluate(model, from_arrays(x, np.arange(6) % 3), [4, T], batch_size=3)
    last = report["snn"][-1]
    # A pixel of "s" feeds 3 channels, a neuron of "q" the classes of non-zero weight.
    fan_out = (network.wy != 0).sum(1).reshape(3, 2, 2)
    events = {name: layer.events for name, layer in layers.items()}
    sops = 3 * events["s"].sum() + (events["q"] * fan_out).sum()
    assert last["sops"] * 6 == pytest.approx(sops)
    neurons = sum(e.size for e in events.values())
    assert last["firing_rate"] == pytest.approx(sum(e.sum() for e in events.values()) / neurons / T)
    sample = {name: value[:1] for name, value in events.items()}
    parts, shapes = detach(model), {"x": (2, 2, 2)}
    counted = SynapseCounter(parts, shapes).operations(sample, 1)
    assert counted == 3 * sample["s"].sum() + (sample["q"] * fan_out).sum()
    assert report["macs"] == sum(macs_by_place(parts, shapes)) == 3 * 2 * 4 + fan_out.sum()


@pytest.mark.parametrize("op", KINDS)
def test_inspection(op, tmp_path):
    kind = Kind(op, read_out_delay=2)
    onnx.save(two_layers(kind, (1.0, T))[1], tmp_path / "snn.onnx")
    found = CliRunner().invoke(main, ["inspect", str(tmp_path / "snn.onnx"), "--json"])
    assert found.exit_code == 0, found.output
    content = json.loads(found.stdout)
    assert [neuron["name"] for neuron in content["neurons"]] == ["s", "q"]
    assert content["outputs"] == ["y"]


def test_bursts_of_very_long_runs_are_counted():
    """Each time-step brings as many spikes as one may."""
    text = "net (float[N, 2] x) => (float[N, 2] y) { a = Relu(x) y = Mul(a, w) }"
    ann = model(text, {"w": np.ones(2, np.float32)})
    largest = np.full((1, 2), 0.76806647, np.float32)
    snn = convert(ann, calibration=from_arrays(largest), recipe="burst").model
    result = SpikingSession(snn, threads=1).run(50 * largest, 4096)
    equal(result.spike_counts["a"], 5 * 4096)
