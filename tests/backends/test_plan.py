"""Precisions through the runtime: which graph runs where, what is refused, and what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgepose
from edgepose.backends import onnxruntime as onnxruntime_module
from edgepose.backends import openvino as openvino_module
from edgepose.backends.plan import Plan, Runner, choose, get_backend, open_session, plan
from edgepose.bench.network import bench
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.core.errors import UsageError
from edgepose.core.timing import Budget
from tests.doubles.backends import no_gpu, set_unavailable

pytest.importorskip("openvino")

ALL = ("fp32", "fp16", "bf16", "int8", "int8+fp16")


@pytest.fixture
def bundle(shipped_variants: Path) -> Bundle:
    return open_bundle(shipped_variants)


def pair(runner: Runner) -> tuple[str, str]:
    return runner.backend, runner.precision


def pairs(found: Plan) -> list[tuple[str, str]]:
    return [pair(runner) for runner in found.runners]


def hint(bundle: Bundle, precision: str) -> str:
    session = open_session(bundle, "openvino", precision)
    assert isinstance(session, openvino_module.OpenVinoSession)
    name = session._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    session.close()
    return name


def test_auto_takes_mixed_and_else_the_most_exact(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair(choose(bundle)) == ("onnxruntime", "fp32")
    assert pair(choose(bundle, precision="bf16")) == ("openvino", "bf16"), "onnxruntime has no bf16"
    assert pair(choose(bundle, "openvino", "int8")) == ("openvino", "int8")
    monkeypatch.setattr(Bundle, "precisions", ("fp32", "int8", "mixed"))
    assert pair(choose(bundle)) == ("onnxruntime", "mixed")


def test_every_pair_is_found_and_what_cannot_be_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.__version__", "1.31.1")
    set_unavailable(monkeypatch, no_gpu)
    found = plan(bundle)
    onnx = [("onnxruntime", precision) for precision in ALL if precision != "bf16"]
    assert pairs(found) == [*onnx, *(("openvino", precision) for precision in ALL), ("torch", "fp32")]
    assert list(found.skipped) == ["tensorrt", "tensorrt-rtx", "onnxruntime bf16"]
    assert found.skipped["onnxruntime bf16"].startswith("ONNX Runtime's CPU provider has no bf16 convolution")
    found = plan(bundle, None, ["bf16"])
    assert pairs(found) == [("openvino", "bf16")]
    assert found.skipped["torch bf16"] == "torch, the reference, computes in fp32 only, got bf16"
    named = plan(bundle, ["openvino"], ["int8", "fp32", "int8"])
    assert pairs(named) == [("openvino", "int8"), ("openvino", "fp32")]


@pytest.mark.parametrize(
    ("asked", "precisions", "message"),
    [
        (
            ["onnxruntime"],
            ["bf16"],
            "^backend onnxruntime cannot run here in bf16: ONNX Runtime's CPU ",
        ),
        (
            ["torch"],
            ["int8"],
            "^backend torch cannot run here in int8: torch, the reference, computes in fp32 only",
        ),
        (["openvino"], ["mixed"], r"has no mixed graph, only fp32, fp16, .*edgepose calibrate .* --max-drop 0.3$"),
        (None, ["mixed"], r"^bundle \S+ has no mixed graph"),
        (None, ["fp8"], "unknown precision 'fp8': expected auto or one of fp32, fp16"),
        (None, [], "^no precision was named: expected all, or some of fp32"),
    ],
)
def test_a_precision_that_cannot_be_is_one_sentence(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str] | None,
    precisions: list[str],
    message: str,
) -> None:
    set_unavailable(monkeypatch, no_gpu)
    with pytest.raises(UsageError, match=message):
        plan(bundle, asked, precisions)


def test_an_onnxruntime_that_rounds_fp16_wrongly_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, refused in (("1.29.0", True), ("1.30.0", False), ("1.31.1", False), ("2.0.0.dev1", False)):
        monkeypatch.setattr("onnxruntime.__version__", version)
        reason = plan(bundle, None, ["int8+fp16", "int8"]).skipped.get("onnxruntime int8+fp16")
        assert (reason is not None) == refused
        assert not refused or f"ONNX Runtime {version} rounds FP16 towards zero when it quantises" in str(reason)
        assert pair(choose(bundle, "onnxruntime", "int8")) == ("onnxruntime", "int8")


def test_a_precision_that_nothing_here_computes_says_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    set_unavailable(monkeypatch, lambda name: None if name == "onnxruntime" else f"no {name}")
    with pytest.raises(UsageError, match=r"^no backend can run \S+ here in bf16: ONNX Runtime's CPU provider has no"):
        plan(bundle, None, ["bf16"])
    with pytest.raises(UsageError, match=r"^no backend can run \S+ here in bf16: no tensorrt; no tensorrt-rtx; ONNX"):
        edgepose.load(bundle.path, precision="bf16")
    with pytest.raises(UsageError, match=r"^backend onnxruntime cannot run here in bf16: ONNX Runtime's CPU provider"):
        edgepose.load(bundle.path, "onnxruntime", "bf16")


@pytest.mark.parametrize(
    ("backend", "precision"), [("onnxruntime", "int8"), ("openvino", "int8+fp16"), ("openvino", "bf16")]
)
def test_the_graph_of_the_precision_runs(bundle: Bundle, backend: str, precision: str) -> None:
    """The keypoints differ from FP32's as this precision's do, and are near."""
    goldens = read_goldens(bundle)
    assert choose(bundle, backend, precision).file.name == f"pose.{precision}.onnx"
    with edgepose.load(bundle.path, backend, precision) as estimator:
        assert (estimator.backend, estimator.precision) == (backend, precision)
        got = estimator.infer(goldens.images[:4])
    want = goldens.outputs["keypoints"][:4]
    assert not np.array_equal(got, want)
    assert np.median(np.linalg.norm(got[..., :2] - want[..., :2], axis=-1)) < 3


@pytest.mark.slow
def test_openvino_computes_bf16_only_where_graph_and_cpu_have_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_module, "has_bf16", lambda: True)
    assert {precision: hint(bundle, precision) for precision in ("fp32", "fp16", "bf16")} == {
        "fp32": "f32",
        "fp16": "f32",
        "bf16": "bf16",
    }
    monkeypatch.setattr(openvino_module, "has_bf16", lambda: False)
    assert hint(bundle, "bf16") == "f32"


def note(backend: str, precision: str) -> str | None:
    return get_backend(backend).note(precision)


def test_what_is_computed_in_fp32_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_module.platform, "machine", lambda: "x86_64")
    assert note("onnxruntime", "int8+fp16") == (
        "onnxruntime computes the FP16 parts of the graph in FP32 here, with weights rounded to FP16: "
        "no proof of FP16 arithmetic"
    )
    assert note("openvino", "mixed") == (
        "openvino computes the FP16 parts of the graph in FP32 here, with weights rounded to FP16: "
        "no proof of FP16 arithmetic"
    )
    for cpu_has_it in (True, False):
        monkeypatch.setattr(openvino_module, "has_bf16", lambda cpu_has_it=cpu_has_it: cpu_has_it)
        assert (note("openvino", "bf16") is None) == cpu_has_it
    for pair in (("onnxruntime", "fp32"), ("openvino", "int8"), ("torch", "fp32"), ("tensorrt", "fp16")):
        assert note(*pair) is None
    monkeypatch.setattr(onnxruntime_module.platform, "machine", lambda: "aarch64")
    assert note("onnxruntime", "fp16") is None, "it has kernels of its own there"


def test_bench_measures_every_precision(bundle: Bundle) -> None:
    quick = Budget(calls=1, seconds=1.0, warm_up=0)
    report = bench(bundle, ["onnxruntime"], (1,), quick, precisions=["int8", "fp32"])
    assert [pair(row.runner) for row in report.rows] == [("onnxruntime", "int8"), ("onnxruntime", "fp32")]
    assert str(report).splitlines()[1].split()[:3] == ["onnxruntime", "int8", "1"]
    assert report.to_json()["rows"][0]["precision"] == "int8"
    with pytest.raises(UsageError, match="cannot run here in bf16"):
        bench(bundle, ["onnxruntime"], (1,), quick, precisions=["bf16"])
