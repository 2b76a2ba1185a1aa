"""Spike counts that follow from membrane potentials, and where they would not."""

from unittest.mock import Mock

import dyadic
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx_text import model

from onnx2snn import EarlyExit, SpikingSession, convert, from_arrays
from onnx2snn.graph_passes import to_graph, to_model
from onnx2snn.graph_passes.graph.neurons import neuron_nodes
from onnx2snn.runtime import derived_sums, reach
from onnx2snn.runtime.derived_sums import CONSERVING, coarse, derived_sums_of
from onnx2snn.runtime.plans.plan import build_plan
from onnx2snn.runtime.reach import currents_in_thresholds
from onnx2snn.runtime.sums import _groups, _in_thresholds

TWO_LAYERS = """net (float[N, 20] x) => (float[N, 5] y) {
    g = Gemm(x, w, b) a = Relu(g) h = MatMul(a, v) c = Relu(h) y = MatMul(c, u) }"""


def layers(rng, **shapes):
    """Weights [inputs, outputs] by name, which keep the size of what they read."""
    return {n: (rng.normal(size=s) / s[0] ** 0.5).astype(np.float32) for n, s in shapes.items()}


def nearly_silent(largest):
    """Two layers; a third of the channels of the first has activations up to ``largest``."""
    rng = np.random.default_rng(0)
    x = rng.random((400, 20)).astype(np.float32)
    values = layers(rng, w=(20, 30), v=(30, 20), u=(20, 5))
    bias = np.zeros(30, np.float32)
    bias[:10] = largest - (x @ values["w"]).max(0)[:10]
    ann = model(TWO_LAYERS, values | {"b": bias})
    return convert(ann, calibration=from_arrays(x), recipe="opi").model, x[:100]


def coarse_of(plan):
    return coarse(plan, currents_in_thresholds(plan, CONSERVING))


def coarse_in(snn):
    return coarse_of(build_plan(snn))


def names_of(layers):
    return [neuron.name for neuron in layers]


def same(found, wanted):
    for name, counts in wanted.spike_counts.items():
        np.testing.assert_array_equal(found.spike_counts[name], counts)
    assert found.firing_rate == wanted.firing_rate


@pytest.mark.parametrize("largest", [1.0, 0.1, 1e-3, 1e-4, 1e-6])
def test_nearly_silent_channels_are_counted_right(largest):
    snn, x = nearly_silent(largest)
    assert len(coarse_in(snn)) == (largest < 1e-2)
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    for timesteps in (16, 64, 300):
        same(auto.run(x, timesteps, [7]), step.run(x, timesteps))
    rule = EarlyExit(confidence=0.5, stable=1)
    same(auto.run(x, 64, early_exit=rule), step.run(x, 64, early_exit=rule))
    varying = np.stack([x, x / 2, x / 4] * 10)
    same(auto.run(varying, 30), step.run(varying, 30))


def test_potentials_that_begin_far_from_0_are_counted_right():
    """Their rounding is that of a million thresholds."""
    rng = np.random.default_rng(0)
    values = layers(rng, w=(20, 30), v=(30, 20), u=(20, 5)) | {"b": np.zeros(30, np.float32)}
    x = rng.random((40, 20)).astype(np.float32)
    for v_init in (1e6, -1e6):
        ann = model(TWO_LAYERS, values)
        graph = to_graph(convert(ann, calibration=from_arrays(x), recipe="opi").parts)
        for neuron in neuron_nodes(graph):
            started = v_init * neuron.attrs["v_threshold"].values
            neuron.attrs["v_init"] = gs.Constant("", started)
        snn = to_model(graph)
        same(SpikingSession(snn).run(x, 256), SpikingSession(snn, plan="step").run(x, 256))


@pytest.mark.parametrize("bound", [1.0, 1e-3, 1e-5])
def test_currents_of_many_thresholds_are_counted_right(bound):
    """All thresholds are low, so that none is far from the others."""
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "bound": np.float32(bound)}
    values |= layers(rng, w=(30, 40), v=(40, 40), u=(40, 3))
    text = "net (float[N, 30] x) => (float[N, 3] y) { g = MatMul(x, w) a = Clip(g, zero, bound) "
    text += "h = MatMul(a, v) c = Clip(h, zero, bound) y = MatMul(c, u) }"
    snn = convert(model(text, values)).model
    assert len(coarse_in(snn)) == (bound < 1)
    x = rng.random((50, 30)).astype(np.float32)
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    for timesteps in (32, 256):
        same(auto.run(x, timesteps), step.run(x, timesteps))
    blank = np.concatenate([np.zeros((1, *x.shape), np.float32), np.stack([x] * 63)])
    same(auto.run(blank, 64), step.run(blank, 64))


