import numpy as np
import pytest
from onnx_text import changes_once, graph, model, ops, run

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.graph_passes import exponentials_to_softmax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 5)).astype(np.float32)
WEIGHTS = {"last": np.array([-1]), "two": np.array([2]), "one": np.array([1]), "w": np.eye(5)}
SIGNATURE = "g (float[N, 4, 5] x) => (float[N, 4, 5] y)"
LARGEST = "m = ReduceMax<axes = [2]>(x) d = Sub(x, m) "
SPELLINGS = {
    "plain": ("e = Exp(x) s = ReduceSum(e, last) y = Div(e, s)", "Softmax"),
    "against overflow": (LARGEST + "e = Exp(d) s = ReduceSum(e, last) y = Div(e, s)", "Softmax"),
    "along another axis": ("e = Exp(x) s = ReduceSum(e, one) y = Div(e, s)", "Softmax"),
    "its logarithm": ("e = Exp(x) s = ReduceSum(e, two) l = Log(s) y = Sub(x, l)", "LogSoftmax"),
    "its logarithm, against overflow": (
        LARGEST + "e = Exp(d) s = ReduceSum(e, two) l = Log(s) y = Sub(d, l)", "LogSoftmax",
    ),
}  # fmt: skip
OTHERS = {
    "the sum of something else": "e = Exp(x) s = ReduceSum(x, last) y = Div(e, s)",
    "divided by something else": "e = Exp(x) f = Neg(x) h = Exp(f) s = ReduceSum(h, last) "
    "y = Div(e, s)",
    "over all axes": "e = Exp(x) s = ReduceSum(e) y = Div(e, s)",
    "over two axes": "e = Exp(x) s = ReduceMean<axes = [1, 2]>(e) y = Div(e, s)",
    "from another number": "e = Exp(x) s = ReduceSum(e, last) l = Log(s) d = Neg(x) y = Sub(d, l)",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_become_what_they_are(name):
    body, op = SPELLINGS[name]
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
    before = run(g, X)
    changes_once(exponentials_to_softmax, g)
    assert ops(g) == [op]
    np.testing.assert_allclose(run(g, X), before, rtol=1e-5)


def test_the_largest_along_another_axis_stays():
    body = "m = ReduceMax<axes = [1]>(x) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, last) "
    g = graph(f"{SIGNATURE} {{ {body} y = Div(e, s) }}", WEIGHTS)
    before = run(g, X)
    changes_once(exponentials_to_softmax, g)
    assert ops(g) == ["ReduceMax", "Sub", "Softmax"]
    np.testing.assert_allclose(run(g, X), before, rtol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_none_stays(name):
    g = graph(f"{SIGNATURE} {{ {OTHERS[name]} }}", WEIGHTS)
    assert exponentials_to_softmax(g) is False


def test_sums_that_others_read_stay():
    g = graph(
        "g (float[N, 4, 5] x) => (float[N, 4, 5] y, float[N, 4, 1] s) "
        "{ e = Exp(x) s = ReduceSum(e, last) y = Div(e, s) }",
        WEIGHTS,
    )
    before = run(g, X, output=1)
    changes_once(exponentials_to_softmax, g)
    assert sorted(ops(g)) == ["Exp", "ReduceSum", "Softmax"]
    np.testing.assert_array_equal(run(g, X, output=1), before)


@pytest.mark.parametrize("maxpool", ["average", "exact"])
@pytest.mark.parametrize(
    "before", ["d = Identity(q)", "m = ReduceMax<axes = [2]>(q) d = Sub(q, m)"]
)
def test_between_neurons_it_is_computed_on_means(before, maxpool):
    """Also against overflow: before its maximum becomes a pool."""
    body = f"a = Relu(x) q0 = MatMul(a, w) q = Add(q0, mask) {before} e = Exp(d) "
    body += "s = ReduceSum(e, last) p = Div(e, s)"
    weights = WEIGHTS | {"w": RNG.normal(size=(5, 5)).astype(np.float32)}
    weights["mask"] = np.float32([0, 0, 0, 0, -1e9])
    ann = model(f"{SIGNATURE} {{ {body} n = MatMul(p, w) r = Relu(n) y = MatMul(r, w) }}", weights)
    made = convert(
        ann,
        calibration=from_arrays(X),
        recipe="opi",
        threshold="max",
        on_means=True,
        maxpool=maxpool,
    )
    assert len(made.neurons) == 2
    found = SpikingSession(made.model).run(X, 512).output
    np.testing.assert_allclose(found, run(ann, X), atol=0.02)
