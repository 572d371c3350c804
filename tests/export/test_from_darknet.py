"""YOLOv3's weights become a detector's bundle: boxes as PyTorch gives them, taken wherever a detector's bundle is."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("skimage")
for _module in ("onnx", "onnxruntime", "onnxscript", "onnxsim"):
    pytest.importorskip(_module)

from edgepose.backends.plan import open_session
from edgepose.bundle.bundle import Bundle, open_bundle, replace_files
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import CHECKPOINT, GOLDENS
from edgepose.cli import main
from edgepose.core.boxes import box_iou, find_persons
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.images import fitted_size, letterbox
from edgepose.core.sample_photos import PEOPLE, load_photo
from edgepose.detectors.kinds import open_detector
from edgepose.export import from_darknet
from edgepose.export.from_checkpoint import export
from edgepose.export.from_darknet import export_yolov3
from edgepose.export.from_onnx import golden_pictures
from edgepose.models.checkpoint import ModelSpec, save_checkpoint
from edgepose.models.reference import read_yolov3, reference_graph
from edgepose.models.yolov3 import PersonGraph, YOLOv3
from edgepose.verify import verify
from tests.doubles.lively_yolov3 import lively_yolov3, write_weights
from tests.doubles.made_once import made_once
from tests.doubles.variants import with_variants

SIZE, WIDTH = (96, 96), 4
OPTIONS: dict[str, Any] = {"classes": 80, "width": WIDTH}


@pytest.fixture(scope="module")
def network() -> YOLOv3:
    return lively_yolov3(golden_pictures(SIZE), **OPTIONS)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight file holds a narrow network, which is exported as quickly as it may be."""
    monkeypatch.setattr(from_darknet, "YOLOv3", partial(YOLOv3, width=WIDTH))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Bundle:
    """The bundle of a narrow YOLOv3. Read only: copy it to change it."""

    def make(folder: Path) -> None:
        save_checkpoint(
            folder / "a.safetensors",
            lively_yolov3(golden_pictures(SIZE), **OPTIONS),
            ModelSpec("yolov3", "", SIZE, OPTIONS),
        )
        export(None, folder / "narrow.edgepose", weights=folder / "a.safetensors")

    return open_bundle(made_once("yolov3", make, tmp_path_factory, pytestconfig) / "narrow.edgepose")


# --- the graph in PyTorch ---


def test_pictures_go_in_as_they_are_and_persons_come_out() -> None:
    """A network whose last layers give the same numbers everywhere: boxes by hand, and no other class counts."""
    network = YOLOv3(80, WIDTH).eval()
    seen: list[torch.Tensor] = []
    network.darknet[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for head in network.heads:
        layer = head.predict[-1]
        torch.nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([0.0, 0, 0, 0, 2, 1, *79 * [9]] * 3))
    picture = np.full((2, 64, 96, 3), (255, 51, 0), np.uint8)
    with torch.inference_mode():
        boxes, scores = PersonGraph(network)(torch.from_numpy(picture))
    assert seen[0].shape == (2, 3, 64, 96)
    np.testing.assert_allclose(seen[0][0, :, 5, 5], [1, 0.2, 0], rtol=1e-6)
    assert boxes.shape == (2, 378, 4) and scores.shape == (2, 378)
    np.testing.assert_allclose(scores, 0.8807971 * 0.7310586, rtol=1e-6)  # sigmoid of 2 and of 1
    # The first anchor of stride 32 in the first cell, 116 x 90 around (16, 16); the last of stride 8 in the last cell,
    # 33 x 23 around (92, 60).
    np.testing.assert_allclose(boxes[1, 0], [-42, -29, 74, 61], atol=1e-4)
    np.testing.assert_allclose(boxes[1, -1], [75.5, 48.5, 108.5, 71.5], atol=1e-4)


# --- the bundle ---


