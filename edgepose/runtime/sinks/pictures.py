"""The sinks for pictures: one file, a folder, or a video."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...core.codecs import silence_codecs
from ...core.errors import UsageError
from ...core.files import atomic_path, check_writable, check_writable_folder
from ...core.geometry import Size
from ...core.images import check_image_name, fitted_size, write_image
from ..job import Job

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi")
#: Frames per second of a video made from pictures, or from a camera of unknown frame rate.
DEFAULT_FPS = 25.0
#: Longest time in seconds that a picture of a live source is repeated, so that a stalled stream does not fill the disk.
LONGEST_HOLD = 5.0


class PictureSink:
    """One picture file, with a suffix in :data:`~edgepose.core.images.IMAGE_SUFFIXES`, for a single picture."""

    def __init__(self, path: Path) -> None:
        check_image_name(path)
        check_writable(path)
        self._path = path

    def write(self, job: Job) -> None:
        """Write the picture."""
        write_image(self._path, job.frame.image)

    def close(self) -> None:
        """Do nothing: the picture is complete."""


class ImageFolderSink:
    """One JPEG per frame, named after the frame; a missing folder is made with the first frame."""

    def __init__(self, folder: Path) -> None:
        check_writable_folder(folder)
        self._folder = folder
        self._written: set[str] = set()

    def write(self, job: Job) -> None:
        """Write one picture."""
        stem = Path(job.frame.name).stem
        numbered = f"{stem}_{job.frame.index:06d}"
        # The first name may be taken, by a.jpg beside a.png or in a glob over folders.
        names = chain((stem, numbered), (f"{numbered}_{number}" for number in count(2)))
        name = next(name for name in names if name not in self._written)
        self._written.add(name)
        path = self._folder / f"{name}.jpg"
        if path.is_symlink():  # do not follow a link: its target may be an input
            path.unlink()
        write_image(path, job.frame.image)

    def close(self) -> None:
        """Do nothing: every picture is complete."""


class VideoSink:
    """An MPEG-4 video of the first frame's size; frames of another size are fitted in and centred on black.

    For a ``live`` source, which drops frames, each picture is repeated until the time of the next, at most
    :data:`LONGEST_HOLD`, so that the video runs in real time.
    """

    def __init__(self, path: Path, fps: float, live: bool = False) -> None:
        check_writable(path)
        silence_codecs()
        self._path, self._fps, self._live = path, fps, live
        self._stack = ExitStack()
        self._temporary = path
        self._writer: Any = None
        self._size: Size = (0, 0)
        self._held: Any = None  # the newest picture, written when the time of the next one is known
        self._time = self._owed = 0.0
        self._frames = 0

    def write(self, job: Job) -> None:
        """Add one picture; raise UsageError if OpenCV cannot encode its size, or if the disk is full."""
        frame = job.frame
        if self._writer is None:
            self._open(frame.image.shape[:2])
        else:
            self._write_held(self._places_until(frame.time) if self._live else 1)
        self._held = cv2.cvtColor(fit_centred(frame.image, self._size), cv2.COLOR_RGB2BGR)
        self._time = frame.time

    def close(self) -> None:
        """Finish the video and rename it; raise UsageError if it is incomplete, and keep an older file."""
        if self._writer is None or self._held is None:
            return
        self._write_held(1)
        self._held = None
        with self._stack.pop_all():
            backend = self._writer.getBackendName()
            self._writer.release()
            # OpenCV 4 does not report a failed frame, and no version reports a failed end of the file.
            if backend == "FFMPEG" and not _holds(self._temporary, self._frames):
                raise self._incomplete()

    def _open(self, size: Size) -> None:
        # Every build of OpenCV can encode MPEG-4 part 2; H.264 is missing from pip's.
        code = cv2.VideoWriter.fourcc(*"mp4v")
        with ExitStack() as stack:  # removes the temporary file if the encoder does not open
            temporary = stack.enter_context(atomic_path(self._path))
            writer = cv2.VideoWriter(str(temporary), code, self._fps, size[::-1])
            if not writer.isOpened():
                raise UsageError(f"OpenCV cannot encode {self._path} ({size[1]}x{size[0]}): name a folder for pictures")
            self._writer, self._size, self._temporary = writer, size, temporary
            self._stack = stack.pop_all()

    def _places_until(self, time: float) -> int:
        """Return how often to write the held picture until a time; the rounding error is carried to the next."""
        self._owed += min(time - self._time, LONGEST_HOLD) * self._fps
        places = round(self._owed)
        self._owed -= places
        return places

    def _write_held(self, times: int) -> None:
        for _ in range(times):
            if self._writer.write(self._held) is False:  # OpenCV 5; 4 returns None
                self._held = None
                with self._stack.pop_all():
                    raise self._incomplete()
            self._frames += 1

    def _incomplete(self) -> UsageError:
        return UsageError(f"cannot write {self._path} to its end: free some space on the disk, or name another place")


def fit_centred(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) uint8 scaled into ``size`` (height, width), centred on black; itself if it fits."""
    if image.shape[:2] == size:
        return image
    height, width = fitted_size(image.shape[:2], size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, 3), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return canvas


def _holds(path: Path, frames: int) -> bool:
    """Return whether a video can be read and holds about this many frames; a container may estimate their number."""
    capture = cv2.VideoCapture(str(path))
    try:
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0.0
        return announced >= 1 and abs(announced - frames) <= max(1, frames // 50) and capture.read()[0]
    finally:
        capture.release()
