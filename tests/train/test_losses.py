import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgepose.train.losses import ditn_loss, focal_l2  # noqa: E402
from edgepose.train.models import Heads  # noqa: E402


@pytest.mark.parametrize(("gamma", "tag"), [(1.0, "elem_gamma1abs"), (2.0, "elem_gamma2")])
def test_focal_l2_equals_the_cited_code_element_by_element(shared, gamma, tag):
    golden = np.load(shared / "goldens/ibp_focal_l2.npz")
    weights = torch.ones(1, 1)
    for predicted, target, wanted in zip(
        golden["elem_s"].ravel(), golden["elem_target"].ravel(), golden[tag].ravel(), strict=True
    ):
        p, t = (torch.full((1, 1, 1, 1), float(v)) for v in (predicted, target))
        assert float(focal_l2(p, t, weights, gamma)) == pytest.approx(float(wanted), rel=1e-5, abs=1e-9)


def test_focal_l2_and_its_gradient_equal_the_cited_code(shared):
    golden = np.load(shared / "goldens/ibp_focal_l2.npz")
    target = torch.from_numpy(golden["target"][0])
    weights = torch.ones(target.shape[:2])
    total = 0.0
    for stack in range(4):
        predicted = torch.from_numpy(golden["pred"][stack]).requires_grad_()
        loss = focal_l2(predicted, target, weights, 2.0) * target.numel()  # the cited code sums
        total += float(loss.detach())
    assert total / 4 == pytest.approx(float(golden["focal_gamma2_parallel_plain_loss"]), rel=1e-5)
    predicted = torch.from_numpy(golden["pred"][0]).requires_grad_()
    (focal_l2(predicted, target, weights, 2.0) * target.numel() / 4).backward()
    np.testing.assert_allclose(
        predicted.grad.numpy(), golden["focal_gamma2_parallel_plain_grad_stack0"], rtol=1e-4, atol=1e-6
    )


def test_gamma_zero_is_plain_l2():
    predicted, target = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    loss = focal_l2(predicted, target, torch.ones(2, 3), gamma=0.0)
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(predicted, target))


def test_unlabelled_joints_cost_nothing():
    predicted = torch.full((1, 2, 2, 2), 0.5, requires_grad=True)
    focal_l2(predicted, torch.zeros(1, 2, 2, 2), torch.tensor([[1.0, 0.0]])).backward()
    assert predicted.grad[0, 0].abs().min() > 0
    assert not predicted.grad[0, 1].any()


def test_bones_weigh_a_tenth():
    joints, weights = torch.zeros(1, 1, 2, 2), torch.ones(1, 1)
    bones = torch.tensor([0.0, 0.5, 1.0, 3.0]).reshape(1, 1, 2, 2)
    loss = ditn_loss(Heads(joints, bones), joints, weights, torch.zeros(1, 1, 2, 2))
    # Smooth L1 with beta 1: 0, 0.125, 0.5, 2.5, mean 0.78125.
    assert float(loss) == pytest.approx(0.078125)
