"""What a conversion costs: time and memory for a large file, and time against the nodes.

    python benchmarks/conversion_cost.py [--json]

Prints seconds and peak memory (above that of the imports, relative to the file) for networks
of ResNet-50's shape and size, and seconds against the number of nodes, up to 20,000. Each
figure is taken in a process of its own.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx2snn import convert, write_model
from onnx2snn.measuring.timing import in_a_process, peak_memory, seconds_of

NODES = (1250, 2500, 5000, 10_000, 20_000)
STAGES = ((3, 64, 256, 1), (4, 128, 512, 2), (6, 256, 1024, 2), (3, 512, 2048, 2))


class Writer:
    """Collects the nodes and weights of a network."""

    def __init__(self):
        self.nodes = []
        bounds = (("zero", 0), ("six", 6))
        self.weights = [numpy_helper.from_array(np.float32(value), name) for name, value in bounds]
        self.rng = np.random.default_rng(0)

    def weight(self, name, *shape, scale):
        values = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, op, *inputs, **attributes):
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def conv(self, x, channels, filters, kernel=1, stride=1):
        name = f"w{len(self.nodes)}"
        weight = self.weight(
            name, filters, channels, kernel, kernel, scale=(2 / channels / kernel**2) ** 0.5
        )
        pad = kernel // 2
        y = self.add("Conv", x, weight, strides=[stride] * 2, pads=[pad] * 4)
        parameters = [np.ones, np.zeros, np.zeros, np.ones]
        inputs = []
        for part, make in zip(("scale", "shift", "mean", "var"), parameters, strict=True):
            inputs.append(f"{name}.{part}")
            self.weights.append(
                numpy_helper.from_array(make(filters, np.float32), f"{name}.{part}")
            )
        return self.add("BatchNormalization", y, *inputs)

    def model(self, x, shape, classes=None):
        output = ["N", classes] if classes else ["N", *shape]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, output)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def clip(writer, x):
    return writer.add("Clip", x, "zero", "six")


def resnet50():
    """ResNet-50 with clips, 25.6 million weights."""
    w = Writer()
    x = clip(w, w.conv("x", 3, 64, 7, 2))
    x, channels = w.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for blocks, inner, outer, first_stride in STAGES:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = clip(w, w.conv(x, channels, inner))
            y = clip(w, w.conv(y, inner, inner, 3, stride))
            y = w.conv(y, inner, outer)
            shortcut = w.conv(x, channels, outer, 1, stride) if block == 0 else x
            x, channels = clip(w, w.add("Add", y, shortcut)), outer
    x = w.add("Flatten", w.add("GlobalAveragePool", x))
    x = w.add("MatMul", x, w.weight("fc", 2048, 1000, scale=0.02))
    return w.model(x, (3, 224, 224), 1000)


def chain(nodes):
    """A chain of small convolutions with batch normalization, and clips."""
    w, x = Writer(), "x"
    while len(w.nodes) < nodes:
        x = clip(w, w.conv(x, 4, 4))
    return w.model(x, (4, 4, 4))


def measured(path):
    """Convert a file in this process; seconds, and peak memory above that of the imports."""
    before = peak_memory()
    seconds = seconds_of(lambda: write_model(convert(path).parts, f"{path}.snn"))
    return {"seconds": seconds, "memory": peak_memory() - before, "file": os.path.getsize(path)}


def cost(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ann.onnx"
        onnx.save(model, path)
        return in_a_process(measured, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    large = cost(resnet50())
    curve = [{"nodes": n, **cost(chain(n))} for n in NODES]
    if options.json:
        print(json.dumps({"resnet50": large, "curve": curve}))
        return
    print(
        f"ResNet-50: {large['seconds']:.1f} s, {large['memory'] / large['file']:.2f} times the "
        f"file's {large['file'] / 1e6:.0f} MB in memory"
    )
    for row in curve:
        per_node = 1e6 * row["seconds"] / row["nodes"]
        print(f"{row['nodes']:6d} nodes: {row['seconds']:5.1f} s, {per_node:.0f} us a node")


if __name__ == "__main__":
    main()
