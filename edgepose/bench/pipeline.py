"""Bench a whole pipeline: where the time of a frame goes, from reading it to writing it into a video."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..backends.environment import environment
from ..bundle.bundle import Bundle
from ..core.errors import UsageError
from ..core.files import write_text
from ..core.tables import text_table
from ..core.timing import Latency, summarise
from ..detectors.kinds import open_detector
from ..runtime.draw import draw_poses
from ..runtime.job import Frame as JobFrame
from ..runtime.job import Job
from ..runtime.pipeline import OWN_WORK, STAGES, Pipeline, StageTimes
from ..runtime.pose import load
from ..runtime.sinks import Sink, VideoSink
from ..runtime.sinks.video import DEFAULT_FPS
from ..runtime.sources import Frame, open_source

#: Frames that run before the measured ones: engines allocate in their first calls, and caches are cold.
_WARM_UP_FRAMES = 3


@dataclass(frozen=True)
class PipelineReport:
    """What :func:`bench_pipeline` measured, in milliseconds a frame; ``str(report)`` is the table.

    Attributes:
        bundle: the pose network.
        source, detector, backend, precision: what ran.
        detector_engine: what ran the detector, such as ``openvino int8``; empty without one.
        people: mean number of people in a frame.
        stages: by stage, see :data:`edgepose.runtime.pipeline.STAGES`; ``encode`` writes an MPEG-4 video.
        own_work: what the runtime does around the two networks, the sum of ``OWN_WORK`` in each frame.
        total: the sum of all stages in each frame.
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
        ran = f"{self.people:.1f} people a frame, {self.backend} {self.precision}"
        ran += f", detector {self.detector_engine}" if self.detector_engine else ""
        return f"{table}\n{speed:.1f} frames/s at the median, {ran}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the versions, hashes and machine that they hold for."""
        return {
            "bundle": self.bundle.manifest.name,
            "source": self.source,
            "detector": self.detector,
            "backend": self.backend,
            "precision": self.precision,
            "detector_engine": self.detector_engine,
            "people": round(self.people, 2),
            "stages": {name: asdict(latency) for name, latency in self.stages.items()},
            "own_work": asdict(self.own_work),
            "total": asdict(self.total),
            "files": self.bundle.manifest.files,
            "environment": environment(),
        }

    def write(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, json.dumps(self.to_json(), indent=2) + "\n")


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
    """Measure where the time of a frame goes, from reading it to writing it into a video.

    A source that ends early starts again. Of a camera or stream, ``decode`` includes waiting for the next frame.

    Args:
        bundle: an opened bundle.
        source: see :func:`edgepose.runtime.sources.open_source`.
        detector: bundle or ONNX file of a detector, or ``none`` to follow one person.
        backend: of the pose network.
        frames: how many are measured, after three that are not.
        precision: of the pose network, as in :func:`edgepose.load`.
        detector_backend, detector_precision: of the detector, see :func:`edgepose.detectors.kinds.open_detector`.

    Raises:
        UsageError: fewer than 1 frame, or a source, detector, backend or precision that cannot be opened.
    """
    if frames < 1:
        raise UsageError(f"cannot measure {frames} frames: expected at least 1")
    finder = (detector, detector_backend, detector_precision)
    (ran_on, ran_in, found_by), passes = _measure(bundle, source, finder, (backend, precision), frames)
    samples: defaultdict[str, list[float]] = defaultdict(list)
    for stages, _ in passes:
        for name, milliseconds in stages.items():
            samples[name].append(milliseconds)
    return PipelineReport(
        bundle,
        source,
        Path(detector).name,
        ran_on,
        ran_in,
        found_by,
        people=float(np.mean([people for _, people in passes])),
        stages={name: summarise(samples[name]) for name in STAGES if name in samples},
        own_work=summarise([sum(stages.get(name, 0.0) for name in OWN_WORK) for stages, _ in passes]),
        total=summarise([sum(stages.values()) for stages, _ in passes]),
    )


def _measure(
    bundle: Bundle, source: str, finder: tuple[Path | str, str, str], asked: tuple[str, str], frames: int
) -> tuple[tuple[str, str, str], list[tuple[dict[str, float], int]]]:
    """The backend, the precision and the detector's engine that ran, and what :func:`_time_frame` gives for each frame
    after the warm-up."""
    with ExitStack() as stack:
        estimator = stack.enter_context(load(bundle.path, *asked))
        detector, on, precision = finder
        found = None
        if str(detector) != "none":
            found = stack.enter_context(closing(open_detector(detector, on, precision=precision)))
        video = Path(stack.enter_context(TemporaryDirectory())) / "bench.mp4"
        sink = stack.enter_context(closing(VideoSink(video, DEFAULT_FPS)))
        pictures = stack.enter_context(closing(_again_and_again(source)))
        pipeline = Pipeline(estimator, found)
        passes = [_time_frame(pictures, pipeline, sink) for _ in range(_WARM_UP_FRAMES + frames)]
    return (estimator.backend, estimator.precision, found.engine if found else ""), passes[_WARM_UP_FRAMES:]


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
        sink.write(Job(JobFrame("", drawn.index, drawn.time, drawn.name, drawn.image), people=poses))
    return {name: stage.mean for name, stage in times.summary().items()}, len(poses)
