"""Activation statistics in one pass over any number of batches, in bounded memory."""

from dataclasses import dataclass

import numpy as np

from onnx2snn.graph_passes.errors import DataError, is_number

BINS = 2048
"""Bins of a histogram; a percentile is right to within 1/1024 of the largest activation."""

_COUNTED_AT_ONCE = 2**16

_CENTRES = np.arange(BINS + 1) + 0.5
"""The middles of bins, in bins; a last one for none."""

_SHARES = np.concatenate([np.geomspace(0.002, 0.05, 40, endpoint=False), np.linspace(0.05, 1, 96)])
"""Of the largest activation, where thresholds of least squares are looked for.

Below a twentieth only outliers take them: one of a hundred times what all others say.
"""

KINDS = ("max", "percentile", "nonzero-percentile", "mmse", "robust-mmse", "balanced")
"""The kinds of statistics, as ``Statistic`` tells them."""

MOST_CUT = 0.02
"""Of the squares of a layer or channel, that a 99.9 percentile may cut off.

Where most places are background one in a thousand is a good part of what is not.
"""

COMMON = 95.0
"""Percent of the samples, or all but one, whose largest activation is no outlier."""

FINE, NEARLY_ALL = 16, 99.0
"""Time-steps whose levels are fine: with more of them the bound on thresholds grows.

Up to what so many percent of the samples stay within.
"""

LONG, ROOM = 32, 0.25
"""With more than ``LONG`` time-steps thresholds have up to this part of room above what data shows.

Levels are then so fine that what other samples say above the largest of these costs more.
"""

FEW_SAMPLES, UNSEEN = 128, 16
"""Fewer samples than these leave much unseen of units that are active once in a sample.

What other samples say above is then clipped.
"""

FOR_TIMESTEPS = ("mmse", "robust-mmse")
"""Those that are for a number of time-steps."""

_NO_STATISTIC = (
    "is no threshold: use max, percentile=Q or nonzero-percentile=Q with 0 < Q <= 100, mmse=T or "
    "robust-mmse=T with T time-steps, or balanced=STEPS"
)


@dataclass(frozen=True)
class Statistic:
    """How a threshold follows from a layer's activations.

    ``kind`` "max": the largest (Diehl et al. 2015). "percentile": ``q`` percent of all activations
    lie at or below it, zeros counted (Rueckauer et al. 2017); the largest where that is 0, as for a
    channel that is rarely active. "nonzero-percentile": the same of the activations above zero.
    "mmse": the threshold whose ``q`` + 1 levels, those of a neuron in q time-steps, come nearest to
    the activations by squared error; "robust-mmse": the same, but at most the 99.9 percentile or,
    where that cuts off more than 2 % of their squares, the largest of 95 % of the samples in which
    any is above 0 (of all but one of fewer than 20); with q above 16 at most q / 16 times that, as
    long as 99 % of them are not below; of fewer than 128 samples nearer to the layer's largest, the
    less of a channel is seen; where a max-pool alone reads them, of what that lets through.
    "balanced": local threshold balancing (Bu et al., CVPR 2025) in ``q`` steps,

        theta := theta + 2 mean(max(a - theta, 0)), from 0; in the end at most the largest

    Raises ``DataError`` for another kind, a ``q`` that is no number, percentiles outside (0, 100],
    and time-steps or steps that are no whole number from 1.
    """

    kind: str
    q: float = 100.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"a statistic is one of {', '.join(KINDS)}, not '{self.kind}'")
        if not is_number(self.q):
            raise DataError(f"'{self.kind}={self.q}' {_NO_STATISTIC}")
        percent = 0 < self.q <= 100
        steps = self.q >= 1 and float(self.q).is_integer()
        if not (self.kind == "max" or (percent if "percentile" in self.kind else steps)):
            raise DataError(f"'{self}' {_NO_STATISTIC}")

    @property
    def headroom(self) -> float:
        """What thresholds by it are multiplied by, at least: room for what no sample shows."""
        if self.kind != "robust-mmse":
            return 1.0
        return 1 + ROOM * max(0.0, 1 - LONG / self.q)

    @property
    def is_of_pooled(self) -> bool:
        """Whether, for a layer that only a max-pool reads, the pool's outputs are measured instead.

        The largest of many places is beyond their 99.9 percentile.
        """
        return self.kind == "robust-mmse"

    def __str__(self) -> str:
        return self.kind if self.kind == "max" else f"{self.kind}={self.q:.15g}"

    def describe(self) -> str:
        """The statistic in words, saying which activations count."""
        q = f"{self.q:.15g}"
        return {
            "max": "max",
            "percentile": f"{q} % of all activations",
            "nonzero-percentile": f"{q} % of activations above 0",
            "mmse": f"least squared error at T={q}",
            "robust-mmse": f"least squared error at T={q}, without outliers",
            "balanced": f"local threshold balancing in {q} steps",
        }[self.kind]


