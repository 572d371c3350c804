"""What prove refuses, before anything is done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("onnx")


from edgepose import prove as prove_module
from edgepose.bundle.bundle import Bundle
from edgepose.bundle.manifest import GOLDENS
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia import tensorrt as nvidia_tensorrt
from edgepose.prove import TARGETS
from tests.prove.proofs import Refuse


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target cuda", f"unknown target 'cuda': expected one of {', '.join(TARGETS)}"),
        ("--target onnxruntime,torch", "unknown target 'torch'"),
        ("--target onnxruntime,", "unknown target ''"),
        ("", "required: --target (see edgepose prove --help)"),
        ("--target onnxruntime --precision fp8", "unknown precision 'fp8': expected one of fp32, fp16"),
        ("--target onnxruntime --precision fp32,int8", "has no int8 graph, only fp32; make it with: edgepose calibr"),
        ("--target openvino --batch 1,2", "'1,2' is not MIN,TYPICAL,MAX, such as 1,8,32"),
        ("--target openvino --batch 8,1,32", "--batch must be 1 <= smallest <= typical <= largest"),
        ("--target openvino --data lsp:nowhere", "nowhere is not a folder, expected that of the data set"),
        ("--target openvino --data lsp:nowhere --max-drop -1", "the largest drop is -1 points, expected 0 to 100"),
        ("--target openvino -o {bundle}/pose.onnx", "cannot write "),
        ("--target openvino -o {bundle}/pose.onnx/x", "cannot write "),
    ],
)
def test_wrong_input_is_refused_before_anything_is_done(
    bundle: Bundle, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    for name in ("build_engine", "verify", "bench"):
        monkeypatch.setattr(prove_module, name, lambda *_: pytest.fail("a step was taken"))
    assert message in refuse("prove", bundle.path, *options.format(bundle=bundle.path).split())
    assert not bundle.reports.exists()


def test_what_the_target_cannot_compute_is_refused_if_it_was_named(shipped_variants: Path, refuse: Refuse) -> None:
    said = refuse("prove", shipped_variants, "--target", "onnxruntime", "--precision", "bf16")
    assert "cannot run here in bf16: ONNX Runtime's CPU provider has no bf16 convolution" in said


def test_what_is_no_bundle_is_refused(tmp_path: Path, bundle: Bundle, refuse: Refuse) -> None:
    (tmp_path / "empty.edgepose").mkdir()
    on = ("--target", "onnxruntime")
    assert "is not a bundle: it has no manifest.json" in refuse("prove", tmp_path / "empty.edgepose", *on)
    assert "is not a bundle: expected a folder" in refuse("prove", tmp_path / "none", *on)
    (bundle.path / GOLDENS).write_bytes(b"")
    bundle = bundle.with_files(bundle.path / GOLDENS)
    assert "golden.npz is damaged" in refuse("prove", bundle.path, *on)
    os.truncate(bundle.graph, 10)
    assert "pose.onnx was changed after the manifest was written" in refuse("prove", bundle.path, *on)


def test_engines_need_a_gpu(bundle: Bundle, refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "there is no NVIDIA driver: install the driver of your GPU"
    monkeypatch.setattr(nvidia_tensorrt, "load_target", lambda _: None)
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: missing)
    monkeypatch.setattr(prove_module, "unavailable", lambda _: missing)
    said = refuse("prove", bundle.path, "--target", "tensorrt,tensorrt-rtx")
    assert said == f"edgepose: tensorrt builds engines only on the GPU they will run on: {missing}\n"
    said = refuse("prove", bundle.path, "--target", "tensorrt-rtx")
    assert said == f"edgepose: tensorrt-rtx can build engines here, but not run them: {missing}\n"
    assert not bundle.reports.exists()


def test_a_target_that_is_not_installed_has_its_line(
    bundle: Bundle, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepose.nvidia.tensorrt.find_spec", lambda _: None)
    monkeypatch.setattr("edgepose.backends.backend.find_spec", lambda _: None)
    for target, line in {
        "tensorrt": "pip install tensorrt; on Jetson it is part of JetPack",
        "tensorrt-rtx": "pip install 'edgepose[rtx]'",
        "openvino": "pip install 'edgepose[openvino]'",
    }.items():
        assert line in refuse("prove", bundle.path, "--target", target)
