"""Weights that bring a layer's mean current nearest to that of the ANN."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.editing import Editor, only_consumer, producer

from .layers import Layer

RIDGE = 0.1
"""How much a change of weights is held back: a share of the inputs' mean square."""


def fit_weights(layer: Layer, current: gs.Tensor, wanted: np.ndarray) -> None:
    """Refit the convolutions and dense layers that add up to a layer's current.

    wanted: ``current`` in the ANN, [N, ...]. With P the patches of the mean inputs that each
    place of the output sees, of K numbers each, and R what the mean current lacks:

        dW = argmin |R - P dW|^2 + RIDGE |P|^2 / K |dW|^2

    which the normal equations (P'P + ...) dW = P'R give exactly. Layers between which and the
    neuron anything but sums lies keep their weights, and so do those that others read too.
    """
    graph = layer.simulation.graph
    linear = [node for node in _summed(graph, current) if _patches(node, None) is not None]
    if not linear or not layer.segment.spikes:
        return
    *sources, mean = layer.measure([*(node.inputs[0] for node in linear), current])
    residual = np.asarray(wanted - mean, np.float64)
    for node, source in zip(linear, sources, strict=True):
        residual = _refit(graph, node, source, residual)
    layer.refresh()


def _summed(graph: gs.Graph, tensor: gs.Tensor) -> list[gs.Node]:
    """The weighted nodes whose outputs are added to make a tensor, and nothing else."""
    node = producer(tensor)
    if node is None or only_consumer(graph, tensor) is None:
        return []
    if node.op == "Add":
        return [found for operand in node.inputs for found in _summed(graph, operand)]
    weighted = node.op in ("Conv", "Gemm", "MatMul") and isinstance(node.inputs[1], gs.Constant)
    return [node] if weighted else []


def _refit(graph: gs.Graph, node: gs.Node, source: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Change a node's weights towards a residual; returns what is left of it."""
    weights = np.asarray(node.inputs[1].values)
    patches = _patches(node, source)
    if not patches:
        return residual
    groups = len(patches)
    channels_last = np.moveaxis(residual, 1, -1) if node.op == "Conv" else residual
    rows = channels_last.reshape(-1, channels_last.shape[-1])
    if len(rows) != len(patches[0]):
        # Its output is broadcast to a larger current.
        return residual
    targets = np.split(rows, groups, axis=1)
    changes, left = [], []
    for patch, target in zip(patches, targets, strict=True):
        gram = patch.T @ patch
        gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram) + 1e-12
        change = np.linalg.solve(gram, patch.T @ target)
        changes.append(change)
        left.append(target - patch @ change)
    flat = np.concatenate([change.T for change in changes])
    if node.op == "MatMul" or not node.attrs.get("transB", node.op == "Conv"):
        flat = flat.T
    new = (weights + flat.reshape(weights.shape)).astype(weights.dtype)
    old = node.inputs[1]
    # Weights that several nodes share part here.
    name = old.name if len(old.outputs) == 1 else Editor(graph).name(old.name)
    node.inputs[1] = gs.Constant(name, new)
    rest = np.concatenate(left, axis=1).reshape(channels_last.shape)
    return np.moveaxis(rest, -1, 1) if node.op == "Conv" else rest


def _patches(node: gs.Node, source: np.ndarray | None) -> list[np.ndarray] | None:
    """What each place of the output sees: [places, K] for each group; None if not known how.

    Without a source an empty list says that it is known.
    """
    if node.op != "Conv":
        plain = node.attrs.get("alpha", 1.0) == 1.0 and not node.attrs.get("transA", 0)
        if not plain or node.inputs[1].values.ndim != 2:
            return None
        return [] if source is None else [source.reshape(-1, source.shape[-1]).astype(np.float64)]
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    kernel = node.inputs[1].values.shape[2:]
    dimensions, ones = len(kernel), [1] * len(kernel)
    if source is None:
        return []
    pads = node.attrs.get("pads", [0] * 2 * dimensions)
    around = [(0, 0), (0, 0), *zip(pads[:dimensions], pads[dimensions:], strict=True)]
    dilations = node.attrs.get("dilations", ones)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    axes = tuple(range(2, 2 + dimensions))
    seen = np.lib.stride_tricks.sliding_window_view(np.pad(source, around), reach, axes)
    strides = node.attrs.get("strides", ones)
    seen = seen[(slice(None), slice(None), *(slice(None, None, s) for s in [*strides, *dilations]))]
    groups = node.attrs.get("group", 1)
    parts = np.split(seen, groups, axis=1)
    return [
        np.moveaxis(part, 1, 1 + dimensions)
        .reshape(-1, part.shape[1] * int(np.prod(kernel)))
        .astype(np.float64)
        for part in parts
    ]
