"""The sinks for picture files, and the choice between them and a video."""

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
    """Open the sink for an output: a video or a picture by its suffix, otherwise a folder of pictures.

    An existing folder, or a slash at the end, always means a folder.

    Args:
        path: the output.
        source: source of the frames; only a single picture fits into a picture file.

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
        name = next(name for name in _names(job.frame) if name not in self._written)
        self._written.add(name)
        path = self._folder / f"{name}.jpg"
        if path.is_symlink():  # do not follow a link: its target may be an input
            path.unlink()
        write_image(path, job.frame.image)

    def close(self) -> None:
        """Do nothing: every picture is complete."""


def _names(frame: Frame) -> Iterator[str]:
    """Yield names for a frame's picture; the first may be taken, by a.jpg beside a.png or in a glob over folders."""
    stem = Path(frame.name).stem
    yield stem
    yield f"{stem}_{frame.index:06d}"
    yield from (f"{stem}_{frame.index:06d}_{number}" for number in count(2))
