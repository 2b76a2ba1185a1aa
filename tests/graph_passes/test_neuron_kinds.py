import numpy as np
import onnx
import pytest
from onnx_text import changes_once, graph, ops, whole

from onnx2snn.graph_passes import (
    DataError,
    ModelError,
    PassError,
    activations_to_neurons,
    average_before_read_out,
    change_neurons,
    initial_potential_of,
    neuron_nodes,
    run_passes,
    set_initial_potential,
    stateful_nodes,
    threshold_of,
    to_graph,
    to_model,
)
from onnx2snn.graph_passes.graph.neurons import (
    COUNTING,
    NEURONS,
    attribute_names_of,
    starts_of,
    states_read,
)

SIGNATURE = "g (float[N, 2, 3] x) => (float[N, 2, 3] y)"
BODY = "r = Relu(x) a = Min(r, t) n = Neg(a) y = Clip(n, zero, four)"
WEIGHTS = {"zero": np.float32(0), "four": np.float32(4), "t": np.float32([[1], [2]])}
OTHERS = sorted(NEURONS - {"IF"})


def spiking(body=BODY, signature=SIGNATURE, dtype=np.float32, v_init=0.5):
    weights = {name: value.astype(dtype) for name, value in WEIGHTS.items()}
    g = graph(f"{signature} {{ {body} }}", weights)
    activations_to_neurons(g)
    set_initial_potential(g, v_init)
    return g


@pytest.mark.parametrize("op", OTHERS)
def test_structure(op):
    g = spiking()
    changes_once(lambda g: change_neurons(g, op), g)
    whole(g)
    timed = op in ("ResidualIF", "OffsetIF")
    assert ops(g) == [*(["Clock"] if timed else []), op, "Neg", op]
    letters = ["v", "m"] if op in COUNTING else ["v"]
    for node in neuron_nodes(g):
        assert set(node.attrs) == attribute_names_of(op)
        states = [f"{letter}/{node.name}" for letter in letters]
        assert [t.name for t in states_read(node)] == states
        assert [t.name for t in node.outputs[1:]] == [s.replace("/", "_next/") for s in states]
        assert [t.name for t in node.inputs[1 : -len(states)]] == (["t"] if timed else [])
        assert len(states_read(node)[0].shape) == 3
    names = [tensor.name for tensor in (*g.inputs, *g.outputs)]
    assert len(names) == len(set(names))
    assert (g.inputs[0].name, g.outputs[0].name) == ("x", "y")
    assert len(g.inputs) == len(g.outputs) == 1 + 2 * len(letters) + timed


