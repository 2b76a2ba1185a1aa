"""``to_loop``: a spiking network over T time-steps as one ordinary ONNX model."""

import onnx

from onnx2snn.digests import read_with_digest
from onnx2snn.graph_passes.errors import ModelError, require_truths
from onnx2snn.graph_passes.model_files.files import Model
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.runtime.loop import loop_model

from .metadata import stamp


def to_loop(
    snn: Model,
    timesteps: int | None,
    *,
    unroll: bool = False,
    each_step: bool = False,
    rates: bool = False,
    inline: bool = False,
    preprocessing: str | None = None,
) -> onnx.ModelProto:
    """A spiking network over T time-steps as one ordinary ONNX model: image in, read-out out.

    snn: the file that ``convert`` made, or its model, or parts. timesteps: T; None makes it an
    input, ``timesteps``, an int64 scalar. unroll: T copies of the step in place of a Loop.
    each_step: also the read-out after each time-step, ``steps/<output>`` [T, N, ...].
    rates: also ``firing_rate/<layer>``, float32 [N], spikes per neuron and time-step.
    inline: only operators of ONNX itself. preprocessing: what is done to an input before the
    network, in words, for the metadata; if not given, what the file says.

    The outputs are those of ``SpikingSession(plan="step")``, bit for bit in float32 where ONNX
    Runtime runs both at one optimisation level, and of the default session where sums are exact.
    Raises ``ModelError`` for a file that is no SNN, or of which an output is an input too, and
    ``DataError`` for a T that is no whole number from 1 on or cannot be unrolled.
    """
    options = {"unroll": unroll, "each_step": each_step, "rates": rates, "inline": inline}
    require_truths(**options)
    parts, digest = read_with_digest(snn)
    return stamped_loop(parts, digest, timesteps, preprocessing, **options)


def stamped_loop(
    snn: ModelParts,
    digest: str,
    timesteps: int | None,
    preprocessing: str | None,
    *,
    unroll: bool = False,
    **options: bool,
) -> onnx.ModelProto:
    """What ``to_loop`` makes of a network whose file has this digest."""
    model = loop_model(snn, timesteps, unroll=unroll, **options)
    _require_apart(model.graph)
    made = {
        "format": "loop",
        "timesteps": "input" if timesteps is None else int(timesteps),
        "unrolled": unroll,
    }
    onnx.helper.set_model_props(model, stamp(snn.structure, digest, made, preprocessing))
    return model


def _require_apart(graph: onnx.GraphProto) -> None:
    """Raise ``ModelError`` if an input is an output too: the read-out needs a name of its own."""
    both = {info.name for info in graph.input} & {info.name for info in graph.output}
    if both:
        raise ModelError(
            f"'{min(both)}' is an input of the network and an output too, and the export's "
            "read-out needs a name of its own: leave the output out of the ANN, or put an Identity "
            "before it, and convert it again"
        )
