"""ONNX to ONNX rewrites, one file a pass, usable one by one.

A pass is ``name(graph, ...) -> bool``: it edits an onnx-graphsurgeon graph in place and
says whether it changed anything; a second run returns False. ``to_graph`` and
``to_model`` get a model in and out, ``run_passes`` runs several and verifies each.
"""

from .average_pool import max_to_average_pool
from .canonicalise import canonicalise, fold_constants, remove_no_ops, unify_clips
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
from .files import read_model, write_model
from .fold_batch_norm import fold_batch_normalization
from .initial_potential import set_initial_potential
from .io import infer_shapes, to_graph, to_model, upgrade_opset
from .neurons import initial_potential_of, stateful_nodes, threshold_of
from .spiking import activations_to_neurons
from .thresholds import bound_activations, unbounded_activations

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
    "bound_activations",
    "canonicalise",
    "fold_batch_normalization",
    "fold_constants",
    "infer_shapes",
    "initial_potential_of",
    "max_to_average_pool",
    "read_model",
    "remove_no_ops",
    "run_passes",
    "set_initial_potential",
    "stateful_nodes",
    "threshold_of",
    "to_graph",
    "to_model",
    "unbounded_activations",
    "unify_clips",
    "upgrade_opset",
    "verify",
    "write_model",
]
