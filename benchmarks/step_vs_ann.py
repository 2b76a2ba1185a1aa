"""Time of T time-steps against T forward passes of the same ANN in ONNX Runtime.

    python benchmarks/step_vs_ann.py [--network resnet20 | vgg16] [--timesteps 32] [--rounds 15]

Both run on one pinned core, one thread, in turns; the figure is the median over rounds of
the ratio within a round, with the quartiles beside it. The ANN is timed as its file is and
in the canonical form that the converter makes of it, which ONNX Runtime runs faster. The step
plan, one time-step a run and all sums carried along, runs beside. resnet20 is the demo's network;
vgg16 that of CIFAR, 32 x 32, with two dense layers of 4096, random weights and clips at 1.
"""

import argparse
import json
import os
import resource
import statistics
import time

import numpy as np
import onnx

from onnx2snn import SpikingSession
from onnx2snn.conversion import convert
from onnx2snn.demo import demo_images, demo_network
from onnx2snn.graph_passes import canonicalise, infer_shapes, to_graph, to_model
from onnx2snn.runtime.providers import CPU, create_session


def vgg16():
    rng, nodes, weights = np.random.default_rng(0), [], {}

    def layer(op, x, *shape, **attributes):
        name = f"w{len(weights)}"
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        weights[name] = rng.normal(0, deviation, shape).astype(np.float32)
        nodes.append(onnx.helper.make_node(op, [x, name], [f"{name}/y"], **attributes))
        return f"{name}/y"

    def clip(x):
        nodes.append(onnx.helper.make_node("Clip", [x, "zero", "one"], [f"{x}/clip"]))
        return f"{x}/clip"

    x, channels = "input", 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            x = clip(layer("Conv", x, width, channels, 3, 3, pads=[1] * 4))
            channels = width
        else:
            pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(onnx.helper.make_node("AveragePool", [x], [f"{x}/pool"], **pool))
            x = f"{x}/pool"
    nodes.append(onnx.helper.make_node("Flatten", [x], ["flat"]))
    x = clip(layer("Gemm", "flat", 4096, 512, transB=1))
    x = clip(layer("Gemm", x, 4096, 4096, transB=1))
    layer("Gemm", x, 10, 4096, transB=1)
    nodes[-1].output[0] = "output"
    weights |= {"zero": np.float32(0), "one": np.float32(1)}
    graph = onnx.helper.make_graph(
        nodes,
        "vgg16",
        [onnx.helper.make_tensor_value_info("input", 1, ["N", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("output", 1, ["N", 10])],
        [onnx.numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )


def canonical(model):
    graph = to_graph(model)
    infer_shapes(graph)
    canonicalise(graph)
    return to_model(graph)


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["resnet20", "vgg16"], default="resnet20")
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    timesteps = options.timesteps

    ann = vgg16() if options.network == "vgg16" else demo_network()
    anns = {
        "ANN file": create_session(ann, [CPU], 1),
        "canonical ANN": create_session(canonical(ann), [CPU], 1),
    }
    model = convert(ann).model
    snn = SpikingSession(model, threads=1)
    step = SpikingSession(model, threads=1, plan="step")
    rows = []
    for n in options.batch:
        if options.network == "vgg16":
            x = np.random.default_rng(1).random((n, 3, 32, 32), dtype=np.float32)
        else:
            x = np.ascontiguousarray(next(demo_images(n).batches(n))[0])

        def forward(session, x=x):
            for _ in range(timesteps):
                session.run(None, {"input": x})

        def spiking(session, x=x):
            session.run(x, timesteps)

        tasks = {name: lambda s=s: forward(s) for name, s in anns.items()}
        tasks |= {"SNN": lambda: spiking(snn), "step": lambda: spiking(step)}
        for task in tasks.values():
            task()
        times = {name: [] for name in tasks}
        for _ in range(options.rounds):
            for name, task in tasks.items():
                times[name].append(timed(task))
        for name in anns:
            ratios = [s / a for s, a in zip(times["SNN"], times[name], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            plain = [s / a for s, a in zip(times["step"], times[name], strict=True)]
            rows.append(
                {
                    "N": n, "T": timesteps, "against": name,
                    "ratio": middle, "quartiles": [low, high],
                    "step_plan_ratio": statistics.median(plain),
                    "ann_ms": 1e3 * statistics.median(times[name]) / timesteps,
                    "snn_ms": 1e3 * statistics.median(times["SNN"]) / timesteps,
                }
            )  # fmt: skip
    before = peak_memory()
    snn.run(x, 16 * timesteps)
    memory = {"after_T": before, "after_16T": peak_memory()}
    if options.json:
        print(json.dumps({"rows": rows, "peak_rss_mib": memory}))
        return
    print(
        f"{'N':>3} {'T':>3} {'against':>14} {'ratio':>6} {'quartiles':>13} {'step plan':>10} "
        f"{'ANN ms':>8} {'SNN ms':>8}"
    )
    for row in rows:
        low, high = row["quartiles"]
        print(
            f"{row['N']:3d} {row['T']:3d} {row['against']:>14} {row['ratio']:6.2f} "
            f"{low:6.2f} {high:6.2f} {row['step_plan_ratio']:10.2f} "
            f"{row['ann_ms']:8.3f} {row['snn_ms']:8.3f}"
        )
    after = memory["after_T"], memory["after_16T"]
    print("peak memory: {:.0f} MiB after T steps, {:.0f} MiB after 16 T".format(*after))


if __name__ == "__main__":
    main()
