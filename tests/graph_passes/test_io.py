import os
import re

import numpy as np
import onnx
import pytest
from onnx_text import graph, model, ops, run

from onnx2snn import convert
from onnx2snn.graph_passes import (
    ModelError,
    OutputError,
    dequantize_weights,
    read_model,
    to_graph,
    to_model,
    upgrade_opset,
    write_model,
)
from onnx2snn.graph_passes.graph import editing
from onnx2snn.graph_passes.graph.shapes import declared_shape
from onnx2snn.graph_passes.model_files import files
from onnx2snn.graph_passes.model_files.weights import ModelParts, detach
from onnx2snn.graph_passes.model_files.whole_file import whole_file, write_bytes

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


@pytest.mark.parametrize(
    ("name", "cure"),
    [("net.pt", "torch.onnx.export"), ("net.keras", "Keras"), ("net.tflite", "tf2onnx"),
     ("net.npz", "arrays"), ("net.nir", "onnx2snn import"), ("net.onnx", "export it again")],
)  # fmt: skip
def test_what_makes_onnx_of_other_files_is_told(tmp_path, name, cure):
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(range(99)))
    with pytest.raises(ModelError, match=f"{name}' is not an ONNX model, .*{cure}"):
        read_model(tmp_path / name)


def test_what_to_do_about_a_folder(tmp_path):
    with pytest.raises(ModelError, match="Is a directory; a model is a file"):
        read_model(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ModelError, match="Is a directory; tf2onnx"):
        read_model(tmp_path)


def test_nodes_keep_their_own_names():
    """Also where a node before has none and its result is named so."""
    proto = model(
        "g (float[N, 64] x) => (float[N, 64] y) { fc = Relu(x) y = MatMul(fc, w) }", {"w": WEIGHT}
    )
    proto.graph.node[1].name, proto.graph.node[1].doc_string = "fc", "the layer"
    graph = to_graph(proto)
    assert [(node.op, node.name) for node in graph.nodes] == [("Relu", "fc_2"), ("MatMul", "fc")]
    again = to_model(graph, like=proto)
    assert [node.doc_string for node in again.graph.node] == ["", "the layer"]
    # Of two of one name the first has it.
    proto.graph.node[0].name, proto.graph.node[0].op_type = "fc", "MatMul"
    proto.graph.node[0].input.append("w")
    again = to_model(to_graph(proto), like=proto)
    assert [node.doc_string for node in again.graph.node] == ["", ""]


def test_what_is_said_of_inputs_and_outputs_stays():
    proto = model(TEXT, {"w": WEIGHT})
    for info in (*proto.graph.input, *proto.graph.output):
        info.doc_string = f"this is {info.name}"
        info.metadata_props.add(key="unit", value="mV")
    again = to_model(to_graph(proto), like=proto).graph
    assert [again.input[0].doc_string, again.output[0].doc_string] == ["this is x", "this is y"]
    assert again.output[0].metadata_props == proto.graph.output[0].metadata_props


def test_what_tensors_stand_for_stays():
    text = TEXT.replace("y = MatMul(x, w)", "a = MatMul(x, w) y = Relu(a)")
    proto = onnx.shape_inference.infer_shapes(model(text, {"w": WEIGHT}))
    info, inner = proto.graph.input[0], proto.graph.value_info[0]
    info.type.denotation = "TENSOR"
    info.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    inner.metadata_props.add(key="unit", value="mV")
    for name, scale in ((inner.name, "w"), ("gone", "w"), (inner.name, "gone")):
        note = proto.graph.quantization_annotation.add(tensor_name=name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=scale)
    again = to_model(to_graph(proto), like=proto).graph
    assert again.input[0] == info
    assert not again.output[0].HasField("doc_string")
    (found,) = (value for value in again.value_info if value.name == inner.name)
    assert found.metadata_props == inner.metadata_props
    assert [note.tensor_name for note in again.quantization_annotation] == [inner.name]