def assert_one_layer_is_coarse(text, values, rng):
    """And counted as one time-step at a time counts it."""
    snn = convert(model(text, values)).model
    assert len(coarse_in(snn)) == 1
    x = rng.random((50, 30)).astype(np.float32)
    same(SpikingSession(snn).run(x, 256), SpikingSession(snn, plan="step").run(x, 256))


@pytest.mark.parametrize("bias", [-1e3, -1e4, -1e6])
def test_channels_that_a_bias_masks_are_counted_right(bias):
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values |= layers(rng, w=(30, 40), v=(40, 40), u=(40, 3))
    values["b"] = np.where(np.arange(40) < 5, bias, 0).astype(np.float32)
    text = "net (float[N, 30] x) => (float[N, 3] y) { g = MatMul(x, w) a = Clip(g, zero, one) "
    text += "h = Gemm(a, v, b) c = Clip(h, zero, one) d = Relu(c) e = MatMul(d, v) "
    text += "f = Clip(e, zero, one) y = MatMul(f, u) }"
    assert_one_layer_is_coarse(text, values, rng)


def test_what_two_layers_make_together_is_counted_right():
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "one": np.float32(1), "low": np.float32(1e-5)}
    values |= layers(rng, w=(30, 40), v=(30, 40), q=(40, 40), u=(40, 3))
    text = "net (float[N, 30] x) => (float[N, 3] y) { g = MatMul(x, w) a = Clip(g, zero, one) "
    text += "h = MatMul(x, v) b = Clip(h, zero, one) c = Sub(a, b) d = Clip(c, zero, low) "
    text += "e = MatMul(d, q) f = Clip(e, zero, low) y = MatMul(f, u) }"
    assert_one_layer_is_coarse(text, values, rng)


@pytest.mark.parametrize(
    "between",
    ["h = MatMul(a, v) k = MatMul(h, q)", "h = MatMul(a, v) k = Mul(h, many)",
     "k = Gemm<alpha = 300.0>(a, v)"],
)  # fmt: skip
def test_layers_without_neurons_between_them_are_counted_right(between):
    """A layer that reads another layer's currents reads as large numbers as these are."""
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "one": np.float32(1), "many": np.float32(200)}
    values |= layers(rng, w=(30, 40), v=(40, 40), q=(40, 40), u=(40, 3))
    values["v"] *= np.float32(25)
    values["q"] *= np.float32(25)
    text = "net (float[N, 30] x) => (float[N, 3] y) { g = MatMul(x, w) a = Clip(g, zero, one) "
    text += f"{between} b = Clip(k, zero, one) y = MatMul(b, u) }}"
    assert_one_layer_is_coarse(text, values, rng)


LARGE = """net (float[N, 4] x) => (float[N, 4] y) {
    g = MatMul(x, w) a = Clip(g, zero, one) h = MatMul(a, v) b = Clip(h, zero, one)
    i = MatMul(b, w) j = Add(i, x) c = Clip(j, zero, one) k = MatMul(c, v)
    d = Clip(k, zero, one) y = MatMul(d, w) }"""


def of_large_inputs(text=LARGE):
    """A network of exact sums whose first and third layer read the input; and such inputs."""
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "one": np.float32(1), "many": np.float32(2**20)}
    values |= {name: rng.integers(-4, 5, (4, 4)).astype(np.float32) / 8 for name in "wv"}
    x = rng.integers(-8, 9, (50, 4)).astype(np.float32) / 8
    return convert(model(text, values)).model, x


def test_large_inputs_are_counted_right():
    """What they make loses whole thresholds; the session cannot know them before it runs."""
    snn, x = of_large_inputs()
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    # Small ones are so before and after.
    for scale in (1, 1e3, 1e5, 1e7, 1, 1e38):
        large = x * np.float32(scale)
        same(auto.run(large, 64), step.run(large, 64))
        each = np.stack([large, x] * 20)
        same(auto.run(each, 40), step.run(each, 40))
    plan = build_plan(snn)
    # The step sums the last layer for the read-out.
    first, second, third, _ = (neuron.spikes for neuron in plan.neurons)
    assert derived_sums_of(plan).made == (first, second, third)
    assert derived_sums_of(plan, dict.fromkeys(plan.step_inputs, 1e5)).made == (second,)
    assert derived_sums_of(plan, dict.fromkeys(plan.step_inputs, 1e38)) is None


