"""Networks of a batch size that the exporter fixed: it is opened where samples are apart."""

import numpy as np
import pytest
from onnx_text import model, run

from onnx2snn import SpikingSession, check, convert, from_arrays
from onnx2snn.graph_passes import ModelError, UnsupportedModelError

RNG = np.random.default_rng(0)
VALUES = {
    "zero": np.float32(0), "one": np.float32(1), "w": RNG.normal(size=(6, 6)).astype(np.float32),
    "v": RNG.normal(size=(6, 3)).astype(np.float32), "tiny": np.float32(1e-3),
    "rows": np.array([2, 3]), "flat": np.array([1, 6]), "pairs": np.array([-1, 12]),
    "u": RNG.normal(size=(12, 3)).astype(np.float32), "first": np.array(0), "second": np.array(1),
    "heads": np.array([1, 2, 3]), "half": np.array([2]), "minus": np.array([-1]),
    "axis": np.array([1]), "from": np.array([0]), "places": np.arange(6).reshape(1, 1, 6),
    "each": np.array([3, 2]), "again": np.array([3, 1, 2]), "two": np.float32([[1, 2], [3, -1]]),
    "tokens": np.array([1, 3, 2]), "in_order": np.arange(3),
}  # fmt: skip
LAYERS = "h = MatMul(n, w) c = Clip(h, zero, one) y = MatMul(c, v)"
X = RNG.normal(size=(7, 6)).astype(np.float32) * np.float32([[0.1], [1], [4], [1], [0.3], [2], [1]])


def network(body, batch=1, output="float[a, b] y"):
    return model(f"net (float[{batch}, 6] x) => ({output}) {{ {body} }}", VALUES)


def converted(body, with_data):
    output = "int64[a, b] y" if "ArgMax" in body else "float[a, b] y"
    data = from_arrays(X) if with_data else None
    return convert(network(body, output=output), calibration=data)


def first_size(conversion):
    (given, *_) = conversion.model.graph.input
    dimension = given.type.tensor_type.shape.dim[0]
    return dimension.dim_param or dimension.dim_value


APART = {
    "none": f"n = Identity(x) {LAYERS}",
    "rows of its own": f"r = Reshape(x, rows) s = Softmax(r) n = Reshape(s, flat) {LAYERS}",
    "a size that nodes work out": "z = Shape(x) g = Gather(z, axis) d = Div(g, half) "
    f"j = Concat<axis = 0>(half, d) r = Reshape(x, j) s = Softmax(r) n = Reshape(s, flat) {LAYERS}",
    "all places of a mask": "t = Flatten<axis = 2>(x) g = Gather(t, places) "
    f"n = Reshape(g, flat) {LAYERS}",
    "all places of a mask and sizes": "t = Flatten<axis = 2>(x) g = Gather(t, places) "
    "z = Shape(x) k = Expand(tiny, z) q = Reshape(g, flat) n = Add(q, k) "
    f"{LAYERS}",
    "all places of a sequence": "q = Reshape(x, tokens) t = Transpose<perm = [1, 0, 2]>(q) "
    f"g = Gather(t, in_order) r = Transpose<perm = [1, 0, 2]>(g) n = Reshape(r, flat) {LAYERS}",
    "rows of a sequence": "q = Reshape(x, tokens) t = Transpose<perm = [1, 0, 2]>(q) "
    "g = Reshape(t, each) k = MatMul(g, two) r = Reshape(k, again) "
    f"f = Transpose<perm = [1, 0, 2]>(r) n = Reshape(f, flat) {LAYERS}",
    "a class": f"n = Identity(x) {LAYERS.replace('y =', 't =')} y = ArgMax<axis = 1>(t)",
}
MIXED = {
    "the largest of all": f"a = Abs(x) m = ReduceMax<keepdims = 0>(a) n = Div(x, m) {LAYERS}",
    "their mean power": "p = Mul(x, x) m = ReduceMean<axes = [0]>(p) e = Add(m, tiny) "
    f"k = Sqrt(e) n = Div(x, k) {LAYERS}",
    "rows of others": "p = Mul(x, x) r = Reshape(p, rows) m = ReduceMean<axes = [0]>(r) "
    f"s = Sub(r, m) n = Reshape(s, flat) {LAYERS}",
    "the class of all": f"n = Identity(x) {LAYERS.replace('y =', 't =')} y = ArgMax<axis = 0>(t)",
}


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("name", APART)
def test_apart(name, with_data):
    made = converted(APART[name], with_data)
    assert first_size(made) == "N"
    session = SpikingSession(made.model)
    alone = np.concatenate([session.run(X[i : i + 1], 8).output for i in range(7)])
    np.testing.assert_allclose(session.run(X, 8).output, alone, atol=1e-6)


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("name", MIXED)
def test_mixed(name, with_data):
    """Also where all is even in x, or what comes out are places."""
    made = converted(MIXED[name], with_data)
    assert first_size(made) == 1
    assert "samples depend on each other" in made.notes[0]


