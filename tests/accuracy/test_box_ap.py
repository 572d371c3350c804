"""COCO's average precision of boxes, on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from edgepose.accuracy import coco as coco_eval
from edgepose.accuracy.coco import box_ap
from edgepose.core.errors import UsageError

PERSON = (50, 100, 150, 200)
OTHER = (200, 50, 260, 250)
NOWHERE = (400, 400, 450, 500)
NOBODY = np.zeros((0, 4), np.float32)


def boxes(*corners: tuple[float, ...]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


def found(*persons: tuple[tuple[float, ...], float]) -> tuple[np.ndarray, np.ndarray]:
    return boxes(*(box for box, _ in persons)), np.array([score for _, score in persons], np.float32)


def test_all_persons_found_is_everything():
    persons = [boxes(PERSON, OTHER), boxes(OTHER)]
    assert box_ap(persons, [found((OTHER, 0.2), (PERSON, 0.9)), found((OTHER, 0.5))]) == pytest.approx(100)


def test_nothing_found_is_nothing():
    assert box_ap([boxes(PERSON)], [found()]) == 0.0
    assert box_ap([boxes(PERSON)], [found((NOWHERE, 0.9))]) == 0.0


def test_one_of_two_persons_found():
    # A recall of one half reaches 51 of COCO's 101 levels, 0 to 0.5, each with a precision of 1.
    half = pytest.approx(100 * 51 / 101)
    assert box_ap([boxes(PERSON, OTHER)], [found((PERSON, 0.9))]) == half
    assert box_ap([boxes(PERSON), boxes(OTHER)], [found(), found((OTHER, 0.9))]) == half


@pytest.mark.parametrize(("height", "reached"), [(49, 0), (52, 1), (68, 4), (72, 5), (92, 9), (97, 10)])
def test_a_box_counts_at_the_thresholds_that_its_overlap_reaches(height, reached):
    # Its IoU is its height in percent; the thresholds are 0.5, 0.55 to 0.95.
    assert box_ap([boxes(PERSON)], [found(((50, 100, 150, 100 + height), 0.9))]) == pytest.approx(10 * reached)


def test_an_overlap_of_exactly_a_threshold_reaches_it():
    assert box_ap([boxes(PERSON)], [found(((50, 100, 150, 175), 0.9))]) == pytest.approx(60)


def test_a_false_person_costs_where_it_is_more_certain_than_a_true_one():
    persons = [boxes(PERSON)]
    # One of the two that come down to the person is true.
    assert box_ap(persons, [found((PERSON, 0.6), (NOWHERE, 0.9))]) == pytest.approx(50)
    assert box_ap(persons, [found((PERSON, 0.6), (NOWHERE, 0.3))]) == pytest.approx(100)


def test_a_false_person_in_a_picture_of_nobody_costs_as_much():
    persons = [boxes(PERSON), NOBODY]
    assert box_ap(persons, [found((PERSON, 0.6)), found((NOWHERE, 0.9))]) == pytest.approx(50)
    assert box_ap(persons, [found((PERSON, 0.6)), found()]) == pytest.approx(100)


def test_a_person_is_found_in_its_own_picture_alone():
    assert box_ap([boxes(PERSON), NOBODY], [found(), found((PERSON, 0.9))]) == 0.0


def test_a_person_found_twice_is_false_the_second_time():
    persons = [boxes(PERSON, OTHER)]
    # Recall one half with a precision of 1, and from there to the end 2 true ones of 3.
    want = 100 * (51 + 50 * 2 / 3) / 101
    assert box_ap(persons, [found((PERSON, 0.9), (PERSON, 0.8), (OTHER, 0.7))]) == pytest.approx(want)


def test_small_persons_count_as_large_ones_do():
    small = (5, 5, 9, 11)
    assert box_ap([boxes(small, PERSON)], [found((small, 0.9))]) == pytest.approx(100 * 51 / 101)


def test_nothing_is_printed_and_nothing_is_changed(capsys):
    persons, results = [boxes(PERSON)], [found((OTHER, 0.9), (PERSON, 0.6))]
    box_ap(persons, results)
    assert capsys.readouterr().out == ""
    assert persons[0].tolist() == [[*PERSON]] and results[0][0].tolist() == [[*OTHER], [*PERSON]]
    assert results[0][1].tolist() == pytest.approx([0.9, 0.6])


def test_without_pycocotools_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr(coco_eval, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'edgepose\[onnx\]'"):
        box_ap([boxes(PERSON)], [found()])
