"""Full TensorRT as far as the builder code uses it, with what differs between its versions; it computes nothing.

The graph is always one quantised convolution ``body`` between two FP16 ones. ``asked`` of the double is what was set.
"""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from tests.doubles.pose_network import HEIGHT, JOINTS, WIDTH

#: What the inspector of TensorRT 10 tells of the engine.
LISTING = """Layers:
Name: stem + relu, LayerType: CaskConvolution, Inputs: [ { Name: crops, Location: Device, Dimensions: [8,3,32,24], Format/Datatype: Channel major FP16 format where channel % 8 == 0 }], Outputs: [ { Name: aq, Location: Device, Dimensions: [8,16,8,6], Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], ParameterType: Convolution, TacticName: sm80_xmma, TacticValue: 0x1, StreamId: 0, Metadata: [ONNX Layer: stem]\x1e[ONNX Layer: relu]\x1e[ONNX Layer: quantise]
Name: w_quantised + wd + body, LayerType: CaskConvolution, Inputs: [ { Name: aq, Location: Device, Dimensions: [8,16,8,6], Format/Datatype: {body} }], Outputs: [ { Name: b, Location: Device, Dimensions: [8,16,8,6], Format/Datatype: Channel major FP16 format where channel % 8 == 0 }], ParameterType: Convolution, TacticName: sm80_xmma_i8, TacticValue: 0x2, StreamId: 0, Metadata: [ONNX Layer: wd]\x1e[ONNX Layer: body]
Name: {ForeignNode[head...keypoints]}, LayerType: Myelin, Inputs: [ { Name: b, Location: Device, Dimensions: [8,16,8,6], Format/Datatype: Row major linear FP32 }], Outputs: [ { Name: keypoints, Location: Device, Dimensions: [8,14,3], Format/Datatype: Row major linear FP32 }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: head]\x1e[ONNX Layer: index]
"""  # noqa: E501
INT8, HALF = "Thirty-two wide channel vectorized row major Int8 format", "Channel major FP16 format"

#: Enumerations whose members are not known before the call; mypy takes a call of a class itself for a definition.
make_enum: Any = enum.Enum
make_int_enum: Any = enum.IntEnum

_COMMON_FLAGS = ("DEBUG", "TF32", "REFIT", "VERSION_COMPATIBLE")
_WEAK_FLAGS = ("FP16", "BF16", "INT8", "FP8")


def tensorrt_double(version: str, *, body: str = INT8, gpu: str = "a") -> Any:
    """The module ``tensorrt`` of a version.

    Args:
        version: 11 has no weakly typed precisions, 10 has; 8 and 9 are not meant.
        body: datatype that the inspector tells of the quantised convolution.
        gpu: a timing cache of another one is refused.
    """
    major = int(version.split(".")[0])
    flags = (*_COMMON_FLAGS, *(_WEAK_FLAGS if major < 11 else ()))
    creation = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1} if major < 11 else {"STRONGLY_TYPED": 0}
    trt = SimpleNamespace(__name__="tensorrt", __version__=version)
    trt.asked = {"flags": {"TF32"}, "pools": {}, "caches": []}
    trt.NetworkDefinitionCreationFlag = make_int_enum("NetworkDefinitionCreationFlag", creation)
    trt.BuilderFlag = make_int_enum("BuilderFlag", flags)
    trt.ProfilingVerbosity = make_enum("ProfilingVerbosity", ["DETAILED"])
    trt.HardwareCompatibilityLevel = make_enum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"])
    trt.MemoryPoolType = make_enum("MemoryPoolType", ["WORKSPACE"])
    trt.LayerInformationFormat = make_enum("LayerInformationFormat", ["ONELINE"])
    trt.LayerType = make_enum("LayerType", ["CONVOLUTION", "DECONVOLUTION", "DEQUANTIZE", "ACTIVATION"])
    severities = make_int_enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)
    trt.ILogger = type("ILogger", (), {"Severity": severities})
    trt.IProgressMonitor = type("IProgressMonitor", (), {})
    trt.Builder = lambda log: _Builder(trt, log, gpu)
    trt.OnnxParser = lambda *_: SimpleNamespace(parse_from_file=lambda _: True, parse=lambda _: True)
    trt.Runtime = lambda _: _runtime(trt, LISTING.replace("{body}", body))
    return trt


