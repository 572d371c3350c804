"""The protocol for cutting persons out of a picture, and its implementation on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


class Cropper(Protocol):
    """A function that cuts every box out of a picture."""

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64]) -> Crops:
        """Return the crops of boxes (N, 4) xyxy in a picture (H, W, 3) uint8 RGB, in the same order; N may be 0."""
        ...


@dataclass(frozen=True)
class HostCropper:
    """A cropper that uses OpenCV: crops of ``size`` (height, width), the person's box enlarged by ``padding``."""

    size: Size
    padding: float = CROP_PADDING

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64]) -> Crops:
        return Crops(*crop_boxes(image, boxes, self.size, self.padding))
