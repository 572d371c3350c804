"""The command ``run``: read a source, estimate poses, and write files."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..bundle.bundle import open_bundle
from ..core.boxes import check_threshold
from ..core.errors import UsageError
from ..core.machine import versions
from ..core.timing import Latency
from ..detectors.kinds import open_finder
from .pose import load
from .runners import Policy, run_inline, run_threaded
from .sinks import open_sinks
from .sources import open_source
from .stages import Draw, person_stages
from .tally import Tally
from .track import CONFIDENT


@dataclass(frozen=True)
class RunSummary:
    """The figures of a run.

    Attributes:
        frames, people: number of frames, including ``dropped``, and of poses in all of them.
        skipped: number of damaged images that were left out.
        dropped: number of frames that were too late to be processed.
        seconds: wall-clock time from the first frame on.
        stages: milliseconds per frame by name of :data:`edgepose.runtime.stages.STAGES`.
        backend, precision: those of the pose network.
        detector: backend and precision of the detector, such as ``openvino int8``; empty without one.
    """

    frames: int
    people: int
    skipped: int
    dropped: int
    seconds: float
    stages: dict[str, Latency]
    backend: str
    precision: str
    detector: str

    def __str__(self) -> str:
        left_out = f"{self.skipped} images skipped" + (f", {self.dropped} frames dropped" if self.dropped else "")
        engines = f"{self.backend} {self.precision}" + (f", detector {self.detector}" if self.detector else "")
        lines = [f"{self.frames} frames, {self.people} people in {self.seconds:.1f} s ({left_out}), {engines}"]
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
        bundle, backend, precision: the pose network, as in :func:`edgepose.load`.
        source: as in :func:`edgepose.runtime.open_source`.
        detector: as in :func:`edgepose.open_detector`, or ``none`` to follow one person.
        detector_backend, detector_precision, detector_threshold: as in :func:`edgepose.open_detector`.
        threshold: least score of a joint that is drawn, from 0 to 1. The files of results hold all joints.
        save_video: video file, picture file, or folder for one picture per frame.
        save_json, save_coco: files for JSON lines and COCO results, or ``-`` for standard output.
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
        header = {"bundle": opened.manifest.name, "versions": versions("edgepose")}
        outputs = {"video": save_video, "json_lines": save_json, "coco": save_coco}
        sinks = open_sinks(**outputs, source=frames, skeleton=opened.skeleton, header=header)
        for sink in sinks:
            stack.callback(sink.close)
        estimator = stack.enter_context(load(opened, backend, precision, self_check=self_check))
        finder = open_finder(detector, detector_backend, detector_precision, detector_threshold, self_check)
        stages = person_stages(estimator, finder)
        if save_video is not None:
            stages.append(Draw(opened.skeleton, threshold))
        for stage in stages:
            stack.callback(stage.close)
        tally = Tally()
        start = time.perf_counter()
        if threads:
            policy = Policy.DEADLINE if deadline_ms is not None else Policy.NEWEST if frames.live else Policy.KEEP
            run_threaded([frames], stages, [*sinks, tally], policy=policy, deadline_ms=deadline_ms, limit=limit)
        else:
            run_inline(frames, stages, [*sinks, tally], limit)
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
