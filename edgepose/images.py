"""Reading pictures: RGB uint8 arrays, damaged files refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Read an image file.

    Returns:
        (H, W, 3) uint8 RGB; the EXIF orientation is applied.

    Raises:
        UsageError: the file is missing, not an image, or cut short.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read image {path}: {error.strerror}") from error
    # OpenCV decodes a JPEG that was cut after its header into a full-size grey picture; the end marker tells.
    if data[:2] == b"\xff\xd8" and not _jpeg_ends(data):
        raise UsageError(f"image {path} is truncated (a JPEG without its end marker): copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:  # a header that announces more pixels than OpenCV takes
        raise UsageError(f"image {path} cannot be decoded: {error.err or error}") from error
    if image is None:
        raise UsageError(
            f"{path} is not an image that OpenCV can decode ({len(data)} bytes), or was cut short: copy it again"
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG's own end marker is there: not that of a thumbnail before it, and whatever a camera appended."""
    position = 2
    while (marker := data[position : position + 2]) not in (b"\xff\xda", b""):  # where the scan begins
        filling = marker[0] != 0xFF or marker == b"\xff\xff"
        position += 1 if filling else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return b"\xff\xd9" in data[position:]
