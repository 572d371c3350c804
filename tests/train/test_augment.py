"""Framing: crops by HRNet's own code, the distributions of what is drawn, and the project's close-ups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

pytest.importorskip("torch")

from edgepose.core.geometry import crop_regions, keypoint_box, region_affine
from edgepose.core.skeletons import COCO17, LSP14, MPII16, Skeleton
from edgepose.data.samples import PoseSample
from edgepose.train.augment import Augmentation
from edgepose.train.recipes import Recipe, get_recipe

#: A standing person: face, shoulders, elbows, wrists, hips, knees, ankles, left before right.
JOINTS = (
    *((200, 90), (206, 84), (194, 84), (212, 88), (188, 88), (225, 130), (175, 132), (240, 180), (160, 185)),
    *((250, 225), (150, 230), (215, 240), (185, 242), (220, 320), (182, 325), (224, 400), (178, 405)),
)
#: HRNet's record for it: centre (202, 245), scale (1.6875, 2.25), which is this box grown by 1.25.
BOX = (67.0, 65.0, 337.0, 425.0)
TO_THE_HIPS, TO_A_KNEE = (1,) * 13 + (0,) * 4, (1,) * 14 + (0,) * 3
EIGHT, NINE = (1,) + (0,) * 9 + (1,) * 7, (0,) * 4 + (1,) * 9 + (0,) * 4


class Scripted:
    """A generator whose draws are given, in HRNet's order; nothing else is drawn at random."""

    def __init__(self, half: float, which: float, scale: float, turned: float, angle: float, mirror: float) -> None:
        self._uniform: Iterator[float] = iter((half, turned, mirror, 1.0))
        self._normal: Iterator[float] = iter((which, scale, angle))

    def random(self) -> float:
        return next(self._uniform)

    def standard_normal(self) -> float:
        return next(self._normal)

    def uniform(self, low: float, high: float, size: int | None = None) -> float | np.ndarray:
        middle = (low + high) / 2
        return middle if size is None else np.full(size, middle)


#: Draws (half body? which half, scale, rotated? angle, mirrored?), labels, and where HRNet's JointsDataset.__getitem__
#: (lib/dataset/JointsDataset.py, commit 6f69e46, its set-up for COCO at 256x192) puts nose, left wrist, right knee.
HRNET_CROPS = {
    "as labelled": ((0.3, 0, 0, 0.7, 0, 0.9), (1,) * 17, ((94.86, 39.82), (123.31, 116.62), (84.62, 173.51))),
    "larger region": ((0.9, 0, 1, 0.7, 9, 0.9), (1,) * 17, ((95.16, 62.68), (116.23, 119.57), (87.57, 161.71))),
    "smallest region, turned": (
        (0.9, 0, -3, 0.6, -1, 0.9),
        (1,) * 17,
        ((190.69, 30.84), (138.08, 145.33), (34.11, 165.13)),
    ),
    "largest turn, mirrored": (
        (0.9, 0, 0.2, 0.1, 2.5, 0.5),
        (1,) * 17,
        ((13.59, 126.94), (88.02, 100.35), (135.88, 137.57)),
    ),
    "upper half": ((0.29, 0.49, -0.5, 0.61, 1, 0.51), (1,) * 17, ((96.0, 60.25), (166.85, 251.53), (70.5, 393.22))),
    "lower half, turned, mirrored": (
        (0.0, 0.5, 0.4, 0.2, 0.5, 0.2),
        (1,) * 17,
        ((16.0, -66.71), (106.53, 33.29), (79.1, 133.04)),
    ),
    "two joints are no lower half": (
        (0.0, 0.5, 0, 0.9, 0.5, 0.9),
        TO_THE_HIPS,
        ((96.0, 72.1), (154.45, 229.91), None),
    ),
    "three joints are": ((0.0, 0.5, 0, 0.9, 0.5, 0.9), TO_A_KNEE, ((81.78, -250.31), (188.44, 37.69), None)),
    "nine joints are enough": ((0.0, 0, 0, 0.9, 0.5, 0.9), NINE, (None, (158.15, 197.54), None)),
    "eight joints are too few": ((0.0, 0, 0, 0.9, 0.5, 0.9), EIGHT, ((94.86, 39.82), None, (84.62, 173.51))),
}


def person(visible: tuple[int, ...] = (1,) * 17) -> PoseSample:
    return PoseSample(Path("x.jpg"), np.array(JOINTS, np.float64), np.array(visible) > 0, np.array(BOX))


@pytest.mark.parametrize("case", HRNET_CROPS)
def test_crops_are_those_of_hrnet(case):
    draws, visible, want = HRNET_CROPS[case]
    augmentation = Augmentation.draw(get_recipe("hrnet_coco"), Scripted(*draws))
    sample = person(visible)
    points, seen = augmentation.place(sample, COCO17, augmentation.affine(sample, COCO17, (256, 192)))
    for joint, place in zip((0, 9, 14), want, strict=True):
        assert seen[joint] == (place is not None)
        if place is not None:
            np.testing.assert_allclose(points[joint], place, atol=0.006)


