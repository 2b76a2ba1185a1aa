"""``onnx2snn export``: what it writes, and what it refuses."""

import hashlib
import json
import os
import threading

import dyadic
import numpy as np
import onnx
import pytest
import stock
from click.testing import CliRunner

from onnx2snn import SpikingSession, convert, to_loop, to_nir, to_triton, write_model
from onnx2snn.cli import export as cli_export
from onnx2snn.cli import main

X = dyadic.images(dyadic.finish(2), 3)


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def snn(tmp_path):
    path = tmp_path / "snn.onnx"
    model = convert(dyadic.to_onnx(dyadic.finish(2))).model
    onnx.helper.set_model_props(model, metadata(model) | {"author": "me"})
    onnx.save(model, path)
    return path


def metadata(model):
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("options", [[], ["--unroll"], ["--inline", "--rates", "--each-step"]])
def test_loop(snn, tmp_path, options):
    target = tmp_path / "net.onnx"
    found = invoke("export", snn, "--to", "loop", "-T", 7, "-o", target, *options, "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    model = onnx.load(target)
    assert told["outputs"] == [output.name for output in model.graph.output]
    wanted = SpikingSession(snn).run(X, 7).output
    np.testing.assert_array_equal(stock.run(model, {"input": X})[told["outputs"][0]], wanted)


def test_exports_tell_who_made_them(snn):
    told = metadata(to_loop(snn, None, preprocessing="pixels / 255"))
    source = metadata(onnx.load(snn))
    made = json.loads(told.pop("onnx2snn.export"))
    assert told.pop("onnx2snn.preprocessing") == "pixels / 255"
    assert told == source
    assert made["timesteps"] == "input"
    assert set(made["versions"]) == {"onnx2snn", "onnx"}
    assert made["snn_sha256"] == hashlib.sha256(snn.read_bytes()).hexdigest()
    assert "onnx2snn.preprocessing" not in metadata(to_loop(snn, 4))
    assert '"timesteps": 4,' in metadata(to_loop(snn, np.int64(4)))["onnx2snn.export"]


@pytest.mark.parametrize(
    ("export", "made"),
    [
        (lambda snn, to: write_model(to_loop(snn, 4), to), ""),
        (to_nir, ""),
        (lambda snn, to: to_triton(snn, to, 4), "snn-stateful/1/model.onnx"),
    ],
    ids=["loop", "nir", "triton"],
)
def test_a_network_from_a_pipe(snn, tmp_path, export, made):
    """It can be read once, and the digest of its file is wanted, too."""
    if export is to_nir:
        pytest.importorskip("nir")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(snn.read_bytes(),), daemon=True)
    writer.start()
    export(pipe, tmp_path / "piped")
    writer.join()
    export(snn, tmp_path / "read")
    piped, read = ((tmp_path / name / made).read_bytes() for name in ("piped", "read"))
    assert piped == read


def test_nothing_is_overwritten_without_force(snn, tmp_path):
    target = tmp_path / "net.onnx"
    target.write_bytes(b"mine")
    arguments = ["export", snn, "--to", "loop", "-T", 4, "-o", target]
    found = invoke(*arguments)
    assert (found.exit_code, target.read_bytes()) == (1, b"mine")
    assert "--force" in found.output
    assert invoke(*arguments, "--force").exit_code == 0
    assert onnx.load(target).graph.node
    found = invoke("export", snn, "--to", "loop", "-T", 4, "-o", snn, "--force")
    assert found.exit_code == 1
    assert "is an input too" in found.output


def test_a_file_that_came_meanwhile_is_not_overwritten(snn, tmp_path, monkeypatch):
    target = tmp_path / "net.onnx"
    target.write_bytes(b"theirs")
    monkeypatch.setattr(cli_export, "require_output", lambda path, *inputs, new: None)
    for arguments in (["loop", "-T", 4], ["nir"]):
        found = invoke("export", snn, "--to", *arguments, "-o", target)
        assert (found.exit_code, target.read_bytes()) == (1, b"theirs")
        assert "File exists" in found.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "snn.onnx"]


