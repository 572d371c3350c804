"""The streamed histogram and its ranges by value: beside NumPy on all samples, and beside other calibrators."""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np
import pytest

from edgepose.calib.histogram import BINS, RANGE_OF_ZEROS, Histogram, threshold
from edgepose.core.errors import CheckError, UsageError
from edgepose.graphs.calibration import METHODS
from edgepose.graphs.quantise import LEVELS

COUNT = 200_000


def samples(kind: str, seed: int = 0) -> np.ndarray:
    """float32 values of a known distribution."""
    rng = np.random.default_rng(seed)
    made = {
        "normal": lambda: rng.standard_normal(COUNT),
        "half-normal": lambda: np.maximum(rng.standard_normal(COUNT), 0),  # what ReLU leaves
        "uniform": lambda: rng.uniform(-3, 3, COUNT),
        "laplace": lambda: rng.laplace(size=COUNT),
        "student": lambda: rng.standard_t(3, size=COUNT),
        "one outlier": lambda: np.append(rng.standard_normal(COUNT), 1000.0),
        "one value": lambda: np.eye(1, COUNT)[0] * 5,
        "constant": lambda: np.full(1000, -5.0),
    }
    return made[kind]().astype(np.float32)


KINDS = ("normal", "half-normal", "uniform", "laplace", "student", "one outlier", "one value", "constant")


def gathered(values: np.ndarray, parts: int = 1) -> Histogram:
    histogram = Histogram("relu_7")
    for part in np.array_split(values, parts):
        histogram.add(part)
    return histogram


def squared_error(values: np.ndarray, limit: float) -> float:
    """Mean squared error of symmetric INT8 over the samples themselves."""
    step = limit / LEVELS
    levels = np.clip(np.rint(values.astype(np.float64) / step), -LEVELS, LEVELS)
    return float(np.mean((levels * step - values) ** 2))


# --- counting ---


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_numpy(kind):
    values = samples(kind)
    histogram = gathered(values, parts=7)
    magnitudes = np.abs(values[values != 0]).astype(np.float64)
    expected, _ = np.histogram(magnitudes, bins=np.arange(BINS + 1) * histogram.width)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.peak == np.abs(values).max()
    assert (histogram.count, histogram.zeros) == (values.size, np.count_nonzero(values == 0))
    assert BINS / 2 <= histogram.peak / histogram.width < BINS


def test_order_and_batches_do_not_matter():
    values = np.geomspace(1e-6, 1e6, 100_001).astype(np.float32) * np.resize([1, -1], 100_001)
    rising, falling = gathered(values, parts=50), gathered(values[::-1], parts=3)
    np.testing.assert_array_equal(rising.counts, falling.counts)
    assert (rising.width, rising.low, rising.high) == (falling.width, falling.low, falling.high)


def test_any_shape_and_layout_and_nothing_is_changed():
    values = samples("normal")[:600].reshape(2, 3, 10, 10)
    kept = values.copy()
    for same in (values.transpose(0, 2, 3, 1), np.asfortranarray(values), values.reshape(-1)[::-1]):
        np.testing.assert_array_equal(gathered(same).counts, gathered(values).counts)
    np.testing.assert_array_equal(values, kept)
    half = gathered(values.astype(np.float16))
    assert half.high == float(values.astype(np.float16).max())


@pytest.mark.parametrize("largest", [float(np.finfo(np.float32).max), 2.0**-140, 1e-45])
def test_the_extremes_of_float32(largest):
    histogram = gathered(np.array([largest, -largest / 2, 0], np.float32))
    assert histogram.counts.sum() == 2 - (np.float32(largest / 2) == 0)
    assert all(0 < threshold(histogram, method) < np.inf for method in METHODS)


def test_memory_does_not_grow():
    histogram = Histogram("x")
    for scale in (1, 10, 1000):
        histogram.add(samples("normal") * scale)
    assert histogram.counts.nbytes == BINS * 8


def test_counting_takes_nanoseconds():
    values = samples("half-normal", 1)
    histogram, fastest = Histogram("x"), np.inf
    for _ in range(5):
        start = time.process_time()
        histogram.add(values)
        fastest = min(fastest, (time.process_time() - start) / values.size)
    assert fastest < 30e-9  # 3 ns on an idle core; a Python loop takes 100


# --- ranges ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_range_is_positive_and_at_most_the_peak_and_quick(kind, method):
    histogram = gathered(samples(kind))
    start = time.process_time()
    chosen = threshold(histogram, method)
    assert time.process_time() - start < 0.25  # 20 ms on an idle core
    assert isinstance(chosen, float)
    assert 0 < chosen <= histogram.peak
    if method == "minmax":
        assert chosen == np.abs(samples(kind)).max()


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_the_least_error_over_the_samples(kind):
    values = samples(kind)
    chosen = threshold(gathered(values), "mse")
    tried = np.unique(np.concatenate([np.geomspace(1e-3, 1, 120), np.linspace(0.6, 1.4, 80) * chosen / values.max()]))
    least = min(squared_error(values, limit * np.abs(values).max()) for limit in tried if limit <= 1)
    # Values are known to a bin, 1/4096 of the largest: an error of one value below that is none.
    assert squared_error(values, chosen) <= 1.01 * least + 1e-6 * values.max() ** 2 / values.size


def test_mse_is_that_of_the_literature():
    """Banner et al., Post training 4-bit quantization (NeurIPS 2019): 3.92 sigma and 9.89 b at 8 bits."""
    rng = np.random.default_rng(3)
    assert threshold(gathered(rng.standard_normal(2_000_000)), "mse") == pytest.approx(3.92, rel=0.02)
    assert threshold(gathered(rng.laplace(size=2_000_000)), "mse") == pytest.approx(9.89, rel=0.02)


