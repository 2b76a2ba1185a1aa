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


def session(model, level="full"):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), Options(level), providers=["CPUExecutionProvider"]
    )


def run(model, feed, level="full"):
    """The outputs of a model by name; of ``feed`` it takes what it has inputs for."""
    made = session(model, level)
    wanted = {source.name: np.asarray(feed[source.name]) for source in made.get_inputs()}
    return _run(made, wanted)


def steps(model, feed, timesteps, level="full"):
    """The loop of docs/neurons.md: yields the outputs and the states of each time-step, by name.

    What ``feed`` has a list for is another at each time-step.
    """
    made, state = session(model, level), {}
    for t in range(timesteps):
        now = {name: x[t] if isinstance(x, list) else x for name, x in feed.items()}
        values = _run(made, now | state)
        written = [name for name in values if name.startswith(("v_next/", "m_next/"))]
        state = {name.replace("_next/", "/", 1): values.pop(name) for name in written}
        yield values, state


def _run(made, feed):
    names = [output.name for output in made.get_outputs()]
    return dict(zip(names, made.run(None, feed), strict=True))
