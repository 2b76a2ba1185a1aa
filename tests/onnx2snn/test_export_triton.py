"""A Triton model repository: its configurations, and the sequence protocol on ONNX Runtime."""

import os
import re
import sys
import textwrap
from types import SimpleNamespace
from unittest.mock import Mock

import dyadic
import numpy as np
import onnx
import pytest
import stock
from click.testing import CliRunner
from kinds import KINDS, Kind, Network, model_of
from onnx_text import model

from onnx2snn import DataError, ModelError, OutputError, SpikingSession, convert, from_arrays
from onnx2snn.cli import main
from onnx2snn.exports import triton as export_triton
from onnx2snn.exports.triton import to_triton
from onnx2snn.exports.triton_config import pbtxt
from onnx2snn.exports.triton_steps import START, stateful_model

CASES = {
    "dyadic": lambda: (convert(dyadic.to_onnx(dyadic.finish(3))).model, (2, 8, 8)),
    "delayed": lambda: (_kind(Kind("SignedIF", negative=0.0, read_out_delay=3)), (2, 4, 4)),
    "softmax": lambda: (_kind(Kind("BurstIF"), read_out="several"), (2, 4, 4)),
    "coded": lambda: (_kind(Kind("IF"), coding=(1.0, 4)), (2, 4, 4)),
    **{op: lambda op=op: (_kind(Kind(op)), (2, 4, 4)) for op in KINDS},
}


def _kind(kind, **options):
    return model_of(Network(5), kind, **options)


def config(path):
    text_format = pytest.importorskip("google.protobuf.text_format")
    messages = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse(path.read_text(), messages.ModelConfig())


class Server:
    """What Triton does with sequences: batches of their requests, states kept for each."""

    def __init__(self, stateful):
        self.session = stock.session(stateful.model, "off")
        self.names = [output.name for output in self.session.get_outputs()]
        self.types = {i.name: i.type for i in self.session.get_inputs()}
        self.states, self.kept = stateful.states, {}

    def infer(self, requests):
        """Requests (sequence, x, start), of different sequences, in one batch; outputs by name."""
        name = next(iter(self.types))
        feed = {name: np.stack([x for _, x, _ in requests])}
        feed[START] = np.array([[start] for _, _, start in requests])
        for read, _, dims in self.states:
            # What a new sequence finds is whatever the memory held.
            rubbish = np.full(dims, np.nan)
            held = [self.kept.get((s, read), rubbish) for s, _, _ in requests]
            kind = np.float64 if "double" in self.types[read] else np.float32
            feed[read] = np.stack(held).astype(kind)
        found = dict(zip(self.names, self.session.run(None, feed), strict=True))
        for read, written, _ in self.states:
            for (sequence, _, _), value in zip(requests, found.pop(written), strict=True):
                self.kept[sequence, read] = value
        return found


@pytest.mark.parametrize("case", CASES)
def test_interleaved_sequences_equal_sessions(case):
    snn, shape = CASES[case]()
    stateful = stateful_model(snn)
    onnx.checker.check_model(stateful.model, full_check=True)
    server, rng = Server(stateful), np.random.default_rng(0)
    sessions = [SpikingSession(snn, threads=1) for _ in range(5)]
    left, begun = {}, set()
    for tick in range(24):
        for sequence in range(5):
            if left.get(sequence, 0) == 0:  # Ids are used again, as clients do.
                left[sequence] = int(rng.integers(1, 9))
                sessions[sequence].reset()
                begun.discard(sequence)
        busy = rng.permutation([s for s in range(5) if rng.random() < 0.7])
        if not len(busy):
            continue
        starts = {s: s not in begun for s in busy}
        begun.update(busy)
        x = {s: (rng.integers(-8, 9, shape) / 8).astype(np.float32) for s in busy}
        found = server.infer([(s, x[s], starts[s]) for s in busy])
        for place, sequence in enumerate(busy):
            wanted = sessions[sequence].step(x[sequence][None])
            wanted = wanted if isinstance(wanted, dict) else {next(iter(found)): wanted}
            for name, value in wanted.items():
                np.testing.assert_array_equal(found[name][place], value[0], f"{name} at {tick}")
            left[sequence] -= 1


