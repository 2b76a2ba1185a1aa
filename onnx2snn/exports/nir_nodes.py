"""The nodes and edges in NIR of a spiking network's graph, for ``to_nir``."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import Refusal
from onnx2snn.graph_passes.graph.affine import affine_of, per_sample
from onnx2snn.graph_passes.graph.editing import (
    constant_value,
    free_name,
    is_floating,
    only_consumer,
    optional_input,
    producer,
)
from onnx2snn.graph_passes.graph.neurons import (
    DOMAIN,
    initial_potential_of,
    is_neuron,
    names_of_states,
    neuron_nodes,
    threshold_of,
)
from onnx2snn.graph_passes.graph.operators import SPIKING_POOLS
from onnx2snn.graph_passes.graph.windows import pads_itself, written_pads

from .nir_signals import (
    Refused,
    Signal,
    factors_of_channels,
    require_axes,
    sizes_of,
    spread,
    times,
)

RESETS = {"IF": "subtract", "ResetToZeroIF": "zero"}
"""The neurons that NIR's IF can stand for, and what a spike does to their potential."""

_QUANTISED = "convert the ANN as it was before it was quantised"
_ADVICE = {
    "Cast": "export the ANN in float32, and convert that", "QuantizeLinear": _QUANTISED,
    "DequantizeLinear": _QUANTISED, "DynamicQuantizeLinear": _QUANTISED,
    **dict.fromkeys(SPIKING_POOLS, "convert with --maxpool average"),
}  # fmt: skip
"""What helps against an operator."""

WIDEST_DIAGONAL = 4096
"""Channels or features: a diagonal of more would be a matrix of over 64 MiB."""


