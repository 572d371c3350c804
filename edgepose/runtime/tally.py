"""The sink that counts frames and people and collects times."""

from __future__ import annotations

from collections import deque

from ..core.timing import Latency, summarise
from .job import Job
from .stages import STAGES

#: Number of frames with times in memory: enough for a p99, and bounded for a camera that runs for weeks.
_KEPT = 10_000


class Tally:
    """Counts of frames (``dropped`` ones included) and of people in them, and the times of the last 10,000 frames."""

    def __init__(self) -> None:
        self.frames = self.people = self.dropped = 0
        self._ms: deque[dict[str, float]] = deque(maxlen=_KEPT)

    def write(self, job: Job) -> None:
        """Count a frame; times that are added to the job later count too."""
        self.frames += 1
        self.people += len(job.people or ())
        self.dropped += job.dropped is not None
        self._ms.append(job.ms)

    def close(self) -> None:
        """Do nothing: the figures stay."""

    def summary(self) -> dict[str, Latency]:
        """Return the percentiles of every stage that ran, in the order of :data:`edgepose.runtime.stages.STAGES`."""
        others = {name for ms in self._ms for name in ms} - set(STAGES)
        samples = {name: [ms[name] for ms in self._ms if name in ms] for name in (*STAGES, *sorted(others))}
        return {name: summarise(ms) for name, ms in samples.items() if ms}
