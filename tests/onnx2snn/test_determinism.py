"""The same input gives the same bytes, in any process, however it is written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx_text import model
from processes import environment

from onnx2snn import convert, from_arrays, write_model

HELPERS = Path(__file__).parents[1] / "helpers"

CODE = """
import hashlib, dyadic, importlib.util, pathlib, tempfile
from onnx2snn import convert, from_arrays, to_loop, to_nir, to_triton
from onnx2snn.demo import demo_network
network = dyadic.finish(11)
data = from_arrays(dyadic.images(network, 16))
made = [convert(demo_network()).model]
for recipe in ("best", "srp", "tsc"):
    made.append(
        convert(
            dyadic.to_onnx(network), calibration=data, recipe=recipe, timesteps=8, maxpool="exact"
        ).model
    )
made.append(to_loop(made[0], None, each_step=True, rates=True))
made += [to_loop(model, 3, unroll=True, inline=True) for model in made[1:4]]
with tempfile.TemporaryDirectory() as folder:
    folders = to_triton(made[1], folder, 4)
    files = [p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()]
    assert len(files) == 6
    if importlib.util.find_spec("nir"):
        to_nir(made[0], pathlib.Path(folder) / "net.nir")
        files.append((pathlib.Path(folder) / "net.nir").read_bytes())
print([hashlib.sha256(content).hexdigest() for content in files])
print([hashlib.sha256(model.SerializeToString()).hexdigest() for model in made])
"""


def test_bytes_do_not_depend_on_the_process():
    found = set()
    for seed in ("1", "77"):
        found.add(
            subprocess.run(
                [sys.executable, "-c", CODE],
                env=environment(HELPERS, PYTHONHASHSEED=seed),
                capture_output=True,
                text=True,
                check=True,
                cwd="/",
            ).stdout
        )
    assert len(found) == 1


def test_a_conversion_in_parts_and_whole_is_the_same_file(tmp_path):
    """With starts of as many numbers as weights may have that are kept beside the structure."""
    rng = np.random.default_rng(0)
    text = (
        "net (float[N, 20] x) => (float[N, 4] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"
    )
    weights = {"w": rng.normal(size=(20, 300)), "v": rng.normal(size=(300, 4))}
    ann = model(text, {name: values.astype(np.float32) for name, values in weights.items()})
    data = from_arrays(rng.normal(size=(16, 20)).astype(np.float32))
    conversion = convert(ann, calibration=data)
    write_model(conversion.model, tmp_path / "whole.onnx")
    write_model(conversion.parts, tmp_path / "parts.onnx")
    assert (tmp_path / "whole.onnx").read_bytes() == (tmp_path / "parts.onnx").read_bytes()
