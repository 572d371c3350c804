"""Sources of frames: pictures, videos, cameras and streams, all as iterables."""

from __future__ import annotations

import glob
import re
from pathlib import Path

import cv2

from ...core.codecs import silence_codecs
from ...core.errors import UsageError
from ...core.images import IMAGE_SUFFIXES
from .files import FolderSource, ImageSource, VideoSource
from .live import LiveSource
from .source import Source

__all__ = ["FolderSource", "ImageSource", "LiveSource", "Source", "VideoSource", "open_source"]

_EXPECTED = "an image, a folder of images, a glob, a video, a camera index such as 0, or rtsp://..."
#: Time limit for a stream's answer, in milliseconds; OpenCV's default of 30 s feels like a hang.
_STREAM_TIMEOUT_MS = 10_000
#: Largest number of digits of a camera index: OpenCV takes a C integer.
_CAMERA_DIGITS = 9


def open_source(spec: str) -> Source:
    """Open an image, a folder of images, a glob, a video, a camera index or an ``rtsp://`` stream.

    Raises:
        UsageError: the source does not exist, cannot be read or decoded, or is of an unsupported kind. Damage inside a
            source is raised while iterating, after the frames before it.
    """
    if not spec:
        raise UsageError(f"the source is empty: expected {_EXPECTED}")
    silence_codecs()
    if spec.startswith("gst:"):
        raise UsageError(f"{spec!r}: GStreamer sources are not supported yet: use a video file, a camera or rtsp://")
    if spec.startswith("rtsp://"):
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _STREAM_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
        capture = cv2.VideoCapture(spec, cv2.CAP_FFMPEG, [*timeouts, _STREAM_TIMEOUT_MS])
        return LiveSource(capture, f"stream {_without_password(spec)}")
    if "://" in spec:
        raise UsageError(f"source {spec!r} has an unknown scheme: expected {_EXPECTED}")
    if spec.isdecimal() and len(spec) <= _CAMERA_DIGITS:
        return LiveSource(cv2.VideoCapture(int(spec)), f"camera {int(spec)}")
    try:
        return _open_files(spec)
    except OSError as error:
        raise UsageError(f"cannot read source {spec!r}: {error.strerror or error}") from error


def _open_files(spec: str) -> Source:
    path = Path(spec)
    if path.is_dir():
        return FolderSource([file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES], spec)
    if path.is_file():
        return ImageSource(path) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path)
    if glob.has_magic(spec):
        matches = glob.glob(spec, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
        return FolderSource([Path(match) for match in matches if Path(match).is_file()], spec)
    raise UsageError(f"source {spec!r} does not exist: expected {_EXPECTED}")


def _without_password(address: str) -> str:
    """Return a stream's address without user name and password, for messages and results.

    >>> _without_password("rtsp://admin:secret@10.0.0.7:554/main")
    'rtsp://10.0.0.7:554/main'
    """
    return re.sub(r"^(\w+://)[^/]*@", r"\1", address)
