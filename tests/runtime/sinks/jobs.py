"""Jobs, people and sources for the tests of the sinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepose.core.pose import People
from edgepose.runtime.job import Frame, Job

KEYPOINTS = np.array([[10.12345, 20, 0.9], [30, 40.5, 0.7]], np.float32)
#: One person of two joints.
PERSON = People(np.array([[5.0, 6, 45, 66]]), KEYPOINTS[None], np.array([3]))
#: Twice the same one.
TWO = People(np.repeat(PERSON.boxes, 2, axis=0), np.repeat(PERSON.keypoints, 2, axis=0), np.array([3, 4]))


@dataclass(frozen=True)
class FakeSource:
    """What a sink asks a source for."""

    fps: float | None = None
    live: bool = False
    inputs: Sequence[Path] = ()
    skipped: int = 0


def job(
    index: int,
    grey: int = 0,
    name: str = "a.png",
    size: tuple[int, int] = (48, 64),
    people: People | None = None,
    seconds: float | None = None,
    camera: str = "front",
) -> Job:
    """Make a job with a grey picture; ten frames per second unless another time is given."""
    time = index / 10 if seconds is None else seconds
    return Job(Frame(camera, index, time, name, np.full((*size, 3), grey, np.uint8)), people=people)
