"""Let sums of clips stand in for scalar activations that are not piecewise linear."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .errors import Refusal, UnsupportedModelError, counted, require_whole
from .graph.computed import computed
from .graph.editing import Editor, one_number, replace_node, require_opset
from .graph.scalar_regions import ScalarRegion, regions_to_approximate
from .graph.tidying import tidy
from .model_files.protos import onnx_type

_GRID = 1025

MOST_CLIPS = 64
"""In place of one activation: each is a layer of neurons."""


@dataclass(frozen=True)
class ClipFit:
    """A piecewise linear function: float64 knots k, ascending, and its values y there, [clips + 1].

    Beyond the first and the last knot it is constant.
    """

    knots: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class _Written:
    """The same in the type of a region: the first value, knots, and the slopes between these."""

    start: np.ndarray
    knots: np.ndarray
    slopes: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        steps = self.slopes.astype(np.float64) * np.diff(self.knots)
        return np.asarray(np.interp(x, self.knots, self.start + np.cumsum(np.append(0, steps))))


def fit_clips(
    graph: gs.Graph,
    samples: Mapping[str, np.ndarray],
    clips: int,
    found: list[str] | None = None,
) -> dict[str, ClipFit]:
    """The functions of ``clips`` pieces nearest to those of regions, by the regions' names.

    Knots and values minimise the squared error over ``samples``: values of x from data, by the
    name of the region, as ``regions_to_approximate`` names it. A line for each region that says
    its error is appended to ``found``. Raises ``UnsupportedModelError`` for a function that is not
    finite all over that range, or too steep for its type, ``DataError`` for fewer clips than 1.
    """
    clips = require_whole("clips", clips, 1)
    wanted = [r for r in regions_to_approximate(graph) if r.name in samples]
    places = [_places(samples[region.name]) for region in wanted]
    curves = [_evaluate(r, x, graph.opset) for r, x in zip(wanted, places, strict=True)]
    _require_finite(wanted, places, curves)
    weights = [_weights(samples[region.name], x) for region, x in zip(wanted, places, strict=True)]
    fits = {}
    for region, x, y, weight in zip(wanted, places, curves, weights, strict=True):
        knots = _fit_knots(x, y, weight, clips)
        fits[region.name] = ClipFit(knots, _fit_values(x, y, weight, knots))
    written = _in_types_of(wanted, fits)
    if found is not None:
        for region, x, y, weight in zip(wanted, places, curves, weights, strict=True):
            error = written[region.name](x) - y
            rms = float(np.sqrt((weight * error**2).sum()))
            found.append(
                f"{region.op} '{region.name}': {counted(clips, 'clip')} over "
                f"[{x[0]:.4g}, {x[-1]:.4g}], RMS error {rms:.2g}, "
                f"largest {np.abs(error).max():.2g}, of values from {y.min():.4g} to {y.max():.4g}"
            )
    return fits


def approximate_activations(graph: gs.Graph, fits: Mapping[str, ClipFit]) -> bool:
    """f(x) -> y_0 + sum of s_i clip(x - k_i; 0, k_(i+1) - k_i), i = 1 to the number of clips.

    ``fits``: what ``fit_clips`` found, by the names of the regions. Raises
    ``UnsupportedModelError`` for slopes that are too much for the type of a region.
    """
    require_opset(graph)
    editor = Editor(graph)
    # All before any is replaced, since regions may overlap.
    wanted = [r for r in regions_to_approximate(graph) if r.name in fits]
    written = _in_types_of(wanted, fits)
    for region in wanted:
        _replace(editor, region, written[region.name])
    tidy(graph)
    return bool(wanted)


def _require_finite(
    wanted: list[ScalarRegion], places: list[np.ndarray], curves: list[np.ndarray]
) -> None:
    refusals = []
    for region, x, y in zip(wanted, places, curves, strict=True):
        if not np.all(np.isfinite(y)):
            reason = f"it is not finite all over the data, [{x[0]:.4g}, {x[-1]:.4g}]"
            refusals.append(Refusal(region.name, region.op, reason))
    _refuse(refusals)


def _refuse(refusals: list[Refusal]) -> None:
    if refusals:
        raise UnsupportedModelError("clips cannot approximate these activations:", refusals)


def _places(samples: np.ndarray) -> np.ndarray:
    """Places all over the range of the samples."""
    low, high = float(np.min(samples)), float(np.max(samples))
    # Places nearer to each other than numbers are would be the same place.
    apart = 1e-10 * max(abs(low), abs(high))
    return np.linspace(low, high if high - low > apart else low + max(1.0, 1000 * apart), _GRID)


def _evaluate(region: ScalarRegion, x: np.ndarray, opset: int) -> np.ndarray:
    """F at the places x."""
    dtype = np.dtype(np.float32 if region.source.dtype is None else region.source.dtype)
    numbers = {t.name: one_number(t) for node in region.nodes for t in node.inputs}
    known = {name: value for name, value in numbers.items() if value is not None}
    found = computed(region.nodes, known | {region.source.name: x.astype(dtype)}, opset)
    assert found is not None
    return found.reshape(-1)


def _weights(samples: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How much each place counts: as often as the data has it, and a little everywhere."""
    counts, _ = np.histogram(samples, bins=np.append(x, x[-1] + (x[1] - x[0])))
    share = counts / max(counts.sum(), 1)
    return np.asarray(0.9 * share + 0.1 / len(x))


