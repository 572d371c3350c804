"""Following one person without a detector, and numbering many with one."""

from __future__ import annotations

import numpy as np

from edgepose.core.pose import Pose, people_in_boxes
from edgepose.runtime.track import OneTracker, OverlapTracker, RegionTracker


def pose(confident: int, joints: int = 14) -> Pose:
    """Joint j at (100 + 10 j, 50 + 20 j); the first ``confident`` of them score 0.45, the others 0.35."""
    j = np.arange(joints)
    scores = np.where(j < confident, 0.45, 0.35)
    return Pose(np.stack([100 + 10 * j, 50 + 20 * j, scores], axis=1).astype(np.float32), 0.3, np.array([0, 0, 9, 9.0]))


def test_region_starts_everywhere_then_follows_the_confident_joints() -> None:
    tracker = RegionTracker()
    assert tracker.boxes((480, 640)).tolist() == [[0, 0, 640, 480]]
    assert tracker.update(pose(confident=6))
    # Joints 0..5 span 100..150 by 50..150; a quarter of the longer side is added around.
    np.testing.assert_allclose(tracker.boxes((480, 640)), [[75, 25, 175, 175]])


def test_region_does_not_shrink_onto_a_limb() -> None:
    tracker = RegionTracker()
    tracker.update(pose(confident=14))  # joints span 100..230 by 50..310, with a quarter of 260 around: 390 high
    np.testing.assert_allclose(tracker.boxes((480, 640)), [[35, -15, 295, 375]])
    tracker.update(pose(confident=6))  # 100 x 150 around (125, 100) grow by what 150 lacks of 0.8 x 390
    np.testing.assert_allclose(tracker.boxes((480, 640)), [[75 - 81, 25 - 81, 175 + 81, 175 + 81]])
    for _ in range(9):
        tracker.update(pose(confident=6))
    np.testing.assert_allclose(tracker.boxes((480, 640)), [[75, 25, 175, 175]])  # it comes there in the end
    tracker.update(pose(confident=14))
    np.testing.assert_allclose(tracker.boxes((480, 640)), [[35, -15, 295, 375]])  # growing is not slowed


def test_region_is_everywhere_again_when_too_few_joints_are_seen() -> None:
    tracker = RegionTracker()
    assert tracker.update(pose(confident=5))  # a third of 14 is 4.67
    assert tracker.boxes((480, 640)).tolist() != [[0, 0, 640, 480]]
    assert not tracker.update(pose(confident=4))
    assert tracker.boxes((480, 640)).tolist() == [[0, 0, 640, 480]]


def ids_of(tracker: OverlapTracker, boxes: np.ndarray) -> list[int]:
    ids = tracker.update(people_in_boxes(boxes))
    assert (ids.dtype, ids.shape) == (np.int64, (len(boxes),))
    return ids.tolist()


def test_ids_stay_with_their_persons() -> None:
    a, b, c = [0.0, 0, 100, 200], [300.0, 0, 400, 200], [500.0, 0, 600, 200]
    ids = OverlapTracker()
    assert ids_of(ids, np.array([a, b])) == [1, 2]
    moved = [box[0] + 20 for box in (a, b)], [box[2] + 20 for box in (a, b)]
    swapped = np.array([[moved[0][1], 0, moved[1][1], 200], [moved[0][0], 0, moved[1][0], 200], c])
    assert ids_of(ids, swapped) == [2, 1, 3]
    assert ids_of(ids, np.zeros((0, 4))) == []
    assert ids_of(ids, np.array([a])) == [4]  # who was away is somebody new


def test_the_better_overlap_wins_the_id() -> None:
    ids = OverlapTracker()
    assert ids_of(ids, np.array([[0.0, 0, 100, 100]])) == [1]
    # IoU 0.54 and 0.82: one number cannot name two persons.
    assert ids_of(ids, np.array([[30.0, 0, 130, 100], [10, 0, 110, 100]])) == [2, 1]


def test_little_overlap_is_another_person() -> None:
    ids = OverlapTracker()
    ids_of(ids, np.array([[0.0, 0, 100, 100]]))
    assert ids_of(ids, np.array([[60.0, 0, 160, 100]])) == [2]  # IoU 0.25


def test_ids_that_were_given_out_cannot_be_changed_from_outside() -> None:
    ids = OverlapTracker()
    boxes = np.array([[0.0, 0, 100, 100]])
    ids.update(people_in_boxes(boxes))[:] = 7
    assert ids_of(ids, boxes) == [1]


def test_who_is_followed_alone_is_number_one() -> None:
    ids = OneTracker()
    assert ids.update(people_in_boxes(np.array([[0.0, 0, 9, 9]]))).tolist() == [1]
    assert ids.update(people_in_boxes(np.zeros((0, 4)))).tolist() == []
    assert ids.update(people_in_boxes(np.array([[50.0, 50, 90, 90]]))).tolist() == [1]
