"""Every network: its size, its outputs, that it learns, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgepose.core.errors import UsageError
from edgepose.models import HEATMAP_MODELS, MODELS, build_model
from edgepose.models.cost import macs, macs_by_layer
from edgepose.models.ditn import DITN, ParameterAdapter
from edgepose.models.hrnet import HRNetConfig
from edgepose.models.layers import Heads
from edgepose.models.resnet import ResNetConfig, ResNetPose
from edgepose.models.sg_hrnet import SGHRNet
from tests.doubles.networks import filled, images_of, shapes_only


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.slow
def test_hrnet_w32_has_the_official_names_shapes_and_output(reference) -> None:
    name = "hrnet_w32_256x192"
    official = reference.load(f"{name}.json")
    network = filled(build_model("hrnet_w32"))
    names = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert names == [key[:2] for key in official["keys"]]
    with torch.inference_mode():
        output = network(images_of(101, 1, 3, 256, 192))
    reference.match(f"{name}_out.npz", output, reference.load(f"{name}_out.npz")["output"], atol=5e-4)
    reference.match(f"{name}.json", macs(network, (256, 192)), official["macs_one_image"]["conv"])


# Millions of parameters for COCO's 17 joints, as printed by HRNet, SimpleBaseline and DITN.
PRINTED = [
    ("hrnet_w32", 28.5),
    ("hrnet_w48", 63.6),
    ("simplebaseline_r50", 34.0),
    ("simplebaseline_r101", 53.0),
    ("simplebaseline_r152", 68.6),
    ("ditn_hrnet_w32", 28.6),
]


@pytest.mark.parametrize(("name", "millions"), PRINTED)
def test_networks_have_the_printed_sizes(name: str, millions: float) -> None:
    assert count(shapes_only(name)) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", HEATMAP_MODELS)
def test_every_network_keeps_the_contract(name: str) -> None:
    network = shapes_only(name)
    images = torch.zeros(2, 3, 128, 96, device="meta")
    assert network.eval()(images).shape == (2, 17, 32, 24)
    heads = network.train()(images)
    assert isinstance(heads, Heads)
    assert heads.joints.shape == (2, 17, 32, 24)
    assert (heads.bones is not None) == name.startswith("ditn")
    assert (heads.segmentation is not None) == name.startswith("sg")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hsr_msnet", "sg_hrnet"])
def test_training_starts_near_zero_and_learns(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = {
            "hsr_msnet": lambda: ResNetPose(ResNetConfig((1, 1, 1, 1, 1), multiscale=True), 14, kernel=3),
            "sg_hrnet": lambda: SGHRNet(HRNetConfig(8, (1, 1, 1), 1, 16, 8, 1), 14),
        }[kind]()
    generator = torch.Generator().manual_seed(1)
    images, joints = torch.randn(4, 3, 64, 64, generator=generator), torch.rand(4, 14, 16, 16, generator=generator) ** 8
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        heads = network(images)
        loss = (heads.joints - joints).square().mean()
        if heads.segmentation is not None:
            loss = loss + 0.01 * heads.segmentation.square().mean()
        losses.append(float(loss.detach()))
        if len(losses) == 1:
            assert float(heads.joints.detach().abs().max()) < 0.5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert losses[-1] < 0.97 * losses[0], losses


@pytest.mark.slow
def test_ditn_has_the_published_size_and_cost() -> None:
    ditn, hrnet = shapes_only("ditn_hrnet_w32", "mpii16"), shapes_only("hrnet_w32", "mpii16")
    assert 28.58e6 <= count(ditn) <= 28.59e6
    extra = (macs(ditn, (256, 256)) - macs(hrnet, (256, 256))) / 2**30
    assert extra == pytest.approx(0.18, abs=0.01)
    extra = (macs(shapes_only("ditn_hrnet_w32"), (256, 192)) - macs(shapes_only("hrnet_w32"), (256, 192))) / 2**30
    assert extra == pytest.approx(0.14, abs=0.01)


# Table 8, MPII, in thousands of parameters.
TABLE_8 = [
    ("joint_decoder", 21.2),
    ("bone_decoder", 21.2),
    ("transfer.adapter", 1.6),
    ("transfer.attention", 0.8),
    ("spatial", 4.0),
]


@pytest.mark.parametrize(("module", "thousands"), TABLE_8)
def test_ditn_modules_have_the_sizes_of_table_8(module: str, thousands: float) -> None:
    ditn = shapes_only("ditn_hrnet_w32", "mpii16")
    assert count(ditn.get_submodule(module)) / 1000 == pytest.approx(thousands, abs=0.051)


def test_transfer_and_channel_attention_sizes_by_hand() -> None:
    ditn = shapes_only("ditn_hrnet_w32", "mpii16")
    assert count(ditn.transfer.mix) == 256  # 256 + 15 * 2 * 2 * 49 = Table 8's 3.2 k, theta being predicted, not stored
    assert count(ditn.transfer.attention) == 15 * 2 * (2 * 9 + 2 + 2 + 1 + 2) == 750
    assert count(ditn.spatial) == 3952
    assert count(ditn) == 28_584_513


def test_the_resnet_of_ditn_is_simplebaselines_without_its_head() -> None:
    backbone, whole = shapes_only("ditn_resnet50").backbone, shapes_only("simplebaseline_r50")
    assert list(backbone.state_dict()) == [key for key in whole.state_dict() if not key.startswith("final_layer")]
    decoder = shapes_only("ditn_resnet50").joint_decoder
    assert count(decoder) == 256 * 512 + 2 * 512 + 512 * 256 * 9 + 2 * 256 + 256 * 17 + 2 * 17


def test_ditn_lite_fits_a_small_board() -> None:
    lite = shapes_only("ditn_lite", "lsp14")
    assert count(lite) <= 2e6
    assert macs(lite, (256, 192)) == pytest.approx(0.5e9, rel=0.1)


@pytest.mark.parametrize(
    ("maps", "theta"), [((64, 64), (7, 7)), ((64, 48), (7, 5)), ((96, 72), (11, 7)), ((32, 32), (3, 3))]
)
def test_kernels_are_odd(maps: tuple[int, int], theta: tuple[int, int]) -> None:
    adapter = ParameterAdapter(15)
    assert count(adapter) == 3 * 540
    assert adapter(torch.zeros(2, 30, *maps)).shape == (2, 30, *theta)


SWITCHES = [
    {"mtl": False, "ditm": False, "cab": False, "sab": False},
    {"ditm": False, "cab": False, "sab": False},
    {"cab": False, "sab": False},
    {"sab": False},
    {"cab": False},
    {},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_ablation_rows_train_and_evaluate(switches: dict[str, bool]) -> None:
    network = build_model("ditn_lite", skeleton="lsp14", **switches)
    images = torch.randn(2, 3, 64, 64)
    heads = network.train()(images)
    assert isinstance(heads, Heads)
    assert heads.joints.shape == (2, 14, 16, 16)
    assert heads.joints.abs().max() < 0.3, "training starts from heat-maps near zero"
    assert (heads.bones is not None) == switches.get("mtl", True)
    sum(h.sum() for h in heads if h is not None).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert without == []
    assert network.eval()(images).shape == (2, 14, 16, 16)


@pytest.mark.parametrize(
    ("options", "layer"), [({}, nn.ReLU), ({"gate_relu": False}, nn.Identity), ({"form": 1}, nn.Identity)]
)
def test_the_gates_of_both_attentions_have_their_relu_unless_it_is_left_out(
    options: dict[str, Any], layer: type[nn.Module]
) -> None:
    with torch.device("meta"):
        network = build_model("ditn_lite", skeleton="lsp14", **options)
    assert type(network.transfer.attention.gate_relu) is type(network.spatial.gate_relu) is layer


#: LSP's hips (2, 3), knees, elbows and shoulders end two bones each, its neck (12) five, ankles, wrists and head one.
BONES_OF = [1, 2, 2, 2, 2, 1, 1, 2, 2, 2, 2, 1, 5, 1]


@pytest.mark.parametrize(("form", "copies"), [(1, [1] * 14), (2, BONES_OF)])
def test_grouping_and_the_sum_over_bones(form: int, copies: list[int]) -> None:
    """With identity mixing and no attention output, a joint comes back as the sum, or mean, of its own copies."""
    network = build_model("ditn_lite", skeleton="lsp14", form=form)
    assert isinstance(network, DITN)
    transfer = network.transfer.eval()
    joints, bones = torch.randn(2, 14, 16, 16), torch.randn(2, 13, 16, 16)
    wanted = joints * torch.tensor(copies)[:, None, None]
    assert not torch.allclose(transfer(joints, bones), wanted)
    torch.nn.init.zeros_(transfer.attention.bn.weight)
    torch.testing.assert_close(transfer(joints, bones), wanted)


def test_samples_of_a_batch_do_not_mix() -> None:
    network = build_model("ditn_lite", skeleton="lsp14").eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_building_is_repeatable_and_leaves_the_random_state() -> None:
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first = build_model("ditn_lite", skeleton="lsp14").state_dict()
    assert torch.equal(before, torch.rand(1))
    second = build_model("ditn_lite", skeleton="lsp14").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


class OneOfEach(nn.Module):
    """A layer of every counted kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1)
        self.grouped = nn.Conv2d(4, 6, (3, 1), groups=2)
        self.deconv = nn.ConvTranspose2d(6, 5, 4, stride=2)
        self.linear = nn.Linear(5, 7)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.deconv(self.grouped(self.conv(images))).mean(dim=(2, 3)))


