import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx2snn import DataError, Statistic, parse_statistic
from onnx2snn.converting.statistics import ActivationHistogram


def activations(seed, samples=400, channels=3):
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, 3, (1, channels, 1)))
    return np.maximum(rng.normal(0, scale, (samples, channels, 5)), 0).astype(np.float32)


def histogram(values, per_channel, cuts=()):
    result = ActivationHistogram(per_channel, peaks=True)
    for part in np.split(values, cuts):
        if len(part):
            result.update(part)
    return result


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(1, 399), max_size=6).map(sorted),
    per_channel=st.booleans(),
    q=st.sampled_from([50.5, 90.0, 99.0, 99.9, 100.0]),
)
def test_percentiles_of_any_batches(seed, cuts, per_channel, q):
    values = activations(seed)
    found = histogram(values, per_channel, cuts)
    rows = np.moveaxis(values, 1, 0).reshape(3, -1) if per_channel else values.reshape(1, -1)
    np.testing.assert_array_equal(found.value(Statistic("max")), rows.max(1))
    for row, all_of_them, above in zip(
        rows,
        found.value(Statistic("percentile", q)),
        found.value(Statistic("nonzero-percentile", q)),
        strict=True,
    ):
        # Half a bin at either side, and the gap between neighbouring samples.
        slack = row.max() / 512
        for value, sample in ((all_of_them, row), (above, row[row > 0])):
            low, high = np.percentile(sample, [max(q - 0.3, 0), min(q + 0.3, 100)])
            # The largest takes the place of a percentile of 0.
            assert low - slack <= value <= high + slack or (low <= 0 and value == row.max())


def centres(row):
    """What stands for each activation of a channel: the middle of its bin, one of 2,048."""
    width = 2.0 ** np.frexp(row.max())[1] / 2048
    return np.where(row > 0, (np.floor(row / width) + 0.5) * width, 0)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("timesteps", [1, 3, 8, 300])
def test_least_squares_and_balancing_as_they_are_defined(timesteps, per_channel):
    """Each activation rounded to a level for each theta, and compared with theta in each step."""
    values = activations(timesteps)
    values[:, 1] = np.round(values[:, 1] / values[:, 1].max() * 4)  # At the edges of bins.
    found = histogram(values, per_channel)
    rows = np.moveaxis(values, 1, 0).reshape(3, -1) if per_channel else values.reshape(1, -1)
    for number, row in enumerate(rows):
        x = centres(row)
        errors = {}
        for share in np.linspace(0.05, 1, 96):
            theta = share * float(row.max())
            levels = np.clip(np.floor(x * timesteps / theta + 0.5), 0, timesteps)
            errors[theta] = ((x - levels * theta / timesteps) ** 2).sum()
        assert found.value(Statistic("mmse", timesteps))[number] == min(errors, key=errors.get)
        theta = 0.0
        for _ in range(timesteps):
            theta += 2 * np.maximum(x - theta, 0).mean()
        balanced = found.value(Statistic("balanced", timesteps))[number]
        np.testing.assert_allclose(balanced, min(theta, row.max()), rtol=1e-12)


@pytest.mark.parametrize("timesteps", [2, 4, 8, 16])
def test_least_squares_beside_one_that_is_far_beyond_all_others(timesteps):
    values = np.random.default_rng(0).uniform(size=(4000, 100))
    values[7, 3] = 150
    (found,) = histogram(values, False).value(Statistic("mmse", timesteps))

    def error(theta):
        levels = np.clip(np.rint(values * timesteps / theta), 0, timesteps)
        return ((values - levels * theta / timesteps) ** 2).sum()

    assert error(found) < 1.05 * min(error(theta) for theta in np.linspace(0.3, 150, 3000))


def test_levels_of_any_number_of_time_steps_take_bounded_memory():
    found = histogram(activations(0), True)
    many, most = (found.value(Statistic("mmse", steps)) for steps in (2048, 2**31 - 1))
    np.testing.assert_array_equal(many, most)


