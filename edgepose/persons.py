"""Boxes of persons, xyxy in pixels: how they overlap, which of them say the same person, and how two sets differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Of two boxes that overlap by more than this IoU, the more certain stays.
NMS = 0.5
#: Two boxes of this IoU and more are of the same person (COCO's loosest threshold).
SAME_PERSON = 0.5
#: Where a detector is compared with another form of itself, what it scores as high as this is a person.
PERSON_SCORE = 0.4


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of every box of (N, 4) with every box of (M, 4), xyxy: (N, M).

    >>> box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    return np.asarray(shared / np.maximum(area_a[:, None] + area_b[None, :] - shared, 1e-9), dtype=np.float64)


def nms(boxes: NDArray[np.floating], scores: NDArray[np.floating], overlap: float) -> NDArray[np.intp]:
    """Indices of the boxes (N, 4) that stay, the most certain first: none overlaps a better one by more than an IoU."""
    order = np.argsort(-scores, kind="stable")
    rivals = box_iou(boxes[order], boxes[order]) > overlap
    stays = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if stays[i]:
            stays[i + 1 :] &= ~rivals[i, i + 1 :]
    return order[stays]


def find_persons(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], threshold: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Of boxes (N, 4) and scores (N,), those that reach a score and no better box overlaps, the most certain first."""
    chosen = np.flatnonzero(scores >= threshold)
    kept = chosen[nms(boxes[chosen], scores[chosen], NMS)]
    return boxes[kept], scores[kept]


def person_errors(
    reference: tuple[NDArray[np.floating], NDArray[np.floating]],
    got: tuple[NDArray[np.floating], NDArray[np.floating]],
    threshold: float,
) -> tuple[NDArray[np.float64], float]:
    """How the persons found in one picture differ from those of a reference.

    A person is found again by a box of at least half the score, so that one at the threshold is not lost by a rounding.

    Args:
        reference: boxes (N, 4) and scores (N,), before non-maximum suppression.
        got: boxes (M, 4) and scores (M,) likewise.
        threshold: least score of a person.

    Returns:
        for each person of the reference, by how many pixels that corner of the box moved which moved most, and for one
        that is not found again the diagonal of the box; and the largest error of a score, persons that are not found
        again or are new counting with all of theirs.
    """
    (boxes, scores), (found, found_scores) = find_persons(*reference, threshold), find_persons(*got, threshold / 2)
    overlaps = box_iou(boxes, found)
    distances = np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1).astype(np.float64)
    wrong = scores.astype(np.float64)
    for person, row in enumerate(overlaps):  # the most certain first takes the box that fits it best
        if row.max(initial=0.0) >= SAME_PERSON:
            partner = int(row.argmax())
            moved = (boxes[person].astype(np.float64) - found[partner]).reshape(2, 2)
            distances[person] = np.linalg.norm(moved, axis=1).max()
            wrong[person] = abs(float(scores[person]) - float(found_scores[partner]))
            overlaps[:, partner] = 0.0
    known, _ = find_persons(*reference, threshold / 2)
    new = (box_iou(found, known).max(axis=1, initial=0.0) < SAME_PERSON) & (found_scores >= threshold)
    return distances, float(np.concatenate([wrong, found_scores[new]]).max(initial=0.0))
