"""Networks to convert: how they are trained, and small trained files that ship.

``import onnx2snn`` takes what reads data sets, which needs NumPy only; ``networks`` and
``training`` need torch (extra ``[train]``).
"""

from pathlib import Path


def shipped(name: str) -> Path:
    """The path of a file of this name that ships with the package, if there is one."""
    return Path(__file__).with_name(name)