@pytest.mark.parametrize(
    ("skeleton", "upper"),
    [
        (COCO17, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}),  # HRNet's upper_body_ids, lib/dataset/coco.py
        (MPII16, {7, 8, 9, 10, 11, 12, 13, 14, 15}),  # and lib/dataset/mpii.py
        (LSP14, {6, 7, 8, 9, 10, 11, 12, 13}),  # ours: arms, neck and head
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_halves_of_the_body(skeleton: Skeleton, upper: set[int]):
    count = len(skeleton.joints)
    joints = np.random.default_rng(0).uniform(50, 300, (count, 2))
    sample = PoseSample(Path("x.jpg"), joints, np.ones(count, bool), np.array([0, 0, 400, 400.0]))
    for part, chosen in (("upper", sorted(upper)), ("lower", sorted(set(range(count)) - upper))):
        centre = joints[chosen].mean(axis=0)
        width = max(np.ptp(joints[chosen, 0]), np.ptp(joints[chosen, 1]) * 3 / 4) * 1.5
        want = region_affine((*centre, width, width * 4 / 3), (256, 192))
        np.testing.assert_allclose(Augmentation(part=part).affine(sample, skeleton, (256, 192)), want)


def test_a_close_up_shows_the_body_from_the_hips_up():
    upper = [j for j, name in enumerate(COCO17.joints) if not name.endswith(("knee", "ankle"))]
    box = keypoint_box(np.array(JOINTS, np.float64)[upper])
    want = region_affine(crop_regions(box, (256, 192))[0], (256, 192))
    np.testing.assert_allclose(Augmentation(part="close-up").affine(person(), COCO17, (256, 192)), want)
    half = person((1,) * 7 + (0,) * 10)  # 7 of these 13 joints
    want = region_affine(crop_regions(keypoint_box(half.joints[:7]), (256, 192))[0], (256, 192))
    np.testing.assert_allclose(Augmentation(part="close-up").affine(half, COCO17, (256, 192)), want)
    few = person((1,) * 6 + (0,) * 11)  # less than half of them: the whole body
    np.testing.assert_array_equal(
        Augmentation(part="close-up").affine(few, COCO17, (256, 192)), Augmentation().affine(few, COCO17, (256, 192))
    )


def share(values: list[bool]) -> float:
    return sum(values) / len(values)


def test_draws_have_hrnets_distributions():
    """Shares within three standard deviations of 4000 draws."""
    recipe = Recipe("hrnet_w32", "coco17", rotation=20.0, scale=0.2, half_body=0.25, colour=0.2)
    drawn = [Augmentation.draw(recipe, np.random.default_rng(seed)) for seed in range(4000)]
    scales, turns = [d.scale for d in drawn], [d.rotation for d in drawn]
    one_sigma, two_sigma = (NormalDist().cdf(-z) for z in (1, 2))
    assert (min(scales), max(scales)) == (0.8, 1.2)
    assert share([s == 0.8 for s in scales]) == pytest.approx(one_sigma, abs=0.018)
    assert share([s == 1.2 for s in scales]) == pytest.approx(one_sigma, abs=0.018)
    assert share([s < 0.9 for s in scales]) == pytest.approx(NormalDist().cdf(-0.5), abs=0.022)
    assert (min(turns), max(turns)) == (-40, 40)
    assert share([t == 0 for t in turns]) == pytest.approx(0.4, abs=0.024)
    assert share([t == 40 for t in turns]) == pytest.approx(0.6 * two_sigma, abs=0.006)
    assert share([t > 20 for t in turns]) == pytest.approx(0.6 * one_sigma, abs=0.014)
    assert share([d.mirror for d in drawn]) == pytest.approx(0.5, abs=0.024)
    assert share([d.part == "upper" for d in drawn]) == pytest.approx(0.25 * NormalDist().cdf(0.5), abs=0.018)
    assert share([d.part == "lower" for d in drawn]) == pytest.approx(0.25 * NormalDist().cdf(-0.5), abs=0.013)
    assert {d.part for d in drawn} == {"whole", "upper", "lower"}


def test_close_ups_and_colours_keep_to_the_recipe():
    recipe = Recipe("ditn_lite", "lsp14", half_body=0.5, close_up=0.25, colour=0.2)
    drawn = [Augmentation.draw(recipe, np.random.default_rng(seed)) for seed in range(4000)]
    assert share([d.part == "close-up" for d in drawn]) == pytest.approx(0.25, abs=0.021)
    assert share([d.part in ("upper", "lower") for d in drawn]) == pytest.approx(0.75 * 0.5, abs=0.023)
    gains, shifts = np.array([d.gain for d in drawn]), np.array([d.shift for d in drawn])
    contrast = gains.mean(axis=1)
    assert 0.8 * 0.9 <= gains.min() < 0.76 < 1.28 < gains.max() <= 1.2 * 1.1
    assert np.ptp(gains / contrast[:, None], axis=1).max() == pytest.approx(0.2, abs=0.02)
    assert -25.5 <= shifts.min() < -25 < 25 < shifts.max() <= 25.5
    still = replace(recipe, rotation=0.0, scale=0.0, half_body=0.0, close_up=0.0, colour=0.0)
    assert replace(Augmentation.draw(still, np.random.default_rng(0)), mirror=False) == Augmentation()
