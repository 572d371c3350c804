"""The whole job on a real bundle folder whose network always gives the same crop pixels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.bundle.bundle import write_manifest
from edgepose.bundle.goldens import Goldens
from edgepose.bundle.manifest import GOLDENS, Manifest
from edgepose.bundle.tasks import POSE
from edgepose.core.errors import UsageError
from edgepose.core.images import read_image, write_image
from edgepose.core.sample_photos import PEOPLE, load_photo
from edgepose.runtime.job import Frame
from edgepose.runtime.pose import load
from edgepose.runtime.run import run
from edgepose.runtime.runners import Policy, run_threaded
from edgepose.runtime.sources import Source, open_source

#: Joint j at (6 + 12 j, 8 + 16 j) in the crop of 256 x 192, so that joint 7.5 would be at (96, 128), the middle.
CROP_POINTS = np.stack([6 + 12 * np.arange(17), 8 + 16 * np.arange(17), np.full(17, 0.75)], axis=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: np.ndarray) -> object:
        return numpy_helper.from_array(values, name)

    shapes = {"keypoints": (17, 3), "heatmaps": (17, 64, 48)}
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
    goldens = {name: value.astype(np.float32) for name, value in values.items()}
    Goldens(np.zeros((1, 256, 192, 3), np.uint8), goldens).save(path / GOLDENS)
    made = write_manifest(path, Manifest("constant", "none", "coco17", (256, 192)))
    made.with_files(path / POSE.graph, path / GOLDENS)
    return path


def frames_in(path: Path) -> list[dict]:
    """The lines of a JSON lines file that tell of a frame."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "frame" in line]


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
    assert {stage.count for stage in summary.stages.values()} == {4}
    first, header, decode, *_ = str(summary).splitlines()
    assert first.startswith("4 frames, 4 people in ")
    assert header.split() == ["ms", "per", "frame", "p50", "p95", "p99"]
    assert decode.split()[:2] == ["decode", f"{summary.stages['decode'].p50:.2f}"]
    lines = frames_in(outputs["save_json"])
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
    lines = frames_in(tmp_path / "o.jsonl")
    assert [(line["frame"], line["name"]) for line in lines] == [(1, "12.png"), (2, "13.png")]


def test_overlay_of_a_live_source_plays_at_its_own_speed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Camera(Source):
        fps, live = 20.0, True

        def __iter__(self) -> Iterator[Frame]:
            for index, seconds in ((0, 0.0), (3, 0.15), (13, 0.65)):
                yield Frame("camera 0", index, seconds, f"live_{index:06d}", np.zeros((60, 40, 3), np.uint8))

    monkeypatch.setattr("edgepose.runtime.run.open_source", lambda _: Camera())
    assert run(bundle, "0", save_video=tmp_path / "o.mp4").frames == 3
    with open_source(str(tmp_path / "o.mp4")) as written:
        assert sum(1 for _ in written) == 13 + 1  # the frames of 0.65 s, and the last one


def test_what_was_read_of_a_cut_video_is_kept(bundle: Path, tmp_path: Path, make_video) -> None:
    source = make_video(tmp_path / "in.avi", frames=40)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(UsageError, match=r"cut short: \d+ of \d+ frames") as error:
        run(bundle, str(source), save_json=tmp_path / "o.jsonl", save_video=tmp_path / "o.mp4")
    count = len(frames_in(tmp_path / "o.jsonl"))
    assert f"{count} of " in str(error.value)
    with open_source(str(tmp_path / "o.mp4")) as written:
        assert sum(1 for _ in written) == count


