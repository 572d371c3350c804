"""The options of a build: with TensorRT-RTX for real, with full TensorRT on a double of each version."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edgepose.build import engine as engine_module
from edgepose.build import options as options_module
from edgepose.build.engine import build_engine, cannot_build
from edgepose.build.options import BuildOptions
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.engine_record import EngineRecord, read_record
from edgepose.core.errors import CheckError, UsageError
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia import tensorrt as nvidia_tensorrt
from edgepose.nvidia.device import DeviceInfo
from edgepose.plugins.registration import Registered
from tests.doubles.pose_network import DYNAMIC, make_bundle, pose_model, put_graph
from tests.doubles.tensorrt_double import HALF, tensorrt_double

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
GPU = DeviceInfo("GPU", "sm89", 2**33)


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "no GPU in this test")
    monkeypatch.setattr(options_module, "_JETSON", tmp_path / "not a Jetson")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "typed.edgepose", "int8+fp16")


def test_options_say_which_flag_is_wrong() -> None:
    for batches in ((0, 8, 32), (8, 1, 32), (1, 32, 8), (-1, 1, 1)):
        with pytest.raises(UsageError) as caught:
            BuildOptions(batches)
        said = ",".join(map(str, batches))
        assert str(caught.value) == f"--batch must be 1 <= smallest <= typical <= largest, such as 1,8,32, got {said}"
    with pytest.raises(UsageError, match="--workspace must be 1 MB or more, got 0"):
        BuildOptions(workspace_mb=0)


def test_low_memory_changes_what_is_not_asked_for() -> None:
    assert (BuildOptions().profile, BuildOptions().workspace) == ((1, 8, 32), None)
    low = BuildOptions(low_memory=True)
    assert (low.profile, low.workspace) == ((1, 1, 4), 256)
    low = BuildOptions((2, 2, 2), 64, low_memory=True)
    assert (low.profile, low.workspace) == ((2, 2, 2), 64)


# --- TensorRT-RTX, for real -----------------------------------------------------------------------------------------


@needs_rtx
def test_the_record_keeps_the_options(bundle: Bundle) -> None:
    record = build_engine(bundle, RTX, options=BuildOptions(low_memory=True))
    assert record.batches == (1, 1, 4)
    assert record.options == {
        "workspace_mb": 256,
        "hardware_compatible": False,
        "version_compatible": False,
        "low_memory": True,
        "plugin": True,
    }
    assert sorted(path.suffix for path in (bundle.path / "engines").iterdir()) == [".engine", ".json"]


@needs_rtx
def test_too_little_workspace_is_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX holds all activations there: with 10,000 crops more than a megabyte."""
    monkeypatch.setattr(options_module, "LARGEST_BATCH", 10_000)
    bundle = make_bundle(tmp_path / "small.edgepose")
    with pytest.raises(
        UsageError, match=r"workspace limit.*; allow more by --workspace, or smaller batches by --batch"
    ):
        build_engine(bundle, RTX, options=BuildOptions((1, 100, 10_000), workspace_mb=1))
    assert open_bundle(bundle.path).engines() == []


@needs_rtx
def test_what_tensorrt_rtx_makes_of_compatibility(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--version-compatible is for tensorrt: a tensorrt-rtx engine runs only on "):
        build_engine(bundle, RTX, options=BuildOptions(version_compatible=True))
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: None)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: GPU)
    record = build_engine(bundle, RTX, options=BuildOptions(hardware_compatible=True))
    assert (record.sm, record.gpu, record.source) == ("any", None, "build log")


@needs_rtx
def test_a_full_disk_leaves_the_bundle_as_it_was(bundle: Bundle) -> None:
    """A limit on the size of files stands in for the disk: the log fits, the engine does not."""
    resource = pytest.importorskip("resource")
    before = (bundle.path / "manifest.json").read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UsageError, match=r"^cannot write \S+any-fp32.engine: File too large$"):
            build_engine(bundle, RTX)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (bundle.path / "manifest.json").read_bytes() == before
    names = sorted(path.name for path in bundle.path.iterdir())
    assert names == ["golden.npz", "manifest.json", "pose.int8+fp16.onnx", "pose.onnx", "reports"]


