"""Bundles to prove, and machines to prove them on."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgepose import prove as prove_module
from edgepose.backends.plan import Runner
from edgepose.bench.network import BenchReport, Row, bench
from edgepose.build import options as options_module
from edgepose.bundle.bundle import Bundle
from edgepose.core.timing import Latency
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia import tensorrt as nvidia_tensorrt
from edgepose.verify import verify
from tests.doubles.pose_network import make_bundle
from tests.doubles.tensorrt_double import tensorrt_double
from tests.prove.proofs import GPU, QUICK


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real measurements of two calls each."""
    monkeypatch.setattr(prove_module, "bench", partial(bench, budget=QUICK))


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, tuple[int, ...]]]:
    """No measurements, and the list of those that were asked for."""
    asked = []

    def fake(bundle: Bundle, targets: list[str], batches: tuple[int, ...], precisions: list[str]) -> BenchReport:
        asked.append((targets[0], precisions[0], batches))
        runner = Runner(bundle, targets[0], precisions[0], bundle.graph)
        times = {n: Latency(2.0 * n, 3.0, 4.0, 9) for n in sorted({*batches})}
        rows = [Row(runner, n, latency, 500.0, 7.0, 80.0) for n, latency in times.items()]
        return BenchReport(bundle, tuple(rows), {}, QUICK)

    monkeypatch.setattr(prove_module, "bench", fake)
    return asked


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle, and a machine whose TensorRT builds its int8+fp16 graph only; what runs is the FP32 graph."""
    trt = tensorrt_double("10.3.0")
    monkeypatch.setattr(nvidia_tensorrt, "load_target", lambda _: trt)
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: None)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: GPU)
    monkeypatch.setattr(options_module, "_JETSON", tmp_path / "not a Jetson")
    monkeypatch.setattr(prove_module, "unavailable", lambda _: None)
    monkeypatch.setattr("edgepose.backends.backend.find_spec", lambda _: True)
    cuda = {"cudaDriverGetVersion": lambda: (0, 12060), "cudaRuntimeGetVersion": lambda: (0, 13000)}
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", SimpleNamespace(**cuda))

    def replay(bundle: Bundle, targets: list[str], precisions: list[str]) -> Any:
        report = verify(bundle, ["onnxruntime"], ["fp32"])
        runner = Runner(bundle, targets[0], precisions[0], bundle.graph)
        checks = (replace(check, runner=runner) for check in report.checks)
        return replace(report, checks=tuple(checks))

    monkeypatch.setattr(prove_module, "verify", replay)
    return make_bundle(tmp_path / "typed.edgepose", "int8+fp16")
