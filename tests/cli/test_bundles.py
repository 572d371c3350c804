"""Bundles on the command line: damaged, misfit and read-only ones are refused in one line, and stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepose.bundle.bundle import open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import GOLDENS, MANIFEST
from edgepose.bundle.tasks import POSE
from edgepose.cli import main
from edgepose.core.errors import CheckError
from tests.doubles.small_lsp import make_lsp

Refuse = Callable[..., str]


@pytest.mark.parametrize("command", ["verify", "run --source {picture}", "bench", "build --target tensorrt-rtx"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("changed", "pose.onnx was changed after the manifest was written (sha256 differs)"),
        ("truncated", "pose.onnx was changed after the manifest was written"),
        ("missing", "lacks pose.onnx, which its manifest names"),
        ("no manifest", "it has no manifest.json (edgepose export makes one)"),
        ("newer", "has schema 2, this edgepose reads up to 1: upgrade edgepose"),
    ],
)
def test_damaged_bundles_are_refused_by_every_command(
    refuse: Refuse, copy: Path, picture: Path, command: str, damage: str, message: str
) -> None:
    graph, manifest = copy / POSE.graph, copy / MANIFEST
    data = bytearray(graph.read_bytes())
    if damage == "changed":
        data[len(data) // 2] ^= 1
        graph.write_bytes(data)
    elif damage == "truncated":
        graph.write_bytes(data[:-100])
    elif damage == "missing":
        graph.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 2}))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    name, *options = command.format(picture=picture).split()
    assert message in refuse(name, copy, *options)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


@pytest.mark.slow
def test_verify_of_a_network_that_gives_other_numbers_is_exit_1(
    refuse: Refuse, copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(copy), "--backend", "onnxruntime"]) == 0
    assert capfd.readouterr().out.count("passed") == 2
    bundle = open_bundle(copy)
    goldens = read_goldens(bundle)
    heatmaps = goldens.outputs["heatmaps"] + np.float32(0.01) * np.ptp(goldens.outputs["heatmaps"])
    replace(goldens, outputs={**goldens.outputs, "heatmaps": heatmaps}).save(copy / GOLDENS)
    bundle.with_files(copy / GOLDENS)
    said = refuse("verify", copy, "--backend", "onnxruntime", code=1)
    assert (
        "2 of 2 checks failed; onnxruntime fp32, batch 1: the heat-map error as a fraction of the range is 0.01" in said
    )
    assert json.loads((copy / "reports" / "verify-onnxruntime.json").read_text())["passed"] is False
    with pytest.raises(CheckError):
        main(["--debug", "verify", str(copy), "--backend", "onnxruntime"])


def test_bench_measures_nothing_that_it_could_not_write(
    refuse: Refuse, copy: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "reports").write_text("mine")
    for name in ("bench", "bench_pipeline"):
        monkeypatch.setattr(f"edgepose.bench.{name}", lambda *_, **__: pytest.fail("measured"))
    for options, report in (([], "bench.json"), (["--source", picture], "bench-pipeline.json")):
        assert refuse("bench", copy, *options).startswith(f"edgepose: cannot write {copy}/reports/{report}: ")


@pytest.mark.slow
def test_figures_are_printed_before_a_place_that_cannot_be_written(
    copy: Path, picture: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, for whom no bundle is read only; nobody can make a folder in place of a file."""
    (copy / "reports").write_text("mine")
    monkeypatch.setattr("edgepose.core.files.check_writable", lambda _: None)  # it became so while bench measured
    for options, figures in (
        (["verify", "--backend", "onnxruntime"], r"onnxruntime +fp32 +1 .* passed"),
        (["bench", "--backend", "onnxruntime", "--batch", "1"], r"onnxruntime +fp32 +1 +\d"),
        (["bench", "--backend", "onnxruntime", "--source", str(picture), "--frames", "1"], r"total +\d"),
    ):
        assert main([options[0], str(copy), *options[1:]]) == 2
        said = capfd.readouterr()
        assert re.search(figures, said.out), options
        assert re.fullmatch(r"edgepose: cannot write .*/copy.edgepose/reports/[^\n]+\n", said.err), options


