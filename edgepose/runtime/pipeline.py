"""The pipeline for programs that supply their own frames."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ..core.images import check_image
from ..core.pose import People
from ..detectors.detector import Detector
from .job import Frame, Job
from .pose import PoseEstimator
from .stages import person_stages


class Pipeline:
    """Detector, pose network and tracking for the frames of one camera, in order; for one thread at a time.

    Without a detector, it follows one person from pose to pose, and finds none in a frame with too few visible joints.

    Example::

        pipeline = Pipeline(load("ditn_lite.edgepose"), open_detector("person_lite"))
        people = pipeline.process(image_rgb)
    """

    def __init__(self, estimator: PoseEstimator, detector: Detector | None = None) -> None:
        self.estimator, self.detector = estimator, detector
        self._stages = person_stages(estimator, detector)
        self._count = 0

    def process(self, image: NDArray[np.uint8]) -> People:
        """Return the people in the next frame (H, W, 3) uint8 RGB, with ids.

        Raises:
            UsageError: the image has another shape or dtype.
            CheckError: the outputs of a network hold NaN or infinity.
        """
        check_image(image)
        job = Job(Frame("", self._count, time.monotonic(), "", image))
        for stage in self._stages:
            stage.run([job])
        self._count += 1
        assert job.people is not None
        return job.people
