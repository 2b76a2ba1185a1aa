"""Accuracy over time-steps, drawn with matplotlib (extra ``[plot]``)."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx2snn.graph_passes.errors import Onnx2SnnError
from onnx2snn.graph_passes.files import write_bytes


def pyplot() -> Any:
    """The module ``matplotlib.pyplot``, drawing to files; raises if it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise Onnx2SnnError("plots need matplotlib: pip install 'onnx2snn[plot]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as module

    return module


FORMATS = (".png", ".pdf", ".svg", ".jpg")


def check_format(path: Path) -> None:
    """Raise ``Onnx2SnnError`` if matplotlib is missing or this is no kind of file for a plot."""
    pyplot()
    if path.suffix.lower() not in FORMATS:
        raise Onnx2SnnError(f"cannot draw to '{path}': use one of {', '.join(FORMATS)}")


def accuracy_plot(
    path: Path,
    times: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    ann: float | None,
    title: str,
    what: str = "accuracy (%)",
) -> None:
    """Draw one curve over the time-steps for each entry, and the ANN as a dotted line.

    The file is written whole or not at all; raises ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    if ann is not None:
        axes.axhline(ann, color="black", linestyle=":", label=f"ANN ({ann:.1f} %)")
    for (name, values), marker in zip(curves.items(), "os^Dv" * len(curves), strict=False):
        axes.plot(times, values, marker=marker, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(times, [str(t) for t in times])
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.set(xlabel="time-steps T", ylabel=what, title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if len(curves) == 1 else "best")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix(".").lower())
    plt.close(figure)
    write_bytes(path, content.getvalue())
