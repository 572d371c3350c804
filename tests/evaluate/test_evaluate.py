"""eval by value: networks whose answers are known, and one network in two forms."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
scipy_io = pytest.importorskip("scipy.io")

from edgepose import evaluate as evaluate_module
from edgepose.accuracy.scoring import Person, Scores
from edgepose.backends.plan import Runner
from edgepose.backends.session import Arrays
from edgepose.bundle.bundle import write_manifest
from edgepose.bundle.contract import TensorSpec
from edgepose.bundle.manifest import GOLDENS, Manifest
from edgepose.bundle.tasks import POSE
from edgepose.core.errors import UsageError
from edgepose.core.geometry import crop_regions, region_affine, transform_points
from edgepose.core.heatmaps import encode_joints
from edgepose.core.skeletons import LSP14
from edgepose.data import load_data
from edgepose.data.samples import PoseData, PoseSample
from edgepose.evaluate import check_outputs, evaluate
from edgepose.evaluate.report import Accuracy

PERSONS, SIDE, SIZE = 16, 120, (64, 64)
JOINTS = LSP14.joints


@pytest.fixture(scope="module")
def lsp(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Noise pictures, all for testing. The torso spans the picture, so that a random guess is right now and then."""
    root = tmp_path_factory.mktemp("lsp")
    rng = np.random.default_rng(0)
    joints = rng.uniform(10, SIDE - 10, size=(PERSONS, len(JOINTS), 2))
    joints[:, JOINTS.index("right_hip")] = (10, SIDE - 10)
    joints[:, JOINTS.index("left_shoulder")] = (SIDE - 10, 10)
    visible = np.ones((PERSONS, len(JOINTS)))
    visible[:, JOINTS.index("neck")] = 0
    visible[0, JOINTS.index("right_knee")] = 0
    (root / "images").mkdir()
    for number in range(1, PERSONS + 1):
        image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "images" / f"im{number:05d}.jpg"), image)
    stored = np.concatenate([joints, visible[..., None]], axis=2).transpose(1, 2, 0)
    scipy_io.savemat(root / "joints.mat", {"joints": stored})
    (root / "test.txt").write_text("\n".join(str(n) for n in range(1, PERSONS + 1)))
    return f"lsp:{root}"


class KnowingSession:
    """Answers crop after crop with the targets of the persons of a data set, in order.

    The second call is for the mirrored crops, if there is one, and is answered with what a perfect network gives there.
    """

    backend = "fake"

    def __init__(self, samples: list[PoseSample], padding: float) -> None:
        self.inputs = (TensorSpec("images", (None, *SIZE, 3), np.dtype(np.uint8)),)
        self.outputs = (
            TensorSpec("keypoints", (None, 14, 3), np.dtype(np.float32)),
            TensorSpec("heatmaps", (None, 14, 16, 16), np.dtype(np.float32)),
        )
        self.answers = [self._targets(samples, padding, mirror) for mirror in (False, True)]
        self.calls = 0
        self.closed = False

    @staticmethod
    def _targets(samples: list[PoseSample], padding: float, mirror: bool) -> np.ndarray:
        maps = []
        for sample in samples:
            matrix = region_affine(crop_regions(sample.box, SIZE, padding)[0], SIZE, mirror=mirror)
            points = transform_points(sample.joints, matrix)
            points = points[list(LSP14.flip_order)] if mirror else points
            maps.append(encode_joints(points, np.ones(14), (16, 16), sigma=1.0)[0])
        return np.stack(maps)

    def run(self, feeds: Arrays) -> Arrays:
        assert feeds["images"].shape == (PERSONS, *SIZE, 3)
        self.calls += 1
        return {"keypoints": np.zeros((PERSONS, 14, 3), np.float32), "heatmaps": self.answers[self.calls - 1]}

    def close(self) -> None:
        self.closed = True


def make_hollow(path: Path, manifest: Manifest) -> None:
    """A bundle whose files are named and hashed but never opened, because its session is not theirs."""
    for name in (POSE.graph, GOLDENS):
        (path / name).write_bytes(b"")
    write_manifest(path, manifest).with_files(path / POSE.graph, path / GOLDENS)


