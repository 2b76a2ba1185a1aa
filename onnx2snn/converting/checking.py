"""Compare an ANN after a rewriting with the ANN before it, by running both."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.ann import Ann, import_ann
from onnx2snn.data.samples import Data, Inputs, by_name
from onnx2snn.graph_passes import run_passes, upgrade_opset
from onnx2snn.graph_passes.driver import Pass, pass_name
from onnx2snn.graph_passes.errors import DataError, ModelError, PassError
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.measuring.classes import check_labels, classes_of
from onnx2snn.running import Running
from onnx2snn.runtime.result import class_output

NOT_CHECKED = (
    "not checked: none of the random inputs that were tried runs, or inputs or activations are too "
    "large for a try; with calibration data it is checked on that"
)
"""What is said of a rewriting on which two networks could not be compared."""

ROUNDINGS = 10
"""How many times what rounding the inputs makes of its outputs a network may change by.

Where Sigmoids are all next to 0, folding rounds away as much as that.
"""

MOST_ODD = 0.01
"""The share of an output's numbers that may be finite in one of two networks alone.

Rounding makes the logarithm of a 0 one of next to 0, and the reverse. More are a change.
"""

MOST_ELEMENTS = 2**25
"""Of all inputs together, on which two networks are compared without data."""

MOST_ACTIVATIONS = 2**28
"""Elements of all tensors of a network together, for two samples, for that comparison."""

TOGETHER = "all together"
"""The name of all changes, as one, in a list of agreements."""

EXACT, FOLDED = "exact rewriting", "exact folding"
"""The names of the passes that leave the network's function as it is; FOLDED: behind pools."""

UNQUANTISED, POOLED, CLIPPED, APPROXIMATED = (
    "quantised activations -> clips",
    "max-pooling -> average-pooling",
    "activations clipped",
    "activations approximated",
)
"""The changes that a network may not stand, in the same list."""


@dataclass(frozen=True)
class Agreement:
    """How the ANN after a change agrees with the ANN before it, on the calibration data.

    ``top1``: percent of samples with the same class (None unless the output is [N, classes]).
    ``accuracy_before`` and ``accuracy_after``: percent, None without a label for each row.
    ``error``: root mean square of the difference, relative to that of the output before; of
    several outputs, the largest.
    """

    change: str
    top1: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    error: float


def compare(
    change: str,
    before: ModelParts,
    after: ModelParts,
    data: Data,
    running: Running,
) -> Agreement:
    """Run both ANNs on all the data; memory for one batch. The first class output counts."""
    anns = Ann(before, running.providers), Ann(after, running.providers)
    sums = Differences()
    rows = same = right_before = right_after = 0
    classes = labelled = False
    for x, y in running.batches(data, f"checking: {change}"):
        a, b = (ann.run(x) for ann in anns)
        sums.add(a, b)
        name = class_output(a)
        classes = name is not None
        if name is not None:
            # Else its rows are no samples, and labels say nothing of them.
            labelled = y is not None and len(y) == len(a[name])
            check_labels(y if labelled else None, a[name].shape, data.name)
            chosen_a, chosen_b = classes_of(a[name]), classes_of(b[name])
            rows += len(chosen_a)
            if len(chosen_a) != len(chosen_b):
                # Differences.add has made the error infinite.
                continue
            same += int((chosen_a == chosen_b).sum())
            if labelled:
                right_before += int((chosen_a == y).sum())
                right_after += int((chosen_b == y).sum())
    return Agreement(
        change,
        100 * same / rows if classes else None,
        100 * right_before / rows if labelled else None,
        100 * right_after / rows if labelled else None,
        sums.error(),
    )


class Differences:
    """Adds up how two networks' outputs differ."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}

    def add(self, before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> None:
        """Add the floating-point outputs that both have, by name, and those in 8 or 16 bits.

        Of these it counts how far they are from their mean, as their zero point may be anywhere.
        Larger integers are places, such as classes.
        """
        for name, a in before.items():
            b = after.get(name)
            if b is None or not isinstance(a, np.ndarray):
                continue
            whole = a.dtype.kind in "iu" and a.dtype.itemsize <= 2
            if a.dtype.kind != "f" and not whole:
                continue
            a, b = a.astype(np.float64), np.asarray(b, np.float64)
            # Where the ANN itself overflows, so should the other.
            known, odd, gap = np.isfinite(a), np.inf, 0.0
            if a.shape == b.shape:
                known &= np.isfinite(b)
                odd = np.sum(~known & (a != b) & ~(np.isnan(a) & np.isnan(b)))
                gap = np.square(a[known] - b[known]).sum()
            count, a = a.size, a[known]
            squares, total = np.square(a).sum(), a.sum() if whole else 0.0
            now = np.array([gap, squares, total, a.size, odd, count])
            self._sums[name] = self._sums.get(name, 0.0) + now

    def error(self) -> float:
        """The largest relative root mean square of a difference."""
        errors = [0.0]
        for gap, squares, total, size, odd, count in self._sums.values():
            power = squares - total**2 / max(size, 1)
            error = np.sqrt(gap / power) if power > 0 else np.sqrt(gap)
            errors.append(np.inf if odd > MOST_ODD * count else float(error))
        return max(errors)


def tolerance(graph: gs.Graph) -> float:
    """The largest relative error that counts as rounding, by the narrowest type of the outputs."""
    return 3e-2 if any(tensor.dtype == np.float16 for tensor in graph.outputs) else 1e-3


def seeded_inputs(wanted: Sequence[gs.Variable]) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of the shapes that these declare, normally distributed.

    Open batch axes take 2 samples; where other sizes are open, there are several tries, each with
    one of some common sizes.
    """
    open_sizes = any(not isinstance(size, int) for t in wanted for size in (t.shape or ())[1:])
    for size in (32, 64, 224, 16, 8, 128, 4) if open_sizes else (1,):
        generator = np.random.default_rng(0)
        inputs = {}
        shapes = {
            tensor.name: [
                length if isinstance(length, int) else 2 if axis == 0 else size
                for axis, length in enumerate(tensor.shape or ())
            ]
            for tensor in wanted
        }
        if sum(math.prod(shape) for shape in shapes.values()) > MOST_ELEMENTS:
            continue
        for tensor in wanted:
            shape, dtype = shapes[tensor.name], np.dtype(tensor.dtype)
            if dtype.kind == "f":
                inputs[tensor.name] = generator.standard_normal(shape).astype(dtype)
            else:
                inputs[tensor.name] = generator.integers(0, 2, shape).astype(dtype)
        yield inputs


