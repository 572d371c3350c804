"""Measure durations of calls within a budget, and summarise them as percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import UsageError


@dataclass(frozen=True)
class Budget:
    """Bounds of a measurement: at most ``calls`` calls, none of which begins after ``seconds``.

    ``warm_up`` calls come first, in which engines allocate memory and choose kernels; they are not counted.
    """

    calls: int = 100
    seconds: float = 5.0
    warm_up: int = 3

    def __post_init__(self) -> None:
        if self.calls < 1 or self.seconds <= 0 or self.warm_up < 0:
            raise UsageError(
                f"cannot measure with calls={self.calls}, seconds={self.seconds:g}, warm_up={self.warm_up}: "
                "expected at least 1 call, more than 0 seconds, and a warm-up of 0 or more"
            )


@dataclass(frozen=True)
class Latency:
    """Percentiles of durations in milliseconds, and the number of durations."""

    p50: float
    p95: float
    p99: float
    count: int


def summarise(samples: Sequence[float]) -> Latency:
    """Return percentiles of durations in milliseconds, interpolated linearly between samples.

    >>> summarise([1.0, 2.0, 3.0, 4.0, 5.0])
    Latency(p50=3.0, p95=4.8, p99=4.96, count=5)
    """
    p50, p95, p99 = (float(value) for value in np.percentile(samples, (50, 95, 99)))
    return Latency(round(p50, 4), round(p95, 4), round(p99, 4), len(samples))


def time_calls(
    call: Callable[[], object], budget: Budget, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Measure a call repeatedly and return its durations in milliseconds, at least one.

    Args:
        call: the function to measure; it must not return before its work is done.
        budget: the warm-up, and the bounds on count and time.
        clock: returns seconds that never decrease.
    """
    for _ in range(budget.warm_up):
        call()
    samples: list[float] = []
    begin = start = clock()
    while len(samples) < budget.calls and (not samples or start - begin < budget.seconds):
        call()
        end = clock()
        samples.append((end - start) * 1e3)
        start = end
    return samples
