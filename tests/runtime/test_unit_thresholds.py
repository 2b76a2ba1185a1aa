"""Chunks count potentials in thresholds: weights take them, and nothing else of them is left."""

from dataclasses import replace
from functools import partial

import dyadic
import numpy as np
import onnx
import pytest
from alike import same
from onnx import numpy_helper
from onnx_text import model

from onnx2snn import Neuron, SpikingSession, convert, from_arrays, recipe_by_name
from onnx2snn.runtime import time_steps
from onnx2snn.runtime.layers.scaled_weights import is_long
from onnx2snn.runtime.layers.unit_steps import rescaled
from onnx2snn.runtime.layers.unit_thresholds import with_unit_thresholds
from onnx2snn.runtime.plans.plan import build_plan
from onnx2snn.runtime.plans.unroll import unrolled
from onnx2snn.runtime.precision import PlanInPrecision

RESIDUAL = (
    "net (float[N, 4, 6, 6] x) => (float[N, 3] y) { "
    "a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) c = Relu(a) d = Min(c, first) "
    "e = Conv<pads = [1, 1, 1, 1]>(d, w2, b2) f = Add(e, d) g = Add(f, shift) "
    "h = Relu(g) i = Min(h, second) "
    "j = GlobalAveragePool(i) k = Flatten(j) y = Gemm(k, w3) }"
)


def residual(first, second):
    weights = partial(dyadic.weights, np.random.default_rng(0))
    values = {
        "w1": weights(4, 4, 3, 3), "b1": weights(4), "w2": weights(4, 4, 3, 3), "b2": weights(4),
        "w3": weights(4, 3), "shift": weights(1, 4, 1, 1),
    }  # fmt: skip
    for name, threshold in (("first", first), ("second", second)):
        values[name] = np.array(threshold, np.float32).reshape(-1, 1, 1)
    return convert(model(RESIDUAL, values)).model, values


def unit_step(snn):
    plan = build_plan(snn)
    states = [*plan.states, *plan.sums.values()]
    return plan, with_unit_thresholds(plan.step, PlanInPrecision(plan), states, pools=True), states


def held(unit, name):
    inline = {t.name: numpy_helper.to_array(t) for t in unit.step.graph.initializer
              if t.data_location != onnx.TensorProto.EXTERNAL}  # fmt: skip
    return unit.weights[name] if name in unit.weights else inline[name]


EACH = [0.5, 1, 2, 4], [2, 0.25, 1, 8]


def test_weights_take_the_thresholds():
    snn, values = residual(*EACH)
    plan, unit, _ = unit_step(snn)
    conv = next(node for node in unit.step.graph.node if node.name == plan_conv(plan).name)
    before, after = (np.array(values[name]).reshape(-1) for name in ("first", "second"))
    wanted = values["w2"] * before[:, np.newaxis, np.newaxis] / after.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(held(unit, conv.input[1]), wanted)
    bias = (values["b2"] + values["shift"].reshape(-1)) / after
    np.testing.assert_array_equal(held(unit, conv.input[2]), bias)


def plan_conv(plan):
    return next(node for node in plan.step.graph.node if node.op_type == "Conv")


@pytest.mark.parametrize("thresholds", [EACH, ([2.0], [2.0]), ([2.0], [0.5])])
def test_nothing_else_is_multiplied(thresholds):
    """A shortcut, from neurons of other thresholds, by a convolution, which keeps the layout."""
    snn, _ = residual(*thresholds)
    _, unit, _ = unit_step(snn)
    onnx.checker.check_model(unit.step)
    ops = [node.op_type for node in unit.step.graph.node]
    alike = thresholds[0] == thresholds[1]
    assert ops.count("Conv") == (1 if alike else 2)
    assert ops.count("HardSigmoid") == 2
    # u = v + current, twice, and the shortcut; sums over time.
    assert ops.count("Add") == 3 + 2
    assert not {"Mul", "Greater", "Cast", "CastLike"} & set(ops)
    assert len(unit.bodies) == 2


