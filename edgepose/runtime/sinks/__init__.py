"""Sinks, which write results: videos, pictures, JSON lines and COCO results.

A sink verifies on construction that it can write, writes to a temporary file from the first frame on, and renames it in
``close``. Close sinks also after an error: the frames so far make a valid file. Without a frame, no file is made or
replaced. If writing fails, for example on a full disk, the temporary file is removed and an older file stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...core.errors import UsageError
from ...core.files import place
from ...core.skeletons import Skeleton
from ..job import Job
from .pictures import ImageFolderSink, PictureSink, open_picture_sink
from .text import CocoSink, JsonLinesSink
from .video import VIDEO_SUFFIXES, VideoSink

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
        ...

    def close(self) -> None:
        """Finish the file and rename it; raise UsageError if writing fails."""
        ...


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