@pytest.mark.parametrize("timesteps", ["0", "-1", "x", "2.5"])
def test_no_time_is_a_usage_error(snn, tmp_path, timesteps):
    found = invoke("export", snn, "--to", "loop", "-T", timesteps, "-o", tmp_path / "net.onnx")
    assert found.exit_code == 2
    assert "time-steps" in found.output
    assert not (tmp_path / "net.onnx").exists()


def test_an_ann_is_refused(tmp_path):
    onnx.save(dyadic.to_onnx(dyadic.finish(2)), tmp_path / "ann.onnx")
    target = tmp_path / "net.onnx"
    found = invoke("export", tmp_path / "ann.onnx", "--to", "loop", "-T", 4, "-o", target)
    assert found.exit_code == 1
    assert "convert it first" in found.output
    assert not target.exists()


@pytest.mark.parametrize(
    "arguments", [["loop", "-T", 4], ["loop", "-T", 4, "--unroll"], ["triton", "-T", 4]]
)
def test_an_input_that_is_an_output_too_is_refused(tmp_path, arguments):
    ann = dyadic.to_onnx(dyadic.finish(2))
    ann.graph.output.append(ann.graph.input[0])
    write_model(convert(ann).model, tmp_path / "snn.onnx")
    target = tmp_path / "net"
    found = invoke("export", tmp_path / "snn.onnx", "--to", *arguments, "-o", target)
    assert found.exit_code == 1
    assert "'input' is an input of the network and an output too" in found.output
    assert not target.exists()


def test_a_network_in_parts_is_exported_alike():
    conversion = convert(dyadic.to_onnx(dyadic.finish(2)))
    assert to_loop(conversion.parts, 4) == to_loop(conversion.model, 4)


def test_a_folder_that_is_not_there(snn, tmp_path):
    found = invoke("export", snn, "--to", "loop", "-T", 4, "-o", tmp_path / "no" / "net.onnx")
    assert found.exit_code == 1
    assert "does not exist" in found.output


@pytest.mark.parametrize("unroll", [[], ["--unroll"]])
def test_what_was_exported_is_no_network_to_convert_or_run(snn, tmp_path, unroll):
    path = tmp_path / "net.onnx"
    arguments = ["--to", "loop", "-T", 4, *unroll, "-o", path]
    assert invoke("export", snn, *arguments).exit_code == 0
    for command in (["check", path], ["export", path, "--to", "nir", "-o", tmp_path / "net.nir"]):
        found = invoke(*command)
        assert found.exit_code == 1
        assert "is what 'onnx2snn export' made of a spiking network" in found.output


def test_inspect_reads_exports(snn, tmp_path):
    for target, place in (("loop", "net.onnx"), ("triton", "r")):
        arguments = ["--to", target, "-T", 7, "--preprocessing", "pixels / 255"]
        found = invoke("export", snn, *arguments, "-o", tmp_path / place)
        assert found.exit_code == 0, found.output
    for path, timesteps in (
        ("net.onnx", 7), ("r/snn/1/model.onnx", 7),
        ("r/snn-stateful/1/model.onnx", "one request each"),
    ):  # fmt: skip
        found = invoke("inspect", tmp_path / path, "--json")
        assert found.exit_code == 0, found.output
        told = json.loads(found.stdout)
        assert told["export"]["timesteps"] == timesteps
        assert told["recipe"]["name"] == "opi"
        assert told["metadata"]["preprocessing"] == "pixels / 255"
        assert len(told["metadata"]["source_sha256"]) == 64
        assert told["inputs"][0] == {"name": "input", "shape": ["N", 2, 8, 8]}
        shown = invoke("inspect", tmp_path / path).output
        assert "preprocessing: pixels / 255" in shown
        assert "snn_sha256: " in shown
        assert shown.count("threshold from: bound of the clip") == 1
    found = invoke("inspect", tmp_path / "net.onnx", "--plan")
    assert found.exit_code == 2
    assert "--plan is for a spiking network, not for an export of one" in found.output
