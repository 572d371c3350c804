"""Measure the stages of a whole pipeline, from reading a frame to writing it into a video."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..backends.environment import environment
from ..bundle.bundle import Bundle
from ..core.errors import UsageError
from ..core.report import Report
from ..core.tables import text_table
from ..core.timing import Latency, summarise
from ..detectors.kinds import open_finder
from ..runtime.job import Frame, Job
from ..runtime.pose import load
from ..runtime.runners import run_inline
from ..runtime.sinks import open_sinks
from ..runtime.sources import Source, open_source
from ..runtime.stages import OWN_WORK, STAGES, Draw, person_stages

#: Number of frames before the measured ones: engines allocate memory in their first calls, and caches are cold.
_WARM_UP_FRAMES = 3


@dataclass(frozen=True)
class PipelineReport(Report):
    """The result of :func:`bench_pipeline`, in milliseconds per frame; ``str(report)`` is the table.

    Attributes:
        source, detector: source and detector, as given; the bundle, backend and precision are the pose network's.
        detector_engine: backend and precision of the detector, such as ``openvino int8``; empty without one.
        people: mean number of people per frame.
        stages: times by name in :data:`edgepose.runtime.stages.STAGES`; ``encode`` writes an MPEG-4 video.
        own_work, total: sum of the stages ``OWN_WORK``, the work around the two networks, and of all stages.
    """

    bundle: Bundle
    source: str
    detector: str
    backend: str
    precision: str
    detector_engine: str
    people: float
    stages: dict[str, Latency]
    own_work: Latency
    total: Latency

    def __str__(self) -> str:
        rows = {**self.stages, "around the networks": self.own_work, "total": self.total}
        cells = [(name, *(f"{ms:.2f}" for ms in (x.p50, x.p95, x.p99)), str(x.count)) for name, x in rows.items()]
        table = text_table(("stage", "p50 ms", "p95 ms", "p99 ms", "frames"), cells)
        speed = 1e3 / self.total.p50 if self.total.p50 else float("inf")
        ran = f"{self.people:.1f} people per frame, {self.backend} {self.precision}"
        ran += f", detector {self.detector_engine}" if self.detector_engine else ""
        return f"{table}\n{speed:.1f} frames/s at the median, {ran}"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with the versions, hashes and machine that they were measured with."""
        given = ("source", "detector", "backend", "precision", "detector_engine")
        return {
            "bundle": self.bundle.manifest.name,
            **{name: getattr(self, name) for name in given},
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
    precision: str = "auto",
    detector_backend: str = "auto",
    detector_precision: str = "auto",
) -> PipelineReport:
    """Measure the stages of a pipeline, from reading a frame to writing it into a video.

    A source that ends early starts again. For a camera or stream, ``decode`` includes waiting for the next frame.

    Args:
        source: see :func:`edgepose.runtime.sources.open_source`.
        detector: bundle or ONNX file of a detector, or ``none`` to follow one person.
        backend, precision: backend and precision of the pose network, as in :func:`edgepose.load`.
        frames: number of measured frames, after three that are not measured.
        detector_backend, detector_precision: likewise, as in :func:`edgepose.detectors.kinds.open_detector`.

    Raises:
        UsageError: ``frames`` is below 1, or the source, detector, backend or precision cannot be opened.
    """
    if frames < 1:
        raise UsageError(f"cannot measure {frames} frames: expected at least 1")
    with ExitStack() as stack:
        pictures = stack.enter_context(_Repeating(source))
        estimator = stack.enter_context(load(bundle, backend, precision))
        finder = open_finder(detector, detector_backend, precision=detector_precision)
        stages = [*person_stages(estimator, finder), Draw(estimator.skeleton)]
        for stage in stages:
            stack.callback(stage.close)
        video = Path(stack.enter_context(TemporaryDirectory())) / "bench.mp4"
        sinks = open_sinks(
            video=video, json_lines=None, coco=None, source=pictures, skeleton=estimator.skeleton, header={}
        )
        for sink in sinks:
            stack.callback(sink.close)
        collected = _Collected()
        run_inline(pictures, stages, [*sinks, collected], _WARM_UP_FRAMES + frames)
    times = collected.ms[_WARM_UP_FRAMES:]
    samples = {name: [ms[name] for ms in times if name in ms] for name in STAGES}
    return PipelineReport(
        bundle,
        source,
        Path(detector).name,
        estimator.backend,
        estimator.precision,
        finder.engine if finder else "",
        people=float(np.mean(collected.people[_WARM_UP_FRAMES:])),
        stages={name: summarise(ms) for name, ms in samples.items() if ms},
        own_work=_sums(times, OWN_WORK),
        total=_sums(times, STAGES),
    )


class _Repeating(Source):
    """A source that starts again when it ends."""

    def __init__(self, spec: str) -> None:
        self._spec, self._opened = spec, open_source(spec)
        self.camera = self._opened.camera

    def __iter__(self) -> Iterator[Frame]:
        while True:
            yield from self._opened
            self._opened.close()
            self._opened = open_source(self._spec)

    def close(self) -> None:
        self._opened.close()


class _Collected:
    """A sink that collects the times and the number of people of every frame."""

    def __init__(self) -> None:
        self.ms: list[dict[str, float]] = []
        self.people: list[int] = []

    def write(self, job: Job) -> None:
        self.ms.append(job.ms)  # not a copy: the time of the sinks is added later
        self.people.append(len(job.people or ()))

    def close(self) -> None:
        """Do nothing: the figures stay."""


def _sums(times: Iterable[dict[str, float]], stages: Collection[str]) -> Latency:
    """Return the percentiles of the sum of several stages in each frame."""
    return summarise([sum(ms.get(stage, 0.0) for stage in stages) for ms in times])
