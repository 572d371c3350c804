"""Drawing of skeletons on pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.boxes import check_threshold
from ..core.images import check_image
from ..core.pictures import Colour, bone_colours, joint_colours
from ..core.pose import Pose
from ..core.skeletons import Skeleton
from .track import CONFIDENT

_BOX: Colour = (200, 200, 200)
#: OpenCV draws in 16.16 fixed point; larger coordinates would wrap around.
_FAR = 30_000


def draw_poses(
    image: NDArray[np.uint8], poses: Sequence[Pose], skeleton: Skeleton, threshold: float = CONFIDENT
) -> NDArray[np.uint8]:
    """Return a copy of the picture with box, id, bones and joints of every pose.

    Args:
        image: (H, W, 3) uint8 RGB; not modified.
        poses: keypoints in pixels of ``image``.
        skeleton: joints and bones; the prefixes ``left_`` and ``right_`` choose the colour.
        threshold: from 0 to 1; joints with a lower score, and the bones that end in them, are not drawn.

    Raises:
        UsageError: the picture has another shape or dtype, or the threshold is not within 0 to 1.
    """
    check_image(image)
    check_threshold(threshold, "the threshold of joints")
    canvas = image.copy()
    colours = joint_colours(skeleton)
    bones = list(zip(skeleton.bones, bone_colours(skeleton), strict=True))
    for pose in poses:
        # Lines of 1 % of the person's size suit crowds and close-ups; below 2 pixels they are too pale.
        size = min(float((pose.box[2:] - pose.box[:2]).max()), max(image.shape))
        thickness = max(2, round(0.01 * size))
        _draw_box(canvas, pose, thickness)
        seen = pose.keypoints[:, 2] >= threshold
        points = [(int(x), int(y)) for x, y in np.clip(pose.keypoints[:, :2].round(), -_FAR, _FAR)]
        for (a, b), colour in bones:
            if seen[a] and seen[b]:
                cv2.line(canvas, points[a], points[b], colour, thickness, cv2.LINE_AA)
        for point, colour, visible in zip(points, colours, seen, strict=True):
            if visible:
                cv2.circle(canvas, point, thickness + 1, colour, cv2.FILLED, cv2.LINE_AA)
    return canvas


def _draw_box(canvas: NDArray[np.uint8], pose: Pose, thickness: int) -> None:
    x1, y1, x2, y2 = (int(v) for v in np.clip(pose.box.round(), -_FAR, _FAR))
    cv2.rectangle(canvas, (x1, y1), (x2, y2), _BOX, 1)
    if pose.track_id is not None:
        scale = 0.3 + 0.15 * thickness
        # Inside the box, so that it is visible when the box touches the top of the picture.
        corner = (max(x1, 0) + 3, max(y1, 0) + 3 + round(22 * scale))
        cv2.putText(canvas, str(pose.track_id), corner, cv2.FONT_HERSHEY_SIMPLEX, scale, _BOX, thickness, cv2.LINE_AA)
