"""The command line around checkpoints, training and evaluation: what cannot be done is refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepose.cli import main

Refuse = Callable[..., str]


def test_checkpoints_that_do_not_fit_are_refused(refuse: Refuse, checkpoint: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    data = checkpoint.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, metadata in {"text": "x", "fields": '{"model": "ditn_lite"}', "list": "[1]"}.items():
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors", metadata={"edgepose": metadata})
    torch.save({1: torch.zeros(2)}, tmp_path / "numbers.pth")
    for name, message in {
        "none.safetensors": "none.safetensors does not exist",
        "none.pth": "none.pth does not exist",
        "cut.safetensors": "cut.safetensors is not a readable checkpoint (truncated or of another format)",
        "cut.pth": "cut.pth is not a readable checkpoint (truncated or of another format)",
        "other.safetensors": "other.safetensors holds the weights of another model: ",
        "text.safetensors": "text.safetensors has a damaged description of its network",
        "fields.safetensors": "fields.safetensors has a damaged description of its network ('input_size')",
        "list.safetensors": "list.safetensors has a damaged description of its network",
        "numbers.pth": "numbers.pth does not hold a state dict",
    }.items():
        said = refuse("export", "ditn_lite", "--weights", tmp_path / name, "-o", tmp_path / "x.edgepose")
        assert message in said
    keys = refuse("export", "ditn_lite", "--weights", tmp_path / "other.safetensors", "-o", tmp_path / "x.edgepose")
    assert re.search(r"\d{3} keys missing \(backbone\.bn1\.bias, backbone\.\S+, .*; 1 keys unknown \(a\)", keys)
    assert not (tmp_path / "x.edgepose").exists()


def test_weights_that_are_not_numbers_are_refused(refuse: Refuse, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(checkpoint)
    state["spatial.bn.bias"][0] = float("nan")
    save_file(state, tmp_path / "x.safetensors", metadata=metadata)
    said = refuse("export", "--weights", tmp_path / "x.safetensors", "-o", tmp_path / "x.edgepose")
    assert "holds NaN or infinity in spatial.bn.bias" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ditn --data lsp:x", "unknown recipe 'ditn': expected one of ditn_coco, ditn_mpii"),
        ("ditn_lite_lsp --data x", "--data 'x': expected KIND:ROOT"),
        ("ditn_lite_lsp --data lsp:x", "x is not a folder"),
        ("ditn_lite_lsp --data lsp:.", "joints.mat is missing"),
        ("ditn_lite_lsp --data lsp:. --eval-every 0", "'0' is not a whole number from 1 up"),
        ("ditn_lite_lsp --data lsp:x --set lr=fast", "'fast' is not of type float"),
        ("ditn_lite_lsp --data lsp:x --device warp", "device 'warp' cannot be used"),
    ],
)
def test_training_that_cannot_begin_is_refused(
    refuse: Refuse, arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    monkeypatch.chdir(tmp_path)
    assert message in refuse("train", *arguments.split(), "-o", "run")
    assert list(tmp_path.iterdir()) == []


def test_training_without_a_folder_for_it_is_refused(refuse: Refuse) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    assert "train needs -o RUN" in refuse("train", "ditn_lite_lsp", "--data", "lsp:.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("nope", "unknown model 'nope': expected one of hrnet_w32"),
        ("ditn_lite --skeleton octopus", "unknown skeleton 'octopus': expected one of coco17, mpii16, lsp14"),
        ("ditn_lite --size 100x100", "input size 100x100: both sides must be positive multiples of 32"),
        ("ditn_lite --size 32x64", "input size 32x64: ditn_lite makes its kernels from the maps"),
        ("", "no model was named: expected edgepose export MODEL, such as ditn_lite"),
    ],
)
def test_models_that_there_are_not_are_refused(refuse: Refuse, tmp_path: Path, options: str, message: str) -> None:
    pytest.importorskip("torch")
    assert message in refuse("export", *options.split(), "-o", tmp_path / "x.edgepose")
    assert list(tmp_path.iterdir()) == []


def test_eval_prints_its_figures_before_a_place_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from edgepose import evaluate
    from edgepose.accuracy.scoring import Scores
    from edgepose.core.skeletons import LSP14
    from edgepose.data.samples import PoseData

    scores = Scores("AP", 50.0, LSP14, {}, "joints right", {"neck": 50.0}, [], [])
    split = PoseData("lsp", "lsp14", [], Path("joints.mat"))
    accuracy = evaluate.Accuracy("x", "torch", "fp32", "lsp:y", split, "gt", False, "quarter", (64, 64), 1.25, scores)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: accuracy)
    assert main(["eval", "x", "--data", "lsp:y", "--json", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "", "what cannot be written is refused before the work"
    assert "it is a folder, expected the name of a file" in said.err
    monkeypatch.setattr(evaluate, "check_outputs", lambda *_: None)  # a disk that fills up meanwhile, say
    assert main(["eval", "x", "--data", "lsp:y", "--json", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == f"{accuracy}\n"
    assert "it is a folder, expected the name of a file" in said.err
