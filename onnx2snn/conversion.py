"""``convert``: a trained ANN in, a spiking network out."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes import (
    ModelError,
    PassReport,
    Refusal,
    UnsupportedModelError,
    activations_to_neurons,
    bound_activations,
    canonicalise,
    fold_batch_normalization,
    infer_shapes,
    max_to_average_pool,
    read_model,
    run_passes,
    set_initial_potential,
    stateful_nodes,
    threshold_of,
    to_graph,
    to_model,
    unbounded_activations,
    upgrade_opset,
)
from onnx2snn.graph_passes.driver import Pass
from onnx2snn.graph_passes.editing import is_floating
from onnx2snn.graph_passes.files import check_model
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.spiking import require_convertible, require_finite_weights
from onnx2snn.runtime.providers import CPU, Providers, create_session

from .calibration import Ann, Track, batches_of, calibrate, no_progress
from .data import Data, check_labels
from .statistics import DEFAULT_STATISTIC, Statistic
from .version import __version__

TOGETHER = "all together"
"""The name of all changes, as one, in the list of agreements."""


@dataclass(frozen=True)
class NeuronReport:
    """One layer of neurons: the shape of a sample, V_th, and where V_th came from."""

    name: str
    shape: tuple[int | str, ...]
    threshold: np.ndarray
    source: str


@dataclass(frozen=True)
class Agreement:
    """How the ANN after a change agrees with the ANN before it, on the calibration data.

    ``top1``: percent of samples with the same class (None unless the output is [N, classes]).
    ``accuracy_before`` and ``accuracy_after``: percent, None without labels. ``error``:
    root mean square of the difference, relative to that of the output before.
    """

    change: str
    top1: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    error: float


@dataclass(frozen=True)
class Conversion:
    """A converted network and what was done to make it.

    ``declined``: what passes left as it was, with reasons. ``analog``: activations before
    the first neuron that are no clip, and so stay what they were in the ANN.
    """

    model: onnx.ModelProto
    neurons: list[NeuronReport]
    passes: list[PassReport]
    declined: list[Refusal]
    analog: list[Refusal]
    agreements: list[Agreement] = field(default_factory=list)


def convert(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    calibration: Data | None = None,
    threshold: Statistic = DEFAULT_STATISTIC,
    per_channel: bool = False,
    maxpool: str = "average",
    v_init: InitialPotential = 0.5,
    seed: int = 0,
    batch_size: int = 100,
    providers: Providers = None,
    track: Track = no_progress,
) -> Conversion:
    """Convert a trained ANN into a spiking network of one time-step.

    Each Relu or Clip becomes an IF neuron. A clip's bound is its threshold; a Relu's comes
    from ``calibration`` data by the statistic ``threshold``, for the whole layer or per
    channel. ``maxpool="average"`` replaces max-pooling by average-pooling, before the
    thresholds are measured. ``v_init`` is v(0) as a fraction of V_th, or "uniform" or
    "normal", drawn from ``seed``. The input model is left as it was.

    Raises ``ModelError`` (no ONNX, no activations, several inputs or outputs),
    ``UnsupportedModelError`` (listing all nodes in the way), ``MissingThresholdError``
    (listing the neurons that need data) and ``DataError`` (data that does not fit).
    """
    if maxpool != "average":
        raise ValueError(f"maxpool must be 'average', not {maxpool!r}")
    if isinstance(model, onnx.ModelProto):
        check_model(model, "the model")
        digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    else:
        path, model = Path(model), read_model(model)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    graph = to_graph(upgrade_opset(model))
    graph.toposort()
    _require_plain_ann(graph)
    require_finite_weights(graph)
    infer_shapes(graph)

    declined: list[Refusal] = []
    reports: list[PassReport] = []
    agreements: list[Agreement] = []
    original = current = to_model(graph)

    def apply(function: Pass, change: str) -> None:
        """Run one pass; with data, compare the ANN after it with the one before."""
        nonlocal current
        (report,) = run_passes(graph, [function])
        reports.append(report)
        if report.changed:
            before, current = current, to_model(graph)
            if calibration is not None:
                agreements.append(
                    _compare(change, before, current, calibration, batch_size, providers, track)
                )

    apply(canonicalise, "canonical form")
    apply(partial(fold_batch_normalization, declined=declined), "batch normalization folded")
    apply(partial(max_to_average_pool, declined=declined), "max-pooling -> average-pooling")
    require_convertible(graph)

    sources: dict[str, str] = {}
    unbounded = unbounded_activations(graph)
    if unbounded and calibration is not None:
        watched = {node.name: node.outputs[0].name for node in unbounded}
        thresholds = calibrate(
            current, watched, calibration, threshold, per_channel, batch_size, providers, track
        )
        how = "per channel" if per_channel else "per layer"
        for name in thresholds:
            sources[name] = f"{threshold.describe()}, {how}, {calibration.samples} samples"
        apply(partial(bound_activations, thresholds=thresholds), "activations clipped at V_th")
    reports += run_passes(
        graph,
        [activations_to_neurons, partial(set_initial_potential, v_init=v_init, seed=seed)],
    )
    if not stateful_nodes(graph):
        found = analog_activations(graph)
        raise UnsupportedModelError(
            "the model has no ReLU, and no clip from 0 to a positive constant, that could become "
            f"a spiking neuron; it has {'these activations:' if found else 'no activations'}",
            found,
        )
    if calibration is not None:
        agreements.append(
            _compare(TOGETHER, original, current, calibration, batch_size, providers, track)
        )
    infer_shapes(graph)
    _require_sizes(graph)
    neurons = [
        NeuronReport(
            node.name,
            tuple(node.outputs[0].shape[1:]),
            threshold_of(node),
            sources.get(node.name, "bound of the clip"),
        )
        for node in stateful_nodes(graph)
    ]
    result = to_model(graph, like=model)
    recipe = {
        "threshold": str(threshold),
        "per_channel": per_channel,
        "maxpool": maxpool,
        "v_init": v_init,
        "seed": seed,
        "passes": [report.name for report in reports],
    }
    _write_metadata(result, digest, recipe, neurons)
    _require_loadable(result, original)
    return Conversion(result, neurons, reports, declined, analog_activations(graph), agreements)


def _require_plain_ann(graph: gs.Graph) -> None:
    if stateful_nodes(graph):
        raise ModelError("the model is a spiking network already: use it with run or evaluate")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        names = ", ".join(tensor.name for tensor in (*graph.inputs, *graph.outputs))
        raise ModelError(
            f"the model has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs ({names}); "
            "networks with one of each can be converted so far"
        )
    dtype = graph.inputs[0].dtype
    if dtype is None or isinstance(dtype, int) or np.dtype(dtype).kind not in "fiub":
        raise ModelError(f"the model's input '{graph.inputs[0].name}' is no tensor of numbers")


def _require_sizes(graph: gs.Graph) -> None:
    """Refuse layers of no neurons, as where an image is smaller than a kernel."""
    shapes = {node.name: node.outputs[0].shape[1:] for node in stateful_nodes(graph)}
    empty = [
        Refusal(name, "IF", f"its shape is {'x'.join(map(str, shape))}")
        for name, shape in shapes.items()
        if 0 in shape
    ]
    if empty:
        raise UnsupportedModelError("these layers would hold no neurons:", empty)


_ACTIVATIONS = {
    "Abs", "Celu", "Clip", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish",
    "PRelu", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Softsign", "Tanh",
    "ThresholdedRelu",
}  # fmt: skip


def analog_activations(graph: gs.Graph) -> list[Refusal]:
    """The activations that did not become neurons: none of them comes after a neuron."""
    reason = "not a ReLU or a clip from 0 to a positive constant, and before the first neuron"
    return [
        Refusal(node.name, node.op, reason)
        for node in graph.nodes
        if node.op in _ACTIVATIONS and is_floating(node.inputs[0])
    ]


def _require_loadable(result: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Refuse to hand out what ONNX Runtime cannot load; the ANN itself may be at fault."""
    try:
        create_session(result, [CPU])
    except ModelError as error:
        try:
            create_session(original, [CPU])
        except ModelError as its_own:
            raise ModelError(f"the ANN itself cannot run: {its_own}") from its_own
        raise ModelError(f"the converted network cannot run: {error}") from error


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


def _compare(
    change: str,
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    data: Data,
    batch_size: int,
    providers: Providers,
    track: Track,
) -> Agreement:
    """Run both ANNs on all the data; memory for one batch."""
    anns = Ann(before, providers), Ann(after, providers)
    same = right_before = right_after = 0
    difference = power = 0.0
    classes = False
    for x, y in batches_of(data, batch_size, f"checking: {change}", track):
        (a,), (b,) = anns[0].run(x), anns[1].run(x)
        difference += float(np.square(a.astype(np.float64) - b).sum())
        power += float(np.square(a, dtype=np.float64).sum())
        classes = a.ndim == 2 and a.shape[1] > 1
        if classes:
            check_labels(y, a.shape[1], data.name)
            chosen_a, chosen_b = a.argmax(1), b.argmax(1)
            same += int((chosen_a == chosen_b).sum())
            if y is not None:
                right_before += int((chosen_a == y).sum())
                right_after += int((chosen_b == y).sum())
    labelled = classes and data.labels is not None
    return Agreement(
        change,
        100 * same / data.samples if classes else None,
        100 * right_before / data.samples if labelled else None,
        100 * right_after / data.samples if labelled else None,
        float(np.sqrt(difference / power)) if power else float(np.sqrt(difference)),
    )
