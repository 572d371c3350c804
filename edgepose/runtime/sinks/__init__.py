"""Where results go: videos, pictures, JSON lines and COCO results.

A sink tries its place when it is made, opens a file under a temporary name with the first frame, and gives it its name
in ``close``. Close sinks also when the run failed: what was written until then is a valid file, and nothing is lost.
Without a frame, no file is made or replaced. A file that could not be written to its end, such as on a full disk, is
given up, and an older one stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...core.errors import UsageError
from ...core.files import place
from ...core.skeletons import Skeleton
from ..job import Job
from .coco import CocoSink
from .json_lines import JsonLinesSink
from .pictures import ImageFolderSink, PictureSink, open_picture_sink
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
    """Takes the jobs of one run, in order."""

    def write(self, job: Job) -> None:
        """Add one frame. A sink of pictures writes ``job.frame.image`` as it is: draw on it before.

        Raises:
            UsageError: it cannot be written, such as on a full disk.
        """
        ...

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            UsageError: it cannot be written to its end.
        """
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
        video: a video, a picture or a folder, see :func:`~edgepose.runtime.sinks.pictures.open_picture_sink`; None for
            none.
        json_lines: for :class:`JsonLinesSink`; ``-`` is standard output; None for none.
        coco: for :class:`CocoSink`; ``-`` is standard output; None for none.
        source: what the frames come from.
        skeleton: of the people in the frames.
        header: what else the first JSON line tells, such as the bundle's name.

    Raises:
        UsageError: a place that cannot be written to, one place for two outputs, an output that is an input of the
            source, or ``coco`` for a skeleton whose joints are not COCO's.
    """
    outputs = [Path(path) for path in (video, json_lines, coco) if path is not None]
    _refuse_one_place(outputs)
    _refuse_inputs(outputs, source.inputs)
    sinks: list[Sink] = []
    if video is not None:
        sinks.append(open_picture_sink(video, source))
    if json_lines is not None:
        sinks.append(JsonLinesSink(Path(json_lines), skeleton, header))
    if coco is not None:
        sinks.append(CocoSink(Path(coco), source.inputs, skeleton))
    return sinks


def _refuse_one_place(outputs: Iterable[Path]) -> None:
    """Refuse two outputs of which the second would overwrite the first."""
    for one, other in combinations(outputs, 2):
        if place(one) == place(other):
            raise UsageError(f"cannot write two outputs to one place, {one} and {other}: give each a name of its own")


def _refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to overwrite an input: the file that is read, or pictures in the folder that they are read from."""
    inputs = list(inputs)
    taken = {place(path) for path in (*inputs, *{path.parent for path in inputs})}
    for path in outputs:
        if place(path) in taken:
            raise UsageError(f"cannot write {path}: the source is read from there: name another place")
