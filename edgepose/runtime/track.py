"""Who is who from one frame to the next, and where to look when there is no detector."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.boxes import box_iou
from ..core.geometry import Size, keypoint_box
from ..core.pose import People, Pose

#: Heat-map maximum from which a joint counts as seen. The focal L2 loss lifts the scores of uncertain joints, as
#: p / (1 - p) goes with the cube root of the odds: HRNet's 0.2 (TEST.IN_VIS_THRE) is reached everywhere on a body.
#: Of the shipped model's joints on its test images, 18 % are right at 0.2 to 0.3, 47 % at 0.4 to 0.5, 82 % from 0.6 on.
CONFIDENT = 0.4
#: Share of the joints that must be seen to follow a person. Fewer span a limb rather than a body, and a region that
#: shrank onto a limb cannot find the rest again.
ENOUGH_JOINTS = 1 / 3
#: Space around the joints, in parts of the longer side of their box: what the person moves until the next frame, and
#: the limb that was not seen, lie within it.
REGION_MARGIN = 0.25
#: Longer side of the next region, at least, in parts of the last one's: nobody shrinks faster, but a few joints that
#: are lost for a frame would draw the region together around the others.
LEAST_SHRINK = 0.8
#: Least overlap with the box of the frame before to be the same person. People move less than half their width in a
#: frame; two people side by side overlap less than this.
SAME_PERSON = 0.3


class RegionTracker:
    """One person without a detector: the next frame is searched where the last pose was, at first everywhere."""

    def __init__(self) -> None:
        self._box: NDArray[np.float64] | None = None

    def boxes(self, source: Size) -> NDArray[np.float64]:
        """Return where to look in a frame of size ``source`` (height, width): (1, 4) xyxy."""
        if self._box is None:
            return np.array([[0.0, 0.0, source[1], source[0]]])
        return self._box[None]

    def update(self, pose: Pose) -> bool:
        """Remember where the person was found; False if it was lost, and the next look is everywhere."""
        seen = pose.keypoints[pose.keypoints[:, 2] >= CONFIDENT, :2]
        found = len(seen) >= ENOUGH_JOINTS * len(pose.keypoints)
        self._box = self._next_box(keypoint_box(seen, REGION_MARGIN)) if found else None
        return found

    def _next_box(self, box: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._box is None:  # the look at everything says nothing about the person's size
            return box
        lacking = LEAST_SHRINK * _longer_side(self._box) - _longer_side(box)
        return box + max(lacking, 0.0) / 2 * np.array([-1, -1, 1, 1])


class Tracker(Protocol):
    """Numbers the people of one camera, frame by frame."""

    def update(self, time: float, people: People) -> NDArray[np.int64]:
        """Return an id for each of the N people of the next frame, (N,) int64 from 1 up.

        Args:
            time: of the frame, in seconds; frames may be missing between two calls.
            people: with boxes and keypoints.
        """
        ...


class OverlapTracker:
    """Gives a person the id of the box it overlaps most in the frame before, else a new one."""

    def __init__(self) -> None:
        self._boxes = np.zeros((0, 4))
        self._ids = np.zeros(0, np.int64)
        self._next = 1

    def update(self, time: float, people: People) -> NDArray[np.int64]:  # noqa: ARG002 (only the order counts)
        """Return the ids, see :class:`Tracker`. The best overlaps are matched first."""
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
    """Gives everybody the id 1: for a camera where one person is followed."""

    def update(self, time: float, people: People) -> NDArray[np.int64]:  # noqa: ARG002
        return np.ones(len(people), np.int64)


def _longer_side(box: NDArray[np.float64]) -> float:
    return float((box[2:] - box[:2]).max())
