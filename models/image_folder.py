"""Folders of images, a folder for each class, as torchvision's ImageFolder has them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .preprocessing import Preprocessing

_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}


def image_files(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """The image files, their labels int64 [N], and the names of the classes, all in order.

    A class is a folder; its label is its place among them by name, as in torchvision.
    Raises ``FileNotFoundError`` if there is no such folder, or none with an image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in _SUFFIXES)
        files += found
        labels += [label] * len(found)
    if not files:
        raise FileNotFoundError(f"{folder} has no folders with images, one for each class")
    return files, np.array(labels, np.int64), classes


def read_images(files: Sequence[Path], preprocessing: Preprocessing) -> np.ndarray:
    """Pixels uint8 [N, C, H, W] of image files, scaled and cut to size.

    Raises ``OSError`` for a file that is no image, ``ImportError`` without Pillow.
    """
    from PIL import Image

    images = []
    for path in files:
        with Image.open(path) as file:
            image = file.convert("RGB" if preprocessing.channels == 3 else "L")
        if preprocessing.resize is not None:
            scale = preprocessing.resize / min(image.size)
            width, height = (max(round(side * scale), preprocessing.resize) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (round((side - preprocessing.size) / 2) for side in image.size)
        image = image.crop((left, top, left + preprocessing.size, top + preprocessing.size))
        pixels = np.asarray(image)
        images.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    return np.stack(images)


def imagenet_folder(root: Path, train: bool) -> Path:
    """The folder of ImageNet's training or validation images, as torchvision lays them out."""
    return root / ("train" if train else "val")
