"""The whole job on a real bundle folder whose network always gives the same crop pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.bundle.bundle import write_manifest
from edgepose.bundle.manifest import Manifest
from edgepose.bundle.tasks import POSE
from edgepose.core.errors import UsageError
from edgepose.runtime.pose import load
from edgepose.runtime.run import run
from edgepose.runtime.sources import Frame, Source, open_source

#: Joint j at (6 + 12 j, 8 + 16 j) in the crop of 256 x 192, so that joint 7.5 would be at (96, 128), the middle.
CROP_POINTS = np.stack([6 + 12 * np.arange(14), 8 + 16 * np.arange(14), np.full(14, 0.75)], axis=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: np.ndarray) -> object:
        return numpy_helper.from_array(values, name)

    shapes = {"keypoints": (14, 3), "heatmaps": (14, 64, 48)}
    values = {"keypoints": CROP_POINTS[None], "heatmaps": np.zeros((1, *shapes["heatmaps"]))}
    nodes = [
        helper.make_node("Shape", ["images"], ["n"], start=0, end=1),
        *(helper.make_node("Concat", ["n", f"{k}_tail"], [f"{k}_shape"], axis=0) for k in shapes),
        *(helper.make_node("Expand", [f"{k}_value", f"{k}_shape"], [k]) for k in shapes),
    ]
    constants = [constant(f"{k}_value", v.astype(np.float32)) for k, v in values.items()]
    constants += [constant(f"{k}_tail", np.array(s, np.int64)) for k, s in shapes.items()]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 256, 192, 3])
    outputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["N", *s]) for k, s in shapes.items()]
    graph = helper.make_graph(nodes, "constant", [images], outputs, constants)
    path = tmp_path_factory.mktemp("models") / "constant.edgepose"
    path.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path / POSE.graph)
    write_manifest(path, Manifest("constant", "none", "lsp14", (256, 192))).with_files(path / POSE.graph)
    return path


def test_loaded_bundle_maps_its_crop_to_the_box(bundle: Path) -> None:
    """The box has the crop's shape; with 25 % around, its 192 x 256 pixels are 240 x 320 of the source."""
    with load(bundle, "onnxruntime") as estimator:
        (pose,) = estimator(np.zeros((480, 640, 3), np.uint8), [[100, 50, 292, 306]])
    expected = (196 - 120, 178 - 160) + CROP_POINTS[:, :2] * 1.25
    np.testing.assert_allclose(pose.keypoints[:, :2], expected, atol=1e-3)
    assert pose.score == pytest.approx(0.75)


