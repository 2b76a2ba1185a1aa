"""Activations with one trainable bound theta per layer, which becomes V_th."""

import torch
from torch import Tensor, nn

THETA = 4.0
"""Where the bound starts. Its decay brings it to about 1; starting there made training unstable."""


class TrainableClip(nn.Module):
    """clip(x; 0, theta) with trainable theta (Bu et al. 2022, Algorithm 1, line 2).

    The gradient reaches theta where x > theta, so the loss pulls theta up where the
    clip costs accuracy while its weight decay pulls it down: a small theta makes the
    T + 1 levels of a spiking neuron fine (they are theta / T apart).
    """

    def __init__(self, theta: float = THETA) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(float(theta)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] to the same shape."""
        return torch.minimum(torch.relu(x), self.theta)


class QuantizedClip(TrainableClip):
    """The clip as a spiking neuron says it in L time-steps (QCFS; Bu et al. 2022, ICLR, eq. 15).

    theta / L * clip(floor(L x / theta + 1/2); 0, L): with constant input what an IF neuron
    with V_th = theta and v(0) = theta / 2 emits in L time-steps, on average, but for ties. The
    gradient passes straight through the floor.
    """

    def __init__(self, levels: int, theta: float = THETA) -> None:
        super().__init__(theta)
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] to the same shape."""
        scaled = x / self.theta * self.levels
        rounded = scaled + (torch.floor(scaled + 0.5) - scaled).detach()
        # Not clamp: the lowest and highest levels are its bounds, where torch 2.15 lets no gradient
        # through, and older ones do.
        bounded = rounded.masked_fill(rounded < 0, 0).masked_fill(
            rounded > self.levels, self.levels
        )
        return self.theta * (bounded / self.levels)