def test_inputs_that_a_factor_makes_large_are_counted_right():
    snn, x = of_large_inputs(LARGE.replace("g = MatMul(x, w)", "m = Mul(x, many) g = MatMul(m, w)"))
    same(SpikingSession(snn).run(x, 64), SpikingSession(snn, plan="step").run(x, 64))


def test_an_interrupt_while_a_session_learns_to_count(monkeypatch):
    snn, x = of_large_inputs()
    auto, large = SpikingSession(snn), x * np.float32(1e5)
    with monkeypatch.context() as patched:
        patched.setattr(auto, "_begin", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            auto.run(large, 64)
    same(auto.run(large, 64), SpikingSession(snn, plan="step").run(large, 64))


def test_large_inputs_after_steps():
    """``step`` goes on where it is, and a run begins anew."""
    snn, x = of_large_inputs()
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    large = x * np.float32(1e6)
    for session in (auto, step):
        session.step(x)
    np.testing.assert_array_equal(auto.step(large), step.step(large))
    rule = EarlyExit(stable=3)
    same(auto.run(large, 32, early_exit=rule), step.run(large, 32, early_exit=rule))
    np.testing.assert_array_equal(auto.step(x), step.step(x))


def test_steps_work_no_counts_out(monkeypatch):
    """Which nobody can ask for; those of a run before and of one after are right."""
    monkeypatch.setattr(derived_sums, "MOST_STEPS", 4)
    snn, x = of_large_inputs()
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    for _ in range(9):
        np.testing.assert_array_equal(auto.step(x), step.step(x))
    assert auto._progress.sums._session is None
    before = [session.run(x, 6) for session in (auto, step)]
    for session in (auto, step):
        session.step(x)
        session.state = step.state
        session.step(x)
    same(*before)
    same(auto.run(x, 6), step.run(x, 6))


NEARLY_0 = {"scale": 1, "shift": 0, "mean": 0, "var": 1e-9}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("m = Mul(x, x)", 2**10), ("m = Exp(x)", 2**4), ("m = Add(x, many)", 1),
        ("l = Less(x, zero) m = Where(l, x, many)", 1), ("m = Pow(x, four)", 2**6),
        ("m = BatchNormalization<epsilon = 0.0>(x, scale, shift, mean, var)", 1),
        ("m = LayerNormalization<epsilon = 0.0>(x, gain)", 1),
        ("i = Cast<to = 6>(x) j = Mul(i, large) m = Cast<to = 1>(j)", 1),
        ("t = Transpose(x) p = MatMul(x, t) m = MatMul(p, x)", 2**6),
        ("c = Add(x, x) d = Add(c, c) e = Add(d, d) f = Add(e, e) m = Add(f, f)", 2**8),
    ],
)  # fmt: skip
def test_what_is_made_of_inputs_may_be_large(before, after):
    """What the step reads counts, not what the session is given."""
    text = "net (float[N, 4] x) => (float[N, 4] y) { %s g = MatMul(m, w) a = Clip(g, zero, one) "
    text += "h = MatMul(a, v) b = Clip(h, zero, one) y = MatMul(b, w) }"
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "one": np.float32(1), "many": np.float32(2**21)}
    values |= {"four": np.float32(4), "large": np.int32(2**20), "gain": np.full(4, 2e6, np.float32)}
    values |= {name: rng.integers(-4, 5, (4, 4)).astype(np.float32) / 8 for name in "wv"}
    values |= {name: np.full(4, value, np.float32) for name, value in NEARLY_0.items()}
    x = (rng.integers(-8, 9, (50, 4)) / 8 * after).astype(np.float32)
    snn = convert(model(text % before, values)).model
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    same(auto.run(x, 256), step.run(x, 256))
    assert auto._derived is None or len(auto._derived.made) < 2


def test_indices_are_not_large():
    text = "net (int64[N, 3] k) => (float[N, 3] y) { e = Gather(t, k) s = ReduceMean<axes = [2], "
    text += "keepdims = 0>(e) a = Clip(s, zero, one) h = MatMul(a, w) b = Clip(h, zero, one) "
    text += "y = MatMul(b, w) }"
    values = {"t": np.eye(7, dtype=np.float32), "zero": np.float32(0), "one": np.float32(1)}
    snn = convert(model(text, values | {"w": np.eye(3, dtype=np.float32)})).model
    session = SpikingSession(snn)
    session.run(np.full((2, 3), 6), 8)
    assert len(session._derived.made) == 1
    assert max(session._largest.values(), default=1.0) == 1.0


