"""PyTorch CNNs through torch.onnx.export, with dynamo and without: python build_torch.py FOLDER"""

import torch
from common import SAMPLES, digits, output_folder, save_samples
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """BatchNorm before and after ReLU, max-pooling, one nn.ReLU used twice, a residual sum."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(16, 10)

    def forward(self, x):
        x = self.bn1(self.pool(functional.relu(self.conv1(x))))
        y = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(x + self.bn3(self.conv3(y)))
        return self.linear(self.global_pool(x).flatten(1))


class Mobile(nn.Module):
    """ReLU6, Hardtanh and LeakyReLU, a depthwise convolution, asymmetric pads, a view."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, stride=2)
        self.relu6 = nn.ReLU6()
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.hardtanh = nn.Hardtanh(0.0, 2.0)
        self.pointwise = nn.Conv2d(16, 24, 1)
        self.leaky = nn.LeakyReLU(0.1)
        self.pool = nn.AvgPool2d(3, stride=2)
        self.linear = nn.Linear(96, 10)

    def forward(self, x):
        x = self.relu6(self.conv(functional.pad(x, (0, 1, 0, 1))))
        x = self.hardtanh(self.depthwise(functional.pad(x, (1, 1, 0, 2))))
        x = self.pool(functional.pad(self.leaky(self.pointwise(x)), (0, 1, 1, 0)))
        return self.linear(x.view(x.size(0), -1))


def train(model, pools, x, y):
    """Train a model with each of these for its ``pool``, so that it stands every one of them.

    The last pool stays. The last epochs leave the statistics of BatchNorm as they are.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for epoch in range(30):
        model.train(epoch < 10)
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            for pool in pools:
                model.pool = pool
                functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def export_dynamo(model, x, path, fixed):
    """Export without stack traces: they name this machine's folders."""
    shapes = None if fixed else {"x": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    for node in program.model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.save(path)


def export_legacy(model, x, path, fixed):
    axes = None if fixed else {"x": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        model,
        (x,),
        path,
        dynamo=False,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes=axes,
    )


def main():
    folder = output_folder()
    torch.set_num_threads(1)
    train_x, test_x, train_y, test_y = (torch.from_numpy(array) for array in digits())
    train_x, test_x = train_x[:, None], test_x[:SAMPLES, None]
    for name, build, pools in (
        ("residual", Residual, [nn.AvgPool2d(2), nn.MaxPool2d(2)]),
        ("mobile", Mobile, [nn.AvgPool2d(3, stride=2)]),
    ):
        torch.manual_seed(0)
        model = build()
        train(model, pools, train_x, train_y)
        with torch.no_grad():
            logits = model(test_x)
        for exporter, export in (("dynamo", export_dynamo), ("legacy", export_legacy)):
            for suffix, batch in (("", 2), ("-batch1", 1)):
                path = folder / f"torch-{exporter}-{name}{suffix}.onnx"
                export(model, test_x[:batch], path, fixed=batch == 1)
                save_samples(path, test_x.numpy(), logits.numpy(), test_y[:SAMPLES].numpy())


if __name__ == "__main__":
    main()
