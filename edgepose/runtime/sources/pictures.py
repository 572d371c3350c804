"""The sources for picture files, which are unrelated: ``Frame.follows`` is False."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...core.errors import UsageError
from ...core.images import IMAGE_SUFFIXES, read_image
from ..job import Frame
from .source import Source

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

    Args:
        paths: the files.
        spec: the folder or glob that they are from.

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
