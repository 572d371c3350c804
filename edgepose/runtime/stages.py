"""The stages that a frame passes: find the persons, estimate their poses, number them, draw them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np

from ..core.boxes import check_threshold
from ..core.pose import nobody, people_from_crops, people_in_boxes
from ..core.skeletons import Skeleton
from ..detectors.detector import Detector
from .crop import Crops
from .draw import draw_poses
from .job import Job
from .pose import PoseEstimator
from .track import CONFIDENT, OneTracker, OverlapTracker, RegionTracker, Tracker

#: What is timed of a frame, in order. ``detect`` and ``infer`` are the two networks; the five others between ``decode``
#: (reading the source) and ``encode`` (writing the files) are the runtime's own work around them. Numbering the people
#: counts as ``keypoints``.
STAGES = ("decode", "letterbox", "detect", "boxes", "crop", "infer", "keypoints", "draw", "encode")
OWN_WORK = ("letterbox", "boxes", "crop", "keypoints", "draw")


class Stage(Protocol):
    """A step on the way of every frame. It serves one thread at a time.

    Attributes:
        name: of the step, for messages.
    """

    name: str

    def run(self, jobs: list[Job]) -> None:
        """Do the step for one frame each of one or several cameras, and add its milliseconds to each job.

        A network takes them in one batch. What a stage remembers from frame to frame, it keeps by ``frame.camera``, and
        forgets it where a frame does not follow the one before it.
        """
        ...

    def close(self) -> None:
        """Free what the stage holds; it cannot run afterwards."""
        ...


@contextmanager
def timed(jobs: Sequence[Job], name: str) -> Iterator[None]:
    """Add the milliseconds of the body to jobs under a name of :data:`STAGES`, the same share to each.

    A body that raises is not counted.
    """
    start = time.perf_counter()
    yield
    share = (time.perf_counter() - start) * 1000 / len(jobs)
    for job in jobs:
        job.ms[name] = job.ms.get(name, 0.0) + share


class Find:
    """Finds the persons in each frame: ``job.people`` with boxes and no joints.

    Args:
        detector: owned by the stage from here on.
    """

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


class Estimate:
    """Estimates the poses of the people that were found, those of all jobs in one batch.

    Args:
        estimator: owned by the stage from here on.
    """

    name = "estimate"

    def __init__(self, estimator: PoseEstimator) -> None:
        self._estimator = estimator

    def run(self, jobs: list[Job]) -> None:
        cut = [self._crop(job) for job in jobs]
        with timed(jobs, "infer"):
            pixels = [crops.pixels for crops in cut]
            keypoints = self._estimator.infer(np.concatenate(pixels) if len(pixels) > 1 else pixels[0])
        ends = np.cumsum([len(crops.pixels) for crops in cut])
        for job, crops, own in zip(jobs, cut, np.split(keypoints, ends[:-1]), strict=True):
            assert job.people is not None
            with timed([job], "keypoints"):
                job.people = people_from_crops(own, crops.inverses, job.people.boxes)

    def _crop(self, job: Job) -> Crops:
        assert job.people is not None, "a stage that finds people comes before the one that estimates their poses"
        with timed([job], "crop"):
            return self._estimator.cropper(job.frame.image, job.people.boxes)

    def close(self) -> None:
        self._estimator.close()


class Follow:
    """Finds and estimates one person for each camera, without a detector: where the last pose was, at first everywhere.

    These are one stage because a frame is searched only when the pose of the one before it is known. Nobody is found in
    a frame where too few joints are seen.

    Args:
        estimator: owned by the stage from here on.
    """

    name = "follow"

    def __init__(self, estimator: PoseEstimator) -> None:
        self._estimate = Estimate(estimator)
        self._nobody = nobody(len(estimator.skeleton.joints))
        self._regions: defaultdict[str, RegionTracker] = defaultdict(RegionTracker)

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            if not job.frame.follows:
                self._regions.pop(job.frame.camera, None)
            job.people = people_in_boxes(self._regions[job.frame.camera].boxes(job.frame.image.shape[:2]))
        self._estimate.run(jobs)
        for job in jobs:
            assert job.people is not None
            with timed([job], "keypoints"):
                if not self._regions[job.frame.camera].update(job.people[0]):
                    job.people = self._nobody

    def close(self) -> None:
        self._estimate.close()


class Track:
    """Gives people their ids; no id of a camera is ever given to somebody else.

    Args:
        make_tracker: called for each camera, and again where a frame does not follow the one before it.
    """

    name = "track"

    def __init__(self, make_tracker: Callable[[], Tracker]) -> None:
        self._make_tracker = make_tracker
        self._trackers: dict[str, Tracker] = {}
        #: By camera, the highest id so far, and the one that its present tracker counts from.
        self._highest: defaultdict[str, int] = defaultdict(int)
        self._base: dict[str, int] = {}

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            assert job.people is not None, "a stage that finds people comes before the one that numbers them"
            with timed([job], "keypoints"):
                camera = job.frame.camera
                if camera not in self._trackers or not job.frame.follows:
                    self._trackers[camera], self._base[camera] = self._make_tracker(), self._highest[camera]
                ids = self._trackers[camera].update(job.frame.time, job.people) + self._base[camera]
                self._highest[camera] = max(self._highest[camera], int(ids.max(initial=0)))
                job.people = replace(job.people, ids=ids)

    def close(self) -> None:
        """There is nothing to free."""


class Draw:
    """Draws the people on a copy of the frame, which takes its place.

    Args:
        skeleton: names joints and bones.
        threshold: least score of a joint that is drawn, from 0 to 1.

    Raises:
        UsageError: the threshold is no score.
    """

    name = "draw"

    def __init__(self, skeleton: Skeleton, threshold: float = CONFIDENT) -> None:
        check_threshold(threshold, "the threshold of joints")
        self._skeleton, self._threshold = skeleton, threshold

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            with timed([job], "draw"):
                drawn = draw_poses(job.frame.image, job.people or (), self._skeleton, self._threshold)
                job.frame = replace(job.frame, image=drawn)

    def close(self) -> None:
        """There is nothing to free."""


def person_stages(estimator: PoseEstimator, detector: Detector | None) -> list[Stage]:
    """Return the stages from a frame to numbered people: by a detector, or else following one person."""
    if detector is None:
        return [Follow(estimator), Track(OneTracker)]
    return [Find(detector), Estimate(estimator), Track(OverlapTracker)]
