"""HRNet's test protocol by value: mirrored crops, the areas and limits of rescoring and suppression."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.accuracy.metrics import oks_nms, person_scores
from edgepose.accuracy.scoring import predict, rescored
from edgepose.core.skeletons import COCO17
from edgepose.data.samples import PoseSample


def sample(box: list[float], image: Path = Path("x.png"), score: float = 1.0) -> PoseSample:
    return PoseSample(image, np.zeros((17, 2)), np.zeros(17, bool), np.array(box, float), 1, score)


def test_the_flip_test_feeds_the_mirrored_crops(tmp_path: Path) -> None:
    """A network that answers with the brightness of its crop, one stripe of the map after the other."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :16] = 200  # the left quarter, and only there
    cv2.imwrite(str(tmp_path / "x.png"), picture)
    seen = []

    def brightness(crops: np.ndarray) -> np.ndarray:
        seen.append(crops)
        maps = crops[:, 2::4, 2::4, 0].astype(np.float32) / 255
        return np.repeat(maps[:, None], 17, axis=1)

    one = [sample([0, 0, 63, 63], tmp_path / "x.png")]
    predict(brightness, one, COCO17, (64, 64), flip=True, padding=1.0)
    assert [len(crops) for crops in seen] == [1, 1]
    np.testing.assert_array_equal(seen[1], seen[0][:, :, ::-1])
    assert seen[0][0, 32, 8, 0] == 200 and seen[1][0, 32, 8, 0] == 0 and seen[1][0, 32, 55, 0] == 200


def oks_between(shift: float, areas: tuple[float, float]) -> float:
    """Two poses of the same joints, the second moved by ``shift`` pixels: HRNet's formula, joint after joint."""
    area = (areas[0] + areas[1]) / 2
    terms = [math.exp(-(shift**2) / ((2 * sigma) ** 2 * area * 2)) for sigma in COCO17.sigmas]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("size", [(64, 64), (64, 48)])
def test_poses_are_compared_over_the_areas_of_their_crops(size: tuple[int, int]) -> None:
    """Boxes of 40x40 and 60x60, enlarged by 1.25 and to the crop's shape: HRNet's ``prod(scale * 200)``."""
    taller = size[0] / size[1]
    areas = (50 * 50 * taller, 75 * 75 * taller)
    low, high = 0.0, 40.0
    for _ in range(60):  # the shift at which the two are as similar as the limit, 0.9
        middle = (low + high) / 2
        low, high = (middle, high) if oks_between(middle, areas) > 0.9 else (low, middle)
    persons = [sample([0, 0, 40, 40]), sample([0, 0, 60, 60], score=0.5)]
    kept = []
    for shift in (0.999 * low, 1.001 * low):
        poses = np.full((2, 17, 3), 0.5)
        poses[1, :, 0] += shift
        kept.append(len(rescored(persons, poses, COCO17, size)))
    assert kept == [1, 2]


def test_a_pose_as_similar_as_the_limit_is_kept() -> None:
    similarity = np.array([[1.0, 0.9, 0.95], [0.9, 1.0, 0.5], [0.95, 0.5, 1.0]])
    assert oks_nms(similarity, [0.9, 0.8, 0.7]) == [0, 1]
    assert oks_nms(similarity, [0.9, 0.8, 0.7], limit=0.95) == [0, 1, 2]


def test_a_joint_as_sure_as_the_limit_does_not_count() -> None:
    poses = np.zeros((2, 3, 3))
    poses[:, :, 2] = (0.2, 0.3, 0.7), (0.2, 0.1, 0.2)
    np.testing.assert_allclose(person_scores(poses, [0.5, 1.0]), [0.25, 0.0])