@pytest.mark.parametrize(
    "thresholds", [EACH, ([2.0], [2.0]), ([2.0], [0.5]), ([4.0], [1, 2, 1, 2])]
)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_sessions_give_the_same_spikes(monkeypatch, thresholds, precision):
    monkeypatch.setattr("onnx2snn.runtime.layers.int8.WORTH", np.inf)
    snn, _ = residual(*thresholds)
    x = (np.random.default_rng(1).integers(-16, 17, (3, 4, 6, 6)) / 8).astype(np.float32)
    chunked = SpikingSession(snn, threads=1, precision=precision)
    same(chunked.run(x, 23, [6]), SpikingSession(snn, threads=1, plan="step").run(x, 23, [6]))
    assert {key.steps for key in chunked._progress.time_steps.sessions} == {1, 6, 16}


def test_states_are_in_the_units_of_the_file():
    snn, _ = residual(*EACH)
    _, unit, states = unit_step(snn)
    chunk = rescaled(unrolled(unit.step, states, 4, {}), unit.units, states)
    onnx.checker.check_model(chunk)
    ops = [node.op_type for node in chunk.graph.node]
    # Two potentials and two sums come in and go out; currents of the first layer come in.
    assert ops.count("Mul") == 5 + 4
    assert {info.name for info in chunk.graph.output} == {state.written for state in states}


@pytest.mark.parametrize("theta", [0.75, 1.0])
def test_thresholds_that_would_round_exact_sums_stay(theta):
    """3/4 is exact in float32, 4/3 is not."""
    snn, _ = residual([theta], [theta])
    _, unit, _ = unit_step(snn)
    left = {n.op_type for n in unit.step.graph.node} & {"Mul"}
    assert bool(left) == (theta != 1)
    assert len(unit.bodies) == 2
    x = (np.random.default_rng(1).integers(-16, 17, (3, 4, 6, 6)) / 8).astype(np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 23), stepped.run(x, 23))


def test_weights_of_all_bits_take_any_threshold():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 4, 3, 3)).astype(np.float32)
    text = (
        "net (float[N, 4, 6, 6] x) => (float[N, 4, 4, 4] y) { "
        "c = Clip(x, zero, theta) d = Conv(c, w) y = Clip(d, zero, theta) }"
    )
    values = {"zero": np.float32(0), "theta": np.float32(0.7), "w": weights}
    snn = convert(model(text, values)).model
    _, unit, _ = unit_step(snn)
    np.testing.assert_allclose(held(unit, "w"), weights, rtol=1e-6)
    assert not {node.op_type for node in unit.step.graph.node} & {"Greater", "Mul"}
    x = rng.random((5, 4, 6, 6), dtype=np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    found, wanted = chunked.run(x, 32), stepped.run(x, 32)
    for name, rates in wanted.firing_rates.items():
        np.testing.assert_allclose(found.firing_rates[name], rates, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_signed_neurons_take_spikes_back_as_before(seed):
    network = dyadic.finish(seed)
    x = dyadic.images(network, 8)
    snn = convert(
        dyadic.to_onnx(network), calibration=from_arrays(x), recipe="signed", timesteps=8
    ).model
    for node in snn.graph.node:
        for attribute in node.attribute:
            if attribute.name == "v_negative":
                below = np.zeros_like(numpy_helper.to_array(attribute.t))
                attribute.t.CopyFrom(numpy_helper.from_array(below, attribute.t.name))
            if attribute.name == "v_threshold":
                level = np.exp2(np.round(np.log2(numpy_helper.to_array(attribute.t))))
                attribute.t.CopyFrom(numpy_helper.from_array(level, attribute.t.name))
    _, unit, _ = unit_step(snn)
    assert not [node for node in unit.step.graph.node if node.op_type == "SignedIF"]
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 23, [6]), stepped.run(x, 23, [6]))


