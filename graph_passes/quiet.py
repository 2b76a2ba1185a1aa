"""Keep the loggers of other libraries silent about what is expected to fail."""

import contextlib
import threading
from collections.abc import Iterator

from onnx_graphsurgeon.logger import G_LOGGER

_FATAL, _WARNING = 4, 2
LOGGERS = threading.RLock()
"""Who holds it may change how much is logged: what it is put back to is the whole process's."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let onnx-graphsurgeon evaluate constants, with ONNX Runtime, without a word.

    Both warn of each node that they cannot evaluate; such a node just stays. What ONNX Runtime's
    level was cannot be asked for: it is that of warnings afterwards, its default.
    """
    import onnxruntime

    with LOGGERS:
        onnxruntime.set_default_logger_severity(_FATAL)
        try:
            with G_LOGGER.suppress():
                yield
        finally:
            onnxruntime.set_default_logger_severity(_WARNING)