def test_a_name_that_no_file_has():
    with pytest.raises(ModelError, match=r"cannot read 'a\\x00b\.onnx': embedded null byte"):
        read_model("a\0b.onnx")
    with pytest.raises(OutputError, match=r"cannot write 'a\\x00b\.onnx': .*embedded null"):
        write_model(model(TEXT, {"w": WEIGHT}), "a\0b.onnx")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path, share):
    path = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"damaged|valid"):
        read_model(path)


def test_nodes_in_disorder_are_sorted(tmp_path):
    text = "g (float[N, 3] x, bool c) => (float[N, 3] y) { a = Neg (x) b = Exp (a) y = If (c) <"
    text += "then_branch = t () => (float[N, 3] p) { p = Neg (b) }, "
    text += "else_branch = e () => (float[N, 3] q) { q = Abs (a) }> }"
    proto = model(text)
    wanted = [node.op_type for node in proto.graph.node]
    nodes = [proto.graph.node[place] for place in (2, 1, 0)]
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(proto)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    path = tmp_path / "model.onnx"
    path.write_bytes(shuffled.SerializeToString())
    for found in (read_model(path), files.read_any(shuffled).structure):
        assert [node.op_type for node in found.graph.node] == wanted
    assert [node.op_type for node in shuffled.graph.node] == wanted[::-1]


def test_a_size_of_minus_1_is_an_open_one(tmp_path):
    # As Paddle's exporter writes it.
    proto = model("g (float[N, 3] x) => (float[N, 3] y) { a = Neg (x) y = Relu (a) }")
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = -1
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    for found in (read_model(path), files.read_any(proto).structure):
        for info in (*found.graph.input, *found.graph.output):
            assert declared_shape(info.type.tensor_type) == ["?", 3]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == -1


def test_an_order_is_kept_where_a_branch_names_its_own_tensors_as_others_are(tmp_path):
    text = "g (float[N] x, bool c) => (float[N] y) { i = If (c) <"
    text += "then_branch = t () => (float[N] p) { t = Neg (x) p = Abs (t) }, "
    text += "else_branch = e () => (float[N] q) { q = Abs (x) }> t = Exp (x) y = Add (i, t) }"
    proto = model(text)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert [node.op_type for node in read_model(path).graph.node] == ["If", "Exp", "Add"]


@pytest.mark.parametrize("size", [1, 300])
def test_a_constant_of_a_branch_with_the_name_of_another(size):
    branch = "{ y = Mul (x, k) }"
    text = (
        f"g (float[N, {size}] x, bool c) => (float[N, {size}] y) {{ y = If (c) <then_branch = "
        f"t () => (float[N, {size}] y) {branch}, "
        f"else_branch = e () => (float[N, {size}] y) {branch}> }}"
    )
    proto = model(text, {"k": np.full(size, 100, np.float32)})
    to_graph(proto)
    own = onnx.numpy_helper.from_array(np.full(size, 0.5, np.float32), "k")
    proto.graph.node[0].attribute[0].g.initializer.append(own)
    with pytest.raises(ModelError, match="subgraph has a constant 'k', and the graph around it"):
        to_graph(proto)
    # As onnx-graphsurgeon writes what a branch captures.
    own.CopyFrom(proto.graph.initializer[0])
    proto.graph.node[0].attribute[0].g.initializer[0].CopyFrom(own)
    to_graph(to_model(to_graph(proto)))


def test_nodes_in_a_circle(tmp_path):
    proto = model("g (float[N] x) => (float[N] y) { a = Neg (x) y = Exp (a) }")
    proto.graph.node[0].input[0] = "y"
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="topologically sorted"):
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