ENDLESS = {
    "a logarithm of 0": "r = Log(x) c = Clip(r, zero, one) k = MatMul(c, w) ",
    "a mask of the least": "c = Clip(x, zero, one) a = MatMul(c, w) k = Add(a, mask) ",
    "a mask cut to a size": "c = Clip(x, zero, one) n = Shape<end = 1>(c) a = MatMul(c, w) "
                            "m = Slice(masks, none, n, none) k = Add(a, m) ",
    "a mask in a shape": "c = Clip(x, zero, one) n = Shape(c) a = MatMul(c, w) "
                         "m = Expand(mask, n) k = Add(a, m) ",
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_spikes_are_taken_back_beside_infinite_potentials(name):
    text = f"net (float[N, 4] x) => (float[N, 4] y) {{ {ENDLESS[name]} y = Clip(k, zero, one) }}"
    least = np.finfo(np.float32).min
    values = {
        "zero": np.float32(0), "one": np.float32(1), "mask": np.float32([0, least, 0, least]),
        "masks": np.float32([[0, least, 0, least]] * 8), "none": np.array([0]),
        "w": dyadic.weights(np.random.default_rng(0), 4, 4),
    }  # fmt: skip
    signed = replace(recipe_by_name("opi"), neuron=Neuron("SignedIF", negative=0))
    snn = convert(model(text, values), recipe=signed).model
    x = np.float32([[0, 1, 2, 4], [1, 0, 1, 0]])
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 20), stepped.run(x, 20))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1, 6], ids=["in a bias", "of places"])
def test_masks_beyond_float32_are_infinite_without_a_word(size):
    _, values = residual(0.25, 0.5)
    values["shift"] = np.full((1, 4, size, size), np.finfo(np.float32).min)
    snn = convert(model(RESIDUAL, values)).model
    x = dyadic.weights(np.random.default_rng(1), 2, 4, 6, 6)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 20), stepped.run(x, 20))


def test_potentials_behind_spikes_stay_finite():
    """Of a layer that reads spikes alone a product says what there is to take back."""
    signed = replace(recipe_by_name("opi"), neuron=Neuron("SignedIF", negative=0))
    _, values = residual(*EACH)
    snn = convert(model(RESIDUAL, values), recipe=signed).model
    _, unit, _ = unit_step(snn)
    made = [node.op_type for body in unit.bodies for node in body.nodes]
    assert made.count("Min") == made.count("Mul") == 1


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_bursts_of_either_sign_as_before(seed, most):
    network = dyadic.finish(seed)
    bursts = Neuron("SignedBurstIF", max_spikes=most)
    snn = convert(
        dyadic.to_onnx(network), recipe=replace(recipe_by_name("opi"), neuron=bursts)
    ).model
    _, unit, _ = unit_step(snn)
    assert not [node for node in unit.step.graph.node if node.op_type == "SignedBurstIF"]
    x = dyadic.images(network, 8)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 23, [6]), stepped.run(x, 23, [6]))
    chunked.state = stepped.state
    for _ in range(3):
        np.testing.assert_array_equal(chunked.step(x), stepped.step(x))


@pytest.mark.parametrize("known", [True, False])
def test_pools_keep_their_maxima_where_sizes_are_known(monkeypatch, known):
    """Elsewhere they start with a sum of one number, which has no maxima of windows."""
    text = (
        "net (float[N, 2, 8, 8] x) => (float[N, 3] y) { "
        "a = Conv(x, w1) b = Clip(a, zero, one) p = MaxPool<kernel_shape = [2, 2]>(b) "
        "c = Conv(p, w2) d = Clip(c, zero, one) f = Flatten(d) y = Gemm(f, w3) }"
    )
    rng = np.random.default_rng(0)
    weights = partial(dyadic.weights, rng)
    values = {
        "zero": np.float32(0), "one": np.float32(1), "w1": weights(2, 2, 3, 3),
        "w2": weights(2, 2, 3, 3), "w3": weights(18, 3),
    }  # fmt: skip
    snn = convert(model(text, values), maxpool="exact").model
    if not known:
        monkeypatch.setattr(time_steps, "shapes_read", lambda *_: {})
    made = []
    rescale = time_steps.rescaled
    monkeypatch.setattr(time_steps, "rescaled", lambda *a: made.append(rescale(*a)) or made[-1])
    x = (rng.integers(-8, 9, (3, 2, 8, 8)) / 8).astype(np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 23, [6]), stepped.run(x, 23, [6]))
    assert made
    pools = {node.op_type for chunk in made for node in chunk.graph.node if "Pool" in node.op_type}
    assert pools == ({"MaxPool"} if known else {"SpikingMaxPool"})


