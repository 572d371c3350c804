"""The plain data that moves through a pipeline: frames, and jobs that carry them from stage to stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..core.pose import People


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a source.

    Attributes:
        camera: name of the source, such as its file, or ``camera 0``.
        index: position in the source, from 0. Skipped images and dropped live frames keep their number, so a gap means
            that something was left out.
        time: seconds; in a video since its start, of a live source since it was opened, when the frame was captured.
        name: file name of an image; ``STEM_INDEX`` otherwise, which never reads as a plain number.
        image: (H, W, 3) uint8 RGB.
        follows: whether it comes after the camera's frame before it in time, so that people can be followed from one
            to the other. The first frame of a source follows none; nor do unrelated pictures of a folder.
    """

    camera: str
    index: int
    time: float
    name: str
    image: NDArray[np.uint8]
    follows: bool = True


@dataclass(slots=True)
class Job:
    """One frame on its way through the stages, which own it one after another.

    Attributes:
        frame: the picture; a stage that draws puts another one in its place.
        deadline: time on the clock of :func:`time.perf_counter`, in seconds, after which the result is of no use.
        people: who was found; None before the stage that finds them, and if the frame was dropped.
        ms: milliseconds by name of :data:`edgepose.runtime.stages.STAGES`.
        dropped: why nobody was looked for in this frame, in one sentence; None if all was done.
    """

    frame: Frame
    deadline: float = math.inf
    people: People | None = None
    ms: dict[str, float] = field(default_factory=dict)
    dropped: str | None = None
