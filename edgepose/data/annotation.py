"""Read one person of a COCO-style file: what is run, and what is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reading import DAMAGED, plausible, too_small
from .samples import AREA_OF_BOX, Label

#: Limits of a labelled area as a share of the box's: COCO's persons have 0.15 to 1.
_AREAS = (0.01, 2.0)


@dataclass(frozen=True)
class JointReader:
    """Takes the joints of a skeleton out of the list of an annotation.

    Attributes:
        count: number of joints of the skeleton.
        order: their positions in the file; empty if they are in the skeleton's order.
        listed: number of joints that the file names. Human-Art names more than its annotations have: then the first
            of the names count.
    """

    count: int
    order: tuple[int, ...] = ()
    listed: int = 0

    def __call__(self, keypoints: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return (count, 3) x, y and visibility from a list of numbers; None if it has another number of joints."""
        order, number = self.order or range(self.count), len(keypoints) // 3
        if len(keypoints) % 3 or number not in (self.count, self.listed) or number <= max(order):
            return None
        return keypoints.reshape(-1, 3)[list(order)]


@dataclass(frozen=True)
class _Fields:
    """The fields of an annotation as numbers: ``box`` x, y, width, height, ``keypoints`` the file's list.

    ``given_area`` is the one in the file, or a share of the box's.
    """

    box: tuple[float, float, float, float]
    given_area: float
    crowd: bool
    keypoints: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area to score with, in square pixels."""
        return self.given_area if 0 < self.given_area < np.inf else AREA_OF_BOX * self.box[2] * self.box[3]


def _read_fields(annotation: dict[str, Any]) -> _Fields | None:
    """Parse an annotation; null counts as a missing field, and a damaged field gives None."""

    def number(name: str, default: float) -> float:
        return default if annotation.get(name) is None else float(annotation[name])

    try:
        x, y, width, height = (float(value) for value in annotation["bbox"])
        fields = _Fields(
            box=(x, y, width, height),
            given_area=number("area", AREA_OF_BOX * width * height),
            crowd=number("iscrowd", 0) != 0,
            keypoints=np.asarray(annotation.get("keypoints") or [], dtype=np.float64).ravel(),
        )
    except DAMAGED:
        return None
    return fields if plausible(fields.box) else None


def read_person(
    annotation: dict[str, Any], image_id: int, size: tuple[float, float], joints: JointReader
) -> tuple[Label | None, NDArray[np.float64] | str]:
    """Read an annotation of a person.

    Args:
        annotation: of a COCO-style file.
        image_id: number of its picture.
        size: (height, width) of the picture; infinity where unknown.
        joints: takes the skeleton's joints.

    Returns:
        what poses are compared with: the person, or a region to ignore if the person cannot be used, None without a
        box; and the box xyxy to run the person in, or the reason why the person cannot be used.
    """
    fields = _read_fields(annotation)
    if fields is None:
        return None, "damaged annotation"
    keypoints = joints(fields.keypoints)
    reason = _fault(fields, keypoints, size)
    if keypoints is None and reason is None:
        reason = f"wrong number of joints (expected {joints.listed or joints.count})"
    if keypoints is None or reason:
        points, visible = np.zeros((joints.count, 2)), np.zeros(joints.count, dtype=bool)
    else:
        visible = keypoints[:, 2] > 0
        points = np.where(visible[:, None], keypoints[:, :2], 0.0)
    label = Label(image_id, fields.box, fields.area, points, visible, not reason, fields.crowd)
    return label if min(fields.box[2:]) > 0 else None, reason or _run_box(fields.box, size)


def _fault(fields: _Fields, keypoints: NDArray[np.float64] | None, size: tuple[float, float]) -> str | None:
    """Return why a person cannot be used, or None."""
    if fields.crowd:
        return "crowd"
    if not fields.keypoints.any():
        return "no labelled joint"
    if keypoints is None:
        return None
    points = keypoints[keypoints[:, 2] > 0, :2]
    if not len(points):
        return "no labelled joint"
    if not (plausible(points) and np.isfinite(fields.given_area)):
        return "damaged annotation"
    sides = (*fields.box[2:], fields.given_area)
    if min(sides) <= 0:
        return "no area"
    return "smaller than a pixel" if too_small(points, *sides) else _misfit(fields, points, size)


def _misfit(fields: _Fields, points: NDArray[np.float64], size: tuple[float, float]) -> str | None:
    """Return which of picture, box, area and labelled joints (K, 2) do not fit each other, or None."""
    (x, y, width, height), (tall, wide) = fields.box, size
    if x >= wide or y >= tall or x + width <= 0 or y + height <= 0:
        return "box outside the picture"
    if x < -wide or y < -tall or x + width > 2 * wide or y + height > 2 * tall:
        return "box far outside the picture"
    if not _AREAS[0] <= fields.given_area / (width * height) <= _AREAS[1]:
        return "area that does not fit the box"
    # Near is inside the box grown by its own size on every side: joints may lie outside of what is seen of a person.
    near = np.abs(points - (x + width / 2, y + height / 2)) <= (1.5 * width, 1.5 * height)
    return None if near.all(axis=1).any() else "joints far from the box"


def _run_box(box: Sequence[float], size: tuple[float, float]) -> NDArray[np.float64]:
    """Return HRNet's box xyxy, from the first to the last pixel.

    A negative x or y becomes 0 with the box's size unchanged, and the far corner is then clipped to the picture.
    """
    left, top, width, height = max(0.0, box[0]), max(0.0, box[1]), box[2], box[3]
    right, bottom = left + max(0.0, width - 1), top + max(0.0, height - 1)
    return np.array([left, top, min(size[1] - 1, right), min(size[0] - 1, bottom)])