@pytest.mark.parametrize(
    ("outputs", "more", "opened"),
    [
        ("int64[a] s", "s = Shape(x)", True),
        ("int64[a, b] s", "t = Transpose(y) g = ArgMax<axis = 0, keepdims = 0>(t) "
         "s = Unsqueeze(g, minus)", True),
        ("bool[a, b] s", "t = Transpose(y) g = Greater(t, zero) s = Transpose(g)", True),
        ("float[a, b] s", "t = Slice(y, axis, pairs, from) s = Concat<axis = 0>(y, t)", False),
    ],
)  # fmt: skip
def test_other_outputs(outputs, more, opened):
    """Of classes and sizes it is known whose they are, of further rows not."""
    values = VALUES | {"pairs": np.array([9])}
    text = (
        f"net (float[1, 6] x) => (float[a, b] y, {outputs}) {{ n = Identity(x) {LAYERS} {more} }}"
    )
    made = convert(model(text, values))
    assert first_size(made) == ("N" if opened else 1)


@pytest.mark.parametrize("more", ["s = Identity(w)", "s = Expand(one, flat)"])
def test_a_constant_output_is_refused(more):
    """Run on more samples, the ANN gives it once for each of them, a network of any once."""
    text = "net (float[1, 6] x) => (float[a, b] y, float[a, b] s)"
    ann = model(f"{text} {{ n = Identity(x) {LAYERS} {more} }}", VALUES)
    with pytest.raises(UnsupportedModelError, match="output 's': depends on no input"):
        convert(ann, calibration=from_arrays(X), recipe="opi")


def test_a_sequence_is_no_input_or_output():
    text = "net (float[N, 6] x) => (float[N, b] y, seq(float[N, b]) s)"
    ann = model(f"{text} {{ n = Identity(x) {LAYERS} s = SplitToSequence<axis = 1>(y) }}", VALUES)
    for function in (convert, check):
        with pytest.raises(ModelError, match="output 's' is a sequence"):
            function(ann)
    text = "net (seq(float[N, 6]) s) => (float[N, b] y)"
    ann = model(f"{text} {{ n = ConcatFromSequence<axis = 0>(s) {LAYERS} }}", VALUES)
    for function in (convert, check):
        with pytest.raises(ModelError, match="input 's' is no tensor of numbers"):
            function(ann)


@pytest.mark.parametrize("body", [
    "p = Reshape(x, pairs) q = MatMul(p, u) y = Clip(q, zero, one)",
    "n = Identity(x) h = MatMul(n, w) c = Clip(h, zero, one) f = Gather<axis = 0>(c, from) "
    "g = Gather<axis = 0>(c, axis) d = Sub(f, g) y = MatMul(d, v)",
])  # fmt: skip
def test_pairs_of_samples_stay_together(body):
    """They are one sample for the network, which one by itself is not."""
    ann = network(body, batch=2)
    made = convert(ann)
    assert first_size(made) == 2
    found = SpikingSession(made.model).run(X[:2], 512).output
    np.testing.assert_allclose(found, run(ann, X[:2]), atol=0.05)


def test_what_only_the_data_shows():
    """Where the largest number is beyond 40, as in no random input, all are divided by it."""
    body = "m = ReduceMax<keepdims = 0>(x) g = Greater(m, far) t = Where(g, m, one) n = Div(x, t) "
    ann = model(f"net (float[1, 6] x) => (float[1, 3] y) {{ {body} {LAYERS} }}",
                VALUES | {"far": np.float32(40)})  # fmt: skip
    assert first_size(convert(ann)) == "N"
    assert first_size(convert(ann, calibration=from_arrays(X * 20))) == 1
