"""The person detector ``person_lite``: a narrow residual network with one output grid, every 8 pixels.

A heat-map says where a person's centre is (CenterNet, Zhou et al. 2019, "Objects as Points"), and four distances at the
same cell say how far the sides of the box are (TTFNet, Liu et al., AAAI 2020): no anchors, and no suppression needed
beyond the 3x3 peak test.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.hrnet import BasicBlock, conv_bn

#: Pixels of the input per cell of the output grid, both ways.
STRIDE = 8
#: Channels of the backbone at strides 2, 4, 8, 16, 32, and of the grid that the heads read.
WIDTHS = (16, 24, 40, 96, 160)
NECK = 48

#: Share of centres in the heat-map that a network at its start expects; keeps the focal loss from starting huge.
_PRIOR = 0.01
#: A distance is ``STRIDE * exp(raw)``; the raw number is kept below this, 1,200 pixels, so that it stays finite.
_LOG_LIMIT = 5.0


class Prediction(NamedTuple):
    """What the network says about a grid of cells.

    Attributes:
        heat: (N, 1, h, w) logits of a person's centre being in the cell.
        sides: (N, 4, h, w) distances in input pixels from the cell's centre to the left, top, right and bottom of the
            person's box; positive.
    """

    heat: Tensor
    sides: Tensor


class PoolingPyramid(nn.Module):
    """Maxima over 5x5 and 9x9 cells beside the features themselves: a large person's cells see all of him."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(*conv_bn(3 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        near = F.max_pool2d(x, 5, stride=1, padding=2)
        far = F.max_pool2d(near, 5, stride=1, padding=2)
        return self.fuse(torch.cat([x, near, far], dim=1))


class PersonLite(nn.Module):
    """(N, 3, H, W) normalised pictures, H and W multiples of 32, to a :class:`Prediction` on an H/8 x W/8 grid."""

    def __init__(self) -> None:
        super().__init__()
        stem, c4, c8, c16, c32 = WIDTHS
        self.stem = nn.Sequential(*conv_bn(3, stem, 3, stride=2), *conv_bn(stem, c4, 3, stride=2))
        self.stage8 = nn.Sequential(*conv_bn(c4, c8, 3, stride=2), BasicBlock(c8))
        self.stage16 = nn.Sequential(*conv_bn(c8, c16, 3, stride=2), BasicBlock(c16))
        self.stage32 = nn.Sequential(*conv_bn(c16, c32, 3, stride=2), BasicBlock(c32), PoolingPyramid(c32))
        self.lateral8, self.lateral16, self.lateral32 = (
            nn.Sequential(*conv_bn(c, NECK, 1, relu=False)) for c in (c8, c16, c32)
        )
        self.smooth16 = nn.Sequential(*conv_bn(NECK, NECK, 3))
        self.smooth8 = nn.Sequential(*conv_bn(NECK, NECK, 3))
        self.head = nn.Conv2d(NECK, 5, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, 1.0)
        nn.init.constant_(self.head.bias[:1], -math.log(1 / _PRIOR - 1))

    def forward(self, images: Tensor) -> Prediction:
        fine = self.stage8(self.stem(images))
        middle = self.stage16(fine)
        coarse = self.stage32(middle)
        middle = self.smooth16(F.relu(self.lateral16(middle) + _twice(self.lateral32(coarse))))
        fine = self.smooth8(F.relu(self.lateral8(fine) + _twice(middle)))
        raw = self.head(fine).float()
        return Prediction(raw[:, :1], STRIDE * raw[:, 1:].clamp(max=_LOG_LIMIT).exp())


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
