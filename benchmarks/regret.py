"""What the plan "auto" takes longer than "step", on networks that no figure here was made on.

    python benchmarks/regret.py [--networks u-net squeezenet] [--recipes opi best] [--batch 1 4 16]
                                [--timesteps 1 2 5 8 33] [--rounds 7] [--json]

Time of a run by "auto" over that by "step", the median over rounds within which both run in turns,
each in a process of its own, one thread, on the same core; runs shorter than 50 ms are repeated.
A second process of "step" runs, too: what it takes over the first is how far off such a ratio may
be. Weights are random, thresholds from random inputs. Needs the extra [train].
"""

import argparse
import itertools
import json
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from onnx2snn import SpikingSession, convert, from_arrays, write_model
from onnx2snn.graph_passes.model_files.files import read_parts
from onnx2snn.measuring.benchmarking import RandomInputs, input_shapes
from onnx2snn.measuring.timing import Contestant, interleaved, ratio
from onnx2snn.runtime.plans.plan import build_plan

SHORT = 0.05
"""Seconds, below which runs are repeated."""


def networks():
    """By name, what makes a torch network, and the shape of its input."""
    import torch
    import torchvision
    from torch import nn

    torch.manual_seed(0)

    def conv(inputs, outputs, size=3, stride=1, groups=1):
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())

    def dense(*sizes):
        pairs = itertools.pairwise(sizes)
        layers = [layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *layers[:-1])

    def ends(channels):
        return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)

    def images(*layers):
        return partial(nn.Sequential, *layers)

    zoo = {
        name: partial(getattr(torchvision.models, made), num_classes=10)
        for name, made in {
            "squeezenet": "squeezenet1_1", "shufflenet": "shufflenet_v2_x0_5",
            "mnasnet": "mnasnet0_5", "resnet50": "resnet50", "alexnet": "alexnet",
        }.items()
    }  # fmt: skip
    return {
        "dense 64": (partial(dense, 64, 64, 64, 10), (64,)),
        "dense 1200": (partial(dense, 784, 1200, 1200, 10), (1, 28, 28)),
        "dense 4096": (partial(dense, 256, 4096, 4096, 100), (256,)),
        "dense, 20 layers": (partial(dense, *[128] * 21, 10), (128,)),
        "lenet": (images(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5),
                         nn.ReLU(), nn.AvgPool2d(2), dense(256, 120, 84, 10)), (1, 28, 28)),
        "max-pools": (images(conv(1, 32), nn.MaxPool2d(2), conv(32, 64), nn.MaxPool2d(2),
                             dense(3136, 128, 10)), (1, 28, 28)),
        "one dimension": (images(*[layer for size in (9, 64, 64, 64) for layer in (
                             nn.Conv1d(size, 64, 5, padding=2), nn.ReLU())],
                             nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 6)), (9, 128)),
        "three dimensions": (images(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool3d(2),
                                    nn.Conv3d(8, 16, 3, padding=1), nn.ReLU(), nn.AvgPool3d(2),
                                    dense(1024, 10)), (1, 16, 16, 16)),
        "odd channels": (images(conv(3, 13), conv(13, 27, stride=2), conv(27, 51, stride=2),
                                *ends(51)), (3, 32, 32)),
        "256 channels": (images(conv(3, 64), conv(64, 256, stride=2), conv(256, 256),
                                conv(256, 256), *ends(256)), (3, 32, 32)),
        "groups": (images(conv(3, 64), conv(64, 64, groups=8), conv(64, 128, stride=2, groups=4),
                          conv(128, 128, groups=128), *ends(128)), (3, 32, 32)),
        "large images": (images(conv(3, 32, 7, 2), nn.AvgPool2d(2), conv(32, 48, 5),
                                nn.AvgPool2d(2), conv(48, 64), *ends(64)), (3, 160, 160)),
        "dqn": (images(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
                       nn.Conv2d(64, 64, 3), nn.ReLU(), dense(3136, 512, 6)), (4, 84, 84)),
        "u-net": (u_net, (3, 64, 64)),
        "densenet": (dense_blocks, (3, 32, 32)),
        "squeezenet": (zoo["squeezenet"], (3, 96, 96)),
        "shufflenet": (zoo["shufflenet"], (3, 96, 96)),
        "mnasnet": (zoo["mnasnet"], (3, 96, 96)),
        "resnet50": (zoo["resnet50"], (3, 96, 96)),
        "alexnet": (zoo["alexnet"], (3, 224, 224)),
    }  # fmt: skip


