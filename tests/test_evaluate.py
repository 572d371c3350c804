"""eval by value: networks whose answers are known, and one network in two forms."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
scipy_io = pytest.importorskip("scipy.io")

from edgepose import evaluate as evaluate_module  # noqa: E402
from edgepose.bundle import Manifest, write_manifest  # noqa: E402
from edgepose.errors import UsageError  # noqa: E402
from edgepose.evaluate import Accuracy, evaluate  # noqa: E402
from edgepose.geometry import crop_regions, region_affine, transform_points  # noqa: E402
from edgepose.heatmaps import encode_joints  # noqa: E402
from edgepose.runtime.session import Arrays, TensorSpec  # noqa: E402
from edgepose.skeletons import LSP14  # noqa: E402
from edgepose.train.data import PoseSample, load_samples  # noqa: E402

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


@pytest.fixture
def knowing(lsp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, KnowingSession]]:
    """A bundle of a given crop padding, and the session that it opens."""

    def make(padding: float = 1.25) -> tuple[Path, KnowingSession]:
        session = KnowingSession(load_samples(lsp, "test"), padding)
        monkeypatch.setattr(evaluate_module, "open_session", lambda _bundle, _backend: session)
        path = tmp_path / "knowing.edgepose"
        path.mkdir()
        write_manifest(path, Manifest("knowing", "none", "lsp14", SIZE, crop_padding=padding))
        return path, session

    return make


def test_a_network_that_knows_has_100_percent(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, session = knowing()
    accuracy = evaluate(bundle, lsp)
    expected = {joint: None if joint == "neck" else 100.0 for joint in JOINTS}
    assert accuracy == Accuracy(str(bundle), "fake", lsp, PERSONS, False, expected, 100.0)
    assert (session.calls, session.closed) == (1, True)


def test_the_flip_test_asks_twice(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, session = knowing()
    accuracy = evaluate(bundle, lsp, flip=True)
    assert (accuracy.flip, accuracy.mean, session.calls) == (True, 100.0, 2)


def test_each_joint_is_counted_by_itself(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, session = knowing()
    knee, head = JOINTS.index("right_knee"), JOINTS.index("head_top")
    heatmaps = session.answers[0]
    heatmaps[:4, knee] = 0  # found at the crop's corner; the first person's is not labelled
    heatmaps[:, head] = 0
    accuracy = evaluate(bundle, lsp)
    assert accuracy.per_joint["right_knee"] == pytest.approx(100 * 12 / 15)
    assert accuracy.per_joint["head_top"] == 0
    assert accuracy.mean == pytest.approx((11 * 100 + 80 + 0) / 13)


def test_crops_are_padded_as_the_bundle_says(lsp: str, knowing: Callable[..., tuple[Path, KnowingSession]]) -> None:
    bundle, _ = knowing(padding=2.5)
    assert evaluate(bundle, lsp).mean == 100


def test_a_bundle_and_its_checkpoint_have_the_same_accuracy(lsp: str, exported: Path, checkpoint: Path) -> None:
    results = {
        "torch": evaluate(checkpoint, lsp),
        **{backend: evaluate(exported, lsp, backend=backend) for backend in ("onnxruntime", "openvino")},
    }
    want = results["torch"]
    assert 0 < want.mean < 100
    assert len(set(want.per_joint.values())) > 3
    for backend, got in results.items():
        assert got.backend == backend
        assert (got.per_joint, got.mean, got.persons) == (want.per_joint, want.mean, PERSONS), backend


def test_a_bundle_needs_no_pytorch(lsp: str, exported: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, safetensors=None, tqdm=None); from edgepose.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["eval", str(exported), "--data", lsp, "--backend", "onnxruntime"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == evaluate(exported, lsp, backend="onnxruntime").table() + "\n"


def test_figures_are_printed_and_written(tmp_path: Path) -> None:
    accuracy = Accuracy("x", "torch", "lsp:y", 2, True, {"neck": None, "head_top": 66.66}, 66.66)
    assert accuracy.table().splitlines() == [
        "PCK@0.2 (torso), 2 persons, torch, flip test",
        "  neck            not labelled",
        "  head_top          66.7 %",
        "  mean              66.7 %",
    ]
    accuracy.save(tmp_path / "a" / "x.json")
    text = (tmp_path / "a" / "x.json").read_text()
    assert "NaN" not in text  # which is not JSON
    assert json.loads(text) == vars(accuracy)


def test_what_cannot_be_evaluated_is_refused(
    lsp: str, checkpoint: Path, tmp_path: Path, knowing: Callable[..., tuple[Path, KnowingSession]]
) -> None:
    import torch

    bundle, session = knowing()
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    for target, backend, message in (
        (tmp_path / "none", "auto", "none is not a bundle: expected a folder"),
        (tmp_path / "x.pth", "auto", r"x\.pth does not say which model it is of: export it to a bundle first"),
        (checkpoint, "openvino", "runs in PyTorch only: export it to run on openvino"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(target, lsp, backend=backend)
    write_manifest(bundle, Manifest("knowing", "none", "mpii16", SIZE))
    with pytest.raises(UsageError, match=r"expected keypoints float32 \(N, 16, 3\)"):
        evaluate(bundle, lsp)
    assert session.closed


def test_labels_of_another_skeleton_are_refused(lsp: str, tmp_path: Path) -> None:
    from edgepose.train.checkpoint import ModelSpec, save_checkpoint

    spec = ModelSpec("ditn_lite", "coco17", SIZE)
    save_checkpoint(tmp_path / "coco.safetensors", spec.build(), spec)
    with pytest.raises(UsageError, match=r"predicts the 17 joints of coco17, lsp:.* labels 14: evaluate on data of"):
        evaluate(tmp_path / "coco.safetensors", lsp)
