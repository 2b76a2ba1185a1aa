"""The documentation's examples run, and its tables say what the code says."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import stock
from onnx_text import model, run

from onnx2snn import SpikingSession, convert, evaluate, open_data
from onnx2snn.graph_passes.graph import neurons
from onnx2snn.graph_passes.graph.neuron_functions import FUNCTIONS
from onnx2snn.recipes import RECIPES

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def small_network():
    weights = {
        "w": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32),
        **{n: RNG.uniform(0.5, 1, 4).astype(np.float32) for n in ("scale", "shift", "mean", "var")},
    }
    return model(
        "net (float[N, 2, 8, 8] x) => (float[N, 4, 3, 3] y) { c = Conv(x, w) "
        "i = Identity(c) b = BatchNormalization(i, scale, shift, mean, var) r = Relu(b) "
        "y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) }",
        weights,
    )


def test_three_passes(tmp_path):
    onnx.save(small_network(), tmp_path / "ann.onnx")
    result = subprocess.run(
        [sys.executable, ROOT / "docs/examples/three_passes.py", "ann.onnx", "out.onnx"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.count("changed=True") == 3
    ops = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert ops == ["Conv", "Relu", "AveragePool"]


def test_the_example_in_the_guide_is_the_file():
    code = (ROOT / "docs/examples/three_passes.py").read_text()
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/passes.md").read_text(), re.DOTALL)
    body = code[code.index("    declined") : code.index("\n\nif __name__")]
    lines = [line.strip() for line in body.strip().splitlines()]
    assert [line for line in shown.strip().splitlines() if "import" not in line and line] == lines
    assert len(lines) <= 10


def test_neuron_table_lists_every_stateful_operator():
    page = (ROOT / "docs/neurons.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", page, re.MULTILINE)
    assert {name for name, _ in rows} == set(FUNCTIONS)
    for name, row in rows:
        for attribute in neurons.attribute_names_of(name):
            assert f"`{attribute}`" in row
    code = FUNCTIONS["IF"]
    shown = re.search(r"```\n(IF .*?)```", page, re.DOTALL)
    assert shown is not None
    squeeze = lambda text: re.sub(r"\s+", " ", text).strip()  # noqa: E731
    assert squeeze(shown[1]) in squeeze(code)


@pytest.mark.parametrize("name", ["y", "v_next/b", "x_next/b"])
def test_the_loop_for_other_runtimes(name):
    """Also where an output of the network is called like a state."""
    page = (ROOT / "docs/neurons.md").read_text()
    loop = page[page.index("    state = {}") : page.index("\n(ONNX Runtime warns")]
    text = "net (float[N, 3] input) => (float[N, 2] y) "
    text += "{ a = MatMul(input, w) b = Clip(a, lo, hi) y = MatMul(b, v) }"
    weights = {"w": RNG.normal(size=(3, 4)), "v": RNG.normal(size=(4, 2)), "lo": 0, "hi": 1}
    ann = model(text, {key: np.asarray(value, np.float32) for key, value in weights.items()})
    ann.graph.output[0].name = ann.graph.node[-1].output[0] = name
    snn = convert(ann).model
    image = RNG.normal(size=(5, 3)).astype(np.float32)
    session = stock.session(snn, "off")
    names = [info.name for info in session.get_outputs()]
    scope = {"session": session, "output_names": names, "output": name, "image": image}
    scope |= {"T": 7, "total": 0}
    exec(textwrap.dedent(loop), scope)
    np.testing.assert_allclose(
        scope["total"] / 7, SpikingSession(snn).run(image, 7).output, atol=1e-6
    )


def readme_examples():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_torch_example_runs(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    x, y = torch.zeros(9, 3), torch.zeros(9, dtype=torch.int64)
    scope = {"torch": torch, "np": np, "x_train": x, "x_test": x, "y_test": y}
    scope["network"] = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    monkeypatch.chdir(tmp_path)
    exec(readme_examples()[0], scope)
    snn = convert("ann.onnx", calibration=open_data("images.npz")).model
    assert evaluate(snn, open_data("test.npz"), [4])["samples"] == 9


@pytest.mark.parametrize("weights", [None])
def test_readme_python_example_runs(tmp_path, monkeypatch, weights):
    _, code = readme_examples()
    onnx.save(small_network(), tmp_path / "ann.onnx")
    images = RNG.normal(size=(5, 2, 8, 8)).astype(np.float32)
    for name in ("images.npz", "test.npz"):
        np.savez(tmp_path / name, x=images)
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(code, scope)
    assert scope["result"].output.shape == (5, 4, 3, 3)
    assert run(small_network(), images).shape == (5, 4, 3, 3)


def test_the_table_of_recipes_says_what_they_set():
    page = (ROOT / "docs/recipes.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    starts = [(cells[0].split("`")[1], cells[2].strip()) for cells in rows if len(cells) == 4]
    recipes, before = {recipe.name: recipe for recipe in RECIPES}, ""
    assert {name for name, _ in starts} == recipes.keys()
    for name, said in starts:
        before = said if said != "the same" else before
        # What is searched for, or corrected, begins anywhere.
        if not before.startswith(("searched", "per neuron")):
            assert recipes[name].v_init == {"0": 0.0, "V_th/2": 0.5}[before.split(",")[0]], name
    text = r"Max-pools count spikes \(`--maxpool exact`\) in (.*?), and"
    (counting,) = re.findall(text, page, re.DOTALL)
    exact = {name for name, recipe in recipes.items() if recipe.maxpool == "exact"}
    assert set(re.findall(r"`([a-z-]+)`", counting)) == exact
    assert {recipe.maxpool for recipe in RECIPES} == {"exact", "average"}
