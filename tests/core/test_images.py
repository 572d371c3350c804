"""Pictures come as RGB uint8, damaged ones not at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.images import contact_sheet, read_image, write_image

HEIGHT, WIDTH = 60, 40


def picture() -> np.ndarray:
    """RGB: noise with a red top left corner and a blue bottom right one."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[:16, :16] = (255, 0, 0)
    image[-16:, -16:] = (0, 0, 255)
    return image


def encode(image: np.ndarray, suffix: str) -> bytes:
    """A file's bytes of an RGB, RGBA or grey picture."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, image)[1].tobytes()


def read(folder: Path, data: bytes, suffix: str) -> np.ndarray:
    (folder / f"x{suffix}").write_bytes(data)
    return read_image(folder / f"x{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_files_read_as_rgb(tmp_path: Path, suffix: str) -> None:
    image = read(tmp_path, encode(picture(), suffix), suffix)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_files_keep_their_colours_in_place(tmp_path: Path, suffix: str) -> None:
    image = read(tmp_path, encode(picture(), suffix), suffix)
    assert image.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(image[2:6, 2:6], np.broadcast_to((255, 0, 0), (4, 4, 3)), atol=12)
    np.testing.assert_allclose(image[-6:-2, -6:-2], np.broadcast_to((0, 0, 255), (4, 4, 3)), atol=12)


def test_every_depth_and_number_of_channels_becomes_rgb_uint8(tmp_path: Path) -> None:
    image, grey = picture(), picture()[..., 1]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    deep = encode(image.astype(np.uint16) * 257, ".png")
    cases = {
        "16-bit colour": (deep, image),
        "grey": (encode(grey, ".png"), as_rgb),
        "16-bit grey": (encode(grey.astype(np.uint16) * 257, ".png"), as_rgb),
        "alpha is dropped": (encode(np.dstack([image, grey]), ".png"), image),
    }
    for name, (data, want) in cases.items():
        got = read(tmp_path, data, ".png")
        assert got.dtype == np.uint8, name
        np.testing.assert_array_equal(got, want, err_msg=name)


def with_exif(jpeg: bytes, orientation: int = 1, thumbnail: bytes = b"") -> bytes:
    """Insert an EXIF segment with an orientation, and a thumbnail as cameras put it there."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    payload = b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4) + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    plain = encode(picture(), ".jpg")
    upright = read(tmp_path, plain, ".jpg")
    turned = read(tmp_path, with_exif(plain, orientation=6), ".jpg")  # the camera was held turned: rotate clockwise
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, part: float) -> None:
    data = encode(picture(), suffix)
    with pytest.raises(UsageError, match="copy it again"):
        read(tmp_path, data[: int(part * len(data))], suffix)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture(tmp_path: Path) -> None:
    thumbnail = encode(picture()[:16, :16], ".jpg")
    assert thumbnail.endswith(b"\xff\xd9")
    whole = with_exif(encode(picture(), ".jpg"), thumbnail=thumbnail)
    assert read(tmp_path, whole, ".jpg").shape == (HEIGHT, WIDTH, 3)
    for length in range(len(thumbnail) + 40, len(whole), 97):  # also inside the header
        with pytest.raises(UsageError, match="truncated"):
            read(tmp_path, whole[:length], ".jpg")


def test_what_cameras_append_to_a_jpeg_is_no_damage(tmp_path: Path) -> None:
    plain = encode(picture(), ".jpg")
    filled = plain[:2] + b"\xff\xff" + plain[2:]  # fill bytes before a marker are allowed
    for data in (plain + bytes(10_000), filled):
        np.testing.assert_array_equal(read(tmp_path, data, ".jpg"), read(tmp_path, plain, ".jpg"))


@pytest.mark.parametrize("data", [b"", b"hello world", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError, match=r"x\.png"):
        read(tmp_path, data, ".png")


def test_a_header_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    with pytest.raises(UsageError, match=r"x\.png cannot be decoded"):
        read(tmp_path, data, ".png")


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read image .*none\.png: No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UsageError, match=r"cannot read image .*: Is a directory"):
        read_image(str(tmp_path))


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tiff"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"new/x{suffix}", picture())
    np.testing.assert_array_equal(read_image(tmp_path / f"new/x{suffix}"), picture())
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"x{suffix}"]  # no temporary file stays


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for name in ("x.gif", "x"):
        with pytest.raises(UsageError, match=r"cannot write picture .*/x.*: its name must end in one of \.jpg, "):
            write_image(tmp_path / name, picture())
    with pytest.raises(UsageError, match="OpenCV cannot encode"):
        write_image(tmp_path / "x.jpg", np.zeros((70_000, 1, 3), np.uint8))  # JPEG ends at 65,500 pixels
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        write_image(tmp_path / "folder.png", picture())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_tiles_lie_in_rows_on_white() -> None:
    sheet = contact_sheet([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)], columns=2, gap=1)
    rows = [[10, 10, 10, 255, 20, 20, 20]] * 2 + [[255] * 7] + [[30, 30, 30, 255, 255, 255, 255]] * 2
    np.testing.assert_array_equal(sheet, np.repeat(np.array(rows)[..., None], 3, axis=2))
