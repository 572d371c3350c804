"""Boxes of persons, xyxy in pixels: overlap, non-maximum suppression, and the difference of two sets."""

from __future__ import annotations

from numbers import Real
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import UsageError

_Box = TypeVar("_Box", bound=np.floating)
_Score = TypeVar("_Score", bound=np.floating)

#: IoU above which only the box with the higher score is kept.
NMS = 0.5
#: Least IoU of two boxes of the same person (COCO's loosest threshold).
SAME_PERSON = 0.5
#: Least score of a person when two precisions of a detector are compared.
PERSON_SCORE = 0.4
#: Boxes with lower scores are ignored when detectors are compared.
LEAST_SCORE = 0.05


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes (N, 4) and (M, 4) xyxy, as (N, M) float64.

    >>> box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    return np.asarray(shared / np.maximum(area_a[:, None] + area_b[None, :] - shared, 1e-9), dtype=np.float64)


def nms(boxes: NDArray[np.floating], scores: NDArray[np.floating], overlap: float = NMS) -> NDArray[np.intp]:
    """Choose boxes by non-maximum suppression; memory grows with N, so all boxes of a detector may be passed.

    Args:
        boxes, scores: (N, 4) xyxy and (N,).
        overlap: IoU above which only the box with the higher score is kept.

    Returns:
        indices of the kept boxes, by falling score.
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
    """Return the boxes (N, 4) and scores (N,) of at least ``threshold`` after :func:`nms`, by falling score."""
    chosen = np.flatnonzero(scores >= threshold)
    kept = chosen[nms(boxes[chosen], scores[chosen])]
    return boxes[kept], scores[kept]


def check_threshold(threshold: float, name: str) -> None:
    """Raise UsageError, with the ``name`` of the threshold, unless it is a number from 0 to 1."""
    if not (isinstance(threshold, Real) and 0 <= threshold <= 1):
        raise UsageError(f"{name} is {threshold!r}, expected a score from 0 to 1")


def person_errors(
    reference: tuple[NDArray[np.floating], NDArray[np.floating]],
    got: tuple[NDArray[np.floating], NDArray[np.floating]],
    threshold: float,
) -> tuple[NDArray[np.float64], float]:
    """Compare the persons found in one picture with those of a reference.

    The partner of a person is the box that overlaps it most and scores at least :data:`LEAST_SCORE`, so that rounding
    at the threshold does not lose a person.

    Args:
        reference: boxes (N, 4) xyxy and scores (N,), before non-maximum suppression.
        got: boxes (M, 4) and scores (M,) likewise.
        threshold: least score of a person.

    Returns:
        ``(distances, score_error)``. ``distances`` (P,) float64: for each reference person, the largest displacement of
        a corner in pixels, or the diagonal of the box if it has no partner. ``score_error``: the largest absolute
        difference of scores; a person without a partner counts with its full score.
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
    """Return for each box, in order, the index of the free other box that overlaps it most, or -1."""
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
    """Return the absolute difference of each score from its partner's, which is zero for -1."""
    return np.abs(scores.astype(np.float64) - np.append(others, 0.0)[partners])


def check_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """Return boxes as (N, 4) float64.

    Raises:
        UsageError: the shape differs, a number is not finite, or corners are not x1 < x2, y1 < y2.
    """
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"boxes are not numbers ({error}): expected (N, 4) xyxy in pixels") from error
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise UsageError(f"boxes have shape {array.shape}, expected (N, 4): one row x1, y1, x2, y2 per person")
    wrong = ~(np.isfinite(array).all(axis=1) & (array[:, 2:] > array[:, :2]).all(axis=1))
    if wrong.any():
        raise UsageError(f"box {array[wrong][0].tolist()} is not x1 < x2, y1 < y2: expected xyxy, not x, y, w, h")
    return array
