"""The command ``run``: read a source, estimate poses, and write files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..bundle.bundle import Bundle, open_bundle
from ..core.boxes import check_threshold
from ..core.errors import UsageError
from ..core.machine import versions
from ..detectors.kinds import open_finder
from .pose import load
from .runners import Policy, run_inline, run_threaded
from .sinks import Sink, open_sinks
from .sources import Source, open_source
from .stages import Draw, Stage, person_stages
from .tally import StageSummary, Tally
from .track import CONFIDENT


@dataclass(frozen=True)
class RunSummary:
    """The figures of a run.

    Attributes:
        frames: number of frames, including ``dropped``.
        people: number of poses in all frames.
        skipped: number of damaged images that were left out.
        dropped: number of frames that were too late to be processed.
        seconds: wall-clock time from the first frame on.
        stages: milliseconds per frame by stage; see :data:`edgepose.runtime.stages.STAGES`.
        backend, precision: backend and precision of the pose network.
        detector: backend and precision of the detector, such as ``openvino int8``; empty without one.
    """

    frames: int
    people: int
    skipped: int
    dropped: int
    seconds: float
    stages: dict[str, StageSummary]
    backend: str
    precision: str
    detector: str

    def __str__(self) -> str:
        left_out = f"{self.skipped} images skipped" + (f", {self.dropped} frames dropped" if self.dropped else "")
        lines = [
            f"{self.frames} frames, {self.people} people in {self.seconds:.1f} s ({left_out}), "
            f"{self.backend} {self.precision}{f', detector {self.detector}' if self.detector else ''}"
        ]
        lines.append(f"{'ms per frame':<12}{'p50':>8}{'p95':>8}{'p99':>8}")
        lines += [f"{name:<12}{s.p50:>8.2f}{s.p95:>8.2f}{s.p99:>8.2f}" for name, s in self.stages.items()]
        return "\n".join(lines)


def run(
    bundle: Path | str,
    source: str,
    *,
    detector: Path | str = "none",
    backend: str = "auto",
    precision: str = "auto",
    detector_backend: str = "auto",
    detector_precision: str = "auto",
    detector_threshold: float | None = None,
    threshold: float = CONFIDENT,
    save_video: Path | str | None = None,
    save_json: Path | str | None = None,
    save_coco: Path | str | None = None,
    limit: int | None = None,
    threads: bool = False,
    deadline_ms: float | None = None,
    self_check: bool = True,
) -> RunSummary:
    """Estimate the poses in a source and write them to files.

    Args:
        bundle: the model bundle.
        source: see :func:`edgepose.runtime.sources.open_source`.
        detector: bundle of a detector (``edgepose import``), an ONNX file, or ``person_lite`` for the shipped detector;
            ``none`` follows one person.
        backend, precision: backend and precision of the pose network, as in :func:`edgepose.load`.
        detector_backend, detector_precision: the same for the detector, see
            :func:`edgepose.detectors.kinds.open_detector`.
        detector_threshold: least score of a person, from 0 to 1; None for the detector's default.
        threshold: least score of a joint that is drawn, from 0 to 1. The files of results hold all joints.
        save_video: video file, picture file, or folder for one picture per frame.
        save_json: JSON lines file, or ``-`` for standard output.
        save_coco: COCO results file, or ``-``.
        limit: stop after this many frames. Ctrl-C ends a live source in the same way.
        threads: run reading, each stage and writing in threads, for more frames per second. Results for files are the
            same; for a live source, other frames are processed, and each is older when it is written.
        deadline_ms: with ``threads``, milliseconds from reading a frame until its result is useless. A late frame is
            written without people and marked as dropped. None for no deadline.
        self_check: replay goldens if that was not done on this machine yet.

    Raises:
        UsageError: an argument or an input is wrong; an input may fail midway, and the files hold the frames before.
        CheckError: the network does not reproduce its goldens here, before any frame; or its outputs hold NaN or
            infinity, and the files hold the frames before.
    """
    _check_options(limit, threshold, threads, deadline_ms)
    with ExitStack() as stack:
        frames = stack.enter_context(open_source(source))
        opened = open_bundle(bundle)
        sinks = _open_sinks(opened, frames, save_video, save_json, save_coco)
        for sink in sinks:
            stack.callback(sink.close)
        estimator = stack.enter_context(load(opened, backend, precision, self_check=self_check))
        finder = open_finder(
            detector,
            detector_backend,
            precision=detector_precision,
            threshold=detector_threshold,
            self_check=self_check,
        )
        stages = person_stages(estimator, finder)
        if save_video is not None:
            stages.append(Draw(opened.skeleton, threshold))
        for stage in stages:
            stack.callback(stage.close)
        tally = Tally()
        start = time.perf_counter()
        _pass_through(frames, stages, [*sinks, tally], limit, threads, deadline_ms)
        seconds = time.perf_counter() - start
        counts = (tally.frames, tally.people, frames.skipped, tally.dropped)
        engines = (estimator.backend, estimator.precision, finder.engine if finder else "")
        return RunSummary(*counts, seconds, tally.summary(), *engines)


def _check_options(limit: int | None, threshold: float, threads: bool, deadline_ms: float | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, expected at least 1 frame")
    if deadline_ms is not None and not threads:
        raise UsageError(f"got a deadline of {deadline_ms:g} ms without threads, expected both: add --threads")
    check_threshold(threshold, "the threshold of joints")


def _open_sinks(
    bundle: Bundle, source: Source, video: Path | str | None, json_lines: Path | str | None, coco: Path | str | None
) -> list[Sink]:
    header = {"bundle": bundle.manifest.name, "versions": versions("edgepose")}
    skeleton = bundle.skeleton
    return open_sinks(video=video, json_lines=json_lines, coco=coco, source=source, skeleton=skeleton, header=header)


def _pass_through(
    source: Source,
    stages: Sequence[Stage],
    sinks: Sequence[Sink],
    limit: int | None,
    threads: bool,
    deadline_ms: float | None,
) -> None:
    if not threads:
        run_inline(source, stages, sinks, limit)
        return
    policy = Policy.DEADLINE if deadline_ms is not None else Policy.NEWEST if source.live else Policy.KEEP
    run_threaded([source], stages, sinks, policy=policy, deadline_ms=deadline_ms, limit=limit)
