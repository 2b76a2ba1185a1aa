import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_text import changes_once, ops, run

from onnx2snn.graph_passes import infer_shapes, to_graph, to_model
from onnx2snn.graph_passes.spellings.scikit_learn import (
    standardise_scikit_learn,
    zip_maps_to_tensors,
)

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def model(text):
    """A model from ONNX text that may hold operators of ai.onnx.ml."""
    header = '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>'
    return onnx.parser.parse_model(f"{header} {text}")


def graph(text):
    result = to_graph(model(text))
    infer_shapes(result)
    return result


SCALERS = {
    "per feature": "offset = [0.5, -1.0, 2.0], scale = [2.0, 0.25, -1.0]",
    "the same for all": "offset = [0.5], scale = [2.0]",
}


@pytest.mark.parametrize("name", SCALERS)
@pytest.mark.parametrize("dtype", ["float", "double", "int64"])
def test_scalers_become_standard_operators(name, dtype):
    g = graph(
        f"g ({dtype}[N, 3] x) => (float[N, 3] y) {{ y = ai.onnx.ml.Scaler<{SCALERS[name]}>(x) }}"
    )
    x = (4 * X).astype({"float": np.float32, "double": np.float64, "int64": np.int64}[dtype])
    before = run(g, x)
    changes_once(standardise_scikit_learn, g)
    cast = {"float": [], "double": ["Sub", "Mul", "Cast"], "int64": ["Cast", "Sub", "Mul"]}
    assert ops(g) == (cast[dtype] or ["Sub", "Mul"])
    assert not any(node.domain for node in g.nodes)
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("", X), ("<offset = [0.5]>", X - 0.5), ("<scale = [2.0]>", 2 * X)],
)
def test_offset_and_scale_have_defaults(given, wanted):
    g = graph(f"g (float[N, 3] x) => (float[N, 3] y) {{ y = ai.onnx.ml.Scaler{given}(x) }}")
    changes_once(standardise_scikit_learn, g)
    np.testing.assert_array_equal(run(g, X), wanted.astype(np.float32))


def test_an_own_scaler_is_none_of_scikit_learns():
    assert not standardise_scikit_learn(
        to_graph(model("g (float[N, 3] x) => (float[N, 3] y) { y = my.own.Scaler(x) }"))
    )


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, -999.0])
def test_imputers_become_standard_operators(missing):
    g = graph(
        "g (float[N, 3] x) => (float[N, 3] y) { "
        "y = ai.onnx.ml.Imputer<imputed_value_floats = [0.5, 1.0, 2.0]>(x) }"
    )
    g.nodes[0].attrs["replaced_value_float"] = float(missing)
    x = X.copy()
    x[1, 2] = x[3, 0] = missing
    x[4] = np.inf if missing == -np.inf else -np.inf
    before = run(g, x)
    assert before[1, 2] == 2
    changes_once(standardise_scikit_learn, g)
    assert not any(node.domain for node in g.nodes)
    np.testing.assert_array_equal(run(g, x), before)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("norm", ["MAX", "L1", "L2", None])
@pytest.mark.parametrize("dtype", ["float", "double", "int64"])
def test_normalizers_become_standard_operators(dtype, norm, opset):
    given = f'<norm = "{norm}">' if norm else ""
    proto = model(
        f"g ({dtype}[N, 3] x) => (float[N, 3] y) "
        f"{{ z = ai.onnx.ml.Normalizer{given}(x) y = Relu(z) }}"
    )
    proto.opset_import[0].version = opset
    g = to_graph(proto)
    x = (4 * X).astype({"float": np.float32, "double": np.float64, "int64": np.int64}[dtype])
    # Where there is nothing to divide by.
    x[1], x[2] = 0, [-1, -2, 0]
    before = run(g, x)
    changes_once(standardise_scikit_learn, g)
    assert not any(node.domain for node in g.nodes)
    infer_shapes(g)
    assert g.outputs[0].inputs[0].inputs[0].shape == ["N", 3]
    np.testing.assert_allclose(run(g, x), before, rtol=1e-6)


