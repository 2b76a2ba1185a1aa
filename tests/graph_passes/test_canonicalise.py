from functools import partial

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import changes_once, graph, model, ops, run

from onnx2snn.graph_passes import (
    ModelError,
    bound_activations,
    canonicalise,
    dequantize_layers,
    fold_batch_normalization,
    fold_constants,
    fold_forward,
    max_to_average_pool,
    remove_no_ops,
    to_graph,
    to_model,
    unbounded_activations,
    unify_clips,
    unquantize_activations,
    upgrade_opset,
)
from onnx2snn.graph_passes.approximate import approximate_activations
from onnx2snn.graph_passes.canonicalise import CANONICAL_FORM
from onnx2snn.graph_passes.graph.activations import bounded_activations

X = np.linspace(-9, 9, 24, dtype=np.float32).reshape(2, 3, 4)
SIGNATURE = "g (float[N, 3, 4] x) => (float[N, 3, 4] y)"
PER_CHANNEL = {"t": np.array([1, 2, 4], np.float32).reshape(3, 1)}

CLIPS = {
    "relu then clip": ("r = Relu(x) y = Clip(r, zero, six)", ["Clip"]),
    "clip then relu": ("r = Clip(x, minus, six) y = Relu(r)", ["Clip"]),
    "clip without minimum, then relu": ("r = Clip(x, , six) y = Relu(r)", ["Clip"]),
    "relu then min": ("r = Relu(x) y = Min(r, six)", ["Clip"]),
    "min then relu": ("r = Min(six, x) y = Relu(r)", ["Clip"]),
    "max then min": ("r = Max(x, zero) y = Min(r, six)", ["Clip"]),
    "min then max": ("r = Min(x, six) y = Max(zero, r)", ["Clip"]),
    "max with zero": ("y = Max(x, zero)", ["Relu"]),
    "clip without maximum": ("y = Clip(x, zero)", ["Relu"]),
    "clip to the largest number": ("y = Clip(x, zero, huge)", ["Relu"]),
    "clip to a large number": ("y = Clip(x, zero, large)", ["Relu"]),
    "relu then min of a large number": ("r = Relu(x) y = Min(r, large)", ["Relu"]),
    "max of a large negative number, then relu": ("r = Max(x, deep) y = Relu(r)", ["Relu"]),
    "clip to nothing": ("r = Relu(x) y = Clip(r)", ["Relu"]),
    "two clips": ("r = Clip(x, zero, six) y = Clip(r, zero, two)", ["Clip"]),
    "relu of relu": ("r = Relu(x) y = Relu(r)", ["Relu"]),
    "min of several": ("r = Relu(x) y = Min(r, six, two)", ["Clip"]),
    "three in a row": ("a = Relu(x) b = Min(a, six) y = Clip(b, minus, two)", ["Clip"]),
    "a vector of equal bounds": ("r = Relu(x) y = Min(r, sixes)", ["Clip"]),
}  # fmt: skip
WEIGHTS = {
    "zero": np.float32(0), "six": np.float32(6), "two": np.float32(2), "minus": np.float32(-1),
    "huge": np.finfo(np.float32).max, "large": np.float32(2**20), "deep": np.float32(-(2**20)),
    "sixes": np.full((3, 1), 6, np.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_spellings_of_a_clip_become_one(name):
    body, wanted = CLIPS[name]
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
    before = run(g, X)
    changes_once(unify_clips, g)
    assert ops(g) == wanted
    np.testing.assert_array_equal(run(g, X), before)


@pytest.mark.parametrize("body", ["y = Relu(x)", "y = Clip(x, zero, six)"])
def test_canonical_clips_stay(body):
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
    assert not canonicalise(g)


OLD = {
    "a clip": (10, "y = Clip<min = 0.0, max = 6.0>(x)"),
    "a slice": (9, "t = Transpose<perm = [0, 2, 1]>(x) s = Slice<axes = [1], starts = [0], "
                   "ends = [2]>(t) y = MatMul(x, s)"),
    "a pad": (10, "t = Transpose<perm = [0, 2, 1]>(x) p = Pad<pads = [0, 0, 1, 0, 0, 1]>(t) "
                  "y = MatMul(x, p)"),
    "a sum": (12, "s = ReduceSum<axes = [1]>(x) y = Add(x, s)"),
}  # fmt: skip
FOR_NETWORKS = (
    canonicalise, *CANONICAL_FORM, fold_batch_normalization, fold_forward, max_to_average_pool,
    partial(bound_activations, thresholds={}),
    partial(approximate_activations, fits={}), dequantize_layers,
    unquantize_activations,
)  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_older_opsets_are_refused(name):
    opset, body = OLD[name]
    old = model(f"{SIGNATURE} {{ {body} }}", opset=opset)
    g = to_graph(old)
    for function in FOR_NETWORKS:
        with pytest.raises(ModelError, match=f"opset 13 or newer.* {opset}: .*upgrade_opset"):
            function(g)
    assert to_model(g) == to_model(to_graph(old))
    canonicalise(to_graph(upgrade_opset(old)))


def test_bounds_of_no_elements_stay():
    g = graph("g (float[N, 0] x) => (float[N, 0] y) { r = Relu(x) y = Min(r, empty) }",
              {"empty": np.zeros(0, np.float32)})  # fmt: skip
    assert not unify_clips(g)


@pytest.mark.parametrize(
    "body",
    [
        "r = Min(x, t) y = Relu(r)",
        "r = Max(x, zero) y = Min(r, t)",
        "r = Relu(x) y = Min(r, t, six)",
        "y = Clip(x, zero)",
    ],
)
def test_bounds_per_channel(body):
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS | PER_CHANNEL)
    before = run(g, X)
    changes_once(unify_clips, g)
    assert ops(g) == (["Relu", "Min"] if "Min" in body else ["Relu"])
    np.testing.assert_array_equal(run(g, X), before)


def test_bounds_that_someone_else_reads_between_are_kept_apart():
    g = graph(
        "g (float[N, 3, 4] x) => (float[N, 3, 4] y, float[N, 3, 4] r) "
        "{ r = Relu(x) y = Min(r, six) }",
        WEIGHTS,
    )
    before = run(g, X)
    unify_clips(g)
    assert sorted(ops(g)) == ["Clip", "Relu"]
    np.testing.assert_array_equal(run(g, X), before)


def test_a_bound_that_changes_the_shape_is_no_clip():
    weights = {"t": np.full((2, 2, 3, 4), 5, np.float32)}
    g = graph(
        "g (float[N, 3, 4] x) => (float[2, 2, 3, 4] y) { r = Relu(x) y = Min(r, t) }", weights
    )
    assert not unify_clips(g)


def test_bounds_of_a_clip_that_are_no_scalar():
    """ONNX has them scalar; what reads such a file says which node it is."""
    weights = {"low": np.zeros(4, np.float32), "high": np.float32(1)}
    g = graph(f"{SIGNATURE} {{ y = Clip(x, low, high) }}", weights)
    assert not unify_clips(g)


@pytest.mark.parametrize("op", ["Abs", "Clip", "Max"])
def test_whole_numbers_of_a_type_not_known_yet(op):
    more = {"Abs": "", "Clip": ", low, high", "Max": ", low"}[op]
    text = f"g (float[N] x) => (int64[N] y) {{ i = Cast<to = 7>(x) y = {op}(i{more}) }}"
    g = to_graph(model(text, {"low": np.int64(0), "high": np.int64(3)}))
    canonicalise(g)
    assert ops(g) == ["Cast", op]


def test_what_reads_a_bound_in_vain_is_no_obstacle():
    g = graph(f"{SIGNATURE} {{ a = Max(x, zero) d = Max(x, a) y = Min(a, six) }}", WEIGHTS)
    before = run(g, X)
    changes_once(unify_clips, g)
    assert ops(g) == ["Clip"]
    np.testing.assert_array_equal(run(g, X), before)


@pytest.mark.parametrize("dtype", ["float16", "double"])
@pytest.mark.parametrize(("body", "wanted"), [
    ("r = Relu(a) b = Min(r, six)", ["Abs", "Clip", "Neg"]),
    ("r = Max(a, zero) b = Min(r, levels)", ["Abs", "Relu", "Min", "Neg"]),
])  # fmt: skip
def test_bounds_tell_the_type_of_what_has_none(dtype, body, wanted):
    kind = {"float16": np.float16, "double": np.float64}[dtype]
    weights = {"zero": kind(0), "six": kind(6), "levels": np.arange(1, 5, dtype=kind)}
    text = f"g ({dtype}[4] x) => ({dtype}[4] y) {{ a = Abs(x) {body} y = Neg(b) }}"
    g = to_graph(model(text, weights))
    # As far as it is known where levels have as many axes as what they bound.
    g.nodes[0].outputs[0].shape = [4]
    x = np.linspace(-9, 9, 4, dtype=kind)
    before = run(g, x)
    unify_clips(g)
    assert ops(g) == wanted
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("r = Relu(x) c = Cast<to = 1>(r) y = Min(c, two)", ["Cast", "Clip"]),
        ("r = Relu(x) c = Cast<to = 1>(r) d = Cast<to = 11>(c) e = Cast<to = 1>(d) y = Min(e, two)",
         ["Cast", "Cast", "Cast", "Clip"]),
        ("a = Max(x, zero) c = Cast<to = 1>(a) b = Min(c, two) d = Cast<to = 10>(b) "
         "e = Clip(d, third) y = Cast<to = 1>(e)", ["Cast", "Cast", "Clip", "Cast"]),
        # The largest number of a type is no bound, of another type neither.
        ("r = Clip(x, third, most) c = Cast<to = 1>(r) y = Relu(c)", ["Cast", "Clip"]),
        ("r = Relu(x) c = Cast<to = 11>(r) d = Min(c, largest) y = Cast<to = 1>(d)",
         ["Cast", "Relu", "Cast"]),
        # No bound, or none alone, before or behind.
        ("n = Neg(x) c = Cast<to = 1>(n) y = Min(c, two)", ["Neg", "Cast", "Clip"]),
        ("r = Relu(x) c = Cast<to = 1>(r) y = Neg(c)", ["Relu", "Cast", "Neg"]),
        ("r = Relu(x) c = Cast<to = 1>(r) n = Cast<to = 1>(r) m = Min(c, two) y = Add(m, n)",
         ["Relu", "Cast", "Cast", "Clip", "Add"]),
        ("r = Relu(x) c = Cast<to = 6>(r) d = Cast<to = 1>(c) y = Min(d, two)",
         ["Relu", "Cast", "Cast", "Clip"]),
    ],
)  # fmt: skip
def test_casts_within_a_chain_come_before_it(body, left):
    """Rounding keeps the order of numbers, so bounds before and behind it are alike."""
    g = graph(
        f"g (float16[N, 64] x) => (float[N, 64] y) {{ {body} }}",
        {
            "zero": np.float16(0),
            "two": np.float32(2.0003),
            "third": np.float16(1 / 3),
            "most": np.finfo(np.float16).max,
            "largest": np.finfo(np.float64).max,
        },
    )
    x = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float16) * 3
    before = run(g, x, optimised=False)
    unify_clips(g)
    assert not unify_clips(g)
    assert ops(g) == left
    np.testing.assert_array_equal(run(g, x, optimised=False), before)


