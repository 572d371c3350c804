"""How much of a network's accuracy a change leaves, without labels: what it finds against what FP32 finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.boxes import LEAST_SCORE, PERSON_SCORE, find_persons, person_errors
from ..core.errors import UsageError
from ..core.geometry import CROP_PADDING, Size
from ..core.skeletons import Skeleton
from .coco import box_precision
from .metrics import keypoint_similarity

#: FP32 keypoints with a lower score are not somewhere else: they are nowhere.
CONFIDENT = 0.3
#: Crop pixels: a keypoint that moved by less is the same, one that moved by more is in another place.
SAME, MOVED = 0.05, 4.0
#: The same for the corners of a box, which lie on no grid.
SAME_BOX = 1.0
#: COCO's thresholds of OKS, over which AP is the mean.
_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
#: COCO's persons cover about this share of their box.
_BODY = 0.53


@dataclass(frozen=True)
class Agreement:
    """Keypoints, or a detector's boxes, beside those of FP32, on the same crops.

    Attributes:
        ap: :func:`precision_beside` FP32, or :func:`person_precision`, in percent.
        identical: share of all keypoints that did not move (less than 0.05 px), in percent; of FP32's persons, of which
            the corners did not move by 1 px.
        moved: share of the confident keypoints, or of FP32's persons, that moved by more than 4 crop pixels or were
            lost, in percent.
    """

    ap: float
    identical: float
    moved: float


def agreement(
    reference: NDArray[np.float32], keypoints: NDArray[np.float32], skeleton: Skeleton, input_size: Size, padding: float
) -> Agreement:
    """Compare keypoints (N, J, 3) with those of FP32; arguments are those of :func:`precision_beside`."""
    distance = np.linalg.norm(keypoints[..., :2].astype(np.float64) - reference[..., :2], axis=-1)
    confident = reference[..., 2] > CONFIDENT
    return Agreement(
        ap=precision_beside(reference, keypoints, skeleton, input_size, padding),
        identical=_percent(distance < SAME),
        moved=_percent(distance[confident] > MOVED, empty=0.0),
    )


def precision_beside(
    reference: NDArray[np.float32],
    keypoints: NDArray[np.float32],
    skeleton: Skeleton,
    input_size: Size,
    padding: float = CROP_PADDING,
) -> float:
    """Average precision as COCO defines it, of one found person for each crop: the mean over its thresholds of the
    share of crops whose OKS reaches it.

    Args:
        reference: (N, J, 3): x, y in crop pixels and score of FP32's keypoints, of which the confident ones count, or
            of labels, scored 1 where labelled.
        keypoints: (N, J, 3) likewise.
        skeleton: names the J joints, and how well each can be placed.
        input_size: (height, width) of the crops.
        padding: factor from a person's box to the crop.

    Returns:
        percent.
    """
    counted = reference[..., 2] > CONFIDENT
    area = np.full(len(reference), _BODY * input_size[0] * input_size[1] / padding**2)
    similarity = keypoint_similarity(keypoints[..., :2], reference[..., :2], area, skeleton.sigmas)
    judged = counted.any(axis=1)
    oks = (similarity * counted).sum(axis=1)[judged] / counted.sum(axis=1)[judged]
    return _percent(oks[:, None] >= _THRESHOLDS)


def person_agreement(reference: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    """Compare boxes with those of FP32; arguments are those of :func:`person_precision`."""
    pairs = zip(reference, found, strict=True)
    errors = [person_errors((a[:, :4], a[:, 4]), (b[:, :4], b[:, 4]), PERSON_SCORE)[0] for a, b in pairs]
    distances = np.concatenate(errors)
    return Agreement(
        ap=person_precision(reference, found),
        identical=_percent(distances < SAME_BOX),
        moved=_percent(distances > MOVED, empty=0.0),
    )


def person_precision(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """COCO's average precision of boxes, in percent, where the persons are those that FP32 finds.

    Args:
        reference: (N, K, 5): xyxy in pixels and score of FP32's boxes in N pictures.
        found: (N, M, 5) likewise.

    Raises:
        UsageError: pycocotools is not installed, or FP32 finds nobody at all.
    """
    persons = [find_persons(picture[:, :4], picture[:, 4], PERSON_SCORE)[0] for picture in reference]
    if not sum(map(len, persons)):
        raise UsageError(f"the detector finds nobody in the {len(reference)} pictures that judge: add others")
    return box_precision(persons, [find_persons(picture[:, :4], picture[:, 4], LEAST_SCORE) for picture in found])


def _percent(truths: NDArray[np.bool_], empty: float = 100.0) -> float:
    """Share of what is true; ``empty`` where there is nothing to judge."""
    return 100 * float(truths.mean()) if truths.size else empty
