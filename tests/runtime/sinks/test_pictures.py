"""Pictures, read back, and what the name of an output stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.images import read_image, write_image
from edgepose.runtime.sinks import ImageFolderSink, PictureSink, VideoSink, open_picture_sink

from .jobs import FakeSource, job

VIDEO = FakeSource(10.0, inputs=[Path("in.mp4")])
PICTURE = FakeSource(inputs=[Path("in.JPG")])


def test_pictures_are_named_after_their_frames(tmp_path: Path) -> None:
    sink = open_picture_sink(tmp_path / "out", VIDEO)
    assert isinstance(sink, ImageFolderSink)
    sink.write(job(0, 40, "a.png"))
    assert (tmp_path / "out" / "a.jpg").is_file()  # each at once
    sink.write(job(1, 80, "a.jpg"))
    sink.write(job(2, 120, "clip_000002"))
    sink.write(job(2, 160, "clip_000002", camera="back"))
    sink.write(job(2, 200, "clip_000002", camera="left"))
    sink.close()
    pictures = {p.name: round(float(read_image(p).mean())) for p in (tmp_path / "out").iterdir()}
    assert pictures == {
        "a.jpg": 40,
        "a_000001.jpg": 80,
        "clip_000002.jpg": 120,
        "clip_000002_000002.jpg": 160,
        "clip_000002_000002_2.jpg": 200,
    }


def test_a_link_in_the_folder_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "input.jpg", np.full((8, 8, 3), 90, np.uint8))
    (tmp_path / "out" / "a.jpg").symlink_to(tmp_path / "input.jpg")
    sink = ImageFolderSink(tmp_path / "out")
    sink.write(job(0, 40, "a.png"))
    sink.close()
    assert read_image(tmp_path / "input.jpg").mean() == pytest.approx(90, abs=1)
    assert read_image(tmp_path / "out" / "a.jpg").mean() == pytest.approx(40, abs=1)


@pytest.mark.parametrize("name", ["new.png", "new.JPG"])
def test_a_single_picture_is_saved_as_one(tmp_path: Path, name: str) -> None:
    sink = open_picture_sink(tmp_path / "new" / name, PICTURE)
    assert isinstance(sink, PictureSink)
    assert list(tmp_path.iterdir()) == []
    sink.write(job(0, 40))
    sink.close()
    assert read_image(tmp_path / "new" / name).mean() == pytest.approx(40, abs=1)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize(
    "source", [VIDEO, FakeSource(), FakeSource(live=True), FakeSource(inputs=[Path("a.png"), Path("b.png")])]
)
def test_a_picture_file_for_several_frames_is_refused(tmp_path: Path, source: FakeSource) -> None:
    with pytest.raises(UsageError, match=r"cannot write picture .*x\.jpg: the source may have several frames: name a "):
        open_picture_sink(tmp_path / "x.jpg", source)


@pytest.mark.parametrize("name", ["out", "out.v2", "2024.11.28", "there.mp4", "new.mp4/", "new.gif/", "there.png"])
def test_folders_may_have_dots(tmp_path: Path, name: str) -> None:
    for there in ("there.mp4", "there.png"):
        (tmp_path / there).mkdir()
    sink = open_picture_sink(f"{tmp_path}/{name}", PICTURE)
    assert isinstance(sink, ImageFolderSink)
    sink.write(job(0))
    assert (tmp_path / name / "a.jpg").is_file()


@pytest.mark.parametrize("name", ["x.mp4", "x.MKV", "x.mov", "x.avi"])
def test_videos_are_known_by_their_suffix(tmp_path: Path, name: str) -> None:
    assert isinstance(open_picture_sink(tmp_path / name, PICTURE), VideoSink)


@pytest.mark.parametrize("name", ["out.gif", "out.webm", "out.svg"])
def test_other_kinds_of_pictures_and_videos_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UsageError, match=rf"{name}: expected a video \(\.mp4, .*\), a picture \(\.jpg, .*\) or a folder"
    ):
        open_picture_sink(tmp_path / name, VIDEO)


def test_standard_output_is_no_place_for_a_video() -> None:
    with pytest.raises(UsageError, match="cannot write a video to standard output: name a video or a folder"):
        open_picture_sink("-", VIDEO)


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="output for pictures is empty: name a video, a picture or a folder"):
        open_picture_sink("", VIDEO)


def test_pictures_that_cannot_be_encoded_are_one_sentence(tmp_path: Path) -> None:
    sink = ImageFolderSink(tmp_path)
    with pytest.raises(UsageError, match=r"OpenCV cannot encode an image of shape \(70000, 1, 3\) as \.jpg"):
        sink.write(job(0, size=(70_000, 1)))


@pytest.mark.parametrize("name", ["file/out", "file/out.mp4", "file/out.png", "file"])
def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*file.*: Not a directory"):
        open_picture_sink(tmp_path / name, PICTURE)
