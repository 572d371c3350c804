"""A real, tiny training run: learns, resumes, refuses what does not fit."""

import csv
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.io")

from test_data import make_lsp  # noqa: E402

from edgepose.errors import UsageError  # noqa: E402
from edgepose.train.checkpoint import ModelSpec, load_weights, read_spec, save_checkpoint  # noqa: E402
from edgepose.train.recipes import get_recipe  # noqa: E402
from edgepose.train.trainer import Run, train  # noqa: E402

SMALL = {"height": "64", "width": "64", "batch": "2", "epochs": "2", "lr": "0.003"}


@pytest.fixture(scope="module")
def lsp(tmp_path_factory) -> str:
    return f"lsp:{make_lsp(tmp_path_factory.mktemp('lsp') / 'data')}"


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(lsp, tmp_path, monkeypatch):
    recipe = get_recipe("ditn_lite_lsp", SMALL)
    whole = train(recipe, lsp, tmp_path / "whole", workers=0)

    saved = Run.save

    def stop_after_first_epoch(run):
        saved(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", stop_after_first_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, lsp, tmp_path / "parts", workers=0)
    monkeypatch.undo()
    parts = train(recipe, lsp, tmp_path / "parts", workers=0)

    first, second = ModelSpec("ditn_lite", "lsp14", (64, 64)).build(), ModelSpec("ditn_lite", "lsp14", (64, 64)).build()
    load_weights(first, whole)
    load_weights(second, parts)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert [row["epoch"] for row in metrics(tmp_path / "whole")] == ["1", "2"]


def test_the_loss_falls_on_a_batch_seen_again(lsp, tmp_path):
    from edgepose.train.data import load_samples
    from edgepose.train.data.loader import Augmentation, PoseDataset

    recipe = get_recipe("ditn_lite_lsp", {**SMALL, "epochs": "1"})
    dataset = PoseDataset(load_samples(lsp, "train"), recipe)
    items = [dataset.make(sample, Augmentation()) for sample in dataset.samples[:2]]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    run = Run(recipe, tmp_path / "run", "cpu", steps=40)
    losses = [run.step(batch) for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    Run(get_recipe("ditn_lite_lsp", SMALL), tmp_path / "run", "cpu", steps=1)
    with pytest.raises(UsageError, match="begun with another recipe"):
        Run(get_recipe("ditn_lite_lsp", {**SMALL, "lr": "0.1"}), tmp_path / "run", "cpu", steps=1)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("x", {}, "unknown recipe 'x': expected one of ditn_lite_lsp"),
        ("ditn_lite_lsp", {"learning_rate": "1"}, "no field 'learning_rate': expected one of model"),
        ("ditn_lite_lsp", {"epochs": "many"}, "'many' is not of type int"),
        ("ditn_lite_lsp", {"epochs": "0"}, "epochs and batch must be at least 1"),
        ("ditn_lite_lsp", {"scale_low": "2"}, "scale_low <= scale_high"),
    ],
)
def test_wrong_recipes_are_refused(name, overrides, message):
    with pytest.raises(UsageError, match=message):
        get_recipe(name, overrides)


SPEC = ModelSpec("ditn_lite", "lsp14", (64, 64), {"sab": False})


def test_a_checkpoint_knows_its_network(tmp_path):
    network = SPEC.build()
    save_checkpoint(tmp_path / "x.safetensors", network, SPEC)
    assert read_spec(tmp_path / "x.safetensors") == SPEC
    other = SPEC.build()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    load_weights(other, tmp_path / "x.safetensors")
    for key, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_pth_files_load_with_their_wrappings(tmp_path):
    network = SPEC.build()
    state = {f"module.{key}": value for key, value in network.state_dict().items() if "num_batches" not in key}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.pth")
    load_weights(SPEC.build(), tmp_path / "x.pth")
    assert read_spec(tmp_path / "x.pth") is None


def test_weights_of_another_model_are_refused_by_their_keys(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", SPEC.build(), SPEC)
    other = ModelSpec("ditn_lite", "mpii16", (64, 64)).build()
    with pytest.raises(UsageError, match=r"another model: \d+ keys missing \(spatial.bn.bias, .*of another shape"):
        load_weights(other, tmp_path / "x.safetensors")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_damaged_and_hostile_checkpoints_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = SPEC.build()
    save_checkpoint(tmp_path / "x.safetensors", network, SPEC)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:5000])
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty.pth").touch()
    for name, message in {
        "cut.safetensors": "not a readable checkpoint",
        "evil.pth": "not a readable checkpoint",
        "list.pth": "does not hold a state dict",
        "empty.pth": "not a readable checkpoint",
        "none.pth": "does not exist",
    }.items():
        with pytest.raises(UsageError, match=message):
            load_weights(network, tmp_path / name)
    assert not (tmp_path / "evil").exists()
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        read_spec(tmp_path / "cut.safetensors")
