"""Frames as picture files, and the choice between them and a video."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import UsageError
from ...core.files import STDOUT, check_writable, check_writable_folder
from ...core.images import IMAGE_SUFFIXES, check_image_name, write_image
from ..job import Frame, Job
from .video import DEFAULT_FPS, VIDEO_SUFFIXES, VideoSink

if TYPE_CHECKING:
    from ..sources import Source


def open_picture_sink(path: Path | str, source: Source) -> VideoSink | PictureSink | ImageFolderSink:
    """Open what the name of an output stands for.

    A folder that is there or a slash at the end mean a folder of pictures; the suffix of a video or of a picture mean
    such a file; every other name means a folder.

    Args:
        path: the output.
        source: what the frames come from. A picture file can hold those of a single picture only.

    Raises:
        UsageError: a place that cannot be written to, a kind of video or picture that is not written, a picture file
            for a source of several frames, an empty name, or standard output.
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
        if not _single_picture(source):
            raise UsageError(f"cannot write picture {path}: the source may have several frames: name a folder")
        return PictureSink(path)
    if (mimetypes.guess_type(path.name)[0] or "").startswith(("image/", "video/")):
        raise UsageError(
            f"cannot write {path}: expected a video ({', '.join(VIDEO_SUFFIXES)}), "
            f"a picture ({', '.join(IMAGE_SUFFIXES)}) or a folder"
        )
    return ImageFolderSink(path)


class PictureSink:
    """One picture file, for a source of a single picture.

    Args:
        path: file ending in one of :data:`~edgepose.core.images.IMAGE_SUFFIXES`.
    """

    def __init__(self, path: Path) -> None:
        check_image_name(path)
        check_writable(path)
        self._path = path

    def write(self, job: Job) -> None:
        """Write the picture."""
        write_image(self._path, job.frame.image)

    def close(self) -> None:
        """Do nothing: the picture has its name already."""


class ImageFolderSink:
    """One JPEG per frame, named after the frame.

    Args:
        folder: made with the first frame if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        check_writable_folder(folder)
        self._folder = folder
        self._written: set[str] = set()

    def write(self, job: Job) -> None:
        """Write one picture."""
        name = next(name for name in _names(job.frame) if name not in self._written)
        self._written.add(name)
        path = self._folder / f"{name}.jpg"
        if path.is_symlink():  # nobody named this file: what the link leads to may be an input
            path.unlink()
        write_image(path, job.frame.image)

    def close(self) -> None:
        """Do nothing: every picture has its name already."""


def _single_picture(source: Source) -> bool:
    return not source.live and [file.suffix.lower() in IMAGE_SUFFIXES for file in source.inputs] == [True]


def _names(frame: Frame) -> Iterator[str]:
    """Yield names for a frame's picture; a glob over folders, or a.jpg beside a.png, needs more than the first."""
    stem = Path(frame.name).stem
    yield stem
    yield f"{stem}_{frame.index:06d}"
    yield from (f"{stem}_{frame.index:06d}_{number}" for number in count(2))
