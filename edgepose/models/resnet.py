"""ResNet with deconvolutions: SimpleBaseline (Xiao et al., ECCV 2018), HSRNet and HSR-MSNet.

The latter two: High Spatial Resolution and Multiscale Networks for Human Pose Estimation, read by its authors' code
(github.com/Shiyijie66/HSR-MSNet, ``lib/models/pose_hsrnet.py`` and ``pose_hsr_msnet.py``).

Parameter names are those of the official SimpleBaseline and of torchvision's ResNet, so that the checkpoints of both
load unchanged; :data:`PUBLISHED_NAMES` maps those of HSR-MSNet's authors and of DetNet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Bottleneck, Heads, conv_bn, heatmap_head


@dataclass(frozen=True)
class ResNetConfig:
    """Depth and kind of one ResNet.

    Attributes:
        blocks: bottlenecks of each layer. Four layers are a ResNet: stride 32, 2048 channels, three deconvolutions.
            Five are an HSRNet: layers 4 and 5 dilated by 2 at stride 16 with 1024 channels, two deconvolutions.
        multiscale: :class:`MultiscaleConv` in every bottleneck of stride 1; with ``se``, HSR-MSNet.
        se: an SE block in every bottleneck.
        width: channels of the stem, which all others follow: layer i has 4 * width * 2**(i - 1).
    """

    blocks: tuple[int, ...]
    multiscale: bool = False
    se: bool = False
    width: int = 64

    @property
    def channels(self) -> int:
        """Channels of every deconvolution, and so of the features that the head takes: 256 in the papers."""
        return 4 * self.width


RESNETS = {50: ResNetConfig((3, 4, 6, 3)), 101: ResNetConfig((3, 4, 23, 3)), 152: ResNetConfig((3, 8, 36, 3))}
#: 59 = 1 + 3 * (3 + 4 + 6 + 3 + 3) + 1: the stem, the bottlenecks and the head; projections and deconvolutions are not
#: counted.
HSRNETS = {59: ResNetConfig((3, 4, 6, 3, 3)), 110: ResNetConfig((3, 4, 23, 3, 3)), 161: ResNetConfig((3, 8, 36, 3, 3))}


#: What the authors of HSR-MSNet and DetNet call some weights (regular expressions), and what they are called here.
PUBLISHED_NAMES = (
    (r"^new_layer(?=[45]\.)", "layer"),
    (r"\.extra_conv\.", ".downsample."),
    (r"\.conv_split([0-3])\.", r".conv2.splits.\1.0."),
    (r"\.bn_split([0-3])\.", r".conv2.splits.\1.1."),
)


def never_run(names: Collection[str]) -> set[str]:
    """Return the weights that an HSR-MSNet of its authors stores and never runs, among ``names`` as they are here.

    Each of their bottlenecks has both the 3x3 and the small convolutions; those of stride 2 run the former, all others
    the latter.
    """
    known, unused = set(names), set()
    for name in known:
        found = re.fullmatch(r"((?:.*\.)?layer\d\.\d+)\.(?:conv2|bn2)\.(splits\.)?.+", name)
        if found and {f"{found[1]}.conv2.weight", f"{found[1]}.conv2.splits.1.0.weight"} <= known:
            is_stride_2 = found[1].endswith(("layer2.0", "layer3.0"))
            if is_stride_2 == bool(found[2]):
                unused.add(name)
    return unused


class SqueezeExcite(nn.Module):
    """x * sigmoid(1x1(ReLU(1x1(avg(x))))): a weight per sample and channel (Hu et al., CVPR 2018), reduction 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(self.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))))


class MultiscaleConv(nn.Module):
    """MSNet's module: in place of a 3x3 of ``channels``, small 3x3 over four groups x0..x3 of them.

    y1 = BN(K1(x1)), y2 = BN(K2(y1 + x2)), y3 = BN(K3(y2 + x3)); x0 passes through. In the dilated form y0 = BN(K0(x0)),
    which is not added to x1: the convolution that the paper's section 3.3 adds over Res2Net. The output is y0..y3 in a
    row; the ReLU on it is the block's, so the sums are of values before their ReLU.
    """

    groups = 4

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        width = channels // self.groups
        layers = [conv_bn(width, width, 3, dilation=dilation, relu=False) for _ in range(self.groups)]
        if dilation == 1:
            layers[0] = []
        self.splits = nn.ModuleList(nn.Sequential(*parts) for parts in layers)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(self.groups, dim=1)
        outputs: list[Tensor] = []
        for i, split in enumerate(self.splits):  # not over the parts: a trace does not know their number
            outputs.append(split(parts[i] + outputs[-1] if i > 1 else parts[i]))
        return torch.cat(outputs, dim=1)


