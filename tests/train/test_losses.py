import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgepose.core.errors import UsageError
from edgepose.core.heatmaps import encode_bones, encode_joints, encode_segmentation
from edgepose.core.skeletons import get_skeleton
from edgepose.models import build_model
from edgepose.models.layers import Heads
from edgepose.train import losses as L
from edgepose.train.recipes import LOSSES, Recipe, get_recipe

RECIPE = get_recipe("ditn_coco")
FOCAL, HRNET = "ibp_focal_l2.npz", "hrnet_losses.npz"


@pytest.mark.parametrize(("gamma", "tag"), [(1.0, "elem_gamma1abs"), (2.0, "elem_gamma2")])
def test_focal_l2_equals_the_cited_code_element_by_element(reference, gamma, tag):
    golden = reference.load(FOCAL)
    predicted, target = (torch.from_numpy(golden[name]).reshape(-1, 1, 1, 1) for name in ("elem_s", "elem_target"))
    got = [L.focal_l2(p[None], t[None], torch.ones(1, 1), gamma) for p, t in zip(predicted, target, strict=True)]
    reference.match(FOCAL, got, golden[tag].ravel(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("gamma", "tag"), [(1.0, "focal_gamma1abs_plain"), (2.0, "focal_gamma2_parallel_plain")])
def test_focal_l2_and_its_gradient_equal_the_cited_code(reference, gamma, tag):
    """The cited code sums over everything and averages over its four stacks."""
    golden = reference.load(FOCAL)
    target = torch.from_numpy(golden["target"][0])
    weights = torch.ones(target.shape[:2])
    total, gradients = 0.0, []
    for stack in golden["pred"]:
        predicted = torch.from_numpy(stack).requires_grad_()
        loss = L.focal_l2(predicted, target, weights, gamma) * target.numel() / 4
        loss.backward()
        total += float(loss.detach())
        gradients.append(predicted.grad.numpy())
    reference.match(FOCAL, total, float(golden[f"{tag}_loss"]), rtol=1e-5)
    reference.match(FOCAL, gradients[0], golden[f"{tag}_grad_stack0"], rtol=1e-5, atol=1e-6)


def test_focal_l2_as_printed_by_hand():
    predicted = torch.tensor([[[[0.25, 0.25]]]])
    target = torch.tensor([[[[0.5, 0.0]]]])
    # Foreground: 0.25^2 * 0.5^2; background: 0.25^2 * 0.75^2: the easy background weighs more.
    loss = L.focal_l2(predicted, target, torch.ones(1, 1), 2.0, printed=True)
    assert float(loss) == pytest.approx((0.0625 * 0.25 + 0.0625 * 0.5625) / 2)


#: Losses of one pixel at (predicted, target) in Improved-Body-Parts: with gamma 1 in ``MultiTaskLoss.focal_l2_loss``,
#: with gamma 2 in ``MultiTaskLossParallel.focal_l2_loss``. A target of 0.01 is foreground, 0.0099 is not.
CITED = [
    ((-0.2, 0.0099), 0.00881160516, 0.00176232134),
    ((-0.2, 0.01), 0.0529200099, 0.0635040104),
    ((0.2, 0.0099), 0.00722760148, 0.00144552020),
    ((0.2, 0.85), 0.338000029, 0.270400047),
    ((0.5, 0.0), 0.125, 0.0625),
    ((0.85, 0.0099), 0.599902928, 0.509917498),
    ((0.85, 0.01), 0.105839998, 0.0158759970),
    ((1.3, 0.0), 2.19699979, 2.85609937),
    ((1.3, 0.01), 0.499229908, 0.149768949),
]


@pytest.mark.parametrize(("pixel", "linear", "squared"), CITED)
def test_focal_l2_of_a_pixel_is_the_cited_codes(pixel, linear, squared):
    predicted, target = (torch.tensor(value).reshape(1, 1, 1, 1) for value in pixel)
    for gamma, want in ((1.0, linear), (2.0, squared)):
        got = float(L.focal_l2(predicted, target, torch.ones(1, 1), gamma))
        assert got == pytest.approx(want, rel=1e-5), gamma


@pytest.mark.parametrize(
    ("predicted", "target", "gradient"),
    [
        # (p - t)^2 (1 - p)^2 on the foreground: 2 (p - t) (1 - p)^2 - 2 (p - t)^2 (1 - p)
        (0.5, 0.75, 2 * -0.25 * 0.25 - 2 * 0.0625 * 0.5),
        # (p - t)^2 p^2 on the background: 2 (p - t) p^2 + 2 (p - t)^2 p
        (0.5, 0.0, 2 * 0.5 * 0.25 + 2 * 0.25 * 0.5),
    ],
)
def test_the_gradient_of_focal_l2_flows_through_its_factor(predicted, target, gradient):
    value = torch.full((1, 1, 1, 1), predicted, requires_grad=True)
    L.focal_l2(value, torch.full((1, 1, 1, 1), target), torch.ones(1, 1)).backward()
    assert float(value.grad) == pytest.approx(gradient)


def test_focal_l2_is_a_mean_that_counts_unlabelled_joints_as_zero():
    predicted, target = torch.full((2, 2, 3, 4), 0.5), torch.zeros(2, 2, 3, 4)
    weights = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert float(L.focal_l2(predicted, target, weights)) == pytest.approx(0.0625 * 3 / 4)


def test_gamma_zero_is_plain_l2():
    predicted, target = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    loss = L.focal_l2(predicted, target, torch.ones(2, 3), gamma=0.0)
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(predicted, target))


