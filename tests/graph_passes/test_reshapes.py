import numpy as np
import onnx
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.graph_passes import (
    canonicalise,
    fix_reshapes,
    fold_constants,
    infer_shapes,
    to_graph,
    to_model,
)
from onnx2snn.graph_passes.batch_axis import free_batch_axis
from onnx2snn.graph_passes.spellings import reshapes

X = np.random.default_rng(0).normal(size=(3, 4, 5, 5)).astype(np.float32)
NUMBERS = {
    "zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "first": np.array([0]),
    "rest": np.array([-1]), "four": np.array([4]),
    "ends": np.array([5, 5]), "pair": np.array([2]),
}  # fmt: skip
# As torch writes x.view(x.size(0), 2, x.size(1) // 2, 5, 5).
SIZES = (
    "s = Shape(x) n0 = Gather(s, zero) c0 = Gather(s, one) h0 = Div(c0, two) "
    "n = Unsqueeze(n0, first) c = Unsqueeze(c0, first) h = Unsqueeze(h0, first) "
)
BODIES = {
    "groups of channels": ("t = Concat<axis = 0>(n, pair, h, ends)", [0, 2, 2, 5, 5]),
    "rows": ("t = Concat<axis = 0>(n, rest)", [0, -1]),
    "channels together": ("t = Concat<axis = 0>(n, rest, ends)", [0, -1, 5, 5]),
    "N on another axis": ("t = Concat<axis = 0>(four, n, ends)", [4, -1, 5, 5]),
    "twice as many rows": ("m = Mul(n, two) t = Concat<axis = 0>(m, pair, ends)", [-1, 2, 5, 5]),
}


def reshaping(body, signature="g (float[N, 4, 5, 5] x) => (float[A, B] y)"):
    text = f"{SIZES} {body} z = Reshape(x, t) y = Flatten(z)"
    return graph(f"{signature} {{ {text} }}", NUMBERS)


@pytest.mark.parametrize("name", BODIES)
def test_computed_sizes_become_constants(name):
    body, wanted = BODIES[name]
    g = reshaping(body)
    before = run(g, X)
    fold_constants(g)
    changes_once(fix_reshapes, g)
    assert ops(g) == ["Reshape", "Flatten"]
    assert g.nodes[0].inputs[1].values.tolist() == wanted
    np.testing.assert_array_equal(run(g, X), before)


def test_rows_that_stay_are_known_to_be_n():
    g = reshaping(BODIES["groups of channels"][0])
    canonicalise(g)
    infer_shapes(g)
    assert g.nodes[0].outputs[0].shape == ["N", 2, 2, 5, 5]


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        # Two sizes are open besides N.
        (
            "g (float[N, C, H, 5] x) => (float[A, B] y)",
            "g0 = Gather(s, two) g = Unsqueeze(g0, first) t = Concat<axis = 0>(n, c, g, rest)",
        ),
        # The input says where.
        ("g (float[N, 4, 5, 5] x, int64[4] t) => (float[A, B] y)", ""),
    ],
)
def test_what_is_not_known_stays(signature, body):
    g = reshaping(body, signature)
    fold_constants(g)
    before = to_model(g)
    assert not fix_reshapes(g)
    assert to_model(g) == before


@pytest.mark.parametrize(
    "said", [{"z": [2, 2, 5, 5]}, {"y": [2, 50]}, {"z": ["N", 2, 5, 5]}], ids=str
)
def test_what_a_file_says_of_other_tensors_is_no_size(said):
    # There are 2 N rows.
    proto = to_model(reshaping("m = Mul(n, two) t = Concat<axis = 0>(m, pair, ends)"))
    infos = {info.name: info for info in (*proto.graph.output, *proto.graph.value_info)}
    for tensor, shape in said.items():
        made = onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shape)
        infos[tensor].CopyFrom(made)
    g = to_graph(proto)
    fix_reshapes(g)
    assert run(g, X).shape == (6, 50)


