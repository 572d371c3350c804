"""The person detector ``person_lite``: a narrow residual network with three output grids.

Cells in the middle of a person say how far the sides of the box are, and how well they think they know (FCOS, Tian et
al., ICCV 2019; GFL, Li et al., NeurIPS 2020): no anchors. A person belongs to one grid by length. CenterNet's single
peak a person was tried first; it learned several times slower.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.layers import BasicBlock, conv_bn

#: Pixels of the input per cell of each output grid, both ways.
STRIDES = (8, 16, 32)
#: Channels of the backbone at strides 2, 4, 8, 16, 32, and of the grids that the heads read.
WIDTHS = (16, 24, 40, 96, 160)
NECK = 48

#: Score that a network at its start gives every cell; keeps the focal loss from starting huge.
_PRIOR = 0.01
#: A distance is the stride times the exponential of a number between minus and plus this: positive and finite.
_LOG_LIMIT = 4.0


class Prediction(NamedTuple):
    """What the network says about one grid of cells.

    Attributes:
        scores: (N, 1, h, w) logits of the IoU of the cell's box with a person's; low where there is none.
        sides: (N, 4, h, w) distances in input pixels from the cell's centre to the left, top, right and bottom of the
            person's box; positive.
    """

    scores: Tensor
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


class Head(nn.Module):
    """Scores and sides from the features of any grid; the grids share it, because sides are counted in cells."""

    def __init__(self) -> None:
        super().__init__()
        self.scores_tower = nn.Sequential(*conv_bn(NECK, NECK, 3))
        self.sides_tower = nn.Sequential(*conv_bn(NECK, NECK, 3))
        self.scores, self.sides = nn.Conv2d(NECK, 1, 1), nn.Conv2d(NECK, 4, 1)
        for layer, start in ((self.scores, -math.log(1 / _PRIOR - 1)), (self.sides, 1.0)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, start)

    def forward(self, x: Tensor, stride: int) -> Prediction:
        scores, sides = self.scores_tower(x), self.sides_tower(x)
        with torch.autocast(x.device.type, enabled=False):  # a box needs more than bfloat16's eight bits
            raw = self.sides(sides.float()).clamp(-_LOG_LIMIT, _LOG_LIMIT)
            return Prediction(self.scores(scores.float()), stride * raw.exp())


class PersonLite(nn.Module):
    """(N, 3, H, W) normalised pictures, H and W multiples of 32, to one :class:`Prediction` for each grid."""

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
        self.head = Head()

    def forward(self, images: Tensor) -> list[Prediction]:
        fine = self.stage8(self.stem(images))
        middle = self.stage16(fine)
        coarse = F.relu(self.lateral32(self.stage32(middle)))
        middle = self.smooth16(F.relu(self.lateral16(middle) + _twice(coarse)))
        fine = F.relu(self.lateral8(fine) + _twice(middle))
        return [self.head(x, stride) for x, stride in zip((fine, middle, coarse), STRIDES, strict=True)]


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
