"""prove on engines, which are doubles, and the accuracies of what was verified."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

from edgepose import prove as prove_module
from edgepose.backends.plan import Runner
from edgepose.bench.network import bench
from edgepose.build.options import BuildOptions
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.engine_record import EngineRecord
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.files import sha256
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia import tensorrt as nvidia_tensorrt
from edgepose.nvidia.device import DeviceInfo, gpu_missing
from edgepose.nvidia.tensorrt import load_target
from edgepose.prove import prove
from edgepose.prove.record import FAILED, NOT_RUN, PASSED
from edgepose.verify import verify
from edgepose.verify.drop import AccuracyCheck, AccuracyReport
from tests.doubles.pose_network import CPU
from tests.prove.proofs import ONE, read, states

pytestmark = pytest.mark.slow


def test_engines_are_built_verified_and_measured(engines: Bundle, unmeasured: list[Any]) -> None:
    said: list[str] = []
    options = BuildOptions((1, 4, 8), workspace_mb=100)
    proof = prove(engines, ["tensorrt"], options=options, say=said.append)
    assert states(proof) == {
        "tensorrt fp32": [FAILED, NOT_RUN, NOT_RUN],
        "tensorrt int8+fp16": [PASSED, PASSED, PASSED],
    }
    assert unmeasured == [("tensorrt", "int8+fp16", (1, 4, 8))]
    assert said[0].startswith("tensorrt fp32: build failed, ") and len(said) == 4
    (engine,) = open_bundle(engines.path).engines()

    record = read(proof)
    bad, good = record["cases"]
    assert (bad["file"], bad["sha256"], bad["passed"]) == (None, None, False)
    problem = bad["steps"]["build"]["problem"]
    assert problem.startswith("expected fp32, ")
    assert problem.endswith("(log: typed.edgepose/reports/build-tensorrt-10.3.0-sm87-fp32.log)")
    assert bad["steps"]["verify"]["problem"] == "there is no engine"
    assert good["file"] == "engines/tensorrt-10.3.0-sm87-int8+fp16.engine" == str(engine.relative_to(engines.path))
    assert good["sha256"] == record["files"][good["file"]] == open_bundle(engines.path).manifest.files[good["file"]]
    built = good["steps"]["build"]["figures"]
    assert (built["version"], built["gpu"], built["sm"], built["plugin_hash"]) == ("10.3.0", "Orin", "sm87", None)
    assert built["options"]["workspace_mb"] == 100 == record["asked"]["build_options"]["workspace_mb"]
    assert built["chosen"] == {"float16": 1, "int8": 1, "unknown": 1} and "layers" not in built
    assert record["device"]["gpu"] == {"name": "Orin", "sm": "sm87", "memory_mb": 8590}
    assert record["versions"]["CUDA of the driver"] == "12.6"
    assert record["versions"]["CUDA of cuda-python"] == "13.0"

    page = proof.page.read_text()
    assert f"<h2>Engine {engine.name}</h2><pre>tensorrt 10.3.0 for Orin (sm87), batches 1/4/8" in page
    assert f"<b>tensorrt fp32, build</b> failed: {problem}".replace("'", "&#x27;") in page
    rows = [line.split("  ") for line in str(proof).splitlines()[1:3]]
    assert [cell.strip() for cell in rows[0] if cell] == ["tensorrt", "fp32", FAILED, NOT_RUN, NOT_RUN, "-"]
    assert "1: 2.00, 4: 8.00, 8: 16.00" in str(proof)


@pytest.mark.usefixtures("unmeasured")
def test_a_note_of_the_builder_is_handed_on_without_its_folder(engines: Bundle) -> None:
    prove(engines, ["tensorrt"], ["int8+fp16"])
    (cache,) = engines.path.glob("engines/*.timing")
    cache.write_bytes(b"damaged")
    proof = prove(open_bundle(engines.path), ["tensorrt"], ["int8+fp16"])
    (note,) = read(proof)["cases"][0]["steps"]["build"]["figures"]["notes"]
    assert note == f"timing cache typed.edgepose/engines/{cache.name} is damaged or of another GPU: started a new one"
    assert note.replace("'", "&#x27;") in proof.page.read_text()
    assert str(engines.path) not in proof.page.read_text()


@pytest.mark.usefixtures("unmeasured")
def test_an_older_engine_is_not_proven_in_place_of_the_one_that_was_built(
    engines: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia_device, "device_info", lambda: DeviceInfo("RTX", "sm89", 1 << 33))
    assert prove(engines, ["tensorrt"], ["int8+fp16"]).passed
    again = prove(open_bundle(engines.path), ["tensorrt"], ["int8+fp16"], BuildOptions(hardware_compatible=True))
    assert states(again) == {"tensorrt int8+fp16": [FAILED, NOT_RUN, NOT_RUN]}
    assert "the bundle's tensorrt-10.3.0-sm89-int8+fp16.engine, built for this GPU only" in str(again)
    assert isinstance(again.cases[0].steps["build"].result, EngineRecord)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.skipif(gpu_missing() is None, reason="about a machine without a GPU")
def test_a_real_engine_that_cannot_run_is_recorded_all_the_same(
    engines: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia_tensorrt, "load_target", load_target, raising=False)
    monkeypatch.setattr(nvidia_device, "gpu_missing", gpu_missing)
    monkeypatch.setattr("edgepose.backends.backend.find_spec", find_spec)
    for name, function in (("verify", verify), ("bench", bench)):
        monkeypatch.setattr(prove_module, name, function)
    proof = prove(engines, ["tensorrt-rtx"], ["fp32"], ONE)
    assert states(proof) == {"tensorrt-rtx fp32": [PASSED, FAILED, FAILED]}
    (case,) = read(proof)["cases"]
    built = case["steps"]["build"]["figures"]
    assert (built["target"], built["sm"], built["chosen"]) == ("tensorrt-rtx", "any", {"float32": 3})
    assert case["file"] in read(proof)["files"] and case["sha256"] == sha256(engines.path / case["file"])
    assert f"backend tensorrt-rtx cannot run here: {gpu_missing()}" in case["steps"]["verify"]["problem"]


@pytest.mark.usefixtures("unmeasured")
def test_a_target_that_is_impossible_does_not_stop_the_others(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_tensorrt, "load_target", lambda _: None)
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "there is no NVIDIA driver")
    said: list[str] = []
    proof = prove(bundle, ["onnxruntime", "tensorrt"], options=ONE, say=said.append)
    assert states(proof) == {"onnxruntime fp32": [PASSED, PASSED], "tensorrt fp32": [NOT_RUN] * 3}
    why = "tensorrt builds engines only on the GPU they will run on: there is no NVIDIA driver"
    assert set(proof.problems.values()) == {f"not run: {why}"} and len(said) == 2
    with pytest.raises(CheckError, match=f"^prove: 3 of 5 steps did not pass; tensorrt fp32, build not run: {why}$"):
        proof.require_passed()


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    """Accuracies of any data set, and what was asked: AP 70 in FP32, 69 in anything else."""
    asked = []

    def fake(_: Bundle, runners: list[Runner], data: str, max_drop: float) -> AccuracyReport:
        asked.append([(runner.backend, runner.precision) for runner in runners])
        less = "1 point less" if max_drop < 1 else None
        checks = [
            AccuracyCheck(runner, 70.0, 0.0) if runner.precision == "fp32" else AccuracyCheck(runner, 69.0, 1.0, less)
            for runner in runners
        ]
        return AccuracyReport(data, "AP", 70.0, runners[0].backend, max_drop, tuple(checks))

    monkeypatch.setattr(prove_module, "check_accuracy", fake)
    monkeypatch.setattr("edgepose.data.load_data", lambda *_: None)
    return asked


@pytest.mark.usefixtures("unmeasured")
def test_accuracies_are_taken_in_one_go(shipped_variants: Path, tmp_path: Path, labels: list[Any]) -> None:
    data = f"lsp:{tmp_path}/lspet"
    proof = prove(
        open_bundle(shipped_variants), ["onnxruntime"], ["fp32", "int8"], ONE, data=data, folder=tmp_path / "out"
    )
    assert labels == [[("onnxruntime", "fp32"), ("onnxruntime", "int8")]]
    assert states(proof) == {"onnxruntime fp32": [PASSED] * 3, "onnxruntime int8": [PASSED, PASSED, FAILED]}
    assert proof.problems == {"onnxruntime int8, accuracy": "failed: 1 point less"}
    assert str(proof).splitlines()[1].endswith("  70.00 %, drop 0.00")
    record = read(proof)
    assert record["accuracy"] == {
        "data": "lsp:lspet",
        "metric": "AP",
        "reference": 70.0,
        "reference_backend": "onnxruntime",
        "max_drop": 0.5,
    }
    assert record["asked"]["data"] == "lsp:lspet"
    assert record["cases"][1]["steps"]["accuracy"]["figures"]["drop"] == 1.0
    assert "lsp:lspet" in proof.page.read_text() and str(tmp_path) not in proof.page.read_text()


@pytest.mark.usefixtures("unmeasured", "labels")
def test_a_larger_budget_of_accuracy_is_kept_to(shipped_variants: Path, tmp_path: Path) -> None:
    bundle, on = open_bundle(shipped_variants), (["onnxruntime"], ["fp32", "int8"], ONE)
    proof = prove(bundle, *on, data="lsp:x", max_drop=1.0, folder=tmp_path)
    assert proof.problems == {} and read(proof)["accuracy"]["max_drop"] == 1.0


@pytest.mark.usefixtures("unmeasured")
def test_no_accuracy_is_compared_with_an_fp32_that_is_wrong(
    shipped_variants: Path, tmp_path: Path, labels: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(bundle: Bundle, targets: list[str], precisions: list[str]) -> Any:
        if tuple(precisions) == broken:
            raise UsageError("it does not run")
        return verify(bundle, targets, precisions)

    monkeypatch.setattr(prove_module, "verify", wrong)
    bundle, on = open_bundle(shipped_variants), (["onnxruntime"], ["fp32", "int8"], ONE)
    broken = ("fp32",)
    proof = prove(bundle, *on, data="lsp:x", folder=tmp_path)
    assert states(proof) == {
        "onnxruntime fp32": [FAILED, PASSED, NOT_RUN],
        "onnxruntime int8": [PASSED, PASSED, NOT_RUN],
    }
    assert labels == [] and proof.accuracy is None and read(proof)["accuracy"] is None
    broken = ("int8",)
    assert states(prove(bundle, *on, data="lsp:x", folder=tmp_path))["onnxruntime int8"] == [FAILED, PASSED, NOT_RUN]
    assert labels == [[("onnxruntime", "fp32")]]


@pytest.mark.usefixtures("unmeasured", "labels")
def test_accuracies_that_cannot_be_taken_are_a_sentence(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise UsageError("pycocotools is not installed")

    monkeypatch.setattr(prove_module, "check_accuracy", missing)
    proof = prove(bundle, CPU, options=ONE, data="lsp:x")
    assert states(proof) == {f"{name} fp32": [PASSED, PASSED, FAILED] for name in CPU}
    assert set(proof.problems.values()) == {"failed: pycocotools is not installed"}