def _tensor(name: str, datatype: str, *shape: int) -> Any:
    return SimpleNamespace(name=name, dtype=SimpleNamespace(name=datatype), shape=shape)


class _Builder:
    def __init__(self, trt: Any, log: Any, gpu: str) -> None:
        self.trt, self.log, self.gpu = trt, log, gpu

    def create_network(self, flags: int) -> Any:
        self.trt.asked["creation"] = flags
        return _network(self.trt)

    def create_builder_config(self) -> Any:
        return _Config(self.trt, self.gpu)

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda name, *shapes: self.trt.asked.update(profile=(name, shapes)))

    def build_serialized_network(self, _: Any, config: _Config) -> bytes:
        self.log.log(self.trt.ILogger.Severity.INFO, "tried all tactics")
        config.progress_monitor.phase_start("Building engine", None, 2)
        assert config.progress_monitor.step_complete("Building engine", 0)
        if config.cache is not None:
            config.cache.content += b"+timed"
        return b"plan"


class _Config:
    progress_monitor: Any

    def __init__(self, trt: Any, gpu: str) -> None:
        self.trt, self.gpu = trt, gpu
        self.cache: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("hardware_compatibility_level", "builder_optimization_level", "max_aux_streams"):
            self.trt.asked[name] = value

    def clear_flag(self, flag: Any) -> None:
        self.trt.asked["flags"].discard(flag.name)

    def set_flag(self, flag: Any) -> None:
        self.trt.asked["flags"].add(flag.name)

    def get_flag(self, flag: Any) -> bool:
        return flag.name in self.trt.asked["flags"]

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.trt.asked["pools"][pool.name] = size

    def add_optimization_profile(self, _: Any) -> None:
        pass

    def create_timing_cache(self, data: bytes) -> Any:
        self.trt.asked["caches"].append(data)
        content = data or f"cache of {self.gpu}".encode()
        cache = SimpleNamespace(content=content)
        cache.serialize = lambda: memoryview(cache.content)
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if not cache.content.startswith(f"cache of {self.gpu}".encode()):
            return False
        self.cache = cache
        return True


def _network(trt: Any) -> Any:
    kinds = trt.LayerType
    layers = [
        _layer(kinds.CONVOLUTION, "stem", [_tensor("crops", "HALF")], "s"),
        _layer(kinds.ACTIVATION, "relu", [_tensor("s", "HALF")], "a"),
        _layer(kinds.DEQUANTIZE, "ad", [_tensor("aq", "INT8")], "ad"),
        _layer(kinds.DEQUANTIZE, "wd", [_tensor("w", "INT8")], "wd"),
        _layer(kinds.CONVOLUTION, "body", [_tensor("ad", "HALF"), _tensor("wd", "HALF")], "b"),
        _layer(kinds.CONVOLUTION, "head", [_tensor("b", "HALF"), None], "h"),
    ]
    outputs = [
        _tensor("keypoints", "FLOAT", -1, JOINTS, 3),
        _tensor("heatmaps", "FLOAT", -1, JOINTS, HEIGHT // 4, WIDTH // 4),
    ]
    return SimpleNamespace(
        num_inputs=1,
        num_outputs=2,
        num_layers=len(layers),
        get_input=lambda _: _tensor("images", "UINT8", -1, HEIGHT, WIDTH, 3),
        get_output=outputs.__getitem__,
        get_layer=layers.__getitem__,
    )


def _layer(kind: Any, name: str, inputs: list[Any], output: str) -> Any:
    return SimpleNamespace(
        type=kind,
        name=f"(Unnamed Layer) {name}",
        metadata=f"[ONNX Layer: {name}]",
        num_inputs=len(inputs),
        get_input=inputs.__getitem__,
        get_output=lambda _: _tensor(output, "HALF"),
    )


def _runtime(trt: Any, listing: str) -> Any:
    runtime = SimpleNamespace(engine_host_code_allowed=False)

    def deserialize(_: bytes) -> Any:
        trt.asked["host_code"] = runtime.engine_host_code_allowed
        return SimpleNamespace(
            create_execution_context=lambda: SimpleNamespace(set_input_shape=lambda *_: True),
            get_tensor_profile_shape=lambda *_: [(batch, HEIGHT, WIDTH, 3) for batch in (1, 8, 32)],
            create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _: listing),
        )

    runtime.deserialize_cuda_engine = deserialize
    return runtime