def parse_statistic(text: str) -> Statistic:
    """A ``Statistic`` as the command line names it: ``max``, or a kind and its number.

    For instance ``percentile=99.9``, ``mmse=16`` or ``balanced=1000``.

    Raises ``DataError`` for anything else, and for percentiles outside (0, 100].
    """
    if text == "max":
        return Statistic("max")
    try:
        kind, number = text.split("=")
        if kind != "max":
            return Statistic(kind, float(number))
    except (AttributeError, ValueError, DataError):
        pass
    raise DataError(f"'{text}' {_NO_STATISTIC}")


class ActivationHistogram:
    """The distribution of a layer's activations, for the whole tensor or per channel.

    Each histogram covers [0, 2^e) in ``BINS`` equal bins. Where an activation is larger, e
    grows and neighbouring bins merge; widths are powers of two, so the result does not
    depend on the order of the batches. Memory: BINS int64 a channel, and as much again where
    ``peaks``, the largest of each sample, are counted, too, which "robust-mmse" needs.
    """

    def __init__(self, per_channel: bool, peaks: bool = False) -> None:
        self._per_channel = per_channel
        self._peaks = ActivationHistogram(True) if peaks else None
        self._counts = np.zeros((0, BINS), np.int64)

    def update(self, activations: np.ndarray) -> None:
        """Add a batch [N, C, ...]; negative values count as 0, which is what ReLU makes them."""
        # A layer of one neuron, [N], is one channel.
        apart = self._per_channel and activations.ndim > 1
        channels = activations.shape[1] if apart else 1
        rows = np.moveaxis(activations, 1, 0) if apart else activations
        rows = rows.reshape(channels, -1)
        if self._peaks is not None:
            self._peaks.update(rows.reshape(channels, len(activations), -1).max(axis=2).T)
        largest = rows.max(axis=1).astype(np.float64)
        # frexp: largest = f 2^e with f < 1, so largest < 2^e.
        exponents = np.where(largest > 2.0**-127, np.frexp(largest)[1], -126)
        if not len(self._counts):
            self._counts = np.zeros((channels, BINS), np.int64)
            self._exponents = exponents
            self._total = np.int64(0)
            self._max = np.zeros(channels)
        self._widen(exponents)
        self._max = np.maximum(self._max, largest)
        self._total += rows.shape[1]
        scales = np.ldexp(float(BINS), -self._exponents)
        # A part at a time, since these numbers take several times the memory of the rows.
        for counts, row, scale in zip(self._counts, rows, scales, strict=True):
            for start in range(0, len(row), _COUNTED_AT_ONCE):
                part = row[start : start + _COUNTED_AT_ONCE]
                counts += np.bincount((part[part > 0] * scale).astype(np.int64), minlength=BINS)

    def _widen(self, exponents: np.ndarray) -> None:
        shifts = np.maximum(exponents - self._exponents, 0)
        for shift in np.unique(shifts[shifts > 0]):
            rows = shifts == shift
            merged = min(2 ** int(shift), BINS)
            sums = self._counts[rows].reshape(-1, BINS // merged, merged).sum(axis=2)
            self._counts[rows] = 0
            self._counts[rows, : BINS // merged] = sums
        self._exponents += shifts

    def value(self, statistic: Statistic) -> np.ndarray:
        """The statistic: float64 [C], or [1] for the whole tensor; 0 where nothing is above 0."""
        if statistic.kind == "max":
            return self._max.copy()
        if statistic.kind == "mmse":
            return self._least_squares(int(statistic.q))
        if statistic.kind == "robust-mmse":
            timesteps = int(statistic.q)
            most = self._without_outliers(timesteps)
            return self._beside_the_largest(np.minimum(self._least_squares(timesteps), most))
        if statistic.kind == "balanced":
            return self._balanced(int(statistic.q))
        above = self._counts.sum(axis=1)
        zeros = self._total - above if statistic.kind == "percentile" else np.zeros_like(above)
        wanted = statistic.q / 100 * (above + zeros) - zeros
        # 99.9 / 100 * 2000 - 1998 is 2e-13, which is none of the two above 0.
        whole = np.rint(wanted)
        wanted = np.where(abs(wanted - whole) < 1e-12 * self._total, whole, wanted)
        # A percentile of 0, where few are above it, is no threshold.
        return np.asarray(np.where(wanted > 0, self._quantile(wanted), self._max))

    def _quantile(self, wanted: np.ndarray) -> np.ndarray:
        """The number at or below which so many, [C], of those above 0 lie: float64 [C]."""
        cumulative = self._counts.cumsum(axis=1)
        index = np.minimum((cumulative < wanted[:, None]).sum(axis=1), BINS - 1)
        channel = np.arange(len(index))
        inside = self._counts[channel, index]
        before = cumulative[channel, index] - inside
        part = np.where(inside > 0, (wanted - before) / np.maximum(inside, 1), 0)
        return np.asarray(np.minimum((index + part) * self._widths(), self._max))

    def _widths(self) -> np.ndarray:
        """How wide a bin is: float64 [C]."""
        return np.asarray(np.ldexp(1.0 / BINS, self._exponents))

    def _tails(self) -> tuple[np.ndarray, np.ndarray]:
        """From each bin on, how many there are and their sum, in bins: float64 [C, BINS + 1]."""
        numbers = np.zeros((len(self._counts), BINS + 1))
        numbers[:, :-1] = self._counts
        sums = numbers * _CENTRES
        return numbers[:, ::-1].cumsum(axis=1)[:, ::-1], sums[:, ::-1].cumsum(axis=1)[:, ::-1]

    def _without_outliers(self, timesteps: int) -> np.ndarray:
        """What a threshold for T time-steps is at most, as ``Statistic`` says: float64 [C]."""
        most, common = self.value(Statistic("percentile", 99.9)), self._common(COMMON)
        sparse = self._cut_off(most, common) > MOST_CUT
        most = np.where(sparse, common, most)
        finer = most * max(1, timesteps / FINE)
        return np.asarray(np.minimum(finer, np.maximum(most, self._common(NEARLY_ALL))))

    def _common(self, percent: float) -> np.ndarray:
        """The largest of so many percent of the samples above 0, of all but one: float64 [C].

        0 where no more than one is above 0, or where samples are not known.
        """
        if self._peaks is None:
            return np.zeros(len(self._counts))
        active = self._peaks._counts.sum(axis=1)
        outliers = np.maximum((1 - percent / 100) * active, 1)
        found = self._peaks._quantile(active - outliers)
        return np.asarray(np.where(active > 1, found, 0))

    def _beside_the_largest(self, theta: np.ndarray) -> np.ndarray:
        """Of few samples, thresholds nearer to the layer's largest the less of a channel is seen.

        As if ``UNSEEN`` activations more had that, or (1 + ``UNSEEN`` / n) theta where that is
        less, n being how many are above 0: channels of a layer may be of other scales.
        """
        if self._peaks is None or self._peaks._total >= FEW_SAMPLES:
            return np.asarray(theta)
        seen = self._counts.sum(axis=1)
        largest = np.minimum(theta.max(initial=0), (1 + UNSEEN / np.maximum(seen, 1)) * theta)
        return np.asarray((seen * theta + UNSEEN * largest) / (seen + UNSEEN))

    def _cut_off(self, theta: np.ndarray, most: np.ndarray) -> np.ndarray:
        """What share of sum a^2 sum max(a - theta, 0)^2 is: float64 [C]; 0 without activations.

        Of activations a up to ``most``, which greater ones count as.
        """
        known = np.minimum(_CENTRES[:-1], (most / self._widths())[:, None])
        beyond = np.maximum(known - (theta / self._widths())[:, None], 0)
        cut = (self._counts * np.square(beyond)).sum(axis=1)
        squares = (self._counts * np.square(known)).sum(axis=1)
        return np.asarray(cut / np.maximum(squares, 1))

    def _balanced(self, steps: int) -> np.ndarray:
        """Local threshold balancing over the whole distribution: float64 [C]."""
        numbers, sums = self._tails()
        channel = np.arange(len(numbers))
        theta = np.zeros(len(numbers))
        for _ in range(steps):
            # Those above theta, of which each is as far above it as it says.
            first = _first_bins(theta)
            moved = theta + 2 / self._total * (
                sums[channel, first] - theta * numbers[channel, first]
            )
            if np.array_equal(moved, theta):
                break
            theta = moved
        return np.asarray(np.minimum(theta * self._widths(), self._max))

    def _least_squares(self, timesteps: int) -> np.ndarray:
        """The theta whose levels k theta / T, k = 0 to T, fit best: float64 [C].

        With the step u = theta / T an activation a in bins of level k adds (a - k u)^2, so that
        all add sum a^2 - 2 u sum k a + u^2 sum k^2, where k and k^2 count the levels 1 to k that a
        reaches, once and 2 k - 1 times. More levels than bins would say no more.
        """
        numbers, sums = self._tails()
        squares = (self._counts * _CENTRES[:-1] ** 2).sum(axis=1)
        levels = np.arange(1, min(timesteps, BINS) + 1)
        largest = self._max / self._widths()
        best, theta = np.full(len(numbers), np.inf), self._max.copy()
        for share in _SHARES:
            step = share * largest / len(levels)
            first = _first_bins((levels - 0.5) * step[:, None])
            reached = np.take_along_axis(sums, first, 1).sum(axis=1)
            twice = (np.take_along_axis(numbers, first, 1) * (2 * levels - 1)).sum(axis=1)
            error = squares - 2 * step * reached + step**2 * twice
            better = error < best
            best, theta = np.where(better, error, best), np.where(better, share * self._max, theta)
        return theta


def _first_bins(values: np.ndarray) -> np.ndarray:
    """The first bin whose centre is at each value, in bins, or beyond; BINS where none is."""
    return np.clip(np.ceil(values - 0.5), 0, BINS).astype(np.int64)
