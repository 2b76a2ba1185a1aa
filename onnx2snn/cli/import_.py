"""The command ``onnx2snn import``: spiking networks from other systems' files."""

from pathlib import Path

import click

from onnx2snn.exports.from_nir import from_nir
from onnx2snn.graph_passes.model_files.files import write_model

from . import terminal
from .options import examples, force_option, json_option
from .outputs import print_json, require_output, with_data_file
from .parameter_types import MODEL, NamedPath


@examples("  onnx2snn import net.nir -o snn.onnx")
@click.command("import")
@click.argument("file", **MODEL)
@click.option("-o", "--output", type=NamedPath(), required=True, help="SNN file.")
@force_option
@json_option
def import_(file: Path, output: Path, force: bool, as_json: bool) -> None:
    """Read a spiking network from a NIR file of 'onnx2snn export'."""
    require_output(output, file, new=not force)
    write_model(from_nir(file), output, new=not force)
    if as_json:
        print_json({"output": str(output)})
        return
    terminal.say(f"Wrote {with_data_file(output)}.")