def test_video_into_all_files(bundle: Path, tmp_path: Path, make_video) -> None:
    source = make_video(tmp_path / "in.mp4", frames=4, fps=20, size=(120, 160))
    outputs = {"save_video": tmp_path / "out.mp4", "save_json": tmp_path / "o.jsonl", "save_coco": tmp_path / "o.json"}
    summary = run(bundle, str(source), **outputs)
    assert (summary.frames, summary.people, summary.skipped) == (4, 4, 0)
    assert list(summary.stages) == ["decode", "crop", "infer", "keypoints", "draw", "encode"]
    assert {stage.frames for stage in summary.stages.values()} == {4}
    first, header, decode, *_ = str(summary).splitlines()
    assert first.startswith("4 frames, 4 people in ")
    assert header.split() == ["ms", "a", "frame", "p50", "p95", "p99"]
    assert decode.split()[:2] == ["decode", f"{summary.stages['decode'].p50:.2f}"]
    lines = [json.loads(line) for line in outputs["save_json"].read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert [line["time"] for line in lines] == pytest.approx([0, 0.05, 0.1, 0.15], abs=1e-3)
    person = lines[0]["people"][0]
    # The whole frame, 160 x 120, grows to 160 x 213.3 by the crop's shape, and by a quarter.
    scale = 160 * 1.25 / 192
    assert person["box"] == [0, 0, 160, 120]
    np.testing.assert_allclose(person["keypoints"][2][:2], (80 + (30 - 96) * scale, 60 + (40 - 128) * scale), atol=2e-3)
    results = json.loads(outputs["save_coco"].read_text())
    assert [r["image_id"] for r in results] == [0, 1, 2, 3]
    assert results[0]["keypoints"][6:9] == person["keypoints"][2]
    with open_source(str(outputs["save_video"])) as written:
        frames = list(written)
    assert len(frames) == 4
    assert written.fps == 20
    assert frames[0].image.max() > 150  # the skeleton on the first, black frame


def test_limit_and_no_outputs(bundle: Path, tmp_path: Path, make_video) -> None:
    summary = run(bundle, str(make_video(tmp_path / "in.mp4", frames=4)), limit=2)
    assert summary.frames == 2
    assert "draw" not in summary.stages
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
    with pytest.raises(UsageError, match="limit is 0, expected at least 1 frame"):
        run(bundle, "x.jpg", limit=0)


def test_damaged_pictures_are_counted_and_pictures_drawn(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("12.png", "13.png"):
        cv2.imwrite(str(tmp_path / "in" / name), np.zeros((60, 40, 3), np.uint8))
    (tmp_path / "in" / "bad.png").write_bytes(b"garbage")
    summary = run(bundle, str(tmp_path / "in"), save_video=tmp_path / "out", save_coco=tmp_path / "o.json")
    assert (summary.frames, summary.skipped) == (2, 1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["12.jpg", "13.jpg"]
    assert [r["image_id"] for r in json.loads((tmp_path / "o.json").read_text())] == [0, 1]  # bad.png has no number
    (tmp_path / "in" / "bad.png").rename(tmp_path / "in" / "11.png")
    run(bundle, str(tmp_path / "in"), save_json=tmp_path / "o.jsonl", save_coco=tmp_path / "o.json")
    assert [r["image_id"] for r in json.loads((tmp_path / "o.json").read_text())] == [12, 13]
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["name"]) for line in lines] == [(1, "12.png"), (2, "13.png")]


def test_overlay_of_a_live_source_plays_at_its_own_speed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Camera(Source):
        fps, live = 20.0, True

        def __iter__(self) -> Iterator[Frame]:
            for index, seconds in ((0, 0.0), (3, 0.15), (13, 0.65)):
                yield Frame(index, seconds, np.zeros((60, 40, 3), np.uint8), f"live_{index:06d}")

    monkeypatch.setattr("edgepose.runtime.run.open_source", lambda _: Camera())
    assert run(bundle, "0", save_video=tmp_path / "o.mp4").frames == 3
    with open_source(str(tmp_path / "o.mp4")) as written:
        assert sum(1 for _ in written) == 13 + 1  # the frames of 0.65 s, and the last one


def test_what_was_read_of_a_cut_video_is_kept(bundle: Path, tmp_path: Path, make_video) -> None:
    source = make_video(tmp_path / "in.avi", frames=40)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(UsageError, match=r"cut short: \d+ of \d+ frames") as error:
        run(bundle, str(source), save_json=tmp_path / "o.jsonl", save_video=tmp_path / "o.mp4")
    count = len((tmp_path / "o.jsonl").read_text().splitlines())
    assert f"{count} of " in str(error.value)
    with open_source(str(tmp_path / "o.mp4")) as written:
        assert sum(1 for _ in written) == count


@pytest.mark.parametrize(("source", "output"), [("a.png", "save_json"), (".", "save_video"), ("*.png", "save_video")])
def test_inputs_are_never_overwritten(bundle: Path, tmp_path: Path, source: str, output: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 40, 3), np.uint8))
    before = (tmp_path / "a.png").read_bytes()
    place = tmp_path / source if output == "save_json" else tmp_path
    with pytest.raises(UsageError, match="the source is read from there"):
        run(bundle, str(tmp_path / source), **{output: place})
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("live", [True, False])
def test_ctrl_c_keeps_the_files_and_is_the_end_of_a_live_source_only(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    class Interrupted(Source):
        def __iter__(self) -> Iterator[Frame]:
            for index in range(2):
                yield Frame(index, 0.0, np.zeros((60, 40, 3), np.uint8), "a")
            raise KeyboardInterrupt

    source = Interrupted()
    source.live = live
    monkeypatch.setattr("edgepose.runtime.run.open_source", lambda _: source)
    with nullcontext() if live else pytest.raises(KeyboardInterrupt):
        assert run(bundle, "0", save_json=tmp_path / "o.jsonl").frames == 2
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 2


def test_wrong_detector_leaves_older_results(bundle: Path, tmp_path: Path, make_video) -> None:
    (tmp_path / "o.jsonl").write_text("older")
    with pytest.raises(UsageError, match=r"none.onnx does not exist"):
        run(
            bundle,
            str(make_video(tmp_path / "in.mp4")),
            detector=tmp_path / "none.onnx",
            save_json=tmp_path / "o.jsonl",
        )
    assert (tmp_path / "o.jsonl").read_text() == "older"


def test_detector_and_ids_on_a_street(bundle: Path, tmp_path: Path, shared: Path) -> None:
    detector = shared / "data/models/yolox_nano/yolox_nano.onnx"
    summary = run(bundle, str(shared / "data/videos/street_5frames.mp4"), detector, save_json=tmp_path / "o.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert len(lines) == summary.frames == 5
    assert all(len(line["people"]) >= 3 for line in lines)
    for line in lines:
        ids = [person["id"] for person in line["people"]]
        assert len(set(ids)) == len(ids)
    stayed = {person["id"] for person in lines[0]["people"]} & {person["id"] for person in lines[-1]["people"]}
    assert len(stayed) >= 2  # of those that are there all the time
