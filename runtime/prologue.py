"""What a time-step reads: the network's inputs, and what becomes of them before any neuron."""

from collections.abc import Callable
from typing import Any

from .choices.memory import prologue_memory
from .plans.plan import Plan
from .result import Arrays
from .sessions import outputs_of


class Prologue:
    """The part of a plan that no neuron feeds.

    create: makes a session of a graph. ``memory``: bytes that it takes for the last inputs.
    """

    def __init__(self, plan: Plan, create: Callable[..., Any]) -> None:
        self._plan = plan
        self.session: Any = None if plan.prologue is None else create(plan.prologue)
        self.memory = 0
        self._shapes: dict[str, tuple[int, ...]] = {}

    def step_inputs(self, inputs: Arrays) -> Arrays:
        """What the step reads: the prologue's results, and the inputs that it reads itself."""
        values = {name: inputs[name] for name in self._plan.step_inputs if name in inputs}
        if self._plan.prologue is None:
            return values
        shapes = {name: value.shape for name, value in inputs.items()}
        if shapes != self._shapes:
            self._shapes, self.memory = shapes, prologue_memory(self._plan.prologue, shapes)
        return values | outputs_of(self.session, inputs)
