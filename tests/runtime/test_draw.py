"""Pixels of drawn skeletons."""

from __future__ import annotations

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.pictures import CENTRE, LEFT, RIGHT
from edgepose.core.pose import Pose
from edgepose.core.skeletons import SKELETONS, Skeleton
from edgepose.runtime.draw import draw_poses

LINE = Skeleton("line", ("left_end", "middle", "right_end"), ((0, 1), (1, 2)), ((0, 2),))


def line_pose(scores: tuple[float, float, float] = (0.9, 0.9, 0.9), size: float = 80) -> Pose:
    keypoints = np.array([[20, 50, scores[0]], [50, 50, scores[1]], [80, 50, scores[2]]], np.float32)
    return Pose(keypoints, 0.9, np.array([10.0, 10, 10 + size, 90]), 7)


def colours(image: np.ndarray, *points: tuple[int, int]) -> list[tuple[int, ...]]:
    return [tuple(image[y, x].tolist()) for x, y in points]


def test_joints_and_bones_have_their_sides_colour_on_a_copy() -> None:
    black = np.zeros((100, 100, 3), np.uint8)
    drawn = draw_poses(black, [line_pose()], LINE)
    assert not black.any()
    assert colours(drawn, (20, 50), (50, 50), (80, 50)) == [LEFT, CENTRE, RIGHT]
    assert colours(drawn, (35, 50), (65, 50)) == [LEFT, RIGHT]
    assert colours(drawn, (50, 70)) == [(0, 0, 0)]
    assert colours(drawn, (90, 60)) == [(200, 200, 200)]  # the box
    assert drawn[12:30, 12:30].any()  # the id


def test_unsure_joints_and_their_bones_are_left_out() -> None:
    drawn = draw_poses(np.zeros((100, 100, 3), np.uint8), [line_pose((0.9, 0.9, 0.15))], LINE)
    assert colours(drawn, (35, 50), (65, 50), (80, 50)) == [LEFT, (0, 0, 0), (0, 0, 0)]
    drawn = draw_poses(np.zeros((100, 100, 3), np.uint8), [line_pose((0.9, 0.9, 0.15))], LINE, threshold=0.1)
    assert colours(drawn, (80, 50)) == [RIGHT]


@pytest.mark.parametrize(("size", "thickness"), [(80, 2), (500, 5)])
def test_lines_grow_with_the_person(size: float, thickness: int) -> None:
    drawn = draw_poses(np.zeros((100, 600, 3), np.uint8), [line_pose(size=size)], LINE)
    coloured = (np.abs(drawn[40:60, 35].astype(int) - LEFT) < 30).all(axis=1).sum()
    assert abs(coloured - thickness) <= 2  # smooth edges, which OpenCV 4 and 5 draw differently


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_every_skeleton_and_points_far_outside(skeleton: Skeleton) -> None:
    joints = np.full((len(skeleton.joints), 3), 5.0, np.float32)
    joints[::2, 0], joints[1::2, 1] = -1e9, 1e9
    picture = np.zeros((40, 40, 3), np.uint8)
    drawn = draw_poses(picture, [Pose(joints, 0.5, np.array([-1e9, 5, 20, 1e9]))], skeleton)
    assert drawn.shape == picture.shape


def test_nobody_is_an_equal_copy() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    drawn = draw_poses(picture, [], LINE)
    assert drawn is not picture
    assert (drawn == picture).all()


@pytest.mark.parametrize("threshold", [np.nan, -1, 2, "0.5"])
def test_a_threshold_that_is_no_score_is_refused(threshold: object) -> None:
    with pytest.raises(UsageError, match=r"^the threshold of joints is .*, expected a score from 0 to 1$"):
        draw_poses(np.zeros((20, 30, 3), np.uint8), [line_pose()], LINE, threshold)


@pytest.mark.parametrize(
    "image", [np.zeros((20, 30), np.uint8), np.zeros((20, 30, 3), np.float32), np.zeros((20, 30, 4), np.uint8)]
)
def test_what_is_not_a_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"image is .*, expected a uint8 array"):
        draw_poses(image, [line_pose()], LINE)
