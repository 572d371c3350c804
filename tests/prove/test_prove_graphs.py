"""prove on graphs, for real: the steps of every case."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from edgepose import prove as prove_module
from edgepose.backends.plan import plan
from edgepose.build.options import BuildOptions
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import GOLDENS, PRECISIONS
from edgepose.cli import main
from edgepose.core.errors import CheckError
from edgepose.prove import prove
from edgepose.prove.page import proof_page
from edgepose.prove.record import FAILED, NOT_RUN, PASSED, SCHEMA, UNFINISHED
from tests.doubles.pose_network import CPU, change_goldens
from tests.prove.proofs import ONE, read, states

pytestmark = pytest.mark.slow


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
    left_out = plan(bundle, CPU, None).skipped
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
    keypoints = read_goldens(bundle).outputs["keypoints"].copy()
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
    assert 'File ".../test_prove_graphs.py", line ' in step["trace"] and str(Path(__file__).parent) not in step["trace"]
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