# --- full TensorRT, on doubles --------------------------------------------------------------------------------------


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> Any:
    """Build the INT8+FP16 engine with a double of TensorRT, on a GPU that is not there."""
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: None)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: GPU)

    def run(trt: Any, options: BuildOptions = options_module.DEFAULTS) -> EngineRecord:
        monkeypatch.setattr(nvidia_tensorrt, "load_target", lambda _: trt)
        return build_engine(open_bundle(bundle.path), "tensorrt", "int8+fp16", options)

    return run


@pytest.mark.parametrize("version", ["10.3.0", "10.13.2.6", "11.1.0"])
def test_every_version_builds_the_same_explicit_graph(build: Any, bundle: Bundle, version: str) -> None:
    trt = tensorrt_double(version)
    record = build(trt)
    assert trt.asked["creation"] == (1 if version.startswith("11") else 2)  # strongly typed, whatever its bit
    assert trt.asked["flags"] == set()  # neither TF32 nor a weakly typed precision
    assert trt.asked["profile"] == ("images", ((1, 32, 24, 3), (8, 32, 24, 3), (32, 32, 24, 3)))
    assert trt.asked["pools"] == {}
    assert record.file_name == f"tensorrt-{'.'.join(version.split('.')[:3])}-sm89-int8+fp16.engine"
    assert record.asked == {"float16": 2, "int8": 1}
    assert record.chosen == {"float16": 1, "int8": 1, "unknown": 1}  # the head is inside a region
    assert record.source == "inspector"
    assert (bundle.path / "engines" / record.file_name).read_bytes() == b"plan"
    assert (bundle.reports / f"build-{record.file_name[:-7]}.log").read_text() == "[INFO] tried all tactics\n"


def test_a_convolution_that_is_not_int8_fails_the_build(build: Any, bundle: Bundle) -> None:
    with pytest.raises(
        CheckError, match="built 1 of 3 convolutions wider than in the graph: body is in float16, expected"
    ):
        build(tensorrt_double("10.13.2", body=HALF))
    assert open_bundle(bundle.path).engines() == []


def test_options_in_tensorrts_words(build: Any) -> None:
    trt = tensorrt_double("10.13.2")
    record = build(trt, BuildOptions((1, 2, 3), 500, hardware_compatible=True, version_compatible=True, plugin=False))
    assert trt.asked["pools"] == {"WORKSPACE": 500_000_000}
    assert trt.asked["hardware_compatibility_level"] is trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert (record.flags, record.sm, record.gpu) == (("VERSION_COMPATIBLE",), "sm80+", "GPU")
    assert trt.asked["host_code"] is True
    assert record.file_name == "tensorrt-10.13.2-sm80+-int8+fp16.engine"
    trt = tensorrt_double("10.13.2")
    record = build(trt, BuildOptions(low_memory=True))
    assert trt.asked["pools"] == {"WORKSPACE": 256_000_000}
    assert (trt.asked["builder_optimization_level"], trt.asked["max_aux_streams"]) == (1, 0)
    assert trt.asked["host_code"] is False
    assert record.sm == "sm89"


@pytest.mark.parametrize(
    ("version", "sm", "fits"),
    [
        ("10.3.0", "sm80", True),
        ("10.3.1", "sm120", True),
        ("11.1.0", "sm90", True),
        ("12.0.0", "sm89", False),
        ("10.2.9", "sm89", False),
        ("10.3.0", "sm75", False),
        ("10.3.0", "sm87", False),
    ],
)
def test_where_a_compatible_engine_runs(build: Any, version: str, sm: str, fits: bool) -> None:
    record = build(tensorrt_double("10.3.0"), BuildOptions(hardware_compatible=True, version_compatible=True))
    misfit = record.misfit("tensorrt", version, sm)
    assert (misfit is None) is fits
    if not fits:
        assert misfit.startswith(("was built with tensorrt 10.3.0 for it and later", "was built for sm80 and later"))


