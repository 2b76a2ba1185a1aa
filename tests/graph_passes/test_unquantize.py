import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx_text import changes_once, graph, model, ops, run

from onnx2snn.graph_passes import canonicalise, fold_constants, to_graph, unquantize_activations
from onnx2snn.graph_passes.graph.activations import bounded_activations

RNG = np.random.default_rng(0)
NUMBERS = {
    "w": RNG.normal(size=(6, 8)).astype(np.float32),
    "v": RNG.normal(size=(8, 3)).astype(np.float32),
    "theta": np.float32(2), "levels": np.float32(4), "half": np.float32(0.5),
    "zero": np.float32(0), "one": np.float32(1), "step": np.float32(0.5),
    "third": np.float32(0.25), "fourth": np.float32([0.25]),
    "pruned": np.float32([1, 2, 0, 1, 1, 1, 1, 1]),
}  # fmt: skip
X = RNG.normal(size=(20, 6)).astype(np.float32)
LAYERS = "g (float[N, 6] x) => (float[N, 3] y) { c = MatMul(x, w) %s y = MatMul(a, v) }"
CLIPPED = LAYERS % "a = Clip(c, zero, theta)"

SPELLINGS = {
    "clip, then floor": "d = Div(c, theta) e = Clip(d, zero, one) f = Mul(e, levels) "
    "h = Add(f, half) i = Floor(h) j = Div(i, levels) a = Mul(j, theta)",
    "floor, then clip": "d = Mul(c, levels) e = Div(d, theta) f = Add(half, e) h = Floor(f) "
    "i = Div(h, levels) j = Clip(i, zero, one) a = Mul(j, theta)",
    "round": "d = Clip(c, zero, theta) e = Div(d, step) f = Round(e) a = Mul(f, step)",
    "gradients past the rounding": "d = Div(c, step) e = Clip(d, zero, levels) f = Round(e) "
    "h = Sub(f, e) i = Add(h, e) a = Mul(i, step)",
    "gradients past half a step, too": "d = Div(c, step) e = Add(d, half) f = Floor(e) "
    "h = Sub(f, d) i = Add(d, h) j = Clip(i, zero, levels) a = Mul(j, step)",
    "ceil": "d = Div(c, step) e = Sub(d, half) f = Ceil(e) h = Mul(f, step) "
    "a = Clip(h, zero, theta)",
    "gradients past the rounding, the other way": "d = Div(c, step) e = Clip(d, zero, levels) "
    "f = Round(e) h = Sub(e, f) i = Sub(e, h) a = Mul(i, step)",
    "gradients past the rounding, taken away at last": "d = Div(c, step) e = Clip(d, zero, levels) "
    "f = Round(e) h = Add(e, f) i = Sub(h, e) a = Mul(i, step)",
    "gradients past the rounding, added second": "d = Div(c, step) e = Clip(d, zero, levels) "
    "f = Round(e) h = Add(f, e) i = Sub(h, e) a = Mul(i, step)",
    "in another shape": "d = Clip(c, zero, theta) e = Flatten(d) f = Div(e, step) h = Round(f) "
    "a = Mul(h, step)",
    "Min of a Relu": "r = Relu(c) d = Min(r, theta) e = Div(d, step) f = Round(e) a = Mul(f, step)",
    "PACT": "p = Abs(c) d = Sub(c, theta) e = Abs(d) f = Sub(p, e) h = Add(f, theta) "
    "i = Mul(h, half) j = Div(i, step) k = Round(j) a = Mul(k, step)",
    "from -1 to 1": "d = Clip(c, zero, theta) e = Mul(d, levels) f = Sub(e, levels) h = Round(f) "
    "i = Add(h, levels) a = Div(i, levels)",
    "another shift": "d = Div(c, step) e = Add(d, third) f = Floor(e) h = Add(f, fourth) "
    "i = Mul(h, step) a = Clip(i, zero, theta)",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_quantised_clip_becomes_the_clip(spelling):
    g = graph(LAYERS % spelling, NUMBERS)
    assert not np.allclose(run(g, X), run(graph(CLIPPED, NUMBERS), X), atol=1e-2)
    changes_once(unquantize_activations, g)
    assert not {"Round", "Floor", "Ceil"} & set(ops(g))
    np.testing.assert_allclose(run(g, X), run(graph(CLIPPED, NUMBERS), X), atol=1e-5)
    if "Abs" not in ops(g):
        canonicalise(g)
        assert len(bounded_activations(g)) == 1


@pytest.mark.parametrize(
    ("spelling", "shift"),
    [("d = Clip(c, zero, theta) e = Div(d, step) f = Floor(e) a = Mul(f, step)", -0.25),
     ("d = Clip(c, zero, theta) e = Div(d, step) f = Ceil(e) a = Mul(f, step)", 0.25),
     ("d = Clip(c, zero, theta) e = Div(d, step) h = Add(e, third) f = Floor(h) a = Mul(f, step)",
      -0.125),
     ("d = Div(c, step) f = Floor(d) h = Clip(f, zero, levels) a = Mul(h, step)", -0.25)],
)  # fmt: skip
def test_what_rounding_adds_goes_before_the_clip(spelling, shift):
    """Else a silent neuron would say a part of a level."""
    g = graph(LAYERS % spelling, NUMBERS)
    changes_once(unquantize_activations, g)
    moved = LAYERS % "d = Add(c, shift) a = Clip(d, zero, theta)"
    wanted = graph(moved, NUMBERS | {"shift": np.float32(shift)})
    np.testing.assert_allclose(run(g, X), run(wanted, X), atol=1e-5)


def test_what_else_reads_the_clip_keeps_it():
    text = LAYERS % (
        "d = Clip(c, zero, theta) e = Div(d, step) f = Floor(e) h = Mul(f, step) "
        "a = Concat<axis = 1>(h, d)"
    )
    numbers = NUMBERS | {"v": np.concatenate([NUMBERS["v"], NUMBERS["v"] + 1])}
    g = graph(text, numbers)
    changes_once(unquantize_activations, g)
    meant = LAYERS % (
        "s = Sub(c, third) e = Clip(s, zero, theta) d = Clip(c, zero, theta) "
        "a = Concat<axis = 1>(e, d)"
    )
    np.testing.assert_allclose(run(g, X), run(graph(meant, numbers), X), atol=1e-5)


def test_half_a_step_and_its_addition_go_together():
    g = graph(LAYERS % SPELLINGS["clip, then floor"], NUMBERS)
    unquantize_activations(g)
    assert ops(g) == ["MatMul", "Div", "Clip", "Mul", "Div", "Mul", "MatMul"]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N, 6] x) => (float[N, 8] y) { r = Round(x) y = MatMul(r, w) }",
        "g (float[N, 6] x) => (float[N, 8] y) { c = MatMul(x, w) y = Floor(c) }",
        "g (float[N, 6] x) => (float[N, 3] y) { c = MatMul(x, w) r = Relu(c) s = Shape(r) "
        "t = Cast<to = 1>(s) u = Floor(t) k = Cast<to = 7>(u) b = Reshape(r, k) "
        "y = MatMul(b, v) }",
        LAYERS % "d = Round(half) a = Add(c, d)",
        LAYERS % "r = Clip(c, zero, theta) d = Floor(r) a = Sub(r, d)",
        LAYERS % "r = Clip(c, zero, theta) d = Round(r) e = Mul(d, half) a = Mul(e, r)",
        LAYERS % "r = Clip(c, zero, theta) d = Floor(r) e = Cast<to = 7>(d) a = Cast<to = 1>(e)",
        LAYERS % "s = Softmax(c) d = Mul(s, levels) e = Round(d) a = Div(e, levels)",
        LAYERS % "r = Relu(c) m = Min(r, theta) d = Floor(m) a = Mul(d, half)",
        LAYERS % "r = Clip(c, zero, theta) n = Neg(r) d = Floor(r) a = Add(d, n)",
        LAYERS % "r = Clip(c, zero, theta) d = Floor(r) e = Flatten(d) a = Sub(r, e)",
        LAYERS % "r = Clip(c, zero, theta) i = Identity(r) d = Floor(r) a = Sub(i, d)",
        LAYERS % "r = Relu(c) d = Floor(r) e = Flatten(d) f = Cast<to = 7>(e) a = Cast<to = 1>(f)",
        LAYERS % "r = Relu(c) m = Min(r, theta) d = Add(m, third) e = Round(d) a = Mul(e, half)",
        LAYERS % "r = Clip(c, zero, theta) d = Mul(r, pruned) f = Floor(d) a = Mul(f, half)",
        LAYERS % "s = Sigmoid(c) d = Mul(s, levels) e = Round(d) a = Div(e, levels)",
        LAYERS % "a = Round(c)",
        LAYERS % "r = Clip(c, zero, theta) f = Round(r) d = Add(f, r) a = Sub(r, d)",
        LAYERS % "r = Clip(c, zero, theta) f = Round(r) d = Sub(r, f) a = Sub(d, r)",
        LAYERS % "r = Clip(c, zero, theta) f = Round(r) d = Sub(r, f) a = Add(d, r)",
        LAYERS % "r = Clip(c, zero, theta) f = Round(r) d = Sub(f, r) a = Add(d, c)",
        LAYERS % "k = ReduceMean<axes = [1]>(c) r = Round(k) d = Sub(r, c) a = Add(d, c)",
        LAYERS % "r = Relu(c) k = Clip(c, zero, one) s = Add(r, k) d = Floor(s) a = Mul(d, half)",
        "g (float[N, 6] x) => (float[N, 8] y) { c = Clip(x, zero, theta) d = Div(c, step) "
        "e = Round(d) f = Mul(e, step) y = MatMul(f, w) }",
        "g (float[N, 6] x) => (float[N, 8] y) { r = Round(x) d = Sub(r, x) e = Add(d, x) "
        "y = MatMul(e, w) }",
        "g (float[N, 6] x) => (float[N, 8] y) { c = MatMul(x, w) d = Clip(c, zero, theta) "
        "y = Round(d) }",
        LAYERS % "k = ReduceMean<axes = [1]>(c) d = Sub(k, c) a = Add(d, c)",
        LAYERS % "r = Clip(c, zero, theta) f = Round(r) t = ReduceMax<keepdims = 0>(x) "
        "b = Greater(t, zero) a = If (b) <then_branch = one () => (float[N, 8] k) "
        "{ k = Identity(f) }, else_branch = two () => (float[N, 8] l) { l = Neg(f) }>",
    ],
    ids=[
        "input",
        "output",
        "sizes",
        "constant",
        "fraction",
        "product",
        "index",
        "Softmax",
        "no place for half a level",
        "fraction of a copy",
        "fraction of another shape",
        "fraction of an identity",
        "index in another shape",
        "no place for a quarter",
        "channel that is off",
        "Sigmoid",
        "no activation",
        "the negative, of a sum",
        "the negative, of a difference",
        "the wrong way round",
        "something else added",
        "broadcast",
        "no place for half a level of a sum",
        "before all layers",
        "led past, before all layers",
        "read-out",
        "broadcast",
        "branches",
    ],
)
def test_rounding_that_is_no_activation_or_lies_elsewhere_stays(text):
    g = graph(text, NUMBERS)
    before = ops(g)
    assert unquantize_activations(g) is False
    assert ops(g) == before


