"""Where frames come from: pictures, videos, cameras and streams, behind one iterable."""

from __future__ import annotations

import glob
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.codecs import silence_codecs
from ..core.errors import UsageError
from ..core.images import IMAGE_SUFFIXES, read_image

_logger = logging.getLogger(__name__)

_EXPECTED = "an image, a folder of images, a glob, a video, a camera index such as 0, or rtsp://..."
#: A stream that answers nothing for this long is given up; OpenCV's own 30 s feel like a hang.
_STREAM_TIMEOUT_MS = 10_000
_ISO_MEDIA_SUFFIXES = (".mp4", ".mov", ".m4v")


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        index: counts from 0. Of a folder every file counts, of a live source every captured frame: gaps are images
            that were skipped and frames that were dropped.
        time: seconds; in a video since its start, of a live source since it was opened, when the frame was captured.
        image: (H, W, 3) uint8 RGB.
        name: file name of an image; ``STEM_INDEX`` otherwise, which never reads as a plain number.
    """

    index: int
    time: float
    image: NDArray[np.uint8]
    name: str


class Source:
    """Frames in order; a context manager that frees the device or file. Iterate once.

    Attributes:
        fps: frames per second, or None where the source does not say.
        live: True for a camera or stream, which drops frames that nobody took in time.
        inputs: the files that are read.
        skipped: damaged images left out so far.
    """

    fps: float | None = None
    live = False
    inputs: Sequence[Path] = ()
    skipped = 0

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def close(self) -> None:
        """Free what the source holds."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def open_source(spec: str) -> Source:
    """Open an image, a folder of images, a glob, a video, a camera index or an ``rtsp://`` stream.

    Raises:
        UsageError: nothing there, nothing that can be decoded, or a kind of source that is not supported. Damage that
            shows only later is raised while iterating, after the frames before it.
    """
    silence_codecs()
    if spec.startswith("gst:"):
        raise UsageError(f"{spec!r}: GStreamer sources are not supported yet: use a video file, a camera or rtsp://")
    if spec.startswith("rtsp://"):
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _STREAM_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
        return LiveSource(cv2.VideoCapture(spec, cv2.CAP_FFMPEG, [*timeouts, _STREAM_TIMEOUT_MS]), f"stream {spec}")
    if "://" in spec:
        raise UsageError(f"source {spec!r} has an unknown scheme: expected {_EXPECTED}")
    if spec.isdecimal():
        return LiveSource(cv2.VideoCapture(int(spec)), f"camera {spec}")
    path = Path(spec)
    if path.is_dir():
        return FolderSource([file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES], spec)
    if path.is_file():
        return ImageSource(path) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path)
    if glob.has_magic(spec):
        matches = glob.glob(spec, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
        return FolderSource([Path(match) for match in matches if Path(match).is_file()], spec)
    raise UsageError(f"source {spec!r} does not exist: expected {_EXPECTED}")


class ImageSource(Source):
    """One image file; a damaged one is refused at once."""

    def __init__(self, path: Path) -> None:
        self.inputs = (path,)
        self._image = read_image(path)

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(0, 0.0, self._image, self.inputs[0].name)


class FolderSource(Source):
    """Image files sorted by path. A damaged one is logged, counted and skipped; ``Frame.time`` is 0."""

    def __init__(self, paths: Sequence[Path], spec: str) -> None:
        if not paths:
            raise UsageError(f"source {spec!r} holds no images: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        self.inputs = sorted(paths)
        self._spec = spec

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.inputs):
            try:
                image = read_image(path)
            except UsageError as error:
                self.skipped += 1
                _logger.warning("skipped: %s", error)
                continue
            yield Frame(index, 0.0, image, path.name)
        if self.skipped == len(self.inputs):
            raise UsageError(f"none of the {self.skipped} files of {self._spec!r} is an image that can be decoded")


class VideoSource(Source):
    """A video file. One that was cut short gives the frames it has, then a UsageError that counts them."""

    def __init__(self, path: Path) -> None:
        self.inputs = (path,)
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UsageError(f"{path} is not an image or video that can be decoded, or was cut short: copy it again")
        self.fps = _frame_rate(self._capture)

    def __iter__(self) -> Iterator[Frame]:
        path = self.inputs[0]
        index = 0
        while True:
            ok, image = self._capture.read()
            if not ok:
                break
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield Frame(index, seconds or index / (self.fps or 1.0), _rgb(image), f"{path.stem}_{index:06d}")
            index += 1
        announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if index == 0 or _cut_short(path, index, announced):
            raise UsageError(f"video {path} is cut short: {index} of {announced} frames could be read: copy it again")

    def close(self) -> None:
        self._capture.release()


class LiveSource(Source):
    """A camera or stream. A thread reads all frames and keeps the newest, so that a slow consumer never lags behind.

    Args:
        capture: an opened ``cv2.VideoCapture``, owned by the source from here on.
        name: for messages, such as ``camera 0``.
    """

    live = True

    def __init__(self, capture: Any, name: str) -> None:
        if not capture.isOpened():
            raise UsageError(f"{name} cannot be opened: check that it is there and that no other program uses it")
        self.fps = _frame_rate(capture)
        self._capture, self._name = capture, name
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._running = True
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        opened, index = time.monotonic(), 0
        try:
            while self._running:
                ok, image = self._capture.read()
                if not ok:
                    break
                frame = Frame(index, time.monotonic() - opened, _rgb(image), f"live_{index:06d}")
                with self._changed:
                    self._newest = frame
                    self._changed.notify()
                index += 1
        finally:  # whatever ended the thread, nobody waits for it
            with self._changed:
                self._running = False
                self._changed.notify()

    def __iter__(self) -> Iterator[Frame]:
        taken = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or not self._running)
                frame, self._newest = self._newest, None
            if frame is None:
                raise UsageError(f"{self._name} stopped after {taken} frames: check the device or the network")
            taken += 1
            yield frame

    def close(self) -> None:
        self._running = False
        self._thread.join()
        self._capture.release()


def _cut_short(path: Path, read: int, announced: int) -> bool:
    """Whether a video that ended after ``read`` frames is incomplete.

    Frame counts do not tell for MP4: a clip trimmed without encoding announces frames that its edit list hides. Its
    boxes tell exactly. Other containers estimate the count from the duration, so a fiftieth may be missing.
    """
    if path.suffix.lower() not in _ISO_MEDIA_SUFFIXES:
        return read < announced - max(1, announced // 50)
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if length == 0:  # "to the end of the file"
                return False
            offset += max(length, 8)
    return offset > size


def _frame_rate(capture: Any) -> float | None:
    """OpenCV answers 0, -1 or NaN for "unknown", and for some streams their clock, 90000."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps <= 1000 else None


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
