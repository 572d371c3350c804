"""verify --data: what each precision loses against FP32, by value."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgepose import data as data_module
from edgepose.backends.plan import Plan, Runner
from edgepose.bundle.bundle import Bundle
from edgepose.cli import main
from edgepose.core import files
from edgepose.core.errors import CheckError, UsageError
from edgepose.data import PoseData
from edgepose.verify import verify
from edgepose.verify.drop import MAX_DROP, AccuracyCheck, check_accuracy
from edgepose.verify.page import verify_page
from tests.doubles.pose_network import make_bundle

PAIRS = (("openvino", "fp32"), ("openvino", "int8"), ("torch", "fp32"))
SPLIT = object()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Accuracies are made up: FP32 70 %, INT8 69.4 %, FP16 NaN."""
    seen = []

    def read(data: str, split: str) -> object:
        assert (data, split) == ("lsp:x", "val")
        return SPLIT

    def score(runner: Runner, split: object) -> SimpleNamespace:
        assert runner.bundle.path.name == "tiny.edgepose" and split is SPLIT
        seen.append((runner.backend, runner.precision))
        if runner.precision == "fp16":
            raise CheckError("the network gave NaN")
        return SimpleNamespace(name="AP", value={"fp32": 70.0, "int8": 69.4}[runner.precision])

    monkeypatch.setattr("edgepose.verify.drop.load_data", read)
    monkeypatch.setattr("edgepose.verify.drop.score_runner", score)
    return seen


def runners(bundle: Bundle, *pairs: tuple[str, str]) -> tuple[Runner, ...]:
    """Runners whose files nobody opens."""
    return tuple(Runner(bundle, backend, precision, bundle.graph) for backend, precision in pairs)


def test_a_drop_beyond_the_limit_fails(bundle: Bundle, asked: list[tuple[str, str]]) -> None:
    report = check_accuracy(bundle, runners(bundle, *PAIRS), "lsp:x", 0.5)
    assert asked == list(PAIRS), "FP32 is not evaluated twice"
    assert (report.metric, report.reference, report.reference_backend) == ("AP", 70.0, "openvino")
    good, bad, torch = report.checks
    assert good == AccuracyCheck(runners(bundle, ("openvino", "fp32"))[0], 70.0, 0.0) and torch.problem is None
    assert bad.drop == pytest.approx(0.6) and bad.cells == ("69.40", "0.60")
    assert bad.problem == "AP is 69.40 %, 0.60 points below FP32's 70.00 %, the limit is 0.5"
    assert all(check.problem is None for check in check_accuracy(bundle, runners(bundle, *PAIRS), "lsp:x", 1.0).checks)


