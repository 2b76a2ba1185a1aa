"""What all tests of the runtime have in common."""

import pytest

from onnx2snn.runtime.layers import kernel_forms


@pytest.fixture(autouse=True)
def small_images_enter_the_layout(monkeypatch):
    """So that networks of few channels, whose sums are exact, test the layout of the CPU."""
    monkeypatch.setattr(kernel_forms, "LEAST_FILLED", 0)
