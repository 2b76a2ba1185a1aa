"""Digests by which networks, data and settings are known again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.model_files.files import (
    Model,
    files_of,
    read_any,
    read_bytes,
    read_model,
    read_parts,
)
from onnx2snn.graph_passes.model_files.weights import ModelParts, detach

from .data.samples import Data, by_name
from .inspection import metadata_of
from .json_values import plain


def digest_of(model: Model) -> str:
    """The digest of a model's file and of those with its weights, or of what it holds in memory."""
    if isinstance(model, onnx.ModelProto | ModelParts):
        parts = detach(model) if isinstance(model, onnx.ModelProto) else model
        digest = hashlib.sha256(parts.structure.SerializeToString(deterministic=True))
        for name in sorted(parts.weights):
            digest.update(np.ascontiguousarray(parts.weights[name]).data)
        return digest.hexdigest()
    return _together(*map(_digest_of_file, files_of(model)))


def unpiped(model: Model) -> tuple[Model, str | None]:
    """The model, or the parts of one in a pipe, which can be read once, and its file's digest.

    Raises ``ModelError`` for a pipe as ``read_any``.
    """
    if not isinstance(model, str | os.PathLike) or Path(model).is_file():
        return model, None
    content = read_bytes(Path(model))
    whole = hashlib.sha256(content).hexdigest()
    parts = read_parts(model, content)
    return parts, _together(whole, *map(_digest_of_file, files_of(model, content)[1:]))


def read_with_digest(model: Model) -> tuple[ModelParts, str]:
    """A model in parts, and its digest; raises ``ModelError`` as ``read_any``."""
    model, digest = unpiped(model)
    return read_any(model), digest or digest_of(model)


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _together(whole: str, *others: str) -> str:
    """The digest of a model's file with those of the files beside it."""
    return hashlib.sha256("".join([whole, *others]).encode()).hexdigest() if others else whole


OTHER_FILE = (
    "by its SHA-256 this ANN's file is not the one the network was made from; comparisons with "
    "the ANN hold only if both compute the same"
)
"""What is said of an ANN that is not the source of an SNN."""


def is_source(snn: onnx.ModelProto, ann: Model) -> bool:
    """Whether an SNN says that it was made from just this ANN, by the digest that it holds.

    Of the SNN its metadata will do. An ANN that was saved anew has another digest, although it may
    compute the same.
    """
    made_from = metadata_of(snn).get("onnx2snn.source_sha256")
    if made_from is None:
        return False
    if made_from == digest_of(ann):
        return True
    # Python's convert may have had what the file holds, not the file.
    return isinstance(ann, str | os.PathLike) and made_from == digest_of(read_model(ann))


def digest_of_data(data: Data, batch_size: int) -> str:
    """The digest of all inputs and labels, read in batches; it does not depend on their size.

    Raises ``DataError`` if the data cannot be read, or is not finite.
    """
    digests: dict[str, Any] = {}
    for x, _ in data.batches(batch_size):
        for name, values in by_name(x).items():
            if name not in digests:
                digests[name] = hashlib.sha256(f"{values.dtype.str}{values.shape[1:]}".encode())
            digests[name].update(np.ascontiguousarray(values).tobytes())
    if data.labels is not None:
        # No input has an empty name.
        digests[""] = hashlib.sha256(data.labels.tobytes())
    found = {name: digest.hexdigest() for name, digest in digests.items()}
    return digest_of_settings(found)


def digest_of_settings(settings: Any) -> str:
    """The digest of what JSON can hold, NumPy's numbers and arrays among it."""
    text = json.dumps(settings, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()
