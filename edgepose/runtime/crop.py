"""Cutting persons out of a picture: the seam between the host and a device that can do it faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.geometry import CROP_PADDING, Size, crop_boxes


@dataclass(frozen=True, eq=False)
class Crops:
    """The persons of one picture as a pose network takes them.

    Attributes:
        pixels: (N, h, w, 3) uint8 RGB.
        inverses: (N, 2, 3) float64: the affine matrix of each crop from its pixels to those of the picture.
    """

    pixels: NDArray[np.uint8]
    inverses: NDArray[np.float64]


class Cropper(Protocol):
    """Cuts every box out of a picture."""

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64]) -> Crops:
        """Return the crops of boxes (N, 4) xyxy of a picture (H, W, 3) uint8 RGB, in their order; N may be 0."""
        ...


@dataclass(frozen=True)
class HostCropper:
    """Crops by OpenCV, see :func:`edgepose.core.geometry.crop_boxes`.

    Attributes:
        size: (height, width) of the crops.
        padding: factor from a person's box to the crop.
    """

    size: Size
    padding: float = CROP_PADDING

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64]) -> Crops:
        return Crops(*crop_boxes(image, boxes, self.size, self.padding))
