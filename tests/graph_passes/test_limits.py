"""What no sound model asks for is refused before other libraries see it."""

import numpy as np
import onnx
import pytest
from onnx_text import graph, model, run

from onnx2snn.graph_passes import (
    ModelError,
    canonicalise,
    fold_constants,
    read_model,
    to_graph,
    to_model,
)
from onnx2snn.graph_passes.model_files import limits
from onnx2snn.graph_passes.model_files.files import take_apart
from onnx2snn.graph_passes.model_files.weights import attach

TEXT = "g (float[N, 3] x) => (float[N, 3] y) { y = Mul (x, w) }"
WEIGHT = np.array([1, 2, 3], np.float32)


def read(proto, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return read_model(path)


def with_functions(text):
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N] x) => (float[N] y)'
        "{ y = own.f (x) }" + text.replace("FUNCTION", '<domain: "own", opset_import: ["": 17]>')
    )


def nested(depth):
    nodes = "y = Neg (x)"
    for _ in range(depth):
        nodes = (
            f"y = If (c) <then_branch = t () => (float[N] y) {{ {nodes} }},"
            "else_branch = e () => (float[N] y) { y = Neg (x) }>"
        )
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x, bool c) => (float[N] y)'
        f"{{ {nodes} }}"
    )


@pytest.mark.parametrize(
    "functions",
    [
        "FUNCTION f (x) => (y) { y = own.f (x) }",
        "FUNCTION f (x) => (y) { y = own.h (x) } FUNCTION h (x) => (y) { y = own.f (x) }",
    ],
)
def test_functions_that_call_themselves(tmp_path, functions):
    with pytest.raises(ModelError, match="call themselves"):
        read(with_functions(functions), tmp_path)


def test_functions_that_grow_without_measure(tmp_path):
    text = "FUNCTION f0 (x) => (y) { y = Neg (x) }"
    for level in range(1, 40):
        text += f"FUNCTION f{level} (x) => (y)"
        text += f"{{ z = own.f{level - 1} (x) y = own.f{level - 1} (z) }}"
    with pytest.raises(ModelError, match="nodes with its local functions"):
        read(with_functions(text.replace("f39", "f")), tmp_path)


def test_graphs_inside_graphs(tmp_path):
    assert read(nested(5), tmp_path).graph.node
    with pytest.raises(ModelError, match="graphs inside nodes"):
        read(nested(20), tmp_path)


def test_a_loop(tmp_path):
    proto = model(TEXT, {"w": WEIGHT})
    proto.graph.node.add(op_type="Loop", output=["z"])
    with pytest.raises(ModelError, match="a Loop, 'z'"):
        read(proto, tmp_path)


@pytest.mark.parametrize(
    "node", ["ConstantOfShape (size)", "Expand (one, size)", "Range (zero, scalar, step)"]
)
def test_constants_that_would_take_all_memory(tmp_path, node):
    values = {"size": [10**12], "scalar": 10**12, "zero": 0, "step": 1}
    weights = {name: np.array(value, np.int64) for name, value in values.items()}
    weights["one"] = np.ones(1, np.float32)
    proto = model(f"g (float[N] x) => (int64[M] y) {{ z = {node} y = Shape (z) }}", weights)
    with pytest.raises(ModelError, match="'z' would hold"):
        read(proto, tmp_path)


@pytest.mark.parametrize(("exponent", "ops"), [(2, []), (8.4, ["ConstantOfShape"])])
def test_constants_whose_size_is_computed(exponent, ops):
    values = {"ten": np.full(1, 10, np.float32), "power": np.full(1, exponent, np.float32)}
    g = graph(
        "g (float[N] x) => (float[M] y)"
        "{ p = Pow (ten, power) s = Cast <to = 7> (p) y = ConstantOfShape (s) }",
        values,
    )
    while fold_constants(g):
        pass
    assert [node.op for node in g.nodes] == ops


@pytest.mark.parametrize("exponent", [9, 11])
def test_constants_whose_computed_size_is_absurd(exponent):
    values = {"ten": np.full(1, 10, np.float32), "power": np.full(1, exponent, np.float32)}
    g = graph(
        "g (float[N] x) => (float[M] y)"
        "{ p = Pow (ten, power) s = Cast <to = 7> (p) z = ConstantOfShape (s) y = Identity (z) }",
        values,
    )
    with pytest.raises(ModelError, match=r"ConstantOfShape 'z' would make .* GiB"):
        canonicalise(g)


