"""Real, tiny training runs: stopped in every way, they go on as if nothing had been."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.io")

from edgepose.core.errors import UsageError
from edgepose.models.checkpoint import ModelSpec, load_weights, save_checkpoint
from edgepose.train import trainer
from edgepose.train.recipes import get_recipe
from edgepose.train.trainer import check_samples, train
from tests.doubles.small_lsp import make_lsp

pytestmark = pytest.mark.slow

SMALL = {"height": "64", "width": "64", "batch": "2", "epochs": "4", "lr": "0.003", "ema": "0.9", "precision": "fp32"}
RECIPE = get_recipe("ditn_lite_lsp", SMALL)
COMMAND = [sys.executable, "-m", "edgepose", "train", "ditn_lite_lsp", *(f"--set={k}={v}" for k, v in SMALL.items())]


@pytest.fixture(scope="module")
def lsp(tmp_path_factory) -> str:
    return f"lsp:{make_lsp(tmp_path_factory.mktemp('lsp') / 'data', persons=14)}"


@pytest.fixture(scope="module")
def whole(lsp, tmp_path_factory) -> Path:
    """The folder of a run that was never stopped: 4 epochs of 6 batches."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(RECIPE, lsp, folder, workers=0)
    return folder


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def require_equal_runs(first: Path, second: Path) -> None:
    """Weights, averaged weights and all figures but the times are the same to the last bit."""
    states = [torch.load(folder / "last.pt", weights_only=True) for folder in (first, second)]
    assert states[0]["epoch"] == states[1]["epoch"] == 4
    for part in ("network", "average"):
        one, two = (state["learner"][part] for state in states)
        for key, value in one.items():
            assert torch.equal(value, two[key]), (part, key)
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in metrics(f)] for f in (first, second)]
    assert rows[0] == rows[1]


def start(lsp: str, folder: Path, *more: str) -> subprocess.Popen:
    """In a process group of its own, as a terminal makes one."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [*COMMAND, "--data", lsp, "-o", str(folder), *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_epoch(process: subprocess.Popen, folder: Path, epoch: int) -> None:
    end = time.monotonic() + 600  # a busy machine takes minutes to import PyTorch
    while time.monotonic() < end and process.poll() is None:
        if (folder / "metrics.csv").exists() and len(metrics(folder)) >= epoch:
            return
        time.sleep(0.01)
    raise AssertionError(f"epoch {epoch} never ended: {process.communicate()[1][-2000:]}")


def test_a_run_writes_what_it_promises(whole):
    names = {path.name for path in whole.iterdir()}
    files = {"recipe.json", "last.pt", "previous.pt", "last.safetensors", "best.safetensors", "metrics.csv"}
    assert names == {*files, "tensorboard"}
    rows = metrics(whole)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["score"]) for row in rows] == [False, True, False, True]
    for row in rows:
        assert float(row["loss"]) == pytest.approx(float(row["loss_joints"]) + float(row["loss_bones"]))
        assert 0 <= float(row["accuracy"]) <= 100
    assert float(rows[3]["loss"]) < float(rows[0]["loss"])
    assert len({row["accuracy"] for row in rows}) > 1


def test_the_accuracy_of_an_epoch_weighs_its_batches_by_their_joints():
    """As HRNet's running mean does: 13 joints at 50 % and 2 at 0 %."""
    run = object.__new__(trainer.Run)
    run.batch, run.seconds, run.sums, run.accuracy = 0, 0.0, {}, [0.0, 0.0]
    assert run.percent_right == 0
    for accuracy in ((0.5, 13), (0.0, 2), (0.0, 0)):
        vars(run)["learner"] = SimpleNamespace(accuracy=accuracy)
        run.add({"joints": 1.0}, 0.1)
    assert run.percent_right == pytest.approx(100 * 6.5 / 15)


def test_a_killed_run_goes_on_as_if_it_had_not_been(lsp, whole, tmp_path):
    process = start(lsp, tmp_path / "run", "--workers=0")
    wait_for_epoch(process, tmp_path / "run", 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(metrics(tmp_path / "run")) < 4
    train(RECIPE, lsp, tmp_path / "run", workers=0)
    require_equal_runs(whole, tmp_path / "run")


def test_ctrl_c_stops_inside_an_epoch_and_nothing_is_lost(lsp, whole, tmp_path):
    """Sent to the whole group, workers included, as a terminal does."""
    process = start(lsp, tmp_path / "run", "--workers=1")
    wait_for_epoch(process, tmp_path / "run", 1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err[-2000:]
    assert "stopped in epoch" in out
    assert "Traceback" not in err
    train(RECIPE, lsp, tmp_path / "run", workers=0)
    require_equal_runs(whole, tmp_path / "run")


def test_a_stop_after_any_batch_goes_on_exactly(lsp, whole, tmp_path, monkeypatch):
    """Inside the second epoch, by the same path as Ctrl-C."""
    original = trainer.Run.add

    def stop_once(run, terms, seconds):
        original(run, terms, seconds)
        if run.epoch == 1 and run.batch == 5:
            monkeypatch.undo()
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer.Run, "add", stop_once)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, lsp, tmp_path / "run", workers=0)
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["batch"] == 5
    train(RECIPE, lsp, tmp_path / "run", workers=0)
    require_equal_runs(whole, tmp_path / "run")