def test_external_data_that_is_written_anew(tmp_path):
    """By cp or rsync --inplace, while what was read of it before is in use."""
    path, content = external(tmp_path, "weights.bin")
    data = path.parent / "weights.bin"
    data.write_bytes(content)
    weights = files.read_parts(path).weights["w"]
    with data.open("r+b") as file:
        file.write(bytes(len(content)))
    np.testing.assert_array_equal(weights, WEIGHT)
    data.write_bytes(b"")
    np.testing.assert_array_equal(weights, WEIGHT)


def test_external_data_cut_short(tmp_path):
    path, content = external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes(content[:-5])
    said = f"{len(content)} bytes at 0, but that file has {len(content) - 5}: it is damaged"
    with pytest.raises(ModelError, match=said):
        read_model(path)


@pytest.mark.parametrize("how", ["..", "absolute", "link"])
def test_external_data_outside_the_folder_is_refused(tmp_path, how):
    outside = tmp_path / "outside.bin"
    location = {"..": "../outside.bin", "absolute": str(outside), "link": "link.bin"}[how]
    path, content = external(tmp_path, location)
    outside.write_bytes(content)
    if how == "link":
        (path.parent / "link.bin").symlink_to(outside)
    for read in (read_model, files.files_of):
        with pytest.raises(ModelError, match="outside the model's folder"):
            read(path)


def test_external_data_of_a_name_that_is_no_text(tmp_path):
    path, _ = external(tmp_path, "weights.bin")
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"weights.\xffin"))
    for read in (read_model, files.files_of, convert):
        with pytest.raises(ModelError, match="is damaged: a name in it is no text"):
            read(path)


def linked(tmp_path):
    """A model in the layout of the Hugging Face hub's cache, as links to files of other names."""
    path, content = external(tmp_path, "weights.bin")
    (tmp_path / "blobs").mkdir()
    path.rename(tmp_path / "blobs" / "0")
    (tmp_path / "blobs" / "1").write_bytes(content)
    path.symlink_to("../blobs/0")
    return path, path.parent / "weights.bin"


def test_external_data_that_is_linked_as_the_model_is(tmp_path):
    path, data = linked(tmp_path)
    data.symlink_to("../blobs/1")
    np.testing.assert_array_equal(files.read_parts(path).weights["w"], WEIGHT)
    assert files.files_of(path)[1:] == [tmp_path / "blobs" / "1"]


@pytest.mark.parametrize("how", ["link", "link of the folder", "file"])
def test_external_data_beside_a_link_from_outside_is_refused(tmp_path, how):
    path, data = linked(tmp_path)
    outside = tmp_path / "blobs-of-others"
    outside.mkdir()
    (outside / "1").write_bytes((tmp_path / "blobs" / "1").read_bytes())
    if how == "link":
        data.symlink_to(outside / "1")
    elif how == "link of the folder":
        (tmp_path / "blobs" / "1").unlink()
        (tmp_path / "blobs" / "1").symlink_to(outside / "1")
        data.symlink_to("../blobs/1")
    else:
        data.write_bytes((outside / "1").read_bytes())
    said = f"outside the model's folder: refused; put the data file beside '{tmp_path}/blobs/0'"
    for read in (read_model, files.files_of):
        with pytest.raises(ModelError, match=re.escape(said)):
            read(path)


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


@pytest.mark.parametrize("name", ["n" * 250 + ".onnx", "é" * 124 + ".onnx", "\udce9.onnx"])
def test_large_models_of_long_and_odd_names(tmp_path, small_limit, name):
    path = tmp_path / name
    for weight in (WEIGHT, 2 * WEIGHT):
        write_model(model(TEXT, {"w": weight}), path)
        np.testing.assert_array_equal(files.read_parts(path).weights["w"], weight)
    assert len(names_in(tmp_path)) == 3


def test_large_models_through_a_link(tmp_path, monkeypatch):
    proto = read_model(saved(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link.onnx", tmp_path / "elsewhere" / "target.onnx"
    link.symlink_to(target)
    monkeypatch.setattr(files, "MAX_PROTO_BYTES", 1000)
    write_model(proto, link)
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "link.onnx", "model.onnx"]
    assert len(list(target.parent.glob("target.onnx.*.data"))) == 1
    for path in (link, target):
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(read_model(path).graph.initializer[0]), WEIGHT
        )


