"""Each stage by value: what it changes in a job, what it remembers for which camera, and what it times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.pose import people_in_boxes
from edgepose.core.skeletons import LSP14
from edgepose.runtime.draw import draw_poses
from edgepose.runtime.job import Frame, Job
from edgepose.runtime.pose import PoseEstimator
from edgepose.runtime.stages import Draw, Estimate, Find, Follow, Track, person_stages, timed
from edgepose.runtime.track import OneTracker, OverlapTracker

from .conftest import FakeDetector

A, B = [20.0, 30, 140, 210], [300.0, 60, 420, 240]


def job_of(image: np.ndarray, camera: str = "a", index: int = 0, follows: bool = True) -> Job:
    return Job(Frame(camera, index, index / 10, "x", image, follows))


def with_boxes(camera: str, *boxes: list[float], follows: bool = True) -> Job:
    job = job_of(np.zeros((4, 4, 3), np.uint8), camera, follows=follows)
    job.people = people_in_boxes(np.array(boxes, dtype=float).reshape(-1, 4))
    return job


def test_find_gives_boxes_without_joints_and_without_ids() -> None:
    detector = FakeDetector([A, B], [])
    stage = Find(detector)
    jobs = [job_of(np.zeros((360, 480, 3), np.uint8), camera) for camera in "ab"]
    stage.run(jobs)
    people = jobs[0].people
    assert people.boxes.tolist() == [A, B]
    assert (people.keypoints.shape, people.ids) == ((2, 0, 3), None)
    assert len(jobs[1].people) == 0
    assert [list(job.ms) for job in jobs] == [["letterbox", "detect", "boxes"]] * 2
    stage.close()
    assert detector.closed


def test_estimate_puts_the_people_of_all_cameras_into_one_batch(
    estimator: PoseEstimator, session, paint: Callable, person: np.ndarray
) -> None:
    """Two persons, nobody, and one person on pictures of different sizes."""
    first, second, third = (np.zeros((*size, 3), np.uint8) for size in ((360, 480), (50, 60), (240, 200)))
    places = [np.add(person, (20, 30)), np.add(person, (300, 60)), np.add(person, (30, 20))]
    paint(first, places[0])
    paint(first, places[1])
    paint(third, places[2])
    jobs = [job_of(image, camera) for image, camera in zip((first, second, third), "abc", strict=True)]
    for job, boxes in zip(jobs, ([A, B], [], [[20.0, 10, 160, 200]]), strict=True):
        job.people = people_in_boxes(np.array(boxes, dtype=float).reshape(-1, 4))
    stage = Estimate(estimator)
    stage.run(jobs)
    assert session.batches == [3]
    assert [len(job.people) for job in jobs] == [2, 0, 1]
    assert jobs[1].people.keypoints.shape == (0, 14, 3)
    found = [pose.keypoints[:, :2] for job in jobs for pose in job.people]
    for keypoints, joints in zip(found, places, strict=True):
        np.testing.assert_allclose(keypoints, joints, atol=0.6)
    assert [list(job.ms) for job in jobs] == [["crop", "infer", "keypoints"]] * 3
    assert jobs[0].ms["infer"] == jobs[1].ms["infer"] == jobs[2].ms["infer"]
    for job in jobs:  # alone it is the same
        alone = job_of(job.frame.image)
        alone.people = people_in_boxes(job.people.boxes)
        stage.run([alone])
        assert alone.people == job.people
    stage.close()
    assert session.closed


def test_estimate_of_nobody_runs_no_network(estimator: PoseEstimator, session) -> None:
    jobs = [with_boxes("a"), with_boxes("b")]
    Estimate(estimator).run(jobs)
    assert session.batches == []
    assert [job.people.keypoints.shape for job in jobs] == [(0, 14, 3)] * 2


def test_every_camera_has_a_region_of_its_own(
    estimator: PoseEstimator, session, paint: Callable, person: np.ndarray
) -> None:
    """What two cameras see, taken together, is what each gives alone."""
    pictures = {"a": [], "b": []}
    for step in range(4):
        for camera, place in (("a", (30 + 4 * step, 20)), ("b", (10, 40 - 5 * step))):
            picture = np.zeros((260, 220, 3), np.uint8)
            if (camera, step) != ("b", 2):  # b is lost for a frame
                paint(picture, np.add(person, place))
            pictures[camera].append(picture)

    def boxes(stage: Follow, cameras: str) -> dict[str, list]:
        seen = {camera: [] for camera in cameras}
        for index in range(4):
            jobs = [job_of(pictures[camera][index], camera, index) for camera in cameras]
            stage.run(jobs)
            for job in jobs:
                seen[job.frame.camera].append(job.people.boxes.tolist())
        return seen

    together = boxes(Follow(estimator), "ab")
    assert set(session.batches) == {2}
    assert together == boxes(Follow(estimator), "a") | boxes(Follow(estimator), "b")
    whole = [[0, 0, 220, 260]]
    assert [found == whole for found in together["a"]] == [True, False, False, False]
    assert [len(found) for found in together["b"]] == [1, 1, 0, 1]
    assert together["b"][3] == whole


def test_no_region_is_carried_to_a_picture_that_does_not_follow(
    estimator: PoseEstimator, paint: Callable, person: np.ndarray
) -> None:
    picture = np.zeros((260, 220, 3), np.uint8)
    paint(picture, np.add(person, (30, 20)))
    stage = Follow(estimator)
    jobs = [job_of(picture, "folder", index, follows=index == 1) for index in range(3)]
    for job in jobs:
        stage.run([job])
    whole = [[0, 0, 220, 260]]
    assert [job.people.boxes.tolist() == whole for job in jobs] == [True, False, True]


def test_track_numbers_by_camera() -> None:
    stage = Track(OverlapTracker)
    rounds = [[with_boxes("a", A, B), with_boxes("b", B)], [with_boxes("a", B), with_boxes("b", B, A)]]
    for jobs in rounds:
        stage.run(jobs)
    assert [[job.people.ids.tolist() for job in jobs] for jobs in rounds] == [[[1, 2], [1]], [[2], [1, 2]]]
    assert all(list(job.ms) == ["keypoints"] for jobs in rounds for job in jobs)


@pytest.mark.parametrize(
    ("tracker", "expected"), [(OverlapTracker, [[1, 2], [3], [], [4, 5]]), (OneTracker, [[1, 1], [2], [], [3, 3]])]
)
def test_no_number_is_shared_by_pictures_that_do_not_follow_each_other(tracker: type, expected: list) -> None:
    stage = Track(tracker)
    jobs = [with_boxes("a", *boxes, follows=False) for boxes in ([A, B], [A], [], [B, A])]
    for job in jobs:
        stage.run([job])
    assert [job.people.ids.tolist() for job in jobs] == expected


def test_track_keeps_all_but_the_ids() -> None:
    job = with_boxes("a", A)
    before = job.people
    Track(OverlapTracker).run([job])
    assert before.ids is None
    assert job.people.boxes is before.boxes and job.people.keypoints is before.keypoints


def test_draw_puts_the_drawn_picture_in_place_and_leaves_the_old_one(
    estimator: PoseEstimator, paint: Callable, person: np.ndarray
) -> None:
    picture = np.zeros((240, 200, 3), np.uint8)
    paint(picture, np.add(person, (30, 20)))
    before = picture.copy()
    job = job_of(picture, index=3)
    job.people = estimator(picture, [[20.0, 10, 160, 200]])
    Draw(LSP14, threshold=0.95).run([job])
    np.testing.assert_array_equal(job.frame.image, draw_poses(before, job.people, LSP14, threshold=0.95))
    job.frame = job_of(picture, index=3).frame
    Draw(LSP14).run([job])
    np.testing.assert_array_equal(job.frame.image, draw_poses(before, job.people, LSP14))
    np.testing.assert_array_equal(picture, before)
    assert (job.frame.index, job.frame.camera, list(job.ms)) == (3, "a", ["draw"])


@pytest.mark.parametrize("threshold", [np.nan, -1, 2])
def test_draw_refuses_what_is_no_threshold(threshold: float) -> None:
    with pytest.raises(UsageError, match="the threshold of joints is"):
        Draw(LSP14, threshold)


def test_time_is_shared_and_added_and_what_fails_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [with_boxes("a"), with_boxes("b")]
    clock = iter([1.0, 1.03, 2.0, 2.01, 3.0])
    monkeypatch.setattr("edgepose.runtime.stages.time.perf_counter", lambda: next(clock))
    for _ in range(2):
        with timed(jobs, "crop"):
            pass
    assert [job.ms for job in jobs] == [{"crop": pytest.approx(15 + 5)}] * 2
    with pytest.raises(ZeroDivisionError), timed(jobs, "draw"):
        raise ZeroDivisionError
    assert [list(job.ms) for job in jobs] == [["crop"]] * 2


def test_the_stages_of_a_detector_and_without_one(estimator: PoseEstimator) -> None:
    assert [stage.name for stage in person_stages(estimator, None)] == ["follow", "track"]
    assert [stage.name for stage in person_stages(estimator, FakeDetector())] == ["find", "estimate", "track"]
