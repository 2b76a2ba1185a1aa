"""The command ``onnx2snn demo``: the network that ships, on real images."""

from pathlib import Path

import click

from onnx2snn.demo import MOST_IMAGES, TIMESTEPS, run_demo
from onnx2snn.graph_passes.model_files.files import write_model
from onnx2snn.graph_passes.model_files.whole_file import folder_for

from . import tables, terminal
from .options import examples, json_option
from .outputs import print_json
from .parameter_types import NamedPath
from .plot import accuracy_plot, pyplot


@examples("  onnx2snn demo\n  onnx2snn demo --output results --samples 500")
@click.command()
@click.option(
    "--output",
    type=NamedPath(file_okay=False),
    default="demo-out",
    show_default=True,
    help="Folder for the networks and the plot; made if it is not there.",
)
@click.option(
    "--samples", type=click.IntRange(1, MOST_IMAGES), help="How many of the images.  [default: all]"
)
@json_option
def demo(output: Path, samples: int | None, as_json: bool) -> None:
    """Convert the shipped ResNet-20 and classify real images with it.

    Shows the accuracy of the ANN and of the spiking network at T = 4, 8, 16, 32, started
    at half the threshold and at zero.
    """
    pyplot()
    with folder_for(output):
        with terminal.overall_progress("rewriting") as report:
            found = run_demo(samples, report)
        for name, conversion in zip(("half", "zero"), found.conversions.values(), strict=True):
            write_model(conversion.parts, output / f"snn-{name}.onnx")
        title = f"ResNet-20, {found.samples} Fashion-MNIST test images"
        accuracy_plot(output / "accuracy.png", TIMESTEPS, found.accuracies, found.ann, title)
    if as_json:
        print_json(
            {
                "samples": found.samples,
                "timesteps": TIMESTEPS,
                "ann": found.ann,
                "snn": found.accuracies,
            }
        )
        return
    terminal.say(
        f"{title}; the network was trained with clips, so no data was needed to convert it."
    )
    terminal.console().print(tables.demo_table(TIMESTEPS, found.ann, found.accuracies))
    terminal.say(f"Wrote snn-half.onnx, snn-zero.onnx and accuracy.png to {output}/")
