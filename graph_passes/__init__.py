"""ONNX to ONNX rewrites, one file a pass, usable one by one.

A pass is ``name(graph, ...) -> bool``: it edits an onnx-graphsurgeon graph in place and
says whether it changed anything; a second run returns False. Passes raise ``ModelError`` for
an opset older than 13, and those that place neurons for one older than 17; those that change
neurons find none there. ``to_graph`` and ``to_model`` get a model in and out, ``run_passes`` runs
several and verifies each.
"""

from .average_pool import max_to_average_pool
from .canonicalise import canonicalise
from .driver import PassReport, run_passes, verify
from .errors import (
    DataError,
    MissingThresholdError,
    ModelError,
    Onnx2SnnError,
    OutputError,
    PassError,
    ProviderError,
    Refusal,
    UnsupportedModelError,
)
from .fold_batch_norm import fold_batch_normalization
from .fold_forward import fold_forward
from .graph.activations import unbounded_activations
from .graph.neurons import initial_potential_of, neuron_nodes, stateful_nodes, threshold_of
from .graph.shapes import infer_shapes
from .initial_potential import set_initial_potential
from .model_files.files import read_model, write_model
from .model_files.io import to_graph, to_model, upgrade_opset
from .neuron_kinds import change_neurons
from .on_means import nonlinear_to_means
from .read_out import average_before_read_out, delay_read_out
from .spellings.activations import decompose_activations
from .spellings.attention import split_attention
from .spellings.ceil_mode import end_pools_in_the_image
from .spellings.clips import unify_clips
from .spellings.conditions import conditions_to_activations
from .spellings.dequantize import dequantize_weights
from .spellings.differences import differences_to_clips
from .spellings.exponentials import exponentials_to_softmax
from .spellings.fold_constants import fold_constants
from .spellings.fused_layers import split_fused_layers
from .spellings.integer_layers import dequantize_layers
from .spellings.linear_layers import unify_linear_layers
from .spellings.no_ops import remove_no_ops
from .spellings.pads import fold_pads
from .spellings.reshapes import fix_reshapes
from .spellings.scaled_bounds import move_bounds_behind_scales
from .spellings.soft_thresholds import decompose_soft_thresholds
from .spellings.transposes import sink_transposes
from .spiking import activations_to_neurons
from .spiking_pool import max_to_spiking_pool, thresholds_to_spiking
from .switch_coding import code_inputs
from .thresholds import bound_activations
from .unquantize import unquantize_activations

__all__ = [
    "DataError",
    "MissingThresholdError",
    "ModelError",
    "Onnx2SnnError",
    "OutputError",
    "PassError",
    "PassReport",
    "ProviderError",
    "Refusal",
    "UnsupportedModelError",
    "activations_to_neurons",
    "average_before_read_out",
    "bound_activations",
    "canonicalise",
    "change_neurons",
    "code_inputs",
    "conditions_to_activations",
    "decompose_activations",
    "decompose_soft_thresholds",
    "delay_read_out",
    "dequantize_layers",
    "dequantize_weights",
    "differences_to_clips",
    "end_pools_in_the_image",
    "exponentials_to_softmax",
    "fix_reshapes",
    "fold_batch_normalization",
    "fold_constants",
    "fold_forward",
    "fold_pads",
    "infer_shapes",
    "initial_potential_of",
    "max_to_average_pool",
    "max_to_spiking_pool",
    "move_bounds_behind_scales",
    "neuron_nodes",
    "nonlinear_to_means",
    "read_model",
    "remove_no_ops",
    "run_passes",
    "set_initial_potential",
    "sink_transposes",
    "split_attention",
    "split_fused_layers",
    "stateful_nodes",
    "threshold_of",
    "thresholds_to_spiking",
    "to_graph",
    "to_model",
    "unbounded_activations",
    "unify_clips",
    "unify_linear_layers",
    "unquantize_activations",
    "upgrade_opset",
    "verify",
    "write_model",
]