def quantised(before, after="", kind=np.uint8, zero=0, scale=0.0625, opset=21):
    """A graph whose activation a is the tensor c, after some nodes, in levels of ``scale``."""
    levels = before + " q = QuantizeLinear(d, s, z) "
    levels += after + ("e" if after else "q").join([" a = DequantizeLinear(", ", s, z)"])
    numbers = {**NUMBERS, "s": np.float32(scale), "z": np.asarray(zero).astype(kind)}
    return graph(LAYERS % levels, numbers, opset)


def bounds(g):
    """The bounds of a graph's clips from 0, after canonical form."""
    canonicalise(g)
    return [float(bound) for bound in bounded_activations(g).values()]


@pytest.mark.parametrize(
    ("kind", "zero", "scale", "high"),
    [(np.uint8, 0, 0.0078125, 255 / 128), (np.int8, -128, 0.0078125, 255 / 128),
     (np.uint16, 0, 2**-15, 65535 / 32768), (np.int16, -32768, 2**-15, 65535 / 32768)],
)  # fmt: skip
def test_levels_from_zero_are_an_activation(kind, zero, scale, high):
    """Into which quantisers fold ReLUs."""
    g = quantised("d = Identity(c)", kind=kind, zero=zero, scale=scale)
    changes_once(unquantize_activations, g)
    wanted = NUMBERS | {"theta": np.float32(high)}
    np.testing.assert_allclose(run(g, X), run(graph(CLIPPED, wanted), X), atol=1e-5)
    assert bounds(g) == [high]