def test_quotients_do_not_make_layers_coarse():
    values = {"zero": np.float32(0), "one": np.float32(1), "many": np.float32(1e4)}
    values |= layers(np.random.default_rng(0), w=(30, 40), u=(40, 3))
    text = "net (float[N, 30] x) => (float[N, 3] y) { g = MatMul(x, w) a = Clip(g, zero, one) "
    text += "h = Div(a, many) i = Mul(h, many) b = Clip(i, zero, one) y = MatMul(b, u) }"
    assert not coarse_in(convert(model(text, values)).model)


@pytest.mark.parametrize("far", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("seed", range(12))
def test_sums_of_any_layers_may_be_left_to_the_step(monkeypatch, seed, far):
    """Dyadic networks, of which the layers whose weights have a larger norm are summed."""
    monkeypatch.setattr(derived_sums, "FAR", far)
    network = dyadic.finish(seed)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 3)
    plan = build_plan(snn)
    followed = derived_sums_of(plan)
    if far == 0:
        assert followed is None
    elif followed is not None:
        made = set(followed.made)
        assert not made & {neuron.spikes for neuron in coarse_of(plan)}
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    for timesteps in (1, 6, 35):
        same(auto.run(x, timesteps, [1]), step.run(x, timesteps))


LAYERS = {
    "Conv": ("Conv<group = 2>(a, w)", (6, 2, 3, 3), lambda w: abs(w).sum((1, 2, 3))),
    "ConvTranspose": ("ConvTranspose<group = 2>(a, w)", (4, 3, 3, 3), lambda w: np.concatenate(
        [abs(half).sum((0, 2, 3)) for half in np.split(w, 2)]
    )),
    "through a pool": ("Conv<group = 2>(p, w)", (6, 2, 3, 3), lambda w: abs(w).sum((1, 2, 3))),
}  # fmt: skip


def reach_of_last(snn):
    plan = build_plan(snn)
    return currents_in_thresholds(plan, CONSERVING)[plan.neurons[-1].name]


