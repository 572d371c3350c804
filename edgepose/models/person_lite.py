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

from .layers import BasicBlock, conv_bn
from .pose_graph import normalise

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


#: Boxes that the graph returns.
PEAKS = 100


def decode(predictions: list[Prediction], peaks: int = PEAKS) -> tuple[Tensor, Tensor]:
    """The best persons: cells that are the maximum of the 3x3 cells around them on their grid (CenterNet, section 4).

    Args:
        predictions: of N pictures, one for each grid.
        peaks: persons a picture, K, or as many as there are cells.

    Returns:
        boxes (N, K, 4) xyxy in input pixels and scores (N, K) in 0..1, the most certain first.
    """
    scores = torch.cat([_peaks(p.scores.sigmoid()) for p in predictions], dim=1)
    best, index = scores.topk(min(peaks, scores.shape[1]), dim=1)
    return all_boxes(predictions).gather(1, index[:, :, None].expand(-1, -1, 4)), best


def _peaks(scores: Tensor) -> Tensor:
    """(N, 1, h, w) to (N, h * w), 0 where a neighbour is larger."""
    return (scores * (F.max_pool2d(scores, 3, stride=1, padding=1) == scores)).flatten(1)


class DetectorGraph(nn.Module):
    """uint8 (N, H, W, 3) RGB to boxes (N, K, 4) xyxy in pixels of the input and scores (N, K), both float32."""

    def __init__(self, network: PersonLite) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(normalise(images)))


def all_boxes(predictions: list[Prediction]) -> Tensor:
    """The boxes (N, cells, 4) that the cells of all grids say, in the order of the targets."""
    return torch.cat([sides_to_boxes(p.sides, s) for p, s in zip(predictions, STRIDES, strict=True)], dim=1)


def sides_to_boxes(sides: Tensor, stride: int) -> Tensor:
    """Distances (N, 4, h, w) from the centres of a grid's cells to boxes (N, h * w, 4) xyxy, both in input pixels."""
    height, width = sides.shape[2:]
    y = ((torch.arange(height, device=sides.device) + 0.5) * stride)[:, None].expand(height, width)
    x = ((torch.arange(width, device=sides.device) + 0.5) * stride)[None].expand(height, width)
    left, top, right, bottom = sides.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).flatten(1, 2)
