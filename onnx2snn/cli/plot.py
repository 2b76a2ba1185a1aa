"""Accuracy over time-steps and errors by layer, drawn with matplotlib (extra ``[plot]``)."""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx2snn.graph_passes.errors import Onnx2SnnError
from onnx2snn.graph_passes.model_files.whole_file import write_bytes
from onnx2snn.measuring.diagnosis import LayerDiagnosis

from .terminal import printable


def pyplot() -> Any:
    """The module ``matplotlib.pyplot``, drawing to files; raises if it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise Onnx2SnnError("plots need matplotlib: pip install 'onnx2snn[plot]'") from error
    except ValueError as error:
        # As where MPLBACKEND names none of its backends.
        raise Onnx2SnnError(f"matplotlib does not start: {error}") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as module

    return module


SHARES = {"accuracy": "accuracy (%)", "agreement": "same class as the ANN (%)"}
"""The y axis, by what an evaluation says of a network."""

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
    what: str = SHARES["accuracy"],
) -> None:
    """Draw one curve over the time-steps for each entry, and the ANN as a dotted line.

    The file is written whole or not at all; raises ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    if ann is not None:
        ann_line(axes, ann)
    for (name, values), marker in zip(curves.items(), itertools.cycle(MARKERS), strict=False):
        axes.plot(times, values, marker=marker, label=name)
    time_axis(axes, times)
    drawn = [value for values in curves.values() for value in values]
    drawn += [] if ann is None else [ann]
    # Where all is near the top, from 0 on no difference could be seen.
    bottom = 0 if min(drawn) < 50 else 10 * ((min(drawn) - 1) // 10)
    axes.set_ylim(bottom, min(102, max(drawn) + max(1, 0.1 * (max(drawn) - bottom))))
    axes.set(xlabel="time-steps T", ylabel=what)
    set_title(axes, title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if len(curves) == 1 else "best")
    save(figure, path)


def early_exit_plot(
    path: Path,
    fixed: Sequence[tuple[int, float]],
    early: Sequence[tuple[float, float]],
    ann: float | None,
    title: str,
    what: str,
) -> None:
    """Draw accuracy over mean T: at fixed T, and where samples leave early, both (T, accuracy).

    The y axis is stretched towards the top, where rules differ. The file is written whole or
    not at all; raises ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    if ann is not None:
        ann_line(axes, ann)
    curves = {"the same T for all samples": fixed, "early exit": early}
    for (name, points), marker, colour in zip(curves.items(), "os", COLOURS[:2], strict=True):
        axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=name)
    ticks: list[int] = []
    for t, _ in reversed(fixed):
        if not ticks or 2 * t <= ticks[-1]:
            ticks.append(t)
    time_axis(axes, ticks)
    drawn = [value for _, value in (*fixed, *early)] + ([] if ann is None else [ann])
    # The same network on the same samples: even small differences say something.
    _stretch(axes, min(drawn), max(drawn), 0.2)
    axes.set(xlabel="mean time-steps T", ylabel=f"{what}, stretched")
    set_title(axes, title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    save(figure, path)


def comparison_plot(
    path: Path,
    times: Sequence[int],
    curves: Mapping[str, Sequence[float | None]],
    ann: float,
    samples: int,
    title: str,
    what: str,
) -> None:
    """Draw up to 28 curves over the time-steps, each with a colour and dashes of its own.

    By its place among them: one without any value is left out. The legend has them in the order in
    which they end. The y axis is stretched towards the top, where the ANN is, so that of curves at
    10 % and others within a point of the ANN both can be read; None leaves a gap. A band around the
    ANN is two standard errors of its figure, on so many ``samples``, to either side. Its lower half
    is always in view, and nothing within as much of the top is stretched, so that noise looks like
    noise. The file is written whole or not at all; raises ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9.0, 5.4), dpi=150, layout="constrained")
    ann_line(axes, ann)
    error = np.sqrt(ann * (100 - ann) / samples)
    if error:
        axes.axhspan(ann - 2 * error, ann + 2 * error, color="0.92", label="± 2 standard errors")
    # 7 colours and 4 dashes: no pair comes twice within 28 curves, and of two that are one the
    # first is seen between the dashes of the second.
    shown = {name: values for name, values in curves.items() if any(v is not None for v in values)}
    for number, (name, values) in enumerate(curves.items()):
        if name not in shown:
            continue
        axes.plot(
            times,
            [np.nan if value is None else value for value in values],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=_LINES[number % len(_LINES)],
            markersize=5,
            linewidth=1.5,
            label=name,
        )
    time_axis(axes, times)
    drawn = [value for values in shown.values() for value in values if value is not None]
    _stretch(axes, min([*drawn, ann - 2 * error]), max([*drawn, ann]), max(_NEAR, 2 * error))
    axes.set(xlabel="time-steps T", ylabel=f"{what}, stretched towards the top")
    set_title(axes, title)
    # Names of a model and of data, beside the legend.
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.3)
    handles, names = axes.get_legend_handles_labels()
    first = len(handles) - len(shown)
    ends = [next(v for v in reversed(values) if v is not None) for values in shown.values()]
    order = [*range(first), *(first + number for number in np.argsort(ends, kind="stable")[::-1])]
    figure.legend(
        [handles[number] for number in order], [names[number] for number in order],
        loc="outside right upper", fontsize="small", handlelength=4,
    )  # fmt: skip
    save(figure, path)


