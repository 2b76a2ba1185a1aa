"""The command ``onnx2snn import``: spiking networks from other systems' files."""

from pathlib import Path

import click

from onnx2snn.graph_passes.files import write_model

from . import tables
from .options import (
    MODEL,
    OutputPath,
    examples,
    json_option,
    print_json,
    reports_errors,
    require_output,
)


@examples("  onnx2snn import net.nir -o snn.onnx")
@click.command("import")
@click.argument("file", **MODEL)
@click.option("-o", "--output", type=OutputPath(), required=True, help="The SNN.")
@click.option("--force", is_flag=True, help="Replace what stands at OUTPUT.")
@json_option
@reports_errors
def import_(file: Path, output: Path, force: bool, as_json: bool) -> None:
    """Read the spiking network in FILE, a NIR file that 'onnx2snn export' wrote."""
    from .export import require_new
    from .import_nir import from_nir

    require_new(output, force)
    require_output(output, file)
    write_model(from_nir(file), output, new=not force)
    if as_json:
        print_json({"output": str(output)})
        return
    tables.console().print(f"Wrote {output}.", markup=False)
