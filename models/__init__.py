"""Networks to convert: how they are trained, and small trained files that ship.

Nothing here is imported by ``import onnx2snn``. ``datasets`` needs NumPy only;
``networks`` and ``training`` need torch (extra ``[train]``).
"""
