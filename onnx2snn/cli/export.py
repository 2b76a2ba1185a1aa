"""The command ``onnx2snn export``: spiking networks for other people's systems."""

from pathlib import Path

import click

from onnx2snn.exports.loop import to_loop
from onnx2snn.exports.nir import to_nir
from onnx2snn.exports.triton import to_triton
from onnx2snn.graph_passes.model_files.files import read_structure, write_model
from onnx2snn.inspection import notes_on_timesteps

from . import terminal
from .options import examples, force_option, json_option, model_argument, refuse_options
from .outputs import print_json, require_no_input, require_output
from .parameter_types import LengthType, NamedPath


@examples(
    "  onnx2snn export snn.onnx --to loop -T 32 -o loop.onnx\n"
    "  onnx2snn export snn.onnx --to loop -T input --inline --rates --each-step -o plain.onnx\n"
    "  onnx2snn export snn.onnx --to triton -T 32 -o repository\n"
    "  onnx2snn export snn.onnx --to nir -o net.nir"
)
@click.command()
@model_argument
@click.option(
    "--to",
    "target",
    type=click.Choice(["loop", "triton", "nir"]),
    required=True,
    help="loop: one ONNX file with the time-steps inside. triton: a model repository of the "
    "Triton Inference Server, with that file and a stateful model of one time-step. nir: the "
    "Neuromorphic Intermediate Representation, for other spiking simulators; IF neurons only "
    "(convert --recipe best-binary --maxpool average, or --recipe opi).",
)
@click.option("-o", "--output", type=NamedPath(), required=True, help="File or folder to write.")
@click.option(
    "-T",
    "--timesteps",
    type=LengthType(),
    metavar="T|input",
    help="Number of time-steps, for loop and triton; 'input' makes it an input of the loop file.",
)
@click.option("--unroll", is_flag=True, help="T copies of the time-step in place of a Loop.")
@click.option("--inline", is_flag=True, help="Use ONNX's operators only, no functions.")
@click.option("--each-step", is_flag=True, help="Also output the read-out after each time-step.")
@click.option("--rates", is_flag=True, help="Also output the firing rate of each layer.")
@click.option("--gpu", is_flag=True, help="Triton: run on GPUs.")
@click.option(
    "--preprocessing",
    metavar="TEXT",
    help="How inputs are prepared, as a note in the file's metadata: 'pixels / 255'.",
)
@force_option
@json_option
def export(
    model: Path,
    target: str,
    output: Path,
    timesteps: int | str | None,
    unroll: bool,
    inline: bool,
    each_step: bool,
    rates: bool,
    gpu: bool,
    preprocessing: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the spiking network in MODEL for other systems."""
    of_loop = {"--unroll": unroll, "--inline": inline, "--each-step": each_step, "--rates": rates}
    if target == "nir":
        refuse_options(
            {"-T": timesteps, **of_loop}, "is not for --to nir: a NIR file has no time-steps"
        )
        refuse_options({"--gpu": gpu}, "is for --to triton")
        require_output(output, model, new=not force)
        notes = to_nir(model, output, preprocessing=preprocessing, new=not force)
        if as_json:
            print_json({"output": str(output), "notes": notes})
            return
        for line in (f"Wrote {output}.", *(f"- {note}" for note in notes)):
            terminal.say(line)
        return
    if timesteps is None or (target == "triton" and timesteps == "input"):
        what = "a number" if timesteps else "the number"
        raise click.UsageError(f"--to {target} needs -T, {what} of time-steps")
    if target == "triton":
        refuse_options(of_loop, "is for --to loop")
        for name in (model.stem, f"{model.stem}-stateful"):
            require_no_input(output / name / "1" / "model.onnx", model)
        folders = to_triton(
            model, output, int(timesteps), name=model.stem, gpu=gpu, force=force,
            preprocessing=preprocessing,
        )  # fmt: skip
        _tell(model, output, [str(folder) for folder in folders], timesteps, as_json)
        return
    refuse_options({"--gpu": gpu}, "is for --to triton")
    require_output(output, model, new=not force)
    result = to_loop(
        model,
        None if isinstance(timesteps, str) else timesteps,
        unroll=unroll,
        each_step=each_step,
        rates=rates,
        inline=inline,
        preprocessing=preprocessing,
    )
    write_model(result, output, new=not force)
    _tell(model, output, [output.name for output in result.graph.output], timesteps, as_json)


def _tell(model: Path, output: Path, made: list[str], timesteps: int | str, as_json: bool) -> None:
    if isinstance(timesteps, int):
        for note in notes_on_timesteps(read_structure(model), [timesteps]):
            terminal.note(note)
    if as_json:
        print_json({"output": str(output), "timesteps": timesteps, "outputs": made})
        return
    of = f"T={timesteps}" if isinstance(timesteps, int) else "T is an input"
    terminal.say(f"Wrote {output}, {of}: {', '.join(made)}.")
