"""The examples of docs/pipelines.md run, and the page of public names says what there is."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_text import model, run

import onnx2snn
from onnx2snn.demo import demo_images, demo_network

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples"
RNG = np.random.default_rng(1)


def example(name, *arguments, folder):
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def ops(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def small_network():
    weights = {
        "w": RNG.normal(size=(4, 1, 3, 3)).astype(np.float32),
        **{n: RNG.uniform(0.5, 1, 4).astype(np.float32) for n in ("scale", "shift", "mean", "var")},
    }
    return model(
        "net (float[N, 1, 8, 8] x) => (float[N, 4, 6, 6] y) "
        "{ c = Conv(x, w) b = BatchNormalization(c, scale, shift, mean, var) y = Relu(b) }",
        weights,
    )


def test_three_passes_in_a_torch_export(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[train]'")
    example("torch_export.py", "net.onnx", folder=tmp_path)
    assert ops(tmp_path / "net.onnx") == ["Conv", "Relu", "AveragePool"]


def test_a_pass_of_ones_own(tmp_path):
    onnx.save(small_network(), tmp_path / "ann.onnx")
    np.savez(tmp_path / "data.npz", x=RNG.normal(size=(8, 1, 8, 8)).astype(np.float32))
    told = example("own_pass.py", "ann.onnx", "data.npz", "snn.onnx", folder=tmp_path)
    session = onnx2snn.SpikingSession(str(tmp_path / "snn.onnx"))
    threshold = session.neurons[0].threshold
    assert float(told) == threshold == 2 ** np.round(np.log2(threshold))
    assert session.neurons[0].v_init == threshold / 2
    assert "round_thresholds" in str(onnx.load(tmp_path / "snn.onnx").metadata_props)


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_with_a_budget(tmp_path, code):
    """On 200 images the limits of the page hold; with labels that are wrong the job stops."""
    onnx.save(demo_network(), tmp_path / "ann.onnx")
    x, y = next(demo_images(220).batches(220))
    np.savez(tmp_path / "test.npz", x=x[:200], y=(y[:200] + code) % 10)
    np.savez(tmp_path / "train.npz", x=x[200:])
    (tmp_path / "onnx2snn").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "from onnx2snn.cli import main; main()" "$@"\n'
    )
    (tmp_path / "onnx2snn").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    found = subprocess.run(
        ["sh", EXAMPLES / "accuracy_budget.sh", "ann.onnx", "test.npz", "train.npz"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == code, found.stderr
    assert "least squared error at T=32" in found.stdout
    assert (tmp_path / "net.onnx").exists() == (code == 0)
    assert ("outside of the accuracy budget" in found.stderr) == (code == 1)


@pytest.mark.parametrize("beside", [False, True])
def test_an_onnx_ir_model(tmp_path, beside):
    pytest.importorskip("onnx_ir", reason="onnx-ir is not installed")
    options = {"save_as_external_data": beside, "location": "in.data", "size_threshold": 0}
    onnx.save(small_network(), tmp_path / "in.onnx", **options)
    example("onnx_ir_model.py", "in.onnx", "out.onnx", folder=tmp_path)
    assert ops(tmp_path / "out.onnx") == ["Conv", "Relu"]
    x = RNG.normal(size=(2, 1, 8, 8)).astype(np.float32)
    before, after = (run(onnx.load(tmp_path / name), x) for name in ("in.onnx", "out.onnx"))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_what_the_page_shows_is_in_the_files():
    page = (ROOT / "docs/pipelines.md").read_text()
    code = "\n".join(path.read_text() for path in EXAMPLES.iterdir())
    lines = {line.strip() for line in code.splitlines()}
    shown = re.findall(r"```(?:python|sh)\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 5
    assert not {line.strip() for block in shown for line in block.splitlines()} - lines


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".graph_passes",
        ".runtime",
        ".spiking_passes",
        ".models.prepare",
        ".models.preprocessing",
    ],
)
def test_the_page_of_public_names_is_all(module):
    if module == ".models.prepare":
        pytest.importorskip("torch")
    module = importlib.import_module(f"onnx2snn{module}")
    page = (ROOT / "docs/api.md").read_text()
    section = page.split(f"## `{module.__name__}`\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    assert list(rows) == list(module.__all__)
    for name, row in rows.items():
        public = getattr(module, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            first = inspect.getdoc(public).split("\n\n")[0]
            assert row.replace("\\|", "|") == " ".join(first.split())
