"""What the sinks of text share."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ...core.files import check_writable, open_text


class TextFile:
    """Text that gets its name in ``close``, and only if something was appended: an older file is kept otherwise.

    Args:
        path: the file; a device, a pipe or ``-`` for standard output gets each line at once.
        header: comes before the first text.
        footer: comes after the last one.

    Raises:
        UsageError: the place cannot be written to.
    """

    def __init__(self, path: Path, header: str = "", footer: str = "") -> None:
        check_writable(path)
        self._path, self._header, self._footer = path, header, footer
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def append(self, text: str) -> None:
        """Add text; if that fails, the file is given up.

        Raises:
            UsageError: it cannot be written, such as on a full disk.
        """
        with self._stack.pop_all() as stack:
            if self._file is None:
                self._file = stack.enter_context(open_text(self._path))
                self._file.write(self._header)
            self._file.write(text)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            UsageError: it cannot be written to its end.
        """
        with self._stack.pop_all():
            if self._file is not None and not self._file.closed:
                self._file.write(self._footer)


def rounded(values: NDArray[np.floating]) -> list[Any]:
    """Return numbers as nested lists; a thousandth of a pixel is far below any network's error, and halves the file."""
    return np.asarray(values, dtype=np.float64).round(3).tolist()


def clipped_scores(keypoints: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return keypoints (..., 3) with scores from 0 to 1, as readers expect: a heat-map's maximum may lie above."""
    clipped = np.array(keypoints, dtype=np.float64)
    clipped[..., 2] = clipped[..., 2].clip(0.0, 1.0)
    return clipped


def clipped_score(score: float) -> float:
    """Return a person's score from 0 to 1, with four decimals."""
    return round(min(max(score, 0.0), 1.0), 4)
