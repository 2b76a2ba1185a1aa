"""What the operators that bound numbers, Clip, Relu, Min and Max, bound them to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_graphsurgeon as gs

from .broadcasting import constant_fits
from .editing import constant_input, is_floating, variables_of


@dataclass(frozen=True)
class Bounds:
    """clip(x; low, high) = min(max(x, low), high); scalars, or arrays that broadcast to x."""

    low: np.ndarray
    high: np.ndarray

    def then(self, outer: "Bounds") -> "Bounds":
        """clip(clip(x; a, b); c, d) = clip(x; clip(a; c, d), clip(b; c, d))."""
        return Bounds(
            np.minimum(np.maximum(self.low, outer.low), outer.high),
            np.minimum(np.maximum(self.high, outer.low), outer.high),
        )


UNBOUNDED = Bounds(np.array(-np.inf), np.array(np.inf))

NO_BOUND_FROM = {np.dtype(np.float32): 2.0**20, np.dtype(np.float64): 2.0**49}
"""People write a bound like 1e9 for none: no sum of spikes with such a V_th is exact.

From where on x is lost beside a number is asked in ``spellings/far_numbers.py``.
"""


def bounded_input(node: gs.Node) -> gs.Tensor:
    """The one input of Relu, Clip, Min or Max that is not a constant bound."""
    return variables_of(node)[0]


def bounds_of(node: gs.Node) -> Bounds | None:
    """What a node clips to, none from ``NO_BOUND_FROM`` on; None if it is no clip by constants."""
    bounds = written_bounds_of(node)
    if bounds is None or np.any(np.isnan(bounds.low)) or np.any(np.isnan(bounds.high)):
        return None
    types = [np.dtype(t.dtype) for t in node.inputs if isinstance(t, gs.Constant)]
    far = min((NO_BOUND_FROM.get(dtype, np.inf) for dtype in types), default=np.inf)
    return Bounds(
        np.where(bounds.low <= -far, -np.inf, bounds.low),
        np.where(bounds.high >= far, np.inf, bounds.high),
    )


def written_bounds_of(node: gs.Node) -> Bounds | None:
    """The same, but that only the largest number of a type means none; some may be NaN."""
    variables = variables_of(node)
    if node.domain or len(variables) != 1 or not is_floating(variables[0]):
        return None
    match node.op:
        case "Relu":
            return Bounds(np.array(0.0), UNBOUNDED.high)
        case "Clip" if variables[0] is node.inputs[0]:
            return Bounds(*clip_bounds(node))
        case "Min" | "Max":
            values = [np.asarray(t.values) for t in node.inputs if isinstance(t, gs.Constant)]
            fit = all(value.size and constant_fits(value, variables[0]) for value in values)
            if not values or not fit:
                return None
            numbers, dtype = [value.astype(np.float64) for value in values], values[0].dtype
            if node.op == "Min":
                return Bounds(UNBOUNDED.low, open_above(reduce(np.minimum, numbers), dtype))
            return Bounds(open_below(reduce(np.maximum, numbers), dtype), UNBOUNDED.high)
    return None


def open_above(bound: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Upper bounds, infinite where they are the largest number of a type, which says "none"."""
    return np.where(bound >= np.finfo(dtype).max, np.inf, bound)


def open_below(bound: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Lower bounds, infinite where they are the least number of a type, which says "none"."""
    return np.where(bound <= np.finfo(dtype).min, -np.inf, bound)


def clip_bounds(node: gs.Node) -> tuple[np.ndarray, np.ndarray]:
    """The scalar bounds of a Clip, infinite where there is none, NaN where not constant."""
    low, high = constant_input(node, 1, -np.inf), constant_input(node, 2, np.inf)
    return _scalar_bound(low, open_below), _scalar_bound(high, open_above)


def _scalar_bound(
    bound: np.ndarray | None, opened: Callable[[np.ndarray, np.dtype], np.ndarray]
) -> np.ndarray:
    if bound is None or bound.size != 1 or not np.issubdtype(bound.dtype, np.floating):
        return np.array(np.nan)
    return opened(bound.astype(np.float64).reshape(()), bound.dtype)
