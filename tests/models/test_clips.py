"""Trainable clips, plain and quantised."""

import pytest

torch = pytest.importorskip("torch")

from onnx2snn.models.clips import QuantizedClip, TrainableClip  # noqa: E402


def test_trainable_clip():
    clip = TrainableClip(2.0)
    x = torch.tensor([-1.0, 1.0, 3.0, 5.0], requires_grad=True)
    y = clip(x)
    assert y.tolist() == [0, 1, 2, 2]
    y.sum().backward()
    assert clip.theta.grad.item() == 2
    assert x.grad.tolist() == [0, 1, 0, 0]


def test_quantised_clip_has_the_levels_of_an_if_neuron():
    """With constant input z, V_th = theta = L and v(0) = theta / 2: L steps, spikes counted."""
    levels = 4
    clip = QuantizedClip(levels, theta=4.0)
    z = torch.arange(-2.0, 6.0, 0.125) + 1 / 64  # no ties
    for value, expected in zip(z.tolist(), clip(z).tolist(), strict=True):
        v, spikes = 2.0, 0
        for _ in range(levels):
            v += value
            if v > 4:
                v -= 4
                spikes += 1
        assert spikes * 4 / levels == expected


def test_the_gradient_passes_straight_through():
    clip = QuantizedClip(2, theta=2.0)
    x = torch.tensor([-1.0, 0.25, 0.75, 1.25, 5.0], requires_grad=True)
    y = clip(x)
    assert y.tolist() == [0, 0, 1, 1, 2]
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    # Of theta: (y - x) / theta inside, 1 above.
    assert clip.theta.grad.item() == pytest.approx((-0.25 + 0.25 - 0.25) / 2 + 1)
