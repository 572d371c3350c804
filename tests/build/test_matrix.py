"""Several engines in one go, with TensorRT-RTX for real."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgepose.build import matrix as matrix_module
from edgepose.build.matrix import Matrix, MatrixRow, build_matrix, plan_matrix
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.cli import main
from edgepose.core.errors import CheckError, UsageError
from edgepose.nvidia import device as nvidia_device
from tests.doubles.pose_network import make_bundle, pose_model, put_graph

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "no GPU in this test")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "typed.edgepose", "fp16")


def test_what_is_built(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"tensorrt": "there is no GPU", RTX: None}
    monkeypatch.setattr(matrix_module, "cannot_build", lambda target, _: reasons[target])
    assert plan_matrix(bundle, None, None) == [(RTX, "fp32"), (RTX, "fp16")]
    assert plan_matrix(bundle, ["tensorrt", RTX], ["int8"]) == [("tensorrt", "int8"), (RTX, "int8")]
    assert plan_matrix(bundle, [RTX, RTX], ["fp16", "fp16"]) == [(RTX, "fp16")]
    reasons[RTX] = "it is not installed"
    with pytest.raises(UsageError, match="no engine can be built here: there is no GPU; it is not installed"):
        plan_matrix(bundle, None, None)


@needs_rtx
def test_one_failure_does_not_stop_the_others(bundle: Bundle) -> None:
    bundle = put_graph(bundle, pose_model(), "bf16")
    said: list[str] = []
    matrix = build_matrix(bundle, [(RTX, name) for name in ("bf16", "int8", "fp32", "fp16")], say=said.append)
    assert [row.record is not None for row in matrix.rows] == [False, False, True, True]
    assert said[:2] == ["tensorrt-rtx bf16: failed", "tensorrt-rtx int8: failed"]
    assert re.fullmatch(r"tensorrt-rtx fp32: \d+\.\d s", said[2])
    engines = open_bundle(bundle.path).engines()
    assert [row.megabytes for row in matrix.rows[2:]] == [path.stat().st_size / 1e6 for path in engines[::-1]]

    lines = str(matrix).splitlines()
    assert lines[0].split() == ["precision", "target", "seconds", "MB", "convolutions", "layers", "by", "datatype"]
    assert lines[1].split() == ["bf16", RTX, "-", "-", "-", "-"]
    assert re.match(r"fp16 +tensorrt-rtx +\d+\.\d +0\.\d +3 float16 +\d+ float", lines[4])
    assert lines[5].startswith("tensorrt-rtx bf16 failed: expected bf16, no convolution of ")
    assert lines[6].startswith("tensorrt-rtx int8 failed: bundle ")
    assert len(lines) == 7
    with pytest.raises(CheckError, match="2 of 4 engines failed: tensorrt-rtx bf16, tensorrt-rtx int8"):
        matrix.require_passed()


def test_exit_codes_of_a_matrix() -> None:
    wrong, failed = UsageError("not installed"), CheckError("FP32 was built")
    Matrix((MatrixRow(RTX, "fp32"),)).require_passed()
    with pytest.raises(UsageError, match="1 of 2 engines failed: tensorrt fp32"):
        Matrix((MatrixRow(RTX, "fp32"), MatrixRow("tensorrt", "fp32", failure=wrong))).require_passed()
    with pytest.raises(CheckError):
        Matrix((MatrixRow(RTX, "fp32", failure=failed), MatrixRow("tensorrt", "fp32", failure=wrong))).require_passed()


@needs_rtx
def test_the_command(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(bundle.path), "--all"]) == 0
    assert "fp16       tensorrt-rtx" in capsys.readouterr().out
    assert len(open_bundle(bundle.path).engines()) == 2
    arguments = ["build", str(bundle.path), "--target", RTX, "--precision", "fp16", "--batch", "1,2,3"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"engine: {bundle.path}/engines/tensorrt-rtx-")
    assert "batches 1/2/3" in out
    assert main([*arguments[:5], "fp16,int8"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "edgepose: 1 of 2 engines failed: tensorrt-rtx int8\n"
    assert "tensorrt-rtx int8 failed: bundle " in captured.out


def test_the_command_needs_to_know_what_to_build(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(bundle.path)]) == 2
    assert "build needs --target tensorrt or tensorrt-rtx (or --all" in capsys.readouterr().err
