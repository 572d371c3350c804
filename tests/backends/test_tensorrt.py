from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgepose.backends import tensorrt as backend_module
from edgepose.backends.plan import plan
from edgepose.backends.tensorrt import Executor, TensorRtSession, find_engine, select_engine
from edgepose.bundle.bundle import Bundle, write_manifest
from edgepose.bundle.engine_record import EngineLayer, EngineRecord, read_record, record_path
from edgepose.bundle.manifest import Manifest
from edgepose.core.errors import UsageError
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia import tensorrt as nvidia_tensorrt
from edgepose.nvidia.device import CudaError, DeviceInfo
from edgepose.nvidia.stream import Stream
from edgepose.plugins.registration import Registered
from tests.doubles.backends import set_unavailable
from tests.doubles.gpu_doubles import CudaErrorCode, HostCudart, SumEngine, tensorrt_with

RECORD = EngineRecord(
    target="tensorrt",
    version="10.3.0",
    gpu="Test GPU",
    sm="sm87",
    precision="fp32",
    batches=(1, 2, 4),
    flags=(),
    layer_count=1,
    datatypes={"float32": 1, "uint8": 1},
    source="inspector",
    plugin_hash=None,
    graph_sha256="0" * 64,
    build_seconds=1.5,
    peak_memory_mb=None,
    layers=(EngineLayer("sum", "Reduce", ("uint8",), ("float32",)),),
)
BUILD = "edgepose build .*b.edgepose --target tensorrt"


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)


def make_bundle(folder: Path, *records: EngineRecord, engine_bytes: bytes = b"plan") -> Bundle:
    path = folder / "b.edgepose"
    (path / "engines").mkdir(parents=True)
    bundle = write_manifest(path, Manifest("b", "none", "lsp14", (2, 2)))
    for record in records:
        engine = path / "engines" / record.file_name
        engine.write_bytes(engine_bytes)
        record.write(record_path(engine))
        bundle = bundle.with_files(engine, record_path(engine))
    return bundle


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> HostCudart:
    """This machine has TensorRT 10.3.0 and an Orin, whose memory is host memory."""
    cudart = HostCudart()
    trt = tensorrt_with(SumEngine(cudart, (1, 2, 4)))
    monkeypatch.setattr(nvidia_tensorrt, "load_target", lambda _: trt)
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: None)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: DeviceInfo("Orin", "sm87", 1 << 33))
    monkeypatch.setattr(backend_module, "open_stream", lambda: Stream(cudart))
    return cudart


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "count", "ran"),
    [
        ((1, 2, 4), 0, []),  # no person, nothing runs
        ((1, 2, 4), 1, [1]),
        ((1, 2, 4), 4, [4]),
        ((1, 2, 4), 5, [4, 1]),
        ((1, 2, 4), 11, [4, 4, 3]),
        ((3, 3, 4), 1, [3]),  # below the profile: the rest of the buffer is computed too
        ((3, 3, 4), 9, [4, 4, 3]),
    ],
)
def test_any_batch_gives_the_sums(batches: tuple[int, int, int], count: int, ran: list[int]) -> None:
    cudart = HostCudart()
    engine = SumEngine(cudart, batches)
    executor = Executor(tensorrt_with(engine), Stream(cudart), b"plan")
    feed = images(count)
    results = executor.run({"images": feed})
    assert results.keys() == {"sums"}
    assert results["sums"].dtype == np.float32
    np.testing.assert_array_equal(results["sums"], feed.sum(axis=(1, 2)).reshape(count, 3))
    assert engine.ran == ran


def test_results_belong_to_the_caller_and_buffers_to_the_session() -> None:
    cudart = HostCudart()
    executor = Executor(tensorrt_with(SumEngine(cudart, (1, 2, 4))), Stream(cudart), b"plan")
    sizes = sorted(len(block) for block in cudart.blocks.values())
    assert sizes == [4 * 12, 4 * 3 * 4]  # the largest batch, once
    first = executor.run({"images": images(3)})["sums"]
    kept = first.copy()
    executor.run({"images": images(4)})
    np.testing.assert_array_equal(first, kept)
    assert len(cudart.blocks) == 2
    executor.close()
    executor.close()
    assert (cudart.blocks, cudart.streams) == ({}, [])


