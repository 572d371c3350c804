"""SG-HRNet's modules and where they act, against a reading in plain steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from edgepose.models import build_model
from edgepose.models.cost import macs
from edgepose.models.hrnet import HRNet, HRNetConfig
from edgepose.models.pose_graph import normalise
from edgepose.models.sg_hrnet import SegmentationGuide, SGHRNet
from tests.doubles.networks import shapes_only
from tests.doubles.plain_layers import check, conv, normal, randomised, relu, sigmoid

CONFIG = HRNetConfig(width=4, modules=(1, 2, 1), blocks=1, stem=8, bottleneck=4, bottlenecks=1)
BILINEAR = HRNetConfig(width=4, modules=(1, 2, 1), blocks=1, stem=8, bottleneck=4, bottlenecks=1, upsample="bilinear")


@pytest.mark.slow
def test_the_cost_over_hrnet_is_small() -> None:
    guided, hrnet = shapes_only("sg_hrnet_w32"), shapes_only("hrnet_w32")
    weights = [sum(p.numel() for p in network.parameters()) for network in (guided, hrnet)]
    assert weights[0] - weights[1] == 4 * (32 * 32 * 9 + 2 * 32 + 32 + 1)
    assert weights[0] - weights[1] <= 0.1e6
    assert 0 < (macs(guided, (256, 192)) - macs(hrnet, (256, 192))) / 2**30 <= 0.11


def test_guide() -> None:
    def twin(w, f):
        features = relu(w.bn("adapt.1", conv(f, w("adapt.0.weight"), padding=1)))
        return sigmoid(conv(features, w("predict.weight"), w("predict.bias")))

    check(randomised(SegmentationGuide(3)), twin, normal(2, 3, 6, 5))


def fuse(module: nn.Module, branches: list[Tensor], mode: str) -> list[Tensor]:
    """Every output is the sum of all branches brought to its size, then one ReLU."""
    outputs = []
    for target, paths in enumerate(module.fuse_layers):
        total = 0
        for source, path in enumerate(paths):
            y = branches[source]
            if source > target:
                y = path[1](path[0](y))
                y = F.interpolate(y, scale_factor=2 ** (source - target), mode=mode)
            elif source < target:
                y = path(y)
            total = total + y
        outputs.append(torch.relu(total))
    return outputs


def plainly(network: SGHRNet, images: Tensor, mode: str) -> tuple[Tensor, list[Tensor]]:
    """Joint heat-maps and the four maps, with HRNet's stages written out."""
    x = torch.relu(network.bn1(network.conv1(images)))
    x = network.layer1(torch.relu(network.bn2(network.conv2(x))))
    branches = [network.transition1[0](x), network.transition1[1](x)]
    maps = []
    for stage, transition in ((network.stage2, network.transition2), (network.stage3, network.transition3)):
        maps.append(network.guides[len(maps)](branches[0]))
        for i, module in enumerate(stage):
            branches = [blocks(branch) for blocks, branch in zip(module.branches, branches, strict=True)]
            if i == 0:
                branches[0] = branches[0] * maps[-1]
            branches = fuse(module, branches, mode)
        branches.append(transition[-1](branches[-1]))
    maps.append(network.guides[2](branches[0]))
    (module,) = network.stage4
    branches = [blocks(branch) for blocks, branch in zip(module.branches, branches, strict=True)]
    (fused,) = fuse(module, [branches[0] * maps[-1], *branches[1:]], mode)
    maps.append(network.guides[3](fused))
    return network.final_layer(fused * maps[-1]), maps


@pytest.mark.parametrize(("config", "mode"), [(CONFIG, "nearest"), (BILINEAR, "bilinear")])
def test_maps_guide_the_high_resolution_branch_before_the_first_fusion(
    config: HRNetConfig, mode: str, liven: Callable[..., nn.Module]
) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)
    network, images = liven(SGHRNet(config, 5), crops), normalise(torch.from_numpy(crops))
    with torch.inference_mode():
        joints, maps = plainly(network, images, mode)
        torch.testing.assert_close(network(images), joints, rtol=1e-4, atol=1e-5 * float(joints.abs().max()))
    assert all(float(m.std()) > 0.05 for m in maps)
    network.train()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()  # keep the statistics
    heads = network(images)
    torch.testing.assert_close(heads.joints, joints, rtol=1e-4, atol=1e-5 * float(joints.abs().max()))
    torch.testing.assert_close(heads.segmentation, torch.cat(maps, dim=1))
    assert heads.segmentation.shape == (4, 4, 16, 24)


def test_with_maps_of_one_it_is_hrnet() -> None:
    guided, hrnet = randomised(SGHRNet(CONFIG, 5)), HRNet(CONFIG, 5).eval()
    hrnet.load_state_dict({key: value for key, value in guided.state_dict().items() if not key.startswith("guides")})
    for guide in guided.guides:
        nn.init.zeros_(guide.predict.weight)
        nn.init.constant_(guide.predict.bias, 50.0)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(guided(images), hrnet(images))


def test_maps_stay_float32_under_autocast() -> None:
    network = SGHRNet(CONFIG, 5).train()
    with torch.autocast("cpu", torch.bfloat16):
        heads = network(torch.randn(2, 3, 64, 64))
    assert heads.joints.dtype == torch.bfloat16
    assert heads.segmentation.dtype == torch.float32


def test_fusions_are_bilinear_and_nearest_is_an_option() -> None:
    with torch.device("meta"):
        networks = shapes_only("sg_hrnet_w32"), build_model("sg_hrnet_w32", bilinear=False)
    modes = [{layer.mode for layer in n.modules() if isinstance(layer, nn.Upsample)} for n in networks]
    assert modes == [{"bilinear"}, {"nearest"}]
