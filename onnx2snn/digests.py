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
    Opened,
    files_beside,
    opened,
    parts_in,
    read_any,
)
from onnx2snn.graph_passes.model_files.weights import ModelParts

from .data.samples import Data, by_name
from .inspection import metadata_of
from .json_values import plain


def digest_of(model: Model) -> str:
    """The digest of a model's file and of those with its weights, or of what it holds in memory.

    Of one file it is what ``sha256sum`` says. Raises ``ModelError`` as ``read_any``.
    """
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        with opened(path) as file:
            return _digest_of_files(file, path)
    parts = read_any(model)
    digest = hashlib.sha256(parts.structure.SerializeToString(deterministic=True))
    for name in sorted(parts.weights):
        digest.update(np.ascontiguousarray(parts.weights[name]).data)
    return digest.hexdigest()


def with_digest(model: Model) -> tuple[Model, str]:
    """The model, or the parts of one in a pipe, which can be read once, and its digest.

    Raises ``ModelError`` as ``read_any``.
    """
    if not isinstance(model, str | os.PathLike) or Path(model).is_file():
        return model, digest_of(model)
    path = Path(model)
    with opened(path) as file:
        return parts_in(file, path), _digest_of_files(file, path)


def read_with_digest(model: Model) -> tuple[ModelParts, str]:
    """A model in parts, and its digest; raises ``ModelError`` as ``read_any``."""
    model, digest = with_digest(model)
    return read_any(model), digest


def _digest_of_files(file: Opened, path: Path) -> str:
    """The digest of a model's file, which is ``opened``, with those of the files beside it."""
    beside = files_beside(file, path)
    file.seek(0)
    whole = hashlib.file_digest(file, "sha256").hexdigest()
    if not beside:
        return whole
    return hashlib.sha256("".join([whole, *map(_digest_of_file, beside)]).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


OTHER_FILE = (
    "the network does not say that it was made from this ANN's file, by its SHA-256; comparisons "
    "with the ANN hold only if both compute the same"
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
    return isinstance(ann, str | os.PathLike) and made_from == digest_of(read_any(ann))


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