@pytest.fixture
def small_limit(monkeypatch):
    """As if protobuf's limit were 1000 bytes."""
    monkeypatch.setattr(files, "MAX_PROTO_BYTES", 1000)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [OutputError, KeyboardInterrupt])
@pytest.mark.parametrize("fails", ["data", "structure"])
def test_a_failed_write_of_a_large_model_leaves_no_data(
    tmp_path, monkeypatch, small_limit, fails, error
):
    path = tmp_path / "large.onnx"
    real = files.write_bytes

    def failing(target, *args, **options):
        if (target == path) == (fails == "structure"):
            raise error
        real(target, *args, **options)

    def write(weight):
        write_model(model(TEXT, {"w": weight}), path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", failing)
        with pytest.raises(error):
            write(WEIGHT)
        assert names_in(tmp_path) == []
    write(WEIGHT)
    there = names_in(tmp_path)
    monkeypatch.setattr(files, "write_bytes", failing)
    for weight in (WEIGHT, 2 * WEIGHT):
        with pytest.raises(error):
            write(weight)
        assert names_in(tmp_path) == there
    assert read_model(path)


def test_an_interrupt_after_a_large_model_has_its_name(tmp_path, monkeypatch, small_limit):
    path = tmp_path / "large.onnx"
    real = files.write_bytes

    def interrupted(target, *args, **options):
        real(target, *args, **options)
        if target == path:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_model(model(TEXT, {"w": WEIGHT}), path)
    assert read_model(path)


def test_a_large_model_does_not_replace_what_must_stay(tmp_path, small_limit):
    path = tmp_path / "large.onnx"
    path.write_text("there")
    with pytest.raises(OutputError, match="File exists"):
        write_model(model(TEXT, {"w": WEIGHT}), path, new=True)
    assert names_in(tmp_path) == ["large.onnx"]
    assert path.read_text() == "there"


def test_data_that_a_copy_may_read_stays(tmp_path, small_limit):
    path, copy = tmp_path / "large.onnx", tmp_path / "copy.onnx"
    write_model(model(TEXT, {"w": WEIGHT}), path)
    copy.write_bytes(path.read_bytes())
    write_model(model(TEXT, {"w": 2 * WEIGHT}), path)
    for file, weight in ((path, 2 * WEIGHT), (copy, WEIGHT)):
        np.testing.assert_array_equal(files.read_parts(file).weights["w"], weight)


def test_data_of_a_copy_stays_where_the_same_cannot_be_written(tmp_path, small_limit, monkeypatch):
    path, copy = tmp_path / "large.onnx", tmp_path / "copy.onnx"
    write_model(model(TEXT, {"w": WEIGHT}), path)
    copy.write_bytes(path.read_bytes())
    write_model(model(TEXT, {"w": 2 * WEIGHT}), path)
    real = files.write_bytes

    def fails(target, *arguments, **options):
        if target == path:
            raise OutputError("no room")
        real(target, *arguments, **options)

    monkeypatch.setattr(files, "write_bytes", fails)
    with pytest.raises(OutputError, match="no room"):
        write_model(model(TEXT, {"w": WEIGHT}), path)
    np.testing.assert_array_equal(files.read_parts(copy).weights["w"], WEIGHT)


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


def test_whole_files(tmp_path):
    """Two writers, a link and a name as long as names may be."""
    target, link, long = tmp_path / "target", tmp_path / "link", tmp_path / ("n" * 252 + ".md")
    with whole_file(target) as first, whole_file(target) as second:
        first.write(b"first")
        second.write(b"second")
    assert target.read_bytes() == b"first"
    link.symlink_to(target)
    for path in (link, long):
        write_bytes(path, b"new")
    assert (target.read_bytes(), link.is_symlink(), long.read_bytes()) == (b"new", True, b"new")
    with pytest.raises(OSError, match="File exists"), whole_file(target, new=True) as file:
        file.write(b"newer")
    assert target.read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link", long.name}


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


def test_nodes_of_one_name_are_numbered():
    text = "g (float[N, 4] x) => (float[N, 4] y) { a = Neg(x) b = Neg(a) c = Neg(b) y = Neg(c) }"
    proto = model(text)
    for node, name in zip(proto.graph.node, ["n", "n", "n_2", "n"], strict=True):
        node.name = name
    assert [node.name for node in to_graph(proto).nodes] == ["n", "n_3", "n_2", "n_4"]


class Counted(set):
    looks = 0

    def __contains__(self, name):
        self.looks += 1
        return super().__contains__(name)


def test_a_thousand_that_want_one_name_take_few_looks(monkeypatch):
    taken = Counted({"a", "a_3"})
    monkeypatch.setattr(editing, "taken_names", lambda graph: taken)
    editor = editing.Editor(graph("g (float[N] x) => (float[N] y) { y = Neg(x) }"))
    assert [editor.name("a") for _ in range(1000)] == [
        "a_2", *(f"a_{number}" for number in range(4, 1003))
    ]  # fmt: skip
    assert taken.looks < 4000


def test_nodes_in_vain_are_left_out():
    proto = model("g (float[N] x) => (float[N] y) { a = Neg(x) b = Abs(a) y = Exp(x) }")
    assert ops(to_graph(proto)) == ["Exp"]


def test_domain_ai_onnx_is_the_standard_one():
    proto = model(TEXT, {"w": WEIGHT})
    proto.graph.node[0].domain = proto.opset_import[0].domain = "ai.onnx"
    result = to_model(to_graph(proto))
    assert [entry.domain for entry in result.opset_import] == [""]


def test_types_that_graphsurgeon_loses_are_refused():
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N] x) => (float[N] y) '
        "{ r = Reshape(q, s) w = DequantizeLinear(r, scale) y = Add(x, w) }"
    )
    proto.graph.initializer.append(onnx.helper.make_tensor("q", onnx.TensorProto.INT4, [2], [1, 2]))
    with pytest.raises(ModelError, match="INT4"):
        to_graph(proto)


