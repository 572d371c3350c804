"""Pictures of a crop with two skeletons, and how they come into a page."""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from .skeletons import Skeleton

#: RGB, also used in the page's legend: PyTorch's skeleton lies wide below, the backend's thin above.
PYTORCH = (0, 200, 255)
BACKEND = (255, 90, 0)
#: Pictures are enlarged so that their longer side is about this many pixels.
_PICTURE = 384


def draw_pair(
    crop: NDArray[np.uint8], pytorch: NDArray[np.float32], backend: NDArray[np.float32], skeleton: Skeleton
) -> NDArray[np.uint8]:
    """An enlarged crop with PyTorch's skeleton wide below and the backend's thin above.

    Args:
        crop: (H, W, 3) uint8 RGB.
        pytorch: (J, 3) x, y in crop pixels and score; likewise ``backend``. Joints without a positive score, which
            have no place, and those that are not finite are left out.
        skeleton: the bones to draw.

    Returns:
        (kH, kW, 3) uint8 RGB with a whole factor k >= 1.
    """
    picture, factor = _enlarge(crop)
    for keypoints, colour, width in ((pytorch, PYTORCH, 6), (backend, BACKEND, 2)):
        # To the centre of an enlarged pixel; an engine that fails may give points too far away for OpenCV.
        points = ((keypoints[:, :2] + 0.5) * factor).clip(-9999, 9999)
        drawn = (keypoints[:, 2] > 0) & np.isfinite(keypoints[:, :2]).all(axis=1)
        corners = {j: (round(float(x)), round(float(y))) for j, (x, y) in enumerate(points) if drawn[j]}
        for a, b in skeleton.bones:
            if a in corners and b in corners:
                cv2.line(picture, corners[a], corners[b], colour, width, cv2.LINE_AA)
        for corner in corners.values():
            cv2.circle(picture, corner, width, colour, -1, cv2.LINE_AA)
    return picture


def draw_boxes(
    crop: NDArray[np.uint8], reference: NDArray[np.floating], backend: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """An enlarged picture with the reference's boxes (N, 4) wide below and the backend's (M, 4) thin above.

    Boxes that are not finite are left out.
    """
    picture, factor = _enlarge(crop)
    for boxes, colour, width in ((reference, PYTORCH, 6), (backend, BACKEND, 2)):
        finite = boxes[np.isfinite(boxes).all(axis=1)]
        for left, top, right, bottom in (finite * factor).clip(-9999, 9999).round().astype(int).tolist():
            cv2.rectangle(picture, (left, top), (right, bottom), colour, width, cv2.LINE_AA)
    return picture


def _enlarge(crop: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    factor = max(1, round(_PICTURE / max(crop.shape[:2])))
    return np.ascontiguousarray(crop.repeat(factor, axis=0).repeat(factor, axis=1)), factor


def picture_tag(picture: NDArray[np.uint8], alt: str) -> str:
    """An ``<img>`` that carries its JPEG inside, from (H, W, 3) uint8 RGB."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    encoded = base64.b64encode(data.tobytes()).decode("ascii")
    height, width = picture.shape[:2]
    return f'<img width="{width}" height="{height}" alt="{escape(alt)}" src="data:image/jpeg;base64,{encoded}">'
