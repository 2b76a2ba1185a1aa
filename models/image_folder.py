"""Folders of images, a folder for each class, as torchvision's ImageFolder has them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .datasets import DATASETS
from .preprocessing import Preprocessing

_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}


_PARTS = {"dev", "eval", "test", "testing", "train", "training", "val", "valid", "validation"}
"""What the parts of a data set are called."""


def image_files(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """The image files, their labels int64 [N], and the names of the classes, all in order.

    A class is a folder that is not hidden; its label is its place among them by name, as in
    torchvision. Raises ``FileNotFoundError`` if there is no such folder, or none with an image,
    or a class without one, which would shift the labels of others, and for one that is called as
    parts of data sets are, as train or test, and holds folders.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder '{folder}'")
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    classes = sorted(name for name in names if not name.startswith("."))
    parts = [n for n in classes if n.lower() in _PARTS and _has_folders(folder / n)]
    if parts:
        raise FileNotFoundError(
            f"'{folder}' holds {' and '.join(parts)}, with folders in it, and no classes: "
            f"name '{folder / parts[0]}'"
        )
    found = [sorted(_images_in(folder / name)) for name in classes]
    if not any(found):
        raise FileNotFoundError(f"'{folder}' has no folders with images, one for each class")
    empty = [name for name, files in zip(classes, found, strict=True) if not files]
    if empty:
        raise FileNotFoundError(
            f"'{folder / empty[0]}' holds no images, and would be a class: remove the folder"
        )
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in found])
    return [file for files in found for file in files], labels, classes


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.glob("[!.]*"))


def _images_in(folder: Path, above: tuple[str, ...] = ()) -> list[Path]:
    """All images in a folder and those in it, linked ones too, but for links in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        return []
    found = list[Path]()
    for path in folder.iterdir():
        if path.name.startswith("."):
            # As what macOS puts beside each file of an archive.
            continue
        if path.is_dir():
            found += _images_in(path, (*above, real))
        elif path.suffix.lower() in _SUFFIXES:
            found.append(path)
    return found


def read_images(files: Sequence[Path], preprocessing: Preprocessing) -> np.ndarray:
    """Pixels uint8 [N, C, H, W] of image files, scaled and cut to size.

    Raises ``OSError`` for a file that is no image, ``ImportError`` without Pillow.
    """
    from PIL import Image

    images = []
    for path in files:
        image = read_image(path, "RGB" if preprocessing.channels == 3 else "L")
        if preprocessing.resize is not None:
            # The longer side is rounded down, as torchvision does.
            width, height = (preprocessing.resize * s // min(image.size) for s in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        # As torchvision, which pads smaller sides first, and less before than behind.
        left, top = (
            round(more / 2) if more >= 0 else -(-more // 2)
            for more in (side - preprocessing.size for side in image.size)
        )
        image = image.crop((left, top, left + preprocessing.size, top + preprocessing.size))
        pixels = np.asarray(image)
        images.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    return np.stack(images)


def read_image(path: Path, mode: Literal["RGB", "L"]) -> Any:
    """A ``PIL.Image`` of 8 bits; of 16 bits the high ones. Raises ``OSError``, naming the file."""
    from PIL import Image, UnidentifiedImageError
    from PIL.TiffImagePlugin import BITSPERSAMPLE

    # What Pillow raises for damaged files; the last is of its decoder of AVIF.
    unreadable = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, RuntimeError)
    try:
        with Image.open(path) as file:
            if file.mode not in ("I", "F") and not file.mode.startswith("I;16"):
                return file.convert(mode)
            # A mode of "I" may be of 16 or 32 bits, and in a TIFF "I;16" of 12.
            bits = getattr(file, "tag_v2", {}).get(BITSPERSAMPLE, (16,))
            # Pillow would cut off what is above 255.
            pixels = np.asarray(file)
            if file.mode == "F" or bits != (16,) or pixels.min() < 0 or pixels.max() > 0xFFFF:
                raise OSError("its pixels are neither of 8 nor of 16 bits")
            return Image.fromarray((pixels >> 8).astype(np.uint8)).convert(mode)
    except unreadable as error:
        why = getattr(error, "strerror", None)
        if why is None:
            # What Pillow says of what it does not know names the file, too.
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "no image, or damaged" if unknown else str(error).rstrip(".")
            why = f"{reason}; remove or replace it"
        raise OSError(f"{path}: {why}") from error


def has_both(folder: Path) -> bool:
    """Whether a folder holds ``train`` and ``val``, each with folders for classes."""
    return all(_has_folders(folder / name) for name in ("train", "val"))


def require_imagenet(folder: Path, classes: Sequence[str]) -> None:
    """Raise ``ValueError`` for a folder of ImageNet without all of its classes."""
    wanted = DATASETS["imagenet"].classes
    if len(classes) != wanted:
        raise ValueError(
            f"'{folder}' holds {len(classes)} classes, and ImageNet has {wanted}, by whose order "
            "labels are counted: name the folder itself where these are classes of their own"
        )


def imagenet_folder(root: Path, train: bool) -> Path:
    """The folder of ImageNet's training or validation images, as torchvision lays them out.

    Raises ``FileNotFoundError`` naming the folder that lacks it.
    """
    folder = root / ("train" if train else "val")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder.name} in {root.absolute()}: name the folder that holds train and "
            "val with --data-root (root in Python)"
        )
    return folder
