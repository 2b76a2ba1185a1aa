"""Keep the loggers of other libraries silent about what is expected to fail."""

import contextlib
import os
import threading
from collections.abc import Iterator

from onnx_graphsurgeon.logger import G_LOGGER

_FATAL, _WARNING = 4, 2
_TURN = threading.RLock()

# A child has no other thread that could give the lock back, and the level, that it was forked with.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_TURN.acquire, after_in_parent=_TURN.release, after_in_child=_TURN.release
    )


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Without a word of onnx-graphsurgeon's, one thread at a time.

    What its level is put back to is the whole process's.
    """
    with _TURN, G_LOGGER.suppress():
        yield


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let onnx-graphsurgeon evaluate constants, with ONNX Runtime, without a word.

    Both warn of each node that they cannot evaluate; such a node just stays. What ONNX Runtime's
    level was cannot be asked for: it is that of warnings afterwards, its default.
    """
    import onnxruntime

    with muted():
        onnxruntime.set_default_logger_severity(_FATAL)
        try:
            yield
        finally:
            onnxruntime.set_default_logger_severity(_WARNING)
