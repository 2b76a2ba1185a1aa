"""What every build script needs: digits to train on, and samples stored beside a model."""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SAMPLES = 64


def digits():
    """Training and test images, float32 [N, 8, 8] in [0, 1], and training and test labels."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    return train_test_split(images, labels, test_size=360, random_state=0)


def output_folder():
    """The folder that the command line names, made if it is not there."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_samples(model_path, x, y_framework, labels=None):
    """Store inputs, the framework's outputs for them and the true classes beside a model."""
    arrays = {"x": x, "y_framework": np.asarray(y_framework)}
    if labels is not None:
        arrays["labels"] = labels
    np.savez_compressed(model_path.with_suffix(".npz"), **arrays)
