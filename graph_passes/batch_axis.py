"""Let a network that was exported for a fixed batch take any number of samples."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import onnx_graphsurgeon as gs

from .graph.editing import MIN_OPSET, Editor, known_value, optional_input
from .graph.operators import RECURRENT
from .graph.regions import downstream
from .graph.shapes import infer_shapes
from .graph.tidying import tidy
from .model_files.io import to_graph, to_parts
from .spellings.fold_constants import fold_constants
from .spellings.fused_layers import split_fused_layers

_EXPAND = 8
"""The opset that it is in."""


def free_batch_axis(graph: gs.Graph, gathers: bool = False) -> bool:
    """Inputs [b, ...] -> [N, ...], and whatever says b beside them says nothing of it.

        Reshape or Expand to [b, ...]      ->  the size of what it reads stays there
        Reshape of other rows, a known     ->  the first size is open, or the second where samples
        multiple of b                          lie along it
        Gather of all rows, in order       ->  such a Reshape
        Resize to [b, C, H, W]             ->  by scales
        recurrent, initial states 0        ->  without them, which is the same
        recurrent, others alike for all    ->  these expanded to N
        Concat of samples and what no      ->  that expanded to N, where b is 1
        input reaches, as a class token

    For a network whose inputs all have the same fixed number of samples, b. gathers: whether to
    rewrite a Gather, as of a mask by all of its places; right where samples lie along its first
    axis. The result is the same for b samples, up to rounding; that it treats samples apart is to
    be checked by running it, since a constant may hold b too. False, and nothing changes, if the
    first axes are not one fixed size, or the opset is older than 5.
    """
    firsts = {t.shape[0] if t.shape else None for t in graph.inputs}
    batch = firsts.pop() if len(firsts) == 1 else None
    # Before opset 5 a Reshape has its sizes in an attribute.
    if not isinstance(batch, int) or batch < 1 or graph.opset < 5:
        return False
    editor, shapes = Editor(graph), _shapes_of_the_batch(graph)
    taken = {size for t in graph.inputs for size in t.shape}
    symbol = next(name for name in map(editor.name, repeat("N")) if name not in taken)
    fixed = _Fixed(editor, batch, shapes, downstream(graph, graph.inputs))
    for node in [node for node in graph.nodes if not node.domain]:
        free = _FREEING.get(node.op)
        if free is not None and (gathers or node.op != "Gather"):
            free(fixed, node)
    _open_shapes(graph, batch, symbol)
    return True


@dataclass(frozen=True)
class _Fixed:
    """A network of a fixed batch.

    ``batch``: b. ``shapes``: those of tensors, by name, if known, for b samples. ``of_samples``:
    the names of tensors that depend on samples.
    """

    editor: Editor
    batch: int
    shapes: dict[str, list[int | str] | None]
    of_samples: set[str]

    def read_by(self, node: gs.Node) -> list[int | str] | None:
        """The shape of a node's first input."""
        return self.shapes.get(node.inputs[0].name)


def _open_shapes(graph: gs.Graph, batch: int, symbol: str) -> None:
    """Let inputs have any number of samples, and infer the shapes of all others anew."""
    for tensor in graph.inputs:
        tensor.shape = [symbol, *tensor.shape[1:]]
    # What was known of others holds for that batch alone, along whichever axis they have it.
    inner = [t for node in graph.nodes for t in node.outputs if isinstance(t, gs.Variable)]
    before = [tensor.shape for tensor in inner]
    for tensor in inner:
        tensor.shape = None
    tidy(graph)
    infer_shapes(graph)
    for tensor, known in zip(inner, before, strict=True):
        if tensor.shape is None and known:
            first, *rest = ("?" if size == batch else size for size in known)
            tensor.shape = [symbol if first == "?" else first, *rest]


def _shapes_of_the_batch(graph: gs.Graph) -> dict[str, list[int | str] | None]:
    """The shapes of tensors, by name, as they are for the batch that the file fixes."""
    tensors = graph.tensors()
    read = [n.inputs[0] for n in graph.nodes if n.op in ("Expand", "Reshape", "Resize")]
    read += [tensor for n in graph.nodes if n.op == "Concat" for tensor in n.inputs]
    known = all(isinstance(size, int) for t in read for size in t.shape or ["?"])
    if not known and graph.opset >= MIN_OPSET:
        # Sizes that nodes work out, as PyTorch's older exporter writes chunk, are known then, and
        # what is behind layers that ONNX Runtime has fused.
        fixed = to_graph(to_parts(graph))
        split_fused_layers(fixed)
        fold_constants(fixed)
        infer_shapes(fixed)
        tensors |= fixed.tensors()
    return {name: tensor.shape for name, tensor in tensors.items()}


