"""Keep the log lines of image and video libraries off stderr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import cv2


def silence_codecs() -> None:
    """Keep the log lines of FFmpeg and OpenCV off stderr, for the whole process, unless the user set their levels.

    FFmpeg's variable is read when OpenCV opens its first video, so it works when set any time before.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@contextmanager
def stderr_silenced() -> Iterator[None]:
    """Send file descriptor 2 to nowhere for a moment: libpng, libjpeg and FFmpeg's muxers print there unconditionally.

    Python's own ``sys.stderr`` is silenced as well, in all threads; keep the body to one library call.
    """
    try:
        saved = os.dup(2)
    except OSError:  # a daemon without stderr has nothing to silence
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