@pytest.mark.parametrize("samples", [1000, 2000, 30000])
def test_rounding_does_not_make_a_percentile_of_what_is_above_it(samples):
    """As many are above 0 as the percentile leaves out: it is 0, which is no threshold."""
    x = np.zeros((samples, 1), np.float32)
    x[: samples // 1000, 0] = 5
    x[0, 0] = 0.001 if samples > 1000 else 5
    value = histogram(x, True).value(Statistic("percentile", 99.9))
    assert value == [5]


def test_order_and_size_of_batches_do_not_matter():
    values = activations(1)
    results = [
        histogram(values, True, cuts).value(Statistic("percentile", 99.0))
        for cuts in ([], [1, 2, 3], list(range(1, 400)))
    ]
    results.append(histogram(values[::-1], True, [7]).value(Statistic("percentile", 99.0)))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_memory_does_not_grow():
    found = ActivationHistogram(per_channel=True)
    sizes = set()
    for seed in range(5):
        found.update(activations(seed))
        sizes.add(found._counts.nbytes)
    assert len(sizes) == 1


def test_silent_channels_are_zero():
    values = activations(0)
    values[:, 1] = 0
    found = histogram(values, True)
    for kind in ("max", "percentile", "nonzero-percentile"):
        assert found.value(Statistic(kind, 99.0))[1] == 0
        assert found.value(Statistic(kind, 99.0))[0] > 0


def test_mostly_zero_activations():
    values = np.zeros((1000, 1), np.float32)
    values[:5] = 3
    found = histogram(values, False)
    assert found.value(Statistic("percentile", 99.9)) == pytest.approx(3, rel=1e-3)
    # Zero itself would be no threshold.
    assert found.value(Statistic("percentile", 99.0)) == 3
    assert found.value(Statistic("nonzero-percentile", 99.0)) == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max", Statistic("max", 100.0)),
        ("percentile=99.9", Statistic("percentile", 99.9)),
        ("nonzero-percentile=50", Statistic("nonzero-percentile", 50.0)),
    ],
)
def test_parse(text, wanted):
    assert parse_statistic(text) == wanted
    assert parse_statistic(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "min", "percentile", "percentile=0", "percentile=101", "max=3", "mmse=1.5", None, 3],
)
def test_parse_refuses(text):
    with pytest.raises(DataError, match="is no threshold"):
        parse_statistic(text)


@pytest.mark.parametrize(
    ("kind", "q"),
    [("percentile", 0), ("percentile", 250), ("mmse", 0), ("balanced", np.inf),
     ("percentile", "a"), ("max", None), ("mmse", True), ("balanced", [3])],
)  # fmt: skip
def test_what_is_no_statistic(kind, q):
    with pytest.raises(DataError, match="is no threshold"):
        Statistic(kind, q)


def test_all_digits_of_a_percentile_are_kept():
    statistic = Statistic("percentile", 99.99999)
    assert parse_statistic(str(statistic)) == statistic
    assert "99.99999 %" in statistic.describe()


@pytest.mark.parametrize("kind", ["percentile", "nonzero-percentile", "robust-mmse", "balanced"])
def test_no_threshold_is_above_the_largest_activation(kind):
    """Not even by a part of a bin."""
    values = np.full((1000, 1), 0.7, np.float32)
    (found,) = histogram(values, True).value(Statistic(kind, 100))
    assert found <= values.max()


def test_batches_of_silent_channels_come_in_any_order():
    small = np.float32([[1e-6], [2e-6], [3e-6], [4e-6]])
    for batches in ((small, 0 * small), (0 * small, small)):
        seen = ActivationHistogram(per_channel=True)
        for batch in batches:
            seen.update(batch)
        # Of eight values the sixth, four of them 0.
        np.testing.assert_allclose(seen.value(Statistic("percentile", 75)), 2e-6, rtol=0.01)