@pytest.mark.parametrize(("source", "output"), [("a.png", "save_json"), (".", "save_video"), ("*.png", "save_video")])
def test_inputs_are_never_overwritten(bundle: Path, tmp_path: Path, source: str, output: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 40, 3), np.uint8))
    before = (tmp_path / "a.png").read_bytes()
    place = tmp_path / source if output == "save_json" else tmp_path
    with pytest.raises(UsageError, match="the source is read from it"):
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
                yield Frame("camera 0", index, 0.0, "a", np.zeros((60, 40, 3), np.uint8))
            raise KeyboardInterrupt

    source = Interrupted()
    source.live = live
    monkeypatch.setattr("edgepose.runtime.run.open_source", lambda _: source)
    with nullcontext() if live else pytest.raises(KeyboardInterrupt):
        assert run(bundle, "0", save_json=tmp_path / "o.jsonl").frames == 2
    assert len(frames_in(tmp_path / "o.jsonl")) == 2


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
    summary = run(
        bundle, str(shared / "data/videos/street_5frames.mp4"), detector=detector, save_json=tmp_path / "o.jsonl"
    )
    lines = frames_in(tmp_path / "o.jsonl")
    assert len(lines) == summary.frames == 5
    assert all(len(line["people"]) >= 3 for line in lines)
    for line in lines:
        ids = [person["id"] for person in line["people"]]
        assert len(set(ids)) == len(ids)
    stayed = {person["id"] for person in lines[0]["people"]} & {person["id"] for person in lines[-1]["people"]}
    assert len(stayed) >= 2  # of those that are there all the time


def test_threads_write_the_same_files(bundle: Path, tmp_path: Path, make_video) -> None:
    source = str(make_video(tmp_path / "in.avi", frames=12, size=(120, 160)))
    summaries = []
    for name, threads in (("one", False), ("many", True)):
        files = {"save_video": f"{name}.avi", "save_json": f"{name}.jsonl", "save_coco": f"{name}.json"}
        outputs = {option: tmp_path / file for option, file in files.items()}
        summaries.append(run(bundle, source, **outputs, threads=threads))
    for suffix in ("avi", "jsonl", "json"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"many.{suffix}").read_bytes()
    one, many = summaries
    assert (one.frames, one.people, list(one.stages)) == (many.frames, many.people, list(many.stages))
    assert one.frames == 12


def test_threads_keep_what_was_read_of_a_cut_video(bundle: Path, tmp_path: Path, make_video) -> None:
    source = make_video(tmp_path / "in.avi", frames=40)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(UsageError, match=r"cut short: \d+ of \d+ frames") as error:
        run(bundle, str(source), save_json=tmp_path / "o.jsonl", threads=True)
    assert f"{len(frames_in(tmp_path / 'o.jsonl'))} of " in str(error.value)


def test_late_frames_are_counted_and_have_their_line(bundle: Path, tmp_path: Path, make_video) -> None:
    """Every frame is late: nothing is as fast as a nanosecond."""
    source = str(make_video(tmp_path / "in.avi", frames=6))
    summary = run(bundle, source, save_json=tmp_path / "o.jsonl", threads=True, deadline_ms=1e-6)
    assert (summary.frames, summary.people, summary.dropped) == (6, 0, 6)
    assert "(0 images skipped, 6 frames dropped)" in str(summary)
    assert [(line["frame"], line["people"]) for line in frames_in(tmp_path / "o.jsonl")] == [(i, []) for i in range(6)]
    summary = run(bundle, source, threads=True, deadline_ms=1e6)
    assert (summary.frames, summary.people, summary.dropped) == (6, 6, 0)
    assert "dropped" not in str(summary)


@pytest.mark.parametrize(("live", "policy"), [(True, Policy.NEWEST), (False, Policy.KEEP)])
def test_threads_wait_for_a_file_and_not_for_a_camera(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, live: bool, policy: Policy
) -> None:
    class Camera(Source):
        camera = "camera 0"

        def __iter__(self) -> Iterator[Frame]:
            yield Frame("camera 0", 0, 0.0, "a", np.zeros((60, 40, 3), np.uint8))

    camera = Camera()
    camera.live = live
    asked: list[Policy] = []
    monkeypatch.setattr("edgepose.runtime.run.open_source", lambda _: camera)
    plain = run_threaded
    monkeypatch.setattr(
        "edgepose.runtime.run.run_threaded",
        lambda *parts, **options: (asked.append(options["policy"]), plain(*parts, **options)),
    )
    assert run(bundle, "0", threads=True).frames == 1
    assert asked == [policy]