def test_a_strided_batch_is_copied_first() -> None:
    cudart = HostCudart()
    executor = Executor(tensorrt_with(SumEngine(cudart, (1, 2, 4))), Stream(cudart), b"plan")
    feed = images(6)[::-2, :, ::-1]
    np.testing.assert_array_equal(executor.run({"images": feed})["sums"], feed.sum(axis=(1, 2)))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("execute_async_v3", "could not run the engine: no reason was logged"),
        ("set_input_shape", r"refused shape \(3, 2, 2, 3\) for images: no reason was logged"),
        ("set_tensor_address", "refused a buffer for images: no reason was logged"),
    ],
)
def test_what_tensorrt_refuses_raises(method: str, sentence: str) -> None:
    cudart = HostCudart()
    trt = tensorrt_with(SumEngine(cudart, (1, 2, 4), refuses=method))
    with pytest.raises(CudaError, match=f"TensorRT {sentence}"):
        Executor(trt, Stream(cudart), b"plan").run({"images": images(3)})


def test_a_run_that_fails_is_one_sentence(tmp_path: Path, cudart: HostCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path, RECORD)
    session = TensorRtSession(find_engine(bundle, "tensorrt"), "tensorrt")
    lost = (CudaErrorCode.cudaErrorNoDevice,)
    monkeypatch.setattr(cudart, "cudaStreamSynchronize", lambda _: lost)
    with pytest.raises(UsageError) as caught:
        session.run({"images": images(3)})
    assert str(caught.value) == (
        "backend tensorrt failed on a batch of 3: CUDA reported cudaErrorNoDevice: no such device"
    )


def test_session_on_an_engine_of_a_bundle(tmp_path: Path, cudart: HostCudart) -> None:
    bundle = make_bundle(tmp_path, RECORD)
    session = TensorRtSession(find_engine(bundle, "tensorrt"), "tensorrt")
    assert [str(spec) for spec in session.inputs] == ["images uint8 (N, 2, 2, 3)"]
    assert [str(spec) for spec in session.outputs] == ["sums float32 (N, 3)"]
    feed = images(7)
    np.testing.assert_array_equal(session.run({"images": feed})["sums"], feed.sum(axis=(1, 2)))
    with pytest.raises(UsageError, match=r"tensorrt: input images is float32 \(7, 2, 2, 3\), expected images uint8"):
        session.run({"images": feed.astype(np.float32)})
    session.close()
    session.close()
    assert cudart.blocks == {}
    with pytest.raises(RuntimeError, match="the session was closed"):
        session.run({"images": feed})