def _keep_sizes(fixed: _Fixed, node: gs.Node) -> None:
    """Let a Reshape or Expand say nothing of the number of samples."""
    of_samples = node.inputs[0].name in fixed.of_samples
    kept = _kept_sizes(node, fixed.read_by(node), fixed.batch, of_samples)
    if kept is not None:
        node.attrs.pop("allowzero", None)
        node.inputs[1] = fixed.editor.constant(f"{node.name}/shape", kept)


def _kept_sizes(
    node: gs.Node, read: list[int | str] | None, batch: int, of_samples: bool
) -> np.ndarray | None:
    """The sizes of a Reshape or Expand, with none that is the batch's; None where there are none.

    ``read``: the shape of what it reads, which may depend on samples, if that is known.
    """
    shape = known_value(node.inputs[1])
    if shape is None or not shape.size:
        return None
    # A size of 0; in a Reshape it copies another one if it is not allowed.
    if np.any(shape == 0) and (node.op == "Expand" or node.attrs.get("allowzero", 0)):
        return None
    # What Expand reads is aligned with the last of its axes.
    more = max(len(shape) - len(read or shape), 0) if node.op == "Expand" else 0
    # Of recurrent layers samples lie along axis 1.
    pairs = enumerate(zip(shape[more:], read or (), strict=False), more)
    places = [place for place, sizes in pairs if set(sizes) == {batch}]
    kept = np.array(shape)
    if node.op == "Expand":
        # 1 leaves a size.
        kept[places or ([0] if shape[0] == batch else [])] = 1
    elif places:
        # 0 copies a size.
        kept[places] = 0
    elif of_samples and shape[0] > 0:
        whole = _without_open(shape, read)
        axis = 1 if _are_second(shape, read, batch) else 0
        if whole is not None and whole[axis] % batch == 0:
            # Of each sample as many rows.
            kept = whole
            kept[axis] = -1
    return None if np.array_equal(kept, shape) else kept


def _reshape_instead(fixed: _Fixed, node: gs.Node) -> None:
    """Make a Gather of all rows in order, of samples along its first axis, a Reshape."""
    sizes = _sizes_of_all_rows(node, fixed.read_by(node))
    of_samples = node.inputs[0].name in fixed.of_samples
    if sizes is not None and sizes[0] % fixed.batch == 0 and of_samples:
        node.op, node.attrs = "Reshape", {}
        sizes[0] = -1
        node.inputs[1] = fixed.editor.constant(f"{node.name}/shape", sizes)


def _sizes_of_all_rows(node: gs.Node, read: list[int | str] | None) -> np.ndarray | None:
    """The sizes of what a Gather makes, if that is all rows of axis 0 in order; else None."""
    rows = known_value(node.inputs[1])
    if rows is None or not rows.ndim or node.attrs.get("axis", 0):
        return None
    in_order = np.array_equal(rows.ravel(), np.arange(rows.size))
    known = read is not None and all(isinstance(size, int) for size in read)
    if not in_order or not read or not known or read[0] != rows.size:
        return None
    return np.array([*rows.shape, *read[1:]])


def _without_open(shape: np.ndarray, read: list[int | str] | None) -> np.ndarray | None:
    """The sizes of a Reshape, the open one as what it reads says; None where that is not known."""
    whole = np.array(shape)
    if np.any(shape < 0):
        sizes = [size for size in read or () if isinstance(size, int)]
        if read is None or len(sizes) < len(read):
            return None
        whole[shape < 0] = math.prod(sizes) // max(math.prod(shape[shape > 0].tolist()), 1)
    return whole if np.all(whole > 0) else None


def _are_second(shape: np.ndarray, read: list[int | str] | None, batch: int) -> bool:
    """Whether samples are along axis 1, as in attention over sequences that come first."""
    if not read or len(shape) < 2 or read[0] != shape[0] or shape[0] == batch:
        return False
    if batch == 1 and len(shape) == 2 < len(read):
        # Rows of all samples, as a dense layer takes them.
        return False
    return batch in (*read[1:2], shape[1])


def _expand_others(fixed: _Fixed, node: gs.Node) -> None:
    """Expand what a Concat reads besides samples to as many as there are, where b is 1."""
    if fixed.batch != 1 or fixed.editor.graph.opset < _EXPAND:
        return
    samples = [tensor for tensor in node.inputs if tensor.name in fixed.of_samples]
    for place, tensor in enumerate(node.inputs):
        shape = fixed.shapes.get(tensor.name) or []
        rank = len(shape)
        other = samples and tensor.name not in fixed.of_samples and rank > 0 and shape[0] == 1
        if not other or node.attrs["axis"] in (0, -rank):
            continue
        wanted = _sizes_of_samples(fixed.editor, node, samples[0], 0, rank)
        node.inputs[place] = fixed.editor.node("Expand", f"{node.name}/{place}", [tensor, wanted])