@pytest.fixture
def knowing(lsp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, KnowingSession]]:
    """A bundle of a given crop padding, and the session that it opens."""

    def make(padding: float = 1.25) -> tuple[Path, KnowingSession]:
        session = KnowingSession(load_data(lsp, "val").samples, padding)
        monkeypatch.setattr(Runner, "open", lambda _: session)
        monkeypatch.setattr(evaluate_module, "choose", lambda opened, *_: Runner(opened, "fake", "fp32", opened.graph))
        path = tmp_path / "knowing.edgepose"
        path.mkdir()
        make_hollow(path, Manifest("knowing", "none", "lsp14", SIZE, crop_padding=padding))
        return path, session

    return make


def test_a_network_that_knows_has_100_percent(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, session = knowing()
    accuracy = evaluate(bundle, lsp)
    assert accuracy.scores.per_joint == {joint: None if joint == "neck" else 100.0 for joint in JOINTS}
    assert (accuracy.scores.value, len(accuracy.scores.persons)) == (100, PERSONS)
    assert (accuracy.target, accuracy.backend, accuracy.precision, accuracy.data) == (str(bundle), "fake", "fp32", lsp)
    assert (session.calls, session.closed) == (1, True)


def test_the_flip_test_asks_twice(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, session = knowing()
    accuracy = evaluate(bundle, lsp, flip=True)
    assert (accuracy.flip, accuracy.scores.value, session.calls) == (True, 100.0, 2)


def test_each_joint_is_counted_by_itself(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, session = knowing()
    knee, head = JOINTS.index("right_knee"), JOINTS.index("head_top")
    heatmaps = session.answers[0]
    heatmaps[:4, knee] = 0  # found at the crop's corner; the first person's is not labelled
    heatmaps[:, head] = 0
    accuracy = evaluate(bundle, lsp)
    assert accuracy.scores.per_joint["right_knee"] == pytest.approx(100 * 12 / 15)
    assert accuracy.scores.per_joint["head_top"] == 0
    assert accuracy.scores.value == pytest.approx((11 * 100 + 80 + 0) / 13)


def test_crops_are_padded_as_the_bundle_says(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, _ = knowing(padding=2.5)
    assert evaluate(bundle, lsp).scores.value == 100


def test_a_bundle_and_its_checkpoint_have_the_same_accuracy(lsp: str, exported: Path, checkpoint: Path) -> None:
    results = {
        "torch": evaluate(checkpoint, lsp),
        **{backend: evaluate(exported, lsp, backend=backend) for backend in ("onnxruntime", "openvino")},
    }
    want = results["torch"].scores
    assert 0 < want.value < 100
    assert len(set(want.per_joint.values())) > 3
    for backend, got in results.items():
        assert got.backend == backend
        assert (got.scores.per_joint, got.scores.value) == (want.per_joint, want.value), backend


def test_a_bundle_needs_no_pytorch(lsp: str, exported: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, safetensors=None, tqdm=None); from edgepose.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["eval", str(exported), "--data", lsp, "--backend", "onnxruntime"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{evaluate(exported, lsp, backend='onnxruntime')}\n"


@pytest.fixture
def accuracy(tmp_path: Path) -> Accuracy:
    """Of three persons in one black picture: found on the spot, found elsewhere, not found."""
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((128, 128, 3), np.uint8))
    points = np.stack([np.linspace(20, 108, 14), np.linspace(30, 98, 14)], axis=1)
    sample = PoseSample(tmp_path / "x.png", points, np.ones(14, bool), np.array([0.0, 0, 128, 128]))
    found = np.column_stack([points, np.ones(14)])
    persons = [
        Person(sample, found, 100.0),
        Person(sample, np.full((14, 3), np.nan), 0.0),
        Person(sample, found - (0, 20, 0), 33.3),
    ]
    joints = {"neck": None, "head_top": 66.66}
    scores = Scores("AP", 66.66, LSP14, {"AP50": 70.0, "APM": None}, "joints right", joints, persons, [])
    split = PoseData("coco", "lsp14", [sample], tmp_path / "x.json", {"crowd": ["a"]}, {1: tmp_path / "x.png"})
    return Accuracy("x", "torch", "fp32", "coco:y", split, "b.json", True, "dark", (64, 64), 1.0, scores)


def test_figures_are_printed_and_written(accuracy: Accuracy, tmp_path: Path) -> None:
    assert str(accuracy).splitlines() == [
        "AP 66.7 %",
        "3 persons in 1 pictures, torch fp32, boxes of b.json, flip test, dark decoding",
        "  AP50              70.0 %",
        "  APM             not labelled",
        "joints right:",
        "  neck            not labelled",
        "  head_top          66.7 %",
        "skipped 1 (1 crowd): a",
    ]
    accuracy.save(tmp_path / "a" / "x.json")
    text = (tmp_path / "a" / "x.json").read_text()
    assert "NaN" not in text  # which is not JSON
    report = json.loads(text)
    assert (report["metric"], report["value"], report["persons"], report["pictures"]) == ("AP", 66.66, 3, 1)
    assert report["figures"] == {"AP50": 70, "APM": None}
    assert report["settings"]["input_size"] == [64, 64]
    assert report["skipped"] == {"crowd": ["a"]}
    assert report["environment"]["versions"]["numpy"] == np.__version__


def test_a_published_protocol_is_said_with_what_differs(accuracy: Accuracy) -> None:
    said = "3 persons in 1 pictures, torch fp32, {}, flip test, dark decoding, as published: flip test (X, section 1)"
    same = replace(accuracy, published="X, section 1")
    assert str(same).splitlines()[1] == said.format("boxes of b.json")
    easier = "but the papers' tables of COCO have detected boxes (--boxes)"
    labelled = replace(same, boxes="gt")
    assert str(labelled).splitlines()[1] == f"{said.format('labelled boxes')}, {easier}"
    assert easier not in str(replace(labelled, split=replace(labelled.split, kind="mpii")))  # whose boxes are given
    assert (same.to_json()["published"], accuracy.to_json()["published"]) == ("X, section 1", None)


def test_a_paper_decides_on_the_flip_test(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, session = knowing()
    make_hollow(bundle, Manifest("knowing", "ditn_hrnet_w32", "lsp14", SIZE))
    accuracy = evaluate(bundle, lsp, as_published=True)
    assert (accuracy.flip, accuracy.scores.value, session.calls) == (True, 100.0, 2)
    assert accuracy.published == "DITN, section 4.1.2"


def test_results_are_written_in_cocos_form(
    lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]], tmp_path: Path
) -> None:
    bundle, session = knowing()
    accuracy, samples = evaluate(bundle, lsp, decode="dark"), load_data(lsp, "val").samples
    accuracy.save_results(tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert [r["image_id"] for r in results] == [s.image_id for s in samples]
    points = np.reshape([r["keypoints"] for r in results], (PERSONS, 14, 3))
    np.testing.assert_allclose(points[..., :2], [s.joints for s in samples], atol=0.6 * SIDE * 1.5 / 16)
    np.testing.assert_array_equal(points[..., 2], session.answers[0].max(axis=(2, 3)))
    assert {(r["category_id"], r["score"]) for r in results} == {(1, 1.0)}


def test_the_worst_persons_are_drawn(accuracy: Accuracy, tmp_path: Path) -> None:
    accuracy.draw_worst(tmp_path / "worst.png", count=2)
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "worst.png")), cv2.COLOR_BGR2RGB)
    side, line = 384, 34  # crops of 64 are enlarged six times
    assert picture.shape == (line + side + line, 2 * side, 3)
    first, second = picture[line : line + side, :side], picture[line : line + side, side:]
    blue, orange = (0, 200, 255), (255, 90, 0)
    assert (first == blue).all(axis=2).sum() > 500
    assert not (first == orange).all(axis=2).any(), "nothing was found of the worst"
    # The second's joint 7 is labelled in the middle of the picture, and found 20 of its 128 pixels further up.
    x, y = (6 * (np.array([20 + 88 * 7 / 13, 30 + 68 * 7 / 13]) / 2 + 0.5)).round().astype(int)
    assert tuple(second[y, x]) == blue
    assert tuple(second[y - 60, x]) == orange
    with pytest.raises(UsageError, match=r"cannot write picture .*worst\.txt: its name must end in one of"):
        accuracy.draw_worst(tmp_path / "worst.txt")


def test_places_that_can_be_written_are_left_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    check_outputs(tmp_path / "new" / "folder" / "x.PNG", tmp_path / "old.json", tmp_path / "x", None)
    check_outputs(None)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("worst.txt", r"cannot write picture .*worst\.txt: its name must end in one of \.jpg"),
        ("worst", r"cannot write picture .*worst: its name must end in one of \.jpg"),
        ("folder.png", r"cannot write .*folder\.png: it is a folder, expected the name of a file"),
        ("file/new/x.png", r"cannot write .*file/new/x\.png: Not a directory"),
    ],
)
def test_places_that_cannot_be_written_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=message):
        check_outputs(tmp_path / name)
    if name.endswith(".png"):
        with pytest.raises(UsageError, match=message):
            check_outputs(None, tmp_path / "x.json", tmp_path / name)


