"""Run passes in order, and hold the graph to its rules after each."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .errors import DataError, Onnx2SnnError, PassError
from .graph import neurons
from .graph.editing import operands, require_graph
from .graph.neuron_functions import FUNCTIONS

Pass = Callable[[gs.Graph], bool]
"""A pass edits a graph in place and says whether it changed anything; what else it needs
is bound with ``functools.partial``."""


@dataclass(frozen=True)
class PassReport:
    """What one pass did: its name, whether it changed the graph, and the node counts."""

    name: str
    changed: bool
    nodes_before: int
    nodes_after: int


def unbound(function: Callable[..., bool]) -> Callable[..., bool]:
    """A pass without the arguments that are bound to it."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def pass_name(function: Callable[..., bool]) -> str:
    """The name of a pass, also when arguments are bound to it; of an object, that of its type."""
    made = unbound(function)
    return str(getattr(made, "__name__", type(made).__name__))


def run_passes(graph: gs.Graph, passes: Iterable[Pass]) -> list[PassReport]:
    """Run ``passes`` on ``graph`` in order and verify the graph after each.

    Returns one report a pass. Any other ``Onnx2SnnError`` of a pass, a ``MemoryError`` and a
    ``TimeoutError`` go through as they are. A ``PassError``, any other exception, and a graph that
    breaks a rule of ``verify``, become a ``PassError`` that names the pass and those that ran
    before it. Raises ``DataError`` for what is no graph, or no list of passes.
    """
    require_graph(graph)
    passes = list(passes) if isinstance(passes, Iterable) else [passes]
    if not all(map(callable, passes)):
        raise DataError(f"passes are functions, not {passes!r}")
    reports: list[PassReport] = []
    for function in passes:
        name, before = pass_name(function), len(graph.nodes)
        after_which = f" (after {', '.join(r.name for r in reports)})" if reports else ""
        try:
            changed = bool(function(graph))
        except PassError as error:
            raise PassError(f"pass {name}{after_which} failed: {error}") from error
        except (Onnx2SnnError, MemoryError, TimeoutError):
            raise
        except Exception as error:
            raise PassError(
                f"pass {name}{after_which} failed with {type(error).__name__}: {error}"
            ) from error
        try:
            verify(graph)
        except (MemoryError, TimeoutError):
            raise
        except Exception as error:
            said = error if isinstance(error, PassError) else f"{type(error).__name__}: {error}"
            raise PassError(f"pass {name}{after_which} left a broken graph: {said}") from error
        reports.append(PassReport(name, changed, before, len(graph.nodes)))
    return reports


def verify(graph: gs.Graph) -> None:
    """Raise ``PassError`` unless the graph keeps these rules.

    Tensor names and node names are unique; each tensor that is read has a producer, is a
    constant or is an input of the graph; nodes are in topological order; every output is
    produced; stateful nodes are known ones, their parameters are constants, each V_th is positive
    and finite, and their states are paired as graph input ``v/<name>`` and output
    ``v_next/<name>``. Raises ``DataError`` for what is no graph.
    """
    require_graph(graph)
    owners: dict[str, gs.Tensor] = {}
    available, names = {tensor.name for tensor in graph.inputs}, set[str]()
    for tensor in (*graph.inputs, *graph.outputs):
        _require_owner(owners, tensor)
    for node in graph.nodes:
        if not node.name or node.name in names:
            raise PassError(f"{node.op} has no name of its own: '{node.name}'")
        names.add(node.name)
        for tensor in (*node.inputs, *node.outputs):
            _require_owner(owners, tensor)
        # Also what its branches read from around them.
        for tensor in operands(node):
            given = isinstance(tensor, gs.Constant) or tensor.is_empty()
            if not given and tensor.name not in available:
                raise PassError(
                    f"{node.op} '{node.name}' reads '{tensor.name}', which nothing before it makes"
                )
        for tensor in node.outputs:
            if not tensor.is_empty() and tensor.name in available:
                raise PassError(f"'{tensor.name}' is made twice, the second time by '{node.name}'")
            available.add(tensor.name)
    for tensor in graph.outputs:
        if tensor.name not in available and not isinstance(tensor, gs.Constant):
            raise PassError(f"nothing makes the graph's output '{tensor.name}'")
    _verify_states(graph)


def _require_owner(owners: dict[str, gs.Tensor], tensor: gs.Tensor) -> None:
    """Raise ``PassError`` where another tensor has this one's name."""
    if not tensor.is_empty() and owners.setdefault(tensor.name, tensor) is not tensor:
        raise PassError(f"two tensors are named '{tensor.name}'")


def _verify_states(graph: gs.Graph) -> None:
    reads, writes = set(), set()
    for node in neurons.stateful_nodes(graph):
        expected = neurons.attribute_names_of(node.op) if node.op in FUNCTIONS else None
        if expected is None:
            raise PassError(f"there is no stateful operator '{node.op}' ('{node.name}')")
        if set(node.attrs) != expected:
            raise PassError(f"{node.op} '{node.name}' has attributes {sorted(node.attrs)}")
        names = neurons.state_names(node.op, node.name)
        kept = zip(neurons.states_read(node), neurons.states_written(node), strict=False)
        if [(read.name, written.name) for read, written in kept] != names:
            raise PassError(f"{node.op} '{node.name}' does not keep its state in '{names[0][0]}'")
        for name in sorted(expected & neurons.TENSOR_ATTRIBUTES):
            if not isinstance(node.attrs[name], gs.Constant):
                raise PassError(f"{node.op} '{node.name}': {name} must be a gs.Constant")
        if "v_threshold" in expected:
            threshold = neurons.threshold_of(node)
            if not threshold.size or not np.all((threshold > 0) & np.isfinite(threshold)):
                raise PassError(f"{node.op} '{node.name}': V_th must be positive and finite")
        reads |= {read for read, _ in names}
        writes |= {written for _, written in names}
    missing = reads - {t.name for t in graph.inputs} | writes - {t.name for t in graph.outputs}
    if missing:
        raise PassError(f"states that are no inputs and outputs of the graph: {sorted(missing)}")
