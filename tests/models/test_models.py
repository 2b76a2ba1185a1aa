"""The shipped network and images, and the training that made them."""

import io
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx2snn.demo import MOST_IMAGES, demo_images, demo_network
from onnx2snn.graph_passes import canonicalise, infer_shapes, to_graph
from onnx2snn.models.datasets import FASHION_MNIST_ROOT, fashion_mnist

MODELS = Path(__file__).parents[2] / "models"


def test_shipped_network():
    proto = demo_network()
    onnx.checker.check_model(proto, full_check=True)
    graph = to_graph(proto)
    infer_shapes(graph)
    canonicalise(graph)
    ops = [node.op for node in graph.nodes]
    # 19 convolutions and 2 projections; a clip after each convolution and each addition.
    assert (ops.count("Conv"), ops.count("Clip"), ops.count("Add")) == (21, 19, 9)
    assert "Relu" not in ops


def test_shipped_images():
    data = demo_images()
    assert data.shape == (MOST_IMAGES, 1, 28, 28)
    x, y = next(data.batches(2000))
    assert (x.min(), x.max()) == (0, 1)
    np.testing.assert_array_equal(np.bincount(y) > 150, True)
    assert demo_images(7).samples == 7


@pytest.mark.skipif(
    not FASHION_MNIST_ROOT.is_dir(), reason="dataset-fashion-mnist is not installed"
)
def test_shipped_images_are_the_first_official_test_images():
    images, labels = fashion_mnist()
    with np.load(io.BytesIO((MODELS / "fashion-mnist-2000.npz").read_bytes())) as shipped:
        np.testing.assert_array_equal(shipped["x"], images[:2000])
        np.testing.assert_array_equal(shipped["y"], labels[:2000])


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_card_states_the_digest_of_the_file(path):
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.search(r"sha256.*`(\w+)`", path.with_suffix(".md").read_text())[1] == digest
