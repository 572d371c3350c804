"""Keep image and video libraries off stderr, without touching the process's stderr.

FFmpeg and OpenCV have levels for what they log. libpng and libjpeg print to file descriptor 2 whatever one sets, so
damaged files are found before they are decoded. What still prints a line of its own: a JPEG whose compressed pixels
are damaged, which decodes all the same ("Corrupt JPEG data"), and a PNG whose encoder was wrong.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import cv2

_PNG = b"\x89PNG\r\n\x1a\n"
#: Ancillary chunks of a PNG that change the picture: transparency, orientation and animation.
_KEPT_CHUNKS = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")


def silence_codecs() -> None:
    """Keep the log lines of FFmpeg and OpenCV off stderr, for the whole process, unless the user set their levels.

    FFmpeg's variable is read when OpenCV opens its first video, so it works when set any time before.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def find_damage(data: bytes) -> str | None:
    """Return what is wrong with a picture file's structure, None if nothing is seen; JPEG, PNG and BMP are examined.

    OpenCV decodes a JPEG that was cut after its header into a full-size grey picture, and prints a line for the others.
    """
    for begin, find in ((b"\xff\xd8", _jpeg_damage), (_PNG, _png_damage), (b"BM", _bmp_damage)):
        if data.startswith(begin):
            return find(data)
    return None


def decodable(data: bytes) -> bytes:
    """Return a picture file as OpenCV should get it: a PNG without its texts and colour profiles.

    They do not change a pixel, and libpng prints warnings about the profiles of many a healthy file.
    """
    if data[:8] != _PNG:
        return data
    return _PNG + b"".join(data[start:end] for kind, start, end in _png_chunks(data) if _matters(kind))


def _matters(kind: bytes) -> bool:
    return kind[:1].isupper() or kind in _KEPT_CHUNKS  # a capital letter marks what every reader must know


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk up to the end marker; the last end may lie beyond a file cut short."""
    start, kind = len(_PNG), b""
    while start < len(data) and kind != b"IEND":
        kind, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield kind, start, end
        start = end


def _png_damage(data: bytes) -> str | None:
    kind = b""
    for kind, start, end in _png_chunks(data):
        if end > len(data):
            return "truncated (a PNG without its end marker)"
        checksum = int.from_bytes(data[end - 4 : end], "big")
        if _matters(kind) and zlib.crc32(data[start + 4 : end - 4]) != checksum:
            return f"damaged (the checksum of a PNG's part {kind.decode('latin-1')!a} is wrong)"
    return None if kind == b"IEND" else "truncated (a PNG without its end marker)"


def _jpeg_damage(data: bytes) -> str | None:
    """Look for a JPEG's own end marker: not that of a thumbnail before it, and whatever a camera appended."""
    position = 2
    while (marker := data[position : position + 2]) not in (b"\xff\xda", b""):  # where the scan begins
        filling = marker[0] != 0xFF or marker == b"\xff\xff"
        position += 1 if filling else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    whole = data.rfind(b"\xff\xd9", position) >= 0  # from the back, where it is in a whole file
    return None if whole else "truncated (a JPEG without its end marker)"


def _bmp_damage(data: bytes) -> str | None:
    """Compare the size with the header's; the pixels of compressed ones may take fewer bytes."""
    offset, header = int.from_bytes(data[10:14], "little"), int.from_bytes(data[14:18], "little")
    if header < 40:
        return None
    width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
    bits, compression = int.from_bytes(data[28:30], "little"), int.from_bytes(data[30:34], "little")
    row = (abs(width) * bits + 31) // 32 * 4
    short = compression in (0, 3) and len(data) < offset + row * abs(height)
    return "truncated (a BMP with fewer pixels than its header announces)" if short else None