@pytest.mark.parametrize("read", ["x", "w"])
def test_casts_from_a_type_that_numpy_lacks_are_no_obstacle(read):
    text = f"g (bfloat16[3] x) => (float[3] y) {{ c = Cast<to = 1>({read}) y = Relu(c) }}"
    g = graph(text, {"w": np.ones(3, ml_dtypes.bfloat16)})
    assert not unify_clips(g)
    assert ops(g) == ["Cast", "Relu"]


def test_fold_constants():
    g = graph(
        f"{SIGNATURE} {{ a = Constant<value_float = 2.0>() b = Add(a, a) y = Mul(x, b) }}",
    )
    changes_once(fold_constants, g)
    assert ops(g) == ["Mul"]
    np.testing.assert_array_equal(run(g, X), 4 * X)


def test_fold_constants_keeps_random_numbers():
    g = graph(f"{SIGNATURE} {{ r = RandomNormal<shape = [3, 4]>() y = Add(x, r) }}")
    assert not fold_constants(g)


NO_OPS = {
    "identity": "r = Identity(x) y = Neg(r)",
    "at the output": "r = Neg(x) y = Identity(r)",
    "dropout": "r = Dropout(x) y = Neg(r)",
    "cast": "r = Cast<to = 1>(x) y = Neg(r)",
    "transpose": "r = Transpose<perm = [0, 1, 2]>(x) y = Neg(r)",
    "concat": "r = Concat<axis = 1>(x) y = Neg(r)",
    "pad": "r = Pad(x, zeros) y = Neg(r)",
    "power": "r = Pow(x, one) y = Neg(r)",
    "power of integers": "r = Pow(x, ones) y = Neg(r)",
}