@pytest.mark.parametrize("op", OTHERS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_thresholds_and_potentials_stay(op, dtype):
    kind = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    g = spiking(signature=SIGNATURE.replace("float", kind), dtype=dtype, v_init=0.25)
    change_neurons(g, op, negative=-0.5, max_spikes=3, delay=7)
    whole(g)
    for node, threshold in zip(neuron_nodes(g), (WEIGHTS["t"], WEIGHTS["four"]), strict=True):
        np.testing.assert_array_equal(threshold_of(node), threshold)
        np.testing.assert_array_equal(initial_potential_of(node), threshold / 4)
        settings = {"v_negative": -threshold / 2, "max_spikes": 3, "delay": 7}
        for name in set(node.attrs) & set(settings):
            np.testing.assert_array_equal(node.attrs[name].values, settings[name])
        assert threshold_of(node).dtype == dtype
        first, *others = starts_of(node)
        np.testing.assert_array_equal(first[0], np.broadcast_to(threshold / 4, first[0].shape))
        assert all(start.dtype == dtype and not start.any() for start in others)


@pytest.mark.parametrize("op", ["SignedIF", "SignedBurstIF", "BurstIF", "ResidualIF", "OffsetIF"])
def test_settings_can_change_and_the_kind_cannot(op):
    g = spiking()
    change_neurons(g, op)
    changes_once(lambda g: change_neurons(g, op, negative=0.0, max_spikes=2, delay=5), g)
    before = whole(g)
    for other in {*NEURONS} - {op}:
        with pytest.raises(ModelError, match=f"{op} 'a' is no IF that could become a {other}"):
            change_neurons(g, other)
    assert to_model(g) == before


def test_some_neurons_of_a_third_kind_leave_all_as_they_were():
    g = spiking()
    change_neurons(g, "BurstIF")
    first, second = neuron_nodes(g)
    first.op = "IF"
    del first.attrs["max_spikes"]
    before = to_model(g)
    with pytest.raises(ModelError, match="BurstIF 'y' is no IF"):
        change_neurons(g, "SignedIF")
    assert to_model(g) == before
    changes_once(lambda g: change_neurons(g, "BurstIF"), g)
    assert second.op == first.op == "BurstIF"


def test_unknown_kinds_and_delays_are_refused():
    g = spiking()
    before = to_model(g)
    with pytest.raises(ModelError, match="no neuron 'LIF', only BurstIF, IF, OffsetIF"):
        change_neurons(g, "LIF")
    for op in ("RunningMean", "Clock", ""):
        with pytest.raises(ModelError, match="there is no neuron"):
            change_neurons(g, op)
    for delay in (-1, 0.5, True, 2**24 + 1, 10**400):
        with pytest.raises(DataError, match="delay must be a whole number from 0 to 16777216"):
            change_neurons(g, "OffsetIF", delay=delay)
    for most in (0, -1, 1.5, True, 128):
        with pytest.raises(DataError, match="max_spikes must be a whole number from 1 to 127"):
            change_neurons(g, "BurstIF", max_spikes=most)
    for negative in (2.0, np.nan, -np.inf, None):
        with pytest.raises(DataError, match="taken back below 0 or less"):
            change_neurons(g, "SignedIF", negative=negative)
    assert to_model(g) == before


def test_integrate_and_fire_stays():
    g = spiking()
    assert not change_neurons(g, "IF")
    assert not change_neurons(graph(f"{SIGNATURE} {{ y = Neg(x) }}"), "SignedIF")


@pytest.mark.parametrize("op", ["ResidualIF", "OffsetIF"])
def test_one_clock_for_all(op):
    g = spiking("a = Clip(x, zero, four) y = Softmax(a)")
    average_before_read_out(g)
    changes_once(lambda g: change_neurons(g, op), g)
    whole(g)
    assert ops(g).count("Clock") == 1
    (clock,) = [node for node in stateful_nodes(g) if node.op == "Clock"]
    assert {reader.op for reader in clock.outputs[0].outputs} == {op, "RunningMean"}


def test_a_node_of_the_clocks_name():
    g = graph(f"{SIGNATURE} {{ clock = Neg(x) y = Clip(clock, zero, four) }}", WEIGHTS)
    activations_to_neurons(g)
    changes_once(lambda g: change_neurons(g, "ResidualIF"), g)
    whole(g)


def test_names_of_the_memory_that_are_taken():
    g = graph(f"{SIGNATURE} {{ t0 = Neg(x) y = Clip(t0, zero, four) }}", WEIGHTS)
    g.nodes[0].outputs[0].name = "m/y"
    activations_to_neurons(g)
    changes_once(lambda g: change_neurons(g, "SignedIF"), g)
    whole(g)
    assert [node.name for node in neuron_nodes(g)] == ["y_2"]


def test_files_of_another_memory_are_refused():
    def damaged(change):
        g = spiking()
        change_neurons(g, "SignedIF")
        model = to_model(g)
        change(model.graph)
        return model

    def start(graph):
        (held,) = [tensor for tensor in graph.initializer if tensor.name == "m/y"]
        held.CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "m/y"))

    def no_input(graph):
        kept = [info for info in graph.input if info.name != "m/y"]
        del graph.input[:]
        graph.input.extend(kept)

    def swapped(graph):
        node = graph.node[-1]
        node.input[1:] = list(node.input[1:])[::-1]

    with pytest.raises(ModelError, match="a default of its state 'm/y' that is not its start"):
        to_graph(damaged(start))
    with pytest.raises(ModelError, match="its state 'm/y' must be an input"):
        to_graph(damaged(no_input))
    with pytest.raises(ModelError, match=r"must keep its state in .*convert the network again"):
        to_graph(damaged(swapped))


def test_verification_knows_all_states():
    g = spiking()

    def loses_a_state(graph):
        change_neurons(graph, "SignedIF")
        graph.outputs = [t for t in graph.outputs if t.name != "m_next/y"]
        return True

    with pytest.raises(PassError, match="m_next/y"):
        run_passes(g, [loses_a_state])


@pytest.mark.parametrize("op", OTHERS)
def test_settings_that_are_not_given(op):
    """Those of the publications."""
    g = spiking()
    change_neurons(g, op)
    for node in neuron_nodes(g):
        settings = {"v_negative": -threshold_of(node), "max_spikes": 5, "delay": 1}
        for name in set(node.attrs) & set(settings):
            np.testing.assert_array_equal(node.attrs[name].values, settings[name])


def test_a_fraction_of_another_precision():
    g = spiking()
    change_neurons(g, "SignedIF", negative=np.float64(-0.5))
    whole(g)
    kinds = {node.attrs["v_negative"].values.dtype for node in neuron_nodes(g)}
    assert kinds == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("kind", "negative"), [("float", -1e300), ("float", -(10**39)), ("float16", -65505)]
)
def test_thresholds_beyond_the_type_are_refused(kind, negative):
    g = spiking(signature=SIGNATURE.replace("float", kind), dtype={"float": "f4"}.get(kind, kind))
    before = to_model(g)
    with pytest.raises(DataError, match=r"IF 'a': its V_th times -.* beyond what float\d\d holds"):
        change_neurons(g, "SignedIF", negative=negative)
    assert to_model(g) == before


def test_delays_that_float16_cannot_hold():
    kind = SIGNATURE.replace("float", "float16")
    g = spiking(signature=kind, dtype=np.float16)
    change_neurons(g, "OffsetIF", delay=2049)
    whole(g)
    assert [int(node.attrs["delay"].values) for node in neuron_nodes(g)] == [2049, 2049]