@pytest.mark.parametrize("case", ["dyadic", "delayed", "softmax"])
def test_the_call_on_the_page_gives_the_read_out(case, tmp_path, monkeypatch):
    snn, shape = CASES[case]()
    _, folder = to_triton(snn, tmp_path / "r", 8)
    server, x = Server(stateful_model(snn)), (np.arange(np.prod(shape)) % 17 - 8).reshape(shape) / 8

    class Tensor:
        def __init__(self, name, shape, kind):
            self.name = lambda: name

        def set_data_from_numpy(self, array):
            self.values = array

    class Client:
        def __init__(self, url):
            assert url == "localhost:8000"

        def infer(self, name, inputs, sequence_id, sequence_start, sequence_end):
            assert (name, sequence_id) == ("snn-stateful", 7)
            found = server.infer([(0, inputs[0].values[0], sequence_start)])
            return SimpleNamespace(as_numpy=found.get)

    stub = SimpleNamespace(InferInput=Tensor, InferenceServerClient=Client)
    monkeypatch.setitem(sys.modules, "tritonclient", SimpleNamespace(http=stub))
    monkeypatch.setitem(sys.modules, "tritonclient.http", stub)
    page = (folder / "README.md").read_text().partition("\n    import")
    own = f"np.zeros([{', '.join(map(str, (1, *shape)))}], np.float32)"
    assert own in page[2]
    page = (*page[:2], page[2].replace(own, "x"))
    names = {"x": np.float32(x)[None]}
    exec(textwrap.dedent(page[1] + page[2]), names)
    wanted = SpikingSession(snn).run(np.float32(x)[None], 8).output
    np.testing.assert_allclose(names["read_out"], wanted, atol=1e-6)


def test_repository(tmp_path):
    network = dyadic.finish(3)
    onnx.save(convert(dyadic.to_onnx(network)).model, tmp_path / "snn.onnx")
    arguments = ["export", tmp_path / "snn.onnx", "--to", "triton", "-T", 7, "-o", tmp_path / "r"]
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    assert found.exit_code == 0, found.output
    assert "Wrote" in found.output
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["snn", "snn-stateful"]
    x = dyadic.images(network, 3)
    loop = onnx.load(tmp_path / "r" / "snn" / "1" / "model.onnx")
    (value,) = stock.run(loop, {"input": x}).values()
    wanted = SpikingSession(str(tmp_path / "snn.onnx")).run(x, 7).output
    np.testing.assert_array_equal(value, wanted)

    (tmp_path / "r" / "snn" / "config.pbtxt").write_text("mine")
    again = CliRunner().invoke(main, [str(a) for a in arguments])
    assert again.exit_code == 1
    assert "--force" in again.output
    assert (tmp_path / "r" / "snn" / "config.pbtxt").read_text() == "mine"
    (tmp_path / "r" / "snn" / "2").mkdir()
    again = CliRunner().invoke(main, [*map(str, arguments), "--force"])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "r" / "snn" / "2").is_dir()
    assert (tmp_path / "r" / "snn" / "config.pbtxt").read_text() != "mine"
    assert not list((tmp_path / "r").glob(".*"))


@pytest.mark.parametrize("name", ["model", "model-stateful"])
def test_a_model_is_not_replaced_by_its_export(tmp_path, name):
    """One that stands in a repository, where its name is that of the export."""
    source = tmp_path / name / "1" / "model.onnx"
    source.parent.mkdir(parents=True)
    onnx.save(convert(dyadic.to_onnx(dyadic.finish(2))).model, source)
    before = source.read_bytes()
    arguments = ["export", source, "--to", "triton", "-T", 7, "-o", tmp_path, "--force"]
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    assert found.exit_code == 1
    assert f"'{source}' is an input too" in found.output
    assert source.read_bytes() == before


def test_a_file_in_a_models_place_is_named(tmp_path):
    """Before the other model is written."""
    snn = convert(dyadic.to_onnx(dyadic.finish(2))).model
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "snn-stateful").write_text("mine")
    with pytest.raises(OutputError, match="snn-stateful' is no folder"):
        to_triton(snn, tmp_path / "r", 3, name="snn", force=True)
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["snn-stateful"]


