"""The main job: a source through a pipeline into files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ..bundle.bundle import open_bundle
from ..core.errors import UsageError
from ..detectors.kinds import open_detector
from .draw import draw_poses
from .job import Frame as JobFrame
from .job import Job
from .pipeline import Pipeline, StageSummary, StageTimes
from .pose import load
from .sinks import Sink, open_sinks
from .sources import Frame, Source, open_source


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        frames: frames processed.
        people: poses over all frames.
        skipped: damaged images that were left out.
        seconds: wall-clock time from the first frame on.
        stages: milliseconds a frame by stage; see :data:`edgepose.runtime.pipeline.STAGES`.
        backend, precision: what ran the pose network.
        detector: what ran the detector, such as ``openvino int8``; empty without one.
    """

    frames: int
    people: int
    skipped: int
    seconds: float
    stages: dict[str, StageSummary]
    backend: str
    precision: str
    detector: str

    def __str__(self) -> str:
        lines = [
            f"{self.frames} frames, {self.people} people in {self.seconds:.1f} s ({self.skipped} images skipped), "
            f"{self.backend} {self.precision}{f', detector {self.detector}' if self.detector else ''}"
        ]
        lines.append(f"{'ms a frame':<12}{'p50':>8}{'p95':>8}{'p99':>8}")
        lines += [f"{name:<12}{s.p50:>8.2f}{s.p95:>8.2f}{s.p99:>8.2f}" for name, s in self.stages.items()]
        return "\n".join(lines)


def run(
    bundle: Path | str,
    source: str,
    detector: Path | str = "none",
    backend: str = "auto",
    save_video: Path | str | None = None,
    save_json: Path | str | None = None,
    save_coco: Path | str | None = None,
    limit: int | None = None,
    precision: str = "auto",
    self_check: bool = True,
    detector_backend: str = "auto",
    detector_precision: str = "auto",
) -> RunSummary:
    """Estimate the poses in a source and write them to files.

    Args:
        bundle: the model bundle.
        source: see :func:`edgepose.runtime.sources.open_source`.
        detector: bundle of a detector (``edgepose import``); an ONNX file, or ``person_lite`` for the shipped one,
            which run on onnxruntime; or ``none`` to follow one person.
        backend: of the pose network.
        save_video: video file, picture file, or folder for one picture per frame.
        save_json: JSON lines file, or ``-`` for standard output.
        save_coco: COCO results file, or ``-``.
        limit: stop after this many frames. Ctrl-C ends a live source in the same orderly way.
        precision: of the pose network; with ``backend`` and ``self_check`` as in :func:`edgepose.load`.
        detector_backend, detector_precision: of the detector, see :func:`edgepose.detectors.kinds.open_detector`.

    Raises:
        UsageError: wrong input, also where it shows midway; the files then hold the frames until there.
        CheckError: the network does not give PyTorch's keypoints of the golden crops here, and no frame was processed;
            or it gave numbers that are not finite, and the files hold the frames until there.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, expected at least 1 frame")
    with ExitStack() as stack:
        frames = stack.enter_context(open_source(source))
        sinks = open_sinks(
            video=save_video,
            json_lines=save_json,
            coco=save_coco,
            source=frames,
            skeleton=open_bundle(bundle).skeleton,
            header={"bundle": Path(bundle).name},
        )
        for sink in sinks:
            stack.callback(sink.close)
        estimator = stack.enter_context(load(bundle, backend, precision, self_check=self_check))
        found = None
        if str(detector) != "none":
            found = open_detector(detector, detector_backend, precision=detector_precision, self_check=self_check)
            stack.callback(found.close)
        return _process(frames, Pipeline(estimator, found), sinks, draws=save_video is not None, limit=limit)


def _process(
    source: Source, pipeline: Pipeline, sinks: Sequence[Sink], *, draws: bool, limit: int | None
) -> RunSummary:
    times, skeleton = pipeline.times, pipeline.estimator.skeleton
    count = people = 0
    start = time.perf_counter()
    try:
        for frame in _timed(source, times):
            poses = pipeline.process(frame.image)
            if draws:
                with times.stage("draw"):
                    frame = replace(frame, image=draw_poses(frame.image, poses, skeleton))
            with times.stage("encode"):
                job = Job(JobFrame("", frame.index, frame.time, frame.name, frame.image), people=poses)
                for sink in sinks:
                    sink.write(job)
            count, people = count + 1, people + len(poses)
            if count == limit:
                break
    except KeyboardInterrupt:
        if not source.live:
            raise
    seconds, estimator = time.perf_counter() - start, pipeline.estimator
    return RunSummary(
        count,
        people,
        source.skipped,
        seconds,
        times.summary(),
        estimator.backend,
        estimator.precision,
        pipeline.detector.engine if pipeline.detector else "",
    )


def _timed(source: Iterable[Frame], times: StageTimes) -> Iterator[Frame]:
    """The frames of a source; waiting for one counts as ``decode``."""
    start = time.perf_counter()
    for frame in source:
        times.add("decode", (time.perf_counter() - start) * 1000)
        yield frame
        start = time.perf_counter()
