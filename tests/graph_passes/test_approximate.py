import itertools
import re

import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import (
    DataError,
    Onnx2SnnError,
    UnsupportedModelError,
    approximate,
    canonicalise,
)
from onnx2snn.graph_passes.approximate import (
    ClipFit,
    approximate_activations,
    fit_clips,
)
from onnx2snn.graph_passes.graph.scalar_regions import regions_to_approximate

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(4, 6)).astype(np.float32),
    "v": RNG.normal(size=(6, 3)).astype(np.float32),
    "root": np.float32(np.sqrt(2)), "zero": np.float32(0), "one": np.float32(1),
    "axis": np.float32([[[2]]]), "front": np.array([0]), "half": np.float32(0.5),
    "three": np.float32(3), "six": np.float32(6),
    "sixth": np.float32(1 / 6), "bias": RNG.normal(size=6).astype(np.float32),
    "a": np.float32(0.044715), "b": np.float32(0.7978846),
    "zeros": np.zeros(6, np.float32), "halves": np.full((1, 6), 0.5, np.float32),
}  # fmt: skip
# What comes before h and after s, two spellings of the same place in a network.
TEXT = "g (float[N, 4] x) => (float[N, 3] y) {{ h = MatMul(x, w) {} {} }}"
LAST = "y = MatMul(s, v)"
FOLLOWED = "p = MatMul(s, v) y = Clip(p, zero, six)"
FUNCTIONS = {
    "sigmoid": ("s = Sigmoid(h)", "Sigmoid"),
    "tanh": ("s = Tanh(h)", "Tanh"),
    "swish": ("g = Sigmoid(h) s = Mul(h, g)", "Sigmoid, Mul"),
    "gelu": (
        "d = Div(h, root) e = Erf(d) f = Add(e, one) m = Mul(h, f) s = Mul(m, half)",
        "Div, Erf, Add, Mul",
    ),
    "gelu, halved first": (
        "k = Mul(h, half) d = Div(h, root) e = Erf(d) f = Add(e, one) s = Mul(k, f)",
        "Mul, Div, Erf, Add",
    ),
    "gelu by tanh": (
        "h2 = Mul(h, h) h3 = Mul(h2, h) i = Mul(h3, a) j = Add(h, i) k = Mul(j, b) t = Tanh(k) "
        "f = Add(t, one) m = Mul(h, f) s = Mul(m, half)",
        "Mul, Add, Tanh",
    ),
    "mish": ("p0 = Softplus(h) t = Tanh(p0) s = Mul(h, t)", "Softplus, Tanh, Mul"),
    "hard swish in parts": (
        "i = Add(h, three) c = Clip(i, zero, six) m = Mul(h, c) s = Div(m, six)",
        "Add, Clip, Mul",
    ),
    "hard swish by its sixth": (
        "i = Add(h, three) c = Clip(i, zero, six) k = Mul(c, sixth) s = Mul(h, k)",
        "Add, Clip, Mul",
    ),
    "hard swish": ("s = HardSwish(h)", "HardSwish"),
    "by hard sigmoid": ("k = HardSigmoid<alpha = 0.2>(h) s = Mul(h, k)", "Mul, Add, Clip"),
    "softplus": ("s = Softplus(h)", "Softplus"),
    "elu": ("s = Elu(h)", "Elu"),
    # As torch's exporter by graph capture has it.
    "softplus by a condition": (
        "e = Exp(h) f = Add(e, one) l = Log(f) c = Greater(h, six) s = Where(c, h, l)",
        "Exp, Add, Log, Greater, Where",
    ),
    "leaky by a condition": (
        "c = Greater(h, one) l = Mul(h, half) s = Where(c, h, l)", "Greater, Mul, Where"
    ),
    "a mask": (
        "c = LessOrEqual(one, h) m = Cast<to = 1>(c) s = Mul(h, m)", "LessOrEqual, Cast, Mul",
    ),
    "beside zeros": (
        "z = Shape(h) o = ConstantOfShape(z) c = GreaterOrEqual(h, one) s = Where(c, h, o)",
        "GreaterOrEqual, Where",
    ),
    "beside a zero expanded": (
        "z = Shape(h) o = Expand(zero, z) c = GreaterOrEqual(h, one) s = Where(c, h, o)",
        "GreaterOrEqual, Where",
    ),
    "leaky beside constants": (
        "c = Greater(h, halves) l = Mul(h, halves) s = Where(c, h, l)", "Greater, Mul, Where"
    ),
    "step": ("c = Greater(h, zero) s = Cast<to = 1>(c)", "Greater, Cast"),
    "sign": ("s = Sign(h)", "Sign"),
    "round": ("s = Round(h)", "Round"),
    "square": ("s = Mul(h, h)", "Mul"),
}  # fmt: skip


