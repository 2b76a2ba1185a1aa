"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the files that their author distributes.

Both distributions are read: the "binary version", and the "Python version", which is what
torchvision downloads. The latter are pickles; only arrays and plain containers are ever
unpickled from them.
"""

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np


def cifar(classes: int, root: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels uint8 [N] of CIFAR-10 or, for 100 classes, -100.

    ``root``: the folder of the files or the one that holds it, such as cifar-10-batches-py.
    Raises ``FileNotFoundError`` naming what was looked for, ``ValueError`` for damaged files.
    """
    if classes == 10:
        folders = ("cifar-10-batches-py", "cifar-10-batches-bin")
        names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
    else:
        folders = ("cifar-100-python", "cifar-100-binary")
        names = ["train" if train else "test"]
    for folder in (root, *(root / name for name in folders)):
        pickled = [folder / name for name in names]
        binary = [folder / f"{name}.bin" for name in names]
        for paths, read in ((pickled, _read_pickled), (binary, _read_binary)):
            if all(path.is_file() for path in paths):
                parts = [read(path, classes) for path in paths]
                images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
                return images.reshape(-1, 3, 32, 32), labels
    raise FileNotFoundError(
        f"no {', '.join(names)} (or .bin) in {root}, nor in {' or '.join(folders)} there: "
        f"name the folder of CIFAR-{classes} with --data-root (root in Python)"
    )


def _read_binary(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one label (of CIFAR-100 a coarse and a fine one) and 3,072 pixels."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    head = 1 if classes == 10 else 2
    if not content.size or content.size % (head + 3072):
        raise ValueError(f"{path} holds {content.size} bytes, no whole number of images")
    rows = content.reshape(-1, head + 3072)
    return _checked(path, rows[:, head:], rows[:, head - 1], classes)


def _read_pickled(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        images = np.asarray(content[b"data"])
        labels = np.asarray(content[b"labels" if classes == 10 else b"fine_labels"])
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is no batch of CIFAR-{classes}, or is damaged") from error
    if images.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: pixels must be uint8, 0 to 255, and labels integers, not {images.dtype} and "
            f"{labels.dtype}"
        )
    return _checked(path, images, labels, classes)


def _checked(
    path: Path, images: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    if images.ndim != 2 or images.shape[1] != 3072 or labels.shape != images.shape[:1]:
        raise ValueError(f"{path}: images {images.shape} and labels {labels.shape} do not match")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ValueError(f"{path} holds the label {wrong[0]}; CIFAR-{classes} has none")
    return images, labels.astype(np.uint8)


class _Unpickler(pickle.Unpickler):
    """Makes NumPy arrays, and no other object that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        """What rebuilds an array; raises for all else."""
        if name in ("ndarray", "dtype") and module == "numpy":
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.zeros(0).__reduce__()[0]
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 keeps bytes
            return codecs.encode
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a data set")