@dataclass
class NirWriter:
    """Walks an SNN's graph and collects NIR nodes and edges, or all refusals."""

    nir: Any
    graph: gs.Graph
    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    signals: dict[str, Signal] = field(default_factory=dict)
    scaled: dict[tuple, tuple[str, ...]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype:
        """That of the membrane potentials."""
        kind: np.dtype = np.dtype(neuron_nodes(self.graph)[0].outputs[0].dtype)
        return kind

    def write(self) -> None:
        """Fill ``nodes`` and ``edges``; or ``refusals``, with every node that is in the way."""
        states = names_of_states(self.graph)
        for tensor in self.graph.inputs:
            if tensor.name not in states:
                self._input(tensor)
        for node in self.graph.nodes:
            try:
                self.signals[node.outputs[0].name] = self._node(node)
            except Refused as refused:
                self.refusals.append(Refusal(node.name, node.op, str(refused)))
                for tensor in node.outputs:  # Go on, to find all that is in the way.
                    self.signals[tensor.name] = Signal((), sizes_of(tensor) or ())
        for tensor in self.graph.outputs:
            if tensor.name not in states and not self.refusals:
                signal = self.signals[tensor.name]
                node = self.nir.Output(np.array(signal.shape), metadata=_label(tensor.name))
                self._add(node, tensor.name, self._realised(signal, tensor.name), signal.shape)

    # Nodes ------------------------------------------------------------------------------

    def _input(self, tensor: gs.Variable) -> None:
        shape = sizes_of(tensor)
        if shape is None:
            self.refusals.append(
                Refusal(tensor.name, "input", "its sizes are not fixed: NIR files state them")
            )
        node = self.nir.Input(np.array(shape or ()), metadata=_label(tensor.name))
        self.signals[tensor.name] = self._add(node, tensor.name, (), shape or ())

    def _node(self, node: gs.Node) -> Signal:
        if node.domain not in (None, "", DOMAIN):
            raise Refused("NIR has no such operator")
        writers: dict[str, Callable[[gs.Node], Signal]] = {
            "Conv": self._conv, "Gemm": self._linear, "MatMul": self._linear,
            "AveragePool": self._pool, "GlobalAveragePool": self._pool,
            **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), self._reshape),
            "Add": self._arithmetic, "Sub": self._arithmetic,
            "Mul": self._arithmetic, "Div": self._arithmetic,
            "Neg": self._arithmetic, "BatchNormalization": self._arithmetic,
            **dict.fromkeys(RESETS, self._neuron),
            "Identity": lambda node: self._signal(node.inputs[0]),
        }  # fmt: skip
        if is_neuron(node) and node.op not in RESETS:
            raise Refused("NIR has no such neuron: convert with --recipe best-binary, or opi")
        if node.op not in writers:
            of_numbers = node.op != "Cast" or is_floating(node.inputs[0])
            advice = _ADVICE.get(node.op) if of_numbers else None
            raise Refused("NIR has no such operator" + (f": {advice}" if advice else ""))
        tensors = (*node.inputs[: 1 if is_neuron(node) else None], node.outputs[0])
        for tensor in tensors:
            if isinstance(tensor, gs.Variable) and not tensor.is_empty():
                require_axes(tensor)
        return writers[node.op](node)

    def _neuron(self, node: gs.Node) -> Signal:
        current = self._signal(node.inputs[0])
        threshold = threshold_of(node)
        full = np.broadcast_to(threshold, current.shape)
        metadata = _label(node.name, node.op) | {
            "v_init": initial_potential_of(node)[()], "reset": RESETS[node.op],
        }  # fmt: skip
        made = self.nir.IF(
            r=np.ones_like(full), v_threshold=np.array(full), v_reset=np.zeros_like(full),
            metadata=metadata,
        )  # fmt: skip
        sources = self._realised(current, node.inputs[0].name)
        signal = self._add(made, node.name, sources, current.shape)
        return Signal(signal.sources, signal.shape, threshold.astype(np.float64))

    def _conv(self, node: gs.Node) -> Signal:
        x, weight = self._signal(node.inputs[0]), self._constant(node.inputs[1])
        axes, bias = weight.ndim - 2, self._bias(node, weight.shape[0])
        if axes not in (1, 2):
            raise Refused("NIR has convolutions over one and two axes only")
        group = node.attrs.get("group", 1)
        if (vector := factors_of_channels(x.scale, x.shape)) is None:
            x = Signal(self._realised(x, node.inputs[0].name), x.shape)
            vector = np.ones(x.shape[0])
        # Output channel o of a group reads the channels of that group.
        each = vector.reshape(group, -1).repeat(weight.shape[0] // group, axis=0)
        scaled = times(weight, each.reshape(*each.shape, *[1] * axes), x.scale)
        settings = {
            "stride": node.attrs.get("strides", [1] * axes),
            "padding": _symmetric_pads(node, axes),
            "dilation": node.attrs.get("dilations", [1] * axes),
        }
        kind = self.nir.Conv2d if axes == 2 else self.nir.Conv1d
        made = kind(
            input_shape=x.shape[1:] if axes == 2 else x.shape[1], weight=scaled, groups=group,
            bias=bias, metadata=self._arrays(node, weight, scaled),
            **{name: tuple(v) if axes == 2 else int(v[0]) for name, v in settings.items()},
        )  # fmt: skip
        if group > 1 or len(set(weight.shape[2:])) > 1:
            self.unreadable.append(node.name)
        return self._add(made, node.name, x.sources, sizes_of(node.outputs[0]))

    def _linear(self, node: gs.Node) -> Signal:
        attrs = node.attrs
        if attrs.get("transA", 0) or attrs.get("alpha", 1) != 1 or attrs.get("beta", 1) != 1:
            raise Refused("NIR's Affine is W x + b: no transA, alpha or beta")
        x, weight = self._signal(node.inputs[0]), self._constant(node.inputs[1])
        if len(x.shape) != 1 or weight.ndim != 2:
            raise Refused("NIR's Affine takes samples of one axis")
        matrix = weight if attrs.get("transB", 0) else np.ascontiguousarray(weight.T)
        scaled = times(matrix, spread(x.scale, x.shape)[None], x.scale)
        bias = self._bias(node, matrix.shape[0])
        made = self.nir.Affine(
            weight=scaled, bias=bias, metadata=self._arrays(node, matrix, scaled)
        )
        return self._add(made, node.name, x.sources, sizes_of(node.outputs[0]))

    def _pool(self, node: gs.Node) -> Signal:
        x, attrs = self._signal(node.inputs[0]), node.attrs
        axes = len(x.shape) - 1
        if axes not in (1, 2):
            raise Refused("NIR has pools over one and two axes only")
        kernel = attrs.get("kernel_shape", x.shape[1:])
        pads = _symmetric_pads(node, axes)
        if any(pads) and not attrs.get("count_include_pad", 0):
            raise Refused(
                "means over the padding's neighbours alone: NIR's pools count the pads; train with "
                "a pool without padding"
            )
        if attrs.get("ceil_mode", 0) or any(d != 1 for d in attrs.get("dilations", ())):
            raise Refused("NIR's pools have neither dilations nor ceil_mode")
        strides = attrs.get("strides", [1] * axes if node.op == "AveragePool" else kernel)
        if factors_of_channels(x.scale, x.shape) is None:
            x = Signal(self._realised(x, node.inputs[0].name), x.shape)
        label = _label(node.name, node.op)
        if axes == 2:
            made = self.nir.AvgPool2d(
                np.array(kernel), np.array(strides), np.array(pads), metadata=label
            )
        else:
            channels, length = x.shape
            weight, bias = self._mean(node, channels, kernel[0]), np.zeros(channels, self.dtype)
            stride, pad, groups = int(strides[0]), int(pads[0]), channels // weight.shape[1]
            made = self.nir.Conv1d(length, weight, stride, pad, 1, groups, bias, metadata=label)
        return self._add(made, node.name, x.sources, sizes_of(node.outputs[0]), x.scale)

    def _mean(self, node: gs.Node, channels: int, size: int) -> np.ndarray:
        """The weight of a Conv1d for a mean: a matrix, where it can be, as more readers know."""
        if wide := channels**2 * size > WIDEST_DIAGONAL**2:
            self.unreadable.append(node.name)
        each = np.ones((channels, 1)) if wide else np.eye(channels)
        return (each[..., None].repeat(size, axis=2) / size).astype(self.dtype)

    def _reshape(self, node: gs.Node) -> Signal:
        x, shape = self._signal(node.inputs[0]), sizes_of(node.outputs[0])
        if shape != (math.prod(x.shape),):
            return self._reshaped_input(node, x, shape)
        if len(x.shape) == 1:
            return x
        made = self.nir.Flatten(np.array(x.shape), 0, -1, metadata=_label(node.name, node.op))
        scale = x.scale
        if scale is not None:
            # One number may have the axes of a sample too, which are none any more.
            scale = scale.reshape(()) if scale.size == 1 else spread(scale, x.shape).reshape(-1)
        return self._add(made, node.name, x.sources, shape, scale)

    def _reshaped_input(self, node: gs.Node, x: Signal, shape: tuple[int, ...] | None) -> Signal:
        """The network's input, which takes in the file the shape that a node gives it."""
        tensor = node.inputs[0]
        if shape is None or math.prod(shape) != math.prod(x.shape) or producer(tensor) is not None:
            raise Refused("NIR reshapes samples to one axis only, or an input before anything else")
        if only_consumer(self.graph, tensor) is None:
            raise Refused(
                "NIR reshapes samples to one axis only: let the network take "
                f"'{tensor.name}' as [N, {', '.join(map(str, shape))}]"
            )
        (key,) = x.sources
        self.nodes[key] = self.nir.Input(np.array(shape), metadata=self.nodes[key].metadata)
        self.reshaped.append(f"'{tensor.name}' as {list(shape)}, not {list(x.shape)}")
        return Signal(x.sources, shape)

    def _arithmetic(self, node: gs.Node) -> Signal:
        shape, affine = sizes_of(node.outputs[0]), affine_of(self.graph, node)
        if affine is None:
            return self._sum(node, shape)
        x = self._signal(affine.x)
        if x.shape != shape:
            raise Refused("NIR cannot repeat a tensor along an axis")
        scale = affine.scale if x.scale is None else affine.scale * x.scale
        made = self._diagonal(shape, scale, affine.shift, _label(node.name, node.op))
        return self._add(made, node.name, x.sources, shape)

    def _sum(self, node: gs.Node, shape: tuple[int, ...] | None) -> Signal:
        if not is_floating(node.inputs[0]):
            raise Refused("NIR computes with floating-point numbers alone")
        constants = [c for t in node.inputs if (c := constant_value(t)) is not None]
        if node.op == "Div" and constants:
            raise Refused("NIR divides by constants other than 0 only")
        if constants and per_sample(constants[0], len(shape or ()) + 1) is None:
            raise Refused("its constant differs between the samples of a batch")
        if constants:
            raise Refused("NIR cannot repeat a tensor along an axis")
        if node.op not in ("Add", "Sub"):
            raise Refused("NIR scales and shifts by constants, and multiplies no two tensors")
        first, second = (self._signal(tensor) for tensor in node.inputs)
        if first.shape != shape or second.shape != shape:
            raise Refused("NIR cannot repeat a tensor along an axis")
        sources = self._realised(first, node.inputs[0].name)
        if node.op == "Sub":
            scale = -(np.ones(()) if second.scale is None else second.scale)
            second = Signal(second.sources, shape, scale)
        added = self._realised(second, node.inputs[1].name)
        if set(sources) & set(added):  # There is one edge at most between two nodes.
            made = self._diagonal(shape, np.ones(()), np.zeros(()), {})
            added = self._add(made, f"{node.name}_twice", added, shape).sources
        return Signal((*sources, *added), shape)

    # Parts ------------------------------------------------------------------------------

    def _signal(self, tensor: gs.Tensor) -> Signal:
        if tensor.name not in self.signals:
            raise Refused(f"'{tensor.name}' is a constant: NIR has no sources but inputs")
        return self.signals[tensor.name]

    def _constant(self, tensor: gs.Tensor) -> np.ndarray:
        value = constant_value(tensor)
        if value is None:
            raise Refused("NIR's weights are constants")
        return value

    def _bias(self, node: gs.Node, size: int) -> np.ndarray:
        given = optional_input(node, 2)
        if given is None:
            return np.zeros(size, np.dtype(node.inputs[1].dtype))
        bias = self._constant(given)
        if bias.size not in (1, size):
            raise Refused("its bias is not one number for each channel or feature")
        return np.array(np.broadcast_to(bias.reshape(-1), size))

    def _arrays(self, node: gs.Node, weight: np.ndarray, scaled: np.ndarray) -> dict[str, Any]:
        """The metadata of a node whose arrays are initializers: those that it holds."""
        told: dict[str, Any] = {"weight": node.inputs[1].name}
        if node.op != "Conv" and not node.attrs.get("transB", 0):
            told["transposed"] = True
        bias = optional_input(node, 2)
        if isinstance(bias, gs.Constant) and bias.values.size == scaled.shape[0]:
            told["bias"] = bias.name
        self.held |= {told["weight"], told.get("bias", told["weight"])}
        return _label(node.name, node.op, **told) | ({} if scaled is weight else {"weight": weight})

    def _realised(self, signal: Signal, tensor: str) -> tuple[str, ...]:
        """The nodes whose sum is the signal, none of them to be scaled any more."""
        if signal.scale is None or not signal.sources:
            return signal.sources
        content = (signal.sources, signal.scale.shape, signal.scale.tobytes())
        if content not in self.scaled:
            made = self._diagonal(signal.shape, signal.scale, np.zeros(()), {})
            added = self._add(made, f"{tensor}_scale", signal.sources, signal.shape)
            self.scaled[content] = added.sources
        return self.scaled[content]

    def _diagonal(
        self,
        shape: tuple[int, ...],
        scale: np.ndarray,
        bias: np.ndarray,
        metadata: dict[str, Any],
    ) -> Any:
        """A node for scale x + bias; where it can be, a matrix, which more readers know."""
        a, b = factors_of_channels(scale, shape), factors_of_channels(bias, shape)
        if a is None or b is None or shape[0] > WIDEST_DIAGONAL or len(shape) > 3:
            if np.any(bias):
                raise Refused("NIR can add one constant for each channel, no more")
            return self.nir.Scale(spread(scale, shape).astype(self.dtype), metadata=metadata)
        matrix, b = np.diag(a).astype(self.dtype), b.astype(self.dtype)
        if len(shape) == 1:
            return self.nir.Affine(weight=matrix, bias=b, metadata=metadata)
        if len(shape) == 2:
            return self.nir.Conv1d(shape[1], matrix[..., None], 1, 0, 1, 1, b, metadata=metadata)
        return self.nir.Conv2d(
            shape[1:], matrix[..., None, None], (1, 1), (0, 0), (1, 1), 1, b, metadata=metadata
        )

    def _add(
        self,
        node: Any,
        name: str,
        sources: tuple[str, ...],
        shape: tuple[int, ...] | None,
        scale: np.ndarray | None = None,
    ) -> Signal:
        assert shape is not None
        key = self._key(name)
        self.nodes[key] = node
        self.edges += [(source, key) for source in sources]
        return Signal((key,), shape, scale)

    def _key(self, name: str) -> str:
        """A name that HDF5 and Python modules can have, and no other node has."""
        base = re.sub(r"\W", "_", name, flags=re.ASCII)
        return free_name(base if base[:1].isalpha() else f"n{base}", self.nodes, self.numbers)


def _label(name: str, op: str | None = None, **told: Any) -> dict[str, Any]:
    return {"onnx2snn": json.dumps({"name": name} | ({"op": op} if op else {}) | told)}


def _symmetric_pads(node: gs.Node, axes: int) -> list[int]:
    if pads_itself(node):
        raise Refused("its pads are not written out")
    pads = written_pads(node, axes)
    if pads[:axes] != pads[axes:]:
        raise Refused(f"NIR pads both sides alike, not {pads}")
    return pads[:axes]