def test_a_model_that_came_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    snn = convert(dyadic.to_onnx(dyadic.finish(2))).model
    to_triton(snn, tmp_path / "r", 3)
    files = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    monkeypatch.setattr(export_triton, "_require_room", lambda folder, names, force: None)
    with pytest.raises(OutputError, match="not empty"):
        to_triton(snn, tmp_path / "r", 4)
    assert {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()} == files
    one = min(files)
    one.chmod(0o600)
    to_triton(snn, tmp_path / "r", 4, force=True)
    assert one.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    snn = convert(dyadic.to_onnx(dyadic.finish(2))).model
    with pytest.raises(OutputError, match="not UTF-8"):
        to_triton(snn, tmp_path / "r", 3, name="caf\udce9")
    for name in ("../up", "a/b", "", "..", "a\0b"):
        with pytest.raises(OutputError, match="is no name for a model of Triton"):
            to_triton(snn, tmp_path / "r", 3, name=name)
    with pytest.raises(OutputError, match=r"cannot make the folder .*embedded null"):
        to_triton(snn, tmp_path / "a\0b", 3)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=re.escape(f"cannot write '{tmp_path / 'r'}': No space")):
        to_triton(snn, tmp_path / "r", 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "nodes", "made", "layer"),
    [
        ("N, 5", "r = Reshape(x, flat) c = Clip(r, zero, one) y = Reshape(c, back)", "A, 5", "'c'"),
        ("N, L", "r = Reshape(x, flat) c = Clip(r, zero, one) y = Reshape(c, back)", "A, 5", "'c'"),
        ("N, 5", "r = Transpose<perm = [1, 0, 2]>(x) h = MatMul(r, w) c = Clip(h, zero, one) "
         "y = Transpose<perm = [1, 0, 2]>(c)", "N, 5", "'c'"),
        ("N, 5", "c = Clip(x, zero, one) y = Transpose<perm = [1, 0, 2]>(c)", "5, N", "output 'y'"),
        ("L, N", "c = Clip(x, zero, one) y = ReduceMean<axes = [0], keepdims = 0>(c)", "N",
         "output 'y'"),
    ],
)  # fmt: skip
def test_rows_that_are_no_samples(tmp_path, given, nodes, made, layer):
    """What the server takes for a state of a sequence would be that of others."""
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values |= {"flat": np.array([-1, 4]), "back": np.array([-1, 5, 4])}
    values["w"] = np.ones((4, 4), np.float32)
    text = f"g (float[{given}, 4] x) => (float[{made}, 4] y) {{ {nodes} }}"
    with pytest.raises(ModelError, match=f"is not so in .*{layer}"):
        to_triton(convert(model(text, values)).model, tmp_path / "r", 3)
    assert not list(tmp_path.iterdir())


def _with_weight(name):
    text = f'net (float[N, 2, 4] x) => (float[N, 2, 6] y) {{ a = MatMul(x, "{name}") '
    weight = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
    values = {name: weight, "zero": np.float32(0), "one": np.float32(1)}
    return convert(model(f"{text} c = Clip(a, zero, one) y = Neg(c) }}", values)).model


@pytest.mark.parametrize(
    "name", ["triton/shape/3", "triton/start/3", "triton/first/v/c", "triton/v/c"]
)
def test_a_weight_may_have_a_name_that_the_export_would_give(name):
    snn = _with_weight(name)
    server, session = Server(stateful_model(snn)), SpikingSession(snn, threads=1)
    x = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)
    for start in (True, False):
        found = server.infer([("a", x, start)])["y"]
        np.testing.assert_array_equal(found, session.step(x[None]))


def test_a_weight_that_has_the_name_of_the_control_input_is_refused():
    with pytest.raises(ModelError, match="has a tensor or node 'START' already: rename it"):
        stateful_model(_with_weight(START))


@pytest.mark.parametrize("gpu", [False, True])
def test_configurations_parse(tmp_path, gpu):
    snn = _kind(Kind("ResidualIF", read_out_delay=2), read_out="several")
    stateless, stateful = to_triton(snn, tmp_path / "r", 5, name="net", gpu=gpu)
    one, two = config(stateless / "config.pbtxt"), config(stateful / "config.pbtxt")
    assert (one.name, two.name) == ("net", "net-stateful")
    assert one.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert list(one.input[0].dims) == [2, 4, 4]
    assert [o.name for o in one.output] == [o.name for o in two.output] == ["y", "p", "q"]
    kinds = {group.kind for c in (one, two) for group in c.instance_group}
    assert kinds == {one.instance_group[0].KIND_GPU if gpu else one.instance_group[0].KIND_CPU}
    model = onnx.load(stateful / "1" / "model.onnx")
    states = {s.input_name: s for s in two.sequence_batching.state}
    inputs = {info.name for info in model.graph.input}
    assert inputs == {"x", START, *states}
    assert {s.output_name for s in states.values()} < {o.name for o in model.graph.output}
    assert list(states["v/s"].dims) == [2, 4, 4]
    assert two.sequence_batching.control_input[0].name == START
    assert all(p.read_text().count("tritonclient") for p in (tmp_path / "r").glob("*/README.md"))


def test_a_fixed_batch_and_a_folder_that_is_no_folder_are_refused(tmp_path):
    snn = convert(dyadic.to_onnx(dyadic.finish(3))).model
    snn.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(snn, tmp_path / "snn.onnx")
    for target in (tmp_path / "r", tmp_path / "snn.onnx", tmp_path / "no" / "r"):
        found = CliRunner().invoke(
            main,
            ["export", str(tmp_path / "snn.onnx"), "--to", "triton", "-T", "3", "-o", str(target)],
        )
        assert found.exit_code == 1, target
        if target == tmp_path / "snn.onnx":
            assert "cannot make the folder" in found.output
        assert not isinstance(found.exception, AssertionError)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["snn.onnx"]


