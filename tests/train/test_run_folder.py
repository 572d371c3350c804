import csv
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgepose.core.errors import UsageError
from edgepose.models.checkpoint import ModelSpec, load_weights
from edgepose.train import run_folder
from edgepose.train.recipes import get_recipe
from edgepose.train.run_folder import RunFolder
from tests.doubles.full_disk import full_disk

RECIPE = get_recipe("ditn_lite_lsp")
SPEC = ModelSpec("ditn_lite", "lsp14", (64, 64))
KEYS = ("epoch", "x")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return SPEC.build()


def same_weights(path: Path, network: torch.nn.Module) -> bool:
    other = SPEC.build()
    load_weights(other, path)
    return all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())


def save(folder: RunFolder, network: torch.nn.Module, epoch: int, **more: bool) -> None:
    folder.save(RECIPE, {"epoch": epoch, "x": torch.tensor([float(epoch)])}, network, SPEC, [], **more)


@pytest.mark.slow
def test_a_state_comes_back(tmp_path, network):
    folder = RunFolder(tmp_path / "run")
    assert folder.load(RECIPE, KEYS) is None
    save(folder, network, 1)
    assert not folder.best.exists()
    save(folder, network, 2, best=True)
    assert same_weights(folder.last, network)
    assert same_weights(folder.best, network)
    state = RunFolder(tmp_path / "run").load(RECIPE, KEYS)
    assert state["epoch"] == 2
    assert state["x"].tolist() == [2.0]


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "foreign"])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, network, damage, capsys):
    folder = RunFolder(tmp_path / "run")
    for epoch in (1, 2):
        save(folder, network, epoch)
    last = folder.path / "last.pt"
    content = {"empty": b"", "cut": last.read_bytes()[:-100], "other": b"PK\x03\x04 not a checkpoint"}.get(damage)
    if content is None:
        torch.save({"weights": 1}, last)
    else:
        last.write_bytes(content)
    assert folder.load(RECIPE, KEYS)["epoch"] == 1
    assert f"{last} is damaged: going on from previous.pt, the state before it" in capsys.readouterr().out
    save(folder, network, 3)
    last.write_bytes(b"")
    assert folder.load(RECIPE, KEYS)["epoch"] == 1, "the good state was pushed out by the damaged one"


def test_states_that_are_all_damaged_are_refused_and_kept(tmp_path, network):
    folder = RunFolder(tmp_path / "run")
    for epoch in (1, 2):
        save(folder, network, epoch)
    for name in ("last.pt", "previous.pt"):
        (folder.path / name).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"last.pt and previous.pt cannot be read; give another -o"):
            folder.load(RECIPE, KEYS)


def test_a_kill_between_the_two_renames_loses_one_save(tmp_path, network):
    folder = RunFolder(tmp_path / "run")
    save(folder, network, 1)
    (folder.path / "last.pt").rename(folder.path / "previous.pt")
    assert folder.load(RECIPE, KEYS)["epoch"] == 1


def test_a_folder_of_another_recipe_is_refused(tmp_path, network):
    folder = RunFolder(tmp_path / "run")
    save(folder, network, 1)
    with pytest.raises(UsageError, match=r"begun with another recipe \(lr was 0.002, now 0.1\)"):
        folder.load(get_recipe("ditn_lite_lsp", {"lr": "0.1"}), KEYS)
    for damage in ("{", "[]"):
        (tmp_path / "run" / "recipe.json").write_text(damage)
        with pytest.raises(UsageError, match=r"recipe.json is damaged"):
            folder.load(RECIPE, KEYS)


def test_a_start_that_failed_claims_no_folder(tmp_path):
    RunFolder(tmp_path / "run").load(RECIPE, KEYS)
    assert not (tmp_path / "run").exists()


def test_what_the_state_knows_of_is_on_the_disk(tmp_path, network, monkeypatch):
    """The state is written last, so that a save that fails halfway is made again."""
    folder = RunFolder(tmp_path / "run")
    save(folder, network, 1)

    def full(*_):
        raise UsageError("cannot write: No space left on device")

    monkeypatch.setattr(run_folder, "save_checkpoint", full)
    with pytest.raises(UsageError, match="No space"):
        save(folder, network, 2, best=True)
    assert folder.load(RECIPE, KEYS)["epoch"] == 1


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_state(tmp_path, network):
    folder = RunFolder(tmp_path / "run")
    save(folder, network, 1)
    with full_disk(200_000), pytest.raises(UsageError, match=rf"^cannot write {folder.path / 'last.safetensors'}"):
        save(folder, network, 2)
    assert folder.load(RECIPE, KEYS)["epoch"] == 1
    assert same_weights(folder.last, network)
    assert not list(folder.path.glob(".*")), "temporary files are left"


def test_metrics_have_a_line_per_epoch_and_tensorboard_the_same(tmp_path, network):
    folder = RunFolder(tmp_path / "run")
    history = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "score": 40.0}]
    for rows in (history[:1], [*history[:1], {"epoch": 2, "loss": 0.25}], history):  # the last is saved again, tested
        folder.save(RECIPE, {}, network, SPEC, rows)
    with (folder.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"epoch": "1", "loss": "0.5", "score": ""}, {"epoch": "2", "loss": "0.25", "score": "40.0"}]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("score")] == [(2, 40.0)]
