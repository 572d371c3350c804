"""The demo: its clip, and the whole way with a bundle that takes no time."""

from __future__ import annotations

import importlib.metadata
import json
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest

from edgepose import demo as demo_module
from edgepose.backends import backend as backend_module
from edgepose.bundle.bundle import open_bundle
from edgepose.core.boxes import box_iou
from edgepose.core.errors import UsageError
from edgepose.core.geometry import transform_points, warp_crop
from edgepose.core.sample_photos import PEOPLE, load_photo
from edgepose.demo import CLIP_FRAMES, CLIP_SIZE, SHIPPED, camera_path, demo, write_clip
from edgepose.detectors.kinds import open_detector

pytest.importorskip("skimage")

INSTALLED = ("onnxruntime", "openvino", "skimage")


def frames_of(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        frames.append(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return frames


def test_the_photos_are_rgb_and_hold_their_boxes() -> None:
    for name, (left, top, right, bottom) in PEOPLE.items():
        photo = load_photo(name)
        assert photo.shape == (512, 512, 3) and photo.dtype == np.uint8
        assert 0 <= left < right <= 512 and 0 <= top < bottom <= 512
    red, _, blue = load_photo("astronaut")[300:, 150:250].reshape(-1, 3).mean(axis=0)
    assert red > blue + 30  # the suit is orange, not blue


def test_the_clip_moves_over_two_people(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    frames = frames_of(tmp_path / "clip.mp4")
    assert len(frames) == CLIP_FRAMES
    assert {frame.shape for frame in frames} == {(*CLIP_SIZE, 3)}
    red, _, blue = frames[0][280:400, 560:760].reshape(-1, 3).mean(axis=0)
    assert red > blue + 30  # the orange suit, in RGB
    grey = frames[0][100:400, 100:440].astype(int)
    assert np.abs(grey[..., 0] - grey[..., 2]).mean() < 5  # the man beside it
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 5
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_person_lite_finds_both_people_in_the_clip() -> None:
    boxes = np.array([[x1 + 512 * i, y1, x2 + 512 * i, y2] for i, (x1, y1, x2, y2) in enumerate(PEOPLE.values())])
    scene = np.concatenate([load_photo(name) for name in PEOPLE], axis=1)
    detector = open_detector("person_lite")
    overlaps = []
    for matrix in list(camera_path(scene.shape[:2]))[::10]:
        found = detector(warp_crop(scene, matrix, CLIP_SIZE))
        overlaps.append(
            box_iou(transform_points(boxes.reshape(-1, 2, 2), matrix).reshape(-1, 4), found.boxes).max(axis=1)
        )
    detector.close()
    assert (np.array(overlaps) > 0.5).mean(axis=0).min() >= 0.8


def run_demo(output: Path, source: str | None = None) -> str:
    lines: list[str] = []
    demo(output, source, say=lines.append)
    return "\n".join(lines)


def check_output(output: Path, frames: int) -> None:
    _, *rows = [json.loads(line) for line in (output / "poses.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(frames))
    assert {len(person["keypoints"]) for row in rows for person in row["people"]} <= {14}
    overlay = frames_of(output / "overlay.mp4")
    assert len(overlay) == frames
    assert overlay[0].shape == (*CLIP_SIZE, 3)
    assert (output / "ditn_lite.edgepose" / "reports" / "verify.html").stat().st_size > 1000
    verdict = json.loads((output / "ditn_lite.edgepose" / "reports" / "verify.json").read_text())
    assert verdict["passed"] is True
    assert [c["batch"] for c in verdict["checks"] if c["backend"] == "onnxruntime"] == [1, 8]


@pytest.fixture
def without_extras(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without PyTorch and TensorRT-RTX, and a small bundle as the shipped one; returns that one."""
    shipped = tmp_path / "installed" / "ditn_lite.edgepose"
    shipped.parent.mkdir()
    shipped.symlink_to(exported)
    monkeypatch.setattr(demo_module, "SHIPPED", shipped)
    for module in (demo_module, backend_module):
        monkeypatch.setattr(module, "find_spec", lambda name: find_spec(name) if name in INSTALLED else None)
    monkeypatch.setattr(demo_module, "CLIP_FRAMES", 4)
    return shipped


@pytest.mark.slow
def test_without_pytorch_the_shipped_bundle_is_copied_and_run(without_extras: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(without_extras.rglob("*"))}
    said = run_demo(tmp_path / "out")
    assert "PyTorch is not installed, so" in said
    assert "TensorRT-RTX is not installed: pip install 'edgepose[rtx]'" in said
    assert "skipped torch: the Python module 'torch' is not installed" in said
    for name in ("ditn_lite.edgepose", "overlay.mp4", "poses.jsonl", "ditn_lite.edgepose/reports/verify.html"):
        assert str(tmp_path / "out" / name) in said
    check_output(tmp_path / "out", frames=4)
    copy = open_bundle(tmp_path / "out" / "ditn_lite.edgepose")
    assert copy.manifest == open_bundle(without_extras).manifest
    # The installed one was read only.
    assert {path: path.stat().st_mtime_ns for path in sorted(without_extras.rglob("*"))} == before
    assert not (without_extras / "reports").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_extras")
def test_a_source_is_run_instead_of_the_clip_and_the_demo_can_be_repeated(tmp_path: Path) -> None:
    picture = tmp_path / "me.png"
    cv2.imwrite(str(picture), cv2.resize(load_photo("astronaut"), CLIP_SIZE[::-1]))
    for _ in range(2):
        run_demo(tmp_path / "out", str(picture))
        check_output(tmp_path / "out", frames=1)
    assert not (tmp_path / "out" / "clip.mp4").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_extras")
def test_an_engine_that_cannot_be_built_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise UsageError("tensorrt_rtx 1.7 cannot build for the SM of this GPU, sm90")

    found = (*INSTALLED, "tensorrt_rtx")
    monkeypatch.setattr(demo_module, "find_spec", lambda name: name in found or None)
    monkeypatch.setattr("edgepose.build.engine.build_engine", refuse)
    said = run_demo(tmp_path / "out").splitlines()
    assert "build: left out: tensorrt_rtx 1.7 cannot build for the SM of this GPU, sm90" in said
    check_output(tmp_path / "out", frames=4)


@pytest.mark.usefixtures("without_extras")
def test_a_source_that_cannot_be_run_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"source '.*nobody.mp4' does not exist"):
        run_demo(tmp_path / "out", str(tmp_path / "nobody.mp4"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_extras")
def test_without_scikit_image_the_clip_shows_crops_of_the_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("edgepose.demo", "edgepose.core.sample_photos"):
        monkeypatch.setattr(f"{module}.find_spec", lambda _: None)
    run_demo(tmp_path / "out")
    check_output(tmp_path / "out", frames=4)


@pytest.mark.usefixtures("without_extras")
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"cannot (copy .* to|write) .*file/out"):
        run_demo(tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_the_shipped_model_goes_the_whole_way(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxsim")
    said = run_demo(tmp_path)
    check_output(tmp_path, frames=CLIP_FRAMES)
    _, *rows = [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()]
    assert sum(len(row["people"]) for row in rows) >= 1.6 * len(rows)  # of two
    bundle = open_bundle(tmp_path / "ditn_lite.edgepose")
    assert bundle.manifest.trained and bundle.manifest.skeleton == "lsp14"
    try:
        importlib.metadata.version("tensorrt-rtx-cu13")
    except importlib.metadata.PackageNotFoundError:
        assert "TensorRT-RTX is not installed" in said
    else:
        assert [path.suffix for path in bundle.engines()] == [".engine"]


def test_the_shipped_bundle_is_whole_and_small() -> None:
    bundle = open_bundle(SHIPPED)
    assert bundle.manifest.trained
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 20 * 2**20
