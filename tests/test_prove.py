"""prove: the steps of every case, what is refused, and a record that can be handed on."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from tiny_bundle import CPU, change_goldens, make_bundle

from edgepose import prove as prove_module
from edgepose.bench import BenchReport, Row, bench
from edgepose.bundle import GOLDENS, PRECISIONS, Bundle, Goldens, open_bundle
from edgepose.cli import main
from edgepose.engines import EngineRecord, load_target
from edgepose.errors import CheckError, UsageError
from edgepose.export import build_options as options_module
from edgepose.export import engine as engine_module
from edgepose.export.build_options import BuildOptions
from edgepose.files import sha256
from edgepose.prove import TARGETS, Proof, prove
from edgepose.prove import device as device_module
from edgepose.prove.anonymous import anonymiser
from edgepose.prove.page import proof_page
from edgepose.prove.record import FAILED, NOT_RUN, PASSED, SCHEMA, UNFINISHED
from edgepose.runtime.backends import cannot_run
from edgepose.runtime.backends import onnxruntime as onnxruntime_module
from edgepose.runtime.backends import tensorrt as tensorrt_module
from edgepose.runtime.cuda import DeviceInfo, gpu_missing
from edgepose.timing import Budget, Latency
from edgepose.verify import verify
from edgepose.verify.accuracy import AccuracyCheck, AccuracyReport

ONE = BuildOptions((1, 1, 1))
QUICK = Budget(calls=2, seconds=5.0, warm_up=0)
GPU = DeviceInfo("Orin", "sm87", 8 << 30)
Refuse = Callable[..., str]


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


def read(proof: Proof) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(proof.record.read_text(encoding="utf-8"))
    return values


def states(proof: Proof) -> dict[str, list[str]]:
    return {case.name: [step.state for step in case.steps.values()] for case in proof.cases}


# --- graphs, for real -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_graphs_are_verified_and_measured(bundle: Bundle) -> None:
    said: list[str] = []
    proof = prove(bundle, CPU, options=BuildOptions((1, 2, 3)), say=said.append)
    assert proof.passed and states(proof) == {f"{name} fp32": [PASSED, PASSED] for name in CPU}
    proof.require_passed()
    assert [re.sub(r"[\d.]+ s$", "", line) for line in said] == [
        f"{name} fp32: {step} passed, " for name in CPU for step in ("verify", "measure")
    ]
    assert re.fullmatch(r"proof-onnxruntime-openvino-\d{8}-\d{6}\.html", proof.page.name)
    assert sorted(path.suffix for path in bundle.reports.iterdir()) == [".html", ".json"]

    record = read(proof)
    assert record == json.loads(json.dumps(proof.to_json()))
    assert (record["schema"], record["passed"], record["bundle"]["name"]) == (SCHEMA, True, "tiny")
    assert record["asked"]["targets"] == list(CPU) and record["asked"]["batches"] == [1, 2, 3]
    assert record["files"] == bundle.manifest.files
    for case, target in zip(record["cases"], CPU, strict=True):
        assert (case["target"], case["precision"], case["file"]) == (target, "fp32", "pose.onnx")
        assert case["sha256"] == bundle.manifest.files["pose.onnx"]
        checks = case["steps"]["verify"]["figures"]["checks"]
        assert [(check["batch"], check["passed"]) for check in checks] == [(1, True), (3, True)]
        rows = case["steps"]["measure"]["figures"]["rows"]
        assert [(row["backend"], row["batch"], row["latency"]["count"]) for row in rows] == [
            (target, batch, 2) for batch in (1, 2, 3)
        ]

    lines = str(proof).splitlines()
    assert lines[0].split("  ")[0] == "target"
    assert re.match(r"onnxruntime +fp32 +- +\S+ of range, p50 0.00 px +1: [\d.]+, 2: [\d.]+, 3: [\d.]+ +-$", lines[1])
    page = proof.page.read_text(encoding="utf-8")
    assert page == proof_page(proof)
    assert "<h1>tiny: proof on onnxruntime, openvino" in page and ">passed</span></h1>" in page
    assert page.count("<figure>") == 2 * 3
    assert ("latency per crop" in page) == (find_spec("matplotlib") is not None)
    assert bundle.manifest.files["pose.onnx"] in page


@pytest.mark.usefixtures("unmeasured")
def test_every_precision_of_the_shipped_bundle(
    shipped_variants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(shipped_variants.rglob("*"))
    arguments = ["--target", "onnxruntime,openvino", "--batch", "1,1,2", "-o", str(tmp_path / "out")]
    assert main(["prove", str(shipped_variants), *arguments]) == 0
    out = capsys.readouterr().out
    assert sorted(shipped_variants.rglob("*")) == before
    (path,) = (tmp_path / "out").glob("proof-onnxruntime-openvino-*.json")
    record = json.loads(path.read_text())
    assert f"page: {path.with_suffix('.html')}\nrecord: {path}\n" in out
    cases = {(case["target"], case["precision"]): case for case in record["cases"]}
    pairs = [(target, name) for target in CPU for name in PRECISIONS if name != "mixed"]
    bundle = open_bundle(shipped_variants)
    left_out = {" ".join(pair): cannot_run(bundle, *pair) for pair in pairs if cannot_run(bundle, *pair)}
    assert list(cases) == [pair for pair in pairs if " ".join(pair) not in left_out] and len(cases) >= 8
    assert record["passed"] and all(case["passed"] for case in cases.values())
    assert record["skipped"] == left_out
    assert "left out onnxruntime bf16: ONNX Runtime's CPU provider has no bf16 convolution" in out
    assert cases["openvino", "int8"]["file"] == "pose.int8.onnx"
    int8, exact = (
        cases["openvino", name]["steps"]["verify"]["figures"]["checks"][0]["figures"]["score_fraction"]
        for name in ("int8", "fp32")
    )
    assert exact < 1e-5 < 1e-3 < int8 < 0.2


@pytest.mark.usefixtures("unmeasured")
def test_a_wrong_graph_is_a_row_with_its_reason(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    keypoints = bundle.goldens().outputs["keypoints"].copy()
    keypoints[1, 6, 0] += 7
    change_goldens(bundle, keypoints=keypoints)
    bundle = bundle.with_files(bundle.path / GOLDENS)
    assert main(["prove", str(bundle.path), "--target", "onnxruntime", "--batch", "1,1,1"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("edgepose: prove: 1 of 2 steps did not pass; onnxruntime fp32, verify failed: onnx")
    assert "onnxruntime fp32: measure passed" in captured.out, "the others go on"
    (path,) = bundle.reports.glob("*.json")
    record = json.loads(path.read_text())
    step = record["cases"][0]["steps"]["verify"]
    assert not record["passed"] and not record["cases"][0]["passed"] and step["state"] == FAILED
    assert "99th percentile of keypoint errors is" in step["problem"]
    assert step["figures"]["checks"][0]["figures"]["largest"] == 7.0
    page = path.with_suffix(".html").read_text()
    assert ">failed</span></h1>" in page and "largest error 7.00 px" in page


@pytest.mark.usefixtures("quick")
def test_a_graph_that_cannot_be_opened_fails_step_by_step(bundle: Bundle) -> None:
    bundle.graph.write_bytes(b"no graph")
    proof = prove(bundle.with_files(bundle.graph), ["onnxruntime"], options=ONE)
    assert states(proof) == {"onnxruntime fp32": [FAILED, FAILED]}
    assert all("not an ONNX graph" in problem for problem in proof.problems.values())
    assert "<figure>" not in proof.page.read_text()
    with pytest.raises(CheckError, match=r"^prove: 2 of 2 steps did not pass; onnxruntime fp32, verify failed: "):
        proof.require_passed()


@pytest.mark.usefixtures("unmeasured")
def test_a_failure_that_nobody_foresaw_is_kept_with_its_traceback(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("<b>out of\nluck")

    monkeypatch.setattr(prove_module, "verify", broken)
    proof = prove(bundle, ["onnxruntime"], options=ONE)
    assert states(proof) == {"onnxruntime fp32": [FAILED, PASSED]}
    step = read(proof)["cases"][0]["steps"]["verify"]
    assert step["problem"] == "RuntimeError: <b>out of"
    assert 'File ".../test_prove.py", line ' in step["trace"] and str(Path(__file__).parent) not in step["trace"]
    assert "RuntimeError: &lt;b&gt;out of" in proof.page.read_text()


def test_a_process_that_ends_leaves_the_steps_before(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prove_module, "bench", killed)
    with pytest.raises(KeyboardInterrupt):
        prove(bundle, CPU, options=ONE)
    (path,) = bundle.reports.iterdir()
    record = json.loads(path.read_text())
    found = {case["target"]: {name: step["state"] for name, step in case["steps"].items()} for case in record["cases"]}
    assert found == {
        "onnxruntime": {"verify": PASSED, "measure": UNFINISHED},
        "openvino": {"verify": NOT_RUN, "measure": NOT_RUN},
    }
    assert path.suffix == ".json" and not record["passed"]


# --- engines, on doubles --------------------------------------------------------------------------------------------


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle, and a machine whose TensorRT builds its int8+fp16 graph only; what runs is the FP32 graph."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "export"))
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
    assert problem.startswith("fp32 was asked for, but ")
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
    assert note == f"timing cache typed.edgepose/engines/{cache.name} is damaged or another GPU's: made anew"
    assert note.replace("'", "&#x27;") in proof.page.read_text()
    assert str(engines.path) not in proof.page.read_text()


@pytest.mark.usefixtures("unmeasured")
def test_an_older_engine_is_not_proven_in_place_of_the_one_that_was_built(
    engines: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (engine_module, tensorrt_module):
        monkeypatch.setattr(module, "device_info", lambda: DeviceInfo("RTX", "sm89", 1 << 33))
    assert prove(engines, ["tensorrt"], ["int8+fp16"]).passed
    again = prove(open_bundle(engines.path), ["tensorrt"], ["int8+fp16"], BuildOptions(hardware_compatible=True))
    assert states(again) == {"tensorrt int8+fp16": [FAILED, NOT_RUN, NOT_RUN]}
    assert "the bundle's tensorrt-10.3.0-sm89-int8+fp16.engine, made for this GPU alone" in str(again)
    assert isinstance(again.cases[0].steps["build"].result, EngineRecord)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.skipif(gpu_missing() is None, reason="about a machine without a GPU")
def test_a_real_engine_that_cannot_run_is_recorded_all_the_same(
    engines: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (engine_module, tensorrt_module, device_module):
        monkeypatch.setattr(module, "load_target", load_target, raising=False)
        monkeypatch.setattr(module, "gpu_missing", gpu_missing)
    for name, function in (("verify", verify), ("bench", bench)):
        monkeypatch.setattr(prove_module, name, function)
    proof = prove(engines, ["tensorrt-rtx"], ["fp32"], ONE)
    assert states(proof) == {"tensorrt-rtx fp32": [PASSED, FAILED, FAILED]}
    (case,) = read(proof)["cases"]
    built = case["steps"]["build"]["figures"]
    assert (built["target"], built["sm"], built["chosen"]) == ("tensorrt-rtx", "any", {"float32": 3})
    assert case["file"] in read(proof)["files"] and case["sha256"] == sha256(engines.path / case["file"])
    assert f"backend tensorrt-rtx cannot run here: {gpu_missing()}" in case["steps"]["verify"]["problem"]


# --- accuracy -------------------------------------------------------------------------------------------------------


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    """Accuracies of any data set, and what was asked: AP 70 in FP32, 69 in anything else."""
    asked = []

    def fake(_: Bundle, pairs: list[tuple[str, str]], data: str) -> AccuracyReport:
        asked.append(pairs)
        checks = [
            AccuracyCheck(*pair, 70.0, 0.0) if pair[1] == "fp32" else AccuracyCheck(*pair, 69.0, 1.0, "1 point less")
            for pair in pairs
        ]
        return AccuracyReport(data, "AP", 70.0, pairs[0][0], 0.5, tuple(checks))

    monkeypatch.setattr(prove_module, "check_accuracy", fake)
    monkeypatch.setattr("edgepose.train.data.load_data", lambda *_: None)
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


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target cuda", f"unknown target 'cuda': expected one of {', '.join(TARGETS)}"),
        ("--target onnxruntime,torch", "unknown target 'torch'"),
        ("--target onnxruntime,", "unknown target ''"),
        ("", "required: --target (see edgepose prove --help)"),
        ("--target onnxruntime --precision fp8", "unknown precision 'fp8': expected one of fp32, fp16"),
        ("--target onnxruntime --precision fp32,int8", "has no int8 graph, only fp32; make it with: edgepose calibr"),
        ("--target openvino --batch 1,2", "'1,2' is not MIN,TYPICAL,MAX, such as 1,8,32"),
        ("--target openvino --batch 8,1,32", "--batch must be 1 <= smallest <= typical <= largest"),
        ("--target openvino --data lsp:nowhere", "nowhere is not a folder, expected that of the data set"),
        ("--target openvino -o {bundle}/pose.onnx", "cannot write "),
        ("--target openvino -o {bundle}/pose.onnx/x", "cannot write "),
    ],
)
def test_wrong_input_is_refused_before_anything_is_done(
    bundle: Bundle, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    for name in ("build_engine", "verify", "bench"):
        monkeypatch.setattr(prove_module, name, lambda *_: pytest.fail("a step was taken"))
    assert message in refuse("prove", bundle.path, *options.format(bundle=bundle.path).split())
    assert not bundle.reports.exists()


def test_what_the_target_cannot_compute_is_refused_if_it_was_named(shipped_variants: Path, refuse: Refuse) -> None:
    said = refuse("prove", shipped_variants, "--target", "onnxruntime", "--precision", "bf16")
    assert "cannot run here in bf16: ONNX Runtime's CPU provider has no bf16 convolution" in said


def test_what_is_no_bundle_is_refused(tmp_path: Path, bundle: Bundle, refuse: Refuse) -> None:
    (tmp_path / "empty.edgepose").mkdir()
    on = ("--target", "onnxruntime")
    assert "is not a bundle: it has no manifest.json" in refuse("prove", tmp_path / "empty.edgepose", *on)
    assert "is not a bundle: expected a folder" in refuse("prove", tmp_path / "none", *on)
    (bundle.path / GOLDENS).write_bytes(b"")
    bundle = bundle.with_files(bundle.path / GOLDENS)
    assert "golden.npz is damaged" in refuse("prove", bundle.path, *on)
    os.truncate(bundle.graph, 10)
    assert "pose.onnx was changed after the manifest was written" in refuse("prove", bundle.path, *on)


def test_engines_need_a_gpu(bundle: Bundle, refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "there is no NVIDIA driver: install the driver of your GPU"
    monkeypatch.setattr(engine_module, "load_target", lambda _: None)
    monkeypatch.setattr(engine_module, "gpu_missing", lambda: missing)
    monkeypatch.setattr(prove_module, "unavailable", lambda _: missing)
    said = refuse("prove", bundle.path, "--target", "onnxruntime,tensorrt")
    assert said == f"edgepose: tensorrt builds engines only on the GPU they will run on: {missing}\n"
    said = refuse("prove", bundle.path, "--target", "tensorrt-rtx")
    assert said == f"edgepose: tensorrt-rtx can build engines here, but not run them: {missing}\n"
    assert not bundle.reports.exists()


def test_a_target_that_is_not_installed_has_its_line(
    bundle: Bundle, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepose.engines.find_spec", lambda _: None)
    monkeypatch.setattr("edgepose.runtime.backends.find_spec", lambda _: None)
    for target, line in {
        "tensorrt": "pip install tensorrt; on Jetson it is part of JetPack",
        "tensorrt-rtx": "pip install 'edgepose[rtx]'",
        "openvino": "pip install 'edgepose[openvino]'",
    }.items():
        assert line in refuse("prove", bundle.path, "--target", target)


# --- what is handed on ----------------------------------------------------------------------------------------------


def test_nothing_handed_on_tells_whose_machine_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "somewhere" / "ann_of_the_test"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "ann_of_the_test")
    monkeypatch.chdir(home)
    bundle = make_bundle(home / "tiny.edgepose")

    def talkative(opened: Bundle, *_: object, **__: object) -> None:
        raise UsageError(
            f"{opened.path} and {opened.path.resolve()}/engines/a.engine, {home}/b, ~/c, {home}: see "
            "/mnt/ann_of_the_test/venv/d.py, /mnt/ann_of_the_test, ../ann_of_the_test/e"
        )

    monkeypatch.setattr(prove_module, "verify", talkative)
    monkeypatch.setattr(prove_module, "bench", talkative)
    for path in (bundle.path, Path("tiny.edgepose"), Path("../ann_of_the_test/tiny.edgepose"), Path("./tiny.edgepose")):
        monkeypatch.setattr(sys, "argv", [str(home / "bin" / "edgepose"), "prove", str(path)])
        proof = prove(open_bundle(path), ["onnxruntime"], options=ONE, folder=home / "out")
        for text in (proof.record.read_text(), proof.page.read_text()):
            assert "ann_of_the_test" not in text
            assert str(tmp_path) not in text
        problem = read(proof)["cases"][0]["steps"]["verify"]["problem"]
        parts = ("tiny.edgepose and tiny.edgepose/engines/a.engine", "~/b", "~/c", "~: see .../d.py", ".../~", "../~/e")
        assert problem == ", ".join(parts)
    facts = json.dumps([proof.device, proof.versions, proof.power, read(proof)["asked"]])
    assert not re.search(rf"\b{re.escape(platform.node() or 'no name')}\b", facts)


def test_paths_are_shortened_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))
    shorten = anonymiser([Path("/srv/ann/x.edgepose"), Path("../ann/lspet"), Path("plain"), Path("/"), Path()])
    for text, expected in {
        "/srv/ann/x.edgepose/a /srv/ann/x.edgepose2/a": "x.edgepose/a .../a",
        "lsp:../ann/lspet has none": "lsp:lspet has none",
        "/home/ann/a and /home/anna/a": "~/a and .../a",
        "(log: /mnt/my/a.log)": "(log: .../a.log)",
        "file:///home/bob/a": "file://.../a",
        (same := "https://example.org/a/b 3.1 crops/s 1/8/32 a / b, plain."): same,
        "/usr/lib/libnvinfer.so /sys/devices/x /dev/video0": "/usr/lib/libnvinfer.so /sys/devices/x /dev/video0",
    }.items():
        assert shorten(text) == expected
    assert shorten({"a": [1, None, ("/mnt/my/b", True)]}) == {"a": [1, None, [".../b", True]]}
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert anonymiser([])("/a/b in c/d") == ".../b in c/d"


# --- the device -----------------------------------------------------------------------------------------------------


def test_a_jetson_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "_BOARD": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "_RELEASE": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic",
        "_DRIVER": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build",
        "_MEMORY": "MemTotal:       31298064 kB\nMemFree: 1 kB\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(device_module, name, tmp_path / name)
    monkeypatch.setattr(device_module, "gpu_missing", lambda: None)
    monkeypatch.setattr(device_module, "device_info", lambda: GPU)
    cuda = {"cudaDriverGetVersion": lambda: (0, 12060), "cudaRuntimeGetVersion": lambda: (0, 12060)}
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", SimpleNamespace(**cuda))
    device = device_module.describe_device()
    assert device["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert device["jetson"] == "Jetson Linux 36.4.3 (JetPack 6)"
    assert device["memory_mb"] == 32049
    assert device["gpu"] == {"name": "Orin", "sm": "sm87", "memory_mb": 8590}
    versions = device_module.describe_versions()
    assert (versions["NVIDIA driver"], versions["CUDA of the driver"]) == ("540.4.0", "12.6")
    assert versions["numpy"] == np.__version__


def test_what_is_not_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BOARD", "_RELEASE", "_DRIVER", "_MEMORY", "_PROCESSORS"):
        monkeypatch.setattr(device_module, name, tmp_path / "none")
    monkeypatch.setattr(device_module, "gpu_missing", lambda: "no driver")
    monkeypatch.setenv("PATH", str(tmp_path))
    device = device_module.describe_device()
    assert {device[name] for name in ("gpu", "board", "jetson", "memory_mb")} == {None}
    assert "NVIDIA driver" not in device_module.describe_versions()
    assert device_module.power_state() == {}


@pytest.mark.skipif(shutil.which("sh") is None, reason="the commands of this test are shell scripts")
def test_power_and_clocks_are_what_the_commands_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {
        "nvpmodel": '[ "$*" = "-q" ] && echo "NV Power Mode: MAXN" && echo 0; echo warning >&2',
        "jetson_clocks": "echo first >&2; echo must be root >&2; exit 1",
        "nvidia-smi": 'sleep 5; echo "power.limit [W]"',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!{shutil.which('sh')}\nPATH={os.environ['PATH']}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for number, governor in enumerate(("schedutil", "performance", "schedutil")):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(device_module, "_PROCESSORS", tmp_path)
    monkeypatch.setattr(device_module, "_SECONDS", 0.5)
    found = device_module.power_state()
    asked = next(name for name in found if name.startswith("nvidia-smi --query-gpu=power.limit,"))
    assert "timed out" in found.pop(asked)
    assert found == {
        "nvpmodel -q": "NV Power Mode: MAXN\n0",
        "jetson_clocks --show": "exit 1: must be root",
        "scaling governor": "performance, schedutil",
    }


def test_heavy_modules_load_only_when_needed() -> None:
    code = (
        "import sys, edgepose.prove\n"
        "print(sorted({'cuda', 'matplotlib', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'torch'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
