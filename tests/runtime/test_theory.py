"""The paper's theory in numbers: Theorem 1, eqs. 6 to 11, thresholds and weights."""

import itertools

import dyadic
import numpy as np
import pytest
from conservation import conservation_errors
from one_neuron import one
from onnx_text import model

from onnx2snn import DataError, SpikingSession, convert, from_arrays
from onnx2snn.converting.statistics import Statistic


def if_neuron(z, timesteps, threshold, v_init):
    """Mean postsynaptic potential of neurons under constant currents z, by this package's runtime.

    A clip of an input is a layer of neurons whose current is the input.
    """
    calibration = np.full((1, 1), threshold, np.float32)
    snn = convert(
        one(),
        calibration=from_arrays(calibration),
        recipe="opi",
        threshold=Statistic("max"),
        v_init=v_init,
    )
    result = SpikingSession(snn.model).run(np.float32(z)[:, None], timesteps)
    return result.output[:, 0].astype(np.float64)


@pytest.mark.parametrize("timesteps", [1, 4, 7, 16])
@pytest.mark.parametrize("v_init", [0.0, 0.25, 0.5, 0.75])
def test_eq_11_for_constant_input(timesteps, v_init):
    """(V_th / T) floor((T z + v(0)) / V_th), between 0 and V_th, but for ties; z in binary."""
    threshold = 2.0
    z = np.arange(-1.0, 3.0, 1 / 64) + 1 / 1024  # with no T z + v(0) on a multiple of V_th
    expected = np.floor((timesteps * z + v_init * threshold) / threshold)
    expected = np.clip(expected, 0, timesteps) * threshold / timesteps
    found = if_neuron(z, timesteps, threshold, v_init)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_a_tie_does_not_fire():
    """Eq. 3 is strict, where eq. 11 has a floor: at a tie they differ by one spike."""
    assert if_neuron(np.array([1.0]), 1, 2.0, 0.5)[0] == 0


def piecewise_uniform(rng, timesteps, threshold, v_init, samples):
    """z of Theorem 1: uniform within each [m_t, m_t+1], with p_0 = p_T, any weights else.

    m_0 = 0, m_t = (t V_th - v(0)) / T, m_{T+1} = V_th; the p are densities.
    """
    edges = [0.0, *((t * threshold - v_init) / timesteps for t in range(1, timesteps + 1))]
    edges.append(threshold)
    density = rng.uniform(0.2, 1.0, timesteps + 1)
    density[-1] = density[0]
    mass = density * np.diff(edges)
    counts = rng.multinomial(samples, mass / mass.sum())
    return np.concatenate(
        [rng.uniform(a, b, n) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
    )


@pytest.mark.parametrize("timesteps", [2, 4, 8])
def test_theorem_1(timesteps):
    """The squared error is least at V_th / 2, and there the mean error is 0."""
    threshold, samples = 2.0, 100_000
    errors = {}
    for fraction in (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0):
        rng = np.random.default_rng(timesteps)
        z = piecewise_uniform(rng, timesteps, threshold, fraction * threshold, samples)
        z = np.float32(z)
        error = z.astype(np.float64) - if_neuron(z, timesteps, threshold, fraction)
        errors[fraction] = np.mean(error**2)
        if fraction == 0.5:
            # Four standard errors of the mean.
            assert abs(error.mean()) < 4 * error.std() / np.sqrt(samples)
    assert min(errors, key=errors.get) == 0.5
    # Of a level as wide as V_th / T the variance is a twelfth of its square.
    assert errors[0.5] == pytest.approx((threshold / timesteps) ** 2 / 12, rel=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_scaling_thresholds_is_weight_normalisation(seed):
    """Bit for bit, where thresholds are powers of two: same spikes, same output."""
    rng = np.random.default_rng(seed)
    sizes = (5, 8, 6, 3)
    shapes = itertools.pairwise(sizes)
    weights = [rng.integers(-8, 9, shape).astype(np.float32) / 8 for shape in shapes]
    biases = [rng.integers(-8, 9, s).astype(np.float32) / 8 for s in sizes[1:]]
    thresholds = (2.0 ** rng.integers(-2, 3, 2)).astype(np.float32)
    x = rng.integers(0, 9, (20, 5)).astype(np.float32) / 8

    def network(weights, biases, thresholds):
        text = (
            "net (float[N, 5] x) => (float[N, 3] y) { a = Gemm(x, w0, b0) r = Clip(a, zero, t0) "
            "b = Gemm(r, w1, b1) q = Clip(b, zero, t1) y = Gemm(q, w2, b2) }"
        )
        values = {f"w{i}": w for i, w in enumerate(weights)}
        values |= {f"b{i}": b for i, b in enumerate(biases)}
        values |= {f"t{i}": np.float32(t) for i, t in enumerate(thresholds)}
        return model(text, values | {"zero": np.float32(0)})

    first, second = thresholds
    scaled = network(
        [weights[0] / first, weights[1] * first / second, weights[2] * second],
        [biases[0] / first, biases[1] / second, biases[2]],
        np.ones(2, np.float32),
    )
    plain = network(weights, biases, thresholds)
    a, b = (SpikingSession(convert(ann).model).run(x, 13) for ann in (plain, scaled))
    np.testing.assert_array_equal(a.output, b.output)
    for ours, theirs in zip(a.spike_counts.values(), b.spike_counts.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("seed", range(12))
def test_eq_7_conserves(seed):
    """On networks whose sums do not round, nor their means over 2^k steps: exactly."""
    network = dyadic.finish(seed)
    snn = convert(dyadic.to_onnx(network), v_init=[0.5, 0.0, 1.0][seed % 3]).model
    errors = conservation_errors(snn, dyadic.images(network, 3), 2 ** (seed % 5))
    assert set(errors) == {neuron.name for neuron in SpikingSession(snn).neurons}
    assert set(errors.values()) == {0.0}


def test_eq_7_on_the_shipped_network():
    from onnx2snn.demo import demo_images, demo_network

    x, _ = next(demo_images(5).batches(5))
    errors = conservation_errors(convert(demo_network()).model, x, 16)
    assert len(errors) == 19
    assert max(errors.values()) < 1e-4


def test_eq_7_in_float64():
    text = (
        "net (double[N, 2] x) => (double[N, 1] y) "
        "{ a = MatMul(x, w) r = Clip(a, low, high) y = MatMul(r, v) }"
    )
    weights = {"w": np.float64([[0.3, 0.7], [0.2, -0.1]]), "v": np.float64([[0.1], [1]])}
    snn = convert(model(text, weights | {"low": np.float64(0), "high": np.float64(1)})).model
    assert conservation_errors(snn, np.float64([[0.9, 0.3]]), 7)["r"] < 1e-13


@pytest.mark.parametrize("options", [{"reset": "zero"}, {"recipe": "srp"}, {"recipe": "cos"}])
def test_neurons_that_do_not_conserve(options):
    network = dyadic.finish(3)
    snn = convert(dyadic.to_onnx(network), **options).model
    with pytest.raises(DataError, match="does not conserve"):
        conservation_errors(snn, dyadic.images(network, 2), 4)