def _fit_values(x: np.ndarray, y: np.ndarray, weights: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """The values at the knots of the piecewise linear function nearest to y.

    At a place between two knots it is (1 - share) of the value at the left one and share of that
    at the right, so that the normal equations have three diagonals. What is added to the main one
    keeps knots without a place near them from making these singular.
    """
    last = len(knots) - 1
    left = np.clip(np.searchsorted(knots, x, "right") - 1, 0, last - 1)
    share = np.clip((x - knots[left]) / (knots[left + 1] - knots[left]), 0, 1)
    on_left, on_right = weights * (1 - share), weights * share

    def at_knots(from_left: np.ndarray, from_right: np.ndarray) -> np.ndarray:
        sums = np.bincount(left, from_left, last + 1)
        return sums + np.bincount(left + 1, from_right, last + 1)

    main = at_knots(on_left * (1 - share), on_right * share)
    beside = np.bincount(left, on_left * share, last)
    matrix = np.diag(main + 1e-12 * main.sum()) + np.diag(beside, 1) + np.diag(beside, -1)
    return np.linalg.solve(matrix, at_knots(on_left * y, on_right * y))


def _fit_knots(x: np.ndarray, y: np.ndarray, weights: np.ndarray, clips: int) -> np.ndarray:
    """Knots where the function bends, then moved while that lowers the squared error.

    In the limit of many knots their best density is (weight |f''|^2)^(1/5). They stay where the
    error is below what float32 tells apart.
    """
    bend = np.abs(np.gradient(np.gradient(y, x), x))
    density = (weights * (bend**2 + 1e-6 * (bend.max() ** 2 + 1e-12))) ** 0.2
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    knots = np.interp(np.linspace(0, cumulative[-1], clips + 1), cumulative, x)

    def error(candidate: np.ndarray) -> float:
        values = _fit_values(x, y, weights, candidate)
        return float((weights * (np.interp(x, candidate, values) - y) ** 2).sum())

    best, step = error(knots), 0.5
    least = np.finfo(np.float32).eps ** 2 * (weights * y**2).sum()
    while step > 0.02 and best > least:
        improved = False
        for index in range(len(knots)):
            for direction in (-1, 1):
                moved = _moved(knots, index, direction * step, x[0], x[-1])
                found = error(moved)
                if found < best * (1 - 1e-6):
                    knots, best, improved = moved, found, True
        if not improved:
            step /= 2
    return np.asarray(knots)


def _moved(knots: np.ndarray, index: int, share: float, low: float, high: float) -> np.ndarray:
    """One knot moved by a share of the way to its neighbour or the end of the range."""
    padded = np.concatenate([[low], knots, [high]])
    neighbour = padded[index + 2] if share > 0 else padded[index]
    moved = knots.copy()
    moved[index] += abs(share) * 0.98 * (neighbour - knots[index])
    return moved


def _in_types_of(wanted: list[ScalarRegion], fits: Mapping[str, ClipFit]) -> dict[str, _Written]:
    """Fits as they are written; raises ``UnsupportedModelError`` for what types cannot hold."""
    written, refusals = {}, []
    for region in wanted:
        dtype = _type_of(region)
        fit = _in_type(dtype, fits[region.name])
        if fit is None:
            reason = f"{dtype} cannot hold the slopes of its clips: export it in a wider type"
            refusals.append(Refusal(region.name, region.op, reason))
        else:
            written[region.name] = fit
    _refuse(refusals)
    return written


def _in_type(dtype: np.dtype, fit: ClipFit) -> _Written | None:
    # Far from 0, or in float16, some may be the same number.
    knots, places = np.unique(fit.knots.astype(dtype), return_index=True)
    values = fit.values[places]
    if len(knots) == 1:
        knots, values = np.append(knots, np.nextafter(knots, dtype.type(np.inf))), values.repeat(2)
    with np.errstate(over="ignore"):
        widths = np.diff(knots)
        slopes = (np.diff(values) / widths.astype(np.float64)).astype(dtype)
        start = values[0].astype(dtype)
    held = all(np.all(np.isfinite(numbers)) for numbers in (start, widths, slopes))
    return _Written(start, knots, slopes) if held else None


def _type_of(region: ScalarRegion) -> np.dtype:
    known = (region.last.outputs[0].dtype, region.source.dtype)
    return np.dtype(next((kind for kind in known if kind is not None), np.float32))


def _replace(editor: Editor, region: ScalarRegion, written: _Written) -> None:
    node, x, dtype = region.last, region.source, written.knots.dtype
    like = gs.Variable("", dtype, node.outputs[0].shape)
    if x.dtype is not None and x.dtype != dtype:
        x = editor.node("Cast", f"{node.name}/x", [x], {"to": onnx_type(dtype)}, like)
    terms: list[gs.Tensor] = [editor.constant(f"{node.name}/start", written.start)]
    between = zip(itertools.pairwise(written.knots), written.slopes, strict=True)
    for number, ((left, right), slope) in enumerate(between):
        name = f"{node.name}/{number}"
        knot = editor.constant(f"{name}/knot", left)
        above = editor.node("Sub", f"{name}/above", [x, knot], like=like)
        bounds = editor.bounds(name, 0, right - left, dtype)
        clip = editor.node("Clip", f"{name}/clip", [above, *bounds], like=like)
        factor = editor.constant(f"{name}/slope", slope)
        terms.append(editor.node("Mul", f"{name}/term", [clip, factor], like=like))
    replace_node(node, "Sum", terms)
