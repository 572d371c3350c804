"""verify --data: what each precision loses against FP32, by value."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgepose.bundle.bundle import Bundle
from edgepose.core.errors import CheckError, UsageError
from edgepose.verify import verify
from edgepose.verify.drop import AccuracyCheck, check_accuracy
from edgepose.verify.page import verify_page
from tests.doubles.tiny_bundle import make_bundle

PAIRS = (("openvino", "fp32"), ("openvino", "int8"), ("torch", "fp32"))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Accuracies are made up: FP32 70 %, INT8 69.4 %, FP16 NaN."""
    seen = []

    def evaluate(target: Path, data: str, *, backend: str, precision: str) -> SimpleNamespace:
        assert target.name == "tiny.edgepose" and data == "lsp:x"
        seen.append((backend, precision))
        if precision == "fp16":
            raise CheckError("the network gave NaN")
        ran_on = "openvino" if backend == "auto" else backend
        value = {"fp32": 70.0, "int8": 69.4}[precision]
        return SimpleNamespace(backend=ran_on, scores=SimpleNamespace(name="AP", value=value))

    monkeypatch.setattr("edgepose.evaluate.evaluate", evaluate)
    return seen


def test_a_drop_beyond_the_limit_fails(bundle: Bundle, asked: list[tuple[str, str]]) -> None:
    report = check_accuracy(bundle, PAIRS, "lsp:x", 0.5)
    assert asked == list(PAIRS), "FP32 is not evaluated twice"
    assert (report.metric, report.reference, report.reference_backend) == ("AP", 70.0, "openvino")
    good, bad, torch = report.checks
    assert good == AccuracyCheck("openvino", "fp32", 70.0, 0.0) and torch.problem is None
    assert bad.drop == pytest.approx(0.6) and bad.cells == ("69.40", "0.60")
    assert bad.problem == "AP is 69.40 %, 0.60 points below FP32's 70.00 %, the limit is 0.5"
    assert all(check.problem is None for check in check_accuracy(bundle, PAIRS, "lsp:x", 1.0).checks)


def test_fp32_is_the_measure_even_where_it_was_not_asked_for(bundle: Bundle, asked: list[tuple[str, str]]) -> None:
    report = check_accuracy(bundle, (("openvino", "int8"), ("onnxruntime", "fp16")), "lsp:x", 0.5)
    assert asked == [("auto", "fp32"), ("openvino", "int8"), ("onnxruntime", "fp16")]
    assert report.checks[0].problem is not None
    assert report.checks[1] == AccuracyCheck("onnxruntime", "fp16", problem="the network gave NaN")
    assert report.checks[1].cells == ("-", "-")


@pytest.mark.parametrize("drop", [-0.1, 101, float("nan"), float("inf")])
def test_a_drop_that_is_none_is_refused(bundle: Bundle, asked: list[tuple[str, str]], drop: float) -> None:
    with pytest.raises(UsageError, match="points, expected 0 to 100"):
        check_accuracy(bundle, PAIRS, "lsp:x", drop)
    assert not asked


def test_data_that_cannot_be_read_are_refused_before_any_replay(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepose.verify.check_backend", lambda *_: pytest.fail("replayed"))
    with pytest.raises(UsageError, match="nothing"):
        verify(bundle, ["onnxruntime"], data="lsp:nothing")


def test_the_reports_hold_the_accuracies(
    bundle: Bundle, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = verify(bundle, ["onnxruntime"], data="lsp:x")
    assert report.passed and asked == [("onnxruntime", "fp32")]
    monkeypatch.setattr("edgepose.verify.choose_pairs", lambda *_: ((("onnxruntime", "fp32"),), {}))
    failed = check_accuracy(bundle, PAIRS, "lsp:x", 0.5)
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


def test_a_real_data_set_is_measured(bundle: Bundle, tmp_path: Path) -> None:
    """Two blank pictures: whatever is found, the same network finds the same on every backend."""
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
    report = verify(bundle, ["onnxruntime", "openvino"], data=f"lsp:{root}", max_drop=0.0)
    assert report.passed and report.accuracy is not None
    first, second = report.accuracy.checks
    assert (first.backend, second.backend) == ("onnxruntime", "openvino")
    assert first.value == second.value == report.accuracy.reference
    assert report.accuracy.metric.startswith("PCK")


def test_the_command_has_the_librarys_default() -> None:
    from edgepose.cli import _parser
    from edgepose.verify.drop import MAX_DROP

    assert _parser().parse_args(["verify", "x"]).max_drop == MAX_DROP
