"""The text file and the number formats that JSON lines and COCO results share."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ...core.files import check_writable, open_text


class TextFile:
    """A text file that is renamed in ``close`` if something was appended; otherwise an older file stays.

    Args:
        path: the file; a device, a pipe or ``-`` for standard output gets each line at once.
        header: text before the first one.
        footer: text after the last one.

    Raises:
        UsageError: the place cannot be written to.
    """

    def __init__(self, path: Path, header: str = "", footer: str = "") -> None:
        check_writable(path)
        self._path, self._header, self._footer = path, header, footer
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def append(self, text: str) -> None:
        """Add text; if writing fails, remove the temporary file and raise UsageError."""
        with self._stack.pop_all() as stack:
            if self._file is None:
                self._file = stack.enter_context(open_text(self._path))
                self._file.write(self._header)
            self._file.write(text)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Finish the file and rename it; raise UsageError if writing fails."""
        with self._stack.pop_all():
            if self._file is not None and not self._file.closed:
                self._file.write(self._footer)


def rounded(values: NDArray[np.floating]) -> list[Any]:
    """Return numbers as nested lists with three decimals: finer than any network, and half the size of the file."""
    return np.asarray(values, dtype=np.float64).round(3).tolist()


def clipped_scores(keypoints: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return keypoints (..., 3) with scores clipped to 0..1: a heat-map's maximum may be above 1."""
    clipped = np.array(keypoints, dtype=np.float64)
    clipped[..., 2] = clipped[..., 2].clip(0.0, 1.0)
    return clipped


def clipped_score(score: float) -> float:
    """Return a person's score clipped to 0..1, with four decimals."""
    return round(min(max(score, 0.0), 1.0), 4)
