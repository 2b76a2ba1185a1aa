"""Canonicalise: every spelling of a network in one form, its function as it was.

The passes, in order:

    split_fused_layers         what ONNX Runtime's optimiser fused: FusedConv -> Conv, Relu, ...
    split_attention            Attention -> MatMul, Softmax, MatMul
    fold_constants             Add(2, 3) -> 5; Constant nodes, shape arithmetic -> constants
    fix_reshapes               Reshape to sizes from Shape(x) -> to constants, -1 for an open one;
                               Squeeze of all axes of size 1 -> of these
    dequantize_weights         DequantizeLinear, QuantizeLinear(constants) -> constants
    remove_no_ops              Identity, Dropout, Cast to the same type, Pad by 0, ... -> nothing
    sink_transposes            NHWC graphs: Transposes move down until they cancel
    exponentials_to_softmax    exp(x) / sum(exp(x)) -> Softmax(x), of x - max(x), too
    unify_linear_layers        MatMul + Add -> Gemm; Gemm's alpha, beta and transA -> its operands
    fold_pads                  Pad before Conv or a pool -> its own pads; auto_pad -> pads
    conditions_to_activations  Where(x > 0, x, 0), x [x > 0], ... -> Relu, PRelu, Abs, Max, ...
    move_bounds_behind_scales  Relu, then a scale, then Clip -> the scale, then these
    unify_clips                Relu, Clip, Min, Max and chains of them -> Relu or Clip
    decompose_soft_thresholds  sign(x) Relu(|x| - t), Shrink -> Relu(x - t) - Relu(-x - t)
    differences_to_clips       |x| - |x - a| -> 2 clip(x; 0, a) - a
    decompose_activations      LeakyRelu, HardTanh, Abs, ... -> Relu, Clip(0, theta) and sums

One may open the way for another, so they run until none finds anything to do. Later passes
rely on the result: an activation is ``Relu(x)``, ``Clip(x, 0, theta)`` with one theta, or
``Min(Relu(x), theta)`` with a theta per channel.
"""

import onnx_graphsurgeon as gs

from .graph.editing import require_opset, until_done
from .graph.shapes import infer_shapes
from .spellings.activations import decompose_activations
from .spellings.attention import split_attention
from .spellings.clips import unify_clips
from .spellings.conditions import conditions_to_activations
from .spellings.dequantize import dequantize_weights
from .spellings.differences import differences_to_clips
from .spellings.exponentials import exponentials_to_softmax
from .spellings.fold_constants import fold_constants
from .spellings.fused_layers import split_fused_layers
from .spellings.linear_layers import unify_linear_layers
from .spellings.no_ops import remove_no_ops
from .spellings.pads import fold_pads
from .spellings.reshapes import fix_reshapes
from .spellings.scaled_bounds import move_bounds_behind_scales
from .spellings.soft_thresholds import decompose_soft_thresholds
from .spellings.transposes import sink_transposes

CANONICAL_FORM = (
    split_fused_layers,
    split_attention,
    fold_constants,
    fix_reshapes,
    dequantize_weights,
    remove_no_ops,
    sink_transposes,
    exponentials_to_softmax,
    unify_linear_layers,
    fold_pads,
    conditions_to_activations,
    move_bounds_behind_scales,
    unify_clips,
    decompose_soft_thresholds,
    differences_to_clips,
    decompose_activations,
)


def canonicalise(graph: gs.Graph) -> bool:
    """Bring an ANN to canonical form: one form for each thing; exact up to rounding.

    Runs ``split_fused_layers`` to ``decompose_activations``, in the order in which docs/passes.md
    lists them, until none finds anything.
    """
    require_opset(graph)
    # What one of them infers without changing anything another may have missed.
    if any(tensor.shape is None for node in graph.nodes for tensor in node.outputs):
        infer_shapes(graph)
    return until_done(_round, graph)


def _round(graph: gs.Graph) -> bool:
    """Run all of them once; whether any found something."""
    found = [function(graph) for function in CANONICAL_FORM]
    return any(found)
