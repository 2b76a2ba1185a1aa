"""Time of T time-steps against T forward passes of the same ANN in ONNX Runtime.

    python benchmarks/step_vs_ann.py [--timesteps 32] [--rounds 15] [--json]

Both run on one pinned core, one thread, in turns; the figure is the median over rounds of
the ratio within a round, with the quartiles beside it. The ANN is timed as its file is and
in the canonical form that the converter makes of it, which ONNX Runtime runs faster.
"""

import argparse
import json
import os
import resource
import statistics
import time

import numpy as np

from onnx2snn import SpikingSession
from onnx2snn.conversion import convert
from onnx2snn.demo import demo_images, demo_network
from onnx2snn.graph_passes import canonicalise, infer_shapes, to_graph, to_model
from onnx2snn.runtime.providers import CPU, create_session


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
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    timesteps = options.timesteps

    ann = demo_network()
    anns = {
        "ANN file": create_session(ann, [CPU], 1),
        "canonical ANN": create_session(canonical(ann), [CPU], 1),
    }
    snn = SpikingSession(convert(ann).model, threads=1)
    rows = []
    for n in options.batch:
        x = next(demo_images(n).batches(n))[0]
        x = np.ascontiguousarray(x)

        def forward(session, x=x):
            for _ in range(timesteps):
                session.run(None, {"input": x})

        def spiking(x=x):
            snn.run(x, timesteps)

        tasks = {name: lambda s=s: forward(s) for name, s in anns.items()} | {"SNN": spiking}
        for task in tasks.values():
            task()
        times = {name: [] for name in tasks}
        for _ in range(options.rounds):
            for name, task in tasks.items():
                times[name].append(timed(task))
        for name in anns:
            ratios = [s / a for s, a in zip(times["SNN"], times[name], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            rows.append(
                {
                    "N": n, "T": timesteps, "against": name,
                    "ratio": middle, "quartiles": [low, high],
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
        f"{'N':>3} {'T':>3} {'against':>14} {'ratio':>6} {'quartiles':>13} "
        f"{'ANN ms':>8} {'SNN ms':>8}"
    )
    for row in rows:
        low, high = row["quartiles"]
        print(
            f"{row['N']:3d} {row['T']:3d} {row['against']:>14} {row['ratio']:6.2f} "
            f"{low:6.2f} {high:6.2f} {row['ann_ms']:8.3f} {row['snn_ms']:8.3f}"
        )
    after = memory["after_T"], memory["after_16T"]
    print("peak memory: {:.0f} MiB after T steps, {:.0f} MiB after 16 T".format(*after))


if __name__ == "__main__":
    main()
