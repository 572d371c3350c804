"""Runners, which pass frames through the stages into the sinks: in one thread, or with a thread for each part."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Any

from ..core.errors import UsageError
from .job import Job
from .sinks import Sink
from .sources import Source
from .stages import Stage, timed

#: Seconds between two checks of the main thread for an interrupt.
_LOOK_SECONDS = 0.1


class Policy(Enum):
    """What happens to frames that come faster than they can be processed.

    ``KEEP`` waits, so that every frame is processed. ``NEWEST`` drops the camera's oldest frame that waits for the
    first stage: its number is missing in the results. ``DEADLINE`` waits too, but a late frame skips the remaining
    stages and reaches the sinks marked as ``dropped``.
    """

    KEEP = "keep"
    NEWEST = "newest"
    DEADLINE = "deadline"


def run_inline(source: Source, stages: Sequence[Stage], sinks: Sequence[Sink], limit: int | None = None) -> None:
    """Pass each frame through all stages into all sinks before the next frame is read.

    The caller closes source, stages and sinks. Errors of the source are raised after the frames before were written;
    Ctrl-C ends a live source. ``limit`` is the largest number of frames.
    """
    try:
        for job in _jobs(source, limit):
            for stage in stages:
                stage.run([job])
            _write(sinks, job)
    except KeyboardInterrupt:
        if not source.live:
            raise


def run_threaded(
    sources: Sequence[Source],
    stages: Sequence[Stage],
    sinks: Sequence[Sink],
    *,
    policy: Policy = Policy.KEEP,
    deadline_ms: float | None = None,
    depth: int = 2,
    limit: int | None = None,
) -> None:
    """Run each source, each stage and the sinks in their own threads; return when all threads have ended.

    Frames of one camera stay in order. A stage gets all waiting frames in one call, at most one per camera. With one
    source and ``KEEP``, every stage gets the same calls as in :func:`run_inline`.

    The first error of any part ends the run: no new frame is read, frames behind that part are still written, and the
    error is raised here. Ctrl-C does the same, without an error if a source is live.

    Args:
        sources: sources with unique names, which share the stages and sinks. The caller closes all of them.
        deadline_ms: with ``DEADLINE``, milliseconds from reading a frame until its result is useless.
        depth: largest number of frames per camera that wait between two threads.
        limit: largest number of frames per source.

    Raises:
        UsageError: there is no source, two have one name, the depth is below 1, or the deadline is missing, not above 0
            or given with another policy.
    """
    _check(sources, policy, deadline_ms, depth)
    queues = [_Queue(depth) for _ in range(len(stages) + 1)]
    queues[0].producers = len(sources)
    threads = _Threads()
    newest = policy is Policy.NEWEST
    for source in sources:
        threads.start(f"source {source.camera}", _feed, source, queues[0], newest, deadline_ms, limit)
    for stage, inlet, outlet in zip(stages, queues, queues[1:], strict=False):
        threads.start(f"stage {stage.name}", _work, stage, inlet, outlet)
    threads.start("sinks", _drain, queues[-1], sinks, threads.over)
    interrupted = None
    try:
        while not threads.over.wait(_LOOK_SECONDS):  # a wait without timeout may miss Ctrl-C
            pass
    except KeyboardInterrupt as interrupt:
        interrupted = interrupt
    queues[0].refuse()
    for source in sources:
        source.stop()
    threads.join()
    error = threads.error or interrupted
    if error is not None and not (isinstance(error, KeyboardInterrupt) and any(source.live for source in sources)):
        raise error


def _jobs(source: Source, limit: int | None) -> Iterator[Job]:
    """Yield a job for each frame; the time until the frame is there counts as ``decode``."""
    start = time.perf_counter()
    for frame in islice(source, limit):
        yield Job(frame, ms={"decode": (time.perf_counter() - start) * 1000})
        start = time.perf_counter()


def _write(sinks: Sequence[Sink], job: Job) -> None:
    with timed([job], "encode"):
        for sink in sinks:
            sink.write(job)


def _feed(source: Source, outlet: _Queue, newest: bool, deadline_ms: float | None, limit: int | None) -> None:
    try:
        for job in _jobs(source, limit):
            if deadline_ms is not None:
                job.deadline = time.perf_counter() + deadline_ms / 1000
            if not outlet.put(job, newest):
                break
    finally:
        outlet.end()


def _work(stage: Stage, inlet: _Queue, outlet: _Queue) -> None:
    try:
        while jobs := inlet.take():
            for job in jobs:
                if job.dropped is None and time.perf_counter() > job.deadline:
                    job.people, job.dropped = None, f"the frame was late before the stage {stage.name}"
            in_time = [job for job in jobs if job.dropped is None]
            if in_time:
                stage.run(in_time)
            if not all(outlet.put(job) for job in jobs):
                break
    finally:
        inlet.refuse(discard=True)
        outlet.end()


def _drain(inlet: _Queue, sinks: Sequence[Sink], over: threading.Event) -> None:
    try:
        while jobs := inlet.take():
            for job in jobs:
                _write(sinks, job)
    finally:
        inlet.refuse(discard=True)
        over.set()


class _Queue:
    """A queue from one or more threads, of which ``producers`` still run, to one thread; bounded for each camera."""

    def __init__(self, depth: int) -> None:
        self.producers = 1
        self._depth = depth
        self._jobs: deque[Job] = deque()
        self._refuses = False
        self._changed = threading.Condition()

    def put(self, job: Job, newest: bool = False) -> bool:
        """Add a job when there is room for it, or with ``newest`` drop the camera's oldest; return False if refused."""
        with self._changed:
            if newest and self._is_full(job):
                del self._jobs[self._places(job)[0]]
            self._changed.wait_for(lambda: self._refuses or not self._is_full(job))
            if not self._refuses:
                self._jobs.append(job)
                self._changed.notify_all()
            return not self._refuses

    def take(self) -> list[Job]:
        """Wait for jobs, and return the oldest in order, up to a camera's second one; none if all producers ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or not self.producers)
            taken: dict[str, Job] = {}
            while self._jobs and self._jobs[0].frame.camera not in taken:
                job = self._jobs.popleft()
                taken[job.frame.camera] = job
            self._changed.notify_all()
            return list(taken.values())

    def end(self) -> None:
        """Count one producer as ended."""
        with self._changed:
            self.producers -= 1
            self._changed.notify_all()

    def refuse(self, *, discard: bool = False) -> None:
        """Refuse further jobs; waiting ones can still be taken, or are discarded."""
        with self._changed:
            self._refuses = True
            if discard:
                self._jobs.clear()
            self._changed.notify_all()

    def _is_full(self, job: Job) -> bool:
        return len(self._places(job)) >= self._depth

    def _places(self, job: Job) -> list[int]:
        return [place for place, other in enumerate(self._jobs) if other.frame.camera == job.frame.camera]


class _Threads:
    """The threads of one run, their first ``error``, and ``over``, an event that is set at the end or by an error."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        # A daemon, so that a second Ctrl-C ends the program even if a network hangs.
        thread = threading.Thread(target=self._guard, args=(work, *arguments), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_LOOK_SECONDS)

    def _guard(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # raised again in the caller's thread
            with self._lock:
                self.error = self.error or error
            self.over.set()


def _check(sources: Sequence[Source], policy: Policy, deadline_ms: float | None, depth: int) -> None:
    names = [source.camera for source in sources]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"got the sources {', '.join(names) or 'none'}: expected one or more with different names")
    if depth < 1:
        raise UsageError(f"depth is {depth}, expected at least 1 frame")
    if policy is not Policy.DEADLINE and deadline_ms is not None:
        raise UsageError(f"got a deadline of {deadline_ms:g} ms with the policy {policy.value}: leave it out")
    if policy is Policy.DEADLINE and (deadline_ms is None or not deadline_ms > 0):
        raise UsageError(f"the deadline is {deadline_ms} ms, expected more than 0 with the policy {policy.value}")
