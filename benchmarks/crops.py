"""Crops of a few photos, where a benchmark needs images and there is no data set."""

from collections.abc import Iterator, Sequence

import numpy as np
from skimage import transform

SIZE = 224


def crops(photos: Sequence[np.ndarray], count: int, seed: int) -> Iterator[np.ndarray]:
    """Random squares of the photos in turn, half of them mirrored, not resized."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        photo = photos[number % len(photos)]
        height, width = photo.shape[:2]
        side = int(rng.uniform(0.5, 1) * min(height, width))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = photo[top : top + side, left : left + side]
        yield crop[:, ::-1] if rng.random() < 0.5 else crop


def resized(photo: np.ndarray) -> np.ndarray:
    """A photo of any size as ``SIZE`` x ``SIZE``, float64, with values as before."""
    return transform.resize(photo, (SIZE, SIZE), preserve_range=True, anti_aliasing=True)
