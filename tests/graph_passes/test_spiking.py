"""Thresholds, neurons and initial potentials: the passes that make a network spike."""

import numpy as np
import onnx
import pytest
from onnx_text import changes_once, graph, model, ops, run

from onnx2snn.graph_passes import (
    MissingThresholdError,
    UnsupportedModelError,
    activations_to_neurons,
    bound_activations,
    initial_potential_of,
    set_initial_potential,
    stateful_nodes,
    threshold_of,
    to_graph,
    to_model,
)

SIGNATURE = "g (float[N, 2, 3] x) => (float[N, 2, 3] y)"
X = np.linspace(-2, 6, 12, dtype=np.float32).reshape(2, 2, 3)
WEIGHTS = {"zero": np.float32(0), "four": np.float32(4)}


def test_bound_activations():
    g = graph(f"{SIGNATURE} {{ y = Relu(x) }}")
    name = g.nodes[0].name
    changes_once(lambda g: bound_activations(g, {name: np.float32(3)}), g)
    assert ops(g) == ["Clip"]
    np.testing.assert_array_equal(run(g, X), np.clip(X, 0, 3))


def test_bound_activations_per_channel():
    bound = np.array([[1], [3]], np.float32)
    g = graph(f"{SIGNATURE} {{ y = Relu(x) }}")
    name = g.nodes[0].name
    changes_once(lambda g: bound_activations(g, {name: bound}), g)
    assert ops(g) == ["Relu", "Min"]
    assert g.nodes[-1].name == name
    np.testing.assert_array_equal(run(g, X), np.clip(X, 0, bound))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bounds_must_be_positive_and_finite(bad):
    g = graph(f"{SIGNATURE} {{ y = Relu(x) }}")
    with pytest.raises(UnsupportedModelError, match="positive and finite"):
        bound_activations(g, {g.nodes[0].name: np.array(bad)})


def test_clip_becomes_a_neuron():
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, four) }}", WEIGHTS)
    name = g.nodes[0].name
    changes_once(activations_to_neurons, g)
    (neuron,) = stateful_nodes(g)
    assert (neuron.name, neuron.op, neuron.domain) == (name, "IF", "onnx2snn")
    assert threshold_of(neuron) == 4
    assert [tensor.name for tensor in g.inputs] == ["x", f"v/{name}"]
    assert [tensor.name for tensor in g.outputs] == ["y", f"v_next/{name}"]
    changes_once(set_initial_potential, g)
    assert initial_potential_of(neuron) == 2


def test_threshold_per_channel():
    t = np.array([[1], [4]], np.float32)
    g = graph(f"{SIGNATURE} {{ r = Relu(x) y = Min(r, t) }}", {"t": t})
    activations_to_neurons(g)
    set_initial_potential(g)
    (neuron,) = stateful_nodes(g)
    np.testing.assert_array_equal(threshold_of(neuron), t)
    np.testing.assert_array_equal(initial_potential_of(neuron), t / 2)
    proto = to_model(g)
    onnx.checker.check_model(proto, full_check=True)
    (start,) = [i for i in proto.graph.initializer if i.name.startswith("v/")]
    assert list(start.dims) == [1, 2, 1]


def test_one_step_on_onnx_runtime():
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, four) }}", WEIGHTS)
    activations_to_neurons(g)
    set_initial_potential(g)
    # v(0) = 2: fires where 2 + x > 4, strictly.
    x = np.array([2, 2.0001, 1, -5, 9, 2], np.float32).reshape(1, 2, 3)
    np.testing.assert_array_equal(run(g, x), 4.0 * (x > 2))


def test_lists_every_relu_without_a_threshold():
    g = graph(f"{SIGNATURE} {{ a = Relu(x) b = Neg(a) y = Relu(b) }}")
    with pytest.raises(MissingThresholdError) as caught:
        activations_to_neurons(g)
    assert [refusal.op for refusal in caught.value.refusals] == ["Relu", "Relu"]
    assert ops(g) == ["Relu", "Neg", "Relu"]


def test_lists_every_node_in_the_way():
    body = "a = Clip(x, zero, four) b = Sigmoid(a) c = Mul(b, a) d = Exp(c) y = Clip(d, zero, four)"
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
    with pytest.raises(UnsupportedModelError) as caught:
        activations_to_neurons(g)
    assert [refusal.op for refusal in caught.value.refusals] == ["Sigmoid", "Mul", "Exp"]
    assert "product of two activations" in str(caught.value)
    assert ops(g) == ["Clip", "Sigmoid", "Mul", "Exp", "Clip"]


def test_what_comes_before_the_first_neuron_may_be_anything():
    g = graph(f"{SIGNATURE} {{ a = Sigmoid(x) b = Mul(a, x) y = Clip(b, zero, four) }}", WEIGHTS)
    assert activations_to_neurons(g)


def test_bound_of_zero_is_refused():
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, zero) }}", WEIGHTS)
    with pytest.raises(UnsupportedModelError, match="not positive"):
        activations_to_neurons(g)


@pytest.mark.parametrize("v_init", ["uniform", "normal"])
def test_random_potentials(v_init):
    g = graph(
        "g (float[N, 100, 100] x) => (float[N, 100, 100] y) { y = Clip(x, zero, four) }", WEIGHTS
    )
    activations_to_neurons(g)
    changes_once(lambda g: set_initial_potential(g, v_init, seed=3), g)
    (neuron,) = stateful_nodes(g)
    value = initial_potential_of(neuron).astype(np.float64)
    assert value.shape == (100, 100)
    assert value.mean() == pytest.approx(2, abs=0.05)
    deviation = {"uniform": 4 / np.sqrt(12), "normal": 4 / 6}[v_init]
    assert value.std() == pytest.approx(deviation, rel=0.05)
    assert set_initial_potential(g, v_init, seed=4)
    onnx.checker.check_model(to_model(g), full_check=True)


