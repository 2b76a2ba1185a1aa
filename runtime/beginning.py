"""A network at v(0): the graphs of a plan on a device, and what runs them over time."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.model_files.weights import ModelParts

from .choices.costs import costs_of
from .cuda_graphs import require_capturable
from .derived_sums import DerivedSums
from .plans.graphs import names_read, only
from .precision import PlanInPrecision
from .progress import Progress
from .prologue import Prologue
from .providers import CPU, ON_GPU, captures_runs, device_id_of
from .read_out import Averages
from .sessions import SELDOM, SELDOM_LEAN, Use, cores_of, create_session
from .states import DeviceStates
from .sums import Sums, carried_sums
from .time_steps import TimeSteps

SMALL_PART = 32
"""Of a budget, prologue and read-outs hold at most one byte in so many as weights of their own."""


@dataclass(frozen=True)
class Beginning:
    """Where a session begins, whichever sums follow from its states.

    ``providers``: resolved. ``in_chunks``: whether several time-steps may be one run. The rest are
    those of ``SpikingSession``.
    """

    network: PlanInPrecision
    providers: list[Any]
    threads: int | None
    in_chunks: bool
    max_memory: int | None

    @cached_property
    def _copied(self) -> int:
        """Bytes of the weights that prologue and read-outs read."""
        plan, names = self.network.plan, set[str]()
        for model in filter(None, (plan.prologue, plan.epilogue, plan.read_out)):
            names |= names_read(model)
        return sum(v.nbytes for name, v in plan.weights.items() if name in names)

    @property
    def _holds_copies(self) -> bool:
        """Whether prologue and read-outs hold their weights once more, which makes them faster."""
        return self.max_memory is None or SMALL_PART * self._copied <= self.max_memory

    @cached_property
    def prologue(self) -> Prologue:
        """The plan's, on the device."""
        return Prologue(self.network.plan, self._create_seldom)

    @cached_property
    def averages(self) -> Averages:
        """The plan's, on the device."""
        return Averages(self.network.plan, self._create_seldom)

    def progress(self, derived: DerivedSums | None) -> Progress:
        """The network at v(0), whose sums follow from its states as far as ``derived`` says."""
        prologue, averages, plan = self.prologue, self.averages, self.network.plan
        device = averages.providers[0]
        on_cpu, on_gpu = device == CPU, device in ON_GPU
        carried = [*plan.states, *carried_sums(plan, derived).values()]
        now = [name for name in plan.readout_types if name not in plan.step_inputs]
        step = only(plan.step, [*now, *(state.written for state in carried)])
        captures = captures_runs(self.providers)
        if captures:
            require_capturable(step)
        states = DeviceStates(
            carried,
            plan.step_inputs,
            "cuda" if on_gpu else "cpu",
            device_id_of(self.providers[0]) if on_gpu else 0,
            captures,
        )
        create = partial(self._create, use=SELDOM_LEAN)
        sums = Sums(plan, derived, states, create, self.max_memory is not None)
        others = [plan.prologue, plan.epilogue, plan.read_out]
        others += [derived.sums, derived.silent] if derived else []
        costs = costs_of(
            self.network,
            step,
            carried,
            on_cpu=on_cpu,
            in_chunks=self.in_chunks,
            derived_counts=derived is not None,
            kept=sums.kept,
            held=self._copied if self.max_memory is not None and self._holds_copies else 0,
            nodes=sum(len(model.graph.node) for model in others if model is not None),
            max_memory=self.max_memory,
        )
        cores = cores_of(self.threads)
        time_steps = TimeSteps(self.network, step, carried, costs, self._create, on_cpu, cores)
        return Progress(plan, prologue, time_steps, states, sums, averages)

    def _create_seldom(self, model: onnx.ModelProto | ModelParts) -> Any:
        """A session that runs seldom, perhaps without weights of its own."""
        return self._create(model, SELDOM if self._holds_copies else SELDOM_LEAN)

    def _create(
        self,
        model: onnx.ModelProto | ModelParts,
        use: Use,
        own: Mapping[str, np.ndarray] | None = None,
    ) -> Any:
        """A session of a model whose large weights are the plan's, which all share, or its own."""
        weights = self.network.plan.weights
        parts = model if isinstance(model, ModelParts) else ModelParts(model, {})
        names = {t.name for t in parts.structure.graph.initializer} & weights.keys()
        # What comes with the model takes the place of what has the same name.
        names -= {*parts.weights, *(own or {})}
        held = parts.weights | {name: weights[name] for name in names}
        whole = ModelParts(parts.structure, held)
        return create_session(whole, self.providers, self.threads, use, own)
