"""A mark for tests that need a GPU on which ONNX Runtime starts."""

import pytest

from onnx2snn import ProviderError
from onnx2snn.runtime import providers


def _starts() -> bool:
    try:
        # That the library was built for CUDA does not say that there is a GPU.
        providers.require_start(providers.resolve_providers("cuda"))
    except ProviderError:
        return False
    return True


needs_cuda = pytest.mark.skipif(not _starts(), reason="ONNX Runtime starts no CUDA here")
