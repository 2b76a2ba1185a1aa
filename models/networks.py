"""PyTorch networks: that of the paper's Algorithm 1, and plain ones as users bring them.

Bu, Ding, Yu, Huang, "Optimized Potential Initialization for Low-latency Spiking
Neural Networks", AAAI 2022: every ReLU is a clip(x; 0, theta) with trainable
theta, and pooling is average pooling.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class TrainableClip(nn.Module):
    """clip(x; 0, theta), with one trainable bound theta per layer (Algorithm 1, line 2).

    The gradient reaches theta where x > theta, so the loss pulls theta up where the
    clip costs accuracy while its weight decay pulls it down: a small theta makes the
    T + 1 levels of a spiking neuron fine (they are theta / T apart).
    """

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(float(theta)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] to the same shape."""
        return torch.minimum(torch.relu(x), self.theta)


class Normalize(nn.Module):
    """(x - mean) / std inside the network, so that its input is pixels in [0, 1].

    A preprocessing step in the graph cannot be forgotten or applied twice, and
    Poisson coding needs intensities in [0, 1] at the input.
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] to the same shape."""
        return (x - self.mean) / self.std


Activation = Callable[[], nn.Module]
"""Makes one activation layer: ``nn.ReLU``, ``nn.ReLU6`` or a ``TrainableClip``."""


def _conv_bn(
    channels_in: int, channels_out: int, kernel: int, stride: int, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(
        channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class ResidualBlock(nn.Module):
    """f(BN(conv(f(BN(conv(x))))) + shortcut(x)); projection where the shape changes."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, activation: Activation
    ) -> None:
        super().__init__()
        self.first = _conv_bn(channels_in, channels_out, 3, stride)
        self.clip1 = activation()
        self.second = _conv_bn(channels_out, channels_out, 3, 1)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else _conv_bn(channels_in, channels_out, 1, stride)
        self.clip2 = activation()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] to [N, C_out, H / stride, W / stride]."""
        return self.clip2(self.second(self.clip1(self.first(x))) + self.shortcut(x))


def resnet20(
    channels_in: int = 3,
    classes: int = 10,
    theta: float = 1.0,
    mean: float = 0.0,
    std: float = 1.0,
    activation: Activation | None = None,
) -> nn.Sequential:
    """ResNet-20 of He et al. (2016), section 4.2, with trainable clips or another activation.

    Input [N, channels_in, H, W] float32 in [0, 1]; output [N, classes] logits.
    ``theta`` is where every clip bound starts; ``mean`` and ``std`` normalise the input.
    """
    activation = activation or (lambda: TrainableClip(theta))
    layers: list[nn.Module] = [Normalize(mean, std)]
    layers += [_conv_bn(channels_in, 16, 3, 1), activation()]
    width = 16
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(3):
            layers.append(ResidualBlock(width, channels, stride if block == 0 else 1, activation))
            width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def vgg(
    channels_in: int = 3, classes: int = 10, mean: float = 0.0, std: float = 1.0
) -> nn.Sequential:
    """Six convolutions with batch normalization and ReLU, three max-pools, two dense layers.

    Input [N, channels_in, 28, 28] float32 in [0, 1]; output [N, classes] logits.
    """
    layers: list[nn.Module] = [Normalize(mean, std)]
    width = channels_in
    for channels in (32, 64, 128):
        for _ in range(2):
            layers += [_conv_bn(width, channels, 3, 1), nn.ReLU()]
            width = channels
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(width * 3 * 3, 128), nn.ReLU(), nn.Linear(128, classes)]
    return nn.Sequential(*layers)


def mobilenet(
    channels_in: int = 3, classes: int = 10, mean: float = 0.0, std: float = 1.0
) -> nn.Sequential:
    """Depthwise and pointwise convolutions with ReLU6 (Howard et al. 2017), a global average pool.

    Input [N, channels_in, H, W] float32 in [0, 1]; output [N, classes] logits.
    """
    layers: list[nn.Module] = [Normalize(mean, std), _conv_bn(channels_in, 32, 3, 1), nn.ReLU6()]
    width = 32
    for channels, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        layers += [_conv_bn(width, width, 3, stride, groups=width), nn.ReLU6()]
        layers += [_conv_bn(width, channels, 1, 1), nn.ReLU6()]
        width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
