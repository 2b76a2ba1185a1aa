"""What is printed in Bu et al. (AAAI 2022): Tables 1 to 3, and what its text says of its figures.

The source of every number is that paper; where a method is another's, ``source`` names where the
paper took it from. Accuracies in percent.
"""

from dataclasses import dataclass

TIMESTEPS = (8, 16, 32, 64, 128, 256)
"""The columns of the tables, but for the last, T >= 512."""


@dataclass(frozen=True)
class Printed:
    """One method's accuracies by T, None where the paper has none; ``last``: at T >= 512."""

    method: str
    source: str
    ann: float
    by_t: tuple[float | None, ...]
    last: float | None

    def at(self, timesteps: int) -> float | None:
        """The accuracy at T; None where none is printed."""
        if timesteps >= 512:
            return self.last
        return dict(zip(TIMESTEPS, self.by_t, strict=True)).get(timesteps)


OURS = "Ours"

ROBUST = "Rueckauer et al. 2017, implementation of Bu et al."
SPIKE, HYBRID = "Sengupta et al. 2019", "Rathi et al. 2020"
RMP, TSC = "Han, Srinivasan & Roy 2020", "Han & Roy 2020"
OPT, OPT18 = "Deng & Gu 2021", "Deng & Gu 2021, ResNet-18 with two more layers"
CAL, CAL18 = "Li et al. 2021", "Li et al. 2021, ResNet-18 with two more layers"
RNL, BU, N = "Ding et al. 2021", "Bu et al. 2022", None

TABLES = {
    ("table1", "vgg16"): (
        Printed("Robust Norm", ROBUST, 92.82, (N, 10.11, 43.03, 81.52, 90.80, 92.75), 92.75),
        Printed("Spike Norm", SPIKE, 91.70, (N,) * 6, 91.55),
        Printed("Hybrid Train", HYBRID, 92.81, (N, N, N, N, 91.13, N), 92.48),
        Printed("RMP", RMP, 93.63, (N, N, 60.30, 90.35, 92.41, 93.04), 93.63),
        Printed("TSC", TSC, 93.63, (N, N, N, 92.79, 93.27, 93.45), 93.63),
        Printed("Opt.", OPT, 95.72, (N, N, 76.24, 90.64, 94.11, 95.33), 95.73),
        Printed("RNL", RNL, 92.82, (N, 57.90, 85.40, 91.15, 92.51, 92.95), 92.95),
        Printed("Calibration", CAL, 95.72, (N, N, 93.71, 95.14, 95.65, 95.79), 95.79),
        Printed(OURS, BU, 94.57, (90.96, 93.38, 94.20, 94.45, 94.50, 94.49), 94.55),
    ),
    ("table1", "resnet20"): (
        Printed("Spike-Norm", SPIKE, 89.10, (N,) * 6, 87.46),
        Printed("Hybrid Train", HYBRID, 93.15, (N, N, N, N, N, 92.22), 92.94),
        Printed("RMP", RMP, 91.47, (N, N, N, N, 87.60, 89.37), 91.36),
        Printed("TSC", TSC, 91.47, (N, N, N, 69.38, 88.57, 90.10), 91.42),
        Printed(OURS, BU, 92.74, (66.24, 87.22, 91.88, 92.57, 92.73, 92.76), 92.75),
    ),
    ("table1", "resnet18"): (
        Printed("Opt.", OPT18, 95.46, (N, N, 84.06, 92.48, 94.68, 95.30), 94.42),
        Printed("Calibration", CAL18, 95.46, (N, N, 94.78, 95.30, 95.42, 95.41), 95.45),
        Printed(OURS, BU, 96.04, (75.44, 90.43, 94.82, 95.92, 96.08, 96.06), 96.06),
    ),
    ("table2", "vgg16"): (
        Printed("Spike-Norm", SPIKE, 71.22, (N,) * 6, 70.77),
        Printed("RMP", RMP, 71.22, (N, N, N, N, 63.76, 68.34), 70.93),
        Printed("TSC", TSC, 71.22, (N, N, N, N, 69.86, 70.65), 70.97),
        Printed("Opt.", OPT, 77.89, (N, N, 7.64, 21.84, 55.04, 73.54), 77.71),
        Printed("Calibration", CAL, 77.89, (N, N, 73.55, 76.64, 77.40, 77.68), 77.87),
        Printed(OURS, BU, 76.31, (60.49, 70.72, 74.82, 75.97, 76.25, 76.29), 76.31),
    ),
    ("table2", "resnet20"): (
        Printed("Spike-Norm", SPIKE, 69.72, (N,) * 6, 64.09),
        Printed("RMP", RMP, 68.72, (N, N, 27.64, 46.91, 57.69, 64.06), 67.82),
        Printed("TSC", TSC, 68.72, (N, N, N, N, 58.42, 65.27), 68.18),
        Printed(OURS, BU, 70.43, (23.09, 52.34, 67.18, 69.96, 70.51, 70.59), 70.53),
    ),
    ("table2", "resnet18"): (
        Printed("Opt.", OPT18, 77.16, (N, N, 51.27, 70.12, 75.81, 77.22), 77.19),
        Printed("Calibration", CAL18, 77.16, (N, N, 76.32, 77.29, 77.73, 77.63), 77.25),
        Printed(OURS, BU, 79.36, (57.70, 72.85, 77.86, 78.98, 79.20, 79.26), 79.28),
    ),
    ("table3", "vgg16"): (
        Printed("RMP", RMP, 73.49, (N, N, N, N, N, 48.32), 73.09),
        Printed("TSC", TSC, 73.49, (N, N, N, N, N, 69.71), 73.46),
        Printed("Opt.", OPT, 75.36, (N, N, 0.114, 0.118, 0.122, 1.81), 73.88),
        Printed("Calibration (advanced)", CAL, 75.36, (N, N, 63.64, 70.69, 73.32, 74.23), 75.32),
        Printed(OURS, BU, 74.85, (6.25, 36.02, 64.70, 72.47, 74.24, 74.62), 74.69),
    ),
}
"""By table and network the rows in the paper's order: of CIFAR-10, CIFAR-100 and ImageNet."""

SAID = {
    "fig1": "without initialisation neurons take a long time to fire the first spikes: a much "
    "longer propagation delay",
    "fig2": "zero initialisation does not work below 10 time-steps; v(0) = V_th/2 is the best at "
    "each T; beyond 256 all reach the ANN",
    "fig3": "a v(0) above 0 is much better than 0; 0.5 is optimal or nearly so",
    "figS1": "the optimal v(0) is always between 0.4 and 0.6",
    "fig4": "with v(0) = V_th/2 instead of 0, RMP reaches 87 % instead of 67 % at T=64, RNL 82 % "
    "instead of 45 % at T=64 and 70 % instead of 25 % at T=32 (ResNet-20 on CIFAR-10)",
}
"""What the paper's text says of its figures, whose curves it does not print as numbers."""


def published(what: str, network: str) -> tuple[Printed, ...]:
    """The rows of a table for a network; none if the table has no such network."""
    return TABLES.get((what, network), ())
