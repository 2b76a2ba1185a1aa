"""PyTorch networks: those of the paper, with trainable clips, and plain ones as users bring them.

Bu, Ding, Yu, Huang, "Optimized Potential Initialization for Low-latency Spiking
Neural Networks", AAAI 2022, Algorithm 1: every ReLU is a clip(x; 0, theta) with
trainable theta, and every pool is an average pool. Input [N, C, H, W] float32 in
[0, 1], which each network normalises itself; output [N, classes] logits.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .clips import TrainableClip

Activation = Callable[[], nn.Module]
"""Makes one activation layer: ``nn.ReLU``, ``nn.ReLU6`` or a ``TrainableClip``."""


class Normalize(nn.Module):
    """(x - mean) / std inside the network, so that its input is pixels in [0, 1].

    A preprocessing step in the graph cannot be forgotten or applied twice, and
    Poisson coding needs intensities in [0, 1] at the input. One mean and one std for each
    channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape."""
        return (x - self.mean) / self.std


def _conv_bn(
    channels_in: int, channels_out: int, kernel: int, stride: int, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(
        channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


def vgg16(
    channels_in: int,
    classes: int,
    activation: Activation = TrainableClip,
    *,
    width: float = 1.0,
    hidden: int = 4096,
    dropout: float = 0.5,
    imagenet: bool = False,
) -> nn.Sequential:
    """VGG-16 of Simonyan & Zisserman (2014) with batch normalization and average pooling.

    ``width`` scales the channels of the convolutions; ``hidden`` is that of the two dense
    layers. The last pool is global, so that 28x28 and 32x32 images fit; with ``imagenet`` it
    is a fifth 2x2 pool, and the dense layers see 7x7 places, as in the original.
    """
    layers: list[nn.Module] = []
    last = channels_in
    for block, (channels, convolutions) in enumerate(
        ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    ):
        for _ in range(convolutions):
            layers += [_conv_bn(last, round(channels * width), 3, 1), activation()]
            last = round(channels * width)
        is_global = block == 4 and not imagenet
        layers.append(nn.AdaptiveAvgPool2d(1) if is_global else nn.AvgPool2d(2))
    places = 49 if imagenet else 1
    layers += [nn.Flatten(), nn.Linear(last * places, hidden), activation(), nn.Dropout(dropout)]
    layers += [nn.Linear(hidden, hidden), activation(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, an activation after the first and after the sum."""

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


def _resnet(
    channels_in: int,
    classes: int,
    activation: Activation,
    stages: Sequence[tuple[int, int]],
    imagenet: bool,
) -> nn.Sequential:
    """A residual network of basic blocks: (channels, blocks) a stage, each but the first halving.

    The stem is a 3x3 convolution; with ``imagenet`` 7x7 of stride 2 and a pool of stride 2.
    """
    width = stages[0][0]
    stem = _conv_bn(channels_in, width, 7, 2) if imagenet else _conv_bn(channels_in, width, 3, 1)
    layers: list[nn.Module] = [stem, activation()]
    if imagenet:
        layers.append(nn.AvgPool2d(3, 2, 1))
    last = width
    for stage, (channels, blocks) in enumerate(stages):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(last, channels, stride, activation))
            last = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))


def resnet18(
    channels_in: int,
    classes: int,
    activation: Activation = TrainableClip,
    *,
    width: float = 1.0,
    imagenet: bool = False,
) -> nn.Sequential:
    """ResNet-18 of He et al. (2016), table 1; ``width`` scales all channels."""
    stages = [(round(64 * 2**stage * width), 2) for stage in range(4)]
    return _resnet(channels_in, classes, activation, stages, imagenet)


def resnet20(
    channels_in: int,
    classes: int,
    activation: Activation = TrainableClip,
    *,
    width: float = 1.0,
    imagenet: bool = False,
) -> nn.Sequential:
    """ResNet-20 of He et al. (2016), section 4.2; ``width`` scales all channels."""
    stages = [(round(16 * 2**stage * width), 3) for stage in range(3)]
    return _resnet(channels_in, classes, activation, stages, imagenet)


def vgg(channels_in: int, classes: int) -> nn.Sequential:
    """Six convolutions with batch normalization and ReLU, three max-pools, two dense layers.

    For 28x28 images.
    """
    layers: list[nn.Module] = []
    width = channels_in
    for channels in (32, 64, 128):
        for _ in range(2):
            layers += [_conv_bn(width, channels, 3, 1), nn.ReLU()]
            width = channels
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(width * 3 * 3, 128), nn.ReLU(), nn.Linear(128, classes)]
    return nn.Sequential(*layers)


def mobilenet(channels_in: int, classes: int) -> nn.Sequential:
    """Depthwise and pointwise convolutions with ReLU6 (Howard et al. 2017), a global pool."""
    layers: list[nn.Module] = [_conv_bn(channels_in, 32, 3, 1), nn.ReLU6()]
    width = 32
    for channels, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        layers += [_conv_bn(width, width, 3, stride, groups=width), nn.ReLU6()]
        layers += [_conv_bn(width, channels, 1, 1), nn.ReLU6()]
        width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