@pytest.mark.parametrize("name", LAYERS)
def test_sums_of_weights(name):
    layer, shape, sums = LAYERS[name]
    values = {"w": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    values |= {n: np.float32(v) for n, v in (("zero", 0), ("two", 2))}
    text = "net (float[N, 4, 8, 8] x) => (float[N, C, H, W] y) { a = Clip(x, zero, two) "
    text += "p = AveragePool<kernel_shape = [2, 2]>(a) z = %s h = Relu(z) y = Min(h, bounds) }"
    values["bounds"] = np.float32([3, 0.5, 2.5, 2, 1.5, 1]).reshape(6, 1, 1)
    # In V_th of each channel, for each of the layer before, 2.
    wanted = (2 * sums(values["w"]) / values["bounds"].ravel()).max()
    assert reach_of_last(convert(model(text % layer, values)).model) == pytest.approx(wanted)


@pytest.mark.parametrize(("attributes", "axis"), [("transB = 1", 1), ("transB = 0", 0)])
def test_sums_of_dense_layers_with_thresholds_of_channels(attributes, axis):
    w = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    bounds, b = np.linspace(1, 2, 7).astype(np.float32), np.linspace(-3, 3, 7).astype(np.float32)
    text = "net (float[N, 7] x) => (float[N, 7] y) { a = Relu(x) c = Min(a, k) "
    text += "g = Gemm<%s>(c, w, b) h = Relu(g) y = Min(h, k) }"
    snn = convert(model(text % attributes, {"w": w, "b": b, "k": bounds})).model
    wanted = ((2 * abs(w).sum(axis) + abs(b)) / bounds).max()
    assert reach_of_last(snn) == pytest.approx(wanted)


BETWEEN = {
    "two layers": ("g = MatMul(a, w) h = MatMul(g, v)", 24 * 24 * 2),
    "weights first": ("l = Unsqueeze(a, last) g = MatMul(w, l) h = Squeeze(g, last)", 24),
    "weights first, of rows": ("l = Unsqueeze(a, last) g = MatMul(rows, l) i = Add(g, many) "
                               "p = Slice(i, none, first, last) h = Squeeze(p, last)", 24 + 40),
    "a sum": ("g = ReduceSum(a, first) h = Add(g, many)", np.inf),
    "what is added": ("g = MatMul(a, w) i = MatMul(a, v) h = Add(g, i)", 24 + 24 * 2),
    "a constant": ("g = MatMul(a, w) h = Sub(g, many)", 24 + 40),
    "a quotient": ("g = MatMul(a, w) h = Div(g, ten)", 24 / 10),
    "a mean": ("g = MatMul(a, w) l = Unsqueeze(g, last) i = ReduceMean<axes = [2]>(l) "
               "h = Reshape(i, all)", 24),
    "a vector": ("l = Unsqueeze(a, first) g = MatMul(l, ones) h = Add(g, many)", 24 + 40),
    "no initializer added": ("g = MatMul(a, w) h = Gemm<beta = 2.0>(a, v, g)", 24 * 2 + 2 * 24),
    "silence after a sum": ("g = ReduceSum(a, first) i = MatMul(g, nothing) "
                            "h = Concat<axis = 1>(i, i)", np.inf),
    "sizes": ("s = Shape(a) g = Mul(a, ten) h = Expand(g, s)", 10),
    "a constant in a size": ("s = Shape(a) g = Expand(ten, s) h = Add(a, g)", 1 + 10),
    "a constant cut to a size": ("s = Shape<end = 1>(a) g = Slice(rows, none, s, none) "
                                 "h = Add(a, g)", 1 + 24),
    "padded with a constant": ("g = Pad(a, pads, ten) h = MatMul(g, more)", 26 * 10),
    "a factor made of a size": ("s = Shape<end = 1>(a) g = Cast<to = 1>(s) h = Mul(a, g)", np.inf),
    "a term made of a size": ("s = Shape<end = 1>(a) g = Cast<to = 1>(s) h = Add(a, g)", np.inf),
    "what a size is in": ("s = Shape<end = 1>(a) g = Cast<to = 1>(s) i = Expand(g, s) "
                          "l = Unsqueeze(i, first) k = Concat<axis = 1>(a, l) "
                          "h = MatMul(k, most)", np.inf),
    "a layer of a size": ("s = Shape(a) g = Cast<to = 1>(s) i = Expand(g, ends) "
                          "l = MatMul(i, wide) h = Add(a, l)", np.inf),
    "all parts": ("g = Mul(a, ten) i, j = Split<axis = 1>(g) k = Mul(j, ten) "
                  "h = Concat<axis = 1>(i, k)", 100),
    "parts": ("g = Mul(a, ten) i = Concat<axis = 1>(g, a) h = Slice(i, none, size, first)", 10),
}  # fmt: skip


@pytest.mark.parametrize("few", [2**16, 4])
@pytest.mark.parametrize("name", BETWEEN)
def test_how_large_what_is_between_neurons_may_be(name, few, monkeypatch):
    """Place by place, or, of many places, by the largest of all."""
    monkeypatch.setattr(reach, "_FEW", few)
    body, wanted = BETWEEN[name]
    values = {"w": np.full((24, 24), -1, np.float32), "v": np.full((24, 24), 2, np.float32)}
    values |= {"zero": np.float32(0), "one": np.float32(1), "ten": np.float32(10)}
    values |= {"last": np.array([2]), "first": np.array([1]), "all": np.array([0, 24])}
    values |= {"none": np.array([0]), "size": np.array([24])}
    values |= {"many": np.linspace(-40, 0, 24, dtype=np.float32), "ones": np.ones(24, np.float32)}
    values |= {"more": np.ones((26, 24), np.float32), "most": np.ones((25, 24), np.float32)}
    values |= {"wide": np.ones((2, 24), np.float32), "ends": np.array([1, 2])}
    values |= {"pads": np.array([0, 1, 0, 1])}
    values["nothing"] = np.zeros((1, 12), np.float32)
    values["rows"] = np.diag(np.arange(1, 25, dtype=np.float32))
    text = "net (float[N, 24] x) => (float[N, K] y) { a = Clip(x, zero, one) %s "
    text += "b = Clip(h, zero, one) c = MatMul(b, w) d = Clip(c, zero, one) y = Identity(d) }"
    plan = build_plan(convert(model(text % body, values)).model)
    assert currents_in_thresholds(plan, CONSERVING)["b"] == pytest.approx(wanted)


def test_biases_of_rows_are_no_biases_of_channels():
    text = "net (float[2, 2] x) => (float[2, 2] y) { a = Clip(x, zero, one) g = Gemm(a, w, b) "
    text += "h = Clip(g, zero, one) y = Neg(h) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "b": np.float32([[0], [3]])}
    snn = convert(model(text, values | {"w": np.float32([[1, 0], [1, 0]])})).model
    assert reach_of_last(snn) == 2 + 3


def test_pools_mix_what_differs_by_place():
    text = "net (float[N, 1, 1, 4] x) => (float[N, 1, 1, 4] y) { a = Clip(x, zero, one) "
    text += "g = Add(a, last) p = AveragePool<kernel_shape = [1, 3], pads = [0, 1, 0, 1]>(g) "
    text += "h = Add(p, third) y = Clip(h, zero, one) }"
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values |= {"last": np.float32([0, 0, 0, 8]), "third": np.float32([0, 0, 8, 0])}
    assert reach_of_last(convert(model(text, values)).model) == 1 + 8 + 8


def test_pools_mix_no_channels():
    text = "net (float[N, 2, 4, 4] x) => (float[N, 2, 2, 2] y) { a = Clip(x, zero, one) "
    text += "g = Mul(a, first) p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(g) "
    text += "h = Mul(p, last) y = Clip(h, zero, one) }"
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values |= {"first": np.float32([[[8]], [[1]]]), "last": np.float32([[[1]], [[8]]])}
    assert reach_of_last(convert(model(text, values)).model) == 8


def test_quotients_of_channels():
    """Of files as others write them."""
    text = "net (float[N, 3] x) => (float[N, 3] y) { a = Clip(x, zero, one) "
    text += "g = Mul(a, factors) y = Clip(g, zero, one) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "factors": np.float32([0.5, -0.25, -8])}
    plan = build_plan(convert(model(text, values)).model)
    last = plan.neurons[-1]
    (product,) = (node for node in plan.step.graph.node if last.current in node.output)
    product.op_type = "Div"
    assert currents_in_thresholds(plan, CONSERVING)[last.name] == 4


def test_factors_of_a_layer_count():
    """Of files as others write them."""
    text = "net (float[N, 4] x) => (float[N, 4] y) { a = Clip(x, zero, one) g = Gemm(a, w, b) "
    text += "c = Clip(g, zero, one) y = Neg(c) }"
    values = {"w": np.full((4, 4), -1, np.float32), "b": np.full(4, 2, np.float32)}
    values |= {"zero": np.float32(0), "one": np.float32(1)}
    plan = build_plan(convert(model(text, values)).model)
    (layer,) = (node for node in plan.step.graph.node if node.op_type == "Gemm")
    for name, factor in (("alpha", -3.0), ("beta", -5.0)):
        del layer.attribute[:]
        layer.attribute.append(onnx.helper.make_attribute(name, factor))
        wanted = {"alpha": 3 * 4 + 2, "beta": 4 + 5 * 2}[name]
        assert currents_in_thresholds(plan, CONSERVING)["c"] == wanted


@pytest.mark.parametrize(("mode", "wanted"), [("linear", 1), ("cubic", np.inf)])
def test_only_cubic_images_overshoot(mode, wanted):
    text = "net (float[N, 1, 6, 6] x) => (float[N, 1, 12, 12] y) { a = Clip(x, zero, one) "
    text += f'b = Resize<mode = "{mode}">(a, , , size) y = Clip(b, zero, one) }}'
    values = {"zero": np.float32(0), "one": np.float32(1), "size": np.array([1, 1, 12, 12])}
    assert reach_of_last(convert(model(text, values)).model) == wanted


def test_constants_of_a_computed_shape_are_known():
    """As torch.zeros of an open batch size, by which a shortcut is widened."""
    text = "net (float[N, 2] x) => (float[N, 5] y) { a = Clip(x, zero, one) "
    text += "n = Shape<start = 0, end = 1>(a) s = Concat<axis = 0>(n, three) "
    text += "c = ConstantOfShape<value = float[1] {-2.0}>(s) h = Concat<axis = 1>(a, c) "
    text += "y = Clip(h, zero, one) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "three": np.array([3])}
    assert reach_of_last(convert(model(text, values)).model) == 2


def test_what_is_beyond_an_image_may_be_larger():
    text = "net (float[N, 1, 6, 6] x) => (float[N, 1, 6, 6] y) { a = Clip(x, zero, one) "
    text += 'b = Resize<coordinate_transformation_mode = "tf_crop_and_resize", mode = "linear", '
    text += "extrapolation_value = 50.0>(a, part, , size) y = Clip(b, zero, one) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "size": np.array([1, 1, 6, 6])}
    values["part"] = np.float32([0, 0, 0, 0, 1, 1, 2, 2])
    assert reach_of_last(convert(model(text, values)).model) >= 50


def test_bursts_are_so_many_spikes_at_once():
    rng = np.random.default_rng(0)
    values = layers(rng, w=(20, 30), v=(30, 20), u=(20, 5)) | {"b": np.zeros(30, np.float32)}
    x = rng.random((40, 20)).astype(np.float32)
    ann = model(TWO_LAYERS, values)
    made = [
        convert(ann, calibration=from_arrays(x), recipe=name) for name in ("robust-norm", "burst")
    ]
    single, bursts = (reach_of_last(conversion.model) for conversion in made)
    assert bursts == pytest.approx(5 * single)


def test_inputs_that_grow_are_looked_at_sooner():
    """Though the same layers follow from states, of which no graph is made anew."""
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(3, dtype=np.float32)}
    text = "net (float[N, 3] x) => (float[N, 3] y) { a = Clip(x, zero, one) "
    text += "c = Concat<axis = 1>(a, x) s = Slice(c, three, six, first) d = Add(a, s) "
    text += "e = Clip(d, zero, one) f = MatMul(e, w) g = Clip(f, zero, one) y = MatMul(g, w) }"
    values |= {"three": np.array([3]), "six": np.array([6]), "first": np.array([1])}
    snn = convert(model(text, values)).model
    auto, step = SpikingSession(snn), SpikingSession(snn, plan="step")
    progress, rooms = auto._progress, []
    for size in (1, 20, 120):
        x = np.full((2, 3), size, np.float32)
        same(auto.run(x, 4), step.run(x, 4))
        rooms.append(auto._progress.sums._most_at_start)
    assert auto._progress is progress
    assert rooms == [256, 256, 128]
    growing = np.linspace(0, 250, 300, dtype=np.float32)[:, None, None] * np.ones(
        (1, 2, 3), np.float32
    )
    auto = SpikingSession(snn)
    same(auto.run(growing, 300, [7, 150]), step.run(growing, 300, [7, 150]))


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_counts_of_very_long_runs(plan):
    """Sums of 0.1 in float32 are off by a term after some thousands."""
    text = "net (float[N, 2] x) => (float[N, 2] y) { a = Clip(x, zero, bound) y = MatMul(a, u) }"
    values = {"zero": np.float32(0), "bound": np.float32(0.1), "u": np.eye(2, dtype=np.float32)}
    session = SpikingSession(convert(model(text, values), v_init=0.5).model, plan=plan)
    (counts,) = session.run(np.array([[0.2, -1]], np.float32), 20_000).spike_counts.values()
    np.testing.assert_array_equal(counts, [[20_000, 0]])


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_channels_that_a_constant_masks_behind_a_shortcut_are_counted_right(op):
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values |= layers(rng, w=(30, 40), v=(40, 40), u=(40, 3))
    mask = np.where(np.arange(40) < 5, 1e5, 0).astype(np.float32)
    values["b"] = -mask if op == "Add" else mask
    text = "net (float[N, 30] x) => (float[N, 3] y) { g = MatMul(x, w) a = Clip(g, zero, one) "
    text += f"h = MatMul(a, v) i = Add(h, a) j = {op}(i, b) c = Clip(j, zero, one) "
    text += "y = MatMul(c, u) }"
    assert_one_layer_is_coarse(text, values, rng)


