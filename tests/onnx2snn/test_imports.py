"""Imports point one way, and importing the package is quick and light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What each part may import of this package.
ARROWS = {
    "graph_passes": {"graph_passes"},
    "runtime": {"graph_passes", "runtime"},
    "models": {"graph_passes", "models"},
    "onnx2snn": {"graph_passes", "runtime", "models", "onnx2snn"},
}

SHARED_BY_PASSES = {"graph", "model_files", "errors", "quiet"}
"""What of ``graph_passes`` its folders ``graph`` and ``model_files`` may import: no pass."""

NEVER = {
    "runtime/plans": ("runtime.layers", "runtime.choices"),
    "runtime/layers": ("runtime.choices",),
    "onnx2snn/spiking_passes": ("converting",),
}
"""What folders do not import of their own part."""

NEEDED_WITHOUT_TORCH = {
    "__init__", "cifar", "configs", "datasets", "image_folder", "preprocessing",
}  # fmt: skip
"""The modules of ``models`` that data and commands import at once."""


def imported(path):
    """What of this package a file imports from beyond its folder, by its names within it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{path}: relative imports stay within a folder"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            outer = [node.module] if isinstance(node, ast.ImportFrom) else []
            for alias in node.names:
                head, *rest = ".".join([*outer, alias.name]).split(".")
                if head == "onnx2snn":
                    yield rest


@pytest.mark.parametrize("part", ARROWS)
def test_arrows(part):
    for path in (ROOT / part).rglob("*.py"):
        parts = {rest[0] if rest and rest[0] in ARROWS else "onnx2snn" for rest in imported(path)}
        wrong = parts - ARROWS[part]
        assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize("folder", ["graph", "model_files"])
def test_what_passes_share_imports_no_pass(folder):
    for path in (ROOT / "graph_passes" / folder).rglob("*.py"):
        wrong = [rest for rest in imported(path) if not SHARED_BY_PASSES.intersection(rest[1:2])]
        assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize("folder", NEVER)
def test_arrows_within_parts(folder):
    for path in (ROOT / folder).rglob("*.py"):
        names = map(".".join, imported(path))
        wrong = [name for name in names if name.startswith(NEVER[folder])]
        assert not wrong, f"{path} imports {wrong}"


def test_torch_is_imported_by_training_only():
    for part in ARROWS:
        for path in (ROOT / part).rglob("*.py"):
            # Indented, it is within a function that a command calls.
            if re.search(r"^(import|from) torch", path.read_text(), re.MULTILINE):
                assert part == "models"
                assert path.stem not in NEEDED_WITHOUT_TORCH


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    ).stdout


def test_import_is_light():
    loaded = python("import sys, onnx2snn; print(*sys.modules)").split()
    heavy = {"torch", "matplotlib", "ray", "onnxruntime", "onnxscript", "scipy", "pandas"}
    assert not heavy & {name.split(".")[0] for name in loaded}


def test_public_names_are_there():
    import onnx2snn
    from onnx2snn import graph_passes, runtime, spiking_passes

    for module in (onnx2snn, graph_passes, runtime, spiking_passes):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert getattr(module, name).__doc__ or name == "__version__"


def test_python_runs_the_command_line():
    command = [sys.executable, "-m", "onnx2snn", "convert", "no.onnx", "-o", "snn.onnx"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "Error: cannot read 'no.onnx': No such file or directory\n"
