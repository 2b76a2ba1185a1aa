"""Networks to convert: how they are trained, and small trained files that ship.

``import onnx2snn`` takes what reads data sets, which needs NumPy only; ``networks`` and
``training`` need torch (extra ``[train]``).
"""
