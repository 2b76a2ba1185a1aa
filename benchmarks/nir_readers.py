"""How many spikes other simulators count in the NIR file of a network, and which class they see.

    python benchmarks/nir_readers.py [--small] [--samples 200] [--timesteps 32]

Needs nir, torch, spikingjelly and, with --small, sinabs. Each row sets one more thing by hand,
from the file's metadata, that the simulator ignores. --small: two layers of neurons with random
weights, in place of the demo network. Sinabs runs shortcuts in a wrong order, so it has no row
for the demo network.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx.parser
import torch
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from onnx2snn import SpikingSession, convert, to_nir
from onnx2snn.demo import demo_images, demo_network

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
import nir_readers

SMALL = (
    '<ir_version: 8, opset_import: ["": 17]> '
    "net (float[N, 1, 28, 28] x) => (float[N, 10] y) { "
    "a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w) r = Relu(a) s = Min(r, t) "
    "b = Conv<pads = [1, 1, 1, 1]>(s, u) q = Relu(b) p = Min(q, t) "
    "f = Flatten(p) y = Gemm(f, v) }"
)


def small_network():
    """An ANN whose thresholds are 1.5."""
    rng, model = np.random.default_rng(0), onnx.parser.parse_model(SMALL)
    shapes = {"w": (8, 1, 3, 3), "u": (8, 8, 3, 3), "v": (1568, 10)}
    values = {name: rng.normal(size=shape) / np.sqrt(9) for name, shape in shapes.items()}
    for name, value in {**values, "t": np.array(1.5)}.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--timesteps", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)

    snn = convert(small_network() if options.small else demo_network()).model
    data = demo_images(options.samples)
    ((x, labels),) = data.batches(data.samples)
    own = SpikingSession(snn, threads=1).run(x, options.timesteps)
    ours = sum(float(counts.sum()) for counts in own.spike_counts.values())
    table = Table("simulator", "spikes", "of ours", "accuracy", "our class")

    def row(name, spikes, output):
        classes = output.argmax(1)
        shares = (classes == labels).mean(), (classes == own.output.argmax(1)).mean()
        table.add_row(name, f"{spikes:,.0f}", f"{spikes / ours:.4f}", *(f"{s:.1%}" for s in shares))

    row("onnx2snn", ours, own.output)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.nir"
        to_nir(snn, path)
        for settings, name in enumerate(nir_readers.SPIKINGJELLY):
            found = nir_readers.spikingjelly(path, x, options.timesteps, settings)
            row(f"SpikingJelly, {name}", *found)
        for settings, name in enumerate(nir_readers.SINABS if options.small else ()):
            row(f"sinabs, {name}", *nir_readers.sinabs(path, x, options.timesteps, settings))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
