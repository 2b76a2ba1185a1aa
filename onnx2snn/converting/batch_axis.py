"""Open a batch size that the exporter fixed, where samples do not depend on each other."""

import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.ann import Ann, import_ann, one_after_the_other
from onnx2snn.data.samples import Data, Inputs, by_name
from onnx2snn.graph_passes import DataError, ModelError, PassReport, fold_constants, run_passes
from onnx2snn.graph_passes.batch_axis import free_batch_axis
from onnx2snn.graph_passes.driver import Pass
from onnx2snn.graph_passes.graph.editing import is_floating
from onnx2snn.graph_passes.graph.obstacles import constant_outputs
from onnx2snn.graph_passes.graph.regions import downstream
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.runtime.inputs import samples_in

from .checking import outputs_of, relative_error, tolerance

Sample = tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None
"""Inputs of an ANN and its outputs for them, by name."""

Run = Callable[[Inputs], dict[str, np.ndarray]]
"""What a network makes of a batch, by name."""


def open_batch_axis(
    graph: gs.Graph, ann: ModelParts, data: Data | None, sample: Sample
) -> tuple[gs.Graph, list[Pass], list[PassReport], str | None]:
    """The graph with inputs of any number of samples, the passes, what they did, and a note.

    No passes where the size was not fixed, or samples depend on each other: the note says why.
    ``ann``: the network of the graph. ``data``, and ``sample``, random inputs that it runs on, are
    what that is tried on.
    """
    start = to_parts(graph)
    sizes = [size for tensor in graph.inputs for size in (tensor.shape or ())[:1]]
    # Sizes that nodes work out may be in the way, though not all that are right for any N; nor are
    # all gathers.
    gathers: Pass = partial(free_batch_axis, gathers=True)
    ways: list[list[Pass]] = [[free_batch_axis], [fold_constants, free_batch_axis]]
    if any(node.op == "Gather" for node in graph.nodes):
        ways += [[gathers], [fold_constants, gathers]]
    for passes in ways:
        reports = run_passes(graph, passes)
        if not reports[-1].changed:
            return graph, [], [], None
        try:
            error, why = _tried(graph, ann, data, sizes[0], sample), "samples depend on each other"
        except (ModelError, DataError, ValueError) as failure:
            error = np.inf
            # Of what ONNX Runtime says, which node it is.
            node = re.search(r"(\w+) node\. Name:'(.*?)'", str(failure))
            why = f"{node[1]} '{node[2]}' cannot take more samples" if node else str(failure)
        if error <= tolerance(graph):
            return graph, passes, reports, None
        graph = import_ann(start)
    note = (
        f"the batch size stays fixed, as in the ANN: {why}; if it need not, export it with an "
        "open first axis: more samples run at a time, and corrections see more of them"
    )
    return graph, [], [], note


def _tried(graph: gs.Graph, ann: ModelParts, data: Data | None, size: int, sample: Sample) -> float:
    """How far samples depend on each other, tried on a sample and on the first ones of the data.

    Raises ``ModelError`` or ``DataError`` where the network does not run, there are none, or an
    output is constant.
    """
    if constant := constant_outputs(graph):
        # No run shows whether it has rows of samples; no spiking network has such an output.
        raise ModelError(f"output '{constant[0].node}' is constant")
    parts: list[dict[str, np.ndarray]] = []
    if data is not None:
        parts = [dict(by_name(x)) for x, _ in itertools.islice(data.batches(size), 3)]
        sample = sample or (parts[0], outputs_of(ann, parts[0]))
    if sample is None:
        raise DataError("none of the inputs tried runs, and there is no calibration data")
    freed, varying = Ann(_with_numbers(graph), once=True), downstream(graph, graph.inputs)

    def run(x: Inputs) -> dict[str, np.ndarray]:
        # Sizes are others with more samples.
        return {name: value for name, value in freed.run(x).items() if name in varying}

    inputs, outputs = sample
    wanted = {name: value for name, value in outputs.items() if name in varying}
    error = _dependence_of_others(run, inputs, wanted)
    return max(error, _dependence(run, parts)) if parts else error


def _dependence_of_others(
    run: Run, inputs: dict[str, np.ndarray], wanted: dict[str, np.ndarray]
) -> float:
    """How far what ``run`` makes of samples depends on others in the batch: an error.

    ``wanted``: the ANN's outputs for ``inputs``, with which those of each sample by itself are
    compared, too.
    """
    generator = np.random.default_rng(0)
    # Neither the first ones mirrored nor as large: what mixes samples may not show on such.
    others = [
        {name: _shuffled(x, scale, generator) for name, x in inputs.items()} for scale in (0.25, 2)
    ]
    alone = [{n: x[at : at + 1] for n, x in inputs.items()} for at in range(samples_in(inputs))]
    by_itself = _difference(wanted, one_after_the_other([run(sample) for sample in alone]))
    return max(by_itself, _dependence(run, [inputs, *others]))


def _dependence(run: Run, parts: Sequence[dict[str, np.ndarray]]) -> float:
    """How far what ``run`` makes of batches in one differs from what it makes of each: an error.

    The largest of any part: of those with small numbers others may change all.
    """
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    together = {name: np.atleast_1d(value) for name, value in run(whole).items()}
    error = 0.0
    for part in parts:
        apart = {name: np.atleast_1d(value) for name, value in run(part).items()}
        error = max(error, _difference(apart, {n: together[n][: len(x)] for n, x in apart.items()}))
        together = {name: together[name][len(x) :] for name, x in apart.items()}
    # More rows than those of all are of none.
    return np.inf if any(map(len, together.values())) else error


def _difference(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
    """As ``relative_error``, and infinite where whole numbers, such as classes, differ.

    Also of sequences, of which it is not known whose they are.
    """
    for name, value in before.items():
        dtype = getattr(value, "dtype", None)
        if dtype is None:
            return np.inf
        # Of the others differences are added up.
        exact = dtype.kind not in "fiu" or (dtype.kind != "f" and dtype.itemsize > 2)
        if exact and not np.array_equal(value, after[name]):
            return np.inf
    return relative_error(before, after)


def _shuffled(x: np.ndarray, scale: float, generator: np.random.Generator) -> np.ndarray:
    """Each sample's numbers in other places, floats scaled; of whole ones that are alike half."""
    shuffled: np.ndarray = generator.permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape)
    if x.dtype.kind == "f":
        shuffled *= x.dtype.type(scale)
    elif x.dtype.kind in "iu" and np.array_equal(shuffled, x):
        shuffled //= 2
    return shuffled


def _with_numbers(graph: gs.Graph) -> ModelParts:
    """A graph as a model that hands on what its whole numbers, such as classes, are of, too.

    But for what is known to have no samples along axis 0.
    """
    outputs = list(graph.outputs)
    handed_on = {tensor.name: tensor for tensor in outputs}
    for tensor in outputs:
        while not is_floating(tensor) and tensor.inputs and tensor.inputs[0].inputs:
            tensor = tensor.inputs[0].inputs[0]
        counted = bool(tensor.shape) and not isinstance(tensor.shape[0], int)
        if isinstance(tensor, gs.Variable) and counted:
            handed_on[tensor.name] = tensor
    graph.outputs = list(handed_on.values())
    try:
        return to_parts(graph)
    finally:
        graph.outputs = outputs
