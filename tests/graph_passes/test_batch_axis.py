import itertools
from functools import partial

import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes.batch_axis import free_batch_axis

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


BODIES = {
    "no reshape": "y = Relu(x)",
    "to one axis": "r = Reshape(x, rows) y = MatMul(r, w)",
    "to one axis, its size left open": "r = Reshape(x, open) y = MatMul(r, w)",
    "to the sizes of a node": "s = Constant<value_ints = [BATCH, -1]>() r = Reshape(x, s) "
    "y = MatMul(r, w)",
    "to the tensor of a node": "s = Constant<value = int64[2] {BATCH, -1}>() r = Reshape(x, s) "
    "y = MatMul(r, w)",
    "there and back": "r = Reshape(x, rows) s = Neg(r) y = Reshape(s, image)",
    "twice": "r = Reshape(x, rows) s = Reshape(r, image) t = Reshape(s, rows) y = MatMul(t, w)",
    "to sizes that are copied": "r = Reshape(x, copies) y = Relu(r)",
    "rows that were joined": "r = Reshape(x, all) s = Neg(r) t = Reshape(s, image) y = Relu(t)",
    "more rows": "r = Reshape(x, parts) s = Relu(r) y = Reshape(s, image)",
    "more rows of an open size": "r = Reshape(x, parts_open) s = Relu(r) y = Reshape(s, image)",
    "zeros allowed": "r = Reshape<allowzero = 1>(x, rows) y = MatMul(r, w)",
    "expanded": "m = ReduceMax<axes = [1, 2]>(x) y = Expand(m, image)",
    "expanded by its own shape": "s = Shape(x) m = ReduceMax<axes = [1, 2]>(x) y = Expand(m, s)",
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", BODIES)
def test_takes_any_number_of_samples(name, batch):
    weights = {
        "rows": np.array([batch, 12]), "open": np.array([batch, -1]),
        "image": np.array([batch, 3, 4]), "w": normal(12, 5), "copies": np.array([batch, 0, -1]),
        "all": np.array([-1, 4]), "parts": np.array([2 * batch, 6]),
        "parts_open": np.array([2 * batch, 2, -1]),
    }  # fmt: skip
    shape = "a, b" if "MatMul" in BODIES[name] else "a, b, c"
    body = BODIES[name].replace("BATCH", str(batch))
    g = graph(f"g (float[{batch}, 3, 4] x) => (float[{shape}] y) {{ {body} }}", weights)
    x = normal(6, 3, 4)
    apart = [run(g, x[i : i + batch]) for i in range(0, 6, batch)]
    changes_once(free_batch_axis, g)
    assert g.inputs[0].shape == ["N", 3, 4]
    np.testing.assert_allclose(run(g, x), np.concatenate(apart), rtol=1e-5, atol=1e-6)


with_gathers = partial(free_batch_axis, gathers=True)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_gather_of_all_rows_in_order(batch):
    """As of a mask by all of its places."""
    places = {"places": np.arange(3 * batch).reshape(batch, 1, 3), "rows": np.array([batch, 3])}
    g = graph(
        f"g (float[{batch}, 3] x) => (float[a, b] y) {{ f = Flatten<axis = 2>(x) "
        "g = Gather(f, places) r = Reshape(g, rows) y = Neg(r) }",
        places,
    )
    changes_once(with_gathers, g)
    x = normal(6, 3)
    np.testing.assert_array_equal(run(g, x), -x)


def test_a_gather_along_a_sequence_is_as_it_was():
    """It takes any number of samples, which are along axis 1."""
    g = graph(
        "g (float[1, 6, 4] x) => (float[a, b, c] y) { t = Transpose<perm = [1, 0, 2]>(x) "
        "r = Gather(t, places) y = Transpose<perm = [1, 0, 2]>(r) }",
        {"places": np.arange(6)},
    )
    changes_once(free_batch_axis, g)
    x = normal(3, 6, 4)
    np.testing.assert_array_equal(run(g, x), x)


@pytest.mark.parametrize(
    "body", ["Gather(x, turned)", "Gather<axis = 1>(x, pair)", "Gather(v, pair)"]
)
def test_rows_that_are_not_all_in_order(body):
    values = {"turned": np.array([1, 0]), "pair": np.array([0, 1]), "v": normal(2, 2)}
    g = graph(f"g (float[2, 2] x) => (float[a, b] y) {{ r = {body} y = Add(r, x) }}", values)
    changes_once(with_gathers, g)
    assert [node.op for node in g.nodes] == ["Gather", "Add"]


CHUNK = (
    "z = Shape(x) n = Gather(z, one) m = Add(n, one) h = Div(m, two) k = Mul(h, two) "
    "p = Slice(x, zero, h, one) q = Slice(x, h, k, one) r = Add(p, q) "
)
"""As PyTorch's older exporter writes chunk(2, 1)."""


@pytest.mark.parametrize("batch", [1, 2])
def test_behind_sizes_that_nodes_work_out(batch):
    g = graph(
        f"g (float[{batch}, 4, 3] x) => (float[a, b] y) {{ {CHUNK} s = Reshape(r, rows) "
        "y = MatMul(s, w) }",
        {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
         "rows": np.array([batch, -1]), "w": normal(6, 5)},
    )  # fmt: skip
    x = normal(6, 4, 3)
    apart = [run(g, x[i : i + batch]) for i in range(0, 6, batch)]
    changes_once(free_batch_axis, g)
    np.testing.assert_allclose(run(g, x), np.concatenate(apart), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_behind_layers_that_onnx_runtime_fused(batch):
    """Of which ONNX knows no shape."""
    g = graph(
        f"g (float[{batch}, 2, 4] x) => (float[a, b] y) {{ "
        'c = com.microsoft.FusedConv<activation = "Relu">(x, k) s = Reshape(c, rows) '
        "y = MatMul(s, w) }",
        {"k": normal(3, 2, 1), "rows": np.array([batch, -1]), "w": normal(12, 5)},
    )
    x = normal(6, 2, 4)
    apart = [run(g, x[i : i + batch]) for i in range(0, 6, batch)]
    changes_once(free_batch_axis, g)
    np.testing.assert_allclose(run(g, x), np.concatenate(apart), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("token", ["Identity(c)", "Expand(c, wanted)", "Mul(c, two)"])
def test_a_class_token(token, opset, axis):
    """What is the same for all samples stands before what is of each."""
    g = graph(
        f"g (float[1, 3, 4] x) => (float[1, 4, 4] y) {{ t = {token} "
        f"j = Concat<axis = {axis}>(t, x) y = Mul(j, two) }}",
        {"c": normal(1, 1, 4), "wanted": np.array([1, 1, 4]), "two": np.float32(2)},
        opset,
    )
    x = normal(5, 3, 4)
    apart = [run(g, x[i : i + 1]) for i in range(5)]
    changes_once(free_batch_axis, g)
    np.testing.assert_array_equal(run(g, x), np.concatenate(apart))


@pytest.mark.parametrize("more", [2, 5])
def test_expanded_along_an_axis_that_comes_before(more):
    g = graph(
        "g (float[2, 3] x) => (float[2, a, 3] y) { e = Expand(x, sizes) "
        "y = Transpose<perm = [1, 0, 2]>(e) }",
        {"sizes": np.array([more, 2, 3])},
    )
    x = normal(4, 3)
    apart = [run(g, x[:2]), run(g, x[2:])]
    changes_once(free_batch_axis, g)
    np.testing.assert_array_equal(run(g, x), np.concatenate(apart))


@pytest.mark.parametrize("opset", [6, 11])
def test_files_that_are_too_old_to_be_folded(opset):
    g = graph("g (float[1, 4] x) => (float[1, a] y) { z = Shape(x) r = Reshape(x, z) "
              "y = Concat<axis = 1>(c, r) }", {"c": normal(1, 2)}, opset)  # fmt: skip
    assert free_batch_axis(g)


def test_rows_of_several_samples_stay():
    g = graph("g (float[4, 4] x) => (float[2, 8] y) { y = Reshape(x, rows) }",
              {"rows": np.array([2, 8])})  # fmt: skip
    wanted = read(g)
    changes_once(free_batch_axis, g)
    assert read(g) == wanted


def test_what_is_joined_along_the_samples_stays():
    g = graph("g (float[1, 4] x) => (float[2, 4] y) { y = Concat<axis = 0>(x, c) }",
              {"c": normal(1, 4)})  # fmt: skip
    changes_once(free_batch_axis, g)
    assert [node.op for node in g.nodes] == ["Concat"]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("sizes", [(6, 8), (3, 2), (7, 9), (5, 11)])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizes_to_sizes(mode, sizes, batch):
    g = graph(
        f"g (float[{batch}, 2, 3, 4] x) => (float[{batch}, 2, {sizes[0]}, {sizes[1]}] y) "
        f'{{ y = Resize<mode = "{mode}">(x, none, none, sizes) }}',
        {"none": np.zeros(0, np.float32), "sizes": np.array([batch, 2, *sizes])},
    )
    x = normal(6, 2, 3, 4)
    apart = [run(g, x[i : i + batch]) for i in range(0, 6, batch)]
    changes_once(free_batch_axis, g)
    # Between two places by scales that differ from those of sizes in their last digit.
    rounding = 0 if mode == "nearest" else 1e-5
    np.testing.assert_allclose(run(g, x), np.concatenate(apart), rtol=0, atol=rounding)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_a_resize_to_a_size_that_the_rounded_scale_misses(mode):
    g = graph(
        "g (float[1, 2, 7, 7] x, float[1, 2, 13, 13] z) => (float[1, 4, 13, 13] y) "
        f'{{ r = Resize<mode = "{mode}">(x, none, none, sizes) y = Concat<axis = 1>(r, z) }}',
        {"none": np.zeros(0, np.float32), "sizes": np.array([1, 2, 13, 13])},
    )
    x, z = normal(3, 2, 7, 7), normal(3, 2, 13, 13)
    apart = [run(g, x[i : i + 1], z[i : i + 1]) for i in range(3)]
    changes_once(free_batch_axis, g)
    np.testing.assert_allclose(run(g, x, z), np.concatenate(apart), atol=1e-5)


@pytest.mark.parametrize(
    ("how", "freed"),
    [
        ('coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"', True),
        ('coordinate_transformation_mode = "asymmetric", nearest_mode = "ceil"', True),
        ('nearest_mode = "round_prefer_floor"', True),
        # Of the places of which 3 of 7 is the middle, rounding decides where that is.
        ('nearest_mode = "floor"', False),
        ('coordinate_transformation_mode = "align_corners"', False),
    ],
)  # fmt: skip
def test_the_nearest_at_a_size_that_the_rounded_scale_misses(how, freed):
    """As a feature pyramid resizes to the size of the next larger one."""
    g = graph(
        f"g (float[1, 2, 7] x) => (float[1, 2, 9] y) {{ r = Resize<{how}>(x, none, none, sizes) "
        "s = Shape(r) f = Cast<to = 1>(s) n = ReduceMax(f) y = Mul(r, n) }",
        {"none": np.zeros(0, np.float32), "sizes": np.array([1, 2, 9])},
    )
    x = normal(3, 2, 7)
    apart = [run(g, x[i : i + 1]) for i in range(3)]
    changes_once(free_batch_axis, g)
    assert (g.nodes[0].inputs[-1].name == "r/scales") == freed
    if freed:
        assert g.nodes[0].outputs[0].shape[1:] == [2, 9]
        np.testing.assert_array_equal(run(g, x), np.concatenate(apart))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mode", ["floor", "round_prefer_floor"])
def test_the_nearest_stay_the_nearest(mode, batch):
    """All sizes, where ties may be."""
    for before, size in itertools.product(range(1, 10), range(1, 13)):
        g = graph(
            f"g (float[{batch}, {before}] x) => (float[{batch}, {size}] y) {{ y = Resize"
            f'<coordinate_transformation_mode = "asymmetric", nearest_mode = "{mode}">'
            "(x, none, none, sizes) }",
            {"none": np.zeros(0, np.float32), "sizes": np.array([batch, size])},
        )
        x = normal(2 * batch, before)
        apart = np.concatenate([run(g, x[:batch]), run(g, x[batch:])])
        free_batch_axis(g)
        if g.nodes[0].inputs[-1].name.endswith("scales"):
            assert g.nodes[0].outputs[0].shape[1] == size
            np.testing.assert_array_equal(run(g, x), apart)


RESIZES = {
    "no sizes": "y = Resize(x, none, scales)",
    "to sizes that are computed": "s = Shape(x) y = Resize(x, none, none, s)",
    "to other samples": "y = Resize(x, none, none, other)",
    "of its sides alone": "y = Resize<axes = [1, 2]>(x, none, none, sides)",
    "to as much as fits": 'y = Resize<keep_aspect_ratio_policy = "not_larger">'
    "(x, none, none, sizes)",
    "to a size that scales would miss": "y = Resize(x, none, none, far)",
}


@pytest.mark.parametrize("name", RESIZES)
def test_resizes_that_stay(name):
    weights = {
        "none": np.zeros(0, np.float32), "scales": np.ones(3, np.float32),
        "other": np.array([1, 3, 4]), "sides": np.array([6, 8]), "sizes": np.array([2, 6, 8]),
        "far": np.array([2, 3, 2**24 + 1]),
    }  # fmt: skip
    text = f"g (float[2, 3, 4] x) => (float[a, b, c] y) {{ {RESIZES[name]} }}"
    g = graph(text, weights, opset=18)
    wanted = read(g)
    changes_once(free_batch_axis, g)
    assert read(g) == wanted


@pytest.mark.parametrize("batch", [1, 2])
def test_samples_along_another_axis(batch):
    """ONNX Runtime believes shapes: those of that batch alone must not stay."""
    g = graph(
        f"g (float[{batch}, 5, 3] x) => (float[{batch}, 3] y) {{ t = Transpose<perm = [1, 0, 2]>(x)"
        " h = MatMul(t, w) b = Add(h, c) y = ReduceMean<axes = [0], keepdims = 0>(b) }",
        {"w": normal(3, 3), "c": normal(3)},
    )
    x = normal(6, 5, 3)
    apart = [run(g, x[i : i + batch]) for i in range(0, 6, batch)]
    changes_once(free_batch_axis, g)
    assert [node.outputs[0].shape for node in g.nodes] == [[5, "N", 3]] * 3 + [["N", 3]]
    np.testing.assert_allclose(run(g, x), np.concatenate(apart), rtol=1e-5, atol=1e-6)


def test_outputs_have_the_same_symbol():
    g = graph("g (float[1, 3] x, float[1, 4] u) => (float[1, 3] y) { y = Relu(x) }")
    changes_once(free_batch_axis, g)
    assert [tensor.shape for tensor in (*g.inputs, *g.outputs)] == [["N", 3], ["N", 4], ["N", 3]]


def test_a_symbol_that_is_no_name_of_a_tensor():
    g = graph("g (float[1, 3] N) => (float[1, 3] y) { y = Relu(N) }")
    changes_once(free_batch_axis, g)
    assert g.inputs[0].shape == ["N_2", 3]


def test_a_symbol_that_is_no_other_size():
    g = graph("g (float[2, N, N_2] x) => (float[2, N, N_2] y) { y = Relu(x) }")
    changes_once(free_batch_axis, g)
    assert g.inputs[0].shape == ["N_3", "N", "N_2"]


def test_axes_of_that_size_that_are_no_batch():
    g = graph("g (float[1, 3] x) => (float[1, 3] y) { m = ReduceMax<axes = [0]>(x) y = Add(x, m) }")
    changes_once(free_batch_axis, g)
    maximum = g.nodes[0].outputs[0]
    assert maximum.shape == [1, 3]
    x = normal(4, 3)
    np.testing.assert_array_equal(run(g, x), x + x.max(0))


def read(graph):
    return [[tensor.name for tensor in node.inputs] for node in graph.nodes]


CONSTANT = {
    "a reshape of a constant": "c = Reshape(k, shape) y = Add(x, c)",
    "all of another size": "r = Reshape(x, open) y = Relu(r)",
}


@pytest.mark.parametrize("name", CONSTANT)
def test_shapes_that_stay(name):
    weights = {
        "k": normal(3), "shape": np.array([1, 3]), "open": np.array([-1, 1]),
    }  # fmt: skip
    g = graph(f"g (float[1, 3] x) => (float[a, b] y) {{ {CONSTANT[name]} }}", weights)
    wanted = read(g)
    changes_once(free_batch_axis, g)
    assert read(g) == wanted


@pytest.mark.parametrize(
    "inputs",
    [
        "float[N, 3] x", "float[1, 3] x, float[2, 3] u", "float[1, 3] x, float[N, 3] u",
        "float[1, 3] x, float u", "float x",
    ],
)  # fmt: skip
def test_nothing_to_do(inputs):
    output = inputs.split(" x")[0].replace("]", "] ")
    g = graph(f"g ({inputs}) => ({output} y) {{ y = Relu(x) }}")
    shapes = [tensor.shape for tensor in g.inputs]
    assert not free_batch_axis(g)
    assert [tensor.shape for tensor in g.inputs] == shapes


def test_a_reshape_of_the_first_opsets():
    g = graph("g (float[2, 3] x) => (float[2, 3] y) { y = Reshape<shape = [2, 3]>(x) }", opset=4)
    assert not free_batch_axis(g)


@pytest.mark.parametrize(
    ("zeros", "opset"), [("constant", 17), ("made", 17), ("ones", 17), ("ones", 8)]
)
def test_initial_states_of_recurrent_layers(zeros, opset):
    """As PyTorch's newer exporter writes them for the one batch size."""
    made = "h = Identity(z)" if zeros != "made" else "h = Constant<value = float[1, 1, 2] {0, 0}>()"
    text = "g (float[1, 3, 4] x) => (float[a, b, c] y) { t = Transpose<perm = [1, 0, 2]>(x) "
    text += f"{made} r = GRU<hidden_size = 2>(t, w, v, , , {'z' if zeros != 'made' else 'h'}) "
    squeeze = "Squeeze(r, one)" if opset == 17 else "Squeeze<axes = [1]>(r)"
    text += f"s = {squeeze} y = Transpose<perm = [1, 0, 2]>(s) }}"
    start = np.ones if zeros == "ones" else np.zeros
    weights = {
        "w": normal(1, 6, 4), "v": normal(1, 6, 2), "z": start((1, 1, 2), np.float32),
        "one": np.array([1]),
    }  # fmt: skip
    g = graph(text, weights, opset)
    x = normal(5, 3, 4)
    wanted = np.concatenate([run(g, x[i : i + 1]) for i in range(5)])
    assert free_batch_axis(g)
    assert (ops(g).count("Expand") == 1) == (zeros == "ones")
    np.testing.assert_allclose(run(g, x), wanted, atol=1e-6)


def test_heads_of_samples_along_axis_1():
    """As attention over sequences that come first: each sample has two rows of that axis."""
    text = "g (float[1, 6, 8] x) => (float[1, 6, 8] y) { t = Transpose<perm = [1, 0, 2]>(x) "
    text += "h = Reshape(t, heads) s = Softmax<axis = 0>(h) j = Reshape(s, rows) m = MatMul(j, w) "
    text += "r = Reshape(m, first) y = Transpose<perm = [1, 0, 2]>(r) }"
    g = graph(text, {"heads": np.array([6, 2, 4]), "rows": np.array([6, 8]),
                     "first": np.array([6, 1, 8]), "w": normal(8, 8)})  # fmt: skip
    x = normal(5, 6, 8)
    wanted = np.concatenate([run(g, x[i : i + 1]) for i in range(5)])
    changes_once(free_batch_axis, g)
    np.testing.assert_allclose(run(g, x), wanted, rtol=1e-5, atol=1e-6)


def test_samples_along_axis_1_of_a_reshape():
    """As what a bidirectional layer makes is joined."""
    text = "g (float[1, 3, 4] x) => (float[a, b, c] y) { t = Transpose<perm = [1, 0, 2]>(x) "
    text += "p = Reshape(t, pairs) s = Transpose<perm = [0, 1, 3, 2]>(p) r = Reshape(s, rows) "
    text += "y = Transpose<perm = [1, 0, 2]>(r) }"
    g = graph(text, {"pairs": np.array([3, 1, 2, 2]), "rows": np.array([3, 1, 4])})
    x = normal(5, 3, 4)
    wanted = np.concatenate([run(g, x[i : i + 1]) for i in range(5)])
    changes_once(free_batch_axis, g)
    np.testing.assert_array_equal(run(g, x), wanted)