@pytest.mark.parametrize("times", [200, -200])
def test_potentials_that_run_away_are_brought_in_sooner(times):
    """In the channel of the lowest threshold alone; v rounds more and more there."""
    text = "net (float[N, 3] x) => (float[N, 3] y) { g = Mul(x, w) a = Relu(g) h = MatMul(a, u) "
    text += "b = Relu(h) y = MatMul(b, u) }"
    ann = model(text, {"w": np.ones(3, np.float32), "u": np.eye(3, dtype=np.float32)})
    largest = np.array([[1, 0.1, 0.03]], np.float32)
    snn = convert(ann, calibration=from_arrays(largest), recipe="opi").model
    x = np.array([[0, 0, times * 0.03 * 8 / 7]], np.float32)
    auto, step = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(auto.run(x, 3000), step.run(x, 3000))


def test_sizes_that_whole_numbers_divide():
    """They are no potentials, and integers have no infinity."""
    text = "net (float[N, 2, H, 6] x) => (float[N, 3, G, 6] y) { a = Clip(x, zero, one) "
    text += "s = Shape<start = 2, end = 3>(a) h = Div(s, two) b = Slice(a, zeroth, h, two) "
    text += "c = Conv(b, w) y = Clip(c, zero, one) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "two": np.array([2])}
    values |= {"zeroth": np.array([0]), "w": dyadic.weights(np.random.default_rng(0), 3, 2, 1, 1)}
    snn = convert(model(text, values)).model
    x = (np.random.default_rng(1).integers(0, 9, (3, 2, 8, 6)) / 8).astype(np.float32)
    auto, step = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(auto.run(x, 21), step.run(x, 21))


