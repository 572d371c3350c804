"""The detector's network, its graph in ONNX, and its training run."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.doubles.small_lsp import make_lsp

torch = pytest.importorskip("torch")

import edgepose
from edgepose.core.errors import UsageError
from edgepose.detectors.kinds import open_detector
from edgepose.detectors.peaks import PEAKS
from edgepose.models.checkpoint import save_checkpoint
from edgepose.models.cost import macs
from tools.person_lite import __main__ as command_line
from tools.person_lite import recipe as recipes
from tools.person_lite import teacher, trainer
from tools.person_lite.export import export_detector, load_detector
from tools.person_lite.network import DetectorGraph, PersonLite
from tools.person_lite.recipe import DetectorRecipe
from tools.person_lite.scenes import Scene

SMALL = DetectorRecipe(height=64, width=64, steps=4, batch=2, seed=5)


@pytest.fixture(scope="module")
def network() -> PersonLite:
    """Untrained, but with batch statistics and heads that say something."""
    torch.manual_seed(0)
    network = PersonLite().train()
    for layer in (network.head.scores, network.head.sides):
        torch.nn.init.normal_(layer.weight, std=0.2)
    for _ in range(30):
        network(torch.randn(2, 3, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def graph(network: PersonLite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained network as ONNX, for pictures of 96 x 128 pixels."""
    pytest.importorskip("onnxsim")
    path = tmp_path_factory.mktemp("graph") / "small.onnx"
    levels = [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")]
    export_detector(network, (96, 128), path)
    assert [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")] == levels
    return path


def test_size_and_cost_are_those_of_the_model_card() -> None:
    network = PersonLite()
    assert sum(p.numel() for p in network.parameters()) == 997_029
    assert macs(network, (384, 384)) == pytest.approx(0.493e9, rel=0.001)


def test_grids_cover_the_picture_and_sides_are_positive(network: PersonLite) -> None:
    with torch.inference_mode():
        grids = network(torch.randn(2, 3, 96, 160) * 50)
    assert [tuple(scores.shape) for scores, _ in grids] == [(2, 1, 12, 20), (2, 1, 6, 10), (2, 1, 3, 5)]
    assert [tuple(sides.shape) for _, sides in grids] == [(2, 4, 12, 20), (2, 4, 6, 10), (2, 4, 3, 5)]
    assert all(bool(torch.isfinite(sides).all()) and bool((sides > 0).all()) for _, sides in grids)


@pytest.mark.slow
def test_exported_graph_gives_what_pytorch_gives(network: PersonLite, graph: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(graph)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    pictures = np.random.default_rng(1).integers(0, 256, (3, 96, 128, 3), dtype=np.uint8)
    with torch.inference_mode():
        want_boxes, want_scores = DetectorGraph(network)(torch.from_numpy(pictures))
    for backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        detector = open_detector(graph, backend)
        assert detector.kind is PEAKS
        assert detector.size == (96, 128)
        for count in (1, 3):
            got = detector.infer({"images": pictures[:count]})
            np.testing.assert_allclose(got["scores"], want_scores[:count], atol=1e-4)
            gaps = -np.diff(want_scores[:count], axis=1, prepend=2, append=-1)
            certain = np.minimum(gaps[:, 1:], gaps[:, :-1]) > 1e-3  # scores that are nearly equal may change places
            np.testing.assert_allclose(got["boxes"][certain], want_boxes[:count].numpy()[certain], atol=0.05)
            assert certain.sum() > 4


def test_a_size_that_the_network_cannot_take(network: PersonLite, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size 100x128: expected multiples of 32"):
        export_detector(network, (100, 128), tmp_path / "none.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_go_to_disk_and_back(network: PersonLite, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", network, None)
    again = load_detector(tmp_path / "a.safetensors")
    assert not again.training
    assert all(
        bool((a == b).all()) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:999])
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        load_detector(tmp_path / "b.safetensors")


@pytest.fixture
def scenes(tmp_path: Path) -> list[list[Scene]]:
    picture = np.random.default_rng(0).integers(0, 90, (80, 80, 3), dtype=np.uint8)
    picture[20:60, 30:50] = 255
    cv2.imwrite(str(tmp_path / "person.png"), picture)
    return [[Scene(tmp_path / "person.png", np.array([[30.0, 20, 50, 60]]), np.zeros((0, 4)))]] * 2


def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    scenes: list[list[Scene]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SAVE_EVERY", 2)
    whole = trainer.train(scenes, SMALL, tmp_path / "whole", workers=0)
    step = trainer.Run.step

    def stops(run: trainer.Run, batch: dict) -> float:
        if run.step_count == 3:
            raise KeyboardInterrupt
        return step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(scenes, SMALL, tmp_path / "parts", workers=0)
    parts = trainer.train(scenes, SMALL, tmp_path / "parts", workers=0)
    assert whole.read_bytes() == parts.read_bytes()
    rows = [folder.joinpath("metrics.csv").read_text() for folder in (whole.parent, parts.parent)]
    assert rows[0] == rows[1]
    assert rows[0].startswith("step,loss\n2,")


def test_a_folder_of_another_run_and_a_damaged_state_are_refused(scenes: list[list[Scene]], tmp_path: Path) -> None:
    one = DetectorRecipe(height=64, width=64, steps=1, batch=2)
    trainer.train(scenes, one, tmp_path, workers=0)
    with pytest.raises(UsageError, match=r"begun with another recipe \(seed was 0, now 5\): give another -o"):
        trainer.train(scenes, SMALL, tmp_path, workers=0)
    (tmp_path / "last.pt").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"last\.pt cannot be read; give another -o to begin again"):
        trainer.train(scenes, one, tmp_path, workers=0)


def test_a_run_goes_on_with_other_steps_but_nothing_else(tmp_path: Path) -> None:
    begun = trainer.Run(replace(SMALL, steps=100), tmp_path, "cpu")
    begun.step_count = 2
    begun.save(0.5)
    assert trainer.Run(replace(SMALL, steps=50), tmp_path, "cpu").step_count == 2
    with pytest.raises(UsageError, match=r"another recipe \(lr was 0\.002, now 1\.0\)"):
        trainer.Run(replace(SMALL, lr=1.0), tmp_path, "cpu")
    for damage in ("", "[1]"):
        (tmp_path / "recipe.json").write_text(damage)
        with pytest.raises(UsageError, match=r"recipe\.json is damaged or missing"):
            trainer.Run(SMALL, tmp_path, "cpu")


def test_a_damaged_state_costs_one_save(
    scenes: list[list[Scene]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SAVE_EVERY", 2)
    whole = trainer.train(scenes, SMALL, tmp_path / "whole", workers=0)
    before = whole.read_bytes()
    (whole.parent / "last.pt").write_bytes(b"PK")
    assert trainer.Run(SMALL, whole.parent, "cpu").step_count == 2
    trainer.train(scenes, SMALL, whole.parent, workers=0)
    assert whole.read_bytes() == before


def test_a_loss_that_is_no_number_stops_the_run(
    scenes: list[list[Scene]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.Run, "step", lambda *_: float("nan"))
    with pytest.raises(UsageError, match="the loss became nan"):
        trainer.train(scenes, SMALL, tmp_path, workers=0)
    assert not (tmp_path / "last.pt").exists()


def test_training_learns_where_the_person_is(
    scenes: list[list[Scene]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "WARM_UP", 5)
    run = trainer.Run(DetectorRecipe(height=64, width=64, steps=400, batch=4, lr=3e-3), tmp_path, "cpu")
    batches = trainer.make_loader(trainer.SceneDataset(scenes, run.recipe), 0, 0)
    losses = [run.step(batch) for _, batch in zip(range(40), batches, strict=False)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_the_average_follows_the_weights(tmp_path: Path, scenes: list[list[Scene]]) -> None:
    """Decays are (1 + step) / (10 + step) while that is less than the recipe's."""
    run = trainer.Run(replace(SMALL, average=0.2, lr=1.0), tmp_path, "cpu")
    name = "head.scores_tower.0.weight"
    want = run.network.state_dict()[name].clone()
    batches = trainer.make_loader(trainer.SceneDataset(scenes, SMALL), 0, 0)
    for decay, batch in zip((2 / 11, 0.2), batches, strict=False):
        run.step(batch)
        want = decay * want + (1 - decay) * run.network.state_dict()[name]
    torch.testing.assert_close(run.average.state_dict()[name], want)
    assert not torch.equal(want, run.network.state_dict()[name])


def test_the_kept_weights_are_those_of_the_shipped_graph() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxsim")
    from edgepose.export.to_onnx import run_graph

    network = load_detector(Path(trainer.__file__).with_name("person_lite.safetensors"))
    pictures = np.random.default_rng(2).integers(0, 256, (1, 384, 384, 3), dtype=np.uint8)
    shipped = onnx.load(Path(edgepose.__file__).parent / "assets" / "person_lite" / "person_lite.onnx")
    _, got = run_graph(shipped, pictures, ("boxes", "scores"))
    with torch.inference_mode():
        _, want = DetectorGraph(network)(torch.from_numpy(pictures))
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert want.max() > 1e-3


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command line of a small training: three athletes, one COCO picture, a teacher that is not there."""
    make_lsp(tmp_path / "lsp", persons=4, tests=1)
    (tmp_path / "coco" / "train").mkdir(parents=True)
    (tmp_path / "coco" / "annotations").mkdir()
    cv2.imwrite(str(tmp_path / "coco" / "train" / "a.jpg"), np.zeros((90, 90, 3), np.uint8))
    labels = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [9, 9, 50, 60], "iscrowd": 0}],
    }
    (tmp_path / "coco" / "annotations" / "person_keypoints_train.json").write_text(json.dumps(labels))
    paths = [f"--lsp={tmp_path / 'lsp'}", f"--coco={tmp_path / 'coco'}", "--teacher=nowhere.onnx"]
    small = ["--height=64", "--width=64", "--steps=2", "--batch=2", "--workers=0"]
    return [*paths, *small, "-o", str(tmp_path / "run")]


@pytest.mark.slow
def test_the_command_trains_and_writes_a_detector(
    command: list[str], graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [f"--teacher={graph}" if part.startswith("--teacher") else part for part in command]
    assert command_line.main(command) == 0
    assert f"graph: {tmp_path / 'run' / 'person_lite.onnx'}" in capsys.readouterr().out
    assert open_detector(tmp_path / "run" / "person_lite.onnx").size == (384, 384)
    found = json.loads((tmp_path / "run" / "teacher.json").read_text())["found"]
    assert sorted(found) == ["im00001.jpg", "im00002.jpg", "im00003.jpg"]
    monkeypatch.setattr(teacher, "read_image", None)  # the boxes that were found are not looked for again
    monkeypatch.setattr(command_line, "export_detector", lambda *_: None)
    assert command_line.main([*command[:-1], str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--lsp=nowhere", "nowhere"),
        ("--coco=nowhere", "cannot read nowhere"),
        ("--workers=0", "ONNX file nowhere.onnx does not exist"),
        ("--height=50", "multiples of 32, got 50x64"),
        ("--device=cuda:99", "device 'cuda:99' cannot be used"),
        (f"--output={__file__}/run", f"cannot write {__file__}/run/last.pt: Not a directory"),
    ],
)
def test_wrong_arguments_are_one_line(
    command: list[str], change: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert command_line.main([*command, change]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