@pytest.mark.usefixtures("narrow")
@pytest.mark.slow
def test_the_command_makes_a_detector_s_bundle_of_a_weight_file(
    network: YOLOv3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_weights(network, tmp_path / "yolov3.weights")
    path = tmp_path / "yolov3.edgepose"
    assert main(["export", "yolov3", "--weights", str(weights), "--size", "96x96", "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"bundle: {path}\n"
    made = open_bundle(path)
    manifest = made.manifest
    assert (manifest.model, manifest.skeleton, manifest.decode, manifest.trained) == ("yolov3", "", "boxes", True)
    assert (manifest.input_size, manifest.options) == (SIZE, {"boxes": 3 * (9 + 36 + 144)})
    assert sorted(manifest.files) == [CHECKPOINT, "detector.onnx", GOLDENS]
    goldens = read_goldens(made)
    np.testing.assert_array_equal(goldens.images, golden_pictures(SIZE))
    with torch.inference_mode():
        boxes, scores = PersonGraph(network)(torch.from_numpy(goldens.images[:2]))
    np.testing.assert_allclose(goldens.outputs["boxes"][:2], boxes, atol=1e-2)
    np.testing.assert_allclose(goldens.outputs["scores"][:2], scores, atol=1e-4)


@pytest.mark.slow
def test_every_backend_gives_pytorch_s_boxes_in_any_batch(bundle: Bundle) -> None:
    report = verify(bundle)
    assert report.passed, str(report)
    assert {check.runner.backend for check in report.checks} >= {"onnxruntime", "torch"}
    assert all(check.figures is not None and check.figures.p99 < 0.05 for check in report.checks)
    session = open_session(bundle, "onnxruntime")
    pictures = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    together = session.run({"images": pictures})
    with torch.inference_mode():
        boxes, scores = reference_graph(bundle)(torch.from_numpy(pictures))
    session.close()
    np.testing.assert_allclose(together["scores"], scores, atol=1e-3)
    np.testing.assert_allclose(together["boxes"], boxes, atol=0.2)


@pytest.mark.slow
def test_boxes_come_back_in_pixels_of_the_picture(bundle: Bundle) -> None:
    """A picture twice as wide as high is letterboxed to the top left; the box of a golden comes back scaled by four."""
    detector = open_detector(bundle.path, threshold=0.4)
    photo = np.concatenate([load_photo(name) for name in PEOPLE], axis=1)[:384, :768]
    assert fitted_size(photo.shape[:2], SIZE) == (48, 96)
    found = detector(photo)
    with torch.inference_mode():
        boxes, scores = reference_graph(bundle)(torch.from_numpy(letterbox(photo, SIZE)[None]))
    limits = [768, 384, 768, 384]
    inside = np.clip(boxes[0].numpy() * 8, 0, limits)
    want, certain = find_persons(inside, scores[0].numpy(), 0.4)
    large = (want[:, 2:] - want[:, :2]).min(axis=1) >= 1
    assert len(found.boxes) == large.sum() > 0
    np.testing.assert_allclose(found.boxes, want[large], atol=0.5)
    np.testing.assert_allclose(found.scores, certain[large], atol=1e-3)
    detector.close()


@pytest.mark.slow
def test_darknet_s_threshold_is_the_bundle_s(bundle: Bundle) -> None:
    detector = open_detector(bundle.path)
    scores = np.concatenate([detector(picture).scores for picture in golden_pictures(SIZE)])
    detector.close()
    assert len(scores) and scores.min() >= 0.5


@pytest.mark.slow
def test_other_precisions_stay_near(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    copy = open_bundle(shutil.copytree(bundle.path, tmp_path / "copy.edgepose"))
    variants = with_variants(copy)
    assert variants.precisions == ("fp32", "fp16", "bf16", "int8", "int8+fp16")
    report = verify(variants, ("onnxruntime", "openvino"), ("fp16", "int8"))
    assert report.passed, str(report)


@pytest.mark.slow
def test_an_engine_is_built_like_any_other(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = shutil.copytree(bundle.path, tmp_path / "copy.edgepose")
    with_variants(open_bundle(path))
    for precision in ("fp32", "fp16", "int8"):
        assert main(["build", str(path), "--target", "tensorrt-rtx", "--precision", precision]) == 0
    assert len(open_bundle(path).engines()) == 3


@pytest.mark.slow
def test_a_graph_that_is_not_the_checkpoint_s_is_found(bundle: Bundle, tmp_path: Path) -> None:
    """The words are those of an exported network, and the node that differs is named by its module."""
    import onnx
    from onnx import numpy_helper

    copy = open_bundle(shutil.copytree(bundle.path, tmp_path / "copy.edgepose"))
    model = onnx.load(copy.graph)
    weight = next(w for w in model.graph.initializer if w.name.startswith("network.darknet.3.4.expand"))
    weight.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, tmp_path / "spoilt.onnx")
    copy = replace_files(copy, {copy.graph.name: tmp_path / "spoilt.onnx"})
    report = verify(copy, ("onnxruntime",))
    assert not report.passed
    assert "the graph itself differs from the checkpoint in PyTorch, first at" in str(report)
    assert "darknet.3.4.expand" in str(report)


# --- the paper's system ---


@pytest.mark.slow
def test_yolov3_and_hsr_msnet_find_poses_together(bundle: Bundle, tmp_path: Path) -> None:
    """With random weights: every person that the one finds gets joints of the other, in pixels of the picture."""
    pose = tmp_path / "pose.edgepose"
    assert main(["export", "hsr_msnet_59", "--size", "64x64", "-o", str(pose)]) == 0
    photo = load_photo("astronaut")
    cv2.imwrite(str(tmp_path / "photo.png"), photo[..., ::-1])
    out = tmp_path / "out.jsonl"
    files = ["--source", str(tmp_path / "photo.png"), "--save-json", str(out)]
    assert main(["run", str(pose), *files, "--detector", str(bundle.path), "--detector-threshold", "0.4"]) == 0
    _, frame = (json.loads(line) for line in out.read_text().splitlines())
    detector = open_detector(bundle.path, threshold=0.4)
    found = detector(photo)
    detector.close()
    assert len(frame["people"]) == len(found.boxes) > 0
    boxes = np.array([person["box"] for person in frame["people"]])
    assert (box_iou(found.boxes, boxes).max(axis=1) > 0.99).all()
    for person in frame["people"]:
        joints = np.array(person["keypoints"])
        assert joints.shape == (17, 3) and np.isfinite(joints).all()
        x1, y1, x2, y2 = person["box"]
        half = 1.3 * max(x2 - x1, y2 - y1) / 2  # the square crop
        assert (np.abs(joints[:, :2] - [(x1 + x2) / 2, (y1 + y2) / 2]) <= half).all()


# --- refusals ---


def test_without_weights_nothing_is_made(tmp_path: Path, refuse) -> None:
    said = refuse("export", "yolov3", "-o", tmp_path / "x.edgepose")
    assert "yolov3 without weights finds nobody, so nothing can verify it: give --weights yolov3.weights" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--skeleton", "coco17"), "yolov3 finds persons and has neither skeleton nor bones: leave --skeleton out"),
        (("--with-bones",), "yolov3 finds persons and has neither skeleton nor bones: leave --with-bones out"),
        (("--size", "100x96"), "input size 100x96: both sides must be positive multiples of 32"),
        (("--size", "0x96"), "input size 0x96: both sides must be positive multiples of 32"),
        (("--weights", "none.weights"), "none.weights: does not exist, expected a darknet .weights file"),
        (("--weights", "."), ": is no file, expected a darknet .weights file"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments if "--weights" in arguments else (*arguments, "--weights", "x.weights")
    assert sentence in refuse("export", "yolov3", *given, "-o", "x.edgepose")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("narrow")
def test_weights_that_find_nobody_are_refused(tmp_path: Path) -> None:
    shy = lively_yolov3(golden_pictures(SIZE), **OPTIONS)
    with torch.no_grad():
        for head in shy.heads:
            head.predict[-1].bias.view(3, 85)[:, 4] = -30
    weights = write_weights(shy, tmp_path / "shy.weights")
    with pytest.raises(
        UsageError, match=r"shy.weights find no person in photos of two \(best score .*, expected 0.4\)"
    ):
        export_yolov3(tmp_path / "x.edgepose", weights, input_size=SIZE)
    assert not (tmp_path / "x.edgepose").exists()


@pytest.mark.usefixtures("narrow")
def test_boxes_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    wild = lively_yolov3(golden_pictures(SIZE), **OPTIONS)
    with torch.no_grad():
        wild.heads[1].predict[-1].bias.view(3, 85)[:, 3] = 200  # exp(200) anchors
    weights = write_weights(wild, tmp_path / "wild.weights")
    with pytest.raises(UsageError, match=r"wild.weights give boxes that are not finite"):
        export_yolov3(tmp_path / "x.edgepose", weights, input_size=SIZE)


@pytest.mark.usefixtures("narrow")
def test_a_graph_that_differs_from_pytorch_is_no_bundle(
    network: YOLOv3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import parser

    wrong = parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18]>
        wrong (uint8[N, 96, 96, 3] images) => (float[N, 567, 4] boxes, float[N, 567] scores) {
            shape = Shape <start = 0, end = 1> (images)
            most = Constant <value = int64[1] {567}> ()
            four = Constant <value = int64[1] {4}> ()
            flat = Concat <axis = 0> (shape, most)
            wide = Concat <axis = 0> (shape, most, four)
            scores = ConstantOfShape (flat)
            boxes = ConstantOfShape (wide)
        }"""
    )
    monkeypatch.setattr(from_darknet, "_make_graph", lambda *_: wrong)
    weights = write_weights(network, tmp_path / "yolov3.weights")
    with pytest.raises(CheckError, match="the bundle's graph does not find the same persons as PyTorch"):
        export_yolov3(tmp_path / "x.edgepose", weights, input_size=SIZE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["yolov3.weights"]


SPECS = {
    "of a pose network": ModelSpec("hrnet_lite", "lsp14", (64, 64)),
    "without a width": ModelSpec("yolov3", "", SIZE, {"classes": 80}),
    "huge": ModelSpec("yolov3", "", SIZE, {"classes": 80, "width": 10**9}),
    "with more": ModelSpec("yolov3", "", SIZE, {**OPTIONS, "layers": 3}),
    "of a text": ModelSpec("yolov3", "", SIZE, {"classes": 80, "width": "4"}),
}


@pytest.mark.parametrize("name", [*SPECS, None])
def test_checkpoints_of_other_networks_are_refused(name: str | None, tmp_path: Path) -> None:
    spec = None if name is None else SPECS[name]
    save_checkpoint(tmp_path / "a.safetensors", torch.nn.Conv2d(1, 1, 1), spec)
    with pytest.raises(
        UsageError, match=r"a.safetensors holds no YOLOv3: expected yolov3.weights, or the checkpoint of"
    ):
        read_yolov3(tmp_path / "a.safetensors")


@pytest.mark.usefixtures("narrow")
def test_a_pose_bundle_is_not_replaced(exported: Path, network: YOLOv3, tmp_path: Path) -> None:
    pose = shutil.copytree(exported, tmp_path / "pose.edgepose")
    weights = write_weights(network, tmp_path / "yolov3.weights")
    with pytest.raises(UsageError, match="is a bundle of a pose network: give another -o"):
        export_yolov3(pose, weights, input_size=SIZE)
    assert open_bundle(pose).manifest == open_bundle(exported).manifest
