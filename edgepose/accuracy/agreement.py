"""Measure without labels how much a network loses in another precision: compare its results with FP32's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.boxes import LEAST_SCORE, PERSON_SCORE, find_persons, person_errors
from ..core.errors import UsageError
from ..core.geometry import CROP_PADDING, Size
from ..core.skeletons import Skeleton
from ..data.samples import AREA_OF_BOX
from .coco import box_ap
from .metrics import keypoint_similarity

#: FP32 keypoints with a lower score are ignored: their position is arbitrary, so moving is no loss.
CONFIDENT = 0.3
#: Crop pixels: a keypoint that moved by less than SAME counts as identical, by more than MOVED as moved.
SAME, MOVED = 0.05, 4.0
#: ``SAME`` for the corners of boxes, which unlike decoded keypoints are not on a grid.
SAME_BOX = 1.0
#: COCO's thresholds of OKS; AP is the mean over them.
_THRESHOLDS = np.arange(0.5, 1.0, 0.05)


@dataclass(frozen=True)
class Agreement:
    """Keypoints, or a detector's boxes, compared with FP32's on the same crops.

    Attributes:
        ap: :func:`oks_ap` of keypoints or :func:`person_ap` of boxes, with FP32's as labels, in percent.
        identical: share of all keypoints that moved by less than 0.05 crop pixels, or of FP32's persons with no box
            corner that moved by 1 pixel or more, in percent.
        moved: share of the confident keypoints, or of FP32's persons, that moved by more than 4 crop pixels or were
            lost, in percent.
    """

    ap: float
    identical: float
    moved: float


def agreement(
    reference: NDArray[np.float32], keypoints: NDArray[np.float32], skeleton: Skeleton, input_size: Size, padding: float
) -> Agreement:
    """Compare keypoints (N, J, 3) with FP32's, ``reference``; arguments are those of :func:`oks_ap`."""
    distance = np.linalg.norm(keypoints[..., :2].astype(np.float64) - reference[..., :2], axis=-1)
    confident = reference[..., 2] > CONFIDENT
    return Agreement(
        ap=oks_ap(reference, keypoints, skeleton, input_size, padding),
        identical=_percent(distance < SAME),
        moved=_percent(distance[confident] > MOVED, empty=0.0),
    )


def oks_ap(
    reference: NDArray[np.float32],
    keypoints: NDArray[np.float32],
    skeleton: Skeleton,
    input_size: Size,
    padding: float = CROP_PADDING,
) -> float:
    """Return COCO's AP by OKS in percent: the mean over COCO's thresholds of the share of crops that reach them.

    Args:
        reference: (N, J, 3) x, y in crop pixels and score: FP32's keypoints, or labels with score 1 (0 if unlabelled)
            of one person per crop. Only confident ones count.
        keypoints: (N, J, 3) the keypoints to judge.
        skeleton, input_size: of the J joints, and (height, width) of the crops.
        padding: factor from a person's box to the crop.
    """
    counted = reference[..., 2] > CONFIDENT
    area = np.full(len(reference), AREA_OF_BOX * input_size[0] * input_size[1] / padding**2)
    similarity = keypoint_similarity(keypoints[..., :2], reference[..., :2], area, skeleton.sigmas)
    judged = counted.any(axis=1)
    oks = (similarity * counted).sum(axis=1)[judged] / counted.sum(axis=1)[judged]
    return _percent(oks[:, None] >= _THRESHOLDS)


def person_agreement(reference: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    """Compare boxes with FP32's, ``reference``; arguments are those of :func:`person_ap`."""
    pairs = zip(reference, found, strict=True)
    errors = [person_errors((a[:, :4], a[:, 4]), (b[:, :4], b[:, 4]), PERSON_SCORE)[0] for a, b in pairs]
    distances = np.concatenate(errors)
    return Agreement(
        ap=person_ap(reference, found),
        identical=_percent(distances < SAME_BOX),
        moved=_percent(distances > MOVED, empty=0.0),
    )


def person_ap(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return COCO's AP of boxes in percent, with the persons that FP32 finds as labels.

    Args:
        reference: (N, K, 5) xyxy in pixels and score: FP32's boxes in N pictures.
        found: (N, M, 5) the boxes to judge.

    Raises:
        UsageError: pycocotools is not installed, or FP32 finds no person in any picture.
    """
    persons = [find_persons(picture[:, :4], picture[:, 4], PERSON_SCORE)[0] for picture in reference]
    if not sum(map(len, persons)):
        raise UsageError(
            f"the detector finds no person in the {len(reference)} pictures that accuracy is measured on: add pictures"
        )
    return box_ap(persons, [find_persons(picture[:, :4], picture[:, 4], LEAST_SCORE) for picture in found])


def _percent(truths: NDArray[np.bool_], empty: float = 100.0) -> float:
    """Return the percentage of true values, or ``empty`` if there are no values."""
    return 100 * float(truths.mean()) if truths.size else empty
