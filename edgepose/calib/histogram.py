"""Collect a tensor's values in a histogram, and choose the range that INT8 should cover.

Quantisation is symmetric: a range T maps to the levels -127..127, a step is T / 127, and larger magnitudes are clipped.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import CheckError, UsageError
from ..graphs.calibration import LEAST_RANGE, METHODS
from ..graphs.quantise import LEVELS

#: Percentage of a tensor's values, zeros included, that ``percentile`` keeps inside the range.
PERCENTILE = 99.99
#: Number of bins; at least half of them are used, because the bins end at the next power of two.
BINS = 4096
#: The range of a tensor with all magnitudes below :data:`LEAST_RANGE`: any step represents zeros exactly.
RANGE_OF_ZEROS = 1.0
#: Values that are counted at a time: few enough that they and their bin numbers stay in the second-level cache.
_CHUNK = 1 << 15
#: Bins and levels of TensorRT's entropy calibrator (Migacz 2017).
_ENTROPY_BINS, _ENTROPY_LEVELS = 2048, 128
#: Count of an empty level into which values are clipped, as in ONNX Runtime's calibrator. With 0 the divergence would
#: be infinite, and a single outlier would decide.
_ENTROPY_LEAST = 1e-4
#: Number of ranges that ``mse`` tries, first over the whole histogram and then around the best of those.
_TRIES = 64


class Histogram:
    """Counts of the magnitudes of one tensor, in constant memory.

    The bins cover 0 to a power of two above every magnitude so far; for a larger magnitude, pairs of bins are merged
    until it fits. So the counts do not depend on the order or the sizes of the batches.

    Args:
        name: name of the tensor, for messages.

    Attributes:
        counts: (BINS,) int64: magnitudes above zero in each bin; bin j holds ``j * width <= |x| < (j + 1) * width``.
        zeros: number of values that are exactly zero, which every step represents; they are in no bin.
        count: number of finite values, zeros included.
        nonfinite: number of NaN and infinite values; they are in no bin.
        low, high: least and largest finite value, exact; infinity and -infinity before the first value.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.zeros = self.count = self.nonfinite = 0
        self.low, self.high = math.inf, -math.inf
        self._exponent = math.frexp(LEAST_RANGE)[1]

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self._exponent) / BINS

    @property
    def peak(self) -> float:
        """Largest finite magnitude, exact; 0 before the first value."""
        return max(-self.low, self.high, 0.0)

    def add(self, values: ArrayLike) -> None:
        """Count the values of an array of any shape, converted to float32."""
        flat = np.asarray(values, dtype=np.float32).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            self._add_chunk(flat[start : start + _CHUNK])

    def _add_chunk(self, chunk: NDArray[np.float32]) -> None:
        with np.errstate(invalid="ignore"):
            low, high = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = chunk[np.isfinite(chunk)]
            self.nonfinite += chunk.size - finite.size
            if finite.size:
                self._add_chunk(finite)
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(math.frexp(max(-low, high, LEAST_RANGE))[1])
        # The factor is a power of two, so no magnitude is rounded into another bin.
        scaled = chunk * np.float32(1 / self.width)
        counts = np.bincount(np.abs(scaled, out=scaled).astype(np.int32), minlength=BINS)
        zeros = chunk.size - int(np.count_nonzero(chunk))
        counts[0] -= zeros
        self.counts += counts
        self.zeros += zeros
        self.count += chunk.size

    def _widen(self, exponent: int) -> None:
        """Merge bins so that they reach 2 ** exponent, if they do not yet."""
        if exponent > self._exponent:
            sums = self.counts.reshape(-1, min(1 << (exponent - self._exponent), BINS)).sum(axis=1)
            self.counts = np.concatenate([sums, np.zeros(BINS - len(sums), dtype=np.int64)])
            self._exponent = exponent


def check_method(method: str) -> None:
    """Raise UsageError unless ``method`` is one of :data:`METHODS`."""
    if method not in METHODS:
        raise UsageError(f"calibration method {method!r} is unknown: expected one of {', '.join(METHODS)}")