def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any user but root would see it."""

    def refused(**options: Path) -> None:
        assert options == {"dir": tmp_path}
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("edgepose.core.files.TemporaryFile", refused)
    with pytest.raises(UsageError, match=r"cannot write .*new/x\.json: Permission denied"):
        check_outputs(None, tmp_path / "new/x.json")


def test_what_cannot_be_evaluated_is_refused(
    lsp: str, checkpoint: Path, tmp_path: Path, knowing: Callable[..., tuple[Path, KnowingSession]]
) -> None:
    import torch

    bundle, session = knowing()
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    for target, backend, message in (
        (tmp_path / "none", "auto", "none is not a bundle: expected a folder"),
        (tmp_path / "x.pth", "auto", r"x\.pth does not contain the name of its model: export it with that name"),
        (checkpoint, "openvino", "runs in PyTorch only: export it to run on openvino"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(target, lsp, backend=backend)
    make_hollow(bundle, Manifest("knowing", "none", "mpii16", SIZE))
    with pytest.raises(UsageError, match=r"expected keypoints float32 \(N, 16, 3\)"):
        evaluate(bundle, lsp)
    assert session.closed


@pytest.fixture(scope="module")
def coco_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint of COCO's joints."""
    from edgepose.models.checkpoint import ModelSpec, save_checkpoint

    spec, path = ModelSpec("ditn_lite", "coco17", SIZE), tmp_path_factory.mktemp("coco") / "coco.safetensors"
    save_checkpoint(path, spec.build(), spec)
    return path


