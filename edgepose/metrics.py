"""Accuracy of keypoints against labels. NumPy; conventions are those of the public evaluation codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .skeletons import Skeleton


def pck(
    predicted: ArrayLike, labelled: ArrayLike, visible: ArrayLike, reference: ArrayLike, threshold: float = 0.2
) -> NDArray[np.float64]:
    """Percentage of correct keypoints per joint: distance <= threshold x reference length.

    Args:
        predicted: (N, J, 2) x, y in pixels.
        labelled: (N, J, 2) x, y in the same pixels.
        visible: (N, J) truth of "labelled"; other joints are not counted.
        reference: (N,) length in pixels, such as :func:`torso_size`.
        threshold: fraction of the reference.

    Returns:
        (J,) percent; NaN for a joint that no sample labels.
    """
    seen = np.asarray(visible) > 0
    error = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(labelled, np.float64), axis=-1)
    hit = (error <= threshold * np.asarray(reference, np.float64)[:, None]) & seen
    count = seen.sum(axis=0)
    return np.where(count > 0, 100.0 * hit.sum(axis=0) / np.maximum(count, 1), np.nan)


def mean_pck(per_joint: ArrayLike) -> float:
    """Mean over the joints, in percent; joints without a label are left out."""
    return float(np.nanmean(np.asarray(per_joint, np.float64)))


def torso_size(joints: ArrayLike, skeleton: Skeleton) -> NDArray[np.float64]:
    """Distance from right hip to left shoulder, (N,), of joints (N, J, 2): the reference length of PCK on LSP."""
    joints = np.asarray(joints, np.float64)
    hip, shoulder = skeleton.joints.index("right_hip"), skeleton.joints.index("left_shoulder")
    return np.linalg.norm(joints[:, hip] - joints[:, shoulder], axis=-1)
