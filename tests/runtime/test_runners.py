"""One after another and in threads: the same people, and an end in order, whatever happens."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgepose.core.errors import CheckError, UsageError
from edgepose.core.pose import People, people_in_boxes
from edgepose.core.skeletons import LSP14
from edgepose.runtime.job import Frame, Job
from edgepose.runtime.pose import PoseEstimator
from edgepose.runtime.runners import Policy, run_inline, run_threaded
from edgepose.runtime.sources import LiveSource, Source, open_source
from edgepose.runtime.stages import STAGES, Draw, person_stages

from .conftest import ColourSession, FakeDetector

SIZE = (260, 220)


class Pictures(Source):
    """Gives pictures, then raises what it is told to."""

    def __init__(self, pictures: list[np.ndarray], camera: str = "a", error: BaseException | None = None) -> None:
        self.camera, self._pictures, self._error = camera, pictures, error
        self.given = 0

    def __iter__(self) -> Iterator[Frame]:
        for index, picture in enumerate(self._pictures):
            self.given += 1
            yield Frame(self.camera, index, index / 10, f"{self.camera}_{index}", picture, follows=index > 0)
        if self._error is not None:
            raise self._error


def blank(count: int, camera: str = "a", error: BaseException | None = None) -> Pictures:
    return Pictures([np.full((8, 8, 3), i % 256, np.uint8) for i in range(count)], camera, error)


class Waiting(Pictures):
    """Gives its second picture only when the first one is in the stage."""

    def __init__(self, count: int, gate: Gate, camera: str = "a") -> None:
        super().__init__([np.zeros((8, 8, 3), np.uint8)] * count, camera)
        self._gate = gate

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            yield frame
            assert self._gate.reached.wait(10)


class Kept:
    """A sink that keeps the jobs; raises at the frame it is told to."""

    def __init__(self, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.jobs: list[Job] = []
        self._fails_at, self._error = fails_at, error

    def write(self, job: Job) -> None:
        if len(self.jobs) == self._fails_at:
            raise self._error or UsageError("the disk is full")
        self.jobs.append(job)

    def close(self) -> None:
        pass

    def indices(self, camera: str = "a") -> list[int]:
        return [job.frame.index for job in self.jobs if job.frame.camera == camera]

    def people(self, camera: str = "a") -> list[People | None]:
        return [job.people for job in self.jobs if job.frame.camera == camera]


class Step:
    """A stage that takes its time, notes what it got and where, and raises at the call it is told to."""

    def __init__(self, name: str = "step", seconds: float = 0.0, fails_at: int | None = None) -> None:
        self.name, self._seconds, self._fails_at = name, seconds, fails_at
        self.batches: list[list[tuple[str, int]]] = []
        self.threads: set[str] = set()

    def run(self, jobs: list[Job]) -> None:
        self.threads.add(threading.current_thread().name)
        if len(self.batches) == self._fails_at:
            raise CheckError("the network gave NaN")
        self.batches.append([(job.frame.camera, job.frame.index) for job in jobs])
        time.sleep(self._seconds)

    def close(self) -> None:
        pass


class Gate(Step):
    """A stage that holds the first frame until it is opened."""

    def __init__(self) -> None:
        super().__init__("gate")
        self.reached, self.opened = threading.Event(), threading.Event()

    def run(self, jobs: list[Job]) -> None:
        super().run(jobs)
        self.reached.set()
        assert self.opened.wait(10)


@pytest.fixture(autouse=True)
def _no_thread_outlives_the_call() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.fixture
def walk(paint: Callable, person: np.ndarray) -> Callable[[int, int, int], list[np.ndarray]]:
    """Pictures of a person who walks by so many pixels per frame; in every fifth nobody is seen."""

    def make(count: int, dx: int, dy: int) -> list[np.ndarray]:
        pictures = []
        for i in range(count):
            picture = np.zeros((*SIZE, 3), np.uint8)
            if i % 5 != 3:
                paint(picture, np.add(person, (20 + dx * i, 30 + dy * i)))
            pictures.append(picture)
        return pictures

    return make


def boxes_of(count: int, dx: int, dy: int) -> list[list[list[float]]]:
    """What a detector finds in :func:`walk`: the person, and from the third frame on another one in the corner."""
    found = []
    for i in range(count):
        x, y = 20 + dx * i, 30 + dy * i
        corner = [[150.0, 5, 190, 90]] if i >= 2 else []
        found.append(corner + ([] if i % 5 == 3 else [[x + 0.0, y, x + 120, y + 180]]))
    return found


def stages_for(detected: list[list[list[float]]] | None) -> list:
    """Fresh stages with a network of their own: without a detector, or with one that finds the given boxes."""
    estimator = PoseEstimator(ColourSession(), LSP14, (256, 192))
    return [*person_stages(estimator, None if detected is None else FakeDetector(*detected)), Draw(LSP14)]


def inline(source: Source, stages: list, limit: int | None = None) -> Kept:
    kept = Kept()
    run_inline(source, stages, [kept], limit)
    return kept


def threaded(*sources: Source, stages: list, **options: object) -> Kept:
    kept = Kept()
    run_threaded(sources, stages, [kept], **options)
    return kept


@pytest.mark.parametrize("detects", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_threads_find_exactly_the_people_that_one_loop_finds(walk: Callable, detects: bool, depth: int) -> None:
    pictures, found = walk(8, 3, 2), boxes_of(8, 3, 2) if detects else None
    one = inline(Pictures(pictures), stages_for(found))
    many = threaded(Pictures(pictures), stages=stages_for(found), depth=depth)
    assert many.indices() == one.indices() == list(range(8))
    assert many.people() == one.people()
    assert sum(map(len, one.people())) >= 7
    for a, b in zip(one.jobs, many.jobs, strict=True):
        np.testing.assert_array_equal(a.frame.image, b.frame.image)
        assert list(a.ms) == list(b.ms) == [name for name in STAGES if name in a.ms]
        assert a.dropped is b.dropped is None


def test_a_video_file_gives_the_same_people_both_ways(tmp_path, make_video) -> None:
    path = str(make_video(tmp_path / "a.avi", frames=9, size=(60, 80)))
    results = []
    for run in (lambda source, kept: run_inline(source, stages_for(None), [kept]), None):
        kept = Kept()
        with open_source(path) as source:
            if run:
                run(source, kept)
            else:
                run_threaded([source], stages_for(None), [kept])
        results.append([(j.frame.index, j.frame.time, j.people, int(j.frame.image.mean())) for j in kept.jobs])
    assert results[0] == results[1]
    assert len(results[0]) == 9


def test_two_cameras_share_the_networks_and_keep_their_own_people(walk: Callable) -> None:
    """Frames of both are in one batch, and each camera's people, regions and numbers are what it has alone."""
    first, second = walk(7, 3, 2), walk(5, -1, 3)
    alone = {
        camera: inline(Pictures(pictures, camera), stages_for(None)).people(camera)
        for camera, pictures in (("a", first), ("b", second))
    }
    session = ColourSession()
    stages = person_stages(PoseEstimator(session, LSP14, (256, 192)), None)
    together = threaded(Pictures(first, "a"), Pictures(second, "b"), stages=stages)
    assert {camera: together.people(camera) for camera in "ab"} == alone
    assert together.indices("a") == list(range(7)) and together.indices("b") == list(range(5))
    assert sum(session.batches) == 7 + 5


