import numpy as np
import pytest
import stock
from onnx_text import changes_once, graph, ops, whole

from onnx2snn import SpikingSession
from onnx2snn.graph_passes import (
    DataError,
    ModelError,
    UnsupportedModelError,
    activations_to_neurons,
    average_before_read_out,
    code_inputs,
    set_initial_potential,
    to_model,
)
from onnx2snn.graph_passes.graph.neurons import inputs_besides_states

T = 8
SIGNATURE = "g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z)"
BODY = "a = Neg(x) s = Clip(x, zero, one) y = Identity(s) z = Add(a, s)"
WEIGHTS = {"zero": np.float32(0), "one": np.float32(1)}
X = np.float32([[1, -1, 0, 0.5], [-0.5, 0.25, 0.75, -0.125], [0.0625, -0.0625, 0.1875, 0.07]])


def spiking(text, dtype=np.float32):
    g = graph(text, {name: value.astype(dtype) for name, value in WEIGHTS.items()})
    activations_to_neurons(g)
    set_initial_potential(g)
    average_before_read_out(g)
    return g


def test_structure():
    g = spiking(f"{SIGNATURE} {{ {BODY} }}")
    changes_once(lambda g: code_inputs(g, {"x": 1.0}, T), g)
    whole(g)
    assert ops(g)[0] == "SwitchCoder"
    assert ops(g).count("SwitchCoder") == 1
    coder = g.nodes[0]
    assert [t.name for t in coder.inputs] == ["x", "v/x/coded"]
    assert [t.name for t in coder.outputs] == ["x/coded", "v_next/x/coded"]
    assert inputs_besides_states(g) == [g.inputs[0]]
    # Nothing else reads the input as it is.
    assert [node.op for node in g.inputs[0].outputs] == ["SwitchCoder"]
    assert not code_inputs(g, {"x": 2.0}, 2 * T)


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_on_at_first_and_then_off(scale, dtype):
    kind = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    text = f"g ({kind}[N, 4] x) => ({kind}[N, 4] y, {kind}[N, 4] s)"
    g = spiking(f"{text} {{ s = Clip(x, zero, one) y = Neg(x) }}", dtype)
    code_inputs(g, {"x": scale}, T)
    model = whole(g)
    x = X.astype(dtype)
    outputs = [-step["y"] for step, _ in stock.steps(model, {"x": x}, T + 2)]
    assert outputs[0].dtype == dtype
    # Halves are rounded towards 0.
    on = np.ceil(np.abs(x) * T / scale - 0.5)
    for t, now in enumerate(outputs, start=1):
        np.testing.assert_array_equal(now, scale * np.sign(x) * (t <= on))
    assert np.all(np.abs(sum(outputs) / T - x) <= scale / (2 * T))
    result = SpikingSession(model).run(x, T)
    np.testing.assert_array_equal(-result.output, sum(outputs) / T)


def test_only_inputs_that_have_a_scale():
    text = "g (float[N, 4] x, float[N, 4] u) => (float[N, 4] y)"
    g = spiking(f"{text} {{ a = Add(x, u) y = Clip(a, zero, one) }}")
    assert not code_inputs(g, {}, T)
    changes_once(lambda g: code_inputs(g, {"u": 1.0}, T), g)
    whole(g)
    assert [node.op for node in g.inputs[0].outputs] == ["Add"]
    changes_once(lambda g: code_inputs(g, {"u": 1.0, "x": 2.0}, T), g)
    whole(g)
    assert ops(g).count("SwitchCoder") == 2


def test_names_that_are_taken():
    g = spiking(f"{SIGNATURE} {{ {BODY} }}")
    g.nodes[0].outputs[0].name = "x/coded"
    changes_once(lambda g: code_inputs(g, {"x": 1.0}, T), g)
    whole(g)


def test_a_node_of_the_coders_name():
    g = spiking(f"{SIGNATURE} {{ {BODY} }}")
    g.nodes[0].name = "x/coded"
    g.outputs[0].name = "v/x/coded_2"
    changes_once(lambda g: code_inputs(g, {"x": 1.0}, T), g)
    whole(g)


def test_scales_of_what_is_not_there():
    g = spiking(f"{SIGNATURE} {{ {BODY} }}")
    before = to_model(g)
    with pytest.raises(DataError, match="no input named 'u' or 'a' or 'v/y'"):
        code_inputs(g, {"x": 1.0, "u": 1.0, "a": 1.0, "v/y": 1.0}, T)
    for scales in (None, ["x"], 1.0):
        with pytest.raises(DataError, match="scales are a mapping of inputs to the largest"):
            code_inputs(g, scales, T)
    assert to_model(g) == before