CASES = [
    ("mse_w", L.joints_mse, "target_weight", {}),
    ("mse_w_wj", L.joints_mse, "target_weight_joints", {}),
    ("mse_now", L.joints_mse, None, {}),
    ("ohkm_w", L.joints_ohkm, "target_weight", {}),
    ("ohkm_w_wj", L.joints_ohkm, "target_weight_joints", {}),
    ("ohkm_now", L.joints_ohkm, None, {}),
    ("ohkm_w_top3", L.joints_ohkm, "target_weight", {"hardest": 3}),
    ("ohkm_w_top3_wj", L.joints_ohkm, "target_weight_joints", {"hardest": 3}),
]


@pytest.mark.parametrize(("tag", "loss", "weight", "options"), CASES)
def test_mse_and_ohkm_and_their_gradients_equal_hrnet(reference, tag, loss, weight, options):
    golden = reference.load(HRNET)
    output = torch.from_numpy(golden["output"]).requires_grad_()
    target = torch.from_numpy(golden["target"])
    weights = torch.ones(4, 17) if weight is None else torch.from_numpy(golden[weight][..., 0])
    value = loss(output, target, weights, **options)
    value.backward()
    reference.match(HRNET, value.detach(), golden[f"{tag}_loss"], rtol=1e-5)
    reference.match(HRNET, output.grad, golden[f"{tag}_grad"], rtol=1e-5, atol=1e-10)


def test_mse_by_hand():
    """Two joints of two pixels: the weight counts squared, and a joint of weight 0 stays in the mean."""
    predicted = torch.tensor([1.0, 3.0, 5.0, 5.0]).reshape(1, 2, 1, 2)
    target = torch.tensor([0.0, 1.0, 0.0, 0.0]).reshape(1, 2, 1, 2)
    weigh = [([[1.0, 0.0]], 0.5 * (1 + 4) / 4), ([[1.5, 0.0]], 0.5 * 2.25 * (1 + 4) / 4), ([[1.0, 1.0]], 0.5 * 55 / 4)]
    for weights, want in weigh:
        assert float(L.joints_mse(predicted, target, torch.tensor(weights))) == pytest.approx(want)


