"""Time of T time-steps of other simulators, and of this one, over T forward passes of the ANN.

    python benchmarks/peers.py --network resnet20 [--timesteps 32] [--batch 1 16] [--rounds 5]
        [--only sinabs snntorch] [--folder networks] [--file peers.json] [--plot peers.png]

The ANN runs in ONNX Runtime. Each contestant runs in a process of its own, one thread, on the same
pinned core, in turns; figures are medians over rounds of the ratio within a round. All have the
same weights, thresholds and inputs (networks.py); "same class" and "spikes" say how they agree with
onnx2snn's step plan, on two inputs. --folder keeps the networks. --file keeps every round, and what
it has of other runs is shown too, so that a large table can be measured piece by piece.
Needs the extra [peers], in an environment of its own: sinabs asks for an older nir than [nir].
"""

import argparse
import contextlib
import json
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from onnx2snn import convert, write_model
from onnx2snn.cli.plot_benchmark import ratio_plot
from onnx2snn.cli.terminal import console, new_table, overall_progress
from onnx2snn.graph_passes.model_files.whole_file import write_bytes
from onnx2snn.measuring.benchmarking import ANN, AnnRuns, SnnRuns, timed_rows
from onnx2snn.measuring.timing import Contestant, ratio

OURS = {"auto": {}, "step": {"plan": "step"}, "int8": {"precision": "int8"}}
LIBRARIES = ("onnx2snn", "onnxruntime", "torch", "spikingjelly", "sinabs", "snntorch")


class OnnxToSnn(SnnRuns):
    """This runtime, which can say what it computed."""

    def check(self, samples):
        result = self.session.run(self.inputs(samples), self.timesteps)
        return result.output, sum(int(counts.sum()) for counts in result.spike_counts.values())


def measure(name, folder, timesteps, batches, rounds, only, report):
    """Rows as of ``timed_rows`` of one network, and how each contestant agrees with ours."""
    ann, snn = folder / f"{name}.onnx", folder / f"{name}.snn.onnx"
    if not ann.exists():
        write(name, folder)
    write_model(convert(ann).parts, snn)
    with contextlib.ExitStack() as stack:
        makers = {ANN: (AnnRuns, ann)}
        makers |= {ours: (OnnxToSnn, snn, options) for ours, options in OURS.items()}
        makers |= {peer: (made, folder, name) for peer, made in SIMULATORS.items()}
        shapes = {"input": ((None, *SHAPES[name]), np.dtype(np.float32))}
        running = {
            key: stack.enter_context(Contestant(make, shapes, timesteps, 1, *given))
            for key, (make, *given) in makers.items()
            if key == ANN or key in OURS or not only or key in only
        }
        rows = timed_rows(running, timesteps, batches, ANN, rounds, report)
        said = {key: one.call("check", 2)[1] for key, one in running.items() if key != ANN}
    output, spikes = said["step"]
    for row in rows:
        if row["plan"] in said:
            own, counted = said[row["plan"]]
            row["same_class"] = float((own.argmax(1) == output.argmax(1)).mean())
            row["error"] = float(np.abs(own - output).max() / np.abs(output).max())
            row["spikes"] = counted / spikes
    return rows


def pooled(pieces, key, name, base):
    """The ratio over the rounds of all pieces in which both ran; None without any."""
    times, others = [], []
    for piece in pieces:
        rows = {
            row["plan"]: row["rounds"]
            for row in piece["rows"]
            if (piece["network"], piece["timesteps"], row["samples"]) == key
        }
        if name in rows and base in rows:
            times += rows[name]
            others += rows[base]
    return ratio(np.array(times), np.array(others)) if times else None


def show(pieces):
    """Print one table of all pieces; what the plot shows, by contestant."""
    table = new_table(
        "One thread, pinned; medians of ratios within a round",
        "network", "simulator", ">T ANN forwards", ">quartiles", ">auto", ">T x N / s", ">peak MB",
        ">load s", ">same class %", ">spikes",
    )  # fmt: skip
    table.columns[1].no_wrap = True
    latest = {
        ((piece["network"], piece["timesteps"], row["samples"]), row["plan"]): row
        for piece in pieces
        for row in piece["rows"]
    }
    order = [*NETWORKS]
    groups = sorted(
        {key for key, _ in latest}, key=lambda key: (order.index(key[0]), -key[1], key[2])
    )
    points = {name: {} for name in (*OURS, *SIMULATORS)}
    for key in groups:
        group, first = "{}, T={}, N={}".format(*key), True
        for name in (ANN, *points):
            row = latest.get((key, name))
            if row is None:
                continue
            found, beside = pooled(pieces, key, name, ANN), pooled(pieces, key, name, "auto")
            said = ("", "")
            if name != ANN:
                points[name][group.replace(", ", "\n", 1)] = vars(found)
                said = f"{100 * row['same_class']:.0f}", f"{row['spikes']:.5f}"
            table.add_row(
                group if first else "", name, f"{found.median:.2f}",
                f"{found.low:.2f}-{found.high:.2f}",
                "" if beside is None else f"{beside.median:.2f}",
                f"{row['steps_per_second']:,.0f}", f"{(row['peak_memory'] or 0) / 1e6:,.0f}",
                f"{row['load_seconds']:.2f}", *said,
            )  # fmt: skip
            first = False
        table.add_section()
    table.caption = (
        "T ANN forwards, auto: the time over theirs. same class, spikes: of those of onnx2snn's "
        "step plan."
    )
    console().print(table)
    return points


def installed(libraries):
    found = {}
    for library in libraries:
        with contextlib.suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, nargs="*", default=list(NETWORKS),
                        help="none to show --file")  # fmt: skip
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, help="15, or fewer if it takes long")
    parser.add_argument("--only", choices=SIMULATORS, nargs="+", default=[])
    parser.add_argument("--folder", type=Path, help="keeps the networks")
    parser.add_argument("--file", type=Path, help="JSON that keeps every round")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    found = {"pieces": []}
    if options.file is not None and options.file.exists():
        found = json.loads(options.file.read_text())
    versions = installed(LIBRARIES) if options.network else {}
    for name in options.network:
        with contextlib.ExitStack() as stack:
            folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(exist_ok=True)
            rows = measure(
                name, folder, options.timesteps, options.batch, options.rounds, options.only,
                stack.enter_context(overall_progress()),
            )  # fmt: skip
        found["pieces"].append(
            {"network": name, "timesteps": options.timesteps, "versions": versions, "rows": rows}
        )
        if options.file is not None:
            # Whole or not at all: it holds hours of rounds.
            write_bytes(options.file, (json.dumps(found, indent=1) + "\n").encode())
    points = show(found["pieces"])
    if options.plot is not None:
        groups = list(dict.fromkeys(group for by_group in points.values() for group in by_group))
        points = {name: by_group for name, by_group in points.items() if by_group}
        title = f"T time-steps by onnx2snn ({', '.join(OURS)}) and by other simulators, one thread"
        ratio_plot(options.plot, groups, points, title, "T forward passes of the ANN")


if __name__ == "__main__":
    # Not at the top: each contestant's process imports this file, and tells its memory.
    from networks import NETWORKS, SHAPES, write
    from simulators import SIMULATORS

    main()
