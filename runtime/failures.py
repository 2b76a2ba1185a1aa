"""What ONNX Runtime raises, as errors of this package."""

from collections.abc import Iterator
from contextlib import contextmanager

from onnx2snn.graph_passes.errors import Onnx2SnnError, first_line, from_onnxruntime

OUT_OF_MEMORY = "out of memory: give it less at once (--batch-size), or a smaller network"
_NO_MEMORY = (
    "std::bad_alloc", "bad allocation", "Failed to allocate memory",
    # Of a GPU: the most that was allowed, and what CUDA, cuBLAS and cuDNN say.
    "is smaller than requested bytes", "out of memory", "ALLOC_FAILED",
)  # fmt: skip


def lacks_memory(error: Exception) -> bool:
    """Whether this error of ONNX Runtime's says that there is no more memory."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY)


@contextmanager
def failing_as(kind: type[Onnx2SnnError], message: str) -> Iterator[None]:
    """Raise what ONNX Runtime raises as ``kind``, with what ``told`` makes of ``message``."""
    try:
        yield
    except Exception as error:
        if not from_onnxruntime(error):
            raise
        raise kind(told(error, message)) from error


def told(error: Exception, message: str) -> str:
    """That there is no memory, or a message with an error's first line in place of {}."""
    return OUT_OF_MEMORY if lacks_memory(error) else message.replace("{}", first_line(error))


def is_time_limit(error: OSError) -> bool:
    """Whether a signal handler raised it, and not the system, which gives a number."""
    return isinstance(error, TimeoutError) and error.errno is None