def test_fewer_bits_by_a_clip():
    numbers = {"s": np.float32(1 / 64), "z": np.uint8(0), "most": np.uint8(127)}
    text = LAYERS % "r = Relu(c) q = QuantizeLinear(r, s, z) e = Clip(q, , most) %s"
    text %= "a = DequantizeLinear(e, s, z)"
    g = graph(text, NUMBERS | numbers)
    changes_once(unquantize_activations, g)
    assert bounds(g) == [127 / 64]


@pytest.mark.parametrize(
    ("kind", "zero", "low", "high", "bound"),
    [(np.uint8, 128, 0, 255, None), (np.uint8, 64, 1, 128, None), (np.uint8, 8, 8, 15, 7 * 0.25),
     (np.int8, -128, -128, 127, 255 * 0.25), (np.int8, -10, -10, 127, 137 * 0.25)],
)  # fmt: skip
def test_levels_are_no_small_integers(kind, zero, low, high, bound):
    """Zero points and bounds of a type whose differences overflow."""
    text = LAYERS % "q = QuantizeLinear(c, s, z) e = Clip(q, low, high) %s"
    text %= "a = DequantizeLinear(e, s, z)"
    numbers = {"s": np.float32(0.25), "z": kind(zero), "low": kind(low), "high": kind(high)}
    g = graph(text, NUMBERS | numbers)
    changes_once(unquantize_activations, g)
    assert bounds(g) == ([] if bound is None else [bound])


@pytest.mark.parametrize(("kind", "zero", "low", "high"), [
    (np.int8, 0, -7, 7), (np.int8, 0, -8, 7), (np.uint8, 8, 0, 15), (np.uint8, 64, 1, 127),
])  # fmt: skip
def test_levels_of_both_signs_in_a_few_bits(kind, zero, low, high):
    """They are clips of both signs, as Brevitas writes HardTanh, but not of what is positive."""
    step = np.float32(1 / 16 if high > 100 else 1 / 4)
    numbers = NUMBERS | {"s": step, "z": kind(zero), "low": kind(low), "high": kind(high),
                         "least": (low - zero) * step, "most": (high - zero) * step}  # fmt: skip
    for before, kept in (("d = Identity(c)", True), ("d = Exp(c)", False)):
        levels = " q = QuantizeLinear(d, s, z) e = Clip(q, low, high) a = DequantizeLinear(e, s, z)"
        g = graph(LAYERS % (before + levels), numbers)
        changes_once(unquantize_activations, g)
        assert ("Clip" in ops(g)) == kept
        if kept:
            wanted = run(graph(LAYERS % "a = Clip(c, least, most)", numbers), X)
            np.testing.assert_allclose(run(g, X), wanted, atol=1e-5)


@pytest.mark.parametrize("before", ["d = Identity(c)", "d = Sigmoid(c)"])
def test_levels_above_0(before):
    """Also of what cannot be negative."""
    text = LAYERS % f"{before} q = QuantizeLinear(d, s, z) e = Clip(q, low, ) %s"
    text %= "a = DequantizeLinear(e, s, z)"
    g = graph(text, NUMBERS | {"s": np.float32(1 / 64), "z": np.uint8(0), "low": np.uint8(32)})
    changes_once(unquantize_activations, g)
    clip = next(node for node in g.nodes if node.op == "Clip")
    assert [float(clip.inputs[place].values) for place in (1, 2)] == [0.5, 255 / 64]


@pytest.mark.parametrize("opset", [21, 23])
def test_levels_of_more_than_the_type_holds(opset):
    text = LAYERS.replace("float[", "float16[") % (
        "q = QuantizeLinear(c, s, z) a = DequantizeLinear(q, s, z)"
    )
    numbers = {name: NUMBERS[name].astype(np.float16) for name in "wv"}
    g = graph(text, numbers | {"s": np.float16(2), "z": np.uint16(0)}, opset)
    changes_once(unquantize_activations, g)
    assert bounds(g) == []
    assert ops(g) == ["MatMul", "Relu", "MatMul"]


def test_levels_of_a_type_that_numpy_has_not_stay():
    text = LAYERS % (
        "d = Cast<to = 16>(c) q = QuantizeLinear(d, s, z) e = DequantizeLinear(q, s, z) "
        "a = Cast<to = 1>(e)"
    )
    g = graph(text, NUMBERS | {"s": np.asarray(0.5, ml_dtypes.bfloat16), "z": np.uint8(0)}, 21)
    assert unquantize_activations(g) is False


def test_numbers_of_another_type_than_their_scale_stay():
    text = LAYERS % (
        "d = Cast<to = 10>(c) q = QuantizeLinear(d, s, z) e = DequantizeLinear(q, s, z) "
        "a = Cast<to = 1>(e)"
    )
    g = graph(text, NUMBERS | {"s": np.float32(0.1), "z": np.uint8(0)}, 23)
    assert unquantize_activations(g) is False


@pytest.mark.parametrize(
    "text",
    ["{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }",
     "{ d = MatMul(x, w) q = QuantizeLinear(d, s, z) y = DequantizeLinear(q, s, z) }"],
)  # fmt: skip
def test_levels_of_inputs_and_outputs_stay(text):
    """No neuron is there to round in their place."""
    text = f"g (float[N, 6] x) => (float[N, 8] y) {text}"
    g = graph(text, {"w": NUMBERS["w"], "s": np.float32(1 / 64), "z": np.uint8(0)})
    assert unquantize_activations(g) is False


