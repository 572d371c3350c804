"""Change how a sample is framed, and its colours, at random.

The framing is that of HRNet (leoxiaobin/deep-high-resolution-net.pytorch, ``lib/dataset/JointsDataset.py``), which
SimpleBaseline, HSR-MSNet and DITN's authors share; close-ups and colours are this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.geometry import Size, crop_regions, keypoint_box, region_affine, transform_points
from ..core.skeletons import Skeleton
from ..data.samples import PoseSample
from .recipes import Recipe

#: Share of the samples that are rotated.
_ROTATED = 0.6
#: A sample needs more labelled joints than this to be shown by half.
_HALF_BODY_JOINTS = 8
#: Factor from the box around the joints of half a body to the crop.
_HALF_BODY_PADDING = 1.5
#: Ends of the names of joints that belong to the lower half of the body.
_LOWER_HALF = ("pelvis", "hip", "knee", "ankle")


@dataclass(frozen=True)
class Augmentation:
    """The changes of one sample: drawn once, applied to image and joints alike.

    Attributes:
        part: what the crop shows of the body: ``whole``; HRNet's ``upper`` or ``lower`` half; or a ``close-up`` from
            the hips up.
        scale: factor on the region that the crop shows; the person appears at 1 / ``scale`` of its size.
        rotation: degrees, counter-clockwise on screen, after mirroring.
        mirror: whether left and right are exchanged.
        gain: factor on red, green and blue.
        shift: added to all three after that, in grey levels.
    """

    part: str = "whole"
    scale: float = 1.0
    rotation: float = 0.0
    mirror: bool = False
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: float = 0.0

    @staticmethod
    def draw(recipe: Recipe, rng: np.random.Generator) -> Augmentation:
        """Draw the changes of a sample.

        Framing comes first, in HRNet's order: whether half a body, which half (upper if a standard normal is below
        0.5), the region's factor, whether rotated, the angle, whether mirrored. Then whether a close-up, and the
        colours, which are uniform in the recipe's range.
        """
        is_half, half = rng.random() < recipe.half_body, "upper" if rng.standard_normal() < 0.5 else "lower"
        scale = np.clip(1 + recipe.scale * rng.standard_normal(), 1 - recipe.scale, 1 + recipe.scale)
        rotated = rng.random() <= _ROTATED
        rotation = np.clip(recipe.rotation * rng.standard_normal(), -2 * recipe.rotation, 2 * recipe.rotation)
        mirror = rng.random() <= 0.5
        is_close = rng.random() < recipe.close_up
        contrast = rng.uniform(1 - recipe.colour, 1 + recipe.colour)
        channel = rng.uniform(1 - recipe.colour / 2, 1 + recipe.colour / 2, size=3)
        return Augmentation(
            part="close-up" if is_close else half if is_half else "whole",
            scale=float(scale),
            rotation=float(rotation) if rotated else 0.0,
            mirror=bool(mirror),
            gain=tuple(contrast * channel),
            shift=255 * rng.uniform(-recipe.colour, recipe.colour) / 2,
        )

    def affine(self, sample: PoseSample, skeleton: Skeleton, size: Size) -> NDArray[np.float64]:
        """Return the matrix (2, 3) from the picture to the crop of ``size`` (height, width).

        The picture is mirrored before the crop is cut and rotated, so the region's centre lands on width / 2 whether
        mirrored or not (a mirrored crop would have it on width / 2 - 1, see
        :func:`~edgepose.core.geometry.region_affine`). The flip test's shift by one heat-map pixel relies on it.
        """
        region = self._region(sample, skeleton, size)
        region[2:] *= self.scale
        rotation = -self.rotation if self.mirror else self.rotation
        matrix = region_affine(region, size, rotation=rotation, mirror=self.mirror)
        matrix[0, 2] += self.mirror
        return matrix

    def _region(self, sample: PoseSample, skeleton: Skeleton, size: Size) -> NDArray[np.float64]:
        """Return centre x, centre y, width and height (4,) of what is shown without scaling, in picture pixels."""
        if self.part == "close-up":
            return crop_regions(_close_box(sample, skeleton), size)[0]
        if self.part == "whole" or sample.visible.sum() <= _HALF_BODY_JOINTS:
            return crop_regions(sample.box, size)[0]
        is_upper = np.array([not name.endswith(_LOWER_HALF) for name in skeleton.joints])
        wanted = is_upper == (self.part == "upper")
        if (wanted & sample.visible).sum() <= 2:
            wanted = ~wanted  # too little of this half is labelled: show the other
        points = sample.joints[wanted & sample.visible]
        region = crop_regions([*points.min(axis=0), *points.max(axis=0)], size, _HALF_BODY_PADDING)[0]
        region[:2] = points.mean(axis=0)
        return region

    def place(
        self, sample: PoseSample, skeleton: Skeleton, matrix: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return joints (J, 2) in crop pixels and their visibility (J,); mirroring exchanges left and right."""
        points, visible = transform_points(sample.joints, matrix), sample.visible
        if self.mirror:
            order = list(skeleton.flip_order)
            points, visible = points[order], visible[order]
        return points, visible

    def recolour(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return ``crop`` (h, w, 3) uint8 with the colours changed."""
        if self.shift == 0 and self.gain == (1.0, 1.0, 1.0):
            return crop
        levels = np.arange(256, dtype=np.float32)[:, None]
        table = levels * np.array(self.gain, np.float32) + np.float32(self.shift)
        return np.asarray(cv2.LUT(crop, np.clip(table, 0, 255).astype(np.uint8)[None]), dtype=np.uint8)


def _close_box(sample: PoseSample, skeleton: Skeleton) -> NDArray[np.float64]:
    """Return the box xyxy around the labelled joints from the hips up, or the whole box if too few are labelled."""
    upper = np.array([not name.endswith(("knee", "ankle")) for name in skeleton.joints])
    seen = upper & sample.visible
    return keypoint_box(sample.joints[seen]) if seen.sum() >= upper.sum() / 2 else sample.box
