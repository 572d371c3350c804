"""Reading and writing pictures: RGB uint8 arrays, damaged files refused."""

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
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:]:
        raise UsageError(f"image {path} is truncated (a JPEG without its end marker): copy it again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise UsageError(f"{path} is not an image that OpenCV can decode ({len(data)} bytes)")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
