"""The command line: exit codes, one line on stderr for wrong input, and nothing lost by it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from edgepose import cli
from edgepose.backends import backend as backend_module
from edgepose.backends.plan import BACKENDS
from edgepose.bundle.bundle import open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.cli import main
from edgepose.core.errors import UsageError

COMMANDS = (
    *("train", "eval", "export", "import", "calibrate", "build", "verify", "bench", "prove"),
    *("run", "demo", "plugins", "doctor"),
)
Refuse = Callable[..., str]


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


@pytest.mark.slow
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
