"""The data sets of the paper and of the shipped networks, read from their own files.

What is small enough for memory comes as NumPy arrays; ImageNet and folders of images are
read image by image (``image_folder``).
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .cifar import cifar

FASHION_MNIST_ROOT = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""


@dataclass(frozen=True)
class DataSet:
    """What one has to know of a data set to train on it.

    ``size``: height and width of the images. ``mean``, ``std``: of each channel of the
    training images, pixels in [0, 1].
    """

    classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


DATASETS = {
    "fashion-mnist": DataSet(10, 1, 28, (0.2860,), (0.3530,)),
    "digits": DataSet(10, 1, 8, (0.305,), (0.376,)),
    "cifar10": DataSet(10, 3, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": DataSet(100, 3, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": DataSet(1000, 3, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

IN_MEMORY = tuple(name for name in DATASETS if name != "imagenet")
"""Those that ``in_memory`` reads."""


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or gzip-compressed (``.gz``).

    Returns a uint8 array in the shape that the file's header states. Raises
    ``ValueError`` if the file is no IDX file of bytes, is shorter than its header says or
    cannot be decompressed, and ``OSError`` if it cannot be read.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise ValueError(f"{path} ends inside its header")
    shape = struct.unpack(f">{rank}I", content[4:header])
    data = np.frombuffer(content, np.uint8, offset=header)
    if data.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} holds {data.size} bytes of data, its header says {shape}")
    return data.reshape(shape)


def fashion_mnist(root: Path | None = None, train: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] and labels uint8 [N] of Fashion-MNIST (Xiao et al. 2017).

    N is 10,000 (test) or 60,000 (train). ``root`` is the folder of the four IDX files,
    with or without ``.gz``; without it, the Debian package's folder. Raises
    ``FileNotFoundError`` naming the folder and the Debian package if a file is missing,
    and ``ValueError`` if a file is damaged.
    """
    root = FASHION_MNIST_ROOT if root is None else Path(root)
    prefix = "train" if train else "t10k"
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        name = f"{prefix}-{kind}-ubyte"
        paths = [p for p in (root / name, root / f"{name}.gz") if p.is_file()]
        if not paths:
            raise FileNotFoundError(
                f"no {name}[.gz] in {root}: install Debian's package dataset-fashion-mnist, "
                "or name the folder that holds the four IDX files"
            )
        arrays.append(read_idx(paths[0]))
    images, labels = arrays
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(f"images {images.shape} and labels {labels.shape} in {root} do not match")
    return images, labels


def digits(train: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 8, 8] and labels uint8 [N] of scikit-learn's digits, which it brings along.

    They have no official split: the first 1,437 of the 1,797 are for training, the last 360
    for testing. Grey levels, 0 to 16, are scaled to 0 to 255. Raises ``FileNotFoundError`` if
    scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FileNotFoundError("they come with scikit-learn (pip install scikit-learn)") from error
    x, y = load_digits(return_X_y=True)
    images = np.rint(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    part = slice(None, 1437) if train else slice(1437, None)
    return images[part], y[part].astype(np.uint8)


def in_memory(name: str, root: Path | None, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, C, H, W] and labels uint8 [N] of a data set small enough for memory.

    ``name``: one of ``IN_MEMORY``. Raises ``OSError``, as ``FileNotFoundError``, and
    ``ValueError`` as its reader does.
    """
    if name == "fashion-mnist":
        images, labels = fashion_mnist(root, train)
    elif name == "digits":
        images, labels = digits(train)
    else:
        return cifar(DATASETS[name].classes, root or Path(), train)
    return images[:, None], labels
