"""What a network says after t time-steps, as nodes of a graph: outputs and firing rates.

The same arithmetic as in ``SpikingSession``, where the reasons are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .plans.graphs import Writer, only
from .plans.plan import Plan, State
from .sums import most_steps_carried


@dataclass(frozen=True)
class Network:
    """A plan, and what is wanted of it."""

    plan: Plan
    timesteps: int | None
    each_step: bool
    rates: bool

    @property
    def long(self) -> bool:
        """Whether there may be more time-steps than a float32 sum can count."""
        return self.timesteps is None or self.timesteps > most_steps_carried(self.plan)

    @property
    def sums(self) -> dict[str, State]:
        """The sums over time that are needed, by the name of what is summed."""
        wanted = dict.fromkeys(self.plan.readout_types)
        if self.rates:
            neurons = self.plan.neurons
            wanted |= dict.fromkeys(name for n in neurons for name in (n.spikes, n.positive))
        return {name: self.plan.sums[name] for name in wanted}

    @property
    def step(self) -> onnx.ModelProto:
        """The step, without the sums that nothing needs."""
        states = [*self.plan.states, *self.sums.values()]
        return only(self.plan.step, [state.written for state in states])


def sum_of(
    network: Network, writer: Writer, name: str, running: str, moved: str, label: str
) -> tuple[str, np.dtype]:
    """A sum over all time-steps, and its type: float64 where parts of it were moved."""
    dtype = network.sums[name].start.dtype
    if not moved:
        return running, dtype
    double = np.dtype(np.float64)
    now = writer.cast(running, dtype, double, f"{label}/f64")
    return writer.node("Add", [moved, now], label), double


def read_outs(
    network: Network,
    writer: Writer,
    t: str,
    reads: Mapping[str, str],
    running: Mapping[str, str],
    moved: Mapping[str, str],
    before: Mapping[str, str],
    place: str = "",
) -> dict[str, str]:
    """What the network says after t time-steps, a float64: outputs, and rates if wanted.

    ``reads``: where what a time-step reads is found.
    """
    plan = network.plan
    sums = {
        name: sum_of(network, writer, name, held, moved.get(name, ""), f"total{place}/{name}")
        for name, held in running.items()
    }
    rates = _rates(network, writer, t, sums, place) if network.rates else {}
    count = t
    if before:
        delay = writer.constant(np.float64(plan.delay), "delay")
        late = writer.node("Greater", [t, delay], f"late{place}")
        late = writer.node("Cast", [late], f"late/f64{place}", to=onnx.TensorProto.DOUBLE)
        left = writer.node("Mul", [late, delay], f"left_out{place}")
        count = writer.node("Sub", [t, left], f"count{place}")
    read = {}
    for name in plan.readout_types:
        read[name] = sums[name]
        if before:
            since = writer.node("Sub", [sums[name][0], before[name]], f"since{place}/{name}")
            read[name] = since, sums[name][1]
    values = _averages(network, writer, count, read, place)
    values |= {
        name: writer.node("Identity", [reads[name]], f"latest{place}/{name}")
        for name in plan.outputs
        if name in plan.latest
    }
    if plan.read_out is not None:
        given = values | {name: reads[name] for name in plan.latest}
        values |= writer.part(plan.read_out, given, f"read_out{place}")
    return {name: values[name] for name in plan.outputs} | rates


def _averages(
    network: Network,
    writer: Writer,
    count: str,
    sums: Mapping[str, tuple[str, np.dtype]],
    place: str,
) -> dict[str, str]:
    """The mean of the epilogue g over t steps: (g(S) + (t - 1) g(0)) / t.

    Where g computes in float16, and for integers, g(S / t).
    """
    plan = network.plan
    double = np.dtype(np.float64)
    types = {name: np.dtype(dtype) for name, dtype in plan.readout_types.items()}
    results = [output.name for output in plan.epilogue.graph.output]
    of_means: dict[str, str] = {}
    if plan.sums_in_float16 or any(dtype.kind != "f" for dtype in types.values()):
        means = {}
        for name, (summed, have) in sums.items():
            dtype = network.sums[name].start.dtype
            # Other names than those of sums and averages below, which may be of the same tensor.
            summed = writer.cast(summed, have, dtype, f"dividend{place}/{name}")
            steps = writer.cast(count, double, dtype, f"divisor{place}/{name}")
            mean = writer.node("Div", [summed, steps], f"quotient{place}/{name}")
            means[name] = writer.cast(mean, dtype, types[name], f"term{place}/{name}")
        made = writer.part(plan.epilogue, means, f"epilogue_of_means{place}")
        of_means = dict(zip(plan.averages, (made[name] for name in results), strict=True))
    if plan.sums_in_float16:
        return of_means
    read = {
        name: writer.cast(summed, have, types[name], f"total{place}/{name}/{types[name]}")
        for name, (summed, have) in sums.items()
    }
    silence = {}
    for name, summed in read.items():
        shape = writer.node("Shape", [summed], f"shape{place}/{name}")
        zero = numpy_helper.from_array(np.zeros(1, types[name]))
        silence[name] = writer.node("ConstantOfShape", [shape], f"zeros{place}/{name}", value=zero)
    made = writer.part(plan.epilogue, read, f"epilogue{place}")
    silent = writer.part(plan.epilogue, silence, f"silent{place}")
    one = writer.constant(np.float64(1), "one/f64")
    others = writer.node("Sub", [count, one], f"others{place}")
    averages = {}
    for average, output in zip(plan.averages, plan.epilogue.graph.output, strict=True):
        dtype = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
        if dtype.kind != "f" and of_means:
            averages[average] = of_means[average]
            continue
        at = f"{place}/{average}"
        g = writer.cast(made[output.name], dtype, double, f"g{at}")
        g0 = writer.cast(silent[output.name], dtype, double, f"g0{at}")
        bias = writer.node("Mul", [others, g0], f"bias{at}")
        whole = writer.node("Add", [g, bias], f"whole{at}")
        mean = writer.node("Div", [whole, count], f"mean{at}")
        averages[average] = writer.cast(mean, double, dtype, f"average{at}")
    return averages


def _rates(
    network: Network,
    writer: Writer,
    t: str,
    sums: Mapping[str, tuple[str, np.dtype]],
    place: str,
) -> dict[str, str]:
    """Spikes per neuron and time-step of each layer, in each sample."""
    rates = {}
    for neuron in network.plan.neurons:
        at = f"{place}/{neuron.name}"
        dtype = sums[neuron.spikes][1]
        level = writer.constant(neuron.threshold.astype(dtype), f"V_th/{neuron.name}")

        def counts(name: str, label: str, level: str = level, at: str = at) -> str:
            levels = writer.node("Div", [sums[name][0], level], f"{label}{at}")
            return writer.node("Round", [levels], f"{label}_counts{at}")

        spikes = counts(neuron.spikes, "spike")
        if neuron.positive != neuron.spikes:
            # Of p spikes and n that take one back, p + n are 2 p - (p - n).
            positive = counts(neuron.positive, "positive")
            negative = writer.node("Sub", [positive, spikes], f"negative_counts{at}")
            spikes = writer.node("Add", [positive, negative], f"either_counts{at}")
        spikes = writer.node("Flatten", [spikes], f"flat{at}", axis=1)
        spikes = writer.cast(spikes, dtype, np.dtype(np.float64), f"flat{at}/f64")
        axis = writer.constant(np.array([1]), "axis")
        every = writer.node("ReduceSum", [spikes, axis], f"all{at}", keepdims=0)
        shape = writer.node("Shape", [spikes], f"size{at}/shape")
        size = writer.node("Gather", [shape, axis], f"size{at}/int")
        size = writer.node("Cast", [size], f"size{at}", to=onnx.TensorProto.DOUBLE)
        mean = writer.node("Div", [every, size], f"per_neuron{at}")
        rate = writer.node("Div", [mean, t], f"rate{at}/f64")
        rates[f"firing_rate/{neuron.name}"] = writer.node(
            "Cast", [rate], f"rate{at}", to=onnx.TensorProto.FLOAT
        )
    return rates