def test_levels_of_weights_stay():
    text = "g (float[N, 6] x) => (float[N, 8] y) { q = QuantizeLinear(w, s, z) %s }"
    g = graph(
        text % "d = DequantizeLinear(q, s, z) y = MatMul(x, d)",
        {"w": NUMBERS["w"], "s": np.float32(1 / 64), "z": np.int8(0)},
    )
    assert unquantize_activations(g) is False


@pytest.mark.parametrize(("bits", "activations"), [(8, ["Relu"]), (4, ["Relu", "Clip"])])
def test_others_may_read_a_relu_without_the_bound(bits, activations):
    """Of 8 bits it is left out, rather than to have all neurons twice; of 4 it has been trained."""
    text = LAYERS % (
        "r = Relu(c) q = QuantizeLinear(r, s, z) k = Clip(q, z, most) "
        "d = DequantizeLinear(k, s, z) a = Add(d, r)"
    )
    most = 2**bits - 1
    g = graph(text, NUMBERS | {"s": np.float32(1 / most), "z": np.uint8(0), "most": np.uint8(most)})
    changes_once(unquantize_activations, g)
    found = [node for node in g.nodes if node.op in ("Relu", "Clip")]
    assert sorted(node.op for node in found) == sorted(activations)
    assert {node.inputs[0].name for node in found} == {"c"}


def test_two_quantisers_of_one_clip():
    """They share its neurons, where they are alike."""
    text = LAYERS % (
        "r = Clip(c, zero, one) q = QuantizeLinear(r, s, z) d = DequantizeLinear(q, s, z) "
        "p = QuantizeLinear(r, s, z) e = DequantizeLinear(p, s, z) f = MatMul(e, w) a = Add(d, f)"
    )
    g = graph(text, NUMBERS | {"s": np.float32(1 / 255), "z": np.uint8(0), "zero": np.float32(0)})
    changes_once(unquantize_activations, g)
    canonicalise(g)
    assert ops(g).count("Clip") == 1


def test_ranges_are_those_of_quantisers_to_many_levels():
    """Of seven bits or more, as no training sets them."""
    found = []
    for most in (255, 127, 63):
        text = LAYERS % (
            "q = QuantizeLinear(c, s, z) k = Clip(q, z, most) a = DequantizeLinear(k, s, z)"
        )
        numbers = {"s": np.float32(1 / most), "z": np.uint8(0), "most": np.uint8(most)}
        ranges = {}
        unquantize_activations(graph(text, NUMBERS | numbers), ranges)
        found.append(ranges)
    assert found == [{"a": 1.0}, {"a": 1.0}, {}]


def test_four_bits():
    text = LAYERS % "q = QuantizeLinear<output_dtype = 21>(c, s) a = DequantizeLinear(q, s)"
    g = graph(text, NUMBERS | {"s": np.float32(0.125)}, opset=21)
    changes_once(unquantize_activations, g)
    assert bounds(g) == [15 / 8]


def test_levels_of_both_signs_are_none():
    g = quantised("d = Identity(c)", kind=np.int8)
    changes_once(unquantize_activations, g)
    plain = graph(LAYERS % "a = Identity(c)", NUMBERS)
    np.testing.assert_array_equal(run(g, X), run(plain, X))


def test_of_a_relu_they_tell_the_bound():
    g = quantised("d = Relu(c)", kind=np.int8, scale=1 / 64)
    changes_once(unquantize_activations, g)
    assert bounds(g) == [127 / 64]


def test_of_hard_tanh_they_do_not():
    g = quantised("e = Neg(one) d = Clip(c, e, one)", kind=np.int8, scale=1 / 64)
    fold_constants(g)
    changes_once(unquantize_activations, g)
    assert [op for op in ops(g) if op == "Clip"] == ["Clip"]
    clip = next(node for node in g.nodes if node.op == "Clip")
    assert float(clip.inputs[1].values) == -1


@pytest.mark.parametrize(
    "positive",
    ["r = Relu(c) d = Flatten(r)", "r = Relu(c) d = Add(r, r)", "r = Relu(c) d = Add(r, half)",
     "r = Relu(c) d = Mul(r, half)", "r = Relu(c) d = Max(r, c)", "d = Sigmoid(c)",
     "r = Relu(c) t = Softmax(c) d = Concat<axis = 1>(r, t)",
     "r = Relu(c) e, d = Split<axis = 1>(r, halves)"],
)  # fmt: skip
def test_what_cannot_be_negative_needs_no_clip(positive):
    wide = {"v": np.concatenate([NUMBERS["v"]] * 2)} if "Concat" in positive else {}
    wide |= {"v": NUMBERS["v"][:4], "halves": np.array([4, 4])} if "Split" in positive else {}
    levels = positive + " q = QuantizeLinear(d, s, z) a = DequantizeLinear(q, s, z)"
    g = graph(LAYERS % levels, NUMBERS | wide | {"s": np.float32(1), "z": np.uint8(0)})
    changes_once(unquantize_activations, g)
    assert "Clip" not in ops(g)


@pytest.mark.parametrize(
    "moved",
    ["r = Relu(c) d = Sub(r, half)", "r = Relu(c) d = Neg(r)",
     "r = Relu(c) p = Pad(r, pads, below) d = Slice(p, begins, ends)",
     "r = Relu(c) d = Min(r, c)", "d = Mul(c, half)",
     "r = Relu(c) m = ReduceMin<keepdims = 0>(c) p = Pad(r, pads, m) d = Slice(p, begins, ends)"],
)  # fmt: skip
def test_what_is_moved_may_be_negative(moved):
    more = {"pads": np.array([0, 1, 0, 0]), "below": np.float32(-1),
            "begins": np.array([0, 0]), "ends": np.array([100, 8])}  # fmt: skip
    levels = moved + " q = QuantizeLinear(d, s, z) a = DequantizeLinear(q, s, z)"
    g = graph(LAYERS % levels, NUMBERS | more | {"s": np.float32(1), "z": np.uint8(0)})
    changes_once(unquantize_activations, g)
    assert "Clip" in ops(g)