def test_batches_of_far_smaller_activations_come_in_any_order():
    """More than 2,048 times smaller: all in the first bin."""
    small, large = np.full((4, 1), 1.9 * 2.0**-20, np.float32), np.ones((3, 1), np.float32)
    found = []
    for batches in ((small, large), (large, small)):
        seen = ActivationHistogram(per_channel=False)
        for batch in batches:
            seen.update(batch)
        found.append(seen.value(Statistic("percentile", 25)))
    np.testing.assert_array_equal(*found)


def test_a_layer_takes_no_several_times_its_memory():
    seen, values = ActivationHistogram(per_channel=False), np.ones((4, 2**18), np.float32)
    tracemalloc.start()
    seen.update(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes
    np.testing.assert_allclose(seen.value(Statistic("percentile", 50)), 1, atol=1 / 1024)


def test_as_many_as_a_percentile_lie_at_or_below_it():
    seen = ActivationHistogram(per_channel=False)
    seen.update(np.float32([[1], [3]]).repeat(50, axis=0))
    found = seen.value(Statistic("percentile", 50))
    np.testing.assert_allclose(found, 1, atol=4 / 1024)


def test_a_robust_threshold_is_at_most_a_percentile_of_all_activations():
    """Those that are 0 count, too."""
    values = np.zeros((20_000, 1), np.float32)
    values[:1000, 0] = np.random.default_rng(0).exponential(size=1000) ** 3
    seen = ActivationHistogram(per_channel=True, peaks=True)
    seen.update(values)

    def threshold(kind, q):
        return float(seen.value(Statistic(kind, q))[0])

    most = threshold("percentile", 99.9)
    for timesteps in (8, 16):
        assert threshold("mmse", timesteps) > 1.1 * most
        assert threshold("robust-mmse", timesteps) == most
    # Levels are as fine as with 16 time-steps all the same, but for the largest in 1 % of samples.
    nearly_all = float(np.quantile(values[:1000], 0.99))
    assert nearly_all > 1.2 * most
    for timesteps in (17, 64, 256):
        wanted = min(threshold("mmse", timesteps), timesteps / 16 * most, nearly_all)
        assert threshold("robust-mmse", timesteps) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize(("samples", "places"), [(4, 1), (4, 500), (127, 1), (128, 1), (500, 1)])
def test_units_that_few_samples_tell_of_are_held_beside_the_largest(samples, places):
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=(samples, 20, places)), 0).astype(np.float32)
    seen = ActivationHistogram(per_channel=True, peaks=True)
    seen.update(values)
    alone = ActivationHistogram(per_channel=True)
    alone.update(values)
    found, free = (h.value(Statistic("robust-mmse", 16)) for h in (seen, alone))
    if samples < 128:
        counts = (values > 0).sum((0, 2))
        largest = np.minimum(free.max(), (1 + 16 / np.maximum(counts, 1)) * free)
        wanted = (counts * free + 16 * largest) / (counts + 16)
        np.testing.assert_allclose(found, np.where(counts > 0, wanted, free), rtol=1e-6)
        if places > 1:
            np.testing.assert_allclose(found, free, rtol=0.02)
    else:
        np.testing.assert_array_equal(found, free)


@pytest.mark.parametrize("samples", [20, 100])
def test_channels_of_other_scales_are_not_held_beside_the_largest(samples):
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=(samples, 12)), 0).astype(np.float32)
    values *= np.geomspace(1e-4, 1, 12).astype(np.float32)
    values[3, 5] = 300
    found = []
    for peaks in (True, False):
        seen = ActivationHistogram(per_channel=True, peaks=peaks)
        seen.update(values)
        found.append(np.delete(seen.value(Statistic("robust-mmse", 16)), 5))
    assert np.all(found[0] < (1 + 16 / (samples / 4)) * found[1])


