"""Compute the accuracy of keypoints by the conventions of the public evaluation codes, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.skeletons import Skeleton

#: Rows of MPII's published tables: the top of the head, and means of a left and a right joint.
MPII_ROWS = ("head_top", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
#: Joints that are left out of MPII's mean.
_NOT_IN_MEAN = ("pelvis", "thorax")


def correct_keypoints(
    predicted: ArrayLike, labelled: ArrayLike, reference: ArrayLike, threshold: float
) -> NDArray[np.bool_]:
    """Return for each keypoint, (N, J) bool, whether its distance is at most ``threshold`` x its reference length.

    Args:
        predicted, labelled: (N, J, 2) x, y in the same pixels.
        reference: (N,) length in pixels, such as :func:`torso_size`, or the head size for PCKh.
        threshold: fraction of the reference.
    """
    error = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(labelled, np.float64), axis=-1)
    return error <= threshold * np.asarray(reference, np.float64)[:, None]


def percent_by_joint(right: ArrayLike, counted: ArrayLike) -> NDArray[np.float64]:
    """Return (J,) the percentage of ``counted`` keypoints (N, J) that are ``right`` (N, J); NaN if none is counted."""
    counted = np.asarray(counted) > 0
    count = counted.sum(axis=0)
    return np.where(count > 0, 100.0 * (np.asarray(right) & counted).sum(axis=0) / np.maximum(count, 1), np.nan)


def mean_pck(per_joint: ArrayLike) -> float | None:
    """Return the mean of percentages per joint (J,), leaving out NaN: joints without a label; None if all are."""
    percent = np.asarray(per_joint, np.float64)
    return None if np.isnan(percent).all() else float(np.nanmean(percent))


def torso_size(joints: ArrayLike, skeleton: Skeleton) -> NDArray[np.float64]:
    """Return PCK's reference length on LSP, (N,): from right hip to left shoulder of joints (N, J, 2)."""
    joints = np.asarray(joints, np.float64)
    hip, shoulder = skeleton.joints.index("right_hip"), skeleton.joints.index("left_shoulder")
    return np.linalg.norm(joints[:, hip] - joints[:, shoulder], axis=-1)


def mean_pckh(per_joint: ArrayLike, visible: ArrayLike, skeleton: Skeleton) -> float | None:
    """Return MPII's mean of percentages per joint (J,), over all ``visible`` keypoints (N, J) but pelvis and thorax.

    None if there are none.
    """
    weights = (np.asarray(visible) > 0).sum(axis=0) * [name not in _NOT_IN_MEAN for name in skeleton.joints]
    if not weights.any():
        return None
    return float(np.average(np.nan_to_num(np.asarray(per_joint, np.float64)), weights=weights))


def mpii_rows(per_joint: ArrayLike, skeleton: Skeleton) -> dict[str, float]:
    """Return :data:`MPII_ROWS` from percentages per joint (J,); a joint that the skeleton lacks has no row."""
    percent = dict(zip(skeleton.joints, np.asarray(per_joint, np.float64).tolist(), strict=True))
    rows = {row: [percent[n] for n in (row, f"left_{row}", f"right_{row}") if n in percent] for row in MPII_ROWS}
    return {row: float(np.mean(values)) for row, values in rows.items() if values}


def keypoint_similarity(
    predicted: ArrayLike, labelled: ArrayLike, area: ArrayLike, sigmas: ArrayLike
) -> NDArray[np.float64]:
    """Return COCO's similarity of single joints: exp(-d^2 / (2 area (2 sigma)^2)), d the distance.

    Args:
        predicted, labelled: (..., J, 2) x, y in pixels; leading axes broadcast.
        area: (...) area of the person in square pixels.
        sigmas: (J,) :attr:`edgepose.core.skeletons.Skeleton.sigmas`.

    Returns:
        (..., J) in 0..1.
    """
    distance2 = ((np.asarray(predicted, np.float64) - np.asarray(labelled, np.float64)) ** 2).sum(axis=-1)
    scale = (2 * np.asarray(sigmas, np.float64)) ** 2
    return np.exp(-distance2 / scale / (np.asarray(area, np.float64)[..., None] + np.spacing(1)) / 2)


def oks(
    predicted: ArrayLike, labelled: ArrayLike, visible: ArrayLike, area: ArrayLike, sigmas: ArrayLike
) -> NDArray[np.float64]:
    """Return the object keypoint similarity of poses and labelled persons: the mean over the labelled joints.

    Args:
        predicted, labelled: (D, J, 2) and (G, J, 2) x, y in the same pixels.
        visible: (G, J) truth of "labelled".
        area: (G,) of the labelled persons, in square pixels.
        sigmas: (J,) of the skeleton.

    Returns:
        (D, G) in 0..1; 0 for a person without a labelled joint. (COCO's rule for such persons, by the distance to the
        box, only decides which poses are ignored; pycocotools applies it.)
    """
    predicted, labelled = np.asarray(predicted, np.float64), np.asarray(labelled, np.float64)
    similarity = keypoint_similarity(predicted[:, None], labelled[None], area, sigmas)
    counted = np.asarray(visible) > 0
    return (similarity * counted).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)


def pose_oks(points: NDArray[np.float64], areas: NDArray[np.float64], sigmas: ArrayLike) -> NDArray[np.float64]:
    """Return the OKS (N, N) of poses (N, J, 2) with each other, by HRNet's rule: with the mean of two areas (N,)."""
    return keypoint_similarity(points[None], points[:, None], (areas[:, None] + areas) / 2, sigmas).mean(axis=-1)


def oks_nms(similarity: NDArray[np.float64], scores: ArrayLike, limit: float = 0.9) -> list[int]:
    """Suppress duplicates in one picture: drop each pose that has an OKS above ``limit`` with a kept, better one.

    Args:
        similarity: (N, N) from :func:`pose_oks`.
        scores: (N,) scores of the persons.
        limit: largest OKS between two kept poses; the default is HRNet's.

    Returns:
        indices of the kept poses, best first.
    """
    order, keep = np.argsort(-np.asarray(scores), kind="stable"), []
    while order.size:
        best, rest = int(order[0]), order[1:]
        keep.append(best)
        order = rest[similarity[best, rest] <= limit]
    return keep


def person_scores(poses: ArrayLike, box_scores: ArrayLike, joint_score: float = 0.2) -> NDArray[np.float64]:
    """Return scores of persons (N,) by HRNet's rule: the box's, times the mean of the joint scores above a limit.

    Args:
        poses: (N, J, 3) x, y, score.
        box_scores: (N,) scores of the persons' boxes; 1 for labelled boxes.
        joint_score: the limit; a person with no joint score above it gets 0.
    """
    scores = np.asarray(poses, np.float64)[..., 2]
    sure = scores > joint_score
    return np.asarray(box_scores, np.float64) * (scores * sure).sum(axis=1) / np.maximum(sure.sum(axis=1), 1)
