"""A sink that counts and times what a run did."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from .job import Job
from .stages import STAGES

#: Frames whose times are kept: enough for a p99, bounded on a camera that runs for weeks.
_KEPT = 10_000


@dataclass(frozen=True)
class StageSummary:
    """Milliseconds of one stage over the frames that went through it."""

    frames: int
    mean: float
    p50: float
    p95: float
    p99: float


class Tally:
    """Counts frames and people, and keeps the times of the last 10,000 frames.

    Attributes:
        frames: frames that arrived, those that were dropped included.
        people: people in all of them.
        dropped: frames in which nobody was looked for, because they were late.
    """

    def __init__(self) -> None:
        self.frames = self.people = self.dropped = 0
        self._ms: deque[dict[str, float]] = deque(maxlen=_KEPT)

    def write(self, job: Job) -> None:
        """Count a frame. What is added to its times later on counts, too."""
        self.frames += 1
        self.people += len(job.people or ())
        self.dropped += job.dropped is not None
        self._ms.append(job.ms)

    def close(self) -> None:
        """The figures stay."""

    def summary(self) -> dict[str, StageSummary]:
        """Return the percentiles of every stage that ran, in the order of :data:`edgepose.runtime.stages.STAGES`."""
        others = {name for ms in self._ms for name in ms} - set(STAGES)
        samples = {name: [ms[name] for ms in self._ms if name in ms] for name in (*STAGES, *sorted(others))}
        return {name: _summarise(ms) for name, ms in samples.items() if ms}


def _summarise(ms: list[float]) -> StageSummary:
    return StageSummary(len(ms), float(np.mean(ms)), *(float(p) for p in np.percentile(ms, (50, 95, 99))))