@pytest.mark.parametrize("samples", [50, 1000])
def test_a_robust_threshold_of_a_channel_that_few_samples_need(samples):
    """In 4 % of them: the 99.9 percentile is one of the least that are above 0."""
    rng = np.random.default_rng(0)
    values = np.zeros((samples, 1, 128), np.float32)
    for signal in values[: max(samples // 25, 2), 0]:
        place = rng.integers(0, 120)
        signal[place : place + 5] = 5 + rng.normal(size=5) / 10
        signal[place + 6] = 0.1
    seen = ActivationHistogram(per_channel=True, peaks=True)
    seen.update(values)
    assert seen.value(Statistic("percentile", 99.9)) < seen.value(Statistic("mmse", 16)) + 1e-9
    assert seen.value(Statistic("robust-mmse", 16)) > 4.9


def test_of_two_samples_that_are_active_the_smaller_is_common():
    values = np.zeros((200, 1, 128), np.float32)
    values[:2, 0, :10] = 0.1
    values[0, 0, 20:30], values[1, 0, 20:30] = 5, 8
    seen = ActivationHistogram(per_channel=True, peaks=True)
    seen.update(values)
    assert seen.value(Statistic("percentile", 99.9)) < 0.2
    np.testing.assert_allclose(seen.value(Statistic("robust-mmse", 16)), 5, rtol=0.01)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("batch_size", [7, 200])
def test_a_robust_threshold_of_images_that_are_mostly_background(per_channel, batch_size):
    """One in a thousand places is not much of what each image shows; of outliers it is."""
    rng = np.random.default_rng(0)
    values = np.zeros((200, 1, 100, 100), np.float32)
    # Of each image 40 places: 0.4 %, of which 99.9 % of all places cut off a quarter.
    for image in values[:, 0]:
        image[rng.integers(0, 100, 40), rng.integers(0, 100, 40)] = rng.exponential(size=40)

    def threshold(x, statistic):
        seen = ActivationHistogram(per_channel, peaks=True)
        for start in range(0, len(x), batch_size):
            seen.update(x[start : start + batch_size])
        return float(seen.value(statistic)[0])

    robust, percentile = Statistic("robust-mmse", 16), Statistic("percentile", 99.9)
    found, low = threshold(values, robust), threshold(values, percentile)

    def cut(theta):
        return np.square(np.maximum(values - theta, 0)).sum() / np.square(values).sum()

    assert cut(low) > 0.05
    common = np.quantile(values.max((1, 2, 3)), 0.95)
    free = threshold(values, Statistic("mmse", 16))
    assert low < found
    np.testing.assert_allclose(found, min(free, common), rtol=0.01)
    # A few images that are 50 times as large are no reason; they make bins wider.
    outliers = values.copy()
    outliers[::100] *= 50
    assert threshold(outliers, robust) < 1.1 * common + 0.25
    assert threshold(outliers, Statistic("mmse", 16)) > 50


@pytest.mark.parametrize("samples", [1, 2, 5, 19, 20, 100])
def test_one_outlier_sets_no_robust_threshold(samples):
    """Nor does it make the others' activations sparse."""
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=(samples, 2, 28, 28))).astype(np.float32)
    values[0, :, 3, 3] = 200

    def threshold(statistic):
        seen = ActivationHistogram(True, peaks=True)
        seen.update(values)
        return seen.value(statistic)

    percentile = threshold(Statistic("percentile", 99.9))
    # Of few samples they are nearer to the largest.
    assert np.all(threshold(Statistic("robust-mmse", 8)) <= percentile.max())


def test_balancing_ends_where_nothing_changes():
    """Any number of steps may be asked for."""
    seen = histogram(activations(3), True)
    wanted = seen.value(Statistic("balanced", 100_000))
    np.testing.assert_allclose(seen.value(Statistic("balanced", 10**15)), wanted, rtol=1e-9)


def test_a_statistic_in_words_has_all_digits():
    assert Statistic("mmse", 1234567).describe() == "least squared error at T=1234567"
    assert "99.99999 %" in Statistic("percentile", 99.99999).describe()