def test_a_stage_gets_what_waits_in_one_call_but_never_two_frames_of_a_camera() -> None:
    gate = Gate()

    def open_when_all_wait() -> None:
        gate.reached.wait(10)
        while not (sources[0].given >= 3 and sources[1].given >= 3):  # two wait, and one wants to
            time.sleep(0.001)
        gate.opened.set()

    sources = [blank(4, "a"), blank(4, "b")]
    opener = threading.Thread(target=open_when_all_wait)
    opener.start()
    kept = threaded(*sources, stages=[gate], depth=2)
    opener.join()
    for batch in gate.batches:
        assert len({camera for camera, _ in batch}) == len(batch)
    assert max(len(batch) for batch in gate.batches) == 2
    assert kept.indices("a") == kept.indices("b") == [0, 1, 2, 3]


def test_every_part_has_a_thread_of_its_own() -> None:
    first, second = Step("one"), Step("two")
    threaded(blank(5), stages=[first, second])
    assert (first.threads, second.threads) == ({"stage one"}, {"stage two"})


def test_keep_holds_no_more_frames_than_its_queues() -> None:
    gate = Gate()
    source = blank(50)
    taken: list[int] = []

    def look() -> None:
        gate.reached.wait(10)
        time.sleep(0.2)  # more would have come by now
        taken.append(source.given)
        gate.opened.set()

    looker = threading.Thread(target=look)
    looker.start()
    kept = threaded(source, stages=[gate], depth=2)
    looker.join()
    assert taken == [1 + 2 + 1]  # in the stage, in its queue, and in the hands of the source's thread
    assert kept.indices() == list(range(50))


def test_newest_drops_the_oldest_frame_that_waits() -> None:
    gate = Gate()
    source = Waiting(50, gate)

    def open_at_the_end() -> None:
        gate.reached.wait(10)
        while source.given < 50:
            time.sleep(0.001)
        time.sleep(0.05)
        gate.opened.set()

    opener = threading.Thread(target=open_at_the_end)
    opener.start()
    kept = threaded(source, stages=[gate], policy=Policy.NEWEST, depth=2)
    opener.join()
    assert kept.indices() == [0, 48, 49]


