"""The command ``onnx2snn check``: what of an ANN would convert."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from onnx2snn.converting import readiness
from onnx2snn.graph_passes.graph.operators import MaxPool

from . import terminal
from .conversion_tables import readiness_table
from .options import examples, json_option, maxpool_option, model_argument, on_means_option
from .outputs import print_json


@examples(
    "  onnx2snn check ann.onnx\n  onnx2snn check ann.onnx --maxpool exact --approximate --json"
)
@click.command()
@model_argument
@maxpool_option("average")
@click.option(
    "--approximate", is_flag=True, help="Allow clips in place of Sigmoid, Tanh, SiLU, GELU, ..."
)
@on_means_option
@json_option
def check(model: Path, maxpool: MaxPool, approximate: bool, on_means: bool, as_json: bool) -> None:
    """Say whether the ANN in MODEL would convert, and if not, why.

    Exits with 0 if it converts, given the options that are named; else with 1.
    """
    result = readiness.check(model, maxpool=maxpool, approximate=approximate, on_means=on_means)
    if as_json:
        print_json(asdict(result))
    else:
        terminal.console().print(readiness_table(result.nodes))
        terminal.say(f"Exact rewriting {result.check}.")
        for line in result.notes:
            terminal.say(f"Note: {line}", "yellow")
        terminal.say(result.verdict, "bold green" if result.converts else "bold red")
    if not result.converts:
        sys.exit(1)
