"""Damage is found before OpenCV decodes, and the libraries keep quiet without touching the process's stderr."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.core.codecs import decodable, find_damage, silence_codecs
from edgepose.core.images import read_image

#: Smooth enough for every codec, and no two rows alike.
PICTURE = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (64, 48))


def encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, PICTURE)[1].tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_damage_is_found_wherever_a_file_is_cut(suffix: str) -> None:
    data = encoded(suffix)
    assert find_damage(data) is None
    assert find_damage(data + bytes(1000)) is None  # what a camera appended
    for length in (60, len(data) // 4, len(data) // 2, len(data) - 1):
        assert "truncated" in (find_damage(data[:length]) or ""), length


def test_one_wrong_bit_of_a_png_is_found() -> None:
    data = bytearray(encoded(".png"))
    for position in (18, data.index(b"IDAT") + 20, len(data) - 20):
        changed = bytearray(data)
        changed[position] ^= 4
        assert "checksum" in (find_damage(changed) or ""), position


def test_bmp_headers_without_a_size_of_pixels_are_left_to_opencv() -> None:
    data = bytearray(encoded(".bmp"))
    data[14:18] = (12).to_bytes(4, "little")  # the oldest header
    assert find_damage(bytes(data[:60])) is None
    data = bytearray(encoded(".bmp"))
    data[30:34] = (1).to_bytes(4, "little")  # run lengths
    assert find_damage(bytes(data[:60])) is None


def test_texts_and_profiles_leave_a_png_and_no_pixel_changes() -> None:
    plain, end = encoded(".png")[:-12], encoded(".png")[-12:]
    header, rest = plain[:33], plain[33:]
    profile = chunk(b"iCCP", b"photo\0\0" + zlib.compress(b"no profile"))
    orientation = chunk(b"eXIf", b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 1, 0, 0))
    data = header + profile + chunk(b"gAMA", bytes(4)) + orientation + rest + chunk(b"tEXt", b"a\0b") + end
    assert decodable(data) == header + orientation + rest + end
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(decodable(data), np.uint8), cv2.IMREAD_COLOR), PICTURE)
    assert decodable(encoded(".jpg")) == encoded(".jpg")


def test_transparent_colours_of_a_palette_stay_readable() -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"PLTE", bytes((1, 2, 3, 200, 100, 50)))
    data += chunk(b"tRNS", b"\0") + chunk(b"IDAT", zlib.compress(b"\0\0\1")) + chunk(b"IEND", b"")
    assert decodable(data) == data
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image.tolist() == [[[3, 2, 1], [50, 100, 200]]]


def test_the_user_s_own_levels_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "32")
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "ERROR")
    silence_codecs()
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "32"
    assert os.environ["OPENCV_LOG_LEVEL"] == "ERROR"


@pytest.mark.parametrize("version", [4, 5])
def test_the_level_is_set_in_opencv_4_and_5(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """4 has no ``cv2.utils.logging``, and 5 no ``cv2.setLogLevel``."""
    levels = []
    logging = type("logging", (), {"LOG_LEVEL_SILENT": 0, "setLogLevel": staticmethod(levels.append)})
    monkeypatch.delenv("OPENCV_LOG_LEVEL", raising=False)
    if version == 4:
        monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)
        monkeypatch.delattr(cv2.utils, "logging", raising=False)
    else:
        monkeypatch.delattr(cv2, "setLogLevel", raising=False)
        monkeypatch.setattr(cv2.utils, "logging", logging, raising=False)
    silence_codecs()
    assert levels == [0]


def test_damaged_pictures_print_nothing_and_no_line_of_another_thread_is_lost(tmp_path: Path) -> None:
    """In a process of its own: libraries print past Python's ``sys.stderr``."""
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff"):
        for share in (0.2, 0.6, 0.95):
            (tmp_path / f"cut{share}{suffix}").write_bytes(encoded(suffix)[: int(share * len(encoded(suffix)))])
    damaged = bytearray(encoded(".png"))
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "bit.png").write_bytes(damaged)
    profile = chunk(b"iCCP", b"photo\0\0" + zlib.compress(b"no profile"))
    (tmp_path / "profile.png").write_bytes(encoded(".png")[:33] + profile + encoded(".png")[33:])
    code = (
        "import os, sys, threading\n"
        "from pathlib import Path\n"
        "from edgepose.core.codecs import silence_codecs\n"
        "from edgepose.core.errors import UsageError\n"
        "from edgepose.core.images import read_image\n"
        "silence_codecs()\n"
        "def talk():\n    for i in range(20_000):\n        os.write(2, b'%d\\n' % i)\n"
        "thread = threading.Thread(target=talk)\nthread.start()\nrefused = 0\n"
        "while thread.is_alive():\n"
        "    for path in Path(sys.argv[1]).iterdir():\n"
        "        try:\n            read_image(path)\n"
        "        except UsageError:\n            refused += 1\n"
        "assert refused > 15\n"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("OPENCV_")}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, env=env, check=True)
    assert done.stderr.split() == [str(i) for i in range(20_000)]
    np.testing.assert_array_equal(read_image(tmp_path / "profile.png"), PICTURE[..., ::-1])
