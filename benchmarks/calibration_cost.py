"""What a correction costs: one pass over calibration data against one evaluation of the same data.

    python benchmarks/calibration_cost.py

ResNet-20 with ReLU, 512 images, T=16, the corrections of recipes ``best`` and ``best-binary``, in
ratios to the time in which the network that they make runs the same images; each round measures
both, one after the other. Also by how much a process grows by a whole conversion.
"""

import argparse
import statistics
import time

import numpy as np

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.converting import conversion
from onnx2snn.demo import demo_images
from onnx2snn.measuring.timing import in_a_process, peak_memory
from onnx2snn.models import shipped

NETWORK = "resnet20-relu-fashion-mnist.onnx"


def correction_time(batch_size: int, x: np.ndarray, recipe: str, timesteps: int):
    """Seconds that the passes of a recipe took, and the network."""
    spent = []
    apply = conversion.apply_passes

    def timed(*arguments):
        start = time.perf_counter()
        apply(*arguments)
        spent.append(time.perf_counter() - start)

    conversion.apply_passes = timed
    try:
        model = convert(
            shipped(NETWORK),
            calibration=from_arrays(x),
            recipe=recipe,
            timesteps=timesteps,
            batch_size=batch_size,
        ).model
    finally:
        conversion.apply_passes = apply
    return spent[0], model


def evaluation_time(model, batch_size: int, x: np.ndarray, timesteps: int) -> float:
    """Seconds in which the network runs the same images."""
    session = SpikingSession(model)
    start = time.perf_counter()
    for first in range(0, len(x), batch_size):
        session.run(x[first : first + batch_size], timesteps)
    return time.perf_counter() - start


def growth(images: int, batch_size: int, timesteps: int) -> int:
    """Bytes by which a process grows at most while ``best`` converts the network."""
    x, _ = next(demo_images(images).batches(images))
    before = peak_memory()
    correction_time(batch_size, x, "best", timesteps)
    return peak_memory() - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--timesteps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    x, _ = next(demo_images(options.images).batches(options.images))
    for recipe in ("best", "best-binary"):
        ratios = []
        for _ in range(options.rounds):
            seconds, model = correction_time(100, x, recipe, options.timesteps)
            ratios.append(seconds / evaluation_time(model, 100, x, options.timesteps))
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{recipe}: {statistics.median(ratios):.2f} evaluations (rounds: {shown})", flush=True
        )
    for batch_size in (50, 100):
        for images in (options.images // 4, options.images, 2 * options.images):
            grown = in_a_process(growth, images, batch_size, options.timesteps)
            print(f"{images} images in batches of {batch_size}: {grown / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
