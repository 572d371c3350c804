"""How large the values of a tensor are, gathered in constant memory, and the range that INT8 should cover.

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

#: Magnitudes are counted in this many bins; at least half of them are used, because the range is a power of two.
BINS = 4096
#: The range of a tensor that is zero everywhere (or below :data:`LEAST_RANGE`): any step represents it exactly.
RANGE_OF_ZEROS = 1.0

#: Elements that are counted at a time: they and their bin numbers stay in the second-level cache.
_CHUNK = 1 << 15
#: TensorRT's entropy calibrator looks at 2048 bins and the 128 magnitudes of INT8 (Migacz 2017).
_ENTROPY_BINS, _ENTROPY_LEVELS = 2048, 128
#: A level that is empty while values are clipped into it counts as this much of a value, as in ONNX Runtime's
#: calibrator. With 0 the divergence would be infinite, and one far outlier would rule.
_ENTROPY_LEAST = 1e-4
#: Ranges that ``mse`` tries, first over the whole histogram and then around the best of those.
_TRIES = 64


class Histogram:
    """Counts of the magnitudes of one tensor, batch by batch.

    The bins cover 0 to a power of two that is larger than every magnitude so far; when one is larger, the bins are
    merged two by two until it fits. So the counts do not depend on the order or the sizes of the batches.

    Args:
        name: of the tensor, for messages.

    Attributes:
        counts: (BINS,) int64: magnitudes above zero in each bin; bin j holds ``j * width <= |x| < (j + 1) * width``.
        zeros: values that are exactly zero, which every step represents. They are in no bin.
        count: finite values, zeros included.
        nonfinite: values that are NaN or infinite; they are in no bin.
        low, high: least and largest finite value, exact; infinity and -infinity before the first.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.zeros = self.count = self.nonfinite = 0
        self.low, self.high = math.inf, -math.inf
        self._exponent = _exponent(0.0)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self._exponent) / BINS

    @property
    def peak(self) -> float:
        """The largest finite magnitude, exact; 0 before the first."""
        return max(-self.low, self.high, 0.0)

    def add(self, values: ArrayLike) -> None:
        """Count values of any shape; they are read as float32 and not modified."""
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
        self._widen(_exponent(max(-low, high)))
        # The factor is a power of two: no magnitude is rounded into another bin.
        scaled = chunk * np.float32(1 / self.width)
        counts = np.bincount(np.abs(scaled, out=scaled).astype(np.int32), minlength=BINS)
        zeros = chunk.size - int(np.count_nonzero(chunk))
        counts[0] -= zeros
        self.counts += counts
        self.zeros += zeros
        self.count += chunk.size

    def _widen(self, exponent: int) -> None:
        if exponent <= self._exponent:
            return
        merged = min(1 << (exponent - self._exponent), BINS)
        self._exponent = exponent
        sums = self.counts.reshape(-1, merged).sum(axis=1)
        self.counts = np.concatenate([sums, np.zeros(BINS - len(sums), dtype=np.int64)])


def _exponent(magnitude: float) -> int:
    """The least e, from that of :data:`LEAST_RANGE` up, with ``magnitude < 2 ** e``."""
    return max(math.frexp(magnitude)[1], math.frexp(LEAST_RANGE)[1]) if magnitude else math.frexp(LEAST_RANGE)[1]


def check_method(method: str) -> None:
    """Refuse the name of no method.

    Raises:
        UsageError: it is none of :data:`METHODS`.
    """
    if method not in METHODS:
        raise UsageError(f"calibration method {method!r} is unknown: expected one of {', '.join(METHODS)}")


def threshold(histogram: Histogram, method: str) -> float:
    """The range T that INT8 should cover: ``|x| > T`` is clipped to T.

    Args:
        histogram: of the tensor.
        method: ``entropy``: least Kullback-Leibler divergence between the values and their 128 levels (S. Migacz,
            8-bit Inference with TensorRT, GTC 2017), zeros left out as they lose nothing; ``percentile``: all but
            0.01 % of the values lie inside; ``mse``: least expected squared error of clipping and rounding;
            ``minmax``: all lie inside.

    Returns:
        above 0, at most the largest magnitude; :data:`RANGE_OF_ZEROS` for a tensor that is zero everywhere.

    Raises:
        UsageError: the method is unknown.
        CheckError: the tensor had NaN or infinite values, or none at all.
    """
    check_method(method)
    if histogram.nonfinite:
        total = histogram.count + histogram.nonfinite
        raise CheckError(
            f"{histogram.nonfinite} of {total} values of tensor {histogram.name!r} are NaN or infinite, which no range "
            "covers: check the weights and run edgepose verify"
        )
    if not histogram.count:
        raise CheckError(f"tensor {histogram.name!r} had no values on these crops: leave it out of the calibration")
    if histogram.peak < LEAST_RANGE:
        return RANGE_OF_ZEROS
    if method == "minmax":
        return histogram.peak
    chosen = {"entropy": _entropy, "percentile": _percentile, "mse": _mse}[method](histogram)
    return min(chosen, histogram.peak)


