import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_text import run

from onnx2snn.graph_passes import (
    ModelError,
    infer_shapes,
    read_model,
    to_graph,
    to_model,
    upgrade_opset,
    write_model,
)
from onnx2snn.graph_passes.model_files.files import take_apart

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def optimised(text, opset, outputs="float[N, 3, 4] y", dtype=np.float32):
    """A model that the checker of onnx refuses, as ONNX Runtime's optimiser writes it."""
    kind = {np.float32: "float", np.float64: "double"}[dtype]
    model = onnx.parser.parse_model(
        f'<ir_version: 6, opset_import: ["": {opset}]> '
        f"g ({kind}[N, 3, 4] x) => ({outputs.replace('float', kind)}) {{ {text} }}"
    )
    for name, shape in (("scale", [4]), ("bias", [4]), ("wide", [3, 4])):
        values = np.random.default_rng(len(name)).normal(size=shape).astype(dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        model.graph.input.append(onnx.helper.make_tensor_value_info(
            name, model.graph.initializer[-1].data_type, shape))  # fmt: skip
    return model


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (11, "y = LayerNormalization<axis = -1, epsilon = 0.25>(x, scale, bias)"),
        (12, "y = LayerNormalization(x, scale, bias)"),
        (16, "y = LayerNormalization<axis = -1>(x, scale)"),
        (11, "y = SimplifiedLayerNormalization<axis = -1, stash_type = 1>(x, scale)"),
        (13, "y = SimplifiedLayerNormalization<axis = 2>(x, scale)"),
        (17, "y = SimplifiedLayerNormalization<epsilon = 0.5>(x, scale)"),
        (20, "a = SimplifiedLayerNormalization(x, scale) y = LayerNormalization(a, scale, bias)"),
        (13, "a = LayerNormalization(x, scale) b = LayerNormalization<epsilon = 0.5>(a, scale)"
             " c = LayerNormalization(b, scale, bias) y = SimplifiedLayerNormalization(c, scale)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_numbers_from_a_file_as_upgraded(tmp_path, opset, text, dtype):
    model = optimised(text, opset, dtype=dtype)
    x = X.astype(dtype)
    before = run(model, x, optimised=False)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    read = read_model(tmp_path / "m.onnx")
    np.testing.assert_allclose(run(read, x, optimised=False), before, atol=1e-5)
    graph = to_graph(upgrade_opset(read))
    infer_shapes(graph)
    assert not [node for node in graph.nodes if node.domain]
    write_model(to_model(graph, like=read), tmp_path / "n.onnx")
    np.testing.assert_allclose(run(onnx.load(tmp_path / "n.onnx"), x), before, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("y = SimplifiedLayerNormalization<axis = -2>(x, wide)", "float[N, 3, 4] y"),
        ("y, d = SimplifiedLayerNormalization(x, scale)", "float[N, 3, 4] y, float[N, 3, 1] d"),
        ("y = BananaNormalization(x, scale)", "float[N, 3, 4] y"),
        ("y = LayerNormalization(x)", "float[N, 3, 4] y"),
    ],
)
def test_others_are_refused(tmp_path, text, outputs):
    (tmp_path / "m.onnx").write_bytes(optimised(text, 13, outputs).SerializeToString())
    with pytest.raises(ModelError, match="No Op registered for"):
        read_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
@pytest.mark.parametrize("scale", ["scale", "wide"])
@pytest.mark.parametrize("axis", [0, 1])
def test_axes_before_the_last_are_refused(tmp_path, op, scale, axis):
    """ONNX Runtime also lets a scale of the last axis alone broadcast."""
    text = f"a = Relu(x) y = {op}<axis = {axis}>(a, {scale})"
    (tmp_path / "m.onnx").write_bytes(optimised(text, 13).SerializeToString())
    with pytest.raises(ModelError, match=f"'y' is over axis {axis} of 3"):
        read_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("made", ["Cast<to = 11>(half)", "Identity(scale)", "Neg(scale)"])
def test_scales_that_are_computed(made):
    """The number that keeps a root from 0 is of their type."""
    text = f"s = {made} y = SimplifiedLayerNormalization(x, s)"
    model = optimised(text, 13, dtype=np.float64)
    half = onnx.numpy_helper.from_array(np.float16([1, 2, 3, 4]), "half")
    model.graph.initializer.append(half)
    x = X.astype(np.float64)
    before = run(model, x, optimised=False)
    graph = to_graph(upgrade_opset(take_apart(model, "the model")))
    np.testing.assert_allclose(run(graph, x), before, atol=1e-5)


def test_scales_of_nodes_and_names_that_are_taken():
    """Branches of an If may name what they make alike."""
    text = """
        <ir_version: 8, opset_import: ["": 13]>
        g (double[N, 4] x, bool c) => (double[N, 4] y)
        {
            s = Constant <value = double[4] {1.0, 2.0, 3.0, 4.0}> ()
            y = If (c) <
                then_branch = a () => (double[N, 4] o) { o = LayerNormalization(x, s) },
                else_branch = b () => (double[N, 4] o) { o = SimplifiedLayerNormalization(x, s) }
            >
        }
    """
    model = onnx.parser.parse_model(text)
    x = X[0].astype(np.float64)
    graph = to_graph(upgrade_opset(take_apart(model, "the model")))
    for condition in (True, False):
        before = run(model, x, np.array(condition), optimised=False)
        np.testing.assert_allclose(run(graph, x, np.array(condition)), before, atol=1e-5)


def test_a_name_of_what_nothing_reads_is_taken_too():
    model = optimised("y = LayerNormalization(x, scale)", 16)
    before = run(model, X, optimised=False)
    unread = onnx.numpy_helper.from_array(np.float32(100), "y/epsilon")
    model.graph.initializer.append(unread)
    graph = to_graph(upgrade_opset(take_apart(model, "the model")))
    np.testing.assert_allclose(run(graph, X), before, atol=1e-5)


@pytest.mark.parametrize("node", [
    "Constant<value = float {1}>()", "LayerNormalization(x, scale)",
    "SimplifiedLayerNormalization(x, scale)",
])  # fmt: skip
def test_nodes_that_make_nothing_are_damaged(node):
    damaged = optimised(f"y = Relu(x) c = {node}", 12)
    del damaged.graph.node[1].output[:]
    with pytest.raises(ModelError, match=damaged.graph.node[1].op_type):
        take_apart(damaged, "the model")
