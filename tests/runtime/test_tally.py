"""What a run counted and timed, by value."""

from __future__ import annotations

import numpy as np

from edgepose.core.pose import people_in_boxes
from edgepose.core.timing import Latency
from edgepose.runtime.job import Frame, Job
from edgepose.runtime.stages import OWN_WORK, STAGES
from edgepose.runtime.tally import Tally

FRAME = Frame("camera 0", 0, 0.0, "a", np.zeros((4, 4, 3), np.uint8))


def tally_of(*jobs: Job) -> Tally:
    tally = Tally()
    for job in jobs:
        tally.write(job)
    return tally


def test_percentiles_by_value() -> None:
    jobs = [Job(FRAME, ms={"draw": float(ms)}) for ms in range(101)]
    jobs[7].ms["crop"] = 2.0
    summary = tally_of(*jobs).summary()
    assert list(summary) == ["crop", "draw"]  # in the order of the stages
    assert summary["draw"] == Latency(p50=50, p95=95, p99=99, count=101)
    assert summary["crop"] == Latency(2, 2, 2, count=1)


def test_times_are_bounded() -> None:
    tally = tally_of(*(Job(FRAME, ms={"draw": float(ms)}) for ms in range(10_100)))
    assert tally.summary()["draw"].count == 10_000
    assert tally.summary()["draw"].p50 == np.median(np.arange(100, 10_100))
    assert tally.frames == 10_100
    assert set(OWN_WORK) < set(STAGES)


def test_frames_people_and_dropped_frames_are_counted() -> None:
    two = people_in_boxes(np.array([[0.0, 0, 1, 1], [2, 2, 3, 3]]))
    tally = tally_of(Job(FRAME, people=two), Job(FRAME, dropped="late"), Job(FRAME, people=two[:1]))
    assert (tally.frames, tally.people, tally.dropped) == (3, 3, 1)
    assert tally.summary() == {}


def test_what_is_added_to_a_job_later_counts_and_other_stages_come_last() -> None:
    job = Job(FRAME, ms={"mine": 3.0})
    tally = tally_of(job)
    job.ms["encode"] = 1.0
    assert {name: stage.p50 for name, stage in tally.summary().items()} == {"encode": 1.0, "mine": 3.0}
    assert list(tally.summary()) == ["encode", "mine"]
