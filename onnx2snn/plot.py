"""Accuracy over time-steps and errors by layer, drawn with matplotlib (extra ``[plot]``)."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx2snn.graph_passes.errors import Onnx2SnnError
from onnx2snn.graph_passes.files import write_bytes

from .diagnosis import LayerDiagnosis
from .tables import printable


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
    _save(figure, path)


LONGEST_NAME = 40
"""Characters of a layer's name in a plot; of a longer one, the end is shown."""


def diagnosis_plot(path: Path, layers: Sequence[LayerDiagnosis], title: str) -> None:
    """Draw each layer's errors as bars, the network's first layer at the top.

    The file is written whole or not at all; raises ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    ordered = sorted(layers, key=lambda layer: layer.place)
    height = 1.6 + 0.42 * len(ordered)
    figure, axes = plt.subplots(figsize=(8.0, height), dpi=150, layout="constrained")
    kinds = {"clipping": "#0072b2", "quantisation": "#e69f00", "unevenness": "#cc3311"}
    for number, (kind, color) in enumerate(kinds.items()):
        places = [layer.place + 0.26 * (number - 1) for layer in ordered]
        values = [getattr(layer, kind) for layer in ordered]
        axes.barh(places, values, 0.26, color=color, label=kind)
    places = [layer.place for layer in ordered]
    for kind, marker, color in (("total", "d", "silver"), ("own", "|", "black")):
        values = [getattr(layer, f"{kind}_error") for layer in ordered]
        axes.scatter(values, places, s=60, c=color, marker=marker, label=f"{kind} error", zorder=3)
    axes.set_yticks(places, [_label(layer) for layer in ordered], parse_math=False)
    axes.set_ylim(len(ordered) + 0.6, 0.4)
    axes.set_xlim(left=0)
    axes.set(xlabel="RMS error (% of the RMS of the activations)", title=title)
    axes.grid(alpha=0.3, axis="x")
    figure.legend(ncols=5, loc="outside lower center")
    _save(figure, path)


def _label(layer: LayerDiagnosis) -> str:
    name = printable(layer.name)
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"


def _save(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix(".").lower())
    pyplot().close(figure)
    write_bytes(path, content.getvalue())