def test_a_finished_run_is_left_as_it_is(lsp, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert train(RECIPE, lsp, whole, workers=0) == whole / "last.safetensors"
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_a_damaged_state_costs_one_save(lsp, whole, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for path in whole.iterdir():
        if path.is_file():
            (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run" / "last.pt").write_bytes(b"damaged")
    train(RECIPE, lsp, tmp_path / "run", workers=0)
    assert "going on from previous.pt" in capsys.readouterr().out
    require_equal_runs(whole, tmp_path / "run")


def test_other_data_in_the_same_folder_are_refused(whole, tmp_path):
    other = f"lsp:{make_lsp(tmp_path / 'other', persons=10)}"
    with pytest.raises(UsageError, match=r"run was begun with other training samples"):
        train(RECIPE, other, whole, workers=0)


def test_data_of_another_skeleton_are_refused(lsp, tmp_path):
    with pytest.raises(UsageError, match=r"labels the joints of lsp14, the recipe trains mpii16: --set skeleton=lsp14"):
        train(replace(RECIPE, skeleton="mpii16"), lsp, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_given_weights(lsp, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"nothing in .* fits this network"):
        torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
        train(RECIPE, lsp, tmp_path / "none", weights=tmp_path / "x.pth", workers=0)
    spec = ModelSpec("ditn_lite", "mpii16", (64, 64))
    given = spec.build()
    save_checkpoint(tmp_path / "w.safetensors", given, spec)
    still = replace(RECIPE, epochs=1, lr=1e-12, ema=0.0)
    last = train(still, lsp, tmp_path / "run", weights=tmp_path / "w.safetensors", workers=0)
    network = ModelSpec("ditn_lite", "lsp14", (64, 64)).build()
    load_weights(network, last)
    name = "backbone.layer1.0.conv1.weight"
    torch.testing.assert_close(network.state_dict()[name], given.state_dict()[name], rtol=0, atol=1e-6)
    assert "loaded" in capsys.readouterr().out


def test_weights_of_another_form_of_the_network_are_named(lsp, tmp_path, capsys):
    spec = ModelSpec("ditn_lite", "lsp14", (64, 64), {"form": 1})
    save_checkpoint(tmp_path / "w.safetensors", spec.build(), spec)
    still = replace(RECIPE, epochs=1, lr=1e-12, ema=0.0)
    train(still, lsp, tmp_path / "run", weights=tmp_path / "w.safetensors", workers=0)
    said = capsys.readouterr().out
    assert "still at their start: transfer (4); they were trained with form=1, this run has form=2 (--set op" in said
    same = replace(still, options="form=1")
    train(same, lsp, tmp_path / "same", weights=tmp_path / "w.safetensors", workers=0)
    assert "they were trained" not in capsys.readouterr().out


def test_nan_names_the_batch_and_its_images(lsp, tmp_path):
    with pytest.raises(
        UsageError, match=r"loss became NaN or infinite \(.*nan.*\) in epoch 1, batch \d+ \(.*im000\d\d.jpg, .*im000"
    ):
        train(replace(RECIPE, lr=1e30), lsp, tmp_path / "run", workers=0)


@pytest.mark.parametrize("place", ["file/run", "last.pt"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_data_are_read(tmp_path, place):
    """The folder would be inside a file, or holds a folder where the state would go."""
    (tmp_path / "file").touch()
    (tmp_path / "last.pt" / "last.pt").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"cannot write .*last\.pt: (Not a directory|it is a folder)"):
        train(RECIPE, "lsp:nowhere", tmp_path / place, workers=0)


def test_start_weights_that_are_missing_are_refused_before_the_data_are_read(tmp_path):
    with pytest.raises(UsageError, match=r"checkpoint .*none\.pth does not exist"):
        train(RECIPE, "lsp:nowhere", tmp_path / "run", weights=tmp_path / "none.pth", workers=0)
    assert not (tmp_path / "run").exists()


def test_a_picture_of_samples_that_cannot_be_written_is_refused_before_the_data_are_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot write .*: it is a folder, expected the name of a file"):
        check_samples(RECIPE, "lsp:nowhere", tmp_path)
    with pytest.raises(UsageError, match=r"its name must end in one of .*\.png"):
        check_samples(RECIPE, "lsp:nowhere", tmp_path / "check.gif")


def test_weights_that_are_no_numbers_are_never_saved(lsp, tmp_path, monkeypatch):
    """The last step of an epoch may ruin them after a loss that was a number."""
    step = trainer.Learner.step

    def ruin(learner, batch):
        terms = step(learner, batch)
        torch.nn.init.constant_(learner.network.spatial.bn.bias, float("inf"))
        return terms

    monkeypatch.setattr(trainer.Learner, "step", ruin)
    with pytest.raises(UsageError, match=r"weights became infinite or NaN in epoch 1: lower lr"):
        train(replace(RECIPE, batch=24), lsp, tmp_path / "run", workers=0)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_test_that_fails_costs_no_epoch(lsp, whole, tmp_path, monkeypatch):
    """A damaged picture of the val split, say; once it is mended, the same command tests and goes on."""

    def fail(*_, **__):
        raise UsageError("the picture is damaged")

    monkeypatch.setattr(trainer, "score", fail)
    with pytest.raises(UsageError, match="damaged"):
        train(RECIPE, lsp, tmp_path / "run", workers=0)
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"] == 2
    monkeypatch.undo()
    train(RECIPE, lsp, tmp_path / "run", workers=0)
    require_equal_runs(whole, tmp_path / "run")


@pytest.mark.parametrize("persons", [1, 3])
def test_batches_of_one_crop_are_refused_and_nothing_is_written(persons, tmp_path):
    """By the recipe, or because there is one picture; the rest of an epoch that fills no batch is never trained on."""
    data = f"lsp:{make_lsp(tmp_path / 'data', persons=persons + 2)}"
    with pytest.raises(UsageError, match=r"^ditn_lite cannot be trained at 64x64 with 1 crop per batch and process: "):
        train(replace(RECIPE, batch=1 if persons == 3 else 8), data, tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_out_of_memory_says_which_batch_fits(lsp, tmp_path, monkeypatch):
    step = trainer.Learner.step

    def little_memory(learner, batch):
        if len(batch["crop"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(learner, batch)

    monkeypatch.setattr(trainer.Learner, "step", little_memory)
    with pytest.raises(
        UsageError, match=r"cpu ran out of memory with 8 crops of 64x64: batch=2 fits \(--set batch=..."
    ):
        train(replace(RECIPE, batch=8), lsp, tmp_path / "run", workers=0)


#: Leaves every process after the second epoch.
LEAVE = """
from edgepose.train.trainer import Run
finish = Run.finish_epoch
def finish_and_leave(run):
    finish(run)
    if run.epoch == 2:
        raise SystemExit(0)
Run.finish_epoch = finish_and_leave
"""


def run_two(lsp: str, folder: Path, prelude: str = "") -> str:
    """Two processes under torchrun; ``RANK`` in the folder's name gives each its own. Returns what they said."""
    script = "import os; from edgepose.cli import main" + prelude
    folder_text = f"{str(folder)!r}.replace('RANK', os.environ['RANK'])"
    command = [*COMMAND[3:], "--set=batch=4"]  # two crops per process, the fewest that DITN learns from
    script += f"\nraise SystemExit(main([*{command!r}, '--data', {lsp!r}, '-o', {folder_text}, '--workers=0']))"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = subprocess.run(
        [*torchrun, sys.executable, "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_processes_train_one_run_and_go_on_without_a_shared_folder(lsp, tmp_path):
    """Batch norms see half of each batch, so the weights are not one process's; but they are those of two, unbroken."""
    said = run_two(lsp, tmp_path / "whole")
    assert said.count("PCK@0.2") == 2, "one process tests and talks"
    run_two(lsp, tmp_path / "nodeRANK", LEAVE)
    assert [row["epoch"] for row in metrics(tmp_path / "node0")] == ["1", "2"]
    run_two(lsp, tmp_path / "nodeRANK")
    assert not (tmp_path / "node1").exists()
    require_equal_runs(tmp_path / "whole", tmp_path / "node0")


def test_samples_are_drawn_for_a_look(lsp, tmp_path):
    import cv2

    check_samples(RECIPE, lsp, tmp_path / "check.png")
    picture = cv2.imread(str(tmp_path / "check.png"))
    assert picture.std() > 10
