"""Read and write picture files as RGB uint8 arrays, and fit pictures into a size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .codecs import decodable, find_damage
from .errors import UsageError
from .files import atomic_path
from .geometry import Size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB in its EXIF orientation; raise UsageError if it is missing or damaged."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read image {path}: {error.strerror}") from error
    damage = find_damage(data)
    if damage is not None:
        raise UsageError(f"image {path} is {damage}: copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(decodable(data), np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:  # more pixels than OpenCV accepts
        raise UsageError(f"image {path} cannot be decoded: {error.err or error}") from error
    if image is None:
        raise UsageError(
            f"{path} is not an image that OpenCV can decode ({len(data)} bytes), or was cut short: copy it again"
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def check_image_name(path: Path) -> None:
    """Raise UsageError if the suffix of a picture file to write is not in :data:`IMAGE_SUFFIXES`."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UsageError(f"cannot write picture {path}: its name must end in one of {', '.join(IMAGE_SUFFIXES)}")


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a picture (H, W, 3) uint8 RGB in the format of the suffix; raise UsageError if that fails."""
    check_image_name(path)
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:  # OpenCV 4 raises where 5 returns False
        encoded = False
    if not encoded:
        suffix = path.suffix.lower()
        raise UsageError(
            f"cannot write picture {path}: OpenCV cannot encode an image of shape {image.shape} as {suffix}: "
            "use a name ending in .png"
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def contact_sheet(tiles: Sequence[NDArray[np.uint8]], columns: int, gap: int = 0) -> NDArray[np.uint8]:
    """Return pictures of one size (h, w, 3) uint8 in rows of ``columns`` on white, ``gap`` pixels apart.

    >>> contact_sheet([np.zeros((2, 3, 3), np.uint8)] * 5, columns=2, gap=1).shape
    (8, 7, 3)
    """
    height, width = tiles[0].shape[:2]
    rows, columns = -(-len(tiles) // columns), min(len(tiles), columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def fitted_size(source: Size, size: Size) -> Size:
    """Return the largest (height, width) with the aspect ratio of ``source`` that fits into ``size``.

    >>> fitted_size((720, 1280), (416, 416))
    (234, 416)
    """
    scale = min(size[0] / source[0], size[1] / source[1])
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def letterbox(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) uint8 scaled (bilinear) into the top left of ``size`` (height, width), on grey 114."""
    height, width = fitted_size(image.shape[:2], size)
    canvas = np.full((*size, 3), 114, dtype=np.uint8)
    canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return canvas


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise UsageError unless a picture is (H, W, 3) uint8 and not empty."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(f"image is {got}, expected a uint8 array (height, width, 3) in RGB")
    if image.size == 0:
        raise UsageError(f"image is empty: its shape is {image.shape}")
