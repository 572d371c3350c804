"""Change how a sample is framed, and its colours, at random."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.geometry import crop_regions, keypoint_box, region_affine, transform_points
from ..core.skeletons import Skeleton
from ..data.samples import PoseSample
from .recipes import Recipe


@dataclass(frozen=True)
class Augmentation:
    """The changes of one sample: drawn once, applied to image and joints alike.

    Attributes:
        rotation: degrees, counter-clockwise on screen.
        scale: factor on the size of the person in the crop.
        mirror: whether left and right are exchanged.
        half_body: whether the crop shows the body only from the hips up.
        gain: factor on red, green and blue.
        shift: added to all three after that, in grey levels.
    """

    rotation: float = 0.0
    scale: float = 1.0
    mirror: bool = False
    half_body: bool = False
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: float = 0.0

    @staticmethod
    def draw(recipe: Recipe, rng: np.random.Generator) -> Augmentation:
        """Draw rotation, scale and colour uniformly in the recipe's ranges, and mirror half of the samples."""
        contrast = rng.uniform(1 - recipe.colour, 1 + recipe.colour)
        channel = rng.uniform(1 - recipe.colour / 2, 1 + recipe.colour / 2, size=3)
        return Augmentation(
            rotation=rng.uniform(-recipe.rotation, recipe.rotation),
            scale=rng.uniform(recipe.scale_low, recipe.scale_high),
            mirror=bool(rng.random() < 0.5),
            half_body=bool(rng.random() < recipe.half_body),
            gain=tuple(contrast * channel),
            shift=255 * rng.uniform(-recipe.colour, recipe.colour) / 2,
        )

    def affine(self, sample: PoseSample, skeleton: Skeleton, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the matrix (2, 3) from the picture to the crop of ``size`` (height, width)."""
        box = _upper_box(sample, skeleton) if self.half_body else sample.box
        region = crop_regions(box, size)[0]
        region[2:] /= self.scale
        return region_affine(region, size, rotation=self.rotation, mirror=self.mirror)

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


def _upper_box(sample: PoseSample, skeleton: Skeleton) -> NDArray[np.float64]:
    """Return the box xyxy around the labelled joints from the hips up, or the whole box if too few are labelled."""
    upper = np.array([not name.endswith(("knee", "ankle")) for name in skeleton.joints])
    seen = upper & sample.visible
    return keypoint_box(sample.joints[seen]) if seen.sum() >= upper.sum() / 2 else sample.box