def test_an_engine_gets_the_plugin_that_it_was_built_with(
    tmp_path: Path, cudart: HostCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cudart
    asked: list[str] = []
    register = "edgepose.plugins.registration.register"
    monkeypatch.setattr(register, lambda _, sm: asked.append(sm) or Registered("library", "abc"))
    bundle = make_bundle(tmp_path, replace(RECORD, plugin_hash="abc"))
    TensorRtSession(find_engine(bundle, "tensorrt"), "tensorrt").close()
    assert asked == ["sm87"]
    bundle = make_bundle(tmp_path / "other", replace(RECORD, plugin_hash="old"))
    with pytest.raises(UsageError, match=rf"was built with another plugin than .*\(library\): {BUILD}"):
        TensorRtSession(find_engine(bundle, "tensorrt"), "tensorrt")


# --- refusing --------------------------------------------------------------------------------------------------------


def test_an_engine_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"b.edgepose/engines/x.engine does not exist: {BUILD}"):
        TensorRtSession(tmp_path / "b.edgepose" / "engines" / "x.engine", "tensorrt")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "10.13.3.9"}, "was built with tensorrt 10.13.3.9, this machine has tensorrt 10.3.0"),
        ({"target": "tensorrt-rtx"}, "was built with tensorrt-rtx 10.3.0, this machine has tensorrt 10.3.0"),
        ({"sm": "sm89", "gpu": "RTX 4090"}, r"was built for sm89 \(RTX 4090\); this GPU is sm87"),
    ],
)
@pytest.mark.usefixtures("cudart")
def test_an_engine_of_another_machine(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    record = replace(RECORD, **changes)
    bundle = make_bundle(tmp_path, record)
    with pytest.raises(UsageError, match=f"{reason}: {BUILD}"):
        TensorRtSession(bundle.path / "engines" / record.file_name, "tensorrt")


def test_a_truncated_engine(tmp_path: Path, cudart: HostCudart) -> None:
    bundle = make_bundle(tmp_path, RECORD, engine_bytes=b"pla")
    with pytest.raises(UsageError, match=rf"cannot be loaded \(Magic tag of 3 bytes does not match\): {BUILD}"):
        TensorRtSession(find_engine(bundle, "tensorrt"), "tensorrt")
    assert (cudart.blocks, cudart.streams) == ({}, [])


def test_an_engine_that_does_not_fit_into_memory(tmp_path: Path, cudart: HostCudart) -> None:
    cudart.memory = 50
    bundle = make_bundle(tmp_path, RECORD)
    with pytest.raises(UsageError, match=r"cannot be loaded \(CUDA reported cudaErrorMemoryAllocation: out of memory"):
        TensorRtSession(find_engine(bundle, "tensorrt"), "tensorrt")


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("truncated", "Magic tag of 3 bytes does not match"),
        ("no inputs", "^the engine has no inputs, expected at least one$"),
        ("bf16 input", "^images of the engine is BF16, expected a type of NumPy such as float32$"),
        ("bf16 output", "^sums of the engine is BF16, expected a type of NumPy such as float32$"),
        ("no memory", "CUDA reported cudaErrorMemoryAllocation"),
    ],
)
def test_an_executor_that_cannot_be_made_closes_its_stream(
    monkeypatch: pytest.MonkeyPatch, flaw: str, sentence: str
) -> None:
    def nptype(dtype: Any) -> type:
        if dtype is bf16:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return dtype

    cudart, bf16 = HostCudart(memory=50 if flaw == "no memory" else 1 << 20), SimpleNamespace(name="BF16")
    engine = SumEngine(cudart, (1, 2, 4))
    trt = tensorrt_with(engine)
    monkeypatch.setattr(trt, "nptype", nptype)
    if flaw == "no inputs":
        monkeypatch.setattr(engine, "get_tensor_mode", lambda _: "out")
    if flaw.startswith("bf16"):
        name = "images" if flaw == "bf16 input" else "sums"
        monkeypatch.setattr(engine, "types", {**engine.types, name: bf16})
    stream = Stream(cudart)  # kept, so that the garbage collector cannot be what closes it
    with pytest.raises(CudaError if flaw == "no memory" else UsageError, match=sentence):
        Executor(trt, stream, b"pla" if flaw == "truncated" else b"plan")
    assert (cudart.blocks, cudart.streams) == ({}, [])


def test_without_a_gpu_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_tensorrt, "load_target", lambda _: SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "there is no NVIDIA driver")
    bundle = make_bundle(tmp_path, RECORD)
    with pytest.raises(UsageError, match=r"fp32.engine needs an NVIDIA GPU to run: there is no NVIDIA driver$"):
        TensorRtSession(find_engine(bundle, "tensorrt"), "tensorrt")


# --- records and selection -------------------------------------------------------------------------------------------


def test_file_name_and_record_survive_the_disk(tmp_path: Path) -> None:
    record = replace(RECORD, target="tensorrt-rtx", version="1.7.1.116", sm="any", flags=("REFIT",), gpu=None)
    assert record.file_name == "tensorrt-rtx-1.7.1-any-fp32.engine"
    engine = tmp_path / record.file_name
    record.write(record_path(engine))
    assert record_path(engine).name == "tensorrt-rtx-1.7.1-any-fp32.json"
    assert read_record(engine) == record
    assert json.loads(record_path(engine).read_text())["layers"] == [
        {"name": "sum", "kind": "Reduce", "reads": ["uint8"], "writes": ["float32"], "nodes": []}
    ]


def test_a_record_that_is_missing_or_damaged(tmp_path: Path) -> None:
    engine = tmp_path / "x.engine"
    with pytest.raises(UsageError, match=r"has no record x.json beside it: build it again"):
        read_record(engine)
    for text in ("", "{", "[]", '{"layers": []}', '{"layers": [1], "batches": [1, 2, 3]}', '{"batches": 1}', "null"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UsageError, match=r"x.json is not an engine record of this edgepose: build it again"):
            read_record(engine)
    RECORD.write(tmp_path / "x.json")
    newer = {**json.loads((tmp_path / "x.json").read_text()), "new_field": 1}
    (tmp_path / "x.json").write_text(json.dumps(newer))
    with pytest.raises(UsageError, match="is not an engine record of this edgepose"):
        read_record(engine)


