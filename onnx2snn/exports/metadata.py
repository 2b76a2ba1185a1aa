"""What all exports share: what they tell.

Exports go to systems that know nothing of this package. Each carries the SNN file's metadata
and, under the key ``EXPORT``, how it was exported.
"""

import json
from typing import Any

import onnx

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.model_files.files import EXPORT
from onnx2snn.inspection import metadata_of
from onnx2snn.models.preprocessing import KEY
from onnx2snn.version import __version__


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
