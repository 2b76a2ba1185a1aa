"""Whether samples are rows, along axis 0, that a step computes each by itself.

Then some of them may run without the others: in groups, or after others have left.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from onnx2snn.graph_passes.graph.operators import SHAPE_OPS
from onnx2snn.graph_passes.model_files.protos import attributes_of, operand_names
from onnx2snn.runtime.plans.graphs import MANY
from onnx2snn.runtime.plans.plan import State
from onnx2snn.runtime.plans.sizes import Sizes, sizes_of, with_constants

Shape = tuple[int | str, ...]

_IN_ATTRIBUTES: dict[str, tuple[str, int | list[int]]] = {
    "Gather": ("axis", 0),
    "MeanVarianceNormalization": ("axes", [0, 2, 3]),
    **dict.fromkeys(
        ("Hardmax", "LayerNormalization", "LogSoftmax", "LpNormalization", "RMSNormalization",
         "Softmax"),
        ("axis", -1),
    ),
}  # fmt: skip
"""Operators that have their axes in an attribute of this name, by default these."""

_ALONG_AXES = {"CumSum", "DFT", "Pad", "Slice", *_IN_ATTRIBUTES}
"""Operators that may move or add up rows, if axis 0 is among their axes, and keep their number."""

_ALONG_ANY = {"GatherElements", "GatherND", "GRU", "LSTM", "ReverseSequence", "RNN",
              "RotaryEmbedding", "ScatterElements", "ScatterND", "Trilu"}  # fmt: skip
"""Others that may, or may hold something for each row."""

_OF_SHAPES = {"Add", "Cast", "Concat", "Div", "Equal", "Gather", "Identity", "Max", "Min", "Mul",
              "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"}  # fmt: skip
"""Operators by which one shape is made of others."""

_WHOLE = (None, onnx.TensorProto.INT32, onnx.TensorProto.INT64)
"""To what a Cast may take a shape."""

_TO_SHAPES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Resize": 3, "Slice": 1, "Tile": 1}
"""Operators that take a shape, or numbers of elements, from this input on."""


def states_have_rows(
    step: onnx.ModelProto,
    states: Sequence[State],
    shapes: Mapping[str, Shape],
    samples: int,
) -> bool:
    """Whether each state has a row for each sample, along axis 0, or is the same for any N.

    And whether each is computed by itself.
    ``shapes``: those of what ``step`` reads, as far as they are known, for N = ``samples``.
    """
    more = {
        name: (MANY, *shape[1:]) if shape[:1] == (samples,) else shape
        for name, shape in shapes.items()
    }
    sizes = sizes_of(step, more)
    constants = {t.name: t for t in step.graph.initializer if t.name not in shapes}

    def has_rows(state: State) -> bool:
        written = sizes.shapes.get(state.written, ())
        return _may_be(written, more[state.read]) if state.read in more else MANY not in written[1:]

    if not all(map(has_rows, states)) or _compute_with_sizes(step, sizes):
        return False
    return not any(_mixes(node, sizes, constants) for node in step.graph.node)


def samples_are_apart(
    step: onnx.ModelProto,
    states: Sequence[State],
    shapes: Mapping[str, Shape],
    samples: int,
) -> bool:
    """Whether all that a step reads and makes has one row for each sample, computed by itself.

    ``shapes`` as for ``states_have_rows``, all of them. False too where that cannot be told.
    """
    # So has what else it makes: neurons and sums over time have the shape of a state.
    rows = all(shape[:1] == (samples,) for shape in shapes.values())
    known = all(state.read in shapes for state in states)
    return rows and known and states_have_rows(step, states, shapes, samples)


def _may_be(written: tuple[int, ...], read: Shape) -> bool:
    """Whether a shape of as many rows may be another, where some of its sizes are not known."""
    alike = len(written) == len(read) and written[:1] == read[:1]
    return alike and all(size in (0, other) for size, other in zip(written, read, strict=True))


def _mixes(node: onnx.NodeProto, sizes: Sizes, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node may compute a row from other rows."""
    read = [sizes.shapes[name] for name in node.input if name in sizes.shapes]
    if node.op_type in SHAPE_OPS or not any(MANY in shape for shape in read):
        return False
    made = [sizes.shapes.get(name, ()) for name in node.output if name]
    # Rows that are elsewhere, or no longer there, have been moved or added up.
    if any(MANY in shape[1:] for shape in read) or any(shape[:1] != (MANY,) for shape in made):
        return True
    if node.op_type in _ALONG_AXES:
        axes = _axes(node, constants, len(read[0]))
        return axes is None or any(axis % len(read[0]) == 0 for axis in axes)
    if node.op_type == "Einsum":
        with_rows = [MANY in sizes.shapes.get(name, ()) for name in node.input]
        return _sums_mix(attributes_of(node)["equation"].decode(), with_rows)
    return node.op_type in _ALONG_ANY


