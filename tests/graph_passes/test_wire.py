"""Files whose large weights are read past protobuf are read as protobuf would read them."""

import os
import threading

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from onnx_text import model

from onnx2snn.graph_passes import ModelError, read_model
from onnx2snn.graph_passes.model_files import files, wire
from onnx2snn.graph_passes.model_files.files import files_of, opened, parse_model

TEXT = """
    g (float[N, 32] x) => (float[N, 4, 4] y) {
        h = MatMul(x, w) b = Add(h, bias) r = Reshape(b, shape) y = Relu(r)
    }
"""
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(32, 16)).astype(np.float32),
    "bias": RNG.normal(size=16).astype(np.float32),
    "shape": np.array([0, 4, 4]),
}


def network():
    proto = model(TEXT, WEIGHTS)
    proto.doc_string, proto.graph.doc_string = "what", "how"
    return proto


def weight_of(proto):
    return next(tensor for tensor in proto.graph.initializer if tensor.name == "w")


def read(folder, content):
    path = folder / "model.onnx"
    path.write_bytes(content)
    with opened(path) as file:
        return parse_model(file, path)


def assert_same(parts, proto):
    """The parts hold what a model does, whose large weights may say more than their values."""
    rest = [onnx.ModelProto(), onnx.ModelProto()]
    for copy, whole in zip(rest, (parts.structure, proto), strict=True):
        copy.CopyFrom(whole)
        for tensor in (t for t in copy.graph.initializer if t.name in parts.weights):
            plain = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            tensor.CopyFrom(plain)
    found, wanted = (copy.SerializeToString(deterministic=True) for copy in rest)
    assert found == wanted
    for name, values in parts.weights.items():
        (tensor,) = (t for t in proto.graph.initializer if t.name == name)
        assert values.tobytes() == tensor.raw_data


def test_large_weights_are_beside_the_structure(tmp_path):
    parts = read(tmp_path, network().SerializeToString())
    assert list(parts.weights) == ["w"]
    assert parts.structure.ByteSize() < 1024
    assert parts.weights["w"].flags.writeable
    np.testing.assert_array_equal(parts.weights["w"], WEIGHTS["w"])
    assert_same(parts, network())


def test_order_stays(tmp_path):
    proto = network()
    names = [tensor.name for tensor in proto.graph.initializer]
    found = read(tmp_path, proto.SerializeToString()).structure
    assert [tensor.name for tensor in found.graph.initializer] == names


def test_a_graph_in_two_pieces(tmp_path):
    """As protobuf has it, fields of one message may come apart; they add up."""
    proto, second = network(), onnx.ModelProto()
    second.graph.initializer.append(weight_of(proto))
    proto.graph.initializer.remove(weight_of(proto))
    content = proto.SerializeToString() + second.SerializeToString()
    parts = read(tmp_path, content)
    assert list(parts.weights) == ["w"]
    assert_same(parts, onnx.ModelProto.FromString(content))


def longer(tensor):
    tensor.raw_data += b"1234"


def negative(tensor):
    tensor.dims[:] = [-32, -16]


def elsewhere(tensor):
    tensor.data_location = onnx.TensorProto.EXTERNAL


def by_number(tensor):
    tensor.ClearField("raw_data")
    tensor.float_data.extend(WEIGHTS["w"].ravel())


def of_many_axes(tensor):
    tensor.dims[:] = [1] * 70 + [32 * 16]


def of_no_type(tensor):
    tensor.data_type = 99


def in_segments(tensor):
    tensor.segment.begin, tensor.segment.end = 0, 3


@pytest.mark.parametrize(
    "change", [longer, negative, elsewhere, by_number, of_many_axes, of_no_type, in_segments]
)
def test_what_is_not_plain_is_left_to_protobuf(tmp_path, change):
    proto = network()
    change(weight_of(proto))
    parts = read(tmp_path, proto.SerializeToString())
    assert not parts.weights
    assert parts.structure == proto


def test_two_weights_of_one_name_are_refused(tmp_path):
    proto = network()
    proto.graph.initializer.append(weight_of(proto))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="w"):
        read_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [bytes(2**20), b"\x08\x01" * 2**20])
def test_what_is_no_model_is_not_scanned(tmp_path, content, monkeypatch):
    """As a download that is not done; a scan would take minutes for some of these."""
    fields, seen = wire._fields, []

    def counted(*arguments):
        for field in fields(*arguments):
            seen.append(field)
            yield field

    monkeypatch.setattr(wire, "_fields", counted)
    monkeypatch.setattr(wire, "MOST_FIELDS", 1000)
    with pytest.raises(ModelError, match="damaged"):
        read(tmp_path, content)
    assert len(seen) < 1100


def outcome(content):
    try:
        proto = onnx.ModelProto.FromString(content)
    except DecodeError:
        return None
    return proto if proto.graph.node and proto.opset_import else None


CONTENT = network().SerializeToString()
PLACES = st.integers(0, len(CONTENT) - 1)


@given(st.dictionaries(PLACES, st.integers(0, 255), min_size=1, max_size=3), PLACES)
# Two weights whose names are lost, the second of no type, or of another.
@example({107: 248, 2243: 13}, 1)
@example({107: 248, 2245: 13}, 1)
def test_damaged_files_are_read_as_protobuf_reads_them(tmp_path_factory, changes, cut):
    content = bytearray(CONTENT)
    for place, byte in changes.items():
        content[place] = byte
    if cut % 3 == 0:
        del content[cut:]
    wanted, folder = outcome(bytes(content)), tmp_path_factory.mktemp("damaged")
    try:
        parts = read(folder, bytes(content))
    except ModelError:
        assert wanted is None
        return
    assert wanted is not None
    assert_same(parts, wanted)


def test_a_file_that_is_cut_while_it_is_read(tmp_path, monkeypatch):
    """As by an exporter that writes it anew."""
    path = tmp_path / "model.onnx"
    path.write_bytes(CONTENT)
    scan = files.without_large_weights

    def then_cut(file):
        found = scan(file)
        os.truncate(path, 100)
        return found

    monkeypatch.setattr(files, "without_large_weights", then_cut)
    with pytest.raises(ModelError, match="became shorter while it was read"):
        read_model(path)


def test_from_a_pipe(tmp_path):
    path = tmp_path / "pipe.onnx"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(CONTENT,))
    writer.start()
    found = read_model(path)
    writer.join()
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight_of(found)), WEIGHTS["w"])


def test_weights_beside_are_files_and_those_inside_are_not(tmp_path):
    proto = network()
    proto.graph.doc_string = "location"
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    assert files_of(tmp_path / "model.onnx") == [tmp_path / "model.onnx"]


def test_files_of_what_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "missing.onnx"):
        with pytest.raises(ModelError, match=f"cannot read '{path}': "):
            files_of(path)
