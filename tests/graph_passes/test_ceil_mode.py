import itertools

import numpy as np
import onnx
import pytest
from onnx_text import changes_once, graph, run

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.graph_passes import (
    canonicalise,
    end_pools_in_the_image,
    infer_shapes,
    to_graph,
    to_model,
)

RNG = np.random.default_rng(0)


def pool_of(op, size, kernel, stride, pad, more=""):
    return (
        f"g (float[N, 2, {size}, {size}] x) => (float[N, a, b, c] y) {{ r = Relu(x) y = {op}"
        f"<kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}], "
        f"pads = [{pad}, {pad}, {pad}, {pad}], ceil_mode = 1{more}>(r) }}"
    )


@pytest.mark.parametrize(
    ("op", "more"),
    [("MaxPool", ""), ("AveragePool", ""), ("AveragePool", ", count_include_pad = 1")],
)
def test_sizes_are_those_that_onnx_runtime_makes(op, more):
    found = set()
    for size, kernel, stride in itertools.product(range(2, 8), (1, 2, 3), (1, 2, 3, 4)):
        for pad in range(kernel):
            if size + 2 * pad < kernel:
                continue
            g = graph(pool_of(op, size, kernel, stride, pad, more))
            x = RNG.normal(size=(2, 2, size, size)).astype(np.float32)
            before = run(g, x)
            changed = end_pools_in_the_image(g)
            found.add(changed)
            assert not end_pools_in_the_image(g)
            after = run(g, x) if changed else before
            assert after.shape == before.shape
            np.testing.assert_allclose(after, before, rtol=1e-6)
            if changed or not more:
                assert g.outputs[0].shape[1:] == list(before.shape[1:])
    assert found == {False, True}


def test_one_pool_after_another_and_shapes_taken_from_them():
    text = (
        "g (float[N, 2, 5, 5] x) => (float[N, 10] y) { "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1], "
        "ceil_mode = 1>(x) q = AveragePool<kernel_shape = [2, 2], strides = [2, 2], "
        "pads = [1, 1, 1, 1], ceil_mode = 1>(p) "
        "s = Shape(q) t = Slice(s, one, four) m = ReduceProd(t) l = Concat<axis = 0>(minus, m) "
        "y = Reshape(q, l) }"
    )
    values = {"one": np.array([1]), "four": np.array([4]), "minus": np.array([-1])}
    g = graph(text, values)
    x = RNG.normal(size=(3, 2, 5, 5)).astype(np.float32)
    wanted = run(g, x)
    changes_once(end_pools_in_the_image, g)
    # 5 pixels give 3 windows, where inference says 4, and these 2.
    assert [node.outputs[0].shape[2:] for node in g.nodes[:2]] == [[3, 3], [2, 2]]
    canonicalise(g)
    assert [node.op for node in g.nodes] == ["MaxPool", "AveragePool", "Reshape"]
    np.testing.assert_array_equal(run(g, x), wanted)


@pytest.mark.parametrize("attributes", [
    "kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1]",
    "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1",
    'kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1, auto_pad = "VALID"',
])  # fmt: skip
def test_leaves_other_pools(attributes):
    signature = "g (float[N, 2, 5, 5] x) => (float[N, a, b, c] y)"
    g = graph(f"{signature} {{ y = MaxPool<{attributes}>(x) }}")
    assert not end_pools_in_the_image(g)


def test_images_of_any_size_stay():
    g = graph(pool_of("MaxPool", "H", 2, 2, 1))
    assert not end_pools_in_the_image(g)


@pytest.mark.parametrize("maxpool", ["exact", "average", "keep"])
def test_a_network_with_such_a_pool_converts_and_runs(maxpool):
    g = graph(
        "g (float[N, 2, 5, 5] x) => (float[N, 18] y) { r = Relu(x) "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1], "
        "ceil_mode = 1>(r) q = Relu(p) y = Flatten(q) }"
    )
    x = RNG.normal(size=(4, 2, 5, 5)).astype(np.float32)
    conversion = convert(to_model(g), calibration=from_arrays(x), maxpool=maxpool)
    plans = [SpikingSession(conversion.model, plan=plan).run(x, 21) for plan in ("auto", "step")]
    assert plans[0].output.shape == (4, 18)
    np.testing.assert_array_equal(plans[0].output, plans[1].output)


@pytest.mark.parametrize("sizes", [(5, 6), (6, 5), (4, 8)])
def test_an_average_over_pads_that_rounds_up_along_one_axis(sizes):
    """Along the other its last window is in the padding alone."""
    pool = "strides = [3, 3], pads = [1, 1, 1, 1], ceil_mode = 1, count_include_pad = 1"
    text = "AveragePool<kernel_shape = [3, 3], " + pool + ">(x)"
    height, width = sizes
    g = graph(f"g (float[N, 2, {height}, {width}] x) => (float[N, a, b, c] y) {{ y = {text} }}")
    x = RNG.normal(size=(2, 2, *sizes)).astype(np.float32)
    wanted = run(g, x)
    end_pools_in_the_image(g)
    np.testing.assert_allclose(run(g, x), wanted, rtol=1e-5, atol=1e-6)
    assert g.outputs[0].shape[2:] == list(wanted.shape[2:])


def test_ranks_stay_behind_operators_without_shape_inference():
    """Else the model has an output without a shape, which ONNX's checker refuses."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> '
        "g (float[N, 1, 5, 5] x) => (float[N, 1, 3, 3] y) { p = MaxPool<kernel_shape = [2, 2], "
        "strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1>(x) y = com.microsoft.QuickGelu(p) }"
    )
    g = to_graph(proto)
    infer_shapes(g)
    assert end_pools_in_the_image(g)
    assert len(g.outputs[0].shape) == 4
    onnx.checker.check_model(to_model(g), full_check=True)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pads_beside_valid_go(op):
    """ONNX's shape inference adds them, which ONNX Runtime does not."""
    g = graph(
        "g (float[N, 2, 6, 6] x) => (float[N, 2, a, b] y) "
        f'{{ p = {op}<kernel_shape = [3, 3], auto_pad = "VALID", pads = [1, 1, 1, 1]>(x) '
        "y = Relu(p) }"
    )
    infer_shapes(g)
    x = np.random.default_rng(0).normal(size=(2, 2, 6, 6)).astype(np.float32)
    before = run(g, x)
    changes_once(end_pools_in_the_image, g)
    assert g.tensors()["p"].shape[2:] == [4, 4]
    np.testing.assert_array_equal(run(g, x), before)
