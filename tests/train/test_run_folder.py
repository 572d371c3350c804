import csv
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgepose.errors import UsageError  # noqa: E402
from edgepose.train.checkpoint import ModelSpec, load_weights  # noqa: E402
from edgepose.train.recipes import get_recipe  # noqa: E402
from edgepose.train.run_folder import RunFolder  # noqa: E402

RECIPE = get_recipe("ditn_lite_lsp")
SPEC = ModelSpec("ditn_lite", "lsp14", (64, 64))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return SPEC.build()


def same_weights(path: Path, network: torch.nn.Module) -> bool:
    other = SPEC.build()
    load_weights(other, path)
    return all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())


def test_a_state_comes_back(tmp_path, network):
    folder = RunFolder(tmp_path / "run", RECIPE)
    assert folder.load(CPU) is None
    folder.save({"epoch": 1, "x": torch.tensor([1.0, 2.0])}, network, SPEC, best=False)
    assert not folder.best.exists()
    folder.save({"epoch": 2, "x": torch.tensor([3.0])}, network, SPEC, best=True)
    assert same_weights(folder.last, network)
    assert same_weights(folder.best, network)
    state = RunFolder(tmp_path / "run", RECIPE).load(CPU)
    assert state["epoch"] == 2
    assert state["x"].tolist() == [3.0]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a checkpoint", None])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, network, damage):
    folder = RunFolder(tmp_path / "run", RECIPE)
    for epoch in (1, 2):
        folder.save({"epoch": epoch}, network, SPEC, best=False)
    last = folder.path / "last.pt"
    last.write_bytes(last.read_bytes()[:-100] if damage is None else damage)
    with pytest.warns(UserWarning, match=r"last.pt is damaged .*: going on from previous.pt"):
        assert folder.load(CPU) == {"epoch": 1}
    (folder.path / "previous.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"last.pt is damaged.*previous.pt is damaged.*remove the folder"):
        folder.load(CPU)


def test_a_kill_between_the_two_renames_loses_one_save(tmp_path, network):
    folder = RunFolder(tmp_path / "run", RECIPE)
    folder.save({"epoch": 1}, network, SPEC, best=False)
    (folder.path / "last.pt").rename(folder.path / "previous.pt")
    assert folder.load(CPU) == {"epoch": 1}


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    RunFolder(tmp_path / "run", RECIPE)
    with pytest.raises(UsageError, match=r"begun with another recipe \(lr was 0.002, now 0.1\)"):
        RunFolder(tmp_path / "run", get_recipe("ditn_lite_lsp", {"lr": "0.1"}))
    (tmp_path / "run" / "recipe.json").write_text("{")
    with pytest.raises(UsageError, match=r"recipe.json is damaged"):
        RunFolder(tmp_path / "run", RECIPE)


#: A full disk, as far as one process can have one: no file may grow beyond 200 kB.
FULL = """
import resource, signal, sys
sys.path.insert(0, {here!r})
from test_run_folder import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = RunFolder(Path({folder!r}), RECIPE)
network = SPEC.build()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    folder.save({{"epoch": 2, "network": network.state_dict()}}, network, SPEC, best=True)
except UsageError as error:
    print("refused:", error)
"""


def test_a_full_disk_leaves_the_last_good_state(tmp_path, network):
    folder = RunFolder(tmp_path / "run", RECIPE)
    folder.save({"epoch": 1}, network, SPEC, best=False)
    script = tmp_path / "full.py"
    script.write_text(FULL.format(here=str(Path(__file__).parent), folder=str(folder.path)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"refused: cannot write {folder.path / 'last.pt'}"), done.stderr[-1000:]
    assert folder.load(CPU) == {"epoch": 1}
    assert same_weights(folder.last, network)
    assert not list(folder.path.glob(".*")), "temporary files are left"


def test_metrics_have_a_line_per_epoch_and_tensorboard_the_same(tmp_path):
    folder = RunFolder(tmp_path / "run", RECIPE)
    history = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "score": 40.0}]
    folder.log(history[:1])
    folder.log(history)
    with (folder.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"epoch": "1", "loss": "0.5", "score": ""}, {"epoch": "2", "loss": "0.25", "score": "40.0"}]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("score")] == [(2, 40.0)]