def test_pools_in_float16_between_neurons_in_float32():
    text = (
        "net (float[N, 2, 8, 8] x) => (float[N, 2, 5, 5] y) { a = Conv(x, w) "
        "b = Clip(a, zero, two) h = Cast<to = 10>(b) p = MaxPool<kernel_shape = [2, 2]>(h) "
        "c = Cast<to = 1>(p) y = Clip(c, zero, half) }"
    )
    rng = np.random.default_rng(0)
    values = {"zero": np.float32(0), "half": np.float32(0.5), "two": np.float32(2)}
    values["w"] = dyadic.weights(rng, 2, 2, 3, 3)
    snn = convert(model(text, values), maxpool="exact").model
    x = (rng.integers(-8, 9, (3, 2, 8, 8)) / 8).astype(np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 23, [6]), stepped.run(x, 23, [6]))
    assert chunked.chosen(x).chunks


@pytest.mark.parametrize(
    ("weights", "long"),
    [
        ([0.0, 0.0], False),
        ([1.0, 0.75], False),
        ([2**-21, 1.5], False),
        ([2**-22, 1.5], True),
        ([3 * 2**-17, -3.0], False),
        ([0.1], True),
        (np.random.default_rng(0).normal(size=50), True),
    ],
)
def test_weights_whose_sums_may_be_exact(weights, long):
    assert is_long(np.float32(weights)) == long


@pytest.mark.parametrize("digits", [14, 17, 19])
def test_sums_that_are_exact_in_many_digits_stay_so(digits):
    # Currents of 0.75 / 2 and more: every second time-step is a tie.
    rng, half = np.random.default_rng(digits), 2 ** (digits + 1)
    some = (rng.integers(-half, half, (7, 200)) / 2**digits).astype(np.float32)
    w = np.concatenate([some, -some])
    w[-1] += np.float32(0.375)
    values = {
        "one": np.eye(14, dtype=np.float32), "w": w, "v": np.ones((200, 1), np.float32),
        "zero": np.float32(0), "first": np.float32(1), "second": np.float32(0.75),
    }  # fmt: skip
    snn = convert(
        model(
            "net (float[N, 14] x) => (float[N, 1] y) { a = MatMul(x, one) b = Clip(a, zero, first) "
            "c = MatMul(b, w) d = Clip(c, zero, second) y = MatMul(d, v) }",
            values,
        )
    ).model
    x = np.ones((2, 14), np.float32)
    runs = [SpikingSession(snn, plan=plan, threads=1).run(x, 33) for plan in ("auto", "step")]
    same(*runs)
    assert (runs[0].spike_counts["d"] == 16).all()


