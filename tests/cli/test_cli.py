"""The command line: exit codes, one line on stderr for wrong input, and nothing lost by it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose import cli
from edgepose.backends import backend as backend_module
from edgepose.backends.plan import BACKENDS
from edgepose.bundle.bundle import open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import GOLDENS, MANIFEST
from edgepose.bundle.tasks import POSE
from edgepose.cli import main
from edgepose.core.codecs import silence_codecs
from edgepose.core.errors import CheckError, UsageError
from tests.doubles.small_lsp import make_lsp

COMMANDS = (
    *("train", "eval", "export", "import", "calibrate", "build", "verify", "bench", "prove"),
    *("run", "demo", "plugins", "doctor"),
)
Refuse = Callable[..., str]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    return path


def write_video(path: Path, frames: int = 30) -> Path:
    silence_codecs()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (120, 90))
    for i in range(frames):
        writer.write(np.random.default_rng(i).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    writer.release()
    return path


# --- help and arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    (choices,) = [a.choices for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for action in choices[command]._actions:
        name = action.option_strings[-1] if action.option_strings else action.metavar
        assert str(name) in text
        assert action.help or action.metavar in ("BUNDLE", "BUNDLE|CHECKPOINT"), name
        if action.default not in (None, False, [], argparse.SUPPRESS):
            assert "default" in str(action.help), name  # it is not enough that it exists


@pytest.mark.parametrize("command", ["run", "eval"])
def test_help_says_which_backend_is_taken(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"default: the first of {', '.join(BACKENDS)} that can run here" in said


def test_the_commands_are_those_of_the_design(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^    (\w+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert tuple(listed) == COMMANDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: COMMAND (see edgepose --help)"),
        ("fly", "invalid choice: 'fly'"),
        ("run x", "required: --source (see edgepose run --help)"),
        ("export ditn_lite --size 256 -o x", "'256' is not HxW, such as 256x192"),
        ("export ditn_lite --size axb -o x", "'axb' is not HxW"),
        ("build x --target tensorrt --batch 1,2", "'1,2' is not MIN,TYPICAL,MAX, such as 1,8,32"),
        ("bench x --batch many", "'many' is not a list of whole numbers"),
        ("train ditn_lite_lsp --data lsp:x -o x --set epochs", "'epochs' is not FIELD=VALUE, such as epochs=10"),
        ("run x --source y --limit ten", "invalid int value: 'ten'"),
    ],
)
def test_wrong_arguments_are_one_line(refuse: Refuse, arguments: str, message: str) -> None:
    assert message in refuse(*arguments.split())


def test_debug_raises_wherever_it_stands() -> None:
    for arguments in (["--debug", "verify", "none"], ["verify", "none", "--debug"]):
        with pytest.raises(UsageError, match="none is not a bundle"):
            main(arguments)


def test_as_a_program(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "edgepose", *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"edgepose \d+\.\d+\.\d+\n", out)
    assert run("verify", "none.edgepose") == (
        2,
        "",
        "edgepose: none.edgepose is not a bundle: expected a folder NAME.edgepose (edgepose export makes one)\n",
    )


def test_a_reader_that_leaves_costs_no_file() -> None:
    script = (
        "from edgepose.cli.commands import show; import sys; "
        "show('x' * 10**6); show('y'); sys.stderr.write('wrote files')"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    assert program.stderr.read() == "wrote files"
    assert program.wait() == 0


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgepose.doctor.doctor", stop)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "edgepose: stopped\n"


# --- bundles --------------------------------------------------------------------------------------------------------


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


# --- backends and extras --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["run {bundle} --source {picture}", "verify {bundle}", "eval {bundle} --data lsp:x"]
)
def test_backends_that_cannot_run_are_refused(
    refuse: Refuse, exported: Path, picture: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = command.format(bundle=exported, picture=picture).split()
    known = "unknown backend 'caffe': expected one of tensorrt, tensorrt-rtx, onnxruntime, openvino, torch"
    assert known in refuse(*arguments, "--backend", "caffe")
    monkeypatch.setattr(backend_module, "find_spec", lambda _: None)
    installs = {
        "openvino": "pip install 'edgepose[openvino]'",
        "tensorrt": "pip install tensorrt; on Jetson it is part of JetPack",
        "tensorrt-rtx": "pip install 'edgepose[rtx]'",
    }
    for backend, install in installs.items():
        said = refuse(*arguments, "--backend", backend)
        assert f"backend {backend} cannot run here" in said
        assert install in said


@pytest.mark.parametrize(
    ("command", "extra", "modules"),
    [
        ("export ditn_lite -o x", "export", ("torch", "safetensors")),
        ("train ditn_lite_lsp --data lsp:x -o x", "train", ("torch", "safetensors", "tqdm")),
        ("eval x.safetensors --data lsp:x", "train", ("torch", "safetensors", "tqdm")),
    ],
)
def test_without_pytorch_the_pip_line_is_shown(
    refuse: Refuse, command: str, extra: str, modules: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.safetensors").touch()
    for missing in modules:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, missing=missing: None if name == missing else 1)
        assert refuse(*command.split()) == (
            f"edgepose: the Python module '{missing}' is not installed: pip install 'edgepose[{extra}]'\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("run --source {picture} --precision fp8", "unknown precision 'fp8': expected auto or one of fp32, fp16"),
        ("run --source {picture} --precision int8", "has no int8 graph, only fp32; make it with: edgepose calibrate"),
        ("eval --data lsp:x --precision bf16 --backend onnxruntime", "cannot run here in bf16: ONNX Runtime's CPU"),
        ("verify --precision fp32,int8", "has no int8 graph, only fp32; make it with: edgepose calibrate"),
        ("verify --precision fp16 --backend torch", "in fp16: torch, the reference, computes in fp32 only, got fp16"),
        ("verify --backend onnxruntime --data lsp:x --max-drop -1", "the largest drop is -1 points, expected 0 to 100"),
        ("bench --precision fp8", "unknown precision 'fp8'"),
        ("bench --source {picture} --precision fp32,fp16", "bench --source measures one precision, got fp32, fp16"),
    ],
)
def test_precisions_that_cannot_run_are_refused(
    refuse: Refuse, exported: Path, picture: Path, command: str, message: str
) -> None:
    name, *options = command.format(picture=picture).split()
    assert message in refuse(name, exported, *options)


def test_a_checkpoint_computes_in_fp32(refuse: Refuse, checkpoint: Path) -> None:
    said = refuse("eval", checkpoint, "--data", "lsp:x", "--precision", "int8")
    assert "is a checkpoint, which runs in fp32 only: export it to run in int8" in said


@pytest.mark.slow
def test_precisions_go_through_every_command(
    shipped_variants: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle, source = str(shipped_variants), str(tmp_path / "person.png")
    cv2.imwrite(source, cv2.cvtColor(read_goldens(open_bundle(shipped_variants)).images[0], cv2.COLOR_RGB2BGR))
    poses = [tmp_path / f"{precision}.jsonl" for precision in ("fp32", "int8")]
    for path in poses:
        arguments = ["--source", source, "--precision", path.stem, "--save-json", str(path)]
        assert main(["run", bundle, "--backend", "onnxruntime", *arguments]) == 0
        assert f"onnxruntime {path.stem}" in capfd.readouterr().out
    assert poses[0].read_text() != poses[1].read_text()
    on = ["--backend", "onnxruntime", "--precision", "int8,fp32"]
    assert main(["verify", bundle, *on, "--report", str(tmp_path)]) == 0
    assert re.search(r"onnxruntime +int8 +1 .*\n.*\nonnxruntime +fp32 +1 ", capfd.readouterr().out)
    assert main(["bench", bundle, *on, "--batch", "1", "--json", str(tmp_path / "b.json")]) == 0
    assert [row["precision"] for row in json.loads((tmp_path / "b.json").read_text())["rows"]] == ["int8", "fp32"]
    one = ["--precision", "int8", "--source", source, "--frames", "1", "--json", str(tmp_path / "p.json")]
    assert main(["bench", bundle, "--backend", "onnxruntime", *one]) == 0
    assert json.loads((tmp_path / "p.json").read_text())["precision"] == "int8"


# --- sources and outputs --------------------------------------------------------------------------------------------


def test_a_run_writes_what_it_is_asked_for(
    exported: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ["--save-video", "v.mp4", "--save-json", "p.jsonl"]
    paths = [str(tmp_path / text) if "." in text else text for text in outputs]
    assert main(["run", str(exported), "--source", str(picture), *paths]) == 0
    assert "1 frames, 1 people" in capsys.readouterr().out
    header, frame = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert (header["schema"], header["skeleton"], len(header["joints"])) == (1, "lsp14", 14)
    (person,) = frame["people"]
    assert np.shape(person["keypoints"]) == (14, 3)
    assert cv2.VideoCapture(str(tmp_path / "v.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 1


def test_results_on_standard_output_stand_alone(
    exported: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("-", "/dev/stdout"):
        assert main(["run", str(exported), "--source", str(picture), "--save-json", name]) == 0
        said = capfd.readouterr()
        assert [json.loads(line).get("frame") for line in said.out.splitlines()] == [None, 0]
        assert "1 frames, 1 people" in said.err
    assert main(["bench", str(exported), "--backend", "onnxruntime", "--batch", "1", "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["rows"]
    assert list((tmp_path / "here").iterdir()) == []  # no plot beside a name that is none


def test_a_picture_is_saved_as_a_picture_or_into_a_folder(exported: Path, picture: Path, tmp_path: Path) -> None:
    for name in ("new.jpg", "a.b/", "new.mp4/"):
        assert main(["run", str(exported), "--source", str(picture), "--save-video", f"{tmp_path}/{name}"]) == 0
    size = cv2.imread(str(picture)).shape
    assert {cv2.imread(str(tmp_path / name)).shape for name in ("new.jpg", "a.b/a.jpg", "new.mp4/a.jpg")} == {size}


def test_coco_results_of_other_joints_are_refused(
    refuse: Refuse, exported: Path, picture: Path, tmp_path: Path
) -> None:
    said = refuse("run", exported, "--source", picture, "--save-coco", tmp_path / "c.json")
    assert "the network's skeleton is lsp14 with 14 joints, expected the joints of coco17" in said
    assert list(tmp_path.glob("*.json")) == []


def test_a_full_disk_is_one_sentence(refuse: Refuse, exported: Path, picture: Path) -> None:
    said = refuse("run", exported, "--source", picture, "--save-json", "/dev/full")
    assert "cannot write /dev/full: No space left on device" in said
    assert Path("/dev/full").is_char_device()


def test_sources_that_cannot_be_read_are_refused(refuse: Refuse, exported: Path, picture: Path, tmp_path: Path) -> None:
    whole = picture.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    jpeg = cv2.imencode(".jpg", cv2.imread(str(picture)))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "empty.jpg").touch()
    video = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(video[: len(video) // 2])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "nothing").mkdir()
    out = tmp_path / "x.jsonl"
    out.write_text("old")
    for name, message in {
        "none.jpg": "does not exist: expected an image, a folder",
        "none.mp4": "does not exist: expected an image, a folder",
        "cut.png": "cut.png is truncated (a PNG without its end marker): copy it again",
        "cut.jpg": "cut.jpg is truncated (a JPEG without its end marker): copy it again",
        "empty.jpg": "empty.jpg is not an image that OpenCV can decode (0 bytes)",
        "cut.mp4": "cut.mp4 is not an image or video that can be decoded, or was cut short: copy it again",
        "text.mp4": "text.mp4 is not an image or video that can be decoded",
        "nothing": "holds no images: expected files ending in .jpg",
        "*.gif": "holds no images",
    }.items():
        assert message in refuse("run", exported, "--source", tmp_path / name, "--save-json", out), name
        assert out.read_text() == "old", name
    for source, message in {
        "97": "camera 97 cannot be opened: check that it exists",
        "http://x/y.mp4": "has an unknown scheme",
        "gst:videotestsrc": "GStreamer sources are not supported yet",
    }.items():
        assert message in refuse("run", exported, "--source", source, "--save-json", out)
    assert out.read_text() == "old"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_detectors_that_are_none_are_refused(refuse: Refuse, exported: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes((exported / POSE.graph).read_bytes()[:20_000])
    for name, message in {
        tmp_path / "none.onnx": "none.onnx does not exist",
        tmp_path / "cut.onnx": "cut.onnx is not an ONNX graph that ONNX Runtime can load",
        exported / POSE.graph: "expected YOLOX: input float32 (1, 3, h, w)",
    }.items():
        assert message in refuse("run", exported, "--source", picture, "--detector", name)


def test_a_frame_without_a_person_is_an_empty_list(exported: Path, picture: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    cells = np.zeros((1, 8 * 8 + 4 * 4 + 2 * 2, 85), np.float32)
    constants = [onnx.numpy_helper.from_array(cells, "cells"), onnx.numpy_helper.from_array(np.float32(0), "zero")]
    nodes = [
        onnx.helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        onnx.helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        onnx.helper.make_node("Add", ["cells", "nothing"], ["output"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "blind", [tensor("images", kind, [1, 3, 64, 64])], [tensor("output", kind, cells.shape)], constants
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "blind.onnx")
    outputs = ["--save-json", tmp_path / "p.jsonl"]
    arguments = ["run", exported, "--source", picture, "--detector", tmp_path / "blind.onnx", *outputs]
    assert main([str(argument) for argument in arguments]) == 0
    line = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[1])
    assert (line["frame"], line["name"], line["time"], line["people"]) == (0, "a.png", 0.0, [])


def test_places_that_cannot_be_written_are_refused(
    refuse: Refuse, exported: Path, picture: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Tests may run as root, whom no permission stops; nobody can write below a file."""
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / "x"
    run = ("run", exported, "--source", picture)
    for arguments in (
        (*run, "--save-json", place.with_suffix(".jsonl")),
        (*run, "--save-video", place.with_suffix(".mp4")),
        (*run, "--save-video", place),
        (*run, "--save-coco", place.with_suffix(".json")),
        (*run, "--save-json", tmp_path),
        ("export", "--weights", checkpoint, "-o", place),
        ("bench", exported, "--source", picture, "--frames", 1, "--json", place),
    ):
        assert "cannot write" in refuse(*arguments)
    assert "file exists and is not a bundle: give another -o" in refuse(
        "export", "--weights", checkpoint, "-o", tmp_path / "file"
    )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]
