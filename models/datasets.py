"""The data sets that the shipped networks were trained on, as NumPy arrays."""

import gzip
import struct
from pathlib import Path

import numpy as np

FASHION_MNIST_ROOT = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or gzip-compressed (``.gz``).

    Returns a uint8 array in the shape that the file's header states. Raises
    ``ValueError`` if the file is no IDX file of bytes or is shorter than its header
    says, and ``OSError`` if it cannot be read.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content = file.read()
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
