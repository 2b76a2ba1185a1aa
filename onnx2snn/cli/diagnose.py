"""``onnx2snn diagnose``: where the conversion error is."""

from dataclasses import asdict
from pathlib import Path

import click

from onnx2snn.data.files import open_data
from onnx2snn.data.ranges import with_ranges
from onnx2snn.digests import OTHER_FILE, is_source
from onnx2snn.graph_passes.errors import counted
from onnx2snn.graph_passes.model_files.files import read_any
from onnx2snn.inspection import notes_on_timesteps
from onnx2snn.measuring import diagnosis

from . import tables, terminal
from .options import (
    batch_option,
    chosen_providers,
    data_option,
    device_option,
    examples,
    json_option,
    model_argument,
    refuse_root,
    root_option,
    samples_option,
    timesteps_option,
)
from .outputs import notes_on_inputs, print_json, require_plot, tell_drawn, title_of
from .parameter_types import MODEL, NamedPath
from .plot import diagnosis_plot


@examples(
    "  onnx2snn diagnose snn.onnx --ann ann.onnx --data test.npz -T 16\n"
    "  onnx2snn diagnose snn.onnx --ann ann.onnx --data fashion-mnist --samples 500 -T 8 \\\n"
    "      --plot layers.png"
)
@click.command()
@model_argument
@click.option("--ann", **MODEL, required=True, help="The ANN that MODEL was made from.")
@data_option
@timesteps_option
@click.option("--plot", type=NamedPath(), help="Draw each layer's errors.")
@root_option
@samples_option
@batch_option
@device_option
@json_option
def diagnose(
    model: Path,
    ann: Path,
    source: str,
    timesteps: int,
    plot: Path | None,
    data_root: Path | None,
    samples: int | None,
    batch_size: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Say which layers of the spiking network in MODEL err, and how.

    A layer's own error compares its spikes with the ANN's activation function applied to the
    layer's mean input, so errors of earlier layers do not count. It has three parts. Clipping:
    what exceeds V_th (cure: a higher threshold). Quantisation: what T steps of V_th cannot express
    (more time-steps, or a lower threshold). Unevenness: too many or too few spikes because input
    arrives irregularly, or because of a reset to zero or a restart (more time-steps).

    The total error compares the spikes with the ANN's activations, so errors of earlier layers
    count. If conversion replaced max-pools by average-pools or activations by clips, the ANN here
    has these too: convert says what they cost.

    Errors are root mean squares, in percent of the root mean square of what they are compared
    with. A current that corrects biases is part of a layer's mean input.
    """
    refuse_root(data_root, source)
    require_plot(plot, model, source, ann)
    snn = read_any(model)
    same = is_source(snn.structure, ann)
    data, ranges = with_ranges(
        open_data(source, data_root, samples=samples, labels=False, model=snn)
    )
    left_out: list[str] = []
    providers = chosen_providers(device)
    with terminal.overall_progress("rewriting") as report:
        layers = diagnosis.diagnose(
            snn,
            ann,
            data,
            timesteps,
            batch_size=batch_size,
            providers=providers,
            report=report,
            left_out=left_out,
        )
    for note in (*notes_on_timesteps(snn.structure, [timesteps]), *notes_on_inputs(snn, ranges)):
        terminal.note(note)
    if not same:
        terminal.note(OTHER_FILE)
    if left_out:
        changes = " and ".join(left_out)
        terminal.note(f"in the ANN here {changes}: what that cost is not in these figures")
    if as_json:
        print_json(
            {
                "samples": data.samples,
                "timesteps": timesteps,
                "same_file": same,
                "left_out": left_out,
                "layers": [asdict(layer) for layer in layers],
            }
        )
    else:
        terminal.console().print(
            tables.diagnosis_table(layers, f"{counted(data.samples, 'sample')}, T={timesteps}")
        )
    if plot is not None:
        diagnosis_plot(plot, layers, f"{title_of(data)}, T={timesteps}")
        tell_drawn(plot, as_json)
