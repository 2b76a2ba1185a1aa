"""Stock ONNX Runtime: at either end of its graph optimisation, and which of its calls are made."""

import numpy as np
import onnxruntime

LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "full": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


CALLS = [
    (onnxruntime, "InferenceSession"),
    (onnxruntime.OrtValue, "ortvalue_from_numpy"),
    (onnxruntime.InferenceSession, "run"),
    (onnxruntime.InferenceSession, "run_with_iobinding"),
]
"""What runs make and call, to be made to fail: objects, and names of what they have."""


class Options(onnxruntime.SessionOptions):
    """One thread, quiet, no graph optimisation."""

    def __init__(self, level="off"):
        super().__init__()
        self.graph_optimization_level = LEVELS[level]
        self.intra_op_num_threads, self.log_severity_level = 1, 4


def run(model, feed, level="full"):
    """The outputs of a model by name; of ``feed`` it takes what it has inputs for."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), Options(level), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    wanted = {source.name: np.asarray(feed[source.name]) for source in session.get_inputs()}
    return dict(zip(names, session.run(None, wanted), strict=True))
