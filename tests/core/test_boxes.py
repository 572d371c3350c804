"""Persons in boxes, and how two sets of them differ, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgepose.core.boxes import check_threshold, find_persons, nms, person_errors
from edgepose.core.errors import UsageError

#: 30 wide and 40 high: its diagonal is 50 px.
SMALL = (10, 20, 40, 60)
LARGE = (100, 0, 200, 200)
FAR = (300, 300, 360, 380)


def found(*persons: tuple[tuple[float, ...], float]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) and scores (N,), as a detector gives them."""
    boxes, scores = [box for box, _ in persons], [score for _, score in persons]
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32)


def errors(reference: tuple, got: tuple, threshold: float = 0.4) -> tuple[list[float], float]:
    distances, score = person_errors(reference, got, threshold)
    assert (distances.dtype, distances.ndim) == (np.float64, 1)
    return distances.tolist(), score


def test_persons_are_the_best_box_of_each_pile_that_reaches_the_threshold() -> None:
    # The first two overlap by an IoU of 0.818; the third reaches the threshold exactly, the last does not.
    pile = found(((0, 0, 10, 10), 0.5), ((1, 0, 11, 10), 0.9), ((20, 0, 30, 10), 0.4), ((40, 0, 50, 10), 0.39))
    boxes, scores = find_persons(*pile, 0.4)
    assert boxes.tolist() == [[1, 0, 11, 10], [20, 0, 30, 10]]
    assert scores.tolist() == pytest.approx([0.9, 0.4])


def test_boxes_that_overlap_by_half_are_two_persons() -> None:
    # They share 10 x 10 of the 20 x 10 px that they cover: exactly half, and a little more of the second pair.
    boxes, _ = find_persons(*found(((0, 0, 15, 10), 0.9), ((5, 0, 20, 10), 0.8)), 0.4)
    assert len(boxes) == 2
    boxes, _ = find_persons(*found(((0, 0, 15, 10), 0.9), ((4.9, 0, 19.9, 10), 0.8)), 0.4)
    assert len(boxes) == 1


@pytest.mark.parametrize("persons", [(), ((SMALL, 0.3),)])
def test_nobody_is_an_empty_set(persons: tuple) -> None:
    boxes, scores = find_persons(*found(*persons), 0.4)
    assert (boxes.shape, scores.shape) == ((0, 4), (0,))


def test_the_same_persons_have_no_error() -> None:
    same = found((SMALL, 0.9), (LARGE, 0.5), (FAR, 0.1))
    assert errors(same, same) == ([0, 0], 0)


def test_the_corner_that_moved_most_counts() -> None:
    reference = found((LARGE, 0.9))
    assert errors(reference, found(((100, 0, 203, 204), 0.9))) == ([5], 0)
    assert errors(reference, found(((101, 0, 203, 204), 0.9))) == ([5], 0)
    assert errors(reference, found(((88, 5, 203, 204), 0.9))) == ([13], 0)


def test_a_score_that_changed_is_an_error_of_the_score_alone() -> None:
    distances, score = errors(found((SMALL, 0.9), (LARGE, 0.8)), found((SMALL, 0.85), (LARGE, 0.9)))
    assert (distances, score) == ([0, 0], pytest.approx(0.1))


def test_a_person_that_is_lost_counts_with_its_diagonal_and_its_score() -> None:
    distances, score = errors(found((LARGE, 0.9), (SMALL, 0.7)), found((LARGE, 0.9)))
    assert (distances, score) == ([0, 50], pytest.approx(0.7))


def test_a_box_that_covers_less_than_half_is_not_the_same_person() -> None:
    # 30 x 20 of 30 x 40 px is an IoU of 0.5, one row less is not.
    assert errors(found((SMALL, 0.7)), found(((10, 20, 40, 40), 0.7))) == ([20], 0)
    distances, score = errors(found((SMALL, 0.7)), found(((10, 20, 40, 39), 0.6)))
    assert (distances, score) == ([50], pytest.approx(0.7))


def test_a_new_person_counts_with_its_score() -> None:
    distances, score = errors(found((LARGE, 0.9)), found((LARGE, 0.9), (FAR, 0.6)))
    assert (distances, score) == ([0], pytest.approx(0.6))


def test_a_double_of_a_person_is_not_new() -> None:
    assert errors(found((LARGE, 0.9)), found((LARGE, 0.9), ((100, 0, 200, 190), 0.8))) == ([0], 0)