def test_a_zero_point_of_0_that_only_one_of_both_names():
    text = LAYERS % "q = QuantizeLinear(c, s, z) a = DequantizeLinear(q, s)"
    g = graph(text, NUMBERS | {"s": np.float32(1 / 64), "z": np.uint8(0)})
    changes_once(unquantize_activations, g)
    assert bounds(g) == [255 / 64]


def test_sums_that_have_nothing_rounded_in_them_stay():
    text = LAYERS % "r = Relu(c) d = Sub(r, c) e = Add(d, c) f = Round(half) a = Add(e, f)"
    assert unquantize_activations(graph(text, NUMBERS)) is False


def test_levels_that_three_read_are_one_clip():
    """One of them an output of the graph, whose name stays."""
    text = (
        "g (float[N, 6] x) => (float[N, 3] y, float[N, 8] f) { c = MatMul(x, w) "
        "q = QuantizeLinear(c, s, z) a = DequantizeLinear(q, s, z) f = DequantizeLinear(q, s, z) "
        "b = DequantizeLinear(q, s, z) d = MatMul(a, v) e = MatMul(b, v) y = Add(d, e) }"
    )
    g = graph(text, NUMBERS | {"s": np.float32(0.1), "z": np.uint8(0)})
    changes_once(unquantize_activations, g)
    assert ops(g).count("Clip") == 1


@pytest.mark.parametrize(
    ("levels", "numbers"),
    [
        ("q = QuantizeLinear(c, s, z) a = DequantizeLinear(q, t, z)", {"t": np.float32(0.5)}),
        ("q = QuantizeLinear(c, s, z) a = DequantizeLinear(q, s, u)", {"u": np.uint8(1)}),
        ("q = QuantizeLinear(c, t, u) a = DequantizeLinear(q, t, u)",
         {"t": np.full(8, 0.5, np.float32), "u": np.zeros(8, np.uint8)}),
        ("d = Neg(c) q = QuantizeLinear(c, s, z) m = ReduceMax(d) k = Cast<to = 2>(m) "
         "e = Clip(q, , k) a = DequantizeLinear(e, s, z)", {}),
    ],
    ids=["scale", "zero point", "per channel", "open bound"],
)  # fmt: skip
def test_others_stay(levels, numbers):
    g = graph(LAYERS % levels, NUMBERS | {"s": np.float32(0.1), "z": np.uint8(0)} | numbers)
    assert unquantize_activations(g) is False


@pytest.mark.parametrize(
    ("levels", "opset"),
    [
        ("q = QuantizeLinear(c, s, z) d = DequantizeLinear<output_dtype = 10>(q, s, z) "
         "a = Cast<to = 1>(d)", 23),
        ("h = Cast<to = 10>(c) q = QuantizeLinear(h, t, z) a = DequantizeLinear(q, s, z)", 19),
    ],
)  # fmt: skip
def test_numbers_of_another_type_than_what_was_quantised_stay(levels, opset):
    """A clip makes numbers of the type that it reads."""
    numbers = {"s": np.float32(0.125), "t": np.float16(0.125), "z": np.uint8(0)}
    assert unquantize_activations(graph(LAYERS % levels, NUMBERS | numbers, opset)) is False


def test_many_sums_of_what_is_rounded():
    """Each of which reads the one before twice."""
    sums = " ".join(f"a{n + 1} = Add(a{n}, a{n})" for n in range(60))
    levels = f"h = Clip(c, zero, theta) d = Div(h, step) e = Round(d) a0 = Mul(e, step) {sums} "
    changes_once(unquantize_activations, graph(LAYERS % f"{levels} a = Neg(a60)", NUMBERS))


@pytest.mark.parametrize(
    "body",
    [SPELLINGS["round"], "q = QuantizeLinear(c, step) a = DequantizeLinear(q, step)"],
    ids=["Round", "levels"],
)
def test_types_that_are_not_known_yet(body):
    g = to_graph(model(LAYERS % body, NUMBERS))
    assert unquantize_activations(g)
    assert ops(g).count("Clip") == 1


def test_small_shifts_are_no_rounding_errors():
    body = "d = Clip(c, zero, theta) e = Div(d, step) h = Add(e, k) f = Floor(h) a = Mul(f, step)"
    g = graph(LAYERS % body, NUMBERS | {"k": np.float32(0.375)})
    changes_once(unquantize_activations, g)
    moved = LAYERS % "d = Add(c, shift) a = Clip(d, zero, theta)"
    wanted = graph(moved, NUMBERS | {"shift": np.float32(-0.0625)})
    np.testing.assert_allclose(run(g, X), run(wanted, X), atol=1e-5)


def test_half_a_level_that_is_not_quite_one():
    """3 times 1/6 in float32 is no 1/2."""
    body = "d = Clip(c, zero, theta) h = Add(d, k) e = Mul(h, three) f = Floor(e) a = Div(f, three)"
    g = graph(LAYERS % body, NUMBERS | {"k": np.float32(1 / 6), "three": np.float32(3)})
    changes_once(unquantize_activations, g)
    assert ops(g) == ["MatMul", "Clip", "Mul", "Div", "MatMul"]


def test_what_rounding_adds_goes_before_a_relu():
    body = "d = Relu(c) e = Div(d, step) f = Floor(e) a = Mul(f, step)"
    g = graph(LAYERS % body, NUMBERS)
    changes_once(unquantize_activations, g)
    wanted = graph(LAYERS % "d = Sub(c, fourth) a = Relu(d)", NUMBERS)
    np.testing.assert_allclose(run(g, X), run(wanted, X), atol=1e-5)