LATE = "a = Exp(x) c = Cast<to = 1>(a) z = Neg(c) y = Identity(a)"


@pytest.mark.parametrize("name", NO_OPS)
def test_remove_no_ops(name):
    values = {"zeros": np.zeros(6, np.int64), "one": np.float32(1), "ones": np.array([1])}
    g = graph(f"{SIGNATURE} {{ {NO_OPS[name]} }}", values)
    changes_once(remove_no_ops, g)
    assert ops(g) == ["Neg"]
    assert [tensor.name for tensor in g.outputs] == ["y"]
    np.testing.assert_array_equal(run(g, X), -X)


def test_a_cast_whose_type_is_that_of_an_output_is_no_op():
    """It reads the output only once another no-op is gone."""
    g = graph(f"g (float[N, 3, 4] x) => (float[N, 3, 4] y, float[N, 3, 4] z) {{ {LATE} }}")
    changes_once(remove_no_ops, g)
    assert ops(g) == ["Exp", "Neg"]
    np.testing.assert_allclose(run(g, X, output=1), -np.exp(X), rtol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(x)",
        "r = Cast<to = 11>(x) y = Cast<to = 1>(r)",
        "y = Transpose<perm=[0,1,2]>(x)",
    ],
)
def test_what_must_stay_stays(body):
    g = graph(f"{SIGNATURE} {{ {body} }}")
    assert not remove_no_ops(g)
    np.testing.assert_array_equal(run(g, X), X)


