"""Prevent image and video libraries from printing to stderr, without redirecting it.

FFmpeg and OpenCV have log levels. libpng and libjpeg always print to file descriptor 2, so damaged files are detected
before decoding. A line is still printed for a JPEG with damaged pixels, which is decoded nevertheless ("Corrupt JPEG
data"), and for a PNG from a faulty encoder.
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
    """Silence the logs of FFmpeg and OpenCV in this process, unless the user has set their levels.

    Call it before OpenCV opens its first video: FFmpeg's variable is read then.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def find_damage(data: bytes) -> str | None:
    """Return what is wrong with the structure of a JPEG, PNG or BMP file, or None.

    OpenCV decodes a JPEG that ends after its header into a grey picture of full size, and prints a line for the others.
    """
    for begin, find in ((b"\xff\xd8", _jpeg_damage), (_PNG, _png_damage), (b"BM", _bmp_damage)):
        if data.startswith(begin):
            return find(data)
    return None


def decodable(data: bytes) -> bytes:
    """Return the bytes of a picture file for OpenCV: a PNG without its texts and colour profiles.

    These do not change a pixel, and libpng prints warnings about the profiles of many correct files.
    """
    if data[:8] != _PNG:
        return data
    return _PNG + b"".join(data[start:end] for kind, start, end in _png_chunks(data) if _matters(kind))


def _matters(kind: bytes) -> bool:
    return kind[:1].isupper() or kind in _KEPT_CHUNKS  # a capital letter marks a chunk that every reader must support


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk up to the end marker; in a truncated file the last end is beyond it."""
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
    """Search a JPEG's own end marker after that of a thumbnail; a camera may have appended other data."""
    position = 2
    while (marker := data[position : position + 2]) not in (b"\xff\xda", b""):  # the start of the scan
        filling = marker[0] != 0xFF or marker == b"\xff\xff"
        position += 1 if filling else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    whole = data.rfind(b"\xff\xd9", position) >= 0  # from the end, where a complete file has it
    return None if whole else "truncated (a JPEG without its end marker)"


def _bmp_damage(data: bytes) -> str | None:
    """Compare the size with the header's, except for compressed pixels, which may take fewer bytes."""
    offset, header = int.from_bytes(data[10:14], "little"), int.from_bytes(data[14:18], "little")
    if header < 40:
        return None
    width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
    bits, compression = int.from_bytes(data[28:30], "little"), int.from_bytes(data[30:34], "little")
    row = (abs(width) * bits + 31) // 32 * 4
    short = compression in (0, 3) and len(data) < offset + row * abs(height)
    return "truncated (a BMP with fewer pixels than its header announces)" if short else None