def test_levels_of_some_channels_may_be_1_apart():
    body = "d = Clip(c, zero, theta) e = Div(d, steps) f = Round(e) a = Mul(f, steps)"
    g = graph(LAYERS % body, NUMBERS | {"steps": np.float32([1, 1, 1, 1, 0.5, 0.5, 2, 2])})
    changes_once(unquantize_activations, g)
    np.testing.assert_allclose(run(g, X), run(graph(CLIPPED, NUMBERS), X), atol=1e-5)


def test_levels_that_a_max_pool_reads():
    body = "c = Conv(x, k) d = Clip(c, zero, theta) e = Div(d, step) f = Round(e) "
    body += "m = MaxPool<kernel_shape = [2, 2]>(f) h = Mul(m, step) y = Conv(h, k)"
    k = RNG.normal(size=(2, 2, 1, 1)).astype(np.float32)
    text = f"g (float[N, 2, 4, 4] x) => (float[N, 2, 3, 3] y) {{ {body} }}"
    g = graph(text, NUMBERS | {"k": k})
    changes_once(unquantize_activations, g)
    assert "Round" not in ops(g)


@pytest.mark.parametrize("other", ["p = Clip(q, low, )", "p = Clip(q, , low)"])
def test_other_levels_of_the_same_numbers_are_another_clip(other):
    text = LAYERS % (
        f"q = QuantizeLinear(c, s, z) {other} d = DequantizeLinear(q, s, z) "
        "e = DequantizeLinear(p, s, z) a = Add(d, e)"
    )
    g = graph(text, NUMBERS | {"s": np.float32(1 / 64), "z": np.uint8(0), "low": np.uint8(32)})
    changes_once(unquantize_activations, g)
    assert ops(g).count("Clip") == 2


def test_several_clips_to_fewer_levels():
    text = LAYERS % (
        "q = QuantizeLinear(c, s, z) e = Clip(q, low, most) f = Clip(e, more, less) "
        "a = DequantizeLinear(f, s, z)"
    )
    ends = {"low": np.uint8(16), "most": np.uint8(127), "more": np.uint8(32), "less": np.uint8(96)}
    g = graph(text, NUMBERS | ends | {"s": np.float32(1 / 64), "z": np.uint8(0)})
    changes_once(unquantize_activations, g)
    clip = next(node for node in g.nodes if node.op == "Clip")
    assert [float(clip.inputs[place].values) for place in (1, 2)] == [0.5, 1.5]


@pytest.mark.parametrize(
    ("attribute", "high"), [("", 255), ("<output_dtype = 22>", 7), ("<output_dtype = 5>", 32767)]
)
def test_levels_of_each_type(attribute, high):
    body = f"r = Relu(c) q = QuantizeLinear{attribute}(r, s) a = DequantizeLinear(q, s)"
    g = graph(LAYERS % body, NUMBERS | {"s": np.float32(0.125)}, opset=21)
    changes_once(unquantize_activations, g)
    assert bounds(g) == [high / 8]


@pytest.mark.parametrize(
    "between",
    ["d = Dropout(r)", "d = MaxPool<kernel_shape = [1, 1]>(r)", "d = GlobalAveragePool(r)",
     "d = AveragePool<kernel_shape = [2, 2]>(r)", "d = Pad(r, pads)", "d = Slice(r, two, end)",
     "d = Transpose<perm = [0, 1, 3, 2]>(r)", "e = DepthToSpace<blocksize = 2>(r) "
     "d = SpaceToDepth<blocksize = 2>(e)"],
)  # fmt: skip
def test_what_keeps_the_sign_needs_no_clip(between):
    body = f"c = Conv(x, k) r = Relu(c) {between} q = QuantizeLinear(d, s, z) "
    body += "a = DequantizeLinear(q, s, z) y = Conv(a, k)"
    numbers = {
        "k": RNG.normal(size=(4, 4, 1, 1)).astype(np.float32), "s": np.float32(1),
        "z": np.uint8(0), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "two": np.array([0, 0, 1]),
        "end": np.array([9, 4, 3]),
    }  # fmt: skip
    g = graph(f"g (float[N, 4, 4, 4] x) => (float[N, 4, h, w] y) {{ {body} }}", numbers)
    changes_once(unquantize_activations, g)
    assert "Clip" not in ops(g)


@pytest.mark.parametrize(
    "positive",
    ["d = Abs(c)", "d = Exp(c)", "d = HardSigmoid(c)", "d = Softplus(c)", "e = Abs(c) d = Sqrt(e)",
     "r = Relu(c) e = Abs(c) d = Sum(r, e)", "d = Mul(c, c)", "r = Relu(c) d = Mul(r, r)",
     "r = Relu(c) e = Exp(c) d = Div(r, e)", "e = Erf(c) d = Add(e, one)",
     "e = Sigmoid(c) d = Sub(one, e)", "e = Softmax(c) q1 = QuantizeLinear(e, step, z) "
     "d = DequantizeLinear(q1, step, z)"],
)  # fmt: skip
def test_functions_that_are_never_negative_need_no_clip(positive):
    g = quantised(positive, opset=17)
    changes_once(unquantize_activations, g)
    assert "Clip" not in ops(g)


@pytest.mark.parametrize("op", ["Floor", "Ceil"])
@pytest.mark.parametrize("shift", [-4, -3, -1, 1, 2, 3])
@pytest.mark.parametrize("before", ["d = Clip(c, zero, theta)", "d = Relu(c)"])
def test_whole_numbers_stay_behind_the_clip(op, shift, before):
    """Floor(k clip(x) + 1) = 1 + Floor(k clip(x)): a silent neuron says 1."""
    body = before + " e = Div(d, step) h = Add(e, by) f = %s a = Mul(f, step)"
    numbers = NUMBERS | {"by": np.float32(shift)}
    g = graph(LAYERS % (body % f"{op}(h)"), numbers)
    outside = before + " e = Div(d, step) h = %s f = Add(h, by) a = Mul(f, step)"
    wanted = graph(LAYERS % (outside % f"{op}(e)"), numbers)
    changes_once(unquantize_activations, g)
    changes_once(unquantize_activations, wanted)
    np.testing.assert_allclose(run(g, X), run(wanted, X), atol=1e-5)


