"""Where the windows of convolutions and pools lie: what ``auto_pad`` and ``pads`` say, and Pads."""

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from .editing import known_value, maker_of, optional_input

_STANDS_FOR_INFINITY = -60000.0
"""What pads a maximum with this, or with less, means -infinity: float16 ends at -65504."""


def pads_itself(node: gs.Node) -> bool:
    """Whether the pads of a node follow from sizes, as SAME_UPPER and SAME_LOWER have it."""
    return bool(node.attrs.get("auto_pad", "NOTSET").startswith("SAME"))


def is_dilated(node: gs.Node) -> bool:
    """Whether a window leaves out places between those that it reads."""
    return any(step != 1 for step in node.attrs.get("dilations", []))


def lowest_padding(pool: gs.Node) -> str | None:
    """What a Pad before a pool pads with, in words, where that may be, or stand for, -infinity."""
    pad = maker_of(pool.inputs[0], "Pad")
    given = None if pad is None else optional_input(pad, 2)
    if given is None:
        return None
    value = known_value(given)
    if value is None:
        return "a number that is not known"
    return "-infinity" if np.any(value <= _STANDS_FOR_INFINITY) else None


def written_pads(node: gs.Node, axes: int) -> list[int]:
    """The pads of a node that does not pad itself, begins then ends, of so many axes of an image.

    ONNX Runtime lets some stand beside VALID, which switches them off.
    """
    nothing = [0] * 2 * axes
    valid = node.attrs.get("auto_pad", "NOTSET") == "VALID"
    return nothing if valid else list(node.attrs.get("pads", nothing))


def pads_of_window(node: gs.Node, kernel: Sequence[int]) -> list[int] | None:
    """The pads of a node, begins then ends; None where they follow from sizes that are open.

    In steps of 1 they do not. Those of a node that pads itself are below 0 where its windows leave
    out pixels.
    """
    return _same_pads(node, kernel) if pads_itself(node) else written_pads(node, len(kernel))


def _same_pads(node: gs.Node, kernel: Sequence[int]) -> list[int] | None:
    ones = [1] * len(kernel)
    strides, dilations = node.attrs.get("strides", ones), node.attrs.get("dilations", ones)
    sizes = (node.inputs[0].shape or [])[2:] if set(strides) != {1} else ones
    if len(sizes) != len(kernel) or not all(isinstance(size, int) for size in sizes):
        return None
    begins, ends, upper = [], [], node.attrs["auto_pad"] == "SAME_UPPER"
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1
        total = reach - size
        few, many = total // 2, total - total // 2
        begins.append(few if upper else many)
        ends.append(many if upper else few)
    return begins + ends