class HSRBottleneck(Bottleneck):
    """A bottleneck of HSR-MSNet, with the switches of its Table 2.

    Args:
        cin, planes, stride, dilation, project: as of :class:`~edgepose.models.layers.Bottleneck`.
        multiscale: a :class:`MultiscaleConv` in place of the 3x3, where the stride is 1.
        se: an SE block before the shortcut is added.
    """

    def __init__(
        self,
        cin: int,
        planes: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        project: bool = False,
        multiscale: bool = True,
        se: bool = True,
    ) -> None:
        super().__init__(cin, planes, stride=stride, dilation=dilation, project=project)
        if multiscale and stride == 1:
            self.conv2, self.bn2 = MultiscaleConv(planes, dilation), nn.Identity()
            if project or dilation == 1:  # the authors leave those of the new stages' later blocks to PyTorch
                for layer in self.conv2.modules():
                    if isinstance(layer, nn.Conv2d):
                        nn.init.normal_(layer.weight, std=0.001)
        self.se = SqueezeExcite(planes * self.expansion) if se else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.se(self.bn3(self.conv3(y)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _layer(block: Callable[..., nn.Module], cin: int, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Build bottlenecks in a row; the first has the stride and a projection on its shortcut."""
    cout = planes * Bottleneck.expansion
    return nn.Sequential(
        block(cin, planes, stride=stride, project=True), *(block(cout, planes) for _ in range(blocks - 1))
    )


def _deconvolution(cin: int, cout: int, kernel: int) -> list[nn.Module]:
    """Build what doubles the size: deconvolution of stride 2 without bias, batch norm, ReLU.

    Its weights start at Normal(0, 0.001), as in the official pose code.
    """
    padding, extra = (kernel - 1) // 2, kernel % 2
    layer = nn.ConvTranspose2d(cin, cout, kernel, stride=2, padding=padding, output_padding=extra, bias=False)
    nn.init.normal_(layer.weight, std=0.001)
    return [layer, nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]


class ResNetPose(nn.Module):
    """ResNet, HSRNet or HSR-MSNet with deconvolutions, as a heat-map network, or as a backbone if ``joints`` is None.

    Reading: the paper's remark that HSRNet has more parameters than ResNet does not fit its authors' code, where it has
    22.6 M beside 34.0 M.

    Args:
        config, joints: as of :class:`~edgepose.models.hrnet.HRNet`.
        kernel: of the deconvolutions, 2, 3 or 4.
    """

    def __init__(self, config: ResNetConfig, joints: int | None, *, kernel: int = 4) -> None:
        super().__init__()
        width, self.channels = config.width, config.channels
        self.conv1, self.bn1 = conv_bn(3, width, 7, stride=2, relu=False)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        switches = {"multiscale": config.multiscale, "se": config.se}
        block: Callable[..., nn.Module] = partial(HSRBottleneck, **switches) if any(switches.values()) else Bottleneck
        first, second, third, *top = config.blocks
        self.layer1 = _layer(block, width, width, first)
        self.layer2 = _layer(block, 4 * width, 2 * width, second, stride=2)
        self.layer3 = _layer(block, 8 * width, 4 * width, third, stride=2)
        if len(top) == 1:
            self.layer4, self.layer5 = _layer(Bottleneck, 16 * width, 8 * width, top[0], stride=2), nn.Sequential()
            encoded, deconvolutions = 32 * width, 3
        else:
            dilated = partial(block, dilation=2)  # as in DetNet; these layers keep channels and size
            self.layer4, self.layer5 = (_layer(dilated, 16 * width, 4 * width, blocks) for blocks in top)
            encoded, deconvolutions = 16 * width, 2
        inputs = [encoded, *[self.channels] * (deconvolutions - 1)]
        self.deconv_layers = nn.Sequential(
            *(part for cin in inputs for part in _deconvolution(cin, self.channels, kernel))
        )
        self.final_layer = nn.Identity() if joints is None else heatmap_head(self.channels, joints)

    def encode(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to (N, 2048, H/32, W/32), or (N, 1024, H/16, W/16) for an HSRNet."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def forward(self, images: Tensor) -> Tensor | Heads:
        """Return heat-maps (N, J, H/4, W/4) in eval mode, :class:`Heads` in train mode; a backbone returns features."""
        y = self.final_layer(self.deconv_layers(self.encode(images)))
        is_backbone = isinstance(self.final_layer, nn.Identity)
        return Heads(joints=y) if self.training and not is_backbone else y