def test_some_resizes_may_make_negative_numbers():
    """Cubic ones, and those that put a negative number around the image."""
    text = (
        "g (float[N, 2, 4, 4] x) => (float[N, 2, 8, 8] y) { c = Conv(x, k) r = Relu(c) "
        "d = Resize<%s>(r, roi, twice) q = QuantizeLinear(d, s, z) "
        "a = DequantizeLinear(q, s, z) y = Conv(a, k) }"
    )
    numbers = {"k": RNG.normal(size=(2, 2, 1, 1)).astype(np.float32), "s": np.float32(1),
               "z": np.uint8(0), "twice": np.float32([1, 1, 2, 2]),
               "roi": np.float32([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5])}  # fmt: skip
    around = 'mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize"'
    for kind, clips in (
        ('mode = "linear"', 0),
        ('mode = "cubic"', 1),
        (f"{around}, extrapolation_value = 0.5", 0),
        (f"{around}, extrapolation_value = -0.5", 1),
    ):
        g = graph(text % kind, numbers)
        changes_once(unquantize_activations, g)
        assert ops(g).count("Clip") == clips


def test_what_rounding_adds_goes_before_the_clip_of_some_channels():
    body = "d = Clip(c, zero, theta) e = Div(d, step) h = Add(e, k) f = Floor(h) a = Mul(f, step)"
    shifts = np.float32([0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0, 0])
    g = graph(LAYERS % body, NUMBERS | {"k": shifts})
    changes_once(unquantize_activations, g)
    moved = LAYERS % "d = Add(c, shift) a = Clip(d, zero, theta)"
    wanted = graph(moved, NUMBERS | {"shift": (shifts - np.float32(0.5)) / 2})
    np.testing.assert_allclose(run(g, X), run(wanted, X), atol=1e-5)


def test_weights_that_a_layer_makes_stay_rounded():
    text = (
        "g (float[N, 6] x) => (float[N, 3] y) { c = MatMul(w, v) d = Clip(c, zero, theta) "
        "e = Div(d, step) f = Round(e) a = Mul(f, step) y = MatMul(x, a) }"
    )
    assert unquantize_activations(graph(text, NUMBERS)) is False


@pytest.mark.parametrize(
    ("clips", "low", "high"),
    [
        ("k = Clip(q, , ten) l = Clip(k, thirty)", 3, 3),
        ("k = Clip(q, thirty) l = Clip(k, , ten)", 1, 1),
        ("k = Clip(q, ten) l = Clip(k, , thirty)", 1, 3),
        ("l = Clip(q, thirty, ten)", 1, 1),
    ],
)
def test_clips_of_levels_hold_in_turn(clips, low, high):
    numbers = {"s": np.float32(0.1), "z": np.uint8(0), "ten": np.uint8(10), "thirty": np.uint8(30)}
    body = f"q = QuantizeLinear(c, s, z) {clips} a = DequantizeLinear(l, s, z)"
    g = graph(LAYERS % body, NUMBERS | numbers)
    before = run(g, X)
    changes_once(unquantize_activations, g)
    assert ops(g) == ["MatMul", "Clip", "MatMul"]
    wanted = np.clip(X @ NUMBERS["w"], low, high) @ NUMBERS["v"]
    np.testing.assert_allclose(run(g, X), wanted, atol=1e-5)
    # Each of eight activations is at most half a level off.
    np.testing.assert_allclose(run(g, X), before, atol=0.05 * abs(NUMBERS["v"]).sum())


def test_an_activation_of_another_domain_keeps_its_levels_as_a_clip():
    body = "r = Relu(c) q = QuantizeLinear(r, s, z) a = DequantizeLinear(q, s, z)"
    for domain, wanted in (("", ["Clip"]), ("my", ["Relu", "Clip"])):
        g = graph(LAYERS % body, NUMBERS | {"s": np.float32(0.1), "z": np.uint8(0)})
        g.nodes[1].domain = domain
        changes_once(unquantize_activations, g)
        assert ops(g) == ["MatMul", *wanted, "MatMul"]


def test_a_clip_of_another_domain_between_levels_stays():
    body = "q = QuantizeLinear(c, s, z) k = Clip(q, ten) a = DequantizeLinear(k, s, z)"
    numbers = {"s": np.float32(0.1), "z": np.uint8(0), "ten": np.uint8(10)}
    g = graph(LAYERS % body, NUMBERS | numbers)
    g.nodes[2].domain = "my"
    assert unquantize_activations(g) is False


@pytest.mark.parametrize(
    "op", ["Round", "QuantizeLinear", "DequantizeLinear", "Clip", "Min", "Sub", "Add"]
)
def test_operators_of_other_domains_stay(op):
    body = "q = QuantizeLinear(c, s, z) b = DequantizeLinear(q, s, z) a = Clip(b, zero, theta)"
    if op == "Round":
        body = "d = Div(c, step) b = Round(d) a = Clip(b, zero, theta)"
    elif op == "Clip":
        body = SPELLINGS["round"]
    elif op in ("Sub", "Add"):
        body = SPELLINGS["gradients past the rounding"]
    elif op == "Min":
        body = "d = Relu(c) b = Round(d) a = Min(b, theta)"
    g = graph(LAYERS % body, NUMBERS | {"s": np.float32(0.1), "z": np.uint8(0)})
    next(node for node in g.nodes if node.op == op).domain = "my"
    assert unquantize_activations(g) is False


def test_rounding_of_an_unknown_type_stays():
    """What is added would have none, either."""
    g = graph(LAYERS % "d = Identity(c) b = Floor(d) a = Clip(b, zero, theta)", NUMBERS)
    g.nodes[1].domain = "my"
    for node in g.nodes[1:3]:
        node.outputs[0].dtype = None
    assert unquantize_activations(g) is False


def test_shapes_that_are_not_known_are_not_the_same():
    body = "k = ReduceMean<axes = [1]>(c) r = Round(k) d = Sub(r, c) a = Add(d, c)"
    g = graph(LAYERS % body, NUMBERS)
    for node in g.nodes:
        node.outputs[0].shape = None
    assert unquantize_activations(g) is False


