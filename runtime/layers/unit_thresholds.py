"""Time-steps whose potentials count in thresholds, so that spikes are 0 and 1.

    u = v + W x,  s = [u > V_th],  x = s V_th,  v_next = u - x          becomes, with w = v / V_th,
    u = w + W' s_before,  s = [u > 1],  w_next = u - s,  W'[o, i] = W[o, i] V_th_before[i] / V_th[o]

Nothing is multiplied by thresholds any more, and none differs by channel. A ``SignedIF`` that takes
spikes back below 0 becomes, with w = -v / V_th and W' of the other sign,

    s = [u < -1] - [u > 0 and m > 0],  w_next = u + s,  m_next = m + s

and a ``SignedBurstIF`` of up to k spikes, with n = -m,

    s = max(clip(ceil(u), 1 - k, 1 + k) - 1, n),  w_next = u - s,  n_next = n - s

Chunks run like that; what they read and write of states is in the file's units
(``unit_steps.rescaled``), one multiplication for each chunk. Sums that are exact stay so: where
V_th are powers of two nothing rounds, and other V_th stay what they are where weights are so short
that sums may be exact.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx2snn.graph_passes.graph.neurons import COUNTING, DOMAIN
from onnx2snn.graph_passes.graph.operators import MAX_POOLS, SPIKING_POOLS
from onnx2snn.graph_passes.model_files.protos import (
    attributes_of,
    names_in,
    operand_names,
    unused_prefix,
)
from onnx2snn.runtime.plans.graphs import (
    Writer,
    has_float16,
    has_weights,
    renamed,
    values_of,
    with_nodes,
)
from onnx2snn.runtime.plans.kernels import STEEP
from onnx2snn.runtime.plans.plan import NeuronLayer, State
from onnx2snn.runtime.precision import PlanInPrecision
from onnx2snn.runtime.reach import endless

from .scaled_weights import is_long, of_channels, scaled
from .unit_steps import Body, UnitStep

_STEEPEST = 2.0**127
"""[low > 0] is HardSigmoid(low) = max(0, min(1, 2^127 low)), which is 0 or 1 for all but denormal
numbers; [u > 1] takes ``STEEP``, as in ``lower_if``."""

_DEEPEST = 64
"""Sums of sums that are divided term by term: Python calls itself no deeper than some hundreds."""

_ALIKE = ("AveragePool", "GlobalAveragePool", "Identity", *MAX_POOLS)
"""Operators of one input that treat all channels alike, and a multiple of it as the same multiple
of what they make."""


# A mask may be float32's least number, and in thresholds below 1 infinite.
@np.errstate(over="ignore")
def with_unit_thresholds(
    step: onnx.ModelProto, network: PlanInPrecision, states: Sequence[State], pools: bool
) -> UnitStep:
    """The step with these neurons rescaled to V_th = 1, where it is one number or one a channel.

    ``step`` belongs to ``network``'s plan; of its outputs the written ``states`` are left.
    ``pools``: whether spiking pools are, too, for which it must read states, starts among them, in
    the shapes that it writes.
    """
    units = _Units(step, network, states)
    for node in step.graph.node:
        if node.op_type in SPIKING_POOLS and node.domain == DOMAIN and pools:
            units.pool(node)
    for neuron in network.plan.neurons:
        if neuron.spikes in units.emitted:
            units.write(neuron)
        else:
            units.leave(neuron)
    units.count()
    for node in step.graph.node:
        if node.output[0] not in units.folded:
            units.fold(node, np.ones((), np.float32))
    return units.made()


@dataclass(frozen=True)
class _Form:
    """Neurons as they are written: their potential, what their nodes make, and ``constants``.

    ``above``: what of their spikes is above 0, where that is one of these.
    """

    u: str
    made: list[str]
    constants: tuple[str, ...] = ()
    above: str = ""


class _Units:
    """A step as it is rewritten: ``makers`` are its nodes, and new ones, by what they make.

    ``deep``: how many sums are in one another, by what the outermost makes.
    """

    def __init__(
        self, step: onnx.ModelProto, network: PlanInPrecision, states: Sequence[State]
    ) -> None:
        self.step, self.plan = step, network.plan
        self.layers = dict(network.layers)
        self.states = {state.read: state for state in states}
        self.written = {state.written for state in states}
        self.graph = Writer(unused_prefix(names_in(step), "thresholds/"))
        self.makers = {name: node for node in step.graph.node for name in node.output if name}
        self.readers = Counter(
            name for node in step.graph.node for name in set(operand_names(node))
        )
        self.deep = Counter[str]()
        for node in (node for node in step.graph.node if node.op_type == "Add" and not node.domain):
            self.deep[node.output[0]] = 1 + max(self.deep[name] for name in node.input)
        self.given = {info.name for info in step.graph.input}
        self.constants = {
            name: values
            for name, values in values_of(step, self.plan.weights).items()
            if name not in self.given
        }
        types = {neuron.threshold.dtype for neuron in self.plan.neurons}
        # What pools read may be in float16 where neurons are not.
        self.in_float32 = types == {np.dtype(np.float32)} and not has_float16(step)
        self.exact = not any(is_long(values) for values in self._weights_of_layers())
        # Weights in 16 bits have less room.
        able = () if network.half else self.plan.neurons
        self.emitted = {neuron.spikes: neuron for neuron in able if self._has_a_unit(neuron)}
        self.weights: dict[str, np.ndarray] = {}
        self.units: dict[str, np.ndarray] = {}
        self.bodies: list[Body] = []
        self.folded = set[str]()
        self.more: dict[str, np.ndarray] = {}
        self.pooled: dict[str, tuple[str, np.ndarray]] = {}
        self.inner: list[State] = []
        self.begins: list[onnx.NodeProto] = []
        self.numbers = itertools.count()

    @cached_property
    def endless(self) -> set[str]:
        """The layers whose potentials may be infinite."""
        return endless(self.plan, ["SignedIF"])

    def _has_a_unit(self, neuron: NeuronLayer) -> bool:
        """Whether it may count in thresholds."""
        threshold = neuron.threshold
        if neuron.op not in ("IF", *COUNTING) or threshold.dtype != np.float32:
            return False
        if neuron.op == "SignedIF":
            below = attributes_of(self.makers[neuron.spikes])["v_negative"]
            if np.any(numpy_helper.to_array(below)):
                return False
        usual = threshold.min() > 2.0**-60 and threshold.max() < 2.0**60
        if self.exact and np.any(np.frexp(threshold)[0] != 0.5):
            return False
        return usual and of_channels(threshold, threshold.size, len(neuron.shape))

    def _weights_of_layers(self) -> list[np.ndarray]:
        nodes = filter(has_weights, self.step.graph.node)
        read = [self.constants[n.input[1]] for n in nodes if n.input[1] in self.constants]
        return [values for values in read if values.dtype == np.float32]

    def _node(self, op: str, inputs: Iterable[str], made: str, **attributes: Any) -> str:
        # Another node may have the name of what this one makes.
        name = f"{self.graph.prefix}node/{made}"
        self.makers[made] = helper.make_node(op, list(inputs), [made], name, **attributes)
        return made

    def _constant(self, values: np.ndarray, name: str) -> str:
        return self.graph.constant(values, f"{name}/{next(self.numbers)}")

    def _in_thresholds(self, name: str) -> str:
        """What counts in thresholds what spikes, or a pool of them, are.

        All names end in what they are, or in a number: the network may have any before that.
        """
        return f"{self.graph.prefix}{name}/x"

    def factored(self, name: str) -> tuple[str, np.ndarray]:
        """A tensor, by another one and what that is to be multiplied with, [] or [C, 1, ...]."""
        if name in self.emitted:
            neuron = self.emitted[name]
            unit = neuron.threshold.reshape(()) if neuron.threshold.size == 1 else neuron.threshold
            if not unit.ndim and len(neuron.shape) > 1 and isinstance(neuron.shape[0], int):
                unit = np.full((neuron.shape[0], *[1] * (len(neuron.shape) - 1)), unit)
            return self._in_thresholds(name), unit
        if name in self.pooled:
            return self.pooled[name]
        node = self.makers.get(name)
        if node is not None and node.op_type in _ALIKE and len(node.output) == 1:
            inner, unit = self.factored(node.input[0])
            if inner != node.input[0]:
                copy = self._in_thresholds(name)
                self.makers[copy] = renamed(node, {node.input[0]: inner, name: copy}, copy)
                return copy, unit
        return name, np.ones((), np.float32)

    def divided(self, name: str, per: np.ndarray) -> str:
        """The name of a tensor divided by ``per``, [] or [C, 1, ...].

        What nothing else reads may be divided where it is made.
        """
        inner, unit = self.factored(name)
        if inner != name:
            return self._times(inner, unit / per, len(unit) if unit.ndim else 0)
        if name in self.constants and np.any(per != 1):
            return self._constant(self.constants[name] / per, name)
        node, alone = self.makers.get(name), self.readers[name] == 1
        if alone and name in self.given and name not in self.states:
            self.units[name] = per
            return name
        if alone and node is not None and 0 < self.deep[name] <= _DEEPEST:
            for term, other in itertools.permutations(node.input):
                if other in self.constants and self._absorbs(term, other):
                    return self.divided(term, per)
            names = {read: self.divided(read, per) for read in dict.fromkeys(node.input)}
            self.makers[name] = renamed(node, names, node.name)
            return name
        if alone and node is not None and self.fold(node, per):
            return name
        return self._times(name, 1 / per)

    def _absorbs(self, name: str, constant: str) -> bool:
        """Let a layer add a constant to a tensor, by its bias, if one can."""
        node = self.makers.get(name)
        if node is None or self.readers[name] != 1 or node.domain:
            return False
        if node.op_type == "Add":
            return any(self._absorbs(term, constant) for term in node.input)
        held = node.input[1:]
        if node.op_type != "Conv" or not all(self._is_own(name) for name in held if name):
            return False
        outputs, rank = len(self.constants[held[0]]), self.constants[held[0]].ndim - 1
        added = self.constants[constant]
        added = added[0] if added.ndim > rank and len(added) == 1 else added
        if not of_channels(added, outputs, rank):
            return False
        self.more[name] = self.more.get(name, 0) + np.resize(added, outputs)
        return True

    def _is_own(self, name: str) -> bool:
        """Whether a weight belongs to one node alone."""
        return name in self.constants and self.readers[name] == 1

    def _times(self, name: str, by: np.ndarray, channels: int = 0) -> str:
        """A product with a constant; for images a convolution, which stays in a CPU's layout."""
        if np.all(by == 1):
            return name
        made = f"{self.graph.prefix}{name}/{next(self.numbers)}"
        if by.ndim < 2 or channels != len(by):
            return self._node("Mul", [name, self._constant(by, name)], made)
        filters = self._constant(by[:, np.newaxis], name)
        return self._node("Conv", [name, filters], made, group=len(by))

    def fold(self, node: onnx.NodeProto, per: np.ndarray) -> bool:
        """Let a layer read spikes without their unit, and divide what it makes by ``per``.

        False, and nothing is changed, where its weights cannot do that.
        """
        if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
            return False
        held, attributes = [name for name in node.input[1:] if name], attributes_of(node)
        conv, group = node.op_type == "Conv", attributes.get("group", 1)
        if attributes.get("transA") or not all(self._is_own(name) for name in held):
            return False
        weights = self.constants[held[0]]
        if not conv and weights.ndim != 2:
            return False
        rank = weights.ndim - 1 if conv else 1
        rows = conv or bool(attributes.get("transB"))
        outputs, inputs = weights.shape[:2] if rows else weights.shape[::-1]
        if not of_channels(per, outputs, rank):
            return False
        x, unit = self.factored(node.input[0])
        if not of_channels(unit, inputs * group, rank):
            x, unit = node.input[0], np.ones((), np.float32)
        self.folded.add(node.output[0])
        copy = renamed(node, {node.input[0]: x}, node.name)
        self.makers[node.output[0]] = copy
        more = self.more.get(node.output[0], np.zeros((), np.float32))
        if np.all(unit == 1) and np.all(per == 1) and not np.any(more):
            return True
        each = np.resize(per, outputs)
        if held[0] in self.layers:
            layer = self.layers[held[0]]
            reads = replace(layer.reads, unit=layer.reads.unit / unit.reshape(unit.shape[:1]))
            scale, bias = layer.scale / each, (layer.bias + more) / each
            self.layers[held[0]] = replace(layer, scale=scale, bias=bias, reads=reads)
            return True
        self.weights[held[0]] = scaled(weights, rows, group, unit, each)
        if len(held) > 1:
            self.weights[held[1]] = (self.constants[held[1]] + more) / (each if per.ndim else per)
        elif np.any(more):
            copy.input[2:] = [self._constant(more / each, held[0])]
        return True

    def write(self, neuron: NeuronLayer) -> None:
        """The neurons of a layer."""
        x, unit = self.factored(neuron.spikes)
        forms = {"IF": self._fire, "SignedIF": self._take_back, "SignedBurstIF": self._burst}
        form = forms[neuron.op](neuron, x, unit)
        made, nexts, reads = list(form.made), {f"v_next/{neuron.name}": form.u}, tuple[str, ...]()
        if neuron.op in COUNTING:
            m, positive = f"m/{neuron.name}", self.plan.sums[neuron.positive]
            nexts[f"m_next/{neuron.name}"] = m
            reads = (m,)
            if positive.read in self.states:
                self.units[positive.read] = unit
                above = form.above
                if not above:
                    above = self._node("Relu", [x], f"{x}/above")
                    made.append(above)
                made.append(self._node("Add", [positive.read, above], positive.written))
                nexts[positive.written] = positive.read
        nodes = tuple(self.makers[name] for name in made)
        held = tuple(self.graph.initializers[name] for name in form.constants)
        self.bodies.append(Body(nodes, form.u, reads, x, nexts, held))
        # For all that reads spikes with their unit.
        self._node("Mul", [x, self._constant(unit, x)], neuron.spikes)

    def _potential(self, neuron: NeuronLayer, x: str, unit: np.ndarray) -> str:
        """The membrane potential with the current, in this unit."""
        read = f"v/{neuron.name}"
        self.units[read] = unit
        return self._node("Add", [read, self.divided(neuron.current, unit)], f"{x}/u")

    def _fire(self, neuron: NeuronLayer, x: str, unit: np.ndarray) -> _Form:
        u = self._potential(neuron, x, unit)
        made = [
            self._node("HardSigmoid", [u], x, alpha=STEEP, beta=-STEEP),
            self._node("Sub", [u, x], f"v_next/{neuron.name}"),
        ]
        return _Form(u, made)

    def _take_back(self, neuron: NeuronLayer, x: str, unit: np.ndarray) -> _Form:
        u, m = self._potential(neuron, x, -unit), f"m/{neuron.name}"
        up, low, down = f"{x}/up", f"{x}/low", f"{x}/down"
        # Either is above 0 where both are; a product takes less time, but infinity times 0 is NaN.
        both = "Min" if neuron.name in self.endless else "Mul"
        made = [
            self._node("HardSigmoid", [u], up, alpha=-STEEP, beta=-STEEP),
            self._node(both, [u, m], low),
            self._node("HardSigmoid", [low], down, alpha=_STEEPEST, beta=0.0),
            self._node("Sub", [up, down], x),
            self._node("Add", [u, x], f"v_next/{neuron.name}"),
            self._node("Add", [m, x], f"m_next/{neuron.name}"),
        ]
        return _Form(u, made, above=up)

    def _burst(self, neuron: NeuronLayer, x: str, unit: np.ndarray) -> _Form:
        most = neuron.max_spikes
        u, m = self._potential(neuron, x, unit), f"m/{neuron.name}"
        self.units[m] = np.array(-1, np.float32)
        bounds = {"least": 1 - most, "most": 1 + most, "one": 1}
        least, limit, one = (
            self._constant(np.array(value, np.float32), f"{x}/{name}")
            for name, value in bounds.items()
        )
        made = [
            self._node("Ceil", [u], f"{x}/levels"),
            self._node("Clip", [f"{x}/levels", least, limit], f"{x}/limited"),
            self._node("Sub", [f"{x}/limited", one], f"{x}/wanted"),
            self._node("Max", [f"{x}/wanted", m], x),
            self._node("Sub", [u, x], f"v_next/{neuron.name}"),
            self._node("Sub", [m, x], f"m_next/{neuron.name}"),
        ]
        return _Form(u, made, (least, limit, one))

    def pool(self, node: onnx.NodeProto) -> None:
        """A pool that counts keeps the maxima, too, which are those before at the next time-step.

        S_next = S + current;  P_next = max_pool(S_next);  x = P_next - P
        """
        (current, state), (x, summed) = node.input, node.output
        if not self.in_float32:
            return
        emitted, unit = self.factored(current)
        self.units[state] = unit
        op, made = SPIKING_POOLS[node.op_type], self._in_thresholds(x)
        before, after = f"{made}/before", f"{made}/after"
        self._node("Add", [state, emitted], summed)
        self._node(op, [summed], after, **attributes_of(node))
        self._node("Sub", [after, before], made)
        self.inner.append(State(before, after, self.states[state].start))
        self.begins.append(helper.make_node(op, [state], [before], before, **attributes_of(node)))
        self.bodies.append(Body((self.makers[made],), after, (before,), made, {}))
        self.pooled[x] = made, unit
        self._node("Mul", [made, self._constant(unit, x)], x)

    def leave(self, neuron: NeuronLayer) -> None:
        """Neurons as they are."""
        last, emits = self.makers[f"v_next/{neuron.name}"], self.makers[neuron.spikes]
        fires = self.makers.get(emits.input[0])
        if fires is not None and fires.op_type == "HardSigmoid":
            level = [t for t in self.step.graph.initializer if t.name == emits.input[1]]
            u, nodes = last.input[0], (fires, emits, last)
            self.bodies.append(Body(nodes, u, (), neuron.spikes, {last.output[0]: u}, tuple(level)))

    def count(self) -> None:
        """Sum up spikes, and what pools make of them, in their unit."""
        for name, state in self.plan.sums.items():
            inner, unit = self.factored(name)
            if state.read in self.states and inner != name:
                self.units[state.read] = unit
                self._node("Add", [state.read, inner], state.written)

    def made(self) -> UnitStep:
        """What came of it."""
        outputs = [info for info in self.step.graph.output if info.name in self.written]
        constants = self.graph.initializers.values()
        step = with_nodes(self.step, self.makers.values(), outputs, constants=constants)
        for tensor in step.graph.initializer:
            inline = tensor.data_location != onnx.TensorProto.EXTERNAL
            if inline and tensor.name in self.weights:
                values = self.weights.pop(tensor.name)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return UnitStep(
            step,
            self.weights,
            self.layers,
            self.units,
            tuple(self.bodies),
            tuple(self.inner),
            tuple(self.begins),
        )
