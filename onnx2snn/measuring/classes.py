"""Classes that networks say, beside those that are right, or that another network says."""

from collections.abc import Mapping, Sequence

import numpy as np

from onnx2snn.ann import Ann
from onnx2snn.data.samples import Inputs
from onnx2snn.graph_passes.errors import DataError
from onnx2snn.runtime.result import class_output, types_of

Truth = Mapping[str, np.ndarray | None]
"""Classes int64 [N] to compare with: "accuracy", the labels; "agreement", the ANN's; or None."""


def truth_of(labels: np.ndarray | None, ann: Sequence[np.ndarray]) -> Truth:
    """The labels, and the ANN's classes of each batch as one; None where there are none."""
    return {"accuracy": labels, "agreement": np.concatenate(ann) if ann else None}


def require_class_output(outputs: Mapping[str, np.ndarray]) -> str:
    """The name of the first output [N, classes]; ``DataError`` with what there is without one."""
    name = class_output(outputs)
    if name is None:
        raise DataError(
            "evaluation needs a network with an output of scores [N, classes], not "
            f"{types_of(outputs)} of a batch: for others diagnose tells the errors of layers, and "
            "run what comes out"
        )
    return name


def classes_of(scores: np.ndarray) -> np.ndarray:
    """The class of each sample: int64 [N], from scores [N, classes], or [N, classes, 1, ...]."""
    classes: np.ndarray = scores.reshape(len(scores), -1).argmax(1)
    return classes


def check_labels(y: np.ndarray | None, shape: Sequence[int], name: str) -> None:
    """Raise ``DataError`` unless labels, if any, fit scores of this shape, [N, classes]."""
    if y is None:
        return
    rows, classes = shape[:2]
    if len(y) != rows:
        raise DataError(
            f"'{name}' holds labels of {len(y)} samples, and the network's output is "
            f"{list(shape)}, with no row for each: leave y out"
        )
    if y.min() < 0 or y.max() >= classes:
        raise DataError(
            f"'{name}' holds labels from {y.min()} to {y.max()}; "
            f"the network has the classes 0 to {classes - 1}: leave y out if it holds others"
        )


def shares(said: np.ndarray, truth: Truth) -> dict[str, float | None]:
    """Percent of the classes ``said`` that are as in each of ``truth``; None where that is."""
    return {
        name: None if known is None else 100 * int((said == known).sum()) / len(said)
        for name, known in truth.items()
    }


def ann_report(truth: Truth) -> dict[str, float | None] | None:
    """The ANN's accuracy, by its classes in ``truth["agreement"]``; None without an ANN."""
    said = truth["agreement"]
    return None if said is None else {"accuracy": shares(said, truth)["accuracy"]}


def ann_classes(ann: Ann, x: Inputs, output: str, shape: tuple[int, ...]) -> np.ndarray:
    """The ANN's classes, int64 [N], by its output of this name, or its first.

    Raises ``DataError`` unless that has the shape of the spiking network's, and no NaN, of which
    there is no largest.
    """
    outputs = ann.run(x)
    # The name of a lone output may differ.
    output = output if output in outputs else next(iter(outputs))
    scores = outputs[output]
    if scores.shape != shape:
        raise DataError(
            f"the ANN's output has shape {list(scores.shape)}, the spiking network's "
            f"{list(shape)}: they are not the same network"
        )
    if scores.dtype.kind == "f" and np.isnan(scores).any():
        place = np.argwhere(np.isnan(scores))[0].tolist()
        raise DataError(f"the ANN's output '{output}' holds NaN, first at {place} of a batch")
    return classes_of(scores)
