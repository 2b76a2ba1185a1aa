"""Make what the page loads: the demo network as a loop file, and images with Python's answers.

    python examples/web/build.py

Writes ``net.onnx`` (32 time-steps, read-outs and firing rates at each) and ``images.json``: 20
Fashion-MNIST test images, one list of 784 pixels from 0 to 1 each, with the class that
``SpikingSession`` gives them.
"""

import json
from pathlib import Path

import numpy as np

from onnx2snn import SpikingSession, convert, to_loop, write_model
from onnx2snn.demo import demo_images, demo_network

TIMESTEPS = 32
IMAGES = 20


def main() -> None:
    """Write both files beside this one."""
    folder = Path(__file__).parent
    snn = convert(demo_network()).model
    loop = to_loop(
        snn, TIMESTEPS, each_step=True, rates=True, inline=True, preprocessing="grey pixels / 255"
    )
    write_model(loop, folder / "net.onnx")
    x, labels = next(demo_images(IMAGES).batches(IMAGES))
    result = SpikingSession(snn).run(x, TIMESTEPS)
    images = {
        "pixels": np.asarray(x).reshape(IMAGES, -1).tolist(),
        "labels": np.asarray(labels).tolist(),
        "classes": result.output.argmax(1).tolist(),
        "layers": {n.name: int(np.prod(n.shape)) for n in SpikingSession(snn).neurons},
    }
    (folder / "images.json").write_text(json.dumps(images))


if __name__ == "__main__":
    main()
