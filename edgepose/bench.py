"""Bench: how long each engine takes per batch, and where the time of a whole pipeline goes.

Each backend is measured in a fresh process. Otherwise the memory of one would count for the next, thread pools would
compete, and a backend's load time would depend on which ran before it.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .bundle import Bundle
from .errors import UsageError, missing_extra
from .files import atomic_path, write_text
from .report import environment, text_table
from .runtime.backends import open_session
from .runtime.detect import open_detector
from .runtime.draw import draw_poses
from .runtime.pipeline import OWN_WORK, STAGES, Pipeline, StageTimes
from .runtime.pose import load
from .runtime.run import DEFAULT_FPS
from .runtime.sinks import Sink, VideoSink
from .runtime.sources import Frame, open_source
from .verify import choose_backends

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


def bench(
    bundle: Bundle,
    backends: Sequence[str] | None = None,
    batches: Sequence[int] = BATCHES,
    budget: Budget | None = None,
    json_path: Path | None = None,
) -> BenchReport:
    """Measure the network of a bundle, and write a JSON report with a plot (``.png``) beside it.

    Args:
        bundle: an opened bundle.
        backends: names; None or ``["all"]`` takes those that can run here and names the others in ``skipped``.
        batches: crops per call.
        budget: how long each backend and batch is measured; None for the defaults of :class:`Budget`.
        json_path: None for ``reports/bench.json`` in the bundle.

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
    report = BenchReport(bundle, tuple(rows), skipped, budget)
    json_path = json_path or bundle.reports / "bench.json"
    try:
        plot(report, json_path.with_suffix(".png"))
    except UsageError as error:  # a device without matplotlib still gets its numbers
        skipped["plot"] = str(error)
    write_text(json_path, json.dumps(report.to_json(), indent=2) + "\n")
    return report


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


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (10^6 bytes); None where there is no ``/proc``.

    Not ``getrusage``: Linux lets its maximum start at what the parent process had.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.is_file() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]  # in KiB
    return round(peaks[0] * 1024 / 1e6, 1) if peaks else None


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


#: Frames that run before the measured ones: engines allocate in their first calls, and caches are cold.
_WARM_UP_FRAMES = 3


@dataclass(frozen=True)
class PipelineReport:
    """What :func:`bench_pipeline` measured, in milliseconds a frame; ``str(report)`` is the table.

    Attributes:
        bundle: the pose network.
        source, detector, backend: what ran.
        people: mean number of people in a frame.
        stages: by stage, see :data:`edgepose.runtime.pipeline.STAGES`; ``encode`` writes an MPEG-4 video.
        own_work: what the runtime does around the two networks, the sum of ``OWN_WORK`` in each frame.
        total: the sum of all stages in each frame.
    """

    bundle: Bundle
    source: str
    detector: str
    backend: str
    people: float
    stages: dict[str, Latency]
    own_work: Latency
    total: Latency

    def __str__(self) -> str:
        rows = {**self.stages, "around the networks": self.own_work, "total": self.total}
        cells = [(name, *(f"{ms:.2f}" for ms in (x.p50, x.p95, x.p99)), str(x.count)) for name, x in rows.items()]
        table = text_table(("stage", "p50 ms", "p95 ms", "p99 ms", "frames"), cells)
        speed = 1e3 / self.total.p50 if self.total.p50 else float("inf")
        return f"{table}\n{speed:.1f} frames/s at the median, {self.people:.1f} people a frame, {self.backend}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the versions, hashes and machine that they hold for."""
        return {
            "bundle": self.bundle.manifest.name,
            "source": self.source,
            "detector": self.detector,
            "backend": self.backend,
            "people": round(self.people, 2),
            "stages": {name: asdict(latency) for name, latency in self.stages.items()},
            "own_work": asdict(self.own_work),
            "total": asdict(self.total),
            "files": self.bundle.manifest.files,
            "environment": environment(),
        }


def bench_pipeline(
    bundle: Bundle,
    source: str,
    detector: Path | str = "none",
    backend: str = "auto",
    frames: int = 100,
    json_path: Path | None = None,
) -> PipelineReport:
    """Measure where the time of a frame goes, from reading it to writing it into a video, and write a JSON report.

    A source that ends early starts again. Of a camera or stream, ``decode`` includes waiting for the next frame.

    Args:
        bundle: an opened bundle.
        source: see :func:`edgepose.runtime.sources.open_source`.
        detector: ONNX file of a detector, or ``none`` to follow one person.
        backend: of the pose network; the detector runs on onnxruntime.
        frames: how many are measured, after three that are not.
        json_path: None for ``reports/bench-pipeline.json`` in the bundle.

    Raises:
        UsageError: fewer than 1 frame, or a source, detector or backend that cannot be opened.
    """
    if frames < 1:
        raise UsageError(f"cannot measure {frames} frames: expected at least 1")
    with ExitStack() as stack:
        estimator = stack.enter_context(load(bundle.path, backend))
        found = None if str(detector) == "none" else stack.enter_context(closing(open_detector(detector)))
        video = Path(stack.enter_context(TemporaryDirectory())) / "bench.mp4"
        sink = stack.enter_context(closing(VideoSink(video, DEFAULT_FPS)))
        pictures = stack.enter_context(closing(_again_and_again(source)))
        pipeline = Pipeline(estimator, found)
        passes = [_time_frame(pictures, pipeline, sink) for _ in range(_WARM_UP_FRAMES + frames)][_WARM_UP_FRAMES:]
    samples: defaultdict[str, list[float]] = defaultdict(list)
    for stages, _ in passes:
        for name, milliseconds in stages.items():
            samples[name].append(milliseconds)
    report = PipelineReport(
        bundle,
        source,
        Path(detector).name,
        estimator.backend,
        people=float(np.mean([people for _, people in passes])),
        stages={name: summarise(samples[name]) for name in STAGES if name in samples},
        own_work=summarise([sum(stages.get(name, 0.0) for name in OWN_WORK) for stages, _ in passes]),
        total=summarise([sum(stages.values()) for stages, _ in passes]),
    )
    write_text(json_path or bundle.reports / "bench-pipeline.json", json.dumps(report.to_json(), indent=2) + "\n")
    return report


def _again_and_again(source: str) -> Generator[Frame, None, None]:
    while True:
        with open_source(source) as frames:
            yield from frames


def _time_frame(pictures: Iterator[Frame], pipeline: Pipeline, sink: Sink) -> tuple[dict[str, float], int]:
    """Milliseconds of each stage for the next frame, and the number of people in it."""
    # Fresh times for each frame: the sum over stages needs them frame by frame, not their percentiles.
    times = pipeline.times = StageTimes()
    with times.stage("decode"):
        frame = next(pictures)
    poses = pipeline.process(frame.image)
    with times.stage("draw"):
        drawn = replace(frame, image=draw_poses(frame.image, poses, pipeline.estimator.skeleton))
    with times.stage("encode"):
        sink.write(drawn, poses)
    return {name: stage.mean for name, stage in times.summary().items()}, len(poses)