def test_newest_does_not_let_a_fast_camera_push_out_a_slow_one() -> None:
    gate = Gate()
    fast, slow = Waiting(60, gate, "fast"), blank(2, "slow")

    def open_at_the_end() -> None:
        gate.reached.wait(10)
        while fast.given < 60 or slow.given < 2:
            time.sleep(0.001)
        time.sleep(0.05)
        gate.opened.set()

    opener = threading.Thread(target=open_at_the_end)
    opener.start()
    kept = threaded(fast, slow, stages=[gate], policy=Policy.NEWEST, depth=2)
    opener.join()
    assert kept.indices("slow") == [0, 1]
    assert kept.indices("fast") == [0, 58, 59] or gate.batches[0] == [("slow", 0)]
    assert kept.indices("fast")[-2:] == [58, 59]


def test_a_late_frame_skips_the_networks_and_still_reaches_the_sinks() -> None:
    """The first stage holds the first frame beyond every deadline; the frames that waited are late, too."""

    class Boxes(Step):
        def run(self, jobs: list[Job]) -> None:
            super().run(jobs)
            for job in jobs:
                job.people = people_in_boxes(np.array([[0.0, 0, 5, 5]]))

    slow, network = Boxes("slow", seconds=0.3), Step("network")
    kept = threaded(blank(6), stages=[slow, network], policy=Policy.DEADLINE, deadline_ms=100, depth=2)
    assert kept.indices() == list(range(6))
    late = [job.frame.index for job in kept.jobs if job.dropped]
    assert 0 in late and len(late) >= 3
    assert {job.dropped for job in kept.jobs} <= {
        None,
        "the frame was late before the stage slow",
        "the frame was late before the stage network",
    }
    assert kept.jobs[0].dropped == "the frame was late before the stage network"
    assert [job.frame.index for job in kept.jobs if job.people is None] == late
    ran = {index for batch in network.batches for _, index in batch}
    assert ran == set(range(6)) - set(late)


def test_a_far_deadline_drops_nothing(walk: Callable) -> None:
    pictures = walk(6, 3, 2)
    kept = threaded(Pictures(pictures), stages=stages_for(None), policy=Policy.DEADLINE, deadline_ms=1e6)
    assert kept.people() == inline(Pictures(pictures), stages_for(None)).people()
    assert all(job.dropped is None for job in kept.jobs)


@pytest.mark.parametrize("limit", [1, 4])
def test_a_limit_reads_no_further_frame(limit: int) -> None:
    one, many = blank(9), blank(9)
    kept = [inline(one, [Step()], limit), threaded(many, stages=[Step()], limit=limit)]
    assert [sink.indices() for sink in kept] == [list(range(limit))] * 2
    assert (one.given, many.given) == (limit, limit)


def test_a_limit_is_of_each_source() -> None:
    kept = threaded(blank(9, "a"), blank(2, "b"), stages=[Step()], limit=3)
    assert (kept.indices("a"), kept.indices("b")) == ([0, 1, 2], [0, 1])


def test_no_frame_is_no_error() -> None:
    assert inline(blank(0), [Step()]).jobs == threaded(blank(0), stages=[Step()]).jobs == []
    assert threaded(blank(3), stages=[]).indices() == [0, 1, 2]


@pytest.mark.parametrize("error", [UsageError("cut short"), ZeroDivisionError()])
def test_what_a_source_gave_before_its_error_is_written(error: Exception) -> None:
    for run in (
        lambda kept: run_inline(blank(7, error=error), [Step()], [kept]),
        lambda kept: run_threaded([blank(7, error=error)], [Step("a", 0.002), Step("b")], [kept]),
    ):
        kept = Kept()
        with pytest.raises(type(error)) as raised:
            run(kept)
        assert raised.value is error
        assert kept.indices() == list(range(7))


def test_the_error_of_one_source_ends_the_other() -> None:
    endless = blank(100_000, "b")
    kept = Kept()
    with pytest.raises(UsageError, match="cut short"):
        run_threaded([blank(3, "a", UsageError("cut short")), endless], [Step("a", 0.001)], [kept])
    assert kept.indices("a") == [0, 1, 2]
    assert kept.indices("b") == list(range(len(kept.indices("b"))))
    assert endless.given < 100_000


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_error_of_a_stage_is_raised_and_what_is_past_it_is_written(place: int) -> None:
    steps = [Step(f"step {i}", fails_at=4 if i == place else None) for i in range(3)]
    source, kept = blank(100_000), Kept()
    with pytest.raises(CheckError, match="gave NaN"):
        run_threaded([source], steps, [kept])
    assert kept.indices() == [0, 1, 2, 3]
    assert source.given < 100_000


