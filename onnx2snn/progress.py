"""Batches of data, and how far one is with them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.runtime.providers import Providers

from .data.samples import Batch, Data

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Wraps an iterable of batches to show progress: ``track(batches, what, how_many)``."""


def no_progress(batches: Iterable[Any], what: str, how_many: int) -> Iterable[Any]:
    """A ``Track`` that shows nothing."""
    return batches


Report = Callable[[str, int, int], None]
"""Told how far something is: ``report(what, done, total)``, in the caller's units."""


def no_report(what: str, done: int, total: int) -> None:
    """A ``Report`` that shows nothing."""


@dataclass(frozen=True)
class Running:
    """How networks are run over data: samples at a time, on what device, showing what."""

    batch_size: int = 100
    providers: Providers = None
    track: Track = no_progress

    def batches(self, data: Data, what: str) -> Iterable[Batch]:
        """The batches of ``data``, with progress; ``DataError`` for an invalid track."""
        if not callable(self.track):
            raise DataError(f"track must be a function that wraps batches, not {self.track!r}")
        return self.track(data.batches(self.batch_size), what, -(-data.samples // self.batch_size))