def u_net(channels=16):
    """Two levels, joined by Concat, ConvTranspose upwards."""
    import torch
    from torch import nn

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [channels, 2 * channels, 4 * channels]
            levels = zip([3, *sizes[:-1]], sizes, (1, 2, 2), strict=True)
            self.down = nn.ModuleList(nn.Conv2d(i, o, 3, s, 1) for i, o, s in levels)
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(i, i // 2, 2, 2) for i in reversed(sizes[1:])
            )
            self.joined = nn.ModuleList(nn.Conv2d(i, i // 2, 3, 1, 1) for i in reversed(sizes[1:]))
            self.last = nn.Conv2d(channels, 5, 1)

        def forward(self, x):
            levels = []
            for layer in self.down:
                x = torch.relu(layer(x))
                levels.append(x)
            for up, joined, level in zip(self.up, self.joined, levels[-2::-1], strict=True):
                x = torch.relu(joined(torch.cat([torch.relu(up(x)), level], 1)))
            return self.last(x).mean((2, 3))

    return UNet()


def dense_blocks(first=24, growth=12, layers=6):
    """Each layer reads what all before it made."""
    import torch
    from torch import nn

    class DenseNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, first, 3, 1, 1)
            self.layers = nn.ModuleList(
                nn.Conv2d(first + growth * n, growth, 3, 1, 1) for n in range(layers)
            )
            self.last = nn.Linear(first + growth * layers, 10)

        def forward(self, x):
            x = torch.relu(self.first(x))
            for layer in self.layers:
                x = torch.cat([x, torch.relu(layer(x))], 1)
            return self.last(x.mean((2, 3)))

    return DenseNet()


def prepare(make, shape, folder):
    """The network as ``ann.onnx``, its running means those of random inputs."""
    import torch

    torch.manual_seed(0)
    network = make()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(8, *shape))
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.rand(1, *shape),), folder / "ann.onnx", dynamo=False,
            input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        )  # fmt: skip


class Runs:
    """Runs of a spiking network, by one plan."""

    def __init__(self, shapes, path, plan):
        self.inputs = RandomInputs(shapes)
        self.session = SpikingSession(path, threads=1, plan=plan)

    def run(self, samples, timesteps, times):
        """Seconds of a run, the mean of so many."""
        x = self.inputs(samples)
        start = time.perf_counter()
        for _ in range(times):
            self.session.run(x, timesteps)
        return (time.perf_counter() - start) / times


def measure(path, batches, timesteps, rounds):
    """For each N and T, what "auto", and "step" in another process, take over "step"."""
    shapes, rows = input_shapes(build_plan(read_parts(path))), []
    with (
        Contestant(Runs, shapes, path, "auto") as auto,
        Contestant(Runs, shapes, path, "step") as step,
        Contestant(Runs, shapes, path, "step") as again,
    ):
        plans = {"auto": auto, "step": step, "again": again}
        for samples in batches:
            for steps in timesteps:

                def seconds(plan, times, samples=samples, steps=steps):
                    return plan.call("run", samples, steps, times)[1]

                # The first runs make graphs.
                once = [seconds(plan, 1) for plan in 2 * (*plans.values(),)][len(plans) :]
                times = max(1, int(SHORT / max(once)))
                tasks = {name: partial(seconds, plan, times) for name, plan in plans.items()}
                found = interleaved(tasks, rounds)
                row = {"samples": samples, "timesteps": steps}
                row["ratio"] = ratio(found["auto"], found["step"]).median
                row["step_over_step"] = ratio(found["again"], found["step"]).median
                rows.append(row | {"seconds": float(np.median(found["auto"]))})
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--recipes", nargs="+", default=["opi", "best-binary", "best"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--timesteps", nargs="+", type=int, default=[1, 2, 5, 8, 33])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    every, rows = networks(), []
    for name in arguments.networks or every:
        make, shape = every[name]
        with tempfile.TemporaryDirectory() as folder:
            prepare(make, shape, Path(folder))
            x = np.random.default_rng(0).random((16, *shape), dtype=np.float32)
            for recipe in arguments.recipes:
                path = Path(folder, f"{recipe}.onnx")
                made = convert(Path(folder, "ann.onnx"), calibration=from_arrays(x),
                               recipe=recipe, timesteps=8)  # fmt: skip
                write_model(made.parts, path)
                found = measure(path, arguments.batch, arguments.timesteps, arguments.rounds)
                rows += [{"network": name, "recipe": recipe} | row for row in found]
                if not arguments.json:
                    ratios = [row["ratio"] for row in found]
                    worst = max(found, key=lambda row: row["ratio"])
                    print(f"{name:18} {recipe:12} median {np.median(ratios):.2f}, most "
                          f"{worst['ratio']:.2f} at N={worst['samples']}, T={worst['timesteps']} "
                          f"({1000 * worst['seconds']:.1f} ms)", flush=True)  # fmt: skip
    if arguments.json:
        print(json.dumps(rows))
        return
    for what, key in (("auto / step", "ratio"), ("step / step", "step_over_step")):
        ratios = np.array([row[key] for row in rows])
        print(f"{what}: {len(rows)} rows, median {np.median(ratios):.2f}, above 1.05 "
              f"{(ratios > 1.05).mean():.1%}, above 1.1 {(ratios > 1.1).mean():.1%}, "
              f"most {ratios.max():.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