def network(name, behind=FOLLOWED):
    """A network in canonical form with one function between its layers."""
    g = graph(TEXT.format(FUNCTIONS[name][0], behind), WEIGHTS)
    canonicalise(g)
    return g


def approximated(g, samples, clips, found=None):
    """Let clips fitted to samples stand in for the activations of a graph."""
    return approximate_activations(g, fit_clips(g, samples, clips, found))


def samples(region):
    return {region.name: RNG.normal(0, 2, 4096).astype(np.float32)}


@pytest.mark.parametrize("behind", [LAST, FOLLOWED], ids=["last", "followed"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_finds_functions_however_they_are_spelled(name, behind):
    """As a whole, up to the last node that is not linear, in the last hidden layer too."""
    (region,) = regions_to_approximate(network(name, behind))
    assert region.op == FUNCTIONS[name][1]
    assert region.source.name == "h"


@pytest.mark.parametrize(("text", "op"), [
    ("c = Cast<to = 11>(h) d = Sigmoid(c) s = Cast<to = 1>(d)", "Cast, Sigmoid"),
    ("c = Sigmoid(h) d = Cast<to = 9>(h) s = Where(d, c, h)", "Sigmoid, Cast, Where"),
    ("s = Pow(h, whole)", "Pow"),
])  # fmt: skip
def test_other_types_on_the_way(text, op):
    """As automatic casts write them, and exponents that are whole numbers."""
    weights = WEIGHTS | {"whole": np.array(2)}
    g = graph(TEXT.format(text, FOLLOWED), weights)
    canonicalise(g)
    x = RNG.normal(size=(64, 4)).astype(np.float32)
    before = run(g, x)
    (region,) = regions_to_approximate(g)
    assert region.op == op
    assert approximated(g, {region.name: np.linspace(-9, 9, 4096, dtype=np.float32)}, 64)
    assert np.abs(run(g, x) - before).mean() < 0.1


def test_a_constant_that_adds_an_axis():
    """What clips stand in for has the shape of what they read: the axis comes before."""
    text = TEXT.format("m = Mul(h, axis) s = Exp(m)", "i = Squeeze(s, front) y = MatMul(i, v)")
    (region,) = regions_to_approximate(graph(text, WEIGHTS))
    assert (region.source.name, region.op) == ("m", "Exp")


def test_a_type_that_stays_another():
    behind = "p = Cast<to = 1>(s) y = MatMul(p, v)"
    g = graph(TEXT.format("c = Cast<to = 11>(h) s = Sigmoid(c)", behind), WEIGHTS)
    x = RNG.normal(size=(64, 4)).astype(np.float32)
    before = run(g, x)
    (region,) = regions_to_approximate(g)
    assert approximated(g, {region.name: np.linspace(-9, 9, 4096, dtype=np.float32)}, 64)
    assert np.abs(run(g, x) - before).mean() < 0.01


@pytest.mark.parametrize("text", [
    "c = Less(h, half) s = Where(c, zero, h)",
    "l = Greater(h, half) r = Less(h, six) c = And(l, r) s = Where(c, h, zero)",
    "c = GreaterOrEqual(h, half) f = Cast<to = 1>(c) s = Mul(h, f)",
])  # fmt: skip
def test_conditions_behind_neurons(text):
    """Where and a mask: functions of one tensor that no clips make up."""
    text = f"k = Clip(x, zero, six) h = MatMul(k, w) {text} {FOLLOWED}"
    g = graph(f"g (float[N, 4] x) => (float[N, 3] y) {{ {text} }}", WEIGHTS)
    canonicalise(g)
    (region,) = regions_to_approximate(g)
    assert (region.source.name, region.last.outputs[0].name) == ("h", "s")
    x = RNG.normal(size=(64, 4)).astype(np.float32)
    before = run(g, x)
    places = np.linspace(-9, 9, 4096, dtype=np.float32)
    assert approximated(g, {region.name: places}, 64)
    assert np.abs(run(g, x) - before).mean() < 0.1


def test_each_of_several_layers():
    body = "a1 = Sigmoid(x) h = MatMul(a1, w) g = Sigmoid(h) s = Mul(h, g) y = MatMul(s, v)"
    g = graph(f"g (float[N, 4] x) => (float[N, 3] y) {{ {body} }}", WEIGHTS)
    assert [region.source.name for region in regions_to_approximate(g)] == ["x", "h"]


NONE = {
    "relu": "s = Relu(h) y = MatMul(s, v)",
    "clip": "s = Clip(h, zero, six) y = MatMul(s, v)",
    "softmax in the read-out": "s = Clip(h, zero, six) p = MatMul(s, v) y = Softmax(p)",
    "sigmoid in the read-out": "s = Clip(h, zero, six) p = MatMul(s, v) y = Sigmoid(p)",
    "a swish in the read-out": (
        "s = Clip(h, zero, six) p = MatMul(s, v) q = Sigmoid(p) y = Mul(p, q)"
    ),
    "a number of the whole batch": (
        "m = ReduceMean<keepdims = 0>(h) r = Exp(m) s = Add(h, r) y = MatMul(s, v)"
    ),
    "a condition on another tensor": (
        "c = Greater(x, six) s = Where(c, h, zero) y = MatMul(s, v)"
    ),
    "a curve of constants": (
        "k = Sigmoid(bias) i = Add(h, k) s = Clip(i, zero, six) y = MatMul(s, v)"
    ),
    "a product of two layers": (
        "s = Clip(h, zero, six) i = MatMul(x, w) m = Mul(s, i) y = MatMul(m, v)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_finds_nothing_else(name):
    g = graph(f"g (float[N, 4] x) => (float[N, b] y) {{ h = MatMul(x, w) {NONE[name]} }}", WEIGHTS)
    assert regions_to_approximate(g) == []
    assert not approximated(g, {}, 4)


@pytest.mark.parametrize("name", ["sigmoid", "swish", "gelu", "hard swish in parts", "square"])
def test_more_clips_come_nearer(name):
    x = RNG.normal(size=(512, 4)).astype(np.float32)
    values = {"h": x @ WEIGHTS["w"]}
    wanted = run(network(name), x)
    errors = []
    for clips in (1, 4, 8):
        g = network(name)
        (region,) = regions_to_approximate(g)
        data = {region.name: values[region.source.name]}
        changes_once(lambda g, d=data, n=clips: approximated(g, d, n), g)
        assert regions_to_approximate(g) == []
        assert ops(g).count("Clip") == clips + 1
        errors.append(np.sqrt(np.mean((run(g, x) - wanted) ** 2)))
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.2 * errors[0]


def test_knots_are_where_the_error_is_least():
    """16 clips of a Sigmoid: 0.00061 with knots by its curvature alone moved, 0.00078 without."""
    found = []
    x = np.linspace(-9, 9, 4096, dtype=np.float32)
    approximated(network("sigmoid"), {"s": x}, 16, found)
    (text,) = found
    assert float(re.search(r"RMS error ([\d.e-]+)", text)[1]) < 0.00065


@pytest.mark.parametrize("dtype", ["float16", "float", "double"])
def test_is_constant_outside_the_data(dtype):
    kind = {"float16": np.float16, "float": np.float32, "double": np.float64}[dtype]
    weights = {name: value.astype(kind) for name, value in WEIGHTS.items()}
    weights["w"] = np.eye(6, dtype=kind)
    text = f"g ({dtype}[N, 6] x) => ({dtype}[N, 6] y) {{ s = Tanh(x) y = MatMul(s, w) }}"
    g = graph(text, weights)
    (region,) = regions_to_approximate(g)
    data = np.linspace(-1.5, 2, 500).astype(kind)
    changes_once(lambda g: approximated(g, {region.name: data}, 6), g)
    x = np.array([-1000, -50, -1.5, 0, 2, 50, 1000])
    result = run(g, np.tile(x[:, None], (1, 6)).astype(kind))
    assert result.dtype == kind
    column = result[:, 0]
    assert column[0] == column[1] == pytest.approx(column[2], abs=0.01)
    assert column[-1] == column[-2] == pytest.approx(column[-3], abs=0.01)
    np.testing.assert_allclose(column, np.tanh(np.clip(x, -1.5, 2)), atol=0.05)


@pytest.mark.parametrize("shift", [1e7, 1e9])
def test_data_where_float32_has_few_numbers(shift):
    """Knots that are one number there make no clip of width 0."""
    text = "g (float[N, 4] x) => (float[N, 4] y) { s = Sigmoid(x) y = MatMul(s, w) }"
    g = graph(text, WEIGHTS | {"w": np.eye(4, dtype=np.float32)})
    (region,) = regions_to_approximate(g)
    data = np.float32(shift + np.linspace(-2, 2, 100))
    approximated(g, {region.name: data}, 16)
    widths = [n.inputs[2].values for n in g.nodes if n.op == "Clip"]
    assert 0 < len(widths) < 16
    assert min(widths) > 0
    np.testing.assert_allclose(run(g, np.full((1, 4), shift, np.float32)), 1)


@pytest.mark.parametrize("values", [np.zeros(9), 1000 + 1e-12 * np.arange(9), np.full(9, 1e20)])
def test_data_of_one_value(values):
    """Or of values so near to each other that float64 has none between them."""
    g = network("sigmoid")
    (region,) = regions_to_approximate(g)
    changes_once(lambda g: approximated(g, {region.name: values}, 2), g)
    assert np.all(np.isfinite(run(g, np.zeros((1, 4), np.float32))))


@pytest.mark.parametrize(
    ("function", "low", "high"), [("Log", 0, 2), ("Sqrt", -1, 2), ("Exp", -1, 200)]
)
def test_functions_that_are_not_finite_all_over_the_data(function, low, high, monkeypatch):
    """LAPACK may never return from a fit of NaN."""
    monkeypatch.setattr(approximate, "_fit_values", lambda *_: pytest.fail("fits what it cannot"))
    g = graph(TEXT.format(f"s = {function}(h)", LAST), WEIGHTS)
    (region,) = regions_to_approximate(g)
    with pytest.raises(Onnx2SnnError, match=f"{function} 's'.*finite"):
        approximated(g, {region.name: np.linspace(low, high, 99)}, 3)


def test_only_regions_with_data():
    body = "a1 = Sigmoid(x) h = MatMul(a1, w) s = Tanh(h) y = MatMul(s, v)"
    g = graph(f"g (float[N, 4] x) => (float[N, 3] y) {{ {body} }}", WEIGHTS)
    first, second = regions_to_approximate(g)
    assert approximated(g, samples(first), 3)
    assert [region.name for region in regions_to_approximate(g)] == [second.name]


def test_says_how_near_it_comes():
    g = network("swish")
    (region,) = regions_to_approximate(g)
    found = []
    approximated(g, {region.name: np.linspace(-3, 4, 99)}, 5, found)
    (line,) = found
    pattern = (
        r"Sigmoid, Mul 's': 5 clips over \[-3, 4\], RMS error ([\d.e-]+), "
        r"largest ([\d.e-]+), of values from (-[\d.]+) to ([\d.]+)"
    )
    rms, largest, low, high = map(float, re.fullmatch(pattern, line).groups())
    assert 0 < rms < largest < 0.3
    assert low == pytest.approx(-0.2785, abs=1e-3)
    assert high == pytest.approx(4 / (1 + np.exp(-4)), abs=1e-3)


@pytest.mark.parametrize("clips", [0, -1, 2.5, True])
def test_needs_a_clip(clips):
    with pytest.raises(DataError, match="clips must be a whole number, 1 or more"):
        approximated(network("tanh"), {}, clips)


def test_a_value_that_another_layer_reads_as_well():
    """Sigmoid(h) itself is read too: it needs a stand-in of its own."""
    body = "g = Sigmoid(h) s = Mul(h, g) p = MatMul(s, v) q = MatMul(g, v) r = Add(p, q)"
    g = graph(TEXT.format(body, "y = Clip(r, zero, six)"), WEIGHTS)
    regions = regions_to_approximate(g)
    assert [region.op for region in regions] == ["Sigmoid", "Sigmoid, Mul"]
    x = RNG.normal(size=(256, 4)).astype(np.float32)
    wanted = run(g, x)
    data = {region.name: x @ WEIGHTS["w"] for region in regions}
    changes_once(lambda g: approximated(g, data, 12), g)
    np.testing.assert_allclose(run(g, x), wanted, atol=0.15)


def test_a_function_of_a_function_that_is_read_as_well():
    """GELU(h)^2 has clips of its own, and so has GELU(h), whose last factor is affine."""
    gelu = "d = Div(h, root) e = Erf(d) f = Add(e, one) m = Mul(h, f) n = Mul(m, half)"
    body = f"{gelu} q = Mul(n, n) k = ReduceMean<axes = [1], keepdims = 1>(q) s = Sub(n, k)"
    g = graph(TEXT.format(body, FOLLOWED), WEIGHTS)
    regions = regions_to_approximate(g)
    assert [region.source.name for region in regions] == ["h", "h"]
    x = RNG.normal(size=(200, 4)).astype(np.float32)
    before = run(g, x)
    samples = {region.name: x @ WEIGHTS["w"] for region in regions}
    changes_once(lambda g: approximated(g, samples, 16), g)
    assert "Erf" not in ops(g)
    assert np.abs(run(g, x) - before).max() < 0.1


def test_constants_of_any_name():
    """Also the names that the pass gives to what it evaluates."""
    body = "d = Mul(h, x) e = Erf(d) f = Add(e, t0) s = Mul(h, f)"
    g = graph(
        f"g (float[N, 4] u) => (float[N, 3] y) {{ h = MatMul(u, w) {body} {FOLLOWED} }}",
        WEIGHTS | {"x": np.float32(0.5), "t0": np.float32(1)},
    )
    u = RNG.normal(size=(256, 4)).astype(np.float32)
    wanted = run(g, u)
    (region,) = regions_to_approximate(g)
    data = {region.name: u @ WEIGHTS["w"]}
    changes_once(lambda g: approximated(g, data, 12), g)
    np.testing.assert_allclose(run(g, u), wanted, atol=0.15)


def test_functions_of_newer_opsets():
    """Swish is one of ONNX itself since opset 24."""
    g = graph(TEXT.format("s = Swish(h)", FOLLOWED), WEIGHTS, opset=24)
    (region,) = regions_to_approximate(g)
    h = RNG.normal(size=(256, 6)).astype(np.float32)
    assert approximated(g, {region.name: h}, 12)
    assert "Swish" not in ops(g)


def test_knots_that_float16_cannot_tell_apart():
    text = (
        "g (float16[N, 4] x) => (float16[N, 3] y) { h = MatMul(x, w) d = Sub(h, far) "
        "s = Tanh(d) y = MatMul(s, v) }"
    )
    values = {"w": np.eye(4), "far": 1002, "v": np.eye(4)[:, :3]}
    g = graph(text, {name: np.float16(value) for name, value in values.items()})
    (region,) = regions_to_approximate(g)
    x = np.arange(1000, 1004.5, 0.5).astype(np.float16)
    approximated(g, {region.name: x}, 32)
    shown = np.repeat(x[:, np.newaxis], 4, axis=1)
    ends = np.tanh(np.float32([[-2], [2]])) * np.ones(3)
    np.testing.assert_allclose(run(g, shown)[[0, -1]], ends, atol=0.1)


def test_clips_too_steep_or_too_wide_for_float16():
    text = "g (float16[N, 2] x) => (float16[N, 2] y) { s = Reciprocal(x) y = MatMul(s, w) }"
    g = graph(text, {"w": np.eye(2, dtype=np.float16)})
    (region,) = regions_to_approximate(g)
    x = np.linspace(2e-3, 8e-3, 500).astype(np.float16)
    refusal = "Reciprocal 's': float16 cannot hold the slopes"
    with pytest.raises(UnsupportedModelError, match=refusal):
        fit_clips(g, {region.name: x}, 4)
    wide = ClipFit(np.array([-6e4, 6e4]), np.array([0.0, 1.0]))
    with pytest.raises(UnsupportedModelError, match=refusal):
        approximate_activations(g, {region.name: wide})


def test_says_the_error_of_what_is_written():
    """A fit of fewer clips where float16 cannot tell knots apart."""
    text = (
        "g (float16[N, 4] x) => (float16[N, 4] y) { d = Sub(x, far) s = Tanh(d) y = MatMul(s, w) }"
    )
    g = graph(text, {"w": np.eye(4, dtype=np.float16), "far": np.float16(1002)})
    (region,) = regions_to_approximate(g)
    x = np.arange(1000, 1004.5, 0.5).astype(np.float16)
    shown = np.repeat(x[:, np.newaxis], 4, axis=1)
    wanted, found = run(g, shown), []
    approximated(g, {region.name: x}, 32, found)
    largest = float(re.search("largest (.*?),", found[0])[1])
    assert np.abs(run(g, shown) - wanted).max() <= 1.1 * largest


FOUND = {
    "two squares": ("s = Mul(h, h) i = MatMul(s, u) t = Mul(i, i) y = MatMul(t, v)", ["h", "i"]),
    "before a softmax": ("s = Mul(h, h) p = MatMul(s, v) y = Softmax(p)", ["h"]),
    "before a product": ("s = Sigmoid(h) i = MatMul(x, w) m = Mul(s, i) y = MatMul(m, v)", ["h"]),
    "behind a relu": ("r = Relu(h) s = Sigmoid(r) y = MatMul(s, v)", ["r"]),
    "sizes of a part": (
        "g = Sigmoid(h) z = Shape(g) o = Expand(zero, z) m = Mul(h, g) c = Greater(h, one) "
        "s = Where(c, m, o) y = MatMul(s, v)",
        ["h"],
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_finds_each_where_it_begins(name):
    body, sources = FOUND[name]
    weights = WEIGHTS | {"u": np.eye(6, dtype=np.float32)}
    g = graph(f"g (float[N, 4] x) => (float[N, 3] y) {{ h = MatMul(x, w) {body} }}", weights)
    canonicalise(g)
    assert [region.source.name for region in regions_to_approximate(g)] == sources


def test_finds_what_a_pool_reads():
    body = "h = Conv(x, k) s = Mul(h, h) p = MaxPool<kernel_shape = [2, 2]>(s) y = Conv(p, k)"
    g = graph(
        f"g (float[N, 2, 4, 4] x) => (float[N, 2, 3, 3] y) {{ {body} }}",
        {"k": RNG.normal(size=(2, 2, 1, 1)).astype(np.float32)},
    )
    assert [region.op for region in regions_to_approximate(g)] == ["Mul"]


@pytest.mark.parametrize("body", ["s = Mul(h, h)", "s = Sigmoid(h)"])
def test_operators_of_other_domains_are_not_known(body):
    g = graph(TEXT.format(body, FOLLOWED), WEIGHTS)
    g.nodes[1].domain = "my"
    assert regions_to_approximate(g) == []


def test_whole_numbers_are_no_place_for_knots():
    """Of a Cast what it makes is what clips read."""
    text = "g (int64[N, 4] x) => (float[N, 6] y) { c = Cast<to = 1>(x) s = Sigmoid(c) %s }"
    (region,) = regions_to_approximate(graph(text % "y = MatMul(s, w)", {"w": WEIGHTS["w"]}))
    assert (region.source.name, region.op) == ("c", "Sigmoid")


def test_says_the_largest_error_of_either_sign():
    text = "g (float[N, 4] x) => (float[N, 4] y) {{ e = Exp(x) s = {}(e) y = MatMul(s, w) }}"
    x = np.repeat(np.linspace(-3, 2, 1025, dtype=np.float32)[:, None], 4, axis=1)
    for op in ("Identity", "Reciprocal"):
        g = graph(text.format(op), {"w": np.eye(4, dtype=np.float32)})
        wanted, found = run(g, x), []
        (region,) = regions_to_approximate(g)
        approximated(g, {region.name: x}, 1, found)
        largest = float(re.search("largest (.*?),", found[0])[1])
        assert largest == pytest.approx(np.abs(run(g, x) - wanted).max(), rel=0.1)


def test_a_bound_that_is_left_out_is_no_source():
    g = graph(TEXT.format("c = Clip(h, , six) s = Sigmoid(c)", LAST), WEIGHTS)
    (region,) = regions_to_approximate(g)
    assert (region.source.name, region.op) == ("h", "Clip, Sigmoid")


def test_what_prepares_the_input_stays():
    """The variance of a layer normalisation, and its root, which no spikes could pass."""
    body = (
        "m = ReduceMean<axes = [1], keepdims = 1>(x) d = Sub(x, m) s = Mul(d, d) "
        "v = ReduceMean<axes = [1], keepdims = 1>(s) r = Sqrt(v) n = Div(d, r) "
        "h = MatMul(n, a) t = Tanh(h) y = MatMul(t, a)"
    )
    g = graph(f"g (float[N, 4] x) => (float[N, 4] y) {{ {body} }}",
              {"a": RNG.normal(size=(4, 4)).astype(np.float32)})  # fmt: skip
    assert [region.op for region in regions_to_approximate(g)] == ["Tanh"]


def test_the_logarithm_of_what_is_kept_from_0_stays():
    body = (
        "h = MatMul(x, a) r = Tanh(h) e = MatMul(r, a) p = Softmax(e) c = Clip(p, low) l = Log(c) "
        "y = MatMul(l, a)"
    )
    weights = {"a": RNG.normal(size=(4, 4)).astype(np.float32), "low": np.float32(1e-7)}
    g = graph(f"g (float[N, 4] x) => (float[N, 4] y) {{ {body} }}", weights)
    canonicalise(g)
    (region,) = regions_to_approximate(g)
    assert region.op == "Tanh"
    approximated(g, {region.name: np.linspace(-3, 3, 99, dtype=np.float32)}, 3)
    assert regions_to_approximate(g) == []
