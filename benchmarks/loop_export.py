"""Time of exported loop files against that of the step plan in Python.

    python benchmarks/loop_export.py [--timesteps 32] [--rounds 15] [--batch 1 16] [--json]

All run on one pinned core, one thread, in turns; the figure is the median over rounds of the
ratio within a round, with the quartiles beside it. The step plan is a session of ``plan="step"``.
"""

import argparse
import json
from functools import partial

import numpy as np

from onnx2snn import SpikingSession, convert
from onnx2snn.cli.terminal import console, new_table
from onnx2snn.demo import demo_images, demo_network
from onnx2snn.measuring.timing import interleaved, pin, ratio, seconds_of
from onnx2snn.runtime.loop import loop_model
from onnx2snn.runtime.providers import CPU
from onnx2snn.runtime.sessions import create_session


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pin()
    timesteps = options.timesteps

    snn = convert(demo_network()).model
    plan = SpikingSession(snn, threads=1, plan="step")
    files = {
        "loop": loop_model(snn, timesteps),
        "loop, T as input": loop_model(snn, None),
        "loop, each step and rates": loop_model(snn, timesteps, each_step=True, rates=True),
        "unrolled": loop_model(snn, timesteps, unroll=True),
    }
    sessions = {name: create_session(model, [CPU], 1) for name, model in files.items()}
    rows = []
    for n in options.batch:
        x = np.ascontiguousarray(next(demo_images(n).batches(n))[0])

        def run(session, x=x):
            feed = {"input": x, "timesteps": np.array(timesteps)}
            session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})

        tasks = {name: partial(run, session) for name, session in sessions.items()}
        tasks["step plan"] = partial(plan.run, x, timesteps)
        times = interleaved(
            {name: partial(seconds_of, task) for name, task in tasks.items()}, options.rounds
        )
        for name in sessions:
            found = ratio(times[name], times["step plan"])
            rows.append(
                {
                    "N": n, "T": timesteps, "file": name, "ratio": found.median,
                    "quartiles": [found.low, found.high],
                    "ms_a_step": 1e3 * float(np.median(times[name])) / timesteps,
                }
            )  # fmt: skip
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    table = new_table(
        "Time over that of the step plan", ">N", ">T", "file", ">ratio", ">quartiles", ">ms a step"
    )
    for row in rows:
        low, high = row["quartiles"]
        table.add_row(
            str(row["N"]), str(row["T"]), row["file"], f"{row['ratio']:.2f}",
            f"{low:.2f} {high:.2f}", f"{row['ms_a_step']:.3f}",
        )  # fmt: skip
    console().print(table)


if __name__ == "__main__":
    main()
