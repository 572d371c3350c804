"""The base class of sources, and what those that use OpenCV share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from ..job import Frame


class Source(ABC):
    """Frames in order; a context manager that frees the device or file. Iterate once.

    Attributes:
        camera: the source's name, also in its frames.
        fps: frames per second, or None if unknown.
        live: True for a camera or stream, which drops frames that were not taken in time.
        inputs: the files that are read.
        skipped: number of damaged images left out so far.
    """

    camera = ""
    fps: float | None = None
    live = False
    inputs: Sequence[Path] = ()
    skipped = 0

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Read frame after frame; raise UsageError where the source breaks off."""

    def stop(self) -> None:
        """End the frames soon, and end a wait for the next one; may be called from any thread."""
        return

    def close(self) -> None:
        """Free the source's resources; call it from the thread that iterates, or after that has ended."""
        return

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frame_rate(capture: Any) -> float | None:
    """Return a capture's frames per second; None where OpenCV returns 0, -1, NaN, or a stream's clock, 90000."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps <= 1000 else None
