"""An accuracy budget, for builds that fail when a network leaves it."""

from typing import Any

import click

from onnx2snn.graph_passes.errors import Onnx2SnnError

from .parameter_types import Percent


class BudgetError(Onnx2SnnError):
    """A network is less accurate than it must be."""


min_accuracy_option = click.option(
    "--min-accuracy", type=Percent(), help="Fail if the accuracy is lower (percent)."
)
max_drop_option = click.option(
    "--max-drop", type=Percent(), help="Fail if the accuracy is more points below the ANN's."
)


def require_budget(
    report: dict[str, Any], min_accuracy: float | None, max_drop: float | None
) -> None:
    """Hold the accuracy at the last T of an evaluation to a budget, both in percent.

    max_drop: of the accuracy against the ANN's. Raises ``BudgetError`` that names each limit
    that is exceeded.
    """
    last = report["snn"][-1]
    accuracy, at = last["accuracy"], f"at T={last['timesteps']}"
    exceeded = []
    if min_accuracy is not None and accuracy < min_accuracy:
        exceeded.append(
            f"{_beyond(accuracy, min_accuracy)} % {at}, less than --min-accuracy {min_accuracy:g}"
        )
    drop = 0.0 if max_drop is None else report["ann"]["accuracy"] - accuracy
    # Rounded, since 95.1 - 94.1 is more than 1 in binary.
    if max_drop is not None and round(drop - max_drop, 9) > 0:
        below = f"{_beyond(drop, max_drop)} points below the ANN {at}"
        exceeded.append(f"{below}, more than --max-drop {max_drop:g}")
    if exceeded:
        raise BudgetError("outside of the accuracy budget: " + "; ".join(exceeded))


def _beyond(value: float, limit: float) -> str:
    """With two decimals, or as many as it takes to show that it is not the limit."""
    texts = (f"{value:.{decimals}f}" for decimals in range(2, 10))
    return next((text for text in texts if float(text) != limit), f"{value:.9f}")