SHARED = {
    "a layer that others read takes in no constant": (
        "e = Conv(c, w) g = Add(e, shift) h = Clip(g, zero, one) k = Clip(e, zero, one) "
        "y = Add(h, k)"
    ),
    "layers that share weights behind other thresholds": (
        "e = Conv(c, w) h = Clip(e, zero, half) f = Conv<pads = [1, 1, 1, 1]>(h, w) "
        "y = Clip(f, zero, two)"
    ),
    "an input of two thresholds": (
        "h = Clip(x, zero, half) e = Conv(c, w) f = Conv(h, v) g = Add(e, f) y = Clip(g, zero, one)"
    ),
    "a layer of two thresholds": (
        "e = Conv(c, w) h = Clip(e, zero, half) k = Clip(e, zero, two) y = Add(h, k)"
    ),
    "a sum of two thresholds": (
        "e = Conv(c, w) f = Conv(c, v) g = Add(e, f) h = Clip(g, zero, half) "
        "k = Clip(g, zero, two) y = Add(h, k)"
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_has_several_readers(name):
    text = "net (float[N, 4, 6, 6] x) => (float[N, 4, 4, 4] y) {{ c = Clip(x, zero, two) {} }}"
    weights = partial(dyadic.weights, np.random.default_rng(0))
    values = {key: np.float32(v) for key, v in (("zero", 0), ("half", 0.5), ("one", 1), ("two", 2))}
    values |= {"w": weights(4, 4, 3, 3), "shift": weights(1, 4, 1, 1), "v": weights(4, 4, 3, 3)}
    snn = convert(model(text.format(SHARED[name]), values)).model
    x = (np.random.default_rng(1).integers(-16, 17, (3, 4, 6, 6)) / 8).astype(np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 23, [6]), stepped.run(x, 23, [6]))


ELSEWHERE = {
    "a matrix along another axis": "f = MatMul(d, m)",
    "one channel beside many": "e = Conv(d, u) k = Clip(e, zero, two) g = Conv(d, v) f = Add(k, g)",
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_as_many_numbers_as_channels_that_are_none(name):
    text = (
        "net (float[N, 4, 6, 4] x) => (float[N, 4, 6, 4] y) { c = Relu(x) d = Min(c, first) "
        f"{ELSEWHERE[name]} h = Relu(f) y = Min(h, second) }}"
    )
    weights = partial(dyadic.weights, np.random.default_rng(0))
    values = {"m": weights(4, 4), "u": weights(1, 4, 1, 1), "v": weights(4, 4, 1, 1)}
    values |= {"zero": np.float32(0), "two": np.float32(2)}
    for level, each in zip(("first", "second"), EACH, strict=True):
        values[level] = np.array(each, np.float32).reshape(4, 1, 1)
    snn = convert(model(text, values)).model
    x = (np.random.default_rng(1).integers(0, 33, (3, 4, 6, 4)) / 8).astype(np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 23, [6]), stepped.run(x, 23, [6]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("thresholds", [([2.0**15], [2.0**-120]), ([2.0**-120], [2.0**15])])
def test_thresholds_beyond_what_weights_can_take_stay(thresholds):
    snn, _ = residual(*thresholds)
    x = (np.random.default_rng(1).integers(-16, 17, (3, 4, 6, 6)) / 8).astype(np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 23, [6]), stepped.run(x, 23, [6]))


BEHIND_SHORTCUTS = (
    "r = Conv(c, v) s = Add(e, r) g = Add(row, s) q = Conv(c, v) p = Add(g, q) f = Add(p, flat)"
)

CONSTANTS = {
    "of one row": "e = Conv(c, w) f = Add(e, row)",
    "of a row for each sample": "e = Conv(c, w) f = Add(e, rows)",
    "behind one another": "e = Conv(c, w) " + BEHIND_SHORTCUTS,
    "behind a bias": "e = Conv(c, w, b) " + BEHIND_SHORTCUTS,
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants(name):
    """A layer takes all that it can into its bias, which has no row for each sample."""
    text = (
        "net (float[2, 4, 6, 6] x) => (float[2, 4, 4, 4] y) { c = Clip(x, zero, two) "
        f"{CONSTANTS[name]} y = Clip(f, zero, four) }}"
    )
    weights = partial(dyadic.weights, np.random.default_rng(0))
    values = {"zero": np.float32(0), "two": np.float32(2), "four": np.float32(4)}
    values |= {"w": weights(4, 4, 3, 3), "v": weights(4, 4, 3, 3), "b": weights(4)}
    values |= {"row": weights(1, 4, 1, 1), "rows": weights(2, 4, 1, 1), "flat": weights(4, 1, 1)}
    snn = convert(model(text, values)).model
    x = (np.random.default_rng(1).integers(0, 17, (2, 4, 6, 6)) / 8).astype(np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 21), stepped.run(x, 21))


def test_sums_of_hundreds_of_terms():
    """As many as Python's ``sum`` of the heads of an additive model makes of them."""
    terms = [f"a{i + 1} = Add(a{i}, b)" for i in range(600)]
    text = (
        "net (float[N, 4] x) => (float[N, 4] y) { c = Clip(x, zero, one) a0 = MatMul(c, w) "
        f"b = MatMul(c, v) {' '.join(terms)} y = Clip(a600, zero, two) }}"
    )
    weights = partial(dyadic.weights, np.random.default_rng(0))
    values = {key: np.float32(v) for key, v in (("zero", 0), ("one", 1), ("two", 2))}
    snn = convert(model(text, values | {"w": weights(4, 4), "v": weights(4, 4)})).model
    x = (np.random.default_rng(1).integers(0, 9, (2, 4)) / 8).astype(np.float32)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 8), stepped.run(x, 8))
    assert chunked.chosen(x).chunks