@pytest.mark.parametrize(
    "between",
    ["k = Abs(c) d = Sum(r, k)", "m = Mul(r, half) d = Transpose<perm = [0, 1, 3, 2]>(m)",
     "d = AveragePool<kernel_shape = [2, 2]>(r)"],
)  # fmt: skip
def test_rounding_belongs_to_an_activation_further_up(between):
    body = f"c = Conv(x, k0) r = Relu(c) {between} f = Round(d) a = Mul(f, step) y = Conv(a, k0)"
    numbers = NUMBERS | {"k0": RNG.normal(size=(2, 2, 1, 1)).astype(np.float32)}
    g = graph(f"g (float[N, 2, 4, 4] x) => (float[N, 2, h, w] y) {{ {body} }}", numbers)
    changes_once(unquantize_activations, g)
    assert "Round" not in ops(g)


def test_a_max_pool_of_another_domain_keeps_rounding():
    body = "c = Conv(x, k) r = Relu(c) f = Round(r) a = MaxPool<kernel_shape = [2, 2]>(f) "
    text = f"g (float[N, 2, 4, 4] x) => (float[N, 2, 3, 3] y) {{ {body} y = Conv(a, k) }}"
    g = graph(text, {"k": RNG.normal(size=(2, 2, 1, 1)).astype(np.float32)})
    g.nodes[3].domain = "my"
    assert unquantize_activations(g) is False


@pytest.mark.parametrize(
    "behind",
    ["k = MatMul(f, square) a = Softmax(k)", "k = Add(f, c) a = Softmax(k)",
     "k = Shape(f) o = ConstantOfShape(k) a = Add(f, o)"],
    ids=["layer", "sum", "sizes"],
)  # fmt: skip
def test_what_follows_the_next_layer_or_sum_may_be_anything(behind):
    square = RNG.normal(size=(8, 8)).astype(np.float32)
    g = graph(LAYERS % f"r = Relu(c) f = Round(r) {behind}", NUMBERS | {"square": square})
    changes_once(unquantize_activations, g)
    assert "Round" not in ops(g)


def test_a_silent_neuron_behind_a_ceil_says_the_whole_level_above():
    body = "d = Clip(c, zero, theta) e = Div(d, step) h = Add(e, third) f = Ceil(h) "
    g = graph(LAYERS % (body + "a = Mul(f, step)"), NUMBERS)
    changes_once(unquantize_activations, g)
    wanted = graph(
        LAYERS % "d = Add(c, shift) e = Clip(d, zero, theta) a = Add(e, half)",
        NUMBERS | {"shift": np.float32(-0.125)},
    )
    np.testing.assert_allclose(run(g, X), run(wanted, X), atol=1e-5)


def test_rounding_of_a_type_that_numpy_has_not_stays():
    body = "d = Cast<to = 16>(c) e = Floor(d) f = Cast<to = 1>(e) a = Clip(f, zero, theta)"
    g = graph(LAYERS % body, NUMBERS, opset=22)
    assert unquantize_activations(g) is False


def test_levels_of_float8_stay():
    body = "q = QuantizeLinear<output_dtype = 17>(c, s) a = DequantizeLinear(q, s)"
    g = graph(LAYERS % body, NUMBERS | {"s": np.float32(0.125)}, opset=21)
    assert unquantize_activations(g) is False


@pytest.mark.parametrize(("zero", "clips"), [(0, 0), (100, 1), (255, 1)])
def test_levels_of_an_input_that_stay_say_what_follows(zero, clips):
    """An activation beside an input that is quantised is negative where that is."""
    text = (
        "g (float[N, 6] x) => (float[N, 3] y) { p = QuantizeLinear(x, s, k) "
        "d = DequantizeLinear(p, s, k) c = MatMul(d, w) r = Relu(c) e = Concat<axis = 1>(r, d) "
        "q = QuantizeLinear(e, s, z) a = DequantizeLinear(q, s, z) y = MatMul(a, u) }"
    )
    numbers = {"w": NUMBERS["w"], "u": RNG.normal(size=(14, 3)).astype(np.float32),
               "s": np.float32(1 / 16), "z": np.uint8(0), "k": np.uint8(zero)}  # fmt: skip
    g = graph(text, numbers)
    before = run(g, X)
    changes_once(unquantize_activations, g)
    assert ops(g).count("Clip") == clips
    np.testing.assert_allclose(run(g, X), before, atol=0.1 * np.ptp(before))


def test_rounding_that_quantisation_hides():
    text = "e = Div(c, step) f = Clip(e, zero, levels) h = Round(f) i = Mul(h, step) " \
           "q = QuantizeLinear(i, fine, nought) a = DequantizeLinear(q, fine, nought)"  # fmt: skip
    g = graph(LAYERS % text, NUMBERS | {"fine": np.float32(1 / 64), "nought": np.uint8(0)})
    changes_once(unquantize_activations, g)
    assert not {"Round", "QuantizeLinear"} & set(ops(g))
    canonicalise(g)
    assert [float(bound) for bound in bounded_activations(g).values()] == [4]


@pytest.mark.parametrize("kind", ["UINT2", "INT2", "UINT4", "INT4"])
def test_quantisers_of_few_bits(kind):
    number = dict(onnx.TensorProto.DataType.items()).get(kind)
    if number is None:
        pytest.skip("this onnx has no types of 2 bits")
    text = (
        "g (float[N, 6] x) => (float[N, 3] y) { c = MatMul(x, w) r = Relu(c) "
        f"q = QuantizeLinear<output_dtype = {number}>(r, step) a = DequantizeLinear(q, step) "
        "y = MatMul(a, v) }"
    )
    opset = 25 if kind.endswith("2") else 21
    g = graph(text, {name: NUMBERS[name] for name in ("w", "v", "step")}, opset=opset)
    assert unquantize_activations(g)
    canonicalise(g)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(ops(g))
    (bound,) = bounded_activations(g).values()
    assert bound == {"UINT2": 3, "INT2": 1, "UINT4": 15, "INT4": 7}[kind] * 0.5