def test_labels_of_another_skeleton_are_refused_or_shared(lsp: str, coco_network: Path) -> None:
    with pytest.raises(
        UsageError, match=r"predicts the 17 joints of coco17, the data label the 14 of lsp14: evaluate on"
    ):
        evaluate(coco_network, lsp)
    accuracy = evaluate(coco_network, lsp, shared_joints=True)
    assert accuracy.scores.headline.startswith("PCK@0.2 of the torso (12 shared joints) ")
    assert list(accuracy.scores.per_joint) == list(JOINTS[:12])


def test_detected_boxes_are_read_and_named(coco_network: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    cv2.imwrite(str(tmp_path / "val/x.png"), np.zeros((50, 50, 3), np.uint8))
    person = {
        "id": 1,
        "image_id": 7,
        "bbox": [0, 0, 40, 40],
        "area": 900,
        "num_keypoints": 17,
        "keypoints": [9, 9, 2] * 17,
    }
    labels = {"images": [{"id": 7, "file_name": "x.png"}], "annotations": [person]}
    (tmp_path / "annotations/person_keypoints_val.json").write_text(json.dumps(labels))
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": i, "bbox": [0, 0, 30, 30], "score": 0.5} for i in (7, 7, 8)]))
    accuracy = evaluate(coco_network, f"coco:{tmp_path}", boxes=str(boxes))
    assert [r["image_id"] for r in accuracy.scores.results] == [7], "the same box twice is the same pose twice"
    assert accuracy.split.skipped == {"detection: picture not in the data": ["entry 2"]}
    assert f"1 persons in 1 pictures, torch fp32, boxes of {boxes}" in str(accuracy)
    assert accuracy.to_json()["settings"]["boxes"] == str(boxes)
    with pytest.raises(UsageError, match=r"missing\.json"):
        evaluate(coco_network, f"coco:{tmp_path}", boxes=str(tmp_path / "missing.json"))