@pytest.mark.parametrize(
    ("weight", "bound"), [(-0.05, 0.05), (-0.05, 0.02), (0.03, 0.02), (-0.2, 0.05)]
)
def test_currents_that_all_add_up_are_counted_right(weight, bound):
    """A thousand times V_th where the norm of the weights is a few dozen."""
    rng = np.random.default_rng(5)
    values = {n: np.float32(v) for n, v in (("zero", 0), ("one", 1), ("low", bound))}
    values |= {"i": np.ones((1, 2048), np.float32), "r": np.eye(3, dtype=np.float32)}
    values["w"] = (weight + 0.03 * rng.normal(size=(2048, 16))).astype(np.float32)
    values["u"] = rng.normal(size=(16, 3)).astype(np.float32)
    text = "net (float[N, 2048] x) => (float[N, 3] y) { g = Mul(x, i) p = Clip(g, zero, one) "
    text += "q = MatMul(p, w) a = Clip(q, zero, low) h = MatMul(a, u) b = Clip(h, zero, one) "
    text += "y = MatMul(b, r) }"
    snn = convert(model(text, values)).model
    x = np.ones((2, 2048), np.float32)
    for timesteps in (64, 256):
        same(
            SpikingSession(snn).run(x, timesteps),
            SpikingSession(snn, plan="step").run(x, timesteps),
        )


