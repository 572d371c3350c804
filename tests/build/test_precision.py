"""Engines of every precision are really built here, with TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from edgepose.build.engine import build_engine
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.engine_record import read_record
from edgepose.core.errors import CheckError, UsageError
from edgepose.graphs.sixteen_bit import to_16_bit
from edgepose.nvidia import device as nvidia_device
from tests.doubles.pose_network import make_bundle, pose_model, put_graph

RTX = "tensorrt-rtx"
pytestmark = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "no GPU in this test")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "typed.edgepose")


@pytest.mark.parametrize(
    ("precision", "convolutions", "words"),
    [
        ("fp32", {"float32": 3}, {"float32"}),
        ("fp16", {"float16": 3}, {"float16", "float32"}),
        ("bf16", {"bfloat16": 3}, {"bfloat16", "float32"}),
        ("int8", {"float32": 2, "int8": 1}, {"int8", "float32"}),
        ("int8+fp16", {"float16": 2, "int8": 1}, {"int8", "float16", "float32"}),
        ("mixed", {"float16": 2, "int8": 1}, {"int8", "float16", "float32"}),
    ],
)
def test_an_engine_computes_in_the_types_of_its_graph(
    bundle: Bundle, precision: str, convolutions: dict[str, int], words: set[str]
) -> None:
    if precision != "fp32":
        model = pose_model(precision="int8+fp16" if precision == "mixed" else precision)
        bundle = put_graph(bundle, model, precision)
    record = build_engine(bundle, RTX, precision)

    assert record.asked == record.chosen == convolutions
    assert set(record.datatypes) - {"uint8", "int32", "int64", "bool"} == words
    assert record.file_name.endswith(f"-any-{precision}.engine")
    counts = ", ".join(f"{count} {datatype}" for datatype, count in convolutions.items())
    assert f"convolutions: {counts} in the graph, {counts} in the engine\nplugin: none" in str(record)
    body = next(layer for layer in record.layers if "body" in layer.nodes and layer.kind == "correlation")
    asked = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(precision, "int8")
    assert asked in body.reads
    (engine,) = open_bundle(bundle.path).engines()
    assert read_record(engine) == record


def test_fp32_in_a_graph_that_is_called_fp16(bundle: Bundle) -> None:
    bundle = put_graph(bundle, pose_model(), "fp16")
    with pytest.raises(CheckError) as caught:
        build_engine(bundle, RTX, "fp16")
    graph = bundle.path / "pose.fp16.onnx"
    assert str(caught.value).startswith(
        f"expected fp16, no convolution of {graph} is in float16 (3 in float32): make it again (log: "
    )
    assert open_bundle(bundle.path).engines() == []


def test_a_deconvolution_stays_in_floats_in_bf16(bundle: Bundle) -> None:
    """TensorRT-RTX 1.7 fails to build one in BF16; in FP16 it builds."""
    for precision, types in (("bf16", {"bfloat16": 1, "float32": 2}), ("fp16", {"float16": 2, "float32": 1})):
        graph = to_16_bit(pose_model(body="ConvTranspose"), precision)
        record = build_engine(put_graph(bundle, graph, precision), RTX, precision)
        assert record.asked == types


def test_a_convolution_that_tensorrt_leaves_in_floats(bundle: Bundle) -> None:
    """TensorRT-RTX has no INT8 transposed convolution: it dequantises first."""
    bundle = put_graph(bundle, pose_model(precision="int8+fp16", body="ConvTranspose"), "int8+fp16")
    with pytest.raises(CheckError) as caught:
        build_engine(bundle, RTX, "int8+fp16")
    expected = (
        "expected int8+fp16, TensorRT built 1 of 3 convolutions wider than in the graph: body is in float16, "
        "expected int8: keep it in float16 in the graph (log: "
    )
    assert str(caught.value).startswith(expected)
    assert open_bundle(bundle.path).engines() == []
    (log,) = bundle.reports.iterdir()
    assert str(caught.value).endswith(f"(log: {log})")
    assert log.name.endswith("-any-int8+fp16.log")


def test_a_precision_without_a_graph(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"has no int8 graph, only fp32; make it with: edgepose calibrate"):
        build_engine(bundle, RTX, "int8")
    with pytest.raises(UsageError, match="unknown precision 'fp17': expected one of fp32, fp16"):
        build_engine(bundle, RTX, "fp17")


def test_the_whole_log_is_kept(bundle: Bundle) -> None:
    record = build_engine(bundle, RTX)
    text = (bundle.reports / f"build-{record.file_name.removesuffix('.engine')}.log").read_text()
    assert text.startswith("[")
    assert "[VERBOSE] Layers:\nName: " in text
    assert all(f"Name: {layer.name}, LayerType: {layer.kind}, " in text for layer in record.layers)
    broken = pose_model()
    broken.graph.node[3].input[1] = "w_nowhere"
    onnx.save(broken, bundle.graph)
    with pytest.raises(UsageError, match=r"cannot parse .* \(log: .*/reports/build-tensorrt-rtx-.*-any-fp32.log\)$"):
        build_engine(bundle.with_files(bundle.graph), RTX)