def classifier(zip_map):
    """As scikit-learn's exporter ends it: the class, and a list of dictionaries."""
    body = f"p = Softmax(x) l = ArgMax<axis = 1, keepdims = 0>(p) {zip_map}"
    proto = model(f"g (float[N, 3] x) => (int64[N] l, float[N, 3] y) {{ {body} }}")
    key = onnx.TensorProto.INT64 if "int64s" in zip_map else onnx.TensorProto.STRING
    value = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    maps = onnx.helper.make_sequence_type_proto(onnx.helper.make_map_type_proto(key, value))
    proto.graph.output[1].type.CopyFrom(maps)
    return proto


ZIP_MAPS = {
    "numbers": "y = ai.onnx.ml.ZipMap<classlabels_int64s = [4, 5, 6]>(p)",
    "names": 'y = ai.onnx.ml.ZipMap<classlabels_strings = ["a", "b", "c"]>(p)',
}


@pytest.mark.parametrize("inferred", [False, True])
@pytest.mark.parametrize("name", ZIP_MAPS)
def test_maps_of_probabilities_become_tensors(name, inferred):
    proto = classifier(ZIP_MAPS[name])
    if inferred:
        # As ONNX Runtime's symbolic shape inference leaves outputs.
        proto.graph.value_info.append(proto.graph.output[1])
    text = proto.SerializeToString()
    maps = run(proto, X, output=1)
    changed = zip_maps_to_tensors(proto)
    assert proto.SerializeToString() == text
    g = to_graph(changed)
    infer_shapes(g)
    onnx.checker.check_model(to_model(g), full_check=True)
    result = run(g, X, output=1)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [list(row.values()) for row in maps])
    np.testing.assert_array_equal(run(changed, X), run(proto, X))


def test_without_a_map_the_model_is_the_same():
    proto = model("g (float[N, 3] x) => (float[N, 3] y) { y = Softmax(x) }")
    assert zip_maps_to_tensors(proto) is proto
    changed = zip_maps_to_tensors(classifier(ZIP_MAPS["names"]))
    assert zip_maps_to_tensors(changed) is changed


def test_lists_of_dictionaries_stay_what_they_are():
    proto = model(
        "g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { p = Softmax(x) "
        "y = ai.onnx.ml.ZipMap<classlabels_int64s = [4, 5, 6]>(p) z = Identity(p) }"
    )
    kind = onnx.helper.make_map_type_proto(7, onnx.helper.make_tensor_type_proto(1, None))
    proto.graph.output[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(kind))
    before = run(proto, X)
    g = to_graph(proto)
    infer_shapes(g)
    result = to_model(g)
    assert result.graph.output[0] == proto.graph.output[0]
    assert run(result, X) == before
    assert list(before[0]) == [4, 5, 6]


def test_a_scaler_of_double_precision_keeps_its_digits():
    """Times since 1970 in seconds: float32 tells no two within 64 seconds apart."""
    g = graph(
        "g (double[N, 1] x) => (float[N, 1] y) "
        "{ y = ai.onnx.ml.Scaler<offset = [1.7e9], scale = [0.015625]>(x) }"
    )
    x = float(np.float32(1.7e9)) + np.arange(32.0)[:, None]
    before = run(g, x)
    assert len(np.unique(before)) == 32
    changes_once(standardise_scikit_learn, g)
    np.testing.assert_array_equal(run(g, x), before)


def test_a_scaler_of_what_has_no_type_in_the_file_keeps_its_digits():
    g = to_graph(
        model(
            "g (double[N, 1] x) => (float[N, 1] y) "
            "{ f = Flatten(x) y = ai.onnx.ml.Scaler<offset = [1.7e9], scale = [0.015625]>(f) }"
        )
    )
    x = float(np.float32(1.7e9)) + np.arange(32.0)[:, None]
    before = run(g, x)
    changes_once(standardise_scikit_learn, g)
    np.testing.assert_array_equal(run(g, x), before)