def test_misfit() -> None:
    assert RECORD.misfit("tensorrt", "10.3.0", "sm87") is None
    assert RECORD.misfit("tensorrt", "10.3.0", None) is None
    assert RECORD.misfit("tensorrt", "10.3.1", None) == (
        "was built with tensorrt 10.3.0, this machine has tensorrt 10.3.1"
    )
    assert RECORD.misfit("tensorrt", "10.3.0", "sm110") == ("was built for sm87 (Test GPU); this GPU is sm110")


def test_an_engine_built_without_a_gpu_fits_the_default_sms_only() -> None:
    record = replace(RECORD, sm="any", gpu=None)
    for sm in ("sm80", "sm86", "sm89", "sm120", "sm121", None):
        assert record.misfit("tensorrt", "10.3.0", sm) is None, sm
    for sm in ("sm75", "sm87", "sm90", "sm100", "sm110"):
        assert record.misfit("tensorrt", "10.3.0", sm) == (
            f"was built for sm80, sm86, sm89, sm120 and later; this GPU is {sm}"
        )


@pytest.mark.usefixtures("cudart")
def test_auto_passes_over_an_engine_for_other_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_unavailable(monkeypatch, lambda name: "not here" if name == "torch" else None)
    bundle = make_bundle(tmp_path, replace(RECORD, target="tensorrt-rtx", sm="any", gpu=None))
    found = plan(bundle)
    assert [runner.backend for runner in found.runners] == ["onnxruntime", "openvino"]
    assert found.skipped["tensorrt-rtx"].endswith(
        "no tensorrt-rtx engine that fits: tensorrt-rtx-10.3.0-any-fp32.engine was built for sm80, sm86, sm89, sm120 "
        f"and later; this GPU is sm87: edgepose build {bundle.path} --target tensorrt-rtx"
    )


def test_memory_is_said_to_be_the_process_s() -> None:
    assert "built in 1.5 s (process peak 2.3 GB)\n" in str(replace(RECORD, peak_memory_mb=2345.6))
    assert "built in 1.5 s\n" in str(RECORD)


def test_select_engine_takes_the_one_that_fits(tmp_path: Path) -> None:
    rtx = replace(RECORD, target="tensorrt-rtx", version="1.7.1.116")
    portable, exact = replace(rtx, sm="any"), replace(rtx, sm="sm89")
    bundle = make_bundle(tmp_path, RECORD, portable, exact, replace(portable, version="1.6.0.3"))
    engines = bundle.path / "engines"
    assert select_engine(bundle, "tensorrt", "10.3.0", "sm87") == engines / RECORD.file_name
    assert select_engine(bundle, "tensorrt-rtx", "1.7.1.116", "sm89") == engines / exact.file_name
    assert select_engine(bundle, "tensorrt-rtx", "1.7.1.116", "sm120") == engines / portable.file_name
    assert select_engine(bundle, "tensorrt-rtx", "1.6.0.3", "sm120") == engines / "tensorrt-rtx-1.6.0-any-fp32.engine"


def test_select_engine_says_what_to_build(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, replace(RECORD, target="tensorrt-rtx", version="1.7.1.116"))
    with pytest.raises(UsageError, match=f"has no tensorrt engine: {BUILD}$"):
        select_engine(bundle, "tensorrt", "10.3.0", "sm87")
    expected = (
        r"no tensorrt-rtx engine that fits: tensorrt-rtx-1.7.1-sm87-fp32.engine was built with tensorrt-rtx 1.7.1.116, "
        rf"this machine has tensorrt-rtx 1.8.0: {BUILD}-rtx$"
    )
    with pytest.raises(UsageError, match=expected):
        select_engine(bundle, "tensorrt-rtx", "1.8.0", "sm87")


