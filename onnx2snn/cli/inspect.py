"""``onnx2snn inspect``: what is in a file, and how it would run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from onnx2snn.exports.from_nir import header_of, is_nir
from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.model_files.files import parse_structure, read_any
from onnx2snn.inspection import export_of, names_and_shapes, own_metadata_of
from onnx2snn.json_values import json_object
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.choices.choice import Choice
from onnx2snn.runtime.choices.chunks import MIDDLE, WeightedLayer
from onnx2snn.runtime.choices.memory import Memory
from onnx2snn.runtime.plans.plan import Plan, build_plan
from onnx2snn.runtime.precision import Precision, precision_rows

from . import terminal
from .conversion_tables import session_table
from .options import (
    examples,
    json_option,
    max_memory_option,
    model_argument,
    precision_option,
    refuse_options,
    threads_option,
)
from .outputs import print_json
from .parameter_types import COUNT


@examples(
    "  onnx2snn inspect snn.onnx\n"
    "  onnx2snn inspect snn.onnx --json\n"
    "  onnx2snn inspect snn.onnx --plan --batch-size 16\n"
    "  onnx2snn inspect snn.onnx --plan --precision int8"
)
@click.command()
@model_argument
@click.option("--plan", "show_plan", is_flag=True, help="Show how time-steps would run, and why.")
@click.option(
    "-N",
    "--batch-size",
    type=COUNT,
    help="For --plan: samples at a time.  [default: 1]",
)
@precision_option
@max_memory_option
@threads_option
@json_option
def inspect(
    model: Path,
    show_plan: bool,
    batch_size: int | None,
    precision: Precision,
    max_memory: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Show the neurons of the spiking network in MODEL.

    Also says how it was made. For an export it shows inputs and outputs, where thresholds come
    from, and how it was made.

    With --plan also how time-steps run: how many at once, which layers run once for all of them,
    how spikes are counted, and how much memory that takes, by estimate. With --precision int8
    also which layers are computed in 8 bits.
    """
    if not show_plan:
        of_plan = {"--batch-size": batch_size, "--max-memory": max_memory,
                   "--precision": precision != "float32", "--threads": threads}  # fmt: skip
        refuse_options(of_plan, "is for --plan: give that too")
    export = export_of(header_of(model) if is_nir(model) else parse_structure(model))
    if export is not None:
        refuse_options({"--plan": show_plan}, "is for a spiking network, not for an export of one")
        _print_export(export, as_json)
        return
    parts = read_any(model)
    plan = build_plan(parts)
    metadata = own_metadata_of(parts.structure)
    sources = json_object(metadata.pop("thresholds", ""))
    recipe = json_object(metadata.pop("recipe", ""))
    choice, layers, rows = None, [], []
    if show_plan:
        x = _zeros(plan, batch_size)
        session = SpikingSession(parts, max_memory=max_memory, precision=precision, threads=threads)
        choice, rows = session.chosen(x), precision_rows(session.precisions)
        layers = _layers(choice)
    if as_json:
        print_json(
            {
                "input": {"name": plan.inputs[0].name, "shape": list(plan.inputs[0].shape)},
                "output": plan.outputs[0],
                "inputs": [{"name": t.name, "shape": list(t.shape)} for t in plan.inputs],
                "outputs": list(plan.outputs),
                "neurons": [
                    {
                        "name": neuron.name,
                        "shape": list(neuron.shape),
                        "threshold": neuron.threshold.tolist(),
                        "v_init": neuron.v_init.tolist(),
                        "source": sources.get(neuron.name),
                    }
                    for neuron in plan.neurons
                ],
                "recipe": recipe,
                "metadata": metadata,
                **({} if choice is None else {"plan": _described(choice, layers, rows)}),
            }
        )
        return
    console = terminal.console()
    console.print(session_table(plan.neurons, sources))
    names = {*(tensor.name for tensor in plan.inputs), *plan.outputs}
    inputs, outputs = (
        [tensor for tensor in names_and_shapes(side) if tensor["name"] in names]
        for side in (parts.structure.graph.input, parts.structure.graph.output)
    )
    for line in [*lines_of_tensors(inputs, outputs), *_lines_of_settings(recipe, metadata)]:
        terminal.say(line)
    if choice is not None:
        console.print()
        console.print(_layer_table(choice.samples, layers, rows))
        for line in _lines_of(choice):
            terminal.say(line)