def test_ohkm_by_hand():
    """Joints with errors 1 to 10: the mean of the eight largest per sample, 3 to 10, of half their squares."""
    predicted = torch.arange(1.0, 11.0).reshape(1, 10, 1, 1)
    zeros, ones = torch.zeros(1, 10, 1, 1), torch.ones(1, 10)
    assert float(L.joints_ohkm(predicted, zeros, ones)) == pytest.approx(0.5 * sum(k * k for k in range(3, 11)) / 8)
    assert float(L.joints_ohkm(predicted, zeros, ones, hardest=1)) == 50
    for weight, want in ((0.0, 40.5), (1.5, 50 * 2.25)):  # the worst joint is not labelled, or weighs more, squared
        ones[0, 9] = weight
        assert float(L.joints_ohkm(predicted, zeros, ones, hardest=1)) == want


@pytest.mark.parametrize(("tag", "loss"), [("mse_w", L.joints_mse), ("ohkm_w", L.joints_ohkm)])
def test_a_batch_of_one_equals_hrnet(reference, tag, loss):
    golden = reference.load(HRNET)
    output, target, weights = (torch.from_numpy(golden[n][:1]) for n in ("output", "target", "target_weight"))
    reference.match(HRNET, loss(output, target, weights[..., 0]), golden[f"{tag}_batch1_loss"], rtol=1e-5)


def targets(joints, weights, bones=None, segmentation=None) -> L.Targets:
    empty = torch.zeros(0)
    return L.Targets(
        joints, weights, empty if bones is None else bones, empty if segmentation is None else segmentation
    )


@pytest.mark.parametrize("name", ["mse", "ditn", "ditn_printed", "ditn_mse", "ditn_focal", "sg_hrnet", "sg_hrnet_sums"])
def test_unlabelled_joints_cost_nothing(name):
    predicted = torch.full((1, 2, 4, 4), 0.25, requires_grad=True)
    maps = torch.full((1, 4, 4, 4), 0.5)
    wanted = targets(torch.zeros(1, 2, 4, 4), torch.tensor([[1.0, 0.0]]), maps, maps[:, 0])
    terms = L.LOSS_FUNCTIONS[name](Heads(predicted, maps, maps), wanted, RECIPE)
    terms["joints"].backward()
    assert predicted.grad[0, 0].abs().min() > 0
    assert not predicted.grad[0, 1].any()


def test_bones_weigh_a_tenth():
    joints, weights = torch.zeros(1, 1, 2, 2), torch.ones(1, 1)
    bones = torch.tensor([0.0, 0.5, 1.0, 3.0]).reshape(1, 1, 2, 2)
    wanted = targets(joints, weights, torch.zeros(1, 1, 2, 2))
    # Smooth L1 with beta 1: 0, 0.125, 0.5, 2.5; squares: 0, 0.25, 1, 9; focal: squares times squares.
    means = {"ditn": 3.125 / 4, "ditn_mse": 10.25 / 4, "ditn_focal": (0.0625 + 1 + 81) / 4}
    for name, mean in means.items():
        terms = L.LOSS_FUNCTIONS[name](Heads(joints, bones), wanted, RECIPE)
        assert float(terms["bones"]) == pytest.approx(0.1 * mean), name
        assert float(terms["joints"]) == 0


def test_ditn_without_bone_branch_has_one_term():
    joints = torch.zeros(1, 1, 2, 2)
    assert list(L.ditn_loss(Heads(joints), targets(joints, torch.ones(1, 1)), RECIPE)) == ["joints"]


