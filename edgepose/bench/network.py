"""Measure the latency of a network per batch, on each engine.

Each backend and precision is measured in a fresh process. Otherwise the memory of one would count for the next, thread
pools would compete, and load times would depend on the order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.environment import environment
from ..backends.plan import Runner, plan
from ..bundle.bundle import Bundle
from ..bundle.contract import IMAGES
from ..core.errors import UsageError, missing_extra
from ..core.files import atomic_path, is_stream
from ..core.machine import peak_memory_mb
from ..core.report import Report
from ..core.tables import text_table
from ..core.timing import Budget, Latency, summarise, time_calls

BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Row:
    """The figures of one runner at one batch size; latencies are in milliseconds per call, speed is at the median.

    ``load_ms`` is for opening the session, including the engine's import and compilation. ``peak_mb`` is the peak
    resident memory of the backend's process until the end of this row, in 10^6 bytes, with Python and without GPU
    memory; None where the system does not report it (only Linux does).
    """

    runner: Runner
    batch: int
    latency: Latency
    images_per_second: float
    load_ms: float
    peak_mb: float | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "backend": self.runner.backend,
            "precision": self.runner.precision,
            "batch": self.batch,
            "latency": asdict(self.latency),
            f"{self.runner.bundle.task.image}s_per_second": self.images_per_second,
            "load_ms": self.load_ms,
            "peak_mb": self.peak_mb,
        }


@dataclass(frozen=True)
class BenchReport(Report):
    """The result of :func:`bench`; ``str(report)`` is the table. ``skipped`` holds reasons by name of a runner."""

    bundle: Bundle
    rows: tuple[Row, ...]
    skipped: dict[str, str]
    budget: Budget

    def __str__(self) -> str:
        times, speed = ("p50 ms", "p95 ms", "p99 ms"), f"{self.bundle.task.image}s/s"
        head = ("backend", "precision", "batch", *times, speed, "load ms", "peak MB", "calls")
        lines = [text_table(head, [_table_row(row) for row in self.rows])]
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with the versions, hashes and machine that they were measured with."""
        return {
            "bundle": self.bundle.manifest.name,
            "rows": [row.to_json() for row in self.rows],
            "skipped": self.skipped,
            "budget": asdict(self.budget),
            "files": self.bundle.manifest.files,
            "environment": environment(),
        }

    def save(self, path: Path) -> None:
        """Write the JSON, and a plot (``.png``) beside it if it is a file and matplotlib is installed."""
        super().save(path)
        if "plot" not in self.skipped and not is_stream(path):
            plot(self, path.with_suffix(".png"))


def bench(
    bundle: Bundle,
    backends: Sequence[str] | None = None,
    batches: Sequence[int] = BATCHES,
    budget: Budget | None = None,
    precisions: Sequence[str] | None = None,
) -> BenchReport:
    """Measure the network of a bundle; nothing is written.

    Args:
        backends: names; None or ``["all"]`` for all that can run here, with the others in ``skipped``.
        batches: images per call.
        budget: duration of each measurement; None for the defaults of :class:`Budget`.
        precisions: names; None or ``["all"]`` for all that the bundle has and a backend can run.

    Raises:
        UsageError: a batch is below 1, or a named backend or precision cannot run here, or not at a batch size.
    """
    batches, budget = tuple(sorted(set(batches))), budget or Budget()
    if not batches or batches[0] < 1:
        raise UsageError(f"cannot measure batches {list(batches)}: expected whole numbers from 1 up")
    found = plan(bundle, backends, precisions)
    skipped, named = dict(found.skipped), backends is not None and list(backends) != ["all"]
    rows: list[Row] = []
    for runner in found.runners:
        try:
            rows += _in_fresh_process(runner, batches, budget)
        except UsageError as error:
            if named:
                raise
            skipped[str(runner)] = str(error)
    if find_spec("matplotlib") is None:  # a device without it still gets its numbers
        skipped["plot"] = str(missing_extra("matplotlib"))
    return BenchReport(bundle, tuple(rows), skipped, budget)


def _in_fresh_process(runner: Runner, batches: Sequence[int], budget: Budget) -> list[Row]:
    # "spawn" starts a new interpreter; a forked one would begin with this process's memory and threads.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, runner, batches, budget).result()
        except BrokenProcessPool as error:
            raise UsageError(
                f"the process that measured {runner.backend} in {runner.precision} ended (out of memory, or a fault in "
                f"the engine): try batches below {max(batches)}"
            ) from error


def measure(runner: Runner, batches: Sequence[int], budget: Budget) -> list[Row]:
    """Measure one runner in this process at ascending batch sizes, on noise; raise UsageError if it refuses one."""
    start = time.perf_counter()
    session = runner.open()
    load_ms = round((time.perf_counter() - start) * 1e3, 1)
    rows = []
    with closing(session):
        for batch in batches:
            shape = (batch, *runner.bundle.manifest.input_size, 3)
            feeds = {IMAGES: np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)}
            latency = summarise(time_calls(partial(session.run, feeds), budget))
            speed = round(batch * 1e3 / latency.p50, 2)
            rows.append(Row(runner, batch, latency, speed, load_ms, peak_memory_mb()))
    return rows


def _table_row(row: Row) -> tuple[str, ...]:
    latency, peak = row.latency, "-" if row.peak_mb is None else f"{row.peak_mb:.0f}"
    times = tuple(f"{value:.2f}" for value in (latency.p50, latency.p95, latency.p99))
    first = (row.runner.backend, row.runner.precision, str(row.batch), *times, f"{row.images_per_second:.1f}")
    return (*first, f"{row.load_ms:.0f}", peak, str(latency.count))


def plot(report: BenchReport, path: Path) -> None:
    """Plot latency and images per second over the batch size into a PNG file; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib") from error
    figure = Figure(figsize=(10, 4), layout="constrained")  # without pyplot there is no window and no global state
    image = report.bundle.task.image
    each, speed = figure.subplots(1, 2)
    for name in dict.fromkeys(str(row.runner) for row in report.rows):
        rows = [row for row in report.rows if str(row.runner) == name]
        sizes = [row.batch for row in rows]
        each.plot(sizes, [row.latency.p50 / row.batch for row in rows], marker="o", label=name)
        speed.plot(sizes, [row.images_per_second for row in rows], marker="o", label=name)
    batches = sorted({row.batch for row in report.rows})
    for axes, title in ((each, f"median ms per {image}"), (speed, f"{image}s per second")):
        axes.set(title=title, xlabel="batch", ylim=(0, None), xticks=batches)
        axes.grid(alpha=0.3)
        if report.rows:
            axes.legend()
    figure.suptitle(report.bundle.manifest.name)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
