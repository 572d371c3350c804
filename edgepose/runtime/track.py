"""Tracking: ids of people from frame to frame, and the region to search without a detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.boxes import box_iou
from ..core.geometry import Size, keypoint_box
from ..core.pose import People, Pose

#: Heat-map maximum from which a joint counts as visible. The focal L2 loss raises the scores of uncertain joints, as
#: p / (1 - p) follows the cube root of the odds: HRNet's 0.2 (TEST.IN_VIS_THRE) is reached everywhere on a body.
#: Of the shipped model's joints on its test images, 18 % are right at 0.2 to 0.3, 47 % at 0.4 to 0.5, 82 % from 0.6 on.
CONFIDENT = 0.4
#: Share of the joints that must be visible to follow a person. Fewer may cover only a limb, and a region around a limb
#: does not find the rest again.
ENOUGH_JOINTS = 1 / 3
#: Margin around the joints, as a fraction of the longer side of their box, for movement until the next frame and for
#: invisible limbs.
REGION_MARGIN = 0.25
#: Least longer side of the next region, as a fraction of the last one's: people do not shrink faster, but joints that
#: are lost for a frame would shrink the region to the others.
LEAST_SHRINK = 0.8
#: Least IoU with the box in the frame before for the same person. People move less than half their width per frame; two
#: people side by side overlap less than this.
SAME_PERSON = 0.3


class RegionTracker:
    """The region of one person without a detector: around the last pose, at first the whole frame."""

    def __init__(self) -> None:
        self._box: NDArray[np.float64] | None = None

    def boxes(self, source: Size) -> NDArray[np.float64]:
        """Return the region to search in a frame of size ``source`` (height, width), as (1, 4) xyxy."""
        if self._box is None:
            return np.array([[0.0, 0.0, source[1], source[0]]])
        return self._box[None]

    def update(self, pose: Pose) -> bool:
        """Store the region around a pose; return False, and search the whole frame next, if the person was lost."""
        seen = pose.keypoints[pose.keypoints[:, 2] >= CONFIDENT, :2]
        if len(seen) < ENOUGH_JOINTS * len(pose.keypoints):
            self._box = None
            return False
        box = keypoint_box(seen, REGION_MARGIN)
        if self._box is not None:  # otherwise the last region was the whole frame, no hint about the person's size
            lacking = LEAST_SHRINK * _longer_side(self._box) - _longer_side(box)
            box = box + max(lacking, 0.0) / 2 * np.array([-1, -1, 1, 1])
        self._box = box
        return True


class OverlapTracker:
    """A tracker that gives a person the id of the box it overlaps most in the frame before, or a new one."""

    def __init__(self) -> None:
        self._boxes = np.zeros((0, 4))
        self._ids = np.zeros(0, np.int64)
        self._next = 1

    def update(self, people: People) -> NDArray[np.int64]:
        """Return ids, (N,) int64 from 1 up, for the N people of the next frame; the best overlaps are matched first."""
        overlaps = box_iou(people.boxes, self._boxes)
        ids = np.zeros(len(people), np.int64)
        while overlaps.size and overlaps.max() >= SAME_PERSON:
            new, old = np.unravel_index(overlaps.argmax(), overlaps.shape)
            ids[new] = self._ids[old]
            overlaps[new, :] = overlaps[:, old] = 0
        unknown = ids == 0
        ids[unknown] = self._next + np.arange(unknown.sum())
        self._next += int(unknown.sum())
        self._boxes, self._ids = people.boxes, ids
        return ids.copy()


class OneTracker:
    """A tracker that gives every person the id 1, for following one person."""

    def update(self, people: People) -> NDArray[np.int64]:
        return np.ones(len(people), np.int64)


def _longer_side(box: NDArray[np.float64]) -> float:
    return float((box[2:] - box[:2]).max())
