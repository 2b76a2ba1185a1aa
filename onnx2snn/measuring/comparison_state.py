"""What a comparison keeps of each result, in which file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kept_results import KeptFile


@dataclass(frozen=True)
class Score:
    """What a spiking network does in T time-steps, as ``evaluate`` says it.

    ``accuracy``, ``agreement`` and ``ann_accuracy`` are percentages, the first and the last None
    without labels; ``sops``: synaptic operations per sample.
    """

    timesteps: int
    accuracy: float | None
    agreement: float
    firing_rate: float
    sops: float
    ann_accuracy: float | None


def state_file(path: Path) -> KeptFile:
    """The file in which a comparison keeps its results: ``score``, and what it was made from."""
    return KeptFile(path, "onnx2snn compare 1", "results", _is_entry)


def _is_entry(entry: Any) -> bool:
    score = entry.get("score") if isinstance(entry, dict) else None
    fields = {field.name for field in dataclasses.fields(Score)}
    if not isinstance(score, dict) or set(score) != fields:
        return False
    may_lack = {"accuracy", "ann_accuracy"}
    return all(
        type(value) in (int, float) or (value is None and name in may_lack)
        for name, value in score.items()
    )