def test_mse_sees_steps_far_smaller_than_a_bin():
    """With an outlier 10,000 times as large, nearly everything is in the first bin."""
    values = np.append(samples("uniform") / 3, np.float32(10_000))
    tried = np.geomspace(100, 10_000, 300)
    best = tried[np.argmin([squared_error(values, limit) for limit in tried])]
    chosen = threshold(gathered(values), "mse")
    assert squared_error(values, chosen) <= 1.02 * squared_error(values, best)


@pytest.mark.parametrize("kind", ["normal", "half-normal", "uniform", "laplace", "student"])
def test_percentile_is_that_of_the_samples(kind):
    values = samples(kind)
    histogram = gathered(values)
    wanted = np.percentile(np.abs(values), 99.99)
    neighbours = np.sort(np.abs(values))[[-25, -16]]  # 99.99 % of 200,000 is the 20th from the end
    chosen = threshold(histogram, "percentile")
    assert abs(chosen - wanted) <= histogram.width or neighbours[0] <= chosen <= neighbours[1]


def test_percentile_is_that_of_onnxruntime():
    values = samples("laplace")
    histogram = gathered(values)
    assert abs(threshold(histogram, "percentile") - onnxruntime_range("percentile", values)) <= 2 * histogram.width


def test_a_tensor_of_mostly_zeros_is_not_erased():
    values = np.zeros(COUNT, np.float32)
    values[:3] = 0.5, 0.25, 4
    assert threshold(gathered(values), "percentile") == 4.0


# --- entropy ---


def divergences(histogram: Histogram) -> tuple[np.ndarray, float]:
    """KL(P, Q) by number of bins from 128 up, as the paper spells it out, and the width of a bin."""
    counts = histogram.counts.reshape(2048, 2).sum(axis=1)
    found = []
    for end in range(128, int(np.flatnonzero(counts)[-1]) + 2):
        p = counts[:end].astype(np.float64)
        p[-1] += counts[end:].sum()
        starts = np.arange(128) * end // 128
        filled = np.maximum(np.add.reduceat(p > 0, starts, dtype=int), 1)
        levels = np.maximum(np.add.reduceat(counts[:end], starts), 1e-4) / filled
        q = np.where(p > 0, np.repeat(levels, np.diff(np.append(starts, end))), 0.0)
        p, q, seen = p / p.sum(), q / counts[:end].sum(), p > 0
        found.append(np.sum(p[seen] * np.log(p[seen] / q[seen])))
    return np.array(found), 2 * histogram.width


@pytest.mark.parametrize("kind", ["normal", "half-normal", "laplace", "student"])
def test_entropy_is_that_of_the_paper(kind):
    histogram = gathered(samples(kind))
    found, width = divergences(histogram)
    assert threshold(histogram, "entropy") == min((128 + np.argmin(found)) * width, histogram.peak)


def onnxruntime_range(method: str, values: np.ndarray) -> float:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    bins = {"entropy": 2 * 1024, "percentile": 2048}[method]
    collector = calibrate.HistogramCollector(method, True, bins, 256, 99.99, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": values})
        return float(collector.compute_collection_result()["x"][1])


@pytest.mark.slow
def test_entropy_is_that_of_onnxruntime():
    """A clear case in bins of the same width, 4 / 1024: uniform values and ten far outliers.

    On long tails ONNX Runtime chooses otherwise: it leaves the bins beyond the last whole level out of Q, and rounds
    Q down to whole numbers. There :func:`test_entropy_is_that_of_the_paper` tells.
    """
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(-1, 1, COUNT), rng.uniform(3.5, 4, 9), [4.0]]).astype(np.float32)
    histogram = gathered(values)
    chosen = threshold(histogram, "entropy")
    assert chosen == pytest.approx(1.0, abs=4 * histogram.width)
    assert abs(chosen - onnxruntime_range("entropy", values)) <= 4 * histogram.width  # two bins of the 2048


def test_entropy_keeps_all_that_is_uniform_and_clips_one_outlier():
    uniform = samples("uniform")
    assert threshold(gathered(uniform), "entropy") == pytest.approx(np.abs(uniform).max(), rel=0.01)
    assert threshold(gathered(samples("one outlier")), "entropy") < 100


def test_entropy_ignores_zeros():
    values = samples("laplace")
    with_zeros = np.concatenate([values, np.zeros(5 * COUNT, np.float32)])
    assert threshold(gathered(with_zeros), "entropy") == threshold(gathered(values), "entropy")


# --- what has no range ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40])
def test_all_zeros_get_a_range_that_gives_a_valid_step(method, value):
    assert threshold(gathered(np.full(100, value, np.float32)), method) == RANGE_OF_ZEROS == 1.0


def test_values_that_are_not_finite_are_counted_and_refused():
    histogram = gathered(np.array([1, np.nan, -2, np.inf, -np.inf], np.float32))
    assert (histogram.count, histogram.nonfinite) == (2, 3)
    assert (histogram.low, histogram.high) == (-2, 1)
    with pytest.raises(CheckError, match=r"^3 of 5 values of tensor 'relu_7' are NaN or infinite.*edgepose verify$"):
        threshold(histogram, "minmax")
    with pytest.raises(CheckError, match="2 of 2 values"):
        threshold(gathered(np.full(2, np.nan, np.float32)), "mse")


def test_no_values_and_no_method_are_refused():
    histogram = Histogram("relu_7")
    histogram.add(np.zeros((0, 4), np.float32))
    with pytest.raises(CheckError, match="'relu_7' had no values"):
        threshold(histogram, "entropy")
    with pytest.raises(UsageError, match="'kl' is unknown: expected one of mse, percentile, entropy, minmax"):
        threshold(histogram, "kl")
