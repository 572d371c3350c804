"""The data that moves through a pipeline: frames, and the jobs that carry them from stage to stage."""

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
        time: capture time in seconds, since the start of the video or since the live source was opened.
        name: file name of an image; otherwise ``STEM_INDEX``, which is never a plain number.
        image: (H, W, 3) uint8 RGB.
        follows: whether the frame continues the camera's frame before it, so that people can be tracked; False for the
            first frame of a source and for pictures of a folder.
    """

    camera: str
    index: int
    time: float
    name: str
    image: NDArray[np.uint8]
    follows: bool = True


@dataclass(slots=True)
class Job:
    """One frame with its results, passed from stage to stage.

    Attributes:
        frame: the frame; a stage that draws replaces it.
        deadline: time of :func:`time.perf_counter` in seconds; a later result is useless.
        people: the people found; None before the stage that finds them, and if the frame was dropped.
        ms: milliseconds by name of :data:`edgepose.runtime.stages.STAGES`.
        dropped: why the frame was not processed, in one sentence; None if it was.
    """

    frame: Frame
    deadline: float = math.inf
    people: People | None = None
    ms: dict[str, float] = field(default_factory=dict)
    dropped: str | None = None