@pytest.mark.parametrize("detector", ["none", "person_lite"])
def test_pictures_of_a_folder_share_neither_ids_nor_a_region(bundle: Path, tmp_path: Path, detector: str) -> None:
    pytest.importorskip("skimage")
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "in" / name, load_photo(next(iter(PEOPLE))))
    run(bundle, str(tmp_path / "in"), detector=detector, save_json=tmp_path / "o.jsonl")
    people = [line["people"] for line in frames_in(tmp_path / "o.jsonl")]
    assert [[person["id"] for person in found] for found in people] == [[1], [2], [3]]
    assert people[0][0]["box"] == people[1][0]["box"] == people[2][0]["box"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"detector_backend": "openvino"}, "got the detector backend openvino without a detector: name one, or "),
        ({"detector_precision": "int8"}, "got the detector precision int8 without a detector"),
        ({"detector_threshold": 0.5}, "got the detector threshold 0.5 without a detector"),
        (
            {"detector": "person_lite", "detector_precision": "int8"},
            "detector person_lite is an ONNX file with one precision, got prec",
        ),
        (
            {"detector": "person_lite", "detector_threshold": 2},
            "the detector's threshold is 2, expected a score from",
        ),
        ({"detector": "person_lite", "detector_threshold": -1}, "the detector's threshold is -1, expected"),
        ({"detector": "person_lite", "detector_threshold": np.nan}, "the detector's threshold is nan, expected"),
        ({"deadline_ms": 50}, "got a deadline of 50 ms without threads"),
        ({"deadline_ms": 0, "threads": True}, "the deadline is 0 ms, expected more than 0"),
        ({"threshold": 2}, "the threshold of joints is 2, expected a score from 0 to 1"),
        ({"threshold": -1}, "the threshold of joints is -1, expected"),
        ({"threshold": np.nan}, "the threshold of joints is nan, expected"),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(
    bundle: Path, tmp_path: Path, make_video, options: dict, sentence: str
) -> None:
    source = str(make_video(tmp_path / "in.avi", frames=2))
    with pytest.raises(UsageError, match=re.escape(sentence)):
        run(bundle, source, save_json=tmp_path / "o.jsonl", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]


def test_thresholds_choose_the_persons_and_the_joints_that_are_drawn(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    write_image(tmp_path / "a.png", load_photo(next(iter(PEOPLE))))
    source, least = str(tmp_path / "a.png"), {"detector": "person_lite", "detector_threshold": 0.01}
    everybody = run(bundle, source, **least)
    nobody = run(bundle, source, detector="person_lite", detector_threshold=1.0)
    assert everybody.people > 1 and nobody.people == 0
    drawn = {}
    for threshold in (0.74, 0.76):  # all joints of this network score 0.75
        run(bundle, source, save_video=tmp_path / "drawn", save_json=tmp_path / "o.jsonl", threshold=threshold)
        drawn[threshold] = read_image(next((tmp_path / "drawn").iterdir()))
        assert len(frames_in(tmp_path / "o.jsonl")[0]["people"][0]["keypoints"]) == 17
    assert (np.abs(drawn[0.74].astype(int) - drawn[0.76]).max(axis=2) > 60).mean() > 0.01


def test_all_but_the_bundle_and_the_source_are_named(bundle: Path) -> None:
    with pytest.raises(TypeError, match="positional"):
        run(bundle, "a.png", "person_lite")  # type: ignore[misc]


def test_places_are_tried_before_the_networks_are_opened(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_video
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a network was opened")

    monkeypatch.setattr("edgepose.runtime.run.load", opened)
    monkeypatch.setattr("edgepose.runtime.run.open_finder", opened)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        run(bundle, str(make_video(tmp_path / "in.avi")), save_json=tmp_path / "file" / "o.jsonl")


def test_a_detector_is_no_pose_network(tmp_path: Path, make_video) -> None:
    detector = tmp_path / "x.edgepose"
    detector.mkdir()
    files = [detector / name for name in ("detector.onnx", "golden.npz")]
    for file in files:
        file.write_bytes(b"x")
    manifest = Manifest("x", "peaks", "", (64, 64), options={"boxes": 3}, decode="boxes")
    write_manifest(detector, manifest).with_files(*files)
    with pytest.raises(UsageError, match="holds a person detector: expected a pose network"):
        run(detector, str(make_video(tmp_path / "in.avi")), save_json=tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()


def test_the_runtimes_names_are_at_the_top_and_light() -> None:
    code = (
        "import edgepose, sys\n"
        "edgepose.Pipeline, edgepose.draw_poses, edgepose.load, edgepose.open_detector\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
