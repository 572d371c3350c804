"""Boxes of persons, xyxy in pixels: how they overlap, which belong to one person, and how two sets differ."""

from __future__ import annotations

from numbers import Real
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import UsageError

_Box = TypeVar("_Box", bound=np.floating)
_Score = TypeVar("_Score", bound=np.floating)

#: Of two boxes that overlap by more than this IoU, the more certain stays.
NMS = 0.5
#: Two boxes of this IoU and more are of the same person (COCO's loosest threshold).
SAME_PERSON = 0.5
#: Where a detector is compared with another form of itself, what it scores as high as this is a person.
PERSON_SCORE = 0.4
#: Where detectors are compared, boxes of lower scores are ignored.
LEAST_SCORE = 0.05


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of every box of (N, 4) with every box of (M, 4), xyxy: (N, M).

    >>> box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    return np.asarray(shared / np.maximum(area_a[:, None] + area_b[None, :] - shared, 1e-9), dtype=np.float64)


def nms(boxes: NDArray[np.floating], scores: NDArray[np.floating], overlap: float = NMS) -> NDArray[np.intp]:
    """Choose the boxes that stay: in order of falling score, each that overlaps no chosen one by more than an IoU.

    Memory grows with N, not with its square, so that a detector's every box may be given.

    Args:
        boxes, scores: (N, 4) xyxy and (N,).
        overlap: that IoU, above which the less certain box goes.

    Returns:
        indices of those that stay, the most certain first.
    """
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[~(box_iou(boxes[best : best + 1], boxes[left])[0] > overlap)]
    return np.array(kept, dtype=np.intp)


def find_persons(
    boxes: NDArray[_Box], scores: NDArray[_Score], threshold: float
) -> tuple[NDArray[_Box], NDArray[_Score]]:
    """Return, of boxes (N, 4) and scores (N,), those that reach a score and that no better box overlaps.

    The most certain comes first; overlap begins above an IoU of :data:`NMS`.
    """
    chosen = np.flatnonzero(scores >= threshold)
    kept = chosen[nms(boxes[chosen], scores[chosen])]
    return boxes[kept], scores[kept]


def check_threshold(threshold: float, name: str) -> None:
    """Refuse a least score, which the user calls ``name``: raise UsageError unless it is a number from 0 to 1."""
    if not (isinstance(threshold, Real) and 0 <= threshold <= 1):
        raise UsageError(f"{name} is {threshold!r}, expected a score from 0 to 1")


def person_errors(
    reference: tuple[NDArray[np.floating], NDArray[np.floating]],
    got: tuple[NDArray[np.floating], NDArray[np.floating]],
    threshold: float,
) -> tuple[NDArray[np.float64], float]:
    """How the persons found in one picture differ from those of a reference.

    A person is found again by the box that overlaps it most, of any score from 0.05 on, so that one at the threshold is
    not lost by a rounding.

    Args:
        reference: boxes (N, 4) and scores (N,), before non-maximum suppression.
        got: boxes (M, 4) and scores (M,) likewise.
        threshold: least score of a person.

    Returns:
        for each person of the reference, by how many pixels that corner of the box moved which moved most, and for one
        that is not found again the diagonal of the box; and the largest error of a score, of the reference's persons
        and of those that were got: one that the other has not counts with all of its score.
    """
    known, found = find_persons(*reference, LEAST_SCORE), find_persons(*got, LEAST_SCORE)
    count, new = (int((scores >= threshold).sum()) for _, scores in (known, found))
    boxes, scores = known[0][:count], known[1][:count]
    partners = _partners(boxes, found[0])
    again = partners >= 0
    distances = np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1).astype(np.float64)
    moved = (boxes[again].astype(np.float64) - found[0][partners[again]]).reshape(-1, 2, 2)
    distances[again] = np.linalg.norm(moved, axis=2).max(axis=1)
    errors = _score_errors(scores, found[1], partners)
    errors_of_new = _score_errors(found[1][:new], known[1], _partners(found[0][:new], known[0]))
    return distances, float(np.concatenate([errors, errors_of_new]).max(initial=0.0))


def _partners(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.intp]:
    """For each box in turn the index of the other that overlaps it most and is not taken yet, -1 for none."""
    overlaps = box_iou(boxes, others)
    partners = np.full(len(boxes), -1, dtype=np.intp)
    for number, row in enumerate(overlaps):
        if row.max(initial=0.0) >= SAME_PERSON:
            partners[number] = row.argmax()
            overlaps[:, partners[number]] = 0.0
    return partners


def _score_errors(
    scores: NDArray[np.floating], others: NDArray[np.floating], partners: NDArray[np.intp]
) -> NDArray[np.float64]:
    """How far each score is from its partner's, which is zero for -1."""
    return np.abs(scores.astype(np.float64) - np.append(others, 0.0)[partners])


def check_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """Boxes as float64 (N, 4).

    Raises:
        UsageError: another shape, numbers that are not finite, or corners that are not x1 < x2, y1 < y2.
    """
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"boxes are not numbers ({error}): expected (N, 4) xyxy in pixels") from error
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise UsageError(f"boxes have shape {array.shape}, expected (N, 4): one row x1, y1, x2, y2 a person")
    wrong = ~(np.isfinite(array).all(axis=1) & (array[:, 2:] > array[:, :2]).all(axis=1))
    if wrong.any():
        raise UsageError(f"box {array[wrong][0].tolist()} is not x1 < x2, y1 < y2: expected xyxy, not x, y, w, h")
    return array
