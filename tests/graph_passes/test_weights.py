import numpy as np
import onnx
import pytest
from onnx_text import graph, model, run

from onnx2snn.graph_passes import to_graph, to_model
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import (
    STAYS_INLINE,
    attach,
    detach,
    is_large,
    with_weights_as_inputs,
)
from onnx2snn.graph_passes.model_files.wire import encoded

RNG = np.random.default_rng(0)
TEXT = """
    g (float[N, 32] x) => (float[N, 4, 4] y) {
        h = MatMul(x, w) b = Add(h, bias) r = Reshape(b, shape) y = Relu(r)
    }
"""
WEIGHTS = {
    "w": RNG.normal(size=(32, 16)).astype(np.float32),
    "bias": RNG.normal(size=16).astype(np.float32),
    "shape": np.array([0, 4, 4]),
}
X = RNG.normal(size=(3, 32)).astype(np.float32)


def arrays(proto):
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def assert_same(found, wanted):
    """The same model, whatever the order and the form of its initializers."""
    held, given = arrays(found), arrays(wanted)
    assert held.keys() == given.keys()
    for name, value in given.items():
        assert held[name].dtype == value.dtype
        np.testing.assert_array_equal(held[name], value)
    rest = [onnx.ModelProto(), onnx.ModelProto()]
    for copy, proto in zip(rest, (found, wanted), strict=True):
        copy.CopyFrom(proto)
        del copy.graph.initializer[:]
    assert rest[0] == rest[1]


def stored(how):
    """The model with its large weight in one of the forms that ONNX has for data."""
    proto = model(TEXT, WEIGHTS)
    if how == "by number":
        weight = next(t for t in proto.graph.initializer if t.name == "w")
        weight.CopyFrom(
            onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [32, 16], WEIGHTS["w"].ravel())
        )
    onnx.helper.set_model_props(proto, {"author": "me"})
    proto.producer_name, proto.doc_string, proto.graph.doc_string = "it", "what", "how"
    return proto


@pytest.mark.parametrize("how", ["raw", "by number"])
def test_taken_apart_and_put_together(how):
    proto = stored(how)
    before = proto.SerializeToString()
    parts = detach(proto)
    assert proto.SerializeToString() == before
    assert list(parts.weights) == ["w"]
    assert parts.structure.ByteSize() < 1024 < proto.ByteSize()
    assert_same(attach(parts), proto)
    np.testing.assert_array_equal(run(attach(parts), X), run(proto, X))


DTYPES = [np.float16, np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8, np.uint16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(512,), (64, 8), (2, 0, 900), ()])
def test_every_type_and_shape(dtype, shape):
    value = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    proto = model("g (float[N] x) => (float[N] y) { y = Neg(x) }", {"value": value})
    parts = detach(proto)
    assert ("value" in parts.weights) == (value.nbytes >= STAYS_INLINE)
    assert_same(attach(parts), proto)


@pytest.mark.parametrize("kind", [onnx.TensorProto.BFLOAT16, onnx.TensorProto.BOOL])
def test_types_that_numpy_has_not_stay_inline(kind):
    tensor = onnx.helper.make_tensor("t", kind, [2048], np.zeros(2048))
    assert not is_large(tensor)


def test_nothing_is_shared():
    proto = model(TEXT, WEIGHTS)
    before = proto.SerializeToString()
    parts = detach(proto)
    parts.weights["w"][:] = 0
    parts.structure.graph.node[0].op_type = "Other"
    assert proto.SerializeToString() == before


def test_shapes_are_inferred_without_the_weights():
    structure = detach(model(TEXT, WEIGHTS)).structure
    inferred = onnx.shape_inference.infer_shapes(structure, strict_mode=True, data_prop=True)
    shapes = {
        info.name: [d.dim_value or d.dim_param for d in info.type.tensor_type.shape.dim]
        for info in inferred.graph.value_info
    }
    assert shapes == {"h": ["N", 16], "b": ["N", 16], "r": ["N", 4, 4]}


def test_the_checker_accepts_a_structure_with_its_weights_as_inputs():
    structure = detach(model(TEXT, WEIGHTS)).structure
    before = structure.SerializeToString()
    declared = with_weights_as_inputs(structure)
    assert structure.SerializeToString() == before
    onnx.checker.check_model(declared, full_check=True)
    assert [info.name for info in declared.graph.input] == ["x", "w"]
    assert [tensor.name for tensor in declared.graph.initializer] == ["bias", "shape"]


def test_a_weight_that_is_an_input_too_is_declared_once():
    structure = detach(model(TEXT, WEIGHTS)).structure
    structure.graph.input.append(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [32, 16])
    )
    declared = with_weights_as_inputs(structure)
    assert [info.name for info in declared.graph.input] == ["x", "w"]


LAYOUTS = {
    "as it was": lambda value: value,
    "transposed": lambda value: np.ascontiguousarray(value.T).T,
    "every other": lambda value: np.repeat(value, 2, axis=0)[::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", ["raw", "by number"])
def test_what_is_written_is_the_same_model(how, layout):
    proto = stored(how)
    parts = detach(proto)
    parts.weights["w"] = LAYOUTS[layout](parts.weights["w"])
    before = parts.structure.SerializeToString()
    written = onnx.ModelProto.FromString(b"".join(encoded(parts)))
    assert parts.structure.SerializeToString() == before
    assert_same(written, proto)
    onnx.checker.check_model(written, full_check=True)
    np.testing.assert_array_equal(run(written, X), run(proto, X))
    for tensor in written.graph.initializer:
        assert not tensor.external_data


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, 300000])
def test_lengths_of_every_number_of_bytes(size):
    """Protobuf writes lengths seven bits a byte."""
    value = np.arange(size, dtype=np.float32)
    proto = model("g (float[N] x) => (float[N] y) { y = Neg(x) }", {"value": value, "more": value})
    assert_same(onnx.ModelProto.FromString(b"".join(encoded(detach(proto)))), proto)


@pytest.mark.parametrize("name", ["w", "bias"])
def test_edits_of_a_graph_do_not_reach_the_model(name):
    proto = model(TEXT, WEIGHTS)
    before = proto.SerializeToString()
    constant = to_graph(proto).tensors()[name]
    constant.values[:] = 0
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("name", ["w", "bias"])
def test_later_edits_of_a_graph_do_not_reach_a_model_made_of_it(name):
    g = graph(TEXT, WEIGHTS)
    made = to_model(g)
    before = made.SerializeToString()
    g.tensors()[name].values[:] = 0
    assert made.SerializeToString() == before
    assert not np.any(arrays(to_model(g))[name])


def test_a_graph_keeps_its_weights_when_it_is_taken_apart():
    g = graph(TEXT, WEIGHTS)
    parts = to_parts(g)
    np.testing.assert_array_equal(g.tensors()["w"].values, WEIGHTS["w"])
    np.testing.assert_array_equal(parts.weights["w"], WEIGHTS["w"])
    assert_same(attach(parts), to_model(g))