FOUR_BITS = onnx.parser.parse_model(
    '<ir_version: 10, opset_import: ["": 21]> g (float[N, 2] x) => (float[N, 3] y) '
    "<float scale = {0.5}> { w = DequantizeLinear(q, scale, zero) y = MatMul(x, w) }"
)


@pytest.mark.parametrize("kind", [onnx.TensorProto.INT4, onnx.TensorProto.UINT4])
@pytest.mark.parametrize("apart", [False, True])
def test_weights_of_four_bits_are_held_in_eight(tmp_path, kind, apart):
    proto = onnx.ModelProto()
    proto.CopyFrom(FOUR_BITS)
    low = -8 if kind == onnx.TensorProto.INT4 else 0
    weights = np.int8([[low, 1, 7], [low + 15, 0, 2]])
    # An odd number of numbers, of which one byte is half full.
    for name, values in (("q", weights), ("zero", np.int8([1]))):
        values = values.tolist() if name == "zero" else values.reshape(-1).tolist()
        shape = [] if name == "zero" else weights.shape
        proto.graph.initializer.append(onnx.helper.make_tensor(name, kind, shape, values))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=apart, location="w",
              size_threshold=0)  # fmt: skip
    read = read_model(tmp_path / "m.onnx")
    graph = to_graph(read)
    x = np.eye(2, dtype=np.float32)
    np.testing.assert_array_equal(run(read, x), (weights - 1.0) / 2)
    assert dequantize_weights(graph) is True
    np.testing.assert_array_equal(run(graph, x), (weights - 1.0) / 2)


