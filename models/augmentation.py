"""What the paper's pre-processing does to training images, at random, a batch at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def crop_and_flip(images: Tensor) -> Tensor:
    """Random crop of the same size after zero-padding, then a random flip, per image.

    images: [N, C, H, W]; returns the same shape.
    """
    padding = 4
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1))
    rows = top + torch.arange(height)
    flipped = torch.rand(count, 1) < 0.5
    offsets = torch.where(flipped, torch.arange(width - 1, -1, -1), torch.arange(width))
    columns = left + offsets
    index = torch.arange(count)[:, None, None]
    # Indexing around the channel slice puts the channel axis last.
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor, length: int, fill: Sequence[float]) -> Tensor:
    """One square of ``length`` pixels per image set to ``fill``, a value for each channel.

    Its centre is anywhere in the image, so that part of it may lie outside (DeVries & Taylor
    2017). Filled with the mean, it is 0 once the images are normalised. images: float
    [N, C, H, W]; returns the same shape.
    """
    count, channels, height, width = images.shape

    def covered(size: int) -> Tensor:
        start = torch.randint(0, size, (count, 1)) - length // 2
        at = torch.arange(size)
        return (at >= start) & (at < start + length)

    hole = covered(height)[:, None, :, None] & covered(width)[:, None, None, :]
    return torch.where(hole, torch.tensor(fill).reshape(1, channels, 1, 1), images)
