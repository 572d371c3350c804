"""The losses of the cited codes on a few numbers: what the reference folder has in full, for those who lack it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgepose.train.losses import focal_l2, joints_mse, joints_ohkm

#: Prediction, target, and the weighted squared error of jialee93/Improved-Body-Parts: models/loss_model.py (gamma 1)
#: and models/loss_model_parallel.py (gamma 2). A target of 0.01 is foreground.
FOCAL = [
    (-0.2, 0.0, 0.00800000, 0.00160000),
    (-0.2, 0.0099, 0.00881161, 0.00176232),
    (-0.2, 0.01, 0.0529200, 0.0635040),
    (-0.2, 1.0, 1.72800, 2.07360),
    (0.2, 0.0099, 0.00722760, 0.00144552),
    (0.2, 0.01, 0.0288800, 0.0231040),
    (0.5, 0.0, 0.125000, 0.0625000),
    (0.85, 0.2, 0.0633750, 0.00950625),
    (0.85, 1.0, 0.00337500, 0.000506250),
    (1.3, 0.0, 2.19700, 2.85610),
    (1.3, 0.01, 0.499230, 0.149769),
]


@pytest.mark.parametrize(("predicted", "target", "first", "second"), FOCAL)
def test_focal_l2_is_the_cited_codes(predicted, target, first, second):
    maps = torch.full((1, 1, 1, 1), predicted), torch.full((1, 1, 1, 1), target)
    assert float(focal_l2(*maps, torch.ones(1, 1), 1.0)) == pytest.approx(first, rel=1e-5)
    assert float(focal_l2(*maps, torch.ones(1, 1))) == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize(("predicted", "target"), [(0.25, 1.0), (0.75, 0.5), (0.25, 0.0), (-0.5, 0.005)])
def test_the_gradient_of_focal_l2_flows_through_the_factor(predicted, target):
    """d/dp (p - t)^2 f^2 with f = 1 - p on the foreground and p elsewhere, and f' = -1 or 1."""
    p = torch.full((1, 1, 1, 1), predicted, requires_grad=True)
    focal_l2(p, torch.full((1, 1, 1, 1), target), torch.ones(1, 1), 2.0).backward()
    factor, slope = (1 - predicted, -1) if target >= 0.01 else (predicted, 1)
    off = predicted - target
    assert float(p.grad) == pytest.approx(2 * off * factor**2 + 2 * off**2 * factor * slope, rel=1e-5)


def test_focal_l2_is_a_mean_over_maps_and_labelled_joints_alone_cost():
    predicted, target = torch.full((2, 3, 4, 5), 0.5), torch.zeros(2, 3, 4, 5)
    weights = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    assert float(focal_l2(predicted, target, weights)) == pytest.approx(0.0625 * 3 / 6)


def test_mse_and_ohkm_are_hrnets():
    """Its lib/core/loss.py: half the squared error per joint, weights on both maps; the mean of the hardest eight."""
    rng = np.random.default_rng(0)
    output, target = rng.random((2, 2, 10, 3, 4), np.float32)
    weights = rng.choice([0, 0.5, 1.5], (2, 10)).astype(np.float32)
    each = np.zeros((2, 10))
    for sample, joint in np.ndindex(2, 10):
        weight = weights[sample, joint]
        each[sample, joint] = 0.5 * ((weight * output[sample, joint] - weight * target[sample, joint]) ** 2).mean()
    tensors = [torch.from_numpy(array) for array in (output, target, weights)]
    assert float(joints_mse(*tensors)) == pytest.approx(each.mean(), rel=1e-5)
    hardest = [sum(sorted(row)[-8:]) / 8 for row in each]
    assert float(joints_ohkm(*tensors)) == pytest.approx(sum(hardest) / 2, rel=1e-5)
