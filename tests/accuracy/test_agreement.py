"""Average precision of keypoints beside other keypoints, on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgepose.accuracy.agreement import agreement, oks_ap
from edgepose.core.skeletons import get_skeleton

LSP = get_skeleton("lsp14")
SIZE, PADDING = (256, 192), 1.25


def poses(count: int = 4, score: float = 0.9) -> np.ndarray:
    points = np.random.default_rng(0).uniform(20, 170, (count, 14, 2))
    return np.concatenate([points, np.full((count, 14, 1), score)], axis=2).astype(np.float32)


def moved(reference: np.ndarray, crop: int, joints: slice, pixels: float) -> np.ndarray:
    found = reference.copy()
    found[crop, joints, 0] += pixels
    return found


def test_the_same_keypoints_agree_in_everything():
    same = agreement(poses(), poses(), LSP, SIZE, PADDING)
    assert (same.ap, same.identical, same.moved) == (100.0, 100.0, 0.0)


def test_a_joint_that_jumps_costs_its_share_of_one_crop():
    reference = poses()
    found = agreement(reference, moved(reference, 0, slice(0, 1), 500.0), LSP, SIZE, PADDING)
    # OKS of that crop is 13/14 = 0.929: 9 of COCO's 10 thresholds are reached.
    assert found.ap == pytest.approx(100 * (3 + 0.9) / 4)
    assert found.identical == pytest.approx(100 * 55 / 56)
    assert found.moved == pytest.approx(100 / 56)


@pytest.mark.parametrize(
    ("pixels", "identical", "over"), [(0.04, 100.0, 0.0), (1.0, 98.214, 0.0), (4.1, 98.214, 1.786)]
)
def test_identical_and_moved_have_their_limits(pixels, identical, over):
    reference = poses()
    found = agreement(reference, moved(reference, 2, slice(3, 4), pixels), LSP, SIZE, PADDING)
    assert found.identical == pytest.approx(identical, abs=1e-3)
    assert found.moved == pytest.approx(over, abs=1e-3)


def test_only_confident_joints_of_the_reference_count():
    reference = poses()
    reference[:, 5:, 2] = 0.1
    found = agreement(reference, moved(reference, 0, slice(5, 14), 500.0), LSP, SIZE, PADDING)
    assert found.ap == 100.0 and found.moved == 0.0 and found.identical == pytest.approx(100 * 47 / 56)


def test_crops_without_a_confident_joint_are_not_judged():
    reference = poses()
    reference[1:, :, 2] = 0.0
    assert oks_ap(reference, moved(reference, 1, slice(0, 14), 500.0), LSP, SIZE, PADDING) == 100.0
    assert oks_ap(reference, moved(reference, 0, slice(0, 14), 500.0), LSP, SIZE, PADDING) == 0.0
    reference[:] = 0
    assert agreement(reference, reference, LSP, SIZE, PADDING).ap == 100.0


def test_oks_is_coco_s():
    reference = poses(1)
    found = moved(reference, 0, slice(0, 14), 6.0)
    area = 0.53 * 256 * 192 / 1.25**2
    oks = np.mean(np.exp(-36 / (2 * area * (2 * np.array(LSP.sigmas)) ** 2)))
    want = 100 * np.mean(oks >= np.arange(0.5, 1.0, 0.05))
    assert oks_ap(reference, found, LSP, SIZE, PADDING) == pytest.approx(want) and 0 < want < 100