def _sizes_of_samples(
    editor: Editor, node: gs.Node, tensor: gs.Tensor, axis: int, rank: int
) -> gs.Variable:
    """To expand to: as many as ``tensor`` has along ``axis``, there, and 1 along all others."""
    place = editor.constant(f"{node.name}/place", np.array([axis]))
    sizes = editor.node("Shape", f"{node.name}/sizes", [tensor])
    count = editor.node("Gather", f"{node.name}/count", [sizes, place])
    before, after = (
        [editor.constant(f"{node.name}/ones", np.ones(n, np.int64))] if n else []
        for n in (axis, rank - 1 - axis)
    )
    return editor.node("Concat", f"{node.name}/wanted", [*before, count, *after], {"axis": 0})


def _free_initial_states(fixed: _Fixed, node: gs.Node) -> None:
    """Expand constant initial states of a recurrent layer, [D, b, H], leave out those of 0."""
    editor, samples = fixed.editor, 0 if node.attrs.get("layout", 0) else 1
    for place in range(5, len(node.inputs[:7])):
        value = known_value(node.inputs[place])
        if value is None:
            continue
        of_one = value.take([0], samples)
        if not value.any():
            node.inputs[place] = gs.Variable.empty()
        elif np.all(value == of_one) and editor.graph.opset >= _EXPAND:
            each = editor.constant(f"{node.name}/{place}/of_one", of_one)
            wanted = _sizes_of_samples(editor, node, node.inputs[0], samples, value.ndim)
            node.inputs[place] = editor.node("Expand", f"{node.name}/{place}", [each, wanted])


def _scale_instead(fixed: _Fixed, node: gs.Node) -> None:
    """Let a Resize to sizes take scales, which say nothing of the number of samples."""
    scales = _scales(node, fixed.read_by(node), fixed.batch)
    if scales is not None:
        node.inputs.pop()
        node.inputs[2] = fixed.editor.constant(f"{node.name}/scales", scales)


def _scales(node: gs.Node, before: list[int | str] | None, batch: int) -> np.ndarray | None:
    """The scales that a Resize to so many samples, and other sizes, works out: float32 [rank].

    ``before``: the shape of what it reads. None where it takes none as they are, or they would not
    come to the same sizes.
    """
    given = optional_input(node, 3)
    sizes = None if given is None else known_value(given)
    if sizes is None or before is None or len(before) != len(sizes):
        return None
    if "axes" in node.attrs or node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    known = all(isinstance(size, int) and size > 0 for size in before)
    if not known or not before[0] == sizes[0] == batch:
        return None
    had = np.array(before, np.float32)
    scales = np.float32(sizes) / had
    # Where shapes are inferred 13 / 7, rounded down, just misses a size that the next number up
    # comes to. Between two places it makes no difference, but to the nearest of them it may.
    missed = np.floor(scales.astype(np.float64) * had) < sizes
    between = zip(had[missed], sizes[missed], strict=True)
    if node.attrs.get("mode", "nearest") == "nearest" and any(_has_ties(node, *b) for b in between):
        return None
    scales[missed] = np.nextafter(scales[missed], np.float32(np.inf))
    return scales if np.array_equal(np.floor(scales * had), sizes) else None


def _has_ties(node: gs.Node, before: float, size: int) -> bool:
    """Whether rounding decides which of two places a Resize takes as the nearest to another."""
    places = np.arange(size)
    mode = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    if mode == "half_pixel":
        sources = (places + 0.5) * before / size - 0.5
    elif mode == "asymmetric":
        # The first is where it was, exactly.
        sources = places[1:] * before / size
    else:
        return True
    rounds = node.attrs.get("nearest_mode", "round_prefer_floor").startswith("round")
    edges = sources + 0.5 * rounds
    return bool(np.any(np.abs(edges - np.rint(edges)) < 1e-4))


_FREEING: dict[str, Callable[[_Fixed, gs.Node], None]] = {
    **dict.fromkeys(RECURRENT, _free_initial_states),
    "Concat": _expand_others,
    "Expand": _keep_sizes,
    "Gather": _reshape_instead,
    "Reshape": _keep_sizes,
    "Resize": _scale_instead,
}
"""What lets a node take any number of samples, by operator."""
