"""The stages of a pipeline: find the persons, estimate their poses, track them, draw them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np

from ..core.boxes import check_threshold
from ..core.pose import nobody, people_from_crops, people_in_boxes
from ..core.skeletons import Skeleton
from ..detectors.detector import Detector
from .draw import draw_poses
from .job import Job
from .pose import PoseEstimator
from .track import CONFIDENT, OneTracker, OverlapTracker, RegionTracker

#: Names of the timed steps, in order. ``decode`` reads the source, ``encode`` writes the files, ``detect`` and
#: ``infer`` are the two networks, and OWN_WORK is the runtime's own work. Tracking counts as ``keypoints``.
STAGES = ("decode", "letterbox", "detect", "boxes", "crop", "infer", "keypoints", "draw", "encode")
OWN_WORK = ("letterbox", "boxes", "crop", "keypoints", "draw")


class Stage(Protocol):
    """A step of the pipeline, for one thread at a time; ``name`` is used in messages."""

    name: str

    def run(self, jobs: list[Job]) -> None:
        """Process jobs with at most one frame per camera, in one batch, and add the milliseconds to each job.

        State between frames is kept per ``frame.camera``, and reset where ``frame.follows`` is False.
        """

    def close(self) -> None:
        """Free the stage's resources, if it has any; it cannot run afterwards."""
        return


@contextmanager
def timed(jobs: Sequence[Job], name: str) -> Iterator[None]:
    """Add the milliseconds of the body, in equal shares, to jobs under a name of :data:`STAGES`, unless it raises."""
    start = time.perf_counter()
    yield
    share = (time.perf_counter() - start) * 1000 / len(jobs)
    for job in jobs:
        job.ms[name] = job.ms.get(name, 0.0) + share


class Find(Stage):
    """The stage that finds the persons: boxes without joints. It owns the detector."""

    name = "find"

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            image = job.frame.image
            with timed([job], "letterbox"):
                feeds = self._detector.prepare(image)
            with timed([job], "detect"):
                outputs = self._detector.infer(feeds)
            with timed([job], "boxes"):
                job.people = people_in_boxes(self._detector.finish(outputs, image.shape[:2]).boxes)

    def close(self) -> None:
        self._detector.close()


class Estimate(Stage):
    """The stage that estimates the poses in ``job.people``, for all jobs in one batch. It owns the estimator."""

    name = "estimate"

    def __init__(self, estimator: PoseEstimator) -> None:
        self._estimator = estimator

    def run(self, jobs: list[Job]) -> None:
        cut = []
        for job in jobs:
            assert job.people is not None, "put a stage that finds people before the one that estimates their poses"
            with timed([job], "crop"):
                cut.append(self._estimator.cropper(job.frame.image, job.people.boxes))
        with timed(jobs, "infer"):
            pixels = [crops.pixels for crops in cut]
            keypoints = self._estimator.infer(np.concatenate(pixels) if len(pixels) > 1 else pixels[0])
        ends = np.cumsum([len(crops.pixels) for crops in cut])
        for job, crops, own in zip(jobs, cut, np.split(keypoints, ends[:-1]), strict=True):
            assert job.people is not None
            with timed([job], "keypoints"):
                job.people = people_from_crops(own, crops.inverses, job.people.boxes)

    def close(self) -> None:
        self._estimator.close()


class Follow(Estimate):
    """The stage that follows one person per camera without a detector.

    It estimates the pose around the last pose, at first in the whole frame. A frame with too few visible joints has no
    people.
    """

    name = "follow"

    def __init__(self, estimator: PoseEstimator) -> None:
        super().__init__(estimator)
        self._nobody = nobody(len(estimator.skeleton.joints))
        self._regions: defaultdict[str, RegionTracker] = defaultdict(RegionTracker)

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            if not job.frame.follows:
                self._regions.pop(job.frame.camera, None)
            job.people = people_in_boxes(self._regions[job.frame.camera].boxes(job.frame.image.shape[:2]))
        super().run(jobs)
        for job in jobs:
            assert job.people is not None
            with timed([job], "keypoints"):
                if not self._regions[job.frame.camera].update(job.people[0]):
                    job.people = self._nobody


class Track(Stage):
    """The stage that gives people ids, never reused within a camera; each sequence of frames gets a new tracker."""

    name = "track"

    def __init__(self, make_tracker: type[OverlapTracker | OneTracker]) -> None:
        self._make_tracker = make_tracker
        self._trackers: dict[str, OverlapTracker | OneTracker] = {}
        #: For each camera, the highest id so far, and the offset of its present tracker's ids.
        self._highest: defaultdict[str, int] = defaultdict(int)
        self._base: dict[str, int] = {}

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            assert job.people is not None, "put a stage that finds people before the one that tracks them"
            with timed([job], "keypoints"):
                camera = job.frame.camera
                if camera not in self._trackers or not job.frame.follows:
                    self._trackers[camera], self._base[camera] = self._make_tracker(), self._highest[camera]
                ids = self._trackers[camera].update(job.people) + self._base[camera]
                self._highest[camera] = max(self._highest[camera], int(ids.max(initial=0)))
                job.people = replace(job.people, ids=ids)


class Draw(Stage):
    """The stage that replaces each frame by a copy with the people drawn on it; UsageError for a wrong threshold."""

    name = "draw"

    def __init__(self, skeleton: Skeleton, threshold: float = CONFIDENT) -> None:
        check_threshold(threshold, "the threshold of joints")
        self._skeleton, self._threshold = skeleton, threshold

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            with timed([job], "draw"):
                drawn = draw_poses(job.frame.image, job.people or (), self._skeleton, self._threshold)
                job.frame = replace(job.frame, image=drawn)


def person_stages(estimator: PoseEstimator, detector: Detector | None) -> list[Stage]:
    """Return the stages that find, estimate and track people, with a detector or, if None, following one person."""
    if detector is None:
        return [Follow(estimator), Track(OneTracker)]
    return [Find(detector), Estimate(estimator), Track(OverlapTracker)]