def test_a_batch_that_was_freed_is_in_no_size():
    # Twice as many rows as samples, of one sample as exported.
    text = (
        f"g (float[1, 4, 5, 5] x) => (float[A, B] y) {{ {SIZES} m = Mul(n, two) "
        "t = Concat<axis = 0>(m, pair, ends) z = Reshape(x, t) y = Flatten(z) }"
    )
    g = graph(text, NUMBERS)
    assert free_batch_axis(g)
    canonicalise(g)
    assert run(g, X).shape == (6, 50)


def test_those_behind_others_are_known_in_full():
    g = graph(
        "g (float[N, 4, 5, 5] x) => (float[A, B, C, D] y) { s = Shape(x) c0 = Gather(s, one) "
        "h0 = Div(c0, two) n0 = Gather(s, zero) n = Unsqueeze(n0, first) h = Unsqueeze(h0, first) "
        "t = Concat<axis = 0>(n, pair, h, ends) z = Reshape(x, t) r = Relu(z) u = Shape(r) "
        "d0 = Gather(u, two) e0 = Mul(d0, two) e = Unsqueeze(e0, first) "
        "w = Concat<axis = 0>(n, e, ends) q = Reshape(r, w) y = Neg(q) }",
        NUMBERS,
    )
    before = run(g, X)
    assert fix_reshapes(g)
    sizes = [node.inputs[1].values.tolist() for node in g.nodes if node.op == "Reshape"]
    assert sizes == [[0, 2, 2, 5, 5], [0, 4, 5, 5]]
    np.testing.assert_array_equal(run(g, X), before)


def test_a_channel_shuffle_runs_without_arithmetic_on_shapes():
    one, zero = np.float32(1), np.float32(0)
    text = (
        f"g (float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y) {{ a = Clip(x, low, high) {SIZES} "
        "t = Concat<axis = 0>(n, pair, h, ends) g = Reshape(a, t) "
        "p = Transpose<perm = [0, 2, 1, 3, 4]>(g) u = Concat<axis = 0>(n, c, ends) "
        "q = Reshape(p, u) k = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(q, w) "
        "y = Clip(k, low, high) }"
    )
    # Sums of eighths are exact.
    w = np.random.default_rng(1).integers(-4, 5, (4, 4, 3, 3)).astype(np.float32) / 8
    g = graph(text, NUMBERS | {"low": zero, "high": one, "w": w})
    ann = to_model(g)
    changes = canonicalise(g)
    assert changes
    assert "Shape" not in ops(g)
    snn = convert(ann, calibration=from_arrays(np.abs(X))).model
    assert {"Shape", "Gather", "Unsqueeze"}.isdisjoint(node.op_type for node in snn.graph.node)
    x = np.round(8 * X) / 8
    auto, step = (SpikingSession(snn, plan=plan).run(x, 20) for plan in ("auto", "step"))
    for name, counts in auto.spike_counts.items():
        np.testing.assert_array_equal(counts, step.spike_counts[name])


@pytest.mark.parametrize(
    ("shape", "axes"),
    [("N, 1", [1]), ("N, 1, 4, 1", [1, 3]), ("N, 4", []), ("1, 3", [0]), ("N, M, 1", None)],
)
def test_a_squeeze_of_all_axes_of_one_names_them(shape, axes):
    g = graph(f"g (float[{shape}] x) => (float[A] y) {{ z = Squeeze(x) y = Sigmoid(z) }}", {})
    sizes = [{"N": 3, "M": 2}.get(size) or int(size) for size in shape.split(", ")]
    x = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
    before = run(g, x)
    if axes is None:
        assert not fix_reshapes(g)
        return
    changes_once(fix_reshapes, g)
    assert ops(g) == ["Squeeze" if axes else "Identity", "Sigmoid"]
    assert [t.values.tolist() for t in g.nodes[0].inputs[1:]] == ([axes] if axes else [])
    np.testing.assert_array_equal(run(g, x), before)


def test_a_squeeze_of_an_empty_list_of_axes_is_one_of_all():
    """So for ONNX Runtime; for ONNX's shape inference it is one of none."""
    text = "g (float[N, 1, 4, 1] x) => (float[N] y) { z = Squeeze(x, none) y = ReduceMax(z, last) }"
    g = graph(text, {"none": np.empty(0, np.int64), "last": np.array([1])}, opset=18)
    x = X[:, :1, :4, :1]
    before = run(g, x)
    changes_once(fix_reshapes, g)
    assert g.nodes[0].inputs[1].values.tolist() == [1, 3]
    np.testing.assert_array_equal(run(g, x), before)


