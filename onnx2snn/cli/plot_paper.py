"""The paper's Figures 1 and S1, drawn with matplotlib (extra ``[plot]``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .plot import ann_line, pyplot, save, set_title, time_axis
from .terminal import printable


def fired_plot(
    path: Path,
    times: Sequence[int],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    title: str,
) -> None:
    """Fig. 1: for each initial potential, a line a layer: percent of neurons that fired by t.

    Early layers are dark, late ones bright. The file is written whole or not at all; raises
    ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    figure, panels = plt.subplots(
        1, len(curves), figsize=(9.0, 4.0), dpi=150, layout="constrained", sharey=True
    )
    count = len(next(iter(curves.values())))
    place = plt.Normalize(1, max(count, 2))
    for axes, (name, layers) in zip(panels, curves.items(), strict=True):
        for number, shares in enumerate(layers.values(), 1):
            axes.plot(times, shares, color=plt.cm.viridis(place(number)), marker=".")
        time_axis(axes, times)
        axes.grid(alpha=0.3)
        axes.set(xlabel="time-step t", title=f"v(0): {name}")
    panels[0].set(ylabel="neurons that have fired (%)", ylim=(0, None))
    scale = plt.cm.ScalarMappable(place, "viridis")
    figure.colorbar(scale, ax=panels, label="layer", ticks=plt.MaxNLocator(integer=True))
    figure.suptitle(printable(title), parse_math=False)
    save(figure, path)


def potential_plot(
    path: Path,
    times: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    ann: float,
    title: str,
) -> None:
    """Fig. S1: accuracy over v(0) / V_th, a line for each T; ``curves`` by v(0) / V_th.

    The file is written whole or not at all; raises ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 4.5), dpi=150, layout="constrained")
    ann_line(axes, ann)
    potentials = [float(name) for name in curves]
    for number, t in enumerate(times):
        values = [accuracies[number] for accuracies in curves.values()]
        color = plt.cm.viridis(number / len(times))
        axes.plot(potentials, values, marker="o", markersize=4, color=color, label=f"T={t}")
    axes.axvspan(0.4, 0.6, color="grey", alpha=0.15, label="the paper's best")
    axes.set_xticks(potentials)
    axes.set(xlabel="v(0) / V_th", ylabel="accuracy (%)")
    set_title(axes, title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    save(figure, path)
