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
from tests.doubles.pose_network import DYNAMIC, make_bundle, pictures

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu_missing() is not None, reason=str(gpu_missing()))]

RTX = "tensorrt-rtx"


#: A heat-map value near 0 is the rest of products of up to 20, whose float32 sums differ with their order.
NEAR_ZERO = 2e-5


def test_an_engine_gives_the_graphs_numbers(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    record = build_engine(bundle, RTX, options=BuildOptions((2, 3, 4)))
    assert record.source == "inspector"
    bundle = open_bundle(bundle.path)
    session, reference = TensorRtSession(find_engine(bundle, RTX), RTX), OnnxRuntimeSession(bundle.graph)
    for count in (0, 1, 2, 4, 5, 11):
        images = pictures(count, seed=count)
        got, expected = session.run({"images": images}), reference.run({"images": images})
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=NEAR_ZERO, err_msg=f"{name}, batch {count}")
    session.close()


def test_the_record_names_the_gpu_and_the_inspectors_layers(tmp_path: Path) -> None:
    record = build_engine(make_bundle(tmp_path / "small.edgepose", body=DYNAMIC), RTX)
    assert (record.gpu, record.sm) == (device_info().name, device_info().sm)
    assert record.layer_count == len(record.layers) > 0