@pytest.mark.parametrize("exponent", [np.float32(2), np.ones((1, 1, 1, 1), np.float32),
                                      np.array([1, 1, 1, 2], np.float32)])  # fmt: skip
def test_powers_that_do_something_stay(exponent):
    shape = ", ".join(["N", "3", "4"] if exponent.ndim < 4 else ["1", "N", "3", "4"])
    text = f"g (float[N, 3, 4] x) => (float[{shape}] y) {{ r = Pow(x, e) y = Neg(r) }}"
    g = graph(text, {"e": exponent})
    assert not remove_no_ops(g)


LINKS = [
    "Relu({0})", "Clip({0}, zero, six)", "Clip({0}, minus, two)", "Clip({0}, , six)",
    "Clip({0}, zero)", "Clip({0})", "Min({0}, six)", "Min(two, {0})", "Max({0}, zero)",
    "Max(minus, {0})", "Min({0}, t)", "Identity({0})", "Min({0}, six, two)",
]  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(chain=st.lists(st.sampled_from(LINKS), min_size=1, max_size=5), read=st.integers(0, 4))
def test_any_chain_keeps_its_values(chain, read):
    """Also where another node reads what lies between."""
    names = ["x", *(f"a{i}" for i in range(len(chain) - 1)), "y"]
    body = " ".join(
        f"{after} = {link.format(before)}"
        for link, before, after in zip(chain, names[:-1], names[1:], strict=True)
    )
    inner = names[1:-1]
    extra = f" z = Neg({inner[read]})" if read < len(inner) else ""
    signature = f"{SIGNATURE[:-1]}, float[N, 3, 4] z)" if extra else SIGNATURE
    g = graph(f"{signature} {{ {body}{extra} }}", WEIGHTS | PER_CHANNEL)
    before = [run(g, X, output=i) for i in range(len(g.outputs))]
    unify_clips(g)
    for i, value in enumerate(before):
        np.testing.assert_array_equal(run(g, X, output=i), value)
    assert not unify_clips(g)
    # Sums of clips round.
    canonicalise(g)
    for i, value in enumerate(before):
        np.testing.assert_allclose(run(g, X, output=i), value, rtol=1e-6, atol=1e-6)
    assert not canonicalise(g)


