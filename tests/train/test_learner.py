"""One step after the other: the loss falls, states go on exactly, averages average, processes agree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgepose.core.errors import UsageError
from edgepose.train.distributed import Ranks, join
from edgepose.train.learner import Learner
from edgepose.train.recipes import Recipe, get_recipe

pytestmark = pytest.mark.slow

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = {"height": "64", "width": "64", "batch": "4", "epochs": "2", "ema": "0", "precision": "fp32"}


def small(**changes: str) -> Recipe:
    return get_recipe("ditn_lite_lsp", {**SMALL, **changes})


def random_batch(count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.ones(count, 14)
    weights[0, 3] = 0
    return {
        "crop": torch.randint(0, 255, (count, 64, 64, 3), dtype=torch.uint8, generator=generator),
        "joints": torch.rand(count, 14, 16, 16, generator=generator),
        "weights": weights,
        "bones": torch.rand(count, 13, 16, 16, generator=generator),
        "segmentation": torch.rand(count, 16, 16, generator=generator).round(),
    }


def weights_of(learner: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.network.parameters()])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_falls_on_a_batch_seen_again(precision):
    learner, batch = Learner(small(precision=precision, lr="0.01"), 14, ALONE), random_batch(2)
    learner.network.train()
    losses = [sum(learner.step(batch).values()) for _ in range(10)]
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("ditn_mpii", "ditn_lite"),
        ("sg_hrnet_mpii", "sg_hrnet_lite"),
        ("hsr_msnet_coco", "hsr_msnet_lite"),
        ("hrnet_mpii", "hrnet_lite"),
        ("simplebaseline_mpii", "simplebaseline_lite"),
    ],
)
def test_every_paper_s_set_up_learns(recipe, model):
    changes = {**SMALL, "model": model, "skeleton": "lsp14", "lr": "0.001", "schedule": "steps", "milestones": ""}
    learner, batch = Learner(get_recipe(recipe, changes), 30, ALONE), random_batch(2)
    learner.network.train()
    losses = [sum(learner.step(batch).values()) for _ in range(12)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("schedule", ["cycle", "steps"])
def test_a_state_goes_on_exactly(schedule):
    recipe, batch = small(schedule=schedule, milestones="1", ema="0.9", dynamic_weights="true"), random_batch()
    whole, first, second = (Learner(recipe, 2, ALONE) for _ in range(3))
    for learner in (whole, first, second):
        learner.network.train()
    for _ in range(2):
        whole.step(batch), first.step(batch)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        whole.step(batch), second.step(batch)
    assert torch.equal(weights_of(whole), weights_of(second))
    for key, value in whole.result.state_dict().items():
        assert torch.equal(value, second.result.state_dict()[key]), key


def test_milestones_lower_the_rate_to_a_tenth():
    learner, batch = Learner(small(schedule="steps", milestones="1", lr="0.01"), 2, ALONE), random_batch(2)
    learner.network.train()
    rates = []
    for _ in range(4):
        rates.append(learner.schedule.get_last_lr()[0])
        learner.step(batch)
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_the_average_follows_the_weights():
    learner, batch = Learner(small(ema="0.25", lr="0.01"), 4, ALONE), random_batch(2)
    learner.network.train()
    names = ("backbone.conv1.weight", "backbone.bn1.running_mean")
    want = {name: learner.network.state_dict()[name].clone() for name in names}
    for decay in (2 / 11, 3 / 12, 0.25):  # (1 + step) / (10 + step) is 4 / 13 at the third
        learner.step(batch)
        want = {name: decay * mean + (1 - decay) * learner.network.state_dict()[name] for name, mean in want.items()}
    for name in names:
        torch.testing.assert_close(learner.result.state_dict()[name], want[name])
        assert not torch.equal(want[name], learner.network.state_dict()[name])
    assert learner.result.state_dict()["backbone.bn1.num_batches_tracked"] == 3
    for kept, mean in zip(learner.network.buffers(), learner.result.buffers(), strict=True):
        if kept.ndim != 1 or not kept.is_floating_point():  # constants, and counters
            assert torch.equal(kept, mean)


def test_clipping_bounds_what_the_optimiser_sees():
    learner, batch = Learner(small(clip="0.001"), 4, ALONE), random_batch(2)
    learner.network.train()
    learner.backward(batch)
    assert torch.cat([p.grad.flatten() for p in learner.network.parameters()]).norm() > 0.001
    learner.step(batch)
    assert torch.cat([p.grad.flatten() for p in learner.network.parameters()]).norm() <= 0.001 * 1.001


def test_dynamic_weights_change_the_gradient():
    batch = random_batch(2)
    options = "ditm=false,cab=false,sab=false"  # the bone decoder's head then serves the bones alone
    plain, dynamic = (Learner(small(options=options, dynamic_weights=on), 4, ALONE) for on in ("false", "true"))
    dynamic.balance.history = [{"joints": 1.0, "bones": 1.0}, {"joints": 1.0, "bones": 0.5}]
    plain.backward(batch), dynamic.backward(batch)
    last = [learner.network.bone_decoder.head.bias.grad for learner in (plain, dynamic)]
    share = 2 * torch.softmax(torch.tensor([1.0, 0.5]), 0)[1]
    torch.testing.assert_close(last[1], share * last[0])


def test_the_largest_batch_that_fits_is_found(monkeypatch):
    learner, batch = Learner(small(), 4, ALONE), random_batch(4)
    whole, limit = learner.losses, {"crops": 4}

    def little_memory(part):
        if len(part["crop"]) > limit["crops"]:
            raise torch.OutOfMemoryError
        return whole(part)

    monkeypatch.setattr(learner, "losses", little_memory)
    for limit["crops"], largest in ((3, 2), (1, 0), (0, 0)):  # of one crop, DITN cannot learn
        assert learner.largest_batch(batch) == largest
    for module in learner.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    limit["crops"] = 1
    assert learner.largest_batch(batch) == 1


@pytest.mark.parametrize("model", ["ditn_lite", "ditn_hrnet_w32"])
def test_ditn_does_not_learn_from_one_crop(model):
    """The batch norm on its pooled map would see one value; in eval mode, and without that gate, one crop is enough."""
    learner = Learner(small(model=model), 4, ALONE)
    one = {name: tensor[:1] for name, tensor in random_batch().items()}
    with pytest.raises(UsageError) as refused:
        learner.step(one)
    assert str(refused.value) == (
        f"{model} cannot be trained at 64x64 with 1 crop per batch and process: a batch norm on a map of one pixel "
        "needs two or more (--set batch=..., with as many pictures)"
    )
    assert learner.network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 14, 16, 16)
    if model == "ditn_lite":
        assert sum(Learner(small(options="cab=false"), 4, ALONE).step(one).values()) > 0


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"device 'cuda:99' cannot be used: .*; use cpu"), join("cuda:99"):
        pass


def test_a_process_alone_needs_no_torchrun():
    with join("cpu") as ranks:
        assert ranks == ALONE
        assert ranks.is_first
        assert ranks.mean({"a": 1.5}) == {"a": 1.5}
        assert ranks.share("x") == "x"


def save_gradients(ranks: Ranks, path: Path) -> None:
    """Write the gradients and the accuracy of the third step, with frozen batch norms and dynamic weights.

    PyTorch's default type must be float64.
    """
    learner = Learner(small(dynamic_weights="true"), 4, ranks)
    learner.network.train()
    for module in learner.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    batch, share = random_batch(), 4 // ranks.world
    for _ in range(3):
        mine = {n: t[share * ranks.rank : share * (ranks.rank + 1)] for n, t in batch.items()}
        learner.balance.record(learner.backward(mine))
        batch["joints"] = batch["joints"] * 0.5
    if ranks.is_first:
        torch.save([*(p.grad for p in learner.network.parameters()), torch.tensor(learner.accuracy)], path)


ONE_OF_TWO = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
from tests.train.test_learner import join, save_gradients

torch.set_default_dtype(torch.float64)
with join("cpu") as ranks:
    assert ranks.world == 2
    save_gradients(ranks, Path({out!r}))
"""


def test_two_processes_have_the_gradients_of_one(tmp_path):
    script, paths = tmp_path / "two.py", [tmp_path / "one.pt", tmp_path / "two.pt"]
    try:
        torch.set_default_dtype(torch.float64)
        save_gradients(ALONE, paths[0])
    finally:
        torch.set_default_dtype(torch.float32)
    script.write_text(ONE_OF_TWO.format(here=str(Path(__file__).parents[2]), out=str(paths[1])))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [torch.load(path, weights_only=True) for path in paths]
    assert found[0].pop().tolist() == pytest.approx(found[1].pop().tolist(), abs=1e-12)
    one, two = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in found)
    assert one.dtype == torch.float64
    assert one.abs().max() > 1e-4
    difference = float((one - two).norm() / one.norm())
    print(f"two processes against one: relative difference of the gradients {difference:.1e}")
    assert difference <= 1e-6
    assert float((one - two).abs().max()) <= 1e-6 * float(one.abs().max())
