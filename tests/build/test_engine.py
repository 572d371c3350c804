"""Engines are really built here, with TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

import enum
import weakref
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edgepose.build import engine as engine_module
from edgepose.build import parse as parse_module
from edgepose.build.engine import build_engine
from edgepose.build.options import BuildOptions
from edgepose.bundle.bundle import open_bundle
from edgepose.bundle.engine_record import EngineLayer, EngineRecord, read_record, record_path
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.files import sha256
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia import tensorrt as nvidia_tensorrt
from edgepose.nvidia.device import DeviceInfo
from edgepose.nvidia.tensorrt import load_target, recording_logger
from edgepose.plugins.onnx_function import hand_to_plugin, is_dynamic_conv
from edgepose.plugins.registration import Registered
from tests.doubles.pose_network import DYNAMIC, make_bundle, pose_model, put_graph

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


@pytest.fixture(autouse=True)
def without_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about building without a GPU, also on a machine that has one."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "no GPU in this test")


@needs_rtx
def test_build_writes_an_engine_and_what_tensorrt_chose(tmp_path: Path) -> None:
    import tensorrt_rtx

    bundle = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    record = build_engine(bundle, RTX, options=BuildOptions((1, 4, 6)))

    version = ".".join(tensorrt_rtx.__version__.split(".")[:3])
    engine = bundle.path / "engines" / f"tensorrt-rtx-{version}-any-fp32.engine"
    assert record.file_name == engine.name
    assert engine.stat().st_size > 1000
    assert read_record(engine) == record
    opened = open_bundle(bundle.path)
    assert opened.engines() == [engine]
    assert opened.manifest.files[f"engines/{record_path(engine).name}"] == sha256(record_path(engine))

    facts = (record.target, record.version, record.gpu, record.sm, record.precision, record.batches, record.source)
    assert facts == (RTX, tensorrt_rtx.__version__, None, "any", "fp32", (1, 4, 6), "build log")
    assert record.graph_sha256 == sha256(bundle.graph)
    assert record.plugin_hash is None
    assert record.build_seconds > 0
    assert record.peak_memory_mb is None or record.peak_memory_mb > 10
    assert record.layer_count == len(record.layers)
    assert "TF32" not in record.flags  # it is set by default, and would round float32 unseen


@needs_rtx
def test_layers_carry_the_types_of_the_graph(tmp_path: Path) -> None:
    record = build_engine(make_bundle(tmp_path / "small.edgepose", body=DYNAMIC), RTX)

    assert set(record.datatypes) <= {"float32", "uint8", "int32", "int64", "bool"}
    assert record.datatypes["uint8"] == 1  # only the layer that reads the crops
    crops = next(layer for layer in record.layers if "uint8" in layer.reads)
    assert crops.writes == ("float32",)
    stem = next(layer for layer in record.layers if layer.name.startswith("stem"))
    assert stem == EngineLayer(stem.name, "correlation", ("float32",), ("float32",), ("stem", "relu"))


@needs_rtx
def test_a_half_layer_is_not_fp32(tmp_path: Path) -> None:
    bundle = put_graph(make_bundle(tmp_path / "small.edgepose"), pose_model(precision="fp16", body=DYNAMIC))
    with pytest.raises(CheckError, match=r"expected fp32, layer \S+ \(\w+\) is in float16"):
        build_engine(bundle, RTX)
    assert open_bundle(bundle.path).engines() == []
    assert not (bundle.path / "engines").exists()


@needs_rtx
def test_build_adds_to_the_manifest_as_it_is_now(tmp_path: Path) -> None:
    stale = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    other = stale.path / "calibration.json"
    other.write_bytes(b"added after the bundle was opened")
    stale.with_files(other)
    build_engine(stale, RTX)
    assert "calibration.json" in open_bundle(stale.path).manifest.files


@needs_rtx
def test_building_again_replaces_the_engine(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    build_engine(bundle, RTX, options=BuildOptions((1, 2, 2)))
    record = build_engine(open_bundle(bundle.path), RTX, options=BuildOptions((1, 4, 4)))
    (engine,) = open_bundle(bundle.path).engines()
    assert read_record(engine) == record
    assert record.batches == (1, 4, 4)


@needs_rtx
def test_a_rebuild_that_fails_leaves_the_older_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    older = build_engine(bundle, RTX, options=BuildOptions((1, 2, 2)))

    def full_disk(record: EngineRecord, path: Path) -> None:
        raise OSError(f"no space left for {path.name} of {record.target}")

    monkeypatch.setattr(EngineRecord, "write", full_disk)
    with pytest.raises(OSError, match="no space left"):
        build_engine(open_bundle(bundle.path), RTX, options=BuildOptions((1, 4, 4)))
    (engine,) = open_bundle(bundle.path).engines()
    assert read_record(engine) == older
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        "engines",
        "golden.npz",
        "manifest.json",
        "pose.onnx",
        "reports",
    ]


def _without_body(model: onnx.ModelProto) -> None:
    del model.functions[:]


def _unknown_op_in_body(model: onnx.ModelProto) -> None:
    model.functions[0].node[0].op_type = "Bogus"


def _wrong_kernel(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(5, np.float32), "flat_kernel"))
    model.graph.node[3].input[1] = "flat_kernel"


def _renamed_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "points"


def _float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def _static_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@needs_rtx
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_without_body, r"cannot parse node dynamic \(op DynamicDepthwiseConv2d\) of .*the graph has no function body"),
        (_unknown_op_in_body, r"\(op Bogus, in dynamic \(DynamicDepthwiseConv2d\)\) of .*does not support this op"),
        (_wrong_kernel, r"cannot parse node stem \(op Conv\) of .*number of kernel dimensions = 1"),
        (
            _renamed_output,
            (
                r"pose\.onnx does not keep the graph contract: network gives points float32 \(N, 14, 3\), heatmaps "
                r"float32 \(N, 14, 8, 6\), expected keypoints float32 \(N, 14, 3\): export the bundle again \(log: "
            ),
        ),
        (
            _float_input,
            (
                r"network takes images float32 \(N, 32, 24, 3\), expected images uint8 \(N, 32, 24, 3\): export the "
                r"bundle again \(log: "
            ),
        ),
        (
            _static_batch,
            (
                r"network takes images uint8 \(1, 32, 24, 3\), expected images uint8 \(N, 32, 24, 3\): export the "
                r"bundle again \(log: "
            ),
        ),
    ],
)
def test_a_graph_that_does_not_fit_is_one_sentence(tmp_path: Path, spoil: object, sentence: str) -> None:
    model = pose_model(body=DYNAMIC)
    spoil(model)
    bundle = put_graph(make_bundle(tmp_path / "small.edgepose"), model)
    with pytest.raises(UsageError, match=sentence) as caught:
        build_engine(bundle, RTX)
    assert "\n" not in str(caught.value)
    assert not (bundle.path / "engines").exists()


@needs_rtx
def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    """TensorRT's parser accepts these bytes as an empty graph."""
    bundle = make_bundle(tmp_path / "small.edgepose")
    bundle.graph.write_bytes(b"hello")
    with pytest.raises(UsageError, match=r"network takes nothing, expected images uint8 \(N, 32, 24, 3\)"):
        build_engine(bundle, RTX)


