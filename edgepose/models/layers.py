"""Build layers that several networks share, and define the outputs of all of them in train mode."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Heads(NamedTuple):
    """Outputs of every head, float (N, channels, H/4, W/4).

    Attributes:
        joints: joint heat-maps.
        bones: bone heat-maps (DITN), or None where the network has no bone branch.
        segmentation: maps after the sigmoid, one per segmentation guided module (SG-HRNet), or None.
    """

    joints: Tensor
    bones: Tensor | None = None
    segmentation: Tensor | None = None


def conv_bn(
    cin: int, cout: int, kernel: int, *, stride: int = 1, dilation: int = 1, relu: bool = True
) -> list[nn.Module]:
    """Build a convolution without bias that keeps the size at stride 1, then batch norm and, if ``relu``, ReLU."""
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride=stride, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return layers + ([nn.ReLU(inplace=True)] if relu else [])


def heatmap_head(cin: int, cout: int) -> nn.Conv2d:
    """Build the 1x1 convolution to heat-maps, initialised as in the official pose code: Normal(0, 0.001), bias 0.

    PyTorch's own initialisation makes heat-maps of order 1, which the features spend the first epochs unlearning.
    """
    head = nn.Conv2d(cin, cout, 1)
    nn.init.normal_(head.weight, std=0.001)
    nn.init.zeros_(head.bias)
    return head


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels, 3, relu=False)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the planes at the output, and a shortcut.

    Args:
        cin: input channels.
        planes: inner channels.
        stride: of the 3x3 (not of the first 1x1) and of the projection.
        dilation: of the 3x3.
        project: put a 1x1 convolution and batch norm on the shortcut; needed if channels or size change.
    """

    expansion = 4

    def __init__(self, cin: int, planes: int, *, stride: int = 1, dilation: int = 1, project: bool = False) -> None:
        super().__init__()
        cout = planes * self.expansion
        self.conv1, self.bn1 = conv_bn(cin, planes, 1, relu=False)
        self.conv2, self.bn2 = conv_bn(planes, planes, 3, stride=stride, dilation=dilation, relu=False)
        self.conv3, self.bn3 = conv_bn(planes, cout, 1, relu=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(*conv_bn(cin, cout, 1, stride=stride, relu=False)) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))
