"""Run a spiking network over time on ONNX Runtime."""

from .early_exit import EarlyExit
from .result import ReadOut, SpikingResult
from .session import SpikingSession

__all__ = ["EarlyExit", "ReadOut", "SpikingResult", "SpikingSession"]