def test_weights_of_four_bits_of_which_some_are_missing():
    proto = onnx.ModelProto()
    proto.CopyFrom(FOUR_BITS)
    for name, shape in (("q", [2, 3]), ("zero", [])):
        proto.graph.initializer.append(
            onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.INT4, raw_data=b"1")
        )
    with pytest.raises(ModelError, match="'q' is damaged"):
        to_graph(proto)


def test_upgrading_leaves_what_it_is_given(tmp_path):
    proto = model(TEXT, {"w": WEIGHT}, opset=11)
    proto.ir_version = 4
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [64, 64]))
    parts = detach(proto)
    before = parts.structure.SerializeToString()
    assert [info.name for info in upgrade_opset(parts).structure.graph.input] == ["x"]
    assert parts.structure.SerializeToString() == before


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
    with pytest.raises(ModelError, match="unknown type, 65: the file is damaged"):
        read_model(tmp_path / "model.onnx")


DENSE = np.float32([[0, 2, 0], [0, 0, -3]])


def sparse(flat, dtype=np.float32):
    places = np.array([1, 5] if flat else [[0, 1], [1, 2]])
    values = onnx.numpy_helper.from_array(np.array([2, -3], dtype), "s")
    return onnx.helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(places), [2, 3])


SPARSE = {
    "initializer": "y = Add(x, s)",
    "node": "s = Identity(x) y = Add(x, s)",
    "branch": "y = If(c) <then_branch = t () => (float[2, 3] p) { s = Identity(x) p = Add(x, s) }, "
              "else_branch = e () => (float[2, 3] q) { q = Abs(x) }>",
}  # fmt: skip


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("place", SPARSE)
def test_sparse_constants_become_dense(place, flat, opset):
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g (float[2, 3] x, bool c) => (float[2, 3] y) {{ {SPARSE[place]} }}"
    )
    if place == "initializer":
        proto.graph.sparse_initializer.append(sparse(flat))
    else:
        first = proto.graph.node[0]
        node = first if place == "node" else first.attribute[0].g.node[0]
        node.CopyFrom(onnx.helper.make_node("Constant", [], ["s"], sparse_value=sparse(flat)))
    x, c = np.float32([[1, 2, 3], [4, 5, 6]]), np.array(True)
    result = to_model(to_graph(upgrade_opset(proto)))
    onnx.checker.check_model(result)
    np.testing.assert_array_equal(run(proto, x, c), x + DENSE)
    np.testing.assert_array_equal(run(result, x, c), x + DENSE)


def test_sparse_constants_keep_their_type():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float16[2, 3] x) => (float16[2, 3] y) '
        "{ y = Add(x, s) }"
    )
    proto.graph.sparse_initializer.append(sparse(True, np.float16))
    x = np.ones((2, 3), np.float16)
    result = run(to_model(to_graph(proto)), x)
    np.testing.assert_array_equal(result, (x + DENSE).astype(np.float16), strict=True)


@pytest.mark.parametrize("place", ["input", "value_info"])
def test_optional_tensors_are_refused(place):
    proto = model("g (float[N] x) => (float[N] y) { a = Neg(x) y = Neg(a) }")
    kind = onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(1, [3]))
    getattr(proto.graph, place).append(onnx.helper.make_value_info("o", kind))
    with pytest.raises(ModelError, match="'o' is no tensor"):
        to_graph(proto)