@pytest.mark.parametrize("error", [UsageError("the disk is full"), KeyboardInterrupt()])
def test_the_error_of_a_sink_is_raised(error: BaseException) -> None:
    source, kept = blank(100_000), Kept(fails_at=5, error=error)
    with pytest.raises(type(error)):
        run_threaded([source], [Step("a"), Step("b")], [kept])
    assert kept.indices() == [0, 1, 2, 3, 4]
    assert source.given < 100_000


def test_the_first_of_several_errors_is_raised_once() -> None:
    gate = Gate()

    class Failing(Pictures):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            gate.reached.wait(10)
            gate.opened.set()
            raise UsageError("first")

    class Last(Kept):
        def write(self, job: Job) -> None:
            time.sleep(0.1)
            raise CheckError(f"second, of frame {job.frame.index}")

    with pytest.raises(UsageError, match="first"):
        run_threaded([Failing([np.zeros((4, 4, 3), np.uint8)])], [gate], [Last()])
    sources = [blank(2, "a", UsageError("first")), blank(2, "b", UsageError("first"))]
    with pytest.raises(UsageError, match="first"):
        run_threaded(sources, [Step("a", fails_at=3)], [Kept()])
    with pytest.raises(CheckError, match="NaN"):  # before the sink has anything to fail on
        run_threaded([blank(2)], [Step("a", fails_at=0)], [Kept(fails_at=0)])


class Camera:
    """A capture that never ends."""

    def __init__(self) -> None:
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, _: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, np.ndarray]:
        time.sleep(0.002)
        return True, np.zeros((4, 4, 3), np.uint8)

    def release(self) -> None:
        self.released = True


class Interrupting(Kept):
    """Presses Ctrl-C at a frame."""

    def write(self, job: Job) -> None:
        super().write(job)
        if len(self.jobs) == 5:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_a_live_source_in_order() -> None:
    kept = Interrupting()
    with LiveSource(Camera(), "camera 0") as source:
        run_threaded([source], [Step("a"), Step("b", 0.001)], [kept])
    assert len(kept.jobs) >= 5
    assert kept.indices("camera 0") == sorted(set(kept.indices("camera 0")))
    kept = Interrupting()
    with LiveSource(Camera(), "camera 0") as source:
        run_inline(source, [Step()], [kept])
    assert len(kept.jobs) == 5


def test_ctrl_c_on_a_file_is_raised_after_what_is_on_its_way_was_written() -> None:
    kept, source = Interrupting(), blank(100_000)
    with pytest.raises(KeyboardInterrupt):
        run_threaded([source], [Step("a"), Step("b")], [kept])
    assert kept.indices() == list(range(len(kept.jobs)))
    assert 5 <= len(kept.jobs) < 100_000


class StillCamera(Camera):
    """Gives one picture, and no other one until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.end, self.gave_up = 0, threading.Event(), False

    def read(self) -> tuple[bool, np.ndarray]:
        self.count += 1
        if self.count > 1:
            self.gave_up = not self.end.wait(5)
        return self.count == 1, np.zeros((4, 4, 3), np.uint8)


def test_a_stage_that_fails_frees_a_source_that_waits_for_its_camera() -> None:
    camera = StillCamera()
    with LiveSource(camera, "camera 0") as source:
        with pytest.raises(CheckError, match="NaN"):
            run_threaded([source], [Step("a", fails_at=0)], [Kept()])
        assert not camera.gave_up and not camera.released
        camera.end.set()


@pytest.mark.parametrize(
    ("sources", "options", "sentence"),
    [
        ([], {}, r"got the sources none: expected one or more with different names"),
        ([blank(1), blank(1)], {}, r"got the sources a, a: expected one or more with different names"),
        ([blank(1)], {"depth": 0}, r"depth is 0, expected at least 1 frame"),
        ([blank(1)], {"deadline_ms": 50}, r"got a deadline of 50 ms with the policy keep: leave it out"),
        ([blank(1)], {"policy": Policy.DEADLINE}, r"the deadline is None ms, expected more than 0"),
        ([blank(1)], {"policy": Policy.DEADLINE, "deadline_ms": 0}, r"the deadline is 0 ms, expected more than 0"),
        ([blank(1)], {"policy": Policy.DEADLINE, "deadline_ms": np.nan}, r"the deadline is nan ms"),
    ],
)
def test_what_cannot_run_is_refused(sources: list, options: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run_threaded(sources, [Step()], [Kept()], **options)
