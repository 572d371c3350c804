"""MSNet's module, of HSR-MSNet: High Spatial Resolution and Multiscale Networks for Human Pose Estimation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Bottleneck, conv_bn


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

    Args:
        cin: input channels.
        planes: a quarter of the output channels.
        stride: of the small 3x3 and of the projection.
        project: put a 1x1 convolution and batch norm on the shortcut.
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
