"""Bench a network: how long each engine takes per batch.

Each backend is measured in a fresh process. Otherwise the memory of one would count for the next, thread pools would
compete, and a backend's load time would depend on which ran before it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle
from .errors import UsageError, missing_extra
from .files import atomic_path, write_text
from .machine import environment, peak_memory_mb
from .runtime.backends import choose_backends, open_session
from .tables import text_table

BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Budget:
    """How long one backend and batch is measured: ``calls`` times, or less when ``seconds`` have passed.

    ``warm_up`` calls come first and are not counted; engines allocate and choose kernels in them.
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
    """Percentiles of durations in milliseconds, and how many were measured."""

    p50: float
    p95: float
    p99: float
    count: int


def summarise(samples: Sequence[float]) -> Latency:
    """Percentiles of durations in milliseconds, linear between samples.

    >>> summarise([1.0, 2.0, 3.0, 4.0, 5.0])
    Latency(p50=3.0, p95=4.8, p99=4.96, count=5)
    """
    p50, p95, p99 = (float(value) for value in np.percentile(samples, (50, 95, 99)))
    return Latency(round(p50, 4), round(p95, 4), round(p99, 4), len(samples))


def time_calls(
    call: Callable[[], object], budget: Budget, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Durations of a call in milliseconds, at least one.

    Args:
        call: what to measure; it must not return before its work is done.
        budget: warm-up, and the bounds on count and time.
        clock: seconds that only grow.
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


@dataclass(frozen=True)
class Row:
    """One backend at one batch size.

    Attributes:
        latency: of one call, in milliseconds.
        crops_per_second: batch / median latency.
        load_ms: opening the session, with the engine's import and compilation.
        peak_mb: largest resident memory of the backend's process up to the end of this row, Python included and GPU
            memory not; None where the system does not tell (only Linux does).
    """

    backend: str
    batch: int
    latency: Latency
    crops_per_second: float
    load_ms: float
    peak_mb: float | None


@dataclass(frozen=True)
class BenchReport:
    """What :func:`bench` measured; ``str(report)`` is the table. ``skipped`` maps what was left out to the reason."""

    bundle: Bundle
    rows: tuple[Row, ...]
    skipped: dict[str, str]
    budget: Budget

    def __str__(self) -> str:
        head = ("backend", "batch", "p50 ms", "p95 ms", "p99 ms", "crops/s", "load ms", "peak MB", "calls")
        lines = [text_table(head, [_table_row(row) for row in self.rows])]
        lines += [f"skipped {backend}: {reason}" for backend, reason in self.skipped.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the versions, hashes and machine that they hold for."""
        return {
            "bundle": self.bundle.manifest.name,
            "rows": [asdict(row) for row in self.rows],
            "skipped": self.skipped,
            "budget": asdict(self.budget),
            "files": self.bundle.manifest.files,
            "environment": environment(),
        }

    def write(self, path: Path) -> None:
        """Write as JSON, with a plot (``.png``) beside it where matplotlib is installed."""
        write_text(path, json.dumps(self.to_json(), indent=2) + "\n")
        if "plot" not in self.skipped:
            plot(self, path.with_suffix(".png"))


def bench(
    bundle: Bundle,
    backends: Sequence[str] | None = None,
    batches: Sequence[int] = BATCHES,
    budget: Budget | None = None,
) -> BenchReport:
    """Measure the network of a bundle; nothing is written.

    Args:
        bundle: an opened bundle.
        backends: names; None or ``["all"]`` takes those that can run here and names the others in ``skipped``.
        batches: crops per call.
        budget: how long each backend and batch is measured; None for the defaults of :class:`Budget`.

    Raises:
        UsageError: a batch below 1, or a backend that was named cannot run here or not at a batch size.
    """
    batches, budget = tuple(sorted(set(batches))), budget or Budget()
    if not batches or batches[0] < 1:
        raise UsageError(f"cannot measure batches {list(batches)}: expected whole numbers of crops from 1 up")
    runnable, skipped = choose_backends(bundle, backends)
    named = backends is not None and list(backends) != ["all"]
    rows: list[Row] = []
    for backend in runnable:
        try:
            rows += _in_fresh_process(bundle, backend, batches, budget)
        except UsageError as error:
            if named:
                raise
            skipped[backend] = str(error)
    if find_spec("matplotlib") is None:  # a device without it still gets its numbers
        skipped["plot"] = str(missing_extra("matplotlib", "export"))
    return BenchReport(bundle, tuple(rows), skipped, budget)


def _in_fresh_process(bundle: Bundle, backend: str, batches: Sequence[int], budget: Budget) -> list[Row]:
    # "spawn" starts a new interpreter; a forked one would begin with this process's memory and threads.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, bundle, backend, batches, budget).result()
        except BrokenProcessPool as error:
            raise UsageError(
                f"the process that measured {backend} died (out of memory, or a fault in the engine): "
                f"try smaller batches than {max(batches)}"
            ) from error


def measure(bundle: Bundle, backend: str, batches: Sequence[int], budget: Budget) -> list[Row]:
    """Measure one backend in this process, at ascending batch sizes. The crops are noise: timing ignores content.

    Raises:
        UsageError: the backend cannot be opened, or refuses a batch size.
    """
    start = time.perf_counter()
    session = open_session(bundle, backend)
    load_ms = round((time.perf_counter() - start) * 1e3, 1)
    rows = []
    try:
        for batch in batches:
            shape = (batch, *bundle.manifest.input_size, 3)
            feeds = {"images": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)}
            latency = summarise(time_calls(partial(session.run, feeds), budget))
            rows.append(Row(backend, batch, latency, round(batch * 1e3 / latency.p50, 2), load_ms, peak_memory_mb()))
    finally:
        session.close()
    return rows


def _table_row(row: Row) -> tuple[str, ...]:
    latency = row.latency
    peak = "-" if row.peak_mb is None else f"{row.peak_mb:.0f}"
    times = tuple(f"{value:.2f}" for value in (latency.p50, latency.p95, latency.p99))
    speed = f"{row.crops_per_second:.1f}"
    return (row.backend, str(row.batch), *times, speed, f"{row.load_ms:.0f}", peak, str(latency.count))


def plot(report: BenchReport, path: Path) -> None:
    """Draw latency per crop and crops per second against the batch size, one line a backend, to a PNG.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "export") from error
    figure = Figure(figsize=(10, 4), layout="constrained")  # without pyplot there is no window and no global state
    per_crop, speed = figure.subplots(1, 2)
    for backend in dict.fromkeys(row.backend for row in report.rows):
        rows = [row for row in report.rows if row.backend == backend]
        sizes = [row.batch for row in rows]
        per_crop.plot(sizes, [row.latency.p50 / row.batch for row in rows], marker="o", label=backend)
        speed.plot(sizes, [row.crops_per_second for row in rows], marker="o", label=backend)
    batches = sorted({row.batch for row in report.rows})
    for axes, title in ((per_crop, "median ms per crop"), (speed, "crops per second")):
        axes.set(title=title, xlabel="batch", ylim=(0, None), xticks=batches)
        axes.grid(alpha=0.3)
        if report.rows:
            axes.legend()
    figure.suptitle(report.bundle.manifest.name)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
