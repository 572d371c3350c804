"""Sources by value, and what damaged, missing and unsupported ones answer."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.runtime.sources import LiveSource, open_source


def write_png(path: Path, rgb: tuple[int, int, int], size: tuple[int, int] = (6, 8)) -> Path:
    picture = np.full((*size, 3), rgb, np.uint8)
    cv2.imwrite(str(path), picture[..., ::-1])
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def read_until_error(spec: str) -> tuple[int, str]:
    """Frames before the error, and the error."""
    count = 0
    with open_source(spec) as source, pytest.raises(UsageError) as error:
        for _ in source:
            count += 1
    return count, str(error.value)


def test_image_is_one_rgb_frame(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", (10, 20, 30))
    with open_source(str(path)) as source:
        (frame,) = source
    assert (frame.index, frame.time, frame.name) == (0, 0.0, "a.png")
    assert (frame.camera, source.camera, frame.follows) == (str(path), str(path), False)
    assert frame.image.shape == (6, 8, 3)
    assert frame.image[0, 0].tolist() == [10, 20, 30]
    assert (source.live, source.fps, list(source.inputs)) == (False, None, [path])


@pytest.mark.parametrize("pattern", ["", "/*.png", "/**/*.png"])
def test_folder_and_globs_are_sorted_and_skip_damaged_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pattern: str
) -> None:
    for name, red in (("b.png", 2), ("a.png", 1), ("d.png", 4)):
        write_png(tmp_path / name, (red, 0, 0))
    cut(write_png(tmp_path / "c.png", (3, 0, 0)), 0.5)
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_source(str(tmp_path) + pattern) as source, caplog.at_level(logging.WARNING):
        frames = list(source)
    assert [(f.index, f.name, int(f.image[0, 0, 0])) for f in frames] == [
        (0, "a.png", 1),
        (1, "b.png", 2),
        (3, "d.png", 4),  # its place in the listing, where c.png is the third
    ]
    assert {(f.camera, f.follows) for f in frames} == {(str(tmp_path) + pattern, False)}
    assert source.skipped == 1
    assert len(caplog.messages) == 1
    assert "c.png" in caplog.messages[0]


def test_folder_without_one_good_image_is_refused(tmp_path: Path) -> None:
    cut(write_png(tmp_path / "a.png", (1, 2, 3)), 0.5)
    assert read_until_error(str(tmp_path)) == (
        0,
        f"none of the 1 files of {str(tmp_path)!r} is an image that can be decoded",
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing.jpg", "does not exist: expected an image, a folder"),
        ("*.nothing", "holds no images"),
        (".", "holds no images: expected files ending in .jpg"),
        ("gst:videotestsrc ! appsink", "GStreamer sources are not supported yet"),
        ("ftp://host/a.mp4", "unknown scheme"),
        ("", "the source is empty: expected an image, a folder"),
        ("99", "camera 99 cannot be opened"),
        ("99999999999999999999", "does not exist"),
        ("a" * 5000, "File name too long"),
        ("a\0b", "does not exist"),
        ("rtsp://127.0.0.1:1/nothing", "stream rtsp://127.0.0.1:1/nothing cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        open_source(spec)


def refusal() -> PermissionError:
    return PermissionError(13, "Permission denied")


@pytest.mark.parametrize("call", ["is_dir", "iterdir"])
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def denied(_: Path) -> None:
        raise refusal()

    monkeypatch.setattr(Path, call, denied)
    with pytest.raises(UsageError) as error:
        open_source(str(tmp_path))
    assert str(error.value) == f"cannot read source {str(tmp_path)!r}: Permission denied"


@pytest.mark.parametrize(
    ("name", "call", "sentence"),
    [
        ("a.mp4", "open", "cannot read source '{}': Permission denied"),
        ("a.png", "read_bytes", "cannot read image {}: Permission denied"),
    ],
)
def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str, sentence: str
) -> None:
    def denied(*_: object) -> None:
        raise refusal()

    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(Path, call, denied)
    with pytest.raises(UsageError) as error:
        open_source(str(tmp_path / name))
    assert str(error.value) == sentence.format(tmp_path / name)


def test_a_streams_password_is_not_told() -> None:
    with pytest.raises(UsageError) as error:
        open_source("rtsp://admin:s3cret@127.0.0.1:1/x")
    assert str(error.value).startswith("stream rtsp://127.0.0.1:1/x cannot be opened")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"", "not an image"),
        ("a.png", b"garbage", "not an image"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(100), "truncated"),
        ("a.mp4", b"", "not an image or video"),
        ("a.mp4", bytes(range(256)) * 40, "not an image or video"),
        ("a.xyz", b"garbage", "not an image or video"),
    ],
)
def test_damaged_files_alone_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_video_values_times_and_names(tmp_path: Path, make_video, suffix: str) -> None:
    path = make_video(tmp_path / f"7{suffix}", frames=5, fps=10)
    with open_source(str(path)) as source:
        frames = list(source)
    assert source.fps == pytest.approx(10)
    assert [f.index for f in frames] == [0, 1, 2, 3, 4]
    assert [f.time for f in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    assert [f.name for f in frames] == [f"7_{i:06d}" for i in range(5)]
    assert [(f.camera, f.follows) for f in frames] == [(str(path), i > 0) for i in range(5)]
    assert [float(f.image.mean()) for f in frames] == pytest.approx([0, 20, 40, 60, 80], abs=3)


def test_video_cut_in_its_index_is_refused(tmp_path: Path, make_video) -> None:
    path = cut(make_video(tmp_path / "a.mp4"), 0.8)  # the index is at the end
    with pytest.raises(UsageError, match="was cut short: copy it again"):
        open_source(str(path))


def test_video_cut_in_its_data_gives_what_it_has_then_says_so(tmp_path: Path, make_video) -> None:
    path = cut(make_video(tmp_path / "a.avi", frames=40), 0.5)
    count, message = read_until_error(str(path))
    assert 5 < count < 35
    assert f"{count} of " in message


def test_cut_mp4_with_its_index_in_front(tmp_path: Path, shared: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes((shared / "data/videos/juggle.mp4").read_bytes()[:400_000])
    count, message = read_until_error(str(path))
    assert count == 10
    assert message == f"video {path} is cut short: 10 of 247 frames could be read: copy it again"


def test_clip_trimmed_by_an_edit_list_is_whole(tmp_path: Path, shared: Path) -> None:
    """Its index announces 247 frames; the two seconds that the edit list hides are not damage."""
    data = bytearray((shared / "data/videos/juggle.mp4").read_bytes())
    edits = data.index(b"elst")
    for offset, change in ((12, -2 * 1000), (16, 2 * 12288)):  # duration at 1 kHz, start at 12288 Hz
        place = slice(edits + offset, edits + offset + 4)
        data[place] = (int.from_bytes(data[place], "big") + change).to_bytes(4, "big")
    (tmp_path / "trimmed.mp4").write_bytes(data)
    with open_source(str(tmp_path / "trimmed.mp4")) as source:
        assert sum(1 for _ in source) == 247 - 2 * 24


def test_codecs_keep_quiet(tmp_path: Path, make_video) -> None:
    """In a process of its own: the messages bypass Python, and FFmpeg reads its level only once."""
    cut(make_video(tmp_path / "index.mp4"), 0.8)
    cut(make_video(tmp_path / "data.avi", frames=40), 0.5)
    cut(write_png(tmp_path / "cut.png", (1, 2, 3)), 0.6)
    cv2.imwrite(str(tmp_path / "cut.tif"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    cut(tmp_path / "cut.tif", 0.6)
    specs = [str(tmp_path / name) for name in ("index.mp4", "data.avi", "cut.png", "cut.tif")]
    specs += ["99", "rtsp://127.0.0.1:1/x"]
    ours = (
        "import sys\nfrom edgepose.core.errors import UsageError\nfrom edgepose.runtime.sources import open_source\n"
        "for spec in sys.argv[1:]:\n"
        "    try:\n        list(open_source(spec))\n"
        "    except UsageError as error:\n        print(error)\n"
        "print('end', file=sys.stderr)\n"
    )
    plain = "import sys, cv2\nfor p in sys.argv[1:]:\n    cv2.VideoCapture(p).read()\n    cv2.imread(p)\n"
    # This process has set the levels already; the children start without.
    env = {key: value for key, value in os.environ.items() if not key.startswith("OPENCV_")}
    loud, quiet = (
        subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=env, check=True)
        for code, args in ((plain, specs[:4]), (ours, specs))
    )
    assert "[mov,mp4" in loud.stderr  # these files do make FFmpeg talk
    assert quiet.stderr == "end\n"
    assert len(quiet.stdout.splitlines()) == 6


class FakeCamera:
    """Frame i is grey i, one every 5 ms; stops after 40."""

    def __init__(self) -> None:
        self.count = 0
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV names it so)
        return True

    def get(self, _: int) -> float:
        return 90000.0  # what some RTSP cameras answer for fps

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        self.count += 1
        return (True, np.full((4, 4, 3), self.count - 1, np.uint8)) if self.count <= 40 else (False, None)

    def release(self) -> None:
        self.released = True


def test_live_source_gives_the_newest_frame_and_counts_what_it_dropped() -> None:
    camera = FakeCamera()
    frames, ages = [], []
    opened = time.monotonic()
    with (
        LiveSource(camera, "camera 0") as source,
        pytest.raises(UsageError, match=r"camera 0 stopped after \d+ frames"),
    ):
        for frame in source:
            ages.append(time.monotonic() - opened - frame.time)
            frames.append(frame)
            time.sleep(0.03)
    assert source.live
    assert source.fps is None
    assert {f.camera for f in frames} == {source.camera} == {"camera 0"}
    assert [f.follows for f in frames] == [f.index > 0 for f in frames]
    assert camera.released
    indices = [f.index for f in frames]
    assert indices == sorted(set(indices))
    assert len(frames) < 25  # of 40: a consumer six times slower misses most
    assert [int(f.image[0, 0, 0]) for f in frames] == indices
    assert np.median(ages) < 0.03  # never a frame from before the last one was done


def test_live_source_that_is_closed_early_frees_the_camera() -> None:
    camera = FakeCamera()
    with LiveSource(camera, "camera 0") as source:
        next(iter(source))
    assert camera.released
    assert camera.count < 40


class StillCamera(FakeCamera):
    """Gives one frame and then waits until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.count:
            self.end.wait()
            return False, None
        return super().read()


def test_who_waits_for_a_live_source_is_woken_by_its_stop() -> None:
    camera = StillCamera()
    source = LiveSource(camera, "camera 0")
    frames: list[int] = []
    waiting = threading.Thread(target=lambda: frames.extend(f.index for f in source))
    waiting.start()
    while not frames and waiting.is_alive():
        time.sleep(0.001)
    source.stop()
    waiting.join(10)
    assert not waiting.is_alive()
    camera.end.set()
    source.close()
    assert frames == [0]
    assert camera.released
