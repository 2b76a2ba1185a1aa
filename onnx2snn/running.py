"""How networks are run over data: in batches, on what device, and who is told how far it is."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.runtime.providers import Providers

from .data.samples import Batch, Data

T = TypeVar("T")

Report = Callable[[str, int, int], None]
"""Told how far something is: ``report(what, done, total)``, in the caller's units."""


def no_report(what: str, done: int, total: int) -> None:
    """A ``Report`` that shows nothing."""


def require_report(report: Any) -> None:
    """Raise ``DataError`` for what cannot be told how far something is."""
    if not callable(report):
        raise DataError(f"report must be a function that is told of progress, not {report!r}")


@dataclass(frozen=True)
class Running:
    """How networks are run over data: samples at a time, on what device, who is told of it."""

    batch_size: int = 100
    providers: Providers = None
    report: Report = no_report

    def batches(self, data: Data, what: str) -> Iterator[Batch]:
        """The batches of ``data``, telling how many are done; ``DataError`` for no report."""
        require_report(self.report)
        total = -(-data.samples // self.batch_size)
        yield from self.told(data.batches(self.batch_size), what, total)

    def told(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """The items, telling how many of them are done."""
        self.report(what, 0, total)
        for done, item in enumerate(items, 1):
            yield item
            self.report(what, done, total)
