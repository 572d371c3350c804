"""The sources for files: pictures, which are unrelated (``Frame.follows`` is False), and videos."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from ...core.errors import UsageError
from ...core.images import IMAGE_SUFFIXES, read_image
from ..job import Frame
from .source import Source, frame_rate

_ISO_MEDIA_SUFFIXES = (".mp4", ".mov", ".m4v")
_logger = logging.getLogger(__name__)


class ImageSource(Source):
    """One image file; a damaged one is refused at once."""

    def __init__(self, path: Path) -> None:
        self.camera, self.inputs = str(path), (path,)
        self._image = read_image(path)

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(self.camera, 0, 0.0, self.inputs[0].name, self._image, follows=False)


class FolderSource(Source):
    """Image files sorted by path. Damaged ones are logged, counted and skipped; ``Frame.time`` is 0.

    Raises:
        UsageError: there is no file; while iterating: no file can be decoded.
    """

    def __init__(self, paths: Sequence[Path], spec: str) -> None:
        if not paths:
            raise UsageError(f"source {spec!r} holds no images: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        self.camera, self.inputs = spec, sorted(paths)

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.inputs):
            try:
                image = read_image(path)
            except UsageError as error:
                self.skipped += 1
                _logger.warning("skipped: %s", error)
                continue
            yield Frame(self.camera, index, 0.0, path.name, image, follows=False)
        if self.skipped == len(self.inputs):
            raise UsageError(f"none of the {self.skipped} files of {self.camera!r} is an image that can be decoded")


class VideoSource(Source):
    """A video file. A truncated one yields the frames it has, then raises a UsageError with their number.

    Raises:
        OSError: there is no permission to read the file.
        UsageError: it cannot be decoded.
    """

    def __init__(self, path: Path) -> None:
        path.open("rb").close()  # raises OSError without permission, which OpenCV reports as a damaged file
        self.camera, self.inputs = str(path), (path,)
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UsageError(f"{path} is not an image or video that can be decoded, or was cut short: copy it again")
        self.fps = frame_rate(self._capture)

    def __iter__(self) -> Iterator[Frame]:
        path = self.inputs[0]
        index = 0
        while True:
            ok, image = self._capture.read()
            if not ok:
                break
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or index / (self.fps or 1.0)
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield Frame(self.camera, index, seconds, f"{path.stem}_{index:06d}", image, follows=index > 0)
            index += 1
        announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if index == 0 or _cut_short(path, index, announced):
            raise UsageError(f"video {path} is cut short: {index} of {announced} frames could be read: copy it again")

    def close(self) -> None:
        self._capture.release()


def _cut_short(path: Path, read: int, announced: int) -> bool:
    """Return whether a video that ended after ``read`` frames is incomplete.

    MP4 is incomplete if a box ends beyond the file; its frame count is no criterion, because a clip that was trimmed
    without encoding counts frames that its edit list hides. Other containers estimate the count: a fiftieth may lack.
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
