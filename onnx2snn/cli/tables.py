"""The tables that the command line shows of what was measured."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from onnx2snn.graph_passes.errors import counted
from onnx2snn.measuring.comparison import Comparison
from onnx2snn.measuring.diagnosis import LayerDiagnosis
from onnx2snn.measuring.early_exits import AS_ACCURATE
from onnx2snn.runtime.early_exit import EarlyExit

from .terminal import name_text, new_table, percent_text


def evaluation_table(report: dict[str, Any]) -> Table:
    """Accuracy, agreement and activity by time-steps, the ANN in the last row."""
    kinds = _kinds_of(report)
    table = new_table(
        counted(report["samples"], "sample"),
        "network", ">T", *kinds.values(), ">firing rate", ">SOPs", ">SOPs/MACs",
        *([">float32: accuracy %", ">same class as float32 %"] if "float32" in report else []),
    )  # fmt: skip
    for row in report["snn"]:
        table.add_row(
            "SNN",
            str(row["timesteps"]),
            *(percent_text(row[kind]) for kind in kinds),
            f"{row['firing_rate']:.4f}",
            f"{row['sops']:.3g}",
            f"{row['sops'] / report['macs']:.2f}" if report["macs"] else "-",
            *(
                percent_text(exact[name])
                for exact in report.get("float32", [])
                for name in ("accuracy", "agreement")
                if exact["timesteps"] == row["timesteps"]
            ),
        )
    if report["ann"] is not None:
        table.add_row("ANN", "", percent_text(report["ann"]["accuracy"]))
    table.caption = (
        f"The ANN that it was made from: {report['macs']:.3g} MACs per sample, "
        f"{report['macs_before_neurons']:.3g} of them before the first spikes, in no SOPs"
    )
    if "precisions" in report:
        table.caption += f"\n{precision_text(report['precision'], report['precisions'])}"
    return table


def _kinds_of(report: dict[str, Any]) -> dict[str, str]:
    """The heads of the shares in a report, by what it calls them: without an ANN no agreement."""
    agreement = {} if report["ann"] is None else {"agreement": ">same class as ANN %"}
    return {"accuracy": ">accuracy %", **agreement}


def early_exit_table(report: dict[str, Any]) -> Table:
    """Accuracy at fixed T, and where samples leave early, by the default rule and others."""
    most, kinds = report["snn"][-1]["timesteps"], _kinds_of(report)
    table = new_table(
        f"{counted(report['samples'], 'sample')}, T up to {most}",
        "samples leave", ">mean T", *kinds.values(), ">as accurate as T",
    )  # fmt: skip

    def add(what: str, time: str, row: dict[str, Any], equal: str, style: str = "") -> None:
        shares = (percent_text(row[kind]) for kind in kinds)
        table.add_row(what, time, *shares, equal, style=style)

    for row in report["snn"]:
        add("at a fixed T", str(row["timesteps"]), row, "")
    table.add_section()
    for row in report["early_exit"]:
        rule = EarlyExit(row["confidence"], row["stable"], row["every"])
        equal = f">{most}" if row["as_accurate_as"] is None else str(row["as_accurate_as"])
        if row["accuracy"] is None and row["agreement"] is None:
            equal = "-"
        default = rule == EarlyExit()
        what = f"confidence {rule.confidence:g}, stable {rule.stable}{', default' * default}"
        add(what, f"{row['mean_timesteps']:.1f}", row, equal, "bold" * default)
    if report["ann"] is not None:
        table.add_section()
        table.add_row("ANN", "", percent_text(report["ann"]["accuracy"]))
    table.caption = early_exit_caption(report)
    if "precisions" in report:
        table.caption += f"\n{precision_text(report['precision'], report['precisions'])}"
    return table


def early_exit_caption(report: dict[str, Any]) -> str:
    """When samples may leave, whether any did, and whether that pays."""
    most, earliest, rules = report["snn"][-1]["timesteps"], report["earliest"], report["early_exit"]
    if earliest is None:
        leave = f"T={most} is too short for any to leave"
    elif all(row["mean_timesteps"] == most for row in rules):
        leave = (
            f"none left before T={most}: until then of no sample was the class the same at "
            f"{EarlyExit.stable} looks in a row, and the softmax high enough at the last of them"
        )
    else:
        leave = f"none may leave before T={earliest}"
        pays = ((row["as_accurate_as"] or most + 1) > row["mean_timesteps"] for row in rules)
        if not any(pays):
            leave += ". No rule pays here: its mean is no less than the T as accurate as it"
    return (
        f"as accurate as T: the smallest T above that lacks at most {AS_ACCURATE} points. "
        f"Looked at every {EarlyExit.every} time-steps; {leave}."
    )


def precision_text(precision: str, rows: list[dict[str, str]]) -> str:
    """How many of the layers between neurons are computed in this precision."""
    count = sum(row["precision"] == precision for row in rows)
    return f"{precision}: {count} of {len(rows)} layers between neurons; --json says which"


def benchmark_table(found: dict[str, Any]) -> Table:
    """Times of plans, N by N; the ratios are to the row that says 1."""
    unit = "T forward passes" if found["against"] == "ANN" else "step"
    threads = counted(found["threads"], "thread")
    table = new_table(
        f"T={found['timesteps']}, {threads}",
        ">N", "plan", ">ms a step", f">of {unit}", ">quartiles", ">steps x N / s",
        ">peak MB", ">load s", ">regret %",
    )  # fmt: skip
    rows, last = found["rows"], None
    for row in rows:
        if last not in (None, row["samples"]):
            table.add_section()
        times = row["ratio"]
        table.add_row(
            "" if row["samples"] == last else str(row["samples"]),
            row["plan"],
            f"{1e3 * row['seconds'] / found['timesteps']:.3f}",
            Text(f"{times['median']:.2f}", "bold" if row["plan"] == "auto" else ""),
            "" if row["plan"] == found["against"] else f"{times['low']:.2f} to {times['high']:.2f}",
            f"{row['steps_per_second']:,.0f}",
            "-" if row["peak_memory"] is None else f"{row['peak_memory'] / 1e6:,.0f}",
            f"{row['load_seconds']:.2f}",
            "" if row["regret"] is None else f"{100 * row['regret']:.1f}",
        )
        last = row["samples"]
    table.caption = (
        "of ...: the median of ratios within a round. peak: of the process, libraries included. "
        "load: from the file until it runs. regret: what auto takes more than the best "
        "other plan but int8, the median within rounds."
    )
    return table


def rates_table(rates: dict[str, float]) -> Table:
    """Firing rate by layer."""
    table = new_table("Firing rates", "layer", ">spikes per neuron and time-step")
    for name, rate in rates.items():
        table.add_row(name_text(name), f"{rate:.4f}")
    return table


def diagnosis_table(layers: Iterable[LayerDiagnosis], what: str) -> Table:
    """The errors of each layer of neurons; the largest part of its own error is bold."""
    table = new_table(
        f"Errors of the layers, {what}",
        ">#", "layer", ">neurons", ">own %", ">clip", ">quant.", ">uneven", ">total %",
        ">rate", ">silent %", ">sat. %", ">corr.",
    )  # fmt: skip
    for layer in layers:
        parts = (layer.clipping, layer.quantisation, layer.unevenness)
        table.add_row(
            str(layer.place),
            name_text(layer.name),
            str(layer.neurons),
            f"{layer.own_error:.1f}",
            *(Text(f"{part:.1f}", "bold" if part == max(parts) > 0 else "") for part in parts),
            f"{layer.total_error:.1f}",
            f"{layer.firing_rate:.4f}",
            f"{layer.silent:.1f}",
            f"{layer.saturated:.1f}",
            "-" if layer.correlation is None else f"{layer.correlation:.4f}",
        )
    table.caption = (
        "own: clipping, quantisation and unevenness together, of this layer alone; total: with "
        "what it inherits. Errors: root mean squares, in % of that of the activations: those of "
        "a sum are less than the sum of those of its parts, and what adds up may cancel. rate: "
        "spikes per neuron and time-step. silent, sat.: the share of neurons, of all samples, "
        "without a spike, and with as many as there can be. corr.: of what is emitted on average "
        "with the ANN's activations. #: place in the network; the largest own error comes first."
    )
    return table


def demo_table(times: list[int], ann: float, rows: dict[str, list[float]]) -> Table:
    """Accuracies side by side: the ANN, and the SNN at each T for each v(0)."""
    table = new_table("Accuracy in percent", "network", *(f">T={t}" for t in times))
    table.add_row("ANN", *(f"{ann:.2f}" for _ in times))
    for name, accuracies in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in accuracies))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Recipes by T, the best of each column in bold, the ANN in the first row."""
    what = {"accuracy": "Accuracy", "agreement": "Same class as the ANN"}[comparison.kind]
    table = new_table(
        f"{what} in percent, {counted(comparison.samples, 'sample')}",
        "recipe", *(f">T={t}" for t in comparison.timesteps),
    )  # fmt: skip
    if comparison.ann is not None:
        table.add_row("ANN", *(percent_text(comparison.ann) for _ in comparison.timesteps))
        table.add_section()
    rows = [comparison.values(row) for row in comparison.rows]
    columns = zip(*rows, strict=True)
    best = [max((v for v in column if v is not None), default=None) for column in columns]
    for row, values in zip(comparison.rows, rows, strict=True):
        cells = [
            Text(percent_text(value), style="bold" if value == top is not None else "")
            for value, top in zip(values, best, strict=True)
        ]
        table.add_row(name_text(row.recipe.name), *cells)
    if comparison.maxpool is not None:
        table.caption = (
            "Max-pools are the same in all, whatever a recipe takes by itself: "
            f"convert --maxpool {comparison.maxpool}"
        )
    return table


def comparison_reasons(comparison: Comparison) -> list[str]:
    """One line for each reason why recipes could not convert: which, at which T, and why."""
    who: dict[str, list[str]] = {}
    for row in comparison.rows:
        for reason in dict.fromkeys(row.reasons.values()):
            times = [t for t, found in row.reasons.items() if found == reason]
            everywhere = len(times) == len(comparison.timesteps)
            at = "" if everywhere else f" at T={','.join(map(str, times))}"
            who.setdefault(reason, []).append(row.recipe.name + at)
    return [f"{', '.join(names)}: {reason}" for reason, names in who.items()]
