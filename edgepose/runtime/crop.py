"""Cutting persons out of a picture: what a cropper is, and the one that works on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.geometry import CROP_PADDING, Size, crop_boxes


@dataclass(frozen=True, eq=False)
class Crops:
    """The crops of one picture, the input of a pose network.

    Attributes:
        pixels: (N, h, w, 3) uint8 RGB.
        inverses: (N, 2, 3) float64, the affine matrix from the pixels of each crop to those of the picture.
    """

    pixels: NDArray[np.uint8]
    inverses: NDArray[np.float64]


#: A function that cuts boxes (N, 4) xyxy, N may be 0, out of a picture (H, W, 3) uint8 RGB, in the same order.
Cropper = Callable[[NDArray[np.uint8], NDArray[np.float64]], Crops]


@dataclass(frozen=True)
class HostCropper:
    """A cropper that uses OpenCV: crops of ``size`` (height, width), the person's box enlarged by ``padding``."""

    size: Size
    padding: float = CROP_PADDING

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64]) -> Crops:
        return Crops(*crop_boxes(image, boxes, self.size, self.padding))