@pytest.mark.parametrize(
    ("before", "after", "distances", "score"),
    [
        (0.41, 0.39, [0], 0.02),  # just below the threshold is not lost
        (0.41, 0.06, [0], 0.35),
        (0.41, 0.04, [50], 0.41),  # nobody's box
        (0.39, 0.41, [], 0.02),  # nor is one new that was just below
        (0.06, 0.41, [], 0.35),
        (0.04, 0.41, [], 0.41),
        (0.39, 0.39, [], 0.0),
        (0.19, 0.39, [], 0.0),
    ],
)
def test_a_person_at_the_threshold_is_neither_lost_nor_new(
    before: float, after: float, distances: list[float], score: float
) -> None:
    got = errors(found((SMALL, before)), found((SMALL, after)))
    assert got == (distances, pytest.approx(score, abs=1e-6))


def test_the_partner_is_the_box_that_fits_best_and_not_the_most_certain() -> None:
    # The upper one covers 0.6 of the person and the lower 0.7; they share 0.3, so both stay, and one of them is new.
    parts = found(((0, 0, 100, 60), 0.9), ((0, 30, 100, 100), 0.6))
    distances, score = errors(found(((0, 0, 100, 100), 0.8)), parts)
    assert (distances, score) == ([30], pytest.approx(0.6))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_the_order_of_the_boxes_does_not_matter(order: list[int]) -> None:
    boxes, scores = found((SMALL, 0.9), (LARGE, 0.8), (FAR, 0.7), ((500, 0, 530, 40), 0.1))
    after, after_scores = found(((13, 24, 40, 60), 0.85), (LARGE, 0.8), ((300, 300, 360, 392), 0.7), (FAR, 0.1))
    for reference, got in (
        ((boxes, scores), (after[order], after_scores[order])),
        ((boxes[order], scores[order]), (after, after_scores)),
    ):
        # The most certain first: the first moved by (3, 4), the second not at all, the third by 12 px.
        distances, score = errors(reference, got)
        assert (distances, score) == ([5, 0, 12], pytest.approx(0.05))


def test_pictures_without_boxes() -> None:
    nothing, one = found(), found((SMALL, 0.7))
    assert nothing[0].shape == (0, 4)
    assert errors(nothing, nothing) == ([], 0)
    assert errors(one, nothing) == ([50], pytest.approx(0.7))
    assert errors(nothing, one) == ([], pytest.approx(0.7))


def test_pictures_without_persons() -> None:
    nobody = found((SMALL, 0.1), (LARGE, 0.05))
    assert errors(nobody, nobody) == ([], 0)
    assert errors(nobody, found()) == ([], 0)


def test_nothing_is_changed_in_place() -> None:
    reference, got = found((SMALL, 0.9), (LARGE, 0.5)), found((LARGE, 0.6), (FAR, 0.9))
    copies = [array.copy() for array in (*reference, *got)]
    person_errors(reference, got, 0.4)
    for array, copy in zip((*reference, *got), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_suppression_is_the_greedy_one() -> None:
    """Against the textbook's loop, on many small boxes; equal scores stay in the order given."""
    rng = np.random.default_rng(3)
    low = rng.integers(0, 40, (300, 2)).astype(np.float32)
    boxes = np.concatenate([low, low + rng.integers(5, 25, (300, 2)).astype(np.float32)], axis=1)
    scores = rng.integers(0, 20, 300).astype(np.float32) / 20

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(w, 0) * max(h, 0)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    expected: list[int] = []
    for i in sorted(range(300), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[i], boxes[j]) <= 0.3137 for j in expected):
            expected.append(i)
    kept = nms(boxes, scores, 0.3137)
    assert kept.tolist() == expected
    assert 10 < len(kept) < 200


@pytest.mark.parametrize("threshold", [0, 0.5, 1, np.float32(0.25)])
def test_scores_are_thresholds(threshold: float) -> None:
    check_threshold(threshold, "threshold")


@pytest.mark.parametrize("threshold", [float("nan"), -1, 2, float("inf"), "0.5", None])
def test_what_is_no_score_is_no_threshold(threshold: object) -> None:
    with pytest.raises(UsageError, match=r"^the least score is .*, expected a score from 0 to 1$"):
        check_threshold(threshold, "the least score")