def test_verify_writes_its_report_where_it_is_told(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(exported.rglob("*"))
    folder = tmp_path / "a" / "reports"
    assert main(["verify", str(exported), "--backend", "onnxruntime", "--report", str(folder)]) == 0
    assert f"report: {folder / 'verify-onnxruntime.html'}\n" in capfd.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["verify-onnxruntime.html", "verify-onnxruntime.json"]
    assert json.loads((folder / "verify-onnxruntime.json").read_text())["passed"] is True
    assert sorted(exported.rglob("*")) == before


def misfit(bundle: Path, kind: str) -> None:
    """Put a graph with one wrong part into a bundle, hashes and all."""
    onnx = pytest.importorskip("onnx")
    opened, model = open_bundle(bundle), onnx.load(bundle / POSE.graph)
    graph = model.graph
    if kind == "input name":
        for node in graph.node:
            node.input[:] = ["pixels" if name == "images" else name for name in node.input]
        graph.input[0].name = "pixels"
    elif kind == "output missing":
        del graph.output[0]
    else:  # output type
        graph.node.append(onnx.helper.make_node("Cast", ["keypoints"], ["keypoints64"], to=onnx.TensorProto.DOUBLE))
        graph.node.append(onnx.helper.make_node("Identity", ["keypoints64"], ["wide"]))
        graph.output[0].name, graph.output[0].type.tensor_type.elem_type = "wide", onnx.TensorProto.DOUBLE
    onnx.save(model, bundle / POSE.graph)
    opened.with_files(bundle / POSE.graph)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("input name", "network takes pixels uint8 (N, 64, 64, 3), expected images uint8 (N, 64, 64, 3)"),
        ("output missing", "network gives heatmaps float32 (N, 14, 16, 16), expected keypoints float32 (N, 14, 3)"),
        ("output type", "wide float64 (N, 14, 3), heatmaps float32 (N, 14, 16, 16), expected keypoints float32 (N, 14"),
    ],
)
def test_a_graph_that_does_not_keep_the_contract_is_refused(
    refuse: Refuse, copy: Path, picture: Path, tmp_path: Path, kind: str, message: str
) -> None:
    misfit(copy, kind)
    out = tmp_path / "x.jsonl"
    out.write_text("old")
    for said, remedy in (
        (refuse("run", copy, "--source", picture, "--save-json", out), "export or import the model again"),
        (refuse("eval", copy, "--data", "lsp:none"), "export the bundle again"),
    ):
        assert message in said
        assert remedy in said
    assert out.read_text() == "old"
    refuse("verify", copy, "--backend", "onnxruntime", code=1)


def test_heatmaps_that_the_goldens_have_and_the_graph_lost_are_missed(
    refuse: Refuse, copy: Path, picture: Path, tmp_path: Path
) -> None:
    """A network may come without them, but not this one."""
    onnx = pytest.importorskip("onnx")
    opened, model = open_bundle(copy), onnx.load(copy / POSE.graph)
    del model.graph.output[1]
    onnx.save(model, copy / POSE.graph)
    opened.with_files(copy / POSE.graph)
    source = ("--source", picture, "--save-json", tmp_path / "x.jsonl")
    assert "(there is no output heatmaps, only keypoints): run edgepose verify" in refuse("run", copy, *source, code=1)
    assert not (tmp_path / "x.jsonl").exists()
    assert main(["run", str(copy), *map(str, source), "--no-self-check"]) == 0
    refuse("verify", copy, "--backend", "onnxruntime", code=1)


def test_eval_needs_heatmaps(refuse: Refuse, copy: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("scipy.io")
    opened, model = open_bundle(copy), onnx.load(copy / POSE.graph)
    del model.graph.output[1]
    onnx.save(model, copy / POSE.graph)
    opened.with_files(copy / POSE.graph)
    said = refuse("eval", copy, "--data", f"lsp:{make_lsp(tmp_path / 'lsp')}", "--backend", "onnxruntime")
    assert "heatmaps" in said
