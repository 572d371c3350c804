"""Sinks, which write results: videos, pictures, JSON lines and COCO results.

A sink verifies on construction that it can write, writes to a temporary file from the first frame on, and renames it in
``close``. Close sinks also after an error: the frames so far make a valid file. Without a frame, no file is made or
replaced. If writing fails, for example on a full disk, the temporary file is removed and an older file stays.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...core.errors import UsageError
from ...core.files import STDOUT, place
from ...core.images import IMAGE_SUFFIXES
from ...core.skeletons import Skeleton
from ..job import Job
from .pictures import DEFAULT_FPS, VIDEO_SUFFIXES, ImageFolderSink, PictureSink, VideoSink
from .text import CocoSink, JsonLinesSink

if TYPE_CHECKING:
    from ..sources import Source

__all__ = [
    "VIDEO_SUFFIXES",
    "CocoSink",
    "ImageFolderSink",
    "JsonLinesSink",
    "PictureSink",
    "Sink",
    "VideoSink",
    "open_picture_sink",
    "open_sinks",
]


class Sink(Protocol):
    """A consumer of the jobs of one run, in order."""

    def write(self, job: Job) -> None:
        """Add one frame; pictures are written without drawing on them. Raise UsageError if writing fails."""

    def close(self) -> None:
        """Finish the file and rename it; raise UsageError if writing fails."""


def open_sinks(
    *,
    video: Path | str | None,
    json_lines: Path | str | None,
    coco: Path | str | None,
    source: Source,
    skeleton: Skeleton,
    header: Mapping[str, Any],
) -> list[Sink]:
    """Make the sinks of one run; nothing is written before the first frame.

    Args:
        video: path for :func:`open_picture_sink`, or None.
        json_lines, coco: files for :class:`JsonLinesSink` and :class:`CocoSink`, ``-`` for standard output, or None.
        source, skeleton: source of the frames, and skeleton of the people.
        header: further keys of the first JSON line, such as the bundle's name.

    Raises:
        UsageError: a place cannot be written to, is given twice or is an input of the source; or ``coco`` is given for
            a skeleton with other joints than COCO's.
    """
    outputs = [Path(path) for path in (video, json_lines, coco) if path is not None]
    for one, other in combinations(outputs, 2):
        if place(one) == place(other):
            raise UsageError(f"cannot write two outputs to one place, {one} and {other}: give each a name of its own")
    taken = {place(path) for file in source.inputs for path in (file, file.parent)}
    for path in outputs:
        if place(path) in taken:
            raise UsageError(f"cannot write {path}: the source is read from it; name another place")
    sinks: list[Sink] = []
    if video is not None:
        sinks.append(open_picture_sink(video, source))
    if json_lines is not None:
        sinks.append(JsonLinesSink(Path(json_lines), skeleton, header))
    if coco is not None:
        sinks.append(CocoSink(Path(coco), source.inputs, skeleton))
    return sinks


def open_picture_sink(path: Path | str, source: Source) -> VideoSink | PictureSink | ImageFolderSink:
    """Open the sink for an output: a video or a picture by its suffix, otherwise a folder of pictures.

    An existing folder, or a slash at the end, always means a folder. A picture file holds a single picture.

    Raises:
        UsageError: the place cannot be written to, the kind of video or picture is not supported, the source may have
            several frames for one picture file, the name is empty, or it is standard output.
    """
    if not str(path):
        raise UsageError("the name of the output for pictures is empty: name a video, a picture or a folder")
    slash, path = str(path).endswith("/"), Path(path)
    suffix = path.suffix.lower()
    if path == STDOUT:
        raise UsageError("cannot write a video to standard output: name a video or a folder")
    if slash or path.is_dir():
        return ImageFolderSink(path)
    if suffix in VIDEO_SUFFIXES:
        return VideoSink(path, source.fps or DEFAULT_FPS, source.live)
    if suffix in IMAGE_SUFFIXES:
        if source.live or [file.suffix.lower() in IMAGE_SUFFIXES for file in source.inputs] != [True]:
            raise UsageError(f"cannot write picture {path}: the source may have several frames: name a folder")
        return PictureSink(path)
    if (mimetypes.guess_type(path.name)[0] or "").startswith(("image/", "video/")):
        raise UsageError(
            f"cannot write {path}: expected a video ({', '.join(VIDEO_SUFFIXES)}), "
            f"a picture ({', '.join(IMAGE_SUFFIXES)}) or a folder"
        )
    return ImageFolderSink(path)
