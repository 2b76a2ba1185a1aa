import numpy as np
import onnx
import pytest
import stock
from onnx_text import changes_once, graph, ops, whole

from onnx2snn.graph_passes import (
    DataError,
    UnsupportedModelError,
    activations_to_neurons,
    average_before_read_out,
    delay_read_out,
    set_initial_potential,
    to_model,
)

RNG = np.random.default_rng(0)
TIMESTEPS = 6
WEIGHTS = {
    "zero": np.float32(0), "one": np.float32(1), "w": RNG.normal(size=(4, 3)).astype(np.float32),
    "b": np.float32([0.5, -1, 0]),
}  # fmt: skip
X = RNG.integers(-2, 10, (5, 4)).astype(np.float32) / 8
SIGNATURE = "g (float[N, 4] x) => (float[N, 3] y, float[N, 4] s)"
LOGITS = "s = Clip(x, zero, one) l = Gemm(s, w, b)"


def spiking(text):
    g = graph(text, WEIGHTS)
    activations_to_neurons(g)
    set_initial_potential(g)
    return g


def over_time(graph, *inputs):
    """The outputs of each time-step, [T, ...], of a plain loop on ONNX Runtime."""
    feed = {tensor.name: x for tensor, x in zip(graph.inputs, inputs, strict=False)}
    steps = stock.steps(to_model(graph), feed, TIMESTEPS)
    return [np.stack(v) for v in zip(*(outputs.values() for outputs, _ in steps), strict=True)]


def means(x):
    """The mean of all time-steps so far, at each."""
    return np.cumsum(x, axis=0) / np.arange(1, len(x) + 1).reshape(-1, *(1,) * (x.ndim - 1))


def logits(spikes):
    return spikes @ WEIGHTS["w"] + WEIGHTS["b"]


def softmax(x):
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


READ_OUTS = {
    "softmax": ("y = Softmax<axis = -1>(l)", softmax),
    "scaled softmax": ("m = Mul(l, b) y = Softmax<axis = -1>(m)",
                       lambda x: softmax(x * WEIGHTS["b"])),
    "several steps": ("a = Sigmoid(l) c = Exp(a) y = Neg(c)",
                      lambda x: -np.exp(1 / (1 + np.exp(-x)))),
    "a product of two": ("a = Tanh(l) y = Mul(a, l)", lambda x: np.tanh(x) * x),
    "a square": ("y = Mul(l, l)", lambda x: x * x),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_OUTS)
def test_reads_out_the_mean_of_all_time_steps_so_far(name):
    body, formula = READ_OUTS[name]
    g = spiking(f"{SIGNATURE} {{ {LOGITS} {body} }}")
    changes_once(average_before_read_out, g)
    assert ops(g).count("RunningMean") == ops(g).count("Clock") == 1
    onnx.checker.check_model(to_model(g), full_check=True)
    result, spikes = over_time(g, X)
    np.testing.assert_allclose(result, formula(means(logits(spikes))), rtol=1e-5, atol=1e-6)


