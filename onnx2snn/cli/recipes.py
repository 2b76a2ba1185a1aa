"""The command ``onnx2snn recipes``: the ways to convert that have a name."""

import click

from onnx2snn.recipes import RECIPES

from . import terminal
from .conversion_tables import recipe_table
from .options import examples, json_option
from .outputs import print_json


@examples("  onnx2snn recipes\n  onnx2snn recipes --json")
@click.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the recipes (ways to convert) and their sources."""
    if as_json:
        rows = [{"name": r.name, "source": r.source, "what": r.what} for r in RECIPES]
        print_json({"recipes": rows})
        return
    terminal.console().print(recipe_table(RECIPES))
