"""How frames get through the stages into the sinks: one after another, or each part in a thread of its own."""

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

#: So often the main thread looks whether it was interrupted.
_LOOK_SECONDS = 0.1


class Policy(Enum):
    """What happens to frames that come faster than they can be processed.

    ``KEEP`` waits, so that every frame is processed. ``NEWEST`` drops the camera's oldest frame that still waits for
    the first stage: its number is missing in the results. ``DEADLINE`` waits, too, but a frame that is late skips the
    stages that are left and reaches the sinks as it is, marked ``dropped``.
    """

    KEEP = "keep"
    NEWEST = "newest"
    DEADLINE = "deadline"


def run_inline(source: Source, stages: Sequence[Stage], sinks: Sequence[Sink], limit: int | None = None) -> None:
    """Take every frame through all stages into all sinks before the next one is read.

    Args:
        source: its errors are raised after the frames before them were written. Ctrl-C is the end of a live one.
        stages: in order.
        sinks: likewise. The caller closes them, the source and the stages.
        limit: of frames.
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
    """Run every source, every stage and the sinks in a thread of their own; return when all threads have ended.

    Frames of one camera stay in order. A stage gets what waits for it in one call, one frame of each camera at most.
    With one source and ``KEEP``, every stage sees exactly what it sees in :func:`run_inline`.

    The first error of any part ends the run: no new frame is read, what is past that part is still written, and the
    error is raised here. Ctrl-C does the same, without an error if a source is live.

    Args:
        sources: each with a name of its own.
        stages: in order, shared by all sources; each serves one thread.
        sinks: get the frames of all sources, in one thread. The caller closes them, the sources and the stages.
        policy: see :class:`Policy`.
        deadline_ms: with ``DEADLINE``, milliseconds from when a frame was read to when its result is of no use.
        depth: frames of each camera that wait between two threads, at most.
        limit: of frames of each source.

    Raises:
        UsageError: no source, two of one name, a depth below 1, or a deadline that is missing, not above 0, or without
            a use.
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
        while not threads.over.wait(_LOOK_SECONDS):  # Ctrl-C may come to another thread, and does not end a wait then
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
    """Yield a job for each frame; waiting for it counts as ``decode``."""
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
        inlet.discard()
        outlet.end()


def _drain(inlet: _Queue, sinks: Sequence[Sink], over: threading.Event) -> None:
    try:
        while jobs := inlet.take():
            for job in jobs:
                _write(sinks, job)
    finally:
        inlet.discard()
        over.set()


class _Queue:
    """Jobs on their way from one or several threads to one other; it holds a few of each camera.

    Attributes:
        producers: threads that have not ended yet.
    """

    def __init__(self, depth: int) -> None:
        self.producers = 1
        self._depth = depth
        self._jobs: deque[Job] = deque()
        self._refuses = False
        self._changed = threading.Condition()

    def put(self, job: Job, newest: bool = False) -> bool:
        """Add a job, and wait until there is room for it or, if ``newest``, drop the camera's oldest one.

        Returns:
            False if no more jobs are taken, and this one was not.
        """
        with self._changed:
            if newest and self._is_full(job):
                del self._jobs[self._places(job)[0]]
            self._changed.wait_for(lambda: self._refuses or not self._is_full(job))
            if not self._refuses:
                self._jobs.append(job)
                self._changed.notify_all()
            return not self._refuses

    def take(self) -> list[Job]:
        """Wait for jobs, and return the oldest one with those behind it up to the second one of any camera.

        Returns:
            nothing when the producers have ended and all is taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or not self.producers)
            taken: dict[str, Job] = {}
            while self._jobs and self._jobs[0].frame.camera not in taken:
                job = self._jobs.popleft()
                taken[job.frame.camera] = job
            self._changed.notify_all()
            return list(taken.values())

    def end(self) -> None:
        """Tell that one producer has ended."""
        with self._changed:
            self.producers -= 1
            self._changed.notify_all()

    def refuse(self) -> None:
        """Take no more jobs; those that are here can still be taken out."""
        with self._changed:
            self._refuses = True
            self._changed.notify_all()

    def discard(self) -> None:
        """Take no more jobs, and throw away those that are here."""
        self.refuse()
        with self._changed:
            self._jobs.clear()

    def _is_full(self, job: Job) -> bool:
        return len(self._places(job)) >= self._depth

    def _places(self, job: Job) -> list[int]:
        return [place for place, other in enumerate(self._jobs) if other.frame.camera == job.frame.camera]


class _Threads:
    """Threads of one run.

    Attributes:
        error: the first one that any of them raised.
        over: set when the run is to end: by the sinks at the end, or by the first error.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        # A daemon, so that whoever interrupts a second time, while a network hangs, gets out.
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
        except BaseException as error:  # raised again in the thread of the caller
            with self._lock:
                self.error = self.error or error
            self.over.set()


def _check(sources: Sequence[Source], policy: Policy, deadline_ms: float | None, depth: int) -> None:
    names = [source.camera for source in sources]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"got the sources {', '.join(names) or 'none'}: expected one or several, each once")
    if depth < 1:
        raise UsageError(f"depth is {depth}, expected at least 1 frame")
    if policy is not Policy.DEADLINE and deadline_ms is not None:
        raise UsageError(f"a deadline of {deadline_ms:g} ms is of no use with the policy {policy.value}: leave it out")
    if policy is Policy.DEADLINE and (deadline_ms is None or not deadline_ms > 0):
        raise UsageError(f"the deadline is {deadline_ms} ms, expected more than 0 with the policy {policy.value}")
