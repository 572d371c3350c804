"""What a step sees and does, by value: the network's input, the optimiser's rule, the learning rate of every step."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgepose.train.distributed import Ranks
from edgepose.train.learner import Learner, follow
from edgepose.train.recipes import get_recipe

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = {"model": "ditn_lite", "skeleton": "lsp14", "height": "64", "width": "64", "precision": "fp32"}
#: ImageNet's statistics of red, green and blue, as torchvision documents them and HRNet's tools/train.py has them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def batch_of(crops: np.ndarray) -> dict[str, torch.Tensor]:
    count, generator = len(crops), torch.Generator().manual_seed(0)
    return {
        "crop": torch.from_numpy(crops),
        "joints": torch.rand(count, 14, 16, 16, generator=generator),
        "weights": torch.ones(count, 14),
        "bones": torch.rand(count, 13, 16, 16, generator=generator),
        "segmentation": torch.rand(count, 16, 16, generator=generator).round(),
    }


def random_crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def learner_of(name: str, **changes: str) -> Learner:
    learner = Learner(get_recipe(name, {**SMALL, **changes}), 10, ALONE)
    learner.network.train()
    return learner


def test_the_network_sees_normalised_crops():
    learner, crops, seen = learner_of("hrnet_coco", model="hrnet_lite"), random_crops(), []
    learner.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy().copy()))
    learner.losses(batch_of(crops))
    want = np.stack([(crops[..., c] / 255 - MEAN[c]) / STD[c] for c in range(3)], axis=1)
    np.testing.assert_allclose(seen[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("recipe", "is_adamw"), [("ditn_coco", True), ("hsr_msnet_coco", False)])
def test_two_steps_are_adams(recipe, is_adamw):
    """Kingma and Ba 2015 with betas 0.9 and 0.999, decay in the gradient; AdamW's (Loshchilov and Hutter) is outside.

    The decay is larger than the recipes', so that it is seen.
    """
    learner, decay, rate = learner_of(recipe, weight_decay="1"), 1.0, 1e-3
    parameter = max(learner.network.parameters(), key=lambda p: p.numel())
    weights, first, second = parameter.detach().double().numpy().copy(), 0.0, 0.0
    batch = batch_of(random_crops())
    for step in (1, 2):
        learner.step(batch)
        gradient = parameter.grad.double().numpy()
        if is_adamw:
            weights = weights * (1 - rate * decay)
        else:
            gradient = gradient + decay * weights
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        weights = weights - rate * first / (1 - 0.9**step) / scale
        np.testing.assert_allclose(parameter.detach().numpy(), weights, rtol=1e-5, atol=1e-6)


def rates_of(learner: Learner, steps: int) -> list[float]:
    """The learning rates of steps without gradients."""
    rates = []
    for _ in range(steps):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        learner.optimizer.step()
        learner.schedule.step()
    return rates


def test_milestones_are_epochs_and_cost_nine_tenths():
    rates = rates_of(learner_of("hrnet_coco", milestones="2,3", epochs="4"), 40)
    assert rates == pytest.approx([1e-3] * 20 + [1e-4] * 10 + [1e-5] * 10)


def test_one_cycle_rises_for_fifteen_percent_of_the_steps():
    """From a 25th of the highest rate along a cosine, and down to 1 / 250,000 of it in the last step."""
    rates = rates_of(learner_of("ditn_lite_lsp", epochs="2", lr="0.01"), 20)
    top = 0.15 * 20 - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    low, last = 0.01 / 25, 0.01 / 25 / 1e4
    up = [between(low, 0.01, step / top) for step in range(3)]
    assert rates == pytest.approx([*up, *(between(0.01, last, (step - top) / (19 - top)) for step in range(3, 20))])


@pytest.mark.parametrize(("step", "share"), [(1, 2 / 11), (8, 0.5), (200, 0.9)])
def test_the_average_keeps_its_share(step, share):
    """At most (1 + step) / (10 + step), and the recipe's decay later; a counter is copied."""
    average, network = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    with torch.no_grad():
        average.running_mean.fill_(10), network.running_mean.fill_(20)
        average.weight.fill_(-1), network.weight.fill_(3)
        network.num_batches_tracked.fill_(7)
    follow(average, network, 0.9, step)
    assert average.running_mean.item() == pytest.approx(10 * share + 20 * (1 - share))
    assert average.weight.item() == pytest.approx(-share + 3 * (1 - share))
    assert average.num_batches_tracked.item() == 7
    assert (network.running_mean.item(), network.weight.item()) == (20, 3)
