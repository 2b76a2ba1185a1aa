"""Ratios of times, drawn with matplotlib (extra ``[plot]``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .plot import COLOURS, MARKERS, pyplot, save

TICKS = (1, 1.2, 1.5, 2, 3, 5, 7)
MOST_INCHES = 12.0


def ratio_plot(
    path: Path,
    groups: Sequence[str],
    ratios: Mapping[str, Mapping[str, Mapping[str, float]]],
    title: str,
    unit: str,
) -> None:
    """Draw groups of points, one for each entry that the group has, with quartiles.

    ratios: by name, by group, the ``median``, ``low`` and ``high`` of a ratio; ``unit`` is the
    time that is 1, a dotted line. Where there is room, the medians are written beside the points.
    The file is written whole or not at all; raises ``OutputError`` if it cannot be.
    """
    plt = pyplot()
    width = 0.8 / len(ratios)
    points = sum(map(len, ratios.values()))
    size = (min(max(6.4, 1.4 + 0.3 * points), MOST_INCHES), 4.4)
    figure, axes = plt.subplots(figsize=size, dpi=150, layout="constrained")
    axes.axhline(1, color="black", linestyle=":", linewidth=1)
    for number, (name, by_group) in enumerate(ratios.items()):
        places = [groups.index(group) + (number + 0.5) * width - 0.4 for group in by_group]
        middle = [ratio["median"] for ratio in by_group.values()]
        below = [ratio["median"] - ratio["low"] for ratio in by_group.values()]
        above = [ratio["high"] - ratio["median"] for ratio in by_group.values()]
        axes.errorbar(
            places,
            middle,
            (below, above),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markerfacecolor=COLOURS[number] if number < len(COLOURS) else "white",
            linestyle="none",
            capsize=2,
            label=name,
        )
        for place, value in zip(places, middle, strict=True) if size[0] < MOST_INCHES else ():
            axes.annotate(f"{value:.2f}", (place, value), xytext=(4, 0), fontsize="x-small",
                          textcoords="offset points", va="center")  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(plt.matplotlib.ticker.LogLocator(subs=TICKS))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    for place in range(1, len(groups)):
        axes.axvline(place - 0.5, color="silver", linewidth=0.8)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel=f"time ({unit} = 1)", title=title)
    axes.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside lower center", ncols=min(len(ratios), 5), fontsize="small")
    save(figure, path)
