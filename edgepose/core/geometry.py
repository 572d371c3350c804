"""Cut crops around boxes and map points back: the transform that training, calibration and the runtime share.

Sizes are (height, width), boxes xyxy in source pixels, points (x, y). An affine matrix is float64 (2, 3) and maps
source pixels to crop pixels. The convention is HRNet's: the short side of the box grows to the aspect ratio of the
crop, both sides grow by ``padding``, and the centre of the box lands on (width / 2, height / 2) of the crop.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import UsageError

Size = tuple[int, int]

#: HRNet's factor from a person's box, at the crop's aspect ratio, to the crop.
CROP_PADDING = 1.25


def crop_regions(boxes: ArrayLike, size: Size, padding: float = CROP_PADDING) -> NDArray[np.float64]:
    """Grow boxes to the crop's aspect ratio, then by ``padding``.

    Args:
        boxes: (N, 4) xyxy in source pixels.
        size: (height, width) of the crop.

    Returns:
        (N, 4) float64: centre x, centre y, width, height of the region to crop, in source pixels.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    aspect = size[1] / size[0]
    span = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    width = np.maximum(span[:, 0], span[:, 1] * aspect) * padding
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.column_stack([centre, width, width / aspect])


def region_affine(region: ArrayLike, size: Size, *, rotation: float = 0.0, mirror: bool = False) -> NDArray[np.float64]:
    """Return the affine matrix (2, 3) from source pixels to crop pixels.

    Args:
        region: (4,) centre x, centre y, width, height in source pixels; the scale is taken from the width.
        size: (height, width) of the crop.
        rotation: degrees; positive turns the picture counter-clockwise on screen, as in HRNet.
        mirror: mirror the crop left to right; pixel centre x goes to ``width - 1 - x``.

    >>> transform_points([[50, 40], [2, 40]], region_affine((50, 40, 96, 128), (256, 192))).tolist()
    [[96.0, 128.0], [0.0, 128.0]]
    """
    cx, cy, width, _ = np.asarray(region, dtype=np.float64)
    height_out, width_out = size
    scale = width_out / width
    cos, sin = scale * np.cos(np.deg2rad(rotation)), scale * np.sin(np.deg2rad(rotation))
    matrix = np.array([[cos, sin, 0.0], [-sin, cos, 0.0]])
    matrix[:, 2] = np.array([width_out / 2, height_out / 2]) - matrix[:, :2] @ (cx, cy)
    if mirror:
        matrix[0] = -matrix[0]
        matrix[0, 2] += width_out - 1
    return matrix


def invert_affine(matrix: ArrayLike) -> NDArray[np.float64]:
    """Return the inverse (2, 3) of an affine matrix (2, 3)."""
    matrix = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def transform_points(points: ArrayLike, matrix: ArrayLike) -> NDArray[np.float64]:
    """Apply an affine matrix (2, 3) to points (..., 2), or N matrices (N, 2, 3) to points (N, K, 2)."""
    points, matrix = np.asarray(points, dtype=np.float64), np.asarray(matrix, dtype=np.float64)
    return points @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]


#: OpenCV 4 refuses to cut from a picture with a longer side, and 5.0 crashes on one of more bytes.
_LONGEST_SIDE, _MOST_BYTES = 32_766, 2**31 - 1


def warp_crop(image: NDArray[np.uint8], matrix: ArrayLike, size: Size) -> NDArray[np.uint8]:
    """Cut one crop (h, w, 3) out of an image (H, W, 3): bilinear, black outside the image.

    OpenCV 4 and 5 differ by up to 3 grey levels here, so calibrate with the version that runs the network later.

    ``matrix`` (2, 3) goes from pixels of the image to crop pixels, ``size`` is the crop's (height, width).

    Raises:
        UsageError: the crop shows more of a huge picture than OpenCV can take.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if _too_large(image):
        image, matrix = _shown_part(image, matrix, size)
    return np.asarray(cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR), dtype=np.uint8)


def _too_large(image: NDArray[np.uint8]) -> bool:
    return max(image.shape[:2]) > _LONGEST_SIDE or image.nbytes > _MOST_BYTES


def _shown_part(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: Size
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut the rectangle that a crop shows out of a picture, and return it with the matrix from its pixels."""
    height, width = size
    corners = transform_points([[0, 0], [width, 0], [0, height], [width, height]], invert_affine(matrix))
    limit = np.array(image.shape[1::-1])
    left, top = np.clip(np.floor(corners.min(axis=0)).astype(int) - 2, 0, limit - 1)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 3, (left + 1, top + 1), limit)
    part = image[top:bottom, left:right]
    if _too_large(part):
        raise UsageError(
            f"cannot cut {part.shape[1]}x{part.shape[0]} pixels out of a picture of {limit[0]}x{limit[1]}: OpenCV "
            f"takes at most {_LONGEST_SIDE} pixels per side and {_MOST_BYTES} bytes: make the picture smaller"
        )
    moved = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ (left, top)])
    return np.ascontiguousarray(part), moved


def crop_boxes(
    image: NDArray[np.uint8], boxes: ArrayLike, size: Size, padding: float = CROP_PADDING
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut one crop per box out of an image.

    Args:
        image: (H, W, 3) uint8.
        boxes, size, padding: see :func:`crop_regions`; N may be 0.

    Returns:
        crops (N, h, w, 3) uint8 and the inverse affines (N, 2, 3) that take crop pixels back to the image.
    """
    matrices = [region_affine(region, size) for region in crop_regions(boxes, size, padding)]
    crops = np.zeros((len(matrices), *size, 3), dtype=np.uint8)
    for crop, matrix in zip(crops, matrices, strict=True):
        crop[:] = warp_crop(image, matrix, size)
    inverses = np.array([invert_affine(m) for m in matrices], dtype=np.float64).reshape(-1, 2, 3)
    return crops, inverses


def keypoint_box(points: ArrayLike, margin: float = 0.1) -> NDArray[np.float64]:
    """Return the box (4,) xyxy around points (K, 2), grown on every side by ``margin`` times its longer side.

    Joints lie inside the body; a margin of a tenth makes the box about as large as a detector's.
    """
    points = np.asarray(points, dtype=np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    grow = margin * max((high - low).max(), 1.0)
    return np.concatenate([low - grow, high + grow])