def test_sg_hrnet_by_hand():
    """Two persons, one joint, two pixels; two maps of a guide each, every pixel said 0.5 or 0.25."""
    recipe = Recipe(model="sg_hrnet_w32", skeleton="coco17", loss="sg_hrnet")
    joints = torch.tensor([1.0, 2.0, 0.0, 1.0]).reshape(2, 1, 1, 2)
    maps = torch.full((2, 2, 1, 2), 0.5)
    maps[1, 1] = 0.25
    truth = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    wanted = targets(torch.zeros(2, 1, 1, 2), torch.ones(2, 1), segmentation=truth)
    terms = L.sg_hrnet_loss(Heads(joints, segmentation=maps), wanted, recipe)
    assert float(terms["joints"]) == pytest.approx(0.5 * (1 + 4 + 0 + 1) / 4)
    halves, quarters = 2 * math.log(2), math.log(4) + math.log(4 / 3)
    assert float(terms["segmentation"]) == pytest.approx(0.002 * (3 * halves + quarters) / 8)
    sums = L.sg_hrnet_sums_loss(Heads(joints, segmentation=maps), wanted, recipe)
    assert float(sums["joints"]) == pytest.approx((1 + 4 + 0 + 1) / 2)
    assert float(sums["segmentation"]) == pytest.approx(0.002 * (3 * halves + quarters) / 4)


def test_the_terms_of_sg_hrnet_begin_about_equal():
    """The untrained network at 256x192, for two persons with all joints labelled."""
    recipe = get_recipe("sg_hrnet_coco")
    rng = np.random.default_rng(0)
    persons = rng.uniform((20, 20), (172, 236), size=(2, 17, 2))  # x, y in crop pixels
    seen, shape, bones = np.ones(17), (64, 48), get_skeleton("coco17").bones
    encoded = [
        (
            *encode_joints(points, seen, shape, recipe.sigma),
            encode_bones(points, seen, bones, shape),
            encode_segmentation(points, seen, shape, recipe.segmentation_radius),
        )
        for points in persons
    ]
    wanted = L.Targets(*(torch.from_numpy(np.stack(arrays)) for arrays in zip(*encoded, strict=True)))
    images = torch.from_numpy(rng.standard_normal((2, 3, 256, 192)).astype(np.float32))
    with torch.no_grad():
        heads = build_model("sg_hrnet_w32").train()(images)
    ratios = {}
    for name in ("sg_hrnet", "sg_hrnet_sums"):
        terms = {key: float(term) for key, term in L.LOSS_FUNCTIONS[name](heads, wanted, recipe).items()}
        ratios[name] = terms["joints"] / terms["segmentation"]
        print(f"{name}: {terms}, ratio {ratios[name]:.3g}")
    assert 0.5 < ratios["sg_hrnet"] < 2
    assert ratios["sg_hrnet_sums"] == pytest.approx(2 * 17 * ratios["sg_hrnet"], rel=1e-4)


def test_segmentation_bce_is_finite_where_a_sigmoid_rounds_to_its_ends():
    assert math.isfinite(float(L.segmentation_bce(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[0.0, 1.0]]]))))


def test_dynamic_weights_by_hand():
    weights = L.DynamicWeights()
    names = ("joints", "segmentation")
    assert weights.of(names) == {"joints": 1.0, "segmentation": 1.0}
    weights.record({"joints": 4.0, "segmentation": 2.0})
    assert weights.of(names) == {"joints": 1.0, "segmentation": 1.0}
    weights.record({"joints": 1.0, "segmentation": 2.0})
    weights.record({"joints": 0.5, "segmentation": 2.0})  # ratios 0.5 and 1; the first step is forgotten
    fast, slow = math.exp(0.5), math.exp(1.0)
    want = {"joints": 2 * fast / (fast + slow), "segmentation": 2 * slow / (fast + slow)}
    assert weights.of(names) == pytest.approx(want)
    weights.record({"joints": 0.0, "segmentation": 0.0})
    weights.record({"joints": 0.0, "segmentation": 0.0})
    assert weights.of(names) == {"joints": 1.0, "segmentation": 1.0}


def test_every_named_loss_exists():
    assert tuple(L.LOSS_FUNCTIONS) == LOSSES


def test_a_network_without_maps_is_refused_the_loss_on_them():
    joints = torch.zeros(1, 1, 2, 2)
    with pytest.raises(
        UsageError, match="needs the segmentation maps of SG-HRNet, which ditn_hrnet_w32 lacks: --set loss=mse"
    ):
        L.sg_hrnet_loss(Heads(joints), targets(joints, torch.ones(1, 1)), RECIPE)
