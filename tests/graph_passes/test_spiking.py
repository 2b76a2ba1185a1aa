"""Thresholds, neurons and initial potentials: the passes that make a network spike."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_text import changes_once, graph, model, ops, run

from onnx2snn.graph_passes import (
    DataError,
    MissingThresholdError,
    ModelError,
    UnsupportedModelError,
    activations_to_neurons,
    average_before_read_out,
    bound_activations,
    canonicalise,
    code_inputs,
    delay_read_out,
    initial_potential_of,
    set_initial_potential,
    stateful_nodes,
    threshold_of,
    to_graph,
    to_model,
    unbounded_activations,
    upgrade_opset,
)
from onnx2snn.graph_passes.graph.activations import bounded_activations, kept_activations
from onnx2snn.graph_passes.graph.obstacles import require_convertible
from onnx2snn.graph_passes.graph.shapes import require_ranks

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


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bound", [0.7, 0.8, [[0.7], [0.8]]])
def test_bounds_are_rounded_to_the_type_of_the_activation(dtype, bound):
    """To numbers that may lie above those given."""
    kind = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    g = graph(f"{SIGNATURE.replace('float', kind)} {{ y = Relu(x) }}")
    changes_once(lambda g: bound_activations(g, {"y": np.array(bound)}), g)
    x = X.astype(dtype)
    np.testing.assert_array_equal(run(g, x), np.clip(x, 0, np.array(bound, dtype)), strict=True)


@pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 2, 3), (1, 1, 2, 3), (1, 1, 3)])
def test_bounds_must_broadcast_against_one_sample(shape):
    g = graph("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    before = to_model(g)
    with pytest.raises(UnsupportedModelError, match="must broadcast against one sample"):
        bound_activations(g, {"y": np.ones(shape)})
    assert to_model(g) == before


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 3), (1, 1)])
def test_bounds_that_broadcast_against_one_sample(shape):
    g = graph("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    changes_once(lambda g: bound_activations(g, {"y": np.ones(shape)}), g)
    x = X.reshape(4, 3)
    np.testing.assert_array_equal(run(g, x), np.clip(x, 0, 1))


def test_bounds_take_the_type_of_what_is_not_inferred_yet():
    text = "g (float16[N, 3] x) => (float16[N, 3] y) { a = Neg(x) b = Relu(a) y = Neg(b) }"
    g = to_graph(model(text))
    changes_once(lambda g: bound_activations(g, {"b": np.float64(2)}), g)
    x = X.reshape(4, 3).astype(np.float16)
    np.testing.assert_array_equal(run(g, x), -np.clip(-x, 0, 2), strict=True)


def test_bounds_need_a_type():
    g = to_graph(onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "custom": 1]> g (float[N, 3] x) => (float[N, 3] y) '
        "{ a = custom.Foo(x) b = Relu(a) y = custom.Foo(b) }"
    ))  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="type of its activation"):
        bound_activations(g, {"b": np.float64(2)})


def test_what_hides_the_number_of_axes_is_named():
    g = to_graph(onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "custom": 1]> g (float[N, 3] x) => (float[N, 3] y) '
        "{ n = Neg(x) [foo] a = custom.Foo(n) [relu] b = Relu(a) y = Neg(b) }"
    ))  # fmt: skip
    (relu,) = (node for node in g.nodes if node.op == "Relu")
    with pytest.raises(UnsupportedModelError, match=r"Relu 'relu': .*\(here Foo 'foo'\)"):
        require_ranks(g, [relu])


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-50, 1e50, np.finfo(np.float32).max])
def test_bounds_must_be_positive_and_finite(bad):
    g = graph(f"{SIGNATURE} {{ y = Relu(x) }}")
    with pytest.raises(UnsupportedModelError, match="positive and finite"):
        bound_activations(g, {g.nodes[0].name: np.array(bad)})


@pytest.mark.parametrize("value", ["1", None, {}, [], [[1, 2], [3]], True, 1 + 2j])
def test_what_is_no_number_is_no_threshold(value):
    g = to_graph(model("net (float[N, 3] x) => (float[N, 3] y) { r = Relu(x) y = Neg(r) }"))
    with pytest.raises(UnsupportedModelError, match=r"(?s)must be numbers.*Relu 'r'"):
        bound_activations(g, {"r": value})
    assert bound_activations(g, {"r": 1})


def test_a_bad_threshold_leaves_all_as_they_were():
    g = graph(f"{SIGNATURE} {{ a = Relu(x) b = Neg(a) y = Relu(b) }}")
    before = to_model(g)
    with pytest.raises(UnsupportedModelError, match="positive and finite"):
        bound_activations(g, {"a": np.float32(1), "y": np.float32(-1)})
    assert to_model(g) == before


def test_thresholds_of_what_is_not_there():
    g = graph(f"{SIGNATURE} {{ a = Relu(x) y = Neg(a) }}")
    before = to_model(g)
    with pytest.raises(DataError, match="no node named 'b' or 'x'"):
        bound_activations(g, {"a": np.float32(1), "b": np.float32(1), "x": np.float32(1)})
    assert to_model(g) == before


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


def test_quantized_layers_are_refused_as_such():
    body = (
        "a = Clip(x, zero, four) q, s, z = DynamicQuantizeLinear(a) f = Mul(s, four) "
        "i = MatMulInteger(q, whole, z) c = Cast<to = 1>(i) m = Mul(c, f) y = Clip(m, zero, four)"
    )
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS | {"whole": np.ones((3, 3), np.uint8)})
    with pytest.raises(UnsupportedModelError) as caught:
        activations_to_neurons(g)
    reasons = {refusal.op: refusal.reason for refusal in caught.value.refusals}
    assert set(reasons) == {"DynamicQuantizeLinear", "MatMulInteger", "Mul"}
    assert all("before quantization" in reason for reason in reasons.values())


def test_activations_with_a_scale_for_each_channel_are_refused_as_such():
    body = (
        "c = MatMul(x, w) a = Clip(c, zero, four) q = QuantizeLinear(a, scales, wholes) "
        "p = Clip(q, whole, whole) m = DequantizeLinear(p, scales, wholes) n = MatMul(m, w) "
        "y = Clip(n, zero, four)"
    )
    weights = WEIGHTS | {"whole": np.uint8(15), "w": np.ones((3, 3), np.float32)}
    weights |= {"scales": np.ones(3, np.float32), "wholes": np.zeros(3, np.uint8)}
    with pytest.raises(UnsupportedModelError) as caught:
        activations_to_neurons(graph(f"{SIGNATURE} {{ {body} }}", weights))
    reasons = {refusal.op: refusal.reason for refusal in caught.value.refusals}
    assert set(reasons) == {"QuantizeLinear", "Clip", "DequantizeLinear"}
    assert "a scale for each channel" in reasons["QuantizeLinear"]
    assert reasons["DequantizeLinear"] == reasons["QuantizeLinear"]
    assert "whole numbers" in reasons["Clip"]


def test_quantized_layers_of_onnx_runtime_are_refused_as_such():
    body = (
        "c = MatMul(x, w) a = Clip(c, zero, four) q = QuantizeLinear(a, four, whole) "
        "p = com.microsoft.QLinearSigmoid(q, four, whole, four, whole) "
        "m = DequantizeLinear(p, four, whole) n = MatMul(m, w) y = Clip(n, zero, four)"
    )
    weights = WEIGHTS | {"whole": np.uint8(0), "w": np.ones((3, 3), np.float32)}
    g = graph(f"{SIGNATURE} {{ {body} }}", weights)
    with pytest.raises(UnsupportedModelError, match="part of a quantized layer"):
        activations_to_neurons(g)


def test_what_comes_before_the_first_neuron_may_be_anything():
    g = graph(f"{SIGNATURE} {{ a = Sigmoid(x) b = Mul(a, x) y = Clip(b, zero, four) }}", WEIGHTS)
    assert activations_to_neurons(g)


def test_bound_of_zero_is_refused():
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, zero) }}", WEIGHTS)
    with pytest.raises(UnsupportedModelError, match="not positive"):
        activations_to_neurons(g)


@pytest.mark.parametrize("opset", [13, 14, 16])
def test_older_opsets_are_refused(opset):
    """CastLike, for one, is of opset 15."""
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, four) }}", WEIGHTS, opset)
    before = to_model(g)
    for function in (activations_to_neurons, average_before_read_out):
        with pytest.raises(ModelError, match=f"opset 17 or newer.* {opset}: .*upgrade_opset"):
            function(g)
    for refused in (lambda g: code_inputs(g, {"x": 1.0}, 8), lambda g: delay_read_out(g, 2)):
        with pytest.raises(ModelError, match="upgrade_opset"):
            refused(g)
    assert to_model(g) == before
    assert activations_to_neurons(to_graph(upgrade_opset(before)))


def test_an_unknown_way_with_max_pools_is_refused():
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, four) }}", WEIGHTS)
    with pytest.raises(DataError, match="one of average, exact, keep, not 'foo'"):
        activations_to_neurons(g, maxpool="foo")


@pytest.mark.parametrize("v_init", [None, "half", np.ones(2), True, 0.5j, np.nan])
def test_potentials_that_are_no_fractions_are_refused(v_init):
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, four) }}", WEIGHTS)
    activations_to_neurons(g)
    with pytest.raises(DataError, match="v_init must be a fraction of V_th"):
        set_initial_potential(g, v_init)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_seeds_are_whole_numbers(seed):
    g = graph(f"{SIGNATURE} {{ y = Clip(x, zero, four) }}", WEIGHTS)
    activations_to_neurons(g)
    with pytest.raises(DataError, match="seed must be a whole number"):
        set_initial_potential(g, "uniform", seed=seed)


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


def test_a_clip_of_the_read_out_stays():
    body = "r = Clip(x, zero, four) l = MatMul(r, w) p = Softmax(l) c = Clip(p, zero, four)"
    weights = WEIGHTS | {"w": np.ones((3, 3), np.float32)}
    g = graph(f"{SIGNATURE} {{ {body} y = Relu(c) }}", weights)
    assert unbounded_activations(g) == []
    assert not bound_activations(g, {"c": np.float32(0.1), "y": np.float32(0.1)})
    changes_once(activations_to_neurons, g)
    assert ops(g) == ["IF", "MatMul", "Softmax", "Clip", "Relu"]
    changes_once(average_before_read_out, g)
    assert not activations_to_neurons(g)
    assert ops(g) == ["Clock", "IF", "MatMul", "RunningMean", "Softmax", "Clip", "Relu"]


GUARDED = "f = MatMul(x, w) r = Clip(f, zero, four) n = ReduceL2<keepdims = 1, axes = [2]>(r)"
SQUARE = np.ones((3, 3), np.float32)
GUARDS = WEIGHTS | {"w": SQUARE, "v": SQUARE[:1], "tenth": np.float32(0.1)}


@pytest.mark.parametrize(
    "layers",
    [
        "c = Clip(n, zero, four) d = Div(r, c) y = MatMul(d, w)",
        "c = Clip(n, zero, four) d = Log(c) y = MatMul(d, v)",
        "c = Clip(n, zero, four) e = Add(c, tenth) d = Sqrt(e) y = MatMul(d, v)",
        "c = Clip(n, zero, four) d = Reciprocal(c) y = MatMul(d, v)",
        "m = MatMul(n, v) c = Relu(m) y = Sqrt(c)",
        "c = Clip(n, zero, four) s = Shape(c) d = Div(r, c) o = ConstantOfShape(s) a = Add(d, o) "
        "y = MatMul(a, w)",
        "c = Clip(n, zero, four) d = Div(r, c) a = MatMul(d, w) p = Softmax(a) y = Clip(p, tenth)",
        "c = Clip(n, zero, four) d = Div(r, c) e = MatMul(d, w) o = ReduceL2<keepdims = 1>(e) "
        "b = Clip(o, tenth) a = Div(e, b) y = MatMul(a, w)",
    ],
)
def test_a_clip_that_keeps_an_operand_from_0_stays(layers):
    """As in normalize(y) W, once or twice, in W log(clamp(p)), W cdist(y, v), and cdist(y, v).

    The squares of the last are summed by a product.
    """
    g = graph(f"{SIGNATURE} {{ {GUARDED} {layers} }}", GUARDS)
    canonicalise(g)
    assert unbounded_activations(g) == []
    assert list(bounded_activations(g)) == ["r"]
    changes_once(activations_to_neurons, g)
    assert ops(g)[:3] == ["MatMul", "IF", "ReduceL2"]
    require_convertible(g)


@pytest.mark.parametrize(
    "layers",
    [
        "c = Clip(n, zero, four) d = Add(c, r) y = MatMul(d, w)",
        "c = Clip(n, zero, four) d = Div(c, r) y = MatMul(d, w)",
        "c = Clip(n, zero, four) e = Sqrt(c) d = Mul(e, c) y = MatMul(d, v)",
        "c = Clip(n, zero, four) e = Div(r, c) a = MatMul(c, v) d = Add(e, a) y = MatMul(d, w)",
        "c = Clip(n, zero, four) d = Softmax(c) y = MatMul(d, v)",
        "m = MatMul(r, w) c = Clip(m, zero, four) e = Log(c) y = MatMul(e, w)",
        "m = MatMul(n, v) c = Clip(m, zero, four) e = Log(c) y = MatMul(e, w)",
        "c = Clip(n, zero, four) m = MatMul(c, v) l = Softmax(m) y = MatMul(l, w)",
    ],
)
def test_other_clips_behind_what_is_not_affine_become_neurons(layers):
    """They are read otherwise, too, or no such node comes before, or a layer between layers."""
    g = graph(f"{SIGNATURE} {{ {GUARDED} {layers} }}", GUARDS)
    assert list(bounded_activations(g)) == ["r", "c"]


def test_a_clip_that_is_an_output_too_becomes_neurons():
    text = "g (float[N, 2, 3] x) => (float[N, 2, 3] y, float[N, 2, 1] c)"
    body = f"{GUARDED} c = Clip(n, zero, four) d = Div(r, c) y = MatMul(d, w)"
    assert list(bounded_activations(graph(f"{text} {{ {body} }}", GUARDS))) == ["r", "c"]


def test_where_neurons_follow_nothing_is_kept():
    """The network is refused for the norm, whatever keeps it from 0."""
    body = f"{GUARDED} c = Clip(n, zero, four) d = Div(r, c) e = MatMul(d, w) a = Relu(e)"
    g = graph(f"{SIGNATURE} {{ {body} y = MatMul(a, w) }}", GUARDS)
    assert list(bounded_activations(g)) == ["r"]
    assert [node.name for node in kept_activations(g).divisors] == ["c"]
    with pytest.raises(UnsupportedModelError) as error:
        require_convertible(g)
    assert [refusal.node for refusal in error.value.refusals] == ["n", "d"]
    require_convertible(g, on_means=True)


def test_a_guard_before_the_layers_prepares_the_input():
    """It is found by that rule alone, once."""
    body = "n = ReduceL2<keepdims = 1, axes = [2]>(x) c = Clip(n, zero, four) s = Sqrt(c) "
    body += "d = Clip(s, zero, four) e = Div(x, d) l = MatMul(e, w) y = Relu(l)"
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS | {"w": np.ones((3, 3), np.float32)})
    assert [node.name for node in kept_activations(g).nodes] == ["c", "d"]


@pytest.mark.parametrize("layer", ["MatMul", 'Einsum<equation = "ncj,jk->nck">'])
@pytest.mark.parametrize(
    "body",
    [
        "c = {}(x, w) r = Clip(c, zero, four) p = Softmax(r) l = {}(p, w) y = Relu(l)",
        "c = {}(x, w) r = Clip(c, zero, four) p = Softmax(r) l = Relu(p) y = {}(l, w)",
        "r = Clip(x, zero, four) p = Softmax(r) y = Relu(p)",
    ],
)
def test_an_activation_among_layers_is_none_of_the_read_out(layer, body):
    body = body.format(layer, layer)
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS | {"w": np.ones((3, 3), np.float32)})
    assert len(unbounded_activations(g)) == 1
    with pytest.raises(UnsupportedModelError, match="Softmax 'p'"):
        activations_to_neurons(g)


def test_a_choice_that_depends_on_the_input_is_refused():
    body = "a = Clip(x, zero, four) c = Less(x, zero) w = Where(c, zero, a) y = Clip(w, zero, four)"
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
    with pytest.raises(UnsupportedModelError, match="which operand it takes depends on the input"):
        activations_to_neurons(g)


@pytest.mark.parametrize("kind", ["float16", "float", "double"])
def test_potentials_are_rounded_once(kind):
    """In the type of V_th, of a product that is exact."""
    dtype = {"float": np.float32, "double": np.float64}.get(kind, np.float16)
    text = f"g ({kind}[N, 2] x) => ({kind}[N, 2] y) {{ y = Clip(x, zero, bound) }}"
    g = graph(text, {"zero": dtype(0), "bound": dtype(3)})
    activations_to_neurons(g)
    changes_once(lambda g: set_initial_potential(g, 0.3), g)
    (neuron,) = stateful_nodes(g)
    value = initial_potential_of(neuron)
    assert value.dtype == dtype
    assert value == dtype(0.3 * 3)


def test_potentials_that_are_not_finite_are_refused():
    text = "g (float16[N, 2] x) => (float16[N, 2] y) { a = Clip(x, zero, four) b = Add(a, large) "
    values = {"zero": np.float16(0), "four": np.float16(4), "large": np.float16(6e4)}
    g = graph(text + "y = Clip(b, zero, large) }", values)
    activations_to_neurons(g)
    before = to_model(g)
    with pytest.raises(UnsupportedModelError, match=r"must be finite:\n.*'y'"):
        set_initial_potential(g, 2)
    assert to_model(g) == before


@pytest.mark.parametrize("v_init", ["uniform", "normal"])
def test_each_layer_draws_anew_and_each_run_the_same(v_init):
    body = "a = Clip(x, zero, four) b = Neg(a) y = Clip(b, zero, four)"
    found = []
    for seed in ({}, {"seed": 0}):
        g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
        activations_to_neurons(g)
        set_initial_potential(g, v_init, **seed)
        found.append([initial_potential_of(node) for node in stateful_nodes(g)])
    np.testing.assert_array_equal(*found)
    first, second = found[0]
    assert np.all(first != second)


def test_positions_that_are_rotated_are_affine():
    text = (
        "g (float[N, 2, 4] x) => (float[N, 2, 4] y) { h = MatMul(x, w) a = Clip(h, zero, one) "
        "b = Reshape(a, heads) c = RotaryEmbedding(b, cos, sin, places) d = Reshape(c, back) "
        "e = MatMul(d, w) f = Clip(e, zero, one) y = MatMul(f, w) }"
    )
    rng = np.random.default_rng(0)
    values = {
        "w": rng.normal(size=(4, 4)).astype(np.float32), "zero": np.float32(0),
        "one": np.float32(1), "heads": np.array([0, 1, 2, 4]), "back": np.array([0, 2, 4]),
        "cos": np.cos(np.arange(4, dtype=np.float32).reshape(2, 2)),
        "sin": np.sin(np.arange(4, dtype=np.float32).reshape(2, 2)),
        "places": np.array([[0, 1]]),
    }  # fmt: skip
    g = graph(text, values, opset=23)
    activations_to_neurons(g)
    assert ops(g).count("IF") == 2


def test_a_guard_goes_with_what_it_guards():
    """As PyTorch writes attention: rows of a Softmax in which nothing is seen are 0."""
    text = (
        "g (float[N, 4] x) => (float[N, 4] y) { g = MatMul(x, v) a = Clip(g, zero, one) "
        "s = Softmax(a) n = IsNaN(s) w = Where(n, zero, s) h = MatMul(w, v) c = Clip(h, zero, one) "
        "y = MatMul(c, v) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1), "v": np.eye(4, dtype=np.float32)}
    with pytest.raises(UnsupportedModelError) as refused:
        activations_to_neurons(graph(text, values))
    reasons = {refusal.op: refusal.reason for refusal in refused.value.refusals}
    assert reasons["IsNaN"] == reasons["Where"]
    assert "guard of what is before it, as of a Softmax" in reasons["Where"]
