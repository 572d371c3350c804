"""The people in one picture, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepose.core.pose import People, Pose, nobody, people_from_crops, people_in_boxes

BOXES = np.array([[0.0, 10, 20, 30], [5, 6, 7, 8]])
KEYPOINTS = np.array([[[1, 2, 0.25], [3, 4, 1]], [[5, 6, 0.5], [7, 8, -0.25]]], np.float32)
PEOPLE = People(BOXES, KEYPOINTS, np.array([3, 9]))


def test_a_person_scores_the_mean_of_its_joints():
    assert PEOPLE.scores.tolist() == [0.625, 0.125]
    assert [pose.score for pose in PEOPLE] == [0.625, 0.125]


def test_people_are_a_sequence_of_poses():
    assert len(PEOPLE) == 2
    assert PEOPLE[1] == PEOPLE[-1] == Pose(KEYPOINTS[1], 0.125, BOXES[1], 9)
    assert PEOPLE[1:] == People(BOXES[1:], KEYPOINTS[1:], np.array([9]))
    alone = replace(PEOPLE, ids=None)
    assert (alone[0].track_id, alone[:1].ids) == (None, None)


def test_people_are_equal_if_every_number_is():
    assert replace(PEOPLE) == PEOPLE
    assert replace(PEOPLE, ids=np.array([3, 8])) != PEOPLE
    assert replace(PEOPLE, boxes=BOXES + 1) != PEOPLE
    assert PEOPLE[0] != PEOPLE
    with pytest.raises(TypeError, match="unhashable"):
        hash(PEOPLE[0])


def test_nobody_and_people_without_joints_have_their_shapes():
    assert (nobody(14).boxes.shape, nobody(14).keypoints.shape, len(nobody(14))) == ((0, 4), (0, 14, 3), 0)
    assert people_in_boxes(BOXES).keypoints.shape == (2, 0, 3)
    np.testing.assert_array_equal(people_in_boxes(BOXES).boxes, BOXES)


def test_joints_go_from_the_crops_to_the_picture():
    inverses = np.array([[[2.0, 0, 100], [0, 2, 50]], [[0, 1, 0], [-1, 0, 0]]])
    got = people_from_crops(KEYPOINTS, inverses, BOXES)
    want = [[[102, 54, 0.25], [106, 58, 1]], [[6, -5, 0.5], [8, -7, -0.25]]]
    assert got == People(BOXES, np.array(want, np.float32))
    assert got.keypoints.dtype == np.float32