def test_rounds_do_not_grow_with_the_network(monkeypatch):
    """Of heads beside samples, as attention has them: no round would tell more of the next."""
    looks = []
    inferred = reshapes._inferred
    monkeypatch.setattr(reshapes, "_inferred", lambda g: looks.append(g) or inferred(g))
    layer = (
        "t{0} = Transpose<perm = [1, 0, 2]>(x{0}) s{0} = Shape(t{0}) n{0} = Gather(s{0}, at) "
        "h{0} = Mul(n{0}, two) a{0} = Concat<axis = 0>(four, h{0}, three) "
        "b{0} = Concat<axis = 0>(four, n{0}, six) r{0} = Reshape(t{0}, a{0}) q{0} = Relu(r{0}) "
        "u{0} = Reshape(q{0}, b{0}) x{1} = Transpose<perm = [1, 0, 2]>(u{0}) "
    )
    numbers = {"two": 2, "three": 3, "four": 4, "six": 6, "at": 1}
    counts = []
    for layers in (2, 6):
        body = "".join(layer.format(number, number + 1) for number in range(layers))
        text = f"g (float[N, 4, 6] x0) => (float[N, 4, 6] y) {{ {body} y = Neg(x{layers}) }}"
        g = graph(text, {name: np.array([value]) for name, value in numbers.items()})
        x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
        before = run(g, x)
        looks.clear()
        changes_once(fix_reshapes, g)
        counts.append(len(looks))
        constant = [node.inputs[1].values.tolist() for node in g.nodes if node.op == "Reshape"]
        assert constant == [[4, -1, 3], [4, -1, 6]] * layers
        np.testing.assert_array_equal(run(g, x), before)
    assert counts[0] == counts[1]


def test_squeezes_one_behind_the_other():
    text = "g (float[N, 1, 4, 1] x) => (float[N, 4] y) { a = Squeeze(x) y = Squeeze(a) }"
    g = graph(text)
    x = X[:, :1, :4, :1]
    before = run(g, x)
    changes_once(fix_reshapes, g)
    np.testing.assert_array_equal(run(g, x), before)


def test_sizes_behind_a_squeeze_are_folded_at_once():
    text = (
        "g (float[N, 1, 6] x) => (float[N, 2, 3] y) { a = Relu(x) q = Squeeze(a) s = Shape(q) "
        "c = Gather(s, one) h = Div(c, two) u = Unsqueeze(h, first) "
        "t = Concat<axis = 0>(rest, pair, u) y = Reshape(q, t) }"
    )
    g = graph(text, NUMBERS)
    changes_once(canonicalise, g)
    assert ops(g) == ["Relu", "Squeeze", "Reshape"]
    x = np.random.default_rng(0).normal(size=(4, 1, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(g, x), x.clip(0).reshape(4, 2, 3))


def test_rows_of_what_has_no_known_rank():
    text = (
        "g (float[N, 4, 5, 5] x, bool c) => (float[A, B] y) { w = If(c) "
        "<then_branch = one () => (float[a, b] k) { k = Reshape(x, rows) }, "
        "else_branch = two () => (float[a, b, d, e] l) { l = Neg(x) }> "
        "s = Shape(x) n0 = Gather(s, zero) n = Unsqueeze(n0, first) "
        "t = Concat<axis = 0>(n, hundred) y = Reshape(w, t) }"
    )
    g = graph(text, NUMBERS | {"hundred": np.array([100]), "rows": np.array([-1, 100])})
    conditions = np.array(True), np.array(False)
    before = [run(g, X, condition) for condition in conditions]
    changes_once(fix_reshapes, g)
    assert g.nodes[-1].inputs[1].values.tolist() == [-1, 100]
    np.testing.assert_array_equal([run(g, X, condition) for condition in conditions], before)
