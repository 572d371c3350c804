"""One person: keypoints, score, box and id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry import transform_points


@dataclass(frozen=True)
class Pose:
    """One person.

    Attributes:
        keypoints: (J, 3) float32: x, y in source pixels and score, in the skeleton's joint order.
        score: mean of the keypoints' scores.
        box: (4,) float64 xyxy in source pixels: the box the person was looked for in.
        track_id: the same number for the same person from frame to frame, or None where nothing tracks.
    """

    keypoints: NDArray[np.float32]
    score: float
    box: NDArray[np.float64]
    track_id: int | None = None


def poses_from_crops(
    keypoints: NDArray[np.float32],
    inverses: NDArray[np.float64],
    boxes: NDArray[np.float64],
    track_ids: Sequence[int] | None = None,
) -> list[Pose]:
    """Take keypoints (N, J, 3) from crop pixels back to source pixels through the inverse affines (N, 2, 3)."""
    points = transform_points(keypoints[..., :2], inverses)
    ids: Sequence[int | None] = [None] * len(boxes) if track_ids is None else track_ids
    scored = np.concatenate([points, keypoints[..., 2:]], axis=-1).astype(np.float32)
    return [
        Pose(person, float(person[:, 2].mean()), box, track_id)
        for person, box, track_id in zip(scored, boxes, ids, strict=True)
    ]
