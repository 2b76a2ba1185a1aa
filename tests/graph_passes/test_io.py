import os

import numpy as np
import onnx
import pytest
from onnx_text import graph, model, run

from onnx2snn.graph_passes import (
    ModelError,
    OutputError,
    files,
    read_model,
    to_graph,
    to_model,
    upgrade_opset,
    write_model,
)

TEXT = "g (float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }"
WEIGHT = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


def saved(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model(TEXT, {"w": WEIGHT}), path)
    return path


def external(tmp_path, location):
    proto = model(TEXT, {"w": WEIGHT})
    (weight,) = proto.graph.initializer
    content = weight.raw_data
    onnx.external_data_helper.set_external_data(weight, location, 0, len(content))
    weight.ClearField("raw_data")
    path = tmp_path / "folder" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(proto.SerializeToString())
    return path, content


def test_round_trip(tmp_path):
    path = saved(tmp_path)
    write_model(read_model(path), tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx") == onnx.load(path)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(99)])
def test_no_onnx(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_model(path)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path, share):
    path = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"damaged|valid"):
        read_model(path)


def test_missing(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        read_model(tmp_path / "nothing.onnx")


def test_external_data_beside_the_model(tmp_path):
    path, content = external(tmp_path, "weights.bin")
    with pytest.raises(ModelError, match="not there"):
        read_model(path)
    (path.parent / "weights.bin").write_bytes(content)
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(read_model(path).graph.initializer[0]), WEIGHT
    )


def test_external_data_cut_short(tmp_path):
    path, content = external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes(content[:-5])
    with pytest.raises(ModelError, match=r"cannot be read|damaged"):
        read_model(path)


@pytest.mark.parametrize("how", ["..", "absolute", "link"])
def test_external_data_outside_the_folder_is_refused(tmp_path, how):
    outside = tmp_path / "outside.bin"
    location = {"..": "../outside.bin", "absolute": str(outside), "link": "link.bin"}[how]
    path, content = external(tmp_path, location)
    outside.write_bytes(content)
    if how == "link":
        (path.parent / "link.bin").symlink_to(outside)
    with pytest.raises(ModelError, match="outside the model's folder"):
        read_model(path)


def test_large_models_keep_their_weights_beside_them(tmp_path, monkeypatch):
    proto = read_model(saved(tmp_path))
    monkeypatch.setattr(files, "MAX_PROTO_BYTES", 1000)
    before = proto.SerializeToString()
    write_model(proto, tmp_path / "large.onnx")
    assert proto.SerializeToString() == before
    names = sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("large"))
    assert len(names) == 2
    assert names[1].endswith(".data")
    assert (tmp_path / "large.onnx").stat().st_size < 1000
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(read_model(tmp_path / "large.onnx").graph.initializer[0]), WEIGHT
    )


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        write_model(model(TEXT, {"w": WEIGHT}), tmp_path / "no" / "model.onnx")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = saved(tmp_path)
    old = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_model(model(TEXT, {"w": 2 * WEIGHT}), path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_metadata_survives_a_pass():
    proto = model(TEXT, {"w": WEIGHT})
    onnx.helper.set_model_props(proto, {"author": "me"})
    proto.domain, proto.model_version, proto.doc_string = "org.me", 7, "mine"
    node = proto.graph.node[0]
    node.name = "product"
    entry = node.metadata_props.add()
    entry.key, entry.value = "layer", "1"
    before = proto.SerializeToString()
    result = to_model(to_graph(proto), like=proto)
    assert proto.SerializeToString() == before
    assert (result.domain, result.model_version, result.doc_string) == ("org.me", 7, "mine")
    assert {p.key: p.value for p in result.metadata_props} == {"author": "me"}
    assert result.graph.node[0].metadata_props[0].value == "1"


def test_the_ir_version_is_no_newer_than_need_be():
    proto = model(TEXT, {"w": WEIGHT})
    for version in (8, 10):
        proto.ir_version = version
        assert to_model(to_graph(proto)).ir_version == version
    proto.ir_version = 4
    assert to_model(to_graph(proto)).ir_version == 8


def test_nodes_get_unique_names():
    proto = model("g (float[N] x) => (float[N] y) { a = Neg(x) b = Neg(a) y = Neg(b) }")
    proto.graph.node[0].name = proto.graph.node[1].name = "same"
    names = [node.name for node in to_graph(proto).nodes]
    assert names == ["same", "same_2", "y"]


def test_domain_ai_onnx_is_the_standard_one():
    proto = model(TEXT, {"w": WEIGHT})
    proto.graph.node[0].domain = proto.opset_import[0].domain = "ai.onnx"
    result = to_model(to_graph(proto))
    assert [entry.domain for entry in result.opset_import] == [""]


def test_types_that_graphsurgeon_loses_are_refused():
    proto = model("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    proto.graph.initializer.append(onnx.helper.make_tensor("q", onnx.TensorProto.INT4, [2], [1, 2]))
    with pytest.raises(ModelError, match="INT4"):
        to_graph(proto)


def test_old_opsets_are_upgraded():
    proto = model("g (float[N, 4] x) => (float[N, 4] y) { y = Clip<min=0.0, max=2.0>(x) }", opset=7)
    new = upgrade_opset(proto)
    assert new.opset_import[0].version == 17
    x = np.linspace(-1, 3, 8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(new, x), np.clip(x, 0, 2))


def test_weights_of_a_graph_are_not_shared_with_the_file(tmp_path):
    proto = model(TEXT, {"w": WEIGHT})
    g = to_graph(proto)
    g.nodes[0].inputs[1].values[:] = 0
    assert np.any(onnx.numpy_helper.to_array(proto.graph.initializer[0]))
    assert graph(TEXT, {"w": WEIGHT}).nodes[0].op == "MatMul"


def test_a_name_that_is_no_text(tmp_path):
    path = saved(tmp_path)
    content = path.read_bytes().replace(b"MatMul", b"MatM\xff\xfe")
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged|valid"):
        read_model(path)


def test_a_type_that_does_not_exist(tmp_path):
    proto = model(TEXT, {"w": WEIGHT})
    proto.graph.input[0].type.tensor_type.elem_type = 65
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="unknown type"):
        read_model(tmp_path / "model.onnx")