def test_negative_sizes(tmp_path):
    proto = model(TEXT, {"w": WEIGHT})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -2
    with pytest.raises(ModelError, match="'x' a negative size"):
        read(proto, tmp_path)


def test_shapes_of_too_many_axes_never_reach_inference(tmp_path, monkeypatch):
    proto = model(TEXT, {"w": WEIGHT})
    proto.graph.input[0].type.tensor_type.shape.dim.extend(
        onnx.TensorShapeProto.Dimension(dim_value=1) for _ in range(100)
    )
    monkeypatch.setattr(limits, "inferred", None)
    with pytest.raises(ModelError, match=r"'x' has 10\d axes; 32 are allowed"):
        read(proto, tmp_path)


@pytest.mark.parametrize("dims", [[-1, -3], [1] * 40, [2], [10**15]])
def test_shapes_of_weights(tmp_path, dims):
    proto = model(TEXT, {"w": WEIGHT})
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    with pytest.raises(ModelError, match="tensor 'w'"):
        read(proto, tmp_path)
    with pytest.raises(ModelError, match="tensor 'w'"):
        take_apart(proto, "the model")


def test_values_that_are_not_there(tmp_path):
    proto = model(TEXT, {"w": WEIGHT})
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [3], WEIGHT)
    del tensor.float_data[1:]
    proto.graph.initializer[0].CopyFrom(tensor)
    with pytest.raises(ModelError, match="tensor 'w' is damaged"):
        read(proto, tmp_path)


def sparse(places, dims):
    proto = model(TEXT.replace("[N, 3] y", "[N, M] y"), {"w": WEIGHT})
    del proto.graph.initializer[:]
    values = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [5, 7])
    indices = onnx.numpy_helper.from_array(np.array(places, np.int64))
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, dims))
    return proto


@pytest.mark.parametrize("places", [[0, 2], [[0, 0], [0, 2]]])
def test_sparse_weights_become_dense(tmp_path, places):
    proto = read(sparse(places, [1, 3]), tmp_path)
    (weight,) = proto.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), np.float32([[5, 0, 7]]))
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(to_model(to_graph(proto)), x), [[5, 0, 7]] * 2)


@pytest.mark.parametrize(
    ("places", "dims"),
    [([0, 3], [1, 3]), ([[0, 0], [1, 0]], [1, 3]), ([0, 1], [10**6, 10**6]), ([0, 1], [-1, 3])],
)
def test_damaged_sparse_weights(tmp_path, places, dims):
    with pytest.raises(ModelError, match="sparse tensor 'w'"):
        read(sparse(places, dims), tmp_path)


def test_an_empty_list_is_none():
    proto = model("g (float[N, 1, 4, 4] x) => (float[N, 1, 3, 3] y) { y = Conv (x, w) }",
                  {"w": np.ones((1, 1, 2, 2), np.float32)})  # fmt: skip
    attribute = proto.graph.node[0].attribute.add(name="pads")
    attribute.type = onnx.AttributeProto.INTS
    assert to_model(to_graph(proto)).graph.node[0].attribute == []


@pytest.mark.parametrize("pads", [[0, 10**6, 0, 0], [0, 0, -(10**6), 0]])
def test_windows_beyond_all_measure(pads):
    text = (
        "g (float[N, 1, 4, 4] x) => (float[N, 1, a, b] y) "
        f"{{ y = AveragePool<kernel_shape = [2, 2], pads = {pads}>(x) }}"
    )
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    with pytest.raises(ModelError, match=r"AveragePool 'y' has pads .*damaged"):
        take_apart(proto, "the model")


@pytest.mark.parametrize("op", ["Concat<axis = 0>", "Max", "Mean", "Min", "Sum"])
def test_an_input_that_cannot_be_left_out(op):
    """A Min without its second input ends ONNX Runtime's process."""
    proto = model(f"g (float[N] x) => (float[M] y) {{ y = {op}(x, x) }}")
    proto.graph.node[0].input[1] = ""
    with pytest.raises(ModelError, match=f"{op[:3]}.* 'y' has an input that is left out"):
        take_apart(proto, "the model")


def test_a_function_may_have_tensors_of_its_caller():
    proto = with_functions("FUNCTION f <c> (x) => (y) { w = Constant() y = Add(x, w) }")
    proto.functions[0].node[0].attribute.add(
        name="value", type=onnx.AttributeProto.TENSOR, ref_attr_name="c"
    )
    value = onnx.numpy_helper.from_array(np.float32([2]))
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("c", value))
    np.testing.assert_array_equal(run(attach(take_apart(proto, "the model")), WEIGHT), WEIGHT + 2)
