"""Let clips stand for quantised activations: neurons round in their place."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .graph.activations import is_non_negative
from .graph.bounds import clip_bounds
from .graph.editing import (
    Editor,
    constant_input,
    is_graph_output,
    leave_out,
    maker_of,
    optional_input,
    producer,
    replace_node,
    require_opset,
    type_of,
    until_done,
)
from .graph.operators import WEIGHTED
from .graph.ranges import ANY, Range, range_of
from .graph.regions import before_weights, downstream, downstream_of
from .graph.shapes import infer_shapes
from .graph.tidying import tidy
from .model_files.contents import FEW_BITS
from .model_files.protos import onnx_type
from .unround import STEPS, leave_out_steps, straight_through

ROUNDING = (*STEPS, "QuantizeLinear")
"""What ``unquantize_activations`` may leave out."""

_RANGES = {
    onnx_type(np.dtype(kind)): (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    for kind in (np.int8, np.uint8, np.int16, np.uint16)
} | {
    kind: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if held is np.int8 else (0, 2**bits - 1)
    for kind, (bits, held) in FEW_BITS.items()
}


def unquantize_activations(graph: gs.Graph, ranges: dict[str, float] | None = None) -> bool:
    """Quantised activations -> the clips along which they step.

        Round(z), Floor(z), Ceil(z)            ->  z, z - 1/2, z + 1/2
        x + (Round(z) - x), and the like       ->  Round(z)
        DequantizeLinear(QuantizeLinear(x))    ->  clip(x; 0, largest), or x

    So theta / L clip(floor(x L / theta + 1/2); 0, L), the activation of networks that are trained
    for L time-steps (Bu et al., ICLR 2022), becomes clip(x; 0, theta): a neuron with v(0) = V_th/2
    rounds to T levels itself. What rounding adds goes before a clip that it follows, since
    floor(k clip(x; 0, b)) = clip(floor(k x); 0, k b) for a whole k b (else the largest level is off
    by less than one). The second form is the straight-through estimator of gradients in training.

    Both go where they lie between two layers of weights: rounding if it belongs to an activation
    and what reads it is affine, quantisation if it has one scale. It is an activation where its
    levels begin at 0 or above, since quantisers fold ReLUs into that, where a Relu or Clip is right
    before it, or where levels of both signs have less than 7 bits, whose ends numbers reach. Any
    other, as of sums, or of what cannot be negative, is left out together with its bounds, and so
    is one of 7 bits or more of a Relu or Clip that something else reads, too, as shortcuts do where
    a tool quantises layers alone.

    Constants that nodes compute must be folded before (``fold_constants``). ``ranges`` takes, by
    the name of what they bound, the largest levels of 7 bits or more: no training set these, as a
    rule they are the largest numbers that a tool saw; those of fewer bits are trained.
    """
    require_opset(graph)
    # What was quantised behind rounding hides that it belongs to an activation.
    once = partial(_unquantize_once, found={} if ranges is None else ranges)
    return until_done(once, graph)


def _unquantize_once(graph: gs.Graph, found: dict[str, float]) -> bool:
    if any(type_of(node) is None for node in graph.nodes if node.op in STEPS):
        infer_shapes(graph)
    layers = [node for node in graph.nodes if node.op in WEIGHTED]
    behind = downstream_of(graph, layers)
    # What is constant, as weights that are rounded, is no activation, either.
    varying = downstream(graph, graph.inputs)
    between = behind & varying & before_weights(graph)
    editor, changed = Editor(graph), False
    for node in graph.nodes:
        both = node.op in ("Add", "Sub") and not node.domain and node.outputs[0].name in between
        if both and (y := straight_through(graph, node)) is not None:
            leave_out(graph, node, y)
            changed = True
    if changed:
        tidy(graph)
    ranges, clips = dict[str, Range](), dict[tuple[str, float, float], gs.Node]()
    for node in list(graph.nodes):
        if node.domain:
            continue
        inside = not between.isdisjoint(tensor.name for tensor in node.outputs)
        levels = _levels_of(node) if node.op == "DequantizeLinear" else None
        if levels is not None and inside:
            positive = ranges.get(levels.x.name, ANY)[0] >= 0
            _leave_out_levels(editor, node, levels, positive, clips, found)
            changed = True
        elif inside and node.op in STEPS:
            changed |= leave_out_steps(editor, node, varying)
        if not node.outputs:
            # It was left out.
            continue
        if levels is not None and node.op == "DequantizeLinear":
            extent = float(levels.low), float(levels.high)
        else:
            extent = range_of(graph, node, ranges)
        ranges |= dict.fromkeys((tensor.name for tensor in node.outputs), extent)
    if changed:
        tidy(graph)
    return changed


@dataclass(frozen=True)
class _Levels:
    """What is quantised, and the least and the largest number that it becomes, [] of its type.

    ``few``: whether there are fewer levels than in 7 bits, to which tools reduce those of 8.
    """

    x: gs.Tensor
    low: np.ndarray
    high: np.ndarray
    few: bool


def _leave_out_levels(
    editor: Editor,
    node: gs.Node,
    levels: _Levels,
    positive: bool,
    clips: dict[tuple[str, float, float], gs.Node],
    found: dict[str, float],
) -> None:
    """Q and DQ -> a clip, the one in ``clips`` that is the same if there is one, or nothing.

    ``positive``: whether what is quantised cannot be negative, so that levels from 0 cut nothing.
    ``found``: the ``ranges`` of ``unquantize_activations``.
    """
    graph, x, low, high = editor.graph, levels.x, levels.low, levels.high
    maker = producer(x)
    cut = maker is not None and maker.op in ("Clip", "Relu") and is_non_negative(graph, maker)
    both_signs = low < 0 and levels.few and not cut and not positive
    cuts_little = not cut and not both_signs and (low < 0 or (low == 0 and positive))
    if cuts_little or (cut and not levels.few and _is_read_besides(graph, x, clips.values())):
        leave_out(graph, node, x)
        return
    if maker is not None and maker.op == "Relu" and not maker.domain:
        # Others may read it without a bound.
        x = maker.inputs[0]
    if not both_signs:
        low = np.maximum(low, np.zeros_like(low))
    key = x.name, float(low), float(high)
    if key in clips:
        leave_out(graph, node, clips[key].outputs[0])
        return
    replace_node(node, "Clip", [x, *editor.bounds(node.name, low, high, high.dtype)])
    clips[key] = node
    known = clip_bounds(maker)[1] if maker is not None and maker.op == "Clip" else np.inf
    # A bound that is lower is the network's own.
    if not levels.few and high < known:
        found[node.outputs[0].name] = float(high)


def _is_read_besides(graph: gs.Graph, x: gs.Tensor, clips: Iterable[gs.Node]) -> bool:
    """Whether numbers of a tensor are read as they are, too, besides by quantisers, or their clips.

    An activation of its own for what is quantised would double its neurons.
    """
    own = {id(clip) for clip in clips}
    others = (node for node in x.outputs if id(node) not in own)
    of_quantisers = ("QuantizeLinear", "Shape", "Size")
    return is_graph_output(graph, x) or any(node.op not in of_quantisers for node in others)


def _levels_of(node: gs.Node) -> _Levels | None:
    """What a DequantizeLinear turns back into numbers.

    None if that was not quantised by the same scale, one for all, from the same type of numbers to
    a type that is known here.
    """
    clips = []
    quantised = node.inputs[0]
    while (clip := maker_of(quantised, "Clip")) is not None:
        # To fewer bits than the type has.
        clips.append((_number(clip, 1, -np.inf), _number(clip, 2, np.inf)))
        quantised = clip.inputs[0]
    maker = maker_of(quantised, "QuantizeLinear")
    if maker is None:
        return None
    (scale, zero), other = ([_number(n, place, 0) for place in (1, 2)] for n in (maker, node))
    numbers = (scale, zero, *itertools.chain(*clips))
    if any(number is None for number in numbers) or [scale, zero] != other:
        return None
    x, kind = maker.inputs[0], maker.attrs.get("output_dtype", 0) or onnx.TensorProto.UINT8
    if optional_input(maker, 2) is not None:
        kind = onnx_type(zero.dtype)
    floating = isinstance(scale, np.floating) and x.dtype in (None, scale.dtype)
    made = node.attrs.get("output_dtype", 0) or onnx_type(other[0].dtype)
    if kind not in _RANGES or not floating or made != onnx_type(scale.dtype):
        return None
    ends: Sequence[float] = _RANGES[kind]
    for low, high in reversed(clips):
        ends = [min(max(float(end), float(low)), float(high)) for end in ends]
    steps = ends[1] - ends[0]
    most = np.finfo(scale.dtype).max
    # Of whole numbers of few bits the difference may not be one.
    bounds = ((float(end) - float(zero)) * float(scale) for end in ends)
    low, high = (np.asarray(np.clip(b, -most, most), scale.dtype) for b in bounds)
    return _Levels(x, low, high, few=steps < 127)


def _number(node: gs.Node, place: int, default: float) -> Any:
    """An input that is one number, ``default`` where it is left out; None for any other."""
    value = constant_input(node, place, default)
    return None if value is None or value.size != 1 else value.reshape(-1)[0]
