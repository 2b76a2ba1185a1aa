"""What the samples of calibration data are like beside each other: their sizes, their order."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from onnx2snn.graph_passes.errors import counted

from .samples import Data, Inputs, by_name, come_by_class, number_of, shuffled, take_turns

MOST_VARIANCE = 10.0
"""Fisher's F between parts of data, from which on its order means something.

It is 1 on average where it does not. The largest of 117 stretches of 512 training images of
Fashion-MNIST is 4.2 between batches of 100, and 3.1 between every n-th of them; class by class the
first 512 have 77 (``SEGMENTS``), and 3.1 without segments. Digits of three brightnesses, one after
the other, have 820, and ``best`` then made 3 times the error at T=8 that it makes of shuffled ones;
dark and light ones that take turns 1.7 times, since of large images least squares look at each
twelfth alone.
"""

ORDERS = 200
"""Random ones at most, beside which the data's own is seen: of few samples, or where few of them
have most of the variance, F is above 10 by chance. Of many, whose measures take long to order, it
is not: ``ORDERED`` rows in all will do, of 10 orders at least.
"""

ORDERED = 2**20
"""Rows of measures that random orders come to."""

SEGMENTS = 16
"""Of a sample, one after the other, whose means are compared: in an image bands of rows, which tell
classes apart where all have the same mean.
"""

FEWEST, MOST_STRIDE = 8, 16
"""Samples of which a variance is taken, or which corrections fit, and the largest n of which every
n-th is looked at."""

FAR_LARGER = 16
"""How many times the others' largest number one sample's is, where they go ill together.

