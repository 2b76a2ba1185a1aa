"""Run a spiking network over time on ONNX Runtime."""

from .result import ReadOut, SpikingResult
from .session import SpikingSession

__all__ = ["ReadOut", "SpikingResult", "SpikingSession"]
