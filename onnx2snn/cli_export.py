"""The command ``onnx2snn export``: spiking networks for other people's systems."""

from pathlib import Path

import click

from onnx2snn.graph_passes.files import write_model

from . import tables
from .options import (
    examples,
    json_option,
    model_argument,
    print_json,
    reports_errors,
    require_output,
)


class LengthType(click.ParamType):
    """The number of time-steps, or ``input`` to leave it to whoever runs the file."""

    name = "T|input"

    def convert(self, value: object, param: object, ctx: object) -> int | str:
        """T or "input"; a usage error for anything else."""
        text = str(value)
        if text == "input":
            return text
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"'{text}' is no number of time-steps, from 1 on, nor 'input'")
        return int(text)


@examples(
    "  onnx2snn export snn.onnx --to loop -T 32 -o net.onnx\n"
    "  onnx2snn export snn.onnx --to loop -T input --inline --rates --each-step -o net.onnx"
)
@click.command()
@model_argument
@click.option(
    "--to",
    "target",
    type=click.Choice(["loop"]),
    required=True,
    help="loop: one ONNX file with the time-steps inside.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The result.")
@click.option(
    "-T",
    "--timesteps",
    type=LengthType(),
    help="Time-steps; 'input' makes them an input of the loop file.",
)
@click.option("--unroll", is_flag=True, help="Copies of the time-step in place of a Loop.")
@click.option("--inline", is_flag=True, help="Only operators of ONNX itself.")
@click.option("--each-step", is_flag=True, help="Also the read-outs after each time-step.")
@click.option("--rates", is_flag=True, help="Also the firing rate of each layer.")
@click.option(
    "--preprocessing",
    metavar="TEXT",
    help="What is done to an input before, for the file's metadata: 'pixels / 255'.",
)
@click.option("--force", is_flag=True, help="Replace what stands at OUTPUT.")
@json_option
@reports_errors
def export(
    model: Path,
    target: str,
    output: Path,
    timesteps: int | str | None,
    unroll: bool,
    inline: bool,
    each_step: bool,
    rates: bool,
    preprocessing: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the spiking network in MODEL for other systems."""
    from .export import require_new, to_loop

    if timesteps is None:
        raise click.UsageError("--to loop needs -T, the number of time-steps, or -T input")
    require_new(output, force)
    require_output(output, model)
    result = to_loop(
        model,
        None if isinstance(timesteps, str) else timesteps,
        unroll=unroll,
        each_step=each_step,
        rates=rates,
        inline=inline,
        preprocessing=preprocessing,
    )
    write_model(result, output)
    inputs, outputs = (
        [info.name for info in side] for side in (result.graph.input, result.graph.output)
    )
    if as_json:
        print_json(
            {"output": str(output), "timesteps": timesteps, "inputs": inputs, "outputs": outputs}
        )
        return
    console = tables.console()
    console.print(f"Inputs: {', '.join(inputs)}. Outputs: {', '.join(outputs)}.", markup=False)
    console.print(f"Wrote {output}: {timesteps} time-steps.", markup=False)