One of 512 images in 0 to 255 among those in 0 to 1 took 8 points of accuracy from the shipped VGG
(``best``, T=8, 500 test images), one in 0 to 30 none.
"""


def with_measures(data: Data) -> tuple[Data, dict[str, np.ndarray]]:
    """The data, and of each sample the largest |x|, mean |x|, mean and those of its segments.

    float64 [N, 3 + ``SEGMENTS`` at most]. By input; NaN until a sample has been read. The largest
    is that of floating-point numbers: of others, as of indices, NaN.
    """
    measures: dict[str, np.ndarray] = {}

    def read(batch_size: int) -> Iterator[Inputs]:
        start = 0
        for x in data.read(batch_size):
            now = slice(start, start + number_of(x))
            for name, value in by_name(x).items():
                if value.dtype.kind not in "fiub" or not value.size:
                    continue
                rows = value.reshape(len(value), -1)
                columns = 3 + min(SEGMENTS, rows.shape[1])
                known = measures.setdefault(name, np.full((data.samples, columns), np.nan))
                if np.any(np.isnan(known[now, 1])):
                    # What is not finite the data refuses.
                    with np.errstate(over="ignore", invalid="ignore"):
                        known[now] = _measured(rows)
            start = now.stop
            yield x

    return replace(data, read=read), measures


def _measured(rows: np.ndarray) -> np.ndarray:
    largest = np.full(len(rows), np.nan)
    if rows.dtype.kind == "f":
        largest = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
    sizes = np.abs(rows).mean(axis=1, dtype=np.float64)
    count = min(SEGMENTS, rows.shape[1])
    ends = np.arange(count + 1) * rows.shape[1] // count
    sums = np.add.reduceat(rows, ends[:-1], axis=1, dtype=np.float64)
    mean = sums.sum(axis=1) / rows.shape[1]
    return np.column_stack([largest, sizes, mean, sums / np.diff(ends)])


def in_no_order(
    data: Data, measures: Mapping[str, np.ndarray], together: int, batch_size: int
) -> tuple[Data, list[str]]:
    """The data, in another order where that in which it comes means something, and a note.

    ``together``, ``batch_size``: as of ``comes_in_an_order``.
    """
    if not comes_in_an_order(data, measures, together, batch_size):
        return data, []
    mixed = shuffled(data, batch_size)
    remedy = "the data is shuffled"
    if mixed is None:
        remedy = "shuffle the data, which here takes too much memory,"
    parts = "every n-th sample is"
    if data.samples > together:
        parts = f"batches of {counted(together, 'sample')}, or every n-th sample of them, are"
    note = (
        f"the calibration data is in an order, so that {parts} of other kinds than the others: "
        f"{remedy} for what the recipe does batch by batch"
    )
    return mixed or data, [note]


def comes_in_an_order(
    data: Data, measures: Mapping[str, np.ndarray], together: int, batch_size: int
) -> bool:
    """Whether parts of the data that recipes take at once are of other kinds than the others.

    ``data``, ``measures``: as of ``with_measures``. Parts are batches of ``together`` samples, into
    which those that are read at once, ``batch_size``, are cut, and every second, third ... sample
    of a batch, as least squares look at. They differ where labels come class by class, or take
    turns, and where a measure's variance between parts is ``MOST_VARIANCE`` times what that within
    them says (Fisher's F), and more than any measure's in any of ``ORDERS`` other orders. Batches
    of fewer than ``FEWEST`` samples are looked at several together.
    """
    several = data.samples > together
    strides = range(2, min(together // FEWEST, data.samples // FEWEST, MOST_STRIDE) + 1)
    if data.labels is not None:
        if several and come_by_class(data.labels):
            return True
        if strides and take_turns(data.labels):
            return True
    if not several and not strides:
        return False
    if not measures or any(np.any(np.isnan(known[:, 1])) for known in measures.values()):
        # No pass has read all of it.
        for _ in data.batches(batch_size):
            pass

    def parts() -> Iterator[np.ndarray]:
        rows = np.arange(data.samples)
        if several:
            size = max(together, FEWEST)
            # A rest of fewer belongs to the last.
            yield np.minimum(rows // size, max(data.samples - FEWEST, 0) // size)
        read, place = np.divmod(rows, batch_size)
        batch = read * -(-batch_size // together) + place // together
        for stride in strides:
            yield np.unique(batch * stride + place % together % stride, return_inverse=True)[1]

    scores = [_standard_scores(known) for known in measures.values()]
    columns = [found for found in scores if found.size and np.all(np.isfinite(found))]
    return bool(columns) and _differ(np.concatenate(columns, axis=1), [*parts()])


def _standard_scores(values: np.ndarray) -> np.ndarray:
    """Columns that vary, with mean 0 and variance 1."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        spread = values.std(axis=0)
        varies = spread > 1e-9 * np.abs(values).max(axis=0)
        return np.asarray(((values - values.mean(axis=0)) / spread)[:, varies])


def _differ(columns: np.ndarray, ways: list[np.ndarray]) -> bool:
    """Whether one of these columns differs between parts, in one of these ways to part the rows.

    Each way has the parts' numbers, [N]. By more than chance: than any column does in any way in
    other orders.
    """
    found = _largest_ratio(columns, ways)
    if found <= MOST_VARIANCE:
        return False
    generator = np.random.default_rng(0)
    orders = min(ORDERS, max(10, ORDERED // len(columns)))
    others = (_largest_ratio(generator.permutation(columns), ways) for _ in range(orders))
    return all(other < found for other in others)


def _largest_ratio(columns: np.ndarray, ways: list[np.ndarray]) -> float:
    """Fisher's F between parts of the rows, the largest of all columns and ways; else 0."""
    ratios = [_variance_ratio(columns, parts) for parts in ways if parts.any()]
    return float(np.max(ratios, initial=0))


def _variance_ratio(values: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Fisher's F between parts of the rows, of columns of mean 0 and variance 1."""
    counts = np.bincount(parts)
    sums = np.array([np.bincount(parts, column) for column in values.T])
    between = (np.square(sums) / counts).sum(axis=1)
    within = np.maximum(len(values) - between, 1e-300)
    return np.asarray(between / (len(counts) - 1) / (within / (len(values) - len(counts))))


def notes_on_samples(measures: Mapping[str, np.ndarray]) -> list[str]:
    """What samples of the calibration data the others go ill with, by ``with_measures``."""
    notes = list[str]()
    of_floats = {n: found[:, 0] for n, found in measures.items() if np.any(found[:, 0] >= 0)}
    for name, sizes in of_floats.items():
        known = np.where(np.isnan(sizes), 0, sizes)
        half = float(np.median(sizes[~np.isnan(sizes)]))
        far, worst = int(np.count_nonzero(known / FAR_LARGER > half)), int(known.argmax())
        if half > 0 and far:
            more = f" (and {counted(far - 1, 'other')})" if far > 1 else ""
            notes.append(
                f"sample {worst} of the {len(sizes)} that calibrate{more} has numbers of up to "
                f"{known[worst]:.3g} in {name}, half of them have none beyond {half:.3g}: "
                "thresholds and corrections may fit these less for it; prepare all alike, or leave "
                "it out"
            )
    return notes


def notes_on_few_at_once(data: Data, batch_size: int) -> list[str]:
    """Whether what follows batch by batch is given fewer samples at once than it had better.

    Of a network of nine dense layers ``best``, at T=8, had 81.5 % with batches of 1 and 88.2 with
    batches of 7, 88.1 of 50.
    """
    if batch_size >= min(FEWEST, data.samples):
        return []
    return [
        f"corrections look at batches of {counted(batch_size, 'sample')}, by which they are worse "
        f"than by those of {FEWEST} or more (--batch-size; a batch size that the network fixes is "
        "better left open where it is exported; what large layers have at all T time-steps may "
        "leave room for no more)"
    ]


def notes_on_equal_samples(data: Data, batch_size: int) -> list[str]:
    """Whether there is one sample alone, or the first batch has one again and again."""
    if data.samples == 1:
        return ["one sample calibrates: thresholds that follow from it may fit nothing else"]
    x, _ = next(iter(data.batches(batch_size)))
    if not all(len(value) > 1 and np.all(value == value[:1]) for value in by_name(x).values()):
        return []
    return [
        "the samples of the calibration data's first batch are all the same: thresholds that "
        "follow from them may fit nothing else"
    ]