def outputs_of(model: ModelParts, inputs: Inputs) -> dict[str, np.ndarray]:
    """What an ANN computes for one batch, by name; for one run, without optimisations."""
    return Ann(model, once=True).run(inputs)


def relative_error(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
    """The largest relative root mean square difference of outputs of the same name."""
    sums = Differences()
    sums.add(before, after)
    return sums.error()


def error_of_rounding(model: ModelParts, inputs: Inputs, wanted: dict[str, np.ndarray]) -> float:
    """How far an ANN's outputs change where numbers of its inputs are the next ones: an error.

    Half of them, at random, the next away from 0, so that what is cut off to whole numbers stays;
    the largest of four draws. Where that is much, the ANN itself loses digits. ``wanted``: its
    outputs for ``inputs``.
    """

    def moved(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if x.dtype.kind != "f":
            return x
        ends = np.where(generator.random(x.shape) < 0.5, x, np.copysign(np.inf, x))
        near: np.ndarray = np.nextafter(x, ends.astype(x.dtype))
        return near

    ann, named, errors = Ann(model, once=True), by_name(inputs), []
    for generator in map(np.random.default_rng, range(4)):
        near = {name: moved(x, generator) for name, x in named.items()}
        given = near if isinstance(inputs, dict) else near["x"]
        errors.append(relative_error(wanted, ann.run(given)))
    return max(errors)


def require_rounding(passes: Sequence[Pass], before: ModelParts, x: Inputs, error: float) -> float:
    """Raise ``PassError``, naming the pass after which an ANN's outputs for x differ.

    Not where the ``error``, which the ``passes`` together made, is at most 1, and ``ROUNDINGS``
    times that of rounding the inputs, which is returned.
    """
    graph, wanted = import_ann(upgrade_opset(before)), outputs_of(before, x)
    rounding = error_of_rounding(before, x, wanted)
    limit = max(tolerance(graph), min(ROUNDINGS * rounding, 1.0))
    if error <= limit:
        return rounding
    first: tuple[str, list[Pass]] = "upgrade_opset (or standardise_scikit_learn)", []
    for name, step in (first, *((pass_name(function), [function]) for function in passes)):
        run_passes(graph, step)
        found = relative_error(wanted, outputs_of(to_parts(graph), x))
        if found > limit:
            raise PassError(
                f"pass {name} should leave the network's function as it is, "
                f"but changed its output by {found:.1e} of its size: please report it, with "
                "the model"
            )
    raise PassError(
        f"the passes {', '.join(map(pass_name, passes))} should leave the network's function "
        f"as it is, but together changed its output by {error:.1e} of its size: please report "
        "it, with the model"
    )


def first_inputs_that_run(
    model: ModelParts, graph: gs.Graph
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
    """Seeded inputs on which an ANN runs, and its outputs.

    None if none of some sizes do, or if the network's activations would take over a gigabyte.

    Raises ``ModelError`` if ONNX Runtime cannot load the model at all.
    """
    try:
        ann = Ann(model, once=True)
    except ModelError as error:
        raise ModelError(f"the ANN itself cannot run: {error}") from error
    if _activations(graph) > MOST_ACTIVATIONS:
        return None
    for inputs in seeded_inputs(graph.inputs):
        try:
            return inputs, ann.run(inputs)
        except DataError:
            continue
    return None


def _activations(graph: gs.Graph) -> int:
    """Elements that a run on two samples takes, as far as sizes are known.

    Those of all tensors that nodes make, and of the patches that the largest convolution is
    computed from.
    """

    def elements(shape: Sequence[int | str]) -> int:
        return math.prod(size if isinstance(size, int) else 2 for size in shape)

    tensors = sum(elements(t.shape or ()) for node in graph.nodes for t in node.outputs)
    patches = [
        elements(node.inputs[1].shape[1:]) * elements((node.outputs[0].shape or ())[2:])
        for node in graph.nodes
        if node.op == "Conv" and node.inputs[1].shape
    ]
    return tensors + max(patches, default=0)
