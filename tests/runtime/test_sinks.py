"""What is written, read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.images import read_image
from edgepose.core.pose import Pose
from edgepose.runtime.sinks import CocoSink, ImageFolderSink, JsonLinesSink, VideoSink, fit_centred, open_picture_sink
from edgepose.runtime.sources import Frame, open_source

KEYPOINTS = np.array([[10.12345, 20, 0.9], [30, 40.5, 0.7]], np.float32)
POSE = Pose(KEYPOINTS, 0.8, np.array([5.0, 6, 45, 66]), 3)


def frame(index: int, grey: int = 0, name: str = "a.png", size: tuple[int, int] = (48, 64)) -> Frame:
    return Frame(index, index / 10, np.full((*size, 3), grey, np.uint8), name)


def test_json_lines(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "new" / "out.jsonl")
    sink.write(frame(0), [POSE])
    sink.write(frame(1), [])
    assert not (tmp_path / "new" / "out.jsonl").exists()  # not before it is whole
    sink.close()
    first, second = (json.loads(line) for line in (tmp_path / "new" / "out.jsonl").read_text().splitlines())
    assert first == {
        "frame": 0,
        "name": "a.png",
        "time": 0.0,
        "people": [{"id": 3, "box": [5, 6, 45, 66], "score": 0.8, "keypoints": [[10.123, 20, 0.9], [30, 40.5, 0.7]]}],
    }
    assert second == {"frame": 1, "name": "a.png", "time": 0.1, "people": []}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize(
    ("inputs", "name", "image_id"),
    [
        (["000000000139.jpg", "7.jpg"], "000000000139.jpg", 139),
        (["photo.jpg"], "photo.jpg", 7),
        (["139.jpg", "photo.jpg"], "139.jpg", 7),  # the 140th file of the folder may be the one without a number
        (["139.jpg", "0139.png"], "139.jpg", 7),
        (["a/139.jpg", "b/139.jpg"], "139.jpg", 7),
        (["0001.mp4"], "0001_000007", 7),
        ([], "live_000007", 7),
    ],
)
def test_coco_results(tmp_path: Path, inputs: list[str], name: str, image_id: int) -> None:
    sink = CocoSink(tmp_path / "out.json", [Path(file) for file in inputs])
    sink.write(frame(7, name=name), [POSE, POSE])
    sink.close()
    results = json.loads((tmp_path / "out.json").read_text())
    assert len(results) == 2
    assert results[0] == {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": [10.123, 20, 0.9, 30, 40.5, 0.7],
        "score": 0.8,
        "bbox": [5, 6, 40, 60],
    }


def test_coco_results_of_nobody(tmp_path: Path) -> None:
    sink = CocoSink(tmp_path / "out.json", [])
    sink.write(frame(0), [])
    sink.close()
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_video_of_frames_of_several_sizes(tmp_path: Path) -> None:
    sink = open_picture_sink(tmp_path / "out.mp4", 12.5)
    sink.write(frame(0, 50), [])
    sink.write(frame(1, 150), [])
    sink.write(frame(2, 200, size=(48, 32)), [])
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
    sink = open_picture_sink(tmp_path / "out.mp4", 10, live)
    for grey, seconds in ((50, 7.0), (90, 7.31), (130, 7.49), (170, 7.51), (210, 100.0)):
        sink.write(Frame(0, seconds, np.full((48, 64, 3), grey, np.uint8), "a"), [])
    sink.close()
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert [float(f.image.mean()) for f in source] == pytest.approx(greys, abs=5)


def test_a_clock_that_does_not_fit_the_frames_loses_nothing(tmp_path: Path) -> None:
    """7.5 pictures a second in a video of 10: 30 pictures, the last for one place, are 29 / 7.5 s and 0.1 s."""
    sink = VideoSink(tmp_path / "out.mp4", 10, live=True)
    for i in range(30):
        sink.write(Frame(i, i / 7.5, np.zeros((48, 64, 3), np.uint8), "a"), [])
    sink.close()
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert sum(1 for _ in source) == round(29 / 7.5 * 10) + 1


def test_video_colours_are_rgb(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", 10)
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    sink.write(Frame(0, 0.0, red, "a"), [])
    sink.close()
    with open_source(str(tmp_path / "out.mp4")) as source:
        (read,) = source
    np.testing.assert_allclose(read.image.mean(axis=(0, 1)), [200, 0, 0], atol=6)


def test_pictures_are_named_after_their_frames(tmp_path: Path) -> None:
    sink = open_picture_sink(tmp_path / "out", 10)
    assert isinstance(sink, ImageFolderSink)
    sink.write(frame(0, 40, "a.png"), [])
    sink.write(frame(1, 80, "a.jpg"), [])
    sink.write(frame(2, 120, "clip_000002"), [])
    sink.close()
    pictures = {p.name: round(float(read_image(p).mean())) for p in (tmp_path / "out").iterdir()}
    assert pictures == {"a.jpg": 40, "a_000001.jpg": 80, "clip_000002.jpg": 120}


def test_fit_centred() -> None:
    white = np.full((10, 10, 3), 255, np.uint8)
    fitted = fit_centred(white, (20, 40))
    assert (fitted[:, 10:30] == 255).all()
    assert not fitted[:, :10].any()
    assert not fitted[:, 30:].any()
    assert fit_centred(white, (10, 10)) is white


def test_without_a_frame_an_older_file_stays(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.json"):
        (tmp_path / name).write_text("older")
    JsonLinesSink(tmp_path / "a.jsonl").close()
    CocoSink(tmp_path / "b.json", []).close()
    VideoSink(tmp_path / "c.mp4", 10).close()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.jsonl": "older", "b.json": "older"}


@pytest.mark.parametrize(
    "make", [JsonLinesSink, lambda path: CocoSink(path, []), lambda path: VideoSink(path, 10), ImageFolderSink]
)
def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path, make) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to folder"):
        make(tmp_path / "file" / "out")


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        JsonLinesSink(tmp_path)
    with pytest.raises(UsageError, match=r"out.gif: expected a video \(.mp4, "):
        open_picture_sink(tmp_path / "out.gif", 10)


def test_sizes_that_cannot_be_encoded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.mp4").write_text("older")
    sink = VideoSink(tmp_path / "out.mp4", 10)
    with pytest.raises(UsageError, match=r"cannot encode .* \(1x1\)"):
        sink.write(frame(0, size=(1, 1)), [])
    sink.close()
    assert capfd.readouterr().err == ""
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"out.mp4": "older"}