def _print_export(told: dict[str, Any], as_json: bool) -> None:
    """What ``inspect`` says of an export."""
    if as_json:
        print_json(told)
        return
    lines = lines_of_tensors(told["inputs"], told["outputs"])
    lines += _lines_of_thresholds(told["thresholds"])
    lines += _lines_of_settings(told["recipe"], {**told["export"], **told["metadata"]})
    for line in lines:
        terminal.say(line)


def _lines_of_thresholds(sources: dict[str, str]) -> list[str]:
    """What the thresholds of layers are from, by layer: once, if that is the same for all."""
    layers: dict[str, list[str]] = {}
    for name, source in sources.items():
        layers.setdefault(str(source), []).append(name)
    if len(layers) == 1:
        return [f"threshold from: {source}" for source in layers]
    return [f"threshold of {', '.join(names)}: {source}" for source, names in layers.items()]


def lines_of_tensors(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> list[str]:
    """The ``names_and_shapes`` of what a file takes and gives, to read."""
    return [
        f"{side} {tensor['name']} [{', '.join(map(str, tensor['shape']))}]"
        for side, tensors in (("input", inputs), ("output", outputs))
        for tensor in tensors
    ]


def _lines_of_settings(recipe: dict[str, Any], others: dict[str, Any]) -> list[str]:
    return [f"recipe, {line}" for line in settings_in_words(recipe)] + settings_in_words(others)


def settings_in_words(settings: dict[str, Any]) -> list[str]:
    """Settings that a file holds, a line each, but for those that are None."""
    return [
        f"{name}: {_of_neurons(value) if name == 'neuron' else _in_words(value)}"
        for name, value in settings.items()
        if value is not None
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_in_words, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{name} {_in_words(part)}" for name, part in value.items()) or "none"
    return "none" if value is None else str(value)


def _of_neurons(value: Any) -> str:
    """The kind of neurons, with what it heeds of its settings."""
    if not isinstance(value, dict) or not isinstance(value.get("op"), str):
        return _in_words(value)
    bursts = dict.fromkeys(("BurstIF", "SignedBurstIF"), "max_spikes")
    heeded = {"SignedIF": "negative", **bursts}.get(value["op"])
    more = f", {heeded} {value[heeded]}" if heeded in value else ""
    return f"{value['op']}{more}"


def _zeros(plan: Plan, samples: int | None) -> dict[str, np.ndarray]:
    """Inputs of so many samples; if that is not said, of one, or of as many as the network has."""
    x, counts = {}, [tensor.shape[0] for tensor in plan.inputs if tensor.shape]
    fixed = counts and all(isinstance(count, int) for count in counts)
    if fixed and samples not in (None, *counts):
        raise DataError(f"the network is for {max(counts)} samples at a time: leave -N out")
    for tensor in plan.inputs:
        first, sizes = tensor.shape[:1], tensor.shape[1:]
        shape = [*(size if isinstance(size, int) else samples or 1 for size in first), *sizes]
        if any(isinstance(size, str) for size in sizes):
            raise DataError(
                f"the size of the input '{tensor.name}', {terminal.shape_text(tuple(sizes))}, is "
                "not fixed: ask SpikingSession.chosen(x) with an x of the size that counts"
            )
        x[tensor.name] = np.zeros(shape, tensor.dtype)
    return x


def _described(
    choice: Choice, layers: list[dict[str, Any]], rows: list[dict[str, str]]
) -> dict[str, Any]:
    """``layers``: those of ``_layers``; ``rows``: those of ``precision_rows``."""
    memory = choice.memory
    return {
        "samples": choice.samples,
        "samples_together": choice.groups.long,
        "samples_together_in_short_chunks": choice.groups.short,
        "samples_together_in_single_time_steps": choice.groups.alone,
        "chunks": list(choice.chunks),
        "chunks_between": list(choice.between),
        "short_of_memory": choice.short_of_memory,
        "lean": choice.lean,
        "layout": "cpu" if choice.layout else "plain",
        "spike_counts": "derived" if choice.derived_counts else "summed",
        "layers": layers,
        **({"precisions": rows} if rows else {}),
        "bytes": asdict(memory) | {"total": memory.total},
    }


def _layers(choice: Choice) -> list[dict[str, Any]]:
    """The layers with weights, and what decides how each runs, in the longest runs."""
    longest = choice.forms[max(choice.chunks, default=1)]
    return [
        {
            "name": layer.name,
            "op": layer.op,
            "runs": _runs(layer, choice),
            "tiles": bool(choice.chunks) and layer.tiles is not None,
            "columns": layer.columns in longest.columns,
            "weights_first": layer.initializer in longest.weights_first,
            "weights": layer.weights,
            "computes": layer.computes,
            "why": layer.why,
        }
        for layer in choice.layers
    ]


def _runs(layer: WeightedLayer, choice: Choice) -> str:
    if not choice.chunks:
        return "one at a time"
    return "time-batched" if layer.time_batched else "unrolled"


_WAYS = {
    "tiles": "tiles: 16 multiplications for 2 x 2 results instead of 36 (Winograd)",
    "columns": "columns: all images of a run are one product with the weights",
    "weights_first": "weights first: read where they are, one copy for all runs",
}
"""What a layer may run on besides, and what that is."""


def _layer_table(samples: int, layers: list[dict[str, Any]], rows: list[dict[str, str]]) -> Table:
    table = terminal.new_table(
        f"Layers with weights, N={samples}",
        "layer", "op", "runs", ">weights", ">computes", "why", *(["in", "why"] if rows else []),
    )  # fmt: skip
    precisions = {row["layer"]: (row["precision"], row["reason"]) for row in rows}
    for layer in layers:
        ways = [f", {way.replace('_', ' ')}" for way in _WAYS if layer[way]]
        table.add_row(
            terminal.name_text(layer["name"]),
            layer["op"],
            layer["runs"] + "".join(ways),
            f"{layer['weights']:,}",
            f"{layer['computes']:,}",
            layer["why"],
            *precisions.get(layer["name"], ()),
        )
    said = [text for way, text in _WAYS.items() if any(layer[way] for layer in layers)]
    first = "computes: numbers in one time-step, for all samples that run together"
    table.caption = "\n".join([first, *said])
    return table


def _lines_of(choice: Choice) -> list[str]:
    """The rest of a choice, in sentences."""
    layout = "the layout of the CPU" if choice.layout else "plain layout"
    order = "" if choice.layout is None else ", layer by layer"
    counts = "are added up at every time-step"
    if choice.derived_counts:
        counts = "follow from states, when they are asked for"
    return [
        _line_of_lengths(choice),
        *([f"these runs are in {layout}{order}"] if choice.chunks else []),
        *([_line_of_copies(choice)] if choice.lean else []),
        *_lines_of_groups(choice),
        "input that varies in time: one time-step a run",
        f"spike counts {counts}",
        _line_of_memory(choice.memory),
    ]


def _line_of_lengths(choice: Choice) -> str:
    """How many time-steps are one run."""
    short = " (more do not fit the memory)" if choice.short_of_memory and not choice.lean else ""
    if not choice.chunks:
        return f"one time-step a run{short}"
    lengths, between = " or ".join(map(str, choice.chunks)), choice.between
    others = f", or another number from {between[0]} to {between[-1]}" if between else ""
    fewest = min([*choice.chunks, *between])
    left = f"; what is left over, fewer than {fewest}, one at a time"
    return f"constant input: {lengths} time-steps a run{others}{left}{short}"


def _line_of_copies(choice: Choice) -> str:
    """What lean graphs share, and why they are lean."""
    bound = "" if choice.within_budget else ", to take at most 1.5 times weights and states"
    return (
        f"all of these share one copy of the weights, and of matrices for tiles{bound}: others may "
        "be faster, where --max-memory allows for copies"
    )


def _lines_of_groups(choice: Choice) -> list[str]:
    """How many samples are in a run, where not all are."""
    usual = choice.groups.of(max(choice.chunks, default=1))
    if usual >= choice.samples:
        return []
    short, alone = choice.groups.short, choice.groups.alone
    more = [f"{short} in one of {MIDDLE} time-steps or fewer"] if short > usual else []
    more += [f"{alone} in a single time-step"] if alone > max(usual, short) else []
    why = f"; {' and '.join(more)}, so that weights are read less often" if more else ""
    return [f"samples in a run: {usual}, so that the caches hold the states of a layer{why}"]


def _line_of_memory(memory: Memory) -> str:
    """The parts of an estimate, and their sum."""
    parts = {
        "weights": memory.weights,
        "graphs": memory.graphs,
        "states": memory.states + memory.starts,
        "inputs": memory.inputs,
        "activations": memory.activations + memory.idle + memory.planned,
        "read-out": memory.read_out,
        "outputs": memory.outputs,
        "spike counts": memory.counts,
    }
    shown = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in parts.items())
    return f"estimated memory, MB: {shown}; together {memory.total / 1e6:.1f}"
