"""Videos, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.runtime.job import Frame, Job
from edgepose.runtime.sinks import VIDEO_SUFFIXES, VideoSink, open_picture_sink
from edgepose.runtime.sinks.pictures import fit_centred
from edgepose.runtime.sources import open_source

from .jobs import FakeSource, job


def test_video_of_frames_of_several_sizes(tmp_path: Path) -> None:
    sink = open_picture_sink(tmp_path / "out.mp4", FakeSource(12.5))
    sink.write(job(0, 50))
    sink.write(job(1, 150))
    sink.write(job(2, 200, size=(48, 32)))
    assert not (tmp_path / "out.mp4").exists()
    sink.close()
    with open_source(str(tmp_path / "out.mp4")) as source:
        one, two, three = (f.image for f in source)
    assert source.fps == 12.5
    assert one.shape == (48, 64, 3)
    assert [float(one.mean()), float(two.mean())] == pytest.approx([50, 150], abs=5)
    assert float(three[:, 18:46].mean()) == pytest.approx(200, abs=4)
    assert float(three[:, :12].mean()) == pytest.approx(0, abs=4)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(
    ("live", "greys"),
    [
        # Ten frames a second: the first picture fills 0.0 to 0.3, the second 0.3 to 0.5. The third comes within the
        # fourth's place and is left out; the fourth stands still for 5 seconds, the longest.
        (True, [50] * 3 + [90] * 2 + [170] * 50 + [210]),
        (False, [50, 90, 130, 170, 210]),
    ],
)
def test_video_of_a_live_source_keeps_the_time(tmp_path: Path, live: bool, greys: list[int]) -> None:
    sink = open_picture_sink(tmp_path / "out.mp4", FakeSource(10, live))
    for grey, seconds in ((50, 7.0), (90, 7.31), (130, 7.49), (170, 7.51), (210, 100.0)):
        sink.write(job(0, grey, seconds=seconds))
    sink.close()
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert [float(f.image.mean()) for f in source] == pytest.approx(greys, abs=5)


def test_a_clock_that_does_not_fit_the_frames_loses_nothing(tmp_path: Path) -> None:
    """7.5 pictures a second in a video of 10: 30 pictures, the last for one place, are 29 / 7.5 s and 0.1 s."""
    sink = VideoSink(tmp_path / "out.mp4", 10, live=True)
    for i in range(30):
        sink.write(job(i, seconds=i / 7.5))
    sink.close()
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert sum(1 for _ in source) == round(29 / 7.5 * 10) + 1


def test_video_colours_are_rgb(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", 10)
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    sink.write(Job(Frame("", 0, 0.0, "a", red)))
    sink.close()
    with open_source(str(tmp_path / "out.mp4")) as source:
        (read,) = source
    np.testing.assert_allclose(read.image.mean(axis=(0, 1)), [200, 0, 0], atol=6)


def test_fit_centred() -> None:
    white = np.full((10, 10, 3), 255, np.uint8)
    fitted = fit_centred(white, (20, 40))
    assert (fitted[:, 10:30] == 255).all()
    assert not fitted[:, :10].any()
    assert not fitted[:, 30:].any()
    assert fit_centred(white, (10, 10)) is white


def test_without_a_frame_no_file_is_made(tmp_path: Path) -> None:
    VideoSink(tmp_path / "c.mp4", 10).close()
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*file/out: Not a directory"):
        VideoSink(tmp_path / "file" / "out", 10)


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
@pytest.mark.parametrize("count", [1, 2, 60])
def test_every_container_holds_all_frames(tmp_path: Path, suffix: str, count: int) -> None:
    """None of them is taken for one that was cut short."""
    sink = VideoSink(tmp_path / f"out{suffix}", 30_000 / 1001)
    for i in range(count):
        sink.write(job(i, i))
    sink.close()
    with open_source(str(tmp_path / f"out{suffix}")) as source:
        assert sum(1 for _ in source) == count


def test_a_link_to_a_video_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to("other")
    sink = VideoSink(tmp_path / "link.mp4", 10)
    sink.write(job(0, 50))
    sink.close()
    assert (tmp_path / "link.mp4").is_symlink()
    assert int(cv2.VideoCapture(str(tmp_path / "other")).get(cv2.CAP_PROP_FRAME_COUNT)) == 1


def test_what_opencv_did_not_write_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV 4 answers None whether a frame was written or not."""

    class Forgetful:
        def __init__(self, path: str, *options: Any) -> None:
            self._writer, self._left = cv2_writer(path, *options), 3

        def write(self, image: np.ndarray) -> None:
            self._left -= 1
            if self._left >= 0:
                self._writer.write(image)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._writer, name)

    cv2_writer = cv2.VideoWriter
    monkeypatch.setattr("edgepose.runtime.sinks.pictures.cv2.VideoWriter", Forgetful)
    monkeypatch.setattr(Forgetful, "fourcc", cv2_writer.fourcc, raising=False)
    (tmp_path / "out.mp4").write_text("older")
    sink = VideoSink(tmp_path / "out.mp4", 10)
    for i in range(6):
        sink.write(job(i))
    with pytest.raises(UsageError, match=r"cannot write .*out\.mp4 to its end: free some space on the disk"):
        sink.close()
    sink.close()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"out.mp4": "older"}


def test_sizes_that_cannot_be_encoded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.mp4").write_text("older")
    sink = VideoSink(tmp_path / "out.mp4", 10)
    with pytest.raises(UsageError, match=r"cannot encode .* \(1x1\)"):
        sink.write(job(0, size=(1, 1)))
    sink.close()
    assert capfd.readouterr().err == ""
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"out.mp4": "older"}
