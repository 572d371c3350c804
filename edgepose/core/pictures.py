"""The colours of skeletons, and pictures that compare a backend's skeletons or boxes with the reference's."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from .heatmaps import STRIDE
from .skeletons import Skeleton

Colour = tuple[int, int, int]

#: RGB of the person's own left and right, and of neither side; colour-blind people can tell orange from blue.
LEFT: Colour = (255, 140, 0)
RIGHT: Colour = (30, 120, 255)
CENTRE: Colour = (60, 220, 90)
#: RGB, also in the page's legend: wide lines for PyTorch, thin lines over them for the backend.
PYTORCH = (0, 200, 255)
BACKEND = (255, 90, 0)
#: Approximate length of an enlarged picture's longer side, in pixels.
_PICTURE = 384


def joint_colours(skeleton: Skeleton) -> list[Colour]:
    """Return the colour of every joint: its side's by the prefix ``left_`` or ``right_``, else CENTRE."""
    return [
        LEFT if name.startswith("left_") else RIGHT if name.startswith("right_") else CENTRE for name in skeleton.joints
    ]


def bone_colours(skeleton: Skeleton) -> list[Colour]:
    """Return the colour of every bone: the side's if it touches one side only, else CENTRE (as between the hips)."""
    joints = joint_colours(skeleton)
    sides = [{joints[a], joints[b]} - {CENTRE} for a, b in skeleton.bones]
    return [touched.pop() if len(touched) == 1 else CENTRE for touched in sides]


def draw_pair(
    crop: NDArray[np.uint8], pytorch: NDArray[np.float32], backend: NDArray[np.float32], skeleton: Skeleton
) -> NDArray[np.uint8]:
    """Return an enlarged crop with PyTorch's skeleton in wide lines and the backend's in thin lines over it.

    Skeletons are (J, 3) x, y in crop pixels and score. Joints without a positive score, whose position is arbitrary,
    and joints that are not finite are left out. (H, W, 3) becomes (kH, kW, 3) with a whole factor k >= 1.
    """
    picture, factor = _enlarge(crop)
    for keypoints, colour, width in ((pytorch, PYTORCH, 6), (backend, BACKEND, 2)):
        # The centre of an enlarged pixel; clipped, because a wrong engine's points may be too far away for OpenCV.
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
    """Return an enlarged picture with the reference's boxes in wide lines and the backend's in thin lines over them.

    Boxes are (N, 4) and (M, 4) xyxy in pixels of ``crop``; those that are not finite are left out.
    """
    picture, factor = _enlarge(crop)
    for boxes, colour, width in ((reference, PYTORCH, 6), (backend, BACKEND, 2)):
        finite = boxes[np.isfinite(boxes).all(axis=1)]
        for left, top, right, bottom in (finite * factor).clip(-9999, 9999).round().astype(int).tolist():
            cv2.rectangle(picture, (left, top), (right, bottom), colour, width, cv2.LINE_AA)
    return picture


def draw_maps(crop: NDArray[np.uint8], maps: NDArray[np.floating], colours: Sequence[Colour]) -> NDArray[np.uint8]:
    """Return an enlarged crop (H, W, 3) under maps (M, h, w), each in its colour and as opaque as its value in 0..1.

    Cell (0, 0) of a map lies over pixel (0, 0) of the crop, and the next one :data:`STRIDE` pixels further. Where maps
    overlap, their colours are mixed. A map's values outside 0..1 are clipped, and those that are not finite are 0.
    """
    picture, factor = _enlarge(crop)
    height, width = picture.shape[:2]
    # From a pixel of the picture to a cell: the centre of an enlarged pixel is between those of the crop's.
    step, start = 1 / (factor * STRIDE), (0.5 / factor - 0.5) / STRIDE
    matrix, how = np.array([[step, 0, start], [0, step, start]]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    shares = np.nan_to_num(maps.astype(np.float32), nan=0.0).clip(0, 1)
    large = np.stack([cv2.warpAffine(share, matrix, (width, height), flags=how) for share in shares])
    opaque = large.max(axis=0)[..., None]
    mixed = np.tensordot(large, np.array(colours, np.float32), axes=(0, 0))
    mixed /= np.maximum(large.sum(axis=0)[..., None], 1e-6)
    return np.asarray((picture * (1 - opaque) + mixed * opaque).round(), dtype=np.uint8)


def _enlarge(crop: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    factor = max(1, round(_PICTURE / max(crop.shape[:2])))
    return np.ascontiguousarray(crop.repeat(factor, axis=0).repeat(factor, axis=1)), factor


def picture_tag(picture: NDArray[np.uint8], alt: str) -> str:
    """Return an ``<img>`` tag with a picture (H, W, 3) uint8 RGB embedded as JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    encoded = base64.b64encode(data.tobytes()).decode("ascii")
    height, width = picture.shape[:2]
    return f'<img width="{width}" height="{height}" alt="{escape(alt)}" src="data:image/jpeg;base64,{encoded}">'
