"""Engines built on a GPU, for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx")

from edgepose.backends.onnxruntime import OnnxRuntimeSession
from edgepose.backends.tensorrt import TensorRtSession, find_engine
from edgepose.build.engine import build_engine
from edgepose.build.options import BuildOptions
from edgepose.bundle.bundle import open_bundle
from edgepose.nvidia.device import device_info, gpu_missing
from tests.doubles.small_graph import HEIGHT, WIDTH, small_bundle, small_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu_missing() is not None, reason=str(gpu_missing()))]

RTX = "tensorrt-rtx"


def test_an_engine_gives_the_graphs_numbers(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "small.edgepose", small_model())
    record = build_engine(bundle, RTX, options=BuildOptions((2, 3, 4)))
    assert record.source == "inspector"
    bundle = open_bundle(bundle.path)
    session, reference = TensorRtSession(find_engine(bundle, RTX), RTX), OnnxRuntimeSession(bundle.graph)
    for count in (0, 1, 2, 4, 5, 11):
        images = np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
        got, expected = session.run({"images": images}), reference.run({"images": images})
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-2, err_msg=f"{name}, batch {count}")
    session.close()


def test_the_record_names_the_gpu_and_the_inspectors_layers(tmp_path: Path) -> None:
    record = build_engine(small_bundle(tmp_path / "small.edgepose", small_model()), RTX)
    assert (record.gpu, record.sm) == (device_info().name, device_info().sm)
    assert record.layer_count == len(record.layers) > 0
