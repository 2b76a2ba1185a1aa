"""A step that counts in thresholds, and chunks of it between states in the file's units."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnx2snn.graph_passes.model_files.protos import names_in, operand_names, unused_prefix
from onnx2snn.runtime.plans.graphs import Writer, with_names, with_nodes_in_order
from onnx2snn.runtime.plans.plan import State

from .integer_products import IntegerLayer


@dataclass(frozen=True)
class Body:
    """What neurons do with their potential ``u``: the nodes that make ``x`` and what follows.

    ``reads``: what x depends on besides u. ``nexts``: by the names of states as they are written,
    what they are before: u, or states as they are read. ``constants`` are what the nodes read.
    """

    nodes: tuple[onnx.NodeProto, ...]
    u: str
    reads: tuple[str, ...]
    x: str
    nexts: dict[str, str]
    constants: tuple[onnx.TensorProto, ...] = ()


@dataclass(frozen=True)
class UnitStep:
    """A step whose neurons have a threshold of 1, as far as they can.

    ``bodies``: of neurons that do the same with each element. ``weights``: those that are other
    ones than before, by their names. ``layers``: those in 8 bits, as they then are. ``units``: by
    the names of states and inputs, what 1 is there, [] or one for each channel, [C, 1, ...].
    ``inner``: states that chunks alone have; ``begins`` are the nodes that make them at first.
    """

    step: onnx.ModelProto
    weights: dict[str, np.ndarray]
    layers: Mapping[str, IntegerLayer]
    units: dict[str, np.ndarray]
    bodies: tuple[Body, ...]
    inner: tuple[State, ...]
    begins: tuple[onnx.NodeProto, ...]


def rescaled(
    chunk: onnx.ModelProto, units: Mapping[str, np.ndarray], states: Iterable[State]
) -> onnx.ModelProto:
    """The chunk with conversions at its border.

    What ``units`` names is divided by its unit where it is read, and multiplied by it where it is
    written.
    """
    written = {state.read: state.written for state in states}
    graph = Writer(unused_prefix(names_in(chunk), "unit/"))
    reads = [info.name for info in chunk.graph.input if np.any(units.get(info.name, 1) != 1)]
    if not reads:
        return chunk
    before = {name: graph.prefix + name for name in reads}
    after = {written[name]: graph.prefix + written[name] for name in reads if name in written}
    # ONNX Runtime takes twice as long to divide.
    per_unit = {name: graph.constant(_one_if_all(1 / units[name]), f"{name}/per") for name in reads}
    unit_of = {
        written[name]: graph.constant(_one_if_all(units[name]), f"{name}/1")
        for name in reads
        if name in written
    }
    inside, entered = before | after, set[str]()
    for node in chunk.graph.node:
        for name in operand_names(node):
            if name in before and name not in entered:
                entered.add(name)
                graph.node("Mul", [name, per_unit[name]], name)
        graph.nodes.append(with_names(node, inside))
        for name in set(node.output) & after.keys():
            graph.node("Mul", [after[name], unit_of[name]], name, name)
    constants = graph.initializers.values()
    return with_nodes_in_order(chunk, graph.nodes, chunk.graph.output, constants=constants)


def _one_if_all(values: np.ndarray) -> np.ndarray:
    """One number if all are the same."""
    first = values.flat[0]
    return np.asarray(first) if np.all(values == first) else values
