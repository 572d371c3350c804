"""Bundles to prove, and machines to prove them on."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from proofs import GPU, QUICK
from tiny_bundle import make_bundle

from edgepose import prove as prove_module
from edgepose.bench import BenchReport, Row, bench
from edgepose.bundle import GOLDENS, Bundle, Goldens
from edgepose.export import build_options as options_module
from edgepose.export import engine as engine_module
from edgepose.prove import device as device_module
from edgepose.runtime.backends import onnxruntime as onnxruntime_module
from edgepose.runtime.backends import tensorrt as tensorrt_module
from edgepose.timing import Latency
from edgepose.verify import verify


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
        pair, times = (targets[0], precisions[0]), {n: Latency(2.0 * n, 3.0, 4.0, 9) for n in sorted({*batches})}
        rows = [Row(*pair, n, latency, 500.0, 7.0, 80.0) for n, latency in times.items()]
        return BenchReport(bundle, tuple(rows), {}, QUICK)

    monkeypatch.setattr(prove_module, "bench", fake)
    return asked


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle, and a machine whose TensorRT builds its int8+fp16 graph only; what runs is the FP32 graph."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "export"))
    graphs, small, double = map(importlib.import_module, ("engine_graphs", "small_graph", "tensorrt_double"))
    trt = double.tensorrt_double("10.3.0")
    for module in (engine_module, tensorrt_module):
        monkeypatch.setattr(module, "load_target", lambda _: trt)
    for module in (engine_module, tensorrt_module, device_module):
        monkeypatch.setattr(module, "gpu_missing", lambda: None)
        monkeypatch.setattr(module, "device_info", lambda: GPU)
    monkeypatch.setattr(options_module, "_JETSON", tmp_path / "not a Jetson")
    monkeypatch.setattr(prove_module, "unavailable", lambda _: None)
    cuda = {"cudaDriverGetVersion": lambda: (0, 12060), "cudaRuntimeGetVersion": lambda: (0, 13000)}
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", SimpleNamespace(**cuda))

    def replay(bundle: Bundle, targets: list[str], precisions: list[str]) -> Any:
        report = verify(bundle, ["onnxruntime"], ["fp32"])
        checks = (replace(check, backend=targets[0], precision=precisions[0]) for check in report.checks)
        return replace(report, checks=tuple(checks))

    monkeypatch.setattr(prove_module, "verify", replay)
    bundle: Bundle = small.small_bundle(tmp_path / "typed.edgepose", graphs.model_in("fp32"))
    bundle = graphs.add_graph(bundle, "int8+fp16")
    session = onnxruntime_module.OnnxRuntimeSession(bundle.graph)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 12, 3), dtype=np.uint8)
    outputs = session.run({"images": images})
    Goldens(images, {name: outputs[name] for name in ("keypoints", "heatmaps")}).save(bundle.path / GOLDENS)
    return bundle.with_files(bundle.path / GOLDENS)