@pytest.mark.parametrize("made", ["Mul(e, e)", "Sin(e)", "Where(m, e, zero)"])
def test_what_takes_the_shape_of_spikes_need_not_be_affine(made):
    """It is computed in the step, of an input whose sum over time says nothing of it."""
    rng = np.random.default_rng(0)
    values = {n: (rng.integers(-8, 9, (4, 4)) / 16).astype(np.float32) for n in "wu"}
    values |= {"zero": np.float32(0), "one": np.float32(1)}
    text = "net (float[N, 4] x, float[N, 1] z, bool[N, 1] m) => (float[N, 4] y) { "
    text += "g = MatMul(x, w) a = Clip(g, zero, one) s = Shape(a) e = Expand(z, s) "
    text += f"q = {made} h = MatMul(a, u) k = Add(h, q) c = Clip(k, zero, one) "
    text += "l = MatMul(c, u) o = Clip(l, zero, one) y = MatMul(o, u) }"
    snn = convert(model(text, values)).model
    x = {
        name: (rng.integers(0, 17, (5, n)) / 16).astype(np.float32)
        for name, n in (("x", 4), ("z", 1))
    }
    x["m"] = x["z"] > 0.5
    for timesteps in (1, 4, 33):
        same(
            SpikingSession(snn).run(x, timesteps),
            SpikingSession(snn, plan="step").run(x, timesteps),
        )


@pytest.mark.parametrize("shape", [(), (3,), (3, 1, 1), (1, 4, 5), (3, 4, 5)])
def test_how_far_potentials_are_in_thresholds(shape):
    rng = np.random.default_rng(0)
    v = rng.normal(size=(2, 3, 4, 5) if len(shape) != 1 else (2, 3)).astype(np.float32)
    threshold = rng.uniform(0.1, 2, shape).astype(np.float32)
    assert _in_thresholds(v, threshold) == pytest.approx(np.abs(v / threshold).max())
    assert _in_thresholds(np.full((1,) * v.ndim, -3.0), threshold) == 3 / threshold.min()


def test_sums_are_worked_out_in_the_groups_that_ran():
    states = {"a": np.zeros((5, 2)), "b": np.zeros(5)}
    assert _groups(states, 2) == (5, [slice(0, 1), slice(1, 3), slice(3, 5)])
    assert _groups(states, 5) == (0, [slice(None)])
    for other in (np.zeros((10, 2)), np.zeros(())):
        # Rows that are no samples: all ran together.
        assert _groups(states | {"c": other}, 5) == (0, [slice(None)])