def test_hardware_compatibility_that_cannot_be_had(build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = BuildOptions(hardware_compatible=True)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: DeviceInfo("Old", "sm75", 1))
    with pytest.raises(
        UsageError, match=r"is not supported here \(it is for sm80\+ GPUs, this one is sm75\): leave it out"
    ):
        build(tensorrt_double("10.3.0"), options)
    trt = tensorrt_double("10.3.0")
    del trt.HardwareCompatibilityLevel
    with pytest.raises(UsageError, match=r"TensorRT 10.3.0 has no such level"):
        build(trt, options)
    jetson = tmp_path / "nv_tegra_release"
    jetson.touch()
    monkeypatch.setattr(options_module, "_JETSON", jetson)
    with pytest.raises(UsageError, match=r"TensorRT on Jetson builds for its own GPU only\): leave it out"):
        build(tensorrt_double("10.3.0"), options)


def test_the_plugin_is_named(build: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "register", lambda *_: Registered("library", "abc"))
    put_graph(bundle, pose_model(body=DYNAMIC), "int8+fp16")
    record = build(tensorrt_double("10.3.0"))
    assert record.plugin == "edgepose::DynamicDepthwiseConv2d version 1, namespace edgepose (library)"
    assert record.plugin_hash == "abc"
    assert f"plugin: {record.plugin}" in str(record)
    monkeypatch.setattr(engine_module, "register", lambda *_: Registered("ahead of time", "abc"))
    record = build(tensorrt_double("10.13.0"))
    assert (record.plugin_hash, str(record).count("(ahead of time)")) == (None, 1)
    assert read_record(bundle.path / "engines" / record.file_name) == record


def test_why_a_target_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_tensorrt, "load_target", lambda _: tensorrt_double("10.3.0"))
    reason = "tensorrt builds engines only on the GPU they will run on: no GPU in this test"
    assert cannot_build("tensorrt") == reason
    assert cannot_build(RTX) is None


# --- the timing cache -----------------------------------------------------------------------------------------------


def cache_of(bundle: Bundle) -> Path:
    return bundle.path / "engines" / "tensorrt-10.3.0-sm89.timing"


def test_the_timing_cache_is_used_again(build: Any, bundle: Bundle) -> None:
    assert build(tensorrt_double("10.3.0")).notes == ()
    assert cache_of(bundle).read_bytes()[32:] == b"cache of a+timed"
    trt = tensorrt_double("10.3.0")
    assert build(trt).notes == ()
    assert trt.asked["caches"] == [b"cache of a+timed"]
    assert cache_of(bundle).read_bytes()[32:] == b"cache of a+timed+timed"
    assert not any(name.endswith(".timing") for name in open_bundle(bundle.path).manifest.files)


@pytest.mark.parametrize("damage", [lambda _: b"", lambda data: data[:-1], lambda data: b"x" + data[1:]])
def test_a_damaged_timing_cache_is_replaced(build: Any, bundle: Bundle, damage: Any) -> None:
    build(tensorrt_double("10.3.0"))
    cache = cache_of(bundle)
    cache.write_bytes(damage(cache.read_bytes()))
    trt = tensorrt_double("10.3.0")
    note = f"timing cache {cache} is damaged or of another GPU: started a new one"
    record = build(trt)
    assert record.notes == (note,)
    assert f"\nnote: {note}" in str(record)
    assert trt.asked["caches"] == [b""]
    assert cache.read_bytes()[32:] == b"cache of a+timed"


def test_another_gpus_timing_cache_is_replaced(build: Any, bundle: Bundle) -> None:
    build(tensorrt_double("10.3.0"))
    trt = tensorrt_double("10.3.0", gpu="b")
    (note,) = build(trt).notes
    assert note.endswith("is damaged or of another GPU: started a new one")
    assert trt.asked["caches"] == [b"cache of a+timed", b""]
    assert cache_of(bundle).read_bytes()[32:] == b"cache of b+timed"


def test_a_timing_cache_that_cannot_be_written_is_a_note(build: Any, bundle: Bundle) -> None:
    cache_of(bundle).mkdir(parents=True)
    lost, written = build(tensorrt_double("10.3.0")).notes
    assert lost.endswith("is damaged or of another GPU: started a new one")
    assert written.startswith("no timing cache was written, the next build takes as long as this one: cannot write ")