def test_macs_are_those_of_every_layer_and_the_mode_stays() -> None:
    network = OneOfEach().train()
    by_hand = {
        "conv": 4 * (3 * 3 * 3) * (8 * 6),
        "grouped": 6 * (2 * 3 * 1) * (6 * 6),
        "deconv": 6 * 5 * (4 * 4) * (6 * 6),  # its input has 6x6 positions
        "linear": 5 * 7,
    }
    assert macs_by_layer(network, (16, 12)) == by_hand
    assert macs(network, (16, 12)) == sum(by_hand.values())
    assert network.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet"}, f"unknown model 'resnet': expected one of {', '.join(MODELS)}"),
        ({"name": "ditn_lite", "skeleton": "x"}, "unknown skeleton"),
        ({"name": "ditn_lite", "input_size": (256, 100)}, "multiples of 32"),
        ({"name": "ditn_resnet50", "input_size": (32, 64)}, "ditn_resnet50 makes its kernels .* needs 64 pixels"),
        ({"name": "ditn_lite", "mtl": False}, "ditm=True needs mtl=True"),
        ({"name": "ditn_lite", "ditm": False}, "cab=True and sab=True need ditm=True"),
        (
            {"name": "ditn_lite", "x": True},
            "ditn_lite has no option 'x': expected one of mtl, ditm, cab, sab, gate_relu, form",
        ),
        ({"name": "ditn_lite", "form": 3}, "ditn_lite: form must be 1 or 2, got 3"),
        ({"name": "ditn_lite", "form": True}, "ditn_lite: form must be 1 or 2, got True"),
        ({"name": "ditn_lite", "mtl": "no"}, "ditn_lite: mtl must be False or True, got 'no'"),
        ({"name": "ditn_lite", "mtl": 1}, "ditn_lite: mtl must be False or True, got 1"),
        ({"name": "hrnet_w32", "mtl": True}, "hrnet_w32 has no options, got mtl"),
        ({"name": "hsrnet_59", "deconv_kernel": 5}, "hsrnet_59: deconv_kernel must be 2, 3 or 4, got 5"),
        ({"name": "hsrnet_59", "deconv_kernel": 3.0}, "deconv_kernel must be 2, 3 or 4, got 3.0"),
        ({"name": "sg_hrnet_w32", "bilinear": None}, "sg_hrnet_w32: bilinear must be False or True, got None"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(**arguments)
