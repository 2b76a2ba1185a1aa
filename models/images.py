"""Training and test images as torch sees them: read, changed at random, in batches."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from .augmentation import crop_and_flip, cutout
from .configs import Config
from .datasets import DATASETS, IN_MEMORY, DataSet, in_memory
from .image_folder import (
    image_files,
    imagenet_folder,
    read_image,
    read_images,
    require_imagenet,
)
from .preprocessing import Preprocessing

Batch = tuple[Tensor, Tensor]
"""Images float32 [n, C, H, W] in [0, 1] and labels int64 [n]."""


class ArrayImages(Dataset):
    """Images in memory, uint8 [N, C, H, W], and labels [N].

    With a ``config`` they are training images: cropped, flipped and whatever else it says,
    from torch's global generator. Without, they stay what they are. ``mean``: what a cutout
    is filled with.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        config: Config | None = None,
        mean: Sequence[float] = (),
    ) -> None:
        self.images = torch.tensor(images)
        self.labels = torch.tensor(labels.astype(np.int64))
        self.config, self.mean = config, mean
        self._policy = None
        if config is not None and config.auto_augment:
            from torchvision.transforms import v2

            self._policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        """A whole batch at once: its crops and flips are one indexing."""
        images, labels = self.images[indices], self.labels[indices]
        if self.config is None:
            return images.float() / 255, labels
        images = crop_and_flip(images)
        if self._policy is not None:
            images = torch.stack([self._policy(image) for image in images])
        x = images.float() / 255
        return cutout(x, self.config.cutout, self.mean) if self.config.cutout else x, labels


class FolderImages(Dataset):
    """Image files in a folder for each class, read when they are wanted.

    With a ``config`` they are training images: a random part is scaled to size (Szegedy et
    al. 2015), flipped at random, and its colours jittered. Without, they are scaled and cut
    as ``preprocessing`` says. ``seed``: of the epoch; what is random of an image follows from it
    and the image's number, whichever process reads it.
    """

    seed = 0

    def __init__(
        self, folder: Path, preprocessing: Preprocessing, config: Config | None = None
    ) -> None:
        self.files, self.labels, self.classes = image_files(folder)
        self.preprocessing, self.config = preprocessing, config
        if config is None:
            return
        from torchvision.transforms import v2

        jitter = config.color_jitter
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop(preprocessing.size, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(jitter, jitter, jitter),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image [C, H, W] in [0, 1], and its label."""
        label = int(self.labels[index])
        if self.config is None:
            pixels = read_images([self.files[index]], self.preprocessing)[0]
            return torch.tensor(pixels).float() / 255, label
        image = read_image(self.files[index], "RGB")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * len(self.files) + index)
            return self._transform(image), label


def describe(config: Config, root: Path | None) -> tuple[DataSet, Preprocessing]:
    """What a run's data set is like, and what makes images of it a network's input.

    Raises ``OSError`` if it is a folder that is not there.
    """
    if config.dataset == "folder":
        classes = image_files(imagenet_folder(root or Path(), train=True))[2]
        known = DATASETS["imagenet"]
        data = DataSet(len(classes), 3, config.size, known.mean, known.std)
    else:
        data = DATASETS[config.dataset]
    if config.dataset in IN_MEMORY:
        return data, Preprocessing(data.size, data.channels)
    return data, Preprocessing(data.size, data.channels, round(data.size * 256 / 224))


def open_images(
    config: Config, root: Path | None
) -> tuple[ArrayImages | FolderImages, ArrayImages | FolderImages]:
    """The training images, changed at random, and the test images of a run.

    ``root``: the folder of the data set. Raises ``OSError`` if they are not there and
    ``ValueError`` if a file is damaged, or if test images are of other classes.
    """
    data, preprocessing = describe(config, root)
    if config.dataset in IN_MEMORY:
        shown, tested = (_fitting(*in_memory(config.dataset, root, t), data) for t in (True, False))
        return ArrayImages(*shown, config, data.mean), ArrayImages(*tested)
    folders = [imagenet_folder(root or Path(), train) for train in (True, False)]
    training = FolderImages(folders[0], preprocessing, config)
    if config.dataset == "imagenet":
        require_imagenet(folders[0], training.classes)
    test = FolderImages(folders[1], preprocessing)
    other = sorted(set(training.classes) ^ set(test.classes))
    if other:
        raise ValueError(
            f"{folders[0]} and {folders[1]} must have the same classes, but {other[0]} is in one "
            "of them alone"
        )
    return training, test


def _fitting(
    images: np.ndarray, labels: np.ndarray, data: DataSet
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; raises ``ValueError`` where they are not what the data set is like."""
    wanted = data.channels, data.size, data.size
    if not len(images) or images.shape[1:] != wanted:
        shape = ", ".join(map(str, wanted))
        raise ValueError(f"images are {list(images.shape)}, where [N, {shape}] are wanted")
    if labels.max() >= data.classes:
        raise ValueError(f"label {labels.max()} is none of {data.classes} classes")
    return images, labels


def digest_of_images(images: Dataset) -> str:
    """SHA-256 of images in memory and their labels, of the names and sizes of files; else nothing.

    By which a run knows that it goes on with those that it began with.
    """
    digest = hashlib.sha256()
    if isinstance(images, ArrayImages):
        # Not copied: they may be large.
        digest.update(images.images.numpy())
        digest.update(images.labels.numpy())
    elif isinstance(images, FolderImages):
        files = [(file.parent.name, file.name, file.stat().st_size) for file in images.files]
        digest.update(repr(files).encode())
    else:
        return ""
    return digest.hexdigest()


def some_images(images: ArrayImages | FolderImages) -> Tensor:
    """Up to 2,000 images [N, C, H, W], of more than 32 x 32 pixels fewer, not changed at random.

    Of a folder, where they come class by class, evenly spread ones; else the first.
    """
    unchanged = copy.copy(images)
    unchanged.config = None
    if isinstance(unchanged, ArrayImages):
        return next(batches(unchanged, 2000))[0]
    count = min(len(unchanged), max(64, 2000 * 32**2 // unchanged.preprocessing.size**2))
    rows = [row * len(unchanged) // count for row in range(count)]
    return torch.stack([unchanged[row][0] for row in rows])


def batches(
    images: Dataset,
    batch_size: int,
    *,
    epoch: int | None = None,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """The share of ``rank`` among ``world`` processes, in batches of ``batch_size``.

    With an ``epoch`` they come in an order drawn from it and the seed, else as they are.
    """
    sampler: DistributedSampler = DistributedSampler(
        images, world, rank, shuffle=epoch is not None, seed=seed
    )
    sampler.set_epoch(epoch or 0)
    in_memory = isinstance(images, ArrayImages)
    if isinstance(images, FolderImages):
        images.seed = abs(seed) * 1_003 + (epoch or 0)
    loader: DataLoader = DataLoader(
        images,
        batch_size,
        sampler=sampler,
        collate_fn=(lambda batch: batch) if in_memory else None,
        num_workers=0 if in_memory else workers,
        pin_memory=torch.cuda.is_available(),
    )
    failed = ""
    try:
        yield from loader
    except OSError as error:
        # That of a worker holds its traceback.
        failed = str(error).strip().splitlines()[-1].removeprefix("OSError: ")
    # Not with its cause, which would keep the workers.
    if failed:
        raise ValueError(failed)