@needs_rtx
def test_a_graph_that_vanished(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    bundle.graph.unlink()
    with pytest.raises(UsageError, match=r"cannot parse \S+pose.onnx: .*cannot be found"):
        build_engine(bundle, RTX)


@needs_rtx
def test_a_graph_that_parses_but_does_not_build(tmp_path: Path) -> None:
    """Only the builder sees that a Reshape changes the number of elements."""
    model = pose_model(body=DYNAMIC)
    reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 14, 5]), "five"))
    reshape.input[1] = "five"
    bundle = put_graph(make_bundle(tmp_path / "small.edgepose"), model)
    with pytest.raises(UsageError, match=r"tensorrt_rtx [\d.]+ cannot build .*pose.onnx: .*reshape changes volume"):
        build_engine(bundle, RTX)


def test_an_unknown_target(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.edgepose")
    bundle.graph.write_bytes(b"")
    with pytest.raises(UsageError, match="unknown engine target 'tflite': expected one of tensorrt, tensorrt-rtx"):
        build_engine(bundle, "tflite")


def test_tensorrt_needs_a_gpu_or_first_of_all_tensorrt(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.edgepose")
    bundle.graph.write_bytes(b"")
    expected = "pip install tensorrt" if find_spec("tensorrt") is None else "no GPU in this test"
    with pytest.raises(UsageError, match=expected):
        build_engine(bundle, "tensorrt")


def test_a_module_that_is_broken_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, line, reason in (
        ("lacking", "import no_such_library_of_edgepose", "No module named 'no_such_library_of_edgepose'"),
        ("throwing", "raise RuntimeError('libnvinfer.so.10:\\n no such file')", "libnvinfer.so.10: no such file"),
        ("silent", "raise OSError", "OSError"),
    ):
        (tmp_path / f"{name}.py").write_text(line)
        monkeypatch.setitem(nvidia_tensorrt._MODULES, name, name)
        with pytest.raises(UsageError) as caught:
            load_target(name)
        assert str(caught.value) == f"import {name} fails: {reason}: see edgepose doctor"
    monkeypatch.setitem(nvidia_tensorrt._MODULES, "absent", "no_such_module_of_edgepose")
    with pytest.raises(UsageError, match="not installed: pip install no_such_module_of_edgepose"):
        load_target("absent")


def test_the_graph_for_the_plugin_has_no_body_and_names_the_plugin() -> None:
    model = pose_model(body=DYNAMIC)
    before = model.SerializeToString()
    handed = hand_to_plugin(model)
    assert model.SerializeToString() == before
    assert [f"{f.domain}::{f.name}" for f in model.functions] == ["edgepose::DynamicDepthwiseConv2d"]
    assert not handed.functions
    (node,) = filter(is_dynamic_conv, handed.graph.node)
    values = {a.name: onnx.helper.get_attribute_value(a).decode() for a in node.attribute}
    assert values == {"plugin_version": "1", "plugin_namespace": "edgepose"}
    assert [n.op_type for n in handed.graph.node] == [n.op_type for n in model.graph.node]


GPU = DeviceInfo("GPU", "sm87", 2**33)
PLUGIN = Registered("library", "abc")


def test_the_plugin_is_registered_where_the_graph_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(engine_module, "register", lambda _, sm: asked.append(sm) or PLUGIN)
    graph = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC).graph
    with_plugin, without = BuildOptions(), BuildOptions(plugin=False)
    trt = SimpleNamespace(__version__="10.13.2")
    assert engine_module._choose_plugin(trt, graph, GPU, with_plugin) is PLUGIN
    assert asked == ["sm87"]
    for options in (BuildOptions(hardware_compatible=True), BuildOptions(version_compatible=True)):
        with pytest.raises(UsageError, match="one GPU and TensorRT version: add --no-plugin"):
            engine_module._choose_plugin(trt, graph, GPU, options)
    monkeypatch.setattr(engine_module, "is_registered", lambda _: False)
    assert engine_module._choose_plugin(trt, graph, GPU, without) is None
    monkeypatch.setattr(engine_module, "is_registered", lambda _: True)
    with pytest.raises(UsageError, match=r"10.13.2 would use the plugin .*: build without it in a new process"):
        engine_module._choose_plugin(trt, graph, GPU, without)
    trt.__version__ = "11.1.0"
    assert engine_module._choose_plugin(trt, graph, GPU, without) is None
    graph = make_bundle(tmp_path / "plain.edgepose").graph
    assert engine_module._choose_plugin(trt, graph, GPU, with_plugin) is None
    assert asked == ["sm87"]


def test_the_parser_gets_the_file_or_the_graph_for_the_plugin(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    parser = SimpleNamespace(parse_from_file=lambda path: path == str(bundle.graph), parse=onnx.load_from_string)
    assert parse_module._parse(parser, bundle.graph, plugin=False)
    parsed: list[bytes] = []
    parser.parse = lambda content: parsed.append(content) or True
    assert parse_module._parse(parser, bundle.graph, plugin=True)
    assert onnx.load_from_string(parsed[0]) == hand_to_plugin(pose_model(body=DYNAMIC))


@pytest.mark.parametrize(
    ("members", "expected"),
    [({"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 2), ({"STRONGLY_TYPED": 3}, 8), ({"EXPLICIT_BATCH": 0}, 0)],
)
def test_strong_typing_is_asked_for_by_name(members: dict[str, int], expected: int) -> None:
    """Its bit differs between versions, and one that is always strongly typed may not have it."""
    trt = SimpleNamespace(NetworkDefinitionCreationFlag=enum.IntEnum("NetworkDefinitionCreationFlag", members))
    assert parse_module._network_flags(trt) == expected


def test_layers_come_from_the_inspector_where_a_gpu_can_load_the_engine() -> None:
    trt = SimpleNamespace(
        Runtime=lambda _: SimpleNamespace(deserialize_cuda_engine={b"good": InspectedEngine(4)}.get),
        LayerInformationFormat=SimpleNamespace(ONELINE="one-line"),
    )
    job, log = SimpleNamespace(trt=trt, options=BuildOptions()), SimpleNamespace(reason=lambda: "bad magic")
    assert engine_module._inspect(job, log, b"good") == "one-line listing for images (4, 16, 12, 3)"
    with pytest.raises(CheckError, match="cannot be loaded on this GPU: bad magic"):
        engine_module._inspect(job, log, b"bad")
    trt.Runtime = lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: InspectedEngine(9))
    with pytest.raises(CheckError, match="refuses a batch of 9: bad magic"):
        engine_module._inspect(job, log, b"good")


class InspectedEngine:
    """An engine for up to 8 crops whose inspector, as TensorRT's, points at a context without keeping it alive."""

    def __init__(self, typical: int) -> None:
        self.typical = typical

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("images", 0)
        return [(batch, 16, 12, 3) for batch in (1, self.typical, 8)]

    def create_execution_context(self) -> object:
        class Context:
            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                self.shape = f"{name} {shape}"
                return shape[0] <= 8

        return Context()

    def create_engine_inspector(self) -> object:
        class Inspector:
            execution_context: Any

            def __setattr__(self, name: str, value: object) -> None:
                super().__setattr__(name, weakref.ref(value))

            def get_engine_information(self, form: str) -> str:
                return f"{form} listing for {self.execution_context().shape}"

        return Inspector()


@needs_rtx
def test_an_sm_that_tensorrt_rtx_does_not_know_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver the SM of this GPU cannot be set, as on a GPU that TensorRT-RTX does not support."""
    import tensorrt_rtx

    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: None)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: DeviceInfo("H200", "sm90", 1 << 37))
    monkeypatch.setattr(tensorrt_rtx.IBuilderConfig, "set_compute_capability", lambda *_: False)
    bundle = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    with pytest.raises(UsageError, match=r"tensorrt_rtx [\d.]+ cannot build for the SM of this GPU, sm90 \(H200\): "):
        build_engine(bundle, RTX)
    assert open_bundle(bundle.path).engines() == []


@needs_rtx
def test_the_log_keeps_what_is_asked_for() -> None:
    import tensorrt_rtx

    log = recording_logger(tensorrt_rtx, "WARNING")
    severity = tensorrt_rtx.ILogger.Severity
    assert log.reason() == "no reason was logged"
    for level, text in ((severity.VERBOSE, "chatter"), (severity.WARNING, "hm"), (severity.ERROR, "two\n lines")):
        log.log(level, text)
    log.log(severity.ERROR, "a consequence")
    assert [name for name, _ in log.messages] == ["WARNING", "ERROR", "ERROR"]
    assert log.reason() == "two lines"