# The colours of Okabe and Ito, which the colour-blind can tell apart, without the yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = "os^DvP*X<>p"
_LINES = ("-", (0, (4, 3)), (0, (5, 2.5, 1, 2.5)), (0, (1, 1.5)))

_NEAR = 0.5
"""Gaps to the top, in points, that are less than this are drawn in proportion."""

_APART, _STEPS = 0.05, 10
"""The least part of an axis between two ticks, and so many steps to the top no tick is below."""


def _stretch(axes: Any, low: float, high: float, near: float) -> None:
    """A y axis from low to high on which each doubling of the gap to the top is as long.

    Gaps that are less than ``near`` are drawn in proportion.
    """
    top = high + near

    def place(y: Any) -> Any:
        return -np.log(np.maximum(top - y, 1e-3))

    axes.set_yscale("function", functions=(place, lambda f: top - np.exp(-f)))
    bottom, end = low - 0.1 * (high - low + near), high + near / 4
    axes.set_ylim(bottom, end)
    apart = _APART * (place(end) - place(bottom))
    ticks = list[float]()
    # The roundest first, and of these the ones at the top, where most of what is compared is.
    for step in (20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05):
        for number in range(int(min(end, 100) / step), int(np.ceil(max(bottom, 0) / step)) - 1, -1):
            tick = number * step
            far = all(abs(place(tick) - place(other)) >= apart for other in ticks)
            if far and top - tick <= _STEPS * step:
                ticks.append(tick)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def set_title(axes: Any, text: str) -> None:
    """A title as it is: a file's name in it may look like a formula, or be no text at all."""
    axes.set_title(printable(text), parse_math=False)


def ann_line(axes: Any, ann: float) -> None:
    """The accuracy of the ANN, in percent, as a dotted line."""
    axes.axhline(ann, color="black", linestyle=":", label=f"ANN ({ann:.1f} %)")


def time_axis(axes: Any, times: Sequence[int]) -> None:
    """Time-steps on a scale of powers of two, with a tick at each of ``times``."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(times, [str(t) for t in times])
    axes.minorticks_off()


LONGEST_NAME = 40
"""Characters of a layer's name in a plot; of a longer one, the end is shown."""


def diagnosis_plot(path: Path, layers: Sequence[LayerDiagnosis], title: str) -> None:
    """Draw each layer's errors as bars, the network's first layer at the top.

    The file is written whole or not at all; raises ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    ordered = sorted(layers, key=lambda layer: layer.place)
    many = len(ordered) > 40
    height = 1.6 + (0.2 if many else 0.42) * len(ordered)
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
    axes.set(xlabel="RMS error (% of the RMS of the activations)")
    # Of a tall picture one end alone is in view.
    axes.tick_params(axis="x", top=many, labeltop=many)
    set_title(axes, title)
    axes.grid(alpha=0.3, axis="x")
    figure.legend(ncols=5, loc="outside lower center")
    save(figure, path)


def _label(layer: LayerDiagnosis) -> str:
    name = printable(layer.name)
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"


def save(figure: Any, path: Path) -> None:
    """Write a figure in its path's format, whole or not at all, and close it."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix(".").lower())
    pyplot().close(figure)
    write_bytes(path, content.getvalue())