def test_attributes_that_graphsurgeon_loses_are_refused():
    proto = model("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    kind = onnx.helper.make_tensor_type_proto(1, [3])
    proto.graph.node.append(onnx.helper.make_node("Optional", [], ["o"], type=kind))
    with pytest.raises(ModelError, match=r"Optional 'o' has an attribute 'type' .* TYPE_PROTO"):
        to_graph(proto)


def test_external_data_that_was_not_loaded_is_refused(tmp_path):
    path, content = external(tmp_path, "weights.bin")
    path.with_name("weights.bin").write_bytes(content)
    stubs = onnx.load(path, load_external_data=False)
    with pytest.raises(ModelError, match=r"tensor 'w'.* read it with read_model"):
        to_graph(stubs)
    with pytest.raises(ModelError, match="does not hold the values of its tensor 'w'"):
        convert(stubs)
    (tmp_path / "other").mkdir()
    for written in (stubs, ModelParts(stubs, {})):
        with pytest.raises(ModelError, match="does not hold the values of its tensor 'w'"):
            write_model(written, tmp_path / "other" / "model.onnx")
    assert not list((tmp_path / "other").iterdir())
    assert to_graph(read_model(path))


@pytest.mark.parametrize("function", [to_graph, upgrade_opset])
def test_what_is_no_model_in_memory(function):
    with pytest.raises(ModelError, match="not str: read_model reads a file"):
        function("net.onnx")


@pytest.mark.parametrize("like", ["net.onnx", ModelParts(onnx.ModelProto(), {})])
def test_what_is_no_model_to_be_like(like):
    with pytest.raises(ModelError, match=f"not {type(like).__name__}: read_model reads a file"):
        to_model(graph(TEXT, {"w": WEIGHT}), like=like)


def calling(function, body, opset=18, own=None):
    """A model that calls a function of its own."""
    text = (
        f'<ir_version: 10, opset_import: ["": {opset}, "own": 1]> '
        f"g (float[N, 4] x) => (float[N, 4] y) {{ {body} }} "
        f'<domain: "own", opset_import: ["": {own or opset}]> {function}'
    )
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize(
    "body",
    ["y = own.F(x)", "y = own.F<slope = 0.5>(x)", "a = own.F(x) y = own.F<slope = 0.25>(a)"],
)
@pytest.mark.parametrize("opset", [17, 24])
def test_calls_of_functions_have_the_defaults_of_their_attributes(body, opset):
    function = "F <slope: float = 0.9> (x) => (y) { y = LeakyRelu<alpha: float = @slope>(x) }"
    proto = calling(function, body, opset)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    before = proto.SerializeToString()
    np.testing.assert_array_equal(run(to_graph(proto), x), run(proto, x))
    assert proto.SerializeToString() == before


@pytest.mark.parametrize(("opset", "own"), [(18, 17), (17, 18), (24, 24)])
@pytest.mark.parametrize("body", ["y = own.F(x)", "y = Relu(x)"])
def test_functions_of_another_opset_with_the_same_operators(opset, own, body):
    proto = calling("F (x) => (y) { a = Relu(x) y = Neg(a) }", body, opset, own)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(to_graph(proto), x), run(proto, x))


def test_functions_of_an_opset_with_other_operators():
    proto = calling("F (x) => (y) { y = Relu(x) }", "y = own.F(x)", 21, 13)
    with pytest.raises(ModelError, match="functions of its own opset"):
        to_graph(proto)


def test_operators_of_the_other_name_of_onnx_are_looked_at():
    text = "F (x) => (y) { y = ai.onnx.Softmax(x) }"
    with pytest.raises(ModelError, match="functions of its own opset"):
        to_graph(calling(text, "y = own.F(x)", 17, 11))


def test_zero_points_of_activations_in_few_bits():
    """They go with the activations that they are of."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N, 4] x) => (float[N, 4] y) '
        "<float scale = {0.5}> { h = MatMul(x, w) r = Relu(h) "
        "q = QuantizeLinear<output_dtype = 21>(r, scale) d = DequantizeLinear(q, scale, zero) "
        "y = MatMul(d, w) }"
    )
    zero = onnx.helper.make_tensor("zero", onnx.TensorProto.UINT4, [], [0])
    w = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    proto.graph.initializer.extend([zero, w])
    (neuron,) = convert(proto).neurons
    assert neuron.threshold == 7.5
