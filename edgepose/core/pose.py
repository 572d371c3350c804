"""The people in one picture, as arrays and as single poses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import overload

import numpy as np
from numpy.typing import NDArray

from .geometry import transform_points


@dataclass(frozen=True, eq=False)
class _ByValue:
    """Equal to another of the same kind if every number is; without a hash, as arrays can be changed."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return all(np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Pose(_ByValue):
    """One person.

    Attributes:
        keypoints: (J, 3) float32: x, y in source pixels and score, in the skeleton's joint order.
        score: mean of the keypoints' scores.
        box: (4,) float64 xyxy in source pixels, the box in which the pose was estimated.
        track_id: id of the person from frame to frame, or None without tracking.
    """

    keypoints: NDArray[np.float32]
    score: float
    box: NDArray[np.float64]
    track_id: int | None = None


@dataclass(frozen=True, eq=False)
class People(_ByValue, Sequence[Pose]):
    """The N people in one picture, as arrays; a sequence of :class:`Pose`.

    Attributes:
        boxes: (N, 4) float64 xyxy in source pixels, the boxes in which the poses were estimated.
        keypoints: (N, J, 3) float32: x, y in source pixels and score, in the skeleton's joint order.
        ids: (N,) int64 ids of the persons from frame to frame, or None without tracking.
    """

    boxes: NDArray[np.float64]
    keypoints: NDArray[np.float32]
    ids: NDArray[np.int64] | None = None

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) float32: the mean of each person's keypoint scores."""
        return self.keypoints[..., 2].mean(axis=1)

    def __len__(self) -> int:
        return len(self.boxes)

    @overload
    def __getitem__(self, index: int) -> Pose: ...

    @overload
    def __getitem__(self, index: slice) -> People: ...

    def __getitem__(self, index: int | slice) -> Pose | People:
        if isinstance(index, slice):
            return People(self.boxes[index], self.keypoints[index], None if self.ids is None else self.ids[index])
        person = self.keypoints[index]
        track_id = None if self.ids is None else int(self.ids[index])
        return Pose(person, float(person[:, 2].mean()), self.boxes[index], track_id)

    def __iter__(self) -> Iterator[Pose]:
        return (self[index] for index in range(len(self)))


def nobody(joints: int) -> People:
    """Return an empty :class:`People` for a skeleton with this number of joints."""
    return People(np.zeros((0, 4)), np.zeros((0, joints, 3), np.float32))


def people_in_boxes(boxes: NDArray[np.float64]) -> People:
    """Return people with boxes (N, 4) xyxy and without joints: J is 0."""
    return People(boxes, np.zeros((len(boxes), 0, 3), np.float32))


def people_from_crops(
    keypoints: NDArray[np.float32], inverses: NDArray[np.float64], boxes: NDArray[np.float64]
) -> People:
    """Return people with keypoints transformed from crop pixels to source pixels.

    Args:
        keypoints: (N, J, 3) x, y in crop pixels and score.
        inverses: (N, 2, 3) affine matrices from crop pixels to source pixels.
        boxes: (N, 4) xyxy of the crops in source pixels.
    """
    points = transform_points(keypoints[..., :2], inverses)
    return People(boxes, np.concatenate([points, keypoints[..., 2:]], axis=-1).astype(np.float32))