def threshold(histogram: Histogram, method: str) -> float:
    """Return the range T that INT8 should cover: magnitudes above T are clipped.

    Args:
        histogram: the histogram of the tensor.
        method: ``entropy``: least Kullback-Leibler divergence between the values and their 128 levels (S. Migacz,
            8-bit Inference with TensorRT, GTC 2017), without zeros, which are exact in INT8; ``percentile``: all but
            0.01 % of the values are inside; ``mse``: least expected squared error of clipping and rounding;
            ``minmax``: all values are inside.

    Returns:
        a range above 0, at most the largest magnitude; :data:`RANGE_OF_ZEROS` for a tensor of zeros.

    Raises:
        UsageError: the method is unknown.
        CheckError: the tensor has NaN or infinite values, or no values at all.
    """
    check_method(method)
    if histogram.nonfinite:
        total = histogram.count + histogram.nonfinite
        raise CheckError(
            f"{histogram.nonfinite} of {total} values of tensor {histogram.name!r} are NaN or infinite: check the "
            "weights and run edgepose verify"
        )
    if not histogram.count:
        raise CheckError(f"tensor {histogram.name!r} had no values on these images: leave it out of the calibration")
    if histogram.peak < LEAST_RANGE:
        return RANGE_OF_ZEROS
    if method == "minmax":
        return histogram.peak
    chosen = {"entropy": _entropy, "percentile": _percentile, "mse": _mse}[method](histogram)
    return min(chosen, histogram.peak)


def _percentile(histogram: Histogram) -> float:
    """Interpolate in the percentile's bin; if that is among the zeros, return the peak: a range must not be zero."""
    wanted = histogram.count * PERCENTILE / 100
    if wanted <= histogram.zeros:
        return histogram.peak
    reached = histogram.zeros + np.cumsum(histogram.counts)
    last = int(np.searchsorted(reached, wanted))
    missing = float(reached[last]) - wanted
    return (last + 1 - missing / float(histogram.counts[last])) * histogram.width


def _entropy(histogram: Histogram) -> float:
    """Return the range of i bins, i >= 128, with the least divergence KL(P, Q).

    P is the histogram of the first i bins, with all larger values added to bin i - 1. Q is the histogram after
    quantisation: each level's count of values inside, spread evenly over its bins that are not empty in P. With
    cumulative sums, KL(P, Q) needs only counts per level: ``sum P log P`` over bins minus ``sum P log Q`` over levels.
    """
    counts = histogram.counts.reshape(_ENTROPY_BINS, -1).sum(axis=1).astype(np.float64)
    used = int(np.flatnonzero(counts)[-1]) + 1
    ends = np.arange(min(_ENTROPY_LEVELS, used), used + 1)
    total = counts.sum()
    sums, filled = _sums(counts), _sums(counts > 0)
    beyond, last = total - sums[ends], counts[ends - 1]

    edges = np.arange(_ENTROPY_LEVELS + 1) * ends[:, None] // _ENTROPY_LEVELS
    levels, bins = np.diff(sums[edges], axis=1), np.diff(filled[edges], axis=1)
    bins[:, -1] += (last == 0) & (beyond > 0)  # clipped values fill the last bin
    remembered = np.log(np.maximum(levels, _ENTROPY_LEAST)) - np.log(np.maximum(bins, 1))
    levels[:, -1] += beyond
    cross = np.sum(levels * remembered, axis=1)
    own = _sums(_x_log_x(counts))[ends - 1] + _x_log_x(last + beyond)
    divergence = (own - cross) / total + np.log(np.maximum(sums[ends], 1) / total)
    divergence[sums[ends] == 0] = np.inf
    return float(ends[np.argmin(divergence)]) * histogram.width * (BINS // _ENTROPY_BINS)


def _sums(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the sums of the first 0, 1, ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(np.maximum(values, 1.0))


def _mse(histogram: Histogram) -> float:
    """Search a coarse, then a fine grid: small ranges have large clipping errors, large ones large rounding errors."""
    coarse = np.geomspace(histogram.peak / BINS, histogram.peak, _TRIES)
    best = int(np.argmin(_squared_errors(histogram, coarse)))
    fine = np.linspace(coarse[max(best - 1, 0)], coarse[min(best + 1, _TRIES - 1)], _TRIES)
    return float(fine[np.argmin(_squared_errors(histogram, fine))])


def _squared_errors(histogram: Histogram, ranges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the squared errors of all values for each of the ranges (K,), as (K,).

    Values are assumed to be spread evenly over their bin, so a step may be far smaller than a bin. With steps of size
    s, n the nearest level to x and r = x / s - n, the integral of the squared rounding error from 0 to x is
    s^3 (n / 12 + r^3 / 3); that of the clipping error is (x - T)^3 / 3.
    """
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    edges, limits = np.arange(used + 1) * histogram.width, ranges[:, None]
    steps = limits / LEVELS
    inside = np.minimum(edges, limits) / steps
    levels = np.rint(inside)
    integral = steps**3 * (levels / 12 + (inside - levels) ** 3 / 3) + np.maximum(edges - limits, 0) ** 3 / 3
    return np.asarray(np.diff(integral, axis=1) @ histogram.counts[:used] / histogram.width, dtype=np.float64)