def _sums_mix(equation: str, with_rows: Sequence[bool]) -> bool:
    """Whether an Einsum has another letter than the result's first for rows, or elsewhere, too."""
    operands, _, result = equation.replace(" ", "").partition("->")
    letter = result[:1]
    if not letter.isalpha():
        return True
    return any(
        operand.count(letter) != rows or (rows and not operand.startswith(letter))
        for operand, rows in zip(operands.split(","), with_rows, strict=True)
    )


def _compute_with_sizes(step: onnx.ModelProto, known: Sizes) -> bool:
    """Whether sizes of tensors, N perhaps among them, become numbers to compute with.

    Or say which rows of something that has none for samples there are.
    """
    shapes = with_constants(step, known)
    sizes = set[str]()
    for node in step.graph.node:
        attributes = attributes_of(node)
        if node.op_type in SHAPE_OPS:
            shape = shapes.get(node.input[0], (MANY,))
            if MANY in shape[attributes.get("start", 0) : attributes.get("end", len(shape))]:
                sizes.update(node.output)
            continue
        read = sizes.intersection(operand_names(node))
        if not read:
            continue
        of_shapes = node.op_type in _OF_SHAPES and attributes.get("to") in _WHOLE
        if node.op_type in ("Gather", "Slice"):
            # What else they read says where, in something that may be no shape.
            of_shapes = node.input[0] in sizes and read == {node.input[0]}
        if of_shapes:
            sizes.update(node.output)
            continue
        alike = node.op_type == "ConstantOfShape" or _makes_rows_alike(node, shapes)
        if node.op_type not in _TO_SHAPES or not alike:
            return True
        if read & {*node.input[: _TO_SHAPES[node.op_type]]}:
            return True
    return False


def _makes_rows_alike(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a node that takes a shape makes of rows their own, or the same in each."""
    rows = shapes.get(node.input[0])
    if rows is None or rows[:1] == (MANY,):
        return rows is not None
    fewer = node.op_type == "Expand" and len(rows) < len(shapes.get(node.output[0], ()))
    return node.op_type != "Reshape" and (rows[:1] in ((), (1,)) or fewer)


def _axes(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], rank: int
) -> list[int] | None:
    """The axes along which a node of ``_ALONG_AXES`` works; None if they are not constant."""
    attributes = attributes_of(node)

    def numbers(name: str, place: int) -> list[int] | None:
        if name in attributes:
            return list(np.atleast_1d(attributes[name]))
        given = constants.get(node.input[place]) if place < len(node.input) else None
        return None if given is None else np.atleast_1d(numpy_helper.to_array(given)).tolist()

    if node.op_type in _IN_ATTRIBUTES:
        return list(np.atleast_1d(attributes.get(*_IN_ATTRIBUTES[node.op_type])))
    if node.op_type == "CumSum":
        return numbers("axis", 1)
    if node.op_type == "DFT":
        # An input since opset 20; the default was 1 before, and is -2.
        given = "axis" in attributes or any(node.input[2:])
        return numbers("axis", 2) if given else [1, -2]
    axes = numbers("axes", 3)
    if node.op_type == "Slice":
        return axes
    pads = numbers("pads", 1)
    if pads is None:
        return None
    half = len(pads) // 2
    axes = list(range(rank)) if axes is None else axes
    return [axis for axis, *ends in zip(axes, pads, pads[half:], strict=False) if any(ends)]