def test_fp32_is_the_measure_even_where_it_was_not_asked_for(
    bundle: Bundle, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepose.verify.drop.choose", lambda *asked: runners(bundle, ("torch", asked[2]))[0])
    coarse = runners(bundle, ("openvino", "int8"), ("onnxruntime", "fp16"))
    report = check_accuracy(bundle, coarse, "lsp:x", 0.5)
    assert asked == [("torch", "fp32"), ("openvino", "int8"), ("onnxruntime", "fp16")]
    assert report.reference_backend == "torch"
    assert report.checks[0].problem is not None
    assert report.checks[1] == AccuracyCheck(coarse[1], problem="the network gave NaN")
    assert report.checks[1].cells == ("-", "-")


@pytest.mark.parametrize("drop", [-0.1, 101, float("nan"), float("inf")])
def test_a_drop_that_is_none_is_refused(bundle: Bundle, asked: list[tuple[str, str]], drop: float) -> None:
    with pytest.raises(UsageError, match="points, expected 0 to 100"):
        check_accuracy(bundle, runners(bundle, *PAIRS), "lsp:x", drop)
    assert not asked


def test_data_that_cannot_be_read_are_refused_before_any_replay(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepose.verify.check_runner", lambda *_: pytest.fail("replayed"))
    with pytest.raises(UsageError, match="nothing"):
        verify(bundle, ["onnxruntime"], data="lsp:nothing")


def test_the_reports_hold_the_accuracies(
    bundle: Bundle, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = verify(bundle, ["onnxruntime"], data="lsp:x")
    assert report.passed and asked == [("onnxruntime", "fp32")]
    exact = Plan(runners(bundle, ("onnxruntime", "fp32")), {})
    monkeypatch.setattr("edgepose.verify.plan", lambda *_: exact)
    failed = check_accuracy(bundle, runners(bundle, *PAIRS), "lsp:x", 0.5)
    monkeypatch.setattr("edgepose.verify.check_accuracy", lambda *_: failed)
    report = verify(bundle, data="lsp:x")
    assert not report.passed
    assert "accuracy on lsp:x:\nbackend   precision  metric  percent  drop  result\n" in str(report)
    assert "openvino int8, lsp:x: AP is 69.40 %, 0.60 points below" in str(report)
    with pytest.raises(CheckError, match=r"^verify: 1 of 5 checks failed; openvino int8, lsp:x: AP is 69.40 %"):
        report.require_passed()
    assert report.to_json()["accuracy"]["checks"][1]["value"] == 69.4
    page = verify_page(report)
    assert "<h2>Accuracy on lsp:x</h2>" in page and "0.60 points below FP32" in page


@pytest.fixture
def lsp(tmp_path: Path) -> str:
    """Two pictures of noise, to test on."""
    io = pytest.importorskip("scipy.io")
    import cv2
    import numpy as np

    root = tmp_path / "lsp"
    (root / "images").mkdir(parents=True)
    joints = np.random.default_rng(0).uniform(10, 90, (2, 14, 2))
    for number in (1, 2):
        noise = np.random.default_rng(number).integers(0, 256, (100, 100, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "images" / f"im{number:05d}.jpg"), noise)
    io.savemat(root / "joints.mat", {"joints": np.concatenate([joints, np.ones((2, 14, 1))], 2).transpose(1, 2, 0)})
    (root / "test.txt").write_text("1\n2")
    return f"lsp:{root}"


def test_a_real_data_set_is_measured(bundle: Bundle, lsp: str) -> None:
    """Two blank pictures: whatever is found, the same network finds the same on every backend."""
    report = verify(bundle, ["onnxruntime", "openvino"], data=lsp, max_drop=0.0)
    assert report.passed and report.accuracy is not None
    first, second = report.accuracy.checks
    assert (first.runner.backend, second.runner.backend) == ("onnxruntime", "openvino")
    assert first.value == second.value == report.accuracy.reference
    assert report.accuracy.metric.startswith("PCK")


def test_labels_are_read_once_and_every_file_of_the_bundle_is_hashed_once(
    bundle: Bundle, lsp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, hashed = [], []
    load, digest = data_module.load_lsp, files.sha256

    def counting_load(root: Path, split: str) -> PoseData:
        read.append((str(root), split))
        return load(root, split)

    def counting_digest(path: Path) -> str:
        hashed.append(path.name)
        return digest(path)

    monkeypatch.setitem(data_module._KINDS, "lsp", counting_load)
    for module in [module for module in [*sys.modules.values()] if getattr(module, "sha256", None) is digest]:
        monkeypatch.setattr(module, "sha256", counting_digest)
    assert main(["verify", str(bundle.path), "--backend", "onnxruntime,openvino", "--data", lsp]) == 0
    assert read == [(lsp.removeprefix("lsp:"), "val")]
    assert sorted(hashed) == ["golden.npz", "pose.onnx"]


def test_the_command_has_the_librarys_default(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stop(*values: object, **options: object) -> None:
        asked.append(inspect.signature(verify).bind(*values, **options))
        raise UsageError("enough")

    monkeypatch.setattr("edgepose.verify.verify", stop)
    assert main(["verify", str(bundle.path), "--data", "lsp:x"]) == 2
    asked[0].apply_defaults()
    assert (asked[0].arguments["data"], asked[0].arguments["max_drop"]) == ("lsp:x", MAX_DROP)
