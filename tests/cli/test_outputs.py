"""Sources and outputs on the command line: every place is tried before the work, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.bundle.tasks import POSE
from edgepose.cli import main
from edgepose.core.codecs import silence_codecs

Refuse = Callable[..., str]


def write_video(path: Path, frames: int = 30) -> Path:
    silence_codecs()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (120, 90))
    for i in range(frames):
        writer.write(np.random.default_rng(i).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    writer.release()
    return path


def test_a_run_writes_what_it_is_asked_for(
    exported: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ["--save-video", "v.mp4", "--save-json", "p.jsonl"]
    paths = [str(tmp_path / text) if "." in text else text for text in outputs]
    assert main(["run", str(exported), "--source", str(picture), *paths]) == 0
    assert "1 frames, 1 people" in capsys.readouterr().out
    header, frame = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert (header["schema"], header["skeleton"], len(header["joints"])) == (1, "lsp14", 14)
    (person,) = frame["people"]
    assert np.shape(person["keypoints"]) == (14, 3)
    assert cv2.VideoCapture(str(tmp_path / "v.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 1


@pytest.mark.slow
def test_results_on_standard_output_stand_alone(
    exported: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("-", "/dev/stdout"):
        assert main(["run", str(exported), "--source", str(picture), "--save-json", name]) == 0
        said = capfd.readouterr()
        assert [json.loads(line).get("frame") for line in said.out.splitlines()] == [None, 0]
        assert "1 frames, 1 people" in said.err
    assert main(["bench", str(exported), "--backend", "onnxruntime", "--batch", "1", "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["rows"]
    assert list((tmp_path / "here").iterdir()) == []  # no plot beside a name that is none


def test_a_picture_is_saved_as_a_picture_or_into_a_folder(exported: Path, picture: Path, tmp_path: Path) -> None:
    for name in ("new.jpg", "a.b/", "new.mp4/"):
        assert main(["run", str(exported), "--source", str(picture), "--save-video", f"{tmp_path}/{name}"]) == 0
    size = cv2.imread(str(picture)).shape
    assert {cv2.imread(str(tmp_path / name)).shape for name in ("new.jpg", "a.b/a.jpg", "new.mp4/a.jpg")} == {size}


def test_coco_results_of_other_joints_are_refused(
    refuse: Refuse, exported: Path, picture: Path, tmp_path: Path
) -> None:
    said = refuse("run", exported, "--source", picture, "--save-coco", tmp_path / "c.json")
    assert "the network's skeleton is lsp14 with 14 joints, expected the joints of coco17" in said
    assert list(tmp_path.glob("*.json")) == []


def test_a_full_disk_is_one_sentence(refuse: Refuse, exported: Path, picture: Path) -> None:
    said = refuse("run", exported, "--source", picture, "--save-json", "/dev/full")
    assert "cannot write /dev/full: No space left on device" in said
    assert Path("/dev/full").is_char_device()


def test_sources_that_cannot_be_read_are_refused(refuse: Refuse, exported: Path, picture: Path, tmp_path: Path) -> None:
    whole = picture.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    jpeg = cv2.imencode(".jpg", cv2.imread(str(picture)))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "empty.jpg").touch()
    video = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(video[: len(video) // 2])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "nothing").mkdir()
    out = tmp_path / "x.jsonl"
    out.write_text("old")
    for name, message in {
        "none.jpg": "does not exist: expected an image, a folder",
        "none.mp4": "does not exist: expected an image, a folder",
        "cut.png": "cut.png is truncated (a PNG without its end marker): copy it again",
        "cut.jpg": "cut.jpg is truncated (a JPEG without its end marker): copy it again",
        "empty.jpg": "empty.jpg is not an image that OpenCV can decode (0 bytes)",
        "cut.mp4": "cut.mp4 is not an image or video that can be decoded, or was cut short: copy it again",
        "text.mp4": "text.mp4 is not an image or video that can be decoded",
        "nothing": "holds no images: expected files ending in .jpg",
        "*.gif": "holds no images",
    }.items():
        assert message in refuse("run", exported, "--source", tmp_path / name, "--save-json", out), name
        assert out.read_text() == "old", name
    for source, message in {
        "97": "camera 97 cannot be opened: check that it exists",
        "http://x/y.mp4": "has an unknown scheme",
        "gst:videotestsrc": "GStreamer sources are not supported yet",
    }.items():
        assert message in refuse("run", exported, "--source", source, "--save-json", out)
    assert out.read_text() == "old"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_detectors_that_are_none_are_refused(refuse: Refuse, exported: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes((exported / POSE.graph).read_bytes()[:20_000])
    for name, message in {
        tmp_path / "none.onnx": "none.onnx does not exist",
        tmp_path / "cut.onnx": "cut.onnx is not an ONNX graph that ONNX Runtime can load",
        exported / POSE.graph: "expected YOLOX: input float32 (1, 3, h, w)",
    }.items():
        assert message in refuse("run", exported, "--source", picture, "--detector", name)


def test_a_frame_without_a_person_is_an_empty_list(exported: Path, picture: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    cells = np.zeros((1, 8 * 8 + 4 * 4 + 2 * 2, 85), np.float32)
    constants = [onnx.numpy_helper.from_array(cells, "cells"), onnx.numpy_helper.from_array(np.float32(0), "zero")]
    nodes = [
        onnx.helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        onnx.helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        onnx.helper.make_node("Add", ["cells", "nothing"], ["output"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "blind", [tensor("images", kind, [1, 3, 64, 64])], [tensor("output", kind, cells.shape)], constants
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "blind.onnx")
    outputs = ["--save-json", tmp_path / "p.jsonl"]
    arguments = ["run", exported, "--source", picture, "--detector", tmp_path / "blind.onnx", *outputs]
    assert main([str(argument) for argument in arguments]) == 0
    line = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[1])
    assert (line["frame"], line["name"], line["time"], line["people"]) == (0, "a.png", 0.0, [])


def test_places_that_cannot_be_written_are_refused(
    refuse: Refuse, exported: Path, picture: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Tests may run as root, whom no permission stops; nobody can write below a file."""
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / "x"
    run = ("run", exported, "--source", picture)
    for arguments in (
        (*run, "--save-json", place.with_suffix(".jsonl")),
        (*run, "--save-video", place.with_suffix(".mp4")),
        (*run, "--save-video", place),
        (*run, "--save-coco", place.with_suffix(".json")),
        (*run, "--save-json", tmp_path),
        ("export", "--weights", checkpoint, "-o", place),
        ("bench", exported, "--source", picture, "--frames", 1, "--json", place),
    ):
        assert "cannot write" in refuse(*arguments)
    assert "file exists and is not a bundle: give another -o" in refuse(
        "export", "--weights", checkpoint, "-o", tmp_path / "file"
    )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]
