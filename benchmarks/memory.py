"""Peak memory of loading and running, against weights and states, each case in a fresh process.

    python benchmarks/memory.py [--networks vgg16 resnet18] [--batch 1 16] [--timesteps 32]
                                [--plans auto step] [--max-memory 500 1000] [--json]

Growth of the process's resident memory over what it has with the libraries imported: the peak
while loading, the peak while running T time-steps on random images, what is left after it, and the
peak while spike counts are worked out. Beside it what the session estimates, and weights + states
(membrane potentials and sums, once). The networks are those of ``benchmarks/networks.py``. Linux.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np

from onnx2snn.cli.terminal import console, new_table
from onnx2snn.measuring.timing import in_a_process


def memory(key):
    """In bytes: VmRSS is what is resident now, VmHWM the most since the last ``forget_peak``."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def measure(path, samples, timesteps, plan, max_memory):
    """What one process finds."""
    import onnx_graphsurgeon
    import onnxruntime

    from onnx2snn import DataError, SpikingSession

    assert onnx_graphsurgeon
    # The first session of a process brings ONNX Runtime's own tables.
    assert onnxruntime.get_available_providers()
    start = memory("VmRSS")
    session = SpikingSession(path, threads=1, plan=plan, max_memory=max_memory)
    found = {"loading": memory("VmHWM") - start, "imports": start}
    x = np.random.default_rng(0).random((samples, *session.input_shape[1:]), dtype=np.float32)
    forget_peak()
    try:
        result = session.run(x, timesteps)
    except DataError as error:
        return found | {"refused": str(error)}
    found |= {"running": memory("VmHWM") - start, "after": memory("VmRSS") - start}
    forget_peak()
    assert result.firing_rates
    chosen = session.chosen(x)
    return found | {
        "counting": memory("VmHWM") - start,
        "weights": Path(path).stat().st_size,
        "states": chosen.memory.states // 2,
        "chunks": chosen.chunks,
        "lean": chosen.lean,
        "estimate": chosen.memory.total,
    }


def prepare(name, folder):
    """Write a network, and its SNN, into a folder."""
    import networks

    from onnx2snn import convert, read_model, write_model

    networks.write(name, folder)
    write_model(convert(read_model(folder / f"{name}.onnx")).model, folder / f"{name}-snn.onnx")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # Those of networks.py, which imports torch.
    names = ["vgg16", "resnet20", "mobilenet", "resnet18"]
    parser.add_argument("--networks", nargs="+", choices=names, default=["vgg16", "resnet18"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--plans", nargs="+", default=["auto", "step"])
    parser.add_argument("--max-memory", type=int, nargs="+", default=[None], help="in MB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            in_a_process(prepare, name, Path(folder))
            path = str(Path(folder) / f"{name}-snn.onnx")
            every = itertools.product(options.batch, options.plans, options.max_memory)
            for n, plan, most in every:
                budget = None if most is None else most * 10**6
                found = in_a_process(measure, path, n, options.timesteps, plan, budget)
                case = {"network": name, "N": n, "T": options.timesteps, "plan": plan}
                rows.append(case | {"max_memory": budget} | found)
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    columns = ("weights", "states", "loading", "running", "after", "counting", "estimate")
    table = new_table(
        "MB beyond the imports", "network", ">N", ">T", "plan", ">budget", "lean", "chunks",
        *(f">{name}" for name in columns), ">x",
    )  # fmt: skip
    for row in rows:
        budget = "-" if row["max_memory"] is None else f"{row['max_memory'] // 10**6}"
        case = [row["network"], str(row["N"]), str(row["T"]), row["plan"], budget]
        if "refused" in row:
            table.add_row(*case, "", "refused")
            continue
        ratio = row["after"] / (row["weights"] + row["states"])
        table.add_row(
            *case, "yes" if row["lean"] else "no", "+".join(map(str, row["chunks"])) or "1",
            *(f"{row[name] / 1e6:.0f}" for name in columns), f"{ratio:.2f}",
        )  # fmt: skip
    table.caption = "x: after, over weights + states"
    console().print(table)


if __name__ == "__main__":
    main()
