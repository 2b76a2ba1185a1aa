"""What the command line shows of a conversion: neurons, passes, recipes, what stands in the way."""

import math
from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table

from onnx2snn.converting.checking import APPROXIMATED, CLIPPED, POOLED, UNQUANTISED, Agreement
from onnx2snn.converting.conversion import NeuronReport
from onnx2snn.converting.readiness import NodeReport
from onnx2snn.graph_passes import PassReport
from onnx2snn.recipe import Recipe
from onnx2snn.runtime.plans.plan import NeuronLayer

from .terminal import name_text, new_table, percent_text, printable, shape_text, values_text

LOW_AGREEMENT = 95.0
LARGE_LOSS = 1.0
LARGE_ERROR = 0.1
"""A change that leaves fewer percent of the classes, costs more points of accuracy or, in a
network without classes, has a larger relative error, is shown in red, with what to do."""


def neuron_table(neurons: list[NeuronReport]) -> Table:
    """The neurons of a conversion and their thresholds."""
    rows = [
        (name_text(neuron.name), shape_text(neuron.shape), values_text(neuron.threshold))
        for neuron in neurons
    ]
    return _with_sources(["layer", ">shape", ">V_th"], rows, [n.source for n in neurons])


def session_table(neurons: tuple[NeuronLayer, ...], sources: dict[str, str]) -> Table:
    """The neurons of an SNN file."""
    rows = []
    for neuron in neurons:
        sizes = [size for size in neuron.shape if isinstance(size, int)]
        fixed = len(sizes) == len(neuron.shape)
        row = (
            name_text(neuron.name),
            shape_text(neuron.shape),
            str(math.prod(sizes)) if fixed else "?",
            values_text(neuron.threshold),
            values_text(neuron.v_init / neuron.threshold),
        )
        rows.append(row)
    columns = ["layer", ">shape", ">neurons", ">V_th", ">v(0)/V_th"]
    return _with_sources(columns, rows, [str(sources.get(n.name, "unknown")) for n in neurons])


def _with_sources(
    columns: list[str], rows: Sequence[tuple[RenderableType, ...]], sources: list[str]
) -> Table:
    """Neurons, and what their thresholds are from: below the table, once, if that is the same."""
    what, differ = "threshold from", len(set(sources)) > 1
    table = new_table("Neurons", *columns, *([what] if differ else []))
    for row, source in zip(rows, sources, strict=True):
        table.add_row(*row, *([name_text(source)] if differ else []))
    if sources and not differ:
        table.caption = f"{what}: {printable(sources[0])}"
    return table


def pass_table(passes: list[PassReport]) -> Table:
    """The passes that changed the network, in their order; below, how many did not."""
    table = new_table("Passes", "pass", ">nodes before", ">after")
    changed = [report for report in passes if report.changed]
    for report in changed:
        table.add_row(report.name, str(report.nodes_before), str(report.nodes_after))
    if others := len(passes) - len(changed):
        table.caption = f"{others} more changed nothing."
    return table


def recipe_table(recipes: Iterable[Recipe]) -> Table:
    """The ways to convert that have a name."""
    table = new_table("Recipes", "name", "source", "what it does")
    for recipe in recipes:
        table.add_row(recipe.name, recipe.source, recipe.what)
    return table


NAMES_SHOWN = 2
"""Of so many nodes that would become the same the names are shown."""

_ROLE_STYLES = {"obstacle": "bold red", "neuron": "green", "approximated": "yellow"}


def readiness_table(rows: list[NodeReport]) -> Table:
    """What the nodes of an ANN, in canonical form, would become; those alike in one row."""
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        alike.setdefault((row.role, row.op, row.reason, row.option), []).append(row.node)
    table = new_table(
        "Nodes, in canonical form", ">nodes", "op", "becomes", "why", "option", "names"
    )
    for (role, op, reason, option), names in alike.items():
        shown = ", ".join(names[:NAMES_SHOWN])
        more = len(names) - NAMES_SHOWN
        table.add_row(
            str(len(names)),
            name_text(op),
            role,
            name_text(reason),
            name_text(option),
            name_text(f"{shown} and {more} more" if more > 0 else shown),
            style=_ROLE_STYLES.get(role),
        )
    if any(len(names) > NAMES_SHOWN for names in alike.values()):
        table.caption = "--json lists each node."
    return table


def agreement_table(agreements: list[Agreement]) -> Table:
    """How the ANN after each change agrees with the ANN before it."""
    table = new_table(
        "The ANN after each change, against that before it, without spikes (calibration data)",
        "change", ">same class %", ">accuracy before %", ">after %", ">relative error",
    )  # fmt: skip
    for row in agreements:
        table.add_row(
            row.change,
            percent_text(row.top1),
            percent_text(row.accuracy_before),
            percent_text(row.accuracy_after),
            f"{row.error:.1e}",
            style="bold red" if did_harm(row) else None,
        )
    return table


def did_harm(row: Agreement) -> bool:
    """Whether the network did not stand a change."""
    if row.top1 is None:
        return row.error > LARGE_ERROR
    loss = 0.0
    if row.accuracy_before is not None and row.accuracy_after is not None:
        loss = row.accuracy_before - row.accuracy_after
    return row.top1 < LOW_AGREEMENT or loss > LARGE_LOSS


def advice(
    agreements: list[Agreement], per_channel: bool, for_timesteps: bool = False
) -> list[str]:
    """What to do about each change that the network did not stand.

    ``per_channel``: whether each channel has a threshold already. ``for_timesteps``: whether
    thresholds are the best for T time-steps, and so low where these are few: higher ones would
    make most networks worse.
    """
    lines = []
    finer = "" if per_channel else ", thresholds per channel (--per-channel),"
    known = {
        UNQUANTISED: "convert the network as it was before quantisation, or train it with more "
        "levels",
        POOLED: "keep max-pooling as a pool that counts spikes (--maxpool exact), or train the "
        "network with average pooling in its place",
        CLIPPED: "more time-steps (-T), for which thresholds are higher, would lose less"
        if for_timesteps
        else f"take higher thresholds (--threshold max){finer} or more calibration data",
        APPROXIMATED: "take more clips (--approximate N)",
    }
    for row in agreements:
        cures = [cure for change, cure in known.items() if row.change.startswith(change)]
        if not cures or not did_harm(row):
            continue
        harm = f"has a relative error of {row.error:.2f}"
        if row.top1 is not None:
            harm = f"changed the class of {100 - row.top1:.1f} % of the samples"
        lines.append(f"'{row.change}' {harm}: {cures[0]}.")
    return lines
