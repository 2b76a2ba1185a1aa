"""The demo: a real network becomes a spiking one and classifies real images."""

from dataclasses import dataclass

import numpy as np
import onnx

from onnx2snn.graph_passes import read_model
from onnx2snn.models import shipped
from onnx2snn.models.preprocessing import Preprocessing

from .converting.conversion import Conversion, convert
from .data.samples import Data, from_arrays
from .measuring.evaluation import evaluate
from .running import Report

NETWORK = "resnet20-fashion-mnist.onnx"
IMAGES = "fashion-mnist-2000.npz"
MOST_IMAGES = 2000
TIMESTEPS = [4, 8, 16, 32]
POTENTIALS = {"v(0) = V_th/2": 0.5, "v(0) = 0": 0.0}


@dataclass(frozen=True)
class Demo:
    """What the demo found: accuracies in percent, and the converted networks by v(0)."""

    samples: int
    ann: float
    accuracies: dict[str, list[float]]
    conversions: dict[str, Conversion]


def demo_network() -> onnx.ModelProto:
    """The trained ResNet-20 that ships with the package."""
    return read_model(shipped(NETWORK))


def demo_images(samples: int | None = None) -> Data:
    """The first of the 2,000 Fashion-MNIST test images that ship with the package."""
    with np.load(shipped(IMAGES), allow_pickle=False) as arrays:
        x, y = arrays["x"][:samples], arrays["y"][:samples]
    grey = Preprocessing(size=28, channels=1)
    return from_arrays(grey.normalise(x[:, np.newaxis]), y, "Fashion-MNIST test images")


def run_demo(samples: int | None, report: Report) -> Demo:
    """Convert the network with either initial potential and evaluate both."""
    ann, data = demo_network(), demo_images(samples)
    accuracies: dict[str, list[float]] = {}
    conversions = {}
    ann_accuracy = 0.0
    for name, v_init in POTENTIALS.items():
        conversions[name] = convert(ann, v_init=v_init)
        found = evaluate(conversions[name].parts, data, TIMESTEPS, ann=ann, report=report)
        accuracies[name] = [row["accuracy"] for row in found["snn"]]
        ann_accuracy = found["ann"]["accuracy"]
    return Demo(data.samples, ann_accuracy, accuracies, conversions)
