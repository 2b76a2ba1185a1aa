"""Networks with random weights, as torch modules and as ONNX files with the same weights.

Every activation is a clip to [0, 1], so that thresholds are 1 and no simulator has to scale
anything. Batch normalization is folded: there is none. A network is a function of the layers to
build it of, ``torch.nn`` or a simulator's module with the same names, and of what makes an
activation.
"""

import warnings

import torch

SHAPES = {
    "vgg16": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "mobilenet": (3, 32, 32),
    "resnet18": (3, 224, 224),
}


class Clip(torch.nn.Module):
    """The activation of the ANN."""

    def forward(self, x):
        return x.clamp(0, 1)


class Residual(torch.nn.Module):
    """An activation of the sum of two branches."""

    def __init__(self, branch, shortcut, activation):
        super().__init__()
        self.branch, self.shortcut, self.activation = branch, shortcut, activation

    def forward(self, x):
        return self.activation(self.branch(x) + self.shortcut(x))


def vgg16(nn, activation):
    """VGG-16 of CIFAR, two dense layers of 4096: 33.6 million weights."""
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), activation()]
            channels = width
        else:
            layers.append(nn.AvgPool2d(2))
    layers += [nn.Flatten(), nn.Linear(512, 4096), activation(), nn.Linear(4096, 4096)]
    return torch.nn.Sequential(*layers, activation(), nn.Linear(4096, 10))


def residual_layers(nn, activation, channels, widths, blocks):
    """Stages of residual blocks; from the second on, the first block of each has stride 2."""
    layers = []
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            branch = torch.nn.Sequential(
                nn.Conv2d(channels, width, 3, stride, 1), activation(),
                nn.Conv2d(width, width, 3, 1, 1),
            )  # fmt: skip
            same = stride == 1 and channels == width
            shortcut = torch.nn.Identity() if same else nn.Conv2d(channels, width, 1, stride)
            layers.append(Residual(branch, shortcut, activation()))
            channels = width
    return layers


def resnet20(nn, activation):
    """ResNet-20 of CIFAR: 0.27 million weights."""
    stem = [nn.Conv2d(3, 16, 3, padding=1), activation()]
    blocks = residual_layers(nn, activation, 16, (16, 32, 64), 3)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return torch.nn.Sequential(*stem, *blocks, *head)


def resnet18(nn, activation):
    """ResNet-18 of ImageNet, with average pooling: 11.7 million weights."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3), activation(), nn.AvgPool2d(3, 2, 1)]
    blocks = residual_layers(nn, activation, 64, (64, 128, 256, 512), 2)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return torch.nn.Sequential(*stem, *blocks, *head)


def mobilenet(nn, activation):
    """MobileNet V1 for 32 x 32 images, depthwise and 1 x 1 convolutions: 3.2 million weights."""
    layers, channels = [nn.Conv2d(3, 32, 3, padding=1), activation()], 32
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for number, width in enumerate(widths):
        stride = 2 if number in (1, 3, 5, 11) else 1
        layers += [
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), activation(),
            nn.Conv2d(channels, width, 1), activation(),
        ]  # fmt: skip
        channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 10)]
    return torch.nn.Sequential(*layers, *head)


NETWORKS = {"vgg16": vgg16, "resnet20": resnet20, "mobilenet": mobilenet, "resnet18": resnet18}


def ann(name):
    """A network with clips whose layers' outputs have a standard deviation of 1/2."""
    torch.manual_seed(0)
    network = NETWORKS[name](torch.nn, Clip).eval()

    def scale(layer, _, output):
        factor = 0.5 / output.std()
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)
        return output * factor

    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    with torch.no_grad():
        network(torch.rand(4, *SHAPES[name]))
    for hook in hooks:
        hook.remove()
    return network


def write(name, folder):
    """Write NAME.onnx and its weights for torch, NAME.pt, into a folder."""
    network = ann(name)
    torch.save(network.state_dict(), folder / f"{name}.pt")
    with warnings.catch_warnings():
        # torch's exporter warns of its own internals.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(2, *SHAPES[name]),),
            folder / f"{name}.onnx",
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