def test_random_potentials_need_sizes():
    g = graph("g (float[N, 2, L] x) => (float[N, 2, L] y) { y = Clip(x, zero, four) }", WEIGHTS)
    activations_to_neurons(g)
    with pytest.raises(UnsupportedModelError, match="size of every layer"):
        set_initial_potential(g, "uniform")


@pytest.mark.parametrize("opset", [17, 18, 20, 21, 22, 23])
def test_files_pass_the_checker_in_every_opset(opset):
    g = to_graph(model(f"{SIGNATURE} {{ y = Clip(x, zero, four) }}", WEIGHTS, opset))
    activations_to_neurons(g)
    set_initial_potential(g)
    proto = to_model(g)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    np.testing.assert_array_equal(run(proto, X), 4.0 * (X + 2 > 4))


POOLING = "s = Clip(x, zero, four) p = {}(s) y = Clip(p, zero, four)"
IMAGE = "g (float[N, 2, 6, 6] x) => (float[N, 2, a, b] y)"


@pytest.mark.parametrize("pool", ["MaxPool<kernel_shape = [2, 2]>", "GlobalMaxPool"])
@pytest.mark.parametrize("maxpool", ["exact", "keep"])
def test_max_pools_are_in_the_way_unless_they_are_taken_care_of(pool, maxpool):
    text = f"{IMAGE} {{ {POOLING.format(pool)} }}"
    with pytest.raises(UnsupportedModelError, match="average pooling") as caught:
        activations_to_neurons(graph(text, WEIGHTS))
    assert len(caught.value.refusals) == 1
    g = graph(text, WEIGHTS)
    changes_once(lambda g: activations_to_neurons(g, maxpool), g)
    assert ops(g) == ["IF", pool.split("<")[0], "IF"]


@pytest.mark.parametrize("alpha", [0.5, -0.5])
def test_a_threshold_above_0_counts_spikes(alpha):
    body = (
        f"a = Clip(x, zero, four) b = ThresholdedRelu<alpha = {alpha}>(a) y = Clip(b, zero, four)"
    )
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
    if alpha > 0:
        changes_once(activations_to_neurons, g)
    else:
        with pytest.raises(UnsupportedModelError, match="ThresholdedRelu"):
            activations_to_neurons(g)


@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 1, 2, 1), (2, 1), (1, 1)])
def test_axes_of_one_are_no_part_of_a_threshold(shape):
    t = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    body = "r = Relu(x) q = Min(r, t) y = Squeeze(q, axes)"
    g = graph(
        f"g (float[N, 1, 2, 3] x) => (float[N, 2, 3] y) {{ {body} }}",
        {"t": t, "axes": np.array([1])},
    )
    activations_to_neurons(g)
    (neuron,) = stateful_nodes(g)
    wanted = t[0] if t.ndim == 4 else t
    np.testing.assert_array_equal(threshold_of(neuron), wanted)


def test_normalisation_by_the_batch_is_refused():
    g = graph(
        "g (float[N, 3] x) => (float[N, 3] y) { s = Clip(x, zero, four) "
        "b, m, v = BatchNormalization<training_mode = 1>(s, one, one, one, one) "
        "y = Clip(b, zero, four) }",
        WEIGHTS | {"one": np.ones(3, np.float32)},
    )
    with pytest.raises(UnsupportedModelError, match="in training mode"):
        activations_to_neurons(g)


def test_a_threshold_of_each_sample_is_refused():
    t = np.array([1, 2], np.float32).reshape(2, 1, 1)
    g = graph("g (float[2, 2, 3] x) => (float[2, 2, 3] y) { r = Relu(x) y = Min(r, t) }", {"t": t})
    with pytest.raises(UnsupportedModelError, match="batch axis"):
        activations_to_neurons(g)
    assert ops(g) == ["Relu", "Min"]


def test_names_of_states_that_are_taken():
    body = "t = Neg(x) y = Clip(t, zero, four)"
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
    g.nodes[0].outputs[0].name = "v/y"
    changes_once(activations_to_neurons, g)
    (neuron,) = stateful_nodes(g)
    assert neuron.name == "y_2"
    set_initial_potential(g)
    np.testing.assert_array_equal(run(g, X), 4.0 * (2 - X > 4))


def test_a_network_without_activations_has_no_neurons():
    assert not activations_to_neurons(graph(f"{SIGNATURE} {{ y = Neg(x) }}"))


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_neurons_of_other_types(dtype):
    kind = np.dtype(dtype).type
    g = graph(
        f"g ({dtype}[N, 2, 3] x) => ({dtype}[N, 2, 3] y) {{ y = Clip(x, zero, four) }}",
        {"zero": kind(0), "four": kind(4)},
    )
    activations_to_neurons(g)
    set_initial_potential(g)
    onnx.checker.check_model(to_model(g), full_check=True)
    result = run(g, X.astype(kind))
    assert result.dtype == kind
    np.testing.assert_array_equal(result, 4.0 * (X.astype(kind) > 2))


def test_bounds_that_are_lower_than_the_thresholds_stay():
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, four) }}", WEIGHTS)
    assert not bound_activations(g, {"y": np.float32(5)})
    changes_once(lambda g: bound_activations(g, {"y": np.float32([[3], [9]])}), g)
    assert ops(g) == ["Relu", "Min"]
    np.testing.assert_array_equal(run(g, X), np.clip(X, 0, [[3], [4]]))
