"""Let a network that was exported for a fixed batch take any number of samples."""

import numpy as np
import onnx_graphsurgeon as gs

from .editing import Editor, known_value, optional_input, tidy
from .linear import RECURRENT
from .shapes import infer_shapes


def free_batch_axis(graph: gs.Graph) -> bool:
    """Inputs [b, ...] -> [N, ...]; Reshape to [b, ...] -> [0, ...], which keeps N.

    For a network whose inputs all have the same fixed number of samples, b. Where an inner
    Reshape or Expand says b, it keeps its input's size instead; a Resize to [b, C, H, W] takes
    scales in place of sizes, and recurrent layers no initial states of 0, which is what they are.
    The result is the same for b samples, up to rounding; that it treats samples apart is to be
    checked by running it, since a constant may hold b too. False, and nothing changes, if the first
    axes are not one fixed size, or the opset is older than 5.
    """
    sizes = {t.shape[0] if t.shape else None for t in graph.inputs}
    batch = sizes.pop() if len(sizes) == 1 else None
    # Before opset 5 a Reshape has its sizes in an attribute.
    if not isinstance(batch, int) or graph.opset < 5:
        return False
    editor = Editor(graph)
    symbol = editor.name("N")
    for node in graph.nodes:
        if not node.domain and node.op in RECURRENT:
            _leave_out_zeros(node)
        if not node.domain and node.op == "Resize":
            scales = _scales(node, batch)
            if scales is not None:
                node.inputs.pop()
                node.inputs[2] = editor.constant(f"{node.name}/scales", scales)
        if node.domain or node.op not in ("Reshape", "Expand"):
            continue
        shape, before = known_value(node.inputs[1]), node.inputs[0].shape
        if shape is None or not shape.size or np.any(shape == 0):
            continue
        # Of recurrent layers samples lie along axis 1.
        pairs = enumerate(zip(shape, before or (), strict=False))
        places = [place for place, sizes in pairs if set(sizes) == {batch}]
        if node.op == "Expand" and shape[0] == batch:
            places.append(0)
        if not places:
            continue
        kept = np.array(shape)
        # 0 copies a size in Reshape; 1 leaves it in Expand.
        kept[places] = 0 if node.op == "Reshape" else 1
        node.attrs.pop("allowzero", None)
        node.inputs[1] = editor.constant(f"{node.name}/shape", kept)
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
    return True


def _leave_out_zeros(node: gs.Node) -> None:
    """Leave out the initial states of a recurrent layer, [D, b, H], that are constants of 0."""
    for place in range(5, len(node.inputs[:7])):
        value = known_value(node.inputs[place])
        if value is not None and not value.any():
            node.inputs[place] = gs.Variable.empty()


def _scales(node: gs.Node, batch: int) -> np.ndarray | None:
    """The scales that a Resize to so many samples, and other sizes, works out: float32 [rank].

    None where it takes none as they are, or they would not come to the same sizes.
    """
    given, before = optional_input(node, 3), node.inputs[0].shape
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
    if node.attrs.get("mode", "nearest") != "nearest":
        # Where shapes are inferred 13 / 7, rounded down, just misses a size that the next number up
        # comes to. Between two places it makes no difference, but to the nearest of them it may.
        missed = np.floor(scales.astype(np.float64) * had) < sizes
        scales[missed] = np.nextafter(scales[missed], np.float32(np.inf))
    return scales if np.array_equal(np.floor(scales * had), sizes) else None