def test_auto_takes_the_mixed_engine_and_then_the_most_exact(tmp_path: Path) -> None:
    records = [replace(RECORD, precision=precision) for precision in ("int8", "mixed", "fp16")]
    bundle = make_bundle(tmp_path, *records)

    def chosen(bundle: Bundle, precision: str = "auto") -> str:
        return read_record(select_engine(bundle, "tensorrt", "10.3.0", "sm87", precision)).precision

    assert chosen(bundle) == "mixed"
    assert [chosen(bundle, precision) for precision in ("int8", "fp16")] == ["int8", "fp16"]
    without = replace(bundle.manifest, files={k: v for k, v in bundle.manifest.files.items() if "mixed" not in k})
    assert chosen(write_manifest(bundle.path, without)) == "fp16"
    expected = rf"has no tensorrt bf16 engine, only fp16, int8, mixed: {BUILD} --precision bf16$"
    with pytest.raises(UsageError, match=expected):
        chosen(bundle, "bf16")


def test_an_engine_of_a_graph_that_was_replaced_is_not_taken(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, replace(RECORD, precision="int8"))
    (bundle.path / "pose.int8.onnx").write_bytes(b"calibrated again")
    bundle = bundle.with_files(bundle.path / "pose.int8.onnx")
    expected = rf"was built from another pose.int8.onnx than the bundle's: {BUILD} --precision int8$"
    with pytest.raises(UsageError, match=expected):
        select_engine(bundle, "tensorrt", "10.3.0", "sm87")


@pytest.mark.parametrize("flags", [(), ("VERSION_COMPATIBLE",)])
@pytest.mark.usefixtures("cudart")
def test_only_a_version_compatible_engine_may_carry_a_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    trt = nvidia_tensorrt.load_target("tensorrt")
    runtimes = []
    monkeypatch.setattr(trt, "Runtime", lambda log, make=trt.Runtime: runtimes.append(make(log)) or runtimes[-1])
    TensorRtSession(find_engine(make_bundle(tmp_path, replace(RECORD, flags=flags)), "tensorrt"), "tensorrt").close()
    assert hasattr(runtimes[0], "engine_host_code_allowed") == bool(flags)


# --- each choice is made once ----------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions that an engine was looked for in."""
    asked: list[str] = []

    def counting(bundle: Bundle, backend: str, precision: str = "auto") -> Path:
        asked.append(precision)
        return find_engine(bundle, backend, precision)

    monkeypatch.setattr(backend_module, "find_engine", counting)
    monkeypatch.setattr("edgepose.backends.backend.find_spec", lambda _: True)
    return asked


@pytest.mark.usefixtures("cudart")
def test_a_runner_opens_the_engine_that_the_plan_has_found(tmp_path: Path, asked: list[str]) -> None:
    records = [replace(RECORD, precision=precision) for precision in ("fp32", "fp16", "int8")]
    bundle = make_bundle(tmp_path, *records)
    found = plan(bundle, ["tensorrt"], ["int8", "fp32", "fp16"])
    assert [str(runner) for runner in found.runners] == ["tensorrt int8", "tensorrt fp32", "tensorrt fp16"]
    files = ["tensorrt-10.3.0-sm87-int8.engine", "tensorrt-10.3.0-sm87-fp32.engine", "tensorrt-10.3.0-sm87-fp16.engine"]
    assert [runner.file.name for runner in found.runners] == files
    assert sorted(asked) == ["auto", "fp16", "int8"], "auto is fp32 here"
    for runner in found.runners:
        runner.open().close()
    assert len(asked) == 3, "nothing is looked for again"


@pytest.mark.usefixtures("cudart")
def test_a_plan_of_everything_looks_for_each_engine_once(tmp_path: Path, asked: list[str]) -> None:
    records = [replace(RECORD, precision=precision) for precision in ("fp32", "fp16", "int8")]
    found = plan(make_bundle(tmp_path, *records), ["tensorrt"])
    assert [str(runner) for runner in found.runners] == ["tensorrt fp32", "tensorrt fp16", "tensorrt int8"]
    assert len(asked) == len(set(asked)), asked


@pytest.mark.usefixtures("asked")
def test_a_plan_hashes_nothing(tmp_path: Path, cudart: HostCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cudart
    bundle = make_bundle(tmp_path, RECORD, replace(RECORD, precision="int8"))
    (bundle.path / "pose.onnx").write_bytes(b"graph")
    bundle = bundle.with_files(bundle.path / "pose.onnx")
    monkeypatch.setattr("hashlib.sha256", lambda *_: pytest.fail("hashed"))
    assert {runner.backend for runner in plan(bundle).runners} >= {"tensorrt", "onnxruntime"}
