"""Algorithm 1, lines 1 to 6, on any torch model: trainable clips, and average pooling."""

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from .clips import THETA, TrainableClip

__all__ = ["prepare"]

_POOLS = {
    nn.MaxPool1d: nn.AvgPool1d,
    nn.MaxPool2d: nn.AvgPool2d,
    nn.MaxPool3d: nn.AvgPool3d,
    nn.AdaptiveMaxPool1d: nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool2d: nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool3d: nn.AdaptiveAvgPool3d,
}
"""By kind of max-pooling, the average pool of the same windows."""


def _functional(name: str) -> set[Any]:
    """A function's names in torch and torch.nn.functional; fx records the one that was called."""
    places = (torch, nn.functional, torch._C._nn)
    return {getattr(place, name) for place in places if hasattr(place, name)}


_RELUS = _functional("relu") | _functional("relu_")
_POOL_FUNCTIONS: dict[Any, tuple[Callable[..., nn.Module], Iterable[str]]] = {
    function: (kind, signature(getattr(nn.functional, f"{name}_with_indices")).parameters)
    for kind, name in (
        (nn.MaxPool1d, "max_pool1d"),
        (nn.MaxPool2d, "max_pool2d"),
        (nn.MaxPool3d, "max_pool3d"),
        (nn.AdaptiveMaxPool1d, "adaptive_max_pool1d"),
        (nn.AdaptiveMaxPool2d, "adaptive_max_pool2d"),
        (nn.AdaptiveMaxPool3d, "adaptive_max_pool3d"),
    )
    for function in _functional(name)
}
"""By function the module, which orders its arguments in another way, and the function's names."""

_WITH_INDICES = {
    function
    for kind in ("max_pool", "adaptive_max_pool")
    for axes in "123"
    for function in _functional(f"{kind}{axes}d_with_indices")
} | {
    # Those of torch.nn.functional return them only where they are asked to.
    torch.adaptive_max_pool1d, torch._C._nn.adaptive_max_pool2d, torch._C._nn.adaptive_max_pool3d
}  # fmt: skip


def prepare(model: nn.Module, theta: float = THETA) -> fx.GraphModule:
    """Replace each use of a ReLU by a clip(x; 0, theta) of its own, and max- by average-pooling.

    Modules, functions and methods are found alike, wherever they are called; a module that is
    called twice becomes two clips, each with its own trainable theta. Padding counts in no
    average, as it does in no maximum. All else, a ReLU6 among it, stays, and so do ReLUs
    within torch's own composite modules (``nn.TransformerEncoderLayer``, ``nn.RNN``). A ReLU in
    place on a part of a tensor changes that part alone, not what is read of the tensor later: write
    it without ``inplace``. The result shares its parameters with ``model``, which is left as it
    was, and is in the same mode. ``train()`` and ``eval()`` change what functions are told of it
    (``F.dropout(x, training=self.training)``), until it is pickled or traced anew, which keep the
    mode of the moment. Where the model computes otherwise in the other mode, as with an auxiliary
    head or a drop path of its own code, a warning says so, and the result computes as in the mode
    that it was prepared in.

    Raises ``ValueError`` for a theta that is not above 0, or a pool that no average stands in for
    (indices, dilation), and what ``torch.fx.symbolic_trace`` raises where the model's control flow
    depends on data.
    """
    if not 0 < theta < float("inf"):
        raise ValueError(f"theta must be above 0 and finite, not {theta!r}")
    prepared = _traced(model)
    modules = dict(prepared.named_modules())
    for number, node in enumerate(list(prepared.graph.nodes)):
        module = modules.get(node.target) if node.op == "call_module" else None
        replacement: nn.Module | None = None
        if _is_relu(node, module):
            replacement = TrainableClip(theta)
        elif type(module) in _POOLS:
            replacement = _average(module)
        elif node.op == "call_function" and node.target in _WITH_INDICES:
            raise ValueError(f"{node.name} returns indices; an average has none")
        elif node.op == "call_function" and node.target in _POOL_FUNCTIONS:
            kind, names = _POOL_FUNCTIONS[node.target]
            arguments = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            del arguments["input"]
            replacement = _average(kind(**arguments))
        if replacement is None:
            continue
        source = node.args[0] if node.args else node.kwargs["input"]
        name = f"{'clip' if isinstance(replacement, TrainableClip) else 'pool'}_{number}"
        prepared.add_submodule(name, replacement)
        with prepared.graph.inserting_before(node):
            replaced = prepared.graph.call_module(name, (source,))
        node.replace_all_uses_with(replaced)
        if _in_place(node, module):
            # Whoever reads the input after an activation in place sees the activation.
            order = list(prepared.graph.nodes)
            later = set(order[order.index(node) :])
            source.replace_all_uses_with(replaced, lambda user, later=later: user in later)
        prepared.graph.erase_node(node)
    prepared.delete_all_unused_submodules()
    prepared.recompile()
    # Parts that it shares keep their modes.
    shared = {id(module) for module in model.modules()}
    for module in prepared.modules():
        if id(module) not in shared:
            module.training = model.training
    return prepared