def _percentile(histogram: Histogram) -> float:
    """Linear inside the bin. A tensor of hardly anything but zeros keeps its peak: a range of zero would erase it."""
    wanted = histogram.count * PERCENTILE / 100
    if wanted <= histogram.zeros:
        return histogram.peak
    reached = histogram.zeros + np.cumsum(histogram.counts)
    last = int(np.searchsorted(reached, wanted))
    missing = float(reached[last]) - wanted
    return (last + 1 - missing / float(histogram.counts[last])) * histogram.width


def _entropy(histogram: Histogram) -> float:
    """The candidate range of i bins, for every i from 128 up, whose 128 levels tell least about the rest.

    P is the histogram up to i with everything beyond in bin i - 1, Q the one that the levels remember: the bins of a
    level share its count evenly, those that are empty in P apart. With sums from the left, KL(P, Q) needs only the
    counts of the levels: ``sum P log P`` over bins minus ``sum (P of the level) log (Q in the level)``.
    """
    counts = histogram.counts.reshape(_ENTROPY_BINS, -1).sum(axis=1).astype(np.float64)
    used = int(np.flatnonzero(counts)[-1]) + 1
    ends = np.arange(min(_ENTROPY_LEVELS, used), used + 1)
    total = counts.sum()
    sums, filled = _sums(counts), _sums(counts > 0)
    beyond, last = total - sums[ends], counts[ends - 1]

    edges = np.arange(_ENTROPY_LEVELS + 1) * ends[:, None] // _ENTROPY_LEVELS
    levels, bins = np.diff(sums[edges], axis=1), np.diff(filled[edges], axis=1)
    bins[:, -1] += (last == 0) & (beyond > 0)  # what lies beyond fills it
    remembered = np.log(np.maximum(levels, _ENTROPY_LEAST)) - np.log(np.maximum(bins, 1))
    levels[:, -1] += beyond
    cross = np.sum(levels * remembered, axis=1)
    own = _sums(_x_log_x(counts))[ends - 1] + _x_log_x(last + beyond)
    divergence = (own - cross) / total + np.log(np.maximum(sums[ends], 1) / total)
    divergence[sums[ends] == 0] = np.inf
    return float(ends[np.argmin(divergence)]) * histogram.width * (BINS // _ENTROPY_BINS)


def _sums(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(np.maximum(values, 1.0))


def _mse(histogram: Histogram) -> float:
    """Coarse, then fine: the error falls with the range while clipping rules, and grows while rounding does."""
    coarse = np.geomspace(histogram.peak / BINS, histogram.peak, _TRIES)
    best = int(np.argmin(_squared_errors(histogram, coarse)))
    fine = np.linspace(coarse[max(best - 1, 0)], coarse[min(best + 1, _TRIES - 1)], _TRIES)
    return float(fine[np.argmin(_squared_errors(histogram, fine))])


def _squared_errors(histogram: Histogram, ranges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the squared errors of all values, for each of the ranges (K,): (K,).

    Values are taken as spread evenly over their bin, so a step may be far smaller than a bin. The integral of the
    squared rounding error from 0 to x, with n the nearest level and r the rest in steps s, is s^3 (n / 12 + r^3 / 3);
    that of the clipping error beyond T is (x - T)^3 / 3.
    """
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    edges, limits = np.arange(used + 1) * histogram.width, ranges[:, None]
    steps = limits / LEVELS
    inside = np.minimum(edges, limits) / steps
    levels = np.rint(inside)
    integral = steps**3 * (levels / 12 + (inside - levels) ** 3 / 3) + np.maximum(edges - limits, 0) ** 3 / 3
    return np.asarray(np.diff(integral, axis=1) @ histogram.counts[:used] / histogram.width, dtype=np.float64)
