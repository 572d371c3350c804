"""ResNet with deconvolutions: SimpleBaseline (Xiao et al., ECCV 2018), HSRNet and HSR-MSNet.

The latter two: High Spatial Resolution and Multiscale Networks for Human Pose Estimation.

Parameter names are those of the official SimpleBaseline and of torchvision's ResNet, so that the checkpoints of both
load unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
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
        multiscale: MSNet's modules in layers 1 to 3 (HSR-MSNet).
        width: channels of the stem, which all others follow: layer i has 4 * width * 2**(i - 1).
    """

    blocks: tuple[int, ...]
    multiscale: bool = False
    width: int = 64

    @property
    def channels(self) -> int:
        """Channels of every deconvolution, and so of the features that the head takes: 256 in the papers."""
        return 4 * self.width


RESNETS = {50: ResNetConfig((3, 4, 6, 3)), 101: ResNetConfig((3, 4, 23, 3)), 152: ResNetConfig((3, 8, 36, 3))}
#: 59 = 1 + 3 * (3 + 4 + 6 + 3 + 3) + 1: the stem, the bottlenecks and the head; projections and deconvolutions are not
#: counted.
HSRNETS = {59: ResNetConfig((3, 4, 6, 3, 3)), 110: ResNetConfig((3, 4, 23, 3, 3)), 161: ResNetConfig((3, 8, 36, 3, 3))}


class SqueezeExcite(nn.Module):
    """x * sigmoid(1x1(ReLU(1x1(avg(x))))): a weight per sample and channel (Hu et al., CVPR 2018), reduction 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 16, 1)
        self.relu = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(self.relu(self.reduce(x.mean(dim=(2, 3), keepdim=True)))))


class MultiscaleBottleneck(nn.Module):
    """A bottleneck whose 3x3 is a hierarchy of small ones over groups of channels, with an SE block at its end.

    1x1, split into x1..x4, y1 = K1(x1), yi = Ki(xi + y(i-1)), concatenate, 1x1, SE, add the shortcut, ReLU. Every Ki is
    a 3x3 with BN and ReLU; K1 is the convolution added over Res2Net. In a block of stride 2 every Ki has that
    stride, and there is no addition between groups, whose sizes differ.

    Readings: groups are floor(planes * 26 / 64) wide, as Res2Net's, which keeps the number of parameters; BN and ReLU
    come after each 3x3.

    Args: see :class:`~edgepose.models.layers.Bottleneck`; ``planes`` are a quarter of the output channels.
    """

    groups = 4

    def __init__(self, cin: int, planes: int, *, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        width, cout = planes * 26 // 64, planes * Bottleneck.expansion
        self.chained = stride == 1
        self.conv1, self.bn1 = conv_bn(cin, width * self.groups, 1, relu=False)
        self.scales = nn.ModuleList(nn.Sequential(*conv_bn(width, width, 3, stride=stride)) for _ in range(self.groups))
        self.conv3, self.bn3 = conv_bn(width * self.groups, cout, 1, relu=False)
        self.attention = SqueezeExcite(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(*conv_bn(cin, cout, 1, stride=stride, relu=False)) if project else None

    def forward(self, x: Tensor) -> Tensor:
        parts = self.relu(self.bn1(self.conv1(x))).chunk(self.groups, dim=1)
        scaled = [self.scales[0](parts[0])]
        for i, scale in enumerate(self.scales[1:], 1):  # not over the parts: a trace does not know their number
            scaled.append(scale(parts[i] + scaled[-1] if self.chained else parts[i]))
        y = self.attention(self.bn3(self.conv3(torch.cat(scaled, dim=1))))
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
    """ResNet or HSRNet with deconvolutions, as a heat-map network, or as a backbone when ``joints`` is None.

    Reading (HSRNet): two stages of three bottlenecks each at stride 16 with 1024 channels, as in the DetNet code that
    the paper links; its remark that HSRNet has more parameters than ResNet does not fit that code.

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
        block = MultiscaleBottleneck if config.multiscale else Bottleneck
        first, second, third, *top = config.blocks
        self.layer1 = _layer(block, width, width, first)
        self.layer2 = _layer(block, 4 * width, 2 * width, second, stride=2)
        self.layer3 = _layer(block, 8 * width, 4 * width, third, stride=2)
        if len(top) == 1:
            self.layer4, self.layer5 = _layer(Bottleneck, 16 * width, 8 * width, top[0], stride=2), nn.Sequential()
            encoded, deconvolutions = 32 * width, 3
        else:
            dilated = partial(Bottleneck, dilation=2)  # as in DetNet; these layers keep channels and size
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