def test_a_read_out_that_reads_an_input():
    """It reads the mean of the coded input, which is the input."""
    text = "g (float[N, 4] x, float[N, 4] u) => (float[N, 4] y)"
    body = "s = Clip(x, zero, one) p = Softmax<axis = -1>(s) y = Mul(p, u)"
    g = spiking(f"{text} {{ {body} }}")
    plain = SpikingSession(to_model(g))
    changes_once(lambda g: code_inputs(g, {"u": 1.0}, T), g)
    feed = {"x": X[:1], "u": np.float32([[1, -0.5, 0, 0.25]])}
    coded = SpikingSession(whole(g)).run(feed, T).output
    np.testing.assert_array_equal(coded, plain.run(feed, T).output)


@pytest.mark.parametrize(
    ("before", "op"),
    [("a = Sigmoid(x)", "Sigmoid"), ("a = Mul(x, x)", "Mul"), ("a = Softmax(x)", "Softmax")],
)
def test_what_is_not_linear_before_the_first_neuron_is_refused(before, op):
    """No mean over time passes through it."""
    g = spiking(f"g (float[N, 4] x) => (float[N, 4] y) {{ {before} y = Clip(a, zero, one) }}")
    model = to_model(g)
    with pytest.raises(UnsupportedModelError, match="before the first neurons") as caught:
        code_inputs(g, {"x": 1.0}, T)
    assert [refusal.op for refusal in caught.value.refusals] == [op]
    assert to_model(g) == model


def test_max_pools_before_the_first_neuron_are_refused():
    text = "g (float[N, 1, 4, 4] x) => (float[N, 1, 1, 1] y)"
    g = spiking(f"{text} {{ a = GlobalMaxPool(x) y = Clip(a, zero, one) }}")
    with pytest.raises(UnsupportedModelError, match=r"GlobalMaxPool .*--maxpool average,"):
        code_inputs(g, {"x": 1.0}, T)


def test_inputs_of_whole_numbers_are_refused():
    text = "g (uint8[N, 4] x) => (float[N, 4] y)"
    g = spiking(f"{text} {{ a = Cast<to = 1>(x) y = Clip(a, zero, one) }}")
    with pytest.raises(ModelError, match="'x' is no floating-point tensor"):
        code_inputs(g, {"x": 255.0}, T)


@pytest.mark.parametrize("scale", [0, -1.0, np.nan, np.inf, None, 1e300, 1e-46, 10**39])
def test_scales_that_make_no_sense(scale):
    """As numbers, or in the type of the sums that they are of."""
    g = spiking(f"{SIGNATURE} {{ {BODY} }}")
    with pytest.raises(DataError, match="scale of the input 'x' must be positive"):
        code_inputs(g, {"x": scale}, T)


@pytest.mark.parametrize("timesteps", [0, -1, 2.5, None, 2**24 + 1])
def test_timesteps_that_make_no_sense(timesteps):
    g = spiking(f"{SIGNATURE} {{ {BODY} }}")
    with pytest.raises(DataError, match="timesteps must be a whole number from 1 to 16777216"):
        code_inputs(g, {"x": 1.0}, timesteps)


@pytest.mark.parametrize("activation", ["Clip(x, zero, one)", "Relu(x)"])
def test_activations_that_are_no_neurons_yet(activation):
    g = graph(f"g (float[N, 4] x) => (float[N, 4] y) {{ y = {activation} }}", WEIGHTS)
    with pytest.raises(UnsupportedModelError, match="run the pass activations_to_neurons first"):
        code_inputs(g, {"x": 1.0}, T)


def test_inputs_of_unknown_rank_are_refused():
    g = spiking(f"{SIGNATURE} {{ {BODY} }}")
    g.inputs[0].shape = None
    with pytest.raises(ModelError, match="'x' is no floating-point tensor of known rank"):
        code_inputs(g, {"x": 1.0}, T)


def test_more_time_steps_than_float16_can_count():
    kind = "float16[N, 4]"
    g = spiking(f"g ({kind} x) => ({kind} y) {{ y = Clip(x, zero, one) }}", np.float16)
    code_inputs(g, {"x": 1.0}, 2049)
    (coder,) = [node for node in g.nodes if node.op == "SwitchCoder"]
    assert coder.attrs["timesteps"].values == 2049
    result = SpikingSession(whole(g)).run(np.ones((1, 4), np.float16), 2049)
    np.testing.assert_array_equal(result.readouts[2049].potential_sums["y"], 2049)
