"""From a frame to the people in it, with every stage timed."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..core.images import check_image
from ..core.pose import People, nobody, people_from_crops
from ..detectors.detector import Detector
from .pose import PoseEstimator
from .track import IdAssigner, RegionTracker

#: Stages in the order a frame passes them. ``detect`` and ``infer`` are the two networks; the five others between
#: ``decode`` (reading the source) and ``encode`` (writing the files) are the runtime's own work around them.
STAGES = ("decode", "letterbox", "detect", "boxes", "crop", "infer", "keypoints", "draw", "encode")
OWN_WORK = ("letterbox", "boxes", "crop", "keypoints", "draw")

#: Frames whose times are kept: enough for a p99, bounded on a camera that runs for weeks.
_KEPT = 10_000


@dataclass(frozen=True)
class StageSummary:
    """Milliseconds of one stage over the frames that went through it."""

    frames: int
    mean: float
    p50: float
    p95: float
    p99: float


class StageTimes:
    """Milliseconds by stage, of the last 10,000 frames."""

    def __init__(self) -> None:
        self._ms: defaultdict[str, deque[float]] = defaultdict(partial(deque, maxlen=_KEPT))

    def add(self, stage: str, milliseconds: float) -> None:
        self._ms[stage].append(milliseconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as one pass of a stage; a body that raises is not counted."""
        start = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - start) * 1000)

    def summary(self) -> dict[str, StageSummary]:
        """Percentiles of every stage that ran, in the order of :data:`STAGES`."""
        return {
            name: StageSummary(len(ms), float(np.mean(ms)), *(float(p) for p in np.percentile(ms, (50, 95, 99))))
            for name in (*STAGES, *sorted(self._ms.keys() - set(STAGES)))
            if (ms := self._ms.get(name))
        }


class Pipeline:
    """Detector, pose network and tracking for the frames of one source, in order.

    Args:
        estimator: the pose network.
        detector: finds the persons; None follows one person from the last pose, and finds nobody in a frame where
            too few joints are seen.
    """

    def __init__(self, estimator: PoseEstimator, detector: Detector | None = None) -> None:
        self.estimator, self.detector = estimator, detector
        self.times = StageTimes()
        self._region = RegionTracker()
        self._ids = IdAssigner()

    def process(self, image: NDArray[np.uint8]) -> People:
        """Find the people in the next frame (H, W, 3) uint8 RGB; ids are set.

        Raises:
            UsageError: not such an image.
            CheckError: a network gave numbers that are not finite.
        """
        check_image(image)
        if self.detector is None:
            boxes, ids = self._region.boxes(image.shape[:2]), [1]
        else:
            boxes, ids = self._detect(image, self.detector)
        with self.times.stage("crop"):
            crops, inverses = self.estimator.crop(image, boxes)
        with self.times.stage("infer"):
            keypoints = self.estimator.infer(crops)
        with self.times.stage("keypoints"):
            people = replace(people_from_crops(keypoints, inverses, boxes), ids=np.array(ids, np.int64))
            if self.detector is None and not self._region.update(people[0]):
                return nobody(len(self.estimator.skeleton.joints))
        return people

    def _detect(self, image: NDArray[np.uint8], detector: Detector) -> tuple[NDArray[np.float64], list[int]]:
        with self.times.stage("letterbox"):
            feeds = detector.prepare(image)
        with self.times.stage("detect"):
            outputs = detector.infer(feeds)
        with self.times.stage("boxes"):
            boxes = detector.finish(outputs, image.shape[:2]).boxes
            return boxes, self._ids.assign(boxes)