@pytest.mark.parametrize("body", [
    "r = Clip(x, , minus) y = Relu(r)", "r = Min(x, minus) y = Clip(r, zero, six)",
    "r = Clip(x, minus, zero) y = Clip(r, two, six)",
])  # fmt: skip
def test_ranges_that_do_not_meet(body):
    """All that the first lets through is below what the second does."""
    g = graph(f"{SIGNATURE} {{ {body} }}", WEIGHTS)
    before = run(g, X)
    unify_clips(g)
    np.testing.assert_array_equal(run(g, X), before)


def test_a_bound_that_is_large_for_some_channels_is_infinite_there():
    bound = np.array([[2**21], [1], [2]], np.float32)
    g = graph(f"{SIGNATURE} {{ r = Relu(x) y = Min(r, t) }}", {"t": bound})
    changes_once(unify_clips, g)
    np.testing.assert_array_equal(bounded_activations(g)["y"], [[np.inf], [1], [2]])
    assert [node.op for node in unbounded_activations(g)] == ["Min"]


@pytest.mark.parametrize("bound", [-np.inf, [[-np.inf], [1], [2]]])
def test_a_bound_of_minus_infinity_stays(bound):
    g = graph(f"{SIGNATURE} {{ r = Relu(x) y = Min(r, t) }}", {"t": np.array(bound, np.float32)})
    before = run(g, X)
    unify_clips(g)
    np.testing.assert_array_equal(run(g, X), before)


@pytest.mark.parametrize("body", ["y = Max(z, lowest)", "r = Max(lowest, z) y = Min(r, huge)"])
def test_bounds_that_bound_nothing(body):
    weights = WEIGHTS | {"lowest": np.finfo(np.float32).min, "huge": np.finfo(np.float32).max}
    g = graph(f"{SIGNATURE} {{ z = Neg(x) {body} }}", weights)
    changes_once(unify_clips, g)
    assert ops(g) == ["Neg"]
    np.testing.assert_array_equal(run(g, X), -X)


def test_one_call_is_enough_where_shapes_are_not_known_before():
    text = (
        "g (float[N, 2, 4, 4] x) => (float[N, 2] y) { a = Shrink<lambd = 0.5, bias = 0.5>(x) "
        "r = ReduceMean<axes = [2, 3], keepdims = 1>(a) f = Flatten(r) y = Relu(f) }"
    )
    changes_once(canonicalise, to_graph(model(text)))


@pytest.mark.parametrize("like", ["x", "whole"])
def test_cast_like_is_a_cast(like):
    text = (
        "g (float[N, 4] x) => (float[N, 4] y) { a = Relu(x) whole = Cast<to = 7>(a) "
        f"b = CastLike(two, {like}) c = Cast<to = 1>(b) d = CastLike(a, x) y = Mul(d, c) }}"
    )
    g = graph(text, {"two": np.float32(2.5)})
    before = run(g, X[0])
    changes_once(canonicalise, g)
    assert ops(g) == ["Relu", "Mul"]
    np.testing.assert_array_equal(run(g, X[0]), before)


def test_cast_like_keeps_how_it_casts():
    """Of numbers beyond those of float8 it makes NaN, where it does not saturate."""
    text = (
        f"{SIGNATURE} {{ s = Mul(x, many) i = Cast<to = 17>(x) a = CastLike<saturate = 0>(s, i) "
        "y = Cast<to = 1>(a) }"
    )
    g = graph(text, {"many": np.float32(1e6)}, opset=21)
    before = run(g, X)
    changes_once(remove_no_ops, g)
    np.testing.assert_array_equal(run(g, X), before)
    assert np.isnan(before).any()


def test_what_an_input_is_normalised_by_is_no_pool():
    text = (
        "g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { e = Erf(x) "
        "m = ReduceMax<axes = [2, 3], keepdims = 1>(e) n = Div(e, m) y = Relu(n) }"
    )
    g = graph(text)
    canonicalise(g)
    assert "ReduceMax" in ops(g)
