"""The shipped network and images, and the training that made them."""

import io
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx2snn.demo import demo_images, demo_network
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
    assert data.shape == (2000, 1, 28, 28)
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


def test_networks_and_training():
    torch = pytest.importorskip("torch")
    from onnx2snn.models.networks import TrainableClip, resnet20
    from onnx2snn.models.train import augment

    clip = TrainableClip(2.0)
    x = torch.tensor([-1.0, 1.0, 3.0, 5.0], requires_grad=True)
    y = clip(x)
    assert y.tolist() == [0, 1, 2, 2]
    y.sum().backward()
    assert clip.theta.grad.item() == 2
    assert x.grad.tolist() == [0, 1, 0, 0]
    network = resnet20(1, 10)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert sum(isinstance(m, TrainableClip) for m in network.modules()) == 19
    generator = torch.Generator().manual_seed(0)
    images = torch.arange(1.0, 28 * 28 + 1).reshape(1, 1, 28, 28).repeat(50, 1, 1, 1)
    moved = augment(images, generator)
    assert moved.shape == images.shape
    # A shifted image keeps most of its pixels, each at most once.
    for image in moved:
        values = image[image > 0]
        assert len(values.unique()) == len(values) >= 24 * 24
