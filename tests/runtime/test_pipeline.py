"""One frame after another, with and without a detector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.runtime.pipeline import Pipeline
from edgepose.runtime.pose import PoseEstimator

from .conftest import FakeDetector


def test_detected_persons_keep_their_ids(
    estimator: PoseEstimator, session, paint: Callable, person: np.ndarray
) -> None:
    a, b = np.add(person, (20, 30)), np.add(person, (300, 60))
    box_a, box_b = [20.0, 30, 140, 210], [300.0, 60, 420, 240]
    picture = np.zeros((360, 480, 3), np.uint8)
    paint(picture, a)
    paint(picture, b)
    pipeline = Pipeline(estimator, FakeDetector([box_a, box_b], [box_b, box_a], []))
    first, second, third = (pipeline.process(picture) for _ in range(3))
    assert [p.track_id for p in first] == [1, 2]
    assert [p.track_id for p in second] == [2, 1]
    assert len(third) == 0
    np.testing.assert_allclose(first[0].keypoints[:, :2], a, atol=0.6)
    np.testing.assert_allclose(second[0].keypoints[:, :2], b, atol=0.6)
    assert third.ids.tolist() == []
    assert session.batches == [2, 2]


def test_without_a_detector_one_person_is_followed(
    estimator: PoseEstimator, paint: Callable, person: np.ndarray
) -> None:
    """The first look is at everything, the next at the person, whom it then finds more exactly."""
    pipeline = Pipeline(estimator)
    poses = []
    for step in range(3):
        picture = np.zeros((240, 200, 3), np.uint8)
        joints = np.add(person, (30 + 4 * step, 20))
        paint(picture, joints)
        (pose,) = pipeline.process(picture)
        np.testing.assert_allclose(pose.keypoints[:, :2], joints, atol=1)
        poses.append(pose)
    assert poses[0].box.tolist() == [0, 0, 200, 240]
    # The joints of the first frame span 100 x 160 pixels from (40, 30), plus a quarter of 160 around.
    np.testing.assert_allclose(poses[1].box, [0, -10, 180, 230], atol=2)
    np.testing.assert_allclose(poses[2].box, [4, -10, 184, 230], atol=2)
    assert [p.track_id for p in poses] == [1, 1, 1]


def test_nobody_is_found_in_a_black_frame_and_the_next_look_is_everywhere(
    estimator: PoseEstimator, paint: Callable, person: np.ndarray
) -> None:
    pipeline = Pipeline(estimator)
    black, picture = np.zeros((2, 240, 200, 3), np.uint8)
    paint(picture, np.add(person, (30, 20)))
    found = [pipeline.process(image) for image in (black, picture, picture, black, picture)]
    assert [len(poses) for poses in found] == [0, 1, 1, 0, 1]
    assert found[1][0].box.tolist() == found[4][0].box.tolist() == [0, 0, 200, 240]
    assert found[2][0].box.tolist() != [0, 0, 200, 240]


def test_what_is_not_a_picture_is_refused(estimator: PoseEstimator) -> None:
    with pytest.raises(UsageError, match="image is uint8"):
        Pipeline(estimator).process(np.zeros((4, 4), np.uint8))