def _traced(model: nn.Module) -> fx.GraphModule:
    """A model's graph, in which functions are told its mode as it is when they run.

    Tracing alone would keep the mode of the moment. Parts in the other mode, frozen ones, stay so.
    """
    traced = fx.symbolic_trace(model)
    nodes, others = list(traced.graph.nodes), _nodes_in_the_other_mode(model)
    if list(map(_but_truths, nodes)) != list(map(_but_truths, others)):
        mode = "training" if model.training else "evaluation"
        warnings.warn(
            f"{type(model).__name__} computes otherwise in training than in evaluation: "
            f"prepared, it computes as in {mode} in both",
            stacklevel=3,
        )
        return traced
    for node, other in zip(nodes, others, strict=True):
        with traced.graph.inserting_before(node):
            _tell_mode(node, iter(_truths(other)), model.training)
    return traced


def _tell_mode(node: fx.Node, there: Iterator[bool], training: bool) -> None:
    """Put the mode, or its opposite, in place of what is otherwise ``there``, in the other mode."""

    def told(value: Any) -> Any:
        if not isinstance(value, bool) or next(there) is value:
            return value
        mode = node.graph.create_node("get_attr", "training")
        return mode if value == training else node.graph.call_function(operator.not_, (mode,))

    node.args, node.kwargs = map_aggregate((node.args, node.kwargs), told)


def _nodes_in_the_other_mode(model: nn.Module) -> list[fx.Node]:
    """What the model computes there; nothing where it cannot be traced. It stays as it was."""
    mode = model.training
    parts = [part for part in model.modules() if part.training == mode]
    # Code of its own may count batches while it is traced. Not every model can be copied.
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for part in parts:
            part.training = not mode
        return list(fx.symbolic_trace(model).graph.nodes)
    except Exception:
        return []
    finally:
        for part in parts:
            part.training = mode
        for buffer, was in buffers:
            buffer.detach().copy_(was)


def _truths(node: fx.Node) -> list[bool]:
    """The arguments of a node that are True or False."""
    found = list[bool]()
    map_aggregate(
        (node.args, node.kwargs), lambda v: found.append(v) if isinstance(v, bool) else None
    )
    return found


def _but_truths(node: fx.Node) -> tuple[str, Any, str]:
    """What a node computes of what, but for arguments that are True or False."""
    read = map_aggregate((node.args, node.kwargs), lambda v: bool if isinstance(v, bool) else v)
    return node.op, node.target, repr(read)


def _is_relu(node: fx.Node, module: nn.Module | None) -> bool:
    if node.op == "call_function":
        return node.target in _RELUS
    is_method = node.op == "call_method" and node.target in ("relu", "relu_")
    return is_method or isinstance(module, nn.ReLU)


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        return node.target == "relu_"
    return bool(node.kwargs.get("inplace")) or node.target in _functional("relu_")


def _average(pool: Any) -> nn.Module:
    """The average pool with the windows of a max-pool."""
    kind = type(pool)
    if getattr(pool, "return_indices", False):
        raise ValueError(f"{pool} returns indices; an average has none")
    if kind.__name__.startswith("Adaptive"):
        return _POOLS[kind](pool.output_size)
    dilation = pool.dilation if isinstance(pool.dilation, tuple) else (pool.dilation,)
    if set(dilation) != {1}:
        raise ValueError(f"{pool} is dilated; torch has no average pool that is")
    return _POOLS[kind](
        pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, count_include_pad=False
    )
