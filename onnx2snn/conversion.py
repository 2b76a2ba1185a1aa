"""``convert``: a trained ANN in, a spiking network out."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx

from onnx2snn.graph_passes import PassReport, Refusal, neuron_nodes, threshold_of
from onnx2snn.graph_passes.files import check_model, read_parts
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.io import to_parts
from onnx2snn.graph_passes.spiking import MaxPool, require_convertible
from onnx2snn.graph_passes.weights import ModelParts, attach, detach
from onnx2snn.runtime.providers import Providers

from .calibration import Running, Track, no_progress
from .checking import Agreement
from .data import Data
from .network import Network, analog_activations
from .statistics import DEFAULT_STATISTIC, Statistic
from .version import __version__


@dataclass(frozen=True)
class NeuronReport:
    """One layer of neurons: the shape of a sample, V_th, and where V_th came from."""

    name: str
    shape: tuple[int | str, ...]
    threshold: np.ndarray
    source: str


@dataclass(frozen=True)
class Conversion:
    """A converted network and what was done to make it.

    ``declined``: what passes left as it was, with reasons. ``analog``: activations before
    the first neuron that are no clip, and so stay what they were in the ANN. ``check``: how
    the exact rewriting was checked. ``agreements``: what each change cost, on the
    calibration data. ``notes``: what a user should know of the result.
    """

    parts: ModelParts
    neurons: list[NeuronReport]
    passes: list[PassReport]
    declined: list[Refusal]
    analog: list[Refusal]
    check: str
    agreements: list[Agreement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The spiking network, of one time-step."""
        return attach(self.parts)


def convert(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    calibration: Data | None = None,
    threshold: Statistic = DEFAULT_STATISTIC,
    per_channel: bool = False,
    recalibrate: bool = False,
    maxpool: MaxPool = "average",
    approximate: int | None = None,
    v_init: InitialPotential = 0.5,
    seed: int = 0,
    batch_size: int = 100,
    providers: Providers = None,
    track: Track = no_progress,
) -> Conversion:
    """Convert a trained ANN into a spiking network of one time-step.

    Each Relu or Clip becomes an IF neuron, and each other piecewise linear activation a sum
    of them. A clip's bound is its threshold; a Relu's comes from ``calibration`` data by the
    statistic ``threshold``, for the whole layer or per channel. With ``recalibrate`` a
    clip's threshold comes from the data too, where that is lower than its bound.
    ``maxpool``: "average" replaces max-pooling by average-pooling, before the thresholds are
    measured; "exact" by pools that count spikes; "keep" leaves it between spikes.
    ``approximate``: the number of clips that replace any other scalar activation, such as
    Sigmoid, over the range that the data shows. ``v_init`` is v(0) as a fraction of V_th, or
    "uniform" or "normal", drawn from ``seed``. The input model is left as it was.

    The rewriting that should not change the network's function is checked by running both,
    on the calibration data or else on seeded inputs of the declared shape.

    Raises ``ModelError`` (no ONNX, no activations), ``UnsupportedModelError`` (listing all
    nodes in the way), ``MissingThresholdError`` (listing the neurons that need data),
    ``DataError`` (data that does not fit) and ``PassError`` (a pass changed the function).
    """
    if maxpool not in get_args(MaxPool):
        raise ValueError(f"maxpool must be one of {get_args(MaxPool)}, not {maxpool!r}")
    parts, digest = read_any(model)
    network = Network(parts, calibration, maxpool, Running(batch_size, providers, track))
    network.rewrite_exactly()
    network.replace_pools()
    if approximate is not None:
        network.approximate(approximate)
    require_convertible(network.graph, maxpool)
    sources = network.bound(threshold, per_channel, recalibrate)
    network.make_spiking(v_init, seed)
    neurons = [
        NeuronReport(
            node.name,
            tuple(node.outputs[0].shape[1:]),
            threshold_of(node),
            sources.get(node.name, "bound of the clip"),
        )
        for node in neuron_nodes(network.graph)
    ]
    result = to_parts(network.graph, like=parts.structure)
    recipe = {
        "threshold": str(threshold),
        "per_channel": per_channel,
        "recalibrate": recalibrate,
        "maxpool": maxpool,
        "approximate": approximate,
        "v_init": v_init,
        "seed": seed,
        "passes": [report.name for report in network.reports],
    }
    _write_metadata(result.structure, digest, recipe, neurons)
    network.require_loadable()
    return Conversion(
        result,
        neurons,
        network.reports,
        network.declined,
        analog_activations(network.graph),
        network.check,
        network.agreements,
        network.notes,
    )


def read_any(model: str | os.PathLike[str] | onnx.ModelProto) -> tuple[ModelParts, str]:
    """A model in parts, and the digest of its file."""
    if isinstance(model, onnx.ModelProto):
        parts = detach(model)
        check_model(parts, "the model")
        digest = hashlib.sha256(parts.structure.SerializeToString(deterministic=True))
        for name in sorted(parts.weights):
            digest.update(np.ascontiguousarray(parts.weights[name]).tobytes())
        return parts, digest.hexdigest()
    parts = read_parts(model)
    with Path(model).open("rb") as file:
        return parts, hashlib.file_digest(file, "sha256").hexdigest()


def _write_metadata(
    model: onnx.ModelProto, digest: str, recipe: dict[str, Any], neurons: list[NeuronReport]
) -> None:
    entries = {
        "onnx2snn.version": __version__,
        "onnx2snn.onnx_version": onnx.__version__,
        "onnx2snn.source_sha256": digest,
        "onnx2snn.recipe": json.dumps(recipe),
        "onnx2snn.thresholds": json.dumps({neuron.name: neuron.source for neuron in neurons}),
    }
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | entries)
