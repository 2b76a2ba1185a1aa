"""``prepare``: ReLU to trainable clip, max- to average-pooling, on any torch model."""

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from onnx2snn.models.clips import TrainableClip  # noqa: E402
from onnx2snn.models.prepare import prepare  # noqa: E402


class EverySpelling(nn.Module):
    """A ReLU that is used twice, in-place ones, functions, methods; pools of all kinds."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.inner = nn.Sequential(nn.ReLU(), nn.Sequential(nn.MaxPool2d(2), nn.ReLU()))
        self.relu6 = nn.ReLU6()

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = self.relu(self.pool(x) - 0.125)
        x = self.inner(x)
        x = F.relu(x - 0.125) + torch.relu(x) + x.relu() + F.relu(x, inplace=True)
        x = F.max_pool2d(x, 2, stride=1) + F.max_pool2d(input=x, kernel_size=2, stride=1)
        return self.relu6(F.adaptive_max_pool2d(x, 1))


def test_every_spelling():
    model = EverySpelling()
    prepared = prepare(model, theta=2.0)
    kinds = [type(module) for module in prepared.modules()]
    assert kinds.count(TrainableClip) == 8
    assert kinds.count(nn.AvgPool2d) == 4
    assert kinds.count(nn.AdaptiveAvgPool2d) == 1
    assert kinds.count(nn.ReLU6) == 1
    assert not {nn.ReLU, nn.MaxPool2d, nn.AdaptiveMaxPool2d} & set(kinds)
    assert not {"relu", "max_pool2d"} & {str(node.target) for node in prepared.graph.nodes}
    clips = [m.theta for m in prepared.modules() if isinstance(m, TrainableClip)]
    prepared(torch.rand(2, 1, 28, 28)).sum().backward()
    assert len({id(theta) for theta in clips}) == 8
    assert all(theta.item() == 2 and theta.grad is not None for theta in clips)
    # The weights are shared, the model itself stays as it was.
    assert prepared.conv.weight is model.conv.weight
    assert isinstance(model.relu, nn.ReLU)


def test_without_pools_and_below_the_bound_nothing_changes():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)

        def forward(self, x):
            x = self.first(x)
            x.relu_()
            return self.second(x)

    network = Network()
    x = torch.randn(10, 5)
    torch.testing.assert_close(prepare(network, theta=100.0)(x), network(x), rtol=0, atol=0)


def test_the_mode_stays():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
    assert not prepare(network).training


def test_the_modes_of_parts_stay():
    """As of frozen batch normalization, and of dropout that stays on."""
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.ReLU(), nn.Dropout()
    )
    for training in (True, False):
        network.train(training)
        network[0][1].train(not training)
        network[2].train(not training)
        prepared = prepare(network)
        modes = {type(module): module.training for module in prepared.modules()}
        for found in (modes, {type(module): module.training for module in network.modules()}):
            assert found[nn.BatchNorm2d] == found[nn.Dropout] == (not training)
            assert found[nn.Conv2d] == training
        assert prepared.training == modes[TrainableClip] == training


class Modes(nn.Module):
    """Functions that are told the mode, as it is and turned round."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x):
        means = self.norm.running_mean, self.norm.running_var
        x = F.batch_norm(x, *means, training=self.training)
        x = F.dropout(F.relu(x), 0.5, self.training)
        return self.last(F.dropout(x, 0.5, training=not self.training))


@pytest.mark.parametrize("training", [True, False])
def test_functions_are_told_the_mode_when_they_run(training):
    network, x = Modes().train(training), torch.randn(40, 5)
    prepared = prepare(network, theta=100.0)
    assert prepared.training == training
    assert network.training == training
    for mode in (False, True):
        network.norm.reset_running_stats()
        torch.manual_seed(0)
        wanted, running = network.train(mode)(x), network.norm.running_mean.clone()
        network.norm.reset_running_stats()
        torch.manual_seed(0)
        torch.testing.assert_close(prepared.train(mode)(x), wanted, rtol=0, atol=0)
        torch.testing.assert_close(network.norm.running_mean, running, rtol=0, atol=0)
        assert running.any() == mode


def test_a_network_that_runs_other_functions_in_training_is_told_of():
    class Network(nn.Module):
        def forward(self, x):
            return F.relu(x) if self.training else F.relu(x) + 1

    with pytest.warns(UserWarning, match="computes as in evaluation in both"):
        prepared = prepare(Network().eval())
    assert prepared.train()(torch.zeros(1)) == 1


def test_models_that_cannot_be_copied_or_traced_in_the_other_mode():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.utils.weight_norm(nn.Linear(2, 2))
            self.register_buffer("batches", torch.zeros(1))

        def forward(self, x):
            if self.training:
                self.batches.add_(1)
                x = x if x.mean() > 3 else -x
            return F.relu(self.layer(x))

    network, x = Network().eval(), torch.randn(3, 2)
    with pytest.warns(UserWarning, match="computes as in evaluation in both"):
        prepared = prepare(network, theta=100.0)
    assert not network.training
    assert not network.batches.any()
    torch.testing.assert_close(prepared(x), network(x))


@pytest.mark.parametrize("theta", [0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_none(theta):
    with pytest.raises(ValueError, match="theta must be above 0"):
        prepare(nn.ReLU(), theta)


def test_padding_counts_in_no_average():
    pool = prepare(nn.Sequential(nn.MaxPool2d(3, 2, 1, ceil_mode=True)))
    x = torch.ones(1, 1, 6, 6)
    assert torch.equal(pool(x), torch.ones_like(pool(x)))
    assert pool(x).shape == nn.MaxPool2d(3, 2, 1, ceil_mode=True)(x).shape


def test_arguments_of_functions_are_in_the_order_of_the_function():
    class Network(nn.Module):
        def forward(self, x):
            return torch.max_pool2d(x, 2, 2, 0, 1, True)

    x = torch.ones(1, 1, 5, 5)
    assert torch.equal(prepare(Network())(x), Network()(x))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "indices"),
        (lambda x: torch.adaptive_max_pool1d(x, 2)[0], "indices"),
        (lambda x: F.max_pool2d(x, 2, dilation=2), "dilated"),
    ],
)
def test_what_no_average_stands_in_for(forward, reason):
    class Network(nn.Module):
        def forward(self, x):
            return forward(x)

    with pytest.raises(ValueError, match=reason):
        prepare(Network())