AFFINE = {
    "logits": "y = Identity(l)",
    "scaled": "y = Mul(l, b)",
    "reshaped": "t = Transpose(l) y = Transpose(t)",
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_outputs_stay(name):
    assert not average_before_read_out(spiking(f"{SIGNATURE} {{ {LOGITS} {AFFINE[name]} }}"))


def test_only_one_of_two_outputs():
    text = "g (float[N, 4] x) => (float[N, 3] p, float[N, 3] l, float[N, 4] s)"
    g = spiking(f"{text} {{ {LOGITS} p = Softmax(l) }}")
    changes_once(average_before_read_out, g)
    result, output, spikes = over_time(g, X)
    np.testing.assert_allclose(output, logits(spikes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result, softmax(means(logits(spikes))), rtol=1e-5, atol=1e-6)


def test_what_is_not_linear_before_the_first_neuron_stays():
    body = "a = Sigmoid(x) s = Clip(a, zero, one) y = Gemm(s, w, b)"
    assert not average_before_read_out(spiking(f"{SIGNATURE} {{ {body} }}"))


def test_the_class_is_that_of_the_mean():
    text = "g (float[N, 4] x) => (int64[N] y, float[N, 4] s)"
    g = spiking(f"{text} {{ {LOGITS} y = ArgMax<axis = 1, keepdims = 0>(l) }}")
    changes_once(average_before_read_out, g)
    result, spikes = over_time(g, X)
    np.testing.assert_array_equal(result, means(logits(spikes)).argmax(-1))


def test_a_neuron_whose_spikes_are_read_directly():
    g = spiking(f"{SIGNATURE} {{ {LOGITS} q = Pow(s, one) y = MatMul(q, w) }}")
    changes_once(average_before_read_out, g)
    result, spikes = over_time(g, X)
    np.testing.assert_allclose(result, means(spikes) @ WEIGHTS["w"], rtol=1e-5, atol=1e-6)


def test_an_input_that_the_read_out_reads():
    text = "g (float[N, 4] x, float[N, 3] u) => (float[N, 3] y, float[N, 4] s)"
    g = spiking(f"{text} {{ {LOGITS} p = Softmax(l) y = Mul(p, u) }}")
    changes_once(average_before_read_out, g)
    u = np.float32(RNG.normal(size=(5, 3)))
    result, spikes = over_time(g, X, u)
    wanted = softmax(means(logits(spikes))) * u
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


def test_outputs_of_shapes_alone():
    text = "g (float[N, 4] x) => (float[N, 3] p, int64[2] y)"
    g = spiking(f"{text} {{ {LOGITS} p = Softmax(l) y = Shape(p) }}")
    changes_once(average_before_read_out, g)
    _, shape = over_time(g, X)
    np.testing.assert_array_equal(shape[-1], [5, 3])


def test_branches_that_capture_spikes_are_refused():
    body = """
        t = ReduceMax<keepdims = 0>(x) c = Greater(t, zero)
        y = If (c) <
            then_branch = one () => (float[N, 3] a) { a = Softmax(l) },
            else_branch = two () => (float[N, 3] d) { d = Neg(l) }
        >
    """
    g = spiking(f"{SIGNATURE} {{ {LOGITS} {body} }}")
    before = to_model(g)
    with pytest.raises(UnsupportedModelError, match="branches read activations") as caught:
        average_before_read_out(g)
    assert [refusal.op for refusal in caught.value.refusals] == ["If"]
    assert to_model(g) == before


def test_branches_that_capture_none_may_choose():
    body = """
        p = Softmax(l) t = ReduceMax<keepdims = 0>(p) c = Greater(t, zero)
        q = If (c) <
            then_branch = one () => (float[3] a) { a = Neg(b) },
            else_branch = two () => (float[3] d) { d = Abs(b) }
        >
        y = Add(p, q)
    """
    g = spiking(f"{SIGNATURE} {{ {LOGITS} {body} }}")
    changes_once(average_before_read_out, g)
    result, spikes = over_time(g, X)
    wanted = softmax(means(logits(spikes))) - WEIGHTS["b"]
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


# A read-out that begins later -----------------------------------------------------------


def late_means(x, delay):
    """The mean of all time-steps so far, or of those after the delay once there are any."""
    return np.stack([x[delay if t > delay else 0 : t].mean(0) for t in range(1, len(x) + 1)])


@pytest.mark.parametrize("delay", [0, 1, 4, TIMESTEPS, TIMESTEPS + 3])
def test_every_output_begins_after_the_delay(delay):
    text = "g (float[N, 4] x) => (float[N, 3] p, float[N, 3] l, float[N, 4] s)"
    g = spiking(f"{text} {{ {LOGITS} p = Softmax<axis = -1>(l) }}")
    _, now, spikes = over_time(g, X)
    average_before_read_out(g)
    changes_once(lambda g: delay_read_out(g, delay), g)
    whole(g)
    assert ops(g).count("DelayedMean") == 3
    assert ops(g).count("RunningMean") == 0
    assert ops(g).count("Clock") == 1
    assert [t.name for t in g.outputs[:3]] == ["p", "l", "s"]
    p, logits_so_far, spikes_so_far = over_time(g, X)
    np.testing.assert_allclose(logits_so_far, late_means(now, delay), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(spikes_so_far, late_means(spikes, delay), rtol=1e-6)
    np.testing.assert_allclose(p, softmax(late_means(now, delay)), rtol=1e-5, atol=1e-6)


def test_another_delay_takes_its_place():
    g = spiking(f"{SIGNATURE} {{ {LOGITS} y = Identity(l) }}")
    changes_once(lambda g: delay_read_out(g, 2), g)
    changes_once(lambda g: delay_read_out(g, 3), g)
    assert ops(g).count("DelayedMean") == 2
    result, spikes = over_time(g, X)
    fresh = spiking(f"{SIGNATURE} {{ {LOGITS} y = Identity(l) }}")
    now, spikes_now = over_time(fresh, X)
    np.testing.assert_allclose(result, late_means(now, 3), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(spikes, late_means(spikes_now, 3).astype(np.float32))


def test_an_output_that_feeds_on_another():
    """Only what leaves the network is averaged, not what goes on within it."""
    text = "g (float[N, 4] x) => (float[N, 4] s, float[N, 4] y)"
    g = spiking(f"{text} {{ s = Clip(x, zero, one) n = Neg(s) y = Clip(n, zero, one) }}")
    spikes, y = over_time(g, X)
    changes_once(lambda g: delay_read_out(g, 2), g)
    whole(g)
    late_spikes, late_y = over_time(g, X)
    np.testing.assert_array_equal(late_spikes, late_means(spikes, 2).astype(np.float32))
    np.testing.assert_array_equal(late_y, late_means(y, 2).astype(np.float32))


def test_outputs_that_are_no_numbers_over_time_stay():
    text = "g (float[N, 4] x) => (int64[N] y, float[N, 4] s)"
    g = spiking(f"{text} {{ {LOGITS} y = ArgMax<axis = 1, keepdims = 0>(l) }}")
    average_before_read_out(g)
    changes_once(lambda g: delay_read_out(g, 2), g)
    whole(g)
    result, spikes = over_time(g, X)
    plain, _ = over_time(spiking(f"{SIGNATURE} {{ {LOGITS} y = Identity(l) }}"), X)
    np.testing.assert_array_equal(result, late_means(plain, 2).argmax(-1))
    assert spikes.dtype == np.float32


@pytest.mark.parametrize("delay", [-1, 1.5, True, 2**24 + 1])
def test_delays_that_are_no_time_steps_are_refused(delay):
    g = spiking(f"{SIGNATURE} {{ {LOGITS} y = Identity(l) }}")
    before = to_model(g)
    with pytest.raises(DataError, match="delay must be a whole number from 0 to 16777216"):
        delay_read_out(g, delay)
    assert to_model(g) == before


def test_an_output_that_stands_twice_is_averaged_once():
    text = "g (float[N, 4] x) => (float[N, 4] s, float[N, 4] s)"
    g = spiking(f"{text} {{ s = Clip(x, zero, one) }}")
    changes_once(lambda g: delay_read_out(g, 2), g)
    assert ops(g).count("DelayedMean") == 1


@pytest.mark.parametrize("taken", ["clock", "v/clock", "t", "l/mean", "v/l/mean"])
def test_names_that_are_taken(taken):
    g = spiking(f"{SIGNATURE} {{ {LOGITS} y = Softmax<axis = -1>(l) }}")
    g.nodes[-1].name = g.outputs[0].name = taken
    changes_once(average_before_read_out, g)
    whole(g)


@pytest.mark.parametrize("taken", ["clock", "v/clock", "y/mean", "v/y/mean", "y/now"])
def test_names_that_are_taken_where_it_begins_later(taken):
    g = spiking(f"{SIGNATURE} {{ {LOGITS} y = Identity(l) }}")
    producer = next(node for node in g.nodes if node.op == "Gemm")
    producer.name = producer.outputs[0].name = taken
    changes_once(lambda g: delay_read_out(g, 2), g)
    whole(g)


def test_pools_between_neurons_are_no_read_out():
    text = "g (float[N, 1, 4, 4] x) => (float[N, 1, a, b] y)"
    body = "s = Clip(x, zero, one) p = MaxPool<kernel_shape = [2, 2]>(s) y = Clip(p, zero, one)"
    g = graph(f"{text} {{ {body} }}", WEIGHTS)
    activations_to_neurons(g, "keep")
    assert not average_before_read_out(g)


def test_what_takes_the_shape_of_a_read_out_is_one():
    text = "g (float[N, 4] x) => (float[N, 3] p, float[N, 3] y, float[N, 4] s)"
    g = spiking(f"{text} {{ {LOGITS} p = Softmax(l) k = Shape(p) y = Reshape(l, k) }}")
    changes_once(average_before_read_out, g)
    _, result, spikes = over_time(g, X)
    np.testing.assert_allclose(result, means(logits(spikes)), rtol=1e-5, atol=1e-6)


def test_whole_numbers_that_the_read_out_reads():
    text = "g (float[N, 4] x, int64[2] u) => (float[N, 2] y, float[N, 4] s)"
    g = spiking(f"{text} {{ {LOGITS} p = Softmax(l) y = Gather<axis = 1>(p, u) }}")
    changes_once(average_before_read_out, g)
    assert ops(g).count("RunningMean") == 1
    result, spikes = over_time(g, X, np.array([2, 0]))
    wanted = softmax(means(logits(spikes)))[..., [2, 0]]
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pass_", [average_before_read_out, lambda g: delay_read_out(g, 2)])
def test_shapes_are_inferred_where_they_are_missing(pass_):
    g = spiking(f"{SIGNATURE} {{ {LOGITS} y = Softmax<axis = -1>(l) }}")
    for node in g.nodes:
        if node.op in ("Gemm", "Softmax"):
            node.outputs[0].shape = None
    changes_once(pass_, g)
    whole(g)


def test_a_shorter_delay_takes_its_place_too():
    g = spiking(f"{SIGNATURE} {{ {LOGITS} y = Identity(l) }}")
    changes_once(lambda g: delay_read_out(g, 3), g)
    changes_once(lambda g: delay_read_out(g, 2), g)
    now, _ = over_time(spiking(f"{SIGNATURE} {{ {LOGITS} y = Identity(l) }}"), X)
    result, _ = over_time(g, X)
    np.testing.assert_allclose(result, late_means(now, 2), rtol=1e-5, atol=1e-6)


def test_an_input_that_is_an_output_is_not_averaged():
    text = "g (float[N, 4] x) => (float[N, 4] s, float[N, 4] x)"
    g = spiking(f"{text} {{ s = Clip(x, zero, one) }}")
    changes_once(lambda g: delay_read_out(g, 2), g)
    assert ops(g).count("DelayedMean") == 1
