"""``to_loop``, and what all exports share: what they tell.

Exports go to systems that know nothing of this package. Each carries the SNN file's metadata
and, under the key ``EXPORT``, how it was exported.
"""

import json
from typing import Any

import onnx

from onnx2snn.digests import digest_of
from onnx2snn.graph_passes.errors import DataError, ModelError, require_truths
from onnx2snn.graph_passes.model_files.files import EXPORT, Model, read_any
from onnx2snn.graph_passes.model_files.weights import attach
from onnx2snn.inspection import metadata_of
from onnx2snn.models.preprocessing import KEY
from onnx2snn.runtime.loop import loop_model
from onnx2snn.version import __version__


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
    require_truths(unroll=unroll, each_step=each_step, rates=rates, inline=inline)
    parts = read_any(snn)
    model = loop_model(
        attach(parts), timesteps, unroll=unroll, each_step=each_step, rates=rates, inline=inline
    )
    _require_apart(model.graph)
    made = {
        "format": "loop",
        "timesteps": "input" if timesteps is None else int(timesteps),
        "unrolled": unroll,
    }
    entries = stamp(parts.structure, digest_of(snn), made, preprocessing)
    onnx.helper.set_model_props(model, entries)
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


def stamp(
    snn: onnx.ModelProto, digest: str, made: dict[str, Any], preprocessing: str | None
) -> dict[str, str]:
    """The metadata of an export: the SNN's own, and how this was made."""
    entries = metadata_of(snn)
    if preprocessing is not None:
        if not isinstance(preprocessing, str):
            raise DataError(f"preprocessing is a text, not {preprocessing!r}")
        try:
            preprocessing.encode()
        except UnicodeEncodeError as error:
            raise DataError("the text of preprocessing is not UTF-8") from error
        entries[KEY] = preprocessing
    versions = {"onnx2snn": __version__, "onnx": onnx.__version__}
    entries[EXPORT] = json.dumps({**made, "versions": versions, "snn_sha256": digest})
    return entries