def test_text_format():
    assert pbtxt({"a": 1, "b": [{"c": 'x"y'}, {}], "d": [True, False]}) == (
        'a: 1\nb {\n  c: "x\\"y"\n}\nb {\n}\nd: true\nd: false\n'
    )
    assert pbtxt({"name": "\U0001f600"}) == 'name: "\U0001f600"\n'


def test_too_little_memory_to_see_whether_samples_depend_on_others(tmp_path, monkeypatch):
    snn = convert(dyadic.to_onnx(dyadic.finish(2))).model
    monkeypatch.setattr("onnx2snn.runtime.session.checked_inputs", Mock(side_effect=MemoryError))
    with pytest.raises(DataError, match="out of memory"):
        to_triton(snn, tmp_path / "repository", 4)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "m = ReduceMean<axes = [0], keepdims = 1>(l) y = Sub(l, m)",
            "'[ya]' of a sample depends on the other samples",
        ),
        (
            "g = LessOrEqual(l, l) z = NonZero(g) y = Transpose(z)",
            r"the output 'y' is \[21, 2\]|'a' of a",
        ),
        ("y = Identity(l)", None),
        ("y = Softmax(l)", None),
    ],
)
@pytest.mark.parametrize("front", ["a = MatMul(x, w)", "n = ReduceMax<axes = [0]>(x) "
    "d = Sub(x, n) a = MatMul(d, w)"])  # fmt: skip
def test_samples_that_show_that_they_depend_on_others(body, reason, front, tmp_path):
    kind = "int64[M, 2]" if "NonZero" in body else "float[N, 3]"
    text = f"net (float[N, 4] x) => ({kind} y) {{ {front} b = Clip(a, zero, one) "
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(4, 6)), "u": rng.normal(size=(6, 3)), "zero": 0, "one": 1}
    values = {name: np.float32(value) for name, value in values.items()}
    snn = convert(model(f"{text} l = MatMul(b, u) {body} }}", values)).model
    if reason is None and "Reduce" not in front:
        assert to_triton(snn, tmp_path / "repository", 4)
        return
    with pytest.raises(ModelError, match=reason or "of a sample depends on the other samples"):
        to_triton(snn, tmp_path / "repository", 4)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    "body",
    [
        "f = Reshape(x, rows) a = MatMul(f, wa) d = Reshape(a, tokens) h = Clip(d, zero, one) "
        "e = Reshape(h, made) b = MatMul(e, wb) r = MatMul(f, wa) s = Add(b, r) "
        "t = Reshape(s, tokens) g = Clip(t, zero, one)",
        "f = Transpose<perm = [1, 0, 2]>(x) a = MatMul(f, wa) d = Transpose<perm = [1, 0, 2]>(a) "
        "h = Clip(d, zero, one) c = MatMul(h, wb) b = Transpose<perm = [1, 0, 2]>(c) "
        "r = MatMul(f, wa) s = Add(b, r) t = Transpose<perm = [1, 0, 2]>(s) g = Clip(t, zero, one)",
    ],
)
def test_samples_that_are_not_first_within(body, tmp_path):
    """They do not depend on each other."""
    text = f"net (float[N, 2, 8] x) => (float[N, 5] y) {{ {body} o = MatMul(g, wo) "
    text += "y = ReduceMean<axes = [1], keepdims = 0>(o) }"
    rng = np.random.default_rng(0)
    values = {"wa": rng.normal(size=(8, 16)), "wb": rng.normal(size=(16, 16)),
              "wo": rng.normal(size=(16, 5)), "zero": 0, "one": 1}  # fmt: skip
    values = {name: np.float32(value) for name, value in values.items()}
    sizes = {"rows": [-1, 8], "made": [-1, 16], "tokens": [-1, 2, 16]}
    values |= {name: np.array(value) for name, value in sizes.items() if f" {name})" in body}
    assert to_triton(convert(model(text, values)).model, tmp_path / "repository", 4)


def test_inputs_that_have_no_logarithm_show_nothing(tmp_path):
    text = "net (float[N, 4] x) => (float[N, 3] y) { l = Log(x) a = MatMul(l, w) "
    text += "b = Relu(a) y = MatMul(b, u) }"
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(4, 6)), "u": rng.normal(size=(6, 3))}
    ann = model(text, {name: np.float32(value) for name, value in values.items()})
    data = from_arrays(1 + rng.random((20, 4), dtype=np.float32))
    snn = convert(ann, calibration=data, recipe="opi").model
    assert to_triton(snn, tmp_path / "repository", 4)
